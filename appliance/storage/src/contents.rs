//! What a partition holds, told from its first mebibyte. Only a *blank* or *half-made* one may ever be formatted:
//! everything else is somebody's data (design D15).

use std::io::{Read, Seek, SeekFrom};

use uuid::Uuid;

/// How much of a partition is looked at, in bytes. The superblocks of btrfs, ext, XFS, FAT, LVM, LUKS, swap, ISO 9660
/// and md (1.1, 1.2) all lie in here.
pub const PROBE_BYTES: usize = 1 << 20;

/// Where btrfs keeps its first superblock (64 KiB) plus the offset of the magic in it (64), in bytes.
const BTRFS_MAGIC_OFFSET: usize = 65_536 + 64;
/// And that of the file system's UUID (32).
const BTRFS_FSID_OFFSET: usize = 65_536 + 32;
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

/// UUID of the finished btrfs of which a partition with this head is a member: the same on all of its devices.
pub fn btrfs_uuid(head: &[u8]) -> Option<Uuid> {
    let fsid = head.get(BTRFS_FSID_OFFSET..BTRFS_FSID_OFFSET + 16)?;
    (classify(head) == Contents::Btrfs).then(|| Uuid::from_slice(fsid).ok())?
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
    fn members_of_a_btrfs_have_its_uuid() {
        let fsid = Uuid::from_u128(7);
        let table = [
            (head(&[(BTRFS_MAGIC_OFFSET, BTRFS_MAGIC), (BTRFS_FSID_OFFSET, fsid.as_bytes())]), Some(fsid)),
            (head(&[(BTRFS_FSID_OFFSET, fsid.as_bytes())]), None),
            (vec![], None),
        ];
        for (head, expected) in table {
            assert_eq!(btrfs_uuid(&head), expected);
        }
    }

    #[test]
    fn only_the_head_is_looked_at() {
        let mut bytes = head(&[]);
        bytes.extend([7; 4096]);
        assert_eq!(identify(&mut Cursor::new(bytes)).unwrap(), Contents::Blank);
    }
}
