//! Whether the clock can be trusted to expire backups (design D11). Pure.
//!
//! A clock that jumps into the future makes every backup old. So a jump of more than a day is noticed, by comparing the
//! clock with the time that has really passed, and nothing expires by age until somebody confirms it at the console or
//! the clock comes back. How long the machine was off cannot be told from a jump; that is confirmed, too.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// Jumps up to this are none: summer time, time synchronization, a night without power.
pub const JUMP: SignedDuration = SignedDuration::from_hours(24);

/// What is remembered of the clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClockRecord {
    /// The clock when it was last looked at.
    pub seen: Timestamp,
    /// By how many seconds it has jumped since it was trusted last.
    pub jumped_seconds: i64,
}

impl ClockRecord {
    /// The first look at a clock: there is nothing to doubt it by.
    pub fn first(now: Timestamp) -> Self {
        Self { seen: now, jumped_seconds: 0 }
    }

    /// The next look, `elapsed` being the time that has really passed, as far as it is known.
    #[must_use]
    pub fn observe(self, now: Timestamp, elapsed: SignedDuration) -> Self {
        let jump = now.duration_since(self.seen).saturating_sub(elapsed);
        let counts = jump.abs() > JUMP;
        let jumped = if counts { jump.as_secs() } else { 0 };
        Self { seen: now, jumped_seconds: self.jumped_seconds.saturating_add(jumped) }
    }

    /// Whether nothing speaks against the clock.
    pub fn is_trusted(&self) -> bool {
        SignedDuration::from_secs(self.jumped_seconds).abs() <= JUMP
    }

    /// Somebody says that the clock is right.
    #[must_use]
    pub fn confirmed(self) -> Self {
        Self { jumped_seconds: 0, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_jumps_of_more_than_a_day_count_and_coming_back_undoes_them() {
        let hours = SignedDuration::from_hours;
        let start: Timestamp = "2026-11-24T12:00:00Z".parse().unwrap();
        // Each look: hours by the clock since the one before, and hours that have really passed.
        let table: [(&[(i64, i64)], bool); 8] = [
            (&[(1, 1), (1, 1)], true),
            (&[(20, 0), (20, 0), (20, 0)], true),
            (&[(24, 0)], true),
            (&[(25, 0)], false),
            (&[(-25, 0)], false),
            (&[(25, 0), (1, 1), (1, 1)], false),
            (&[(160_000, 0), (5, 5), (-160_000, 0)], true),
            (&[(1_000, 1_000)], true),
        ];
        for (looks, trusted) in table {
            let record = looks.iter().fold(ClockRecord::first(start), |record, (clock, real)| {
                record.observe(record.seen + hours(*clock), hours(*real))
            });
            assert_eq!(record.is_trusted(), trusted, "{looks:?}");
            assert!(record.confirmed().is_trusted());
        }
    }

    #[test]
    fn the_years_1970_and_2045_are_doubted() {
        let now = "2026-11-24T12:00:00Z".parse().unwrap();
        for other in ["1970-01-01T00:00:00Z", "2045-01-01T00:00:00Z"] {
            let record = ClockRecord::first(now).observe(other.parse().unwrap(), SignedDuration::ZERO);
            assert!(!record.is_trusted());
            assert!(record.observe(now, SignedDuration::ZERO).is_trusted());
        }
    }
}
