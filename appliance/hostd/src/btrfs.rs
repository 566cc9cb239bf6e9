//! The few btrfs operations, by `btrfs` of btrfs-progs.

use crate::program::{self, Bounds};
use anyhow::{Context, Result, bail};
use std::ffi::OsStr;
use std::path::Path;
use std::time::Duration;
use tokio::process::Command;

/// A volume of many disks may take minutes to commit. Longer nobody waits: whoever asked holds what others
/// need.
const LIMIT: Duration = Duration::from_secs(600);

/// Makes an empty subvolume.
pub async fn create(path: &Path) -> Result<()> {
    btrfs(["subvolume".as_ref(), "create".as_ref(), path.as_os_str()]).await
}

/// Makes a read-only snapshot of `source` at `target`.
pub async fn snapshot(source: &Path, target: &Path) -> Result<()> {
    btrfs(["subvolume".as_ref(), "snapshot".as_ref(), "-r".as_ref(), source.as_os_str(), target.as_os_str()])
        .await
}

/// Deletes a subvolume, if it is there; its space is free later. What counts is whether it is gone: `btrfs`
/// may be killed when that is done, and may say that it is done when it is not.
pub async fn delete(path: &Path) -> Result<()> {
    if !is_there(path)? {
        return Ok(());
    }
    let said =
        btrfs(["subvolume".as_ref(), "delete".as_ref(), "--commit-after".as_ref(), path.as_os_str()]).await;
    match (said, is_there(path)?) {
        (Ok(()), false) => Ok(()),
        (Err(error), false) => {
            tracing::warn!("{error:#}; {} is gone all the same", path.display());
            Ok(())
        }
        (Ok(()), true) => bail!("btrfs says that it has deleted {}, which is still there", path.display()),
        (Err(error), true) => Err(error),
    }
}

fn is_there(path: &Path) -> Result<bool> {
    match std::fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).with_context(|| format!("cannot look for {}", path.display())),
    }
}

/// Makes a writable snapshot of `source` at `target`.
pub async fn clone(source: &Path, target: &Path) -> Result<()> {
    btrfs(["subvolume".as_ref(), "snapshot".as_ref(), source.as_os_str(), target.as_os_str()]).await
}

/// Waits until the space of every deleted subvolume on the volume at `path` is free.
pub async fn wait_until_deleted(path: &Path) -> Result<()> {
    btrfs(["subvolume".as_ref(), "sync".as_ref(), path.as_os_str()]).await
}

/// Bytes of data that the volume at `path` holds, each block counted once, whatever its profile and however many share it.
pub async fn data_used(path: &Path) -> Result<u64> {
    let mut command = Command::new("btrfs");
    command.args(["filesystem", "df", "--raw"]).arg(path);
    let printed = program::output(command, Bounds::SHORT).await.context("btrfs filesystem df")?;
    let printed = String::from_utf8_lossy(&printed);
    parse_data_used(&printed).with_context(|| format!("btrfs filesystem df printed {printed:?}"))
}

/// Sum over lines like `Data, RAID1: total=2147483648, used=1310720`; there are two while a volume changes its profile.
fn parse_data_used(printed: &str) -> Option<u64> {
    let used = |line: &str| line.rsplit_once("used=")?.1.trim().parse::<u64>().ok();
    let data =
        printed.lines().filter(|line| line.starts_with("Data, ") || line.starts_with("Data+Metadata, "));
    let each: Vec<u64> = data.map(used).collect::<Option<_>>()?;
    (!each.is_empty()).then(|| each.into_iter().sum())
}

/// Runs `btrfs` with these arguments.
async fn btrfs<'a>(arguments: impl IntoIterator<Item = &'a OsStr>) -> Result<()> {
    let mut command = Command::new("btrfs");
    command.args(arguments);
    let arguments: Vec<_> = command.as_std().get_args().map(OsStr::to_string_lossy).collect();
    let what = format!("btrfs {}", arguments.join(" "));
    program::output(command, Bounds::SHORT.within(LIMIT)).await.map(drop).context(what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_are_counted_once_and_metadata_not() {
        let printed = "Data, single: total=8388608, used=12288\nSystem, DUP: total=8388608, used=16384\n\
                       Metadata, DUP: total=1073741824, used=131072\nGlobalReserve, single: total=5767168, used=0\n";
        let changing = "Data, RAID1: total=2147483648, used=1000\nData, single: total=8388608, used=200\n";
        let table = [
            (printed, Some(12_288)),
            (changing, Some(1200)),
            ("Data+Metadata, single: total=1, used=5\n", Some(5)),
            ("Metadata, DUP: total=1, used=5\n", None),
            ("Data, single: total=1\n", None),
            ("", None),
        ];
        for (printed, expected) in table {
            assert_eq!(parse_data_used(printed), expected, "{printed}");
        }
    }
}
