//! The privileged process of the backup server: its protocol and the client for it.
//!
//! What listens on the network has no privileges (design D14). What needs root, that is subvolumes, snapshots and
//! PostgreSQL clusters of another user in mount namespaces of their own, is done by `hostd` on typed requests over a
//! local socket. What a network process may ask names a monitor's UUID, never a path or a command, so a compromised one can
//! ask for nothing but what the product does anyway; disks are named by their device files, by root alone.

mod client;
mod protocol;
mod step;

pub use client::{Client, ClientError, News};
pub use protocol::{
    Access, BackupRequest, Change, CopyCheck, Disks, MAX_FRAME, PROGRAM, Pairing, Refused, RefusedPeer,
    ReplicaInfo, Reply, Request, SOCKET, Scrub, Tablespace,
};
pub use step::{KILL_AT, Step, TIME_LIMIT, reached, time_limit};
