//! TLS towards the monitor's PostgreSQL: exactly the key that the pairing named (design D13), whatever the name and dates
//! of its certificate, which may be renewed.

use api::tls::TlsTrouble;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use std::sync::{Arc, OnceLock};

#[derive(Debug)]
struct Pinned {
    key: SubjectPublicKeyInfoDer<'static>,
    provider: Arc<CryptoProvider>,
    shown: Shown,
}

/// The certificate that the monitor has shown and that was accepted, once it has.
pub type Shown = Arc<OnceLock<CertificateDer<'static>>>;

/// A client configuration that accepts only the key of `certificate` (PEM; the first, if there are several), and keeps
/// the certificate in `shown`.
///
/// # Errors
/// Text that is no certificate.
pub fn client_config(certificate: &str, shown: Shown) -> anyhow::Result<ClientConfig> {
    let certificate = CertificateDer::from_pem_slice(certificate.as_bytes())
        .map_err(|error| anyhow::anyhow!("the monitor's certificate is no PEM certificate: {error}"))?;
    // Said here, or every handshake would fail with less to go by.
    let parsed = ParsedCertificate::try_from(&certificate).map_err(|error| {
        anyhow::anyhow!("the monitor's certificate cannot be used: {}", TlsTrouble::of(&error).words())
    })?;
    let provider = Arc::new(ring::default_provider());
    let verifier = Pinned { key: parsed.subject_public_key_info(), provider: Arc::clone(&provider), shown };
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth())
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if ParsedCertificate::try_from(end_entity)?.subject_public_key_info() == self.key {
            self.shown.get_or_init(|| end_entity.clone().into_owned());
            Ok(ServerCertVerified::assertion())
        } else {
            Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
