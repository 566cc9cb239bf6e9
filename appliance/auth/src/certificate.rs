//! Self-signed certificates: ECDSA P-256, 20 years, one stable name (design D14, D15). Peers pin them, so no
//! authority stands behind them and the name says what the machine is, not where.
//!
//! Ed25519 would be smaller, but breaks PostgreSQL's channel binding.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Context;
use rcgen::{
    CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use thiserror::Error;

const DAY: Duration = Duration::from_secs(24 * 3600);
/// Twenty years with five leap days.
const VALIDITY: Duration = Duration::from_secs((20 * 365 + 5) * 24 * 3600);

/// A key that cannot be read, or a certificate that cannot be made.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct CertificateError(#[from] rcgen::Error);

/// A private key.
pub struct Key(KeyPair);

impl Key {
    /// Makes a key.
    ///
    /// # Errors
    /// The kernel gives no random numbers.
    pub fn generate() -> Result<Self, CertificateError> {
        Ok(Self(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?))
    }

    /// Reads a key.
    ///
    /// # Errors
    /// The text is no private key in PEM.
    pub fn from_pem(pem: &str) -> Result<Self, CertificateError> {
        Ok(Self(KeyPair::from_pem(pem)?))
    }

    /// The key as PEM: a secret.
    pub fn to_pem(&self) -> String {
        self.0.serialize_pem()
    }

    /// The public key (SubjectPublicKeyInfo, DER).
    pub fn public_key(&self) -> Vec<u8> {
        self.0.subject_public_key_info()
    }

    /// A certificate of this key as PEM: server, no authority, `name` as subject and only alternative name.
    ///
    /// # Errors
    /// The name is no DNS name.
    pub fn certificate(&self, name: &str, not_before: SystemTime) -> Result<String, CertificateError> {
        let mut params = CertificateParams::new([name.to_owned()])?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::ExplicitNoCa;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let since_1970 = not_before.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        params.not_before = rcgen::date_time_ymd(1970, 1, 1) + since_1970;
        params.not_after = params.not_before + VALIDITY;
        Ok(params.self_signed(&self.0)?.pem())
    }

    /// Whether the first certificate in `pem` is one of this key. A byte search does: the public key is a point of 65
    /// bytes that nobody could hit by chance.
    pub fn owns(&self, pem: &str) -> bool {
        let public = self.0.der_bytes();
        CertificateDer::from_pem_slice(pem.as_bytes())
            .is_ok_and(|der| der.windows(public.len()).any(|bytes| bytes == public))
    }
}

/// A key and its certificate as PEM files.
///
/// The key decides: a certificate that is missing or belongs to another key is made anew for the key that is there,
/// and a key that cannot be read is never replaced, since peers pinned what it stands for.
#[derive(Debug, Clone)]
pub struct KeyPairFiles {
    /// Path of the certificate.
    pub certificate: PathBuf,
    /// Its mode.
    pub certificate_mode: u32,
    /// Path of the key.
    pub key: PathBuf,
    /// Its mode.
    pub key_mode: u32,
    /// Owner of both.
    pub owner: files::Owner,
}

/// What [`KeyPairFiles::ensure`] had to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Made {
    /// Both were there.
    Nothing,
    /// A certificate for the key that was there.
    Certificate,
    /// Both.
    Both,
}

impl KeyPairFiles {
    /// Makes what is missing, the certificate for `name`; `image_file` has the image's date as its own.
    ///
    /// # Errors
    /// The key is damaged, or the files cannot be written.
    pub fn ensure(&self, name: &str, image_file: &Path) -> anyhow::Result<Made> {
        let (key, made) = match files::read(&self.key)? {
            Some(pem) => {
                let key = Key::from_pem(&pem).with_context(|| {
                    let path = self.key.display();
                    format!("{path} is damaged, and peers know the machine by it; restore it, or remove it and pair anew")
                })?;
                (key, Made::Certificate)
            }
            None => {
                let key = Key::generate().context("cannot make a key")?;
                files::write(&self.key, key.to_pem().as_bytes(), self.key_mode, Some(self.owner))?;
                (key, Made::Both)
            }
        };
        if files::read(&self.certificate)?.is_some_and(|pem| key.owns(&pem)) {
            return Ok(Made::Nothing);
        }
        let image = std::fs::metadata(image_file).and_then(|file| file.modified()).ok();
        let pem = key
            .certificate(name, not_before(image, SystemTime::now()))
            .context("cannot make a certificate")?;
        files::write(&self.certificate, pem.as_bytes(), self.certificate_mode, Some(self.owner))?;
        Ok(made)
    }
}

/// When a certificate begins: a day before the clock, or before the image's date if the clock is behind that (a
/// machine with an empty clock battery starts in 1970 or 2000).
pub fn not_before(image: Option<SystemTime>, clock: SystemTime) -> SystemTime {
    let latest = image.map_or(clock, |image| image.max(clock));
    latest.checked_sub(DAY).unwrap_or(latest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    fn day(n: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + DAY * u32::try_from(n).unwrap()
    }

    #[test]
    fn a_certificate_begins_a_day_before_the_later_of_image_and_clock() {
        let table = [
            (Some(day(100)), day(200), day(199)),
            (Some(day(200)), day(100), day(199)),
            (Some(day(200)), day(0), day(199)),
            (None, day(200), day(199)),
        ];
        for (image, clock, expected) in table {
            assert_eq!(not_before(image, clock), expected);
        }
    }

    #[test]
    fn a_certificate_belongs_to_its_key_only() {
        let key = Key::generate().unwrap();
        let pem = key.certificate("backup-server", day(20_000)).unwrap();
        assert!(key.owns(&pem));
        assert!(Key::from_pem(&key.to_pem()).unwrap().owns(&pem));
        assert!(!Key::generate().unwrap().owns(&pem));
        assert!(!key.owns("rubbish"));
        assert!(Key::from_pem(&pem).is_err());
    }

    #[test]
    fn the_key_is_made_once_and_the_certificate_follows_it() {
        let dir = tempfile::tempdir().unwrap();
        let metadata = fs::metadata(dir.path()).unwrap();
        let pair = |name: &str| KeyPairFiles {
            certificate: dir.path().join(format!("{name}.crt")),
            certificate_mode: 0o644,
            key: dir.path().join(format!("{name}.key")),
            key_mode: 0o600,
            owner: (metadata.uid(), metadata.gid()),
        };
        let (ours, other) = (pair("ours"), pair("other"));
        let ensure = |pair: &KeyPairFiles| pair.ensure("backup-server", Path::new("/usr/lib/os-release"));
        assert_eq!(ensure(&ours).unwrap(), Made::Both);
        assert_eq!(fs::metadata(&ours.key).unwrap().mode() & 0o777, 0o600);
        let key = fs::read_to_string(&ours.key).unwrap();
        assert_eq!(ensure(&ours).unwrap(), Made::Nothing);
        // a power cut between the two files, and a certificate of another key
        fs::remove_file(&ours.certificate).unwrap();
        assert_eq!(ensure(&ours).unwrap(), Made::Certificate);
        ensure(&other).unwrap();
        fs::copy(&other.certificate, &ours.certificate).unwrap();
        assert_eq!(ensure(&ours).unwrap(), Made::Certificate);
        assert_eq!(fs::read_to_string(&ours.key).unwrap(), key);
        assert!(Key::from_pem(&key).unwrap().owns(&fs::read_to_string(&ours.certificate).unwrap()));
        // a damaged key is not replaced
        fs::write(&ours.key, "rubbish").unwrap();
        assert!(format!("{:#}", ensure(&ours).unwrap_err()).contains("ours.key is damaged"));
        assert_eq!(fs::read_to_string(&ours.key).unwrap(), "rubbish");
    }
}
