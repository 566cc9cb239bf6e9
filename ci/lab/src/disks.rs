//! The files that a VM needs before it starts: overlay, blank disks, firmware variables, provisioning data.
//!
//! A VM that lasts finds its overlay again. An overlay holds only differences to the image below it, so it is
//! worthless as soon as that image changes: the image's identity is kept beside it and compared.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use tools::{Toolbox, Tree};

use crate::argv::Flash;
use crate::spec::{Bus, ExtraDisk, Firmware};

const OVMF: &str = "/usr/share/OVMF";

/// The overlay of `image` in `folder`: a new one, or the one that is there when the image is still the same.
pub(crate) fn overlay(toolbox: &Toolbox, image: &Path, folder: &Path) -> Result<PathBuf> {
    let image = image.canonicalize().with_context(|| {
        format!("there is no disk image {} (`cargo xtask build` makes it)", image.display())
    })?;
    let (overlay, stamp) = (folder.join("disk.qcow2"), folder.join("disk.image"));
    let identity = identity(&image)?;
    if overlay.exists() {
        let made_over = fs::read_to_string(&stamp).unwrap_or_default();
        if made_over != identity {
            bail!(
                "{} was built anew since the VM in {} began: begin anew too (`--fresh`), or delete that folder",
                image.display(),
                folder.display()
            );
        }
        return Ok(overlay);
    }
    let format =
        if image.extension().is_some_and(|extension| extension == "qcow2") { "qcow2" } else { "raw" };
    let image = image.display().to_string();
    let backing = ["-F", format, "-b", &image];
    qemu_img(toolbox, &["create", "-q", "-f", "qcow2"], &backing, &overlay, None)?;
    fs::write(&stamp, identity).with_context(|| format!("cannot write {}", stamp.display()))?;
    Ok(overlay)
}

/// Blank disks in `folder`; those that are there stay as they are.
pub(crate) fn blanks(toolbox: &Toolbox, disks: &[ExtraDisk], folder: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for (number, disk) in disks.iter().enumerate() {
        paths.push(blank(toolbox, disk.gib, &folder.join(format!("extra-{number}.qcow2")))?);
    }
    Ok(paths)
}

/// A blank disk of so many GiB; one that is there stays as it is.
pub(crate) fn blank(toolbox: &Toolbox, gib: u64, path: &Path) -> Result<PathBuf> {
    if !path.exists() {
        qemu_img(toolbox, &["create", "-q", "-f", "qcow2"], &[], path, Some(&format!("{gib}G")))?;
    }
    Ok(path.to_owned())
}

/// Makes a disk of so many GiB, which was smaller.
pub(crate) fn resize(toolbox: &Toolbox, path: &Path, gib: u64) -> Result<()> {
    qemu_img(toolbox, &["resize", "-q"], &[], path, Some(&format!("{gib}G")))
}

/// Firmware for this VM, with variables of its own; none where the firmware has no flash. Behind VMware's controllers an older
/// OVMF finds disks alone.
pub(crate) fn flash(toolbox: &Toolbox, firmware: Firmware, bus: Bus, folder: &Path) -> Result<Option<Flash>> {
    let (code, blank, variables) = match firmware {
        Firmware::SeaBios => return Ok(None),
        Firmware::Ovmf => ("OVMF_CODE_4M.fd", "OVMF_VARS_4M.fd", "ovmf.fd"),
        Firmware::OvmfSecureBoot => ("OVMF_CODE_4M.secboot.fd", "OVMF_VARS_4M.ms.fd", "ovmf-secure-boot.fd"),
    };
    let is_old = matches!(bus, Bus::Pvscsi | Bus::LsiLogicSas);
    let old = if is_old { Some(Toolbox::open_tree(Tree::OLD_OVMF)?) } else { None };
    let copied = |from: &str, to: &str| -> Result<PathBuf> {
        let (from, to) =
            (old.as_ref().unwrap_or(toolbox).path_of(&format!("{OVMF}/{from}")), folder.join(to));
        if !to.exists() {
            fs::copy(&from, &to)
                .with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
        }
        Ok(to)
    };
    // QEMU runs inside the tools tree and finds its own code there, and that of another tree in the VM's folder.
    let code = if is_old { copied(code, "ovmf-code.fd")? } else { PathBuf::from(format!("{OVMF}/{code}")) };
    Ok(Some(Flash { code, variables: copied(blank, variables)? }))
}

/// Writes a file that only its owner can read. Without a newline: QEMU takes the content as it is.
pub(crate) fn secret_file(folder: &Path, name: &str, text: &str) -> Result<PathBuf> {
    let path = folder.join(name);
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&path)
        .with_context(|| format!("cannot make {}", path.display()))?;
    file.write_all(text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

fn qemu_img(
    toolbox: &Toolbox,
    verb: &[&str],
    options: &[&str],
    path: &Path,
    size: Option<&str>,
) -> Result<()> {
    let output = toolbox
        .command("qemu-img")
        .args(verb)
        .args(options)
        .arg(path)
        .args(size)
        .output()
        .context("cannot run qemu-img")?;
    if !output.status.success() {
        let reason = String::from_utf8_lossy(&output.stderr);
        bail!("qemu-img could not make {}: {}", path.display(), reason.trim_end());
    }
    Ok(())
}

/// Tells an image from another at the same path: a build replaces the file or writes it anew.
fn identity(image: &Path) -> Result<String> {
    let metadata = fs::metadata(image).with_context(|| format!("cannot look at {}", image.display()))?;
    let (seconds, nanoseconds) = (metadata.mtime(), metadata.mtime_nsec());
    let path = image.display();
    Ok(format!("{path} inode {} size {} modified {seconds}.{nanoseconds:09}", metadata.ino(), metadata.len()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn an_image_that_was_replaced_is_another() {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("disk.raw");
        fs::write(&image, "one").unwrap();
        let first = identity(&image).unwrap();
        assert_eq!(identity(&image).unwrap(), first);
        let newer = folder.path().join("newer");
        fs::write(&newer, "two").unwrap();
        fs::rename(&newer, &image).unwrap();
        assert_ne!(identity(&image).unwrap(), first);
    }

    #[test]
    fn provisioning_data_is_readable_by_its_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = secret_file(folder.path(), "oem-string", "infimonitor.answers:eA==").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_to_string(&path).unwrap(), "infimonitor.answers:eA==");
    }
}
