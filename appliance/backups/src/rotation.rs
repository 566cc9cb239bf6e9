//! Which backup goes next, and why: the one planner behind daily rotation, low space, room for a full copy, and the answer
//! of `GET /v1/rotation/plan` (design D11). Pure.
//!
//! It names one backup at a time. btrfs gives space back later than it deletes, so after each deletion the caller
//! measures and asks again; a list made in advance would delete too much.
//!
//! Under every rule lies one floor, [`kept`]: what it holds, nothing removes, whatever the settings, the clock, the sizes,
//! the verdicts, the pins and the number of backups are. All of these can be in hostile hands:
//!
//! - The order of backups is their number, not their date. A date only makes a backup younger than it is.
//! - Space takes at most a share of what is not young in a day that the machine ran, and of the days themselves where only
//!   one backup of each is left; never for room that a verification takes.
//! - Space takes first what has a newer backup of its day, as good as itself. So a flood of backups is the first to go.

use api::{
    Backup, Deletion, DeletionReason, Kept, KeptReason, Limits, NextByAge, Reason, RetentionState,
    RotationPlan, StuckReason, Verification,
};
use jiff::{SignedDuration, Timestamp};
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// How long a backup made before a resync is protected at most.
pub const PROTECTION: SignedDuration = SignedDuration::from_hours(14 * 24);
/// Seconds of a day.
const DAY: i64 = 24 * 3600;

/// Whether a backup was proven to restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Proof {
    /// It does not.
    Failed,
    /// Not known yet.
    None,
    /// It restores.
    Verified,
}

/// What the planner knows of a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The monitor that it is of.
    pub monitor: Uuid,
    /// Its id.
    pub id: String,
    /// Its place in the order of its monitor's backups; 0 in those of the first versions.
    pub sequence: u64,
    /// When it was made, by the clock of that time.
    pub created: Timestamp,
    /// How old it is at least, whatever the clock says ([`crate::witness`]).
    pub witnessed: SignedDuration,
    /// Why it was made.
    pub reason: Reason,
    /// It is pinned.
    pub pinned: bool,
    /// Whether it was proven.
    pub proof: Proof,
    /// It is being downloaded.
    pub downloading: bool,
}

/// What was set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rules {
    /// How long backups are kept; `None`: as long as there is space.
    pub retention: Option<SignedDuration>,
    /// What the console has set.
    pub limits: Limits,
}

/// What was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// The clock.
    pub time: Timestamp,
    /// The clock was not moved by more than a day in all, or the console has confirmed it.
    pub clock_is_trusted: bool,
    /// By how much the clock was moved in all since it was confirmed: it may be wrong by so much.
    pub doubt: SignedDuration,
    /// Size of the data volume in bytes.
    pub total: u64,
    /// Free on it in bytes.
    pub free: u64,
    /// Room that the clone of a backup under verification takes now, in bytes. It comes back, so no backup goes for it.
    pub clone_bytes: u64,
    /// How many backups went for space within the last day that the machine ran.
    pub gone_for_space: usize,
    /// What went did not let replay go on that stands still for want of room ([`crate::standstill`]).
    pub in_vain: bool,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Nothing has to go.
    Nothing,
    /// Delete this one, wait until its space is free, and ask again.
    Delete(Deletion),
    /// Space is low and nothing may go: the console has to be asked.
    Stuck(StuckReason),
}

impl Rules {
    /// Whether free space is low.
    pub fn is_low(&self, total: u64, free: u64) -> bool {
        free < self.limits.low_space(total)
    }
}

/// What low space demands, at any time.
pub fn for_space(candidates: &[Candidate], rules: &Rules, now: &Now) -> Decision {
    if !rules.is_low(now.total, now.free.saturating_add(now.clone_bytes)) {
        Decision::Nothing
    } else if now.in_vain {
        Decision::Stuck(StuckReason::InVain)
    } else {
        next_for_space(candidates, rules, now)
    }
}

/// What a full copy demands that needs so many `bytes` free, those that have to stay free beside it among them.
pub fn for_copy(candidates: &[Candidate], rules: &Rules, now: &Now, bytes: u64) -> Decision {
    if now.free.saturating_add(now.clone_bytes) < bytes {
        next_for_space(candidates, rules, now)
    } else {
        Decision::Nothing
    }
}

/// What could go for space today, one after the other, `most` at most.
pub fn could_go_today(candidates: &[Candidate], rules: &Rules, now: &Now, most: usize) -> Vec<Deletion> {
    let (mut left, mut now, mut going) = (candidates.to_vec(), *now, Vec::new());
    while going.len() < most
        && let Decision::Delete(deletion) = next_for_space(&left, rules, &now)
    {
        left.retain(|candidate| !candidate.is(&deletion));
        now.gone_for_space = now.gone_for_space.saturating_add(1);
        going.push(deletion);
    }
    going
}

/// One day's share of what may go for space at all, to which so many that went are `added`.
pub fn share_for_space(candidates: &[Candidate], rules: &Rules, now: &Now, added: usize) -> usize {
    rules.limits.daily(Lists::of(candidates, now).old(rules).count().saturating_add(added))
}

fn next_for_space(candidates: &[Candidate], rules: &Rules, now: &Now) -> Decision {
    let lists = Lists::of(candidates, now);
    let (next, share) = match lists.spare(rules, now) {
        Some(spare) => (Some(spare), lists.old(rules).count()),
        // What is left to go stands for its day each: a share of the days, whatever else has gone.
        None => {
            let days: BTreeSet<(Uuid, i64)> = lists.old(rules).map(|old| (old.monitor, old.day())).collect();
            (lists.next_for_space(rules, now), days.len())
        }
    };
    let share = rules.limits.daily(share.saturating_add(now.gone_for_space));
    match next {
        None => Decision::Stuck(StuckReason::Floor),
        Some(_) if now.gone_for_space >= share => Decision::Stuck(StuckReason::DailyShare),
        Some(candidate) => Decision::Delete(deletion(candidate, DeletionReason::Space)),
    }
}

/// What the retention period demands, once a day.
///
/// Age removes nothing while the clock is in doubt, of the newest verified ones ([`Limits::keep_verified`]), or of a monitor
/// that has no verified backup younger than the period: then something is wrong, and the old ones are all there is.
pub fn for_age(candidates: &[Candidate], rules: &Rules, now: &Now) -> Decision {
    let Some(retention) = rules.retention.filter(|_| now.clock_is_trusted) else { return Decision::Nothing };
    let lists = Lists::of(candidates, now);
    let next = lists.oldest(now, |list| list.oldest_expired(retention, rules, now));
    next.map_or(Decision::Nothing, |candidate| Decision::Delete(deletion(candidate, DeletionReason::Age)))
}

/// What has to go now, by age or else by space.
pub fn decide(candidates: &[Candidate], rules: &Rules, now: &Now) -> Decision {
    match for_age(candidates, rules, now) {
        Decision::Nothing => for_space(candidates, rules, now),
        decision => decision,
    }
}

/// How many backups the retention period would remove now.
pub fn going_by_age(candidates: &[Candidate], rules: &Rules, now: &Now) -> usize {
    by_age(&mut candidates.to_vec(), rules, now).len()
}

/// Takes what goes by age from the list.
fn by_age(left: &mut Vec<Candidate>, rules: &Rules, now: &Now) -> Vec<Deletion> {
    let mut going = Vec::new();
    while let Decision::Delete(deletion) = for_age(left, rules, now) {
        left.retain(|candidate| !candidate.is(&deletion));
        going.push(deletion);
    }
    going
}

/// What rotation would do now and next.
pub fn plan(candidates: &[Candidate], rules: &Rules, now: &Now) -> RotationPlan {
    let mut left = candidates.to_vec();
    let mut going = by_age(&mut left, rules, now);
    // What the deletions above free is known when they are made, not before.
    let for_space = if going.is_empty() { for_space(&left, rules, now) } else { Decision::Nothing };
    let stuck_reason = if let Decision::Stuck(reason) = for_space { Some(reason) } else { None };
    if let Decision::Delete(deletion) = for_space {
        going.push(deletion);
    }
    let lists = Lists::of(candidates, now);
    let next = lists.next_for_space(rules, now);
    let oldest = lists.oldest(now, |list| list.deletable(rules).last());
    let kept = lists.0.values().flat_map(|list| {
        let why = |at| list.kept(at, rules);
        list.newest_first.iter().enumerate().filter_map(move |(at, candidate)| {
            Some(Kept { monitor: candidate.monitor, id: candidate.id.clone(), why: why(at)? })
        })
    });
    RotationPlan {
        now: going,
        next_for_space: next.map(|candidate| deletion(candidate, DeletionReason::Space)),
        next_by_age: oldest.and_then(|candidate| {
            let at = candidate.created.checked_add(rules.retention?.checked_add(now.doubt)?).ok()?;
            Some(NextByAge { monitor: candidate.monitor, id: candidate.id.clone(), at })
        }),
        kept: kept.collect(),
        stuck: stuck_reason.is_some(),
        stuck_reason,
        clock_is_trusted: now.clock_is_trusted,
        clock_offset_seconds: u64::try_from(now.doubt.as_secs()).unwrap_or(0),
        // The caller knows what waits.
        retention: RetentionState::default(),
        limits: rules.limits,
    }
}

impl Candidate {
    /// Orders the backups of a monitor, the oldest first; as [`Backup::order`].
    fn order(&self) -> (u64, Timestamp, &str) {
        (self.sequence, self.created, &self.id)
    }

    /// The day that it is dated to, counted from 1970.
    fn day(&self) -> i64 {
        self.created.as_second().div_euclid(DAY)
    }

    /// Whether it is the one that goes.
    fn is(&self, deletion: &Deletion) -> bool {
        self.monitor == deletion.monitor && self.id == deletion.id
    }
}

impl From<&Backup> for Candidate {
    fn from(backup: &Backup) -> Self {
        Self {
            monitor: backup.monitor.id,
            id: backup.id.clone(),
            sequence: backup.sequence,
            created: backup.created,
            reason: backup.reason,
            pinned: backup.pinned,
            proof: match backup.verification {
                Verification::Pending | Verification::Superseded => Proof::None,
                Verification::Verified(_) => Proof::Verified,
                Verification::Failed { .. } => Proof::Failed,
            },
            // Neither is on record.
            witnessed: SignedDuration::ZERO,
            downloading: false,
        }
    }
}

fn deletion(candidate: &Candidate, why: DeletionReason) -> Deletion {
    Deletion { monitor: candidate.monitor, id: candidate.id.clone(), why }
}

/// The backups by monitor.
struct Lists<'a>(BTreeMap<Uuid, List<'a>>);

/// The backups of a monitor, with places from the newest, which has 0.
struct List<'a> {
    newest_first: Vec<&'a Candidate>,
    /// Place of the newest verified one.
    verified: Option<usize>,
    /// Place of the newest one that waits for its proof.
    unproven: Option<usize>,
    /// How old each is at least by the clock, as far as that can be trusted.
    ages: Vec<SignedDuration>,
}

impl<'a> Lists<'a> {
    fn of(candidates: &'a [Candidate], now: &Now) -> Self {
        let mut lists: BTreeMap<Uuid, Vec<&Candidate>> = BTreeMap::new();
        for candidate in candidates {
            lists.entry(candidate.monitor).or_default().push(candidate);
        }
        let list = |mut newest_first: Vec<&'a Candidate>| {
            newest_first.sort_unstable_by(|one, other| other.order().cmp(&one.order()));
            let first = |proof| newest_first.iter().position(|candidate| candidate.proof == proof);
            let ages = ages(&newest_first, now);
            List { verified: first(Proof::Verified), unproven: first(Proof::None), ages, newest_first }
        };
        Self(lists.into_iter().map(|(monitor, candidates)| (monitor, list(candidates))).collect())
    }

    /// Of what is `chosen` of each list, the oldest. Numbers of different monitors say nothing to each other, so here the date
    /// decides; the floor is each monitor's own.
    fn oldest(&self, now: &Now, chosen: impl Fn(&List<'a>) -> Option<usize>) -> Option<&'a Candidate> {
        let chosen = self.0.values().filter_map(|list| list.newest_first.get(chosen(list)?).copied());
        chosen.min_by_key(|candidate| (candidate.created.min(now.time), candidate.order()))
    }

    /// Those that are not young. The young ones may not go, so they widen the share of no day: else a flood of new ones would have
    /// all the old ones go at once.
    fn old(&self, rules: &Rules) -> impl Iterator<Item = &'a Candidate> {
        self.0.values().flat_map(move |list| {
            let old = list.newest_first.iter().enumerate();
            old.filter(move |(at, candidate)| !list.is_young(*at, candidate, rules)).map(|(_, old)| *old)
        })
    }

    /// The oldest one of all that is a spare.
    fn spare(&self, rules: &Rules, now: &Now) -> Option<&'a Candidate> {
        self.oldest(now, |list| list.oldest_spare(rules))
    }

    /// What goes for space, if something may.
    fn next_for_space(&self, rules: &Rules, now: &Now) -> Option<&'a Candidate> {
        self.spare(rules, now).or_else(|| self.oldest(now, |list| list.deletable(rules).last()))
    }
}

/// How old each backup of a monitor is at least by the clock. A date in the future says nothing. A clock that was set back
/// dates a backup before those that it followed: it is not older than they are.
fn ages(newest_first: &[&Candidate], now: &Now) -> Vec<SignedDuration> {
    let mut latest: Option<Timestamp> = None;
    let mut ages: Vec<SignedDuration> = newest_first
        .iter()
        .rev()
        .map(|candidate| {
            if candidate.created > now.time || !now.clock_is_trusted {
                return SignedDuration::ZERO;
            }
            latest = latest.max(Some(candidate.created));
            let since = now.time.duration_since(latest.unwrap_or(candidate.created));
            since.saturating_sub(now.doubt).max(SignedDuration::ZERO)
        })
        .collect();
    ages.reverse();
    ages
}

impl List<'_> {
    /// How old the one at this place is at least.
    fn age(&self, at: usize, candidate: &Candidate) -> SignedDuration {
        self.ages.get(at).map_or(candidate.witnessed, |age| candidate.witnessed.max(*age))
    }

    /// Whether the one at this place may be younger than this. What the machine's running time says counts; a backup of the first
    /// versions has no number to be known by, and so its date has to do.
    fn may_be_younger(&self, at: usize, candidate: &Candidate, than: SignedDuration) -> bool {
        let age = if candidate.sequence == 0 { self.age(at, candidate) } else { candidate.witnessed };
        age < than
    }

    /// Whether the one at this place is too young to go.
    fn is_young(&self, at: usize, candidate: &Candidate, rules: &Rules) -> bool {
        let min_age = SignedDuration::from_hours(i64::from(rules.limits.min_age_hours));
        self.may_be_younger(at, candidate, min_age)
    }

    /// Why no rule may remove the one at this place; `None`: it may go.
    fn kept(&self, at: usize, rules: &Rules) -> Option<KeptReason> {
        let candidate = self.newest_first.get(at)?;
        let newer_verified = self.verified.is_some_and(|verified| verified < at);
        if candidate.pinned {
            Some(KeptReason::Pinned)
        } else if self.verified == Some(at) {
            Some(KeptReason::NewestVerified)
        } else if candidate.reason == Reason::BeforeResync
            && !newer_verified
            && self.age(at, candidate) <= PROTECTION
        {
            Some(KeptReason::BeforeResync)
        } else if candidate.proof == Proof::None
            && (at == 0 || self.verified.is_none() && self.unproven == Some(at))
        {
            // Its turn is next, and where none is verified it may be all there is.
            Some(KeptReason::Newest)
        } else if at < usize::try_from(rules.limits.keep_last).unwrap_or(usize::MAX).max(1) {
            Some(KeptReason::Last)
        } else if self.is_young(at, candidate, rules) {
            Some(KeptReason::Young)
        } else if candidate.downloading {
            Some(KeptReason::Downloading)
        } else {
            None
        }
    }

    /// Places of what may go at all.
    fn deletable(&self, rules: &Rules) -> impl Iterator<Item = usize> {
        (0..self.newest_first.len()).filter(|at| self.kept(*at, rules).is_none())
    }

    /// Place of the oldest one that may go and has a newer one of its day that is as good. Those of a day follow each other:
    /// one that a clock set back has put into an old day does not stand for what was made then.
    fn oldest_spare(&self, rules: &Rules) -> Option<usize> {
        let (mut newer, mut found): (Option<(i64, Proof)>, Option<usize>) = (None, None);
        for (at, candidate) in self.newest_first.iter().enumerate() {
            let day = candidate.day();
            let best = newer.filter(|(of, _)| *of == day).map(|(_, best)| best);
            if best.is_some_and(|best| best >= candidate.proof) && self.kept(at, rules).is_none() {
                found = Some(at);
            }
            newer = Some((day, best.map_or(candidate.proof, |best| best.max(candidate.proof))));
        }
        found
    }

    /// Place of the oldest one that the retention period removes.
    fn oldest_expired(&self, retention: SignedDuration, rules: &Rules, now: &Now) -> Option<usize> {
        let verified = self.verified?;
        let newest = self.newest_first.get(verified)?;
        let ago = now.time.duration_since(newest.created);
        if ago.is_negative() || ago > retention {
            return None;
        }
        let floor = usize::try_from(rules.limits.keep_verified).unwrap_or(usize::MAX);
        let is_verified = |(_, candidate): &(usize, &&Candidate)| candidate.proof == Proof::Verified;
        let held: Vec<usize> =
            self.newest_first.iter().enumerate().filter(is_verified).map(|(at, _)| at).take(floor).collect();
        (verified + 1..self.newest_first.len()).rev().find(|at| {
            self.newest_first.get(*at).is_some_and(|candidate| self.age(*at, candidate) > retention)
                && held.binary_search(at).is_err()
                && self.kept(*at, rules).is_none()
        })
    }
}

#[cfg(test)]
mod tests;
