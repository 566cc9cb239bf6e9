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

/// Runs `btrfs` with these arguments.
async fn btrfs<'a>(arguments: impl IntoIterator<Item = &'a OsStr>) -> Result<()> {
    let mut command = Command::new("btrfs");
    command.args(arguments);
    let arguments: Vec<_> = command.as_std().get_args().map(OsStr::to_string_lossy).collect();
    let what = format!("btrfs {}", arguments.join(" "));
    program::output(command, Bounds::SHORT.within(LIMIT)).await.map(drop).context(what)
}
