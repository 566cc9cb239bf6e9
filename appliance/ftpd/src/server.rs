//! Accepting connections, their login, and the frame that each session runs in: a thread, a runtime, limits.
//!
//! A thread per session is the point, not a shortcut: dropping its runtime ends everything that libunftp has spawned
//! for it, which nothing else can do. With few sessions it costs nothing, and a transfer stays on one core. All control
//! connections, and those that have not logged in, are tasks of one runtime, which runs no code of libunftp.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use api::FtpSettings;
use auth::Verifier;
use auth::crowd::{self, Guest};
use auth::throttle::group;
use libunftp::ServerBuilder;
use libunftp::options::SiteMd5;
use rustix::net::sockopt;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use unftp_core::auth::DefaultUser;

use crate::backend::Backend;
use crate::catalog::Catalog;
use crate::commands::Known;
use crate::control::{self, LoggedIn};
use crate::lines::Lines;
use crate::login::{self, AlreadyLoggedIn};
use crate::pace::Pace;
use crate::places::{Number, Places};
use crate::ports::PassivePorts;
use crate::session::{Client, Limits, Session};
use crate::socket;
use crate::tls::Tls;
use crate::unfinished::Unfinished;
use crate::waiting::{Waiting, WaitingPlace};

/// After a failure to accept (no descriptors left), before the next try.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// Passwords that are checked or wait for it: more than `auth` lets wait, so that those it answers at once find a
/// thread.
const BLOCKING_THREADS: usize = 64;
/// Sessions that may be about to end beside those that have a place.
const MOST_ENDING: usize = 8;
/// How long a login waits for one of those to end.
const ENDING: Duration = Duration::from_secs(5);
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
    runtime: Runtime,
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
    waiting: Arc<Waiting>,
    catalog: Catalog,
    sessions: Mutex<Sessions>,
    /// Threads of sessions, those that are about to end with them.
    threads: Arc<Semaphore>,
}

/// The sessions that have a place.
#[derive(Debug)]
struct Sessions {
    places: Places,
    here: HashMap<Number, Arc<Session>>,
}

impl Server {
    /// Listens. Fails at once on what would make every session fail.
    pub fn bind(config: Config) -> Result<Self> {
        let verifier = Verifier::new(&config.password_file).context("cannot prepare the password check")?;
        Self::bind_with(config, verifier)
    }

    /// The same with a verifier that counts failed logins together with the control API.
    pub fn bind_with(config: Config, verifier: Verifier) -> Result<Self> {
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
        if let Err(error) = verifier.check() {
            tracing::error!("nobody can log in: {error}"); // the file may still come; until then say why
        }
        let limits = &config.limits;
        let crowd = crowd::Limits {
            early: limits.waiting,
            known: limits.waiting_known,
            of_one: limits.waiting_per_address,
        };
        let places = Places::new(limits.sessions, limits.sessions_per_address);
        let shared = Shared {
            threads: Arc::new(Semaphore::new(limits.sessions + MOST_ENDING)),
            sessions: Mutex::new(Sessions { places, here: HashMap::new() }),
            waiting: Arc::new(Waiting::new(crowd)),
            catalog: Catalog::new(&config.backups),
            config,
            verifier: Arc::new(verifier),
            passive_turn: Arc::default(),
            pace: Arc::default(),
            unfinished: Arc::default(),
        };
        shared.tls()?;
        for listener in &listeners {
            listener.set_nonblocking(true)?;
        }
        let runtime =
            Builder::new_current_thread().enable_all().max_blocking_threads(BLOCKING_THREADS).build()?;
        Ok(Self { listeners, runtime, shared: Arc::new(shared) })
    }

    /// Where it listens.
    pub fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        self.listeners.iter().map(TcpListener::local_addr).collect()
    }

    /// Serves until the process ends.
    pub fn run(self) {
        let Self { listeners, runtime, shared } = self;
        runtime.block_on(async {
            for listener in listeners {
                match tokio::net::TcpListener::from_std(listener) {
                    Ok(listener) => drop(tokio::spawn(accept(listener, Arc::clone(&shared)))),
                    Err(error) => tracing::error!("cannot wait for connections: {error}"),
                }
            }
            loop {
                tokio::time::sleep(HOUSEKEEPING).await;
                let live: HashSet<u64> =
                    shared.sessions().here.values().map(|session| session.number).collect();
                shared.unfinished.let_go(Instant::now(), |session| live.contains(&session));
                shared.pace.set(shared.settings().bytes_per_second);
                let displaced = shared.waiting.take_displaced();
                if displaced > 0 {
                    tracing::warn!("{displaced} connections without a login ended for others");
                }
            }
        });
    }
}

async fn accept(listener: tokio::net::TcpListener, shared: Arc<Shared>) {
    loop {
        match listener.accept().await {
            Ok((stream, from)) => {
                let address = from.ip().to_canonical();
                let place = shared.waiting.admit(Guest {
                    source: group(address),
                    known: shared.verifier.is_known(address),
                    failures: shared.verifier.failures(address),
                });
                let (number, visitor) = (place.number(), Arc::clone(&shared));
                let task = tokio::spawn(async move {
                    if let Err(error) = meet(stream, from.ip(), place, &visitor).await {
                        tracing::debug!("{from}: {error:#}");
                    }
                });
                shared.waiting.held_by(number, task.abort_handle());
            }
            Err(error) => {
                tracing::warn!("cannot accept a connection: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// One connection from beginning to end.
async fn meet(
    stream: tokio::net::TcpStream,
    from: IpAddr,
    place: WaitingPlace,
    shared: &Arc<Shared>,
) -> Result<()> {
    let reached = stream.local_addr()?.ip();
    stream.set_nodelay(true)?;
    // The control connection is silent during a transfer: keep NAT on the way from forgetting it.
    sockopt::set_socket_keepalive(&stream, true)?;
    sockopt::set_tcp_keepidle(&stream, Duration::from_secs(60))?;
    let Limits { login: time, stall, .. } = shared.config.limits;
    // Here and not on a thread of its own: small files, and those threads may all be busy with passwords.
    let settings = shared.settings();
    let tls = || shared.tls().inspect_err(|error| tracing::error!("there is no TLS: {error:#}")).ok();
    let known = Known { clear_allowed: settings.allow_clear, ipv6: from.is_ipv6(), ..Known::default() };
    let check = |user: Vec<u8>, password: Vec<u8>| async move {
        login::check(&shared.verifier, &user, &password, from).await
    };
    let log_in = control::log_in(Lines::new(Box::new(stream), stall), known, tls, check);
    let Some(client) = tokio::time::timeout(time, log_in).await.context("not logged in in time")?? else {
        return Ok(());
    };
    // While it still has its place before the login: so those that wait here are few.
    let thread = tokio::time::timeout(ENDING, Arc::clone(&shared.threads).acquire_owned()).await;
    ensure!(place.leave(), "its place was given to another");
    let Ok(thread) = thread else {
        tracing::warn!("{from}: refused, too many sessions are about to end");
        let text = "421 Too many sessions are about to end; try again in a few seconds";
        return Ok(control::refuse(client.lines, text).await?);
    };
    serve(client, from, reached, settings, thread?, shared).await
}

/// Runs one session to its end.
async fn serve(
    client: LoggedIn,
    address: IpAddr,
    reached: IpAddr,
    settings: FtpSettings,
    thread: OwnedSemaphorePermit,
    shared: &Arc<Shared>,
) -> Result<()> {
    shared.pace.set(settings.bytes_per_second);
    let session = Arc::new(Session::begin(Client {
        address,
        reached,
        tls: client.tls.clone(),
        password: client.password,
        unproven_allowed: settings.allow_unproven_data,
    }));
    let place = Place::take(shared, &session);
    let (inner, outer) = socket::pair().context("cannot connect within the machine")?;
    let (of_thread, shared_with_thread) = (Arc::clone(&session), Arc::clone(shared));
    thread::Builder::new()
        .name("session".into())
        .spawn(move || {
            if let Err(error) = run(inner, &of_thread, &shared_with_thread) {
                tracing::error!("{address}: {error:#}");
            }
            drop((place, thread));
        })
        .context("cannot start a session")?;
    let mut inner = Lines::new(Box::new(tokio::net::TcpStream::from_std(outer)?), shared.config.limits.stall);
    control::enter(&mut inner).await?;
    Ok(control::carry(client, inner, &session, settings.passive_address).await?)
}

/// libunftp's part of one session, on a thread of its own.
fn run(stream: TcpStream, session: &Arc<Session>, shared: &Shared) -> Result<()> {
    let ftp = shared.ftp(session)?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let ended = runtime.block_on(async {
        let stream = tokio::net::TcpStream::from_std(stream)?;
        tokio::select! {
            result = ftp.service(stream) => result.map(|()| None).map_err(io::Error::other),
            reason = session.watch(&shared.config.limits, || shared.counts(session)) => Ok(Some(reason)),
        }
    });
    // Without waiting: a thread stuck in reading a disk must not keep the session's place.
    runtime.shutdown_background();
    if let Some(reason) = ended? {
        tracing::warn!("{}: session ended: {reason}", session.client.address);
    }
    Ok(())
}

impl Shared {
    /// TLS for one connection, with tickets of its own.
    fn tls(&self) -> Result<Tls> {
        Tls::load(&self.config.certificate, &self.config.key)
    }

    /// libunftp, set up for one session.
    fn ftp(&self, session: &Arc<Session>) -> Result<libunftp::Server<Backend, DefaultUser>> {
        let limits = &self.config.limits;
        let (catalog, stall) = (self.catalog.clone(), limits.stall);
        let of_backend = (Arc::clone(session), Arc::clone(&self.pace), Arc::clone(&self.unfinished));
        let backend = move || {
            let (session, pace, unfinished) = of_backend.clone();
            Backend::new(catalog.clone(), session, stall, pace, unfinished)
        };
        let range = self.config.passive_ports.clone();
        let ports = PassivePorts::new(Arc::clone(&self.passive_turn), range, Arc::clone(session), limits);
        ServerBuilder::with_authenticator(Box::new(backend), Arc::new(AlreadyLoggedIn))
            .binder(ports)
            // The session's own deadlines come first.
            .idle_session_timeout((limits.unused * 2).as_secs().max(60))
            .sitemd5(SiteMd5::None)
            .build()
            .context("cannot set libunftp up")
    }

    /// What the console has set.
    fn settings(&self) -> FtpSettings {
        FtpSettings::read(&self.config.settings).unwrap_or_else(|error| {
            tracing::error!("{} is ignored: {error}", self.config.settings.display());
            FtpSettings::default()
        })
    }

    /// Whether the password that a session logged in with still counts. A file that cannot be looked at now is no other
    /// password.
    fn counts(&self, session: &Session) -> bool {
        self.verifier.version().is_none_or(|now| session.client.password == Some(now))
    }

    fn sessions(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A session's place among those allowed; dropping it frees it.
#[derive(Debug)]
struct Place {
    shared: Arc<Shared>,
    number: Number,
}

impl Place {
    /// Gives a session a place; whichever has to go for it ends.
    fn take(shared: &Arc<Shared>, session: &Arc<Session>) -> Self {
        let mut sessions = shared.sessions();
        let Sessions { places, here } = &mut *sessions;
        let idle = |number| here.get(&number).map_or(Duration::MAX, |session: &Arc<Session>| session.idle());
        let admitted = places.admit(group(session.client.address), idle);
        if let Some(displaced) = admitted.ends.and_then(|number| here.remove(&number)) {
            displaced.displace();
        }
        here.insert(admitted.number, Arc::clone(session));
        drop(sessions);
        Self { shared: Arc::clone(shared), number: admitted.number }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut sessions = self.shared.sessions();
        sessions.places.leave(self.number);
        sessions.here.remove(&self.number);
    }
}
