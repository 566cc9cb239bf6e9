//! The project's pipeline: `cargo xtask <command>`. This file only names the commands; each has a file of its own.

mod advisories;
mod bench;
mod build;
mod cargo;
mod clean;
mod demo;
mod fuzz;
mod jobs;
mod paths;
mod preflight;
mod release;
mod test;
mod verify_artifact;
mod vm;

use std::process::ExitCode;

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
    /// Check everything: format, lints, unit and integration tests, VM scenarios
    Test(test::Options),
    /// Measure the product side by side with what people use today
    Bench(bench::Options),
    /// Say what is known against the libraries and packages of a build
    Advisories(advisories::Options),
    /// Throw senseless input at what faces the network
    Fuzz(fuzz::Options),
    /// Remove what was built
    Clean(clean::Options),
    /// Make a release: dist/<version>/ with checksums, package list and versions
    Release(release::Options),
    /// Boot a backup server and a monitor, paired, with data being written
    Demo(demo::Options),
    /// Say what a hypervisor would refuse of a package, and why
    VerifyArtifact(verify_artifact::Options),
    /// Boot what was built, with its console in this terminal
    Vm(vm::Options),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Advisories(options) => advisories::run(&options),
        Command::Bench(options) => bench::run(&options),
        Command::Build(options) => build::run(&options),
        Command::Clean(options) => clean::run(&options),
        Command::Fuzz(options) => fuzz::run(&options),
        Command::Release(options) => release::run(&options),
        Command::Demo(options) => demo::run(&options),
        Command::Test(options) => test::run(&options),
        Command::VerifyArtifact(options) => verify_artifact::run(&options),
        Command::Vm(options) => vm::run(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(if error.is::<preflight::Unfit>() { 3 } else { 1 })
        }
    }
}
