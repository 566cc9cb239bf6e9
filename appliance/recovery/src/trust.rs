//! Who the server is: by the hash of its public key, which whoever restores compares before the password is sent.

use std::io;
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

pub use api::Fingerprint;
use api::tls::TlsTrouble;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, OtherError, SignatureScheme,
};

use crate::Failure;

/// How long one address of the server may take to answer.
pub(crate) const CONNECT_PATIENCE: Duration = Duration::from_secs(15);
/// Between two attempts.
const PAUSE: Duration = Duration::from_secs(1);
/// How long an established connection may be silent.
pub(crate) const SILENCE: Duration = Duration::from_secs(60);

/// What a server shows of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// The key's hash.
    pub fingerprint: Fingerprint,
    /// The certificate, PEM: what [`api::Client`] pins.
    pub certificate: String,
}

/// Asks the machine behind `host` (IPv4, IPv6 or name) and `port`, which speaks TLS there, who it is. Nothing is sent
/// but the handshake.
///
/// # Errors
/// [`Failure::Unreachable`]
pub fn look(host: &str, port: u16) -> Result<Shown, Failure> {
    let endpoint = api::endpoint(host, port);
    let unreachable = |cause: String| Failure::Unreachable { endpoint: endpoint.clone(), cause };
    let seen = Arc::new(Mutex::new(None));
    let config = config(None, Some(Arc::clone(&seen))).map_err(|error| unreachable(error.to_string()))?;
    let name = ServerName::try_from(api::SERVER_NAME).map_err(|error| unreachable(error.to_string()))?;
    let mut tls =
        ClientConnection::new(Arc::new(config), name).map_err(|error| unreachable(error.to_string()))?;
    let mut stream = first_contact(host, port).map_err(|error| unreachable(error.to_string()))?;
    while tls.is_handshaking() {
        tls.complete_io(&mut stream).map_err(|error| without_tls(&endpoint, &error))?;
    }
    let certificate = seen.lock().unwrap_or_else(PoisonError::into_inner).take();
    let certificate = certificate.ok_or_else(|| unreachable("it showed no certificate".into()))?;
    let fingerprint = Fingerprint::of(&certificate).map_err(|error| unreachable(error.to_string()))?;
    Ok(Shown { fingerprint, certificate: pem(&certificate) })
}

/// Why TLS with the server did not come about; which key it has is another matter.
pub(crate) fn without_tls(endpoint: &str, error: &io::Error) -> Failure {
    let endpoint = endpoint.to_owned();
    match TlsTrouble::find(error) {
        Some(TlsTrouble::Certificate(cause)) => Failure::Untrusted { endpoint, cause },
        Some(TlsTrouble::Handshake(cause)) => Failure::Unreachable { endpoint, cause },
        None => Failure::Unreachable { endpoint, cause: error.to_string() },
    }
}

/// [`connect`], which tries again for a while when there is no way: right after a boot the network is still coming up.
fn first_contact(host: &str, port: u16) -> io::Result<TcpStream> {
    let begun = Instant::now();
    loop {
        match connect(host, port) {
            Err(error) if has_no_way(error.kind()) && begun.elapsed() < CONNECT_PATIENCE => {
                thread::sleep(PAUSE)
            }
            done => return done,
        }
    }
}

fn has_no_way(error: io::ErrorKind) -> bool {
    use io::ErrorKind::{HostUnreachable, NetworkDown, NetworkUnreachable};
    [HostUnreachable, NetworkDown, NetworkUnreachable].contains(&error)
}

/// A connection to the first address of `host` that takes one, with time limits.
pub(crate) fn connect(host: &str, port: u16) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in (host, port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECT_PATIENCE) {
            Ok(stream) => {
                limit(&stream)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Gives a connection its time limits.
pub(crate) fn limit(stream: &TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(SILENCE))?;
    stream.set_write_timeout(Some(SILENCE))?;
    stream.set_nodelay(true)
}

/// TLS with a server that must have this key.
pub(crate) fn pinned(expected: Fingerprint) -> Result<ClientConfig, rustls::Error> {
    config(Some(expected), None)
}

type Seen = Arc<Mutex<Option<CertificateDer<'static>>>>;

fn config(expected: Option<Fingerprint>, seen: Option<Seen>) -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(ring::default_provider());
    let verifier = Arc::new(Key { expected, seen, provider: Arc::clone(&provider) });
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
}

/// Accepts a certificate by its key alone: no authority stands behind it. That the server has the private key is checked
/// as always.
#[derive(Debug)]
struct Key {
    expected: Option<Fingerprint>,
    seen: Option<Seen>,
    provider: Arc<CryptoProvider>,
}

/// In an error of TLS: another key.
#[derive(Debug, thiserror::Error)]
#[error("it shows the key {0}")]
struct Other(Fingerprint);

/// The other key that made TLS fail, if that was it.
pub(crate) fn other_key(error: &io::Error) -> Option<Fingerprint> {
    match error.get_ref()?.downcast_ref::<rustls::Error>()? {
        rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(cause))) => {
            cause.downcast_ref::<Other>().map(|other| other.0)
        }
        _ => None,
    }
}

impl ServerCertVerifier for Key {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let shown = Fingerprint::of(certificate)?;
        if let Some(seen) = &self.seen {
            *seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(certificate.clone().into_owned());
        }
        if self.expected.is_some_and(|expected| expected != shown) {
            return Err(CertificateError::Other(OtherError(Arc::new(Other(shown)))).into());
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// A certificate as PEM (RFC 7468: lines of 64 characters).
fn pem(certificate: &CertificateDer<'_>) -> String {
    let mut text = "-----BEGIN CERTIFICATE-----\n".to_owned();
    let encoded: Vec<char> = STANDARD.encode(certificate).chars().collect();
    for line in encoded.chunks(64) {
        text.extend(line);
        text.push('\n');
    }
    text + "-----END CERTIFICATE-----\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_renewed_certificate_of_the_same_key_is_the_same_server() {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate =
            |name: &str| rcgen::CertificateParams::new([name.to_owned()]).unwrap().self_signed(&key).unwrap();
        let (old, new) = (certificate("backup-server"), certificate("renewed"));
        assert_ne!(old.der(), new.der());
        assert_eq!(Fingerprint::of(old.der()).unwrap(), Fingerprint::of(new.der()).unwrap());
        assert_eq!(pem(old.der()), old.pem().replace("\r\n", "\n"));
    }
}
