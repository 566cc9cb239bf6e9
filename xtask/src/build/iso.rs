//! The installation medium: one ISO that boots from CD, virtual media and USB stick, by BIOS and UEFI, with Secure Boot.
//!
//! It carries the payloads of a disk as files, and boots the same root from them (decision D2). BIOS: GRUB's image by El
//! Torito on a CD, and by its hybrid boot sector on a stick. UEFI: an ESP that is both an El Torito image and a GPT
//! partition, with Debian's signed shim and GRUB. Options as in osbuild's `org.osbuild.xorrisofs` stage; the same files below
//! /EFI in the volume are for tools that copy files to a stick.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use files::hex;
use sha2::{Digest, Sha256};
use storage::layout::MIB;
use storage::medium::{ESP, FOLDER, LABEL, MBR_CODE, PAYLOADS, SUMS, marker};
use tools::Toolbox;

use super::system::Payloads;
use super::{SOURCE_DATE_EPOCH, bios, boot, esp, packages};
use crate::jobs::{Input, Job, Room, names};
use crate::paths;

/// The ESP on it, in bytes: some firmware refuses large ones (kiwi issue 2390).
const ESP_BYTES: u64 = 8 * MIB;
/// The largest sector of a disk, in bytes.
const BLOCK_BYTES: usize = 4096;
/// What GRUB for BIOS needs to find and read the medium; the menu needs what grub.cfg of a disk needs.
const MODULES: [&str; 17] = [
    "biosdisk",
    "part_gpt",
    "part_msdos",
    "iso9660",
    "fat",
    "squash4",
    "loopback",
    "search",
    "normal",
    "configfile",
    "linux",
    "all_video",
    "test",
    "true",
    "serial",
    "terminal",
    "halt",
];

/// Assembles the ISO.
pub fn job<'a>(toolbox: &'a Toolbox, work: &Path) -> Job<'a> {
    let payloads = Payloads::of(work);
    let files = vec![
        bios::core_image(work),
        esp::image(work),
        boot::image(work),
        payloads.root,
        payloads.verity,
        bios::mbr_code(work),
    ];
    let roothash = payloads.roothash;
    Job {
        name: "iso".into(),
        needs: names(&["root", "boot", "esp", "bios-boot"]),
        inputs: vec![
            Input::Path(paths::root().join("xtask/src/build/iso.rs")),
            Input::Path(paths::root().join("appliance/storage/src/medium.rs")),
            Input::Path(menu()),
            Input::Path(paths::root().join("image/media/src/verify")),
            Input::Value("tools", toolbox.identity()),
            Input::Value("date", SOURCE_DATE_EPOCH.to_string()),
        ],
        outputs: vec![("medium.iso", paths::iso())],
        always: false,
        hash_outputs: false,
        action: Box::new(move |room| make(room, toolbox, &files, &roothash)),
    }
}

fn menu() -> PathBuf {
    paths::root().join("image/grub/medium.cfg")
}

/// What both GRUBs read first: the medium is found by its marker, and never another one. GRUB for BIOS then reads the menu by
/// itself.
fn bootstrap(root_hash: &str) -> String {
    let marker = marker(root_hash);
    format!("search --no-floppy --file --set=root /{FOLDER}/{marker}\nset prefix=($root)/boot/grub\n")
}

fn make(room: &Room, toolbox: &Toolbox, files: &[PathBuf], roothash: &Path) -> Result<()> {
    let root_hash = fs::read_to_string(roothash).context("cannot read the root hash")?;
    let tree = room.scratch("tree");
    let write = |name: &str, content: &[u8]| {
        let path = tree.join(name);
        fs::create_dir_all(path.parent().unwrap_or(&tree))
            .and_then(|()| fs::write(&path, content))
            .with_context(|| format!("cannot write {}", path.display()))
    };
    let bootstrap = bootstrap(root_hash.trim());
    write(&format!("{FOLDER}/{}", marker(root_hash.trim())), b"")?;
    write("EFI/debian/grub.cfg", format!("{bootstrap}configfile $prefix/grub.cfg\n").as_bytes())?;
    for (source, place) in esp::FROM_TOOLS {
        let source = toolbox.path_of(source);
        let content = fs::read(&source).with_context(|| format!("cannot read {}", source.display()))?;
        write(place, &content)?;
    }
    let menu = fs::read(menu()).with_context(|| format!("cannot read {}", menu().display()))?;
    write("boot/grub/grub.cfg", &menu)?;
    let mut sums = String::new();
    let names = PAYLOADS.iter().map(|(_, name)| *name).chain([MBR_CODE]);
    for (name, source) in names.zip(files) {
        let content = fs::read(source).with_context(|| format!("cannot read {}", source.display()))?;
        let content = carried(name, &content);
        sums += &format!("{}  {name}\n", hex(&Sha256::digest(content)));
        write(&format!("{FOLDER}/{name}"), content)?;
    }
    write(&format!("{FOLDER}/{SUMS}"), sums.as_bytes())?;
    eltorito(room, toolbox, &bootstrap)?;
    efi_image(room, toolbox, &tree)?;
    pack(room, toolbox, &tree)?;
    packages::sound(&room.scratch("medium.iso"))
}

/// What of a payload is on the medium: all, but of the ESP not the 62 MB of zeros at its end, which the installer writes without
/// having read them. Whole blocks remain, for disks of 4096-byte sectors.
fn carried<'c>(name: &str, content: &'c [u8]) -> &'c [u8] {
    if name != ESP {
        return content;
    }
    let used = content.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    &content[..used.next_multiple_of(BLOCK_BYTES).min(content.len())]
}

/// GRUB's image for BIOS.
fn eltorito(room: &Room, toolbox: &Toolbox, bootstrap: &str) -> Result<()> {
    let config = room.scratch("bootstrap.cfg");
    fs::write(&config, bootstrap).context("cannot write bootstrap.cfg")?;
    let mut grub = toolbox.command("grub-mkimage");
    grub.args([
        "--directory",
        bios::FOLDER,
        "--format",
        "i386-pc-eltorito",
        "--prefix",
        "/boot/grub",
        "--config",
    ]);
    grub.arg(config).arg("--output").arg(room.scratch("tree/boot/grub/eltorito.img"));
    room.run(grub.args(MODULES))
}

/// The ESP: FAT with the files below /EFI of the tree.
fn efi_image(room: &Room, toolbox: &Toolbox, tree: &Path) -> Result<()> {
    let image = room.scratch("efi.img");
    let file = fs::File::create(&image).with_context(|| format!("cannot create {}", image.display()))?;
    file.set_len(ESP_BYTES).context("cannot size the ESP")?;
    room.run(esp::mtools(toolbox, "mformat", &image).args(["-N", "494d4649", "-v", "ESP", "::"]))?;
    room.run(esp::mtools(toolbox, "mcopy", &image).arg("-s").arg(tree.join("EFI")).arg("::"))
}

fn pack(room: &Room, toolbox: &Toolbox, tree: &Path) -> Result<()> {
    let mut xorriso = toolbox.command("xorriso");
    xorriso
        // All dates, and the GUID of its GPT, come of this.
        .env("SOURCE_DATE_EPOCH", SOURCE_DATE_EPOCH.to_string())
        .args(["-as", "mkisofs", "-rational-rock", "-joliet", "-joliet-long", "-volid", LABEL])
        .args(["-iso-level", "3"])
        // BIOS from a stick, and from a CD.
        .arg("--grub2-mbr")
        .arg(toolbox.path_of(&format!("{}/boot_hybrid.img", bios::FOLDER)))
        .args(["--mbr-force-bootable", "-partition_offset", "16"])
        .args(["-c", "boot/grub/boot.cat", "-b", "boot/grub/eltorito.img", "-no-emul-boot"])
        .args(["-boot-load-size", "4", "-boot-info-table", "--grub2-boot-info"])
        // UEFI from either.
        .args(["-append_partition", "2", storage::layout::TYPE_ESP])
        .arg(room.scratch("efi.img"))
        .args(["-appended_part_as_gpt", "-eltorito-alt-boot", "-e"])
        .args(["--interval:appended_partition_2:all::", "-no-emul-boot"])
        .arg("-o")
        .args([&room.scratch("medium.iso"), tree]);
    room.run(&mut xorriso)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_the_esp_alone_the_zeros_at_its_end_stay_away() {
        let (block, two) = (BLOCK_BYTES, [[1; BLOCK_BYTES], [0; BLOCK_BYTES]].concat());
        let table =
            [(ESP, &two[..], block), ("root.erofs", &two, 2 * block), (ESP, &two[..9], 9), (ESP, &[], 0)];
        for (name, content, expected) in table {
            assert_eq!(carried(name, content), &content[..expected], "{name}");
        }
        let begun = [&two[..], &[1][..]].concat();
        assert_eq!(carried(ESP, &[&begun[..], &[0; 9000][..]].concat()).len(), 3 * block);
    }

    #[test]
    fn grub_can_read_the_menu_and_what_leads_to_it() {
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("bootstrap.cfg");
        fs::write(&script, bootstrap("ab")).unwrap();
        for path in [script, menu()] {
            let output = Toolbox::open().unwrap().command("grub-script-check").arg(&path).output().unwrap();
            assert!(
                output.status.success(),
                "{}: {}",
                path.display(),
                String::from_utf8_lossy(&output.stderr)
            );
        }
    }
}
