//! Writing a disk: payloads into its partitions, and the partition table that makes it a disk of the system, last.
//!
//! Used by the image builder on files and by the installer on disks. The table is what makes a disk bootable, so a disk
//! whose writing was cut has none: first the two copies of the GPT, then, in one sector, boot code and protective MBR.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};

use gpt::disk::LogicalBlockSize;
use thiserror::Error;
use uuid::Uuid;

use crate::layout::Partition;

/// Blocks of zeros of this size are left out, in bytes: what is written to is blank.
const HOLE_BYTES: usize = 64 << 10;
/// Bytes of the first sector that are code; disk signature and the MBR's partition table follow.
pub const MBR_CODE_BYTES: usize = 440;

/// Why a disk cannot be written.
#[derive(Debug, Error)]
pub enum TableError {
    /// What goes into a partition is larger than it.
    #[error("{bytes} bytes do not fit into partition {partition}, which holds {room}")]
    TooLarge {
        /// Its name.
        partition: &'static str,
        /// Bytes to be written.
        bytes: u64,
        /// Bytes that it holds.
        room: u64,
    },
    /// Reading or writing failed.
    #[error("cannot write {what}: {source}")]
    Write {
        /// What was written.
        what: String,
        /// The cause.
        source: std::io::Error,
    },
    /// A partition's type is no GUID, or the GPT cannot be made of it.
    #[error("cannot make the partition table: {0}")]
    Table(String),
}

/// Copies `payload` of `bytes` bytes to the start of a partition of the blank `disk`; `written` is told how many bytes of it
/// are there.
///
/// # Errors
/// [`TableError::TooLarge`] before anything is written; [`TableError::Write`]
pub fn fill(
    disk: &mut File,
    sector_bytes: u64,
    partition: &Partition,
    payload: &mut impl Read,
    bytes: u64,
    mut written: impl FnMut(u64),
) -> Result<(), TableError> {
    let room = partition.size_bytes(sector_bytes);
    if bytes > room {
        return Err(TableError::TooLarge { partition: partition.name, bytes, room });
    }
    let failed = |source| TableError::Write { what: format!("partition {}", partition.name), source };
    let start = partition.offset_bytes(sector_bytes);
    let mut payload = payload.take(bytes);
    let (mut done, mut block) = (0, vec![0; HOLE_BYTES]);
    loop {
        let count = read_block(&mut payload, &mut block).map_err(failed)?;
        if count == 0 {
            return Ok(());
        }
        if block[..count].iter().any(|byte| *byte != 0) {
            disk.seek(SeekFrom::Start(start + done))
                .and_then(|_| disk.write_all(&block[..count]))
                .map_err(failed)?;
        }
        done += count as u64;
        written(done);
    }
}

/// Reads until the block is full or the file ends.
fn read_block(file: &mut impl Read, block: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < block.len() {
        match file.read(&mut block[filled..])? {
            0 => break,
            count => filled += count,
        }
    }
    Ok(filled)
}

/// Writes the table of `partitions` to a disk of `disk_bytes`, and then the boot sector with `mbr_code`. `guid` gives the
/// GUID of a partition by its name, and of the disk by [`DISK`].
///
/// # Errors
/// [`TableError::Table`], [`TableError::Write`]
pub fn write(
    disk: &mut File,
    disk_bytes: u64,
    sector_bytes: u64,
    partitions: &[Partition],
    guid: impl Fn(&str) -> Uuid,
    mbr_code: &[u8; MBR_CODE_BYTES],
) -> Result<(), TableError> {
    let no_table = |error: &dyn std::fmt::Display| TableError::Table(error.to_string());
    let block_size = if sector_bytes == 4096 { LogicalBlockSize::Lb4096 } else { LogicalBlockSize::Lb512 };
    let mut entries = BTreeMap::new();
    for (number, partition) in (1..).zip(partitions) {
        let type_guid = Uuid::parse_str(partition.type_guid).map_err(|error| no_table(&error))?;
        let part_type_guid =
            gpt::partition_types::Type { guid: type_guid, os: gpt::partition_types::OperatingSystem::None };
        let entry = gpt::partition::Partition {
            part_type_guid,
            part_guid: guid(partition.name),
            first_lba: partition.first_lba,
            last_lba: partition.last_lba,
            flags: partition.flags,
            name: partition.name.into(),
        };
        entries.insert(number, entry);
    }
    let mut table = gpt::GptConfig::new()
        .writable(true)
        .logical_block_size(block_size)
        .create_from_device(&mut *disk, Some(guid(DISK)))
        .map_err(|error| no_table(&error))?;
    table.update_partitions(entries).map_err(|error| no_table(&error))?;
    table.write_inplace().map_err(|error| no_table(&error))?;
    drop(table);
    let failed = |source| TableError::Write { what: "the partition table".into(), source };
    disk.sync_all().map_err(failed)?;

    let blocks = u32::try_from(disk_bytes / sector_bytes - 1).unwrap_or(u32::MAX);
    let mut sector = std::io::Cursor::new(vec![0; 512]);
    gpt::mbr::ProtectiveMBR::with_lb_size(blocks)
        .overwrite_lba0(&mut sector)
        .map_err(|error| no_table(&error))?;
    let mut sector = sector.into_inner();
    sector[..MBR_CODE_BYTES].copy_from_slice(mbr_code);
    disk.seek(SeekFrom::Start(0))
        .and_then(|_| disk.write_all(&sector))
        .and_then(|()| disk.sync_all())
        .map_err(failed)
}

/// For what [`write`] asks the GUID of the disk.
pub const DISK: &str = "disk";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{self, MINIMUM_DISK_BYTES};

    fn blank(bytes: u64) -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(bytes).unwrap();
        file
    }

    #[test]
    fn the_table_is_read_again_as_it_was_written_and_the_boot_code_stands_before_it() {
        for sector in [512, 4096] {
            let mut disk = blank(MINIMUM_DISK_BYTES);
            let partitions = layout::system_disk(MINIMUM_DISK_BYTES, sector).unwrap();
            let guid = |name: &str| Uuid::from_u128(name.len() as u128);
            write(&mut disk, MINIMUM_DISK_BYTES, sector, &partitions, guid, &[0xee; MBR_CODE_BYTES]).unwrap();
            let mut first = [0; 512];
            disk.seek(SeekFrom::Start(0)).unwrap();
            disk.read_exact(&mut first).unwrap();
            assert_eq!(first[..MBR_CODE_BYTES], [0xee; MBR_CODE_BYTES]);
            assert_eq!((first[450], &first[510..]), (0xee, &[0x55, 0xaa][..]), "no protective MBR");
            let block = if sector == 512 { LogicalBlockSize::Lb512 } else { LogicalBlockSize::Lb4096 };
            let table = gpt::GptConfig::new()
                .writable(false)
                .logical_block_size(block)
                .open_from_device(disk)
                .unwrap();
            assert_eq!(*table.guid(), guid(DISK));
            let read: Vec<_> = table
                .partitions()
                .values()
                .map(|entry| (entry.name.clone(), entry.first_lba, entry.last_lba, entry.flags))
                .collect();
            let written: Vec<_> = partitions
                .iter()
                .map(|partition| {
                    (partition.name.to_owned(), partition.first_lba, partition.last_lba, partition.flags)
                })
                .collect();
            assert_eq!(read, written);
        }
    }

    #[test]
    fn a_payload_goes_where_its_partition_is_and_a_larger_one_is_refused() {
        let mut disk = blank(MINIMUM_DISK_BYTES);
        let partitions = layout::system_disk(MINIMUM_DISK_BYTES, 512).unwrap();
        let boot = partitions.iter().find(|partition| partition.name == "boot-a").unwrap();
        let payload: Vec<u8> = [vec![7; 100_000], vec![0; 200_000], vec![9; 5]].concat();
        let mut told = 0;
        fill(&mut disk, 512, boot, &mut &payload[..], payload.len() as u64, |bytes| told = bytes).unwrap();
        assert_eq!(told, payload.len() as u64);
        let mut read = vec![0; payload.len()];
        disk.seek(SeekFrom::Start(boot.offset_bytes(512))).unwrap();
        disk.read_exact(&mut read).unwrap();
        assert!(read == payload);
        let text = fill(&mut disk, 512, boot, &mut &payload[..], layout::BOOT_BYTES + 1, |_| ()).unwrap_err();
        assert_eq!(
            text.to_string(),
            "167772161 bytes do not fit into partition boot-a, which holds 167772160"
        );
    }
}
