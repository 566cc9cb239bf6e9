//! A check on the finished initrd: every driver of `image/initrd-drivers.txt` and of the targets is in it or in the kernel.
//!
//! mkosi takes patterns and says nothing of one that fits no module; a typing error would show only on the one
//! kind of machine that needs the driver.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, bail};
use media::profile::Profile;
use tools::Toolbox;

use crate::paths;

/// Where the wanted drivers are listed.
pub fn list() -> std::path::PathBuf {
    paths::root().join("image/initrd-drivers.txt")
}

/// What must be there: what every machine needs, and what each target does.
pub fn wanted(targets: &BTreeMap<String, Profile>) -> Result<String> {
    let common =
        std::fs::read_to_string(list()).with_context(|| format!("cannot read {}", list().display()))?;
    let of_targets = targets.values().flat_map(|target| &target.drivers);
    Ok(common + &of_targets.map(|driver| format!("{driver}\n")).collect::<String>())
}

/// Checks that `initrd`, which begins with `base_initrd` and goes on with the archive of kernel modules, has the `wanted` ones.
pub fn check(toolbox: &Toolbox, initrd: &Path, base_initrd: &Path, wanted: &str) -> Result<()> {
    let base =
        base_initrd.metadata().with_context(|| format!("cannot inspect {}", base_initrd.display()))?.len();
    // Archives in an initrd start at multiples of four bytes.
    let modules = Modules { toolbox, initrd, start: base.next_multiple_of(4) };
    let there = modules.cpio("--list")?;
    let builtin = modules.cpio("--extract --to-stdout '*/modules.builtin'")?;
    let missing = missing(wanted, &format!("{there}\n{builtin}"));
    if !missing.is_empty() {
        bail!(
            "the initrd lacks drivers: {}; add them to KernelModulesInitrdInclude= in image/root/mkosi.conf",
            missing.join(" ")
        );
    }
    Ok(())
}

struct Modules<'a> {
    toolbox: &'a Toolbox,
    initrd: &'a Path,
    start: u64,
}

impl Modules<'_> {
    fn cpio(&self, arguments: &str) -> Result<String> {
        // The zeros that pad the initrd make zstd fail after the last archive: cpio's word counts.
        let script = format!("tail -c +{} \"$0\" | zstd -dcq | cpio --quiet {arguments}", self.start + 1);
        let output = self.toolbox.command("sh").args(["-c", &script]).arg(self.initrd).output();
        let output = output.context("cannot run cpio")?;
        if !output.status.success() {
            bail!(
                "cannot list {}: {}",
                self.initrd.display(),
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// The wanted drivers that no path in `paths` ends with.
fn missing<'w>(wanted: &'w str, paths: &str) -> Vec<&'w str> {
    let names: BTreeSet<String> = paths.lines().filter_map(module_name).collect();
    let wanted = wanted.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    wanted.filter(|driver| !names.contains(&driver.replace('-', "_"))).collect()
}

/// A module's name from its path: the kernel takes `-` and `_` for the same.
fn module_name(path: &str) -> Option<String> {
    let file = path.rsplit('/').next()?;
    let (name, _) = file.split_once(".ko")?;
    Some(name.replace('-', "_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_counts_as_module_or_built_in_with_either_dash() {
        let wanted = "# comment\n\nusb_storage\nxen-blkfront\nvirtio_pci\nahci\n";
        let paths = "usr/lib/modules/6/kernel/drivers/usb/storage/usb-storage.ko.xz\n\
                     usr/lib/modules/6/kernel/drivers/block/xen-blkfront.ko.xz\n\
                     usr/lib/modules/6/kernel/drivers/ata/libahci.ko.xz\n\
                     kernel/drivers/virtio/virtio_pci.ko\n";
        assert_eq!(missing(wanted, paths), ["ahci"]);
    }
}
