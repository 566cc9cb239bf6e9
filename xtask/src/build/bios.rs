//! Booting by BIOS: GRUB's boot sector and core image, as they lie on the disk.
//!
//! The core image starts at the fixed place of the partition `bios-boot`, so both are the same on every system disk
//! and can be copied from one to another; nothing has to be installed on the machine. It reads the same grub.cfg and
//! grubenv from the ESP as GRUB under UEFI.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use storage::layout::{self, BIOS_BOOT_BYTES, MIB};
use storage::table::MBR_CODE_BYTES;
use tools::Toolbox;

use crate::jobs::{Input, Job, Room, names};
use crate::paths;

/// GRUB's modules and images for BIOS, in the tools tree.
pub const FOLDER: &str = "/usr/lib/grub/i386-pc";
/// What grub.cfg uses; it names the same commands as Debian's signed GRUB has built in.
const MODULES: [&str; 18] = [
    "biosdisk",
    "part_gpt",
    "fat",
    "squash4",
    "normal",
    "configfile",
    "linux",
    "all_video",
    "loadenv",
    "test",
    "true",
    "regexp",
    "probe",
    "echo",
    "sleep",
    "serial",
    "terminal",
    "halt",
];
/// A sector in bytes: BIOS boots from no other.
const SECTOR_BYTES: usize = 512;

/// Sector of the core image, little-endian, 8 bytes (GRUB's `GRUB_BOOT_MACHINE_KERNEL_SECTOR`).
const BOOT_KERNEL_SECTOR: usize = 0x5c;
/// Two bytes that jump over a check of the drive number (`GRUB_BOOT_MACHINE_DRIVE_CHECK`).
const BOOT_DRIVE_CHECK: usize = 0x66;
/// First entry of the core image's block list, at the end of its first sector: first sector (8 bytes), number (2),
/// segment (2) (GRUB's `grub_pc_bios_boot_blocklist`).
const CORE_BLOCKLIST: usize = SECTOR_BYTES - 12;

/// The boot sector's code.
pub fn mbr_code(work: &Path) -> PathBuf {
    work.join("payloads/mbr.img")
}

/// Content of the partition `bios-boot`.
pub fn core_image(work: &Path) -> PathBuf {
    work.join("payloads/bios-boot.img")
}

/// Makes both.
pub fn job<'a>(toolbox: &'a Toolbox, work: &Path) -> Job<'a> {
    Job {
        name: "bios-boot".into(),
        needs: names(&[]),
        inputs: vec![
            Input::Path(paths::root().join("xtask/src/build/bios.rs")),
            Input::Value("tools", toolbox.identity()),
        ],
        outputs: vec![("mbr.img", mbr_code(work)), ("bios-boot.img", core_image(work))],
        always: false,
        hash_outputs: true,
        action: Box::new(move |room| make(room, toolbox)),
    }
}

fn make(room: &Room, toolbox: &Toolbox) -> Result<()> {
    let core = room.scratch("core.img");
    let mut grub = toolbox.command("grub-mkimage");
    // A partition without a disk is one of the disk that was booted from.
    grub.args(["--directory", FOLDER, "--format", "i386-pc", "--prefix", "(,gpt2)/EFI/debian", "--output"]);
    room.run(grub.arg(&core).args(MODULES))?;
    let boot = toolbox.path_of(&format!("{FOLDER}/boot.img"));
    let read = |path: &Path| fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    let (mbr, core) = place(&read(&boot)?, &read(&core)?, core_sector())?;
    for (name, bytes) in [("mbr.img", mbr), ("bios-boot.img", core)] {
        fs::write(room.scratch(name), bytes).with_context(|| format!("cannot write {name}"))?;
    }
    Ok(())
}

/// First sector of `bios-boot`: the layout's first partition begins at 1 MiB on every disk.
fn core_sector() -> u64 {
    MIB / SECTOR_BYTES as u64
}

/// Makes boot sector and core image fit for a core image that starts at `sector`, as grub-bios-setup does.
fn place(boot: &[u8], core: &[u8], sector: u64) -> Result<(Vec<u8>, Vec<u8>)> {
    ensure!(boot.len() == SECTOR_BYTES, "GRUB's boot.img has {} bytes, not {SECTOR_BYTES}", boot.len());
    ensure!(core.len() > SECTOR_BYTES, "GRUB's core image has only {} bytes", core.len());
    ensure!(
        core.len() as u64 <= BIOS_BOOT_BYTES,
        "GRUB's core image has {} bytes, partition bios-boot holds {}",
        core.len(),
        layout::BIOS_BOOT_BYTES
    );
    let mut mbr = boot[..MBR_CODE_BYTES].to_vec();
    mbr[BOOT_KERNEL_SECTOR..BOOT_KERNEL_SECTOR + 8].copy_from_slice(&sector.to_le_bytes());
    // Some BIOSes do not say which drive they boot: then it is the first hard disk.
    mbr[BOOT_DRIVE_CHECK..BOOT_DRIVE_CHECK + 2].copy_from_slice(&[0x90, 0x90]);
    let mut core = core.to_vec();
    core[CORE_BLOCKLIST..CORE_BLOCKLIST + 8].copy_from_slice(&(sector + 1).to_le_bytes());
    Ok((mbr, core))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sectors_are_put_where_grub_looks_for_them() {
        let (mbr, core) = place(&[0xee; 512], &[0xee; 2048], core_sector()).unwrap();
        assert_eq!(mbr.len(), MBR_CODE_BYTES);
        assert_eq!(mbr[0x5c..0x64], 2048u64.to_le_bytes());
        assert_eq!(mbr[0x66..0x68], [0x90, 0x90]);
        assert_eq!(core[500..508], 2049u64.to_le_bytes());
        assert_eq!(core[508..], [0xee; 2048][508..]);
        assert!(place(&[0; 511], &[0; 2048], 1).is_err());
        let large = vec![0; usize::try_from(BIOS_BOOT_BYTES).unwrap() + 1];
        assert!(place(&[0; 512], &large, 1).unwrap_err().to_string().contains("bios-boot holds 1048576"));
    }

    #[test]
    fn the_core_image_starts_where_the_layout_has_its_partition() {
        for sector_size in [512, 4096] {
            let table = layout::system_disk(32 * layout::GIB, sector_size).unwrap();
            assert_eq!(table[0].name, "bios-boot");
            assert_eq!(table[0].offset_bytes(sector_size), core_sector() * SECTOR_BYTES as u64);
            assert_eq!(table[1].name, "esp", "the prefix names partition 2");
        }
    }
}
