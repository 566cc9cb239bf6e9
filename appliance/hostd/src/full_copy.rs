//! A full copy: `pg_basebackup` into a new subvolume, which becomes the replica when it is complete (design D6).

use crate::copy_room::{Room, Watch};
use crate::lines::Lines;
use crate::places::Places;
use crate::program::{self, Bounds, Holder};
use crate::replace::Replace;
use crate::replies::Replies;
use crate::sandbox::{Sandbox, user_ids};
use crate::{btrfs, cluster, copy_check};
use anyhow::{Context, Result, anyhow, bail, ensure};
use api::{Deletion, Peer};
use hostd::{Reply, Step, Tablespace, reached};
use replica::{CERTIFICATE_FILE, COPY_PATIENCE, PASS_FILE, Source, name_of, parse_basebackup_progress};
use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::chown;
use std::path::Path;
use std::pin::{Pin, pin};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::{Child, Command};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::Instant;

/// Lines of `pg_basebackup`'s output that go into an error.
const ERROR_LINES: usize = 4;

/// A copy of which nothing has come for so long is given up. A checkpoint on the monitor, and bringing the
/// last of it to the disk here, take minutes.
const STALL: Duration = Duration::from_secs(1800);

/// Time to make a copy a replica: it moves some files.
const ADOPT_LIMIT: Duration = Duration::from_secs(600);

/// Copies the cluster of `peer`, into the place of a replica that is there if `replace` says so. What an earlier attempt
/// left is deleted first; after a failure nothing is left. The copy is given up when `left` is ready, which says
/// why.
pub async fn run(
    places: &Places,
    peer: &Peer,
    tablespaces: &[Tablespace],
    replace: Option<Replace>,
    room: &Room<'_>,
    replies: &mut Replies,
    mut left: Pin<&mut impl Future<Output = &'static str>>,
) -> Result<()> {
    let replica = places.replica(peer.id);
    let exists = places.has_replica(peer.id)?;
    ensure!(
        replace.is_some() || !exists,
        "there is a replica at {} already, and nobody said that the copy replaces it",
        replica.display()
    );
    let copying = places.copying(peer.id);
    if copying.try_exists().with_context(|| format!("cannot look for {}", copying.display()))? {
        btrfs::delete(&copying).await.context("cannot delete what an interrupted copy left")?;
    }
    // It may wait long for its turn, and a release waits for its end.
    let watch = unless_left(Watch::begin(room, peer.id), left.as_mut()).await??;
    let attempt = async {
        btrfs::create(&copying).await?;
        reached(Step::CopyBegun);
        copy_into(places, peer, tablespaces, &copying, &watch, replies, left).await?;
        if let (Some(replace), true) = (&replace, exists) {
            replace.check(places, peer, &copying).await?;
        }
        copy_check::keep(places, peer.id, room.generation).await
    };
    let attempt = attempt.await;
    watch.ended(attempt.is_ok());
    if let Err(error) = attempt {
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
        // The copy is complete; what has this name is left over, and deleted later.
        tracing::error!("cannot delete the replica that was replaced: {error:#}");
    }
    Ok(())
}

/// What comes of `work`, which ends when `left` is ready.
///
/// # Errors
/// It has ended so.
async fn unless_left<T>(
    work: impl Future<Output = T>,
    left: Pin<&mut impl Future<Output = &'static str>>,
) -> Result<T> {
    tokio::select! {
        done = work => Ok(done),
        why = left => bail!("the full copy was given up: {why}"),
    }
}

async fn copy_into(
    places: &Places,
    peer: &Peer,
    tablespaces: &[Tablespace],
    copying: &Path,
    watch: &Watch<'_>,
    replies: &mut Replies,
    left: Pin<&mut impl Future<Output = &'static str>>,
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
    let mut arguments: Vec<OsString> = [
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
    .map(OsString::from)
    .to_vec();
    for Tablespace { oid, location } in tablespaces {
        arguments.push("--tablespace-mapping".into());
        let mut mapping = escape_mapping(&name_of(location));
        mapping.push(format!("={}/{oid}", replica::TABLESPACES));
        arguments.push(mapping);
    }
    let command = sandbox.command(&places.program("pg_basebackup"), &arguments)?;
    let (gone, mut going) = unbounded_channel();
    let copied = {
        let mut making = pin!(watch.make_room(&gone));
        let mut has_ended = false;
        let copied = tokio::select! {
            copied = receive(command, sandbox, watch, &mut going, replies, left) => copied,
            () = making.as_mut() => {
                has_ended = true;
                Err(anyhow!("the watch over the room has ended"))
            }
        };
        watch.end();
        if !has_ended {
            // A deletion that it has begun is not cut.
            making.await;
        }
        copied
    };
    while let Ok(deletion) = going.try_recv() {
        replies.send(&Reply::Deleted(deletion)).await?;
    }
    copied?;
    reached(Step::CopyReceived);
    let own = std::env::current_exe().context("cannot find my own program")?;
    sandbox.output(&own, ["adopt"], Bounds::SHORT.within(ADOPT_LIMIT)).await?;
    sandbox.control_data().await.map(drop)
}

/// Runs `pg_basebackup` to its end, as long as something comes, there is room, and nobody has left.
async fn receive(
    mut command: Command,
    sandbox: Sandbox<'_>,
    watch: &Watch<'_>,
    going: &mut UnboundedReceiver<Deletion>,
    replies: &mut Replies,
    left: Pin<&mut impl Future<Output = &'static str>>,
) -> Result<()> {
    let mut child = command
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        // It starts a second process, which receives WAL, and which would live on, use the slot and hold the
        // copy's files.
        .process_group(0)
        .spawn()
        .context("cannot start pg_basebackup")?;
    let leader = child.id();
    let holder = Holder::new(sandbox.scope(), leader);
    let mut last = VecDeque::new();
    let received = follow(&mut child, &holder, &mut last, watch, going, replies, left).await;
    if let Err(error) = received {
        program::end(&mut child, "pg_basebackup").await;
        return Err(error);
    }
    let status = tokio::time::timeout(hostd::time_limit(STALL), child.wait()).await;
    let Ok(status) = status else {
        program::end(&mut child, "pg_basebackup").await;
        bail!("the full copy was given up: pg_basebackup does not end");
    };
    let status = status.context("cannot wait for pg_basebackup")?;
    if status.code().is_none() {
        // Killed by somebody else: what it has started lives on.
        program::end_group(leader);
    }
    ensure!(status.success(), "the full copy failed ({status}): {}", Vec::from(last).join(" "));
    Ok(())
}

/// Follows what `pg_basebackup` says, to the end of it.
async fn follow(
    child: &mut Child,
    holder: &Holder,
    last: &mut VecDeque<String>,
    watch: &Watch<'_>,
    going: &mut UnboundedReceiver<Deletion>,
    replies: &mut Replies,
    mut left: Pin<&mut impl Future<Output = &'static str>>,
) -> Result<()> {
    let mut lines = Lines::new(child.stderr.take().context("pg_basebackup's output is not connected")?);
    let mut guard = pin!(watch.guard(holder));
    let stall = hostd::time_limit(STALL);
    let (mut moved, mut done) = (Instant::now(), 0);
    loop {
        let line = tokio::select! {
            line = lines.next() => line.context("cannot read pg_basebackup's output")?,
            Some(deletion) = going.recv() => {
                replies.send(&Reply::Deleted(deletion)).await?;
                continue;
            }
            stopped = guard.as_mut() => bail!("the full copy was stopped: {}", stopped?),
            why = left.as_mut() => bail!("the full copy was given up: {why}"),
            () = tokio::time::sleep_until(moved + stall) => {
                bail!("the full copy was given up: nothing has come for {} s", stall.as_secs())
            }
        };
        let Some(line) = line else { return Ok(()) };
        let Some(at) = parse_basebackup_progress(&line) else {
            tracing::info!("pg_basebackup: {line}");
            moved = Instant::now();
            if last.len() == ERROR_LINES {
                last.pop_front();
            }
            last.push_back(line.trim_start_matches("pg_basebackup: ").to_owned());
            continue;
        };
        watch.announced(at)?;
        if at.done > done {
            (moved, done) = (Instant::now(), at.done);
            watch.has_come(done);
            reached(Step::CopyUnderWay);
        }
        replies.send(&Reply::Progress(at)).await?;
    }
}

/// `pg_basebackup` takes `=` in a location as `\=` (its documentation, `--tablespace-mapping`).
fn escape_mapping(location: &OsStr) -> OsString {
    let mut escaped = Vec::new();
    for &byte in location.as_bytes() {
        if byte == b'=' {
            escaped.push(b'\\');
        }
        escaped.push(byte);
    }
    OsString::from_vec(escaped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_copy_that_waits_for_its_turn_ends_when_its_monitor_is_released() {
        let released = pin!(std::future::ready("the console has released the monitor"));
        let error = unless_left(std::future::pending::<()>(), released).await.unwrap_err();
        assert_eq!(error.to_string(), "the full copy was given up: the console has released the monitor");
        let stays = pin!(std::future::pending());
        assert_eq!(unless_left(std::future::ready(7), stays).await.unwrap(), 7);
    }
}
