//! Places of connections before their login, apart from those of sessions.
//!
//! A newcomer always gets one. Where there is none left, the oldest connection of whoever has most of them ends: so
//! nobody can keep others out by holding connections, only by opening new ones faster than the rightful client logs
//! in.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::task::AbortHandle;

/// The connections that wait for their login, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct Waiting(Mutex<Room>);

#[derive(Debug, Default)]
struct Room {
    places: Vec<Taken>,
    next: u64,
    displaced: u64,
}

#[derive(Debug)]
struct Taken {
    number: u64,
    network: IpAddr,
    task: Option<AbortHandle>,
}

/// A place; dropping it frees it.
#[derive(Debug)]
pub(crate) struct WaitingPlace {
    waiting: Arc<Waiting>,
    number: u64,
}

impl Waiting {
    /// Gives a place to a newcomer; whoever has to go for it is ended.
    pub(crate) fn admit(
        self: &Arc<Self>,
        network: IpAddr,
        most: usize,
        most_per_network: usize,
    ) -> WaitingPlace {
        let mut room = self.room();
        let networks: Vec<IpAddr> = room.places.iter().map(|place| place.network).collect();
        if let Some(index) = displaced(&networks, network, most, most_per_network) {
            let gone = room.places.remove(index);
            room.displaced += 1;
            if let Some(task) = gone.task {
                task.abort();
            }
        }
        let number = room.next;
        room.next += 1;
        room.places.push(Taken { number, network, task: None });
        WaitingPlace { waiting: Arc::clone(self), number }
    }

    /// Names what is to be ended should another need a place. Where it has gone already, so be it.
    pub(crate) fn held_by(&self, number: u64, task: AbortHandle) {
        if let Some(place) = self.room().places.iter_mut().find(|place| place.number == number) {
            place.task = Some(task);
        }
    }

    /// How many were ended for others since this was last asked.
    pub(crate) fn take_displaced(&self) -> u64 {
        std::mem::take(&mut self.room().displaced)
    }

    fn room(&self) -> MutexGuard<'_, Room> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl WaitingPlace {
    /// Names the place.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Gives the place back, having logged in; false: it was given to another.
    pub(crate) fn leave(self) -> bool {
        self.waiting.room().places.iter().any(|place| place.number == self.number)
    }
}

impl Drop for WaitingPlace {
    fn drop(&mut self) {
        self.waiting.room().places.retain(|place| place.number != self.number);
    }
}

/// Which place must become free for a newcomer: of the networks that hold places, the oldest first.
fn displaced(holders: &[IpAddr], newcomer: IpAddr, most: usize, most_per_network: usize) -> Option<usize> {
    let mut counts: HashMap<IpAddr, usize> = HashMap::new();
    for holder in holders {
        *counts.entry(*holder).or_default() += 1;
    }
    let count = |network: &IpAddr| counts.get(network).copied().unwrap_or(0);
    if count(&newcomer) >= most_per_network {
        return holders.iter().position(|holder| *holder == newcomer);
    }
    if holders.len() < most {
        return None;
    }
    let largest = counts.values().copied().max()?;
    holders.iter().position(|holder| count(holder) == largest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn address(number: u8) -> IpAddr {
        [192, 0, 2, number].into()
    }

    #[test]
    fn who_has_most_gives_a_place_up_and_nobody_who_has_fewer() {
        let places = |numbers: &[u8]| numbers.iter().map(|number| address(*number)).collect::<Vec<_>>();
        for (holders, newcomer, expected) in [
            (&[][..], 1, None),
            (&[1, 2, 3], 4, None),
            (&[7, 1, 1, 2, 2], 4, Some(1)),
            (&[7, 2, 1, 1, 2], 4, Some(1)),
            (&[1, 2, 3, 4, 5], 6, Some(0)),
            // Of its own, even where there is room.
            (&[7, 1, 1, 1], 1, Some(1)),
        ] {
            assert_eq!(displaced(&places(holders), address(newcomer), 5, 3), expected, "{holders:?}");
        }
    }

    proptest! {
        /// Whoever comes, the bounds hold, and a place is given up only by who has the most or by the newcomer.
        #[test]
        fn the_bounds_hold_whoever_comes(newcomers in proptest::collection::vec(0_u8..12, 0..200)) {
            let mut holders: Vec<IpAddr> = Vec::new();
            for newcomer in newcomers.into_iter().map(address) {
                if let Some(index) = displaced(&holders, newcomer, 16, 4) {
                    let gone = holders.remove(index);
                    let count = |of: IpAddr| holders.iter().filter(|holder| **holder == of).count();
                    prop_assert!(gone == newcomer || holders.iter().all(|other| count(*other) <= count(gone) + 1));
                }
                holders.push(newcomer);
                prop_assert!(holders.len() <= 16);
                prop_assert!(holders.iter().filter(|holder| **holder == newcomer).count() <= 4);
            }
        }
    }
}
