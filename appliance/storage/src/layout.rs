//! The partitions of a system disk: one pure function from a disk's size to a partition list.
//!
//! Sizes are fixed, not shares of the disk: an update bundle must fit into the slots of every machine there is, so
//! a slot is as large on a 20 GB disk as on a 20 TB one, and everything that is left belongs to `data`.

use thiserror::Error;

/// One mebibyte in bytes; every partition starts on a multiple of it (covers 4 KiB sectors, SSD pages and the usual
/// stripe sizes of RAID controllers).
pub const MIB: u64 = 1 << 20;
/// One gibibyte in bytes.
pub const GIB: u64 = 1 << 30;

/// The smallest disk that is accepted, in bytes (design section 7: 20 GB; disks are sold in powers of ten).
pub const MINIMUM_DISK_BYTES: u64 = 20_000_000_000;

/// Space for GRUB's core image on BIOS machines, in bytes.
pub const BIOS_BOOT_BYTES: u64 = MIB;
/// EFI system partition in bytes: shim, GRUB, grub.cfg, grubenv; FAT32 needs more than 32 MiB.
pub const ESP_BYTES: u64 = 64 * MIB;
/// One boot partition (kernel, initrd, slot.cfg) in bytes.
pub const BOOT_BYTES: u64 = 160 * MIB;
/// One root partition (erofs) in bytes.
pub const ROOT_BYTES: u64 = GIB;
/// One verity partition in bytes: a SHA-256 tree over [`ROOT_BYTES`] in 4 KiB blocks takes under 9 MiB.
pub const VERITY_BYTES: u64 = 32 * MIB;
/// The machine's /var in bytes (design D5).
pub const STATE_BYTES: u64 = 2 * GIB;

/// GPT name of the partition that holds the machine's /var.
pub const STATE: &str = "state";
/// GPT name of the partition that holds replica and backups, or the monitor's database.
pub const DATA: &str = "data";
/// GPT names of what a disk carries to boot the system, in both slots (design D4).
pub const BOOT_SET: [&str; 7] = ["esp", "boot-a", "boot-b", "root-a", "verity-a", "root-b", "verity-b"];

/// GPT type of the BIOS boot partition, where GRUB keeps its core image.
pub const TYPE_BIOS_BOOT: &str = "21686148-6449-6e6f-744e-656564454649";
/// GPT type of the EFI system partition.
pub const TYPE_ESP: &str = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b";
/// GPT type "Linux root (x86-64)" of the discoverable partitions specification.
pub const TYPE_ROOT_X86_64: &str = "4f68bce3-e8cd-4db1-96e7-fbcaf984b709";
/// GPT type "Linux root verity (x86-64)" of the discoverable partitions specification.
pub const TYPE_ROOT_VERITY_X86_64: &str = "2c7357ed-ebd2-46d9-aec1-23d437ec2bf5";
/// GPT type "Linux file system data".
pub const TYPE_LINUX: &str = "0fc63daf-8483-4772-8e79-3d69d8477de4";

/// GPT attribute bit 63: no automatic mounting or discovery. GRUB names the slot to boot; systemd must not choose
/// one by itself.
pub const FLAG_NO_AUTO: u64 = 1 << 63;

/// Size of the GPT's partition array in bytes: 128 entries of 128 bytes, the least that UEFI allows.
const GPT_ENTRIES_BYTES: u64 = 128 * 128;

/// One entry of the partition table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Partition {
    /// GPT partition name, by which everything else finds the partition.
    pub name: &'static str,
    /// GPT type GUID in lower-case text form.
    pub type_guid: &'static str,
    /// First logical block, in units of the disk's sector size.
    pub first_lba: u64,
    /// Last logical block, inclusive.
    pub last_lba: u64,
    /// GPT attribute bits.
    pub flags: u64,
}

impl Partition {
    /// Start of the partition in bytes from the start of the disk.
    pub fn offset_bytes(&self, sector_size: u64) -> u64 {
        self.first_lba * sector_size
    }

    /// Size of the partition in bytes.
    pub fn size_bytes(&self, sector_size: u64) -> u64 {
        (self.last_lba - self.first_lba + 1) * sector_size
    }
}

/// Why a disk cannot become a system disk.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum LayoutError {
    /// The disk is below [`MINIMUM_DISK_BYTES`].
    #[error(
        "the disk has {disk_bytes} bytes ({gb:.1} GB), a system disk needs at least 20 GB; use a larger disk",
        gb = *disk_bytes as f64 / 1e9
    )]
    TooSmall {
        /// Size of the disk that was refused.
        disk_bytes: u64,
    },
    /// A sector size that no disk has.
    #[error("a sector size of {0} bytes is not supported, only 512 and 4096 are")]
    SectorSize(u64),
}

/// What the table is made from: name, type, size (`None`: the rest of the disk), flags; in the order on the disk.
const PLAN: [(&str, &str, Option<u64>, u64); 10] = [
    ("bios-boot", TYPE_BIOS_BOOT, Some(BIOS_BOOT_BYTES), 0),
    ("esp", TYPE_ESP, Some(ESP_BYTES), 0),
    ("boot-a", TYPE_LINUX, Some(BOOT_BYTES), FLAG_NO_AUTO),
    ("boot-b", TYPE_LINUX, Some(BOOT_BYTES), FLAG_NO_AUTO),
    ("root-a", TYPE_ROOT_X86_64, Some(ROOT_BYTES), FLAG_NO_AUTO),
    ("verity-a", TYPE_ROOT_VERITY_X86_64, Some(VERITY_BYTES), FLAG_NO_AUTO),
    ("root-b", TYPE_ROOT_X86_64, Some(ROOT_BYTES), FLAG_NO_AUTO),
    ("verity-b", TYPE_ROOT_VERITY_X86_64, Some(VERITY_BYTES), FLAG_NO_AUTO),
    (STATE, TYPE_LINUX, Some(STATE_BYTES), 0),
    (DATA, TYPE_LINUX, None, 0),
];

/// The names of a system disk's partitions, in order.
pub fn names() -> impl Iterator<Item = &'static str> {
    PLAN.iter().map(|(name, ..)| *name)
}

/// Where the last partition ends, in bytes: on a multiple of 1 MiB before the second copy of the GPT.
pub fn end_of_partitions(disk_bytes: u64, sector_size: u64) -> u64 {
    // The backup GPT (array and header) ends with the last whole sector of the disk.
    let whole = disk_bytes / sector_size * sector_size;
    whole.saturating_sub(GPT_ENTRIES_BYTES + sector_size) / MIB * MIB
}

/// Lays out a system disk of `disk_bytes` with sectors of `sector_size` bytes.
///
/// The partitions come in table order (the first is number 1), start on multiples of 1 MiB and leave room for both
/// copies of the GPT.
///
/// # Errors
/// [`LayoutError::TooSmall`] under 20 GB, [`LayoutError::SectorSize`] for anything but 512 and 4096.
pub fn system_disk(disk_bytes: u64, sector_size: u64) -> Result<Vec<Partition>, LayoutError> {
    system_disk_aligned(disk_bytes, sector_size, MIB)
}

/// Most that partitions are aligned to, in bytes: a unit beyond that is a lie, or costs more than it gives.
const ALIGNMENT_MAX: u64 = 64 * MIB;

/// The least multiple of 1 MiB on which partitions keep to units of `unit` bytes, such as a stripe of a RAID volume; `None`
/// for a unit that makes no sense.
pub fn alignment(unit: u64) -> Option<u64> {
    if unit == 0 || !unit.is_multiple_of(4096) {
        return None;
    }
    (1..=ALIGNMENT_MAX / MIB).map(|count| count * MIB).find(|alignment| alignment.is_multiple_of(unit))
}

/// The same with starts on multiples of `alignment` bytes, which is a multiple of 1 MiB; the BIOS boot partition, which is
/// written once, is on the first MiB whatever that is.
///
/// # Errors
/// As [`system_disk`].
pub fn system_disk_aligned(
    disk_bytes: u64,
    sector_size: u64,
    alignment: u64,
) -> Result<Vec<Partition>, LayoutError> {
    if ![512, 4096].contains(&sector_size) {
        return Err(LayoutError::SectorSize(sector_size));
    }
    if disk_bytes < MINIMUM_DISK_BYTES {
        return Err(LayoutError::TooSmall { disk_bytes });
    }
    let end = end_of_partitions(disk_bytes, sector_size);
    let mut start = MIB;
    let mut partitions = Vec::with_capacity(PLAN.len());
    for (name, type_guid, size, flags) in PLAN {
        if name != PLAN[0].0 {
            start = start.next_multiple_of(alignment);
        }
        let size = size.unwrap_or(end - start);
        partitions.push(Partition {
            name,
            type_guid,
            first_lba: start / sector_size,
            last_lba: (start + size) / sector_size - 1,
            flags,
        });
        start += size;
    }
    Ok(partitions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_follow_each_other_aligned_and_leave_room_for_both_tables() {
        let sizes = [
            MINIMUM_DISK_BYTES,
            MINIMUM_DISK_BYTES + 1,
            20 * GIB,
            20 * GIB + 512,
            32 * GIB + 777 * 4096,
            500_107_862_016,
            20_000_588_955_648,
        ];
        for disk in sizes {
            for sector in [512, 4096] {
                let table = system_disk(disk, sector).unwrap();
                let mut expected_start = MIB;
                for p in &table {
                    assert_eq!(p.offset_bytes(sector), expected_start, "{} on {disk}/{sector}", p.name);
                    assert_eq!(p.offset_bytes(sector) % MIB, 0);
                    assert_eq!(p.size_bytes(sector) % MIB, 0);
                    expected_start += p.size_bytes(sector);
                }
                let left = disk - expected_start;
                assert!(left >= GPT_ENTRIES_BYTES + sector, "backup table overlaps data on {disk}/{sector}");
                assert!(left < 2 * MIB + sector, "{left} bytes wasted on {disk}/{sector}");
            }
        }
    }

    #[test]
    fn names_sizes_and_types_are_the_contract() {
        let table = system_disk(32 * GIB, 512).unwrap();
        let rows: Vec<_> = table.iter().map(|p| (p.name, p.size_bytes(512) / MIB, p.flags >> 63)).collect();
        assert_eq!(
            rows,
            [
                ("bios-boot", 1, 0),
                ("esp", 64, 0),
                ("boot-a", 160, 1),
                ("boot-b", 160, 1),
                ("root-a", 1024, 1),
                ("verity-a", 32, 1),
                ("root-b", 1024, 1),
                ("verity-b", 32, 1),
                ("state", 2048, 0),
                ("data", 32 * 1024 - 1 - 4545 - 1, 0),
            ]
        );
        for p in &table {
            let guid = uuid::Uuid::parse_str(p.type_guid).unwrap();
            assert_eq!(guid.hyphenated().to_string(), p.type_guid);
            assert_eq!(p.name.starts_with("root-"), p.type_guid == TYPE_ROOT_X86_64);
            assert_eq!(p.name.starts_with("verity-"), p.type_guid == TYPE_ROOT_VERITY_X86_64);
        }
    }

    #[test]
    fn a_disk_below_20_gb_is_refused_with_its_size() {
        let error = system_disk(MINIMUM_DISK_BYTES - 1, 512).unwrap_err();
        assert_eq!(error, LayoutError::TooSmall { disk_bytes: 19_999_999_999 });
        let text = system_disk(8_589_934_592, 512).unwrap_err().to_string();
        assert_eq!(
            text,
            "the disk has 8589934592 bytes (8.6 GB), a system disk needs at least 20 GB; use a larger disk"
        );
    }

    #[test]
    fn sector_sizes_that_no_disk_has_are_refused() {
        for sector in [0, 1, 511, 520, 2048, 8192] {
            assert_eq!(system_disk(32 * GIB, sector), Err(LayoutError::SectorSize(sector)));
        }
    }
}
