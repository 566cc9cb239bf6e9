//! A full copy: `pg_basebackup` into a new subvolume, which becomes the replica when it is complete (design D6).

use crate::clock::Clock;
use crate::lines::Lines;
use crate::places::Places;
use crate::program::Bounds;
use crate::replies::Replies;
use crate::sandbox::{Sandbox, user_ids};
use crate::{btrfs, catalog, cluster, copy_check, rotate};
use anyhow::{Context, Result, bail, ensure};
use api::Peer;
use hostd::{Reply, Step, Tablespace, reached};
use replica::{CERTIFICATE_FILE, COPY_PATIENCE, CopyProgress, PASS_FILE, Source, parse_basebackup_progress};
use std::collections::VecDeque;
use std::os::unix::fs::chown;
use std::path::Path;
use std::pin::Pin;
use std::process::Stdio;
use std::time::Duration;
use tokio::sync::Mutex;

/// Lines of `pg_basebackup`'s output that go into an error.
const ERROR_LINES: usize = 4;

/// Time to make a copy a replica: it moves some files.
const ADOPT_LIMIT: Duration = Duration::from_secs(600);

/// Copies the cluster of `peer`, into the place of a replica that is there if `replace` says so. What an earlier attempt
/// left is deleted first; after a failure nothing is left. The copy is given up when `left` is ready: whoever asked is
/// gone.
pub async fn run(
    places: &Places,
    peer: &Peer,
    tablespaces: &[Tablespace],
    replace: bool,
    room: &mut Room<'_>,
    replies: &mut Replies,
    left: Pin<&mut impl Future<Output = ()>>,
) -> Result<()> {
    let replica = places.replica(peer.id);
    let exists = places.has_replica(peer.id)?;
    ensure!(
        replace || !exists,
        "there is a replica at {} already, and nobody said that the copy replaces it",
        replica.display()
    );
    let copying = places.copying(peer.id);
    if copying.try_exists().with_context(|| format!("cannot look for {}", copying.display()))? {
        btrfs::delete(&copying).await.context("cannot delete what an interrupted copy left")?;
    }
    btrfs::create(&copying).await?;
    reached(Step::CopyBegun);
    let generation = room.generation;
    let attempt = async {
        copy_into(places, peer, tablespaces, &copying, room, replies, left).await?;
        copy_check::keep(places, peer.id, generation).await
    };
    if let Err(error) = attempt.await {
        if let Err(cleanup) = btrfs::delete(&copying).await {
            tracing::error!("cannot delete the incomplete copy {}: {cleanup:#}", copying.display());
        }
        return Err(error);
    }
    reached(Step::CopyAdopted);
    if !exists {
        files::rename(&copying, &replica)?;
        reached(Step::CopyNamed);
        return Ok(());
    }
    // In one step: at every moment there is a replica, and what has the other name is a leftover.
    files::exchange(&copying, &replica)?;
    reached(Step::CopyExchanged);
    if let Err(error) = btrfs::delete(&copying).await {
        // The copy is complete; what has this name is deleted at the next start.
        tracing::error!("cannot delete the replica that was replaced: {error:#}");
    }
    Ok(())
}

async fn copy_into(
    places: &Places,
    peer: &Peer,
    tablespaces: &[Tablespace],
    copying: &Path,
    room: &mut Room<'_>,
    replies: &mut Replies,
    mut left: Pin<&mut impl Future<Output = ()>>,
) -> Result<()> {
    let (uid, gid) = user_ids(&places.cluster_user)?;
    chown(copying, Some(uid.as_raw()), Some(gid.as_raw()))
        .with_context(|| format!("cannot give {} to {}", copying.display(), places.cluster_user))?;
    let sandbox = Sandbox::replica(places, copying);
    let run = cluster::write_credentials(places, peer)?;
    let (passfile, certificate) = (run.join(PASS_FILE), run.join(CERTIFICATE_FILE));
    let conninfo = Source::from(peer).conninfo(
        &passfile.to_string_lossy(),
        &certificate.to_string_lossy(),
        COPY_PATIENCE,
    );
    let mut arguments: Vec<String> = [
        "--dbname",
        &conninfo,
        "--pgdata",
        replica::PGDATA,
        "--wal-method",
        "stream",
        "--slot",
        &peer.slot,
        "--checkpoint",
        "fast",
        "--manifest-checksums",
        "CRC32C",
        "--no-password",
        "--progress",
        "--verbose",
    ]
    .map(str::to_owned)
    .to_vec();
    for Tablespace { oid, location } in tablespaces {
        arguments.push("--tablespace-mapping".into());
        arguments.push(format!("{}={}/{oid}", escape_mapping(location), replica::TABLESPACES));
    }
    let mut child = sandbox
        .command(&places.program("pg_basebackup"), &arguments)?
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start pg_basebackup")?;
    let mut lines = Lines::new(child.stderr.take().context("pg_basebackup's output is not connected")?);
    let mut last: VecDeque<String> = VecDeque::new();
    loop {
        let line = tokio::select! {
            line = lines.next() => line.context("cannot read pg_basebackup's output")?,
            () = left.as_mut() => {
                child.kill().await.context("cannot stop pg_basebackup")?;
                bail!("the full copy was given up: whoever asked for it has left");
            }
        };
        let Some(line) = line else { break };
        if let Some(at) = parse_basebackup_progress(&line) {
            room.make(places, copying, at, replies).await?;
            if at.done > 0 {
                reached(Step::CopyUnderWay);
            }
            replies.send(&Reply::Progress(at)).await?;
        } else {
            tracing::info!("pg_basebackup: {line}");
            if last.len() == ERROR_LINES {
                last.pop_front();
            }
            last.push_back(line.trim_start_matches("pg_basebackup: ").to_owned());
        }
    }
    let status = child.wait().await.context("cannot wait for pg_basebackup")?;
    if !status.success() {
        bail!("the full copy failed: {}", Vec::from(last).join(" "));
    }
    reached(Step::CopyReceived);
    let own = std::env::current_exe().context("cannot find my own program")?;
    sandbox.output(&own, ["adopt"], Bounds::SHORT.within(ADOPT_LIMIT)).await?;
    sandbox.control_data().await.map(drop)
}

/// Where a copy finds room.
pub struct Room<'a> {
    /// The clock as watched: rotation needs it.
    pub clock: &'a Clock,
    /// Held while backups go.
    pub catalog: &'a Mutex<()>,
    /// Of what is kept of copies for their check.
    pub generation: &'a copy_check::Generation,
    /// There is just enough, and nothing more may go: as long as it fits, asking again would not change that.
    pub is_tight: bool,
}

impl Room<'_> {
    /// Makes sure that what is left of the copy fits, as soon as its size is known: before a copy for nothing, and before
    /// the volume is full. Where it does not, backups go, down to the newest verified one (design, section 7).
    async fn make(
        &mut self,
        places: &Places,
        copying: &Path,
        at: CopyProgress,
        replies: &mut Replies,
    ) -> Result<()> {
        let left = at.total.saturating_sub(at.done);
        let free = || -> Result<u64> { Ok(catalog::room(places)?.1) };
        if free()? >= left.saturating_add(replica::FULL_BYTES) || (self.is_tight && free()? > left) {
            return Ok(());
        }
        copy_check::drop_all(places, self.generation).await?;
        let _one_at_a_time = self.catalog.lock().await;
        // The copy goes on while backups go, and on a fast line is at its end by then: what it has written is asked of its
        // files, or backups would go for room that it has taken already. The WAL that comes beside it is not of its size.
        let left = || -> Result<u64> {
            let log = copying.join(replica::PGDATA).join("pg_wal");
            Ok(at.total.saturating_sub(files::bytes_below(copying, Some(&log))?))
        };
        let (deleted, problem) = rotate::make_room(places, self.clock, left).await?;
        for deletion in deleted {
            replies.send(&Reply::Deleted(deletion)).await?;
        }
        let Some(problem) = problem else { return Ok(()) };
        // It fits, as far as is known.
        self.is_tight = free()? > left()?;
        ensure!(self.is_tight, problem);
        tracing::warn!("the copy goes on with little room: {problem}");
        Ok(())
    }
}

/// `pg_basebackup` takes `=` in a location as `\=` (its documentation, `--tablespace-mapping`).
fn escape_mapping(location: &str) -> String {
    location.replace('=', "\\=")
}
