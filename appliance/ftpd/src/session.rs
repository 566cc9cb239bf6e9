//! One session's deadlines: what a client owes, and when waiting for it ends.
//!
//! The decision is a pure function of marks that the other parts set ([`verdict`]); the watch looks every
//! [`WATCH_INTERVAL`]. It does not care what the session is stuck in, which is why it holds for libunftp's own
//! failures too.

use std::net::TcpStream;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::socket;

/// How often a session is looked at. Short, because it also bounds what a line without end can put into memory.
const WATCH_INTERVAL: Duration = Duration::from_millis(100);

/// What sessions may use.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Sessions at once.
    pub sessions: usize,
    /// Sessions at once from one IPv4 address or IPv6 /64 network.
    pub sessions_per_address: usize,
    /// From connecting to having logged in, TLS handshake included.
    pub login: Duration,
    /// From PASV or EPSV to a data connection with finished TLS handshake and its command.
    pub data_connection: Duration,
    /// Without commands, when libunftp says good-bye.
    pub idle: Duration,
    /// Without anything done, NOOP included: when the session is ended without a word.
    pub unused: Duration,
    /// A transfer in which the client takes nothing.
    pub stall: Duration,
    /// Bytes on the control connection before the login. A handshake and a few commands take 2 KB.
    pub control_bytes_before_login: u64,
    /// Bytes on the control connection in all: some 100 000 commands.
    pub control_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            sessions: 8,
            sessions_per_address: 4,
            login: Duration::from_secs(60),
            data_connection: Duration::from_secs(30),
            idle: Duration::from_secs(300),
            unused: Duration::from_secs(900),
            stall: Duration::from_secs(60),
            control_bytes_before_login: 64 << 10,
            control_bytes: 8 << 20,
        }
    }
}

/// How long a session that is given up lives on, so that a reply can be sent.
const LAST_REPLY: Duration = Duration::from_secs(1);

/// What has happened, and when.
#[derive(Debug, Clone, Copy)]
struct Marks {
    connected: Instant,
    used: Instant,
    logged_in: bool,
    data_connection_offered: Option<Instant>,
    given_up: Option<(Instant, &'static str)>,
}

/// What the parts of one session tell each other.
#[derive(Debug)]
pub struct Session(Mutex<Marks>);

impl Session {
    /// A session that begins now.
    pub fn begin() -> Self {
        let now = Instant::now();
        Self(Mutex::new(Marks {
            connected: now,
            used: now,
            logged_in: false,
            data_connection_offered: None,
            given_up: None,
        }))
    }

    /// The client did something, or a transfer went on.
    pub fn used(&self) {
        self.marks().used = Instant::now();
    }

    /// The password was right.
    pub fn logged_in(&self) {
        self.marks().logged_in = true;
        self.used();
    }

    /// The client was told a port; it owes a connection and a command for it.
    pub fn data_connection_offered(&self) {
        self.marks().data_connection_offered.get_or_insert(Instant::now());
        self.used();
    }

    /// A command that has its data connection has come.
    pub fn data_connection_in_use(&self) {
        self.marks().data_connection_offered = None;
        self.used();
    }

    /// Nothing more can be served: the session ends as soon as a reply had time to be sent.
    pub fn give_up(&self, reason: &'static str) {
        self.marks().given_up.get_or_insert((Instant::now(), reason));
    }

    /// Whether transfers may still be started.
    pub fn serves(&self) -> bool {
        self.marks().given_up.is_none()
    }

    fn marks(&self) -> MutexGuard<'_, Marks> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the session has to end; returns why.
    pub async fn watch(&self, control: &TcpStream, limits: &Limits) -> &'static str {
        loop {
            tokio::time::sleep(WATCH_INTERVAL).await;
            let received = socket::bytes_received(control).unwrap_or(0);
            let marks = *self.marks();
            if let Some(reason) = verdict(&marks, Instant::now(), received, limits) {
                return reason;
            }
        }
    }
}

fn verdict(marks: &Marks, now: Instant, received: u64, limits: &Limits) -> Option<&'static str> {
    let over = |since: Instant, limit| now.saturating_duration_since(since) > limit;
    let bytes = if marks.logged_in { limits.control_bytes } else { limits.control_bytes_before_login };
    if let Some((since, reason)) = marks.given_up
        && over(since, LAST_REPLY)
    {
        return Some(reason);
    }
    let reasons = [
        (!marks.logged_in && over(marks.connected, limits.login), "not logged in in time"),
        (received > bytes, "too much sent on the control connection"),
        (
            marks.data_connection_offered.is_some_and(|since| over(since, limits.data_connection)),
            "no usable data connection in time",
        ),
        (over(marks.used, limits.unused), "unused"),
    ];
    reasons.into_iter().find_map(|(holds, reason)| holds.then_some(reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_debt_has_its_deadline() {
        let limits = Limits::default();
        let start = Instant::now();
        let fresh = Marks {
            connected: start,
            used: start,
            logged_in: false,
            data_connection_offered: None,
            given_up: None,
        };
        let known = Marks { logged_in: true, ..fresh };
        let offered = Marks { data_connection_offered: Some(start), ..known };
        let failed = Marks { given_up: Some((start, "a restarted transfer failed")), ..known };
        for (marks, seconds, received, expected) in [
            (fresh, 60, 0, None),
            (fresh, 61, 0, Some("not logged in in time")),
            (fresh, 1, 65_537, Some("too much sent on the control connection")),
            (known, 61, 65_537, None),
            (known, 1, 9 << 20, Some("too much sent on the control connection")),
            (known, 900, 0, None),
            (known, 901, 0, Some("unused")),
            (offered, 30, 0, None),
            (offered, 31, 0, Some("no usable data connection in time")),
            (failed, 1, 0, None),
            (failed, 2, 0, Some("a restarted transfer failed")),
        ] {
            let now = start + Duration::from_secs(seconds);
            assert_eq!(verdict(&marks, now, received, &limits), expected, "{marks:?} after {seconds} s");
        }
    }
}
