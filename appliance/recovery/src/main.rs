//! `recovery`: restores a monitor's PostgreSQL from its backup server, on a full screen or unattended. Whoever uses it
//! calls it as `monitor-link restore`, so that is its name in all that is shown.
//!
//! Everything that it does is the library's; here are the two ways to ask and to tell. The password is read from a file or
//! typed, never an argument: arguments are seen by every process.

mod screen;
mod unattended;

use std::fs::File;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use recovery::{EXIT_STATUSES, Failure};
use rustix::fs::FlockOperation;

/// Held while the program runs: two restores at once would be in each other's way.
const LOCK: &str = "/run/infimonitor-recovery.lock";

#[derive(Parser)]
#[command(
    name = "monitor-link restore",
    version,
    about = "Restores a monitor's PostgreSQL from its backup server"
)]
#[command(args_conflicts_with_subcommands = true)]
#[command(override_usage = "monitor-link restore\n       \
    monitor-link restore --server <SERVER> --fingerprint <FINGERPRINT> --password-file <FILE> [OPTIONS]\n       \
    monitor-link restore <COMMAND>")]
#[command(
    after_help = format!("Without options it asks on a full screen. What was cut goes on when it is called again.\n\
    Exit status: {EXIT_STATUSES}.")
)]
struct Arguments {
    /// Cluster as VERSION/NAME where there are several, such as 17/main
    #[arg(long, global = true)]
    cluster: Option<String>,
    #[command(flatten)]
    restore: unattended::Restoring,
    #[command(subcommand)]
    command: Option<unattended::Command>,
}

fn main() -> ExitCode {
    let Arguments { cluster, restore, command } = Arguments::parse();
    let cluster = cluster.as_deref();
    let done = match (command, restore.access()) {
        (Some(command), _) => command.run(cluster),
        (None, Some(access)) => restore.run(&access, cluster),
        (None, None) => screen::run(cluster).map_err(Failure::Here),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("monitor-link restore: {failure}");
            ExitCode::from(failure.exit_status())
        }
    }
}

/// Makes sure that this is the only one.
fn lock() -> Result<File> {
    let file = File::create(LOCK).with_context(|| format!("cannot make {LOCK}"))?;
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)
        .context("a restore runs already, perhaps at another console of this machine")?;
    Ok(file)
}
