//! Checking a full copy against the list of files and checksums that came with it (`pg_verifybackup`, design D6).
//!
//! It is done on a snapshot of the copy as it was before its first start, while the replica already streams: done in line
//! on a large database it would hold up the stream until the slot is lost (facts, "Verifying"). The snapshot stays until
//! the copy is known to be good, so a restart in between costs nothing but time.

use crate::adopt;
use crate::btrfs;
use crate::places::{Places, UNVERIFIED_SUFFIX};
use crate::program::{self, Bounds};
use crate::sandbox::Sandbox;
use crate::verdict;
use anyhow::{Context, Result, ensure};
use hostd::{CopyCheck, Step, reached};
use std::path::Path;
use std::time::Duration;
use tokio::sync::Mutex;
use uuid::Uuid;

/// The program that checks.
const PROGRAM: &str = "pg_verifybackup";
/// Most characters of what it says that are passed on: names in it are the monitor's.
const SAID_MAX: usize = 300;
/// A check that takes longer is given up, and begun again later.
const LIMIT: Duration = Duration::from_secs(24 * 3600);

/// How often what is kept was replaced or dropped: a check that began before such a moment says nothing after it. Held while
/// what is kept changes.
pub type Generation = Mutex<u64>;

/// Keeps a complete copy that is about to become the replica of `monitor`, in the place of what was kept of an earlier one.
pub async fn keep(places: &Places, monitor: Uuid, generation: &Generation) -> Result<()> {
    let mut generation = generation.lock().await;
    *generation += 1;
    delete(places, monitor).await?;
    btrfs::snapshot(&places.copying(monitor), &places.unverified(monitor)).await?;
    reached(Step::CopyKept);
    Ok(())
}

/// Drops what is kept of any copy: room is needed, and no check is worth a backup.
pub async fn drop_all(places: &Places, generation: &Generation) -> Result<()> {
    let mut generation = generation.lock().await;
    for monitor in unverified(&places.data).context("cannot look for copies that are kept for their check")? {
        tracing::warn!("the full copy of {monitor} will not be checked, as space is low");
        *generation += 1;
        delete(places, monitor).await?;
    }
    Ok(())
}

/// Whose copies are kept.
fn unverified(data: &Path) -> std::io::Result<Vec<Uuid>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(data.join("replica"))? {
        let name = entry?.file_name();
        found.extend(
            name.to_str().and_then(|name| name.strip_suffix(UNVERIFIED_SUFFIX)?.parse::<Uuid>().ok()),
        );
    }
    Ok(found)
}

async fn delete(places: &Places, monitor: Uuid) -> Result<()> {
    let kept = places.unverified(monitor);
    if kept.try_exists().with_context(|| format!("cannot look for {}", kept.display()))? {
        btrfs::delete(&kept).await?;
    }
    Ok(())
}

/// Checks the copy that is kept, and drops it if it is good.
///
/// # Errors
/// It could not be tried, or was given up.
pub async fn run(places: &Places, monitor: Uuid, generation: &Generation) -> Result<CopyCheck> {
    let kept = places.unverified(monitor);
    let began = *generation.lock().await;
    if !kept.try_exists().with_context(|| format!("cannot look for {}", kept.display()))? {
        return Ok(CopyCheck::Nothing);
    }
    // The WAL is checked by recovery at the first start; reading it here as well would need a shell, which no cluster sees.
    let mut arguments = vec!["--no-parse-wal", "--exit-on-error"];
    // `hostd adopt` has removed these.
    for name in adopt::foreign() {
        arguments.extend(["--ignore", name]);
    }
    arguments.push(replica::PGDATA);
    let sandbox = Sandbox::replica(places, &kept).in_background();
    let bounds = Bounds::SHORT.within(LIMIT).printing(1 << 20);
    let checked = program::output(sandbox.command(&places.program(PROGRAM), &arguments)?, bounds).await;
    let generation = generation.lock().await;
    ensure!(
        *generation == began,
        "the check of the full copy was given up, as the copy was replaced or dropped"
    );
    let failure = match checked {
        Ok(_) => {
            delete(places, monitor).await?;
            return Ok(CopyCheck::Good);
        }
        Err(failure) => failure,
    };
    if let Some((1, said)) = failure.refusal() {
        let mut words = said.lines().filter_map(|line| line.strip_prefix(PROGRAM)?.strip_prefix(": error: "));
        if let Some(verdict) = words.find(|words| verdict::is_of_copy(words)) {
            return Ok(CopyCheck::Damaged { problem: verdict.chars().take(SAID_MAX).collect() });
        }
    }
    // No memory, a sandbox that cannot be set up: that says nothing of the copy.
    Err(failure.into())
}
