//! Rotation: what [`backups::rotation`] decides, one deletion at a time, measured after each.
//!
//! The decision is made here and not by the network process, from manifests that only root writes: whoever holds the
//! network password can shorten the retention period, and still not delete a pinned backup, the newest verified ones, or
//! anything under a clock that has jumped (design D14).

use crate::clock::Clock;
use crate::decisions::Decisions;
use crate::places::Places;
use crate::{catalog, write_limit};
use anyhow::{Context, Result};
use api::{Backup, Deletion, DeletionReason, Limits, RotationPlan};
use backups::download::KeptOut;
use backups::rotation::{Candidate, Decision, Now, Rules, decide, for_space, plan};
use jiff::{SignedDuration, Timestamp};
use std::fs::File;
use uuid::Uuid;

/// Bytes kept aside, so that there is room for btrfs to delete something on a full volume.
const RESERVE_BYTES: i64 = 256 << 20;

/// What is measured and what is there.
fn look(places: &Places, clock: &Clock) -> Result<(Vec<Candidate>, Now)> {
    let candidate = |backup: &Backup| {
        let downloading = keep_out(places, backup.monitor.id, &backup.id)?.is_none();
        Ok(Candidate { downloading, ..Candidate::from(backup) })
    };
    let candidates = catalog::backups(places)?.iter().map(candidate).collect::<Result<_>>()?;
    let (total, free) = catalog::room(places)?;
    // What a verification takes it gives back: no backup goes for it.
    let free = free.saturating_add(write_limit::clone_bytes(places)?);
    let now = Now { time: Timestamp::now(), clock_is_trusted: clock.look()?, total, free };
    Ok((candidates, now))
}

/// The rules of a retention period under the console's limits. While those are in doubt age removes nothing.
pub fn rules(retention_days: Option<u32>, decisions: &Decisions) -> Rules {
    let limits = decisions.limits();
    let retention_days = retention_days.filter(|_| decisions.problem().is_none());
    let retention = retention_days.map(|days| SignedDuration::from_hours(24 * i64::from(days)));
    Rules { retention, limits }
}

/// What would go now and next.
pub fn planned(places: &Places, clock: &Clock, rules: &Rules) -> Result<RotationPlan> {
    let (candidates, now) = look(places, clock)?;
    Ok(plan(&candidates, rules, &now))
}

/// Deletes what has to go; gives what went, and whether space is low while nothing may go.
pub async fn run(places: &Places, clock: &Clock, rules: &Rules) -> Result<(Vec<Deletion>, bool)> {
    let mut deleted = Vec::new();
    let mut is_settled = false;
    loop {
        let (candidates, now) = look(places, clock)?;
        let stuck = match decide(&candidates, rules, &now) {
            Decision::Delete(Deletion { why: DeletionReason::Space, .. }) if !is_settled => {
                catalog::settle(places).await?;
                is_settled = true;
                continue;
            }
            Decision::Delete(deletion) => {
                if rotate_away(places, &deletion).await? {
                    deleted.push(deletion);
                }
                continue;
            }
            Decision::Nothing => false,
            Decision::Stuck => true,
        };
        if !rules.is_low(now.total, now.free) {
            keep_reserve(places)?;
        }
        return Ok((deleted, stuck));
    }
}

/// Makes room for the bytes that are `left` to come, with what replay needs beside: what low space allows to go goes, the
/// oldest first, until there is room. Gives what went, and why there is no room, where there is none; where there can be
/// none, nothing goes.
pub async fn make_room(
    places: &Places,
    clock: &Clock,
    left: impl Fn() -> Result<u64>,
) -> Result<(Vec<Deletion>, Option<String>)> {
    let mut deleted = Vec::new();
    loop {
        catalog::settle(places).await?;
        let bytes = left()?;
        let low_space_bytes = bytes.saturating_add(replica::FULL_BYTES);
        let limits = Limits { low_space_bytes, low_space_percent: 0, ..Limits::default() };
        let rules = Rules { retention: None, limits };
        let (candidates, now) = look(places, clock)?;
        let Now { free, total, .. } = now;
        if total <= low_space_bytes {
            let problem = format!(
                "the data volume has {total} bytes in all and the monitor's database needs {bytes} more; use a larger disk"
            );
            return Ok((deleted, Some(problem)));
        }
        match for_space(&candidates, &rules, &now) {
            Decision::Nothing => return Ok((deleted, None)),
            Decision::Delete(deletion) => {
                tracing::info!("{free} bytes are free, a full copy needs {low_space_bytes}");
                if rotate_away(places, &deletion).await? {
                    deleted.push(deletion);
                }
            }
            Decision::Stuck => {
                let problem = format!(
                    "the data volume has {free} bytes free, the monitor's database needs {bytes} more, and no further \
                     backup may be deleted for it; use a larger disk, or unpin backups at the console"
                );
                return Ok((deleted, Some(problem)));
            }
        }
    }
}

/// Keeps downloads of a backup from beginning; `None`: one is under way.
fn keep_out(places: &Places, monitor: Uuid, id: &str) -> Result<Option<KeptOut>> {
    let folder = places.backups(monitor);
    backups::download::keep_out(&folder, &id.parse()?)
        .with_context(|| format!("cannot tell whether backup {id} is being downloaded"))
}

/// Deletes one unless it is being downloaded by now; says whether it is gone.
async fn rotate_away(places: &Places, deletion: &Deletion) -> Result<bool> {
    let Some(_lock) = keep_out(places, deletion.monitor, &deletion.id)? else { return Ok(false) };
    delete(places, deletion).await?;
    Ok(true)
}

/// Deletes one; where that fails, once more without the reserve.
pub async fn delete(places: &Places, deletion: &Deletion) -> Result<()> {
    let id = deletion.id.parse()?;
    tracing::info!("deleting backup {id} ({:?})", deletion.why);
    let Err(error) = catalog::delete(places, deletion.monitor, &id).await else { return Ok(()) };
    if !files::remove(&places.reserve())? {
        return Err(error);
    }
    tracing::warn!("{error:#}; trying again without the reserve");
    catalog::delete(places, deletion.monitor, &id).await
}

/// Makes the reserve if it is not there.
fn keep_reserve(places: &Places) -> Result<()> {
    let path = places.reserve();
    if path.exists() {
        return Ok(());
    }
    let file = File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
    nix::fcntl::fallocate(&file, nix::fcntl::FallocateFlags::empty(), 0, RESERVE_BYTES)
        .with_context(|| format!("cannot keep {RESERVE_BYTES} bytes aside in {}", path.display()))
}
