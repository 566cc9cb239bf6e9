//! What the observations mean: one pure function from what was seen to the state that is shown (design section 5).

use crate::{CopyProgress, Lsn, meter};
use api::State;
use jiff::Timestamp;
use std::collections::VecDeque;
use std::time::Duration;

/// WAL bytes behind which a replica still counts as synchronized: one WAL segment.
pub const SYNCHRONIZED_BYTES: u64 = 16 * 1024 * 1024;
/// Seconds behind which a replica still counts as synchronized.
pub const SYNCHRONIZED_SECONDS: f64 = 10.0;

/// Below this the data volume is full, in bytes: PostgreSQL cannot be relied upon to go on with less room than WAL takes
/// between two restartpoints (`max_wal_size`).
pub const FULL_BYTES: u64 = 1 << 30;

/// A server that gives no answer for so long hangs, and is started anew. One that starts or stops says so at once, however
/// long it takes; a disk that is slow for once is quicker than this.
pub const HANG: Duration = Duration::from_secs(60);

/// Whether replay has to stand still, with `free` bytes on the data volume. Once stopped, it goes on only when there is
/// twice the room, so that it does not start and stop by turns.
pub fn is_full(was_full: bool, free: u64) -> bool {
    free < if was_full { 2 * FULL_BYTES } else { FULL_BYTES }
}

/// What the monitor said when it was last asked.
#[derive(Debug, Clone, PartialEq)]
pub enum MonitorView {
    /// Nothing yet.
    NotAsked,
    /// It answered.
    Answers {
        /// `pg_current_wal_lsn()`
        position: Lsn,
        /// The slot is in use, that is, somebody streams.
        slot_active: bool,
        /// `wal_status` is `lost`, or there is no such slot.
        slot_lost: Option<String>,
    },
    /// It cannot be reached.
    Unreachable {
        /// Since when.
        since: Timestamp,
        /// Why, with address and port.
        reason: String,
        /// Seconds until its slot is lost, where that is known.
        slot_seconds_left: Option<u64>,
    },
    /// It is another database than the one that the replica is of.
    OtherDatabase {
        /// Which, and the way out.
        reason: String,
    },
    /// It answers with another PostgreSQL major.
    OtherMajor {
        /// Which versions.
        reason: String,
    },
    /// It refuses: wrong certificate, password, or right.
    Refuses {
        /// What and why.
        reason: String,
    },
}

/// What the replica here looks like.
#[derive(Debug, Clone, PartialEq)]
pub enum ReplicaView {
    /// There is none.
    Absent,
    /// It is being copied.
    Copying {
        /// Bytes, once the copy has begun.
        progress: Option<CopyProgress>,
        /// Time since the beginning.
        elapsed: Duration,
        /// Why there has to be another copy; `None`: it is the first one.
        resync: Option<String>,
    },
    /// It is there but does not run.
    Down {
        /// Why, from its log, once that was tried often.
        reason: Option<String>,
    },
    /// It runs, and cannot be asked.
    Silent {
        /// Why; `None` while it starts, which may take long.
        reason: Option<String>,
    },
    /// It runs, and has given no answer at all for so long.
    Hung {
        /// Since the last sign of life.
        silence: Duration,
    },
    /// It runs, and is not a standby any more.
    Promoted,
    /// It runs and answers.
    Running {
        /// Replayed position.
        replayed: Lsn,
        /// It has stopped replaying.
        paused: Option<Pause>,
    },
}

/// Replay that stands still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pause {
    /// A start under the settings that are needed now may mend it.
    Mendable,
    /// It was started anew for that, often.
    Lasting,
}

/// All that the state depends on.
#[derive(Debug, Clone, PartialEq)]
pub struct Observations {
    /// A monitor is paired.
    pub paired: bool,
    /// Why the data volume cannot be used, as a sentence.
    pub volume_problem: Option<String>,
    /// Replay has been stopped, as the data volume is full.
    pub is_full: bool,
    /// The monitor's side.
    pub monitor: MonitorView,
    /// Our side.
    pub replica: ReplicaView,
    /// Seconds by which the replay is behind, from [`LagClock`].
    pub lag_seconds: f64,
    /// Why the stream cannot be continued, by the replica's own log.
    pub broken_stream: Option<String>,
    /// Why the stream does not begin until somebody acts, by the same log.
    pub refused_stream: Option<String>,
    /// The last full copy failed for this reason.
    pub copy_failure: Option<String>,
    /// Why the last full copy is not what the monitor sent, if another one may mend that.
    pub copy_damage: Option<String>,
}

impl Observations {
    /// Why the stream cannot be continued although both sides are there.
    pub fn out_of_sync(&self) -> Option<&str> {
        match &self.monitor {
            MonitorView::Answers { slot_lost, .. } if self.replica != ReplicaView::Absent => {
                slot_lost.as_deref().or(self.broken_stream.as_deref())
            }
            _ => None,
        }
    }

    /// Why there has to be another copy in the place of the replica: it cannot be continued, or it streams and is damaged,
    /// which hinders nothing until the other copy comes.
    pub fn needs_copy(&self) -> Option<&str> {
        let streams = matches!(
            (&self.monitor, &self.replica),
            (MonitorView::Answers { .. }, ReplicaView::Running { .. })
        );
        self.out_of_sync().or(self.copy_damage.as_deref().filter(|_| streams))
    }

    fn replica_moves(&self) -> bool {
        matches!(self.replica, ReplicaView::Running { paused: None, .. })
    }
}

/// The state that the observations mean.
pub fn state(seen: &Observations) -> State {
    if !seen.paired {
        return State::NotConnected;
    }
    if let Some(problem) = &seen.volume_problem {
        return State::Failed { reason: problem.clone() };
    }
    if let ReplicaView::Copying { progress, elapsed, resync } = &seen.replica {
        let copy = meter(progress.unwrap_or(CopyProgress { done: 0, total: 0 }), *elapsed);
        return match resync {
            None => State::InitialSync(copy),
            Some(reason) => State::OutOfSync { reason: reason.clone(), copy: Some(copy) },
        };
    }
    if seen.is_full {
        return State::Failed {
            reason: "the data volume is full, so replay was stopped before it could do harm; it goes on when there is \
                     room: use a larger disk, or unpin backups at the console; where the replica itself fills the volume, \
                     `/usr/lib/infimonitor/hostd order discard-replica` there makes room for a full copy"
                .into(),
        };
    }
    let (position, slot_active) = match &seen.monitor {
        MonitorView::NotAsked => return State::Connecting,
        MonitorView::Refuses { reason } => return State::Failed { reason: reason.clone() },
        MonitorView::OtherMajor { reason } => return State::Incompatible { reason: reason.clone() },
        MonitorView::OtherDatabase { reason } => return State::Failed { reason: reason.clone() },
        MonitorView::Unreachable { since, reason, slot_seconds_left } => {
            return State::Disconnected {
                since: *since,
                reason: reason.clone(),
                slot_seconds_left: *slot_seconds_left,
            };
        }
        MonitorView::Answers { .. } if let Some(reason) = seen.out_of_sync() => {
            let reason = match &seen.copy_failure {
                Some(failure) => format!("{reason}; the last attempt failed: {failure}"),
                None => reason.into(),
            };
            return State::OutOfSync { reason, copy: None };
        }
        MonitorView::Answers { position, slot_active, .. } => (*position, *slot_active),
    };
    match &seen.replica {
        ReplicaView::Absent | ReplicaView::Copying { .. } => match &seen.copy_failure {
            Some(reason) => State::Failed { reason: reason.clone() },
            None => State::Connecting,
        },
        ReplicaView::Down { reason: Some(reason) } | ReplicaView::Silent { reason: Some(reason) } => {
            State::Failed { reason: reason.clone() }
        }
        ReplicaView::Hung { silence } if *silence >= HANG => State::Failed {
            reason: format!(
                "the replica's PostgreSQL has not answered for {} s, so it is started anew",
                silence.as_secs()
            ),
        },
        ReplicaView::Promoted => State::Failed {
            reason: "the replica was promoted, so it does not follow the monitor; it is restarted as a standby".into(),
        },
        ReplicaView::Down { reason: None }
        | ReplicaView::Silent { reason: None }
        | ReplicaView::Hung { .. } => State::Connecting,
        ReplicaView::Running { paused: Some(Pause::Lasting), .. } => State::Failed {
            reason: "the replica has stopped replaying and a restart does not mend it; see its log: `journalctl -u \
                     infimonitor-hostd`"
                .into(),
        },
        ReplicaView::Running { .. } if let (Some(reason), false) = (&seen.refused_stream, slot_active) => {
            State::Failed { reason: reason.clone() }
        }
        ReplicaView::Running { replayed, .. } => {
            let lag_bytes = position.bytes_since(*replayed);
            let lag_seconds = seen.lag_seconds;
            let moves = slot_active && seen.replica_moves();
            if moves && lag_bytes <= SYNCHRONIZED_BYTES && lag_seconds <= SYNCHRONIZED_SECONDS {
                State::Synchronized { lag_bytes, lag_seconds }
            } else {
                State::Lagging { lag_bytes, lag_seconds }
            }
        }
    }
}

/// Measures lag in seconds from positions: the time since the monitor passed what is replayed here.
///
/// `now() - pg_last_xact_replay_timestamp()` would misreport an idle monitor as falling behind (facts).
#[derive(Debug, Default)]
pub struct LagClock {
    /// When the monitor was seen at a position, oldest first; time since some fixed start.
    passed: VecDeque<(Duration, Lsn)>,
}

/// Positions remembered: an hour at one observation every two seconds. A longer lag is reported as at least that.
const REMEMBERED: usize = 1800;

impl LagClock {
    /// Records that the monitor was at `position` at `now`, and gives the lag of `replayed` in seconds.
    pub fn observe(&mut self, now: Duration, position: Lsn, replayed: Lsn) -> f64 {
        if self.passed.back().is_none_or(|(_, last)| *last < position) {
            self.passed.push_back((now, position));
        }
        while self.passed.len() > REMEMBERED || self.passed.front().is_some_and(|(_, lsn)| *lsn <= replayed) {
            self.passed.pop_front();
        }
        self.passed.front().map_or(0.0, |(when, _)| now.saturating_sub(*when).as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::Progress;

    fn seen(monitor: MonitorView, replica: ReplicaView) -> Observations {
        Observations {
            paired: true,
            volume_problem: None,
            is_full: false,
            monitor,
            replica,
            lag_seconds: 0.0,
            broken_stream: None,
            refused_stream: None,
            copy_failure: None,
            copy_damage: None,
        }
    }

    fn answers(position: u64, slot_active: bool) -> MonitorView {
        MonitorView::Answers { position: Lsn(position), slot_active, slot_lost: None }
    }

    #[test]
    fn each_observation_has_its_state() {
        let running = ReplicaView::Running { replayed: Lsn(1000), paused: None };
        let paused = |pause| ReplicaView::Running { replayed: Lsn(1000), paused: Some(pause) };
        let lost =
            MonitorView::Answers { position: Lsn(1), slot_active: false, slot_lost: Some("lost".into()) };
        let down = |reason: Option<&str>| ReplicaView::Down { reason: reason.map(Into::into) };
        let away = MonitorView::Unreachable {
            since: Timestamp::UNIX_EPOCH,
            reason: "x".into(),
            slot_seconds_left: None,
        };
        let table = [
            (seen(MonitorView::NotAsked, ReplicaView::Absent), "connecting"),
            (seen(answers(1, false), ReplicaView::Absent), "connecting"),
            (seen(lost.clone(), ReplicaView::Absent), "connecting"),
            (seen(lost, running.clone()), "out-of-sync"),
            (
                Observations {
                    broken_stream: Some("x".into()),
                    ..seen(answers(1000, false), running.clone())
                },
                "out-of-sync",
            ),
            (
                Observations { copy_damage: Some("x".into()), ..seen(answers(1000, true), running.clone()) },
                "synchronized",
            ),
            (seen(away.clone(), ReplicaView::Absent), "disconnected"),
            (seen(MonitorView::OtherDatabase { reason: "x".into() }, running.clone()), "failed"),
            (Observations { is_full: true, ..seen(answers(1000, true), running.clone()) }, "failed"),
            (seen(away.clone(), running.clone()), "disconnected"),
            (seen(MonitorView::Refuses { reason: "x".into() }, running.clone()), "failed"),
            (seen(MonitorView::OtherMajor { reason: "x".into() }, ReplicaView::Absent), "incompatible"),
            (seen(answers(1000, true), running.clone()), "synchronized"),
            (seen(answers(1000 + SYNCHRONIZED_BYTES, true), running.clone()), "synchronized"),
            (seen(answers(1001 + SYNCHRONIZED_BYTES, true), running.clone()), "lagging"),
            (seen(answers(1000, false), running.clone()), "lagging"),
            (Observations { lag_seconds: 11.0, ..seen(answers(2000, true), running.clone()) }, "lagging"),
            (seen(answers(1, true), down(None)), "connecting"),
            (seen(answers(1, true), down(Some("x"))), "failed"),
            (seen(answers(1, true), ReplicaView::Silent { reason: None }), "connecting"),
            (seen(answers(1, true), ReplicaView::Silent { reason: Some("x".into()) }), "failed"),
            (seen(answers(1, true), ReplicaView::Promoted), "failed"),
            (seen(answers(1, true), ReplicaView::Hung { silence: HANG / 2 }), "connecting"),
            (seen(answers(1, true), ReplicaView::Hung { silence: HANG }), "failed"),
            (seen(answers(1000, true), paused(Pause::Mendable)), "lagging"),
            (seen(answers(1000, true), paused(Pause::Lasting)), "failed"),
            (
                Observations {
                    copy_failure: Some("x".into()),
                    ..seen(answers(1, true), ReplicaView::Absent)
                },
                "failed",
            ),
            (
                Observations { volume_problem: Some("x".into()), ..seen(answers(1, true), running.clone()) },
                "failed",
            ),
            (Observations { paired: false, ..seen(answers(1, true), running) }, "not-connected"),
        ];
        for (observations, expected) in table {
            assert_eq!(state(&observations).name(), expected, "{observations:?}");
        }
    }

    #[test]
    fn a_copy_shows_its_progress() {
        let copying = |resync| ReplicaView::Copying {
            progress: Some(CopyProgress { done: 50, total: 200 }),
            elapsed: Duration::from_secs(5),
            resync,
        };
        let progress = Progress { done: 50, total: 200, percent: 25, rate: 10, seconds_left: Some(15) };
        assert_eq!(state(&seen(answers(1, true), copying(None))), State::InitialSync(progress));
        let again = State::OutOfSync { reason: "lost".into(), copy: Some(progress) };
        assert_eq!(state(&seen(answers(1, true), copying(Some("lost".into())))), again);
    }

    #[test]
    fn an_idle_monitor_does_not_fall_behind() {
        let mut clock = LagClock::default();
        for second in 0..100 {
            assert_eq!(clock.observe(Duration::from_secs(second), Lsn(500), Lsn(500)), 0.0);
        }
    }

    #[test]
    fn lag_is_the_time_since_the_monitor_passed_the_replayed_position() {
        let mut clock = LagClock::default();
        let second = Duration::from_secs;
        assert_eq!(clock.observe(second(0), Lsn(100), Lsn(100)), 0.0);
        assert_eq!(clock.observe(second(2), Lsn(200), Lsn(100)), 0.0);
        assert_eq!(clock.observe(second(6), Lsn(300), Lsn(100)), 4.0);
        assert_eq!(clock.observe(second(7), Lsn(300), Lsn(200)), 1.0);
        assert_eq!(clock.observe(second(8), Lsn(300), Lsn(300)), 0.0);
    }
}
