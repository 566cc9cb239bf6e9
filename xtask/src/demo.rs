//! `cargo xtask demo`: a backup server with a monitor beside it, paired, and pgbench writing all the time.
//!
//! The machines are those of the scenarios, begun anew at each call; they end with this command. What a user would do
//! by hand is done through the same ports and programs.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use api::State;
use lab::{COMMAND, CONTROL_PORT, FTP_PORT, Lab, wait_until};
use scenarios::{ROOT_PASSWORD, SERVER_ADDRESS, User, backup_server, monitor, sql};

use crate::paths;

/// Filling and copying without KVM takes minutes.
const LONG: Duration = Duration::from_secs(900);
/// Time between two lines of status.
const ROUND: Duration = Duration::from_secs(10);

/// Options of `cargo xtask demo`.
#[derive(clap::Args)]
pub struct Options {
    /// pgbench's scale: about 15 MB of data each
    #[arg(long, default_value_t = 16)]
    scale: u32,
}

/// Runs until it is interrupted.
pub fn run(options: &Options) -> Result<()> {
    // One folder, so that at most one demo's disks are left after Ctrl-C.
    let folder = paths::work().join("vm/demo");
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("cannot delete {}", folder.display()))?;
    }
    let lab = Lab::lasting(&folder)?;
    println!("booting a monitor and a backup server; logs are in {}", lab.folder().display());
    let (at_monitor, at_server) = lab.link("replication");
    let monitor = monitor(&lab, at_monitor)?;
    let server = backup_server(&lab, at_server)?;
    let user = User::of(&server)?;
    user.wait_for_api()?;
    wait_until("the monitor's PostgreSQL", LONG, || sql(&monitor, "select 1", COMMAND))?;
    let pgbench = "runuser -u postgres -- /usr/lib/postgresql/17/bin/pgbench";
    println!("filling the monitor's database");
    monitor.run_ok(&format!("{pgbench} -q -i -s {} postgres", options.scale), LONG)?;
    monitor.run_ok(&format!("monitor-link setup --server {SERVER_ADDRESS} >/run/peer.json"), LONG)?;
    user.pair(&String::from_utf8(monitor.read_file("/run/peer.json", COMMAND)?)?)?;
    println!("paired");
    let mut said = String::new();
    wait_until("the full copy", LONG, || {
        let status = user.status()?;
        if said != status.message {
            println!("{}", status.message);
            said.clone_from(&status.message);
        }
        ensure!(status.state.name() == "synchronized", "{}", status.message);
        Ok(())
    })?;
    monitor.run_ok(
        &format!("systemd-run --quiet --unit=load {pgbench} -n -c 2 -R 20 -T 864000 postgres"),
        COMMAND,
    )?;
    let backup = user.create_backup("made by the demo")?;
    println!(
        "backup {} made in {:.0} ms; try:\n  \
         curl -sk -u backup:backup https://{}/v1/status\n  \
         curl -sk -u backup:backup https://{}/v1/backups\n  \
         curl -k -u backup:backup --ssl-reqd -O ftp://{}/{}.tar\n\
         root's password in both machines is {ROOT_PASSWORD:?}. Ctrl-C ends the demo.",
        backup.id,
        backup.snapshot_ms,
        server.endpoint(CONTROL_PORT)?,
        server.endpoint(CONTROL_PORT)?,
        server.endpoint(FTP_PORT)?,
        backup.id,
    );
    loop {
        let status = user.status().context("the backup server does not answer any more")?;
        match &status.state {
            State::Synchronized { lag_bytes, lag_seconds } | State::Lagging { lag_bytes, lag_seconds } => {
                println!("{}: {lag_bytes} bytes, {lag_seconds:.1} s behind", status.state.name());
            }
            state => println!("{}: {}", state.name(), status.message),
        }
        std::thread::sleep(ROUND);
    }
}
