//! A btrfs that is mounted, as the kernel has it: which devices it uses, which are missing, and what went wrong on each.
//!
//! sysfs tells it; what a device's number is stands in its superblock. A number without a device is a missing member, also
//! where the kernel has heard of a device with that number since: it does not use it (design D5).

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::disks::Devices;
use crate::{contents, mounts};

/// Number of the device that another one is replaced by, until that is done (BTRFS_DEV_REPLACE_DEVID).
pub const REPLACING: u64 = 0;

/// A volume's device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Its device file; `None`: it is missing.
    pub path: Option<PathBuf>,
    /// Errors since it was made a member: of reading, writing and flushing, and blocks that were wrong.
    pub errors: u64,
}

/// A volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Where it is mounted.
    pub target: PathBuf,
    /// Its devices by their numbers.
    pub devices: BTreeMap<u64, Device>,
}

/// Why it cannot be told.
#[derive(Debug, Error)]
pub enum VolumeError {
    /// Nothing, or no btrfs, is mounted there.
    #[error("no btrfs is mounted at {}", .0.display())]
    NotMounted(PathBuf),
    /// The kernel or the device does not tell.
    #[error("cannot look at {path}: {source}", path = path.display())]
    Read {
        /// What was looked at.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

impl Volume {
    /// The number of the device, if it is one of this volume's.
    pub fn number_of(&self, path: &Path) -> Option<u64> {
        self.devices
            .iter()
            .find(|(_, device)| device.path.as_deref() == Some(path))
            .map(|(number, _)| *number)
    }

    /// The numbers of those that are missing.
    pub fn missing(&self) -> Vec<u64> {
        self.devices.iter().filter(|(_, device)| device.path.is_none()).map(|(number, _)| *number).collect()
    }

    /// Looks at what is mounted at `target`.
    ///
    /// # Errors
    /// [`VolumeError`]
    pub fn at(target: &Path, devices: &Devices) -> Result<Self, VolumeError> {
        let read = |path: &Path| {
            let path = path.to_owned();
            move |source| VolumeError::Read { path, source }
        };
        let mount = mounts::at(target).map_err(read(Path::new("/proc/self/mountinfo")))?;
        let mount = mount.filter(|mount| mount.fs_type == "btrfs");
        let source = mount.ok_or_else(|| VolumeError::NotMounted(target.to_owned()))?.source;
        let folder = folder_of(&devices.sys, Path::new(&source)).map_err(read(&devices.sys))?;
        let folder = folder
            .ok_or_else(|| read(Path::new(&source))(io::Error::other("the kernel has no btrfs on it")))?;
        let mut paths = BTreeMap::new();
        for name in names(&folder.join("devices")).map_err(read(&folder))? {
            let path = devices.dev.join(name);
            // A disk that was pulled is named there until the volume is mounted anew. One that cannot be read is missing.
            let head = File::open(&path).and_then(|mut file| contents::read_head(&mut file));
            if let Some(superblock) = head.ok().and_then(|head| contents::superblock(&head)) {
                paths.insert(superblock.devid, path);
            }
        }
        let infos = folder.join("devinfo");
        let numbers: BTreeSet<u64> =
            names(&infos).map_err(read(&infos))?.iter().filter_map(|name| name.parse().ok()).collect();
        let device = |number: u64| {
            let errors = fs::read_to_string(infos.join(number.to_string()).join("error_stats"));
            (
                number,
                Device { path: paths.get(&number).cloned(), errors: errors.map_or(0, |text| sum(&text)) },
            )
        };
        Ok(Self { target: target.to_owned(), devices: numbers.into_iter().map(device).collect() })
    }
}

/// Where sysfs shows the file system of which `source` is a device: by its name, as the device itself may be gone.
fn folder_of(sys: &Path, source: &Path) -> io::Result<Option<PathBuf>> {
    let Some(name) = source.file_name() else { return Ok(None) };
    let all = sys.join("fs/btrfs");
    let folders = names(&all)?.into_iter().map(|fsid| all.join(fsid));
    Ok(folders.into_iter().find(|folder| folder.join("devices").join(name).symlink_metadata().is_ok()))
}

fn names(folder: &Path) -> io::Result<Vec<String>> {
    fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

/// All counts of a device's `error_stats`: lines of a name and a number.
fn sum(error_stats: &str) -> u64 {
    let counts = error_stats.lines().filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok());
    counts.fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_errors_count() {
        assert_eq!(
            sum("write_errs 1\nread_errs 20\nflush_errs 0\ncorruption_errs 300\ngeneration_errs 0\n"),
            321
        );
        assert_eq!(sum("(invalid)\n"), 0);
    }

    #[test]
    fn a_number_without_a_device_is_missing() {
        let device = |path: Option<&str>| Device { path: path.map(PathBuf::from), errors: 0 };
        let devices = [(1, device(Some("/dev/sda10"))), (2, device(None)), (3, device(Some("/dev/sdc10")))];
        let volume = Volume { target: "/data".into(), devices: devices.into() };
        assert_eq!(volume.missing(), [2]);
        assert_eq!(volume.number_of(Path::new("/dev/sdc10")), Some(3));
        assert_eq!(volume.number_of(Path::new("/dev/sdb10")), None);
    }
}
