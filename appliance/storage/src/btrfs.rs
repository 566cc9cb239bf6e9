//! Making and mounting btrfs (design D5): mkfs by its own program, mounting by the system call.
//!
//! mkfs.btrfs is never given `--force`: it refuses a device on which it recognises a file system, a second guard
//! behind [`crate::contents`].

use std::ffi::{CString, OsStr};
use std::io;
use std::path::{Path, PathBuf};

use rustix::mount::MountFlags;
use thiserror::Error;

use crate::plan::Profile;

/// Why a file system cannot be made or mounted.
#[derive(Debug, Error)]
pub enum BtrfsError {
    /// mkfs.btrfs cannot be run or failed.
    #[error(
        "cannot make a btrfs on {}: {cause}",
        devices.iter().map(|device| device.display().to_string()).collect::<Vec<_>>().join(", ")
    )]
    Make {
        /// The partitions.
        devices: Vec<PathBuf>,
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

/// Makes one btrfs over `devices` by the program `mkfs`, with the profiles of `profile` for data and metadata.
///
/// # Errors
/// [`BtrfsError::Make`] with mkfs's own words.
pub fn make(mkfs: &Path, devices: &[&Path], label: &str, profile: Profile) -> Result<(), BtrfsError> {
    // As text: duct takes a `Path` of one component for a file in the working folder, not for a name on PATH.
    let mut arguments: Vec<&OsStr> =
        ["--quiet", "--label", label, "--data", profile.name(), "--metadata", profile.metadata()]
            .map(OsStr::new)
            .into();
    arguments.extend(devices.iter().map(|device| device.as_os_str()));
    let output = duct::cmd(mkfs.as_os_str(), arguments)
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
    Err(BtrfsError::Make { devices: devices.iter().map(|device| device.into()).collect(), cause })
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
