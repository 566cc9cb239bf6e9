//! What a partition holds, told from its first mebibyte. Only a *blank* or *half-made* one may ever be formatted:
//! everything else is somebody's data (design D15).

use std::io::{Read, Seek, SeekFrom};

use uuid::Uuid;

/// How much of a partition is looked at, in bytes. The superblocks of btrfs, ext, XFS, FAT, LVM, LUKS, swap, ISO 9660
/// and md (1.1, 1.2) all lie in here.
pub const PROBE_BYTES: usize = 1 << 20;

/// Where btrfs keeps its first superblock, in bytes; the offsets of its fields are those of `struct btrfs_super_block`
/// (btrfs documentation, "On-disk format").
const BTRFS_SUPERBLOCK: usize = 64 << 10;
/// Where the magic is.
const BTRFS_MAGIC_OFFSET: usize = BTRFS_SUPERBLOCK + 0x40;
const BTRFS_MAGIC: &[u8; 8] = b"_BHRfS_M";
/// mkfs.btrfs writes this magic first and the real one when it is done (BTRFS_MAGIC_TEMPORARY in btrfs-progs).
const BTRFS_MAGIC_TEMPORARY: &[u8; 8] = b"!BHRfS_M";

/// What a partition holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contents {
    /// The first mebibyte is zero.
    Blank,
    /// mkfs.btrfs was cut off before it finished: nothing was ever stored here.
    HalfMade,
    /// A finished btrfs (whether it mounts is another question).
    Btrfs,
    /// Anything else.
    Foreign,
}

/// Classifies the first [`PROBE_BYTES`] of a partition.
pub fn classify(head: &[u8]) -> Contents {
    match head.get(BTRFS_MAGIC_OFFSET..BTRFS_MAGIC_OFFSET + BTRFS_MAGIC.len()) {
        Some(magic) if magic == BTRFS_MAGIC => return Contents::Btrfs,
        Some(magic) if magic == BTRFS_MAGIC_TEMPORARY => return Contents::HalfMade,
        _ => {}
    }
    // A partition shorter than the probe cannot be told apart safely, so it counts as foreign.
    if head.len() >= PROBE_BYTES && head.iter().all(|byte| *byte == 0) {
        Contents::Blank
    } else {
        Contents::Foreign
    }
}

/// What a member of a btrfs says of itself and of the file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Superblock {
    /// UUID of the file system: the same on all of its devices.
    pub fsid: Uuid,
    /// Number of the last transaction that this member has.
    pub generation: u64,
    /// How many members there are.
    pub num_devices: u64,
    /// Number of this one, which it keeps.
    pub devid: u64,
}

/// The superblock of a partition with this head, if it holds a finished btrfs.
pub fn superblock(head: &[u8]) -> Option<Superblock> {
    if classify(head) != Contents::Btrfs {
        return None;
    }
    let field = |at: usize, bytes: usize| head.get(BTRFS_SUPERBLOCK + at..BTRFS_SUPERBLOCK + at + bytes);
    let number = |at| Some(u64::from_le_bytes(field(at, 8)?.try_into().ok()?));
    Some(Superblock {
        fsid: Uuid::from_slice(field(0x20, 16)?).ok()?,
        generation: number(0x48)?,
        num_devices: number(0x88)?,
        devid: number(0xc9)?,
    })
}

/// The file system of which a partition was a member until it was replaced or removed: the kernel takes the signature away
/// then, and leaves the rest of the superblock (`btrfs_scratch_superblocks`).
pub fn scratched(head: &[u8]) -> Option<Uuid> {
    let magic = head.get(BTRFS_MAGIC_OFFSET..BTRFS_MAGIC_OFFSET + BTRFS_MAGIC.len())?;
    let at = BTRFS_SUPERBLOCK + 0x20;
    let fsid = Uuid::from_slice(head.get(at..at + 16)?).ok()?;
    (magic.iter().all(|byte| *byte == 0) && !fsid.is_nil()).then_some(fsid)
}

/// Reads the head of a partition.
///
/// # Errors
/// Read errors of the device.
pub fn read_head(device: &mut (impl Read + Seek)) -> std::io::Result<Vec<u8>> {
    device.seek(SeekFrom::Start(0))?;
    let mut head = Vec::with_capacity(PROBE_BYTES);
    device.take(PROBE_BYTES as u64).read_to_end(&mut head)?;
    Ok(head)
}

/// Reads the head of a partition and classifies it.
///
/// # Errors
/// Read errors of the device; never mistaken for blank.
pub fn identify(device: &mut (impl Read + Seek)) -> std::io::Result<Contents> {
    Ok(classify(&read_head(device)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    fn head(patches: &[(usize, &[u8])]) -> Vec<u8> {
        let mut bytes = vec![0; PROBE_BYTES];
        for (at, patch) in patches {
            bytes[*at..at + patch.len()].copy_from_slice(patch);
        }
        bytes
    }

    #[test]
    fn a_partition_is_blank_only_if_its_first_mebibyte_is_zero() {
        let table: &[(Vec<u8>, Contents)] = &[
            (head(&[]), Contents::Blank),
            (head(&[(BTRFS_MAGIC_OFFSET, BTRFS_MAGIC)]), Contents::Btrfs),
            (head(&[(BTRFS_MAGIC_OFFSET, BTRFS_MAGIC_TEMPORARY)]), Contents::HalfMade),
            (head(&[(1024 + 56, &[0x53, 0xef])]), Contents::Foreign), // ext
            (head(&[(0, b"XFSB")]), Contents::Foreign),
            (head(&[(PROBE_BYTES - 1, &[1])]), Contents::Foreign),
            (vec![0; PROBE_BYTES - 1], Contents::Foreign),
            (vec![], Contents::Foreign),
        ];
        for (bytes, expected) in table {
            assert_eq!(classify(bytes), *expected);
            assert_eq!(identify(&mut Cursor::new(bytes)).unwrap(), *expected);
        }
    }

    #[test]
    fn a_superblock_is_read_where_btrfs_has_it() {
        let fsid = Uuid::from_u128(7);
        let at = |offset: usize| BTRFS_SUPERBLOCK + offset;
        let fields: [(usize, &[u8]); 4] = [
            (at(0x20), fsid.as_bytes()),
            (at(0x48), &[1, 2, 0, 0, 0, 0, 0, 0]),
            (at(0x88), &[4, 0, 0, 0, 0, 0, 0, 0]),
            (at(0xc9), &[3, 0, 0, 0, 0, 0, 0, 0]),
        ];
        let unfinished = head(&fields);
        let finished = head(&[&fields[..], &[(BTRFS_MAGIC_OFFSET, BTRFS_MAGIC)]].concat());
        let expected = Superblock { fsid, generation: 0x201, num_devices: 4, devid: 3 };
        assert_eq!(scratched(&unfinished), Some(fsid));
        assert_eq!((scratched(&finished), scratched(&head(&[])), scratched(&[])), (None, None, None));
        for (head, expected) in [(finished, Some(expected)), (unfinished, None), (vec![], None)] {
            assert_eq!(superblock(&head), expected);
        }
    }

    #[test]
    fn only_the_head_is_looked_at() {
        let mut bytes = head(&[]);
        bytes.extend([7; 4096]);
        assert_eq!(identify(&mut Cursor::new(bytes)).unwrap(), Contents::Blank);
    }
}
