//! Watching a backup's recovery from outside: by its control file and its timeline's history, never by SQL.
//!
//! Whatever a function of the recovered database says, its owner may have written: `pg_last_wal_replay_lsn()` and
//! `pg_promote()` are rows of a catalog. So nobody logs in before the recovery is over. The server is told to promote by
//! `pg_ctl promote` as soon as it recovers; it first replays all the WAL that is there (documentation,
//! "Failover"), and then writes into the new timeline's history where the old one ended. The backup server proves its
//! backups by that, and a restore waits by it: one judgement for both.

use std::ffi::OsStr;
use std::time::{Duration, Instant};

use crate::controldata::ClusterState;
use crate::{ControlData, Lsn};

/// A recovery of which nothing has moved for so long is given up. What stands in its control file moves whenever pages
/// are written.
const STANDS_STILL: Duration = Duration::from_secs(2 * 3600);
/// Shortest and longest time between two looks.
const POLL: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// The arguments with which psql asks; columns are separated by `|`, rows end with a zero byte.
pub fn psql_arguments<'a>(conninfo: &'a (impl AsRef<OsStr> + ?Sized), sql: &'a str) -> [&'a OsStr; 8] {
    let words = ["-XAtq0", "--no-password", "-v", "ON_ERROR_STOP=1", "-c", sql, "-d"].map(OsStr::new);
    let [a, b, c, d, e, f, g] = words;
    [a, b, c, d, e, f, g, conninfo.as_ref()]
}

/// The arguments of `pg_ctl` that end the recovery of the data directory `pgdata` where its WAL ends. They may be given again:
/// a server that has just begun to start forgets the first.
pub fn promote_arguments(pgdata: &str) -> [&str; 5] {
    ["promote", "--no-wait", "--silent", "--pgdata", pgdata]
}

/// Whether `pg_ctl promote`, which has said this, was early or late: the server has not begun to start, or is promoted.
pub fn is_early_or_late(words: &str) -> bool {
    ["PID file \"", "server is not in standby mode", "could not send promote signal"]
        .iter()
        .any(|said| words.contains(said))
}

/// What is to be done with a server that recovers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// It has begun to recover: it is told to promote.
    Promote,
    /// Wait.
    Wait,
    /// It is a database of its own.
    Done,
}

/// A recovery that is watched.
#[derive(Debug, Clone)]
pub struct Replay {
    began: Instant,
    seen: Option<ControlData>,
    moved: Instant,
}

impl Replay {
    /// A recovery that begins `now`.
    pub fn new(now: Instant) -> Self {
        Self { began: now, seen: None, moved: now }
    }

    /// Judges what the control file says, and whether the new timeline has its history: before the server has begun to start,
    /// the control file is as an attempt that was cut has left it.
    ///
    /// # Errors
    /// It stands still, as a sentence without full stop: nothing is said about the backup.
    pub fn saw(&mut self, control: &ControlData, has_history: bool, now: Instant) -> Result<Next, String> {
        if self.seen.as_ref() != Some(control) {
            self.seen = Some(control.clone());
            self.moved = now;
        }
        match control.state {
            ClusterState::InProduction if has_history => Ok(Next::Done),
            _ if now.saturating_duration_since(self.moved) > STANDS_STILL => {
                let hours = STANDS_STILL.as_secs() / 3600;
                Err(format!("its recovery has not moved for {hours} hours"))
            }
            ClusterState::InArchiveRecovery => Ok(Next::Promote),
            _ => Ok(Next::Wait),
        }
    }

    /// Time until the next look: a long recovery is looked at seldom.
    pub fn pause(&self, now: Instant) -> Duration {
        (now.saturating_duration_since(self.began) / 10).clamp(POLL.0, POLL.1)
    }
}

/// The timeline on which a server goes on that is promoted after its recovery on timeline `recovered_on`: the first one
/// after it without a history (xlogrecovery.c and timeline.c, `findNewestTimeLine`). To be asked before the start.
pub fn next_timeline(recovered_on: u32, has_history: impl Fn(u32) -> bool) -> u32 {
    let mut timeline = recovered_on.saturating_add(1);
    while timeline < u32::MAX && has_history(timeline) {
        timeline += 1;
    }
    timeline
}

/// Name of a timeline's history below `pg_wal`.
pub fn history_file(timeline: u32) -> String {
    format!("{timeline:08X}.history")
}

/// Where timeline `made_on` ended, from the history of one that follows: the last WAL that a recovery has replayed of it. An
/// attempt that was cut may have added a timeline between.
pub fn recovered_to(history: &str, made_on: u32) -> Option<Lsn> {
    let lines = history.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let ends = lines.map(|line| {
        let mut words = line.split_ascii_whitespace();
        Some((words.next()?.parse::<u32>().ok()?, words.next()?.parse::<Lsn>().ok()?))
    });
    let ends: Vec<_> = ends.collect::<Option<_>>()?;
    let of_it = ends.iter().find(|(timeline, _)| *timeline == made_on);
    of_it.or(ends.last()).map(|(_, end)| *end)
}

/// Whether a recovery that ended at `reached` came to `target`.
///
/// # Errors
/// What is wrong with the backup, as a sentence without full stop.
pub fn is_whole(reached: Lsn, target: Lsn) -> Result<(), String> {
    if reached < target { Err(format!("its WAL ends at {reached}, before {target}")) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_promoted_once_it_recovers_and_done_once_it_takes_writes() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let seen = |state, min_recovery: &str| ControlData {
            state,
            min_recovery: min_recovery.into(),
            ..ControlData::example()
        };
        use ClusterState::{InArchiveRecovery, InProduction, Other, ShutDownInRecovery};
        let hours = 3600;
        let mut replay = Replay::new(begin);
        for (seconds, control, expected) in [
            (0, seen(InProduction, "0/1"), Some(Next::Wait)),
            (0, seen(ShutDownInRecovery, "0/1"), Some(Next::Wait)),
            (1, seen(InArchiveRecovery, "0/1"), Some(Next::Promote)),
            (2 * hours, seen(InArchiveRecovery, "0/2"), Some(Next::Promote)),
            (4 * hours, seen(InArchiveRecovery, "0/2"), Some(Next::Promote)),
            (4 * hours + 1, seen(InArchiveRecovery, "0/2"), None),
            (4 * hours + 2, seen(Other, "0/2"), Some(Next::Wait)),
            (9 * hours, seen(Other, "0/2"), None),
            (9 * hours, seen(InProduction, "0/2"), Some(Next::Done)),
        ] {
            let has_history = seconds > 0;
            assert_eq!(
                replay.saw(&control, has_history, at(seconds)).ok(),
                expected,
                "{seconds} {control:?}"
            );
        }
        assert_eq!(replay.pause(begin), Duration::from_millis(200));
        assert_eq!(replay.pause(at(20)), Duration::from_secs(2));
        assert_eq!(replay.pause(at(hours)), Duration::from_secs(5));
    }

    #[test]
    fn the_new_timeline_is_the_first_without_a_history() {
        assert_eq!(next_timeline(1, |_| false), 2);
        assert_eq!(next_timeline(1, |timeline| [2, 3, 5].contains(&timeline)), 4);
        assert_eq!(next_timeline(u32::MAX, |_| true), u32::MAX);
        assert_eq!(history_file(17), "00000011.history");
    }

    #[test]
    fn the_history_says_where_the_recovery_ended() {
        let table = [
            ("1\t0/3000060\tno recovery target specified\n", Some(Lsn(0x0300_0060))),
            ("1\t0/3000060\tx\n\n3\t16/B374D848\tx\n", Some(Lsn(0x0300_0060))),
            ("2\t0/3000060\tx\n\n3\t16/B374D848\tx\n", Some(Lsn(0x16_B374_D848))),
            ("# 1\t0/1\tx\n", None),
            ("1\n", None),
            ("1\tx\ty\n", None),
            ("", None),
        ];
        for (text, expected) in table {
            assert_eq!(recovered_to(text, 1), expected, "{text:?}");
        }
        assert_eq!(is_whole(Lsn(5), Lsn(5)), Ok(()));
        assert_eq!(is_whole(Lsn(5), Lsn(6)), Err("its WAL ends at 0/5, before 0/6".into()));
    }
}
