//! The retention period that is in force, when the network asks for another one. Pure.
//!
//! A longer period counts at once. A shorter one would delete backups, and whoever has the network password may ask for
//! it; so it counts only after a delay, in which the console can confirm or refuse it ([`Delayed`]). A check says how many
//! backups would go, and when.

use crate::delayed::Delayed;
use serde::{Deserialize, Serialize};

/// Days that a backup is kept; `None`: as long as there is space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Period(pub Option<u32>);

impl Period {
    fn days(self) -> u32 {
        self.0.unwrap_or(u32::MAX)
    }
}

impl PartialOrd for Period {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Period {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.days().cmp(&other.days())
    }
}

/// What counts, and what waits.
pub type Retention = Delayed<Period>;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DELAY: u64 = 72 * 3600;

    fn days(days: u32) -> Period {
        Period(Some(days))
    }

    /// In force, and pending with its begin.
    fn shown(retention: Retention) -> (Option<Period>, Option<(Period, u64)>) {
        (retention.in_force(), retention.pending().map(|pending| (pending.wish, pending.since)))
    }

    #[test]
    fn a_shorter_period_waits_and_a_longer_one_does_not() {
        let first = Retention::default().asked(days(30), 0, DELAY, true);
        assert_eq!(shown(first), (Some(days(30)), None), "the first is not a change");
        let ask = |retention: Retention, period, now| retention.asked(period, now, DELAY, true);
        let short = ask(first, days(10), 100);
        assert_eq!(shown(short), (Some(days(30)), Some((days(10), 100))));
        // said again, less short, still shorter
        assert_eq!(shown(ask(short, days(10), 200)), shown(short));
        assert_eq!(shown(ask(short, days(20), 200)), (Some(days(30)), Some((days(20), 100))));
        assert_eq!(shown(ask(short, days(1), 200)), (Some(days(30)), Some((days(1), 200))));
        // taken back, or longer
        assert_eq!(shown(ask(short, days(30), 200)), (Some(days(30)), None));
        assert_eq!(shown(ask(short, Period(None), 200)), (Some(Period(None)), None));
        // forever is the longest
        let forever = ask(first, Period(None), 0);
        assert_eq!(shown(ask(forever, days(3650), 7)), (Some(Period(None)), Some((days(3650), 7))));
        // the delay
        assert_eq!(shown(short.at(100 + DELAY - 1, DELAY)), shown(short));
        assert_eq!(shown(short.at(100 + DELAY, DELAY)), (Some(days(10)), None));
        assert_eq!(shown(ask(short, days(1), 100 + DELAY)), (Some(days(10)), Some((days(1), 100 + DELAY))));
        // the machine's time was lost
        assert_eq!(shown(short.at(7, DELAY)), (Some(days(30)), Some((days(10), 7))));
        // nothing to protect
        assert_eq!(shown(first.asked(days(1), 1, DELAY, false)), (Some(days(1)), None));
    }

    #[test]
    fn the_console_confirms_or_refuses() {
        let first = Retention::default().asked(days(30), 0, DELAY, true);
        assert_eq!((first.confirmed(), first.refuse()), (None, None));
        let short = first.asked(days(1), 5, DELAY, true);
        assert_eq!(shown(short.confirmed().unwrap()), (Some(days(1)), None));
        let refused = short.refuse().unwrap();
        assert_eq!((shown(refused), refused.refused()), ((Some(days(30)), None), Some(days(1))));
        // The daemon asks for the same at every round.
        let again = refused.asked(days(1), 10 * DELAY, DELAY, true);
        assert_eq!((shown(again), again.refused()), ((Some(days(30)), None), Some(days(1))));
        let other = again.asked(days(2), 10 * DELAY, DELAY, true);
        assert_eq!((shown(other).1, other.refused()), (Some((days(2), 10 * DELAY)), None));
        let long = again.asked(days(40), 10 * DELAY, DELAY, true);
        assert_eq!((shown(long), long.refused()), ((Some(days(40)), None), None));
    }

    proptest! {
        /// Whatever is asked in whatever order: a period that counts was asked for at least the delay before, or is longer
        /// than the one before it.
        #[test]
        fn no_sequence_of_wishes_shortens_the_delay(
            wishes in prop::collection::vec((prop::option::of(1..60u32), 0..100_000u64), 1..60),
        ) {
            let mut retention = Retention::default().asked(days(30), 0, DELAY, true);
            let (mut now, mut asked) = (0, Vec::new());
            for (wish, pause) in wishes {
                now += pause;
                let before = retention.in_force().unwrap();
                asked.push((now, Period(wish)));
                retention = retention.asked(Period(wish), now, DELAY, true);
                let after = retention.in_force().unwrap();
                // Since a whole delay nobody has asked for something longer, and somebody for something as short.
                let early = |at: &&(u64, Period)| at.0 + DELAY <= now;
                prop_assert!(
                    after >= before || asked.iter().filter(early).any(|(_, period)| *period <= after),
                    "{before:?} → {after:?} at {now}: {asked:?}"
                );
            }
        }
    }
}
