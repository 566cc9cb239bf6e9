//! `cargo xtask fuzz`: throws what nobody would think of at what faces the network or reads other people's files, for as long as
//! one likes.
//!
//! libFuzzer with the compiler's own instruments, as stable Rust has them; no sanitizer, as the code under it has no
//! unsafe blocks. The targets are a workspace of their own (`ci/fuzz`). What was found interesting is kept in
//! `target/fuzz` and is where the next run begins.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{cargo, paths};

/// The instruments that libFuzzer reads.
const INSTRUMENTS: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 --cfg fuzzing";
/// For which the programs are compiled. Named, so that the instruments are not put into build scripts.
const PLATFORM: &str = "x86_64-unknown-linux-gnu";

/// Programs in `ci/fuzz`.
const TARGETS: [&str; 2] = ["paths", "packages"];
/// How long, where nothing is said.
const SECONDS: u32 = 60;

/// Longest input of a target in bytes: some more than the longest path, or than the smallest packages, of which a plain XVA has
/// over a MiB.
fn longest(target: &str) -> u32 {
    if target == TARGETS[0] { 5000 } else { 1_200_000 }
}

/// Arguments of the command.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// What is fuzzed
    #[arg(default_value = TARGETS[0], value_parser = TARGETS)]
    target: String,
    /// For how long
    #[arg(long, default_value_t = SECONDS)]
    seconds: u32,
}

/// Fuzzes every target for a minute.
pub fn run_all() -> Result<()> {
    TARGETS.iter().try_for_each(|target| run(&Options { target: (*target).into(), seconds: SECONDS }))
}

/// Runs the command.
pub fn run(options: &Options) -> Result<()> {
    let folder = paths::root().join("ci/fuzz");
    let place = paths::root().join("target/fuzz");
    if Command::new("c++").arg("--version").output().is_err() {
        bail!("libFuzzer is compiled from C++ and there is no c++: install g++");
    }
    let built = cargo::command()
        .args(["build", "--release", "--locked", "--target", PLATFORM, "--bin", &options.target])
        .current_dir(&folder)
        .env("CARGO_TARGET_DIR", &place)
        .env("RUSTFLAGS", INSTRUMENTS)
        .status()
        .context("cannot run cargo; is Rust installed?")?;
    if !built.success() {
        bail!("the fuzz target cannot be compiled ({built})");
    }
    let corpus = place.join("corpus").join(&options.target);
    std::fs::create_dir_all(&corpus).with_context(|| format!("cannot make {}", corpus.display()))?;
    let program = place.join(PLATFORM).join("release").join(&options.target);
    let status = Command::new(&program)
        .arg(&corpus)
        .arg(format!("-dict={}", folder.join(format!("{}.dict", options.target)).display()))
        .arg(format!("-max_total_time={}", options.seconds))
        .arg(format!("-max_len={}", longest(&options.target)))
        .arg(format!("-artifact_prefix={}/", place.display()))
        .arg("-print_final_stats=1")
        .env("FUZZ_CORPUS", &corpus)
        .status()
        .with_context(|| format!("cannot run {}", program.display()))?;
    if !status.success() {
        bail!("{} failed: what it failed on is named above and lies in {}", options.target, place.display());
    }
    Ok(())
}
