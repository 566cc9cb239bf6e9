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
        if let Some((begun, answer)) = &*last {
            if let Some(answer) = answer.as_ref().filter(|_| *begun >= asked) {
                return Ok(answer.clone());
            }
            tokio::time::sleep_until(*begun + self.pause).await;
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

    const PAUSE: Duration = Duration::from_millis(200);

    #[tokio::test]
    async fn many_who_ask_share_answers_that_are_newer_than_their_questions() {
        let (paced, made) = (Arc::new(Paced::new(PAUSE)), Arc::new(AtomicU32::new(0)));
        let start = Instant::now();
        let ask = |paced: Arc<Paced<u32>>, made: Arc<AtomicU32>| async move {
            let before = made.load(Ordering::Relaxed);
            let answer =
                paced.get(async || Ok::<_, ()>(made.fetch_add(1, Ordering::Relaxed) + 1)).await.unwrap();
            assert!(answer > before, "{answer} is older than the question");
        };
        let mut asking = tokio::task::JoinSet::new();
        for _ in 0..20 {
            let (paced, made) = (Arc::clone(&paced), Arc::clone(&made));
            asking.spawn(async move {
                for _ in 0..3 {
                    ask(Arc::clone(&paced), Arc::clone(&made)).await;
                }
            });
        }
        while let Some(asked) = asking.join_next().await {
            asked.unwrap();
        }
        let most = start.elapsed().as_millis() / PAUSE.as_millis() + 1;
        assert!(u128::from(made.load(Ordering::Relaxed)) <= most, "{made:?} of {most}");
        assert!(start.elapsed() < 10 * PAUSE, "nobody waits for all the others: {:?}", start.elapsed());
    }

    #[tokio::test]
    async fn a_failure_is_nobody_elses_answer() {
        let paced = Paced::new(Duration::ZERO);
        assert_eq!(paced.get(async || Err::<u32, _>("no")).await, Err("no"));
        assert_eq!(paced.get(async || Ok::<_, &str>(7)).await, Ok(7));
    }
}
