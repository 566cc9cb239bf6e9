//! Who the paired monitor is: the keys of its PostgreSQL's certificate and its signing key, and what the latter has
//! signed.
//!
//! The network password pairs once (design D14): after that a monitor is known by its keys. What a restore
//! applies or goes by, the configuration files and the version, is a [`Statement`], which the signing key vouches
//! for. So whoever has the password, and not the key, changes neither. The way to reach the monitor (address,
//! port, password) is not part of it: it is right where the certificate's key answers.
//!
//! The signing key is a key of its own, root's at the monitor. PostgreSQL has to read the key of its certificate, and so
//! does a superuser of the database (`pg_read_file`): that key proves who answers, and vouches for nothing.

use std::collections::BTreeMap;
use std::fmt;
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

use crate::certificate::Key;
use api::tls::TlsTrouble;

/// Says what is signed, so that no signature for another purpose can stand for it.
const PURPOSE: &str = "infimonitor: what a monitor says of itself, form 2";
/// The same of an earlier version, which signed with the key of PostgreSQL's certificate.
const FORMER_PURPOSE: &str = "infimonitor: what a monitor says of itself, form 1";
/// Stands before a signing key where keys are hashed together: no certificate's key begins like this.
const SIGNING_MARK: &[u8] = b"signing key: ";
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

/// A public key (SubjectPublicKeyInfo), shown and stored as base64.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PublicKey(String);

impl PublicKey {
    /// The public key of a private one.
    pub fn of(key: &Key) -> Self {
        Self(STANDARD.encode(key.public_key()))
    }

    /// Reads a signing key as [`Peer`] has it.
    ///
    /// # Errors
    /// The text is not a public key in base64.
    pub fn parse(text: &str) -> Result<Self, PinError> {
        let key = Self(text.to_owned());
        let der = SubjectPublicKeyInfoDer::from(key.der());
        match webpki::RawPublicKeyEntity::try_from(&der) {
            Ok(_) => Ok(key),
            Err(error) => Err(PinError(format!("the monitor's signing key cannot be used: {error}"))),
        }
    }

    fn der(&self) -> Vec<u8> {
        STANDARD.decode(&self.0).unwrap_or_default()
    }

    /// Whether this key has signed `message`.
    fn has_signed(&self, message: &[u8], signature: &str) -> bool {
        let Ok(signature) = STANDARD.decode(signature) else { return false };
        let key = SubjectPublicKeyInfoDer::from(self.der());
        let Ok(key) = webpki::RawPublicKeyEntity::try_from(&key) else { return false };
        // Those that are for another kind of key refuse by themselves.
        let algorithms = ring::default_provider().signature_verification_algorithms.all;
        algorithms.iter().any(|algorithm| key.verify_signature(*algorithm, message, &signature).is_ok())
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The public keys of certificates, the monitor's own first, then its authority's where one signed it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Keys(Vec<PublicKey>);

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
            let parsed = ParsedCertificate::try_from(&certificate)
                .map_err(|error| unusable(TlsTrouble::of(&error).words().to_owned()))?;
            keys.push(PublicKey(STANDARD.encode(parsed.subject_public_key_info())));
            if keys.len() > CERTIFICATES_MAX {
                return Err(unusable(format!("there are more than {CERTIFICATES_MAX}")));
            }
        }
        if keys.is_empty() {
            return Err(PinError("the monitor's certificate is missing".into()));
        }
        Ok(Self(keys))
    }

    /// The key that PostgreSQL shows.
    pub fn own(&self) -> Option<&PublicKey> {
        self.0.first()
    }
}

impl From<PublicKey> for Keys {
    fn from(key: PublicKey) -> Self {
        Self(vec![key])
    }
}

/// By which keys a monitor is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Those of its certificates.
    pub keys: Keys,
    /// The one that signs; `None`: its monitor-link is of an earlier version.
    pub signing: Option<PublicKey>,
}

impl Identity {
    /// The keys that `peer` names.
    ///
    /// # Errors
    /// They cannot be used.
    pub fn of(peer: &Peer) -> Result<Self, PinError> {
        let signing = peer.signing_key.as_deref().map(PublicKey::parse).transpose()?;
        Ok(Self { keys: Keys::of_pem(&peer.certificate)?, signing })
    }

    /// By what people compare them: all of them together.
    pub fn fingerprint(&self) -> Fingerprint {
        let keys = self.keys.0.iter().map(PublicKey::der);
        let signing = self.signing.iter().map(|key| [SIGNING_MARK, &key.der()].concat());
        Fingerprint::of_keys(keys.chain(signing))
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
    /// Its signing key; `None`: a statement of an earlier version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signing: Option<&'a PublicKey>,
}

impl<'a> Statement<'a> {
    /// What `peer` says, with the number `number`; `identity` has the keys that it names.
    pub fn of(peer: &'a Peer, identity: &'a Identity, number: u64) -> Self {
        let Peer { id, version, user, slot, database, configuration, .. } = peer;
        let Identity { keys, signing } = identity;
        let signing = signing.as_ref();
        Self { id: *id, version, user, slot, database, keys, configuration, number, signing }
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

    /// Whether `key` has signed it with this signature.
    pub fn is_signed_by(&self, key: &PublicKey, signature: &Signature) -> bool {
        signature.number == self.number
            && self.bytes().is_ok_and(|bytes| key.has_signed(&bytes, &signature.value))
    }

    /// JSON: of fixed fields in a fixed order, so one text stands for one statement.
    fn bytes(&self) -> Result<Vec<u8>, PinError> {
        let purpose = if self.signing.is_some() { PURPOSE } else { FORMER_PURPOSE };
        serde_json::to_vec(&(purpose, self)).map_err(|error| PinError(error.to_string()))
    }
}

/// Signs what `peer` says with the private part `key` (PEM) of its signing key.
///
/// # Errors
/// The certificate or a key cannot be used; the key is not the signing key's.
pub fn sign(peer: &Peer, key: &str, number: u64) -> Result<Signature, PinError> {
    let identity = Identity::of(peer)?;
    let statement = Statement::of(peer, &identity, number);
    let signature = statement.sign(key)?;
    if identity.signing.as_ref().is_some_and(|signing| statement.is_signed_by(signing, &signature)) {
        return Ok(signature);
    }
    Err(PinError("the private key does not belong to the signing key".into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Monitor;
    use api::Secret;
    use std::time::SystemTime;

    /// A PEM key of each kind that PostgreSQL's certificates commonly have: `openssl genrsa`, `genpkey`,
    /// `ecparam`.
    const RSA: (&str, &str) = (include_str!("../tests/rsa.crt"), include_str!("../tests/rsa.key"));
    const EC_384: (&str, &str) = (include_str!("../tests/ec384.crt"), include_str!("../tests/ec384.key"));

    /// A monitor whose certificate has this key, with a signing key and of an earlier version without.
    fn monitors((certificate, key): (&str, &str)) -> [Monitor; 2] {
        let mut monitor = Monitor::new(1);
        monitor.peer.certificate = certificate.into();
        monitor.certificate_key = key.into();
        [monitor.clone(), monitor.of_an_earlier_version()]
    }

    fn is_signed(peer: &Peer, signature: &Signature) -> bool {
        let identity = Identity::of(peer).unwrap();
        let key = identity.signing.as_ref().or(identity.keys.own()).unwrap();
        Statement::of(peer, &identity, signature.number).is_signed_by(key, signature)
    }

    #[test]
    fn every_kind_of_key_signs_and_every_change_of_what_it_signed_is_seen() {
        let own = Monitor::new(1);
        let own = (own.peer.certificate.as_str(), own.certificate_key.as_str());
        for monitor in [own, RSA, EC_384].into_iter().flat_map(monitors) {
            let signed = monitor.peer.clone();
            let signature = monitor.signs(&signed, 7);
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
                (false, |peer| peer.certificate += &Monitor::new(1).peer.certificate),
                (false, |peer| peer.signing_key = Monitor::new(1).peer.signing_key),
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
    fn the_certificates_key_another_one_and_what_is_not_a_key_sign_nothing() {
        let (monitor, other) = (Monitor::new(1), Monitor::new(2));
        assert!(sign(&monitor.peer, &monitor.signing_key, 1).is_ok());
        for key in [&monitor.certificate_key, &other.signing_key] {
            let error = sign(&monitor.peer, key, 1).unwrap_err().to_string();
            assert!(error.contains("does not belong"), "{error}");
        }
        assert!(sign(&monitor.peer, "rubbish", 1).is_err());
        assert!(sign(&monitor.peer, &monitor.peer.certificate, 1).is_err());
        let former = monitor.of_an_earlier_version();
        assert!(sign(&former.peer, &former.signing_key, 1).is_err());
    }

    /// What an earlier version has signed: its bytes are not to change, or no backup carries a configuration that was
    /// signed before.
    #[test]
    fn a_statement_of_an_earlier_version_has_the_bytes_that_it_had() {
        let former = Monitor::new(1).of_an_earlier_version();
        let identity = Identity::of(&former.peer).unwrap();
        let bytes = Statement::of(&former.peer, &identity, 7).bytes().unwrap();
        let key = identity.keys.own().unwrap();
        let expected = format!(
            r#"["infimonitor: what a monitor says of itself, form 1",{{"id":"{}","version":"1.0","user":"backup_server","#,
            former.peer.id
        ) + r#""slot":"backup_server","database":"postgres","keys":[""#
            + &key.to_string()
            + r#""],"configuration":{"/etc/postgresql/17/main/pg_hba.conf":"local\n"},"number":7}]"#;
        assert_eq!(String::from_utf8(bytes).unwrap(), expected);
    }

    #[test]
    fn all_certificates_count_and_a_renewed_one_is_the_same() {
        let key = Key::generate().unwrap();
        let now = SystemTime::now();
        let one = key.certificate("monitor", now).unwrap();
        let renewed = key.certificate("other", now).unwrap();
        let other = Monitor::new(2).peer.certificate;
        let keys = |pem: &str| Keys::of_pem(pem).unwrap();
        assert_eq!(keys(&one), keys(&renewed));
        assert_ne!(keys(&one), keys(&other));
        assert_ne!(keys(&one), keys(&format!("{one}{other}")));
        assert!(Keys::of_pem("").is_err());
        assert!(Keys::of_pem(&other.repeat(5)).is_err());
        let damaged = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(Keys::of_pem(&format!("{one}{damaged}")).is_err());
    }

    #[test]
    fn a_fingerprint_is_of_all_keys_and_of_what_each_is_for() {
        let (monitor, other) = (Monitor::new(1), Monitor::new(1));
        let fingerprint = |peer: &Peer| Identity::of(peer).unwrap().fingerprint();
        let peer = &monitor.peer;
        let former = Peer { signing_key: None, ..peer.clone() };
        let beside =
            Peer { certificate: format!("{}{}", peer.certificate, other.peer.certificate), ..former.clone() };
        // The signing key as the key of an authority.
        let signing = Key::from_pem(&monitor.signing_key).unwrap();
        let posing = signing.certificate("x", SystemTime::now()).unwrap();
        let posing = Peer { certificate: format!("{}{posing}", peer.certificate), ..former.clone() };
        let resigned = Peer { signing_key: other.peer.signing_key.clone(), ..peer.clone() };
        let all = [peer, &former, &beside, &posing, &resigned, &other.peer].map(fingerprint);
        for (at, one) in all.iter().enumerate() {
            assert!(!all[..at].contains(one), "{at}");
        }
        assert_eq!(all[1], Fingerprint::of_pem(peer.certificate.as_bytes()).unwrap());
    }

    #[test]
    fn what_is_not_a_public_key_is_not_a_signing_key() {
        let monitor = Monitor::new(1);
        for wrong in ["", "AAAA", "no base64", &monitor.certificate_key] {
            let peer = Peer { signing_key: Some(wrong.into()), ..monitor.peer.clone() };
            assert!(Identity::of(&peer).is_err(), "{wrong:?}");
        }
    }
}
