//! What rotation would do: the answer of `GET /v1/rotation/plan` (design D11).

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Why a backup goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeletionReason {
    /// It is older than the retention period.
    Age,
    /// Space is low, and it is the oldest that may go.
    Space,
    /// Somebody asked for it at the console.
    OnDemand,
}

/// A backup that goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deletion {
    /// Whose backup.
    pub monitor: Uuid,
    /// Its id.
    pub id: String,
    /// Why.
    pub why: DeletionReason,
}

/// Why rotation leaves a backup alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeptReason {
    /// Somebody pinned it.
    Pinned,
    /// It is the newest one of its monitor that was verified.
    NewestVerified,
    /// It is the newest one of its monitor, and none was verified yet.
    Newest,
    /// It was made before a resync, and the new replica has no verified backup yet.
    BeforeResync,
}

/// A backup that rotation leaves alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Whose backup.
    pub monitor: Uuid,
    /// Its id.
    pub id: String,
    /// Why.
    pub why: KeptReason,
}

/// What would go next, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RotationPlan {
    /// What goes at the next run, oldest first. Of those that go for space only the first one is known: after each
    /// deletion it is measured again.
    pub now: Vec<Deletion>,
    /// What goes when space becomes low, if it does.
    pub next_for_space: Option<Deletion>,
    /// When the next one becomes older than the retention period. It goes then if newer ones were verified.
    pub next_by_age: Option<NextByAge>,
    /// What no rule may remove, and why.
    pub kept: Vec<Kept>,
    /// Space is low and nothing may go.
    pub stuck: bool,
    /// `false`: the clock has jumped by more than a day, and nothing goes by age until that is confirmed at the console.
    pub clock_is_trusted: bool,
}

/// The next backup that becomes too old.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextByAge {
    /// Whose backup.
    pub monitor: Uuid,
    /// Its id.
    pub id: String,
    /// When it is older than the retention period.
    pub at: Timestamp,
}
