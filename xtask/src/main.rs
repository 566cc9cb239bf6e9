//! The project's pipeline: `cargo xtask <command>`. This file only names the commands; each has a file of its own.

mod build;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Builds, tests and runs InfiMONITOR Backup Server")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make everything in dist/ from source
    Build(build::Options),
}

fn main() -> Result<()> {
    match Arguments::parse().command {
        Command::Build(options) => build::run(&options),
    }
}
