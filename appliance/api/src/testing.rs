//! For tests: a monitor that could be paired.

use crate::{Peer, Secret, Signature};
use std::collections::BTreeMap;
use uuid::Uuid;

/// A peer whose fields are all in order. Its certificate and its signature only look like that.
pub fn peer() -> Peer {
    Peer {
        id: Uuid::from_u128(1),
        version: "1.0".into(),
        address: "192.0.2.1".into(),
        port: crate::REPLICATION_PORT,
        user: "backup_server".into(),
        password: Secret::new("s3cret"),
        slot: "backup_server".into(),
        database: "postgres".into(),
        certificate: "-----BEGIN CERTIFICATE-----\n…".into(),
        configuration: BTreeMap::from([("/etc/postgresql/17/main/pg_hba.conf".into(), "local\n".into())]),
        signing_key: Some("AAAA".into()),
        signature: Some(Signature { number: 7, value: "AAAA".into() }),
    }
}
