//! Who may be connected, and who has to go so that somebody else gets in. Pure: no clock, no sockets.
//!
//! Connections have three pools of places: those before a login, those before a login from an address that is known or
//! the paired monitor's, and those that have carried a valid login. Who cannot log in fills the first at most. It
//! stays open to newcomers: when it is full, one is closed, of the source that holds most of it; among equals one whose
//! source has wasted places or failed before, and then the oldest. So a client that comes for the first time gets in
//! before all who hold places again and again.

use std::collections::HashMap;
use std::net::IpAddr;

/// How many places there are.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Before a login.
    pub early: usize,
    /// Before a login, from known addresses.
    pub known: usize,
    /// After a login.
    pub logged_in: usize,
    /// Of one source in each of these.
    pub of_one: usize,
    /// Requests under way together, without listeners to events; the paired monitor has as many more as `of_one_busy`.
    pub busy: usize,
    /// Requests under way of one source.
    pub of_one_busy: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { early: 64, known: 32, logged_in: 128, of_one: 16, busy: 12, of_one_busy: 6 }
    }
}

/// Sources whose wasted places are remembered.
const MOST_REMEMBERED: usize = 4096;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pool {
    Early,
    Known,
    LoggedIn,
}

/// A connection's number; later ones are greater.
pub type Number = u64;

#[derive(Debug, Clone, Copy)]
struct Place {
    number: Number,
    /// The IPv4 address or IPv6 /64.
    source: IpAddr,
    pool: Pool,
    /// Failed logins of the source when it came.
    failures: u32,
    reserved: bool,
    busy: bool,
    /// It was told to go: its place is free, though its socket is not yet.
    goes: bool,
}

/// What came of somebody who wants in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entered {
    /// The new connection.
    pub number: Number,
    /// The one that has to be closed for it; itself, when nobody is worth less.
    pub closes: Option<Number>,
}

/// Who comes.
#[derive(Debug, Clone, Copy)]
pub struct Guest {
    /// The IPv4 address or IPv6 /64.
    pub source: IpAddr,
    /// It gave the right password lately, or is the paired monitor.
    pub known: bool,
    /// It is the paired monitor.
    pub reserved: bool,
    /// Its failed logins.
    pub failures: u32,
}

/// All connections.
#[derive(Debug, Default)]
pub struct Gate {
    limits: Limits,
    next: Number,
    places: Vec<Place>,
    wasted: HashMap<IpAddr, u32>,
}

impl Gate {
    /// Nobody is connected.
    pub fn new(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Somebody connects.
    pub fn enter(&mut self, guest: Guest) -> Entered {
        let Guest { source, known, reserved, failures } = guest;
        let (number, pool) = (self.next, if known { Pool::Known } else { Pool::Early });
        self.next += 1;
        self.places.push(Place { number, source, pool, failures, reserved, busy: false, goes: false });
        Entered { number, closes: self.victim(pool, source) }
    }

    /// A connection has carried a valid login. An error says that its source holds too many; else, which one has to be
    /// closed for it.
    pub fn log_in(&mut self, number: Number) -> Result<Option<Number>, TooMany> {
        let of_one = self.limits.of_one;
        let Some(place) = self.places.iter().find(|place| place.number == number).copied() else {
            return Err(TooMany);
        };
        let same =
            |other: &&Place| other.pool == Pool::LoggedIn && other.source == place.source && !other.goes;
        if place.pool == Pool::LoggedIn {
            return Ok(None);
        }
        if self.places.iter().filter(same).count() >= of_one {
            return Err(TooMany);
        }
        self.wasted.remove(&place.source);
        self.places
            .iter_mut()
            .filter(|place| place.number == number)
            .for_each(|place| place.pool = Pool::LoggedIn);
        Ok(self.victim(Pool::LoggedIn, place.source))
    }

    /// A request of a connection begins that costs memory until it is answered.
    pub fn begin(&mut self, number: Number) -> Result<(), TooMany> {
        let Some(place) = self.places.iter().find(|place| place.number == number).copied() else {
            return Err(TooMany);
        };
        let busy = |test: &dyn Fn(&Place) -> bool| self.places.iter().filter(|p| p.busy && test(p)).count();
        let of_one = busy(&|other| other.source == place.source);
        let full = if place.reserved { false } else { busy(&|other| !other.reserved) >= self.limits.busy };
        if full || of_one >= self.limits.of_one_busy {
            return Err(TooMany);
        }
        self.set_busy(number, true);
        Ok(())
    }

    /// A request is answered.
    pub fn end(&mut self, number: Number) {
        self.set_busy(number, false);
    }

    /// A connection has ended.
    pub fn leave(&mut self, number: Number) {
        let Some(at) = self.places.iter().position(|place| place.number == number) else { return };
        let place = self.places.remove(at);
        if place.pool == Pool::Early {
            if self.wasted.len() >= MOST_REMEMBERED {
                self.wasted.clear();
            }
            let wasted = self.wasted.entry(place.source).or_default();
            *wasted = wasted.saturating_add(1);
        }
    }

    /// Connections in all.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    fn set_busy(&mut self, number: Number, busy: bool) {
        self.places.iter_mut().filter(|place| place.number == number).for_each(|place| place.busy = busy);
    }

    /// Who has to go after `newcomer` has come into `pool`.
    fn victim(&mut self, pool: Pool, newcomer: IpAddr) -> Option<Number> {
        let victim = self.worst(pool, newcomer)?;
        self.places.iter_mut().filter(|place| place.number == victim).for_each(|place| place.goes = true);
        Some(victim)
    }

    fn worst(&self, pool: Pool, newcomer: IpAddr) -> Option<Number> {
        let capacity = match pool {
            Pool::Early => self.limits.early,
            Pool::Known => self.limits.known,
            Pool::LoggedIn => self.limits.logged_in,
        };
        let in_pool = || self.places.iter().filter(|place| place.pool == pool && !place.goes);
        let of = |source: IpAddr| in_pool().filter(|place| place.source == source).count();
        if in_pool().count() <= capacity && of(newcomer) <= self.limits.of_one {
            return None;
        }
        let worth = |place: &&Place| {
            let wasted = self.wasted.get(&place.source).copied().unwrap_or(0);
            (of(place.source), wasted.saturating_add(place.failures), std::cmp::Reverse(place.number))
        };
        in_pool().max_by_key(worth).map(|place| place.number)
    }
}

/// A source has too much at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooMany;

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const LIMITS: Limits = Limits { early: 4, known: 2, logged_in: 4, of_one: 3, busy: 2, of_one_busy: 2 };

    fn source(n: u32) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from_bits(n))
    }

    fn stranger(n: u32) -> Guest {
        Guest { source: source(n), known: false, reserved: false, failures: 0 }
    }

    /// Enters and closes whoever has to go; gives the number and who was closed.
    fn enter(gate: &mut Gate, guest: Guest) -> (Number, Option<Number>) {
        let entered = gate.enter(guest);
        entered.closes.into_iter().for_each(|number| gate.leave(number));
        (entered.number, entered.closes)
    }

    #[test]
    fn a_full_pool_closes_the_oldest_of_the_source_that_holds_most() {
        let mut gate = Gate::new(LIMITS);
        let numbers: Vec<_> = [1, 2, 2, 3].map(|n| enter(&mut gate, stranger(n)).0).into();
        assert_eq!(enter(&mut gate, stranger(4)).1, Some(numbers[1]));
        // All hold one: of the source that lost a place before, and then the oldest.
        assert_eq!(enter(&mut gate, stranger(5)).1, Some(numbers[2]));
        assert_eq!(enter(&mut gate, stranger(6)).1, Some(numbers[0]));
        assert_eq!(gate.len(), 4);
    }

    #[test]
    fn another_one_goes_while_the_first_has_not_gone_yet() {
        let mut gate = Gate::new(LIMITS);
        let entered: Vec<_> = (0..8).map(|n| gate.enter(stranger(n))).collect();
        let closed: Vec<_> = entered.iter().filter_map(|entered| entered.closes).collect();
        assert_eq!(closed, [0, 1, 2, 3]);
    }

    #[test]
    fn one_source_holds_so_many_at_most() {
        let mut gate = Gate::new(LIMITS);
        let numbers: Vec<_> = [1, 1, 1].map(|n| enter(&mut gate, stranger(n)).0).into();
        assert_eq!(enter(&mut gate, stranger(1)).1, Some(numbers[0]));
        assert_eq!(gate.len(), 3);
    }

    #[test]
    fn who_comes_for_the_first_time_stays_before_those_that_waste_places_or_failed() {
        let mut gate = Gate::new(LIMITS);
        // They have come before.
        for n in 0..100 {
            enter(&mut gate, stranger(n));
        }
        let (rightful, closed) = enter(&mut gate, stranger(1000));
        assert!(closed.is_some_and(|closed| closed != rightful));
        for n in (0..96).cycle().take(1000) {
            let (_, closed) = enter(&mut gate, stranger(n));
            assert!(closed.is_some_and(|closed| closed != rightful));
        }
        let failed = Guest { failures: 3, ..stranger(2000) };
        let mut gate = Gate::new(LIMITS);
        let numbers: Vec<_> =
            [stranger(1), failed, stranger(3), stranger(4)].map(|g| enter(&mut gate, g).0).into();
        assert_eq!(enter(&mut gate, stranger(5)).1, Some(numbers[1]));
    }

    #[test]
    fn strangers_take_no_place_of_known_ones_or_of_those_logged_in() {
        let mut gate = Gate::new(LIMITS);
        let known = enter(&mut gate, Guest { known: true, ..stranger(1) }).0;
        let logged_in = enter(&mut gate, stranger(2)).0;
        assert_eq!(gate.log_in(logged_in), Ok(None));
        for n in 3..1000 {
            let (_, closed) = enter(&mut gate, stranger(n));
            assert!(closed.is_none_or(|closed| closed != known && closed != logged_in));
            assert!(gate.len() <= 6);
        }
        assert_eq!(gate.log_in(known), Ok(None));
    }

    #[test]
    fn logins_have_limits_too() {
        let mut gate = Gate::new(LIMITS);
        for (n, expected) in [(1, Ok(None)), (1, Ok(None)), (1, Ok(None)), (1, Err(TooMany)), (2, Ok(None))] {
            let number = enter(&mut gate, stranger(n)).0;
            assert_eq!(gate.log_in(number), expected);
            if expected.is_err() {
                gate.leave(number);
            }
        }
        // All four places are taken: the oldest of the source with most goes.
        let number = enter(&mut gate, stranger(3)).0;
        assert_eq!(gate.log_in(number), Ok(Some(0)));
        assert_eq!(gate.log_in(number), Ok(None));
        assert_eq!(gate.log_in(4711), Err(TooMany));
    }

    #[test]
    fn requests_under_way_are_bounded_and_the_monitor_has_its_own() {
        let mut gate = Gate::new(LIMITS);
        let numbers: Vec<_> = [1, 1, 1, 2].map(|n| enter(&mut gate, stranger(n)).0).into();
        let monitor = enter(&mut gate, Guest { known: true, reserved: true, ..stranger(3) }).0;
        assert_eq!(gate.begin(numbers[0]), Ok(()));
        assert_eq!(gate.begin(numbers[1]), Ok(()));
        assert_eq!(gate.begin(numbers[2]), Err(TooMany));
        assert_eq!(gate.begin(numbers[3]), Err(TooMany));
        assert_eq!(gate.begin(monitor), Ok(()));
        gate.end(numbers[0]);
        assert_eq!(gate.begin(numbers[3]), Ok(()));
        gate.leave(numbers[1]);
        assert_eq!(gate.begin(numbers[2]), Ok(()));
    }
}
