//! Changing what is on record of a backup, and deleting backups: the effects behind pin, comment and rotation.

use crate::btrfs;
use crate::places::Places;
use crate::sandbox::group_id;
use anyhow::{Context, Result, bail, ensure};
use api::{Backup, COMMENT_MAX, Manifest};
use backups::{BackupId, Entry, deleting_path, index_path, manifest_path, read_manifest, write_manifest};
use hostd::{Change, Step, reached};
use nix::sys::statvfs::statvfs;
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use tokio::sync::Mutex;
use uuid::Uuid;

/// Held while the volume is brought to the disk, also by a thread that is stuck in the kernel: there is one
/// of them at most.
static SYNCING: LazyLock<Arc<Mutex<()>>> = LazyLock::new(Arc::default);

/// Time to bring what was written to the disk.
const SYNC_LIMIT: Duration = Duration::from_secs(600);

/// Every backup that can be read, of every monitor, each monitor's oldest first. Damaged ones are left out:
/// nothing is decided about what is not known.
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

/// Keeps what is known of the manifests for the next start, here and of whoever lists them.
pub fn keep_lists(places: &Places) -> Result<()> {
    let root = places.data.join("backups");
    let owner = (nix::unistd::getuid().as_raw(), group_id(&places.readers)?.as_raw());
    let monitors = backups::monitors(&root).with_context(|| format!("cannot read {}", root.display()))?;
    for monitor in monitors {
        let folder = places.backups(monitor);
        backups::list(&folder).with_context(|| format!("cannot list {}", folder.display()))?;
        backups::keep_list(&folder, Some(owner))
            .with_context(|| format!("cannot keep the list of {monitor}"))?;
    }
    Ok(())
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

/// Deletes a backup and waits until its space is free.
///
/// It takes another name first, which marks it: from then on it is no backup. Then its snapshot goes, then
/// its index and manifest, and with the snapshot the mark is gone. Each step can fail or be cut and is done
/// again, by whoever finds the mark. While one is marked no other one is: what cannot be deleted would
/// otherwise cost one backup after the other, and free nothing.
pub async fn delete(places: &Places, monitor: Uuid, id: &BackupId) -> Result<()> {
    let folder = places.backups(monitor);
    let path = folder.join(id.as_str());
    let begun = unfinished(places)?;
    if !begun.contains(&(monitor, id.clone())) {
        ensure!(path.is_dir(), "there is no backup {id} of monitor {monitor}");
        for (monitor, begun) in begun {
            finish_deletion(places, monitor, &begun).await.with_context(|| {
                format!(
                    "backup {begun} is being deleted, and before that is done {id} is not; try again later"
                )
            })?;
        }
        files::rename(&path, &deleting_path(&folder, id))?;
        reached(Step::DeletionUnnamed);
    }
    finish_deletion(places, monitor, id).await?;
    btrfs::wait_until_deleted(&places.data).await
}

/// The backups whose deletion has begun and is not done.
pub fn unfinished(places: &Places) -> Result<Vec<(Uuid, BackupId)>> {
    let root = places.data.join("backups");
    let cannot_list = || format!("cannot look for unfinished deletions in {}", root.display());
    let mut found = Vec::new();
    for monitor in backups::monitors(&root).with_context(cannot_list)? {
        let begun = backups::deleting(&places.backups(monitor)).with_context(cannot_list)?;
        found.extend(begun.into_iter().map(|id| (monitor, id)));
    }
    Ok(found)
}

/// Goes on with a deletion from wherever it was left.
pub async fn finish_deletion(places: &Places, monitor: Uuid, id: &BackupId) -> Result<()> {
    let folder = places.backups(monitor);
    btrfs::delete(&deleting_path(&folder, id)).await?;
    reached(Step::DeletionSubvolume);
    // A backup that has the name again is another one, and so is what lies beside it.
    if !folder.join(id.as_str()).exists() {
        for beside in [index_path(&folder, id), manifest_path(&folder, id)] {
            files::remove(&beside)?;
        }
    }
    reached(Step::DeletionRecords);
    Ok(())
}

/// Waits until what is free on the data volume is what will be: deletions that were begun are done, what was
/// deleted gives its space back later, and what was written counts as free until it has its place on the
/// disk.
///
/// # Errors
/// One of it could not be done, so what is free says nothing yet.
pub async fn settle(places: &Places) -> Result<()> {
    for (monitor, id) in unfinished(places)? {
        let cannot = || format!("cannot finish the deletion of backup {id}");
        finish_deletion(places, monitor, &id).await.with_context(cannot)?;
    }
    bring_to_disk(places).await?;
    btrfs::wait_until_deleted(&places.data).await
}

/// Has everything that was written to the data volume take its place on the disk.
pub async fn bring_to_disk(places: &Places) -> Result<()> {
    let data = places.data.clone();
    let bring = async {
        let one = Arc::clone(&SYNCING).lock_owned().await;
        let bring = move || {
            let _one = one;
            nix::unistd::syncfs(std::fs::File::open(data)?).map_err(std::io::Error::from)
        };
        anyhow::Ok(tokio::task::spawn_blocking(bring).await??)
    };
    let cannot = || format!("cannot bring what was written to {} to the disk", places.data.display());
    tokio::time::timeout(hostd::time_limit(SYNC_LIMIT), bring)
        .await
        .map_err(|_| anyhow::anyhow!("it was not done within {} s", SYNC_LIMIT.as_secs()))
        .and_then(|brought| brought)
        .with_context(cannot)
}

/// Size of the data volume and what is free on it, in bytes.
pub fn room(places: &Places) -> Result<(u64, u64)> {
    let data = &places.data;
    let volume = statvfs(data).with_context(|| format!("cannot ask for free space on {}", data.display()))?;
    Ok((volume.blocks() * volume.fragment_size(), volume.blocks_available() * volume.fragment_size()))
}
