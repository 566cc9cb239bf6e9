//! The boot sector of each of the machine's disks.
//!
//! An installation writes it last, one disk after the other. Where it was cut between two, the machine is whole, and boots from
//! the disks that have one; the next boot writes the others' (design D4: every disk can boot).

use std::fs::{File, OpenOptions};

use anyhow::{Context, Result};
use storage::disks::{Disk, Selector};
use storage::table;

use crate::places::Places;
use crate::report::say;

/// Writes the boot sectors that are missing.
///
/// # Errors
/// A disk cannot be read or written.
pub fn ensure(places: &Places) -> Result<()> {
    let command_line =
        std::fs::read_to_string(&places.command_line).context("cannot read the kernel's command line")?;
    let booted = Selector::from_kernel_command_line(&command_line).and_then(|disk| places.devices.find(disk));
    // Whoever mounts state and data says that already.
    let Ok(booted) = booted else { return Ok(()) };
    let others = places.devices.siblings(&booted)?;
    if others.is_empty() {
        return Ok(());
    }
    let Some(code) = mbr_code(&booted)? else { return Ok(()) };
    for disk in others {
        let Disk { device, size_bytes, sector_bytes, .. } = &disk;
        if mbr_code(&disk)?.is_some() {
            continue;
        }
        say("boot sector", &format!("{} has none, its installation was cut; writing it", device.display()));
        OpenOptions::new()
            .read(true)
            .write(true)
            .open(device)
            .context("cannot open it")
            .and_then(|mut file| Ok(table::write_boot_sector(&mut file, *size_bytes, *sector_bytes, &code)?))
            .with_context(|| device.display().to_string())?;
    }
    Ok(())
}

fn mbr_code(disk: &Disk) -> Result<Option<[u8; table::MBR_CODE_BYTES]>> {
    File::open(&disk.device)
        .and_then(|mut file| table::mbr_code(&mut file))
        .with_context(|| format!("cannot read {}", disk.device.display()))
}
