//! What to do next, from the same observations: one pure function beside the one that names the state.

use crate::{HANG, MonitorView, Observations, Pause, ReplicaView};
use std::time::Duration;

/// Something that the daemon has to carry out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing: all is well, or waiting is all that can be done.
    Wait,
    /// Make the first full copy.
    FullCopy,
    /// Start the replica.
    Start,
    /// Stop the replica, to start it under the settings that it needs now.
    Restart,
    /// Stop the replica until there is room again.
    Stop,
    /// Make a backup of what is there, and then another full copy in its place.
    Resync,
}

/// The next step.
///
/// A replica is started whether or not the monitor answers: it serves backups, and streams on by itself when the
/// monitor is back. A full copy begins only when the monitor was seen to be the right one. Replay pauses by itself when
/// a setting that hot standby takes over was raised on the monitor (documentation, "Hot Standby: Administrator's
/// Overview"); `pg_control` has the new value then, and a start takes it from there. While the data volume is not there
/// nothing is done: an absent replica would be no reason for a copy. When the volume is full, replay stops before
/// PostgreSQL fails at it (facts, "btrfs").
pub fn next_step(seen: &Observations) -> Step {
    match (&seen.replica, &seen.monitor) {
        _ if !seen.paired || seen.volume_problem.is_some() => Step::Wait,
        (
            ReplicaView::Running { .. }
            | ReplicaView::Silent { .. }
            | ReplicaView::Hung { .. }
            | ReplicaView::Promoted,
            _,
        ) if seen.is_full => Step::Stop,
        _ if seen.is_full => Step::Wait,
        (ReplicaView::Absent, MonitorView::Answers { .. }) => Step::FullCopy,
        // One that can be started gives a backup first.
        (ReplicaView::Running { .. } | ReplicaView::Down { reason: Some(_) }, _)
        | (ReplicaView::Silent { reason: Some(_) }, _)
            if seen.needs_copy().is_some() =>
        {
            Step::Resync
        }
        (ReplicaView::Down { .. }, _) => Step::Start,
        (ReplicaView::Running { paused: Some(Pause::Mendable), .. }, _) => Step::Restart,
        // As a standby that has gone another way it does not stream, and its log says so.
        (ReplicaView::Promoted, _) => Step::Restart,
        (ReplicaView::Hung { silence }, _) if *silence >= HANG => Step::Restart,
        _ => Step::Wait,
    }
}

/// Waiting times after failures: doubled each time, up to a limit, and back to the first after a success.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backoff {
    next: Duration,
    longest: Duration,
}

impl Backoff {
    /// First waiting time.
    const FIRST: Duration = Duration::from_secs(2);
    /// Longest waiting time: a monitor that is back is noticed within a minute.
    const LONGEST: Duration = Duration::from_secs(60);

    /// Begins with the first waiting time.
    pub fn new() -> Self {
        Self::up_to(Self::LONGEST)
    }

    /// The same, with another limit, for what costs more than a question.
    pub fn up_to(longest: Duration) -> Self {
        Self { next: Self::FIRST, longest }
    }

    /// The time to wait after one more failure.
    pub fn failed(&mut self) -> Duration {
        let wait = self.next;
        self.next = (wait * 2).min(self.longest);
        wait
    }

    /// Something worked.
    pub fn succeeded(&mut self) {
        *self = Self::up_to(self.longest);
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Lsn;

    #[test]
    fn a_copy_needs_the_right_monitor_and_a_start_needs_only_a_copy() {
        let answers = MonitorView::Answers { position: Lsn(1), slot_active: false, slot_lost: None };
        let lost =
            MonitorView::Answers { position: Lsn(1), slot_active: false, slot_lost: Some("lost".into()) };
        let other = MonitorView::OtherDatabase { reason: String::new() };
        let failed = ReplicaView::Down { reason: Some(String::new()) };
        let away = MonitorView::Refuses { reason: String::new() };
        let down = ReplicaView::Down { reason: None };
        let running = |paused| ReplicaView::Running { replayed: Lsn(1), paused };
        let table = [
            (true, answers.clone(), ReplicaView::Absent, Step::FullCopy),
            (true, away.clone(), ReplicaView::Absent, Step::Wait),
            (true, MonitorView::NotAsked, ReplicaView::Absent, Step::Wait),
            (true, away, down.clone(), Step::Start),
            (true, answers.clone(), down.clone(), Step::Start),
            (true, answers.clone(), running(None), Step::Wait),
            (true, answers.clone(), running(Some(Pause::Mendable)), Step::Restart),
            (true, MonitorView::NotAsked, running(Some(Pause::Mendable)), Step::Restart),
            (true, answers.clone(), running(Some(Pause::Lasting)), Step::Wait),
            (true, answers.clone(), ReplicaView::Silent { reason: None }, Step::Wait),
            (true, answers.clone(), ReplicaView::Promoted, Step::Restart),
            (true, answers.clone(), ReplicaView::Hung { silence: HANG / 2 }, Step::Wait),
            (true, answers.clone(), ReplicaView::Hung { silence: HANG }, Step::Restart),
            (true, lost.clone(), ReplicaView::Absent, Step::FullCopy),
            (true, lost.clone(), running(None), Step::Resync),
            (true, lost.clone(), down.clone(), Step::Start),
            (true, lost.clone(), failed.clone(), Step::Resync),
            (true, lost, ReplicaView::Silent { reason: None }, Step::Wait),
            (true, answers.clone(), failed, Step::Start),
            (true, other.clone(), ReplicaView::Absent, Step::Wait),
            (true, other, running(None), Step::Wait),
            (false, answers, down, Step::Wait),
        ];
        for (paired, monitor, replica, expected) in table {
            let mut seen = Observations {
                paired,
                volume_problem: None,
                is_full: false,
                monitor,
                replica,
                lag_seconds: 0.0,
                broken_stream: None,
                refused_stream: None,
                copy_failure: None,
                copy_damage: None,
            };
            assert_eq!(next_step(&seen), expected, "{seen:?}");
            seen.is_full = true;
            let is_up = matches!(
                seen.replica,
                ReplicaView::Running { .. }
                    | ReplicaView::Silent { .. }
                    | ReplicaView::Hung { .. }
                    | ReplicaView::Promoted
            );
            let expected = if paired && is_up { Step::Stop } else { Step::Wait };
            assert_eq!(next_step(&seen), expected, "{seen:?}");
            seen.volume_problem = Some("x".into());
            assert_eq!(next_step(&seen), Step::Wait, "{seen:?}");
        }
    }

    #[test]
    fn a_damaged_copy_is_made_anew_while_it_streams() {
        let answers = MonitorView::Answers { position: Lsn(1), slot_active: true, slot_lost: None };
        let running = ReplicaView::Running { replayed: Lsn(1), paused: None };
        let table = [
            (answers.clone(), running.clone(), Step::Resync),
            (MonitorView::NotAsked, running, Step::Wait),
            (answers, ReplicaView::Down { reason: None }, Step::Start),
        ];
        for (monitor, replica, expected) in table {
            let seen = Observations {
                paired: true,
                volume_problem: None,
                is_full: false,
                monitor,
                replica,
                lag_seconds: 0.0,
                broken_stream: None,
                refused_stream: None,
                copy_failure: None,
                copy_damage: Some("x".into()),
            };
            assert_eq!(next_step(&seen), expected, "{seen:?}");
        }
    }

    #[test]
    fn waiting_doubles_up_to_a_minute() {
        let mut backoff = Backoff::new();
        let waits: Vec<u64> = (0..7).map(|_| backoff.failed().as_secs()).collect();
        assert_eq!(waits, [2, 4, 8, 16, 32, 60, 60]);
        backoff.succeeded();
        assert_eq!(backoff.failed().as_secs(), 2);
        let mut short = Backoff::up_to(Duration::from_secs(3));
        assert_eq!([short.failed().as_secs(), short.failed().as_secs()], [2, 3]);
    }
}
