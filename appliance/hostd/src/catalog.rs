//! Changing what is on record of a backup, and deleting backups: the effects behind pin, comment and rotation.

use crate::btrfs;
use crate::places::Places;
use crate::sandbox::group_id;
use anyhow::{Context, Result, bail, ensure};
use api::{Backup, COMMENT_MAX, Manifest};
use backups::{BackupId, Entry, PARTIAL_PREFIX, index_path, manifest_path, read_manifest, write_manifest};
use hostd::{Change, Step, reached};
use nix::sys::statvfs::statvfs;
use std::path::Path;
use uuid::Uuid;

/// Every backup that can be read, of every monitor, each monitor's oldest first. Damaged ones are left out: nothing is decided about
/// what is not known.
pub fn backups(places: &Places) -> Result<Vec<Backup>> {
    let root = places.data.join("backups");
    let cannot_list = || format!("cannot list the backups in {}", root.display());
    let mut found = Vec::new();
    for monitor in backups::monitors(&root).with_context(cannot_list)? {
        for entry in backups::list(&places.backups(monitor)).with_context(cannot_list)? {
            if let Entry::Complete(backup) = entry {
                found.push(*backup);
            }
        }
    }
    found.sort_by(|one, other| (one.monitor.id, one.order()).cmp(&(other.monitor.id, other.order())));
    Ok(found)
}

/// Whether there is any backup, readable or not.
pub fn has_any(places: &Places) -> Result<bool> {
    let root = places.data.join("backups");
    let cannot_list = || format!("cannot list the backups in {}", root.display());
    for monitor in backups::monitors(&root).with_context(cannot_list)? {
        if !backups::list(&places.backups(monitor)).with_context(cannot_list)?.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Reads the manifest of a backup that is there.
pub fn read(places: &Places, monitor: Uuid, id: &BackupId) -> Result<Manifest> {
    let folder = places.backups(monitor);
    ensure!(folder.join(id.as_str()).is_dir(), "there is no backup {id} of monitor {monitor}");
    Ok(read_manifest(&folder, id)?)
}

/// Writes the manifest of a backup for root and the group of its readers.
pub fn write(places: &Places, manifest: &Manifest) -> Result<()> {
    let backup = &manifest.backup;
    let owner = (nix::unistd::getuid().as_raw(), group_id(&places.readers)?.as_raw());
    write_manifest(&places.backups(backup.monitor.id), manifest, Some(owner))
        .with_context(|| format!("cannot write the manifest of {}", backup.id))
}

/// Changes a backup's record.
pub fn change(places: &Places, monitor: Uuid, id: &BackupId, change: Change) -> Result<Backup> {
    let mut manifest = read(places, monitor, id)?;
    let backup = &mut manifest.backup;
    match change {
        Change::Comment(comment) => {
            let length = comment.chars().count();
            ensure!(length <= COMMENT_MAX, "a comment has at most {COMMENT_MAX} characters");
            backup.comment = comment;
        }
        Change::Pinned(pinned) => backup.pinned = pinned,
    }
    write(places, &manifest)?;
    Ok(manifest.backup)
}

/// The monitor whose backup on the data volume at `data` has this id.
///
/// # Errors
/// No backup has it, or those of several monitors have.
pub fn owner(data: &Path, id: &BackupId) -> Result<Uuid> {
    let root = data.join("backups");
    let monitors = backups::monitors(&root).with_context(|| format!("cannot list {}", root.display()))?;
    let mut owners =
        monitors.into_iter().filter(|monitor| root.join(monitor.to_string()).join(id.as_str()).is_dir());
    match (owners.next(), owners.next()) {
        (Some(owner), None) => Ok(owner),
        (None, _) => bail!("there is no backup {id}"),
        (Some(one), Some(other)) => {
            bail!("monitors {one} and {other} both have a backup {id}; say whose with --monitor")
        }
    }
}

/// Deletes a backup and waits until its space is free. It loses its name first: after a power cut at any later point
/// what is left is deleted at the next start.
pub async fn delete(places: &Places, monitor: Uuid, id: &BackupId) -> Result<()> {
    let folder = places.backups(monitor);
    let (path, partial) = (folder.join(id.as_str()), folder.join(format!("{PARTIAL_PREFIX}{id}")));
    ensure!(path.is_dir(), "there is no backup {id} of monitor {monitor}");
    files::rename(&path, &partial)?;
    reached(Step::DeletionUnnamed);
    for beside in [manifest_path(&folder, id), index_path(&folder, id)] {
        files::remove(&beside)?;
    }
    reached(Step::DeletionRecords);
    btrfs::delete(&partial).await?;
    reached(Step::DeletionSubvolume);
    btrfs::wait_until_deleted(&places.data).await
}

/// Waits until what is free on the data volume is what will be: what was deleted gives its space back later, and what was
/// written counts as free until it has its place on the disk.
pub async fn settle(places: &Places) -> Result<()> {
    let data = places.data.clone();
    let bring_to_disk = move || nix::unistd::syncfs(std::fs::File::open(data)?).map_err(std::io::Error::from);
    tokio::task::spawn_blocking(bring_to_disk)
        .await?
        .with_context(|| format!("cannot bring what was written to {} to the disk", places.data.display()))?;
    btrfs::wait_until_deleted(&places.data).await
}

/// Size of the data volume and what is free on it, in bytes.
pub fn room(places: &Places) -> Result<(u64, u64)> {
    let data = &places.data;
    let volume = statvfs(data).with_context(|| format!("cannot ask for free space on {}", data.display()))?;
    Ok((volume.blocks() * volume.fragment_size(), volume.blocks_available() * volume.fragment_size()))
}
