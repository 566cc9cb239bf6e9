//! A directory tree as one tar file that does not exist.
//!
//! A backup is a read-only snapshot; people want it as one file. Instead of packing it, an index records once what
//! the snapshot holds (names, kinds, modes, times, sizes: never contents) and from that every byte of the tar is
//! known to be either part of a header that can be computed again, a byte of a file, or padding. So the tar's size is
//! known, any byte range can be read at once ([`Reader`] is `Read + Seek`), it costs no disk, and two readings are
//! equal.
//!
//! Trade-off: the tree must not change after the index was made. A btrfs read-only snapshot cannot; should a file
//! be shorter than recorded, reading fails instead of sending something else.
//!
//! An index is written ([`write_index`]) and read ([`Stored`]) piece by piece: its memory is the same for a hundred files and
//! for tens of millions. [`Index`] is one in memory, for what is small.
//!
//! # Format
//! POSIX ustar, with pax extended headers only where ustar has no room: long names and link targets, files from 8
//! GiB, times before 1970 or after 2242. Names are bytes: one that is not UTF-8 goes as it is into the ustar field,
//! and into pax with `hdrcharset=BINARY`. Entries are ordered by the bytes of their paths, paths are relative to the
//! root, the root itself has no entry. Owner and group are always [`OWNER_ID`] / [`OWNER_NAME`]: everything in a
//! backup belongs to PostgreSQL, and the restoring host has its own number for that user. Times are whole seconds.
//! Two zero blocks end the tar, padded to [`RECORD_BYTES`].
//!
//! Sockets, FIFOs and devices have no place in a backup of PostgreSQL: they are left out and counted
//! ([`Index::skipped`]). So is what has a path longer than [`PATH_MAX`]: a hostile tree has folders in folders without end,
//! and the index would grow with the square of their depth. Hard links become files of their own; sparse files are written out with their holes as
//! zeros.

mod beneath;
mod entry;
mod header;
mod reader;
mod stored;
mod walk;
mod wire;

pub use entry::{Entry, Index, Kind};
pub use header::{OWNER_ID, OWNER_NAME};
pub use reader::Reader;
pub use stored::{ReadAt, Stored};
pub use wire::{Summary, write_index, write_index_of};

use std::path::PathBuf;

/// A tar is a sequence of blocks of this many bytes (POSIX ustar).
pub const BLOCK_BYTES: u64 = 512;

/// The whole tar is padded to a multiple of this many bytes: 20 blocks, the record that tar programs expect.
pub const RECORD_BYTES: u64 = 20 * BLOCK_BYTES;

/// Longest path that is put into a tar, in bytes. PostgreSQL takes no path of more than
/// 1023 bytes (`MAXPGPATH`), of which the half is left for where the data directory is.
pub const PATH_MAX: usize = 512;

/// What can go wrong with an index or a reader.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The tree could not be read.
    #[error("cannot {action} {}: {source}", path.display())]
    Tree {
        /// What was tried, as in "cannot … PATH".
        action: &'static str,
        /// Where, relative to the root or the root itself.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The stored index could not be read or written.
    #[error("cannot {action} tar index: {source}")]
    IndexIo {
        /// `read` or `write`.
        action: &'static str,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The tree's index would be larger than what is read again.
    #[error("the tree cannot be served as a tar: {0} is too long")]
    TooLarge(&'static str),
    /// The stored index is not one, is of another version, or was damaged. It can be made anew from its snapshot.
    #[error("tar index is damaged or not one ({0}); it can be made anew from its snapshot")]
    Damaged(&'static str),
}
