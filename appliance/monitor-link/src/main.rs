//! `monitor-link start|setup`: see the library's documentation.

use std::path::PathBuf;
use std::process::ExitCode;

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
    },
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Start => start::run(),
        Command::Setup { server, address, cluster, ca } => {
            let options = setup::Options { server, address, cluster, ca };
            setup::run(&options).and_then(|peer| {
                println!("{}", serde_json::to_string_pretty(&peer)?);
                Ok(())
            })
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
