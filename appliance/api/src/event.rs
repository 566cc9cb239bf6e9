//! Events: what happened, for the history of the monitor's page and the console (design section 6).

use crate::Level;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Events that are kept; older ones go.
pub const EVENTS_KEPT: usize = 1000;

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Number that grows by one with each event, also over restarts.
    pub number: u64,
    /// When.
    pub at: Timestamp,
    /// What kind of thing, a name that does not change.
    pub kind: EventKind,
    /// Whether somebody should care.
    pub level: Level,
    /// One sentence.
    pub message: String,
    /// The backup that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<String>,
}

/// Kinds of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EventKind {
    /// The backup server's daemon started.
    Started,
    /// A monitor was paired, or followed to another address.
    Paired,
    /// The state has another name now.
    State,
    /// A full copy ended, well or not.
    FullCopy,
    /// A backup was made, or could not be made.
    Backup,
    /// A backup was verified, or failed.
    Verification,
    /// Backups were deleted, or nothing may go although space is low.
    Rotation,
    /// Settings, pins or comments were changed.
    Settings,
    /// A disk is missing or fails, or all is well again.
    Disks,
}

/// Answer of `GET /v1/events`, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventList {
    /// The events.
    pub events: Vec<Event>,
}
