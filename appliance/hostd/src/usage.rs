//! What takes the room: by replica, by all backups, by each backup alone.
//!
//! Which blocks a snapshot shares with others is known to nobody without walking its extents (no qgroups, design D5), so
//! this is slow, done when the machine has little else to do, and at the lowest priority.

use crate::catalog;
use crate::places::{Places, UNVERIFIED_SUFFIX};
use crate::program::{self, Bounds};
use anyhow::{Context, Result};
use api::Usage;
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::process::Command;

/// Time to walk the extents of one backup when the machine has little else to do.
const LIMIT: Duration = Duration::from_secs(6 * 3600);

/// Measures.
pub async fn measure(places: &Places) -> Result<(Usage, BTreeMap<String, u64>)> {
    let mut replicas = subvolumes(&places.data.join("replica"))?;
    // What it shares with its replica would count twice.
    replicas.retain(|path| !path.to_string_lossy().ends_with(UNVERIFIED_SUFFIX));
    let mut replica = 0;
    for path in replicas {
        replica += match du(std::slice::from_ref(&path)).await {
            Ok(lines) => lines.into_iter().map(|(_, line)| line.total).sum(),
            // btrfs gives up on folders that are too deep for it; the sizes of the files are near enough.
            Err(error) => {
                tracing::warn!("{} is measured by its files: {error:#}", path.display());
                tokio::task::spawn_blocking(move || files::bytes_below(&path, None)).await??
            }
        };
    }
    let mut each = BTreeMap::new();
    for backup in catalog::backups(places)? {
        let path = places.backups(backup.monitor.id).join(&backup.id);
        // It may have been deleted meanwhile, or hold folders that are too deep for btrfs: the others are measured.
        match du(std::slice::from_ref(&path)).await {
            Ok(lines) => each.extend(lines.into_iter().map(|(_, line)| (backup.id.clone(), line.exclusive))),
            Err(error) if path.exists() => tracing::warn!("backup {} is not measured: {error:#}", backup.id),
            Err(_) => {}
        }
    }
    let (total, free) = catalog::room(places)?;
    let usage = Usage { at: Timestamp::now(), replica, backups: (total - free).saturating_sub(replica) };
    Ok((usage, each))
}

fn subvolumes(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries =
        || std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>();
    entries().with_context(|| format!("cannot read {}", folder.display()))
}

/// One line of `btrfs filesystem du --summarize --raw`, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Line {
    total: u64,
    exclusive: u64,
}

async fn du(paths: &[PathBuf]) -> Result<Vec<(PathBuf, Line)>> {
    if paths.is_empty() {
        return Ok(Vec::new());
    }
    let mut command = Command::new("nice");
    command.args(["-n", "19", "ionice", "-c", "3", "btrfs", "filesystem", "du", "--summarize", "--raw"]);
    command.args(paths);
    // A line of about 100 bytes for each backup.
    let bounds = Bounds::SHORT.within(LIMIT).printing(4 << 20);
    let printed = program::output(command, bounds).await.context("btrfs filesystem du")?;
    parse(&String::from_utf8_lossy(&printed))
}

/// `Total  Exclusive  Set shared  Filename`, a header and then lines.
fn parse(printed: &str) -> Result<Vec<(PathBuf, Line)>> {
    let line = |text: &str| -> Option<(PathBuf, Line)> {
        let (total, rest) = text.trim_start().split_once(' ')?;
        let (exclusive, rest) = rest.trim_start().split_once(' ')?;
        let (_set_shared, path) = rest.trim_start().split_once(' ')?;
        let line = Line { total: total.parse().ok()?, exclusive: exclusive.parse().ok()? };
        Some((path.trim_start().into(), line))
    };
    printed
        .lines()
        .skip(1)
        .map(|text| line(text).with_context(|| format!("btrfs filesystem du printed {text:?}")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_btrfs_prints_is_read() {
        let printed = "     Total   Exclusive  Set shared  Filename\n\
                       \x20 42033152      331776    41701376  /data/backups/a/20261123T205430Z\n\
                       \x20        0           0           -  /data/with space\n";
        let lines = parse(printed).unwrap();
        let first = Line { total: 42_033_152, exclusive: 331_776 };
        assert_eq!(lines[0], ("/data/backups/a/20261123T205430Z".into(), first));
        assert_eq!(lines[1].0, PathBuf::from("/data/with space"));
        assert!(parse("header\nERROR: no\n").is_err());
    }
}
