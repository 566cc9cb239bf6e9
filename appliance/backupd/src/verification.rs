//! Which backup is verified or read next: the newest first until a good one is known, and in idle times each
//! again (design D9). Pure.
//!
//! Trouble of the machine is no result. What had trouble waits, longer each time, and does not keep others
//! from their turn.

use api::{Attempt, Backup, Depth, Trouble, Verification};
use jiff::{SignedDuration, Timestamp};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use uuid::Uuid;

/// Pause after the first trouble; each further one doubles it.
const AGAIN: SignedDuration = SignedDuration::from_mins(10);
/// The longest pause.
const AGAIN_MAX: SignedDuration = SignedDuration::from_hours(6);
/// Every table and index is read at least this often.
const FULL: SignedDuration = SignedDuration::from_hours(7 * 24);
/// A backup is to have been read again after so long.
pub const READ_WITHIN: SignedDuration = SignedDuration::from_hours(30 * 24);
/// After so long its turn comes, which leaves a week for all that are due at once.
const READ_AGAIN: SignedDuration = SignedDuration::from_hours(23 * 24);
/// A time of day that is ahead by more is of another clock.
const CLOCKS_DIFFER: SignedDuration = SignedDuration::from_hours(1);

/// What to do with a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Prove that it restores.
    Verify(Depth),
    /// Read it from end to end.
    Read,
}

/// When what had trouble is tried again.
pub fn again_at(trouble: &Trouble) -> Timestamp {
    let doubled = 1_i32.checked_shl(trouble.times.saturating_sub(1).min(30)).unwrap_or(i32::MAX);
    let pause = AGAIN.checked_mul(doubled).unwrap_or(AGAIN_MAX).min(AGAIN_MAX);
    trouble.at.saturating_add(pause).unwrap_or(Timestamp::MAX)
}

/// When a backup was last read from end to end, or else made.
pub fn last_read(backup: &Backup) -> Timestamp {
    match (&backup.read, &backup.verification) {
        (Some(reading), _) => reading.at,
        // Each verification has read it; those of the first versions did not say so.
        (None, Verification::Verified(proof)) => proof.at,
        _ => backup.created,
    }
}

/// What somebody has asked for, the oldest first, and whether the last turn was one of these.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// Ids of backups.
    pub ids: &'a [String],
    /// Then it is another's turn, where another waits.
    pub had_last_turn: bool,
}

/// What to do next: by turns what somebody asked for, and to prove the newest backup of each monitor, or where that
/// failed or has trouble, the next older one that is not proven; else to read the one that was not read for
/// the longest. So whoever asks without end does not keep the newest from its proof.
pub fn next(asked: Asked<'_>, backups: &[Backup], now: Timestamp) -> Option<(Backup, Work)> {
    let wanted = || {
        let backup = asked.ids.iter().find_map(|id| backups.iter().find(|backup| backup.id == *id))?;
        Some((backup, Work::Verify(Depth::Full)))
    };
    let own = || to_verify(backups, now);
    let first = if asked.had_last_turn { own().or_else(wanted) } else { wanted().or_else(own) };
    let found = first.or_else(|| to_verify_again(backups, now)).or_else(|| to_read(backups, now));
    found.map(|(backup, work)| match work {
        // Whoever has asked for it gets all of it, whosever turn it is.
        Work::Verify(_) if asked.ids.contains(&backup.id) => (backup.clone(), Work::Verify(Depth::Full)),
        work => (backup.clone(), work),
    })
}

/// The newest unproven backup before the newest proven one of its monitor, where it is not waiting.
fn to_verify(backups: &[Backup], now: Timestamp) -> Option<(&Backup, Work)> {
    let mut monitors: BTreeMap<Uuid, Vec<&Backup>> = BTreeMap::new();
    for backup in backups {
        monitors.entry(backup.monitor.id).or_default().push(backup);
    }
    monitors.into_values().find_map(|mut own| {
        own.sort_by_key(|backup| Reverse(backup.order()));
        let is_proven = |backup: &Backup| matches!(backup.verification, Verification::Verified(_));
        let in_question: Vec<_> = own.iter().take_while(|backup| !is_proven(backup)).collect();
        let has_failed = |backup: &Backup| matches!(backup.verification, Verification::Failed { .. });
        let next =
            in_question.iter().find(|backup| !has_failed(backup) && !waits(backup, Attempt::Verify, now))?;
        let suspicious = in_question.iter().any(|backup| has_failed(backup));
        let depth = if !suspicious && read_lately(&own, now) { Depth::Start } else { Depth::Full };
        Some((**next, Work::Verify(depth)))
    })
}

/// One that has its result, and had trouble when somebody asked for another.
fn to_verify_again(backups: &[Backup], now: Timestamp) -> Option<(&Backup, Work)> {
    let had_trouble = |backup: &&Backup| {
        let is_of_verifying = |trouble: &Trouble| trouble.attempt == Attempt::Verify;
        let has_result =
            matches!(backup.verification, Verification::Verified(_) | Verification::Failed { .. });
        has_result && backup.trouble.as_ref().is_some_and(is_of_verifying)
    };
    let mut found = backups.iter().filter(had_trouble);
    let next = found.find(|backup| !waits(backup, Attempt::Verify, now))?;
    Some((next, Work::Verify(Depth::Full)))
}

/// The one that was not read for the longest, if its turn has come. What has changed once is not read any
/// more.
fn to_read(backups: &[Backup], now: Timestamp) -> Option<(&Backup, Work)> {
    let is_due = |backup: &&Backup| {
        let has_changed = backup.read.is_some_and(|reading| !reading.same);
        let age = now.duration_since(last_read(backup));
        !has_changed && (age > READ_AGAIN || age < -CLOCKS_DIFFER) && !waits(backup, Attempt::Read, now)
    };
    let next = backups.iter().filter(is_due).min_by_key(|backup| last_read(backup).min(now))?;
    Some((next, Work::Read))
}

/// Whether its last trouble was so short a time ago that it is not tried again yet.
fn waits(backup: &Backup, attempt: Attempt, now: Timestamp) -> bool {
    backup.trouble.as_ref().is_some_and(|trouble| {
        // One of the future says nothing: the clock was set.
        trouble.attempt == attempt && now < again_at(trouble) && trouble.at <= now + CLOCKS_DIFFER
    })
}

/// Whether every table and index of one was read within the week.
fn read_lately(backups: &[&Backup], now: Timestamp) -> bool {
    backups.iter().any(|backup| match &backup.verification {
        Verification::Verified(proof) => {
            let age = now.duration_since(proof.at);
            proof.depth == Depth::Full && age < FULL && age > -CLOCKS_DIFFER
        }
        _ => false,
    })
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use api::{Proof, Reading};
    use proptest::prelude::*;

    const NOBODY: Asked<'static> = Asked { ids: &[], had_last_turn: false };

    pub fn now() -> Timestamp {
        "2026-11-30T12:00:00Z".parse().unwrap()
    }

    pub fn hours_ago(hours: i64) -> Timestamp {
        now() - SignedDuration::from_hours(hours)
    }

    /// A backup of that number, made so many hours ago.
    pub fn backup(sequence: u64, hours: i64, verification: Verification) -> Backup {
        let json = serde_json::json!({
            "format": 1, "id": format!("b{sequence}"), "sequence": sequence, "created": hours_ago(hours),
            "reason": "schedule",
            "monitor": {"id": "00000000-0000-0000-0000-000000000001", "version": "1.0"},
            "postgresql": {"major": 17, "version": "17.6", "system_identifier": "1", "timeline": 1,
                "flushed_lsn": "0/1", "block_size": 8192, "checksums": true, "collations": []},
            "sizes": {"files": 1, "tar": 2}, "snapshot_ms": 1.0, "verification": {"status": "pending"}
        });
        Backup { verification, ..serde_json::from_value(json).unwrap() }
    }

    pub fn verified(depth: Depth, hours: i64) -> Verification {
        let at = hours_ago(hours);
        Verification::Verified(Proof { at, recovery_seconds: 1.0, seconds: 1.0, depth, limits: vec![] })
    }

    pub fn failed() -> Verification {
        Verification::Failed { at: hours_ago(1), reason: "a page is bad".into() }
    }

    pub fn trouble(attempt: Attempt, times: u32, minutes: i64) -> Option<Trouble> {
        let at = now() - SignedDuration::from_mins(minutes);
        Some(Trouble { attempt, since: at, at, times, reason: "it was killed".into(), disk: false })
    }

    use Verification::{Pending, Superseded};
    use Work::{Read, Verify};

    #[test]
    fn the_newest_is_verified_and_after_a_failure_older_ones_until_a_good_one_is_known() {
        let good = |depth, hours| verified(depth, hours);
        let late = |backup: Backup, times, minutes| Backup {
            trouble: trouble(Attempt::Verify, times, minutes),
            ..backup
        };
        let table = [
            (vec![], None),
            (vec![backup(1, 3, Pending)], Some((1, Verify(Depth::Full)))),
            (vec![backup(1, 3, Pending), backup(2, 2, Pending)], Some((2, Verify(Depth::Full)))),
            (
                vec![backup(1, 3, good(Depth::Full, 3)), backup(2, 2, Pending)],
                Some((2, Verify(Depth::Start))),
            ),
            // every table is read once a week, by when it was done
            (
                vec![backup(1, 200, good(Depth::Full, 169)), backup(2, 2, Pending)],
                Some((2, Verify(Depth::Full))),
            ),
            (
                vec![backup(1, 3, good(Depth::Start, 3)), backup(2, 2, Pending)],
                Some((2, Verify(Depth::Full))),
            ),
            (
                vec![backup(1, 3, good(Depth::Full, -99)), backup(2, 2, Pending)],
                Some((2, Verify(Depth::Full))),
            ),
            // only the newest is worth it
            (vec![backup(1, 3, Pending), backup(2, 2, good(Depth::Full, 2))], None),
            // until a good one is known
            (
                vec![backup(1, 4, Superseded), backup(2, 3, Pending), backup(3, 2, failed())],
                Some((2, Verify(Depth::Full))),
            ),
            (
                vec![backup(1, 4, Superseded), backup(2, 3, failed()), backup(3, 2, failed())],
                Some((1, Verify(Depth::Full))),
            ),
            (
                vec![backup(1, 4, Superseded), backup(2, 3, good(Depth::Full, 3)), backup(3, 2, failed())],
                None,
            ),
            (vec![backup(1, 4, failed()), backup(2, 3, failed())], None),
            // by the sequence, not by the clock
            (
                vec![backup(1, -90_000, good(Depth::Full, 3)), backup(2, 2, Pending)],
                Some((2, Verify(Depth::Start))),
            ),
            // trouble waits, and others have their turn meanwhile
            (vec![late(backup(1, 3, Pending), 1, 9)], None),
            (vec![late(backup(1, 3, Pending), 1, 11)], Some((1, Verify(Depth::Full)))),
            (vec![late(backup(1, 3, Pending), 3, 39)], None),
            (vec![late(backup(1, 3, Pending), 3, 41)], Some((1, Verify(Depth::Full)))),
            (vec![late(backup(1, 3, Pending), 4_000_000_000, 359)], None),
            (vec![late(backup(1, 3, Pending), 4_000_000_000, 361)], Some((1, Verify(Depth::Full)))),
            (vec![late(backup(1, 3, Pending), 1, -61)], Some((1, Verify(Depth::Full)))),
            (vec![backup(1, 4, Pending), late(backup(2, 3, Pending), 1, 9)], Some((1, Verify(Depth::Full)))),
            (vec![backup(1, 4, good(Depth::Full, 4)), late(backup(2, 3, Pending), 1, 9)], None),
            // trouble with what was asked for
            (vec![late(backup(1, 4, good(Depth::Full, 4)), 1, 9), backup(2, 3, good(Depth::Full, 3))], None),
            (
                vec![late(backup(1, 4, good(Depth::Full, 4)), 1, 11), backup(2, 3, good(Depth::Full, 3))],
                Some((1, Verify(Depth::Full))),
            ),
            (vec![late(backup(1, 4, failed()), 1, 11)], Some((1, Verify(Depth::Full)))),
        ];
        for (backups, expected) in table {
            let found = next(NOBODY, &backups, now()).map(|(backup, work)| (backup.sequence, work));
            assert_eq!(found, expected, "{backups:#?}");
        }
        let backups = [backup(1, 4, Superseded), late(backup(2, 3, Pending), 9, 0)];
        for id in ["b1", "b2"] {
            let ids = ["gone".to_owned(), id.to_owned()];
            let (found, work) = next(Asked { ids: &ids, had_last_turn: false }, &backups, now()).unwrap();
            assert_eq!((found.id.as_str(), work), (id, Verify(Depth::Full)));
        }
    }

    #[test]
    fn who_asks_without_end_has_every_second_turn() {
        let backups = [backup(1, 4, Superseded), backup(2, 3, Pending)];
        let ids = ["b1".to_owned()];
        for (had_last_turn, expected) in [(false, "b1"), (true, "b2")] {
            let (found, _) = next(Asked { ids: &ids, had_last_turn }, &backups, now()).unwrap();
            assert_eq!(found.id, expected);
        }
        // The newest, where another's proof was the last turn: whoever asked for it gets all of it.
        let recent = [backup(1, 4, verified(Depth::Full, 4)), backup(2, 3, Pending)];
        let ids = ["b2".to_owned()];
        for (asked, depth) in [(&ids[..], Depth::Full), (&[], Depth::Start)] {
            let (found, work) = next(Asked { ids: asked, had_last_turn: true }, &recent, now()).unwrap();
            assert_eq!((found.id.as_str(), work), ("b2", Verify(depth)));
        }
        let ids = ["b1".to_owned()];
        // Where nothing else waits, what was asked for goes on.
        let (found, _) = next(Asked { ids: &ids, had_last_turn: true }, &backups[..1], now()).unwrap();
        assert_eq!(found.id, "b1");
    }

    #[test]
    fn each_is_read_again_the_one_that_waits_longest_first() {
        const DAY: i64 = 24;
        let good = |sequence, hours| backup(sequence, hours, verified(Depth::Full, hours));
        let read = |backup: Backup, hours, same| Backup {
            read: Some(Reading { at: hours_ago(hours), same }),
            ..backup
        };
        let newest = || good(9, 1);
        let table = [
            (vec![newest(), good(1, 22 * DAY)], None),
            (vec![newest(), good(1, 24 * DAY)], Some((1, Read))),
            (vec![newest(), backup(1, 24 * DAY, Superseded)], Some((1, Read))),
            (vec![newest(), backup(1, 24 * DAY, failed())], Some((1, Read))),
            (vec![newest(), good(1, 90 * DAY), good(2, 80 * DAY)], Some((1, Read))),
            (vec![newest(), read(good(1, 90 * DAY), DAY, true), good(2, 80 * DAY)], Some((2, Read))),
            (vec![newest(), read(good(1, 90 * DAY), 40 * DAY, false)], None),
            // a date of the future says nothing
            (vec![newest(), good(1, -DAY)], Some((1, Read))),
            (vec![newest(), read(good(1, 90 * DAY), -DAY, true)], Some((1, Read))),
            (vec![newest(), Backup { trouble: trouble(Attempt::Read, 1, 9), ..good(1, 24 * DAY) }], None),
            (
                vec![newest(), Backup { trouble: trouble(Attempt::Read, 1, 11), ..good(1, 24 * DAY) }],
                Some((1, Read)),
            ),
            // what is not proven comes first
            (vec![backup(9, 1, Pending), good(1, 90 * DAY)], Some((9, Verify(Depth::Full)))),
        ];
        for (backups, expected) in table {
            let found = next(NOBODY, &backups, now()).map(|(backup, work)| (backup.sequence, work));
            assert_eq!(found, expected, "{backups:#?}");
        }
    }

    fn any_backup() -> impl Strategy<Value = Backup> {
        let trouble = prop::option::of((any::<bool>(), 0..40u32, -500..5000i64)).prop_map(|given| {
            given.and_then(|(reads, times, minutes)| {
                trouble(if reads { Attempt::Read } else { Attempt::Verify }, times, minutes)
            })
        });
        (1..9u64, -2000..2000i64, 0..4u8, trouble).prop_map(|(sequence, hours, state, trouble)| {
            let verification = match state {
                0 => Pending,
                1 => Superseded,
                2 => failed(),
                _ => verified(if hours % 2 == 0 { Depth::Full } else { Depth::Start }, hours),
            };
            Backup { trouble, ..backup(sequence, hours, verification) }
        })
    }

    proptest! {
        /// Whatever the clocks say: as long as every verification fails, each backup is tried; and once one
        /// is good, none is.
        #[test]
        fn one_after_the_other_is_tried_until_one_is_good(
            mut backups in prop::collection::vec(any_backup(), 1..9),
            good in 0..9usize,
        ) {
            backups.sort_by_key(|backup| backup.sequence);
            backups.dedup_by_key(|backup| backup.sequence);
            for backup in &mut backups {
                (backup.trouble, backup.verification) = (None, Pending);
            }
            let mut tried = Vec::new();
            while let Some((next, Verify(_))) = next(NOBODY, &backups, now()) {
                prop_assert!(!tried.contains(&next.sequence), "{} twice", next.sequence);
                tried.push(next.sequence);
                let result = if tried.len() == good + 1 { verified(Depth::Full, 0) } else { failed() };
                backups.iter_mut().filter(|b| b.sequence == next.sequence).for_each(|b| b.verification = result.clone());
            }
            prop_assert!(tried.windows(2).all(|two| two[0] > two[1]), "{tried:?}");
            prop_assert_eq!(tried.len(), backups.len().min(good + 1));
        }

        /// Nothing that waits is tried, and trouble keeps none from being tried for more than six hours.
        #[test]
        fn trouble_delays_and_stops_nothing(backups in prop::collection::vec(any_backup(), 0..9)) {
            if let Some((next, work)) = next(NOBODY, &backups, now()) {
                let attempt = if work == Read { Attempt::Read } else { Attempt::Verify };
                prop_assert!(!waits(&next, attempt, now()));
            }
            for backup in &backups {
                for attempt in [Attempt::Read, Attempt::Verify] {
                    let later = now() + AGAIN_MAX + CLOCKS_DIFFER;
                    prop_assert!(!(waits(backup, attempt, now()) && waits(backup, attempt, later)));
                }
            }
        }
    }
}
