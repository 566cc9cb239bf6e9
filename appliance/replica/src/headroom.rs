//! How long the monitor keeps what the replica has not got yet: the slot's room, and the rate at which WAL fills it.

use crate::Lsn;
use std::collections::VecDeque;
use std::time::Duration;

/// Time over which the rate is measured: a busy hour should show, a busy second should not.
const WINDOW: Duration = Duration::from_secs(3600);
/// Positions are kept this far apart.
const STEP: Duration = Duration::from_secs(60);

/// Measures the rate at which the monitor writes WAL.
#[derive(Debug, Default)]
pub struct WalRate {
    /// When the monitor was seen at a position, oldest first; time since some fixed start.
    seen: VecDeque<(Duration, Lsn)>,
}

impl WalRate {
    /// Records that the monitor was at `position` at `now`, and gives the rate in bytes per second; `None` in the first
    /// minute.
    pub fn observe(&mut self, now: Duration, position: Lsn) -> Option<u64> {
        if self.seen.back().is_some_and(|(_, last)| position < *last) {
            self.seen.clear(); // another timeline
        }
        if self.seen.back().is_none_or(|(when, _)| now.saturating_sub(*when) >= STEP) {
            self.seen.push_back((now, position));
        }
        // One older than the window stays, so that the window is covered.
        while self.seen.get(1).is_some_and(|(when, _)| now.saturating_sub(*when) >= WINDOW) {
            self.seen.pop_front();
        }
        let (when, first) = self.seen.front()?;
        let elapsed = now.saturating_sub(*when);
        (elapsed >= STEP).then(|| position.bytes_since(*first) / elapsed.as_secs().max(1))
    }
}

/// Seconds until a slot with `safe_wal` bytes of room is lost at `rate` bytes per second; `None`: never, as the slot has
/// no limit or nothing is written.
pub fn seconds_until_lost(safe_wal: Option<u64>, rate: Option<u64>) -> Option<u64> {
    safe_wal?.checked_div(rate?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_of_the_last_hour() {
        let mut rate = WalRate::default();
        let at = |rate: &mut WalRate, minutes: u64, position: u64| {
            rate.observe(Duration::from_secs(60 * minutes), Lsn(position))
        };
        assert_eq!(at(&mut rate, 0, 1000), None);
        assert_eq!(at(&mut rate, 1, 7000), Some(100));
        assert_eq!(at(&mut rate, 10, 7000), Some(10));
        for minute in 11..=200 {
            at(&mut rate, minute, 7000);
        }
        assert_eq!(at(&mut rate, 201, 7000), Some(0));
        assert!(rate.seen.len() <= 62);
        // a timeline that begins earlier
        assert_eq!(at(&mut rate, 202, 10), None);
        assert_eq!(at(&mut rate, 203, 6010), Some(100));
    }

    #[test]
    fn room_divided_by_rate_is_time() {
        for (room, rate, expected) in [
            (Some(7200), Some(2), Some(3600)),
            (Some(7200), Some(0), None),
            (None, Some(2), None),
            (Some(7200), None, None),
        ] {
            assert_eq!(seconds_until_lost(room, rate), expected);
        }
    }
}
