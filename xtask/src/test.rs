//! `cargo xtask test`: format, lints, unit and integration tests, then the VM scenarios on a fresh build.
//!
//! Everything that it needs it sets up itself; programs, tests and lints are compiled beside the images. The tests run in
//! one call of the test runner, so that its closing line is the summary of the whole; what would be skipped is not there:
//! a test that cannot run where it stands fails and says why.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{advisories, build, cargo, fuzz, paths};

/// Arguments of the command.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Leave out the virtual machines
    #[arg(long, conflicts_with = "full")]
    quick: bool,
    /// Also the long scenarios, the check of licences, sources and advisories, and minutes of fuzzing
    #[arg(long)]
    full: bool,
}

/// Runs the command.
pub fn run(options: &Options) -> Result<()> {
    build::run(&build::Options::for_tests(options.quick, options.full))?;
    if options.full {
        install("cargo-deny", "deny")?;
        run_cargo(&["deny", "check", "bans", "licenses", "sources"])?;
        advisories::of_build(build::Profile::Dev)?;
        fuzz::run_all()?;
    }
    let mut tests = vec!["nextest", "run", "--workspace", "--locked"];
    if let Some(filter) = filter(options) {
        tests.extend(["-E", filter]);
    }
    run_cargo(&tests)
}

/// Which tests run, in nextest's filter language: long scenarios are in modules named `full`.
fn filter(options: &Options) -> Option<&'static str> {
    match options {
        Options { quick: true, .. } => Some("not package(scenarios)"),
        Options { full: true, .. } => None,
        Options { .. } => Some("not test(/^full::/)"),
    }
}

/// Installs a cargo command that the host lacks, from the registry that cargo uses.
pub fn install(package: &str, command: &str) -> Result<()> {
    if cargo::has(command)? {
        return Ok(());
    }
    eprintln!("{package} is missing and is installed; this takes some minutes, once");
    run_command(&mut cargo::installer(package, &[]), &format!("cargo install {package}"))
}

fn run_cargo(arguments: &[&str]) -> Result<()> {
    let said = format!("cargo {}", arguments.join(" "));
    eprintln!("{said}");
    run_command(cargo::command().args(arguments), &said)
}

fn run_command(command: &mut Command, said: &str) -> Result<()> {
    let status =
        command.current_dir(paths::root()).status().context("cannot run cargo; is Rust installed?")?;
    if !status.success() {
        bail!("{said} failed ({status})");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_tier_has_its_tests() {
        let options = |quick, full| Options { quick, full };
        assert_eq!(filter(&options(true, false)), Some("not package(scenarios)"));
        assert_eq!(filter(&options(false, false)), Some("not test(/^full::/)"));
        assert_eq!(filter(&options(false, true)), None);
    }
}
