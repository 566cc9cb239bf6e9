//! Work on all cores whose results are taken in the order of the items.
//!
//! Each worker has a queue of its own and gets every n-th item: the order needs no sorting, and no more results exist than the
//! queues hold. The price: a slow item holds the others up for a moment.

use std::sync::mpsc::sync_channel;
use std::thread;

use crate::Error;

/// Items that each worker has in its queue at most.
const QUEUED: usize = 2;

/// Number of workers for this machine.
pub fn workers() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// Does `work` with each item on `workers` threads, and hands the results to `take` in order.
///
/// # Errors
/// The first that `work` or `take` has.
pub fn ordered<T: Send, R: Send>(
    items: impl Iterator<Item = T>,
    workers: usize,
    work: impl Fn(T) -> Result<R, Error> + Sync,
    mut take: impl FnMut(R) -> Result<(), Error>,
) -> Result<(), Error> {
    thread::scope(|scope| {
        let queues: Vec<_> = (0..workers.max(1))
            .map(|_| {
                let (give, given) = sync_channel::<T>(QUEUED);
                let (done, results) = sync_channel(QUEUED);
                let work = &work;
                scope.spawn(move || {
                    // Ends when nothing more is given, or nobody takes results any more.
                    given.iter().map(work).try_for_each(|result| done.send(result))
                });
                (give, results)
            })
            .collect();
        let mut receive = |number: usize| match queues[number % queues.len()].1.recv() {
            Ok(result) => take(result?),
            Err(_) => Err(Error::Worker),
        };
        let (mut given, mut taken) = (0, 0);
        for item in items {
            if given - taken == queues.len() * QUEUED {
                receive(taken)?;
                taken += 1;
            }
            queues[given % queues.len()].0.send(item).map_err(|_| Error::Worker)?;
            given += 1;
        }
        (taken..given).try_for_each(receive)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_order_on_any_number_of_threads() {
        for workers in [0, 1, 2, 7] {
            for count in [0, 1, 3, 1000] {
                let mut taken = Vec::new();
                let work = |item: u64| {
                    if item.is_multiple_of(3) {
                        thread::yield_now();
                    }
                    Ok(item * 2)
                };
                ordered(0..count, workers, work, |result| {
                    taken.push(result);
                    Ok(())
                })
                .unwrap();
                assert_eq!(taken, (0..count).map(|item| item * 2).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn the_first_error_ends_it() {
        let work = |item: u32| if item == 50 { Err(Error::Worker) } else { Ok(item) };
        let mut most = 0;
        let ended = ordered(0.., 3, work, |result| {
            most = result;
            Ok(())
        });
        assert!(ended.is_err() && most == 49);
        assert!(ordered(0.., 3, Ok, |result| if result == 9 { Err(Error::Worker) } else { Ok(()) }).is_err());
    }
}
