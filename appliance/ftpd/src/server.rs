//! Accepting connections and giving each the frame it runs in: a thread, a runtime, limits.
//!
//! A thread per session is the point, not a shortcut: dropping its runtime ends everything that libunftp has spawned
//! for it, which nothing else can do. With few sessions it costs nothing, and a transfer stays on one core.

use std::collections::HashMap;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use api::FtpSettings;
use auth::Verifier;
use libunftp::ServerBuilder;
use libunftp::options::{FtpsRequired, PassiveHost, SiteMd5, TlsFlags};
use rustix::net::sockopt;
use unftp_core::auth::DefaultUser;

use crate::backend::Backend;
use crate::catalog::Catalog;
use crate::login::Login;
use crate::pace::Pace;
use crate::ports::PassivePorts;
use crate::session::{Limits, Session};
use crate::socket;
use crate::unfinished::Unfinished;

/// libunftp's answer to a clear login is fixed, so the way out stands in the greeting.
const GREETING: &str =
    "InfiMONITOR Backup Server. Explicit TLS is required: AUTH TLS before USER, PROT P before transfers";
const GREETING_CLEAR: &str =
    "InfiMONITOR Backup Server. Clear FTP is allowed; AUTH TLS is available and better";

/// After a failure to accept (no descriptors left), before the next try.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// How often what lasts longer than a session is looked at.
const HOUSEKEEPING: Duration = Duration::from_secs(10);

/// Settings of the server.
#[derive(Debug, Clone)]
pub struct Config {
    /// Folder of the backups.
    pub backups: PathBuf,
    /// The certificate, PEM. Read for each session, so a new one needs no restart.
    pub certificate: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
    /// The password file of `auth`.
    pub password_file: PathBuf,
    /// Addresses to listen on. Port 0 lets the kernel choose.
    pub listen: Vec<SocketAddr>,
    /// Ports for data connections.
    pub passive_ports: RangeInclusive<u16>,
    /// What the console has set ([`FtpSettings`]). Read for each session, so a change needs no restart; where it cannot
    /// be read, nothing counts as set.
    pub settings: PathBuf,
    /// Limits of sessions.
    pub limits: Limits,
}

/// The server, listening.
#[derive(Debug)]
pub struct Server {
    listeners: Vec<TcpListener>,
    shared: Arc<Shared>,
}

/// What all sessions have in common.
#[derive(Debug)]
struct Shared {
    config: Config,
    verifier: Arc<Verifier>,
    passive_turn: Arc<AtomicUsize>,
    pace: Arc<Pace>,
    unfinished: Arc<Unfinished>,
    catalog: Catalog,
    sessions: Mutex<HashMap<IpAddr, usize>>,
}

impl Server {
    /// Listens. Fails at once on what would make every session fail.
    pub fn bind(config: Config) -> Result<Self> {
        ensure!(!config.passive_ports.is_empty(), "passive ports {:?} are none", config.passive_ports);
        let mut listeners = Vec::new();
        for address in &config.listen {
            match socket::listen(*address) {
                Ok(listener) => listeners.push(listener),
                Err(error)
                    if rustix::io::Errno::from_io_error(&error) == Some(rustix::io::Errno::AFNOSUPPORT) =>
                {
                    tracing::warn!("not listening on {address}: this system has no such addresses");
                }
                Err(error) => return Err(error).with_context(|| format!("cannot listen on {address}")),
            }
        }
        ensure!(!listeners.is_empty(), "there is no address to listen on");
        let verifier = Verifier::new(&config.password_file).context("cannot prepare the password check")?;
        if let Err(error) = verifier.check() {
            tracing::error!("nobody can log in: {error}"); // the file may still come; until then say why
        }
        let shared = Shared {
            catalog: Catalog::new(&config.backups),
            config,
            verifier: Arc::new(verifier),
            passive_turn: Arc::default(),
            pace: Arc::default(),
            unfinished: Arc::default(),
            sessions: Mutex::default(),
        };
        shared.ftp(&Arc::new(Session::begin()))?;
        Ok(Self { listeners, shared: Arc::new(shared) })
    }

    /// Where it listens.
    pub fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        self.listeners.iter().map(TcpListener::local_addr).collect()
    }

    /// Serves until the process ends.
    pub fn run(self) {
        let Self { listeners, shared } = self;
        thread::scope(|scope| {
            for listener in &listeners {
                scope.spawn(|| accept(listener, &shared));
            }
            loop {
                thread::sleep(HOUSEKEEPING);
                shared.unfinished.let_go(Instant::now());
                shared.pace.set(shared.settings().bytes_per_second);
            }
        });
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    loop {
        match listener.accept() {
            Ok((stream, from)) => start(stream, from.ip(), shared),
            Err(error) => {
                tracing::warn!("cannot accept a connection: {error}");
                thread::sleep(ACCEPT_PAUSE);
            }
        }
    }
}

fn start(mut stream: TcpStream, from: IpAddr, shared: &Arc<Shared>) {
    let Some(place) = Place::take(shared, from) else {
        tracing::warn!("{from}: refused, too many sessions");
        // A new connection's send buffer takes this at once; should the client be gone, so be it.
        let _told = stream.write_all(b"421 Too many sessions; end one or try again in a minute\r\n");
        return;
    };
    let session_shared = Arc::clone(shared);
    let spawned = thread::Builder::new().name("session".into()).spawn(move || {
        if let Err(error) = serve(stream, from, &session_shared) {
            tracing::warn!("{from}: {error:#}");
        }
        drop(place);
    });
    if let Err(error) = spawned {
        tracing::error!("{from}: cannot start a session: {error}");
    }
}

/// Runs one session to its end.
fn serve(stream: TcpStream, from: IpAddr, shared: &Shared) -> Result<()> {
    let control = stream.try_clone().context("cannot watch the connection")?;
    stream.set_nonblocking(true).context("cannot prepare the connection")?;
    sockopt::set_tcp_nodelay(&stream, true)?;
    // The control connection is silent during a transfer: keep NAT on the way from forgetting it.
    sockopt::set_socket_keepalive(&stream, true)?;
    sockopt::set_tcp_keepidle(&stream, Duration::from_secs(60))?;
    let session = Arc::new(Session::begin());
    let ftp = shared.ftp(&session)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ended = runtime.block_on(async {
        let stream = tokio::net::TcpStream::from_std(stream)?;
        tokio::select! {
            result = ftp.service(stream) => result.map(|()| None).map_err(io::Error::other),
            reason = session.watch(&control, &shared.config.limits) => Ok(Some(reason)),
        }
    });
    // Without waiting: a thread stuck in reading a disk must not keep the session's place.
    runtime.shutdown_background();
    if let Some(reason) = ended? {
        tracing::warn!("{from}: session ended: {reason}");
    }
    Ok(())
}

impl Shared {
    /// libunftp, set up for one session.
    fn ftp(&self, session: &Arc<Session>) -> Result<libunftp::Server<Backend, DefaultUser>> {
        let Config { certificate, key, limits, .. } = &self.config;
        let FtpSettings { allow_clear, passive_address, bytes_per_second } = self.settings();
        self.pace.set(bytes_per_second);
        let (catalog, stall) = (self.catalog.clone(), limits.stall);
        let shared = (Arc::clone(session), Arc::clone(&self.pace), Arc::clone(&self.unfinished));
        let backend = move || {
            let (session, pace, unfinished) = shared.clone();
            Backend::new(catalog.clone(), session, stall, pace, unfinished)
        };
        let login = Login::new(Arc::clone(&self.verifier), Arc::clone(session), allow_clear);
        let ports = PassivePorts::new(Arc::clone(&self.passive_turn), Arc::clone(session), allow_clear);
        let required = if allow_clear { FtpsRequired::None } else { FtpsRequired::All };
        ServerBuilder::with_authenticator(Box::new(backend), Arc::new(login))
            .greeting(if allow_clear { GREETING_CLEAR } else { GREETING })
            .ftps(certificate, key)
            .ftps_required(required, required)
            // libunftp leaves TLS 1.3 out for a client's fault with uploads; there are none.
            .ftps_tls_flags(
                TlsFlags::LATEST_VERSIONS | TlsFlags::RESUMPTION_SESS_ID | TlsFlags::RESUMPTION_TICKETS,
            )
            .passive_ports(self.config.passive_ports.clone())
            .passive_host(passive_address.map_or(PassiveHost::FromConnection, PassiveHost::Ip))
            .binder(ports)
            .idle_session_timeout(limits.idle.as_secs())
            .sitemd5(SiteMd5::None)
            .build()
            .map_err(anyhow::Error::from)
            .with_context(|| format!("cannot use {} with {}", certificate.display(), key.display()))
    }

    /// What the console has set.
    fn settings(&self) -> FtpSettings {
        FtpSettings::read(&self.config.settings).unwrap_or_else(|error| {
            tracing::error!("{} is ignored: {error}", self.config.settings.display());
            FtpSettings::default()
        })
    }

    fn sessions(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A session's place among those allowed; dropping it frees it.
#[derive(Debug)]
struct Place {
    shared: Arc<Shared>,
    network: IpAddr,
}

impl Place {
    fn take(shared: &Arc<Shared>, from: IpAddr) -> Option<Self> {
        let network = network(from);
        let mut sessions = shared.sessions();
        let limits = &shared.config.limits;
        let (all, here) = (sessions.values().sum::<usize>(), sessions.get(&network).copied().unwrap_or(0));
        if all >= limits.sessions || here >= limits.sessions_per_address {
            return None;
        }
        sessions.insert(network, here + 1);
        drop(sessions);
        Some(Self { shared: Arc::clone(shared), network })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut sessions = self.shared.sessions();
        if let Some(count) = sessions.get_mut(&self.network) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                sessions.remove(&self.network);
            }
        }
    }
}

/// What counts as one address: hosts choose freely within an IPv6 /64.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => Ipv6Addr::from(u128::from(address) & !u128::from(u64::MAX)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv6_network_counts_as_one_address() {
        for (address, expected) in
            [("192.0.2.7", "192.0.2.7"), ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"), ("::1", "::")]
        {
            assert_eq!(network(address.parse().unwrap()), expected.parse::<IpAddr>().unwrap());
        }
    }
}
