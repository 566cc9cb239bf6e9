//! Status: one state, and named checks beside it (design section 5).

use crate::PeerInfo;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Answer of `GET /v1/status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The one state of the replica.
    pub state: State,
    /// Since when the state has this name.
    pub since: Timestamp,
    /// The state as a sentence for people, with addresses, cause and way out.
    pub message: String,
    /// The paired monitor.
    pub peer: Option<PeerInfo>,
    /// Everything that can go wrong silently, one by one.
    pub checks: Vec<Check>,
    /// Room on the data volume.
    pub space: Option<Space>,
    /// What runs here.
    pub versions: Versions,
}

/// State of the replica. Times in seconds, sizes in bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "kebab-case")]
pub enum State {
    /// No monitor is paired.
    NotConnected,
    /// The monitor is being asked who it is.
    Connecting,
    /// The first full copy runs.
    InitialSync(Progress),
    /// Every change arrives as it is made.
    Synchronized {
        /// WAL bytes between the monitor's position and what is replayed here.
        lag_bytes: u64,
        /// Seconds by which what is replayed here is behind the monitor.
        lag_seconds: f64,
    },
    /// Changes arrive, late.
    Lagging {
        /// As in [`State::Synchronized`].
        lag_bytes: u64,
        /// As in [`State::Synchronized`].
        lag_seconds: f64,
    },
    /// The monitor does not answer; replication goes on by itself when it does.
    Disconnected {
        /// Since when.
        since: Timestamp,
        /// Why, with address and port.
        reason: String,
        /// Seconds until the monitor's slot is lost, at the rate at which it wrote WAL, where that is known.
        slot_seconds_left: Option<u64>,
    },
    /// The stream cannot be continued: a full copy is needed, or runs.
    OutOfSync {
        /// Why.
        reason: String,
        /// How far the copy is, once it runs.
        copy: Option<Progress>,
    },
    /// The monitor's PostgreSQL cannot be replicated here.
    Incompatible {
        /// Which versions.
        reason: String,
    },
    /// The backup server is updating itself.
    Updating,
    /// Someone has to do something.
    Failed {
        /// What and why, with the way out.
        reason: String,
    },
}

/// How far a full copy is. Sizes in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Copied.
    pub done: u64,
    /// To copy, an estimate until the copy has begun.
    pub total: u64,
    /// 0 to 100.
    pub percent: u8,
    /// Bytes per second since the beginning.
    pub rate: u64,
    /// Seconds left at this rate; unknown at the beginning.
    pub seconds_left: Option<u64>,
}

impl State {
    /// The state's name, as in JSON.
    pub fn name(&self) -> &'static str {
        match self {
            Self::NotConnected => "not-connected",
            Self::Connecting => "connecting",
            Self::InitialSync(_) => "initial-sync",
            Self::Synchronized { .. } => "synchronized",
            Self::Lagging { .. } => "lagging",
            Self::Disconnected { .. } => "disconnected",
            Self::OutOfSync { .. } => "out-of-sync",
            Self::Incompatible { .. } => "incompatible",
            Self::Updating => "updating",
            Self::Failed { .. } => "failed",
        }
    }
}

/// How a check stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Needs attention.
    Warn,
    /// Protection is not given.
    Fail,
}

/// One named check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// Name that does not change, such as `replication`.
    pub name: String,
    /// How it stands.
    pub level: Level,
    /// One sentence.
    pub message: String,
}

/// Room on the data volume, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Space {
    /// Size of the volume.
    pub total: u64,
    /// Free for replica and backups.
    pub free: u64,
    /// What takes the room, when that was measured last.
    pub usage: Option<Usage>,
    /// When space is expected to be low, so that rotation deletes the oldest backups; `None`: not in sight.
    pub low_at: Option<Timestamp>,
}

/// What takes the room on the data volume, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// When it was measured.
    pub at: Timestamp,
    /// The replica.
    pub replica: u64,
    /// What all backups together take beside what they share with the replica.
    pub backups: u64,
}

/// Versions of what runs here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versions {
    /// The backup server's own.
    pub server: String,
    /// PostgreSQL major that it replicates.
    pub postgresql: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_in_json_is_the_name_of_the_state() {
        let states = [
            State::NotConnected,
            State::Connecting,
            State::InitialSync(Progress { done: 1, total: 2, percent: 50, rate: 1, seconds_left: None }),
            State::Synchronized { lag_bytes: 0, lag_seconds: 0.0 },
            State::Lagging { lag_bytes: 0, lag_seconds: 0.0 },
            State::Disconnected {
                since: Timestamp::UNIX_EPOCH,
                reason: String::new(),
                slot_seconds_left: None,
            },
            State::OutOfSync { reason: String::new(), copy: None },
            State::Incompatible { reason: String::new() },
            State::Updating,
            State::Failed { reason: String::new() },
        ];
        for state in states {
            assert_eq!(serde_json::to_value(&state).unwrap()["name"], state.name());
        }
    }
}
