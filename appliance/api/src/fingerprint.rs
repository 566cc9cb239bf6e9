//! Who a backup server is: the hash of its public key.
//!
//! The key and not the certificate, so that a renewed certificate is the same server (design D14). The hash is written as
//! curl's `--pinnedpubkey` takes it, so that it can be had and checked with everybody's tools.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::ParsedCertificate;
use sha2::{Digest, Sha256};

const PREFIX: &str = "sha256//";

/// SHA-256 of a public key (SubjectPublicKeyInfo, RFC 7469 section 2.4), written `sha256//` and base64.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

/// Text that is no fingerprint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no fingerprint; expected sha256// and 44 characters")]
pub struct FingerprintError(String);

impl Fingerprint {
    /// Of the key in a certificate.
    ///
    /// # Errors
    /// It is no certificate.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Self, rustls::Error> {
        let key = ParsedCertificate::try_from(certificate)?.subject_public_key_info();
        Ok(Self(Sha256::digest(key.as_ref()).into()))
    }

    /// Of several public keys together (SubjectPublicKeyInfo); of one it is that key's.
    pub fn of_keys<K: AsRef<[u8]>>(keys: impl IntoIterator<Item = K>) -> Self {
        let mut digest = Sha256::new();
        keys.into_iter().for_each(|key| digest.update(key.as_ref()));
        Self(digest.finalize().into())
    }

    /// Of the key in a certificate, PEM.
    ///
    /// # Errors
    /// It is no certificate.
    pub fn of_pem(certificate: &[u8]) -> Result<Self, rustls::Error> {
        let certificate = CertificateDer::from_pem_slice(certificate)
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        Self::of(&certificate)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", STANDARD.encode(self.0))
    }
}

impl FromStr for Fingerprint {
    type Err = FingerprintError;

    fn from_str(text: &str) -> Result<Self, FingerprintError> {
        let error = || FingerprintError(text.chars().take(80).collect());
        let encoded = text.trim().strip_prefix(PREFIX).ok_or_else(error)?;
        let bytes = STANDARD.decode(encoded).map_err(|_| error())?;
        Ok(Self(bytes.try_into().map_err(|_| error())?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_are_read_as_they_are_written() {
        let fingerprint = Fingerprint([7; 32]);
        assert_eq!(fingerprint.to_string().parse(), Ok(fingerprint));
        assert_eq!(format!(" {fingerprint}\n").parse(), Ok(fingerprint));
        for wrong in ["", "sha256//", "sha256//AAAA", &fingerprint.to_string()[8..], "SHA256:x"] {
            assert!(wrong.parse::<Fingerprint>().is_err(), "{wrong:?}");
        }
    }
}
