//! `cargo xtask release`: a release build with all that belongs to it, in `dist/<version>/`.
//!
//! The folder appears when everything in it is there. What it is built from is recorded: the commit, the compiler, and
//! the list of packages with their versions, since the mirror's state is no input of a build (decision D1).

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::{build, paths};

/// Arguments of the command.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Release what is not committed, too: the result cannot be told from others of this version
    #[arg(long)]
    allow_dirty: bool,
}

/// What a release was made of.
#[derive(Debug, Serialize)]
struct Versions {
    version: &'static str,
    commit: String,
    dirty: bool,
    rustc: String,
    mkosi: &'static str,
    date: u64,
}

/// Name of the list of checksums, as sha256sum(1) reads it.
const SUMS: &str = "SHA256SUMS";

/// Runs the command.
pub fn run(options: &Options) -> Result<()> {
    let changes = output("git", &["status", "--porcelain"])?;
    ensure!(
        changes.is_empty() || options.allow_dirty,
        "the checkout has changes that are not committed; commit them, or release them with --allow-dirty:\n{changes}"
    );
    build::run(&build::Options::for_release())?;
    let work = build::work(build::Profile::Release);
    let folder = paths::dist().join(build::VERSION);
    let partial = paths::dist().join(format!("{}.partial", build::VERSION));
    if partial.exists() {
        fs::remove_dir_all(&partial).with_context(|| format!("cannot remove {}", partial.display()))?;
    }
    fs::create_dir_all(&partial).with_context(|| format!("cannot create {}", partial.display()))?;
    let mut names = Vec::new();
    for (source, name) in build::artifacts(&work)? {
        copy(&source, &partial.join(&name))?;
        names.push(name);
    }
    let versions = Versions {
        version: build::VERSION,
        commit: output("git", &["rev-parse", "HEAD"])?,
        dirty: !changes.is_empty(),
        rustc: output("rustc", &["--version"])?,
        mkosi: tools::MKOSI_VERSION,
        date: build::SOURCE_DATE_EPOCH,
    };
    write(&partial.join("versions.json"), &(serde_json::to_string_pretty(&versions)? + "\n"))?;
    names.push("versions.json".into());
    names.sort();
    // The program, as the disk has 20 GiB to read, most of them holes.
    let arguments: Vec<&str> = names.iter().map(String::as_str).collect();
    let sums = output_in(&partial, "sha256sum", &arguments)? + "\n";
    write(&partial.join(SUMS), &sums)?;
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("cannot replace {}", folder.display()))?;
    }
    fs::rename(&partial, &folder).with_context(|| format!("cannot name {}", folder.display()))?;
    print!("{sums}");
    println!("{}", paths::shown(&folder));
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// Copies with holes: the disk is 20 GiB, most of it empty.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let status = Command::new("cp").args(["--sparse=always", "--reflink=auto"]).args([from, to]).status();
    let status = status.context("cannot run cp")?;
    ensure!(status.success(), "cannot copy {} to {} ({status})", from.display(), to.display());
    Ok(())
}

fn output(program: &str, arguments: &[&str]) -> Result<String> {
    output_in(paths::root(), program, arguments)
}

fn output_in(folder: &Path, program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).current_dir(folder).output();
    let output = output.with_context(|| format!("cannot run {program}"))?;
    if !output.status.success() {
        bail!("{program} {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
