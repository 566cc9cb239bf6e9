//! Rotation: what [`backups::rotation`] decides, one deletion at a time, measured after each.
//!
//! The decision is made here and not by the network process, from manifests that only root writes: whoever holds the
//! network password can shorten the retention period, and still not delete a pinned backup, the newest verified ones, or
//! anything under a clock that has jumped (design D14).

use crate::clock::{Clock, Seen};
use crate::decisions::{Decisions, delay};
use crate::ledger::Ledger;
use crate::places::Places;
use crate::sandbox::Sandbox;
use crate::{catalog, write_limit};
use anyhow::{Context, Result};
use api::{Backup, Deletion, DeletionReason, PendingRetention, RetentionState, RotationPlan, StuckReason};
use backups::copy_tries::{Begin, Room};
use backups::download::KeptOut;
use backups::pins::{self, Pins};
use backups::retention::{Period, Retention};
use backups::rotation::{
    Candidate, Decision, Now, Rules, could_go_today, decide, for_copy, going_by_age, plan, share_for_space,
};
use backups::standstill::Standstill;
use hostd::Refused;
use jiff::SignedDuration;
use std::collections::BTreeMap;
use std::fs::File;
use uuid::Uuid;

/// Bytes kept aside, so that there is room for btrfs to delete something on a full volume.
const RESERVE_BYTES: i64 = 256 << 20;

/// What rotation remembers.
#[derive(Clone, Copy)]
pub struct Memory<'a> {
    /// The clock as watched.
    pub clock: &'a Clock,
    /// What has been used up.
    pub ledger: &'a Ledger,
    /// What the console has decided.
    pub decisions: &'a Decisions,
}

/// What is measured and what is there.
fn look(places: &Places, memory: Memory<'_>) -> Result<(Vec<Candidate>, Now, Seen)> {
    let seen = memory.clock.look()?;
    let backups = catalog::backups(places)?;
    let mut highest: BTreeMap<Uuid, u64> = BTreeMap::new();
    for backup in &backups {
        let highest = highest.entry(backup.monitor.id).or_default();
        *highest = backup.sequence.max(*highest);
    }
    memory.ledger.note(&highest, seen.lived)?;
    let candidate = |backup: &Backup| {
        let downloading = keep_out(places, backup.monitor.id, &backup.id)?.is_none();
        let witnessed = memory.ledger.age(backup.monitor.id, backup.sequence, seen.lived);
        Ok(Candidate { downloading, witnessed, ..Candidate::from(backup) })
    };
    let candidates = backups.iter().map(candidate).collect::<Result<_>>()?;
    let (total, free) = catalog::room(places)?;
    let now = Now {
        time: seen.time,
        clock_is_trusted: seen.is_trusted,
        doubt: seen.doubt,
        total,
        free,
        clone_bytes: write_limit::clone_bytes(places)?,
        gone_for_space: memory.ledger.gone_for_space(seen.lived),
        in_vain: memory.ledger.is_in_vain(),
    };
    Ok((candidates, now, seen))
}

/// The rules of a retention period under the console's limits. While those are in doubt age removes nothing.
fn rules(period: Option<Period>, decisions: &Decisions) -> Rules {
    let days = period.and_then(|period| period.0).filter(|_| decisions.problem().is_none());
    let retention = days.map(|days| SignedDuration::from_hours(24 * i64::from(days)));
    Rules { retention, limits: decisions.limits() }
}

/// What would go now and next, if the network asked for this retention period.
pub fn planned(places: &Places, memory: Memory<'_>, retention_days: Option<u32>) -> Result<RotationPlan> {
    let has_backups = catalog::has_any(places)?;
    let (candidates, now, seen) = look(places, memory)?;
    let decisions = memory.decisions;
    let retention = decisions.retention(Period(retention_days), seen.lived, has_backups);
    let rules_in_force = rules(retention.in_force(), decisions);
    let would_go = |period| going_by_age(&candidates, &rules(Some(period), decisions), &now);
    let state = retention_state(&retention, &rules_in_force, seen.lived, would_go);
    Ok(RotationPlan { retention: state, ..plan(&candidates, &rules_in_force, &now) })
}

/// The retention period that counts, and what waits.
pub fn retention(places: &Places, memory: Memory<'_>) -> Result<RetentionState> {
    let (candidates, now, seen) = look(places, memory)?;
    let decisions = memory.decisions;
    let retention = decisions.retention_now(seen.lived);
    let would_go = |period| going_by_age(&candidates, &rules(Some(period), decisions), &now);
    Ok(retention_state(&retention, &rules(None, decisions), seen.lived, would_go))
}

fn retention_state(
    retention: &Retention,
    rules: &Rules,
    lived: u64,
    would_go: impl FnOnce(Period) -> usize,
) -> RetentionState {
    RetentionState {
        days: retention.in_force().and_then(|period| period.0),
        pending: retention.pending().map(|pending| PendingRetention {
            days: pending.wish.0,
            seconds_left: delay(&rules.limits).saturating_sub(lived.saturating_sub(pending.since)),
            would_go: u64::try_from(would_go(pending.wish)).unwrap_or(u64::MAX),
        }),
        refused: retention.refused().is_some(),
    }
}

/// Deletes what has to go, after the network has asked for this retention period; gives what went, and whether space is low
/// while nothing may go.
pub async fn run(
    places: &Places,
    memory: Memory<'_>,
    retention_days: Option<u32>,
) -> Result<(Vec<Deletion>, bool)> {
    let lived = memory.clock.look()?.lived;
    let retention =
        memory.decisions.ask_retention(Period(retention_days), lived, catalog::has_any(places)?)?;
    let rules = rules(retention.in_force(), memory.decisions);
    let mut deleted = Vec::new();
    let mut is_settled = false;
    loop {
        note_standstill(places, memory, &rules).await?;
        let (candidates, now, seen) = look(places, memory)?;
        let stuck = match decide(&candidates, &rules, &now) {
            Decision::Delete(Deletion { why: DeletionReason::Space, .. }) if !is_settled => {
                catalog::settle(places).await?;
                is_settled = true;
                continue;
            }
            Decision::Delete(deletion) => {
                match rotate_away(places, memory.ledger, seen.lived, &deletion, false).await {
                    Ok(true) => deleted.push(deletion),
                    Ok(false) => {}
                    // The next run says it; what went is to be told now.
                    Err(error) if !deleted.is_empty() => {
                        tracing::error!("{error:#}");
                        return Ok((deleted, false));
                    }
                    Err(error) => return Err(error),
                }
                continue;
            }
            Decision::Nothing => false,
            Decision::Stuck(_) => true,
        };
        if !rules.is_low(now.total, now.free) {
            keep_reserve(places)?;
        }
        return Ok((deleted, stuck));
    }
}

/// Notes where replay stands still for want of room, so that backups do not go for a replica that comes no further.
async fn note_standstill(places: &Places, memory: Memory<'_>, rules: &Rules) -> Result<()> {
    let (total, free) = catalog::room(places)?;
    let free = free.saturating_add(write_limit::clone_bytes(places)?);
    if !rules.is_low(total, free) {
        return memory.ledger.change_standstill(Standstill::is_over);
    }
    if replica::is_full(false, free) {
        let mut at = BTreeMap::new();
        for monitor in places.monitors()? {
            let replica = places.replica(monitor);
            if replica.exists() {
                match Sandbox::replica(places, &replica).control_data().await {
                    Ok(control) => {
                        drop(control.min_recovery.parse().map(|position| at.insert(monitor, position)))
                    }
                    Err(error) => {
                        tracing::warn!("it is not known how far replay of {monitor} has come: {error:#}")
                    }
                }
            }
        }
        memory.ledger.change_standstill(|seen| seen.full(&at))
    } else if replica::is_full(true, free) {
        Ok(())
    } else {
        memory.ledger.change_standstill(Standstill::has_room)
    }
}

/// Refuses a pin that the network process asks for, where too much is pinned.
pub fn may_pin(places: &Places, decisions: &Decisions, monitor: Uuid, id: &str) -> Result<()> {
    let backups = catalog::backups(places)?;
    let is_own = |backup: &&Backup| backup.monitor.id == monitor && backup.id == id;
    // What is missing is said by who looks for it.
    let Some(own) = backups.iter().find(is_own).filter(|own| !own.pinned) else { return Ok(()) };
    let pinned: Vec<u64> =
        backups.iter().filter(|backup| backup.pinned).map(|backup| backup.sizes.files).collect();
    let newest =
        backups.iter().filter(|backup| backup.monitor.id == monitor).max_by_key(|backup| backup.order());
    let (total, free) = catalog::room(places)?;
    let pins = Pins {
        count: pinned.len(),
        bytes: pinned.iter().fold(0, |sum, bytes| sum.saturating_add(*bytes)),
        own: own.sizes.files,
        replica: newest.map_or(0, |newest| newest.sizes.files),
        total,
        free,
    };
    let rules = Rules { retention: None, limits: decisions.limits() };
    let Some(why) = pins::refusal(&pins, &rules) else { return Ok(()) };
    let error = format!(
        "backup {id} is not pinned: {why}; at the server's console unpin another (`{0} order unpin ID`) or allow more (`{0} order limits --pinned N`)",
        hostd::PROGRAM
    );
    Err(Refused { error, retry_after: None }.into())
}

/// What came of the wish for more room.
#[derive(Debug, PartialEq, Eq)]
pub enum MadeRoom {
    /// There is enough.
    Enough,
    /// This one went. Whether that is enough is to be measured.
    Deleted(Deletion),
    /// There is not enough, and nothing may go now, for this reason.
    Nothing(String),
}

/// What a full copy of `monitor` may do now, with what there is room for; `exclusive` gives what a backup alone takes, as
/// far as that is known.
pub async fn copy_may(
    places: &Places,
    memory: Memory<'_>,
    monitor: Uuid,
    exclusive: impl Fn(&str) -> u64,
) -> Result<(Begin, Room)> {
    let tries = memory.ledger.copies();
    if tries.stopped(monitor).is_some() {
        // What the last copy has written is deleted, and free only later.
        catalog::settle(places).await?;
    }
    let (candidates, now, seen) = look(places, memory)?;
    let rules = Rules { retention: None, limits: memory.decisions.limits() };
    let allowance = tries.allowance(seen.lived, |wasted| share_for_space(&candidates, &rules, &now, wasted));
    let could_go = could_go_today(&candidates, &rules, &now, allowance);
    let freeable = could_go.iter().fold(0_u64, |sum, going| sum.saturating_add(exclusive(&going.id)));
    let room = Room { free: now.free.saturating_add(now.clone_bytes), freeable };
    Ok((tries.begin(monitor, room, allowance, seen.lived), room))
}

/// Lets one backup go for a full copy, where fewer than `bytes` are free, by the rules of low space; `most` may go for it in
/// all.
pub async fn make_room(places: &Places, memory: Memory<'_>, bytes: u64, most: usize) -> Result<MadeRoom> {
    catalog::settle(places).await?;
    let rules = Rules { retention: None, limits: memory.decisions.limits() };
    let (candidates, now, seen) = look(places, memory)?;
    match for_copy(&candidates, &rules, &now, bytes) {
        Decision::Nothing => Ok(MadeRoom::Enough),
        Decision::Delete(_) if memory.ledger.copies().gone() >= most => Ok(MadeRoom::Nothing(format!(
            "no further backup may be deleted for it, since full copies came to nothing for which {} went within 30 days; \
             use a larger disk, or let rotation delete more at the console (`{} order allow-rotation`)",
            memory.ledger.copies().wasted(seen.lived),
            hostd::PROGRAM
        ))),
        Decision::Delete(deletion) => {
            tracing::info!("{} bytes are free, a full copy wants {bytes}", now.free);
            let is_gone = rotate_away(places, memory.ledger, seen.lived, &deletion, true).await?;
            Ok(if is_gone { MadeRoom::Deleted(deletion) } else { MadeRoom::Enough })
        }
        Decision::Stuck(reason) => Ok(MadeRoom::Nothing(format!(
            "no further backup may be deleted for it{}; use a larger disk, or unpin or delete backups at the console",
            match reason {
                StuckReason::Floor => "",
                StuckReason::DailyShare => " today",
                StuckReason::InVain => ", as what went did not let replay go on",
            }
        ))),
    }
}

/// Keeps downloads of a backup from beginning; `None`: one is under way.
fn keep_out(places: &Places, monitor: Uuid, id: &str) -> Result<Option<KeptOut>> {
    let folder = places.backups(monitor);
    backups::download::keep_out(&folder, &id.parse()?)
        .with_context(|| format!("cannot tell whether backup {id} is being downloaded"))
}

/// Deletes one unless it is being downloaded by now; says whether it is gone. What goes for space is counted before.
async fn rotate_away(
    places: &Places,
    ledger: &Ledger,
    lived: u64,
    deletion: &Deletion,
    for_copy: bool,
) -> Result<bool> {
    let Some(_lock) = keep_out(places, deletion.monitor, &deletion.id)? else { return Ok(false) };
    if deletion.why == DeletionReason::Space {
        ledger.goes_for_space(&format!("{}_{}", deletion.id, deletion.monitor), for_copy, lived)?;
    }
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
