//! `cargo xtask clean`: removes what the pipeline made.

use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use tools::Cache;

use crate::paths;

/// Arguments of the command.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Also the user's cache: mkosi, tools trees and packages, which all checkouts share and a build fetches again
    #[arg(long)]
    cache: bool,
}

/// Runs the command.
pub fn run(options: &Options) -> Result<()> {
    let mut folders = vec![paths::work(), paths::dist(), paths::root().join("target/lab")];
    if options.cache {
        folders.push(Cache::locate()?.root().to_owned());
    }
    for folder in folders {
        remove(&folder)?;
    }
    println!("`cargo clean` removes what cargo compiled");
    Ok(())
}

fn remove(folder: &Path) -> Result<()> {
    if !folder.exists() {
        return Ok(());
    }
    // Renamed first: a cut leaves no half folder under the name that a build looks for.
    let doomed = PathBuf::from(format!("{}.removed", folder.display()));
    if doomed.exists() {
        std::fs::remove_dir_all(&doomed).with_context(|| format!("cannot remove {}", doomed.display()))?;
    }
    std::fs::rename(folder, &doomed)
        .and_then(|()| std::fs::remove_dir_all(&doomed))
        .with_context(|| format!("cannot remove {}", folder.display()))?;
    println!("removed {}", paths::shown(folder));
    Ok(())
}
