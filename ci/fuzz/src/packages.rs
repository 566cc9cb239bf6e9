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
    Ok(())
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
