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

use std::io::{Read, Write};

use sha2::{Digest, Sha256};

use crate::Error;
use crate::entry::{Entry, Index, Kind, path_is_sound};

const MAGIC: &[u8; 8] = b"vtarix01";
const HEAD_BYTES: usize = 48;
const DIGEST_BYTES: usize = 32;

/// Largest body accepted, in bytes: some ten million files.
const BODY_BYTES_MAX: u64 = 256 << 20;

/// Longest path or link target accepted, in bytes. Linux gives a link at most 4095; paths can only exceed that when
/// made step by step.
const NAME_BYTES_MAX: usize = 64 << 10;

/// Bits 12 and up of the first field say the kind, below lies the mode.
const KIND_SHIFT: u32 = 12;

struct Head {
    tar_bytes: u64,
    entries: u64,
    skipped: u64,
    body_bytes: u64,
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

    fn read(bytes: &[u8; HEAD_BYTES]) -> Result<Self, Error> {
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

    /// Reads an index back. Whatever the input, it ends with an index that could have been built, or with an error.
    pub fn read_from(mut input: impl Read) -> Result<Self, Error> {
        let head = read_head(&mut input)?;
        if head.body_bytes > BODY_BYTES_MAX {
            return Err(Error::Damaged("it is too large"));
        }
        let mut rest = Vec::new();
        // One byte more than there may be, to notice what follows.
        let limit = head.body_bytes + DIGEST_BYTES as u64 + 1;
        input
            .take(limit)
            .read_to_end(&mut rest)
            .map_err(|source| Error::IndexIo { action: "read", source })?;
        if rest.len() as u64 + 1 != limit {
            return Err(Error::Damaged("its length differs from the head"));
        }
        let (body, digest) = rest.split_at(rest.len() - DIGEST_BYTES);
        if digest != &Sha256::digest(body)[..] {
            return Err(Error::Damaged("the body's checksum differs"));
        }
        let entries = read_body(body).ok_or(Error::Damaged("an entry is malformed"))?;
        if entries.len() as u64 != head.entries {
            return Err(Error::Damaged("the number of entries differs"));
        }
        Self::place(entries, head.skipped)
            .filter(|index| index.len() == head.tar_bytes)
            .ok_or(Error::Damaged("the tar's size differs"))
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
        let kind: u16 = match entry.kind {
            Kind::Directory => 0,
            Kind::File(_) => 1,
            Kind::Symlink(_) => 2,
        };
        body.extend_from_slice(&(kind << KIND_SHIFT | entry.mode).to_le_bytes());
        push_number(&mut body, zigzag(entry.mtime));
        let shared = entry.path.iter().zip(previous).take_while(|(a, b)| a == b).count();
        push_number(&mut body, shared as u64);
        push_bytes(&mut body, &entry.path[shared..]);
        match &entry.kind {
            Kind::Directory => {}
            Kind::File(size) => push_number(&mut body, *size),
            Kind::Symlink(target) => push_bytes(&mut body, target),
        }
        previous = &entry.path;
    }
    body
}

fn read_body(mut body: &[u8]) -> Option<Vec<Entry>> {
    let mut entries: Vec<Entry> = Vec::new();
    while !body.is_empty() {
        let (first, rest) = body.split_first_chunk::<2>()?;
        body = rest;
        let first = u16::from_le_bytes(*first);
        let mtime = unzigzag(take_number(&mut body)?);
        let previous: &[u8] = entries.last().map_or(b"", |entry| &entry.path);
        let shared = previous.get(..usize::try_from(take_number(&mut body)?).ok()?)?;
        let path = [shared, take_bytes(&mut body)?].concat();
        if path.len() > NAME_BYTES_MAX || *path <= *previous || !path_is_sound(&path) {
            return None;
        }
        let kind = match first >> KIND_SHIFT {
            0 => Kind::Directory,
            1 => Kind::File(take_number(&mut body)?),
            2 => {
                let target = take_bytes(&mut body)?;
                if target.is_empty() || target.contains(&0) {
                    return None;
                }
                Kind::Symlink(target.into())
            }
            _ => return None,
        };
        entries.push(Entry { path: path.into(), kind, mode: first & 0o7777, mtime });
    }
    Some(entries)
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
            if let Some(entries) = read_body(&body) {
                prop_assert!(entries.iter().all(|entry| path_is_sound(&entry.path)));
            }
        }
    }
}
