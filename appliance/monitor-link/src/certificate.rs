//! The certificate that PostgreSQL shows to the backup server, which pins it.
//!
//! A host with TLS of its own keeps it; Debian's self-made "snakeoil" certificate does not count, as it comes and
//! goes with the package ssl-cert. libpq trusts a pinned certificate only if it is self-signed or an authority's, so
//! for a signed one the authority's has to be named.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result, bail};
use auth::certificate::{Key, not_before};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

/// Subject and only alternative name of a certificate that we make.
pub const NAME: &str = "monitor";
/// Our files in the cluster's configuration folder.
const CERTIFICATE_FILE: &str = "infimonitor.crt";
const KEY_FILE: &str = "infimonitor.key";

/// Whose certificate PostgreSQL is to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// One that we make.
    Ours,
    /// The host's own, as it is set up.
    Hosts,
}

/// Decides by the settings `ssl` and `ssl_cert_file`, and whether the latter is in our file.
pub fn choose(ssl_on: bool, certificate_file: &str, is_ours: bool) -> Choice {
    let snakeoil = certificate_file.ends_with("/ssl-cert-snakeoil.pem");
    if !ssl_on || is_ours || snakeoil { Choice::Ours } else { Choice::Hosts }
}

/// Our certificate and key files in `folder`, made where they are missing; `owner` runs PostgreSQL.
///
/// # Errors
/// The folder cannot be written, or the key is damaged.
pub fn ensure_ours(folder: &Path, owner: (u32, u32)) -> Result<(PathBuf, PathBuf)> {
    let (certificate_path, key_path) = (folder.join(CERTIFICATE_FILE), folder.join(KEY_FILE));
    let key = match files::read(&key_path)? {
        Some(pem) => Key::from_pem(&pem).with_context(|| {
            format!("{} is damaged; remove it, set up anew and pair anew", key_path.display())
        })?,
        None => {
            let key = Key::generate().context("cannot make a key")?;
            files::write(&key_path, key.to_pem().as_bytes(), 0o600, Some(owner))?;
            key
        }
    };
    if !files::read(&certificate_path)?.is_some_and(|pem| key.owns(&pem)) {
        let image = std::fs::metadata("/usr/lib/os-release").and_then(|file| file.modified()).ok();
        let pem = key
            .certificate(NAME, not_before(image, SystemTime::now()))
            .context("cannot make a certificate")?;
        files::write(&certificate_path, pem.as_bytes(), 0o644, Some(owner))?;
    }
    Ok((certificate_path, key_path))
}

/// The PEM text that the backup server has to pin.
///
/// # Errors
/// A certificate cannot be read, or it is signed by an authority that is not named.
pub fn to_pin(certificate_file: &Path, authority: Option<&Path>) -> Result<String> {
    let file = authority.unwrap_or(certificate_file);
    let pem = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let certificate = CertificateDer::from_pem_slice(pem.as_bytes())
        .with_context(|| format!("{} is no certificate in PEM form", file.display()))?;
    match is_self_issued(&certificate) {
        Some(true) => Ok(pem),
        Some(false) if authority.is_none() => bail!(
            "PostgreSQL's certificate {} is signed by an authority; name the authority's certificate with --ca",
            file.display()
        ),
        Some(false) => bail!("{} is no root authority's certificate; name the root's", file.display()),
        None => bail!("{} is no certificate that can be understood", file.display()),
    }
}

/// Whether issuer and subject are the same: the fields 3 and 5 of a TBSCertificate, after the optional version
/// (RFC 5280, 4.1). `None` if the bytes are no certificate.
fn is_self_issued(certificate: &[u8]) -> Option<bool> {
    let (_, certificate, _) = element(certificate)?;
    let (_, mut rest, _) = element(certificate)?;
    if rest.first()? == &0xa0 {
        rest = element(rest)?.2;
    }
    let mut fields = Vec::new();
    for _ in 0..5 {
        let (_, contents, next) = element(rest)?;
        fields.push(contents);
        rest = next;
    }
    // serial number, signature, issuer, validity, subject
    Some(fields[2] == fields[4])
}

/// Splits a DER element off: tag, contents, what follows.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, first) = (*der.first()?, usize::from(*der.get(1)?));
    let (length, start) = if first < 0x80 {
        (first, 2)
    } else {
        let bytes = der.get(2..2 + (first & 0x7f))?;
        if bytes.len() > 4 {
            return None;
        }
        (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), 2 + bytes.len())
    };
    let contents = der.get(start..start.checked_add(length)?)?;
    Some((tag, contents, &der[start + length..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    /// Signed by an authority: made by openssl for `monitor.example`, issuer `Example CA`, with a P-256 key.
    const SIGNED: &str = include_str!("../tests/signed.pem");

    #[test]
    fn a_host_keeps_a_certificate_of_its_own() {
        let table = [
            (false, "server.crt", false, Choice::Ours),
            (true, "/etc/ssl/certs/ssl-cert-snakeoil.pem", false, Choice::Ours),
            (true, "/etc/postgresql/17/main/infimonitor.crt", true, Choice::Ours),
            (true, "server.crt", false, Choice::Hosts),
            (true, "/etc/ssl/real.pem", false, Choice::Hosts),
        ];
        for (on, file, ours, expected) in table {
            assert_eq!(choose(on, file, ours), expected, "{file}");
        }
    }

    #[test]
    fn ours_is_made_once_and_can_be_pinned() {
        let dir = tempfile::tempdir().unwrap();
        let metadata = std::fs::metadata(dir.path()).unwrap();
        let owner = (metadata.uid(), metadata.gid());
        let (certificate, key) = ensure_ours(dir.path(), owner).unwrap();
        assert_eq!(std::fs::metadata(&key).unwrap().mode() & 0o777, 0o600);
        let pem = to_pin(&certificate, None).unwrap();
        ensure_ours(dir.path(), owner).unwrap();
        assert_eq!(to_pin(&certificate, None).unwrap(), pem);
    }

    #[test]
    fn a_signed_certificate_needs_its_authority() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("signed.pem");
        std::fs::write(&file, SIGNED).unwrap();
        assert!(
            to_pin(&file, None)
                .unwrap_err()
                .to_string()
                .contains("name the authority's certificate with --ca")
        );
        assert!(to_pin(&file, Some(&file)).unwrap_err().to_string().contains("no root authority's"));
        std::fs::write(&file, "rubbish").unwrap();
        assert!(to_pin(&file, None).is_err());
    }

    #[test]
    fn cut_off_certificates_are_no_certificates() {
        let der = CertificateDer::from_pem_slice(SIGNED.as_bytes()).unwrap();
        assert_eq!(is_self_issued(&der), Some(false));
        for length in 0..der.len() {
            assert_eq!(is_self_issued(&der[..length]), None);
        }
    }
}
