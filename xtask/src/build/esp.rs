//! The EFI system partition: Debian's signed shim and GRUB, our grub.cfg, and an empty grubenv.
//!
//! Made by mtools, so it needs neither mount rights nor vfat in the host's kernel, and is the same at each build.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use slots::environment::Environment;
use storage::layout::ESP_BYTES;
use tools::Toolbox;

use super::SOURCE_DATE_EPOCH;
use crate::jobs::{Input, Job, Room, names};
use crate::paths;

/// Volume serial number of the file system; fixed for reproducible builds. Nothing searches for it.
const SERIAL: &str = "494d4253";

/// Files of the tools tree and their places. fbx64.efi is left out on purpose: it would write boot entries that
/// outlive a replaced disk.
pub const FROM_TOOLS: [(&str, &str); 3] = [
    ("/usr/lib/shim/shimx64.efi.signed", "EFI/BOOT/BOOTX64.EFI"),
    ("/usr/lib/shim/mmx64.efi.signed", "EFI/BOOT/mmx64.efi"),
    ("/usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed", "EFI/BOOT/grubx64.efi"),
];

/// The ESP's place.
pub fn image(work: &Path) -> PathBuf {
    work.join("payloads/esp.img")
}

/// Makes the ESP.
pub fn job<'a>(toolbox: &'a Toolbox, work: &Path) -> Job<'a> {
    Job {
        name: "esp".into(),
        needs: names(&[]),
        inputs: vec![
            Input::Path(paths::root().join("xtask/src/build/esp.rs")),
            Input::Path(scripts()),
            Input::Value("tools", toolbox.identity()),
            Input::Value("date", SOURCE_DATE_EPOCH.to_string()),
        ],
        outputs: vec![("esp.img", image(work))],
        always: false,
        hash_outputs: true,
        action: Box::new(move |room| make(room, toolbox)),
    }
}

fn make(room: &Room, toolbox: &Toolbox) -> Result<()> {
    let image = room.scratch("esp.img");
    let file = fs::File::create(&image).with_context(|| format!("cannot create {}", image.display()))?;
    file.set_len(ESP_BYTES).context("cannot size the ESP")?;
    let mtools = |program: &str| mtools(toolbox, program, &image);
    // One sector a cluster: only so do 64 MiB have the number of clusters that FAT32 demands.
    room.run(mtools("mformat").args(["-F", "-c", "1", "-N", SERIAL, "-v", "ESP", "::"]))?;
    room.run(mtools("mmd").args(["::EFI", "::EFI/BOOT", "::EFI/debian"]))?;
    let put = |source: &Path, place: &str| room.run(mtools("mcopy").arg(source).arg(format!("::{place}")));
    for (source, place) in FROM_TOOLS {
        put(&toolbox.path_of(source), place)?;
    }
    for name in ["grub.cfg", "slots.cfg"] {
        put(&scripts().join(name), &format!("EFI/debian/{name}"))?;
    }
    // Without variables: grub.cfg has the defaults.
    let grubenv = room.scratch("grubenv");
    fs::write(&grubenv, Environment::default().render()?).context("cannot write grubenv")?;
    for name in slots::store::FILES {
        put(&grubenv, &format!("EFI/debian/{name}"))?;
    }
    Ok(())
}

/// A program of mtools for `image`, whose result is the same each time.
pub fn mtools(toolbox: &Toolbox, program: &str, image: &Path) -> Command {
    let mut command = toolbox.command(program);
    command
        .env("SOURCE_DATE_EPOCH", SOURCE_DATE_EPOCH.to_string())
        .env("MTOOLS_SKIP_CHECK", "1")
        .env("TZ", "UTC");
    command.arg("-i").arg(image);
    command
}

fn scripts() -> PathBuf {
    paths::root().join("image/grub")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grub_can_read_its_scripts() {
        let toolbox = Toolbox::open().unwrap();
        let folder = tempfile::tempdir().unwrap();
        for name in ["grub.cfg", "slots.cfg"] {
            // A script that only defines functions is refused as one that does nothing.
            let text = fs::read_to_string(scripts().join(name)).unwrap() + "true\n";
            let script = folder.path().join(name);
            fs::write(&script, text).unwrap();
            let output = toolbox.command("grub-script-check").arg(&script).output().unwrap();
            assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        }
    }
}
