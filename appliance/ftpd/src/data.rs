//! Data connections: the right one is found among all that come, and what libunftp sends goes through it.
//!
//! Accepting goes on until a connection has shown that it is the client's: it comes from the address of the control
//! connection and, with TLS, resumes the TLS session of that ([`crate::tls`]). All others are closed and cost nobody
//! anything. Many handshakes may be under way at once, so a stranger who connects first and stays silent keeps
//! nobody waiting.
//!
//! In clear there is only the address to go by, so whoever shares it with the client can still take its place.

use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::{HandshakeKind, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::{AbortHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use crate::lines::Stream;
use crate::session::Session;

/// A data connection that is the client's.
pub(crate) type DataStream = Box<dyn Stream>;

/// Handshakes at once for one offered port. One more ends the oldest.
const CANDIDATES: usize = 32;
/// After a failure to accept (no descriptors left), before the next try.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// What a data connection must show.
#[derive(Debug, Clone)]
pub(crate) enum Proof {
    /// It resumes a TLS session of the control connection.
    Resumed(Arc<ServerConfig>),
    /// Its address, and a TLS handshake.
    Handshake(Arc<ServerConfig>),
    /// Its address alone: nothing is protected.
    Address,
}

impl Proof {
    /// What a session's next data connection must show.
    pub(crate) fn of(session: &Session) -> Self {
        match &session.client.tls {
            Some(tls) if session.is_protected() && session.client.unproven_allowed => {
                Self::Handshake(Arc::clone(&tls.control))
            }
            Some(tls) if session.is_protected() => Self::Resumed(tls.resumed_only(&session.unresumed)),
            _ => Self::Address,
        }
    }
}

/// Serves one offered port: finds the data connection for whoever takes it from the session, and sends through it
/// what libunftp writes to its own, `inner`.
pub(crate) async fn serve(
    listener: TcpListener,
    (found, delivered): (oneshot::Sender<DataStream>, oneshot::Sender<bool>),
    inner: TcpStream,
    session: Arc<Session>,
    (stall, patience): (Duration, Duration),
) {
    let find = async {
        let stream = right_one(listener, session.client.address, Proof::of(&session)).await;
        // Not sent where its command has failed in the meantime: dropped, it is closed.
        let _sent = found.send(stream);
        std::future::pending::<()>().await;
    };
    let send = async {
        let complete = pump(inner, &session, stall, patience).await;
        if let Err(error) = &complete
            && error.kind() != io::ErrorKind::ConnectionAborted
        {
            tracing::warn!("{}: a listing did not arrive: {error}", session.client.address);
        }
        // Nobody asks where the command has failed.
        let _told = delivered.send(complete.is_ok());
    };
    // Once everything is sent, or nothing is to be, nobody is waited for any more.
    tokio::select! {
        () = find => {}
        () = send => {}
    }
}

/// Accepts until the right one has come.
async fn right_one(listener: TcpListener, client: IpAddr, proof: Proof) -> DataStream {
    let mut candidates = JoinSet::new();
    let mut handles: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let (stream, from) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!("cannot accept a data connection: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
            Some(proven) = candidates.join_next() => match proven {
                Ok(Ok(stream)) => return stream,
                // It broke off, or it was a stranger: the right one is still to come.
                Ok(Err(_)) | Err(_) => continue,
            },
        };
        if from.ip() != client || stream.set_nodelay(true).is_err() {
            continue;
        }
        if matches!(proof, Proof::Address) {
            return Box::new(stream);
        }
        handles.retain(|handle| !handle.is_finished());
        if handles.len() >= CANDIDATES
            && let Some(oldest) = handles.pop_front()
        {
            oldest.abort();
        }
        handles.push_back(candidates.spawn(prove(stream, proof.clone())));
    }
}

/// The connection once it has shown what it must.
async fn prove(stream: TcpStream, proof: Proof) -> io::Result<DataStream> {
    let (config, resumed) = match proof {
        Proof::Resumed(config) => (config, true),
        Proof::Handshake(config) => (config, false),
        Proof::Address => return Ok(Box::new(stream)),
    };
    let stream = TlsAcceptor::from(config).accept(stream).await?;
    if resumed && stream.get_ref().1.handshake_kind() != Some(HandshakeKind::Resumed) {
        return Err(io::ErrorKind::PermissionDenied.into()); // its handshake cannot have ended; never rely on one check
    }
    Ok(Box::new(stream))
}

/// Sends what libunftp writes. A file does not come this way: the backend sends it itself, to the same connection.
async fn pump(
    mut inner: TcpStream,
    session: &Session,
    stall: Duration,
    patience: Duration,
) -> io::Result<()> {
    let sent = tokio::select! {
        sent = send_on(&mut inner, session, stall, patience) => sent,
        () = session.aborted() => Err(io::ErrorKind::ConnectionAborted.into()),
    };
    if sent.is_err() {
        // libunftp answers only once it has written everything.
        tokio::io::copy(&mut inner, &mut tokio::io::sink()).await?;
    }
    sent
}

async fn send_on(
    inner: &mut TcpStream,
    session: &Session,
    stall: Duration,
    patience: Duration,
) -> io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    let mut count = inner.read(&mut buffer).await?;
    let Some(data) = session.take_data() else { return Ok(()) };
    if count == 0 {
        session.data_connection_settled(); // an empty listing, or a command that failed
    }
    let mut stream = match tokio::time::timeout(patience, data).await {
        Ok(Ok(stream)) => stream,
        _ if count == 0 => return Ok(()),
        _ => return Err(io::ErrorKind::NotConnected.into()),
    };
    session.data_connection_settled();
    while count > 0 {
        within(stall, stream.write_all(&buffer[..count])).await?;
        session.used();
        count = inner.read(&mut buffer).await?;
    }
    within(stall, stream.shutdown()).await
}

/// Does something that depends on what the other side takes.
pub(crate) async fn within<T>(time: Duration, action: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(time, action).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
