//! Writing a disk: payloads into its partitions, and the partition table that makes it a disk of the system, last.
//!
//! Used by the image builder on files and by the installer on disks. The table is what makes a disk bootable, so a disk
//! whose writing was cut has none: first the two copies of the GPT, then, in one sector, boot code and protective MBR. Over
//! several disks each of these steps is done on all before the next.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};

use gpt::disk::LogicalBlockSize;
use thiserror::Error;
use uuid::Uuid;

use crate::layout::{self, Partition};

/// Blocks of zeros of this size are left out on what is blank, in bytes.
const BLOCK_BYTES: usize = 64 << 10;
/// What is erased at the start of each partition, and at both ends of a disk, in bytes: signatures of file systems, and
/// partition tables, lie there.
const ERASED_BYTES: u64 = 1 << 20;
/// Both ends of a disk with room for its tables, in bytes: less than the first MiB, where no partition is.
const ENDS_BYTES: u64 = 64 << 10;
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

/// Makes `disk` of `disk_bytes` one without partition table, and its future `partitions` blank as far as anybody looks.
///
/// # Errors
/// [`TableError::Write`]
pub fn erase(
    disk: &mut File,
    disk_bytes: u64,
    sector_bytes: u64,
    partitions: &[Partition],
) -> Result<(), TableError> {
    let failed = |source| TableError::Write { what: "zeros over what was on the disk".into(), source };
    let zeros = vec![0; ERASED_BYTES as usize];
    // The ends first: what is cut after that is no system any more, whatever its partitions hold.
    let ends = [0, disk_bytes.saturating_sub(ERASED_BYTES)];
    let starts = partitions.iter().map(|partition| partition.offset_bytes(sector_bytes));
    for offset in ends.into_iter().chain(starts) {
        disk.seek(SeekFrom::Start(offset)).and_then(|_| disk.write_all(&zeros)).map_err(failed)?;
    }
    disk.sync_all().map_err(failed)
}

/// Copies `payload` of `bytes` bytes to the start of a partition of `disk`; `written` is told how many bytes of it are there.
/// `is_blank`: the disk reads as zeros, of which none need be written.
///
/// # Errors
/// [`TableError::TooLarge`] before anything is written; [`TableError::Write`]
pub fn fill(
    disk: &mut File,
    sector_bytes: u64,
    partition: &Partition,
    payload: &mut impl Read,
    bytes: u64,
    is_blank: bool,
    mut written: impl FnMut(u64),
) -> Result<(), TableError> {
    let room = partition.size_bytes(sector_bytes);
    if bytes > room {
        return Err(TableError::TooLarge { partition: partition.name, bytes, room });
    }
    let failed = |source| TableError::Write { what: format!("partition {}", partition.name), source };
    let start = partition.offset_bytes(sector_bytes);
    let mut payload = payload.take(bytes);
    let (mut done, mut block) = (0, vec![0; BLOCK_BYTES]);
    loop {
        let count = read_block(&mut payload, &mut block).map_err(failed)?;
        if count == 0 {
            return Ok(());
        }
        if !is_blank || block[..count].iter().any(|byte| *byte != 0) {
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

/// Writes both copies of the GPT of `partitions`. `guid` gives the GUID of a partition by its name, and of the disk by
/// [`DISK`]. The disk counts as having it when [`write_boot_sector`] is done.
///
/// # Errors
/// [`TableError::Table`], [`TableError::Write`]
pub fn write_gpt(
    disk: &mut File,
    sector_bytes: u64,
    partitions: &[Partition],
    guid: impl Fn(&str) -> Uuid,
) -> Result<(), TableError> {
    let block_size = block_size(sector_bytes);
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
    disk.sync_all().map_err(|source| TableError::Write { what: "the partition table".into(), source })
}

/// Whether a disk is what an installation leaves that was cut before its boot sector: our partition table behind an empty first
/// sector. Nothing was ever stored there.
///
/// # Errors
/// The disk cannot be read.
pub fn is_cut_installation(disk: &mut File, sector_bytes: u64) -> std::io::Result<bool> {
    let mut first = [0; 512];
    disk.seek(SeekFrom::Start(0))?;
    disk.read_exact(&mut first)?;
    if first.iter().any(|byte| *byte != 0) {
        return Ok(false);
    }
    let config = gpt::GptConfig::new().writable(false).logical_block_size(block_size(sector_bytes));
    let Ok(table) = config.open_from_device(disk) else { return Ok(false) };
    Ok(table.partitions().values().map(|entry| entry.name.as_str()).eq(layout::names()))
}

/// Has the first sector of a disk and its partition tables say nothing any more: no firmware starts it, and it is no disk of a
/// system. What its partitions hold stays.
///
/// # Errors
/// [`TableError::Write`]
pub fn retire(disk: &mut File, disk_bytes: u64) -> Result<(), TableError> {
    let failed = |source| TableError::Write { what: "the boot sector".into(), source };
    let zeros = vec![0; ENDS_BYTES as usize];
    for offset in [0, disk_bytes.saturating_sub(ENDS_BYTES)] {
        disk.seek(SeekFrom::Start(offset)).and_then(|_| disk.write_all(&zeros)).map_err(failed)?;
    }
    disk.sync_all().map_err(failed)
}

/// Writes zeros over all of a disk; `written` is told how many bytes are.
///
/// # Errors
/// [`TableError::Write`]
pub fn overwrite(disk: &mut File, disk_bytes: u64, mut written: impl FnMut(u64)) -> Result<(), TableError> {
    let failed = |source| TableError::Write { what: "zeros over all of the disk".into(), source };
    let zeros = vec![0; 8 << 20];
    disk.seek(SeekFrom::Start(0)).map_err(failed)?;
    let mut done = 0;
    while done < disk_bytes {
        let count = disk_bytes.saturating_sub(done).min(zeros.len() as u64);
        disk.write_all(&zeros[..count as usize]).map_err(failed)?;
        done += count;
        written(done);
    }
    disk.sync_all().map_err(failed)
}

/// Has the last partition of a disk that has grown reach to its end. Returns whether it does now and did not before.
///
/// A disk whose first table is torn boots from its second one, at the very end: so that is there before the first changes.
///
/// # Errors
/// [`TableError::Table`], [`TableError::Write`]
pub fn extend_last(disk: &mut File, disk_bytes: u64, sector_bytes: u64) -> Result<bool, TableError> {
    let failed = |source| TableError::Write { what: "the partition table".into(), source };
    let block_size = block_size(sector_bytes);
    let config = || gpt::GptConfig::new().logical_block_size(block_size);
    let old = config().writable(false).open_from_device(&mut *disk).map_err(|error| no_table(&error))?;
    let (guid, mut entries) = (*old.guid(), old.partitions().clone());
    drop(old);
    let end = layout::end_of_partitions(disk_bytes, sector_bytes) / sector_bytes;
    match entries.values_mut().max_by_key(|entry| entry.last_lba) {
        // Less than a whole MiB is no growth.
        Some(last) if last.last_lba + layout::MIB / sector_bytes < end => last.last_lba = end - 1,
        _ => return Ok(false),
    }
    let mut ends = Ends::of(disk, disk_bytes).map_err(failed)?;
    let mut table = config()
        .writable(true)
        .create_from_device(&mut ends, Some(guid))
        .map_err(|error| no_table(&error))?;
    table.update_partitions(entries).map_err(|error| no_table(&error))?;
    table.write_inplace().map_err(|error| no_table(&error))?;
    drop(table);
    // The protective MBR says how large the disk is, too.
    if let Some(code) = mbr_code(disk).map_err(failed)? {
        ends.first[..512].copy_from_slice(&boot_sector(disk_bytes, sector_bytes, &code)?);
    }
    ends.write_last_first(disk).map_err(failed)?;
    Ok(true)
}

/// Both ends of a disk, in memory: what lies between is not there.
#[derive(Debug)]
struct Ends {
    first: Vec<u8>,
    last: Vec<u8>,
    disk_bytes: u64,
    position: u64,
}

impl Ends {
    /// As they are; the boot sector in the first one stays.
    fn of(disk: &mut File, disk_bytes: u64) -> std::io::Result<Self> {
        let (mut first, last) = (vec![0; ENDS_BYTES as usize], vec![0; ENDS_BYTES as usize]);
        disk.seek(SeekFrom::Start(0))?;
        disk.read_exact(&mut first)?;
        Ok(Self { first, last, disk_bytes, position: 0 })
    }

    /// Writes the tables: the last one, and once that is on the disk, the first.
    fn write_last_first(&self, disk: &mut File) -> std::io::Result<()> {
        for (offset, bytes) in [(self.disk_bytes - ENDS_BYTES, &self.last), (0, &self.first)] {
            disk.seek(SeekFrom::Start(offset))?;
            disk.write_all(bytes)?;
            disk.sync_all()?;
        }
        Ok(())
    }

    /// What lies at the position, to the end of that end.
    fn here(&mut self) -> std::io::Result<&mut [u8]> {
        let last = self.disk_bytes - ENDS_BYTES;
        let (end, offset) = if self.position >= last {
            (&mut self.last, self.position - last)
        } else {
            (&mut self.first, self.position)
        };
        let offset = usize::try_from(offset).map_err(std::io::Error::other)?;
        end.get_mut(offset..).ok_or_else(|| std::io::Error::other("between the ends of the disk"))
    }
}

impl Read for Ends {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let here = self.here()?;
        let count = here.len().min(buffer.len());
        buffer[..count].copy_from_slice(&here[..count]);
        self.position += count as u64;
        Ok(count)
    }
}

impl Write for Ends {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        let here = self.here()?;
        let count = here.len().min(buffer.len());
        here[..count].copy_from_slice(&buffer[..count]);
        self.position += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Seek for Ends {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        let position = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::End(offset) => self.disk_bytes.checked_add_signed(offset),
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
        };
        self.position = position.ok_or_else(|| std::io::Error::other("before the start of the disk"))?;
        Ok(self.position)
    }
}

fn block_size(sector_bytes: u64) -> LogicalBlockSize {
    if sector_bytes == 4096 { LogicalBlockSize::Lb4096 } else { LogicalBlockSize::Lb512 }
}

fn no_table(error: &dyn std::fmt::Display) -> TableError {
    TableError::Table(error.to_string())
}

/// Writes the boot sector of a disk that has its GPT: boot code and protective MBR.
///
/// # Errors
/// [`TableError::Table`], [`TableError::Write`]
pub fn write_boot_sector(
    disk: &mut File,
    disk_bytes: u64,
    sector_bytes: u64,
    mbr_code: &[u8; MBR_CODE_BYTES],
) -> Result<(), TableError> {
    let failed = |source| TableError::Write { what: "the boot sector".into(), source };
    let sector = boot_sector(disk_bytes, sector_bytes, mbr_code)?;
    disk.seek(SeekFrom::Start(0))
        .and_then(|_| disk.write_all(&sector))
        .and_then(|()| disk.sync_all())
        .map_err(failed)
}

fn boot_sector(
    disk_bytes: u64,
    sector_bytes: u64,
    mbr_code: &[u8; MBR_CODE_BYTES],
) -> Result<Vec<u8>, TableError> {
    let blocks = u32::try_from(disk_bytes / sector_bytes - 1).unwrap_or(u32::MAX);
    let mut sector = std::io::Cursor::new(vec![0; 512]);
    gpt::mbr::ProtectiveMBR::with_lb_size(blocks)
        .overwrite_lba0(&mut sector)
        .map_err(|error| no_table(&error))?;
    let mut sector = sector.into_inner();
    sector[..MBR_CODE_BYTES].copy_from_slice(mbr_code);
    Ok(sector)
}

/// The boot code of a disk that has a protective MBR; `None`: it has none, so its GPT does not count (UEFI 2.10, 5.2.3).
///
/// # Errors
/// It cannot be read.
pub fn mbr_code(disk: &mut File) -> std::io::Result<Option<[u8; MBR_CODE_BYTES]>> {
    let mut sector = [0; 512];
    disk.seek(SeekFrom::Start(0))?;
    disk.read_exact(&mut sector)?;
    let is_protective = sector[450] == 0xee && sector[510..] == [0x55, 0xaa];
    Ok(sector[..MBR_CODE_BYTES].try_into().ok().filter(|_| is_protective))
}

/// For what [`write_gpt`] asks the GUID of the disk.
pub const DISK: &str = "disk";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::MINIMUM_DISK_BYTES;

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
            write_gpt(&mut disk, sector, &partitions, guid).unwrap();
            assert_eq!(mbr_code(&mut disk).unwrap(), None);
            write_boot_sector(&mut disk, MINIMUM_DISK_BYTES, sector, &[0xee; MBR_CODE_BYTES]).unwrap();
            assert_eq!(mbr_code(&mut disk).unwrap(), Some([0xee; MBR_CODE_BYTES]));
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
        fill(&mut disk, 512, boot, &mut &payload[..], payload.len() as u64, true, |bytes| told = bytes)
            .unwrap();
        assert_eq!(told, payload.len() as u64);
        let mut read = vec![0; payload.len()];
        disk.seek(SeekFrom::Start(boot.offset_bytes(512))).unwrap();
        disk.read_exact(&mut read).unwrap();
        assert!(read == payload);
        let text =
            fill(&mut disk, 512, boot, &mut &payload[..], layout::BOOT_BYTES + 1, true, |_| ()).unwrap_err();
        assert_eq!(
            text.to_string(),
            "167772161 bytes do not fit into partition boot-a, which holds 167772160"
        );
    }

    #[test]
    fn the_last_partition_of_a_disk_that_has_grown_reaches_to_its_end() {
        for sector in [512, 4096] {
            let (old, new) = (MINIMUM_DISK_BYTES, MINIMUM_DISK_BYTES + 5 * layout::GIB);
            let mut disk = blank(old);
            let guid = |name: &str| Uuid::from_u128(name.bytes().map(u128::from).sum());
            write_gpt(&mut disk, sector, &layout::system_disk(old, sector).unwrap(), guid).unwrap();
            write_boot_sector(&mut disk, old, sector, &[0xee; MBR_CODE_BYTES]).unwrap();
            assert!(!extend_last(&mut disk, old, sector).unwrap());
            disk.set_len(new).unwrap();
            assert!(extend_last(&mut disk, new, sector).unwrap());
            assert!(!extend_last(&mut disk, new, sector).unwrap());
            assert_eq!(mbr_code(&mut disk).unwrap(), Some([0xee; MBR_CODE_BYTES]));
            let expected = layout::system_disk(new, sector).unwrap();
            let check = |disk: &mut File| {
                let config = gpt::GptConfig::new().writable(false).logical_block_size(block_size(sector));
                let table = config.open_from_device(disk).unwrap();
                assert_eq!(*table.guid(), guid(DISK));
                for (entry, partition) in table.partitions().values().zip(&expected) {
                    assert_eq!(entry.part_guid, guid(partition.name));
                    assert_eq!((entry.first_lba, entry.last_lba), (partition.first_lba, partition.last_lba));
                }
            };
            check(&mut disk);
            // As after a cut while the first table was written.
            disk.seek(SeekFrom::Start(sector)).unwrap();
            disk.write_all(&[0xff; 512]).unwrap();
            check(&mut disk);
        }
    }
}
