//! What takes the room: the replica and all backups together, which is quick, and each backup alone, which is slow.
//!
//! Which blocks a snapshot shares with others is known to nobody without walking its extents (no qgroups, design D5), so
//! that is done when the machine has little else to do, and at the lowest priority. All backups together take what the volume
//! holds as data beside the replica's files: metadata are not data, and a snapshot that nobody has written after takes
//! nothing.

use crate::places::{Places, UNVERIFIED_SUFFIX};
use crate::program::{self, Bounds};
use crate::{btrfs, catalog};
use anyhow::{Context, Result};
use api::Usage;
use files::Document;
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::process::Command;

/// Time to walk the extents of one backup when the machine has little else to do.
const LIMIT: Duration = Duration::from_secs(6 * 3600);

/// Version of the file's form.
const FORMAT: u32 = 1;

/// Bytes that each backup alone takes, as they were measured last: kept over restarts, since measuring waits for the night.
/// A backup that was made since is missing, and frees nothing as far as is known.
#[derive(Debug)]
pub struct Exclusive {
    document: Document<BTreeMap<String, u64>>,
    known: Mutex<Option<BTreeMap<String, u64>>>,
}

impl Exclusive {
    /// Loads it from hostd's folder. It can be measured again, so damage is worth a line in the log only.
    pub fn load(folder: &Path) -> Self {
        let document = Document::new(folder.join("exclusive.json"), FORMAT, 0o600);
        let known = document.load().map(|loaded| {
            if let Some(problem) = loaded.problem {
                tracing::warn!("{problem}");
            }
            loaded.value
        });
        let known = known.unwrap_or_else(|error| {
            tracing::warn!("what each backup takes is measured again: {error:#}");
            None
        });
        Self { document, known: Mutex::new(known) }
    }

    /// What was measured last; `None`: nothing was.
    pub fn known(&self) -> Option<BTreeMap<String, u64>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// It was measured.
    pub fn measured(&self, each: &BTreeMap<String, u64>) {
        if let Err(error) = self.document.save(each) {
            tracing::warn!("what each backup takes is not known after a restart: {error:#}");
        }
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Some(each.clone());
    }
}

/// Measures the replica and all backups together.
///
/// # Errors
/// The volume cannot be read.
pub async fn measure(places: &Places) -> Result<Usage> {
    let mut replicas = subvolumes(&places.data.join("replica"))?;
    // What it shares with its replica would count twice.
    replicas.retain(|path| !path.to_string_lossy().ends_with(UNVERIFIED_SUFFIX));
    let replica = tokio::task::spawn_blocking(move || {
        replicas.iter().map(|path| files::allocated_below(path)).sum::<Result<u64>>()
    });
    let (replica, data) = (replica.await??, btrfs::data_used(&places.data).await?);
    Ok(Usage { at: Timestamp::now(), replica, backups: data.saturating_sub(replica) })
}

/// Measures what each backup alone takes, in bytes, by id; may take hours.
///
/// # Errors
/// The list of backups cannot be read.
pub async fn of_each_backup(places: &Places) -> Result<BTreeMap<String, u64>> {
    let mut each = BTreeMap::new();
    for backup in catalog::backups(places)? {
        let path = places.backups(backup.monitor.id).join(&backup.id);
        // It may have been deleted meanwhile, or hold folders that are too deep for btrfs: the others are measured.
        match exclusive(&path).await {
            Ok(bytes) => drop(each.insert(backup.id.clone(), bytes)),
            Err(error) if path.exists() => tracing::warn!("backup {} is not measured: {error:#}", backup.id),
            Err(_) => {}
        }
    }
    Ok(each)
}

fn subvolumes(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries =
        || std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>();
    entries().with_context(|| format!("cannot read {}", folder.display()))
}

/// Bytes of the subvolume at `path` that no other one shares.
async fn exclusive(path: &Path) -> Result<u64> {
    let mut command = Command::new("nice");
    command.args(["-n", "19", "ionice", "-c", "3", "btrfs", "filesystem", "du", "--summarize", "--raw"]);
    command.arg(path);
    let printed =
        program::output(command, Bounds::SHORT.within(LIMIT)).await.context("btrfs filesystem du")?;
    parse(&String::from_utf8_lossy(&printed))
}

/// The second column of `Total  Exclusive  Set shared  Filename`, a header and then a line.
fn parse(printed: &str) -> Result<u64> {
    printed
        .lines()
        .nth(1)
        .and_then(|line| line.split_whitespace().nth(1)?.parse().ok())
        .with_context(|| format!("btrfs filesystem du printed {printed:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_measured_is_known_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let exclusive = Exclusive::load(folder.path());
        assert_eq!(exclusive.known(), None, "nothing measured is not nothing to free");
        let each = BTreeMap::from([("20261123T205430Z".to_owned(), 331_776)]);
        exclusive.measured(&each);
        assert_eq!(exclusive.known(), Some(each.clone()));
        assert_eq!(Exclusive::load(folder.path()).known(), Some(each));
        std::fs::write(folder.path().join("exclusive.json"), "\0").unwrap();
        assert!(Exclusive::load(folder.path()).known().is_none_or(|known| known.len() == 1));
    }

    #[test]
    fn what_btrfs_prints_is_read() {
        let header = "     Total   Exclusive  Set shared  Filename\n";
        let line = "  42033152      331776    41701376  /data/backups/a/20261123T205430Z\n";
        assert_eq!(parse(&format!("{header}{line}")).unwrap(), 331_776);
        assert_eq!(parse(&format!("{header}         0           0           -  /data/x\n")).unwrap(), 0);
        assert!(parse("header\nERROR: no\n").is_err());
    }
}
