//! The planner by tables, and by properties that hold whatever there is.

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
        sequence: u64::try_from(1000 - days).unwrap(),
        created,
        witnessed: DAY * i32::try_from(days).unwrap(),
        reason: Reason::Schedule,
        pinned: false,
        proof,
        downloading: false,
    }
}

fn now(free: u64) -> Now {
    Now {
        time: today(),
        clock_is_trusted: true,
        doubt: SignedDuration::ZERO,
        total: 500 * GB,
        free,
        clone_bytes: 0,
        gone_for_space: 0,
        in_vain: false,
    }
}

/// Rules whose floor is as low as the console can set it, for what else there is to try.
fn low_floor() -> Rules {
    let limits = Limits { keep_last: 1, min_age_hours: 0, daily_percent: 100, ..Limits::default() };
    Rules { retention: None, limits }
}

fn keep(days: i32) -> Rules {
    Rules { retention: Some(DAY * days), ..low_floor() }
}

/// Everything that goes, in order, if each deletion frees `bytes`.
fn simulate(candidates: &[Candidate], rules: &Rules, now: &Now, bytes: u64) -> Vec<Deletion> {
    let (mut left, mut now, mut gone) = (candidates.to_vec(), *now, Vec::new());
    while let Decision::Delete(deletion) = decide(&left, rules, &now) {
        left.retain(|candidate| !candidate.is(&deletion));
        now.free += bytes;
        now.gone_for_space += usize::from(deletion.why == DeletionReason::Space);
        gone.push(deletion);
    }
    gone
}

fn goes(decision: Decision) -> Option<String> {
    match decision {
        Decision::Delete(deletion) => Some(deletion.id),
        Decision::Nothing => None,
        Decision::Stuck(_) => Some("stuck".into()),
    }
}

#[test]
fn age_removes_the_oldest_but_not_what_proves_that_restoring_works() {
    use Proof::{None as Unproven, Verified};
    let days =
        |list: &[(i64, Proof)]| list.iter().map(|(days, proof)| backup(*days, *proof)).collect::<Vec<_>>();
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
        assert_eq!(goes(for_space(&candidates, &low_floor(), &now(free))), expected, "{candidates:?}");
    }
    let downloaded = Candidate { downloading: true, ..old.clone() };
    let decision = for_space(&[downloaded, verified.clone()], &low_floor(), &now(GB));
    assert_eq!(decision, Decision::Stuck(StuckReason::Floor));
    let late = Candidate { reason: Reason::BeforeResync, ..backup(15, Proof::None) };
    let decision = for_space(&[late.clone(), verified], &low_floor(), &now(GB));
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
    let expected = [(&candidates[1], KeptReason::NewestVerified), (&pinned, KeptReason::Pinned)];
    assert_eq!(kept, expected.map(|(candidate, why)| (candidate.id.as_str(), why)));
}

#[test]
fn the_newest_backup_stays_while_none_is_verified() {
    let candidates = [backup(3, Proof::None), backup(2, Proof::None), backup(1, Proof::Failed)];
    let gone = simulate(&candidates, &low_floor(), &now(0), 0);
    // the failed one is the last, which stays whatever its state is
    assert_eq!(gone, [deletion(&candidates[0], DeletionReason::Space)]);
}

/// So many backups, one a day, the newest of today.
fn days(count: i64, proof: Proof) -> Vec<Candidate> {
    (0..count).map(|days| backup(days, proof)).collect()
}

fn why(candidates: &[Candidate], id: &str, now: &Now) -> Option<KeptReason> {
    let plan = plan(candidates, &Rules::default(), now);
    plan.kept.iter().find(|kept| kept.id == id).map(|kept| kept.why)
}

#[test]
fn the_last_ones_and_the_young_ones_stay_whatever_their_state() {
    let failed = days(6, Proof::Failed);
    let gone = simulate(
        &failed,
        &Rules { limits: Limits { daily_percent: 100, ..Limits::default() }, ..Rules::default() },
        &now(0),
        0,
    );
    let ids: Vec<_> = gone.iter().map(|deletion| deletion.id.as_str()).collect();
    assert_eq!(ids, [5, 4, 3].map(|at: usize| failed[at].id.as_str()));
    // A number, not a date, makes the last ones: here the oldest dates came last.
    let mut turned = days(6, Proof::Failed);
    turned.iter_mut().enumerate().for_each(|(at, candidate)| candidate.sequence = at as u64 + 1);
    assert_eq!(why(&turned, &failed[5].id, &now(0)), Some(KeptReason::Last));
    assert_eq!(why(&turned, &failed[2].id, &now(0)), None);

    // Not among the last three: days by its date, hours that the machine ran since.
    let hour = SignedDuration::from_hours;
    for (sequence, hours, doubt, witnessed, trusted, expected) in [
        (1, 900, 0, 23, true, Some(KeptReason::Young)),
        (1, 0, 0, 24, true, None),
        // of the future
        (1, -90_000, 0, 23, true, Some(KeptReason::Young)),
        (1, -90_000, 0, 24, false, None),
        // without a number its date counts, as far as the clock can be trusted
        (0, 23, 0, 0, true, Some(KeptReason::Young)),
        (0, 25, 0, 0, true, None),
        (0, 25, 2, 0, true, Some(KeptReason::Young)),
        (0, 900, 0, 0, false, Some(KeptReason::Young)),
        (0, -90_000, 0, 0, true, Some(KeptReason::Young)),
        (0, 23, 0, 25, true, None),
    ] {
        let mut candidates = days(4, Proof::Failed);
        candidates[3].sequence = sequence;
        candidates[3].created = today() - hour(hours);
        candidates[3].witnessed = hour(witnessed);
        let now = Now { clock_is_trusted: trusted, doubt: hour(doubt), ..now(0) };
        let said = why(&candidates, &candidates[3].id, &now);
        assert_eq!(said, expected, "{hours} h, {doubt} h of doubt, {witnessed} h seen, trusted: {trusted}");
    }
}

#[test]
fn a_clock_that_was_set_back_makes_no_backup_old() {
    // Made a day after the one before it, under a clock that was set back by 40 days.
    let back = Candidate {
        sequence: 991,
        created: today() - DAY * 49,
        witnessed: DAY * 9,
        ..backup(9, Proof::None)
    };
    let list = [backup(1, Proof::Verified), backup(8, Proof::None), back.clone(), backup(10, Proof::None)];
    assert_eq!(for_age(&list, &keep(30), &now(400 * GB)), Decision::Nothing);
    assert_eq!(goes(for_age(&list, &keep(9), &now(400 * GB))), Some(list[3].id.clone()));
    // What the clock may be wrong by is taken off.
    let doubtful = Now { doubt: DAY, ..now(400 * GB) };
    let list = [backup(1, Proof::Verified), Candidate { witnessed: DAY, ..backup(31, Proof::None) }];
    assert_eq!(for_age(&list, &keep(30), &doubtful), Decision::Nothing);
    assert!(goes(for_age(&list, &keep(30), &now(400 * GB))).is_some());
}

#[test]
fn a_quarter_of_the_list_goes_in_a_day_for_space() {
    let list = days(22, Proof::Verified);
    let gone = simulate(&list, &Rules::default(), &now(0), 0);
    assert_eq!(gone.len(), 5);
    let left: Vec<_> = list.iter().filter(|c| !gone.iter().any(|gone| c.is(gone))).cloned().collect();
    let later = Now { gone_for_space: 5, ..now(0) };
    assert_eq!(decide(&left, &Rules::default(), &later), Decision::Stuck(StuckReason::DailyShare));
    assert_eq!(for_copy(&left, &Rules::default(), &later, GB), Decision::Stuck(StuckReason::DailyShare));
    assert!(matches!(decide(&left, &Rules::default(), &now(0)), Decision::Delete(_)));
    let in_vain = Now { in_vain: true, ..now(0) };
    assert_eq!(decide(&list, &Rules::default(), &in_vain), Decision::Stuck(StuckReason::InVain));
    assert!(matches!(for_copy(&list, &Rules::default(), &in_vain, GB), Decision::Delete(_)));
    // At least one, and never what the floor holds.
    let few = days(4, Proof::Verified);
    assert_eq!(simulate(&few, &Rules::default(), &now(0), 0).len(), 1);
    assert_eq!(decide(&few[..3], &Rules::default(), &now(0)), Decision::Stuck(StuckReason::Floor));
}

#[test]
fn nothing_goes_for_the_room_that_a_verification_takes() {
    let list = days(22, Proof::Verified);
    let clone = Now { clone_bytes: 40 * GB, ..now(20 * GB) };
    assert_eq!(decide(&list, &Rules::default(), &clone), Decision::Nothing);
    assert!(matches!(decide(&list, &Rules::default(), &now(20 * GB)), Decision::Delete(_)));
    assert_eq!(for_copy(&list, &Rules::default(), &clone, 60 * GB), Decision::Nothing);
    let goes = for_copy(&list, &Rules::default(), &clone, 61 * GB);
    assert_eq!(goes, Decision::Delete(deletion(&list[21], DeletionReason::Space)));
}

#[test]
fn a_flood_of_backups_is_the_first_to_go() {
    // Ten good days, and then twenty backups in one day.
    let good: Vec<_> = (5..15).map(|days| backup(days, Proof::Verified)).collect();
    let flood: Vec<_> = (0..20u64)
        .map(|number| Candidate {
            sequence: 996 + number,
            id: format!("20261121T120000Z-{}", number + 2),
            ..backup(3, Proof::Verified)
        })
        .collect();
    let list: Vec<_> = flood.iter().chain(&good).cloned().collect();
    let gone = simulate(&list, &low_floor(), &now(0), 0);
    assert!(gone[..19].iter().all(|gone| flood.iter().any(|candidate| candidate.is(gone))), "{gone:?}");
    // A worse one does not stand for a better one, and one with an old date for none of that time.
    let failed =
        |sequence, days| Candidate { sequence, id: format!("{sequence}"), ..backup(days, Proof::Failed) };
    for newer in [failed(2000, 3), Candidate { proof: Proof::Verified, ..failed(2000, 14) }] {
        let list =
            [newer, backup(2, Proof::Verified), backup(3, Proof::Verified), backup(14, Proof::Verified)];
        let goes = for_space(&list, &low_floor(), &now(0));
        assert_eq!(goes, Decision::Delete(deletion(&list[3], DeletionReason::Space)));
    }
}

/// Seventy-two backups of the last hour, and then a full volume: the month of good ones loses no more than it would without
/// them, that night and the next one.
#[test]
fn a_flood_does_not_widen_the_share_of_a_day() {
    let good: Vec<_> = (1..=30).map(|days| backup(days, Proof::Verified)).collect();
    for (age, held, most) in [(0, false, 7), (1, false, 25), (1, true, 7)] {
        let flood: Vec<_> = (0..72u64)
            .map(|number| Candidate {
                sequence: 2000 + number,
                id: format!("flood-{number}"),
                // Downloads that are renewed keep them from going first.
                downloading: held,
                witnessed: DAY * age,
                ..backup(0, Proof::Verified)
            })
            .collect();
        let list: Vec<_> = flood.iter().chain(&good).cloned().collect();
        let gone = simulate(&list, &Rules::default(), &now(0), 0);
        let good = |gone: &&Deletion| good.iter().any(|candidate| candidate.is(gone));
        assert!(gone.len() <= most, "{} of a flood of {age} days", gone.len());
        assert!(gone.iter().filter(good).count() <= 7, "{gone:?}");
    }
}

#[test]
fn a_date_in_the_future_proves_nothing() {
    // The newest verified one is dated 2036: whether a good one was made lately is not known.
    let future = Candidate {
        sequence: 5000,
        created: "2036-01-01T00:00:00Z".parse().unwrap(),
        ..backup(0, Proof::Verified)
    };
    let list = [future.clone(), backup(40, Proof::Verified), backup(41, Proof::Verified)];
    assert_eq!(for_age(&list, &keep(30), &now(400 * GB)), Decision::Nothing);
    assert_eq!(why(&list, &future.id, &now(0)), Some(KeptReason::NewestVerified));
}

fn any_candidate() -> impl Strategy<Value = Candidate> {
    (0..100i64, 0..2u8, prop::bool::weighted(0.2), 0..3u8, 0..3u8).prop_map(
        |(days, owner, pinned, proof, reason)| Candidate {
            monitor: monitor(owner),
            pinned,
            downloading: days % 7 == 0,
            reason: [Reason::OnDemand, Reason::Schedule, Reason::BeforeResync][usize::from(reason)],
            ..backup(days, [Proof::None, Proof::Verified, Proof::Failed][usize::from(proof)])
        },
    )
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
        let (rules, now) = (Rules { retention: Some(DAY * retention), ..Rules::default() }, now(free * GB));
        let gone = simulate(&candidates, &rules, &now, each * GB);
        let lost = |candidate: &Candidate| gone.iter().any(|deletion| candidate.is(deletion));
        for owner in [monitor(0), monitor(1)] {
            let own: Vec<_> = candidates.iter().filter(|candidate| candidate.monitor == owner).collect();
            let newest = own.iter().filter(|c| c.proof == Proof::Verified).max_by_key(|c| c.order());
            let left = own.iter().filter(|candidate| !lost(candidate)).count();
            prop_assert!(left >= own.len().min(3), "{left} of {} are left", own.len());
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
