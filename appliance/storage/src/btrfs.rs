//! Making and mounting btrfs (design D5): mkfs by its own program, mounting by the system call.
//!
//! mkfs.btrfs is never given `--force`: it refuses a device on which it recognises a file system, a second guard
//! behind [`crate::contents`].

use std::ffi::CString;
use std::io;
use std::path::{Path, PathBuf};

use rustix::mount::MountFlags;
use thiserror::Error;

/// Why a file system cannot be made or mounted.
#[derive(Debug, Error)]
pub enum BtrfsError {
    /// mkfs.btrfs cannot be run or failed.
    #[error("cannot make a btrfs on {device}: {cause}", device = device.display())]
    Make {
        /// The partition.
        device: PathBuf,
        /// What mkfs.btrfs said.
        cause: String,
    },
    /// The kernel refused the mount.
    #[error(
        "cannot mount {device} (btrfs) at {target}: {source}; the kernel's log says why",
        device = device.display(),
        target = target.display()
    )]
    Mount {
        /// The partition.
        device: PathBuf,
        /// The mount point.
        target: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

/// The program that makes a file system, found on PATH; tests name the tools tree's.
pub const MKFS: &str = "mkfs.btrfs";

/// Makes a btrfs on a single device by the program `mkfs`: data single, metadata DUP.
///
/// # Errors
/// [`BtrfsError::Make`] with mkfs's own words.
pub fn make_single(mkfs: &Path, device: &Path, label: &str) -> Result<(), BtrfsError> {
    // As text: duct takes a `Path` of one component for a file in the working folder, not for a name on PATH.
    let output = duct::cmd!(
        mkfs.as_os_str(),
        "--quiet",
        "--label",
        label,
        "--data",
        "single",
        "--metadata",
        "dup",
        device
    )
    .stdin_null()
    .stdout_capture()
    .stderr_capture()
    .unchecked()
    .run();
    let cause = match output {
        Ok(output) if output.status.success() => return Ok(()),
        Ok(output) => {
            format!(
                "{}: {}: {}",
                mkfs.display(),
                output.status,
                String::from_utf8_lossy(&output.stderr).trim()
            )
        }
        Err(error) => format!("{}: {error}", mkfs.display()),
    };
    Err(BtrfsError::Make { device: device.into(), cause })
}

/// How the data file system is mounted: nothing that came from a monitor is ever run from it.
pub const DATA_FLAGS: MountFlags =
    MountFlags::NOEXEC.union(MountFlags::NOSUID).union(MountFlags::NODEV).union(MountFlags::NOATIME);

/// How the state file system (the machine's /var) is mounted.
pub const STATE_FLAGS: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOATIME);

/// Mounts a btrfs, default subvolume, with `options` as in mount(8)'s `-o` (btrfs's own only).
///
/// # Errors
/// [`BtrfsError::Mount`] with the kernel's error.
pub fn mount(device: &Path, target: &Path, flags: MountFlags, options: &str) -> Result<(), BtrfsError> {
    let failed =
        |source: io::Error| BtrfsError::Mount { device: device.into(), target: target.into(), source };
    let options = CString::new(options).map_err(|error| failed(error.into()))?;
    let data = (!options.is_empty()).then_some(options.as_c_str());
    rustix::mount::mount(device, target, "btrfs", flags, data).map_err(|error| failed(error.into()))
}
