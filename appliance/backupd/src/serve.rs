//! Accepting connections: who gets in is decided by [`crate::gate`], how long it stays by [`crate::connection`].
//!
//! Each connection is a task: TLS, then HTTP/1.1, watched all the time. Whatever ends the task frees the descriptor and
//! the place. There is always a place for a newcomer; accepting pauses only until those have gone that were told to.

use crate::connection::{Connection, Deadlines, Watched, Why, lock};
use crate::gate::{Gate, Limits};
use anyhow::{Context as _, Result};
use auth::Verifier;
use auth::crowd::{Guest, Number};
use auth::throttle::group;
use axum::Router;
use axum::extract::ConnectInfo;
use hyper::body::Incoming;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tokio_rustls::TlsAcceptor;

/// How often a connection is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// After a failure to accept (no descriptors left), before the next try.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// Sockets at most: the places, and connections that are about to end.
const MOST_SOCKETS: usize = 256;
/// Time for requests under way when the daemon is stopped.
const GRACE: Duration = Duration::from_secs(5);
/// Bytes of a request's header, and of an answer that wait to be sent beside its body.
const HEADER_MAX: usize = 32 * 1024;

/// The door of the control API.
#[derive(Debug)]
pub struct Door {
    gate: Arc<Mutex<Gate>>,
    /// Closes the connections.
    closers: Mutex<HashMap<Number, oneshot::Sender<()>>>,
    /// The paired monitor's addresses.
    reserved: Mutex<Vec<IpAddr>>,
    verifier: Arc<Verifier>,
    deadlines: Deadlines,
}

impl Door {
    /// A door with nobody in it.
    pub fn new(verifier: Arc<Verifier>) -> Self {
        Self {
            gate: Arc::new(Mutex::new(Gate::new(Limits::default()))),
            closers: Mutex::default(),
            reserved: Mutex::default(),
            verifier,
            deadlines: Deadlines::default(),
        }
    }

    /// Keeps places for these addresses.
    pub fn reserve(&self, addresses: Vec<IpAddr>) {
        *lock(&self.reserved) = addresses;
    }

    /// How long a client may take.
    pub fn deadlines(&self) -> Deadlines {
        self.deadlines
    }

    /// Closes a connection.
    pub fn close(&self, number: Number) {
        if let Some(closer) = lock(&self.closers).remove(&number) {
            // It may have ended by itself.
            closer.send(()).unwrap_or_default();
        }
    }

    /// Gives a newcomer a place, closing another connection where that is needed.
    fn admit(&self, from: SocketAddr) -> (Arc<Connection>, oneshot::Receiver<()>) {
        let address = from.ip().to_canonical();
        let reserved = lock(&self.reserved).contains(&address);
        let known = reserved || self.verifier.is_known(address);
        let failures = self.verifier.failures(address);
        let guest = Guest { source: group(address), known, failures };
        let entered = lock(&self.gate).enter(guest);
        let connection = Arc::new(Connection::new(from, entered.number, reserved, Arc::clone(&self.gate)));
        let (closer, closed) = oneshot::channel();
        lock(&self.closers).insert(entered.number, closer);
        if let Some(number) = entered.closes {
            self.close(number);
        }
        (connection, closed)
    }
}

/// What TLS needs of the folder with certificate and key.
///
/// # Errors
/// They cannot be read or do not belong together.
pub fn tls(folder: &Path) -> Result<Arc<ServerConfig>> {
    let problem = || format!("cannot use the certificate and key in {}", folder.display());
    let certificates = CertificateDer::pem_file_iter(folder.join("certificate.pem"))
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .with_context(problem)?;
    let key = PrivateKeyDer::from_pem_file(folder.join("key.pem")).with_context(problem)?;
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(certificates, key);
    let mut config = config.with_context(problem)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Serves until `stop` says so, and then until what is under way has ended, at most for [`GRACE`].
pub async fn run(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    router: Router,
    door: Arc<Door>,
    mut stop: watch::Receiver<bool>,
) {
    let router = TowerToHyperService::new(router);
    let acceptor = TlsAcceptor::from(tls);
    let until = stop.clone();
    let sockets = Arc::new(Semaphore::new(MOST_SOCKETS));
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &sockets) => accepted,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        match accepted {
            Ok((socket, stream, from)) => {
                let (connection, closed) = door.admit(from);
                let (router, acceptor) = (router.clone(), acceptor.clone());
                let (door, until) = (Arc::clone(&door), until.clone());
                tokio::spawn(async move {
                    let number = connection.number();
                    if let Some(why) = serve(stream, connection, closed, acceptor, router, &door, until).await
                    {
                        tracing::warn!("{}: connection closed: {why}", from.ip().to_canonical());
                    }
                    lock(&door.closers).remove(&number);
                    drop(socket);
                });
            }
            Err(error) => {
                tracing::warn!("cannot accept a connection: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    let deadline = Instant::now() + GRACE;
    while lock(&door.gate).len() > 0 && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The next connection, with its share of the descriptors.
async fn accept(
    listener: &TcpListener,
    sockets: &Arc<Semaphore>,
) -> io::Result<(OwnedSemaphorePermit, TcpStream, SocketAddr)> {
    let socket = Arc::clone(sockets).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, from) = listener.accept().await?;
    Ok((socket, stream, from))
}

/// Runs one connection to its end; gives why it was ended, if that deserves a word.
async fn serve(
    stream: TcpStream,
    connection: Arc<Connection>,
    mut closed: oneshot::Receiver<()>,
    acceptor: TlsAcceptor,
    router: TowerToHyperService<Router>,
    door: &Door,
    mut stop: watch::Receiver<bool>,
) -> Option<Why> {
    // A lost packet costs more than a small one.
    stream.set_nodelay(true).unwrap_or_else(|error| tracing::debug!("no TCP_NODELAY: {error}"));
    let handshake = acceptor.accept(Watched::new(stream, Arc::clone(&connection)));
    let stream = tokio::select! {
        stream = tokio::time::timeout(door.deadlines.login, handshake) => match stream {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                tracing::debug!("{}: no TLS handshake: {error}", connection.from.ip());
                return None;
            }
            Err(_) => return Some(Why::NoLogin),
        },
        _ = &mut closed => return Some(Why::ForAnother),
        _ = stop.wait_for(|stop| *stop) => return None,
    };
    let (from, requests) = (connection.from, Arc::clone(&connection));
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(from));
        request.extensions_mut().insert(Arc::clone(&requests));
        router.call(request)
    });
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).max_buf_size(HEADER_MAX).header_read_timeout(door.deadlines.idle);
    let served = http.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(served);
    let mut stopping = false;
    loop {
        tokio::select! {
            result = served.as_mut() => {
                if let Err(error) = result {
                    tracing::debug!("{}: {error}", connection.from.ip());
                }
                return None;
            }
            _ = &mut closed => return Some(Why::ForAnother),
            _ = stop.wait_for(|stop| *stop), if !stopping => {
                stopping = true;
                served.as_mut().graceful_shutdown();
            }
            () = tokio::time::sleep(LOOK) => {
                match connection.verdict(&door.deadlines, door.verifier.version()) {
                    None => {}
                    // A client that has done its work and keeps the connection is no news.
                    Some(Why::Idle) => return None,
                    Some(why) => return Some(why),
                }
            }
        }
    }
}
