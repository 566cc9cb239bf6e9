//! Checking a full copy against the list of files and checksums that came with it (`pg_verifybackup`, design D6).
//!
//! It is done on a snapshot of the copy as it was before its first start, while the replica already streams: done in line
//! on a large database it would hold up the stream until the slot is lost (facts, "Verifying"). The snapshot stays until
//! the copy is known to be good, so a restart in between costs nothing but time.

use crate::adopt::FOREIGN;
use crate::btrfs;
use crate::places::Places;
use crate::sandbox::Sandbox;
use anyhow::{Context, Result, ensure};
use hostd::{Step, reached};
use std::time::Duration;
use uuid::Uuid;

/// A check that takes longer is given up, and begun again later.
const LIMIT: Duration = Duration::from_secs(24 * 3600);

/// Keeps the copy that has just become the replica of `monitor`, for [`run`].
pub async fn keep(places: &Places, monitor: Uuid) -> Result<()> {
    btrfs::snapshot(&places.replica(monitor), &places.unverified(monitor)).await?;
    reached(Step::CopyKept);
    Ok(())
}

/// Deletes what is kept of an earlier copy.
pub async fn forget(places: &Places, monitor: Uuid) -> Result<()> {
    let kept = places.unverified(monitor);
    if kept.try_exists().with_context(|| format!("cannot look for {}", kept.display()))? {
        btrfs::delete(&kept).await?;
    }
    Ok(())
}

/// Checks the copy that is kept; gives what is wrong with it, and forgets it if nothing is.
///
/// # Errors
/// It could not be tried.
pub async fn run(places: &Places, monitor: Uuid) -> Result<Option<String>> {
    let kept = places.unverified(monitor);
    // The WAL is checked by recovery at the first start; reading it here as well would need a shell, which no cluster sees.
    let mut arguments = vec!["--no-parse-wal"];
    // `hostd adopt` has set these aside.
    for name in FOREIGN {
        arguments.extend(["--ignore", name]);
    }
    arguments.push(replica::PGDATA);
    let program = places.program("pg_verifybackup");
    let sandbox = Sandbox::replica(places, &kept).in_background();
    let command = sandbox.command(&program, &arguments)?.output();
    let output = tokio::time::timeout(LIMIT, command)
        .await
        .context("the check of the full copy was not done within a day")?
        .context("cannot run pg_verifybackup")?;
    if output.status.success() {
        forget(places, monitor).await?;
        return Ok(None);
    }
    ensure!(kept.exists(), "the check of the full copy was given up, as another copy has begun");
    let said = String::from_utf8_lossy(&output.stderr);
    let said: Vec<_> =
        said.lines().take(3).map(|line| line.trim_start_matches("pg_verifybackup: ")).collect();
    Ok(Some(said.join("; ")))
}
