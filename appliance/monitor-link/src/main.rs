//! `monitor-link start|setup|restore`: see the library's documentation.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{self, ExitCode};

use api::Host;
use clap::{Parser, Subcommand};
use monitor_link::{setup, start};

/// The monitor's side of the backup: prepares PostgreSQL 17 for the backup server.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// At boot: makes and starts our node's PostgreSQL, loads the firewall rules
    Start,
    /// Lets a backup server in; prints what `PUT /v1/peer` takes
    Setup {
        /// The backup server's address or name, as this machine sees it
        #[arg(long)]
        server: Host,
        /// This machine's address or name, as the backup server sees it
        #[arg(long)]
        address: Option<Host>,
        /// Cluster as VERSION/NAME where there are several, such as 17/main
        #[arg(long)]
        cluster: Option<String>,
        /// Certificate of the authority that signed PostgreSQL's certificate, PEM
        #[arg(long)]
        ca: Option<PathBuf>,
        /// Signing key (`signing.key`) that this monitor had when the backup server was paired: with its signature the
        /// server takes the new key without its console
        #[arg(long)]
        former_key: Option<PathBuf>,
    },
    /// Restores from a backup: asks on a full screen, or does what the options say (`monitor-link restore --help`)
    #[command(disable_help_flag = true)]
    Restore {
        /// Commands and options of `recovery`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
}

/// The recovery program: one of its own, as it speaks FTP and draws screens, and setting up does neither.
const RECOVERY: &str = "/usr/lib/infimonitor/recovery";

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Start => start::run(),
        Command::Setup { server, address, cluster, ca, former_key } => {
            let options = setup::Options { server, address, cluster, ca, former_key };
            setup::run(&options).and_then(|peer| {
                println!("{}", serde_json::to_string_pretty(&peer)?);
                Ok(())
            })
        }
        Command::Restore { arguments } => {
            let error = process::Command::new(RECOVERY).args(arguments).exec();
            Err(anyhow::Error::from(error).context(format!("cannot run {RECOVERY}")))
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("monitor-link: {error:#}");
            ExitCode::FAILURE
        }
    }
}
