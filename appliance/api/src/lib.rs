//! Wire types of the control API (design section 6), and its client.
//!
//! The types are what travels as JSON between the backup server, the monitor's page, the console and the recovery
//! program; they hold no behaviour beyond checking themselves. One crate for all of them, so that both ends cannot
//! drift apart; the price is that a change here rebuilds every program.

mod backup;
mod client;
mod event;
mod fingerprint;
mod ftp;
mod host;
mod peer;
mod rotation;
mod settings;
mod status;
pub mod testing;
pub mod tls;

pub use backup::{
    Attempt, BEFORE_PAIRING, Backup, BackupList, Checkpoint, Collation, CreateBackup, DIGEST_CHUNK_BYTES,
    DamagedBackup, Depth, Digests, MANIFEST_FORMAT, Manifest, MonitorRef, PostgresInfo, Proof, Reading,
    Reason, SetComment, SetPin, Sizes, Trouble, Verification, VerifyBackup,
};
pub use client::{Client, ClientError};
pub use event::{EVENTS_KEPT, Event, EventKind, EventList};
pub use fingerprint::{Fingerprint, FingerprintError};
pub use ftp::{FTP_BYTES_PER_SECOND, FTP_SETTINGS_PATH, FtpSettings};
pub use host::Host;
pub use peer::{Peer, PeerError, PeerInfo, Secret, Signature, check_configuration, endpoint};
pub use rotation::{
    Deletion, DeletionReason, Kept, KeptReason, Limits, NextByAge, PendingRetention, RetentionState,
    RotationPlan, StuckReason,
};
pub use settings::{Day, Frequency, HOURS, RETENTION_DAYS, Settings, SettingsError};
pub use status::{Check, Level, Progress, Space, State, Status, Usage, Versions};

use serde::{Deserialize, Serialize};
use std::ops::RangeInclusive;

/// TCP port of the control API (design section 2).
pub const CONTROL_PORT: u16 = 50000;
/// TCP port of the monitor's PostgreSQL for replication (design section 2).
pub const REPLICATION_PORT: u16 = 50001;
/// TCP port of the monitor's web page (design section 2).
pub const WEB_PORT: u16 = 443;
/// TCP port of FTP's control connection (design section 2).
pub const FTP_PORT: u16 = 2121;
/// TCP ports of FTP's passive data connections (design section 2).
pub const FTP_PASSIVE_PORTS: RangeInclusive<u16> = 30000..=30009;
/// The one user name of the API and of FTP (design section 2).
pub const USER: &str = "backup";
/// Longest comment of a backup, in characters.
pub const COMMENT_MAX: usize = 1000;
/// The API as an OpenAPI document, as `GET /v1/openapi.yaml` serves it.
pub const OPENAPI: &str = include_str!("openapi.yaml");
/// Stable name in the backup server's certificate; clients pin the certificate, never the address (design D14).
pub const SERVER_NAME: &str = "backup-server";

/// Body of every answer that is an error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// One sentence: the thing, the cause and the way out.
    pub error: String,
    /// The field of the request body that was wrong, as a path such as `port`, where one was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
}
