//! The paired monitor: how the backup server reaches its PostgreSQL.
//!
//! Everything here comes from the network and ends up in connection strings, file names and configuration files, so
//! [`Peer::check`] refuses what could mean something else there, before anything is stored.

use crate::Host;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use uuid::Uuid;

/// A string that never shows itself in logs or error texts.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(secret: impl Into<String>) -> Self {
        Self(secret.into())
    }

    /// The secret itself, for the one place that needs it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// The monitor's word for what it says of itself in a [`Peer`], made with its signing key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signature {
    /// Grows with each statement of the monitor, so that an old one cannot be said again.
    pub number: u64,
    /// The signature, base64.
    pub value: String,
}

/// Body of `PUT /v1/peer`: what `monitor-link setup` prints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    /// The monitor's own UUID; pairing goes by it, never by the address (design D13).
    pub id: Uuid,
    /// Version of the monitor (the image's on our node, else what a configured command prints).
    pub version: String,
    /// IPv4 or IPv6 address, or host name.
    pub address: String,
    /// TCP port of PostgreSQL there, normally [`crate::REPLICATION_PORT`].
    pub port: u16,
    /// PostgreSQL role with LOGIN and REPLICATION.
    pub user: String,
    /// The role's password.
    pub password: Secret,
    /// Name of the physical replication slot.
    pub slot: String,
    /// Database in which the role may ask for the state of the slot.
    pub database: String,
    /// The certificate that the monitor's PostgreSQL shows, PEM; it is pinned.
    pub certificate: String,
    /// PostgreSQL's configuration files, path → text: kept with every backup for the restore,
    /// never read here.
    #[serde(default)]
    pub configuration: BTreeMap<String, String>,
    /// The public key that verifies `signature` (SubjectPublicKeyInfo, base64); it is pinned. PostgreSQL does not
    /// have the private one: a superuser of the database reads what PostgreSQL reads. A monitor-link of an earlier
    /// version has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signing_key: Option<String>,
    /// Signs all of it but the way to reach the monitor: address, port and password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<Signature>,
}

/// What is wrong with a [`Peer`], by field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct PeerError {
    /// Name of the JSON field.
    pub field: &'static str,
    /// What is wrong and what is allowed.
    pub problem: String,
}

/// `NAMEDATALEN - 1` of PostgreSQL: the longest identifier, in bytes.
const IDENTIFIER_MAX: usize = 63;
/// A certificate is about 1 KiB; a chain with room to spare.
const CERTIFICATE_MAX: usize = 64 * 1024;
/// A public RSA key of 16 384 bits has 2 KiB, base64 makes 3 of it.
const SIGNING_KEY_MAX: usize = 4096;
/// An RSA key of 16 384 bits signs with 2 KiB.
const SIGNATURE_MAX: usize = 4096;
/// Longest path of a configuration file, in bytes.
const PATH_MAX: usize = 1024;
/// All configuration files together, in bytes: Debian's have 40 kB, nearly all of it comments.
pub const CONFIGURATION_MAX: usize = 256 * 1024;

impl Peer {
    /// Checks every field.
    ///
    /// # Errors
    /// The first field that could not be used safely, with what is allowed.
    pub fn check(&self) -> Result<(), PeerError> {
        let refuse = |field, problem: &str| Err(PeerError { field, problem: problem.into() });
        if self.id.is_nil() {
            return refuse("id", "must be the monitor's UUID, not the nil UUID");
        }
        if self.version.is_empty() || self.version.len() > 64 || self.version.chars().any(char::is_control) {
            return refuse("version", "must have 1 to 64 characters, none of them a control character");
        }
        if !is_host(&self.address) {
            return refuse(
                "address",
                "must be an IPv4 or IPv6 address or a host name, without brackets or port",
            );
        }
        if self.port == 0 {
            return refuse("port", "must be between 1 and 65535");
        }
        if !is_identifier(&self.user) {
            return refuse("user", "must be a PostgreSQL role name of 1 to 63 characters a-z, 0-9 and _");
        }
        if self.password.reveal().is_empty()
            || self.password.reveal().len() > 1024
            || self.password.reveal().chars().any(char::is_control)
        {
            return refuse("password", "must have 1 to 1024 bytes, none of them a control character");
        }
        if !is_identifier(&self.slot) {
            return refuse("slot", "must be a replication slot name of 1 to 63 characters a-z, 0-9 and _");
        }
        if !is_identifier(&self.database) {
            return refuse("database", "must be a database name of 1 to 63 characters a-z, 0-9 and _");
        }
        if self.certificate.len() > CERTIFICATE_MAX
            || !self.certificate.contains("-----BEGIN CERTIFICATE-----")
        {
            return refuse("certificate", "must be the monitor's certificate in PEM form, at most 64 KiB");
        }
        if self.signing_key.as_ref().is_some_and(|key| key.is_empty() || key.len() > SIGNING_KEY_MAX) {
            return refuse("signing_key", "must be a public key in base64, of at most 4096 characters");
        }
        if self.signature.as_ref().is_some_and(|signature| signature.value.len() > SIGNATURE_MAX) {
            return refuse("signature", "must be a signature in base64, of at most 4096 characters");
        }
        check_configuration(&self.configuration)
    }

    /// Whether `other` is reached in the same way: nothing that is connected has to be connected anew.
    pub fn is_reached_like(&self, other: &Self) -> bool {
        let way = |peer: &Self| Self {
            version: String::new(),
            configuration: BTreeMap::new(),
            signing_key: None,
            signature: None,
            ..peer.clone()
        };
        way(self) == way(other)
    }

    /// The peer without its secrets, for showing.
    pub fn info(&self) -> PeerInfo {
        PeerInfo {
            id: self.id,
            version: self.version.clone(),
            address: self.address.clone(),
            port: self.port,
            user: self.user.clone(),
            slot: self.slot.clone(),
        }
    }
}

/// Answer of `GET /v1/peer`: the pairing without secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerInfo {
    /// The monitor's UUID.
    pub id: Uuid,
    /// The monitor's version.
    pub version: String,
    /// Address or host name.
    pub address: String,
    /// TCP port.
    pub port: u16,
    /// PostgreSQL role.
    pub user: String,
    /// Replication slot.
    pub slot: String,
}

impl PeerInfo {
    /// `address:port`, an IPv6 address in brackets, for sentences.
    pub fn endpoint(&self) -> String {
        endpoint(&self.address, self.port)
    }
}

/// `address:port`, an IPv6 address in brackets.
pub fn endpoint(address: &str, port: u16) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

/// Checks configuration files: absolute paths without `..`, and texts, of [`CONFIGURATION_MAX`] in all.
///
/// # Errors
/// What is not allowed.
pub fn check_configuration(files: &BTreeMap<String, String>) -> Result<(), PeerError> {
    let is_path = |path: &str| {
        path.starts_with('/')
            && path.len() <= PATH_MAX
            && !path.chars().any(char::is_control)
            && !path.split('/').any(|part| part == "..")
    };
    let bytes: usize = files.iter().map(|(path, text)| path.len() + text.len()).sum();
    if bytes > CONFIGURATION_MAX || !files.keys().all(|path| is_path(path)) {
        let problem = "must be texts by absolute path, of 256 KiB at most in all".into();
        return Err(PeerError { field: "configuration", problem });
    }
    Ok(())
}

/// Lower case as PostgreSQL folds it, so that a name means the same quoted and unquoted, in SQL, hba and file names.
fn is_identifier(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= IDENTIFIER_MAX
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

/// An address without brackets, as libpq takes it, or a name.
fn is_host(host: &str) -> bool {
    !host.starts_with('[') && host.parse::<Host>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::peer;

    #[test]
    fn new_configuration_files_break_no_connection() {
        let (old, mut new) = (peer(), Peer { version: "2".into(), ..peer() });
        new.configuration.clear();
        (new.signing_key, new.signature) = (None, None);
        assert!(old.is_reached_like(&new));
        assert!(!old.is_reached_like(&Peer { port: 1, ..peer() }));
    }

    #[test]
    fn a_field_that_could_mean_something_else_is_refused_by_name() {
        type Change = fn(&mut Peer);
        let table: &[(&str, Change)] = &[
            ("id", |p| p.id = Uuid::nil()),
            ("version", |p| p.version = "1\n2".into()),
            ("address", |p| p.address = "host' port='1".into()),
            ("address", |p| p.address = "[::1]".into()),
            ("address", |p| p.address = "192.0.2.256".into()),
            ("address", |p| p.address = "".into()),
            ("address", |p| p.address = "-x".into()),
            ("port", |p| p.port = 0),
            ("user", |p| p.user = "a b".into()),
            ("password", |p| p.password = Secret::new("a\nb")),
            ("slot", |p| p.slot = "../x".into()),
            ("database", |p| p.database = "x".repeat(64)),
            ("certificate", |p| p.certificate = "nothing".into()),
            ("signing_key", |p| p.signing_key = Some("x".repeat(4097))),
            ("signing_key", |p| p.signing_key = Some(String::new())),
            ("signature", |p| p.signature = Some(Signature { number: 1, value: "x".repeat(4097) })),
            ("configuration", |p| drop(p.configuration.insert("x".into(), String::new()))),
            ("configuration", |p| drop(p.configuration.insert("/etc/../x".into(), String::new()))),
            ("configuration", |p| drop(p.configuration.insert("/x".into(), "x".repeat(CONFIGURATION_MAX)))),
        ];
        for (field, change) in table {
            let mut changed = peer();
            change(&mut changed);
            assert_eq!(changed.check().unwrap_err().field, *field);
        }
    }

    #[test]
    fn addresses_of_every_kind_are_taken() {
        for address in ["192.0.2.1", "2001:db8::1", "monitor", "monitor.example.org", "a_b.c-d"] {
            let mut p = peer();
            p.address = address.into();
            assert_eq!(p.check(), Ok(()), "{address}");
        }
    }

    #[test]
    fn a_secret_does_not_show_itself() {
        assert!(!format!("{:?}", peer()).contains("s3cret"));
    }

    #[test]
    fn ipv6_endpoints_are_bracketed() {
        assert_eq!(endpoint("2001:db8::1", 1), "[2001:db8::1]:1");
        assert_eq!(endpoint("monitor", 1), "monitor:1");
    }
}
