//! Making a backup: snapshot, tar index, manifest, and only then its name (design D8).
//!
//! The snapshot is made under a name that says "partial"; the backup appears by one rename when everything is beside
//! it. So a backup is there completely or not at all, and what is left of a power cut can be deleted safely.

use crate::ledger::Ledger;
use crate::places::Places;
use crate::sandbox::{Sandbox, group_id};
use crate::{btrfs, catalog};
use anyhow::{Context, Result, ensure};
use api::{Backup, COMMENT_MAX, MANIFEST_FORMAT, Manifest, PostgresInfo, Sizes, Verification};
use backups::{BackupId, Entry, index_path, is_taken, partial_path};
use hostd::{BackupRequest, Step, reached};
use jiff::Timestamp;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::Instant;

/// Makes a backup of the replica.
pub async fn create(places: &Places, ledger: &Ledger, request: BackupRequest) -> Result<Backup> {
    ensure!(request.comment.chars().count() <= COMMENT_MAX, "a comment has at most {COMMENT_MAX} characters");
    api::check_configuration(&request.configuration).context("the backup is refused")?;
    let replica = places.replica(request.monitor.id);
    ensure!(
        places.has_replica(request.monitor.id)?,
        "there is no replica of monitor {} to back up",
        request.monitor.id
    );
    let folder = places.backups(request.monitor.id);
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(&folder)
        .with_context(|| format!("cannot make {}", folder.display()))?;
    let listed = backups::list(&folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let highest = listed.iter().map(|entry| match entry {
        Entry::Complete(backup) => backup.sequence,
        Entry::Damaged { .. } => 0,
    });
    let sequence = ledger.next_sequence(request.monitor.id, highest.max().unwrap_or(0))?;
    let created = Timestamp::now();
    // What cannot be told counts as taken.
    let id = BackupId::at(created, |id| is_taken(&folder, id).unwrap_or(true))
        .context("there are too many backups of this second; try again")?;
    let partial = partial_path(&folder, &id);
    let started = Instant::now();
    if let Err(error) = btrfs::snapshot(&replica, &partial).await {
        // It may be there all the same: btrfs was killed when it was made.
        discard(&folder, &id, &partial).await;
        return Err(error);
    }
    let snapshot_ms = started.elapsed().as_secs_f64() * 1000.0;
    reached(Step::BackupSnapshot);
    let made = Made { sequence, created, snapshot_ms };
    let attempt = complete(places, request, &folder, &id, made).await;
    // With its name the backup is there; until then nothing of it stays.
    if attempt.is_err() && partial.exists() {
        discard(&folder, &id, &partial).await;
    }
    attempt
}

/// Deletes what a failed backup made. The backup's own error is the one to report, so these are logged; what
/// stays is left over and deleted later.
async fn discard(folder: &Path, id: &BackupId, partial: &Path) {
    for path in [index_path(folder, id), backups::manifest_path(folder, id)] {
        if let Err(error) = files::remove(&path) {
            tracing::error!("a backup failed, and so does cleaning up after it: {error:#}");
        }
    }
    if let Err(error) = btrfs::delete(partial).await {
        tracing::error!("cannot delete the snapshot of a backup that failed: {error:#}");
    }
}

/// What is known of a snapshot.
struct Made {
    sequence: u64,
    created: Timestamp,
    snapshot_ms: f64,
}

async fn complete(
    places: &Places,
    request: BackupRequest,
    folder: &Path,
    id: &BackupId,
    Made { sequence, created, snapshot_ms }: Made,
) -> Result<Backup> {
    let partial = partial_path(folder, id);
    let control = Sandbox::replica(places, &partial).control_data().await?;
    let index_file = index_path(folder, id);
    let owner = (nix::unistd::getuid().as_raw(), group_id(&places.readers)?.as_raw());
    let (tree, file) = (partial.clone(), index_file.clone());
    let write = move || {
        let mut summary = None;
        files::replace(&file, 0o640, Some(owner), |file| {
            summary = Some(vtar::write_index(&tree, file).map_err(io::Error::other)?);
            Ok(())
        })?;
        anyhow::Ok(summary)
    };
    let index = tokio::task::spawn_blocking(write)
        .await?
        .with_context(|| format!("cannot write {}", index_file.display()))?
        .context("the tar index was not written")?;
    reached(Step::BackupIndex);
    let backup = Backup {
        format: MANIFEST_FORMAT,
        id: id.to_string(),
        sequence,
        created,
        reason: request.reason,
        comment: request.comment,
        pinned: false,
        monitor: request.monitor,
        postgresql: PostgresInfo {
            major: replica::POSTGRESQL_MAJOR,
            version: request.version,
            system_identifier: control.system_identifier.to_string(),
            timeline: request.timeline,
            superuser: request.superuser,
            flushed_lsn: request.flushed_lsn,
            block_size: control.block_size,
            checksums: control.checksums,
            // The replica runs here, so it is the monitor's too.
            architecture: Some(std::env::consts::ARCH.to_owned()),
            collations: request.collations,
        },
        sizes: Sizes { files: index.content_bytes, tar: index.tar_bytes },
        snapshot_ms,
        verification: Verification::Pending,
        read: None,
        trouble: None,
    };
    let manifest = Manifest { backup, configuration: request.configuration, digests: None };
    catalog::write(places, &manifest)?;
    reached(Step::BackupManifest);
    files::rename(&partial, &folder.join(id.as_str()))?;
    reached(Step::BackupNamed);
    Ok(manifest.backup)
}
