//! Whose password is hashed next.
//!
//! Hashing is costly and takes memory, so it is done one at a time; what waits is bounded. Who guesses from many
//! addresses fills the queue, so it is not served in the order of arrival: first comes who has the best [`Standing`],
//! and among equals the one that came last. A rightful client that comes from an unseen address is before all who have
//! failed already, and before those that wait with their first guess.

use std::net::IpAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::throttle::{Standing, group};

/// Passwords that may wait.
const MOST_WAITING: usize = 64;
/// Passwords of one source that may wait.
const MOST_OF_ONE: usize = 8;
/// The longest that one waits.
const LONGEST: Duration = Duration::from_secs(8);

/// The queue.
#[derive(Debug, Default)]
pub struct Turns(Mutex<Queue>);

/// A turn; when it is dropped, it is handed over to the next.
#[derive(Debug)]
pub struct Turn<'a>(&'a Turns);

impl Turns {
    /// Waits for the turn of `source`. `None`: there is too much to do, it shall come again.
    pub fn wait(&self, source: IpAddr, standing: Standing) -> Option<Turn<'_>> {
        let deadline = Instant::now() + LONGEST;
        let mut queue = self.lock();
        let (number, told) = queue.enter(source, standing)?;
        queue.serve_next();
        loop {
            if queue.serving == Some(number) {
                return Some(Turn(self));
            }
            if !queue.tickets.iter().any(|ticket| ticket.number == number) {
                return None; // pushed out
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                queue.leave(number);
                return None;
            }
            queue = told.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Weighs all that wait anew, after something was learnt about their sources.
    pub fn weigh_anew(&self, mut standing: impl FnMut(IpAddr) -> Standing) {
        for ticket in &mut self.lock().tickets {
            ticket.standing = standing(ticket.source);
        }
    }

    /// Nothing that was changed half is left by a thread that panicked.
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut queue = self.0.lock();
        queue.serving = None;
        // Now, and not when the next one wakes up: meanwhile others come in, who would be newer.
        queue.serve_next();
    }
}

/// Who waits, and who is served.
#[derive(Debug, Default)]
struct Queue {
    serving: Option<u64>,
    next: u64,
    tickets: Vec<Ticket>,
}

#[derive(Debug)]
struct Ticket {
    number: u64,
    source: IpAddr,
    standing: Standing,
    /// Wakes the one that waits with this ticket.
    told: Arc<Condvar>,
}

impl Queue {
    /// Lets `source` wait; the one that is worth least makes room, which may be this one.
    fn enter(&mut self, source: IpAddr, standing: Standing) -> Option<(u64, Arc<Condvar>)> {
        let same = |ticket: &&Ticket| group(ticket.source) == group(source);
        if self.tickets.iter().filter(same).count() >= MOST_OF_ONE {
            return None;
        }
        let (number, told) = (self.next, Arc::<Condvar>::default());
        self.next += 1;
        self.tickets.push(Ticket { number, source, standing, told: Arc::clone(&told) });
        if self.tickets.len() > MOST_WAITING {
            let last = self.tickets.iter().max_by_key(|ticket| ticket.order()).map(|ticket| ticket.number)?;
            self.leave(last);
            if last == number {
                return None;
            }
        }
        Some((number, told))
    }

    /// Serves the first one, unless somebody is served.
    fn serve_next(&mut self) {
        if self.serving.is_none()
            && let Some(number) =
                self.tickets.iter().min_by_key(|ticket| ticket.order()).map(|ticket| ticket.number)
        {
            self.serving = Some(number);
            self.leave(number);
        }
    }

    fn leave(&mut self, number: u64) {
        self.tickets
            .iter()
            .filter(|ticket| ticket.number == number)
            .for_each(|ticket| ticket.told.notify_all());
        self.tickets.retain(|ticket| ticket.number != number);
    }
}

impl Ticket {
    fn order(&self) -> (Standing, std::cmp::Reverse<u64>) {
        (self.standing, std::cmp::Reverse(self.number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    fn source(n: u32) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from_bits(n))
    }

    fn standing(unknown: bool, failures: [u32; 3]) -> Standing {
        Standing { unknown, failures }
    }

    /// Serves all that wait; gives them in the order in which they were served.
    fn serve(queue: &mut Queue) -> Vec<u64> {
        let mut served = Vec::new();
        queue.serve_next();
        while let Some(number) = queue.serving.take() {
            served.push(number);
            queue.serve_next();
        }
        served
    }

    #[test]
    fn the_best_standing_comes_first_and_among_equals_the_newest() {
        let mut queue = Queue::default();
        for (n, standing) in [
            standing(true, [0, 0, 0]),
            standing(true, [0, 3, 3]),
            standing(true, [2, 2, 2]),
            standing(false, [1, 1, 1]),
            standing(true, [0, 0, 0]),
            standing(true, [0, 0, 9]),
        ]
        .into_iter()
        .enumerate()
        {
            queue.enter(source(n as u32), standing).unwrap();
        }
        assert_eq!(serve(&mut queue), [3, 4, 0, 5, 1, 2]);
    }

    #[test]
    fn one_at_a_time_and_who_has_failed_waits_behind_who_has_not() {
        let turns = Turns::default();
        let turn = turns.wait(source(0), Standing::default()).unwrap();
        for n in 1..3 {
            turns.lock().enter(source(n), standing(true, [0, 0, 0])).unwrap();
            turns.lock().serve_next();
        }
        assert_eq!(turns.lock().serving, Some(0));
        turns.weigh_anew(|from| standing(true, [u32::from(from == source(2)), 0, 0]));
        drop(turn);
        assert_eq!(turns.lock().serving, Some(1));
    }

    #[test]
    fn a_turn_is_handed_over_and_who_is_pushed_out_is_told() {
        let turns = Turns::default();
        let turn = turns.wait(source(0), Standing::default()).unwrap();
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| turns.wait(source(1), standing(true, [9, 9, 9])).is_some());
            while turns.lock().tickets.is_empty() {
                std::thread::yield_now();
            }
            for n in 2..=MOST_WAITING as u32 + 1 {
                turns.lock().enter(source(n), Standing::default()).unwrap();
            }
            assert!(!waits.join().unwrap());
            turns.lock().tickets.clear();
            let waits = scope.spawn(|| turns.wait(source(1), Standing::default()).is_some());
            while turns.lock().tickets.is_empty() {
                std::thread::yield_now();
            }
            drop(turn);
            assert!(waits.join().unwrap());
        });
    }

    #[test]
    fn one_source_fills_no_queue() {
        let mut queue = Queue::default();
        let entered = (0..100).filter(|_| queue.enter(source(1), Standing::default()).is_some()).count();
        assert_eq!(entered, MOST_OF_ONE);
        assert!(queue.enter(source(2), Standing::default()).is_some());
    }

    proptest! {
        /// However many guess with whatever standing: who has not failed and comes last is served next.
        #[test]
        fn a_rightful_client_is_next(guesses in proptest::collection::vec((0..1000_u32, any::<bool>(), 0..5_u32), 0..500)) {
            let mut queue = Queue::default();
            for (n, unknown, failures) in guesses {
                // A known source that failed is no rightful one.
                let standing = standing(unknown || failures == 0, [failures, failures, failures]);
                queue.enter(source(n), standing);
                prop_assert!(queue.tickets.len() <= MOST_WAITING);
            }
            for ticket in &mut queue.tickets {
                ticket.standing.unknown = true;
            }
            let rightful = queue.enter(source(u32::MAX), standing(true, [0, 0, 0])).unwrap().0;
            let served = serve(&mut queue);
            prop_assert_eq!(served.first(), Some(&rightful));
        }
    }
}
