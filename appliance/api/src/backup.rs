//! A backup as listed by the API, and its manifest beside the snapshot: the same document and what only a restore needs
//! (design D8).

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use uuid::Uuid;

/// Version of the manifest's form; a reader refuses a higher one.
pub const MANIFEST_FORMAT: u32 = 1;

/// The manifest of a backup.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The backup.
    #[serde(flatten)]
    pub backup: Backup,
    /// The monitor's configuration files, as [`Peer::configuration`](crate::Peer).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub configuration: BTreeMap<String, String>,
    /// Hashes of the tar, once a verification has read it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digests: Option<Digests>,
}

/// Bytes of the tar that one of [`Digests::chunks`] is of; the last one is shorter.
pub const DIGEST_CHUNK_BYTES: u64 = 64 << 20;

/// SHA-256 of a backup's tar, as a whole and piece by piece: a download that was broken off and resumed is checked as it
/// goes on (design D10). In hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digests {
    /// Of the whole tar.
    pub tar: String,
    /// Length of a chunk in bytes.
    pub chunk_bytes: u64,
    /// Of each chunk.
    pub chunks: Vec<String>,
}

/// Comment of the backup that a restored monitor has made before it is paired again. A restore passes it over, so the
/// network may not give it to another one.
pub const BEFORE_PAIRING: &str = "Before the restored monitor was paired again";

/// A backup, as its manifest and every list have it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Backup {
    /// [`MANIFEST_FORMAT`] of the writer.
    pub format: u32,
    /// Id that sorts by time, such as `20261123T205430Z`.
    pub id: String,
    /// Place in the order of its monitor's backups, from 1: clocks jump, this only grows. 0 in those of the first versions.
    #[serde(default)]
    pub sequence: u64,
    /// When the snapshot was made, by this machine's clock.
    pub created: Timestamp,
    /// Why.
    pub reason: Reason,
    /// Free text of whoever asked for it.
    #[serde(default)]
    pub comment: String,
    /// Kept until unpinned at the console.
    #[serde(default)]
    pub pinned: bool,
    /// Whose database it is.
    pub monitor: MonitorRef,
    /// What is in it.
    pub postgresql: PostgresInfo,
    /// How large it is.
    pub sizes: Sizes,
    /// Milliseconds that the snapshot took.
    pub snapshot_ms: f64,
    /// Whether it was proven to restore.
    pub verification: Verification,
    /// When it was last read from end to end; `None`: not yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read: Option<Reading>,
    /// Why the last try to verify or to read it came to no result. A result clears it; it changes no result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<Trouble>,
}

impl Backup {
    /// Orders the backups of one monitor, the oldest first: by the sequence, and those without one by the clock.
    pub fn order(&self) -> (u64, Timestamp, &str) {
        (self.sequence, self.created, &self.id)
    }

    /// `<id>_<monitor UUID>`: the name by which it is told from every other, also over FTP. The id alone may be that of
    /// another monitor's backup as well.
    pub fn full_name(&self) -> String {
        format!("{}_{}", self.id, self.monitor.id)
    }
}

/// Why a backup was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// Asked for through the API or the console.
    OnDemand,
    /// By the schedule.
    Schedule,
    /// Protection before a full copy replaces the replica.
    BeforeResync,
}

/// The monitor that a backup belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MonitorRef {
    /// Its UUID.
    pub id: Uuid,
    /// Its version when the backup was made.
    pub version: String,
}

/// What a restore has to know of the cluster, from `pg_control` and from the standby.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PostgresInfo {
    /// Major version, such as 17.
    pub major: u32,
    /// Full version of the server that replicated it, such as `17.6`.
    pub version: String,
    /// System identifier. Text, since JSON readers round 64-bit numbers.
    pub system_identifier: String,
    /// Timeline.
    pub timeline: u32,
    /// A superuser that may log in, for the check that the backup restores.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub superuser: Option<String>,
    /// WAL flushed by the standby before the snapshot, up to the end of a record: a restore must replay at least to here.
    pub flushed_lsn: String,
    /// The last checkpoint of the monitor that the backup has. Missing in backups of the first versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<Checkpoint>,
    /// Database block size in bytes.
    pub block_size: u32,
    /// Whether data pages carry checksums.
    pub checksums: bool,
    /// Architecture of the processor, as Rust names it (`std::env::consts::ARCH`): data files of one are unreadable on others.
    /// Missing in backups of the first versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub architecture: Option<String>,
    /// Locale and collation version of each database; where there are many, of the first ones, and of the others what is new.
    pub collations: Vec<Collation>,
}

/// The last checkpoint of the monitor in a backup: how old its data is at most, however young the backup is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Where it is in the WAL.
    pub lsn: String,
    /// When it was made: by the monitor's clock, and at the latest when it was first seen here.
    pub at: Timestamp,
}

/// Locale of one database (`pg_database`); restore compares it with the machine's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Collation {
    /// `datname`
    pub database: String,
    /// `datlocprovider`: `c` libc, `i` ICU, `b` builtin.
    pub provider: String,
    /// `datcollate`
    pub collate: String,
    /// `datctype`
    pub ctype: String,
    /// `datcollversion`
    pub version: Option<String>,
}

/// Sizes in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sizes {
    /// Sum of the files' sizes.
    pub files: u64,
    /// Size of the tar that FTP serves.
    pub tar: u64,
}

/// Proof that the backup restores (design D9).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "kebab-case")]
pub enum Verification {
    /// Not tried yet.
    Pending,
    /// A newer backup was verified instead before this one's turn came.
    Superseded,
    /// It was started, recovered and checked.
    Verified(Proof),
    /// It did not start, or a check failed: it may not restore.
    Failed {
        /// When.
        at: Timestamp,
        /// What went wrong.
        reason: String,
    },
}

/// What a verification found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Proof {
    /// When.
    pub at: Timestamp,
    /// Seconds from the clone's start until it took writes, on the backup server: of a restore, that is the part that
    /// follows the transfer. In JSON it keeps its first name, which
    /// older servers, restores and manifests have.
    #[serde(rename = "restore_seconds")]
    pub recovery_seconds: f64,
    /// Seconds that the whole verification took.
    pub seconds: f64,
    /// How much was read.
    pub depth: Depth,
    /// What could not be checked, and why, as sentences.
    #[serde(default)]
    pub limits: Vec<String>,
}

/// The last time that a backup's tar was read from end to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reading {
    /// When.
    pub at: Timestamp,
    /// Whether it was what it was when it was read first: otherwise the disk has changed it.
    pub same: bool,
}

/// Why the last try to verify or to read a backup came to no result: trouble of the machine, which says nothing about the
/// backup (design D9).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// What was tried.
    pub attempt: Attempt,
    /// When it was tried first.
    pub since: Timestamp,
    /// When it was tried last.
    pub at: Timestamp,
    /// How many times it was tried.
    pub times: u32,
    /// What hindered it, as a sentence without full stop.
    pub reason: String,
    /// The disk could not be read or written.
    #[serde(default)]
    pub disk: bool,
}

/// What is tried with a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Attempt {
    /// To prove that it restores.
    Verify,
    /// To read it from end to end.
    Read,
}

/// How much a verification reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Depth {
    /// It starts, recovers, and every database can be entered.
    Start,
    /// Also every table and index (`pg_amcheck`), and every page's checksum where the cluster has them.
    Full,
}

/// Body of `POST /v1/backups/{id}/verify`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VerifyBackup {}

/// Body of `PUT /v1/backups/{id}/pin`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetPin {
    /// `true`: keep it. Unpinning needs the console (design D14).
    pub pinned: bool,
}

/// Body of `PUT /v1/backups/{id}/comment`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetComment {
    /// Free text, at most 1000 characters.
    pub comment: String,
}

/// Body of `POST /v1/backups`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateBackup {
    /// Free text, at most 1000 characters.
    #[serde(default)]
    pub comment: String,
}

/// Answer of `GET /v1/backups`, newest first.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct BackupList {
    /// What is there and readable.
    pub backups: Vec<Backup>,
    /// Snapshots whose manifest is missing or cannot be used; they are kept.
    pub damaged: Vec<DamagedBackup>,
    /// Id of the one that is being verified now.
    #[serde(default)]
    pub verifying: Option<String>,
    /// Bytes that each backup alone takes, by id, where that was measured: deleting only this one frees so much.
    #[serde(default)]
    pub exclusive: BTreeMap<String, u64>,
}

/// A snapshot without a usable manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DamagedBackup {
    /// Id, by the snapshot's name.
    pub id: String,
    /// What is wrong.
    pub problem: String,
}
