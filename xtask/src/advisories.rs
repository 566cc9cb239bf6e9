//! `cargo xtask advisories`: what is known against the libraries and Debian packages that a build is made of.
//!
//! Two sources, both outside: RustSec's advisory database by cargo-deny, and Debian's security tracker, which is compared with
//! the package list of the image. Where one cannot be had (no network, or one that lets only mirrors through) that is said,
//! and fails nothing; it is never passed over in silence.

mod debian;
mod version;

use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::Command;
use tools::Cache;
use tools::mirror::RELEASE;

use crate::{build, cargo, paths, test};
use debian::{Manifest, Sources, Tracker};

/// All that Debian knows, some 70 MB.
const TRACKER: &str = "https://security-tracker.debian.org/tracker/data/json";
/// Most that is read of it, in bytes.
const TRACKER_MAX: u64 = 1 << 30;
/// Seconds for fetching it.
const TRACKER_SECONDS: u32 = 300;

/// Arguments of the command.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Package list of an image (`*.packages.json`); the last build's otherwise
    #[arg(long)]
    packages: Option<PathBuf>,
    /// Debian's tracker as a file, where the network does not reach it
    #[arg(long)]
    tracker: Option<PathBuf>,
}

/// Runs the command.
pub fn run(options: &Options) -> Result<()> {
    test::install("cargo-deny", "deny")?;
    libraries()?;
    let list = options.packages.clone().map_or_else(last_list, Ok)?;
    packages(&list, options.tracker.as_deref())
}

/// Both, of a build of a profile.
pub fn of_build(profile: build::Profile) -> Result<()> {
    libraries()?;
    packages(&build::package_list(profile), None)
}

fn last_list() -> Result<PathBuf> {
    let lists = [build::Profile::Release, build::Profile::Dev].map(build::package_list);
    let found = lists.into_iter().find(|list| list.is_file());
    found.context("nothing was built yet; run `cargo xtask build`, or name a list with --packages")
}

/// Libraries against RustSec's database.
fn libraries() -> Result<()> {
    let fetched = deny(&["fetch", "db"]).output().context("cannot run cargo deny")?;
    if !fetched.status.success() {
        let said = String::from_utf8_lossy(&fetched.stderr);
        let why = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it says nothing");
        eprintln!("NOT CHECKED: libraries against RustSec's advisories, as no database could be had: {why}");
        return Ok(());
    }
    let status =
        deny(&["check", "--disable-fetch", "advisories"]).status().context("cannot run cargo deny")?;
    if !status.success() {
        bail!("an advisory stands against a library; update it, or say in deny.toml why it does not matter");
    }
    Ok(())
}

fn deny(arguments: &[&str]) -> Command {
    let mut command = cargo::command();
    command.arg("deny").args(arguments).current_dir(paths::root());
    command
}

/// The packages of an image against Debian's tracker.
fn packages(list: &Path, tracker: Option<&Path>) -> Result<()> {
    let folder = tempfile::tempdir().context("cannot make a folder for Debian's tracker")?;
    let fetched = folder.path().join("tracker.json");
    let tracker = match tracker {
        Some(file) => file,
        None => {
            if let Err(error) = fetch(&fetched) {
                eprintln!(
                    "NOT CHECKED: packages against Debian's security tracker, which cannot be reached: {error:#}"
                );
                return Ok(());
            }
            &fetched
        }
    };
    let manifest: Manifest = read(list)?;
    let tracker: Tracker = read(tracker)?;
    let findings = debian::compare(&manifest, &sources()?, &tracker, RELEASE);
    print!("{}", debian::report(&findings));
    if findings.iter().any(|finding| finding.fixed_in.is_some()) {
        bail!(
            "Debian has mended what this image has; build it with newer packages: `cargo xtask build --refresh`"
        );
    }
    Ok(())
}

fn read<T: serde::de::DeserializeOwned>(file: &Path) -> Result<T> {
    let opened = File::open(file).with_context(|| format!("cannot open {}", file.display()))?;
    serde_json::from_reader(BufReader::new(opened)).with_context(|| format!("cannot read {}", file.display()))
}

fn fetch(file: &Path) -> Result<()> {
    let (seconds, bytes) = (TRACKER_SECONDS.to_string(), TRACKER_MAX.to_string());
    let output = Command::new("curl")
        .args(["--fail", "--silent", "--show-error", "--location", "--max-time", &seconds])
        .args(["--max-filesize", &bytes, "--output"])
        .arg(file)
        .arg(TRACKER)
        .output()
        .context("cannot run curl")?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// Which source each package is made of, by the lists of the mirror that the build used.
fn sources() -> Result<Sources> {
    let folder = Cache::locate()?.folder("apt/lists")?;
    let mut sources = BTreeMap::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        if path.to_string_lossy().ends_with("_Packages") {
            let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            debian::add_sources(&mut sources, &String::from_utf8_lossy(&text));
        }
    }
    Ok(sources)
}
