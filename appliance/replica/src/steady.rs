//! What is shown of a replica that is behind now and then.
//!
//! A burst of writes, a checkpoint or a busy disk puts every replica behind for some seconds. Told each time, that is an
//! event every few minutes which asks nobody to do anything, and hides the ones that do. So a replica that was
//! synchronized is shown as lagging only once that lasts; what it lags by is shown at once. The price: a real
//! hold-up is told [`TOLD_AFTER`] later.

use api::State;
use std::time::Duration;

/// A replica that is behind for so long is shown as lagging.
pub const TOLD_AFTER: Duration = Duration::from_secs(30);
/// Once it is, it must keep up for so long before that is shown: else it would be told each time that it catches up for a moment.
pub const OVER_AFTER: Duration = Duration::from_secs(10);

/// Hysteresis between `synchronized` and `lagging`, in time. Every other state is shown as it is.
#[derive(Debug, Default)]
pub struct Steady {
    shown: Shown,
    /// Since when what is seen is other than what is shown; time since some fixed start.
    since: Option<Duration>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Shown {
    #[default]
    Other,
    Synchronized,
    /// It was synchronized before.
    Lagging,
}

impl Steady {
    /// What to show of `seen` at `now`, the time since some fixed start.
    pub fn show(&mut self, now: Duration, seen: State) -> State {
        match (self.shown, seen) {
            (Shown::Synchronized, State::Lagging { lag_bytes, lag_seconds }) => {
                if self.lasts(now, TOLD_AFTER) || lag_seconds >= TOLD_AFTER.as_secs_f64() {
                    self.now_shown(Shown::Lagging);
                    State::Lagging { lag_bytes, lag_seconds }
                } else {
                    State::Synchronized { lag_bytes, lag_seconds }
                }
            }
            (Shown::Lagging, State::Synchronized { lag_bytes, lag_seconds }) => {
                if self.lasts(now, OVER_AFTER) {
                    self.now_shown(Shown::Synchronized);
                    State::Synchronized { lag_bytes, lag_seconds }
                } else {
                    State::Lagging { lag_bytes, lag_seconds }
                }
            }
            (_, seen @ State::Synchronized { .. }) => {
                self.now_shown(Shown::Synchronized);
                seen
            }
            (Shown::Lagging, seen @ State::Lagging { .. }) => {
                self.since = None;
                seen
            }
            (_, seen) => {
                self.now_shown(Shown::Other);
                seen
            }
        }
    }

    fn lasts(&mut self, now: Duration, long: Duration) -> bool {
        let since = *self.since.get_or_insert(now);
        now.saturating_sub(since) >= long
    }

    fn now_shown(&mut self, shown: Shown) {
        (self.shown, self.since) = (shown, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn synchronized() -> State {
        State::Synchronized { lag_bytes: 0, lag_seconds: 0.0 }
    }

    fn lagging(lag_seconds: f64) -> State {
        State::Lagging { lag_bytes: 17_100_000, lag_seconds }
    }

    /// The names of what is shown, one state a second.
    fn shown(seen: impl IntoIterator<Item = State>) -> Vec<&'static str> {
        let mut steady = Steady::default();
        seen.into_iter()
            .enumerate()
            .map(|(second, state)| steady.show(Duration::from_secs(second as u64), state).name())
            .collect()
    }

    fn changes(names: &[&str]) -> usize {
        names.windows(2).filter(|pair| pair[0] != pair[1]).count()
    }

    #[test]
    fn a_burst_is_not_told_but_its_lag_is_shown() {
        let mut steady = Steady::default();
        steady.show(Duration::ZERO, synchronized());
        let shown = steady.show(Duration::from_secs(1), lagging(0.5));
        assert_eq!(shown, State::Synchronized { lag_bytes: 17_100_000, lag_seconds: 0.5 });
    }

    #[test]
    fn bursts_for_an_hour_are_one_state() {
        let hour = (0..3600).map(|second| if second % 40 < 20 { lagging(1.0) } else { synchronized() });
        assert_eq!(changes(&shown(std::iter::once(synchronized()).chain(hour))), 0);
    }

    #[test]
    fn what_lasts_is_told_once_and_so_is_its_end() {
        // Behind for 40 s, then every 15 s in step for 5 s, then for good.
        let long = (0..40).map(|_| lagging(1.0));
        let wavering = (0..300).map(|second| if second % 15 < 5 { synchronized() } else { lagging(1.0) });
        let good = (0..30).map(|_| synchronized());
        let names = shown(std::iter::once(synchronized()).chain(long).chain(wavering).chain(good));
        assert_eq!(changes(&names), 2);
        assert_eq!(names.last(), Some(&"synchronized"));
        assert_eq!(names[30], "synchronized");
        assert_eq!(names[31], "lagging");
    }

    #[test]
    fn much_lag_and_every_other_state_are_told_at_once() {
        assert_eq!(shown([synchronized(), lagging(30.0)]), ["synchronized", "lagging"]);
        assert_eq!(shown([State::Connecting, lagging(0.0)]), ["connecting", "lagging"]);
        assert_eq!(
            shown([synchronized(), lagging(1.0), State::Connecting, lagging(1.0), synchronized()]),
            ["synchronized", "synchronized", "connecting", "lagging", "synchronized"]
        );
    }
}
