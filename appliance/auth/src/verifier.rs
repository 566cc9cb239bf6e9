//! Checking a password on behalf of a network-facing process.
//!
//! Argon2 is slow on purpose, and the web page polls: so the password that was accepted last is remembered as a
//! SHA-256 keyed with random bytes of this process. While the file is the same, only one password is right, hence a
//! remembered one settles both answers and Argon2 runs once per password change. Hashing is serialised: its memory
//! is used once, however many connections come; who comes first when there is a crowd is decided in [`crate::turns`].

use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use api::USER;

use crate::hash::{self, AuthError, DEFAULT_PASSWORD, Memory};
use crate::ledger::{Ledger, Ledgers, Other, since_boot};
use crate::throttle::Throttle;
use crate::turns::{Turns, Wanted};

/// Longer passwords are wrong without being looked at, in bytes.
pub const MAXIMUM_PASSWORD_BYTES: usize = 1024;

/// When a source may come again that was not looked at because of a crowd.
const BUSY: Duration = Duration::from_secs(1);

/// What came of a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// User and password are right.
    Accepted,
    /// User or password is wrong, or no password can be right because the password file is damaged.
    Rejected,
    /// Too many wrong ones, from this source or at this moment; the password was not looked at.
    Throttled {
        /// When the source may try again.
        retry_after: Duration,
    },
}

/// Tells one version of the password file from another, and so whether a login was made with the password of now. The
/// same password, set again, is another version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PasswordVersion {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

#[derive(Debug, Clone)]
struct Loaded {
    version: PasswordVersion,
    hash: String,
    accepted: Option<[u8; 32]>,
    is_default: Option<bool>,
}

#[derive(Debug)]
struct State {
    throttle: Throttle,
    loaded: Option<Loaded>,
}

/// Checks passwords against a password file, which may be replaced at any time. Share one per process.
#[derive(Debug)]
pub struct Verifier {
    path: PathBuf,
    key: [u8; 32],
    state: Mutex<State>,
    turns: Turns,
    memory: Mutex<Memory>,
}

impl Verifier {
    /// A verifier of the password file at `path` that counts failures by itself; the file is read when it is needed.
    ///
    /// # Errors
    /// [`AuthError::Hashing`] if the kernel gives no random numbers.
    pub fn new(path: impl Into<PathBuf>) -> Result<Self, AuthError> {
        Self::sharing(path, None)
    }

    /// The same, counting together with another process where there are `ledgers`. A table that cannot be used is said
    /// in the log, and failures are counted without it: logins go on.
    ///
    /// # Errors
    /// The same.
    pub fn sharing(path: impl Into<PathBuf>, ledgers: Option<&Ledgers>) -> Result<Self, AuthError> {
        let own = match ledgers.map(|ledgers| Ledger::open(&ledgers.own)) {
            Some(Ok(own)) => own,
            Some(Err(error)) => {
                tracing::error!("failed logins are counted in memory alone: {error}");
                Ledger::in_memory()?
            }
            None => Ledger::in_memory()?,
        };
        let other = ledgers.map(|ledgers| Other::new(&ledgers.other));
        Self::counting(path.into(), Throttle::new(own, other))
    }

    fn counting(path: PathBuf, throttle: Throttle) -> Result<Self, AuthError> {
        let mut key = [0; 32];
        getrandom::fill(&mut key).map_err(|error| AuthError::Hashing(error.to_string()))?;
        let state = Mutex::new(State { throttle, loaded: None });
        Ok(Self { path, key, state, turns: Turns::default(), memory: Mutex::default() })
    }

    /// Whether `from` gave the right user and password.
    ///
    /// Blocks for the time of an Argon2 hash if this password was not seen before: call it from a thread that may
    /// block.
    pub fn verify(&self, user: &str, password: &str, from: IpAddr) -> Outcome {
        self.verify_while(user, password, from, &Wanted::default())
    }

    /// The same, for somebody who may hang up meanwhile: a password that waits for its turn is then given up, and counts
    /// neither as right nor as wrong.
    pub fn verify_while(&self, user: &str, password: &str, from: IpAddr, wanted: &Wanted) -> Outcome {
        self.verify_at(user, password, from, wanted, since_boot)
    }

    /// Whether user and password are those that were accepted last: for a connection that gave them before, which goes on
    /// while somebody else guesses from the same address. Nobody else may ask, since no wrong answer is counted.
    pub fn still_right(&self, user: &str, password: &str) -> bool {
        let mut state = lock(&self.state);
        let accepted = self.load(&mut state).ok().and_then(|loaded| loaded.accepted);
        user == USER && accepted.is_some_and(|accepted| bool::from(accepted.ct_eq(&self.digest(password))))
    }

    /// The version of the password that counts now; `None`: it cannot be told. For a session it is to be asked before the
    /// password is checked: one that is replaced in between is then taken for the old one, and never the other way round.
    pub fn version(&self) -> Option<PasswordVersion> {
        version(&self.path).ok()
    }

    /// Whether `from` gave the right password within a day.
    pub fn is_known(&self, from: IpAddr) -> bool {
        lock(&self.state).throttle.is_known(from, since_boot())
    }

    /// Whether the default password is in use.
    ///
    /// # Errors
    /// The password file cannot be read or is malformed.
    pub fn is_default(&self) -> Result<bool, AuthError> {
        let loaded = self.load(&mut lock(&self.state))?;
        if let Some(is_default) = loaded.is_default {
            return Ok(is_default);
        }
        // Without a turn: it is done once for each password, and nobody who guesses may hold up the status.
        let mut memory = lock(&self.memory);
        let known = lock(&self.state).loaded.as_ref().filter(|c| c.version == loaded.version).cloned();
        if let Some(is_default) = known.and_then(|loaded| loaded.is_default) {
            return Ok(is_default);
        }
        let is_default = hash::matches(DEFAULT_PASSWORD, &loaded.hash, &mut memory)?;
        *memory = Memory::default();
        drop(memory);
        if let Some(current) = lock(&self.state).loaded.as_mut().filter(|c| c.version == loaded.version) {
            current.is_default = Some(is_default);
        }
        Ok(is_default)
    }

    /// Whether the password file can be used: for a status check, as [`Self::verify`] tells strangers nothing.
    ///
    /// # Errors
    /// Why no password can be right.
    pub fn check(&self) -> Result<(), AuthError> {
        self.load(&mut lock(&self.state)).map(|_| ())
    }

    /// Failures of the source of `from` that are not forgotten.
    pub fn failures(&self, from: IpAddr) -> u32 {
        let [own, ..] = lock(&self.state).throttle.standing(from, since_boot()).failures;
        own
    }

    fn verify_at(
        &self,
        user: &str,
        password: &str,
        from: IpAddr,
        wanted: &Wanted,
        now: impl Fn() -> Duration,
    ) -> Outcome {
        if let Some(outcome) = self.settle(user, password, from, now()) {
            return outcome;
        }
        let standing = lock(&self.state).throttle.standing(from, now());
        let Some(turn) = self.turns.wait(from, standing, wanted) else {
            return Outcome::Throttled { retry_after: BUSY };
        };
        // While this one waited, another may have been accepted, or the source may have run into the throttle.
        if let Some(outcome) = self.settle(user, password, from, now()) {
            return outcome;
        }
        let Ok(loaded) = self.load(&mut lock(&self.state)) else { return Outcome::Rejected };
        let mut memory = lock(&self.memory);
        let right = hash::matches(password, &loaded.hash, &mut memory).unwrap_or_else(|error| {
            tracing::error!("password file {}: {error}", self.path.display());
            false
        });
        let mut state = lock(&self.state);
        if right && let Some(current) = state.loaded.as_mut().filter(|c| c.version == loaded.version) {
            current.accepted = Some(self.digest(password));
            // Nothing more is hashed until the password changes.
            *memory = Memory::default();
        }
        let outcome = conclude(&mut state.throttle, right, from, now());
        // All, since a failure counts for the networks around the source, too.
        self.turns.weigh_anew(|waiting| state.throttle.standing(waiting, now()));
        drop((state, memory, turn));
        outcome
    }

    /// What can be said without a costly hash; `None` if nothing can.
    fn settle(&self, user: &str, password: &str, from: IpAddr, now: Duration) -> Option<Outcome> {
        let mut state = lock(&self.state);
        if let Err(retry_after) = state.throttle.admit(from, now) {
            return Some(Outcome::Throttled { retry_after });
        }
        if user != USER || password.len() > MAXIMUM_PASSWORD_BYTES {
            return Some(conclude(&mut state.throttle, false, from, now));
        }
        match self.load(&mut state) {
            Ok(loaded) => {
                let right = bool::from(loaded.accepted?.ct_eq(&self.digest(password)));
                Some(conclude(&mut state.throttle, right, from, now))
            }
            Err(error) => {
                tracing::error!("nobody can log in: {error}");
                Some(conclude(&mut state.throttle, false, from, now))
            }
        }
    }

    /// The password file as it is now, read again only if it changed.
    fn load(&self, state: &mut State) -> Result<Loaded, AuthError> {
        let failed = |source: io::Error| AuthError::File { path: self.path.clone(), source };
        let version = version(&self.path).map_err(failed)?;
        if let Some(loaded) = state.loaded.as_ref().filter(|loaded| loaded.version == version) {
            return Ok(loaded.clone());
        }
        if state.loaded.take().is_some() {
            state.throttle.password_changed();
        }
        let hash = hash::validate_hash(&fs::read_to_string(&self.path).map_err(failed)?)?;
        let loaded = Loaded { version, hash, accepted: None, is_default: None };
        state.loaded = Some(loaded.clone());
        Ok(loaded)
    }

    fn digest(&self, password: &str) -> [u8; 32] {
        Sha256::new().chain_update(self.key).chain_update(password).finalize().into()
    }
}

fn conclude(throttle: &mut Throttle, right: bool, from: IpAddr, now: Duration) -> Outcome {
    if right {
        throttle.accepted(from, now);
        Outcome::Accepted
    } else {
        throttle.rejected(from, now);
        Outcome::Rejected
    }
}

fn version(path: &Path) -> io::Result<PasswordVersion> {
    let metadata = fs::metadata(path)?;
    Ok(PasswordVersion {
        device: metadata.dev(),
        inode: metadata.ino(),
        size: metadata.size(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
    })
}

/// A thread that panicked while it held the lock leaves nothing half-changed here: go on.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::{hash_password, write_password_file};
    use std::net::Ipv4Addr;

    const A: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    const B: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));

    struct Fixture {
        _dir: tempfile::TempDir,
        verifier: Verifier,
    }

    impl Fixture {
        fn new(password: &str) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let verifier = Verifier::new(dir.path().join("password")).unwrap();
            let fixture = Self { _dir: dir, verifier };
            fixture.set(password);
            fixture
        }

        fn set(&self, password: &str) {
            write_password_file(&self.verifier.path, &hash_password(password).unwrap(), None).unwrap();
        }

        fn at(&self, seconds: u64, user: &str, password: &str, from: IpAddr) -> Outcome {
            self.verifier.verify_at(user, password, from, &Wanted::default(), || Duration::from_secs(seconds))
        }
    }

    #[test]
    fn user_and_password_must_both_be_right() {
        let fixture = Fixture::new("secret");
        let long = "x".repeat(2000);
        let table = [
            ("backup", "secret", Outcome::Accepted),
            ("backup", "Secret", Outcome::Rejected),
            ("backup", "", Outcome::Rejected),
            ("root", "secret", Outcome::Rejected),
            ("", "secret", Outcome::Rejected),
            ("backup", &long, Outcome::Rejected),
            ("backup", "secret", Outcome::Accepted),
        ];
        for (n, (user, password, expected)) in (0..).zip(table) {
            // An hour between them: the throttle is not what is tested here.
            assert_eq!(fixture.at(n * 3600, user, password, A), expected, "{user} {password}");
        }
    }

    #[test]
    fn an_accepted_password_is_remembered_until_the_file_changes() {
        let fixture = Fixture::new("first");
        assert_eq!(fixture.at(0, "backup", "first", A), Outcome::Accepted);
        assert!(lock(&fixture.verifier.state).loaded.as_ref().unwrap().accepted.is_some());
        // Held: a further hash would never end.
        let hashing = lock(&fixture.verifier.memory);
        assert_eq!(fixture.at(1, "backup", "first", A), Outcome::Accepted);
        assert_eq!(fixture.at(1, "backup", "other", A), Outcome::Rejected);
        drop(hashing);
        fixture.set("second");
        assert_eq!(fixture.at(2, "backup", "first", A), Outcome::Rejected);
        assert_eq!(fixture.at(2, "backup", "second", A), Outcome::Accepted);
    }

    #[test]
    fn a_throttled_source_is_refused_even_with_the_right_password_and_without_a_hash() {
        let fixture = Fixture::new("secret");
        assert_eq!(fixture.at(0, "backup", "secret", B), Outcome::Accepted);
        for _ in 0..5 {
            assert_eq!(fixture.at(0, "backup", "wrong", A), Outcome::Rejected);
        }
        let _hashing = lock(&fixture.verifier.memory);
        let throttled = Outcome::Throttled { retry_after: Duration::from_secs(1) };
        assert_eq!(fixture.at(0, "backup", "secret", A), throttled);
        assert_eq!(fixture.at(0, "backup", "secret", B), Outcome::Accepted);
        assert_eq!(fixture.at(1, "backup", "secret", A), Outcome::Accepted);
    }

    #[test]
    fn parallel_guesses_do_not_slip_past_the_throttle() {
        let fixture = Fixture::new("secret");
        let outcomes: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..16).map(|_| scope.spawn(|| fixture.at(0, "backup", "wrong", A))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let rejected = outcomes.iter().filter(|outcome| **outcome == Outcome::Rejected).count();
        assert_eq!(rejected, 5, "{outcomes:?}");
    }

    #[test]
    fn a_missing_or_damaged_file_lets_nobody_in_and_says_so() {
        let fixture = Fixture::new("secret");
        fs::write(&fixture.verifier.path, "rubbish").unwrap();
        assert_eq!(fixture.at(0, "backup", "rubbish", A), Outcome::Rejected);
        assert!(matches!(fixture.verifier.check(), Err(AuthError::Hash(_))));
        fs::remove_file(&fixture.verifier.path).unwrap();
        assert_eq!(fixture.at(0, "backup", "secret", A), Outcome::Rejected);
        assert!(matches!(fixture.verifier.check(), Err(AuthError::File { .. })));
        fixture.set("secret");
        assert_eq!(fixture.at(0, "backup", "secret", A), Outcome::Accepted);
    }

    #[test]
    fn the_default_password_is_recognised_and_the_answer_remembered() {
        let fixture = Fixture::new(DEFAULT_PASSWORD);
        assert!(fixture.verifier.is_default().unwrap());
        assert_eq!(lock(&fixture.verifier.state).loaded.as_ref().unwrap().is_default, Some(true));
        fixture.set("another");
        assert!(!fixture.verifier.is_default().unwrap());
    }
}
