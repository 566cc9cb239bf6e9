//! How often a wrong password may be tried. The clock is passed in.
//!
//! There is no limit for all sources together: whoever used it up would lock out a node that is to be restored, which
//! comes from an address that nobody has seen. So each source (an IPv4 address, an IPv6 /64) is bound by itself:
//! [`FREE_FAILURES`], then a wait that doubles with each further one up to [`LONGEST_DELAY`]; one failure an hour is
//! forgotten. That is 16 guesses in the first hour and 1 in each further one: from 1000 addresses 16 000 and then 1000
//! an hour, 40 000 in the first day.
//!
//! In IPv6, who has a /64 may have 65 536 of them or more. Networks of /48 and /32 may fail as often as 16 and 256
//! sources. In IPv4 wider networks are not refused, since guessers in one LAN would lock its other hosts out; their
//! failures only decide who is looked at first ([`Standing`]).
//!
//! An address that gave the right password is *known* for a day. It answers for its own failures only, and not for its
//! neighbours in its /64, /48 and /32. The right password forgives no failures: else a guesser behind the same
//! address as the monitor would be forgiven each time that the monitor asks.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use crate::ledger::{Ledger, Other};

/// Wrong passwords of one source before it has to wait: a person's typing errors.
pub const FREE_FAILURES: u32 = 5;
/// The first wait; it doubles with each further failure.
pub const FIRST_DELAY: Duration = Duration::from_secs(1);
/// The longest wait. A person gets there after 16 wrong passwords; another password, set at the console, ends it.
pub const LONGEST_DELAY: Duration = Duration::from_secs(3600);
/// One failure of a source is forgotten each so often.
pub const FORGET_ONE: Duration = LONGEST_DELAY;
/// Failures of a source that are remembered: more change nothing.
pub const MOST_FAILURES: u32 = 20;
/// A source is known for so long after it gave the right password.
pub const KNOWN_FOR: Duration = Duration::from_secs(24 * 3600);
/// Known addresses that are remembered; only those who know the password can push one out.
pub const MOST_KNOWN: usize = 256;

/// A network that failures are counted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Network {
    /// Its address with the length of its prefix.
    name: [u8; 17],
    /// As many sources' failures are allowed to it; `None`: it is never refused.
    sources: Option<u32>,
}

impl Network {
    fn v4(address: Ipv4Addr, prefix: u8, sources: Option<u32>) -> Self {
        Self::v6(address.to_ipv6_mapped(), 96 + prefix, sources)
    }

    fn v6(address: Ipv6Addr, prefix: u8, sources: Option<u32>) -> Self {
        let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
        let mut name = [prefix; 17];
        name[..16].copy_from_slice(&(address.to_bits() & mask).to_be_bytes());
        Self { name, sources }
    }

    /// After this time one of its failures is forgotten, in milliseconds.
    fn forget_one(&self) -> u64 {
        millis(FORGET_ONE) / u64::from(self.sources.unwrap_or(1))
    }

    /// What it may owe at most, in milliseconds.
    fn most(&self) -> u64 {
        millis(FORGET_ONE) * u64::from(MOST_FAILURES)
    }
}

/// The networks of a source, the closest first.
fn networks(from: IpAddr) -> [Network; 3] {
    match from.to_canonical() {
        IpAddr::V4(address) => [(32, Some(1)), (24, None), (16, None)]
            .map(|(prefix, sources)| Network::v4(address, prefix, sources)),
        IpAddr::V6(address) => [(64, Some(1)), (48, Some(16)), (32, Some(256))]
            .map(|(prefix, sources)| Network::v6(address, prefix, sources)),
    }
}

/// The address alone.
fn address(from: IpAddr) -> Network {
    match from.to_canonical() {
        IpAddr::V4(address) => Network::v4(address, 32, Some(1)),
        IpAddr::V6(address) => Network::v6(address, 128, Some(1)),
    }
}

/// How little is to be expected of a source: the least comes first when work is costly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Standing {
    /// It has not given the right password lately.
    pub unknown: bool,
    /// Failures of its networks, the closest first.
    pub failures: [u32; 3],
}

/// The memory of the throttle. Times are durations since the boot, or since any fixed moment without files.
#[derive(Debug)]
pub struct Throttle {
    own: Ledger,
    other: Option<Other>,
    known: HashMap<IpAddr, Duration>,
}

impl Throttle {
    /// A throttle that counts in `own` and heeds what `other` has counted.
    pub fn new(own: Ledger, other: Option<Other>) -> Self {
        Self { own, other, known: HashMap::new() }
    }

    /// Whether `from` may try a password now; `Err` says how long it has to wait.
    ///
    /// # Errors
    /// The time until the source may try again.
    pub fn admit(&mut self, from: IpAddr, now: Duration) -> Result<(), Duration> {
        let wait = if self.is_known(from, now) {
            self.wait(&address(from), now)
        } else {
            networks(from).iter().map(|network| self.wait(network, now)).max().unwrap_or_default()
        };
        if wait.is_zero() { Ok(()) } else { Err(wait) }
    }

    /// Records a wrong password.
    pub fn rejected(&mut self, from: IpAddr, now: Duration) {
        let now = millis(now);
        let alone = from.to_canonical().is_ipv6().then(|| address(from));
        for network in networks(from).into_iter().chain(alone) {
            let debt = self.own.get(&network.name).debt(now, network.most()) + network.forget_one();
            self.own.set(&network.name, now.saturating_add(debt.min(network.most())), now);
        }
    }

    /// Records the right password: the source is known from now on.
    pub fn accepted(&mut self, from: IpAddr, now: Duration) {
        let from = from.to_canonical();
        if self.known.len() >= MOST_KNOWN && !self.known.contains_key(&from) {
            let oldest = self.known.iter().min_by_key(|(_, at)| **at).map(|(from, _)| *from);
            oldest.and_then(|oldest| self.known.remove(&oldest));
        }
        self.known.insert(from, now);
    }

    /// Forgets everything: it is another password now.
    pub fn password_changed(&mut self) {
        self.known.clear();
        self.own.clear();
    }

    /// Whether the address gave the right password within [`KNOWN_FOR`].
    pub fn is_known(&self, from: IpAddr, now: Duration) -> bool {
        self.known.get(&from.to_canonical()).is_some_and(|at| now.saturating_sub(*at) < KNOWN_FOR)
    }

    /// How little is to be expected of `from`.
    pub fn standing(&mut self, from: IpAddr, now: Duration) -> Standing {
        let failures = networks(from).map(|network| self.failures(&network, millis(now)).0);
        Standing { unknown: !self.is_known(from, now), failures }
    }

    /// How long `network` has to wait.
    fn wait(&mut self, network: &Network, now: Duration) -> Duration {
        let Some(sources) = network.sources else { return Duration::ZERO };
        let (failures, last) = self.failures(network, millis(now));
        let since = millis(now).saturating_sub(last);
        (delay(failures / sources) / sources).saturating_sub(Duration::from_millis(since))
    }

    /// Failures of `network` that are not forgotten, and when the last one was.
    fn failures(&mut self, network: &Network, now: u64) -> (u32, u64) {
        let count = |debt: u64| u32::try_from(debt.div_ceil(network.forget_one())).unwrap_or(u32::MAX);
        let own = self.own.get(&network.name);
        let other = self.other.as_mut().map(|other| other.get(&network.name)).unwrap_or_default();
        let failures = [own, other].map(|entry| count(entry.debt(now, network.most()))).iter().sum::<u32>();
        (failures, own.last.max(other.last))
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
pub fn group(from: IpAddr) -> IpAddr {
    match from.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
        v4 => v4,
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const A: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    const B: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));
    const HOUR: u64 = 3600;

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn throttle() -> Throttle {
        Throttle::new(Ledger::in_memory().unwrap(), None)
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// Guesses from `from` at every chance between two moments; how many came through.
    fn guess(throttle: &mut Throttle, from: IpAddr, mut now: Duration, until: Duration) -> u64 {
        let mut guesses = 0;
        while now < until {
            match throttle.admit(from, now) {
                Ok(()) => {
                    throttle.rejected(from, now);
                    guesses += 1;
                }
                Err(wait) => now += wait,
            }
        }
        guesses
    }

    #[test]
    fn the_wait_after_so_many_failures_doubles_up_to_an_hour() {
        let table =
            [(0, 0), (4, 0), (5, 1), (6, 2), (7, 4), (10, 32), (16, 2048), (17, HOUR), (u32::MAX, HOUR)];
        for (failures, expected) in table {
            assert_eq!(delay(failures), s(expected), "{failures}");
        }
    }

    #[test]
    fn a_source_waits_and_then_may_try_again_while_others_go_on() {
        let mut throttle = throttle();
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
    fn guesses_of_one_source_are_few_in_an_hour_and_in_a_day() {
        assert_eq!(guess(&mut throttle(), A, s(0), s(HOUR)), 16);
        assert_eq!(guess(&mut throttle(), A, s(0), s(24 * HOUR)), 40);
        // Who keeps below the waits gets no further.
        let mut patient = throttle();
        let slowly: u64 = (0..24 * 60).map(|m| guess(&mut patient, A, s(m * 60), s(m * 60 + 1)).min(1)).sum();
        assert!(slowly <= 41, "{slowly}");
    }

    #[test]
    fn guesses_of_a_thousand_sources_lock_no_unseen_one_out() {
        let mut throttle = throttle();
        for n in 0..1000 {
            let from = IpAddr::V4(Ipv4Addr::from_bits(0xc000_0200 + n));
            assert!(guess(&mut throttle, from, s(1), s(60)) <= 11);
        }
        for unseen in ["192.0.5.254", "192.0.200.1", "2001:db8::1"] {
            assert_eq!(throttle.admit(address(unseen), s(60)), Ok(()), "{unseen}");
        }
    }

    #[test]
    fn wide_ipv6_networks_are_bound_and_wide_ipv4_ones_are_not() {
        let all = |network: &str, sources: u32, apart: u32| {
            let first = address(network);
            let mut throttle = throttle();
            (0..sources)
                .map(|n| match first {
                    IpAddr::V4(first) => IpAddr::V4(Ipv4Addr::from_bits(first.to_bits() + n)),
                    IpAddr::V6(first) => {
                        IpAddr::V6(Ipv6Addr::from_bits(first.to_bits() + (u128::from(n) << apart)))
                    }
                })
                .map(|from| guess(&mut throttle, from, s(0), s(1)))
                .sum::<u64>()
        };
        assert_eq!(all("192.0.2.0", 256, 0), 5 * 256);
        // One source.
        assert_eq!(all("2001:db8::", 1000, 0), 5);
        // A /48 of many /64, a /32 of many /48.
        assert!((5 * 16..=7 * 16).contains(&all("2001:db8::", 1000, 64)));
        assert!((5 * 256..=14 * 256).contains(&all("2001:db8::", 3000, 80)));
    }

    #[test]
    fn a_known_address_answers_for_itself_alone() {
        let mut throttle = throttle();
        let (monitor, neighbour) = (address("2001:db8::1"), address("2001:db8::2"));
        throttle.accepted(monitor, s(0));
        guess(&mut throttle, neighbour, s(0), s(60));
        assert!(throttle.admit(neighbour, s(60)).is_err());
        assert_eq!(throttle.admit(monitor, s(60)), Ok(()));
        assert!(!throttle.standing(monitor, s(60)).unknown);
        assert!(throttle.admit(address("2001:db8::3"), s(60)).is_err());
        guess(&mut throttle, monitor, s(60), s(120));
        assert!(throttle.admit(monitor, s(120)).is_err());
        // Being known ends after a day, and with the password.
        assert!(throttle.standing(monitor, KNOWN_FOR).unknown);
        throttle.password_changed();
        assert!(throttle.standing(monitor, s(121)).unknown);
        assert_eq!(throttle.admit(neighbour, s(121)), Ok(()));
    }

    #[test]
    fn the_right_password_forgives_no_failures() {
        let mut throttle = throttle();
        guess(&mut throttle, A, s(0), s(60));
        throttle.accepted(A, s(60));
        let after = guess(&mut throttle, A, s(60), s(120));
        assert!(after <= 2, "{after}");
    }

    #[test]
    fn a_failure_is_forgotten_each_hour() {
        let mut throttle = throttle();
        for _ in 0..8 {
            throttle.rejected(A, s(0));
        }
        for (hours, failures) in [(0, 8), (1, 7), (3, 5), (4, 4), (8, 0)] {
            assert_eq!(throttle.standing(A, s(hours * HOUR)).failures[0], failures, "after {hours} h");
        }
    }

    #[test]
    fn two_processes_count_together() {
        let folder = tempfile::tempdir().unwrap();
        let paths = [folder.path().join("api"), folder.path().join("ftp")];
        let throttle =
            |own: usize| Throttle::new(Ledger::open(&paths[own]).unwrap(), Some(Other::new(&paths[1 - own])));
        let (mut api, mut ftp) = (throttle(0), throttle(1));
        for _ in 0..3 {
            api.rejected(A, s(1));
            ftp.rejected(A, s(1));
        }
        assert_eq!(api.admit(A, s(1)), Err(s(2)));
        assert_eq!(ftp.admit(A, s(1)), Err(s(2)));
        assert_eq!(ftp.admit(B, s(1)), Ok(()));
    }

    #[test]
    fn sources_that_are_one_have_one_name() {
        let table = [
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::", true),
            ("2001:db8:1:2::1", "2001:db8:1:3::1", false),
            ("::ffff:192.0.2.1", "192.0.2.1", true),
            ("192.0.2.1", "192.0.2.2", false),
        ];
        for (a, b, same) in table {
            let (a, b) = (address(a), address(b));
            assert_eq!(group(a) == group(b), same, "{a} {b}");
            assert_eq!(networks(a)[0] == networks(b)[0], same, "{a} {b}");
        }
    }

    proptest! {
        /// Whatever the clock does: no wait is longer than the longest, and no source has more guesses than the bound.
        #[test]
        fn no_clock_makes_a_wait_longer_or_a_bound_wider(steps in proptest::collection::vec(0..20_000_u64, 1..200)) {
            let mut throttle = throttle();
            let (mut now, mut guesses) = (0, 0_u64);
            for step in steps {
                now += step;
                match throttle.admit(A, s(now)) {
                    Ok(()) => { throttle.rejected(A, s(now)); guesses += 1; }
                    Err(wait) => prop_assert!(wait <= LONGEST_DELAY),
                }
                prop_assert!(guesses <= 17 + now / HOUR, "{guesses} in {now} s");
                prop_assert!(throttle.admit(A, s(0)).err().unwrap_or_default() <= LONGEST_DELAY);
            }
        }
    }
}
