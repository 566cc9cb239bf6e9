//! The backup server's certificate. Clients pin it, so it is made once.

use anyhow::Result;
use auth::certificate::{KeyPairFiles, Made};

use crate::places::Places;
use crate::report::say;

/// Makes sure that key and certificate are there.
///
/// # Errors
/// The key is damaged, or *state* cannot be written.
pub fn ensure(places: &Places) -> Result<()> {
    let pair = KeyPairFiles {
        certificate: places.setting("tls/certificate.pem"),
        certificate_mode: 0o640,
        key: places.setting("tls/key.pem"),
        key_mode: 0o640,
        owner: (places.ids.root, places.ids.infimonitor),
    };
    // The image's files carry the image's date.
    let made = pair.ensure(api::SERVER_NAME, &places.in_root("usr/lib/os-release"))?;
    say(
        "tls",
        match made {
            Made::Nothing => "key and certificate are there",
            Made::Certificate => "there was no certificate for the key; made one",
            Made::Both => "there was no key; made one, and its certificate",
        },
    );
    Ok(())
}
