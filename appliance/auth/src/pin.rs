//! Who the paired monitor is: the keys of its certificate, and what the first of them has signed.
//!
//! The network password pairs once (design D14): after that a monitor is known by its key. What a restore
//! applies or goes by, the configuration files and the version, is a [`Statement`], which the key vouches
//! for. So whoever has the password, and not the key, changes neither. The way to reach the monitor (address,
//! port, password) is not part of it: it is right where the key answers.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::{Fingerprint, Peer, Signature};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::SignatureScheme;
use rustls::crypto::ring;
use rustls::server::ParsedCertificate;
use rustls::sign::SigningKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, SubjectPublicKeyInfoDer};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use uuid::Uuid;

/// Says what is signed, so that no signature for another purpose can stand for it.
const PURPOSE: &str = "infimonitor: what a monitor says of itself, form 1";
/// Most certificates that are pinned: the monitor's and its authority's.
const CERTIFICATES_MAX: usize = 4;
/// What a key may sign with, in the order in which it is asked for.
const SCHEMES: [SignatureScheme; 4] = [
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::ECDSA_NISTP384_SHA384,
    SignatureScheme::ED25519,
    SignatureScheme::RSA_PKCS1_SHA256,
];

/// Certificates or a key that cannot be used, or a signature that is not the key's.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct PinError(String);

/// Public keys (SubjectPublicKeyInfo, base64), the monitor's own first, then its authority's where one signed
/// it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Keys(Vec<String>);

impl Keys {
    /// The keys of the certificates in `pem`. All of them, as libpq trusts each.
    ///
    /// # Errors
    /// There is no certificate, or there are more than a monitor and its authority have; one cannot be
    /// understood.
    pub fn of_pem(pem: &str) -> Result<Self, PinError> {
        let mut keys = Vec::new();
        for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            let unusable =
                |error: String| PinError(format!("the monitor's certificate cannot be used: {error}"));
            let certificate = certificate.map_err(|error| unusable(error.to_string()))?;
            let parsed =
                ParsedCertificate::try_from(&certificate).map_err(|error| unusable(error.to_string()))?;
            keys.push(STANDARD.encode(parsed.subject_public_key_info()));
            if keys.len() > CERTIFICATES_MAX {
                return Err(unusable(format!("there are more than {CERTIFICATES_MAX}")));
            }
        }
        if keys.is_empty() {
            return Err(PinError("the monitor's certificate is missing".into()));
        }
        Ok(Self(keys))
    }

    /// By what people compare them.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of_keys(self.0.iter().map(|key| STANDARD.decode(key).unwrap_or_default()))
    }

    /// Whether the first key has signed `message`.
    fn has_signed(&self, message: &[u8], signature: &str) -> bool {
        let Some(key) = self.0.first().and_then(|key| STANDARD.decode(key).ok()) else { return false };
        let Ok(signature) = STANDARD.decode(signature) else { return false };
        let key = SubjectPublicKeyInfoDer::from(key);
        let Ok(key) = webpki::RawPublicKeyEntity::try_from(&key) else { return false };
        // Those that are for another kind of key refuse by themselves.
        let algorithms = ring::default_provider().signature_verification_algorithms.all;
        algorithms.iter().any(|algorithm| key.verify_signature(*algorithm, message, &signature).is_ok())
    }
}

/// What a monitor says of itself and vouches for.
#[derive(Debug, Clone, Serialize)]
pub struct Statement<'a> {
    /// The monitor's UUID.
    pub id: Uuid,
    /// Its version.
    pub version: &'a str,
    /// PostgreSQL role.
    pub user: &'a str,
    /// Replication slot.
    pub slot: &'a str,
    /// Database of the role.
    pub database: &'a str,
    /// The keys of its certificate.
    pub keys: &'a Keys,
    /// Its configuration files.
    pub configuration: &'a BTreeMap<String, String>,
    /// Number of the statement.
    pub number: u64,
}

impl<'a> Statement<'a> {
    /// What `peer` says, with the number `number`; `keys` are those of its certificate.
    pub fn of(peer: &'a Peer, keys: &'a Keys, number: u64) -> Self {
        let Peer { id, version, user, slot, database, configuration, .. } = peer;
        Self { id: *id, version, user, slot, database, keys, configuration, number }
    }

    /// Signs it with a private key, PEM.
    ///
    /// # Errors
    /// The key cannot be used, such as one that is encrypted.
    pub fn sign(&self, key: &str) -> Result<Signature, PinError> {
        let unusable = |error: String| PinError(format!("the private key cannot be used: {error}"));
        let key =
            PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|error| unusable(error.to_string()))?;
        let key: Arc<dyn SigningKey> =
            ring::sign::any_supported_type(&key).map_err(|error| unusable(error.to_string()))?;
        let signer =
            key.choose_scheme(&SCHEMES).ok_or_else(|| unusable("it is of an unknown kind".into()))?;
        let value = signer.sign(&self.bytes()?).map_err(|error| unusable(error.to_string()))?;
        Ok(Signature { number: self.number, value: STANDARD.encode(value) })
    }

    /// Whether the first of `keys` has signed it with this signature.
    pub fn is_signed_by(&self, keys: &Keys, signature: &Signature) -> bool {
        signature.number == self.number
            && self.bytes().is_ok_and(|bytes| keys.has_signed(&bytes, &signature.value))
    }

    /// JSON: of fixed fields in a fixed order, so one text stands for one statement.
    fn bytes(&self) -> Result<Vec<u8>, PinError> {
        serde_json::to_vec(&(PURPOSE, self)).map_err(|error| PinError(error.to_string()))
    }
}

/// Signs what `peer` says with the private key `key`, PEM.
///
/// # Errors
/// The certificate or the key cannot be used; the key is not the certificate's.
pub fn sign(peer: &Peer, key: &str, number: u64) -> Result<Signature, PinError> {
    let keys = Keys::of_pem(&peer.certificate)?;
    let statement = Statement::of(peer, &keys, number);
    let signature = statement.sign(key)?;
    if statement.is_signed_by(&keys, &signature) {
        return Ok(signature);
    }
    Err(PinError("the private key does not belong to the certificate".into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certificate::Key;
    use api::Secret;
    use std::time::SystemTime;

    /// A PEM key of each kind that PostgreSQL's certificates commonly have: `openssl genrsa`, `genpkey`,
    /// `ecparam`.
    const RSA: (&str, &str) = (include_str!("../tests/rsa.crt"), include_str!("../tests/rsa.key"));
    const EC_384: (&str, &str) = (include_str!("../tests/ec384.crt"), include_str!("../tests/ec384.key"));

    fn own() -> (String, String) {
        let key = Key::generate().unwrap();
        (key.certificate("monitor", SystemTime::now()).unwrap(), key.to_pem())
    }

    fn peer(certificate: &str) -> Peer {
        Peer {
            id: Uuid::from_u128(1),
            version: "1".into(),
            address: "192.0.2.1".into(),
            port: 50001,
            user: "backup_server".into(),
            password: Secret::new("x"),
            slot: "backup_server".into(),
            database: "postgres".into(),
            certificate: certificate.into(),
            configuration: BTreeMap::from([("/etc/pg_hba.conf".into(), "local\n".into())]),
            signature: None,
        }
    }

    fn is_signed(peer: &Peer, signature: &Signature) -> bool {
        let keys = Keys::of_pem(&peer.certificate).unwrap();
        Statement::of(peer, &keys, signature.number).is_signed_by(&keys, signature)
    }

    #[test]
    fn every_kind_of_key_signs_and_every_change_of_what_it_signed_is_seen() {
        let own = own();
        for (certificate, key) in [(own.0.as_str(), own.1.as_str()), RSA, EC_384] {
            let signed = peer(certificate);
            let signature = sign(&signed, key, 7).unwrap();
            assert!(is_signed(&signed, &signature));
            type Change = fn(&mut Peer);
            let table: &[(bool, Change)] = &[
                (true, |peer| peer.address = "elsewhere".into()),
                (true, |peer| peer.port = 1),
                (true, |peer| peer.password = Secret::new("other")),
                (false, |peer| peer.id = Uuid::from_u128(2)),
                (false, |peer| peer.version = "2".into()),
                (false, |peer| peer.user = "postgres".into()),
                (false, |peer| peer.slot = "other".into()),
                (false, |peer| peer.database = "other".into()),
                (false, |peer| peer.configuration.clear()),
                (false, |peer| drop(peer.configuration.insert("/etc/pg_hba.conf".into(), "host".into()))),
                (false, |peer| {
                    let authority = Key::generate().unwrap().certificate("x", SystemTime::now()).unwrap();
                    peer.certificate += &authority;
                }),
            ];
            for (expected, change) in table {
                let mut changed = signed.clone();
                change(&mut changed);
                assert_eq!(is_signed(&changed, &signature), *expected, "{changed:?}");
            }
            for wrong in [
                Signature { number: 8, ..signature.clone() },
                Signature { value: "AAAA".into(), ..signature.clone() },
                Signature { value: "no base64".into(), ..signature.clone() },
                Signature { value: String::new(), ..signature },
            ] {
                assert!(!is_signed(&signed, &wrong), "{wrong:?}");
            }
        }
    }

    #[test]
    fn a_key_of_another_certificate_and_what_is_not_a_key_sign_nothing() {
        let ((certificate, _), (_, other)) = (own(), own());
        let error = sign(&peer(&certificate), &other, 1).unwrap_err().to_string();
        assert!(error.contains("does not belong"), "{error}");
        assert!(sign(&peer(&certificate), "rubbish", 1).is_err());
        assert!(sign(&peer(&certificate), &certificate, 1).is_err());
    }

    #[test]
    fn all_certificates_count_and_a_renewed_one_is_the_same() {
        let key = Key::generate().unwrap();
        let now = SystemTime::now();
        let one = key.certificate("monitor", now).unwrap();
        let renewed = key.certificate("other", now).unwrap();
        let (other, _) = own();
        let keys = |pem: &str| Keys::of_pem(pem).unwrap();
        assert_eq!(keys(&one), keys(&renewed));
        assert_ne!(keys(&one), keys(&other));
        assert_ne!(keys(&one), keys(&format!("{one}{other}")));
        assert_eq!(keys(&one).fingerprint(), Fingerprint::of_pem(one.as_bytes()).unwrap());
        assert_ne!(keys(&one).fingerprint(), keys(&format!("{one}{other}")).fingerprint());
        assert!(Keys::of_pem("").is_err());
        assert!(Keys::of_pem(&other.repeat(5)).is_err());
        let damaged = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(Keys::of_pem(&format!("{one}{damaged}")).is_err());
    }
}
