//! Client of the control API: blocking, with the server's certificate pinned.
//!
//! The certificate names `backup-server` and not an address (design D14), so the client asks for that name and
//! resolves it to the address it was given; the pinned certificate is the only trust anchor. A server that moves or
//! gets another address keeps its identity; another machine at the same address does not get the password.

use crate::tls::TlsTrouble;
use crate::{
    Backup, BackupList, CONTROL_PORT, CreateBackup, ErrorBody, EventList, Peer, PeerInfo, RotationPlan,
    SERVER_NAME, SetComment, SetPin, Settings, Status, USER, VerifyBackup,
};
use serde::{Serialize, de::DeserializeOwned};
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;
use ureq::http::Uri;
use ureq::tls::{Certificate, RootCerts, TlsConfig, TlsProvider};
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};

/// Longest time for one call; a backup is made within it.
const CALL_TIMEOUT: Duration = Duration::from_secs(120);

/// What went wrong with a call.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The server answered with an error.
    #[error("backup server {endpoint}: {message} (HTTP {status})")]
    Refused {
        /// `address:port`
        endpoint: String,
        /// HTTP status code.
        status: u16,
        /// The server's sentence.
        message: String,
        /// Seconds until it may be tried again, where the server says so.
        retry_after: Option<u64>,
    },
    /// It answers, and its certificate is not accepted.
    #[error("backup server {endpoint} answers, but {cause}")]
    Untrusted {
        /// `address:port`
        endpoint: String,
        /// What is wrong with its certificate, and the way out.
        cause: String,
    },
    /// No answer.
    #[error("backup server {endpoint}: {cause}")]
    NoAnswer {
        /// `address:port`
        endpoint: String,
        /// What the transport says.
        cause: String,
    },
}

/// Connection data of one backup server.
#[derive(Debug)]
pub struct Client {
    agent: ureq::Agent,
    endpoint: String,
    authorization: String,
}

impl Client {
    /// A client for the server at `address` (IPv4, IPv6 or name) and `port`, which must show `certificate` (PEM).
    ///
    /// # Errors
    /// [`ClientError::NoAnswer`] where the name cannot be resolved or the certificate is not one.
    pub fn new(address: &str, port: u16, certificate: &str, password: &str) -> Result<Self, ClientError> {
        let endpoint = crate::peer::endpoint(address, port);
        let no_answer = |cause: String| ClientError::NoAnswer { endpoint: endpoint.clone(), cause };
        let resolved: Vec<SocketAddr> = (address, port)
            .to_socket_addrs()
            .map_err(|error| no_answer(format!("cannot resolve {address}: {error}")))?
            .collect();
        let certificate = Certificate::from_pem(certificate.as_bytes())
            .map_err(|error| no_answer(format!("the pinned certificate cannot be read: {error}")))?
            .to_owned();
        let tls = TlsConfig::builder()
            .provider(TlsProvider::Rustls)
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .root_certs(RootCerts::new_with_certs(&[certificate]))
            .build();
        let config = ureq::Agent::config_builder()
            .tls_config(tls)
            .timeout_global(Some(CALL_TIMEOUT))
            .http_status_as_error(false)
            .proxy(None)
            .build();
        let agent = ureq::Agent::with_parts(config, DefaultConnector::default(), FixedResolver(resolved));
        let authorization = format!("Basic {}", base64(&format!("{USER}:{password}")));
        Ok(Self { agent, endpoint, authorization })
    }

    /// `GET /v1/status`
    pub fn status(&self) -> Result<Status, ClientError> {
        self.get("/v1/status")
    }

    /// Whether the API answers at all: it asks for a password, and none is sent, so that none counts as wrong.
    pub fn answers(&self) -> Result<(), ClientError> {
        match self.read::<Status>(self.agent.get(url("/v1/status")).call()) {
            Err(ClientError::Refused { status: 401, .. }) => Ok(()),
            other => other.map(drop),
        }
    }

    /// `PUT /v1/peer`
    pub fn pair(&self, peer: &Peer) -> Result<PeerInfo, ClientError> {
        self.put("/v1/peer", peer)
    }

    /// `GET /v1/backups`
    pub fn backups(&self) -> Result<BackupList, ClientError> {
        self.get("/v1/backups")
    }

    /// `POST /v1/backups`
    pub fn create_backup(&self, request: &CreateBackup) -> Result<Backup, ClientError> {
        self.post("/v1/backups", request)
    }

    /// `GET /v1/backups/{id}`
    pub fn backup(&self, id: &str) -> Result<Backup, ClientError> {
        self.get(&format!("/v1/backups/{id}"))
    }

    /// `PUT /v1/backups/{id}/pin`
    pub fn set_pin(&self, id: &str, request: SetPin) -> Result<Backup, ClientError> {
        self.put(&format!("/v1/backups/{id}/pin"), &request)
    }

    /// `PUT /v1/backups/{id}/comment`
    pub fn set_comment(&self, id: &str, request: &SetComment) -> Result<Backup, ClientError> {
        self.put(&format!("/v1/backups/{id}/comment"), request)
    }

    /// `POST /v1/backups/{id}/verify`
    pub fn verify_backup(&self, id: &str) -> Result<Backup, ClientError> {
        self.post(&format!("/v1/backups/{id}/verify"), &VerifyBackup {})
    }

    /// `GET /v1/settings`
    pub fn settings(&self) -> Result<Settings, ClientError> {
        self.get("/v1/settings")
    }

    /// `PUT /v1/settings`
    pub fn set_settings(&self, settings: &Settings) -> Result<Settings, ClientError> {
        self.put("/v1/settings", settings)
    }

    /// `GET /v1/rotation/plan`
    pub fn rotation_plan(&self) -> Result<RotationPlan, ClientError> {
        self.get("/v1/rotation/plan")
    }

    /// `GET /v1/events`, those after number `after`
    pub fn events(&self, after: Option<u64>) -> Result<EventList, ClientError> {
        self.get(&after.map_or("/v1/events".into(), |after| format!("/v1/events?after={after}")))
    }

    fn put<B: Serialize, T: DeserializeOwned>(&self, path: &str, body: &B) -> Result<T, ClientError> {
        self.read(self.agent.put(url(path)).header("Authorization", &self.authorization).send_json(body))
    }

    fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.read(self.agent.get(url(path)).header("Authorization", &self.authorization).call())
    }

    fn post<B: Serialize, T: DeserializeOwned>(&self, path: &str, body: &B) -> Result<T, ClientError> {
        self.read(self.agent.post(url(path)).header("Authorization", &self.authorization).send_json(body))
    }

    fn read<T: DeserializeOwned>(
        &self,
        answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
    ) -> Result<T, ClientError> {
        let no_answer = |cause: String| ClientError::NoAnswer { endpoint: self.endpoint.clone(), cause };
        let mut answer = answer.map_err(|error| self.failed(&error))?;
        let status = answer.status();
        if !status.is_success() {
            let retry_after = answer.headers().get("retry-after");
            let retry_after = retry_after.and_then(|seconds| seconds.to_str().ok()?.parse().ok());
            let text = answer.body_mut().read_to_string().map_err(|error| no_answer(error.to_string()))?;
            let message = serde_json::from_str::<ErrorBody>(&text).map_or(text, |body| body.error);
            return Err(ClientError::Refused {
                endpoint: self.endpoint.clone(),
                status: status.as_u16(),
                message,
                retry_after,
            });
        }
        answer.body_mut().read_json().map_err(|error| no_answer(format!("unreadable answer: {error}")))
    }
}

impl Client {
    /// What it means that a call gave no answer.
    fn failed(&self, error: &ureq::Error) -> ClientError {
        let endpoint = self.endpoint.clone();
        let tls = match error {
            ureq::Error::Rustls(error) => Some(TlsTrouble::of(error)),
            ureq::Error::Io(error) => TlsTrouble::find(error),
            _ => None,
        };
        match tls {
            Some(TlsTrouble::Certificate(cause)) => ClientError::Untrusted { endpoint, cause },
            Some(TlsTrouble::Handshake(cause)) => ClientError::NoAnswer { endpoint, cause },
            None => ClientError::NoAnswer { endpoint, cause: error.to_string() },
        }
    }
}

fn url(path: &str) -> String {
    format!("https://{SERVER_NAME}:{CONTROL_PORT}{path}")
}

fn base64(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}

/// Answers every name with the addresses that the client was made for.
#[derive(Debug)]
struct FixedResolver(Vec<SocketAddr>);

impl Resolver for FixedResolver {
    fn resolve(
        &self,
        _uri: &Uri,
        _config: &ureq::config::Config,
        _timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let mut addresses = self.empty();
        for address in self.0.iter().take(16) {
            addresses.push(*address);
        }
        if addresses.is_empty() { Err(ureq::Error::HostNotFound) } else { Ok(addresses) }
    }
}
