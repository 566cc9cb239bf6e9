//! TLS of one session: a certificate for the control connection, and a proof by the client for each data connection.
//!
//! Every session has TLS settings of its own, and with them tickets of its own. A data connection must resume a TLS
//! session that began on its control connection: only the client has the keys for that, whatever others know or
//! guess of ports and addresses. What vsftpd calls `require_ssl_reuse` is stricter here in one point: on data
//! connections the server's key signs nothing, so no other handshake can come to its end, and a stranger cannot get
//! tickets from one handshake for the next.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert, StoresServerSessions};
use rustls::sign::{CertifiedKey, Signer, SigningKey};
use rustls::{ServerConfig, SignatureAlgorithm, SignatureScheme, SupportedProtocolVersion, version};

const VERSIONS: [&SupportedProtocolVersion; 2] = [&version::TLS13, &version::TLS12];
/// TLS sessions remembered for one FTP session.
const REMEMBERED: usize = 64;
/// Of them, how many of the first stay: many clients resume the control connection's own session every time.
const STAY: usize = 8;
/// Tickets sent in a handshake of TLS 1.3. Some clients use each only once, and lose those of transfers that they
/// break off.
const TICKETS: usize = 4;

/// The TLS settings of one session.
#[derive(Debug, Clone)]
pub(crate) struct Tls {
    /// For the control connection.
    pub(crate) control: Arc<ServerConfig>,
    /// Certificate and key.
    key: Arc<CertifiedKey>,
}

/// Whether a client has tried a data connection without resuming a TLS session.
#[derive(Debug, Clone, Default)]
pub(crate) struct Unresumed(Arc<AtomicBool>);

impl Unresumed {
    /// Whether one has tried.
    pub(crate) fn tried(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Forgets it: the right connection has come, so it was a stranger.
    pub(crate) fn forget(&self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

impl Tls {
    /// Reads certificate and key.
    pub(crate) fn load(certificate: &Path, key: &Path) -> Result<Self> {
        let provider = ring::default_provider();
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(certificate)
            .and_then(Iterator::collect)
            .with_context(|| format!("cannot read {}", certificate.display()))?;
        let secret =
            PrivateKeyDer::from_pem_file(key).with_context(|| format!("cannot read {}", key.display()))?;
        let certified = CertifiedKey::from_der(chain, secret, &provider)
            .with_context(|| format!("cannot use {} with {}", certificate.display(), key.display()))?;
        let key = Arc::new(certified);
        let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&VERSIONS)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(Shown(Arc::clone(&key))));
        config.session_storage = Arc::new(Remembered::default());
        config.send_tls13_tickets = TICKETS;
        Ok(Self { control: Arc::new(config), key })
    }

    /// For data connections that must resume a TLS session of this FTP session.
    pub(crate) fn resumed_only(&self, unresumed: &Unresumed) -> Arc<ServerConfig> {
        let silent = Silent { key: Arc::clone(&self.key.key), unresumed: unresumed.clone() };
        let key = CertifiedKey::new(self.key.cert.clone(), Arc::new(silent));
        let mut config = ServerConfig::clone(&self.control);
        config.cert_resolver = Arc::new(Shown(Arc::new(key)));
        Arc::new(config)
    }
}

/// Shows the same certificate to everybody.
#[derive(Debug)]
struct Shown(Arc<CertifiedKey>);

impl ResolvesServerCert for Shown {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

/// A key that signs nothing. Resuming a session takes no signature.
#[derive(Debug)]
struct Silent {
    key: Arc<dyn SigningKey>,
    unresumed: Unresumed,
}

impl SigningKey for Silent {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let scheme = self.key.choose_scheme(offered)?.scheme();
        Some(Box::new(SilentSigner { scheme, unresumed: self.unresumed.clone() }))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.key.algorithm()
    }
}

#[derive(Debug)]
struct SilentSigner {
    scheme: SignatureScheme,
    unresumed: Unresumed,
}

impl Signer for SilentSigner {
    fn sign(&self, _message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        self.unresumed.0.store(true, Ordering::Relaxed);
        Err(rustls::Error::General(
            "the data connection does not resume the control connection's session".into(),
        ))
    }

    fn scheme(&self) -> SignatureScheme {
        self.scheme
    }
}

/// TLS sessions that can be resumed, by what names them: session id or ticket.
#[derive(Debug, Default)]
struct Remembered(Mutex<VecDeque<(Vec<u8>, Vec<u8>)>>);

impl StoresServerSessions for Remembered {
    fn put(&self, name: Vec<u8>, session: Vec<u8>) -> bool {
        let mut sessions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if sessions.len() >= REMEMBERED {
            sessions.remove(STAY);
        }
        sessions.push_back((name, session));
        true
    }

    fn get(&self, name: &[u8]) -> Option<Vec<u8>> {
        let sessions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.iter().find(|(known, _)| known == name).map(|(_, session)| session.clone())
    }

    /// Leaves it there: FileZilla and others resume the same session for every transfer.
    fn take(&self, name: &[u8]) -> Option<Vec<u8>> {
        self.get(name)
    }

    fn can_cache(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_sessions_stay_and_the_number_is_bounded() {
        let remembered = Remembered::default();
        for number in 0..1000_u16 {
            remembered.put(number.to_be_bytes().into(), vec![1]);
        }
        let known = |number: u16| remembered.take(&number.to_be_bytes()).is_some();
        assert!((0..STAY as u16).all(known), "the control connection's");
        assert!((1000 - REMEMBERED as u16 + STAY as u16..1000).all(known), "the last ones");
        assert!(!known(STAY as u16) && !known(900));
        assert_eq!(remembered.0.lock().unwrap().len(), REMEMBERED);
    }
}
