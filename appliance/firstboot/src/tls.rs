//! The backup server's certificate, for the name `backup-server`.
//!
//! Clients pin it, so it is made once. The key decides: a certificate that is missing or belongs to another key is
//! made anew for the key that is there; a key that cannot be read is never replaced.

use std::time::SystemTime;

use anyhow::{Context, Result};
use auth::certificate::{Key, not_before};

use crate::places::Places;
use crate::report::say;

/// Subject and only alternative name (design D14).
pub const NAME: &str = "backup-server";

/// Makes sure that key and certificate are there.
///
/// # Errors
/// The key is damaged, or *state* cannot be written.
pub fn ensure(places: &Places) -> Result<()> {
    let owner = Some((places.ids.root, places.ids.infimonitor));
    let key_path = places.setting("tls/key.pem");
    let certificate_path = places.setting("tls/certificate.pem");
    let key = match files::read(&key_path)? {
        Some(pem) => Key::from_pem(&pem).with_context(|| {
            format!("{} is damaged, and clients know the machine by it: restore it", key_path.display())
        })?,
        None => {
            say("tls", "no key; making one");
            let key = Key::generate().context("cannot make a key")?;
            files::write(&key_path, key.to_pem().as_bytes(), 0o640, owner)?;
            key
        }
    };
    if let Some(pem) = files::read(&certificate_path)?
        && key.owns(&pem)
    {
        say("tls", "key and certificate are there");
        return Ok(());
    }
    say("tls", "no certificate for the key; making one");
    // The image's files carry the image's date.
    let image = std::fs::metadata(places.in_root("usr/lib/os-release")).and_then(|file| file.modified()).ok();
    let pem =
        key.certificate(NAME, not_before(image, SystemTime::now())).context("cannot make a certificate")?;
    files::write(&certificate_path, pem.as_bytes(), 0o640, owner)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::places::testing::places;
    use std::fs;

    #[test]
    fn the_key_is_made_once_and_the_certificate_follows_it() {
        let (_dir, places) = places();
        let read = |name: &str| fs::read_to_string(places.setting(name)).unwrap();
        ensure(&places).unwrap();
        let (key, certificate) = (read("tls/key.pem"), read("tls/certificate.pem"));
        ensure(&places).unwrap();
        assert_eq!((read("tls/key.pem"), read("tls/certificate.pem")), (key.clone(), certificate.clone()));
        // a power cut between the two files, and a certificate of another key
        fs::remove_file(places.setting("tls/certificate.pem")).unwrap();
        ensure(&places).unwrap();
        assert_eq!(read("tls/key.pem"), key);
        let (_other_dir, other) = crate::places::testing::places();
        ensure(&other).unwrap();
        fs::copy(other.setting("tls/certificate.pem"), places.setting("tls/certificate.pem")).unwrap();
        ensure(&places).unwrap();
        assert_eq!(read("tls/key.pem"), key);
        assert!(Key::from_pem(&key).unwrap().owns(&read("tls/certificate.pem")));
    }

    #[test]
    fn a_damaged_key_is_not_replaced() {
        let (_dir, places) = places();
        ensure(&places).unwrap();
        fs::write(places.setting("tls/key.pem"), "rubbish").unwrap();
        assert!(format!("{:#}", ensure(&places).unwrap_err()).contains("key.pem is damaged"));
        assert_eq!(fs::read_to_string(places.setting("tls/key.pem")).unwrap(), "rubbish");
    }
}
