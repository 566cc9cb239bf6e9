//! `backupd`: the control API on 50000/tcp, and the decisions of the backup server.
//!
//! Runs as its own user without privileges; what needs root is asked of `hostd`.

mod bounded;
mod changes;
mod connection;
mod engine;
mod events;
mod gate;
mod hardware_checks;
mod http;
mod keeper;
mod metrics;
mod monitor;
mod paced;
mod pairing;
mod pinned;
mod quiet;
mod room;
mod rotation_checks;
mod serve;
mod shared;
mod stand_in;
mod standby;
mod status;
mod verification;
mod verification_checks;

use anyhow::{Context, Result};
use auth::{Ledgers, Verifier};
use clap::Parser;
use http::App;
use serve::Door;
use shared::{Places, Shared};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tracing_subscriber::EnvFilter;

/// How often the paired monitor's name is looked up, for whom places are kept.
const LOOK_UP: Duration = Duration::from_secs(60);
/// The longest that such a look-up may take.
const LOOK_UP_LIMIT: Duration = Duration::from_secs(20);

#[derive(Debug, Parser)]
#[command(about = "Control API and scheduler of the backup server", version)]
struct Arguments {
    /// Address and port of the control API
    #[arg(long, default_value_t = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), api::CONTROL_PORT))]
    listen: SocketAddr,
    /// Data volume with replica/ and backups/
    #[arg(long, default_value = "/data")]
    data: PathBuf,
    /// File that says why the data volume is not mounted
    #[arg(long, default_value = "/run/infimonitor/data-problem")]
    data_problem: PathBuf,
    /// Report on the system's slots
    #[arg(long, default_value = slots::report::PATH)]
    slots_report: PathBuf,
    /// Where hostd hands out what the console has set of FTP
    #[arg(long, default_value = api::FTP_SETTINGS_PATH)]
    ftp_settings: PathBuf,
    /// File with the machine's time zone, which is the schedule's until another is set
    #[arg(long, default_value = "/var/lib/infimonitor/time-zone")]
    time_zone: PathBuf,
    /// The daemon's own folder
    #[arg(long, default_value = "/var/lib/infimonitor/backupd")]
    state_dir: PathBuf,
    /// Folder with certificate.pem and key.pem
    #[arg(long, default_value = "/var/lib/infimonitor/tls")]
    tls_dir: PathBuf,
    /// Password file
    #[arg(long, default_value = "/var/lib/infimonitor/auth/password")]
    password_file: PathBuf,
    /// This process's table of failed logins, which ftpd reads; left out: none is kept in a file
    #[arg(long, requires = "other_failures")]
    own_failures: Option<PathBuf>,
    /// ftpd's table of failed logins
    #[arg(long, requires = "own_failures")]
    other_failures: Option<PathBuf>,
    /// Socket of the privileged process
    #[arg(long, default_value = hostd::SOCKET)]
    hostd: PathBuf,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    auth::journal::start(filter, true)?;
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        anyhow::bail!("another TLS provider is installed already");
    }
    let verifier = Arc::new(Verifier::sharing(
        arguments.password_file,
        Ledgers::of(arguments.own_failures, arguments.other_failures).as_ref(),
    )?);
    if let Err(error) = verifier.check() {
        // Replication and backups go on meanwhile; the status's check says it, too.
        tracing::error!("nobody can log in: {error}");
    }
    let tls = serve::tls(&arguments.tls_dir)?;
    let places = Places {
        data: arguments.data,
        data_problem: arguments.data_problem,
        slots_report: arguments.slots_report,
        ftp_settings: arguments.ftp_settings,
        time_zone: arguments.time_zone,
    };
    let shared = Arc::new(Shared::load(hostd::Client::new(arguments.hostd), places, &arguments.state_dir)?);
    tokio::spawn(engine::run(Arc::clone(&shared)));
    tokio::spawn(keeper::run(Arc::clone(&shared)));
    let door = Arc::new(Door::new(Arc::clone(&verifier)));
    tokio::spawn(keep_places(Arc::clone(&shared), Arc::clone(&door)));
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(stop_on_signal(stop));
    let listener = TcpListener::bind(arguments.listen)
        .await
        .with_context(|| format!("cannot serve the control API on {}", arguments.listen))?;
    tracing::info!("control API on {}", arguments.listen);
    let router = http::router(App { shared, verifier, door: Arc::clone(&door), large: Arc::default() });
    serve::run(listener, tls, router, door, stopped).await;
    Ok(())
}

/// Has places kept for the paired monitor, whose address may be a name.
async fn keep_places(shared: Arc<Shared>, door: Arc<Door>) {
    loop {
        let peer = shared.peer();
        if let Some(peer) = peer {
            let looked_up = tokio::net::lookup_host((peer.address.as_str(), peer.port));
            // A name that cannot be looked up now keeps the places that it had.
            if let Ok(Ok(addresses)) = tokio::time::timeout(LOOK_UP_LIMIT, looked_up).await {
                door.reserve(addresses.map(|address| address.ip().to_canonical()).take(16).collect());
            }
        } else {
            door.reserve(Vec::new());
        }
        tokio::time::sleep(LOOK_UP).await;
    }
}

async fn stop_on_signal(stop: watch::Sender<bool>) {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => {
            terminate.recv().await;
            stop.send_replace(true);
        }
        // The sender stays, else everything would stop.
        Err(error) => {
            tracing::error!("cannot wait for SIGTERM: {error}");
            stop.closed().await;
        }
    }
}
