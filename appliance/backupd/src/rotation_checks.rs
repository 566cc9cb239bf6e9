//! The checks about backups that come and go: free space, the last backup, the clock, the retention period. Pure.

use crate::changes::interval_hours;
use crate::quiet::Seen;
use crate::status::{in_words, sentence};
use api::{Backup, Check, Level, Limits, RetentionState, Settings, Space, StuckReason};
use jiff::{SignedDuration, Timestamp};

/// A backup whose date is so much ahead of the clock has a date that is wrong: less is a clock that was just set.
const AHEAD: SignedDuration = SignedDuration::from_mins(5);

/// Check `free-space` of the data volume; `None`: it is not known. `stuck`: why rotation may delete
/// nothing more; `failed`: why it could not.
pub fn space_check(
    space: Option<Space>,
    limits: &Limits,
    stuck: Option<StuckReason>,
    failed: Option<&str>,
) -> Check {
    let check = |level, message| Check { name: "free-space".into(), level, message };
    let Some(Space { total, free, usage, .. }) = space else {
        return check(Level::Warn, "It is not known how much space is free.".into());
    };
    let said = format!("{:.1} GB of {:.1} GB are free", free as f64 / 1e9, total as f64 / 1e9);
    let way_out = match stuck {
        Some(StuckReason::DailyShare) => format!(
            "; at most {} % of the backups are deleted in a day. If that is what you want, `{} order allow-rotation` at \
             the console lets more go; else use a larger disk, or see what fills this one",
            limits.daily_percent,
            hostd::PROGRAM
        ),
        Some(StuckReason::InVain) => format!(
            "; what was deleted did not let replay go on, so no more backups are deleted; use a larger disk, or see what fills \
             this one (`{} order allow-rotation` at the console lets more go all the same)",
            hostd::PROGRAM
        ),
        Some(StuckReason::Floor) => {
            "; no backup may be deleted; unpin some at the console or use a larger disk".into()
        }
        None => String::new(),
    };
    if free < replica::FULL_BYTES {
        let rest = if stuck.is_none() { "; use a larger disk" } else { "" };
        let replica = usage.map(|usage| usage.replica).filter(|bytes| *bytes > total / 2);
        let replica = replica.map_or_else(String::new, |bytes| {
            format!(
                ". The replica alone takes {:.1} GB; if the monitor's databases are smaller now, `{} order \
                 discard-replica` at the console makes room for a full copy",
                bytes as f64 / 1e9,
                hostd::PROGRAM
            )
        });
        check(
            Level::Fail,
            format!("The data volume is full, so replay stands still: {said}{way_out}{rest}{replica}."),
        )
    } else if free >= limits.low_space(total) {
        check(Level::Ok, format!("{said}."))
    } else if stuck.is_some() {
        check(Level::Fail, format!("Space is low: {said}{way_out}."))
    } else if let Some(failed) = failed {
        check(
            Level::Fail,
            format!("Space is low: {said}; old backups could not be deleted: {}", sentence(failed)),
        )
    } else {
        check(Level::Warn, format!("Space is low: {said}; the oldest backups are deleted."))
    }
}

/// How long a monitor may make no checkpoint while it writes, beside its schedule: its longest `checkpoint_timeout`.
const CHECKPOINT_LATE: SignedDuration = SignedDuration::from_hours(25);
/// Less is not worth a word: checkpoints are minutes apart, up to an hour on some machines.
const CHECKPOINT_USUAL: SignedDuration = SignedDuration::from_hours(2);

/// How much older the data of a backup is than the backup: the time since the monitor's last checkpoint in it, or since it
/// was seen last that there is nothing new, as an idle monitor makes no checkpoints. A monitor that stands still, or one
/// that only says that it goes on, leaves it behind.
fn data_is_older_by(backup: &Backup, seen: &Seen) -> SignedDuration {
    let at = backup.postgresql.checkpoint.as_ref().map_or(backup.created, |checkpoint| checkpoint.at);
    let at = seen.known_before(backup).map_or(at, |known| known.max(at));
    backup.created.duration_since(at).max(SignedDuration::ZERO)
}

/// Why rotation is stuck, as an event says it.
pub fn stuck_event(reason: StuckReason) -> &'static str {
    match reason {
        StuckReason::Floor => "Space is low, and no backup may be deleted.",
        StuckReason::InVain => {
            "Space is low, and replay stopped at the same place again after backups were deleted, so no more are deleted; the \
             check `free-space` names the way out."
        }
        StuckReason::DailyShare => {
            "Space is low, and as many backups were deleted today as may be; the check `free-space` names the way out."
        }
    }
}

/// Whether a backup is dated in the future, so that its age is unknown.
pub fn is_ahead(backup: &Backup, now: Timestamp) -> bool {
    backup.created.duration_since(now) > AHEAD
}

/// Check `last-backup`: its age against the schedule. `backups` are the paired monitor's, newest first. The age of one that is
/// dated in the future is unknown, so it is no success. What has changed since the last one was `seen`: without changes none is
/// due (`None`: no monitor is paired). `cut` says what a manifest lacks.
pub fn backup_check(
    settings: &Settings,
    seen: Option<&Seen>,
    backups: &Result<Vec<Backup>, String>,
    cut: Option<&str>,
    now: Timestamp,
) -> Check {
    let check = age_check(settings, seen, backups, now);
    match cut.filter(|_| seen.is_some()) {
        Some(cut) => Check { message: format!("{} Backups go on, but {cut}.", check.message), ..check },
        None => check,
    }
}

fn age_check(
    settings: &Settings,
    seen: Option<&Seen>,
    backups: &Result<Vec<Backup>, String>,
    now: Timestamp,
) -> Check {
    let none = Seen::default();
    let (is_paired, seen) = (seen.is_some(), seen.unwrap_or(&none));
    let period = SignedDuration::from_hours(interval_hours(settings.frequency).into());
    let is_ahead = |backup: &&Backup| is_ahead(backup, now);
    let (level, message) = match backups {
        _ if !is_paired => (Level::Ok, "No monitor is paired, so no backup is due.".into()),
        Err(error) => (Level::Fail, sentence(error)),
        Ok(backups) => match (backups.iter().find(|backup| !is_ahead(backup)), backups.iter().find(is_ahead))
        {
            (None, None) => (Level::Warn, "There is no backup yet.".into()),
            (last, Some(ahead)) => {
                let last = last.map_or(String::new(), |last| {
                    format!(
                        " The last one before it was made {} ago.",
                        in_words(now.duration_since(last.created))
                    )
                });
                let message = format!(
                    "Backup {} is dated in the future ({}), so its age is unknown: the clock was wrong then, or is wrong \
                     now.{last} If the clock is right, delete that backup at the console when newer ones are verified.",
                    ahead.id, ahead.created
                );
                (Level::Fail, message)
            }
            (Some(backup), None) => {
                let made =
                    format!("The last backup was made {} ago", in_words(now.duration_since(backup.created)));
                let nothing_since = seen.nothing_since(backup, now).filter(|at| *at > backup.created);
                let age = now.duration_since(nothing_since.unwrap_or(backup.created));
                let made = match nothing_since {
                    Some(_) if now.duration_since(backup.created) > period => {
                        format!("{made}, and nothing had changed at the monitor until {} ago.", in_words(age))
                    }
                    _ => format!("{made}."),
                };
                // One may be late by half a period: a summer's hour, a slow start.
                let level = if age > period * 3 {
                    Level::Fail
                } else if age > period * 3 / 2 {
                    Level::Warn
                } else {
                    Level::Ok
                };
                match data_is_older_by(backup, seen) {
                    older if older <= CHECKPOINT_USUAL => (level, made),
                    older => {
                        let is_late = older > period * 3 + CHECKPOINT_LATE;
                        let worst = if is_late { Level::Fail } else { Level::Warn };
                        let said = format!(
                            "{made} The newest data in it was {} old then: the monitor writes no checkpoints, stands still, \
                             or sends something else than its data.",
                            in_words(older)
                        );
                        (level.max(worst), said)
                    }
                }
            }
        },
    };
    Check { name: "last-backup".into(), level, message }
}

/// Check `clock`: whether it is trusted, and by how many seconds it was moved in all; `None`: it was not looked at yet.
pub fn clock_check(seen: Option<(bool, u64)>) -> Check {
    let moved = |seconds| in_words(SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX)));
    let (level, message) = match seen {
        Some((false, seconds)) => (
            Level::Fail,
            format!(
                "The clock was moved, or the machine was off, for {} in all since the clock was confirmed. Nothing expires \
                 by age until `{} order confirm-clock` is given at the console.",
                moved(seconds),
                hostd::PROGRAM
            ),
        ),
        Some((true, seconds)) if seconds > 3600 => (
            Level::Ok,
            format!(
                "The clock runs evenly; it was moved, or the machine was off, for {} in all.",
                moved(seconds)
            ),
        ),
        Some((true, _)) => (Level::Ok, "The clock runs evenly.".into()),
        None => (Level::Ok, "The clock was not looked at yet.".into()),
    };
    Check { name: "clock".into(), level, message }
}

fn period(days: Option<u32>) -> String {
    match days {
        Some(1) => "for 1 day".into(),
        Some(days) => format!("for {days} days"),
        None => "as long as there is space".into(),
    }
}

/// What a shorter retention period that waits would do, and who decides.
fn waiting(state: &RetentionState) -> Option<String> {
    let pending = state.pending?;
    let left = SignedDuration::from_secs(i64::try_from(pending.seconds_left).unwrap_or(i64::MAX));
    let (kept, asked, program) = (period(state.days), period(pending.days), hostd::PROGRAM);
    Some(format!(
        "Backups are kept {kept}. The settings ask to keep them {asked} only, by which {} would be deleted now; that counts \
         in {}. At the console `{program} order retention --confirm {}` lets it count at once, and `{program} order retention \
         --refuse` refuses it.",
        pending.would_go,
        in_words(left),
        pending.days.unwrap_or_default(),
    ))
}

/// Check `retention`: how long backups are kept, and what would change that.
pub fn retention_check(state: Option<&RetentionState>) -> Check {
    let (level, message) = match state {
        None => (Level::Ok, "Rotation has not run yet.".into()),
        Some(state) => match waiting(state) {
            Some(message) => (Level::Warn, message),
            None if state.refused => (
                Level::Warn,
                format!(
                    "Backups are kept {}; the console has refused the shorter period that the settings name. Set it anew.",
                    period(state.days)
                ),
            ),
            None => (Level::Ok, format!("Backups are kept {}.", period(state.days))),
        },
    };
    Check { name: "retention".into(), level, message }
}

/// What an event says when another shorter period begins to wait.
pub fn retention_event(before: Option<&RetentionState>, now: &RetentionState) -> Option<String> {
    let before = before.and_then(|before| before.pending).map(|pending| pending.days);
    let is_news = now.pending.is_some_and(|pending| before != Some(pending.days));
    is_news.then(|| waiting(now)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::PendingRetention;

    const GB: u64 = 1_000_000_000;

    #[test]
    fn little_space_is_warned_of_and_none_is_a_failure_with_the_way_out() {
        let (floor, share) = (Some(StuckReason::Floor), Some(StuckReason::DailyShare));
        let table = [
            (Some((500 * GB, 51 * GB)), None, Level::Ok, "are free."),
            (Some((500 * GB, 49 * GB)), None, Level::Warn, "oldest backups are deleted"),
            (Some((500 * GB, 49 * GB)), floor, Level::Fail, "no backup may be deleted; unpin some"),
            (
                Some((500 * GB, 49 * GB)),
                share,
                Level::Fail,
                "at most 25 % of the backups are deleted in a day",
            ),
            (Some((16 * GB, 9 * GB)), None, Level::Warn, "Space is low"),
            (Some((16 * GB, GB)), None, Level::Fail, "replay stands still"),
            (Some((16 * GB, GB)), share, Level::Fail, "order allow-rotation"),
            (Some((16 * GB, GB)), Some(StuckReason::InVain), Level::Fail, "did not let replay go on"),
            (None, None, Level::Warn, "not known"),
        ];
        for (space, stuck, level, part) in table {
            let space = space.map(|(total, free)| Space { total, free, usage: None, low_at: None });
            let check = space_check(space, &Limits::default(), stuck, None);
            assert_eq!(check.level, level, "{}", check.message);
            assert!(check.message.contains(part), "{}", check.message);
        }
    }

    fn backup(created: &str) -> Backup {
        let json = serde_json::json!({
            "format": 1, "id": "20261123T205430Z", "created": created, "reason": "schedule",
            "monitor": {"id": "00000000-0000-0000-0000-000000000001", "version": "1.0"},
            "postgresql": {"major": 17, "version": "17.6", "system_identifier": "1", "timeline": 1,
                "flushed_lsn": "0/1", "block_size": 8192, "checksums": true, "collations": []},
            "sizes": {"files": 1, "tar": 2}, "snapshot_ms": 1.0, "verification": {"status": "pending"}
        });
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn a_backup_of_the_future_is_a_failure_and_no_success() {
        let now: Timestamp = "2026-11-24T12:00:00Z".parse().unwrap();
        let table = [
            (vec![], Level::Warn, "no backup yet"),
            (vec!["2026-11-24T01:00:00Z"], Level::Ok, "11 h ago"),
            (vec!["2026-11-24T12:04:00Z"], Level::Ok, "0 s ago"),
            (vec!["2026-11-22T12:00:00Z"], Level::Warn, "2 days ago"),
            (vec!["2026-11-20T12:00:00Z"], Level::Fail, "4 days ago"),
            (vec!["2036-01-01T00:00:00Z"], Level::Fail, "dated in the future"),
            (vec!["2036-01-01T00:00:00Z", "2026-11-20T12:00:00Z"], Level::Fail, "4 days ago"),
            (vec!["2026-11-24T01:00:00Z", "2036-01-01T00:00:00Z"], Level::Fail, "age is unknown"),
        ];
        for (dates, level, part) in table {
            let backups = Ok(dates.iter().map(|date| backup(date)).collect());
            let check = backup_check(&Settings::default(), Some(&Seen::default()), &backups, None, now);
            assert_eq!(check.level, level, "{dates:?}: {}", check.message);
            assert!(check.message.contains(part), "{}", check.message);
        }
    }

    #[test]
    fn a_young_backup_of_old_data_is_no_success() {
        let now: Timestamp = "2026-11-24T12:00:00Z".parse().unwrap();
        let table = [
            (None, Level::Ok, "1 h ago"),
            (Some("2026-11-24T10:50:00Z"), Level::Ok, "60 min ago"),
            (Some("2026-11-24T13:00:00Z"), Level::Ok, "60 min ago"),
            (Some("2026-11-24T01:00:00Z"), Level::Warn, "The newest data in it was 10 h old then"),
            (Some("2026-11-20T01:00:00Z"), Level::Fail, "was 4 days old then"),
        ];
        for (at, level, part) in table {
            let mut backup = backup("2026-11-24T11:00:00Z");
            backup.postgresql.checkpoint =
                at.map(|at| api::Checkpoint { lsn: "0/1".into(), at: at.parse().unwrap() });
            let check =
                backup_check(&Settings::default(), Some(&Seen::default()), &Ok(vec![backup]), None, now);
            assert_eq!(check.level, level, "{at:?}: {}", check.message);
            assert!(check.message.contains(part) || at.is_none(), "{}", check.message);
        }
    }

    #[test]
    fn a_monitor_that_is_idle_needs_no_backup() {
        let now: Timestamp = "2026-11-24T12:00:00Z".parse().unwrap();
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let still = |lsn: &str, timeline, seen: &str| Seen {
            still: Some(((lsn.into(), timeline), at(seen))),
            ..Seen::default()
        };
        // What was seen of one whose last backup, of 0/1 on timeline 1, was made eight days ago.
        let table = [
            (Seen::default(), Level::Fail, "8 days ago."),
            (
                still("0/1", 1, "2026-11-24T11:55:00Z"),
                Level::Ok,
                "nothing had changed at the monitor until 5 min ago",
            ),
            (still("0/1", 1, "2026-11-22T12:00:00Z"), Level::Warn, "until 2 days ago"),
            (still("0/1", 1, "2026-11-19T12:00:00Z"), Level::Fail, "until 5 days ago"),
            (still("0/2", 1, "2026-11-24T11:55:00Z"), Level::Fail, "8 days ago."),
            (still("0/1", 2, "2026-11-24T11:55:00Z"), Level::Fail, "8 days ago."),
            // A clock that was wrong.
            (still("0/1", 1, "2036-11-24T11:55:00Z"), Level::Fail, "8 days ago."),
        ];
        for (seen, level, part) in table {
            let backups = Ok(vec![backup("2026-11-16T12:00:00Z")]);
            let check = backup_check(&Settings::default(), Some(&seen), &backups, None, now);
            assert_eq!(check.level, level, "{seen:?}: {}", check.message);
            assert!(check.message.contains(part), "{}", check.message);
        }
        // The first change after a day without any, and the backup at once after it.
        let mut made = backup("2026-11-24T11:00:00Z");
        made.postgresql.checkpoint =
            Some(api::Checkpoint { lsn: "0/1".into(), at: at("2026-11-23T11:00:00Z") });
        let before = |id: &str, seen: &str| Seen { before: Some((id.into(), at(seen))), ..Seen::default() };
        let id = made.id.clone();
        for (seen, level) in [
            (Seen::default(), Level::Warn),
            (before(&id, "2026-11-24T10:50:00Z"), Level::Ok),
            (before(&id, "2026-11-24T01:00:00Z"), Level::Warn),
            (before("another", "2026-11-24T10:50:00Z"), Level::Warn),
            (before(&id, "2026-11-24T11:50:00Z"), Level::Warn),
        ] {
            let check = backup_check(&Settings::default(), Some(&seen), &Ok(vec![made.clone()]), None, now);
            assert_eq!(check.level, level, "{seen:?}: {}", check.message);
        }
    }

    #[test]
    fn what_a_manifest_lacks_is_said_and_no_backup_less() {
        let now: Timestamp = "2026-11-24T12:00:00Z".parse().unwrap();
        let backups = Ok(vec![backup("2026-11-24T11:00:00Z")]);
        let check = backup_check(&Settings::default(), Some(&Seen::default()), &backups, Some("x"), now);
        assert_eq!((check.level, check.message.ends_with("Backups go on, but x.")), (Level::Ok, true));
        assert!(!backup_check(&Settings::default(), None, &backups, Some("x"), now).message.contains('x'));
    }

    #[test]
    fn a_clock_in_doubt_fails_and_says_the_way_out() {
        let table = [
            (None, Level::Ok, "not looked at"),
            (Some((true, 7)), Level::Ok, "runs evenly."),
            (Some((true, 7 * 3600)), Level::Ok, "for 7 h in all"),
            (Some((false, 100 * 3600)), Level::Fail, "order confirm-clock"),
        ];
        for (seen, level, part) in table {
            let check = clock_check(seen);
            assert_eq!(check.level, level);
            assert!(check.message.contains(part), "{}", check.message);
        }
    }

    #[test]
    fn a_shorter_period_that_waits_is_warned_of_and_an_event_once() {
        let plain = RetentionState { days: Some(30), pending: None, refused: false };
        let pending = PendingRetention { days: Some(1), seconds_left: 72 * 3600, would_go: 28 };
        let waits = RetentionState { pending: Some(pending), ..plain };
        let check = retention_check(Some(&waits));
        assert_eq!(check.level, Level::Warn);
        for part in [
            "kept for 30 days",
            "for 1 day only, by which 28 would be",
            "in 3 days",
            "--confirm 1",
            "--refuse",
        ] {
            assert!(check.message.contains(part), "{}", check.message);
        }
        assert_eq!(retention_check(Some(&plain)).message, "Backups are kept for 30 days.");
        assert_eq!(retention_check(Some(&RetentionState { refused: true, ..plain })).level, Level::Warn);
        assert_eq!(retention_check(None).level, Level::Ok);
        assert!(retention_event(None, &waits).is_some() && retention_event(Some(&plain), &waits).is_some());
        assert_eq!(retention_event(Some(&waits), &waits), None);
        assert_eq!(retention_event(Some(&waits), &plain), None);
    }
}
