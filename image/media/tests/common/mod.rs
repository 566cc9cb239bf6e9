//! A small disk and the packages of it.

#![allow(clippy::unwrap_used, dead_code)] // a helper that fails is a test that fails; no test needs all of them

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use media::{Firmware, MIB, Source, ova, ovf, vmdk, xva};

pub const DISK_BYTES: u64 = 70 * MIB;
pub const DATE: u64 = 1_700_000_000;
pub const NAME: &str = "appliance";

/// Bytes that do not compress.
pub fn noise(count: usize) -> Vec<u8> {
    let mut state = 1u32;
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..count).map(next).collect()
}

/// A disk with text, noise, holes and zeros; with `is_full` the holes are written as zeros.
pub fn disk(folder: &Path, is_full: bool) -> PathBuf {
    let path = folder.join(if is_full { "full.raw" } else { "disk.raw" });
    let file = File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
    file.set_len(DISK_BYTES).unwrap();
    if is_full {
        for at in 0..DISK_BYTES / MIB {
            file.write_all_at(&vec![0; MIB as usize], at * MIB).unwrap();
        }
    }
    file.write_all_at(b"a boot sector", 0).unwrap();
    file.write_all_at(&noise(300_000), 3 * MIB - 1000).unwrap();
    file.write_all_at(&vec![0; 200_000], 20 * MIB).unwrap();
    // Over the border of two grain tables.
    file.write_all_at(&"text ".repeat(100_000).into_bytes(), 32 * MIB - 100_000).unwrap();
    file.write_all_at(b"EFI PART", DISK_BYTES - 512).unwrap();
    path
}

pub fn machine() -> ovf::Machine {
    let size = |id: &str, cores, gib: u64| ovf::Size {
        id: id.into(),
        label: format!("for {id} <devices>"),
        cores,
        memory_mib: gib * 1024,
    };
    ovf::Machine {
        name: NAME.into(),
        product: "An appliance & more".into(),
        vendor: "Somebody".into(),
        version: "1.2.3".into(),
        firmware: Firmware::Uefi,
        secure_boot: true,
        sizes: vec![size("2000", 4, 6), size("10000", 6, 8)],
        controller: ovf::Controller::Pvscsi,
        nic: ovf::Nic::Vmxnet3,
        properties: vec![ovf::Property {
            key: "address".into(),
            label: "Address".into(),
            description: "Such as 192.0.2.7/24".into(),
            is_secret: false,
        }],
    }
}

pub fn make_vmdk(disk: &Path, to: &Path, level: u32) {
    let name = to.file_name().unwrap().to_string_lossy().into_owned();
    let options = vmdk::Options { name, level, content_id: *b"0123456789abcdef" };
    let out = std::io::BufWriter::new(File::create(to).unwrap());
    vmdk::write(&Source::open(disk).unwrap(), &options, out, &mut |_| ()).unwrap();
}

pub fn make_ova(folder: &Path) -> PathBuf {
    make_ova_of(&disk(folder, false), folder)
}

pub fn make_ova_of(disk: &Path, folder: &Path) -> PathBuf {
    let machine = machine();
    let vmdk = folder.join(ova::file_name(&machine));
    make_vmdk(disk, &vmdk, 6);
    let path = folder.join("appliance.ova");
    ova::write(&Source::open(disk).unwrap(), &machine, &vmdk, DATE, File::create(&path).unwrap()).unwrap();
    path
}

pub fn make_xva(disk: &Path, to: &Path, firmware: Firmware, level: Option<u32>) {
    let machine = xva::Machine {
        name: NAME.into(),
        description: "An appliance & more".into(),
        cores: 4,
        memory_bytes: 6 << 30,
        firmware,
        identity: [9; 16],
        date: DATE,
        level,
    };
    xva::write(&Source::open(disk).unwrap(), &machine, File::create(to).unwrap(), &mut |_| ()).unwrap();
}
