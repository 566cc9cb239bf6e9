//! The index as a file: small, versioned, and refused when damaged.
//!
//! ```text
//! head   "vtarix01" · tar size u64 · entries u64 · skipped u64 · body bytes u64 · SHA-256 of the head, first 8 bytes
//! body   per entry: kind and mode u16 · mtime · bytes shared with the previous path · rest of the path (length, bytes)
//!        · file: size · symbolic link: target (length, bytes)
//! foot   SHA-256 of the body
//! ```
//!
//! Numbers are little-endian or, where no width stands, LEB128 (mtime in zigzag form). Paths are sorted, so sharing
//! their beginnings makes an entry of a PostgreSQL cluster about 20 bytes. The head has its own checksum: a
//! listing needs the tar's size only and must not read the rest. The checksums find damage before anything is
//! believed; the bounds hold even for a file that was made on purpose.

use std::ffi::OsStr;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::entry::{Entry, Index, Kind, Layout, path_is_sound, too_large};
use crate::walk::{NAMES_BYTES, walk};
use crate::{Error, PATH_MAX};

const MAGIC: &[u8; 8] = b"vtarix01";
pub(crate) const HEAD_BYTES: usize = 48;
pub(crate) const DIGEST_BYTES: usize = 32;

/// Largest body accepted, in bytes: some three billion files of PostgreSQL, or 250 million whose names share nothing and are
/// as long as a file system allows. A body is written and read piece by piece, so that no memory depends on its size. What the
/// bound keeps out is a damaged or hostile head that has somebody read for days.
pub(crate) const BODY_BYTES_MAX: u64 = 1 << 36;

/// Largest body that is read into memory as a whole, in bytes.
const IN_MEMORY_BYTES_MAX: u64 = 1 << 30;

/// Bytes of the body that are written at a time.
const PIECE_BYTES: usize = 64 << 10;

/// Longest path or link target accepted, in bytes. Linux gives a link at most 4095; paths can only exceed that when
/// made step by step.
const NAME_BYTES_MAX: usize = 64 << 10;

/// No entry of a body takes more: kind and mode, two names, four numbers.
pub(crate) const ENTRY_BYTES_MAX: usize = 2 + 2 * NAME_BYTES_MAX + 5 * 10;

/// Bits 12 and up of the first field say the kind, below lies the mode.
const KIND_SHIFT: u32 = 12;

/// The head of a stored index.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Head {
    pub tar_bytes: u64,
    pub entries: u64,
    pub skipped: u64,
    pub body_bytes: u64,
}

impl Head {
    fn write(&self) -> [u8; HEAD_BYTES] {
        let mut bytes = [0; HEAD_BYTES];
        bytes[..8].copy_from_slice(MAGIC);
        let numbers = [self.tar_bytes, self.entries, self.skipped, self.body_bytes];
        for (place, number) in bytes[8..40].chunks_exact_mut(8).zip(numbers) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        let digest = Sha256::digest(&bytes[..40]);
        bytes[40..].copy_from_slice(&digest[..8]);
        bytes
    }

    pub fn read(bytes: &[u8; HEAD_BYTES]) -> Result<Self, Error> {
        if &bytes[..8] != MAGIC {
            return Err(Error::Damaged("no tar index of version 1"));
        }
        if bytes[40..] != Sha256::digest(&bytes[..40])[..8] {
            return Err(Error::Damaged("the head's checksum differs"));
        }
        let mut numbers = bytes[8..40]
            .chunks_exact(8)
            .map(|place| place.iter().rev().fold(0_u64, |number, byte| number << 8 | u64::from(*byte)));
        let mut next = || numbers.next().unwrap_or(0);
        Ok(Self { tar_bytes: next(), entries: next(), skipped: next(), body_bytes: next() })
    }
}

impl Index {
    /// Writes the index. Making it durable and putting it at its place are the caller's.
    ///
    /// # Errors
    /// [`Error::IndexIo`]; [`Error::TooLarge`]: it could not be read again.
    pub fn write_to(&self, mut output: impl Write) -> Result<(), Error> {
        let names = self.entries().iter().flat_map(|entry| match &entry.kind {
            Kind::Symlink(target) => vec![&entry.path, target],
            _ => vec![&entry.path],
        });
        if names.into_iter().any(|name| name.len() > NAME_BYTES_MAX) {
            return Err(Error::TooLarge("a name in it"));
        }
        let body = write_body(self.entries());
        if body.len() as u64 > BODY_BYTES_MAX {
            return Err(Error::TooLarge("its index"));
        }
        let head = Head {
            tar_bytes: self.len(),
            entries: self.entries().len() as u64,
            skipped: self.skipped(),
            body_bytes: body.len() as u64,
        };
        let parts: [&[u8]; 3] = [&head.write(), &body, &Sha256::digest(&body)];
        let result = parts.iter().try_for_each(|part| output.write_all(part)).and_then(|()| output.flush());
        result.map_err(|source| Error::IndexIo { action: "write", source })
    }

    /// Reads an index back into memory, which one of up to 1 GiB may be. Whatever the input, it ends with an index that could
    /// have been built, or with an error.
    pub fn read_from(mut input: impl Read) -> Result<Self, Error> {
        let mut bytes = Vec::new();
        // One byte more than there may be, to notice what follows.
        let limit = HEAD_BYTES as u64 + IN_MEMORY_BYTES_MAX + DIGEST_BYTES as u64 + 1;
        input
            .by_ref()
            .take(limit)
            .read_to_end(&mut bytes)
            .map_err(|source| Error::IndexIo { action: "read", source })?;
        crate::Stored::open(bytes)?.load()
    }

    /// Reads only the tar's size in bytes from a stored index.
    pub fn read_len(mut input: impl Read) -> Result<u64, Error> {
        Ok(read_head(&mut input)?.tar_bytes)
    }
}

fn read_head(input: &mut impl Read) -> Result<Head, Error> {
    let mut bytes = [0; HEAD_BYTES];
    input.read_exact(&mut bytes).map_err(|source| match source.kind() {
        std::io::ErrorKind::UnexpectedEof => Error::Damaged("it is too short"),
        _ => Error::IndexIo { action: "read", source },
    })?;
    Head::read(&bytes)
}

fn write_body(entries: &[Entry]) -> Vec<u8> {
    let mut body = Vec::new();
    let mut previous: &[u8] = b"";
    for entry in entries {
        push_entry(&mut body, previous, entry);
        previous = &entry.path;
    }
    body
}

fn push_entry(body: &mut Vec<u8>, previous: &[u8], entry: &Entry) {
    let kind: u16 = match entry.kind {
        Kind::Directory => 0,
        Kind::File(_) => 1,
        Kind::Symlink(_) => 2,
    };
    body.extend_from_slice(&(kind << KIND_SHIFT | entry.mode).to_le_bytes());
    push_number(body, zigzag(entry.mtime));
    let shared = entry.path.iter().zip(previous).take_while(|(a, b)| a == b).count();
    push_number(body, shared as u64);
    push_bytes(body, &entry.path[shared..]);
    match &entry.kind {
        Kind::Directory => {}
        Kind::File(size) => push_number(body, *size),
        Kind::Symlink(target) => push_bytes(body, target),
    }
}

/// Takes the next entry of a body, which follows the one with the path `previous`.
pub(crate) fn take_entry(body: &mut &[u8], previous: &[u8]) -> Option<Entry> {
    let (first, rest) = body.split_first_chunk::<2>()?;
    *body = rest;
    let first = u16::from_le_bytes(*first);
    let mtime = unzigzag(take_number(body)?);
    let shared = previous.get(..usize::try_from(take_number(body)?).ok()?)?;
    let path = [shared, take_bytes(body)?].concat();
    if path.len() > NAME_BYTES_MAX || *path <= *previous || !path_is_sound(&path) {
        return None;
    }
    let kind = match first >> KIND_SHIFT {
        0 => Kind::Directory,
        1 => Kind::File(take_number(body)?),
        2 => {
            let target = take_bytes(body)?;
            if target.is_empty() || target.contains(&0) {
                return None;
            }
            Kind::Symlink(target.into())
        }
        _ => return None,
    };
    Some(Entry { path: path.into(), kind, mode: first & 0o7777, mtime })
}

/// What is in an index that was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// Size of the tar in bytes.
    pub tar_bytes: u64,
    /// Sum of the files' sizes in bytes.
    pub content_bytes: u64,
    /// Number of entries.
    pub entries: u64,
    /// How many things were left out, as [`Index::skipped`].
    pub skipped: u64,
}

/// Walks the tree at `root` and writes its index into the empty file `output`, with bounded memory whatever the tree: the
/// same bytes as those of [`Index::build`] and [`Index::write_to`]. Making it durable and putting it at its place are the
/// caller's.
///
/// # Errors
/// The tree cannot be read, the file not be written, or [`Error::TooLarge`]: it could not be read again.
pub fn write_index(root: &Path, output: impl Write + Seek) -> Result<Summary, Error> {
    write_index_of(root, |_, _| true, output)
}

/// The same of those entries that `takes` says, by their path below `root`. What is below a folder that is not taken is asked for, too.
///
/// # Errors
/// As [`write_index`].
pub fn write_index_of(
    root: &Path,
    takes: impl Fn(&Path, &Kind) -> bool,
    output: impl Write + Seek,
) -> Result<Summary, Error> {
    write_index_with(root, NAMES_BYTES, takes, output)
}

fn write_index_with(
    root: &Path,
    names_bytes: usize,
    takes: impl Fn(&Path, &Kind) -> bool,
    mut output: impl Write + Seek,
) -> Result<Summary, Error> {
    let cannot = |source: io::Error| Error::IndexIo { action: "write", source };
    // The head is known at the end.
    output.write_all(&[0; HEAD_BYTES]).map_err(cannot)?;
    let (mut layout, mut content_bytes, mut entries) = (Layout::default(), 0_u64, 0);
    let (mut piece, mut body_bytes, mut hash) = (Vec::new(), 0, Sha256::new());
    let mut previous: Box<[u8]> = Box::default();
    let takes = |entry: &Entry| takes(Path::new(OsStr::from_bytes(&entry.path)), &entry.kind);
    let skipped = walk(root, PATH_MAX, names_bytes, takes, |entry| {
        layout.place(&entry).ok_or_else(|| too_large(root))?;
        content_bytes = content_bytes.saturating_add(entry.content_bytes());
        entries += 1;
        push_entry(&mut piece, &previous, &entry);
        previous = entry.path;
        if piece.len() >= PIECE_BYTES {
            body_bytes += piece.len() as u64;
            if body_bytes > BODY_BYTES_MAX {
                return Err(Error::TooLarge("its index"));
            }
            hash.update(&piece);
            output.write_all(&piece).map_err(cannot)?;
            piece.clear();
        }
        Ok(())
    })?;
    body_bytes += piece.len() as u64;
    hash.update(&piece);
    let head = Head { tar_bytes: layout.tar_bytes(), entries, skipped, body_bytes };
    let mut end = || {
        output.write_all(&piece)?;
        output.write_all(&hash.finalize_reset())?;
        output.seek(SeekFrom::Start(0))?;
        output.write_all(&head.write())?;
        output.flush()
    };
    end().map_err(cannot)?;
    Ok(Summary { tar_bytes: head.tar_bytes, content_bytes, entries, skipped })
}

fn push_number(body: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        body.push(number as u8 | 0x80);
        number >>= 7;
    }
    body.push(number as u8);
}

fn take_number(body: &mut &[u8]) -> Option<u64> {
    let mut number = 0_u64;
    for shift in (0..u64::BITS).step_by(7) {
        let (byte, rest) = body.split_first()?;
        *body = rest;
        let bits = u64::from(byte & 0x7f);
        number |= bits.checked_shl(shift).filter(|shifted| shifted >> shift == bits)?;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

fn push_bytes(body: &mut Vec<u8>, bytes: &[u8]) {
    push_number(body, bytes.len() as u64);
    body.extend_from_slice(bytes);
}

fn take_bytes<'a>(body: &mut &'a [u8]) -> Option<&'a [u8]> {
    let count = usize::try_from(take_number(body)?).ok().filter(|count| *count <= NAME_BYTES_MAX)?;
    let (bytes, rest) = body.split_at_checked(count)?;
    *body = rest;
    Some(bytes)
}

/// Maps small numbers of either sign to small numbers.
fn zigzag(number: i64) -> u64 {
    (number << 1 ^ number >> 63).cast_unsigned()
}

fn unzigzag(number: u64) -> i64 {
    (number >> 1).cast_signed() ^ -((number & 1).cast_signed())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(path: &str, kind: Kind) -> Entry {
        Entry { path: path.as_bytes().into(), kind, mode: 0o600, mtime: 1_700_000_000 }
    }

    fn stored(entries: Vec<Entry>) -> Vec<u8> {
        let mut bytes = Vec::new();
        Index::place(entries, 3).unwrap().write_to(&mut bytes).unwrap();
        bytes
    }

    fn sample() -> Vec<Entry> {
        vec![
            entry("base", Kind::Directory),
            entry("base/1", Kind::File(8192)),
            entry("base/2", Kind::File(u64::from(u32::MAX) * 9)),
            entry("pg_tblspc", Kind::Symlink((*b"/srv/cluster/tablespaces/1").into())),
        ]
    }

    #[test]
    fn an_index_comes_back_as_it_was_written() {
        let bytes = stored(sample());
        let index = Index::read_from(&bytes[..]).unwrap();
        assert_eq!(index, Index::place(sample(), 3).unwrap());
        assert_eq!(Index::read_len(&bytes[..]).unwrap(), index.len());
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let bytes = stored(sample());
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << (at % 8);
            assert!(Index::read_from(&damaged[..]).is_err(), "byte {at}");
            assert!(Index::read_from(&bytes[..at]).is_err(), "cut at {at}");
        }
        assert!(Index::read_from(&[&bytes[..], b"x"].concat()[..]).is_err());
    }

    #[test]
    fn paths_that_no_walk_finds_are_refused() {
        for paths in
            [&["../a"][..], &["/a"], &["a/../b"], &["a//b"], &["a/"], &["a\0"], &["b", "a"], &["a", "a"]]
        {
            let entries: Vec<_> = paths.iter().map(|path| entry(path, Kind::File(0))).collect();
            assert!(Index::read_from(&stored(entries)[..]).is_err(), "{paths:?}");
        }
    }

    #[test]
    fn an_entry_of_a_cluster_takes_about_twenty_bytes() {
        let name = |number: u32| entry(&format!("pgdata/base/16384/{}", 16_384 + number), Kind::File(73_728));
        let bytes = stored((0..10_000).map(name).collect());
        assert!(bytes.len() < 10_000 * 20, "{} bytes", bytes.len());
    }

    #[test]
    fn an_index_is_written_with_little_memory_as_it_is_from_memory() {
        let root = tempfile::tempdir().unwrap();
        // Names around the slash, in an order of their own.
        for folder in ["a", "a-", "a0", "b/a", "b-", "deep/er/and/deeper"] {
            std::fs::create_dir_all(root.path().join(folder)).unwrap();
            for number in 0..300 {
                std::fs::write(root.path().join(folder).join(format!("{:x}", number * 7919)), "x").unwrap();
            }
        }
        let mut expected = Vec::new();
        let index = Index::build(root.path()).unwrap();
        index.write_to(&mut expected).unwrap();
        assert!(index.entries().is_sorted_by(|one, other| one.path < other.path));
        for names_bytes in [0, 40_000, NAMES_BYTES] {
            let mut written = io::Cursor::new(Vec::new());
            let summary = write_index_with(root.path(), names_bytes, |_, _| true, &mut written).unwrap();
            assert!(written.into_inner() == expected, "with {names_bytes} bytes for names");
            let entries = index.entries().len() as u64;
            let of =
                Summary { tar_bytes: index.len(), content_bytes: index.content_bytes(), entries, skipped: 0 };
            assert_eq!(summary, of);
        }
    }

    proptest! {
        #[test]
        fn numbers_come_back(number: u64, signed: i64) {
            let mut bytes = Vec::new();
            push_number(&mut bytes, number);
            prop_assert_eq!(take_number(&mut &bytes[..]), Some(number));
            prop_assert_eq!(unzigzag(zigzag(signed)), signed);
        }

        #[test]
        fn no_body_makes_it_fail_otherwise_than_by_an_error(body: Vec<u8>) {
            let head = |entries, tar_bytes| Head { tar_bytes, entries, skipped: 0, body_bytes: body.len() as u64 };
            for head in [head(0, crate::RECORD_BYTES), head(1, crate::RECORD_BYTES)] {
                let bytes = [&head.write()[..], &body, &Sha256::digest(&body)].concat();
                if let Ok(index) = Index::read_from(&bytes[..]) {
                    prop_assert!(index.entries().iter().all(|entry| path_is_sound(&entry.path)));
                }
            }
            let mut rest = &body[..];
            let mut previous: Box<[u8]> = Box::default();
            while let Some(entry) = take_entry(&mut rest, &previous) {
                prop_assert!(path_is_sound(&entry.path) && entry.path > previous);
                previous = entry.path;
            }
        }
    }
}
