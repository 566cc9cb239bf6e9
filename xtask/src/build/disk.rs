//! The system disk: the partition table of `storage::layout` with slot A filled, and everything else blank.
//!
//! The shipped file is sparse; state and data are made by first boot, on the machine, where the disk has its real
//! size. Ids are derived from the content, so the same payloads give the same disk.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};
use storage::{layout, table};
use uuid::Uuid;

use super::system::Payloads;
use super::{bios, boot, esp};
use crate::jobs::{Input, Job, Room, names};
use crate::paths;

/// Sector size in bytes that the disk is laid out for; hypervisors and BIOS boot know no other.
const SECTOR_BYTES: u64 = 512;

/// Assembles a disk of `disk_bytes` at `place`.
pub fn job<'a>(name: String, disk_bytes: u64, place: PathBuf, work: &Path) -> Job<'a> {
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
        name,
        needs: names(&["root", "boot", "esp", "bios-boot"]),
        // The layout is code: its result is the input.
        inputs: vec![
            Input::Path(paths::root().join("xtask/src/build/disk.rs")),
            Input::Path(paths::root().join("appliance/storage/src/table.rs")),
            Input::Value("layout", format!("{:?}", layout::system_disk(disk_bytes, SECTOR_BYTES))),
        ],
        outputs: vec![("disk.raw", place)],
        always: false,
        hash_outputs: false,
        action: Box::new(move |room| make(room, disk_bytes, &contents, &roothash, &mbr_code)),
    }
}

fn make(
    room: &Room,
    disk_bytes: u64,
    contents: &[(&'static str, PathBuf)],
    roothash: &Path,
    mbr_code: &Path,
) -> Result<()> {
    let partitions = layout::system_disk(disk_bytes, SECTOR_BYTES)?;
    let seed = std::fs::read_to_string(roothash).context("cannot read the root hash")?;
    let path = room.scratch("disk.raw");
    let mut disk = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)
        .with_context(|| format!("cannot create {}", path.display()))?;
    disk.set_len(disk_bytes).with_context(|| format!("cannot size {}", path.display()))?;
    for (name, source) in contents {
        let partition = partitions.iter().find(|partition| partition.name == *name);
        let partition = partition.with_context(|| format!("the layout has no partition {name}"))?;
        let mut file = File::open(source).with_context(|| format!("cannot open {}", source.display()))?;
        let bytes = file.metadata().with_context(|| format!("cannot inspect {}", source.display()))?.len();
        table::fill(&mut disk, SECTOR_BYTES, partition, &mut file, bytes, true, |_| ())
            .with_context(|| source.display().to_string())?;
    }
    let code = std::fs::read(mbr_code).with_context(|| format!("cannot read {}", mbr_code.display()))?;
    let code = code.as_slice().try_into().context("the boot sector's code has another length")?;
    let guid = |name: &str| derived_guid(seed.trim(), name);
    table::write_gpt(&mut disk, SECTOR_BYTES, &partitions, guid)?;
    Ok(table::write_boot_sector(&mut disk, disk_bytes, SECTOR_BYTES, code)?)
}

/// 16 bytes that are the same for the same root and name.
pub fn derived_bytes(seed: &str, name: &str) -> [u8; 16] {
    let digest = Sha256::digest(format!("{seed} {name}"));
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    bytes
}

/// A GUID (version 8: "custom") of them.
fn derived_guid(seed: &str, name: &str) -> Uuid {
    uuid::Builder::from_custom_bytes(derived_bytes(seed, name)).into_uuid()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DISK_BYTES: u64 = 20 << 30;

    #[test]
    fn sgdisk_finds_the_written_table_sound_and_names_the_partitions() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.raw");
        File::create_new(&path).unwrap().set_len(DISK_BYTES).unwrap();
        let table = layout::system_disk(DISK_BYTES, SECTOR_BYTES).unwrap();
        let guid = |name: &str| derived_guid("seed", name);
        let mut disk = File::options().read(true).write(true).open(&path).unwrap();
        table::write_gpt(&mut disk, SECTOR_BYTES, &table, guid).unwrap();
        table::write_boot_sector(&mut disk, DISK_BYTES, SECTOR_BYTES, &[0xee; table::MBR_CODE_BYTES])
            .unwrap();
        let output =
            tools::Toolbox::open().unwrap().command("sgdisk").args(["-v", "-p"]).arg(&path).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("No problems found"), "{text}");
        for partition in &table {
            assert!(text.contains(partition.name), "{} is not in {text}", partition.name);
        }
    }

    #[test]
    fn ids_depend_on_root_and_partition() {
        assert_eq!(derived_guid("a", "esp"), derived_guid("a", "esp"));
        assert_ne!(derived_guid("a", "esp"), derived_guid("b", "esp"));
        assert_ne!(derived_guid("a", "esp"), derived_guid("a", "state"));
    }
}
