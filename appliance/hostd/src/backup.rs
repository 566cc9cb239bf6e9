//! Making a backup: snapshot, tar index, manifest, and only then its name (design D8).
//!
//! The snapshot is made under a name that says "partial"; the backup appears by one rename when everything is beside
//! it. So a backup is there completely or not at all, and what is left of a power cut can be deleted safely.

use crate::cluster::Server;
use crate::ledger::Ledger;
use crate::places::Places;
use crate::sandbox::{Sandbox, group_id};
use crate::{btrfs, catalog};
use anyhow::{Context, Result, ensure};
use api::{Backup, COMMENT_MAX, Checkpoint, MANIFEST_FORMAT, Manifest, PostgresInfo, Sizes, Verification};
use backups::layout::{self, Fate};
use backups::{BackupId, Entry, index_path, is_taken, partial_path};
use hostd::{BackupRequest, Step, reached};
use jiff::Timestamp;
use replica::{ClusterState, ControlData, Identified, promise};
use std::ffi::OsStr;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::Instant;

/// Makes a backup of the replica. Its WAL sender is asked as `user`, where it runs.
pub async fn create(
    places: &Places,
    ledger: &Ledger,
    request: BackupRequest,
    user: Option<&str>,
) -> Result<Backup> {
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
    // After whoever asks for the backup has asked it: no more than this can have been replayed then.
    let identified = match user {
        Some(user) => Server::identify(places, request.monitor.id, user).await,
        None => Err(anyhow::anyhow!("it does not run")),
    };
    let identified = identified.inspect_err(|error| {
        tracing::warn!(
            "what the replica says of its WAL cannot be compared with its WAL sender's words: {error:#}"
        );
    });
    let newest = listed
        .iter()
        .filter_map(|entry| match entry {
            Entry::Complete(backup) => Some(backup),
            Entry::Damaged { .. } => None,
        })
        .max_by_key(|backup| backup.order());
    let before = newest.and_then(|backup| backup.postgresql.checkpoint.clone());
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
    let made = Made { sequence, created, snapshot_ms, identified: identified.ok(), before };
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

/// The last checkpoint in a backup that is made at `created`, where the backup before had `before`. The monitor's clock may be
/// wrong, so one that was there already is as old as it was then.
fn checkpoint(control: &ControlData, before: Option<Checkpoint>, created: Timestamp) -> Option<Checkpoint> {
    match before {
        Some(before) if before.lsn == control.checkpoint => Some(before),
        _ => {
            let at = control.checkpoint_time?.min(created);
            Some(Checkpoint { lsn: control.checkpoint.clone(), at })
        }
    }
}

/// Whether the tar has this entry of the snapshot. A tablespace that lies outside is refused before and by a verification, and
/// stays in the tar, so that a restore says what is missing.
fn is_taken_by_a_restore(path: &Path, kind: &vtar::Kind) -> bool {
    let target;
    let kind = match kind {
        vtar::Kind::Directory => layout::Kind::Folder,
        vtar::Kind::File(_) => layout::Kind::File,
        vtar::Kind::Symlink(link) => {
            target = Path::new(OsStr::from_bytes(link)).to_owned();
            layout::Kind::Link(&target)
        }
    };
    layout::fate(path, kind) != Fate::LeftOut
}

/// What is known of a snapshot.
struct Made {
    sequence: u64,
    created: Timestamp,
    snapshot_ms: f64,
    /// What the replica's WAL sender said.
    identified: Option<Identified>,
    /// The checkpoint of the backup before.
    before: Option<Checkpoint>,
}

async fn complete(
    places: &Places,
    request: BackupRequest,
    folder: &Path,
    id: &BackupId,
    Made { sequence, created, snapshot_ms, identified, before }: Made,
) -> Result<Backup> {
    let partial = partial_path(folder, id);
    let control = Sandbox::replica(places, &partial).control_data().await?;
    ensure!(
        control.state == ClusterState::InArchiveRecovery,
        "the replica is not a standby any more (its state is {}): it is restarted as one",
        control.state
    );
    let said = request.flushed_lsn.parse().context("the WAL position that is asked for is not one")?;
    let promise = promise(said, request.timeline, identified, &control);
    if let Some(contradiction) = &promise.contradiction {
        tracing::error!(
            "the replica contradicts itself: {contradiction}; the backup promises {}",
            promise.lsn
        );
    }
    let index_file = index_path(folder, id);
    let owner = (nix::unistd::getuid().as_raw(), group_id(&places.readers)?.as_raw());
    let (tree, file) = (partial.clone(), index_file.clone());
    let write = move || {
        let mut summary = None;
        files::replace(&file, 0o640, Some(owner), |file| {
            summary =
                Some(vtar::write_index_of(&tree, is_taken_by_a_restore, file).map_err(io::Error::other)?);
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
            timeline: promise.timeline,
            superuser: request.superuser,
            flushed_lsn: promise.lsn.to_string(),
            checkpoint: checkpoint(&control, before, created),
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
