//! For tests: a monitor that says things of itself and signs them.

#![allow(clippy::expect_used, reason = "helpers of tests fail by panicking")]

use std::time::SystemTime;

use api::{Peer, Signature};
use uuid::Uuid;

use crate::certificate::Key;
use crate::pin::{Identity, PublicKey, Statement};

/// A monitor with keys of its own.
#[derive(Debug, Clone)]
pub struct Monitor {
    /// What it says of itself, not signed.
    pub peer: Peer,
    /// Its private signing key, PEM.
    pub signing_key: String,
    /// The private key of its certificate, PEM.
    pub certificate_key: String,
}

impl Monitor {
    /// One with this UUID and new keys.
    ///
    /// # Panics
    /// The kernel gives no random numbers.
    pub fn new(id: u128) -> Self {
        let (key, signing) = (Key::generate().expect("a key"), Key::generate().expect("a key"));
        let peer = Peer {
            id: Uuid::from_u128(id),
            certificate: key.certificate("monitor", SystemTime::now()).expect("a certificate"),
            signing_key: Some(PublicKey::of(&signing).to_string()),
            signature: None,
            ..api::testing::peer()
        };
        Self { peer, signing_key: signing.to_pem(), certificate_key: key.to_pem() }
    }

    /// The same monitor with an earlier monitor-link, which signed with the key of PostgreSQL's certificate.
    #[must_use]
    pub fn of_an_earlier_version(mut self) -> Self {
        self.peer.signing_key = None;
        self.signing_key.clone_from(&self.certificate_key);
        self
    }

    /// What it says after a change, signed with its own key.
    pub fn says(&self, number: u64, change: impl FnOnce(&mut Peer)) -> Peer {
        let mut peer = self.peer.clone();
        change(&mut peer);
        peer.signature = Some(self.signs(&peer, number));
        peer
    }

    /// Its signature of what any monitor says.
    ///
    /// # Panics
    /// The peer's certificate cannot be used.
    pub fn signs(&self, peer: &Peer, number: u64) -> Signature {
        let identity = Identity::of(peer).expect("keys");
        Statement::of(peer, &identity, number).sign(&self.signing_key).expect("a signature")
    }

    /// By what the console compares its keys.
    ///
    /// # Panics
    /// The peer's certificate cannot be used.
    pub fn fingerprint(&self) -> String {
        Identity::of(&self.peer).expect("keys").fingerprint().to_string()
    }
}
