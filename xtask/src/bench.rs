//! `cargo xtask bench`: the product side by side with what people use today.
//!
//! It prepares the trees of programs, compiles ours as a release has them, and runs the benchmarks' own program.

use anyhow::{Context, Result, bail};

use crate::{build, cargo, paths};

/// Arguments of the command.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Which benchmark, and its options: `backup --help` names them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true, value_name = "BENCHMARK")]
    arguments: Vec<String>,
}

/// Runs the command.
pub fn run(options: &Options) -> Result<()> {
    build::run(&build::Options::for_benchmarks())?;
    let root = paths::root();
    let built = cargo::command()
        .args(["build", "--release", "--workspace", "--bins", "--locked"])
        .current_dir(root)
        .status()
        .context("cannot run cargo; is Rust installed?")?;
    if !built.success() {
        bail!("the programs cannot be compiled ({built})");
    }
    let program = paths::target().join("release/bench");
    let status = std::process::Command::new(&program)
        .args(&options.arguments)
        .status()
        .with_context(|| format!("cannot run {}", program.display()))?;
    if !status.success() {
        bail!("the benchmark ended early ({status})");
    }
    Ok(())
}
