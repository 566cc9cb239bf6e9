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
    #[error("cannot make a btrfs on {}: {cause}", list(devices))]
    Make {
        /// The partitions.
        devices: Vec<PathBuf>,
        /// What mkfs.btrfs said.
        cause: String,
    },
    /// The kernel does not forget a device.
    #[error("{} may still count as a member of its btrfs: {cause}", device.display())]
    Forget {
        /// The partition.
        device: PathBuf,
        /// What btrfs said.
        cause: String,
    },
    /// The kernel refused the mount.
    #[error(
        "cannot mount {} (btrfs) at {target}: {source}; the kernel's log says why",
        list(devices),
        target = target.display()
    )]
    Mount {
        /// The partitions.
        devices: Vec<PathBuf>,
        /// The mount point.
        target: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

fn list(devices: &[PathBuf]) -> String {
    devices.iter().map(|device| device.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// The program for devices that are there, found on PATH.
pub const BTRFS: &str = "btrfs";
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
    run(mkfs, arguments).map_err(|cause| BtrfsError::Make {
        devices: devices.iter().map(|device| device.into()).collect(),
        cause,
    })
}

/// Makes the kernel forget a device that it may have been told of as a member of a btrfs that is not mounted, by the program
/// `btrfs`.
///
/// # Errors
/// [`BtrfsError::Forget`] with the program's own words.
pub fn forget(btrfs: &Path, device: &Path) -> Result<(), BtrfsError> {
    let arguments = ["device", "scan", "--forget"].map(OsStr::new).into_iter().chain([device.as_os_str()]);
    run(btrfs, arguments.collect()).map_err(|cause| BtrfsError::Forget { device: device.into(), cause })
}

fn run(program: &Path, arguments: Vec<&OsStr>) -> Result<(), String> {
    let output = duct::cmd(program.as_os_str(), arguments)
        .stdin_null()
        .stdout_capture()
        .stderr_capture()
        .unchecked()
        .run()
        .map_err(|error| format!("{}: {error}", program.display()))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{}: {}: {}", program.display(), output.status, said.trim()))
}

/// How the data file system is mounted: nothing that came from a monitor is ever run from it.
pub const DATA_FLAGS: MountFlags =
    MountFlags::NOEXEC.union(MountFlags::NOSUID).union(MountFlags::NODEV).union(MountFlags::NOATIME);

/// How the state file system (the machine's /var) is mounted.
pub const STATE_FLAGS: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOATIME);

/// Mounts the btrfs of which `devices` are the members, default subvolume. `is_degraded`: although some are missing.
///
/// # Errors
/// [`BtrfsError::Mount`] with the kernel's error.
pub fn mount(
    devices: &[PathBuf],
    target: &Path,
    flags: MountFlags,
    is_degraded: bool,
) -> Result<(), BtrfsError> {
    let failed =
        |source: io::Error| BtrfsError::Mount { devices: devices.into(), target: target.into(), source };
    let first = devices.first().ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
    // By name: the kernel knows only members that somebody told it of.
    let mut options: Vec<String> =
        devices[1..].iter().map(|device| format!("device={}", device.display())).collect();
    if is_degraded {
        options.push("degraded".into());
    }
    let options = CString::new(options.join(",")).map_err(|error| failed(error.into()))?;
    let data = (!options.is_empty()).then_some(options.as_c_str());
    rustix::mount::mount(first, target, "btrfs", flags, data).map_err(|error| failed(error.into()))
}
