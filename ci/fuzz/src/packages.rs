//! Fuzz target: whatever file is looked at for what a hypervisor would refuse, there is an answer.
//!
//! It begins from sound packages of a small disk, which it puts into the folder of the corpus before the first run.

#![no_main]

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use media::verify::verify;
use media::{Firmware, MIB, Source, ova, ovf, vmdk, xva};

/// Where `cargo xtask fuzz` keeps what is interesting.
const CORPUS: &str = "FUZZ_CORPUS";

static FOLDER: LazyLock<tempfile::TempDir> =
    LazyLock::new(|| tempfile::tempdir().expect("a temporary folder"));

fn seeds(folder: &Path) -> Result<(), media::Error> {
    let file = |name: &str| File::create(folder.join(name)).expect("a file in the corpus");
    let raw = FOLDER.path().join("disk.raw");
    fs::write(&raw, [b"a boot sector".as_slice(), &vec![0; MIB as usize - 13]].concat()).expect("a disk");
    let source = Source::open(&raw)?;
    let machine = ovf::Machine {
        name: "appliance".into(),
        product: "An appliance".into(),
        vendor: "Somebody".into(),
        version: "1.2.3".into(),
        firmware: Firmware::Uefi,
        secure_boot: true,
        sizes: vec![ovf::Size { id: "one".into(), label: "one".into(), cores: 1, memory_mib: 1024 }],
        controller: ovf::Controller::Pvscsi,
        nic: ovf::Nic::Vmxnet3,
        properties: vec![],
    };
    let name = ova::file_name(&machine);
    let disk = folder.join("seed.vmdk");
    let options = vmdk::Options { name, level: 6, content_id: *b"0123456789abcdef" };
    vmdk::write(&source, &options, file("seed.vmdk"), &mut |_| ())?;
    ova::write(&source, &machine, &disk, 0, file("seed.ova"))?;
    for level in [None, Some(1)] {
        let machine = xva::Machine {
            name: "appliance".into(),
            description: "An appliance".into(),
            cores: 1,
            memory_bytes: 1 << 30,
            firmware: Firmware::Bios,
            identity: [9; 16],
            date: 0,
            level,
        };
        let name = if level.is_some() { "seed.xva.gz" } else { "seed.xva" };
        xva::write(&source, &machine, file(name), &mut |_| ())?;
    }
    fs::write(folder.join("seed.vhdx"), vhdx()).expect("a file in the corpus");
    // As little as is taken for a fixed VHD, and for a medium.
    fs::write(folder.join("seed.vhd"), [&[0; 4096], b"conectix".as_slice(), &[0; 504]].concat())
        .expect("a file in the corpus");
    let mut iso = vec![0; 64 << 10];
    iso[32769..32774].copy_from_slice(b"CD001");
    iso[34823..34846].copy_from_slice(b"EL TORITO SPECIFICATION");
    iso[512..520].copy_from_slice(b"EFI PART");
    fs::write(folder.join("seed.iso"), iso).expect("a file in the corpus");
    Ok(())
}

/// Headers, region tables and metadata of a disk of a MiB; nobody looks at checksums here.
fn vhdx() -> Vec<u8> {
    const METADATA: (usize, u128) = (320 << 10, 0x6e8e_0f05_5f57_feb8_9b4a_4790_8b7c_a206);
    const BAT: (usize, u128) = (384 << 10, 0x084a_fd9b_5e11_649d_4200_f623_2dc2_7766);
    const PARAMETERS: (usize, u128) = (40960, 0x6be7_44aa_f033_b6b3_4d43_fa36_caa1_6737);
    const SIZE: (usize, u128) = (40968, 0xb8f4_3bd8_be5d_11b2_4876_cd1b_2fa5_4224);
    let mut bytes = vec![0; 400 << 10];
    let mut put = |at: usize, what: &[u8]| bytes[at..at + what.len()].copy_from_slice(what);
    put(0, b"vhdxfile");
    for at in [64 << 10, 128 << 10] {
        put(at, b"head");
    }
    for at in [192 << 10, 256 << 10] {
        put(at, b"regi");
        put(at + 8, &2u32.to_le_bytes());
        for (number, (place, guid)) in [METADATA, BAT].into_iter().enumerate() {
            let entry = at + 16 + number * 32;
            put(entry, &guid.to_le_bytes());
            put(entry + 16, &(place as u64).to_le_bytes());
            put(entry + 24, &(64u32 << 10).to_le_bytes());
        }
    }
    put(METADATA.0, b"metadata");
    put(METADATA.0 + 10, &2u16.to_le_bytes());
    for (number, (place, guid)) in [PARAMETERS, SIZE].into_iter().enumerate() {
        let entry = METADATA.0 + 32 + number * 32;
        put(entry, &guid.to_le_bytes());
        put(entry + 16, &(place as u32).to_le_bytes());
        put(METADATA.0 + place, &(MIB as u32).to_le_bytes());
    }
    bytes
}

fuzz_target!(
    init: {
        if let Some(corpus) = env::var_os(CORPUS) {
            seeds(&PathBuf::from(corpus)).expect("packages to begin with");
        }
    },
    |bytes: &[u8]| {
        let path = FOLDER.path().join("package");
        fs::write(&path, bytes).expect("a file");
        // A finding, no finding, or that it is nothing known: all are answers.
        drop(verify(&path));
    }
);
