//! The boot payload of a slot: a squashfs that GRUB reads, with kernel, initrd, our program for the initrd, and
//! slot.cfg, which binds them to one root by its hash.
//!
//! squashfs without compression: kernel and initrd are compressed already, and GRUB unpacks slowly.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tools::Toolbox;

use super::system::Payloads;
use super::{SOURCE_DATE_EPOCH, VERSION, cpio, programs};
use crate::jobs::{Input, Job, Room, names};
use crate::paths;

/// The boot payload's place.
pub fn image(work: &Path) -> PathBuf {
    work.join("payloads/boot.squashfs")
}

/// Makes the boot payload.
pub fn job<'a>(toolbox: &'a Toolbox, work: &Path) -> Job<'a> {
    let (payloads, firstboot) = (Payloads::of(work), programs::firstboot(work));
    Job {
        name: "boot".into(),
        needs: names(&["programs", "root"]),
        inputs: vec![
            Input::Path(paths::root().join("xtask/src/build/boot.rs")),
            Input::Value("version", VERSION.into()),
            Input::Value("date", SOURCE_DATE_EPOCH.to_string()),
        ],
        outputs: vec![("boot.squashfs", image(work))],
        always: false,
        hash_outputs: true,
        action: Box::new(move |room| make(room, toolbox, &payloads, &firstboot)),
    }
}

fn make(room: &Room, toolbox: &Toolbox, payloads: &Payloads, firstboot: &Path) -> Result<()> {
    let tree = room.scratch("tree");
    fs::create_dir_all(&tree).with_context(|| format!("cannot create {}", tree.display()))?;
    let copy = |from: &Path, name: &str| {
        fs::copy(from, tree.join(name)).with_context(|| format!("cannot copy {}", from.display()))
    };
    copy(&payloads.kernel, "vmlinuz")?;
    copy(&payloads.initrd, "initrd")?;
    let program = fs::read(firstboot).with_context(|| format!("cannot read {}", firstboot.display()))?;
    let archive = cpio::archive(&cpio::with_folders("usr/lib/infimonitor/firstboot", &program));
    let write = |name: &str, content: &[u8]| {
        fs::write(tree.join(name), content).with_context(|| format!("cannot write {name}"))
    };
    write("firstboot.cpio", &archive)?;
    let hash = fs::read_to_string(&payloads.roothash).context("cannot read the root hash")?;
    write("slot.cfg", slot_cfg(hash.trim()).as_bytes())?;
    let mut mksquashfs = toolbox.command("mksquashfs");
    mksquashfs
        .args([&tree, &room.scratch("boot.squashfs")])
        .args(["-noappend", "-no-progress", "-all-root", "-no-xattrs", "-no-exports", "-no-fragments"])
        .args(["-noI", "-noD", "-noX", "-comp", "gzip", "-processors", "1"])
        .args(["-mkfs-time", &SOURCE_DATE_EPOCH.to_string(), "-all-time", &SOURCE_DATE_EPOCH.to_string()])
        .env_remove("SOURCE_DATE_EPOCH"); // it refuses the variable beside the options
    room.run(&mut mksquashfs)
}

/// What grub.cfg reads to boot this slot.
fn slot_cfg(roothash: &str) -> String {
    format!("set slot_version={VERSION}\nset slot_roothash={roothash}\n")
}
