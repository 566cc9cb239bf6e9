//! Where failures are counted: a table of fixed size, which another process may read.
//!
//! The control API and FTP are two processes of two users. Each counts in a table of its own and reads the other's, so
//! a guesser gains nothing by taking turns. Nobody writes the other's table: a process that was taken over can neither
//! forgive its own failures nor those that the other one saw.
//!
//! # The file
//! [`MAGIC`], a secret of 32 bytes, then [`BUCKETS`] × [`WAYS`] entries of 24 bytes: three little-endian `u64`, which
//! are the fields of [`Entry`]. A network is found by a hash that is keyed with the secret: nobody outside can choose
//! networks that push each other out, and the file names no address. It lies below /run, hence times are milliseconds
//! since the boot. Entries are written one by one and without a lock: a torn or lost one costs a count, never more
//! than [`Entry::debt`] allows.

use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::hash::AuthError;

/// The first bytes of the file.
pub const MAGIC: &[u8; 32] = b"infimonitor failed logins 1\n\0\0\0\0";
/// Buckets; a network belongs to one of them.
pub const BUCKETS: u64 = 16_384;
/// Entries in a bucket.
pub const WAYS: u64 = 4;

const ENTRY: u64 = 24;
const BUCKET: usize = (WAYS * ENTRY) as usize;
const HEADER: u64 = 64;
const SIZE: u64 = HEADER + BUCKETS * WAYS * ENTRY;

/// What is remembered of a network. Times are milliseconds since the boot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Entry {
    /// The network's keyed hash; 0 where nothing is remembered.
    pub key: u64,
    /// When all of its failures are forgotten.
    pub clear_at: u64,
    /// Its last failure.
    pub last: u64,
}

impl Entry {
    /// How long it takes until all failures are forgotten, at most `limit`: a clock or a byte that is wrong locks nobody
    /// out for ever.
    pub fn debt(&self, now: u64, limit: u64) -> u64 {
        self.clear_at.saturating_sub(now).min(limit)
    }

    fn read(bytes: &[u8]) -> Self {
        let field = |at: usize| {
            let bytes = bytes.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
            u64::from_le_bytes(bytes.unwrap_or_default())
        };
        Self { key: field(0), clear_at: field(8), last: field(16) }
    }

    fn write(self, into: &mut [u8]) {
        for (field, into) in [self.key, self.clear_at, self.last].into_iter().zip(into.chunks_exact_mut(8)) {
            into.copy_from_slice(&field.to_le_bytes());
        }
    }
}

/// Where the tables of two processes lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ledgers {
    /// This process's table.
    pub own: PathBuf,
    /// The other one's, which may come later or never.
    pub other: PathBuf,
}

impl Ledgers {
    /// Both, where both are given.
    pub fn of(own: Option<PathBuf>, other: Option<PathBuf>) -> Option<Self> {
        Some(Self { own: own?, other: other? })
    }
}

/// This process's table.
#[derive(Debug)]
pub struct Ledger {
    secret: [u8; 32],
    entries: Vec<u8>,
    file: Option<(PathBuf, File)>,
}

impl Ledger {
    /// A table that nobody else reads.
    ///
    /// # Errors
    /// The kernel gives no random numbers.
    pub fn in_memory() -> Result<Self, AuthError> {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret).map_err(|error| AuthError::Hashing(error.to_string()))?;
        Ok(Self { secret, entries: vec![0; (SIZE - HEADER) as usize], file: None })
    }

    /// The table in the file at `path`, with what it holds; a file that is none is written anew. It is made readable for
    /// all.
    ///
    /// # Errors
    /// The file cannot be read or written, or the kernel gives no random numbers.
    pub fn open(path: &Path) -> Result<Self, AuthError> {
        let failed = |source: io::Error| AuthError::Ledger { path: path.into(), source };
        let mut ledger = Self::in_memory()?;
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).mode(0o644).open(path);
        let file = file.map_err(failed)?;
        // The unit's umask takes the right to read away.
        file.set_permissions(Permissions::from_mode(0o644)).map_err(failed)?;
        if let Some(secret) = header(&file).filter(|_| file.metadata().is_ok_and(|file| file.len() == SIZE)) {
            file.read_exact_at(&mut ledger.entries, HEADER).map_err(failed)?;
            ledger.secret = secret;
        } else {
            file.set_len(0).and_then(|()| file.set_len(SIZE)).map_err(failed)?;
            file.write_all_at(&ledger.secret, MAGIC.len() as u64).map_err(failed)?;
            file.write_all_at(MAGIC, 0).map_err(failed)?;
        }
        ledger.file = Some((path.into(), file));
        Ok(ledger)
    }

    /// What is remembered of `network`.
    pub fn get(&self, network: &[u8]) -> Entry {
        let (key, at) = place(&self.secret, network);
        find(self.entries.get(at..at + BUCKET).unwrap_or_default(), key)
    }

    /// Remembers a failure of `network`. When its bucket is full, the entry that would be forgotten first makes room.
    pub fn set(&mut self, network: &[u8], clear_at: u64, last: u64) {
        let (key, at) = place(&self.secret, network);
        let Some(bucket) = self.entries.get_mut(at..at + BUCKET) else { return };
        let entries = bucket.chunks_exact(ENTRY as usize).map(Entry::read).enumerate();
        let here = entries.min_by_key(|(_, entry)| (entry.key != key, entry.clear_at)).map_or(0, |(n, _)| n);
        let here = here * ENTRY as usize;
        let Some(bytes) = bucket.get_mut(here..here + ENTRY as usize) else { return };
        Entry { key, clear_at, last }.write(bytes);
        if let Some((path, file)) = &self.file
            && let Err(error) = file.write_all_at(bytes, HEADER + (at + here) as u64)
        {
            tracing::error!("cannot write {}: {error}", path.display());
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.entries.fill(0);
        if let Some((path, file)) = &self.file
            && let Err(error) = file.write_all_at(&self.entries, HEADER)
        {
            tracing::error!("cannot write {}: {error}", path.display());
        }
    }
}

/// The other process's table.
#[derive(Debug)]
pub struct Other {
    path: PathBuf,
    file: Option<File>,
}

impl Other {
    /// The table at `path`, where there is one.
    pub fn new(path: &Path) -> Self {
        Self { path: path.into(), file: None }
    }

    /// What is remembered of `network`; nothing while there is no such table.
    pub fn get(&mut self, network: &[u8]) -> Entry {
        if self.file.is_none() {
            self.file = File::open(&self.path).ok();
        }
        let Some(file) = &self.file else { return Entry::default() };
        let Some(secret) = header(file) else { return Entry::default() };
        let (key, at) = place(&secret, network);
        let mut bucket = [0; BUCKET];
        match file.read_exact_at(&mut bucket, HEADER + at as u64) {
            Ok(()) => find(&bucket, key),
            Err(_) => Entry::default(), // it is being made
        }
    }
}

/// The secret in a file that is a table.
fn header(file: &File) -> Option<[u8; 32]> {
    let mut header = [0; HEADER as usize];
    file.read_exact_at(&mut header, 0).ok()?;
    let (magic, secret) = header.split_at(MAGIC.len());
    if magic != MAGIC { None } else { secret.try_into().ok() }
}

/// The key of a network, and where its bucket begins among the entries.
fn place(secret: &[u8; 32], network: &[u8]) -> (u64, usize) {
    let hash = Sha256::new().chain_update(secret).chain_update(network).finalize();
    let key = hash.first_chunk::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes)).max(1);
    (key, (key % BUCKETS) as usize * BUCKET)
}

fn find(bucket: &[u8], key: u64) -> Entry {
    let mut entries = bucket.chunks_exact(ENTRY as usize).map(Entry::read);
    entries.find(|entry| entry.key == key).unwrap_or_default()
}

/// Milliseconds since the boot, which all processes of a machine agree on.
pub fn since_boot() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_process_sees_what_is_counted_and_a_restart_keeps_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("failures");
        let mut other = Other::new(&path);
        assert_eq!(other.get(b"a"), Entry::default());
        let mut ledger = Ledger::open(&path).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o644);
        ledger.set(b"a", 10, 1);
        ledger.set(b"b", 20, 2);
        ledger.set(b"a", 30, 3);
        for (network, clear_at, last) in [(b"a", 30, 3), (b"b", 20, 2), (b"c", 0, 0)] {
            let seen = ledger.get(network);
            assert_eq!((seen.clear_at, seen.last), (clear_at, last));
            assert_eq!(other.get(network), seen);
            assert_eq!(Ledger::open(&path).unwrap().get(network), seen);
        }
        ledger.clear();
        assert_eq!((ledger.get(b"a"), other.get(b"a")), (Entry::default(), Entry::default()));
    }

    #[test]
    fn a_file_that_is_no_table_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("failures");
        for rubbish in [&b""[..], b"rubbish", &[0xff; SIZE as usize], &MAGIC[..]] {
            std::fs::write(&path, rubbish).unwrap();
            assert_eq!(Other::new(&path).get(b"a"), Entry::default());
            let mut ledger = Ledger::open(&path).unwrap();
            assert_eq!(ledger.get(b"a"), Entry::default());
            ledger.set(b"a", 10, 1);
            assert_eq!(Other::new(&path).get(b"a").clear_at, 10);
        }
    }

    #[test]
    fn a_full_bucket_forgets_what_would_be_forgotten_first() {
        let mut ledger = Ledger::in_memory().unwrap();
        let (_, bucket) = place(&ledger.secret, b"first");
        let numbers = (0_u32..).map(u32::to_le_bytes);
        let together: Vec<_> =
            numbers.filter(|n| place(&ledger.secret, n).1 == bucket).take(WAYS as usize).collect();
        ledger.set(b"first", 1000, 0);
        for (n, network) in (0..).zip(&together) {
            ledger.set(network, 2000 + n, 0);
        }
        assert_eq!(ledger.get(b"first"), Entry::default());
        assert!(together.iter().all(|network| ledger.get(network).clear_at >= 2000));
    }

    #[test]
    fn a_wrong_time_is_bounded() {
        let entry = Entry { key: 1, clear_at: u64::MAX, last: u64::MAX };
        assert_eq!(entry.debt(5, 100), 100);
        assert_eq!(Entry { clear_at: 50, ..entry }.debt(60, 100), 0);
    }
}
