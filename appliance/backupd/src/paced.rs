//! An answer that is costly for others, put together at most so often however many ask.
//!
//! Who asks gets an answer that was begun after the question, so it is never stale; it may come a pause later. Those that
//! wait together share one.

use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// The answers.
#[derive(Debug)]
pub struct Paced<T> {
    pause: Duration,
    /// When the last one was begun, and what it is; `None`: nothing came of it.
    last: Mutex<Option<(Instant, Option<T>)>>,
}

/// What somebody gets whose turn it is.
#[derive(Debug, PartialEq, Eq)]
enum Turn {
    /// The last answer, which is newer than the question.
    Shared,
    /// Another one, which is begun now.
    Now,
    /// Another one, which is begun then.
    At(Instant),
}

/// `last` is when the last answer was begun and whether anything came of it.
fn turn(last: Option<(Instant, bool)>, asked: Instant, pause: Duration) -> Turn {
    match last {
        None => Turn::Now,
        Some((begun, true)) if begun >= asked => Turn::Shared,
        Some((begun, _)) => Turn::At(begun + pause),
    }
}

impl<T: Clone> Paced<T> {
    /// One each `pause` at most.
    pub fn new(pause: Duration) -> Self {
        Self { pause, last: Mutex::new(None) }
    }

    /// Gives an answer, by `make` where there is none that is new enough.
    ///
    /// # Errors
    /// As `make`. Another one may still succeed.
    pub async fn get<E>(&self, make: impl AsyncFnOnce() -> Result<T, E>) -> Result<T, E> {
        let asked = Instant::now();
        let mut last = self.last.lock().await;
        let known = last.as_ref().map(|(begun, answer)| (*begun, answer.is_some()));
        match (turn(known, asked, self.pause), &*last) {
            (Turn::Shared, Some((_, Some(answer)))) => return Ok(answer.clone()),
            (Turn::At(then), _) => tokio::time::sleep_until(then).await,
            (Turn::Shared | Turn::Now, _) => {}
        }
        let begun = Instant::now();
        // Before it is made: whoever hangs up meanwhile has used the turn all the same.
        *last = Some((begun, None));
        let answer = make().await?;
        *last = Some((begun, Some(answer.clone())));
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn an_answer_is_shared_when_it_is_newer_than_the_question_and_else_there_is_a_pause() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let at = |seconds| start + second * seconds;
        // the last one: when it was begun, whether it came; the question → whose turn
        let table = [
            (None, 5, Turn::Now),
            (Some((5, true)), 5, Turn::Shared),
            (Some((6, true)), 5, Turn::Shared),
            (Some((4, true)), 5, Turn::At(at(7))),
            (Some((6, false)), 5, Turn::At(at(9))),
            (Some((0, true)), 5, Turn::At(at(3))),
        ];
        for (last, asked, expected) in table {
            let last = last.map(|(begun, came)| (at(begun), came));
            assert_eq!(turn(last, at(asked), second * 3), expected, "{last:?} {asked}");
        }
    }

    #[tokio::test]
    async fn many_who_ask_share_an_answer_that_is_newer_than_their_questions() {
        let (paced, made) = (Arc::new(Paced::new(Duration::ZERO)), Arc::new(AtomicU32::new(0)));
        let (asked, open) = (Arc::new(AtomicU32::new(0)), Arc::new(tokio::sync::Notify::new()));
        let mut asking = tokio::task::JoinSet::new();
        let mut ask = |number: u32| {
            let (paced, made) = (Arc::clone(&paced), Arc::clone(&made));
            let (asked, open) = (Arc::clone(&asked), Arc::clone(&open));
            asking.spawn(async move {
                let make = async || {
                    let answer = made.fetch_add(1, Ordering::Relaxed) + 1;
                    if number == 0 {
                        open.notified().await;
                    }
                    Ok::<_, ()>(answer)
                };
                // Nothing else runs between this and the question.
                asked.fetch_add(1, Ordering::Relaxed);
                paced.get(make).await.unwrap()
            });
        };
        (0..=20).for_each(&mut ask);
        // The first answer was begun before the others asked, and is under way until all have.
        while asked.load(Ordering::Relaxed) <= 20 {
            tokio::task::yield_now().await;
        }
        open.notify_one();
        let mut answers = asking.join_all().await;
        answers.sort_unstable();
        assert_eq!(made.load(Ordering::Relaxed), 2);
        assert_eq!((answers[0], &answers[1..]), (1, &[2; 20][..]));
    }

    #[tokio::test]
    async fn a_failure_is_nobody_elses_answer() {
        let paced = Paced::new(Duration::ZERO);
        assert_eq!(paced.get(async || Err::<u32, _>("no")).await, Err("no"));
        assert_eq!(paced.get(async || Ok::<_, &str>(7)).await, Ok(7));
    }
}
