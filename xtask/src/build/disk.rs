//! The system disk: the partition table of `storage::layout` with slot A filled, and everything else blank.
//!
//! The shipped file is sparse; state and data are made by first boot, on the machine, where the disk has its real
//! size. Ids are derived from the content, so the same payloads give the same disk.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use gpt::disk::LogicalBlockSize;
use sha2::{Digest, Sha256};
use storage::layout::{self, Partition};
use uuid::Uuid;

use super::system::Payloads;
use super::{bios, boot, esp};
use crate::jobs::{Input, Job, Room};
use crate::paths;

/// Size of the shipped disk in bytes: 20 GiB, just above the hard minimum of 20 GB. Machines grow it.
const DISK_BYTES: u64 = 20 << 30;
/// Sector size in bytes that the disk is laid out for; hypervisors and BIOS boot know no other.
const SECTOR_BYTES: u64 = 512;
/// Blocks of zeros of this size are left out of the sparse file, in bytes.
const HOLE_BYTES: usize = 64 << 10;

/// Assembles the disk.
pub fn job<'a>(work: &Path) -> Job<'a> {
    let payloads = Payloads::of(work);
    let contents = vec![
        ("bios-boot", bios::core_image(work)),
        ("esp", esp::image(work)),
        ("boot-a", boot::image(work)),
        ("root-a", payloads.root),
        ("verity-a", payloads.verity),
    ];
    let (roothash, mbr_code) = (payloads.roothash, bios::mbr_code(work));
    Job {
        name: "disk",
        needs: &["root", "boot", "esp", "bios-boot"],
        // The layout is code: its result is the input.
        inputs: vec![
            Input::Path(paths::root().join("xtask/src/build/disk.rs")),
            Input::Value("layout", format!("{:?}", layout::system_disk(DISK_BYTES, SECTOR_BYTES))),
        ],
        outputs: vec![("disk.raw", paths::system_disk())],
        always: false,
        hash_outputs: false,
        action: Box::new(move |room| make(room, &contents, &roothash, &mbr_code)),
    }
}

fn make(room: &Room, contents: &[(&'static str, PathBuf)], roothash: &Path, mbr_code: &Path) -> Result<()> {
    let table = layout::system_disk(DISK_BYTES, SECTOR_BYTES)?;
    let seed = std::fs::read_to_string(roothash).context("cannot read the root hash")?;
    let path = room.scratch("disk.raw");
    let mut disk = File::create_new(&path).with_context(|| format!("cannot create {}", path.display()))?;
    disk.set_len(DISK_BYTES).with_context(|| format!("cannot size {}", path.display()))?;
    for (name, source) in contents {
        let partition = table.iter().find(|partition| partition.name == *name);
        let partition = partition.with_context(|| format!("the layout has no partition {name}"))?;
        fill(&mut disk, partition, source)?;
    }
    drop(disk);
    let code = std::fs::read(mbr_code).with_context(|| format!("cannot read {}", mbr_code.display()))?;
    write_table(&path, &table, seed.trim(), &code)
}

fn write_table(path: &Path, table: &[Partition], seed: &str, mbr_code: &[u8]) -> Result<()> {
    let mut device = File::options().read(true).write(true).open(path).context("cannot open the new disk")?;
    let blocks = u32::try_from(DISK_BYTES / SECTOR_BYTES - 1).unwrap_or(u32::MAX);
    gpt::mbr::ProtectiveMBR::with_lb_size(blocks)
        .overwrite_lba0(&mut device)
        .and_then(|_| {
            device.seek(SeekFrom::Start(0))?;
            Ok(device.write_all(mbr_code)?)
        })
        .context("cannot write the protective MBR")?;
    let mut entries = BTreeMap::new();
    for (number, partition) in (1..).zip(table) {
        let guid = Uuid::parse_str(partition.type_guid)
            .with_context(|| format!("partition {} has no valid type", partition.name))?;
        entries.insert(
            number,
            gpt::partition::Partition {
                part_type_guid: gpt::partition_types::Type {
                    guid,
                    os: gpt::partition_types::OperatingSystem::None,
                },
                part_guid: derived_guid(seed, partition.name),
                first_lba: partition.first_lba,
                last_lba: partition.last_lba,
                flags: partition.flags,
                name: partition.name.into(),
            },
        );
    }
    let mut disk = gpt::GptConfig::new()
        .writable(true)
        .logical_block_size(LogicalBlockSize::Lb512)
        .create_from_device(device, Some(derived_guid(seed, "disk")))
        .context("cannot begin the partition table")?;
    disk.update_partitions(entries).context("cannot set the partition table")?;
    disk.write().context("cannot write the partition table")?;
    Ok(())
}

/// A GUID (version 8: "custom") that is the same for the same root and name.
fn derived_guid(seed: &str, name: &str) -> Uuid {
    let digest = Sha256::digest(format!("{seed} {name}"));
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

/// Copies a payload to the start of its partition, leaving holes where it has zeros.
fn fill(disk: &mut File, partition: &Partition, source: &Path) -> Result<()> {
    let mut file = File::open(source).with_context(|| format!("cannot open {}", source.display()))?;
    let bytes = file.metadata().with_context(|| format!("cannot inspect {}", source.display()))?.len();
    let room = partition.size_bytes(SECTOR_BYTES);
    if bytes > room {
        bail!("{} has {bytes} bytes, partition {} holds {room}", source.display(), partition.name);
    }
    let mut offset = partition.offset_bytes(SECTOR_BYTES);
    let mut block = vec![0; HOLE_BYTES];
    loop {
        let count =
            read_block(&mut file, &mut block).with_context(|| format!("cannot read {}", source.display()))?;
        if count == 0 {
            return Ok(());
        }
        if block[..count].iter().any(|byte| *byte != 0) {
            disk.seek(SeekFrom::Start(offset))
                .and_then(|_| disk.write_all(&block[..count]))
                .with_context(|| format!("cannot write partition {}", partition.name))?;
        }
        offset += count as u64;
    }
}

/// Reads until the block is full or the file ends.
fn read_block(file: &mut File, block: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < block.len() {
        match file.read(&mut block[filled..])? {
            0 => break,
            count => filled += count,
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sgdisk_finds_the_written_table_sound_and_names_the_partitions() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.raw");
        File::create_new(&path).unwrap().set_len(DISK_BYTES).unwrap();
        let table = layout::system_disk(DISK_BYTES, SECTOR_BYTES).unwrap();
        write_table(&path, &table, "seed", &[0xee; bios::MBR_CODE_BYTES]).unwrap();
        let output =
            tools::Toolbox::open().unwrap().command("sgdisk").args(["-v", "-p"]).arg(&path).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("No problems found"), "{text}");
        for partition in &table {
            assert!(text.contains(partition.name), "{} is not in {text}", partition.name);
        }
    }

    #[test]
    fn a_payload_that_does_not_fit_its_partition_is_refused_with_both_sizes() {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("large");
        File::create_new(&source).unwrap().set_len(layout::BOOT_BYTES + 1).unwrap();
        let mut disk = File::create_new(folder.path().join("disk")).unwrap();
        let table = layout::system_disk(DISK_BYTES, SECTOR_BYTES).unwrap();
        let boot = table.iter().find(|partition| partition.name == "boot-a").unwrap();
        let text = fill(&mut disk, boot, &source).unwrap_err().to_string();
        assert!(text.contains("167772161 bytes") && text.contains("boot-a holds 167772160"), "{text}");
    }

    #[test]
    fn ids_depend_on_root_and_partition() {
        assert_eq!(derived_guid("a", "esp"), derived_guid("a", "esp"));
        assert_ne!(derived_guid("a", "esp"), derived_guid("b", "esp"));
        assert_ne!(derived_guid("a", "esp"), derived_guid("a", "state"));
    }
}
