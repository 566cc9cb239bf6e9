//! What an index holds, and where each entry lies in the tar. Pure.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::walk::{NAMES_BYTES, failed, walk};
use crate::{BLOCK_BYTES, Error, PATH_MAX, RECORD_BYTES, Reader, Stored, header};

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A regular file and its size in bytes when the index was made.
    File(u64),
    /// A symbolic link and where it points.
    Symlink(Box<[u8]>),
}

/// One entry of the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Path relative to the root: any bytes but NUL, no empty, `.` or `..` component.
    pub path: Box<[u8]>,
    /// Its kind.
    pub kind: Kind,
    /// Permission bits with set-user-ID, set-group-ID and sticky, 0 to 0o7777.
    pub mode: u16,
    /// Last modification, seconds since 1970-01-01 UTC.
    pub mtime: i64,
}

impl Entry {
    /// Bytes of content in the tar: a file's size, nothing for others.
    pub(crate) fn content_bytes(&self) -> u64 {
        match self.kind {
            Kind::File(size) => size,
            Kind::Directory | Kind::Symlink(_) => 0,
        }
    }
}

/// Where entries lie in a tar, one after the other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Where the next entry begins, or the end marker.
    pub end: u64,
}

impl Layout {
    /// Puts an entry at the end; gives where its first header begins. `None` when the tar would exceed 2^63 bytes.
    pub fn place(&mut self, entry: &Entry) -> Option<u64> {
        let content = entry.content_bytes().checked_next_multiple_of(BLOCK_BYTES)?;
        let end = self.end.checked_add(header::len(entry))?.checked_add(content)?;
        // Seek positions are signed: what lies beyond could be recorded but not reached.
        let start = std::mem::replace(&mut self.end, end);
        (end < i64::MAX as u64 - 2 * RECORD_BYTES).then_some(start)
    }

    /// Size of the tar in bytes.
    pub fn tar_bytes(self) -> u64 {
        (self.end + 2 * BLOCK_BYTES).next_multiple_of(RECORD_BYTES)
    }
}

/// A whole tree in memory: what a tar of it looks like, without the contents. What is as large as it likes is written by
/// [`write_index`](crate::write_index) and read by [`Stored`].
#[derive(Debug, PartialEq, Eq)]
pub struct Index {
    entries: Vec<Entry>,
    layout: Layout,
    skipped: u64,
}

impl Index {
    /// Records a directory tree, which must not change from now on (a read-only snapshot). Follows no symbolic
    /// links. The same tree always gives the same index. What has a path longer than [`PATH_MAX`] is left out.
    pub fn build(root: &Path) -> Result<Self, Error> {
        Self::build_up_to(root, PATH_MAX)
    }

    /// The same with another limit of a path's bytes.
    pub fn build_up_to(root: &Path, path_max: usize) -> Result<Self, Error> {
        let mut entries = Vec::new();
        let skipped = walk(
            root,
            path_max,
            NAMES_BYTES,
            |_| true,
            |entry| {
                entries.push(entry);
                Ok(())
            },
        )?;
        Self::place(entries, skipped).ok_or_else(|| too_large(root))
    }

    /// Puts entries, already in order and checked, at their places. `None` when the tar would exceed 2^63 bytes.
    pub(crate) fn place(entries: Vec<Entry>, skipped: u64) -> Option<Self> {
        let mut layout = Layout::default();
        for entry in &entries {
            layout.place(entry)?;
        }
        Some(Self { entries, layout, skipped })
    }

    /// Size of the tar in bytes.
    #[allow(clippy::len_without_is_empty)] // a tar is never empty: it has an end marker
    pub fn len(&self) -> u64 {
        self.layout.tar_bytes()
    }

    /// The entries, in the order of the tar.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// How many sockets, FIFOs, devices and too deep things were left out; a folder counts as one.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// Sum of the files' sizes in bytes.
    pub fn content_bytes(&self) -> u64 {
        self.entries.iter().map(Entry::content_bytes).sum()
    }

    /// Opens the tar for reading; `root` is the directory that the index was built from.
    pub fn reader(self: &Arc<Self>, root: impl Into<PathBuf>) -> Result<Reader, Error> {
        let mut stored = Vec::new();
        self.write_to(&mut stored)?;
        Stored::open(stored)?.reader(root)
    }
}

/// The tree's tar could not be reached to its end.
pub(crate) fn too_large(root: &Path) -> Error {
    failed("put into one tar", root.into(), std::io::ErrorKind::FileTooLarge.into())
}

/// Whether a path may stand in an index: relative, and no component that would lead elsewhere.
pub(crate) fn path_is_sound(path: &[u8]) -> bool {
    !path.contains(&0) && path.split(|byte| *byte == b'/').all(|part| !matches!(part, b"" | b"." | b".."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_relative_paths_without_detours_are_sound() {
        for good in [&b"a"[..], b"a/b", b"...", b"a/..b", b"\xff\n", b"-", b" "] {
            assert!(path_is_sound(good), "{good:?}");
        }
        for bad in [&b""[..], b"/a", b"a/", b"a//b", b".", b"..", b"a/../b", b"./a", b"a\0b"] {
            assert!(!path_is_sound(bad), "{bad:?}");
        }
    }

    #[test]
    fn an_empty_tree_is_one_record_of_end_marker() {
        let index = Index::place(Vec::new(), 0).unwrap();
        assert_eq!(index.len(), RECORD_BYTES);
    }

    #[test]
    fn sizes_that_no_tar_can_have_are_refused() {
        let file = |size| Entry { path: (*b"a").into(), kind: Kind::File(size), mode: 0o600, mtime: 0 };
        assert!(Index::place(vec![file(u64::MAX)], 0).is_none());
        assert!(Index::place(vec![file(i64::MAX as u64)], 0).is_none());
        assert!(Index::place(vec![file(1 << 60)], 0).is_some());
    }
}
