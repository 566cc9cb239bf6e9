//! How much the clone of a backup may write: a hard limit in btrfs, since a clone runs whatever the database
//! brings (design D7).
//!
//! btrfs counts what each subvolume writes (simple quotas: each extent belongs to the subvolume that wrote
//! it; nothing is shared, nothing is scanned) and refuses the clone more with `EDQUOT`. Switching it on takes
//! 15 ms whatever is stored. On 20 000 random writes of 8 KiB with 100 syncs into shared extents it cost
//! nothing that could be measured (4.5 s and 4.6 s). Full qgroups, which account each shared extent, stay off
//! (design D5). Measured against it: an overlay copies each table as a whole when PostgreSQL opens it for
//! writing, and a watcher that kills is late.

use crate::places::Places;
use crate::program::{self, Bounds};
use crate::stragglers;
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use tokio::process::Command;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// What a clone may write beside its recovery: WAL, statistics, temporary files.
const FLOOR: u64 = 2 * GIB;
/// The least with which it is worth trying.
const LEAST: u64 = 256 * MIB;
/// Bytes that recovery writes for a byte of WAL: a small record changes a page, and several of its pages are
/// whole ones.
const PER_WAL_BYTE: u64 = 4;

/// The limit for a clone that has `wal` bytes to replay while `free` bytes are free on the volume.
///
/// The room that low space keeps (design D11) may be used, as it is given back: on a server whose backups
/// fill the volume nothing else is ever free. What replay needs to go on is left alone.
///
/// # Errors
/// There is no room for it, as a sentence without full stop.
pub fn limit(wal: u64, free: u64) -> Result<u64, String> {
    let recovery = wal.saturating_mul(PER_WAL_BYTE);
    let available = free.saturating_sub(2 * replica::FULL_BYTES);
    let least = LEAST.saturating_add(recovery);
    if available < least {
        return Err(format!(
            "there is no room for its clone: {} MiB are free, and {} MiB are needed",
            free / MIB,
            (least.saturating_add(2 * replica::FULL_BYTES)).div_ceil(MIB)
        ));
    }
    Ok(FLOOR.saturating_add(recovery).min(available))
}

/// Lets the subvolume `clone` on the volume at `data` write so many bytes from now on, and not one more.
pub async fn set(data: &Path, clone: &Path, bytes: u64) -> Result<()> {
    // Says nothing where it is on already.
    btrfs(["quota".as_ref(), "enable".as_ref(), "--simple".as_ref(), data.as_os_str()])
        .await
        .context("what a clone writes cannot be limited")?;
    let bytes = bytes.to_string();
    btrfs(["qgroup".as_ref(), "limit".as_ref(), "-e".as_ref(), bytes.as_ref(), clone.as_os_str()])
        .await
        .context("what the clone writes cannot be limited")
}

/// Where btrfs tells what each subvolume has written.
const SYSFS: &str = "/sys/fs/btrfs";

/// Bytes that clones of backups take on the data volume now. Verification gives them back, so no backup has
/// to go for them. Those of one that is deleted count until they are free.
///
/// # Errors
/// It is not known.
pub fn clone_bytes(places: &Places) -> Result<u64> {
    let mountinfo = std::fs::read_to_string("/proc/self/mountinfo").context("cannot read the mounts")?;
    // A folder on another file system has no clones.
    let Some(device) = stragglers::device(&mountinfo, &places.data) else { return Ok(0) };
    let device = std::fs::canonicalize(&device).unwrap_or(device);
    let name = device.file_name().unwrap_or_default();
    for volume in folders(Path::new(SYSFS))? {
        if volume.join("devices").join(name).exists() {
            return limited(&volume.join("qgroups"));
        }
    }
    Ok(0)
}

/// The sum of what the subvolumes have written that have a limit: those are clones, and nothing else.
fn limited(groups: &Path) -> Result<u64> {
    if !groups.exists() {
        return Ok(0); // nothing is counted, so no clone has run: its limit comes first
    }
    let mut bytes = 0_u64;
    for group in folders(groups)? {
        let read = |name: &str| std::fs::read_to_string(group.join(name));
        // One that is removed meanwhile has given back all.
        let (Ok(limit), Ok(written)) = (read("max_exclusive"), read("exclusive")) else { continue };
        if limit.trim() != "0" {
            let written: u64 = written.trim().parse().context("btrfs counts in another form")?;
            bytes = bytes.saturating_add(written);
        }
    }
    Ok(bytes)
}

fn folders(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries =
        || std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>();
    let mut found: Vec<PathBuf> = entries().with_context(|| format!("cannot read {}", folder.display()))?;
    found.retain(|path| path.is_dir());
    Ok(found)
}

async fn btrfs<'a>(arguments: impl IntoIterator<Item = &'a std::ffi::OsStr>) -> Result<()> {
    let mut command = Command::new("btrfs");
    command.args(arguments);
    program::output(command, Bounds::SHORT).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clone_gets_its_floor_and_four_bytes_for_each_of_wal_but_nothing_that_replay_needs() {
        let table = [
            (0, 100 * GIB, Some(2 * GIB)),
            (GIB, 100 * GIB, Some(6 * GIB)),
            (0, 3 * GIB, Some(GIB)),
            (0, 2 * GIB + 256 * MIB, Some(256 * MIB)),
            (0, 2 * GIB + 255 * MIB, None),
            (GIB, 6 * GIB, None),
            (u64::MAX, u64::MAX, None),
            (0, 0, None),
        ];
        for (wal, free, expected) in table {
            let limit = limit(wal, free);
            assert_eq!(limit.clone().ok(), expected, "{wal} {free} {limit:?}");
        }
        assert!(limit(0, GIB).unwrap_err().contains("1024 MiB are free, and 2304 MiB are needed"));
    }

    #[test]
    fn only_what_has_a_limit_counts() {
        let groups = tempfile::tempdir().unwrap();
        for (name, limit, written) in [("0_5", 0, 7), ("0_256", 1000, 30), ("0_257", 2000, 12)] {
            let group = groups.path().join(name);
            std::fs::create_dir(&group).unwrap();
            std::fs::write(group.join("max_exclusive"), format!("{limit}\n")).unwrap();
            std::fs::write(group.join("exclusive"), format!("{written}\n")).unwrap();
        }
        std::fs::create_dir(groups.path().join("0_258")).unwrap();
        std::fs::write(groups.path().join("mode"), "squota").unwrap();
        assert_eq!(limited(groups.path()).unwrap(), 42);
        assert_eq!(limited(&groups.path().join("none")).unwrap(), 0);
    }
}
