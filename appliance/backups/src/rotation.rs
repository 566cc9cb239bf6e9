//! Which backup goes next, and why: the one planner behind daily rotation, low space, and the answer of
//! `GET /v1/rotation/plan` (design D11). Pure.
//!
//! It names one backup at a time. btrfs gives space back later than it deletes, so after each deletion the caller
//! measures and asks again; a list made in advance would delete too much.

use api::{
    Backup, Deletion, DeletionReason, Kept, KeptReason, Limits, NextByAge, Reason, RotationPlan, Verification,
};
use jiff::{SignedDuration, Timestamp};
use std::collections::BTreeMap;
use uuid::Uuid;

/// How long a backup made before a resync is protected at most.
pub const PROTECTION: SignedDuration = SignedDuration::from_hours(14 * 24);

/// Whether a backup was proven to restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// Not yet, or superseded before it was.
    None,
    /// It restores.
    Verified,
    /// It does not.
    Failed,
}

/// What the planner knows of a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Whose it is.
    pub monitor: Uuid,
    /// Its id.
    pub id: String,
    /// When it was made.
    pub created: Timestamp,
    /// Why it was made.
    pub reason: Reason,
    /// Somebody pinned it.
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
    /// The clock has not jumped by more than a day, or somebody confirmed it.
    pub clock_is_trusted: bool,
    /// Size of the data volume in bytes.
    pub total: u64,
    /// Free on it in bytes.
    pub free: u64,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Nothing has to go.
    Nothing,
    /// Delete this one, wait until its space is free, and ask again.
    Delete(Deletion),
    /// Space is low and nothing may go: somebody has to be told.
    Stuck,
}

impl Rules {
    /// Whether free space is low.
    pub fn is_low(&self, total: u64, free: u64) -> bool {
        free < self.limits.low_space(total)
    }
}

/// What low space demands, at any time.
pub fn for_space(candidates: &[Candidate], rules: &Rules, now: &Now) -> Decision {
    if !rules.is_low(now.total, now.free) {
        return Decision::Nothing;
    }
    oldest(deletable(candidates, now))
        .map_or(Decision::Stuck, |candidate| Decision::Delete(deletion(candidate, DeletionReason::Space)))
}

/// What the retention period demands, once a day.
///
/// Age removes nothing while the clock is in doubt, of the newest verified ones ([`Limits::keep_verified`]), or of a monitor
/// that has no verified backup younger than the period: then something is wrong, and the old ones are all there is.
pub fn for_age(candidates: &[Candidate], rules: &Rules, now: &Now) -> Decision {
    let Some(retention) = rules.retention.filter(|_| now.clock_is_trusted) else { return Decision::Nothing };
    let age = |candidate: &Candidate| now.time.duration_since(candidate.created);
    let floor = usize::try_from(rules.limits.keep_verified).unwrap_or(usize::MAX);
    let mut verified: BTreeMap<Uuid, Vec<&Candidate>> = BTreeMap::new();
    for candidate in candidates.iter().filter(|candidate| candidate.proof == Proof::Verified) {
        verified.entry(candidate.monitor).or_default().push(candidate);
    }
    for backups in verified.values_mut() {
        backups.sort_by_key(|candidate| std::cmp::Reverse(candidate.age_key()));
    }
    let expired = deletable(candidates, now).filter(|candidate| {
        let Some(verified) = verified.get(&candidate.monitor) else { return false };
        age(candidate) > retention
            && verified.first().is_some_and(|newest| age(newest) <= retention)
            && !verified.iter().take(floor).any(|kept| kept.id == candidate.id)
    });
    oldest(expired)
        .map_or(Decision::Nothing, |candidate| Decision::Delete(deletion(candidate, DeletionReason::Age)))
}

/// What has to go now, by age or else by space.
pub fn decide(candidates: &[Candidate], rules: &Rules, now: &Now) -> Decision {
    match for_age(candidates, rules, now) {
        Decision::Nothing => for_space(candidates, rules, now),
        decision => decision,
    }
}

/// What rotation would do now and next.
pub fn plan(candidates: &[Candidate], rules: &Rules, now: &Now) -> RotationPlan {
    let (mut left, mut going) = (candidates.to_vec(), Vec::new());
    while let Decision::Delete(deletion) = for_age(&left, rules, now) {
        left.retain(|candidate| !candidate.is(&deletion));
        going.push(deletion);
    }
    // What the deletions above free is known when they are made, not before.
    let for_space = if going.is_empty() { for_space(&left, rules, now) } else { Decision::Nothing };
    let stuck = for_space == Decision::Stuck;
    if let Decision::Delete(deletion) = for_space {
        going.push(deletion);
    }
    let next = oldest(deletable(candidates, now));
    let kept = candidates.iter().filter_map(|candidate| {
        let why = kept(candidates, candidate, now)?;
        Some(Kept { monitor: candidate.monitor, id: candidate.id.to_string(), why })
    });
    RotationPlan {
        now: going,
        next_for_space: next.map(|candidate| deletion(candidate, DeletionReason::Space)),
        next_by_age: next.and_then(|candidate| {
            let at = candidate.created.checked_add(rules.retention?).ok()?;
            Some(NextByAge { monitor: candidate.monitor, id: candidate.id.to_string(), at })
        }),
        kept: kept.collect(),
        stuck,
        clock_is_trusted: now.clock_is_trusted,
        limits: rules.limits,
    }
}

impl Candidate {
    /// Orders by age, the oldest first.
    fn age_key(&self) -> (Timestamp, &str) {
        (self.created, &self.id)
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
            created: backup.created,
            reason: backup.reason,
            pinned: backup.pinned,
            proof: match backup.verification {
                Verification::Pending | Verification::Superseded => Proof::None,
                Verification::Verified(_) => Proof::Verified,
                Verification::Failed { .. } => Proof::Failed,
            },
            // Not on record.
            downloading: false,
        }
    }
}

fn deletion(candidate: &Candidate, why: DeletionReason) -> Deletion {
    Deletion { monitor: candidate.monitor, id: candidate.id.to_string(), why }
}

fn oldest<'a>(candidates: impl Iterator<Item = &'a Candidate>) -> Option<&'a Candidate> {
    candidates.min_by_key(|candidate| candidate.age_key())
}

/// What may go at all.
fn deletable<'a>(candidates: &'a [Candidate], now: &'a Now) -> impl Iterator<Item = &'a Candidate> {
    candidates.iter().filter(move |candidate| kept(candidates, candidate, now).is_none())
}

/// Why no rule may remove it: pinned, protected, the newest verified one of its monitor, or the newest one that waits for
/// its proof; where none is verified, the newest that did not fail, since it may be all there is; and what is being
/// downloaded.
fn kept(candidates: &[Candidate], candidate: &Candidate, now: &Now) -> Option<KeptReason> {
    let own = || candidates.iter().filter(|other| other.monitor == candidate.monitor);
    let newer = |proof: fn(Proof) -> bool| {
        own().any(|other| proof(other.proof) && other.age_key() > candidate.age_key())
    };
    let newer_verified = newer(|proof| proof == Proof::Verified);
    if candidate.pinned {
        Some(KeptReason::Pinned)
    } else if candidate.proof == Proof::Verified && !newer_verified {
        Some(KeptReason::NewestVerified)
    } else if candidate.reason == Reason::BeforeResync
        && !newer_verified
        && now.time.duration_since(candidate.created) <= PROTECTION
    {
        Some(KeptReason::BeforeResync)
    } else if candidate.proof == Proof::None && !newer(|_| true) {
        // Its turn is next; removed, it would only be made again.
        Some(KeptReason::Newest)
    } else if candidate.proof == Proof::None
        && !own().any(|other| other.proof == Proof::Verified)
        && !newer(|proof| proof == Proof::None)
    {
        Some(KeptReason::Newest)
    } else if candidate.downloading {
        Some(KeptReason::Downloading)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BackupId;
    use proptest::prelude::*;

    const DAY: SignedDuration = SignedDuration::from_hours(24);
    const GB: u64 = 1_000_000_000;

    fn monitor(number: u8) -> Uuid {
        Uuid::from_u128(u128::from(number) + 1)
    }

    fn today() -> Timestamp {
        "2026-11-24T12:00:00Z".parse().unwrap()
    }

    /// A backup that is so many days old.
    fn backup(days: i64, proof: Proof) -> Candidate {
        let created = today() - DAY * i32::try_from(days).unwrap();
        let id = BackupId::at(created, |_| false).unwrap();
        Candidate {
            monitor: monitor(0),
            id: id.to_string(),
            created,
            reason: Reason::Schedule,
            pinned: false,
            proof,
            downloading: false,
        }
    }

    fn now(free: u64) -> Now {
        Now { time: today(), clock_is_trusted: true, total: 500 * GB, free }
    }

    fn keep(days: i32) -> Rules {
        Rules { retention: Some(DAY * days), ..Rules::default() }
    }

    /// Everything that goes, in order, if each deletion frees `bytes`.
    fn simulate(candidates: &[Candidate], rules: &Rules, now: &Now, bytes: u64) -> Vec<Deletion> {
        let (mut left, mut now, mut gone) = (candidates.to_vec(), *now, Vec::new());
        while let Decision::Delete(deletion) = decide(&left, rules, &now) {
            left.retain(|candidate| !candidate.is(&deletion));
            now.free += bytes;
            gone.push(deletion);
        }
        gone
    }

    fn goes(decision: Decision) -> Option<String> {
        match decision {
            Decision::Delete(deletion) => Some(deletion.id),
            Decision::Nothing => None,
            Decision::Stuck => Some("stuck".into()),
        }
    }

    #[test]
    fn age_removes_the_oldest_but_not_what_proves_that_restoring_works() {
        use Proof::{None as Unproven, Verified};
        let days = |list: &[(i64, Proof)]| {
            list.iter().map(|(days, proof)| backup(*days, *proof)).collect::<Vec<_>>()
        };
        let expired = |days: i64| Some(backup(days, Unproven).id.to_string());
        let table = [
            (days(&[(1, Verified), (2, Unproven), (40, Unproven), (41, Unproven)]), expired(41)),
            (days(&[(1, Verified), (2, Unproven), (29, Unproven)]), None),
            // the floor: the newest three verified ones stay, however old
            (days(&[(1, Verified), (40, Verified), (41, Verified), (42, Verified)]), expired(42)),
            (days(&[(1, Verified), (40, Verified), (41, Verified)]), None),
            // nothing verified within the period, or at all
            (days(&[(31, Verified), (40, Unproven)]), None),
            (days(&[(1, Unproven), (40, Unproven)]), None),
            (vec![], None),
        ];
        for (candidates, expected) in table {
            assert_eq!(goes(for_age(&candidates, &keep(30), &now(400 * GB))), expected, "{candidates:?}");
        }
    }

    #[test]
    fn a_clock_in_doubt_expires_nothing_and_no_period_neither() {
        let candidates = [backup(1, Proof::Verified), backup(40, Proof::None)];
        let doubtful = Now { clock_is_trusted: false, ..now(400 * GB) };
        assert_eq!(for_age(&candidates, &keep(30), &doubtful), Decision::Nothing);
        assert_eq!(for_age(&candidates, &Rules::default(), &now(400 * GB)), Decision::Nothing);
        let earlier = Now { time: Timestamp::UNIX_EPOCH, ..now(400 * GB) };
        assert_eq!(for_age(&candidates, &keep(30), &earlier), Decision::Nothing);
    }

    #[test]
    fn low_space_removes_the_oldest_that_may_go_or_says_that_none_may() {
        let pinned = Candidate { pinned: true, ..backup(50, Proof::None) };
        let resync = Candidate { reason: Reason::BeforeResync, ..backup(5, Proof::None) };
        let verified = backup(10, Proof::Verified);
        let old = backup(20, Proof::Verified);
        let table = [
            (vec![pinned.clone(), verified.clone(), old.clone()], 49 * GB, Some(old.id.to_string())),
            (vec![pinned.clone(), verified.clone(), old.clone()], 51 * GB, None),
            (vec![pinned.clone(), verified.clone()], 49 * GB, Some("stuck".into())),
            // protected: no verified backup since, and not 14 days old
            (vec![resync.clone(), verified.clone()], 49 * GB, Some("stuck".into())),
            (vec![resync.clone(), backup(1, Proof::Verified)], 49 * GB, Some(resync.id.to_string())),
        ];
        for (candidates, free, expected) in table {
            assert_eq!(
                goes(for_space(&candidates, &Rules::default(), &now(free))),
                expected,
                "{candidates:?}"
            );
        }
        let downloaded = Candidate { downloading: true, ..old.clone() };
        let decision = for_space(&[downloaded, verified.clone()], &Rules::default(), &now(GB));
        assert_eq!(decision, Decision::Stuck);
        let late = Candidate { reason: Reason::BeforeResync, ..backup(15, Proof::None) };
        let decision = for_space(&[late.clone(), verified], &Rules::default(), &now(GB));
        assert_eq!(goes(decision), Some(late.id.to_string()));
    }

    #[test]
    fn rotation_goes_on_until_there_is_room() {
        let candidates: Vec<_> = (1..=9).map(|days| backup(days, Proof::Verified)).collect();
        let gone = simulate(&candidates, &keep(7), &now(40 * GB), 4 * GB);
        // 8 and 9 by age; then one more until 50 GB are free
        let expected = [(9, DeletionReason::Age), (8, DeletionReason::Age), (7, DeletionReason::Space)];
        assert_eq!(gone, expected.map(|(days, why)| deletion(&backup(days, Proof::None), why)));
    }

    #[test]
    fn the_plan_says_what_goes_next_and_why_the_rest_stays() {
        let pinned = Candidate { pinned: true, ..backup(50, Proof::None) };
        let candidates = [pinned.clone(), backup(3, Proof::Verified), backup(9, Proof::None)];
        let plan = plan(&candidates, &keep(30), &now(400 * GB));
        assert_eq!((&plan.now, plan.stuck), (&vec![], false));
        assert_eq!(plan.next_for_space, Some(deletion(&candidates[2], DeletionReason::Space)));
        let next = plan.next_by_age.unwrap();
        assert_eq!((next.id, next.at), (candidates[2].id.clone(), today() + DAY * 21));
        let kept: Vec<_> = plan.kept.iter().map(|kept| (kept.id.as_str(), kept.why)).collect();
        let expected = [(&pinned, KeptReason::Pinned), (&candidates[1], KeptReason::NewestVerified)];
        assert_eq!(kept, expected.map(|(candidate, why)| (candidate.id.as_str(), why)));
    }

    #[test]
    fn the_newest_backup_stays_while_none_is_verified() {
        let candidates = [backup(3, Proof::None), backup(2, Proof::None), backup(1, Proof::Failed)];
        let gone = simulate(&candidates, &Rules::default(), &now(0), 0);
        let expected = [0, 2].map(|at: usize| deletion(&candidates[at], DeletionReason::Space));
        assert_eq!(gone, expected);
    }

    fn any_candidate() -> impl Strategy<Value = Candidate> {
        (0..100i64, 0..2u8, any::<bool>(), 0..3u8, 0..3u8).prop_map(|(days, owner, pinned, proof, reason)| {
            Candidate {
                monitor: monitor(owner),
                pinned,
                downloading: days % 7 == 0,
                reason: [Reason::OnDemand, Reason::Schedule, Reason::BeforeResync][usize::from(reason)],
                ..backup(days, [Proof::None, Proof::Verified, Proof::Failed][usize::from(proof)])
            }
        })
    }

    proptest! {
        #[test]
        fn whatever_there_is_what_has_to_stay_stays(
            mut candidates in prop::collection::vec(any_candidate(), 0..30),
            retention in 1..60i32,
            free in 0..600u64,
            each in 0..50u64,
        ) {
            candidates.sort_by_key(|candidate| (candidate.monitor, candidate.id.to_string()));
            candidates.dedup_by_key(|candidate| (candidate.monitor, candidate.id.to_string()));
            let (rules, now) = (keep(retention), now(free * GB));
            let gone = simulate(&candidates, &rules, &now, each * GB);
            let lost = |candidate: &Candidate| gone.iter().any(|deletion| candidate.is(deletion));
            for owner in [monitor(0), monitor(1)] {
                let own: Vec<_> = candidates.iter().filter(|candidate| candidate.monitor == owner).collect();
                let newest = own.iter().filter(|c| c.proof == Proof::Verified).max_by_key(|c| c.age_key());
                prop_assert!(!newest.is_some_and(|newest| lost(newest)), "the newest verified one went");
                prop_assert!(!own.iter().any(|candidate| candidate.pinned && lost(candidate)), "a pinned one went");
                let usable = |c: &&&Candidate| c.proof != Proof::Failed;
                let left = own.iter().filter(|candidate| !lost(candidate)).filter(usable).count();
                prop_assert!(left > 0 || own.iter().filter(usable).count() == 0, "nothing usable is left");
            }
            for candidate in &candidates {
                prop_assert!(!candidate.downloading || !lost(candidate), "it went while it was downloaded");
                let young = now.time.duration_since(candidate.created) <= DAY * retention;
                let by_age = gone.iter().any(|d| candidate.is(d) && d.why == DeletionReason::Age);
                prop_assert!(!by_age || !young, "a young one went by age");
            }
            let by_space = gone.iter().filter(|deletion| deletion.why == DeletionReason::Space).count();
            prop_assert!(by_space == 0 || rules.is_low(now.total, now.free), "space was not low");
        }
    }
}
