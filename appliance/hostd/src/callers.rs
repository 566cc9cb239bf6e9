//! Who is connected to the socket, and how many may be.
//!
//! backupd talks to the network, so it may be compromised (design D14), and then it can open connections without end.
//! They are held apart in two ways: root's and backupd's are counted by themselves, so that the console always gets
//! in; and those that have sent no request yet are few and have little time. A new one takes the place of the one
//! that has waited longest: a client sends its request as soon as it is connected, so that one sends none.

use anyhow::{Context, Result, bail, ensure};
use hostd::MAX_FRAME;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

/// Connections of one user that have sent no request yet.
const WAITING_MAX: usize = 64;
/// Requests of one user that are carried out, or wait for another one's end.
const REQUESTS_MAX: usize = 128;
/// Time for a request to come.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// A request up to this length takes no place of [`LARGE_MAX`], in bytes.
const SMALL_BYTES: u64 = 64 * 1024;
/// Longer requests of one user that are in memory at a time.
const LARGE_MAX: usize = 8;

/// The connections of one user.
#[derive(Debug)]
pub struct Callers {
    state: Mutex<State>,
    large: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct State {
    /// Those without a request, the oldest first; the sender is dropped to close one.
    waiting: VecDeque<(u64, oneshot::Sender<()>)>,
    requests: usize,
    arrived: u64,
}

impl Default for Callers {
    fn default() -> Self {
        Self { state: Mutex::default(), large: Arc::new(Semaphore::new(LARGE_MAX)) }
    }
}

impl Callers {
    /// A connection has come; where there are too many without a request, the oldest of them is closed.
    pub fn arrive(self: &Arc<Self>) -> Caller {
        let (sender, closed) = oneshot::channel();
        let mut state = self.lock();
        if state.waiting.len() >= WAITING_MAX {
            state.waiting.pop_front();
        }
        state.arrived += 1;
        let number = state.arrived;
        state.waiting.push_back((number, sender));
        drop(state);
        Caller { callers: Arc::clone(self), number, closed, is_carried_out: false, _large: None }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection; it is counted until this is dropped.
#[derive(Debug)]
pub struct Caller {
    callers: Arc<Callers>,
    number: u64,
    closed: oneshot::Receiver<()>,
    is_carried_out: bool,
    _large: Option<OwnedSemaphorePermit>,
}

impl Caller {
    /// Reads the request, a line.
    ///
    /// # Errors
    /// It does not come in time, or newer connections have taken its place; it is too long; there are too many requests.
    pub async fn request(&mut self, from: impl AsyncBufRead + Unpin) -> Result<Vec<u8>> {
        let line = tokio::select! {
            line = tokio::time::timeout(REQUEST_TIMEOUT, read_line(from, &self.callers.large)) => {
                line.context("no request came in time")?
            }
            _ = &mut self.closed => bail!("newer connections have taken its place before it sent a request"),
        };
        let (line, large) = line?;
        self._large = large;
        let mut state = self.callers.lock();
        state.waiting.retain(|(number, _)| *number != self.number);
        ensure!(
            state.requests < REQUESTS_MAX,
            "{REQUESTS_MAX} requests are under way already; try again later"
        );
        state.requests += 1;
        self.is_carried_out = true;
        Ok(line)
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        let mut state = self.callers.lock();
        state.waiting.retain(|(number, _)| *number != self.number);
        if self.is_carried_out {
            state.requests -= 1;
        }
    }
}

async fn read_line(
    mut from: impl AsyncBufRead + Unpin,
    large: &Arc<Semaphore>,
) -> Result<(Vec<u8>, Option<OwnedSemaphorePermit>)> {
    let mut line = Vec::new();
    let mut place = None;
    (&mut from).take(SMALL_BYTES).read_until(b'\n', &mut line).await.context("cannot read the request")?;
    if line.len() as u64 == SMALL_BYTES && line.last() != Some(&b'\n') {
        place = Some(Arc::clone(large).acquire_owned().await.context("no place for a long request")?);
        let mut rest = (&mut from).take(MAX_FRAME - SMALL_BYTES);
        rest.read_until(b'\n', &mut line).await.context("cannot read the request")?;
    }
    ensure!(!line.is_empty(), "the connection was closed before a request came");
    ensure!(line.last() == Some(&b'\n'), "a request is one line of at most {MAX_FRAME} bytes");
    Ok((line, place))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::BufReader;

    fn callers() -> Arc<Callers> {
        Arc::new(Callers::default())
    }

    #[tokio::test]
    async fn a_request_is_one_line() {
        let long = [vec![b'x'; 200_000], b"\n".to_vec()].concat();
        let table: [(&[u8], Option<usize>); 5] =
            [(b"{}\n", Some(3)), (b"{}\nmore", Some(3)), (b"", None), (b"{}", None), (&long, Some(200_001))];
        for (text, expected) in table {
            let line = callers().arrive().request(text).await;
            assert_eq!(line.ok().map(|line| line.len()), expected);
        }
        let endless = tokio::io::repeat(b'x');
        let error = callers().arrive().request(BufReader::new(endless)).await.unwrap_err();
        assert!(error.to_string().contains("at most 1048576 bytes"), "{error}");
    }

    #[tokio::test]
    async fn a_connection_without_a_request_is_closed_in_time() {
        let (_open, read) = tokio::io::duplex(8);
        let began = std::time::Instant::now();
        let error = callers().arrive().request(BufReader::new(read)).await.unwrap_err();
        assert!(error.to_string().contains("in time") && began.elapsed() >= REQUEST_TIMEOUT, "{error}");
    }

    #[tokio::test]
    async fn a_new_connection_takes_the_place_of_the_one_that_waits_longest() {
        let callers = callers();
        let mut idle: Vec<Caller> = (0..1100).map(|_| callers.arrive()).collect();
        let (_open, read) = tokio::io::duplex(8);
        let error = idle[0].request(BufReader::new(read)).await.unwrap_err();
        assert!(error.to_string().contains("newer connections"), "{error}");
        assert_eq!(callers.lock().waiting.len(), WAITING_MAX);
        let mut asks = callers.arrive();
        assert_eq!(asks.request(&b"{}\n"[..]).await.unwrap(), b"{}\n");
        assert_eq!(callers.lock().waiting.len(), WAITING_MAX - 1);
        drop(idle);
        drop(asks);
        let state = callers.lock();
        assert_eq!((state.waiting.len(), state.requests), (0, 0));
    }

    #[tokio::test]
    async fn requests_are_counted_until_they_end() {
        let callers = callers();
        let mut under_way = Vec::new();
        for _ in 0..REQUESTS_MAX {
            let mut caller = callers.arrive();
            caller.request(&b"{}\n"[..]).await.unwrap();
            under_way.push(caller);
        }
        let error = callers.arrive().request(&b"{}\n"[..]).await.unwrap_err();
        assert!(error.to_string().contains("under way already"), "{error}");
        under_way.pop();
        callers.arrive().request(&b"{}\n"[..]).await.unwrap();
    }
}
