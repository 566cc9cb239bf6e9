//! How often something happened within the last 24 hours that the machine ran. Pure.
//!
//! The times are those of [`ClockRecord::lived`](crate::clock::ClockRecord::lived): no clock shortens a day, and a restart
//! forgets nothing.

use serde::{Deserialize, Serialize};

/// Seconds of a day.
pub const DAY: u64 = 24 * 3600;

/// The times at which it happened, the oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Recent(Vec<u64>);

impl Recent {
    /// It happens now. What happened more than a day ago is forgotten. After the machine's time was lost, times that are
    /// still to come count as now.
    pub fn add(&mut self, now: u64) {
        self.0.iter_mut().for_each(|at| *at = (*at).min(now));
        self.0.retain(|at| now - *at < DAY);
        self.0.push(now);
    }

    /// How often it happened within the last day.
    pub fn count(&self, now: u64) -> usize {
        self.0.iter().filter(|at| now.saturating_sub(**at) < DAY).count()
    }

    /// Seconds since it happened last.
    pub fn since_last(&self, now: u64) -> Option<u64> {
        self.0.last().map(|at| now.saturating_sub(*at))
    }

    /// Seconds until it may happen again, where it may happen `most` times a day and `pause` seconds have to lie between;
    /// `None`: it may happen now.
    pub fn wait(&self, now: u64, most: usize, pause: u64) -> Option<u64> {
        let by_pause =
            self.since_last(now).and_then(|since| pause.checked_sub(since)).filter(|left| *left > 0);
        let within: Vec<u64> = self.0.iter().map(|at| (*at).min(now)).filter(|at| now - at < DAY).collect();
        // With the last of those over the limit a day old, one more is allowed.
        let over = within.len().checked_sub(most);
        let by_count = over.map(|over| within.get(over).map_or(DAY, |at| DAY - (now - at)));
        by_pause.max(by_count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_has_so_many_and_a_pause_lies_between() {
        let mut recent = Recent::default();
        assert_eq!((recent.count(0), recent.wait(0, 2, 60), recent.wait(0, 0, 60)), (0, None, Some(DAY)));
        recent.add(1000);
        assert_eq!((recent.wait(1010, 2, 60), recent.wait(1060, 2, 60)), (Some(50), None));
        recent.add(1060);
        assert_eq!((recent.count(1060), recent.wait(2000, 2, 60)), (2, Some(DAY - 1000)));
        assert_eq!((recent.count(1000 + DAY), recent.wait(1000 + DAY, 2, 60)), (1, None));
        recent.add(1000 + DAY);
        assert_eq!(recent.0, [1060, 1000 + DAY], "what is older is forgotten");
        // The machine's time was lost.
        assert_eq!((recent.count(5), recent.wait(5, 2, 60)), (2, Some(DAY)));
        recent.add(5);
        assert_eq!(recent.count(5 + DAY), 0);
    }
}
