//! One connection of the control API: what its client owes, and when waiting for it ends.
//!
//! The decision is a pure function of marks that the socket and the requests set ([`verdict`]); [`crate::serve`] looks
//! every second. It does not care what the connection is stuck in: a TLS handshake, half a header, half a body, or an
//! answer that nobody takes.

use crate::gate::{Gate, Gone};
use auth::PasswordVersion;
use auth::crowd::Number;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// How long a client may take.
#[derive(Debug, Clone, Copy)]
pub struct Deadlines {
    /// From connecting to a request with the right password, TLS handshake and its turn to be hashed included.
    pub login: Duration,
    /// From one answer to the next request's complete header.
    pub idle: Duration,
    /// From a header to its body.
    pub body: Duration,
    /// In which the client takes nothing of an answer.
    pub stall: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            login: Duration::from_secs(15),
            idle: Duration::from_secs(30),
            body: Duration::from_secs(30),
            stall: Duration::from_secs(30),
        }
    }
}

/// Wrong passwords that one connection may carry.
const MOST_REFUSALS: u32 = 3;

#[derive(Debug, Clone, Copy)]
struct Marks {
    connected: Instant,
    logged_in: bool,
    /// The password that was right then, where that could be told.
    password: Option<PasswordVersion>,
    refusals: u32,
    /// Requests that are not answered to the end.
    open: u32,
    /// When the last answer ended.
    answered: Instant,
    /// Since when the client takes nothing.
    blocked: Option<Instant>,
}

/// What the parts of a connection tell each other.
#[derive(Debug)]
pub struct Connection {
    /// Who is connected.
    pub from: SocketAddr,
    number: Number,
    /// It is the paired monitor's.
    reserved: bool,
    gate: Arc<Mutex<Gate>>,
    marks: Mutex<Marks>,
}

impl Connection {
    /// A connection that begins now, with its place; `reserved`: it is the paired monitor's.
    pub fn new(from: SocketAddr, number: Number, reserved: bool, gate: Arc<Mutex<Gate>>) -> Self {
        let now = Instant::now();
        let marks = Marks {
            connected: now,
            logged_in: false,
            password: None,
            refusals: 0,
            open: 0,
            answered: now,
            blocked: None,
        };
        Self { from, number, reserved, gate, marks: Mutex::new(marks) }
    }

    /// Its number at the gate.
    pub fn number(&self) -> Number {
        self.number
    }

    /// Whether it has carried the right password.
    pub fn is_logged_in(&self) -> bool {
        self.marks().logged_in
    }

    /// It carries the right password, which had this version; gives the connection that has to be closed for it.
    ///
    /// # Errors
    /// Its place was given to another.
    pub fn log_in(&self, password: Option<PasswordVersion>) -> Result<Option<Number>, Gone> {
        let closes = lock(&self.gate).log_in(self.number, self.reserved)?;
        let mut marks = self.marks();
        (marks.logged_in, marks.password) = (true, password);
        Ok(closes)
    }

    /// It carries a wrong password, or none; whether it has to end with the answer.
    pub fn refused(&self) -> bool {
        let mut marks = self.marks();
        marks.refusals += 1;
        !marks.logged_in && marks.refusals >= MOST_REFUSALS
    }

    /// A request that costs memory begins; gives the connection that has to be closed for it, too.
    ///
    /// # Errors
    /// Its place was given to another.
    pub fn begin(self: &Arc<Self>) -> Result<(Busy, Option<Number>), Gone> {
        let closes = lock(&self.gate).begin(self.number)?;
        Ok((Busy(Arc::clone(self)), closes))
    }

    /// A request begins.
    pub fn open(self: &Arc<Self>) -> Open {
        self.marks().open += 1;
        Open(Arc::clone(self))
    }

    /// Why the connection has to end now, where `password` is the version that counts.
    pub fn verdict(&self, deadlines: &Deadlines, password: Option<PasswordVersion>) -> Option<Why> {
        verdict(&self.marks(), Instant::now(), deadlines, password)
    }

    fn marks(&self) -> MutexGuard<'_, Marks> {
        lock(&self.marks)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        lock(&self.gate).leave(self.number);
    }
}

/// A request; dropped when it is answered.
#[derive(Debug)]
pub struct Open(Arc<Connection>);

impl Drop for Open {
    fn drop(&mut self) {
        let mut marks = self.0.marks();
        marks.open = marks.open.saturating_sub(1);
        marks.answered = Instant::now();
    }
}

/// A request's share of the memory; dropped when it is answered.
#[derive(Debug)]
pub struct Busy(Arc<Connection>);

impl Drop for Busy {
    fn drop(&mut self) {
        lock(&self.0.gate).end(self.0.number);
    }
}

/// Why a connection has to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// It has not carried the right password.
    NoLogin,
    /// It carries nothing.
    Idle,
    /// The client takes nothing of an answer.
    Stalled,
    /// Its place was needed for another.
    ForAnother,
    /// It logged in with a password that counts no more.
    OtherPassword,
}

impl std::fmt::Display for Why {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::NoLogin => "no right password in time",
            Self::Idle => "no request in time",
            Self::Stalled => "the client takes nothing of an answer",
            Self::ForAnother => "its place was needed for another",
            Self::OtherPassword => "the password was changed",
        })
    }
}

fn verdict(
    marks: &Marks,
    now: Instant,
    deadlines: &Deadlines,
    password: Option<PasswordVersion>,
) -> Option<Why> {
    let over = |since: Instant, limit| now.saturating_duration_since(since) > limit;
    // A file that cannot be looked at now is no other password.
    let other_password = marks.logged_in && password.is_some() && password != marks.password;
    let reasons = [
        (other_password, Why::OtherPassword),
        (!marks.logged_in && over(marks.connected, deadlines.login), Why::NoLogin),
        (marks.blocked.is_some_and(|since| over(since, deadlines.stall)), Why::Stalled),
        (marks.open == 0 && over(marks.answered, deadlines.idle), Why::Idle),
    ];
    reasons.into_iter().find_map(|(holds, why)| holds.then_some(why))
}

/// The socket, which tells its connection when the client takes nothing.
#[derive(Debug)]
pub struct Watched {
    stream: TcpStream,
    connection: Arc<Connection>,
}

impl Watched {
    /// The socket of `connection`.
    pub fn new(stream: TcpStream, connection: Arc<Connection>) -> Self {
        Self { stream, connection }
    }

    fn wrote<T>(&self, result: Poll<T>) -> Poll<T> {
        let mut marks = self.connection.marks();
        marks.blocked = match result {
            Poll::Ready(_) => None,
            Poll::Pending => marks.blocked.or_else(|| Some(Instant::now())),
        };
        result
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.wrote(result)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(context, bytes);
        self.wrote(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// Nothing that was changed half is left by a thread that panicked.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_debt_has_its_deadline() {
        let start = Instant::now();
        let fresh = Marks {
            connected: start,
            logged_in: false,
            password: None,
            refusals: 0,
            open: 0,
            answered: start,
            blocked: None,
        };
        let idle = Marks { logged_in: true, ..fresh };
        let working = Marks { open: 1, ..idle };
        let stuck = Marks { blocked: Some(start), ..working };
        for (marks, seconds, expected) in [
            (fresh, 15, None),
            (fresh, 16, Some(Why::NoLogin)),
            (Marks { open: 1, ..fresh }, 16, Some(Why::NoLogin)),
            (idle, 30, None),
            (idle, 31, Some(Why::Idle)),
            (working, 100_000, None),
            (stuck, 30, None),
            (stuck, 31, Some(Why::Stalled)),
        ] {
            let now = start + Duration::from_secs(seconds);
            let verdict = verdict(&marks, now, &Deadlines::default(), None);
            assert_eq!(verdict, expected, "{marks:?} after {seconds} s");
        }
    }

    #[test]
    fn a_login_with_a_password_that_counts_no_more_ends() {
        let folder = tempfile::tempdir().unwrap();
        let version = |text: &str| {
            let path = folder.path().join("password");
            std::fs::write(&path, text).unwrap();
            auth::Verifier::new(&path).unwrap().version()
        };
        let (old, new) = (version("a"), version("other"));
        let now = Instant::now();
        let marks = Marks {
            connected: now,
            logged_in: true,
            password: old,
            refusals: 0,
            open: 1,
            answered: now,
            blocked: None,
        };
        for (logged_in, login, current, expected) in [
            (true, old, old, None),
            (true, old, new, Some(Why::OtherPassword)),
            // The file cannot be looked at now, or could not be looked at then.
            (true, old, None, None),
            (true, None, new, Some(Why::OtherPassword)),
            (false, None, new, None),
        ] {
            let marks = Marks { logged_in, password: login, ..marks };
            assert_eq!(verdict(&marks, now, &Deadlines::default(), current), expected);
        }
    }
}
