//! What `pg_controldata` prints: the facts about a cluster that need no server and no foreign configuration file.

use crate::Lsn;
use std::collections::HashMap;

/// The lines of `pg_controldata` that the product uses.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ControlData {
    /// Database system identifier.
    pub system_identifier: u64,
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
    /// Reads the output of `LC_ALL=C pg_controldata`.
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
        Ok(Self {
            system_identifier: number("Database system identifier", text("Database system identifier")?)?,
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

    /// Values for tests, those of a fresh cluster.
    #[cfg(test)]
    pub(crate) fn example() -> Self {
        Self {
            system_identifier: 7_549_000_000_000_000_001,
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

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
pg_control version number:            1700
Database system identifier:           7549000000000000001
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
Data page checksum version:           1
Date/time type storage:               64-bit integers
";

    #[test]
    fn a_fresh_cluster_is_read() {
        assert_eq!(ControlData::parse(OUTPUT).unwrap(), ControlData::example());
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
