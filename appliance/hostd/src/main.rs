//! `hostd`, the privileged process of the backup server (see the library's page for its place).
//!
//! `hostd serve` answers requests, `hostd order` sends those that need root; `hostd cluster-exec`, `hostd adopt`,
//! `hostd arm`, `hostd disarm`, `hostd remove-stray-files` and `hostd digest` are the steps that it takes in processes of their own.

mod access;
mod adopt;
mod backup;
mod btrfs;
mod callers;
mod catalog;
mod clock;
mod clone_log;
mod cluster;
mod cluster_exec;
mod console;
mod console_disks;
mod console_limits;
mod copy_check;
mod copy_room;
mod decisions;
mod digest;
mod disks;
mod foreign;
mod full_copy;
mod ledger;
mod lines;
mod named_disk;
mod pairing;
mod places;
mod program;
mod replace;
mod replies;
mod rotate;
mod sandbox;
mod scope;
mod server;
mod stragglers;
mod stray_files;
mod tablespaces;
mod tidy;
mod usage;
mod verdict;
mod verify;
mod write_limit;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use std::path::{Path, PathBuf};
use tracing_subscriber::EnvFilter;

#[derive(Debug, Parser)]
#[command(about = "Privileged process of the backup server", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Answer requests on the local socket
    Serve {
        /// Socket to listen on
        #[arg(long, default_value = hostd::SOCKET)]
        socket: PathBuf,
        #[command(flatten)]
        places: places::Places,
    },
    /// What only root may ask, as the console does
    Order {
        #[command(subcommand)]
        order: console::Order,
        /// Socket of the running hostd
        #[arg(long, default_value = hostd::SOCKET, global = true)]
        socket: PathBuf,
        /// Data volume
        #[arg(long, default_value = "/data", global = true)]
        data: PathBuf,
    },
    /// Become a program of a cluster, in the cluster's namespace
    ClusterExec(cluster_exec::Args),
    /// Turn the base backup at /srv/cluster into a replica
    Adopt,
    /// Make the replica at /srv/cluster a standby without settings of its own
    Arm,
    /// Hash the tar of a backup
    Digest(digest::Args),
    /// Make the clone of a backup at /srv/cluster ready to be started on its own
    Disarm,
    /// Remove what is not PostgreSQL's from the folders of tables of the clone at /srv/cluster
    RemoveStrayFiles,
}

fn main() -> Result<()> {
    match Arguments::parse().command {
        Command::ClusterExec(args) => {
            let Err(error) = cluster_exec::run(&args);
            // Told from an exit status of the program's own.
            eprintln!("Error: {error:#}");
            std::process::exit(program::NOT_STARTED)
        }
        Command::Digest(args) => digest::run(&args),
        Command::Adopt => adopt::run(Path::new(replica::CLUSTER_ROOT)),
        Command::Arm => adopt::arm(Path::new(replica::CLUSTER_ROOT)),
        Command::RemoveStrayFiles => stray_files::run(Path::new(replica::CLUSTER_ROOT)),
        Command::Disarm => backups::disarm(Path::new(replica::CLUSTER_ROOT)),
        Command::Order { order, socket, data } => tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot start the runtime")?
            .block_on(console::run(order, &data, &socket)),
        Command::Serve { socket, places } => {
            let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
            // The journal adds the time.
            tracing_subscriber::fmt()
                .with_env_filter(filter)
                .without_time()
                .with_writer(std::io::stderr)
                .init();
            let data = places.data.clone();
            let served = tokio::runtime::Builder::new_multi_thread()
                .enable_all()
                .build()
                .context("cannot start the runtime")?
                .block_on(server::serve(places, &socket));
            // With the runtime copies and verifications have ended, which the next hostd begins again. What their programs have
            // started has not.
            let ended = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .context("cannot start the runtime")?
                .block_on(stragglers::end_all(&data));
            served.and(ended)
        }
    }
}
