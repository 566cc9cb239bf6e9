//! A stored index, read piece by piece.
//!
//! Opening it reads it once from end to end: its hash first, then each entry, of which only a mark here and there is kept,
//! from which reading can begin. So it takes the same memory for any number of files, and a seek reads at most what lies
//! between two marks.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use sha2::{Digest, Sha256};

use crate::entry::{Entry, Index, Layout};
use crate::wire::{BODY_BYTES_MAX, DIGEST_BYTES, ENTRY_BYTES_MAX, HEAD_BYTES, Head, take_entry};
use crate::{Error, Reader};

/// What lies between two marks, in bytes of the index.
const MARK_BYTES: u64 = 64 << 10;
/// Of an index that is larger than this, more lies between two marks: a larger one takes no more memory.
const MARKED_BYTES: u64 = 1 << 30;
/// Marks take at most a part of the index in memory: one of so many bytes for each of its path.
const MARK_BYTES_PER_PATH_BYTE: u64 = 64;
/// Bytes read at a time.
const PIECE_BYTES: usize = 64 << 10;

/// Something that is read at any place.
pub trait ReadAt: Send + Sync {
    /// Reads what fits into `buffer`, from `offset`; 0 at the end.
    ///
    /// # Errors
    /// It cannot be read.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
}

impl ReadAt for File {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(self, buffer, offset)
    }
}

impl ReadAt for Vec<u8> {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let from = usize::try_from(offset).ok().and_then(|offset| self.get(offset..)).unwrap_or_default();
        let count = from.len().min(buffer.len());
        buffer[..count].copy_from_slice(&from[..count]);
        Ok(count)
    }
}

/// A stored index.
pub struct Stored {
    input: Box<dyn ReadAt>,
    head: Head,
    /// The first is at the begin.
    marks: Vec<Mark>,
    layout: Layout,
}

/// A place where reading can begin.
#[derive(Debug, Clone, Default)]
struct Mark {
    /// Offset in the body.
    at: u64,
    /// Where the next entry begins in the tar.
    start: u64,
    /// Path of the entry before.
    previous: Box<[u8]>,
}

impl Stored {
    /// Opens an index. Whatever the input, it ends with an index that could have been built, or with an error.
    pub fn open(input: impl ReadAt + 'static) -> Result<Self, Error> {
        let input: Box<dyn ReadAt> = Box::new(input);
        let mut head = [0; HEAD_BYTES];
        if read_full(&*input, &mut head, 0)? < HEAD_BYTES {
            return Err(Error::Damaged("it is too short"));
        }
        let head = Head::read(&head)?;
        if head.body_bytes > BODY_BYTES_MAX {
            return Err(Error::Damaged("it is too large"));
        }
        check_hash(&*input, head.body_bytes)?;
        let (mut cursor, mut marks, mut entries) = (Cursor::default(), vec![Mark::default()], 0);
        let mut next_mark = apart(0, head.body_bytes);
        while let Some((_, entry)) = cursor.next(&*input, head.body_bytes)? {
            entries += 1;
            if cursor.at() >= next_mark {
                let previous = entry.path;
                next_mark = cursor.at().saturating_add(apart(previous.len(), head.body_bytes));
                marks.push(Mark { at: cursor.at(), start: cursor.layout.end, previous });
            }
        }
        if entries != head.entries {
            return Err(Error::Damaged("the number of entries differs"));
        }
        if cursor.layout.tar_bytes() != head.tar_bytes {
            return Err(Error::Damaged("the tar's size differs"));
        }
        marks.shrink_to_fit();
        Ok(Self { input, head, marks, layout: cursor.layout })
    }

    /// Size of the tar in bytes.
    #[allow(clippy::len_without_is_empty)] // a tar is never empty: it has an end marker
    pub fn len(&self) -> u64 {
        self.head.tar_bytes
    }

    /// Opens the tar for reading; `root` is the directory that the index was built from.
    pub fn reader(self, root: impl Into<PathBuf>) -> Result<Reader, Error> {
        Reader::open(self, root.into())
    }

    /// All of it, in memory.
    pub(crate) fn load(&self) -> Result<Index, Error> {
        let (mut cursor, mut entries) = (Cursor::default(), Vec::new());
        while let Some((_, entry)) = cursor.next(&*self.input, self.head.body_bytes)? {
            entries.push(entry);
        }
        Index::place(entries, self.head.skipped).ok_or(Error::Damaged("the tar's size differs"))
    }

    /// The entry that the byte at `offset` of the tar belongs to, and where that entry begins. `None` from the end marker
    /// on. Reading goes on from `cursor` where that is near.
    pub(crate) fn locate(&self, cursor: &mut Cursor, offset: u64) -> Result<Option<(u64, Entry)>, Error> {
        if offset >= self.layout.end {
            return Ok(None);
        }
        let mark = self.marks.partition_point(|mark| mark.start <= offset).checked_sub(1);
        let mark = mark.and_then(|at| self.marks.get(at)).ok_or(Error::Damaged("it has no begin"))?;
        if !(mark.start..=offset).contains(&cursor.layout.end) {
            cursor.go_to(mark);
        }
        while let Some((start, entry)) = cursor.next(&*self.input, self.head.body_bytes)? {
            if offset < cursor.layout.end {
                return Ok(Some((start, entry)));
            }
        }
        Err(Error::Damaged("it ends early"))
    }
}

/// What lies between a mark with a path of so many bytes and the next one, in a body of `body_bytes`.
fn apart(path_bytes: usize, body_bytes: u64) -> u64 {
    let least = MARK_BYTES.max(path_bytes as u64 * MARK_BYTES_PER_PATH_BYTE);
    least.saturating_mul(body_bytes.div_ceil(MARKED_BYTES).max(1))
}

impl fmt::Debug for Stored {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Stored").field("head", &self.head).finish_non_exhaustive()
    }
}

/// Reads the entries of a body, one after the other.
#[derive(Debug, Default)]
pub(crate) struct Cursor {
    /// Offset in the body of what was read.
    from: u64,
    buffer: Vec<u8>,
    /// What of the buffer was used.
    used: usize,
    previous: Box<[u8]>,
    layout: Layout,
}

impl Cursor {
    fn at(&self) -> u64 {
        self.from + self.used as u64
    }

    fn go_to(&mut self, mark: &Mark) {
        (self.from, self.used) = (mark.at, 0);
        self.buffer.clear();
        self.previous.clone_from(&mark.previous);
        self.layout = Layout { end: mark.start };
    }

    /// The next entry and where it begins in the tar; `None` at the end of the body.
    fn next(&mut self, input: &dyn ReadAt, body_bytes: u64) -> Result<Option<(u64, Entry)>, Error> {
        self.fill(input, body_bytes)?;
        let all = self.buffer.get(self.used..).unwrap_or_default();
        if all.is_empty() {
            return Ok(None);
        }
        let malformed = Error::Damaged("an entry is malformed");
        let mut rest = all;
        let Some(entry) = take_entry(&mut rest, &self.previous) else { return Err(malformed) };
        self.used += all.len() - rest.len();
        self.previous.clone_from(&entry.path);
        let start = self.layout.place(&entry).ok_or(Error::Damaged("the tar's size differs"))?;
        Ok(Some((start, entry)))
    }

    /// Has a whole entry in the buffer, or all that is left.
    fn fill(&mut self, input: &dyn ReadAt, body_bytes: u64) -> Result<(), Error> {
        let (read, needed) = (self.from + self.buffer.len() as u64, body_bytes - self.at().min(body_bytes));
        let there = self.buffer.len() - self.used;
        // Most entries are small: a short rest is looked at before more is read.
        if there as u64 == needed || there >= ENTRY_BYTES_MAX {
            return Ok(());
        }
        self.buffer.drain(..self.used);
        (self.from, self.used) = (self.from + self.used as u64, 0);
        let more = (needed - there as u64).min((ENTRY_BYTES_MAX + PIECE_BYTES - there) as u64);
        let more = usize::try_from(more).unwrap_or(ENTRY_BYTES_MAX);
        self.buffer.resize(there + more, 0);
        let offset = HEAD_BYTES as u64 + read;
        if read_full(input, self.buffer.get_mut(there..).unwrap_or_default(), offset)? < more {
            return Err(Error::Damaged("its length differs from the head"));
        }
        Ok(())
    }
}

/// Checks that a body of so many bytes, its hash and nothing more follow the head.
fn check_hash(input: &dyn ReadAt, body_bytes: u64) -> Result<(), Error> {
    let length = Error::Damaged("its length differs from the head");
    let (mut hash, mut piece, mut done) = (Sha256::new(), vec![0; PIECE_BYTES], 0);
    while done < body_bytes {
        let count = usize::try_from(body_bytes - done).unwrap_or(PIECE_BYTES).min(PIECE_BYTES);
        let piece = piece.get_mut(..count).unwrap_or_default();
        if read_full(input, piece, HEAD_BYTES as u64 + done)? < count {
            return Err(length);
        }
        hash.update(&*piece);
        done += count as u64;
    }
    // One byte more, to notice what follows.
    let mut digest = [0; DIGEST_BYTES + 1];
    if read_full(input, &mut digest, HEAD_BYTES as u64 + body_bytes)? != DIGEST_BYTES {
        return Err(length);
    }
    if digest[..DIGEST_BYTES] != hash.finalize()[..] {
        return Err(Error::Damaged("the body's checksum differs"));
    }
    Ok(())
}

/// Fills the buffer unless the input ends; gives how much came.
fn read_full(input: &dyn ReadAt, buffer: &mut [u8], offset: u64) -> Result<usize, Error> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match input.read_at(rest, offset + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => return Err(Error::IndexIo { action: "read", source }),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;

    #[test]
    fn marks_take_the_same_memory_for_an_index_of_any_size() {
        let mark = |path: usize| (size_of::<Mark>() + path) as u64;
        for path in [30, 4096, 65_536] {
            let small = MARKED_BYTES / apart(path, MARKED_BYTES) * mark(path);
            for body in [MARKED_BYTES, MARKED_BYTES + 1, MARKED_BYTES * 7, BODY_BYTES_MAX] {
                let taken = body / apart(path, body) * mark(path);
                assert!(taken <= small && small < 20 << 20, "{path} {body}: {taken} of {small}");
            }
        }
        assert_eq!(apart(0, 0), MARK_BYTES);
    }

    #[test]
    fn an_index_of_many_files_is_read_from_its_marks_as_from_its_begin() {
        let file = |number: u32| Entry {
            path: format!("pgdata/base/16384/{number:07}").into_bytes().into(),
            kind: Kind::File(u64::from(number % 3) * 500),
            mode: 0o600,
            mtime: 1_700_000_000,
        };
        let index = Index::place((0..40_000).map(file).collect(), 3).unwrap();
        let mut bytes = Vec::new();
        index.write_to(&mut bytes).unwrap();
        let stored = Stored::open(bytes).unwrap();
        assert!(stored.marks.len() > 5 && stored.len() == index.len(), "{}", stored.marks.len());
        assert_eq!(stored.load().unwrap(), index);
        let mut starts = Vec::new();
        let mut layout = Layout::default();
        for entry in index.entries() {
            starts.push(layout.place(entry).unwrap());
        }
        let mut cursor = Cursor::default();
        // Forward, backward, far and near, first and last bytes.
        let places =
            (0..starts.len()).step_by(777).chain((0..starts.len()).rev().step_by(991)).chain([0, 39_999, 1]);
        for at in places {
            let last = starts.get(at + 1).map_or(layout.end, |next| *next) - 1;
            for offset in [starts[at], last] {
                let found = stored.locate(&mut cursor, offset).unwrap();
                assert_eq!(found, Some((starts[at], index.entries()[at].clone())), "{offset}");
            }
        }
        assert_eq!(stored.locate(&mut cursor, layout.end).unwrap(), None);
    }
}
