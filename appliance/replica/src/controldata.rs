//! What `pg_controldata` prints: the facts about a cluster that need no server and no foreign configuration file.

use crate::Lsn;
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use std::collections::HashMap;
use std::fmt;

/// `Database cluster state`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClusterState {
    /// A primary that was stopped in order.
    ShutDown,
    /// A standby that was stopped in order.
    ShutDownInRecovery,
    /// A standby that runs, or was cut.
    InArchiveRecovery,
    /// A primary that runs, or was cut.
    InProduction,
    /// On the way from one to another.
    #[default]
    Other,
}

impl ClusterState {
    fn of(text: &str) -> Self {
        match text {
            "shut down" => Self::ShutDown,
            "shut down in recovery" => Self::ShutDownInRecovery,
            "in archive recovery" => Self::InArchiveRecovery,
            "in production" => Self::InProduction,
            _ => Self::Other,
        }
    }
}

impl fmt::Display for ClusterState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ShutDown => "shut down",
            Self::ShutDownInRecovery => "shut down in recovery",
            Self::InArchiveRecovery => "in archive recovery",
            Self::InProduction => "in production",
            Self::Other => "between two states",
        })
    }
}

/// The lines of `pg_controldata` that the product uses.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ControlData {
    /// Database system identifier.
    pub system_identifier: u64,
    /// What it was doing when this was written.
    #[serde(default)]
    pub state: ClusterState,
    /// `Latest checkpoint location`
    #[serde(default)]
    pub checkpoint: LsnText,
    /// `Time of latest checkpoint`, by the clock of the machine that wrote it; `None` where it cannot be read.
    #[serde(default)]
    pub checkpoint_time: Option<Timestamp>,
    /// `Bytes per WAL segment`
    #[serde(default)]
    pub wal_segment_bytes: u64,
    /// Latest checkpoint's timeline.
    pub timeline: u32,
    /// Timeline of the minimum recovery ending location; 0 where there is none.
    pub min_recovery_timeline: u32,
    /// `Minimum recovery ending location`; 0/0 on a primary.
    pub min_recovery: LsnText,
    /// `Latest checkpoint's REDO location`: where recovery begins.
    #[serde(default)]
    pub redo: LsnText,
    /// Database block size in bytes.
    pub block_size: u32,
    /// Whether data pages carry checksums.
    pub checksums: bool,
    /// `max_connections setting`
    pub max_connections: u32,
    /// `max_worker_processes setting`
    pub max_worker_processes: u32,
    /// `max_wal_senders setting`
    pub max_wal_senders: u32,
    /// `max_prepared_xacts setting`
    pub max_prepared_transactions: u32,
    /// `max_locks_per_xact setting`
    pub max_locks_per_transaction: u32,
}

/// An LSN as text, checked.
pub type LsnText = String;

/// Output of `pg_controldata` that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ControlDataError {
    /// A line is not there.
    #[error("pg_controldata printed no line {0:?}; is it PostgreSQL 17's and run with LC_ALL=C?")]
    Missing(&'static str),
    /// A value has another form.
    #[error("pg_controldata's {name:?} is {value:?}, which is no value for it")]
    Malformed {
        /// The line's name.
        name: &'static str,
        /// What stood there.
        value: String,
    },
}

impl ControlData {
    /// Reads the output of `LC_ALL=C TZ=UTC pg_controldata`.
    ///
    /// # Errors
    /// Names the line that is missing or malformed.
    pub fn parse(output: &str) -> Result<Self, ControlDataError> {
        let lines: HashMap<&str, &str> = output
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(k, v)| (k.trim(), v.trim()))
            .collect();
        let text = |name: &'static str| lines.get(name).copied().ok_or(ControlDataError::Missing(name));
        fn number<T: std::str::FromStr>(name: &'static str, value: &str) -> Result<T, ControlDataError> {
            value.parse().map_err(|_| ControlDataError::Malformed { name, value: value.into() })
        }
        let setting = |name: &'static str| text(name).and_then(|value| number::<u32>(name, value));
        let redo = "Latest checkpoint's REDO location";
        let min_recovery = "Minimum recovery ending location";
        let checkpoint = "Latest checkpoint location";
        Ok(Self {
            system_identifier: number("Database system identifier", text("Database system identifier")?)?,
            state: ClusterState::of(text("Database cluster state")?),
            checkpoint: number::<Lsn>(checkpoint, text(checkpoint)?)?.to_string(),
            checkpoint_time: time(text("Time of latest checkpoint")?),
            wal_segment_bytes: setting("Bytes per WAL segment")?.into(),
            timeline: setting("Latest checkpoint's TimeLineID")?,
            min_recovery_timeline: setting("Min recovery ending loc's timeline")?,
            min_recovery: number::<Lsn>(min_recovery, text(min_recovery)?)?.to_string(),
            redo: number::<Lsn>(redo, text(redo)?)?.to_string(),
            block_size: setting("Database block size")?,
            checksums: setting("Data page checksum version")? != 0,
            max_connections: setting("max_connections setting")?,
            max_worker_processes: setting("max_worker_processes setting")?,
            max_wal_senders: setting("max_wal_senders setting")?,
            max_prepared_transactions: setting("max_prepared_xacts setting")?,
            max_locks_per_transaction: setting("max_locks_per_xact setting")?,
        })
    }

    /// The timeline on which a backup that was made on timeline `made_on` is recovered. Not the latest that its `pg_wal` knows:
    /// a monitor that went another way has left its history there, on which this data is not. One that was promoted
    /// already is on a newer one than when it was made.
    pub fn recovery_timeline(&self, made_on: u32) -> u32 {
        made_on.max(self.timeline).max(self.min_recovery_timeline)
    }

    /// Whether a cluster that was recovered, promoted and stopped is a database of its own: it was stopped as a primary, on
    /// `timeline`, to which its promotion led, and after `target`.
    ///
    /// # Errors
    /// What it is instead, as a sentence without full stop.
    pub fn has_recovered(&self, timeline: u32, target: Lsn) -> Result<(), String> {
        if self.state != ClusterState::ShutDown || self.timeline != timeline {
            return Err(format!(
                "it was not promoted: its state is {}, on timeline {} and not {timeline}",
                self.state, self.timeline
            ));
        }
        match self.checkpoint.parse::<Lsn>() {
            Ok(checkpoint) if checkpoint >= target => Ok(()),
            _ => Err(format!("its last checkpoint is at {}, before {target}", self.checkpoint)),
        }
    }

    /// How far a recovery has come at least.
    pub fn recovered_at_least(&self) -> Option<Lsn> {
        let known = [&self.min_recovery, &self.checkpoint].map(|lsn| lsn.parse::<Lsn>().ok());
        known.into_iter().flatten().max()
    }

    /// Values for tests, those of a fresh cluster.
    #[cfg(test)]
    pub(crate) fn example() -> Self {
        Self {
            system_identifier: 7_549_000_000_000_000_001,
            state: ClusterState::InProduction,
            checkpoint: "0/14EE5B8".into(),
            checkpoint_time: "2026-11-30T14:58:03Z".parse().ok(),
            wal_segment_bytes: 16 << 20,
            timeline: 1,
            min_recovery_timeline: 0,
            min_recovery: "0/0".into(),
            redo: "0/14EE5B8".into(),
            block_size: 8192,
            checksums: true,
            max_connections: 100,
            max_worker_processes: 8,
            max_wal_senders: 10,
            max_prepared_transactions: 0,
            max_locks_per_transaction: 64,
        }
    }
}

/// A time as `%c` of strftime(3) writes it under `LC_ALL=C`, in UTC.
fn time(text: &str) -> Option<Timestamp> {
    let civil = DateTime::strptime("%a %b %e %H:%M:%S %Y", text).ok()?;
    TimeZone::UTC.to_timestamp(civil).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
pg_control version number:            1700
Database system identifier:           7549000000000000001
Database cluster state:               in production
Latest checkpoint location:           0/14EE5B8
Latest checkpoint's REDO location:    0/14EE5B8
Latest checkpoint's TimeLineID:       1
Minimum recovery ending location:     0/0
Min recovery ending loc's timeline:   0
max_connections setting:              100
max_worker_processes setting:         8
max_wal_senders setting:              10
max_prepared_xacts setting:           0
max_locks_per_xact setting:           64
Database block size:                  8192
Bytes per WAL segment:                16777216
Time of latest checkpoint:            Mon Nov 30 14:58:03 2026
Data page checksum version:           1
Date/time type storage:               64-bit integers
";

    #[test]
    fn a_fresh_cluster_is_read() {
        assert_eq!(ControlData::parse(OUTPUT).unwrap(), ControlData::example());
    }

    #[test]
    fn only_one_that_was_promoted_and_stopped_after_its_target_has_recovered() {
        let of = |state, timeline, checkpoint: &str| ControlData {
            state,
            timeline,
            checkpoint: checkpoint.into(),
            ..ControlData::example()
        };
        for (control, expected) in [
            (of(ClusterState::ShutDown, 2, "0/6"), ""),
            (of(ClusterState::ShutDown, 2, "0/5"), ""),
            (of(ClusterState::ShutDown, 2, "0/4"), "its last checkpoint is at 0/4, before 0/5"),
            (of(ClusterState::ShutDown, 1, "0/6"), "it was not promoted"),
            (of(ClusterState::ShutDownInRecovery, 2, "0/6"), "it was not promoted"),
            (of(ClusterState::InProduction, 2, "0/6"), "it was not promoted"),
            (of(ClusterState::InArchiveRecovery, 1, "0/6"), "it was not promoted"),
        ] {
            let judged = control.has_recovered(2, Lsn(5)).err().unwrap_or_default();
            assert!(judged.starts_with(expected) && judged.is_empty() == expected.is_empty(), "{judged}");
        }
        assert_eq!(of(ClusterState::Other, 1, "0/7").recovered_at_least(), Some(Lsn(7)));
    }

    #[test]
    fn a_time_that_cannot_be_read_is_unknown() {
        assert_eq!(time("Sat Jan  3 04:05:06 2026"), "2026-01-03T04:05:06Z".parse().ok());
        assert_eq!(time("yesterday"), None);
    }

    #[test]
    fn the_line_that_is_wrong_is_named() {
        let without = OUTPUT.replace("Database block size", "Something");
        assert_eq!(ControlData::parse(&without), Err(ControlDataError::Missing("Database block size")));
        let odd =
            OUTPUT.replace("max_connections setting:              100", "max_connections setting: many");
        assert_eq!(
            ControlData::parse(&odd),
            Err(ControlDataError::Malformed { name: "max_connections setting", value: "many".into() })
        );
    }
}
