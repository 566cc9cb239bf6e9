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
/// Fewest and most of [`Limits::keep_last`].
pub const KEEP_LAST: RangeInclusive<u32> = 1..=1000;
/// Fewest and most of [`Limits::min_age_hours`] and [`Limits::retention_delay_hours`]: a month.
pub const HOURS_OF_A_MONTH: RangeInclusive<u32> = 0..=720;
/// Fewest and most of [`Limits::daily_percent`].
pub const DAILY_PERCENT: RangeInclusive<u8> = 1..=100;
/// Fewest and most of [`Limits::pinned`].
pub const PINNED: RangeInclusive<u32> = 0..=1000;
/// Fewest and most of [`Limits::on_demand_per_day`]: one a minute.
pub const ON_DEMAND_PER_DAY: RangeInclusive<u32> = 0..=1440;
/// Fewest and most of [`Limits::on_demand_seconds`].
pub const ON_DEMAND_SECONDS: RangeInclusive<u32> = 0..=86_400;

/// The limits of rotation that only the console sets (design D11, D14).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Below this free space is low, in bytes, in [`LOW_SPACE_BYTES`].
    pub low_space_bytes: u64,
    /// Below this share of the volume free space is low, in [`LOW_SPACE_PERCENT`].
    pub low_space_percent: u8,
    /// So many of the newest verified backups are never removed by age, in [`KEEP_VERIFIED`].
    pub keep_verified: u32,
    /// So many of the last backups of a monitor are never removed, whatever their state, in [`KEEP_LAST`].
    pub keep_last: u32,
    /// A younger backup is never removed, in hours, in [`HOURS_OF_A_MONTH`].
    pub min_age_hours: u32,
    /// At most this share of the list goes in a day because space is low, but one in any case, in [`DAILY_PERCENT`].
    pub daily_percent: u8,
    /// A retention period that the network shortens counts after so many hours, in [`HOURS_OF_A_MONTH`].
    pub retention_delay_hours: u32,
    /// The network may pin while fewer backups than this are pinned, in [`PINNED`].
    pub pinned: u32,
    /// The network may make so many backups a day beside the schedule, in [`ON_DEMAND_PER_DAY`].
    pub on_demand_per_day: u32,
    /// So many seconds lie between two of them, in [`ON_DEMAND_SECONDS`].
    pub on_demand_seconds: u32,
}

impl Default for Limits {
    /// 10 GB or a tenth of the volume; three verified, and the last three; a day, a quarter a day; three days; ten; 24 a day,
    /// one a minute (design D11, D14).
    fn default() -> Self {
        Self {
            low_space_bytes: 10_000_000_000,
            low_space_percent: 10,
            keep_verified: 3,
            keep_last: 3,
            min_age_hours: 24,
            daily_percent: 25,
            retention_delay_hours: 72,
            pinned: 10,
            on_demand_per_day: 24,
            on_demand_seconds: 60,
        }
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
        in_range("keep_verified", self.keep_verified, KEEP_VERIFIED)?;
        in_range("keep_last", self.keep_last, KEEP_LAST)?;
        in_range("min_age_hours", self.min_age_hours, HOURS_OF_A_MONTH)?;
        in_range("daily_percent", self.daily_percent, DAILY_PERCENT)?;
        in_range("retention_delay_hours", self.retention_delay_hours, HOURS_OF_A_MONTH)?;
        in_range("pinned", self.pinned, PINNED)?;
        in_range("on_demand_per_day", self.on_demand_per_day, ON_DEMAND_PER_DAY)?;
        in_range("on_demand_seconds", self.on_demand_seconds, ON_DEMAND_SECONDS)
    }

    /// So many backups may go in a day because space is low, of a list of so many at its begin.
    pub fn daily(&self, list: usize) -> usize {
        (list.saturating_mul(usize::from(self.daily_percent)) / 100).max(1)
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
    /// Space is low, and it is the next that may go: the oldest with a newer one of its day, or else the oldest.
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
    /// It is one of the last of its monitor ([`Limits::keep_last`]).
    Last,
    /// It is younger than [`Limits::min_age_hours`], or its age is unknown.
    Young,
}

/// Why space is low and nothing goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StuckReason {
    /// Every backup that is left is one that no rule may remove.
    Floor,
    /// As many went as may go in a day ([`Limits::daily_percent`]).
    DailyShare,
    /// What went did not let replay go on, which stands still at the same place again.
    InVain,
}

/// The retention period that counts, which may be another one than the settings name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetentionState {
    /// In days; `null`: as long as there is space.
    pub days: Option<u32>,
    /// A shorter one that the network has asked for.
    #[serde(default)]
    pub pending: Option<PendingRetention>,
    /// The console has refused the shorter one that the settings name.
    #[serde(default)]
    pub refused: bool,
}

/// A shorter retention period that counts later, unless the console decides otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingRetention {
    /// In days.
    pub days: Option<u32>,
    /// Seconds until it counts.
    pub seconds_left: u64,
    /// So many backups would go if it counted now.
    pub would_go: u64,
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
    /// Why nothing may go.
    #[serde(default)]
    pub stuck_reason: Option<StuckReason>,
    /// `false`: the clock was moved by more than a day in all, and nothing goes by age until the console confirms it.
    pub clock_is_trusted: bool,
    /// By how many seconds the clock was moved in all since the console confirmed it.
    #[serde(default)]
    pub clock_offset_seconds: u64,
    /// The retention period that counts.
    #[serde(default)]
    pub retention: RetentionState,
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
