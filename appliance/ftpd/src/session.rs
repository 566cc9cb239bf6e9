//! One session after its login: what its parts tell each other, what its client owes, and when waiting for it ends.
//!
//! The decision is a pure function of marks that the other parts set ([`verdict`]); the watch looks every
//! [`WATCH_INTERVAL`]. It does not care what the session is stuck in, which is why it holds for libunftp's own
//! failures too.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use auth::PasswordVersion;
use tokio::sync::{oneshot, watch};

use crate::data::DataStream;
use crate::tls::{Tls, Unresumed};

/// How often a session is looked at.
const WATCH_INTERVAL: Duration = Duration::from_millis(100);

/// What connections and sessions may use.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections at once that have not logged in.
    pub waiting: usize,
    /// More of them, of addresses from which somebody has logged in within a day.
    pub waiting_known: usize,
    /// Either from one IPv4 address or IPv6 /64 network.
    pub waiting_per_address: usize,
    /// From connecting to having logged in, TLS handshake included.
    pub login: Duration,
    /// Sessions at once.
    pub sessions: usize,
    /// Sessions at once from one IPv4 address or IPv6 /64 network.
    pub sessions_per_address: usize,
    /// From PASV or EPSV to a data connection with finished TLS handshake and its command.
    pub data_connection: Duration,
    /// The same once a client has tried to do without resuming its TLS session.
    pub unresumed: Duration,
    /// Without commands or transfers.
    pub idle: Duration,
    /// Without anything done, NOOP included.
    pub unused: Duration,
    /// A transfer in which the client takes nothing.
    pub stall: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            waiting: 48,
            waiting_known: 16,
            waiting_per_address: 4,
            login: Duration::from_secs(25),
            sessions: 8,
            sessions_per_address: 4,
            data_connection: Duration::from_secs(30),
            unresumed: Duration::from_secs(10),
            idle: Duration::from_secs(300),
            unused: Duration::from_secs(900),
            stall: Duration::from_secs(60),
        }
    }
}

/// How often the password is looked at.
const PASSWORD_INTERVAL: Duration = Duration::from_secs(1);

/// Why a session ends whose place another login has taken.
const DISPLACED: &str = "Another login has taken this session's place; log in again and resume";

/// Why a session ends after the password was changed.
const OTHER_PASSWORD: &str = "The password was changed; log in with the new one";

/// Why a session ends whose client cannot resume TLS sessions.
const UNRESUMED: &str = "The data connection does not resume the TLS session of the control connection. Use a client \
    that does, or allow others at the console: hostd order ftp --allow-unproven-data true";

/// What has happened, and when.
#[derive(Debug, Clone, Copy)]
struct Marks {
    asked: Instant,
    used: Instant,
    data_connection_offered: Option<Instant>,
    displaced: bool,
    ended: Option<&'static str>,
}

/// What a client has shown when it logged in.
#[derive(Debug)]
pub(crate) struct Client {
    /// Its address: data connections must come from there.
    pub(crate) address: IpAddr,
    /// The server's address that it connected to: ports are offered there.
    pub(crate) reached: IpAddr,
    /// TLS of the control connection, if there is.
    pub(crate) tls: Option<Tls>,
    /// The version of the password that it gave.
    pub(crate) password: Option<PasswordVersion>,
    /// Data connections need no proof.
    pub(crate) unproven_allowed: bool,
}

/// How the command that libunftp carries out goes on.
#[derive(Debug, Clone, Copy, Default)]
struct Course {
    /// What it asks for is there, and will be sent.
    found: bool,
    /// The client wants no more of it.
    aborted: bool,
    /// The reply that says why it failed; libunftp's own names a few reasons for all.
    failure: Option<&'static str>,
}

/// What the parts of one session tell each other.
#[derive(Debug)]
pub struct Session {
    /// Another one for each session of this process.
    pub(crate) number: u64,
    pub(crate) client: Client,
    pub(crate) unresumed: Unresumed,
    marks: Mutex<Marks>,
    course: watch::Sender<Course>,
    restart: Mutex<u64>,
    protected: Mutex<bool>,
    port: Mutex<Option<u16>>,
    data: Mutex<Option<oneshot::Receiver<DataStream>>>,
    delivery: Mutex<Option<oneshot::Receiver<bool>>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Session {
    /// A session that begins now.
    pub(crate) fn begin(client: Client) -> Self {
        static SESSIONS: AtomicU64 = AtomicU64::new(0);
        let now = Instant::now();
        Self {
            number: SESSIONS.fetch_add(1, Ordering::Relaxed),
            client,
            unresumed: Unresumed::default(),
            marks: Mutex::new(Marks {
                asked: now,
                used: now,
                data_connection_offered: None,
                displaced: false,
                ended: None,
            }),
            course: watch::Sender::default(),
            restart: Mutex::default(),
            protected: Mutex::default(),
            port: Mutex::default(),
            data: Mutex::default(),
            delivery: Mutex::default(),
        }
    }

    /// A command came.
    pub(crate) fn asked(&self) {
        locked(&self.marks).asked = Instant::now();
    }

    /// The client did something with the backups, or a transfer went on.
    pub(crate) fn used(&self) {
        locked(&self.marks).used = Instant::now();
    }

    /// Data connections have TLS from now on, or none.
    pub(crate) fn protect(&self, protected: bool) {
        *locked(&self.protected) = protected;
    }

    /// Whether data connections have TLS.
    pub(crate) fn is_protected(&self) -> bool {
        *locked(&self.protected)
    }

    /// The client is told this port; it owes a connection and a command for it. `delivery` tells whether what the
    /// command gives has arrived.
    pub(crate) fn data_connection_offered(
        &self,
        port: u16,
        data: oneshot::Receiver<DataStream>,
        delivery: oneshot::Receiver<bool>,
    ) {
        *locked(&self.port) = Some(port);
        *locked(&self.data) = Some(data);
        *locked(&self.delivery) = Some(delivery);
        locked(&self.marks).data_connection_offered.get_or_insert(Instant::now());
        self.used();
    }

    /// The port that was offered last.
    pub(crate) fn port(&self) -> Option<u16> {
        *locked(&self.port)
    }

    /// The client owes no data connection any more: it is there, or its command has failed.
    pub(crate) fn data_connection_settled(&self) {
        locked(&self.marks).data_connection_offered = None;
        self.unresumed.forget();
        self.used();
    }

    /// What the data connection will come from, for whoever asks first.
    pub(crate) fn take_data(&self) -> Option<oneshot::Receiver<DataStream>> {
        locked(&self.data).take()
    }

    /// What tells whether all of a delivery arrived, for whoever asks first.
    pub(crate) fn take_delivery(&self) -> Option<oneshot::Receiver<bool>> {
        locked(&self.delivery).take()
    }

    /// libunftp is given a command.
    pub(crate) fn command_begins(&self) {
        self.course.send_replace(Course::default());
    }

    /// Another session gets this one's place: it ends.
    pub(crate) fn displace(&self) {
        locked(&self.marks).displaced = true;
    }

    /// For how long nothing was done. Commands that do nothing count as nothing.
    pub(crate) fn idle(&self) -> Duration {
        locked(&self.marks).used.elapsed()
    }

    /// What the command asks for is there, and will be sent.
    pub(crate) fn found(&self) {
        self.course.send_modify(|course| course.found = true);
    }

    /// Whether it is known to be there.
    pub(crate) fn is_found(&self) -> bool {
        self.course.borrow().found
    }

    /// Waits until it is.
    pub(crate) async fn until_found(&self) {
        let mut course = self.course.subscribe();
        // Fails only where the sender is gone, which is a part of this.
        let _found = course.wait_for(|course| course.found).await;
    }

    /// The client wants no more of the transfer.
    pub(crate) fn abort(&self) {
        self.course.send_modify(|course| course.aborted = true);
    }

    /// Waits until it does not.
    pub(crate) async fn aborted(&self) {
        let mut course = self.course.subscribe();
        let _aborted = course.wait_for(|course| course.aborted).await;
    }

    /// The command fails with this reply; the first reason counts.
    pub(crate) fn fails(&self, reply: &'static str) {
        self.course.send_modify(|course| {
            course.failure.get_or_insert(reply);
        });
    }

    /// The reply that says why the command has failed.
    pub(crate) fn failure(&self) -> Option<&'static str> {
        self.course.borrow().failure
    }

    /// The next file is sent from this offset on.
    pub(crate) fn restart_at(&self, offset: u64) {
        *locked(&self.restart) = offset;
    }

    /// From where the file is sent: it counts once.
    pub(crate) fn take_restart(&self) -> u64 {
        std::mem::take(&mut *locked(&self.restart))
    }

    /// Why the session was ended, if it was.
    pub(crate) fn ended(&self) -> Option<&'static str> {
        locked(&self.marks).ended
    }

    /// Waits until the session has to end; returns why. `password_counts` tells whether the password that it logged in with
    /// still does.
    pub(crate) async fn watch(&self, limits: &Limits, password_counts: impl Fn() -> bool) -> &'static str {
        let mut looked = Instant::now();
        loop {
            tokio::time::sleep(WATCH_INTERVAL).await;
            let mut counts = true;
            if looked.elapsed() >= PASSWORD_INTERVAL {
                (counts, looked) = (password_counts(), Instant::now());
            }
            let mut marks = locked(&self.marks);
            if let Some(reason) = verdict(&marks, self.unresumed.tried(), counts, Instant::now(), limits) {
                marks.ended = Some(reason);
                return reason;
            }
        }
    }
}

fn verdict(
    marks: &Marks,
    unresumed: bool,
    password_counts: bool,
    now: Instant,
    limits: &Limits,
) -> Option<&'static str> {
    let over = |since: Instant, limit| now.saturating_duration_since(since) > limit;
    let owed = |limit| marks.data_connection_offered.is_some_and(|since| over(since, limit));
    let reasons = [
        (!password_counts, OTHER_PASSWORD),
        (marks.displaced, DISPLACED),
        (unresumed && owed(limits.unresumed.min(limits.data_connection)), UNRESUMED),
        (owed(limits.data_connection), "No usable data connection came in time"),
        (over(marks.used.max(marks.asked), limits.idle), "Nothing was asked for a while"),
        (over(marks.used, limits.unused), "Nothing was fetched or listed for a while"),
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
        let known =
            Marks { asked: start, used: start, data_connection_offered: None, displaced: false, ended: None };
        let asking = Marks { asked: start + Duration::from_secs(850), ..known };
        let offered = Marks { data_connection_offered: Some(start), ..known };
        for (marks, unresumed, seconds, expected) in [
            (known, false, 300, None),
            (known, true, 300, None),
            (known, false, 301, Some("Nothing was asked for a while")),
            (asking, false, 900, None),
            (asking, false, 901, Some("Nothing was fetched or listed for a while")),
            (offered, false, 30, None),
            (offered, false, 31, Some("No usable data connection came in time")),
            (offered, true, 10, None),
            (offered, true, 11, Some(UNRESUMED)),
        ] {
            let now = start + Duration::from_secs(seconds);
            let verdict = verdict(&marks, unresumed, true, now, &limits);
            assert_eq!(verdict, expected, "{marks:?} after {seconds} s");
        }
        assert_eq!(verdict(&known, false, false, start, &limits), Some(OTHER_PASSWORD));
        let displaced = Marks { displaced: true, ..known };
        assert_eq!(verdict(&displaced, false, true, start, &limits), Some(DISPLACED));
    }
}
