//! Changing what is on record of a backup, and deleting backups: the effects behind pin, comment and rotation.

use crate::btrfs;
use crate::places::Places;
use crate::sandbox::group_id;
use anyhow::{Context, Result, ensure};
use api::{Backup, COMMENT_MAX};
use backups::{BackupId, Entry, PARTIAL_PREFIX, index_path, manifest_path, read_manifest, write_manifest};
use hostd::{Change, Step, reached};
use nix::sys::statvfs::statvfs;
use uuid::Uuid;

/// Every backup that can be read, of every monitor, oldest first. Damaged ones are left out: nothing is decided about
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
    found.sort_by_key(|backup| backup.created);
    Ok(found)
}

/// Reads the manifest of a backup that is there.
pub fn read(places: &Places, monitor: Uuid, id: &BackupId) -> Result<Backup> {
    let folder = places.backups(monitor);
    ensure!(folder.join(id.as_str()).is_dir(), "there is no backup {id} of monitor {monitor}");
    Ok(read_manifest(&folder, id)?)
}

/// Writes the manifest of a backup for root and the group of its readers.
pub fn write(places: &Places, backup: &Backup) -> Result<()> {
    let owner = (nix::unistd::getuid().as_raw(), group_id(&places.readers)?.as_raw());
    write_manifest(&places.backups(backup.monitor.id), backup, Some(owner))
        .with_context(|| format!("cannot write the manifest of {}", backup.id))
}

/// Changes a backup's record.
pub fn change(places: &Places, monitor: Uuid, id: &BackupId, change: Change) -> Result<Backup> {
    let mut backup = read(places, monitor, id)?;
    match change {
        Change::Comment(comment) => {
            let length = comment.chars().count();
            ensure!(length <= COMMENT_MAX, "a comment has at most {COMMENT_MAX} characters");
            backup.comment = comment;
        }
        Change::Pinned(pinned) => backup.pinned = pinned,
    }
    write(places, &backup)?;
    Ok(backup)
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

/// Size of the data volume and what is free on it, in bytes.
pub fn room(places: &Places) -> Result<(u64, u64)> {
    let data = &places.data;
    let volume = statvfs(data).with_context(|| format!("cannot ask for free space on {}", data.display()))?;
    Ok((volume.blocks() * volume.fragment_size(), volume.blocks_available() * volume.fragment_size()))
}
