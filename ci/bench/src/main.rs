//! Benchmarks of the product side by side with what people use today; `cargo xtask bench` runs them.
//!
//! Everything of one comparison runs in one go on one machine, by turns, so that a ratio means something where a time does
//! not. Nothing here passes or fails.

mod backup;
mod database;
mod following;
mod ftp;
mod lists;
mod media;
mod peers;
mod report;
mod restore;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use std::path::PathBuf;

#[derive(Debug, Parser)]
#[command(name = "cargo xtask bench", about = "Measures the product side by side with its peers")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// Write all figures to this file, too
    #[arg(long, value_name = "FILE", global = true)]
    json: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Backup, first copy, and what following costs the monitor
    Backup(backup::Options),
    /// What it costs the monitor to be followed, by us and by others
    Following(following::Options),
    /// Downloads of a backup
    Ftp(ftp::Options),
    /// Lists and status with thousands of backups
    Lists(lists::Options),
    /// Packages for hypervisors
    Media(media::Options),
    /// The way back
    Restore(restore::Options),
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let comparisons = match &arguments.command {
        Command::Backup(options) => backup::run(options),
        Command::Following(options) => following::run(options),
        Command::Ftp(options) => ftp::run(options),
        Command::Lists(options) => lists::run(options),
        Command::Media(options) => media::run(options),
        Command::Restore(options) => restore::run(options),
    }?;
    for comparison in &comparisons {
        println!("{}", comparison.table());
    }
    if let Some(file) = arguments.json {
        let text = serde_json::to_vec_pretty(&comparisons)?;
        std::fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}
