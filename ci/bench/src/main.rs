//! Benchmarks of the product side by side with what people use today; `cargo xtask bench` runs them.
//!
//! Everything of one comparison runs in one go on one machine, by turns, so that a ratio means something where a time does
//! not. Nothing here passes or fails.

mod backup;
mod peers;
mod report;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use std::path::PathBuf;

#[derive(Debug, Parser)]
#[command(name = "cargo xtask bench", about = "Measures the product side by side with its peers")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Backup, first copy, and what following costs the monitor
    Backup {
        #[command(flatten)]
        options: backup::Options,
        /// Write all figures to this file, too
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
    },
}

fn main() -> Result<()> {
    let Command::Backup { options, json } = Arguments::parse().command;
    let comparisons = backup::run(&options)?;
    for comparison in &comparisons {
        println!("{}", comparison.table());
    }
    if let Some(file) = json {
        let text = serde_json::to_vec_pretty(&comparisons)?;
        std::fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}
