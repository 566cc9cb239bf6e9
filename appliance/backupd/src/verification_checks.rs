//! The checks `last-verification` and `backups-read`: what is known of the backups, in sentences. Pure.

use crate::status::{in_words, sentence};
use crate::verification::{READ_WITHIN, again_at, last_read};
use api::{Attempt, Backup, BackupList, Check, Level, Proof, Trouble, Verification};
use jiff::{SignedDuration, Timestamp};
use std::cmp::Reverse;
use uuid::Uuid;

/// Trouble that lasts longer is a failure: nothing is proven meanwhile.
const TROUBLE_FAILS: SignedDuration = SignedDuration::from_hours(24);
/// A backup that waits longer for its proof is told.
const WAITING_WARNS: SignedDuration = SignedDuration::from_hours(48);
/// Verification that has come to nothing for so long has stopped.
const WAITING_FAILS: SignedDuration = SignedDuration::from_hours(7 * 24);
/// So many backups are named in a sentence.
const NAMED_MAX: usize = 3;
/// So much later than it should be a backup may be read: all that are due are read one after the other.
const READ_LATE: SignedDuration = SignedDuration::from_hours(24);

/// Check `last-verification` of the paired monitor's backups.
pub fn last_verification(is_paired: bool, backups: &Result<Vec<Backup>, String>, now: Timestamp) -> Check {
    let (level, message) = match backups {
        Err(error) => (Level::Fail, sentence(error)),
        Ok(backups) if !is_paired || backups.is_empty() => {
            (Level::Ok, "There is no backup to verify.".into())
        }
        Ok(backups) => proven(backups, now),
    };
    Check { name: "last-verification".into(), level, message }
}

fn proven(backups: &[Backup], now: Timestamp) -> (Level, String) {
    let mut own: Vec<_> = backups.iter().collect();
    own.sort_by_key(|backup| Reverse(backup.order()));
    let good_at = own.iter().position(|backup| matches!(backup.verification, Verification::Verified(_)));
    let in_question = &own[..good_at.unwrap_or(own.len())];
    let upto_good = &own[..good_at.map_or(own.len(), |at| at + 1)];
    let failed = in_question.iter().find_map(|backup| match &backup.verification {
        Verification::Failed { reason, .. } => Some((&backup.id, reason)),
        _ => None,
    });
    let troubled = upto_good.iter().find_map(|backup| {
        let trouble = backup.trouble.as_ref().filter(|trouble| trouble.attempt == Attempt::Verify)?;
        Some((&backup.id, trouble))
    });
    let good = good_at.and_then(|at| own.get(at));
    let last_good = match good {
        Some(good) => format!(" Backup {} is the newest one that is verified.", good.id),
        None => " No backup is verified.".into(),
    };
    if let Some((id, reason)) = failed {
        let others = match (good, troubled) {
            (None, None) => " Older ones are tried one after the other.".into(),
            (_, Some((id, trouble))) => format!(" {}", hindered(id, trouble, now)),
            (Some(_), None) => String::new(),
        };
        return (
            Level::Fail,
            format!("Backup {id} cannot be restored: {}{last_good}{others}", sentence(reason)),
        );
    }
    let waiting = in_question.iter().map(|backup| now.duration_since(backup.created)).max();
    if let Some((id, trouble)) = troubled {
        // A new backup begins a trouble of its own; how long there was no result counts over all of them.
        let of_all = upto_good.iter().filter_map(|backup| backup.trouble.as_ref());
        let worst = of_all.map(|trouble| trouble_level(trouble, now)).max().unwrap_or(Level::Warn);
        let is_late = waiting.is_some_and(|waiting| waiting > WAITING_FAILS);
        let level = if is_late { Level::Fail } else { worst };
        return (level, format!("{}{last_good}", hindered(id, trouble, now)));
    }
    if let Some(waiting) = waiting.filter(|waiting| *waiting > WAITING_WARNS) {
        let level = if waiting > WAITING_FAILS { Level::Fail } else { Level::Warn };
        return (level, format!("No verification has come to an end for {}.{last_good}", in_words(waiting)));
    }
    match good.map(|good| (&good.id, &good.verification)) {
        Some((id, Verification::Verified(proof))) => {
            let limits: String = proof.limits.iter().map(|limit| format!(" {limit}")).collect();
            (Level::Ok, format!("{}{limits}", verified(id, proof)))
        }
        _ => (Level::Warn, "No backup is verified yet.".into()),
    }
}

/// That a backup is verified. How long a restore takes depends on the network and the other machine, so it is not promised.
pub fn verified(id: &str, proof: &Proof) -> String {
    let took = SignedDuration::from_secs_f64(proof.recovery_seconds.clamp(0.0, 1e9).ceil());
    format!("Backup {id} is verified: PostgreSQL recovered it here in {}.", in_words(took))
}

fn trouble_level(trouble: &Trouble, now: Timestamp) -> Level {
    let is_lasting = now.duration_since(trouble.since) > TROUBLE_FAILS;
    if trouble.disk || is_lasting { Level::Fail } else { Level::Warn }
}

/// What hindered the last try, and when the next one is. It says nothing about the backup.
fn hindered(id: &str, trouble: &Trouble, now: Timestamp) -> String {
    let what = match trouble.attempt {
        Attempt::Verify => "verified",
        Attempt::Read => "read",
    };
    let left = again_at(trouble).duration_since(now);
    let again = if left.is_positive() { format!("in about {}", in_words(left)) } else { "soon".into() };
    let times = match trouble.times {
        1 => "once".into(),
        times => format!("{times} times"),
    };
    format!(
        "Backup {id} could not be {what} now, because {}. It was tried {times} and is tried again {again}.",
        trouble.reason.trim_end_matches('.')
    )
}

/// Check `backups-read`: every backup of every monitor is read again over time, and is what it was.
pub fn backups_read(list: &Result<BackupList, String>, paired: Option<Uuid>, now: Timestamp) -> Check {
    let (level, message) = match list {
        Err(error) => (Level::Fail, sentence(error)),
        Ok(list) => reread(list, paired, now),
    };
    Check { name: "backups-read".into(), level, message }
}

/// The backups by id, those of other monitors than the paired one with their monitor, and how many more there are.
fn named<'a>(backups: impl ExactSizeIterator<Item = (&'a str, Option<Uuid>)>) -> String {
    let more = backups.len().saturating_sub(NAMED_MAX);
    let name = |(id, other): (&str, Option<Uuid>)| match other {
        Some(monitor) => format!("{id} of monitor {monitor}"),
        None => id.to_owned(),
    };
    let names: Vec<_> = backups.take(NAMED_MAX).map(name).collect();
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    names.join(", ") + &more
}

fn reread(list: &BackupList, paired: Option<Uuid>, now: Timestamp) -> (Level, String) {
    let BackupList { backups, damaged, .. } = list;
    let other = |backup: &Backup| Some(backup.monitor.id).filter(|monitor| Some(*monitor) != paired);
    let changed: Vec<_> =
        backups.iter().filter(|backup| backup.read.is_some_and(|reading| !reading.same)).collect();
    let mut wrong = Vec::new();
    if !changed.is_empty() {
        wrong.push(format!(
            "Changed on the disk since they were first read: {}.",
            named(changed.iter().map(|backup| (backup.id.as_str(), other(backup))))
        ));
    }
    if let Some(first) = damaged.first() {
        wrong.push(format!(
            "Impossible to restore: {} ({}: {}).",
            named(damaged.iter().map(|damaged| (damaged.id.as_str(), None))),
            first.id,
            first.problem.trim_end_matches('.')
        ));
    }
    if !wrong.is_empty() {
        let count = match changed.len() + damaged.len() {
            1 => "1 backup is damaged".into(),
            count => format!("{count} backups are damaged"),
        };
        let message = format!(
            "{count}. {} Check the disks, and delete the damaged backups at the console.",
            wrong.join(" ")
        );
        return (Level::Fail, message);
    }
    let of_reading =
        |backup: &&Backup| backup.trouble.as_ref().is_some_and(|trouble| trouble.attempt == Attempt::Read);
    let mut troubled: Vec<_> = backups.iter().filter(of_reading).collect();
    // What the disk refuses first.
    troubled.sort_by_key(|backup| !backup.trouble.as_ref().is_some_and(|trouble| trouble.disk));
    if let Some((backup, trouble)) =
        troubled.first().and_then(|backup| Some((backup, backup.trouble.as_ref()?)))
    {
        let disk = if trouble.disk { " Check the disks." } else { "" };
        let id = named([(backup.id.as_str(), other(backup))].into_iter());
        return (trouble_level(trouble, now), format!("{}{disk}", hindered(&id, trouble, now)));
    }
    let Some(oldest) = backups.iter().min_by_key(|backup| last_read(backup)) else {
        return (Level::Ok, "There is no backup to read.".into());
    };
    let age = now.duration_since(last_read(oldest));
    if age > READ_WITHIN + READ_LATE {
        let said = format!(
            "Backup {} was read {} ago; each is to be read again within {}.",
            named([(oldest.id.as_str(), other(oldest))].into_iter()),
            in_words(age),
            in_words(READ_WITHIN)
        );
        let level = if age > READ_WITHIN * 2 { Level::Fail } else { Level::Warn };
        (level, said)
    } else {
        (Level::Ok, format!("Every backup was made or read again within {}.", in_words(READ_WITHIN)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verification::tests::{backup, failed, hours_ago, now, trouble, verified};
    use api::{DamagedBackup, Depth, Reading};

    fn troubled(backup: Backup, attempt: Attempt, disk: bool, hours: i64) -> Backup {
        let trouble =
            trouble(attempt, 3, 5).map(|trouble| Trouble { disk, since: hours_ago(hours), ..trouble });
        Backup { trouble, ..backup }
    }

    #[test]
    fn a_failure_is_told_from_trouble_and_trouble_that_lasts_fails() {
        use Verification::Pending;
        let good = |sequence, hours| backup(sequence, hours, verified(Depth::Full, hours));
        let verify = Attempt::Verify;
        let table = [
            (vec![], Level::Ok, "no backup to verify"),
            (vec![backup(1, 1, Pending)], Level::Warn, "No backup is verified yet."),
            (
                vec![good(1, 2), backup(2, 1, Pending)],
                Level::Ok,
                "Backup b1 is verified: PostgreSQL recovered it here in 1 s.",
            ),
            (
                vec![good(1, 2), troubled(backup(2, 1, Pending), verify, false, 1)],
                Level::Warn,
                "Backup b2 could not be verified now, because it was killed. It was tried 3 times and is tried again in about 35 min. \
                 Backup b1 is the newest one that is verified.",
            ),
            (vec![troubled(backup(2, 1, Pending), verify, false, 25)], Level::Fail, "No backup is verified."),
            (
                vec![troubled(backup(2, 1, Pending), verify, true, 0)],
                Level::Fail,
                "could not be verified now",
            ),
            (
                vec![good(1, 2), backup(2, 1, failed())],
                Level::Fail,
                "Backup b2 cannot be restored: A page is bad. Backup b1 is the newest one that is verified.",
            ),
            (vec![backup(1, 2, Pending), backup(2, 1, failed())], Level::Fail, "Older ones are tried"),
            (
                vec![troubled(backup(1, 2, Pending), verify, false, 1), backup(2, 1, failed())],
                Level::Fail,
                "No backup is verified. Backup b1 could not be verified now",
            ),
            // what is older than a good one alarms nobody
            (vec![backup(1, 2, failed()), good(2, 1)], Level::Ok, "Backup b2 is verified"),
            (vec![troubled(good(1, 2), verify, false, 99), good(2, 1)], Level::Ok, "Backup b2 is verified"),
            // nothing comes to an end
            (vec![good(1, 60), backup(2, 49, Pending)], Level::Warn, "has come to an end for 2 days"),
            (vec![good(1, 300), backup(2, 169, Pending), backup(3, 1, Pending)], Level::Fail, "for 7 days"),
            // the order is the sequence, whatever the clock says
            (
                vec![backup(1, -90_000, verified(Depth::Full, 3)), backup(2, 1, failed())],
                Level::Fail,
                "b2 cannot",
            ),
        ];
        for (backups, level, part) in table {
            let check = last_verification(true, &Ok(backups), now());
            assert_eq!(check.level, level, "{check:?}");
            assert!(check.message.contains(part), "{check:?}");
        }
        assert_eq!(last_verification(true, &Err("x".into()), now()).level, Level::Fail);
    }

    #[test]
    fn what_was_changed_or_cannot_be_read_is_said() {
        const DAY: i64 = 24;
        let good = |sequence, hours| backup(sequence, hours, verified(Depth::Full, hours));
        let changed = |sequence| Backup {
            read: Some(Reading { at: hours_ago(1), same: false }),
            ..backup(sequence, 99, failed())
        };
        let damaged =
            |number: u32| DamagedBackup { id: format!("d{number}"), problem: "no manifest.".into() };
        let list = |backups| BackupList { backups, ..BackupList::default() };
        let paired = backup(1, 1, Verification::Pending).monitor.id;
        let of_another = |mut backup: Backup| {
            backup.monitor.id = Uuid::from_u128(9);
            backup
        };
        let another = "of monitor 00000000-0000-0000-0000-000000000009";
        let table = [
            (list(vec![]), Level::Ok, "no backup to read"),
            (list(vec![good(1, 30 * DAY)]), Level::Ok, "within 30 days"),
            (list(vec![good(1, 32 * DAY)]), Level::Warn, "Backup b1 was read 32 days ago"),
            (list(vec![good(1, 1), changed(2)]), Level::Fail, "1 backup is damaged. Changed on the disk"),
            (list(vec![changed(1), changed(2)]), Level::Fail, "2 backups are damaged."),
            (list(vec![troubled(good(1, 1), Attempt::Read, false, 1)]), Level::Warn, "could not be read now"),
            (
                list(vec![
                    troubled(good(1, 1), Attempt::Read, false, 1),
                    troubled(good(2, 1), Attempt::Read, true, 1),
                ]),
                Level::Fail,
                "Backup b2 could not be read now",
            ),
            (list(vec![troubled(good(1, 1), Attempt::Verify, true, 99)]), Level::Ok, "within 30 days"),
            (
                BackupList { damaged: vec![damaged(1)], ..list(vec![good(1, 1)]) },
                Level::Fail,
                "1 backup is damaged. Impossible to restore: d1 (d1: no manifest).",
            ),
            (
                BackupList { damaged: (1..=2000).map(damaged).collect(), ..list(vec![changed(7)]) },
                Level::Fail,
                "first read: b7. Impossible to restore: d1, d2, d3 and 1997 more (d1",
            ),
            (list(vec![good(1, 1), of_another(changed(2))]), Level::Fail, another),
            (list(vec![good(1, 1), of_another(good(2, 32 * DAY))]), Level::Warn, another),
            (
                list(vec![good(1, 1), of_another(troubled(good(2, 1), Attempt::Read, true, 1))]),
                Level::Fail,
                another,
            ),
        ];
        for (list, level, part) in table {
            let check = backups_read(&Ok(list), Some(paired), now());
            assert_eq!(check.level, level, "{check:?}");
            assert!(check.message.contains(part), "{check:?}");
            assert!(check.message.len() < 500, "{check:?}");
        }
        assert_eq!(backups_read(&Err("x".into()), None, now()).level, Level::Fail);
    }
}
