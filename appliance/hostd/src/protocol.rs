//! Requests to `hostd` and its replies: one JSON document a line, one request a connection, and replies until the last.

use api::{
    Backup, Collation, Deletion, Depth, FtpSettings, Limits, MonitorRef, Peer, Reason, RetentionState,
    RotationPlan, Signature, Usage,
};
use jiff::Timestamp;
use replica::{ControlData, CopyProgress};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use storage::life::{Incoming, Report, Scrubbed};
use uuid::Uuid;

/// Where the program is, as people at the console call it.
pub const PROGRAM: &str = "/usr/lib/infimonitor/hostd";
/// Where `hostd` listens.
pub const SOCKET: &str = "/run/infimonitor/hostd.sock";
/// Longest line in bytes; a peer is the longest that anyone sends, and the API takes shorter ones only.
pub const MAX_FRAME: u64 = 1024 * 1024;

/// What may be asked. The content has a place of its own: beside its name no bare value and no list could be sent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "request", content = "content", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Copy the monitor's cluster into a new replica. Replies [`Reply::Progress`] and, where it has to make room,
    /// [`Reply::Deleted`] until [`Reply::Done`].
    FullCopy {
        /// Where to copy from.
        peer: Box<Peer>,
        /// The monitor's tablespaces.
        tablespaces: Vec<Tablespace>,
        /// Whether the copy takes the place of a replica that is there, once it is complete.
        replace: bool,
    },
    /// Say whether [`Request::FullCopy`] would be begun now, before anything is done for it. Replies [`Reply::Done`], or
    /// [`Reply::Refused`] where there is too little room.
    TryCopy {
        /// Whose copy.
        monitor: Uuid,
        /// Bytes that are announced of it so far.
        announced: u64,
    },
    /// Pair with `peer`, or say that it was paired before. Replies [`Reply::Admitted`].
    AdmitPeer {
        /// Whom.
        peer: Box<Peer>,
        /// It is paired now, and not only followed.
        is_new: bool,
        /// Only say whether it would be admitted: nothing is kept, and what the console has accepted is not used up.
        is_trial: bool,
    },
    /// What is known of the paired monitor. Replies [`Reply::Pairing`].
    Pairing,
    /// A monitor may be paired once that is not the paired one, or has another key, role, slot or database. Replies
    /// [`Reply::Done`]. For root alone.
    AcceptPeer {
        /// Its UUID.
        monitor: Uuid,
        /// Its key, as `api::Fingerprint` writes it.
        key: String,
    },
    /// The next statement of the monitor may have this number, whatever the clock and the statement before it say.
    /// Replies [`Reply::Done`]. For root alone.
    ConfirmPeer {
        /// The number, as the refusal says it.
        number: u64,
    },
    /// Which monitors were refused lately that the console might accept. Replies [`Reply::RefusedPeers`].
    RefusedPeers,
    /// Let the paired monitor go: its replica stops, a copy of it is given up, its backups stay. Replies
    /// [`Reply::Done`]. For root alone.
    ReleasePeer,
    /// Start the replica, following `peer`, unless it runs already. Replies [`Reply::Done`].
    StartReplica {
        /// Whom to follow.
        peer: Box<Peer>,
    },
    /// What the processes of the replica say in their titles; [`Reply::Working`].
    Working {
        /// The monitor's UUID.
        monitor: Uuid,
    },
    /// Stop the replica. Replies [`Reply::Done`] when it has stopped.
    StopReplica {
        /// The monitor's UUID.
        monitor: Uuid,
    },
    /// Give the replica up, so that its room is free and a full copy is made. What it has and no backup has is at the monitor
    /// alone then. Replies [`Reply::Done`]. For root alone.
    DiscardReplica {
        /// The monitor's UUID.
        monitor: Uuid,
    },
    /// Check the last full copy against its own list of files and checksums. Replies [`Reply::CopyVerified`].
    VerifyCopy {
        /// The monitor's UUID.
        monitor: Uuid,
    },
    /// Another database may take the place of the replica. Replies [`Reply::Done`]. For root alone.
    AcceptDatabase {
        /// The monitor's UUID.
        monitor: Uuid,
        /// `Database system identifier` of the other database.
        system_identifier: u64,
    },
    /// Which database was accepted. Replies [`Reply::AcceptedDatabase`].
    AcceptedDatabase {
        /// The monitor's UUID.
        monitor: Uuid,
    },
    /// Measure the files of the replica's databases, those of other tablespaces aside. Replies [`Reply::Bytes`].
    ReplicaBytes {
        /// The monitor's UUID.
        monitor: Uuid,
    },
    /// Replies [`Reply::Replica`].
    Replica {
        /// The monitor's UUID.
        monitor: Uuid,
    },
    /// Snapshot the replica. Replies [`Reply::Backup`].
    CreateBackup(Box<BackupRequest>),
    /// Change what is on record of a backup. Replies [`Reply::Backup`]. Unpinning is for root alone.
    ChangeBackup {
        /// Whose backup.
        monitor: Uuid,
        /// Its id.
        id: String,
        /// What changes.
        change: Change,
    },
    /// Delete a backup. Replies [`Reply::Done`]. For root alone.
    DeleteBackup {
        /// Whose backup.
        monitor: Uuid,
        /// Its id.
        id: String,
    },
    /// Prove that a backup restores. Replies [`Reply::Backup`], with the result or the trouble on record.
    VerifyBackup {
        /// Whose backup.
        monitor: Uuid,
        /// Its id.
        id: String,
        /// How much is read.
        depth: Depth,
    },
    /// Read a backup from end to end and compare it with what it was. Replies [`Reply::Backup`], with the result or the trouble
    /// on record; given up when nobody waits any more.
    ReadBackup {
        /// Whose backup.
        monitor: Uuid,
        /// Its id.
        id: String,
    },
    /// Delete what is too old or has to make room. Replies [`Reply::Rotated`].
    Rotate {
        /// Retention period in days.
        retention_days: Option<u32>,
    },
    /// What [`Request::Rotate`] would do. Replies [`Reply::RotationPlan`].
    RotationPlan {
        /// Retention period in days.
        retention_days: Option<u32>,
    },
    /// Replies [`Reply::Limits`].
    Limits,
    /// Set the limits of rotation. Replies [`Reply::Done`]. For root alone.
    SetLimits(Limits),
    /// Replies [`Reply::Ftp`].
    Ftp,
    /// Set how backups are served over FTP. Replies [`Reply::Done`]. For root alone.
    SetFtp(FtpSettings),
    /// Replies [`Reply::Access`].
    Access,
    /// Open the ports to the paired monitor alone, or to everybody. Replies [`Reply::Done`]. For root alone.
    SetPeerOnly(bool),
    /// What the machine's disks are like. Replies [`Reply::Disks`].
    Disks,
    /// Have a disk take another one's place. Replies [`Reply::Step`] until [`Reply::Done`]; goes on when nobody listens any
    /// more. For root alone.
    ReplaceDisk {
        /// Device file of the disk that leaves; `None`: one that is missing.
        old: Option<PathBuf>,
        /// What takes its place.
        new: Incoming,
        /// Whether what is on the old one is erased then.
        wipe: bool,
    },
    /// Take in one more disk. Replies as [`Request::ReplaceDisk`]. For root alone.
    AddDisk(Incoming),
    /// Use all of disks that have grown. Replies [`Reply::Grown`]. For root alone.
    GrowDisks,
    /// Have everything be kept as the disks allow, as after a change that was cut. Replies as [`Request::ReplaceDisk`]. For root
    /// alone.
    BalanceDisks,
    /// Count the disks' errors anew. Replies [`Reply::Done`]. For root alone.
    ClearDiskErrors,
    /// Read all that is stored, and mend what is wrong. Replies [`Reply::Step`] until [`Reply::Scrubbed`]. For root alone.
    Scrub,
    /// Measure what takes the room. Replies [`Reply::Usage`].
    MeasureUsage {
        /// Also what each backup alone takes, which may take hours.
        each: bool,
    },
    /// The clock is right although it was moved. Replies [`Reply::Done`]. For root alone.
    ConfirmClock,
    /// Which retention period counts. Replies [`Reply::Retention`].
    Retention,
    /// A shorter retention period that waits counts at once, or is refused. Replies [`Reply::Done`]. For root alone.
    DecideRetention {
        /// So many days count, if that is what waits; `None`: what waits is refused.
        confirm: Option<u32>,
    },
    /// Another day's share of the list may go for space at once. Replies [`Reply::Done`]. For root alone.
    AllowRotation,
}

impl Request {
    /// Whether only root may ask it: what the network password must not be able to do (design D14).
    pub fn is_for_root(&self) -> bool {
        matches!(
            self,
            Self::DeleteBackup { .. }
                | Self::ConfirmClock
                | Self::DecideRetention { .. }
                | Self::AllowRotation
                | Self::AcceptDatabase { .. }
                | Self::DiscardReplica { .. }
                | Self::AcceptPeer { .. }
                | Self::ConfirmPeer { .. }
                | Self::ReleasePeer
                | Self::SetLimits(_)
                | Self::SetFtp(_)
                | Self::SetPeerOnly(_)
                | Self::ReplaceDisk { .. }
                | Self::AddDisk(_)
                | Self::GrowDisks
                | Self::BalanceDisks
                | Self::ClearDiskErrors
                | Self::Scrub
                | Self::ChangeBackup { change: Change::Pinned(false), .. }
        )
    }
}

/// Why the network process is refused something that the console may do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{error}")]
pub struct Refused {
    /// The thing, the cause and the way out.
    pub error: String,
    /// Seconds until it may be tried again; `None`: waiting does not help.
    pub retry_after: Option<u64>,
}

/// What is known of the disks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Disks {
    /// How they are.
    pub report: Report,
    /// The last scrub that came to its end.
    pub scrub: Option<Scrub>,
    /// Since when the machine is there, where that is known.
    pub provisioned: Option<Timestamp>,
    /// What is done with them now, as a sentence's part.
    pub under_way: Option<String>,
}

/// A scrub that came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scrub {
    /// When.
    pub at: Timestamp,
    /// What it found.
    pub found: Scrubbed,
}

/// Who may come to the ports.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    /// The paired monitor alone.
    pub peer_only: bool,
    /// Its addresses, as they were when it was followed last.
    pub peer: Vec<IpAddr>,
}

/// What is known of the paired monitor.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pairing {
    /// None is paired.
    #[default]
    None,
    /// One was paired, and the record of it is lost: no new one is admitted without the console.
    Lost,
    /// This one is.
    Paired {
        /// Its UUID.
        monitor: Uuid,
        /// Its key, as `api::Fingerprint` writes it.
        key: String,
        /// Its signing key is pinned; otherwise what it says of itself changes only by the console.
        has_signing_key: bool,
        /// The record was lost, and it was followed when that was found; the console has not confirmed it yet.
        is_derived: bool,
    },
}

/// A monitor that wanted to be paired and was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedPeer {
    /// Its number in the list, which no other one gets while `hostd` runs: between looking and accepting, others come.
    pub number: u32,
    /// Its UUID.
    pub monitor: Uuid,
    /// Its key, as `api::Fingerprint` writes it.
    pub key: String,
    /// Where it says that it is.
    pub endpoint: String,
}

/// What changes in a backup's record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// The free text.
    Comment(String),
    /// Whether rotation leaves it alone.
    Pinned(bool),
}

/// What the manifest says that only the caller knows; the rest `hostd` finds out itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackupRequest {
    /// Whose replica.
    pub monitor: MonitorRef,
    /// Why.
    pub reason: Reason,
    /// Free text.
    pub comment: String,
    /// `server_version` of the standby.
    pub version: String,
    /// WAL flushed by the standby at the time of asking, up to the end of a record.
    pub flushed_lsn: String,
    /// Timeline that is replayed.
    pub timeline: u32,
    /// A superuser that may log in.
    pub superuser: Option<String>,
    /// Locales of the databases.
    pub collations: Vec<Collation>,
    /// The monitor's configuration files, as in [`Peer`].
    pub configuration: BTreeMap<String, String>,
    /// The monitor's signature of them and its version, as in [`Peer`].
    #[serde(default)]
    pub signature: Option<Signature>,
}

/// A tablespace of the monitor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tablespace {
    /// `pg_tablespace.oid`
    pub oid: u32,
    /// `pg_tablespace_location(oid)` on the monitor, which is bytes: as [`replica::name_of`] reads it.
    pub location: String,
}

/// What the check of a full copy found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "check", rename_all = "kebab-case")]
pub enum CopyCheck {
    /// Every file is what the monitor sent.
    Good,
    /// Some file is not.
    Damaged {
        /// Which, and in what way.
        problem: String,
    },
    /// Nothing is kept for a check: it was done before, or what was kept was dropped to make room.
    Nothing,
}

/// State of a replica as `hostd` sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReplicaInfo {
    /// There is a complete copy.
    pub present: bool,
    /// Its PostgreSQL runs.
    pub running: bool,
    /// A full copy was made that is not verified yet.
    pub unverified: bool,
    /// What `pg_control` says, where there is a copy.
    pub control: Option<ControlData>,
    /// Folder of its PostgreSQL's socket.
    pub socket_dir: String,
    /// The last lines of its PostgreSQL's log.
    pub log: Vec<String>,
    /// The console has let the monitor go.
    #[serde(default)]
    pub is_released: bool,
    /// A tablespace of it lies outside, so no backup can be made of it: as a sentence without full stop.
    #[serde(default)]
    pub outside: Option<String>,
}

/// What `hostd` answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reply", content = "content", rename_all = "kebab-case")]
pub enum Reply {
    /// Not the last reply: how far the copy is.
    Progress(CopyProgress),
    /// Not the last reply: what is done with the disks.
    Step {
        /// What, as a sentence's part.
        step: String,
        /// How much of it is done, where that is known.
        percent: Option<f32>,
    },
    /// Not the last reply: this backup was deleted to make room for the copy.
    Deleted(Deletion),
    /// Done, nothing to tell.
    Done,
    /// Answer to [`Request::Replica`].
    Replica(ReplicaInfo),
    /// Answer to [`Request::Working`].
    Working(replica::Working),
    /// Answer to [`Request::VerifyCopy`].
    CopyVerified(CopyCheck),
    /// Answer to [`Request::AcceptedDatabase`].
    AcceptedDatabase {
        /// `Database system identifier`, where one was accepted.
        system_identifier: Option<u64>,
    },
    /// Answer to [`Request::AdmitPeer`].
    Admitted {
        /// Why it may not be paired, as a sentence without full stop.
        refused: Option<String>,
    },
    /// Answer to [`Request::Pairing`].
    Pairing(Pairing),
    /// Answer to [`Request::RefusedPeers`], the last one first.
    RefusedPeers(Vec<RefusedPeer>),
    /// Answer to [`Request::ReplicaBytes`].
    Bytes {
        /// The sum of the files' sizes.
        bytes: u64,
    },
    /// Answer to [`Request::Limits`].
    Limits {
        /// The limits.
        limits: Limits,
        /// What was wrong with what the console has decided, as a sentence without full stop, where something was.
        problem: Option<String>,
    },
    /// Answer to [`Request::Ftp`].
    Ftp(FtpSettings),
    /// Answer to [`Request::Access`].
    Access(Access),
    /// Answer to [`Request::Disks`].
    Disks(Box<Disks>),
    /// Answer to [`Request::GrowDisks`]: those that had grown.
    Grown(Vec<String>),
    /// Answer to [`Request::Scrub`].
    Scrubbed(Scrub),
    /// The new backup, or what is on record of one now.
    Backup(Box<Backup>),
    /// What rotation did.
    Rotated {
        /// What it deleted, in order.
        deleted: Vec<Deletion>,
        /// Space is low and nothing may go.
        stuck: bool,
    },
    /// What rotation would do.
    RotationPlan(Box<RotationPlan>),
    /// Answer to [`Request::Retention`].
    Retention(RetentionState),
    /// What takes the room.
    Usage {
        /// As a whole.
        usage: Usage,
        /// Bytes that each backup alone takes, by id; `None`: not asked for.
        exclusive: Option<BTreeMap<String, u64>>,
    },
    /// It is not done, though nothing is wrong: the network process may not, or not now.
    Refused(Refused),
    /// It could not be done.
    Failed {
        /// The thing, the cause and the way out.
        error: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_destroys_is_for_root() {
        let (monitor, id) = (Uuid::from_u128(7), String::from("20261123T205430Z"));
        let change = |change| Request::ChangeBackup { monitor, id: id.clone(), change };
        let table = [
            (Request::DeleteBackup { monitor, id: id.clone() }, true),
            (change(Change::Pinned(false)), true),
            (change(Change::Pinned(true)), false),
            (change(Change::Comment(String::new())), false),
            (Request::ConfirmClock, true),
            (Request::DecideRetention { confirm: Some(1) }, true),
            (Request::AllowRotation, true),
            (Request::Retention, false),
            (Request::SetLimits(Limits::default()), true),
            (Request::SetFtp(FtpSettings::default()), true),
            (Request::SetPeerOnly(false), true),
            (Request::Access, false),
            (Request::AddDisk(Incoming { device: "/dev/sdb".into(), erase: false }), true),
            (Request::GrowDisks, true),
            (Request::BalanceDisks, true),
            (Request::ClearDiskErrors, true),
            (Request::Scrub, true),
            (Request::Disks, false),
            (Request::AcceptDatabase { monitor, system_identifier: 7 }, true),
            (Request::AcceptedDatabase { monitor }, false),
            (Request::TryCopy { monitor, announced: 7 }, false),
            (Request::AcceptPeer { monitor, key: "sha256//x".into() }, true),
            (Request::ConfirmPeer { number: 7 }, true),
            (Request::Pairing, false),
            (Request::ReleasePeer, true),
            (Request::RefusedPeers, false),
            (Request::Limits, false),
            (Request::Rotate { retention_days: Some(1) }, false),
        ];
        for (request, expected) in table {
            assert_eq!(request.is_for_root(), expected, "{request:?}");
            let line = serde_json::to_string(&request).unwrap();
            assert_eq!(serde_json::from_str::<Request>(&line).unwrap(), request);
        }
    }

    #[test]
    fn a_request_survives_the_wire_and_unknown_ones_are_refused() {
        let request = Request::StopReplica { monitor: Uuid::from_u128(7) };
        let line = serde_json::to_string(&request).unwrap();
        assert_eq!(serde_json::from_str::<Request>(&line).unwrap(), request);
        assert!(serde_json::from_str::<Request>(r#"{"request":"run","content":{"command":"sh"}}"#).is_err());
        for (end, more) in [("}}", r#","path":"/"}}"#), ("}}", r#"},"path":"/"}"#)] {
            let longer = line.replace(end, more);
            assert!(longer != line && serde_json::from_str::<Request>(&longer).is_err(), "{longer}");
        }
    }

    /// A reply of every shape.
    #[test]
    fn a_reply_survives_the_wire() {
        for reply in [
            Reply::Done,
            Reply::Bytes { bytes: 7 },
            Reply::RefusedPeers(vec![RefusedPeer {
                number: 7,
                monitor: Uuid::from_u128(7),
                key: "sha256//x".into(),
                endpoint: "192.0.2.7:50001".into(),
            }]),
            Reply::Admitted { refused: Some("no".into()) },
            Reply::Pairing(Pairing::Lost),
            Reply::Pairing(Pairing::Paired {
                monitor: Uuid::from_u128(7),
                key: "sha256//x".into(),
                has_signing_key: true,
                is_derived: false,
            }),
            Reply::Step { step: "data is scrubbed".into(), percent: Some(12.5) },
            Reply::Grown(vec!["/dev/sda".into()]),
            Reply::CopyVerified(CopyCheck::Nothing),
            Reply::CopyVerified(CopyCheck::Damaged { problem: "base/1/2 is missing".into() }),
            Reply::Ftp(FtpSettings::default()),
            Reply::Access(Access { peer_only: true, peer: vec![[192, 0, 2, 7].into()] }),
            Reply::Failed { error: "no".into() },
            Reply::Refused(Refused { error: "no".into(), retry_after: Some(7) }),
        ] {
            let line = serde_json::to_string(&reply).unwrap();
            assert_eq!(serde_json::from_str::<Reply>(&line).unwrap(), reply);
        }
    }
}
