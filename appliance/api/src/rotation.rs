//! What rotation would do: the answer of `GET /v1/rotation/plan` (design D11).

use crate::SettingsError;
use crate::settings::in_range;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::ops::RangeInclusive;
use uuid::Uuid;

/// Fewest and most bytes of [`Limits::low_space_bytes`]: rotation must begin before replay stops (at 1 GiB).
pub const LOW_SPACE_BYTES: RangeInclusive<u64> = 2_500_000_000..=10_000_000_000_000;
/// Fewest and most of [`Limits::low_space_percent`].
pub const LOW_SPACE_PERCENT: RangeInclusive<u8> = 1..=50;
/// Fewest and most of [`Limits::keep_verified`].
pub const KEEP_VERIFIED: RangeInclusive<u32> = 1..=1000;

/// The limits of rotation that only the console sets (design D11, D14).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Below this free space is low, in bytes, in [`LOW_SPACE_BYTES`].
    pub low_space_bytes: u64,
    /// Below this share of the volume free space is low, in [`LOW_SPACE_PERCENT`].
    pub low_space_percent: u8,
    /// So many of the newest verified backups are never removed by age, in [`KEEP_VERIFIED`].
    pub keep_verified: u32,
}

impl Default for Limits {
    /// 10 GB or a tenth of the volume, and three (design D11).
    fn default() -> Self {
        Self { low_space_bytes: 10_000_000_000, low_space_percent: 10, keep_verified: 3 }
    }
}

impl Limits {
    /// Checks every field against its range.
    ///
    /// # Errors
    /// The first field that is out of its range, with the range.
    pub fn check(&self) -> Result<(), SettingsError> {
        in_range("low_space_bytes", self.low_space_bytes, LOW_SPACE_BYTES)?;
        in_range("low_space_percent", self.low_space_percent, LOW_SPACE_PERCENT)?;
        in_range("keep_verified", self.keep_verified, KEEP_VERIFIED)
    }

    /// Free space is low below this, in bytes, on a volume of `total` bytes.
    pub fn low_space(&self, total: u64) -> u64 {
        self.low_space_bytes.max(total / 100 * u64::from(self.low_space_percent))
    }
}

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
    /// It is the newest one of its monitor, or the newest that did not fail where none was verified, and waits for its proof.
    Newest,
    /// It was made before a resync, and the new replica has no verified backup yet.
    BeforeResync,
    /// It is being downloaded, or was until a short while ago and its end is missing.
    Downloading,
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
    /// The limits that the console has set.
    pub limits: Limits,
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
