//! `backupd`: the control API on 50000/tcp, and the decisions of the backup server.
//!
//! Runs as its own user without privileges; what needs root is asked of `hostd`.

mod engine;
mod events;
mod hardware_checks;
mod http;
mod keeper;
mod metrics;
mod monitor;
mod pinned;
mod room;
mod shared;
mod standby;
mod status;
mod verification;
mod verification_checks;

use anyhow::{Context, Result};
use auth::Verifier;
use axum_server::tls_rustls::RustlsConfig;
use clap::Parser;
use http::App;
use shared::{Places, Shared};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tracing_subscriber::EnvFilter;

/// Time for requests under way when the daemon is stopped.
const GRACE: Duration = Duration::from_secs(5);

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
    /// Socket of the privileged process
    #[arg(long, default_value = hostd::SOCKET)]
    hostd: PathBuf,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).without_time().with_writer(std::io::stderr).init();
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        anyhow::bail!("another TLS provider is installed already");
    }
    let verifier = Arc::new(Verifier::new(&arguments.password_file)?);
    if let Err(error) = verifier.check() {
        // Replication and backups go on meanwhile; the status's check says it, too.
        tracing::error!("nobody can log in: {error}");
    }
    let tls = RustlsConfig::from_pem_file(
        arguments.tls_dir.join("certificate.pem"),
        arguments.tls_dir.join("key.pem"),
    )
    .await
    .with_context(|| format!("cannot use the certificate and key in {}", arguments.tls_dir.display()))?;
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
    let handle = axum_server::Handle::new();
    tokio::spawn(stop_on_signal(handle.clone()));
    tracing::info!("control API on {}", arguments.listen);
    let service = http::router(App { shared, verifier }).into_make_service_with_connect_info::<SocketAddr>();
    axum_server::bind_rustls(arguments.listen, tls)
        .handle(handle)
        .serve(service)
        .await
        .with_context(|| format!("cannot serve the control API on {}", arguments.listen))
}

async fn stop_on_signal(handle: axum_server::Handle<SocketAddr>) {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => {
            terminate.recv().await;
            handle.graceful_shutdown(Some(GRACE));
        }
        Err(error) => tracing::error!("cannot wait for SIGTERM: {error}"),
    }
}
