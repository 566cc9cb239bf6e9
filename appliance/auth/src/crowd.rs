//! Who may be connected before a login, and who has to go so that somebody else gets in. Pure: no clock, no sockets.
//!
//! The control API and FTP do the same: places before a login are few, and those of addresses that are known (the right
//! password within a day) are apart. A newcomer always gets one, and time to use it:
//!
//! 1. A source (an IPv4 address, an IPv6 /64) that holds too many loses one of its own.
//! 2. The newest half of the connections is closed for nobody else. So a newcomer keeps its place until half as many
//!    others have come as there are places, whatever is known of its source.
//! 3. Of the others the one goes whose source holds most; among equals one whose source has wasted places or failed
//!    before, and then the oldest. So who comes for the first time stays before all who hold places again and again.
//!
//! The trade-off: a crowd with an endless supply of addresses that were never seen is only as good as a first-time client.
//! It has to open as many connections as there are places, in the time that the client takes to log in.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::IpAddr;

/// Sources whose wasted places are remembered.
const MOST_REMEMBERED: usize = 4096;

/// How many places there are.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// For all.
    pub early: usize,
    /// For known addresses.
    pub known: usize,
    /// Of one source in each of these.
    pub of_one: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { early: 64, known: 32, of_one: 16 }
    }
}

/// A connection's number; later ones are greater.
pub type Number = u64;

/// Who comes.
#[derive(Debug, Clone, Copy)]
pub struct Guest {
    /// The IPv4 address or IPv6 /64.
    pub source: IpAddr,
    /// Its place is among those of known addresses.
    pub known: bool,
    /// Its failed logins.
    pub failures: u32,
}

/// What came of somebody who wants in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entered {
    /// The new connection.
    pub number: Number,
    /// The one that has to be closed for it.
    pub closes: Option<Number>,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    number: Number,
    guest: Guest,
    /// It was told to go: its place is free, though its socket is not yet.
    goes: bool,
}

/// All connections before their login, the oldest first.
#[derive(Debug, Default)]
pub struct Crowd {
    limits: Limits,
    next: Number,
    places: Vec<Place>,
    wasted: HashMap<IpAddr, u32>,
    displaced: u64,
}

impl Crowd {
    /// Nobody is connected.
    pub fn new(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Somebody connects.
    pub fn enter(&mut self, guest: Guest) -> Entered {
        let number = self.next;
        self.next += 1;
        self.places.push(Place { number, guest, goes: false });
        let closes = self.victim(guest);
        self.places
            .iter_mut()
            .filter(|place| Some(place.number) == closes)
            .for_each(|place| place.goes = true);
        self.displaced += u64::from(closes.is_some());
        Entered { number, closes }
    }

    /// A connection has carried a valid login and needs its place no more. Gives who holds it; `None`: it is not here, or
    /// its place was given to another.
    pub fn log_in(&mut self, number: Number) -> Option<Guest> {
        let at = self.places.iter().position(|place| place.number == number && !place.goes)?;
        let guest = self.places.remove(at).guest;
        self.wasted.remove(&guest.source);
        Some(guest)
    }

    /// A connection has ended. Gives whether it was here.
    pub fn leave(&mut self, number: Number) -> bool {
        let Some(at) = self.places.iter().position(|place| place.number == number) else { return false };
        let Guest { source, known, .. } = self.places.remove(at).guest;
        if !known {
            if self.wasted.len() >= MOST_REMEMBERED {
                self.wasted.clear();
            }
            let wasted = self.wasted.entry(source).or_default();
            *wasted = wasted.saturating_add(1);
        }
        true
    }

    /// Connections in all, with those that were told to go.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether nobody is connected.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// How many had to go for others since this was last asked.
    pub fn take_displaced(&mut self) -> u64 {
        std::mem::take(&mut self.displaced)
    }

    /// Who has to go now that `newcomer` has come.
    fn victim(&self, newcomer: Guest) -> Option<Number> {
        let in_pool =
            || self.places.iter().filter(|place| place.guest.known == newcomer.known && !place.goes);
        let of = |source: IpAddr| in_pool().filter(|place| place.guest.source == source).count();
        let of_newcomer = |place: &&Place| place.guest.source == newcomer.source;
        if of(newcomer.source) > self.limits.of_one {
            return in_pool().find(of_newcomer).map(|place| place.number);
        }
        let capacity = if newcomer.known { self.limits.known } else { self.limits.early };
        let count = in_pool().count();
        if count <= capacity {
            return None;
        }
        let worth = |place: &&Place| {
            let Guest { source, failures, .. } = place.guest;
            let wasted = self.wasted.get(&source).copied().unwrap_or(0);
            (of(source), wasted.saturating_add(failures), Reverse(place.number))
        };
        // Not the newcomer, nor those that came last before it.
        let settled = count.saturating_sub(capacity / 2 + 1).max(1);
        in_pool().take(settled).max_by_key(worth).map(|place| place.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    const LIMITS: Limits = Limits { early: 4, known: 2, of_one: 3 };

    fn source(n: u32) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from_bits(n))
    }

    fn stranger(n: u32) -> Guest {
        Guest { source: source(n), known: false, failures: 0 }
    }

    /// Enters and closes whoever has to go; gives the number and who was closed.
    fn enter(crowd: &mut Crowd, guest: Guest) -> (Number, Option<Number>) {
        let entered = crowd.enter(guest);
        entered.closes.into_iter().for_each(|number| _ = crowd.leave(number));
        (entered.number, entered.closes)
    }

    #[test]
    fn a_full_pool_closes_one_of_the_older_half_of_the_source_that_holds_most() {
        for (sources, expected) in [
            ([1, 2, 2, 3, 4], 1),
            ([1, 1, 2, 2, 3], 0),
            // All hold one: the oldest. The newest half is left alone.
            ([1, 2, 3, 4, 5], 0),
            ([1, 2, 3, 3, 4], 0),
        ] {
            let mut crowd = Crowd::new(LIMITS);
            let entered: Vec<_> = sources.iter().map(|n| enter(&mut crowd, stranger(*n))).collect();
            assert_eq!(entered[4].1, Some(expected), "{sources:?}");
            assert!(entered[..4].iter().all(|(_, closed)| closed.is_none()), "{sources:?}");
            assert_eq!((crowd.len(), crowd.take_displaced()), (4, 1));
        }
    }

    #[test]
    fn another_one_goes_while_the_first_has_not_gone_yet() {
        let mut crowd = Crowd::new(LIMITS);
        let entered: Vec<_> = (0..8).map(|n| crowd.enter(stranger(n))).collect();
        let closed: Vec<_> = entered.iter().filter_map(|entered| entered.closes).collect();
        assert_eq!(closed, [0, 1, 2, 3]);
        assert!(crowd.log_in(0).is_none(), "its place was given to another");
        assert!(crowd.log_in(4).is_some());
    }

    #[test]
    fn one_source_holds_so_many_at_most() {
        let mut crowd = Crowd::new(LIMITS);
        let numbers: Vec<_> = [1, 1, 1].map(|n| enter(&mut crowd, stranger(n)).0).into();
        assert_eq!(enter(&mut crowd, stranger(1)).1, Some(numbers[0]));
        assert_eq!(crowd.len(), 3);
    }

    #[test]
    fn who_comes_for_the_first_time_stays_before_those_that_waste_places_or_failed() {
        let mut crowd = Crowd::new(LIMITS);
        // They have come before.
        for n in 0..100 {
            enter(&mut crowd, stranger(n));
        }
        let (rightful, closed) = enter(&mut crowd, stranger(1000));
        assert!(closed.is_some_and(|closed| closed != rightful));
        for n in (0..96).cycle().take(1000) {
            let (_, closed) = enter(&mut crowd, stranger(n));
            assert!(closed.is_some_and(|closed| closed != rightful));
        }
        let failed = Guest { failures: 3, ..stranger(2000) };
        let mut crowd = Crowd::new(LIMITS);
        let numbers: Vec<_> =
            [stranger(1), failed, stranger(3), stranger(4)].map(|guest| enter(&mut crowd, guest).0).into();
        assert_eq!(enter(&mut crowd, stranger(5)).1, Some(numbers[1]));
    }

    /// As many addresses as there are places hold them all. A client that was displaced before, or has mistyped its
    /// password, gets in all the same, and has its time.
    #[test]
    fn a_newcomer_with_a_bad_record_has_its_time() {
        let mut crowd = Crowd::new(LIMITS);
        for n in 1..=4 {
            enter(&mut crowd, stranger(n));
        }
        let (client, closed) = enter(&mut crowd, Guest { failures: 20, ..stranger(9) });
        assert_eq!(closed, Some(0));
        for n in [5, 6] {
            assert_ne!(enter(&mut crowd, stranger(n)).1, Some(client));
        }
        assert_eq!(enter(&mut crowd, stranger(7)).1, Some(client));
    }

    #[test]
    fn strangers_take_no_place_of_known_ones() {
        let mut crowd = Crowd::new(LIMITS);
        let known = enter(&mut crowd, Guest { known: true, ..stranger(1) }).0;
        for n in 3..1000 {
            let (_, closed) = enter(&mut crowd, stranger(n));
            assert_ne!(closed, Some(known));
            assert!(crowd.len() <= 5);
        }
        assert!(crowd.log_in(known).is_some_and(|guest| guest.known));
    }

    proptest! {
        /// Whoever comes, leaves or logs in: the bounds hold, and a newcomer gets in and stays while less than half as
        /// many come from other sources as there are places.
        #[test]
        fn the_bounds_hold_and_a_newcomer_has_its_time(
            steps in proptest::collection::vec((0..12_u32, 0..9_u32, any::<bool>()), 0..200),
        ) {
            let limits = Limits { early: 8, known: 4, of_one: 3 };
            let mut crowd = Crowd::new(limits);
            let mut here: Vec<(Number, Guest)> = Vec::new();
            for (n, what, known) in steps {
                match (what, here.first().copied()) {
                    (0, Some((number, _))) => { crowd.leave(number); here.remove(0); }
                    (1, Some((number, _))) => { prop_assert!(crowd.log_in(number).is_some()); here.remove(0); }
                    _ => {
                        let guest = Guest { source: source(n), known, failures: what };
                        let (number, closed) = enter(&mut crowd, guest);
                        prop_assert_ne!(closed, Some(number));
                        if let Some(closed) = closed {
                            let at = here.iter().position(|(number, _)| *number == closed).unwrap();
                            let (_, gone) = here.remove(at);
                            let later = here[at..].iter().filter(|(_, other)| other.known == known).count() + 1;
                            let half = if known { limits.known } else { limits.early } / 2;
                            prop_assert!(gone.source == guest.source || later >= half);
                        }
                        here.push((number, guest));
                    }
                }
                prop_assert_eq!(crowd.len(), here.len());
                for (known, most) in [(false, limits.early), (true, limits.known)] {
                    let pool: Vec<_> = here.iter().filter(|(_, guest)| guest.known == known).collect();
                    prop_assert!(pool.len() <= most);
                    for n in 0..12 {
                        prop_assert!(pool.iter().filter(|(_, guest)| guest.source == source(n)).count() <= limits.of_one);
                    }
                }
            }
        }
    }
}
