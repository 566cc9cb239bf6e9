//! How fast all downloads together may be, so that none disturbs replication.
//!
//! One clock for all sessions: each piece that is sent puts it forward by the time that the piece may take, and who is
//! ahead of it waits. With two downloads each gets half, without anything being shared out.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What may be sent at once after a silence.
const BURST: Duration = Duration::from_millis(250);

/// The clock.
#[derive(Debug, Default)]
pub struct Pace(Mutex<Clock>);

#[derive(Debug, Default, Clone, Copy)]
struct Clock {
    bytes_per_second: Option<u64>,
    /// Until when what was sent so far may take.
    sent_until: Option<Instant>,
}

impl Pace {
    /// Sets the limit; it counts for downloads under way too.
    pub fn set(&self, bytes_per_second: Option<u64>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).bytes_per_second = bytes_per_second;
    }

    /// Counts bytes that were sent, and waits until more may be.
    pub async fn sent(&self, bytes: usize) {
        let wait = {
            let mut clock = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            clock.sent(bytes, Instant::now())
        };
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }
}

impl Clock {
    fn sent(&mut self, bytes: usize, now: Instant) -> Duration {
        let Some(rate) = self.bytes_per_second.filter(|rate| *rate > 0) else {
            self.sent_until = None;
            return Duration::ZERO;
        };
        let takes = Duration::from_secs_f64(bytes as f64 / rate as f64);
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        let until = self.sent_until.unwrap_or(earliest).max(earliest) + takes;
        self.sent_until = Some(until);
        until.saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_takes_its_time_whoever_sends_it() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut clock = Clock { bytes_per_second: Some(1_000_000), sent_until: None };
        // The burst is free, then a megabyte takes a second.
        assert_eq!(clock.sent(250_000, at(0)), Duration::ZERO);
        assert_eq!(clock.sent(1_000_000, at(0)), Duration::from_secs(1));
        assert_eq!(clock.sent(1_000_000, at(0)), Duration::from_secs(2));
        assert_eq!(clock.sent(0, at(1500)), Duration::from_millis(500));
        // A silence is not saved up.
        assert_eq!(clock.sent(1_250_000, at(60_000)), Duration::from_secs(1));
        clock.bytes_per_second = None;
        assert_eq!(clock.sent(1_000_000_000, at(60_000)), Duration::ZERO);
    }
}
