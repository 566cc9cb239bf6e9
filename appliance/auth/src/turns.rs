//! Whose password is hashed next.
//!
//! Hashing is costly and takes memory, so it is done one at a time; what waits is bounded. Who guesses from many
//! addresses fills the queue, so who has failed comes after all who have not, and a client that comes from an unseen
//! address is before all guessers that have used up their first guess. Among those that are equal in this, turns go
//! round ([`Rule`]): to the one whose neighbours have failed least, to the one that waits longest, to the newest. The
//! first helps against a crowd from one network, the second bounds the wait while guessers wait for their answers, the
//! third lets somebody in while they come faster than can be hashed. None alone decides, so none can be turned against
//! a client, say by guesses from its own network. Whoever hangs up gives the place in the queue back, so guessers have to
//! hold a connection for each password that waits.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::throttle::{Standing, group};

/// Passwords that may wait.
const MOST_WAITING: usize = 48;
/// Passwords of one source that may wait.
const MOST_OF_ONE: usize = 8;
/// The longest that one waits.
const LONGEST: Duration = Duration::from_secs(10);

/// Who is served among those that have failed equally often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// The one whose networks have failed least, and among those the one that waits longest.
    Neighbours,
    Oldest,
    Newest,
}

const RULES: [Rule; 3] = [Rule::Neighbours, Rule::Oldest, Rule::Newest];

/// The queue.
#[derive(Debug, Default)]
pub struct Turns(Mutex<Queue>);

/// A turn; when it is dropped, it is handed over to the next.
#[derive(Debug)]
pub struct Turn<'a>(&'a Turns);

impl Turns {
    /// Waits for the turn of `source`, as long as it is `wanted`. `None`: there is too much to do, it shall come again.
    pub fn wait(&self, source: IpAddr, standing: Standing, wanted: &Wanted) -> Option<Turn<'_>> {
        let deadline = Instant::now() + LONGEST;
        let mut queue = self.lock();
        let (number, told) = queue.enter(source, standing, wanted)?;
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

/// Whether somebody still waits for the answer. Clones are one.
#[derive(Debug, Clone)]
pub struct Wanted(Arc<AtomicBool>);

impl Default for Wanted {
    fn default() -> Self {
        Self(Arc::new(AtomicBool::new(true)))
    }
}

impl Wanted {
    /// Nobody waits any more.
    fn give_up(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    fn holds(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Somebody who asks; dropped when the connection ends, which gives up what is asked.
#[derive(Debug, Default)]
pub struct Asking(Wanted);

impl Asking {
    /// What is asked.
    pub fn wanted(&self) -> Wanted {
        self.0.clone()
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.give_up();
    }
}

/// Who waits, and who is served.
#[derive(Debug, Default)]
struct Queue {
    serving: Option<u64>,
    turns: usize,
    next: u64,
    /// The longest waiting first.
    tickets: Vec<Ticket>,
}

#[derive(Debug)]
struct Ticket {
    number: u64,
    source: IpAddr,
    standing: Standing,
    wanted: Wanted,
    /// Wakes the one that waits with this ticket.
    told: Arc<Condvar>,
}

impl Queue {
    /// Lets `source` wait; the one that is worth least makes room, which may be this one.
    fn enter(&mut self, source: IpAddr, standing: Standing, wanted: &Wanted) -> Option<(u64, Arc<Condvar>)> {
        let is_full = |queue: &Self| {
            let same = queue.tickets.iter().filter(|ticket| group(ticket.source) == group(source)).count();
            (same >= MOST_OF_ONE, queue.tickets.len() >= MOST_WAITING)
        };
        if is_full(self) != (false, false) {
            self.forget_unwanted();
        }
        if is_full(self).0 {
            return None;
        }
        let (number, told) = (self.next, Arc::<Condvar>::default());
        self.next += 1;
        let (wanted, told_to) = (wanted.clone(), Arc::clone(&told));
        self.tickets.push(Ticket { number, source, standing, wanted, told: told_to });
        if self.tickets.len() > MOST_WAITING {
            let worst = self.tickets.iter().map(Ticket::own).max()?;
            let worst: Vec<_> = self.equals(worst).map(|ticket| ticket.number).collect();
            // The first and the last among them would be served soon.
            let worst = *worst.get(worst.len() / 2)?;
            self.leave(worst);
            if worst == number {
                return None;
            }
        }
        Some((number, told))
    }

    /// Serves the next one, unless somebody is served.
    fn serve_next(&mut self) {
        self.forget_unwanted();
        if self.serving.is_none()
            && let Some(next) = self.choose()
        {
            self.serving = Some(next);
            self.turns = self.turns.wrapping_add(1);
            self.leave(next);
        }
    }

    /// Whoever has hung up is not hashed.
    fn forget_unwanted(&mut self) {
        let unwanted = self.tickets.iter().filter(|ticket| !ticket.wanted.holds());
        unwanted.for_each(|ticket| ticket.told.notify_all());
        self.tickets.retain(|ticket| ticket.wanted.holds());
    }

    fn choose(&self) -> Option<u64> {
        let mut best = self.equals(self.tickets.iter().map(Ticket::own).min()?);
        let next = match RULES[self.turns % RULES.len()] {
            Rule::Neighbours => best.min_by_key(|ticket| (ticket.standing, ticket.number)),
            Rule::Oldest => best.next(),
            Rule::Newest => best.last(),
        };
        next.map(|ticket| ticket.number)
    }

    /// Those that have failed so often, the longest waiting first.
    fn equals(&self, own: (bool, u32)) -> impl Iterator<Item = &Ticket> {
        self.tickets.iter().filter(move |ticket| ticket.own() == own)
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
    /// What counts before everything else.
    fn own(&self) -> (bool, u32) {
        let Standing { unknown, failures: [own, ..] } = self.standing;
        (unknown, own)
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
    fn who_has_not_failed_comes_first_and_among_equals_turns_go_round() {
        let mut queue = Queue::default();
        for (n, standing) in [
            standing(true, [0, 3, 3]),
            standing(true, [2, 2, 2]),
            standing(true, [0, 3, 3]),
            standing(true, [0, 0, 9]),
            standing(true, [0, 0, 0]),
            standing(true, [0, 3, 3]),
            standing(false, [1, 1, 1]),
        ]
        .into_iter()
        .enumerate()
        {
            queue.enter(source(n as u32), standing, &Wanted::default()).unwrap();
        }
        // Known; oldest, newest, neighbours; oldest, newest; failed.
        assert_eq!(serve(&mut queue), [6, 0, 5, 4, 2, 3, 1]);
    }

    #[test]
    fn one_at_a_time_and_who_has_failed_waits_behind_who_has_not() {
        let turns = Turns::default();
        let turn = turns.wait(source(0), Standing::default(), &Wanted::default()).unwrap();
        for n in 1..3 {
            turns.lock().enter(source(n), standing(true, [0, 0, 0]), &Wanted::default()).unwrap();
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
        let turn = turns.wait(source(0), Standing::default(), &Wanted::default()).unwrap();
        std::thread::scope(|scope| {
            let waits = scope
                .spawn(|| turns.wait(source(1), standing(true, [9, 9, 9]), &Wanted::default()).is_some());
            while turns.lock().tickets.is_empty() {
                std::thread::yield_now();
            }
            for n in 2..=MOST_WAITING as u32 + 1 {
                turns.lock().enter(source(n), Standing::default(), &Wanted::default()).unwrap();
            }
            assert!(!waits.join().unwrap());
            turns.lock().tickets.clear();
            let waits =
                scope.spawn(|| turns.wait(source(1), Standing::default(), &Wanted::default()).is_some());
            while turns.lock().tickets.is_empty() {
                std::thread::yield_now();
            }
            drop(turn);
            assert!(waits.join().unwrap());
        });
    }

    /// Guessers who hang up at once fill no queue: a client is next, however many there were.
    #[test]
    fn who_has_hung_up_is_not_hashed() {
        let mut queue = Queue { serving: Some(u64::MAX), ..Queue::default() };
        for n in 0..1000 {
            let wanted = Wanted::default();
            queue.enter(source(n), Standing::default(), &wanted).unwrap();
            wanted.give_up();
        }
        let (rightful, _) =
            queue.enter(source(u32::MAX), standing(true, [3, 9, 9]), &Wanted::default()).unwrap();
        queue.serving = None;
        assert_eq!(serve(&mut queue), [rightful]);
    }

    #[test]
    fn one_source_fills_no_queue() {
        let mut queue = Queue::default();
        let mut enter = |n| queue.enter(source(n), Standing::default(), &Wanted::default()).is_some();
        assert_eq!((0..100).filter(|_| enter(1)).count(), MOST_OF_ONE);
        assert!(enter(2));
    }

    /// A crowd with an unlimited supply of unseen addresses, `at_once` of which wait at any time and `more` come in each
    /// turn; how many turns a client waits that comes after `before` turns.
    fn turns_until_served(at_once: usize, more: usize, before: usize, own: [u32; 3]) -> Option<usize> {
        let (mut queue, mut address, mut rightful) = (Queue::default(), 0, None);
        for turn in 0..before + 1000 {
            while queue.tickets.len() < at_once {
                address += 1;
                queue.enter(source(address), Standing::default(), &Wanted::default());
            }
            for _ in 0..more {
                address += 1;
                queue.enter(source(address), Standing::default(), &Wanted::default());
            }
            if turn == before {
                let entered = queue.enter(source(u32::MAX), standing(false, own), &Wanted::default());
                rightful = entered.map(|(number, _)| number);
            }
            queue.serve_next();
            if rightful.is_some() && queue.serving == rightful {
                return Some(turn - before);
            }
            queue.serving = None;
        }
        None
    }

    #[test]
    fn a_crowd_of_unseen_addresses_delays_a_client_by_a_bounded_number_of_turns() {
        for before in 0..300 {
            let turns = turns_until_served(MOST_WAITING - 1, 0, before, [0, 0, 0]);
            assert!(turns.is_some_and(|turns| turns <= MOST_WAITING * 3 / 2), "{turns:?} after {before}");
            let turns = turns_until_served(MOST_WAITING - 1, 0, before, [0, 99, 99]);
            assert!(turns.is_some_and(|turns| turns <= MOST_WAITING * 3), "{turns:?} after {before}");
        }
        // More than can be hashed: some get in at once, the others have to come again.
        let served = |before: &usize| turns_until_served(MOST_WAITING, 10, *before, [0, 99, 99]) == Some(0);
        assert_eq!((0..300).filter(served).count(), 100);
    }

    proptest! {
        /// However many guess that failed before: who has not is served next.
        #[test]
        fn a_client_without_failures_is_next(guesses in proptest::collection::vec((0..1000_u32, 1..5_u32), 0..500)) {
            let mut queue = Queue::default();
            for (n, failures) in guesses {
                queue.enter(source(n), standing(true, [failures, failures, failures]), &Wanted::default());
                prop_assert!(queue.tickets.len() <= MOST_WAITING);
            }
            let own = standing(true, [0, 9, 9]);
            let (rightful, _) = queue.enter(source(u32::MAX), own, &Wanted::default()).unwrap();
            let served = serve(&mut queue);
            prop_assert_eq!(served.first(), Some(&rightful));
        }
    }
}
