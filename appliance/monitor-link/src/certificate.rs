//! The certificate that PostgreSQL shows to the backup server, which pins it.
//!
//! A host with TLS of its own keeps it; Debian's self-made "snakeoil" certificate does not count, as it comes and
//! goes with the package ssl-cert. libpq trusts a certificate only if its root is known, so for a signed one the
//! authority's has to be named.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use auth::certificate::KeyPairFiles;
use auth::usable::Validity;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

/// Subject and only alternative name of a certificate that we make.
pub const NAME: &str = "monitor";
/// Our files in the cluster's configuration folder.
const CERTIFICATE_FILE: &str = "infimonitor.crt";
const KEY_FILE: &str = "infimonitor.key";

/// A certificate that ends within this time is told.
const SOON: Duration = Duration::from_secs(30 * 24 * 3600);

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
pub fn ensure_ours(folder: &Path, owner: files::Owner) -> Result<(PathBuf, PathBuf)> {
    let pair = KeyPairFiles {
        certificate: folder.join(CERTIFICATE_FILE),
        certificate_mode: 0o644,
        key: folder.join(KEY_FILE),
        key_mode: 0o600,
        owner,
    };
    pair.ensure(NAME, Path::new("/usr/lib/os-release"))?;
    Ok((pair.certificate, pair.key))
}

/// The PEM text that the backup server has to pin: PostgreSQL's certificate first, and after it, where one signed it,
/// the authority's, without which libpq trusts nothing.
///
/// # Errors
/// A certificate cannot be read, or it is signed by an authority that is not named.
pub fn to_pin(certificate_file: &Path, authority: Option<&Path>) -> Result<String> {
    let (certificate, self_issued) = first_certificate(certificate_file)?;
    if self_issued {
        return Ok(certificate);
    }
    let authority = authority.with_context(|| {
        format!(
            "PostgreSQL's certificate {} is signed by an authority; name the authority's certificate with --ca",
            certificate_file.display()
        )
    })?;
    match first_certificate(authority)? {
        (root, true) => Ok(certificate + &root),
        (_, false) => bail!("{} is no root authority's certificate; name the root's", authority.display()),
    }
}

/// What has to be said of a certificate whose time is over or will be soon: PostgreSQL's programs on the backup server look
/// at its dates.
pub fn warning(validity: &Validity, now: SystemTime) -> Option<String> {
    let way_out =
        "give PostgreSQL another one, with the same private key if that is possible, and run setup again";
    match validity.not_after.duration_since(now) {
        Err(_) => {
            Some(format!("the certificate has expired, so the backup server cannot connect; {way_out}"))
        }
        Ok(left) if left < SOON => Some(format!(
            "the certificate expires in {} days; the backup server cannot connect anew after that; {way_out}",
            left.as_secs() / (24 * 3600)
        )),
        Ok(_) if validity.not_before > now => {
            Some("the certificate is not valid yet by this machine's clock; check the clock".into())
        }
        Ok(_) => None,
    }
}

/// The first certificate of a PEM file as PEM, and whether it is self-issued.
fn first_certificate(file: &Path) -> Result<(String, bool)> {
    let pem = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let certificate = CertificateDer::from_pem_slice(pem.as_bytes())
        .with_context(|| format!("{} is no certificate in PEM form", file.display()))?;
    let self_issued = is_self_issued(&certificate)
        .with_context(|| format!("{} is no certificate that can be understood", file.display()))?;
    let block = first_block(&pem).with_context(|| format!("{} is cut off", file.display()))?;
    Ok((format!("{block}\n"), self_issued))
}

/// The first certificate's lines, without what stands around them: a private key in the same file, above all.
fn first_block(pem: &str) -> Option<&str> {
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    const END: &str = "-----END CERTIFICATE-----";
    let block = &pem[pem.find(BEGIN)?..];
    block.get(..block.find(END)? + END.len())
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
        // The authority's file may hold more than its certificate; the leaf comes first, as it is what gets pinned.
        let metadata = std::fs::metadata(dir.path()).unwrap();
        let (root, key) = ensure_ours(dir.path(), (metadata.uid(), metadata.gid())).unwrap();
        let [root_pem, key_pem] = [&root, &key].map(|path| std::fs::read_to_string(path).unwrap());
        std::fs::write(&root, format!("{key_pem}{root_pem}")).unwrap();
        let pinned = to_pin(&file, Some(&root)).unwrap();
        assert_eq!(pinned, format!("{}\n{root_pem}", first_block(SIGNED).unwrap()));
        std::fs::write(&file, "rubbish").unwrap();
        assert!(to_pin(&file, None).is_err());
    }

    #[test]
    fn a_certificate_that_ends_is_told() {
        const DAY: u64 = 24 * 3600;
        let at = |days| SystemTime::UNIX_EPOCH + Duration::from_secs(days * DAY);
        let validity = Validity { not_before: at(100), not_after: at(200) };
        for (day, part) in [
            (99, Some("not valid yet")),
            (100, None),
            (170, None),
            (171, Some("in 29 days")),
            (201, Some("has expired")),
        ] {
            let said = warning(&validity, at(day));
            assert_eq!(said.is_some(), part.is_some(), "{day} {said:?}");
            assert!(said.unwrap_or_default().contains(part.unwrap_or_default()), "{day}");
        }
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
