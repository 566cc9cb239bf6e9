//! Places of sessions that have logged in: who gets one, and whose session ends for it. Pure.
//!
//! Whoever knows the password may have stolen it. So a login is never refused because others hold all places: it takes
//! the place of another session, which loses little by that, as downloads resume (REST).
//!
//! 1. A source (an IPv4 address, an IPv6 /64) with too many sessions loses one of its own.
//! 2. Else one of the source that holds most ends. So one source can end no restore of another one that holds a single
//!    place, however often it logs in.
//! 3. Among these the one that has done nothing for longest goes, and of those that work the oldest.
//!
//! The trade-off: many addresses with the password can end a restore again and again, and each time it goes on where it
//! was. Another password, set at the console, ends them all.

use std::cmp::Reverse;
use std::net::IpAddr;
use std::time::Duration;

/// A session that has done something within this time works: whose last piece of a file went out first decides nothing.
const AT_WORK: Duration = Duration::from_secs(10);

/// A session's number; later ones are greater.
pub(crate) type Number = u64;

#[derive(Debug, Clone, Copy)]
struct Taken {
    number: Number,
    source: IpAddr,
}

/// The sessions that have a place, the oldest first.
#[derive(Debug)]
pub(crate) struct Places {
    /// In all.
    most: usize,
    /// Of one source.
    most_of_one: usize,
    next: Number,
    taken: Vec<Taken>,
}

/// What came of a login.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Admitted {
    /// The new session.
    pub(crate) number: Number,
    /// The one that ends for it.
    pub(crate) ends: Option<Number>,
}

impl Places {
    /// All places are free.
    pub(crate) fn new(most: usize, most_of_one: usize) -> Self {
        Self { most, most_of_one, next: 0, taken: Vec::new() }
    }

    /// Gives a session of `source` a place. `idle` tells for how long a session has done nothing.
    pub(crate) fn admit(&mut self, source: IpAddr, idle: impl Fn(Number) -> Duration) -> Admitted {
        let ends = self.ends_for(source, idle);
        self.taken.retain(|taken| Some(taken.number) != ends);
        let number = self.next;
        self.next += 1;
        self.taken.push(Taken { number, source });
        Admitted { number, ends }
    }

    /// A session has ended.
    pub(crate) fn leave(&mut self, number: Number) {
        self.taken.retain(|taken| taken.number != number);
    }

    fn ends_for(&self, newcomer: IpAddr, idle: impl Fn(Number) -> Duration) -> Option<Number> {
        let of = |source: IpAddr| self.taken.iter().filter(|taken| taken.source == source).count();
        let worth = |taken: &&Taken| {
            let idle = Some(idle(taken.number)).filter(|idle| *idle > AT_WORK);
            // The newcomer counts.
            let held = of(taken.source) + usize::from(taken.source == newcomer);
            (held, idle, Reverse(taken.number))
        };
        let own = of(newcomer) >= self.most_of_one;
        if !own && self.taken.len() < self.most {
            return None;
        }
        let candidates = self.taken.iter().filter(|taken| !own || taken.source == newcomer);
        candidates.max_by_key(worth).map(|taken| taken.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn source(number: u8) -> IpAddr {
        [192, 0, 2, number].into()
    }

    #[test]
    fn a_login_too_many_ends_another_session() {
        // Sources and seconds without work of four sessions; who logs in; whose session ends.
        for (sessions, newcomer, expected) in [
            (&[][..], 1, None),
            (&[(1, 0), (2, 0), (3, 0)], 4, None),
            // Of the source that holds most, whatever it does.
            (&[(1, 500), (2, 0), (2, 0), (3, 500)], 4, Some(1)),
            (&[(1, 0), (2, 0), (2, 99), (3, 500)], 4, Some(2)),
            // The newcomer's own, when it would hold most: a restore of another one goes on.
            (&[(1, 0), (2, 0), (3, 0), (4, 0)], 4, Some(3)),
            (&[(1, 0), (1, 0), (2, 0), (2, 0)], 2, Some(2)),
            // All hold one: the one without work for longest, and of those at work the oldest.
            (&[(1, 0), (2, 50), (3, 90), (5, 20)], 4, Some(2)),
            (&[(1, 9), (2, 0), (3, 3), (5, 7)], 4, Some(0)),
            // Too many of its own, where there is room.
            (&[(1, 0), (2, 0), (2, 0), (2, 0)], 2, Some(1)),
            (&[(2, 0), (2, 0), (2, 60)], 2, Some(2)),
        ] {
            let mut places = Places::new(4, 3);
            for (of, _) in sessions {
                assert_eq!(places.admit(source(*of), |_| Duration::ZERO).ends, None, "{sessions:?}");
            }
            let idle = |number: Number| Duration::from_secs(sessions[number as usize].1);
            let admitted = places.admit(source(newcomer), idle);
            assert_eq!(admitted, Admitted { number: sessions.len() as u64, ends: expected }, "{sessions:?}");
        }
    }

    proptest! {
        /// Whoever logs in and leaves: the bounds hold, and a source that holds one place alone loses it to another one only
        /// where nobody holds more.
        #[test]
        fn the_bounds_hold_and_one_source_ends_no_single_session_of_another(
            steps in proptest::collection::vec((0_u8..10, any::<bool>(), 0_u64..100), 0..200),
        ) {
            let mut places = Places::new(8, 4);
            for (of, leaves, idle) in steps {
                let before = places.taken.clone();
                if leaves {
                    before.get(usize::from(of)).into_iter().for_each(|taken| places.leave(taken.number));
                    continue;
                }
                let idle = |number| Duration::from_secs(number * idle % 40);
                let Admitted { number, ends } = places.admit(source(of), idle);
                prop_assert!(places.taken.len() <= 8);
                let held = |of: IpAddr| places.taken.iter().filter(|taken| taken.source == of).count();
                prop_assert!((0..10).all(|of| held(source(of)) <= 4));
                prop_assert_eq!(places.taken.last().map(|taken| taken.number), Some(number));
                if let Some(gone) = before.iter().find(|taken| Some(taken.number) == ends) {
                    let held_most = held(gone.source) + 1;
                    prop_assert!((0..10).all(|of| held(source(of)) <= held_most));
                }
            }
        }

        /// One source logs in as often as it likes: the session of another one stays.
        #[test]
        fn one_source_does_not_starve_another(logins in 1..100_usize, idle in 0_u64..1000) {
            let mut places = Places::new(4, 8);
            let restore = places.admit(source(1), |_| Duration::ZERO).number;
            for _ in 0..logins {
                let idle = |number| if number == restore { Duration::from_secs(idle) } else { Duration::ZERO };
                prop_assert_ne!(places.admit(source(2), idle).ends, Some(restore));
            }
        }
    }
}
