//! The header blocks of one entry: ustar, preceded by a pax extended header where ustar has no room. Pure.
//!
//! Computed anew whenever they are read: the same entry always gives the same bytes, so none are stored.

use crate::BLOCK_BYTES;
use crate::entry::{Entry, Kind};

/// Numeric owner and group of every entry: `postgres` on our machines (docs/architecture.md).
pub const OWNER_ID: u32 = 970;

/// Owner and group name of every entry. A tar program run by root prefers it to the number.
pub const OWNER_NAME: &str = "postgres";

const BLOCK: usize = BLOCK_BYTES as usize;

/// Largest number of the 12-byte octal fields (11 digits and a NUL): 8 GiB - 1, or the year 2242.
const OCTAL_11_MAX: u64 = 0o77777777777;

/// Where the fields of a ustar header lie (POSIX.1, "ustar Interchange Format").
mod field {
    use std::ops::Range;
    pub const NAME: Range<usize> = 0..100;
    pub const MODE: Range<usize> = 100..108;
    pub const UID: Range<usize> = 108..116;
    pub const GID: Range<usize> = 116..124;
    pub const SIZE: Range<usize> = 124..136;
    pub const MTIME: Range<usize> = 136..148;
    pub const CHECKSUM: Range<usize> = 148..156;
    pub const TYPE: usize = 156;
    pub const LINK: Range<usize> = 157..257;
    pub const MAGIC: Range<usize> = 257..265;
    pub const USER: Range<usize> = 265..297;
    pub const GROUP: Range<usize> = 297..329;
    pub const PREFIX: Range<usize> = 345..500;
}

/// Bytes of all header blocks of an entry.
pub(crate) fn len(entry: &Entry) -> u64 {
    let extended = extended_records(entry);
    if extended.is_empty() {
        BLOCK_BYTES
    } else {
        2 * BLOCK_BYTES + (extended.len() as u64).next_multiple_of(BLOCK_BYTES)
    }
}

/// All header blocks of an entry.
pub(crate) fn blocks(entry: &Entry) -> Vec<u8> {
    let extended = extended_records(entry);
    let mut bytes = Vec::with_capacity(extended.len() + 3 * BLOCK);
    if !extended.is_empty() {
        let mut block = [0; BLOCK];
        put(&mut block[field::NAME], b"././@PaxHeader");
        fill_common(&mut block, 0o644, extended.len() as u64, 0, b'x');
        bytes.extend_from_slice(&seal(block));
        bytes.extend_from_slice(&extended);
        bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    }
    bytes.extend_from_slice(&ustar(entry));
    bytes
}

/// The name as it stands in the tar: directories end in a slash.
fn tar_name(entry: &Entry) -> Vec<u8> {
    let mut name = entry.path.to_vec();
    if entry.kind == Kind::Directory {
        name.push(b'/');
    }
    name
}

/// Splits a name over ustar's prefix and name fields; `None` when it does not fit.
fn split_name(name: &[u8]) -> Option<(&[u8], &[u8])> {
    if name.len() <= field::NAME.len() {
        return Some((b"", name));
    }
    // The slash between the two is implied. The last one of a directory's name cannot be it: a name is needed.
    let (from, to) =
        (name.len().checked_sub(field::NAME.len() + 1)?, field::PREFIX.len().min(name.len() - 2));
    let slash = (from..=to).find(|at| name[*at] == b'/')?;
    Some((&name[..slash], &name[slash + 1..]))
}

fn octal_fits(number: u64) -> bool {
    number <= OCTAL_11_MAX
}

/// The pax records that an entry needs; empty for most.
fn extended_records(entry: &Entry) -> Vec<u8> {
    let mut records = Vec::new();
    let name = tar_name(entry);
    let long_name = split_name(&name).is_none().then_some(name);
    let long_link = match &entry.kind {
        Kind::Symlink(target) if target.len() > field::LINK.len() => Some(target),
        _ => None,
    };
    let binary = |bytes: &[u8]| std::str::from_utf8(bytes).is_err();
    if long_name.as_deref().is_some_and(binary) || long_link.is_some_and(|target| binary(target)) {
        push_record(&mut records, "hdrcharset", b"BINARY");
    }
    if let Some(name) = long_name {
        push_record(&mut records, "path", &name);
    }
    if let Some(target) = long_link {
        push_record(&mut records, "linkpath", target);
    }
    if !octal_fits(entry.content_bytes()) {
        push_record(&mut records, "size", entry.content_bytes().to_string().as_bytes());
    }
    if !u64::try_from(entry.mtime).is_ok_and(octal_fits) {
        push_record(&mut records, "mtime", entry.mtime.to_string().as_bytes());
    }
    records
}

/// Appends `LENGTH KEY=VALUE\n`, where LENGTH counts itself.
fn push_record(records: &mut Vec<u8>, key: &str, value: &[u8]) {
    let rest = key.len() + value.len() + " =\n".len();
    let mut length = rest + 1;
    while rest + length.to_string().len() != length {
        length = rest + length.to_string().len();
    }
    records.extend_from_slice(format!("{length} {key}=").as_bytes());
    records.extend_from_slice(value);
    records.push(b'\n');
}

fn ustar(entry: &Entry) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let name = tar_name(entry);
    match split_name(&name) {
        Some((prefix, name)) => {
            put(&mut block[field::NAME], name);
            put(&mut block[field::PREFIX], prefix);
        }
        None => put(&mut block[field::NAME], &name), // the pax record overrides what remains of it
    }
    let kind = match &entry.kind {
        Kind::File(_) => b'0',
        Kind::Symlink(target) => {
            put(&mut block[field::LINK], target);
            b'2'
        }
        Kind::Directory => b'5',
    };
    let size = Some(entry.content_bytes()).filter(|size| octal_fits(*size)).unwrap_or(0);
    let mtime = u64::try_from(entry.mtime).ok().filter(|mtime| octal_fits(*mtime)).unwrap_or(0);
    fill_common(&mut block, entry.mode, size, mtime, kind);
    seal(block)
}

fn fill_common(block: &mut [u8; BLOCK], mode: u16, size: u64, mtime: u64, kind: u8) {
    put(&mut block[field::MODE], format!("{mode:07o}").as_bytes());
    put(&mut block[field::UID], format!("{OWNER_ID:07o}").as_bytes());
    put(&mut block[field::GID], format!("{OWNER_ID:07o}").as_bytes());
    put(&mut block[field::SIZE], format!("{size:011o}").as_bytes());
    put(&mut block[field::MTIME], format!("{mtime:011o}").as_bytes());
    block[field::TYPE] = kind;
    put(&mut block[field::MAGIC], b"ustar\x0000");
    put(&mut block[field::USER], OWNER_NAME.as_bytes());
    put(&mut block[field::GROUP], OWNER_NAME.as_bytes());
}

/// The checksum is the sum of all bytes, with the checksum field read as spaces.
fn seal(mut block: [u8; BLOCK]) -> [u8; BLOCK] {
    block[field::CHECKSUM].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    put(&mut block[field::CHECKSUM], format!("{sum:06o}\0 ").as_bytes());
    block
}

/// Copies as much of `value` as fits.
fn put(field: &mut [u8], value: &[u8]) {
    let fits = value.len().min(field.len());
    field[..fits].copy_from_slice(&value[..fits]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &[u8], kind: Kind) -> Entry {
        Entry { path: path.into(), kind, mode: 0o640, mtime: 1_700_000_000 }
    }

    #[test]
    fn a_pax_record_counts_its_own_length() {
        for (value, expected) in [(1, 9), (90, 99), (91, 101), (92, 102), (989, 999), (990, 1001)] {
            let mut records = Vec::new();
            push_record(&mut records, "path", &vec![b'x'; value]);
            assert_eq!(records.len(), expected);
            assert!(records.starts_with(format!("{expected} path=").as_bytes()));
        }
    }

    #[test]
    fn names_use_pax_only_where_ustar_has_no_room() {
        let part = |len| vec![b'a'; len];
        let joined = |a, b| [part(a), part(b)].join(&b'/');
        let file = Kind::File(0);
        for (path, kind, fits) in [
            (part(100), file.clone(), true),
            (part(101), file.clone(), false),
            (part(99), Kind::Directory, true),
            (part(100), Kind::Directory, false),
            (joined(155, 100), file.clone(), true),
            (joined(156, 99), file.clone(), false),
            (joined(155, 101), file.clone(), false),
            (joined(155, 99), Kind::Directory, true),
            (joined(155, 100), Kind::Directory, false),
        ] {
            let entry = entry(&path, kind);
            assert_eq!(extended_records(&entry).is_empty(), fits, "{} bytes", path.len());
            assert_eq!(len(&entry), blocks(&entry).len() as u64);
        }
    }

    #[test]
    fn sizes_and_times_use_pax_only_where_octal_has_no_room() {
        let text = |entry: &Entry| String::from_utf8(extended_records(entry)).unwrap();
        assert_eq!(text(&entry(b"a", Kind::File(OCTAL_11_MAX))), "");
        assert_eq!(text(&entry(b"a", Kind::File(OCTAL_11_MAX + 1))), "19 size=8589934592\n");
        assert_eq!(text(&Entry { mtime: -1, ..entry(b"a", Kind::Directory) }), "12 mtime=-1\n");
    }

    #[test]
    fn names_that_are_not_utf8_are_marked_as_binary_in_pax() {
        let records = extended_records(&entry(&[0xff; 101], Kind::File(0)));
        assert!(records.starts_with(b"21 hdrcharset=BINARY\n"));
        assert!(extended_records(&entry(&[0xff; 100], Kind::File(0))).is_empty());
    }
}
