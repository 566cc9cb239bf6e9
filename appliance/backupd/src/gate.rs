//! Who may be connected, and who has to go so that somebody else gets in. Pure: no clock, no sockets.
//!
//! Before a login, connections are a [`Crowd`]. Those that have carried a valid login have places of their own, and some
//! of them a request under way that costs memory. Whoever knows the password gets in, and may have stolen it; so nobody
//! is told to come again, but another one is closed:
//!
//! 1. A source (an IPv4 address, an IPv6 /64) with too many loses one of its own.
//! 2. Else one of the source that holds most, the paired monitor's aside; among equals the one that has done nothing for
//!    longest.
//!
//! So one address keeps no other one out, and nobody the paired monitor. What many addresses with the password can do is
//! to have a connection closed that is the oldest of all: its client connects again.

use auth::crowd::{self, Crowd, Entered, Guest, Number};
use std::cmp::Reverse;
use std::net::IpAddr;

/// How many places there are.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Before a login.
    pub crowd: crowd::Limits,
    /// After a login.
    pub logged_in: usize,
    /// Of one source among these.
    pub of_one: usize,
    /// Requests under way together, without listeners to events; the paired monitor has as many more as `of_one_busy`.
    pub busy: usize,
    /// Requests under way of one source.
    pub of_one_busy: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { crowd: crowd::Limits::default(), logged_in: 128, of_one: 16, busy: 12, of_one_busy: 6 }
    }
}

#[derive(Debug, Clone, Copy)]
struct Place {
    number: Number,
    /// The IPv4 address or IPv6 /64.
    source: IpAddr,
    /// It is the paired monitor's.
    reserved: bool,
    busy: bool,
    /// The turn in which it logged in, or in which its last request began or ended.
    used: u64,
    /// It was told to go: its place is free, though its socket is not yet.
    goes: bool,
}

/// All connections.
#[derive(Debug, Default)]
pub struct Gate {
    limits: Limits,
    crowd: Crowd,
    places: Vec<Place>,
    /// Grows with each use.
    turn: u64,
}

impl Gate {
    /// Nobody is connected.
    pub fn new(limits: Limits) -> Self {
        Self { limits, crowd: Crowd::new(limits.crowd), ..Self::default() }
    }

    /// Somebody connects.
    pub fn enter(&mut self, guest: Guest) -> Entered {
        self.crowd.enter(guest)
    }

    /// A connection has carried a valid login; `reserved`: it is the paired monitor's. Gives which one has to be closed for
    /// it.
    ///
    /// # Errors
    /// It was itself told to go.
    pub fn log_in(&mut self, number: Number, reserved: bool) -> Result<Option<Number>, Gone> {
        if let Some(place) = self.places.iter().find(|place| place.number == number) {
            return if place.goes { Err(Gone) } else { Ok(None) };
        }
        let Guest { source, .. } = self.crowd.log_in(number).ok_or(Gone)?;
        let used = self.turn();
        self.places.push(Place { number, source, reserved, busy: false, used, goes: false });
        let Limits { logged_in, of_one, .. } = self.limits;
        Ok(self.displace(number, |_| true, logged_in, of_one))
    }

    /// A request of a connection begins that costs memory until it is answered. Gives which one has to be closed for it.
    ///
    /// # Errors
    /// The connection was told to go.
    pub fn begin(&mut self, number: Number) -> Result<Option<Number>, Gone> {
        let turn = self.turn();
        let place = self.places.iter_mut().find(|place| place.number == number && !place.goes).ok_or(Gone)?;
        (place.busy, place.used) = (true, turn);
        let Limits { busy, of_one_busy, .. } = self.limits;
        Ok(self.displace(number, |place| place.busy, busy, of_one_busy))
    }

    /// A request is answered.
    pub fn end(&mut self, number: Number) {
        let turn = self.turn();
        if let Some(place) = self.places.iter_mut().find(|place| place.number == number) {
            (place.busy, place.used) = (false, turn);
        }
    }

    /// A connection has ended.
    pub fn leave(&mut self, number: Number) {
        self.crowd.leave(number);
        self.places.retain(|place| place.number != number);
    }

    /// Connections in all.
    pub fn len(&self) -> usize {
        self.crowd.len() + self.places.len()
    }

    fn turn(&mut self) -> u64 {
        self.turn += 1;
        self.turn
    }

    /// Who has to go now that `newcomer` is among those that `counts` names, of whom there may be `most` beside the paired
    /// monitor's, and `of_one` of one source.
    fn displace(
        &mut self,
        newcomer: Number,
        counts: impl Fn(&Place) -> bool,
        most: usize,
        of_one: usize,
    ) -> Option<Number> {
        let own = *self.places.iter().find(|place| place.number == newcomer)?;
        let all = || self.places.iter().filter(|place| counts(place) && !place.goes);
        let of = |source: IpAddr| all().filter(|place| place.source == source).count();
        let others = || all().filter(|place| place.number != newcomer);
        let oldest_use = |place: &&Place| (place.busy, place.used);
        let victim = if of(own.source) > of_one {
            others().filter(|place| place.source == own.source).min_by_key(oldest_use)
        } else if !own.reserved && all().filter(|place| !place.reserved).count() > most {
            let strangers = others().filter(|place| !place.reserved);
            strangers.min_by_key(|place| (Reverse(of(place.source)), oldest_use(place)))
        } else {
            None
        };
        let victim = victim?.number;
        self.places.iter_mut().filter(|place| place.number == victim).for_each(|place| place.goes = true);
        Some(victim)
    }
}

/// The connection's place was given to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gone;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    const LIMITS: Limits = Limits {
        crowd: crowd::Limits { early: 4, known: 2, of_one: 3 },
        logged_in: 4,
        of_one: 3,
        busy: 3,
        of_one_busy: 2,
    };

    fn source(n: u32) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from_bits(n))
    }

    /// Logs in from a source, 0 being the paired monitor's; closes whoever has to go. Gives the number and who was closed.
    fn log_in(gate: &mut Gate, n: u32) -> (Number, Option<Number>) {
        let Entered { number, .. } = gate.enter(Guest { source: source(n), known: n == 0, failures: 0 });
        let closed = gate.log_in(number, n == 0).unwrap();
        closed.into_iter().for_each(|number| gate.leave(number));
        (number, closed)
    }

    #[test]
    fn a_login_is_always_taken_and_another_goes_for_it() {
        let mut gate = Gate::new(LIMITS);
        let numbers: Vec<_> = [1, 1, 1, 2].map(|n| log_in(&mut gate, n)).into();
        assert!(numbers.iter().all(|(_, closed)| closed.is_none()));
        // Of its own: the one that has done nothing for longest.
        gate.begin(numbers[0].0).unwrap();
        gate.end(numbers[0].0);
        assert_eq!(log_in(&mut gate, 1).1, Some(numbers[1].0));
        // All four places are taken: of the source that holds most.
        assert_eq!(log_in(&mut gate, 3).1, Some(numbers[2].0));
        // Again, and one with a request under way stays.
        gate.begin(numbers[0].0).unwrap();
        let last_of_1 = numbers[3].0 + 1;
        assert_eq!(log_in(&mut gate, 4).1, Some(last_of_1));
        // Each holds one.
        assert_eq!(log_in(&mut gate, 5).1, Some(numbers[3].0));
        assert_eq!(gate.log_in(numbers[0].0, false), Ok(None), "it has logged in already");
        assert_eq!(gate.log_in(4711, false), Err(Gone));
    }

    #[test]
    fn who_was_told_to_go_gets_nothing_more() {
        let mut gate = Gate::new(LIMITS);
        let first = log_in(&mut gate, 1).0;
        for n in 2..=5 {
            let Entered { number, .. } = gate.enter(Guest { source: source(n), known: false, failures: 0 });
            gate.log_in(number, false).unwrap();
        }
        assert_eq!((gate.log_in(first, false), gate.begin(first)), (Err(Gone), Err(Gone)));
    }

    #[test]
    fn the_paired_monitor_has_places_of_its_own() {
        let mut gate = Gate::new(LIMITS);
        let monitor = log_in(&mut gate, 0).0;
        for n in 1..100 {
            let (number, closed) = log_in(&mut gate, n);
            assert_ne!(closed, Some(monitor));
            assert_ne!(gate.begin(number).unwrap(), Some(monitor));
        }
        assert_eq!(gate.begin(monitor), Ok(None));
        // Whoever sits behind its address takes its places, and does not keep it out.
        let more: Vec<_> = (0..3).map(|_| log_in(&mut gate, 0).0).collect();
        assert_eq!(gate.begin(more[0]), Err(Gone), "closed for one of its own source");
        assert_eq!(gate.begin(more[1]), Ok(None));
        assert_eq!(gate.begin(more[2]), Ok(Some(monitor)));
    }

    #[test]
    fn the_first_request_of_a_source_has_a_place() {
        let mut gate = Gate::new(LIMITS);
        let numbers: Vec<_> = [1, 1, 1, 2].map(|n| log_in(&mut gate, n).0).into();
        for number in &numbers[..2] {
            assert_eq!(gate.begin(*number), Ok(None));
        }
        assert_eq!(gate.begin(numbers[2]), Ok(Some(numbers[0])), "of its own");
        gate.leave(numbers[0]);
        assert_eq!(gate.begin(numbers[3]), Ok(None));
        let third = log_in(&mut gate, 3).0;
        assert_eq!(gate.begin(third), Ok(Some(numbers[1])), "of the source with most");
        gate.leave(numbers[1]);
        gate.end(numbers[2]);
        let fourth = log_in(&mut gate, 4).0;
        assert_eq!(gate.begin(fourth), Ok(None));
    }

    proptest! {
        /// Whoever knows the password and does whatever: the bounds hold, every login and request is taken, and one source
        /// closes nothing of a source that holds less than it.
        #[test]
        fn everybody_gets_in_and_the_bounds_hold(steps in proptest::collection::vec((0..7_u32, 0..4), 0..200)) {
            let mut gate = Gate::new(LIMITS);
            for (n, what) in steps {
                let here: Vec<Number> = gate.places.iter().map(|place| place.number).collect();
                let chosen = here.get(n as usize % here.len().max(1)).copied();
                let held = |gate: &Gate, of: IpAddr, busy: bool| {
                    gate.places.iter().filter(|place| place.source == of && (place.busy || !busy)).count()
                };
                let before = gate.places.clone();
                let (closed, newcomer) = match (what, chosen) {
                    (1, Some(number)) => (gate.begin(number).unwrap(), number),
                    (2, Some(number)) => { gate.end(number); continue; }
                    (3, Some(number)) => { gate.leave(number); continue; }
                    _ => {
                        let Entered { number, .. } =
                            gate.enter(Guest { source: source(n), known: n == 0, failures: 0 });
                        (gate.log_in(number, n == 0).unwrap(), number)
                    }
                };
                let own = gate.places.iter().find(|place| place.number == newcomer).unwrap().source;
                if let Some(closed) = closed {
                    prop_assert_ne!(closed, newcomer);
                    let gone = before.iter().find(|place| place.number == closed).unwrap().source;
                    prop_assert!(held(&gate, gone, what == 1) >= held(&gate, own, what == 1) || gone == own);
                    gate.leave(closed);
                }
                let strangers = || gate.places.iter().filter(|place| !place.reserved);
                prop_assert!(strangers().count() <= LIMITS.logged_in);
                prop_assert!(strangers().filter(|place| place.busy).count() <= LIMITS.busy);
                for n in 0..7 {
                    prop_assert!(held(&gate, source(n), false) <= LIMITS.of_one);
                    prop_assert!(held(&gate, source(n), true) <= LIMITS.of_one_busy);
                }
            }
        }
    }
}
