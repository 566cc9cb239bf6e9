//! Backups on disk: their ids, their manifests, and the list of them (design D8).
//!
//! A backup is a read-only snapshot `<id>/` with its manifest `<id>.json` and its tar index `<id>.index`
//! beside it, in one folder per monitor. Whatever is found there is listed: a snapshot whose manifest is gone
//! or unreadable shows as damaged, it is neither hidden nor deleted. Only what its deletion has begun of has
//! another name, and is none any more.

mod catalog;
pub mod clock;
pub mod copy_tries;
pub mod delayed;
mod disarm;
pub mod download;
pub mod forecast;
mod id;
pub mod layout;
mod lists;
mod manifest;
pub mod pins;
pub mod recent;
pub mod retention;
pub mod rotation;
pub mod schedule;
pub mod standstill;
pub mod witness;

pub use catalog::{
    DELETING_PREFIX, Entry, PARTIAL_PREFIX, deleting, deleting_path, ids, is_taken, monitor, monitors,
    partial_path,
};
pub use disarm::disarm;
pub use id::{BackupId, BackupIdError};
pub use lists::{Lists, find, keep_list, list};
pub use manifest::{
    ManifestError, id_beside, index_path, manifest_path, parse_manifest, read_manifest, write_manifest,
};
