//! How often a wrong password may be tried. Pure: the clock is passed in.
//!
//! Two bounds. Each *source* (an IPv4 address, an IPv6 /64) has some free failures, then waits twice as long after
//! each further one. All sources that never gave the right password share one *budget*, so that an attacker with
//! many addresses is bound as well, while a monitor that is known goes on working.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

/// Wrong passwords of one source before it has to wait: a person's typing errors.
pub const FREE_FAILURES: u32 = 5;
/// The first wait; it doubles with each further failure.
pub const FIRST_DELAY: Duration = Duration::from_secs(1);
/// The longest wait, short enough for a person who finally found the right password.
pub const LONGEST_DELAY: Duration = Duration::from_secs(60);
/// A source without a failure for so long starts anew.
pub const FORGET_AFTER: Duration = Duration::from_secs(15 * 60);
/// Failures that all unknown sources together have in stock.
pub const BUDGET: u32 = 30;
/// One failure is added to the stock each so often: 1800 guesses an hour at most.
pub const BUDGET_REFILL: Duration = Duration::from_secs(2);
/// A source is known for so long after it gave the right password.
pub const KNOWN_FOR: Duration = Duration::from_secs(24 * 3600);
/// Sources that are remembered; the ones heard of longest ago make room (the budget still binds them).
pub const MAXIMUM_SOURCES: usize = 1024;

#[derive(Debug, Clone, Copy, Default)]
struct Source {
    failures: u32,
    last_failure: Duration,
    accepted: Option<Duration>,
}

impl Source {
    fn last_heard(&self) -> Duration {
        self.last_failure.max(self.accepted.unwrap_or_default())
    }

    fn is_known(&self, now: Duration) -> bool {
        self.accepted.is_some_and(|at| now.saturating_sub(at) < KNOWN_FOR)
    }
}

/// The memory of the throttle. Times are durations since any fixed moment.
#[derive(Debug)]
pub struct Throttle {
    sources: HashMap<IpAddr, Source>,
    stock: u32,
    stock_at: Duration,
}

impl Default for Throttle {
    fn default() -> Self {
        Self { sources: HashMap::new(), stock: BUDGET, stock_at: Duration::ZERO }
    }
}

impl Throttle {
    /// Whether `from` may try a password now; `Err` says how long it has to wait.
    ///
    /// # Errors
    /// The time until the source may try again.
    pub fn admit(&self, from: IpAddr, now: Duration) -> Result<(), Duration> {
        let source = self.sources.get(&group(from)).copied().unwrap_or_default();
        let since = now.saturating_sub(source.last_failure);
        let wait = delay(source.failures).saturating_sub(since);
        if since < FORGET_AFTER && !wait.is_zero() {
            return Err(wait);
        }
        let (stock, stock_at) = self.refilled(now);
        if stock == 0 && !source.is_known(now) {
            return Err((stock_at + BUDGET_REFILL).saturating_sub(now));
        }
        Ok(())
    }

    /// Records a wrong password.
    pub fn rejected(&mut self, from: IpAddr, now: Duration) {
        let from = group(from);
        self.make_room(from);
        let source = self.sources.entry(from).or_default();
        if now.saturating_sub(source.last_failure) >= FORGET_AFTER {
            source.failures = 0;
        }
        source.failures = source.failures.saturating_add(1);
        source.last_failure = now;
        let known = source.is_known(now);
        let (stock, stock_at) = self.refilled(now);
        (self.stock, self.stock_at) = (if known { stock } else { stock.saturating_sub(1) }, stock_at);
    }

    /// Records the right password: the source starts anew and is known.
    pub fn accepted(&mut self, from: IpAddr, now: Duration) {
        let from = group(from);
        self.make_room(from);
        self.sources.insert(from, Source { failures: 0, last_failure: Duration::ZERO, accepted: Some(now) });
    }

    /// Forgets who gave the right password: it is another one now.
    pub fn password_changed(&mut self) {
        for source in self.sources.values_mut() {
            source.accepted = None;
        }
    }

    fn refilled(&self, now: Duration) -> (u32, Duration) {
        let passed = now.saturating_sub(self.stock_at);
        let gained =
            u32::try_from(passed.as_millis() / BUDGET_REFILL.as_millis()).unwrap_or(BUDGET).min(BUDGET);
        if self.stock.saturating_add(gained) >= BUDGET {
            (BUDGET, now)
        } else {
            (self.stock + gained, self.stock_at + BUDGET_REFILL * gained)
        }
    }

    fn make_room(&mut self, for_source: IpAddr) {
        if self.sources.len() < MAXIMUM_SOURCES || self.sources.contains_key(&for_source) {
            return;
        }
        let oldest = self.sources.iter().min_by_key(|(_, source)| source.last_heard()).map(|(from, _)| *from);
        if let Some(oldest) = oldest {
            self.sources.remove(&oldest);
        }
    }
}

/// How long a source waits after that many failures.
fn delay(failures: u32) -> Duration {
    match failures.checked_sub(FREE_FAILURES) {
        None => Duration::ZERO,
        Some(more) => FIRST_DELAY.saturating_mul(2_u32.saturating_pow(more)).min(LONGEST_DELAY),
    }
}

/// Who counts as one source: an IPv6 host owns its whole /64, an IPv4 address may be written as an IPv6 one.
fn group(from: IpAddr) -> IpAddr {
    match from.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const A: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    const B: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn the_wait_after_so_many_failures_doubles_up_to_a_minute() {
        let table = [
            (0, 0),
            (4, 0),
            (5, 1),
            (6, 2),
            (7, 4),
            (8, 8),
            (9, 16),
            (10, 32),
            (11, 60),
            (12, 60),
            (u32::MAX, 60),
        ];
        for (failures, expected) in table {
            assert_eq!(delay(failures), s(expected), "{failures}");
        }
    }

    #[test]
    fn a_source_waits_and_then_may_try_again_while_others_go_on() {
        let mut throttle = Throttle::default();
        for _ in 0..5 {
            assert_eq!(throttle.admit(A, s(100)), Ok(()));
            throttle.rejected(A, s(100));
        }
        assert_eq!(throttle.admit(A, s(100)), Err(s(1)));
        assert_eq!(throttle.admit(B, s(100)), Ok(()));
        assert_eq!(throttle.admit(A, s(101)), Ok(()));
        throttle.rejected(A, s(101));
        assert_eq!(throttle.admit(A, s(102)), Err(s(1)));
        assert_eq!(throttle.admit(A, s(103)), Ok(()));
    }

    #[test]
    fn the_right_password_and_a_long_silence_both_start_anew() {
        let mut throttle = Throttle::default();
        for _ in 0..8 {
            throttle.rejected(A, s(0));
            throttle.rejected(B, s(0));
        }
        throttle.accepted(A, s(10));
        throttle.rejected(A, s(11));
        assert_eq!(throttle.admit(A, s(11)), Ok(()));
        throttle.rejected(B, FORGET_AFTER);
        assert_eq!(throttle.admit(B, FORGET_AFTER), Ok(()));
    }

    #[test]
    fn many_sources_share_one_budget_that_a_known_source_does_not_need() {
        let mut throttle = Throttle::default();
        throttle.accepted(A, s(0));
        let stranger = |n: u32| IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + n));
        for n in 0..BUDGET {
            assert_eq!(throttle.admit(stranger(n), s(1)), Ok(()));
            throttle.rejected(stranger(n), s(1));
        }
        assert_eq!(throttle.admit(stranger(1000), s(1)), Err(s(2)));
        assert_eq!(throttle.admit(A, s(1)), Ok(()));
        assert_eq!(throttle.admit(stranger(1000), s(3)), Ok(()));
        throttle.rejected(stranger(1000), s(3));
        assert_eq!(throttle.admit(stranger(1001), s(3)), Err(s(2)));
        throttle.password_changed();
        assert_eq!(throttle.admit(A, s(3)), Err(s(2)));
    }

    #[test]
    fn knowing_a_source_ends_after_a_day() {
        let mut throttle = Throttle::default();
        throttle.accepted(A, s(0));
        for n in 0..BUDGET {
            throttle.rejected(IpAddr::V4(Ipv4Addr::from_bits(n)), KNOWN_FOR);
        }
        assert_eq!(throttle.admit(A, KNOWN_FOR), Err(BUDGET_REFILL));
    }

    #[test]
    fn an_ipv6_network_and_a_mapped_ipv4_address_are_one_source() {
        let table = [
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::", true),
            ("2001:db8:1:2::1", "2001:db8:1:3::1", false),
            ("::ffff:192.0.2.1", "192.0.2.1", true),
        ];
        for (a, b, same) in table {
            assert_eq!(group(a.parse().unwrap()) == group(b.parse().unwrap()), same, "{a} {b}");
        }
    }

    #[test]
    fn the_memory_is_bounded_and_forgets_the_oldest() {
        let mut throttle = Throttle::default();
        for _ in 0..20 {
            throttle.rejected(A, s(1));
        }
        for n in 0..MAXIMUM_SOURCES as u32 - 1 {
            throttle.rejected(IpAddr::V4(Ipv4Addr::from_bits(n)), s(2));
        }
        assert_eq!(throttle.sources.len(), MAXIMUM_SOURCES);
        throttle.rejected(B, s(3));
        assert_eq!(throttle.sources.len(), MAXIMUM_SOURCES);
        assert!(!throttle.sources.contains_key(&A));
    }

    #[test]
    fn a_clock_that_stands_still_or_jumps_does_no_harm() {
        let mut throttle = Throttle::default();
        throttle.rejected(A, s(100));
        assert_eq!(throttle.admit(A, s(0)), Ok(()));
        assert_eq!(throttle.admit(A, Duration::MAX), Ok(()));
    }
}
