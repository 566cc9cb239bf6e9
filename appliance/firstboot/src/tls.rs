//! The backup server's certificate. Clients pin it, so it is made once.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use api::Fingerprint;
use auth::certificate::{KeyPairFiles, Made};

use crate::places::Places;
use crate::report::say;

/// Below `/run`: agetty shows it with the greeting (agetty(8), issue.d).
const ISSUE: &str = "issue.d/10-infimonitor-key.issue";

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
    show(&pair.certificate, &places.run.join(ISSUE))
}

/// Shows the key at the console, before anybody logs in: whoever restores a monitor compares it.
fn show(certificate: &Path, issue: &Path) -> Result<()> {
    let pem = fs::read(certificate).with_context(|| format!("cannot read {}", certificate.display()))?;
    let fingerprint =
        Fingerprint::of_pem(&pem).with_context(|| format!("{} is damaged", certificate.display()))?;
    if let Some(folder) = issue.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    files::write(issue, format!("  key {fingerprint}\n\n").as_bytes(), 0o644, None).map(drop)
}
