//! Finding the system disk and its partitions: GPT as it lies on the disk, device names from sysfs.
//!
//! No udev link is read: the disk that GRUB was started from is known by its GPT disk GUID, and a second disk with
//! equally named partitions (design D4) must never be mixed up with it. The price is one read of the first sectors of
//! every disk, at boot only.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use gpt::GptConfig;
use gpt::disk::LogicalBlockSize;
use thiserror::Error;
use uuid::Uuid;

use crate::command_line::value;
use crate::members::Member;
use crate::{contents, layout};

/// How often a disk that is not there yet is looked for.
const POLL: Duration = Duration::from_millis(200);

/// How the system disk is named on the kernel's command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Selector {
    /// `infimonitor.disk=`: GUID of the disk's GPT.
    Disk(Uuid),
    /// `infimonitor.root=`: unique GUID (PARTUUID) of one of its partitions, the root partition that is booted.
    Partition(Uuid),
}

impl std::fmt::Display for Selector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Disk(guid) => write!(f, "disk with GPT disk GUID {guid}"),
            Self::Partition(guid) => write!(f, "disk that holds the partition with PARTUUID {guid}"),
        }
    }
}

impl Selector {
    /// Reads the selector from a kernel command line; `infimonitor.disk=` goes before `infimonitor.root=`, and of
    /// several equal keys the last one counts, as with the kernel's own options.
    ///
    /// # Errors
    /// [`DiskError::CommandLine`] if neither is there or the value is no GUID.
    pub fn from_kernel_command_line(text: &str) -> Result<Self, DiskError> {
        let guid = |key: &str, value: &str| {
            Uuid::try_parse(value).map_err(|_| {
                DiskError::CommandLine(format!("{key}={value} on the kernel command line is not a GUID"))
            })
        };
        if let Some(found) = value(text, "infimonitor.disk") {
            Ok(Self::Disk(guid("infimonitor.disk", found)?))
        } else if let Some(found) = value(text, "infimonitor.root") {
            Ok(Self::Partition(guid("infimonitor.root", found)?))
        } else {
            Err(DiskError::CommandLine(
                "the kernel command line has neither infimonitor.disk= nor infimonitor.root=: \
                 the system disk is unknown; boot by the disk's own GRUB entry"
                    .into(),
            ))
        }
    }
}

/// Why the system disk or a partition cannot be told.
#[derive(Debug, Error)]
pub enum DiskError {
    /// The kernel command line does not name the disk.
    #[error("{0}")]
    CommandLine(String),
    /// sysfs cannot be read.
    #[error("cannot list the disks in {path}: {source}")]
    Sysfs {
        /// The directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// No disk matches (yet).
    #[error("no {selector} was found; looked at: {looked_at}")]
    NotFound {
        /// What was looked for.
        selector: Selector,
        /// Every disk that was looked at, with what was found there.
        looked_at: String,
    },
    /// Several disks match: a cloned disk beside its original.
    #[error("more than one {selector}: {}; detach the copy", devices.iter().map(|d| d.display().to_string()).collect::<Vec<_>>().join(", "))]
    Ambiguous {
        /// What was looked for.
        selector: Selector,
        /// The disks that match.
        devices: Vec<PathBuf>,
    },
    /// The disk is there, a partition is not.
    #[error("{disk} has no partition {name:?}; it has: {present}", disk = disk.display())]
    NoPartition {
        /// The disk.
        disk: PathBuf,
        /// GPT name of what was looked for.
        name: String,
        /// GPT names of what is there.
        present: String,
    },
}

/// A partition as GPT and kernel know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Device file, such as `/dev/vda9`.
    pub device: PathBuf,
    /// Unique partition GUID (PARTUUID).
    pub part_uuid: Uuid,
    /// Size in bytes.
    pub size_bytes: u64,
}

/// A disk with a GPT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// Device file, such as `/dev/vda`.
    pub device: PathBuf,
    /// GUID of its GPT.
    pub guid: Uuid,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// Bytes of a logical sector.
    pub sector_bytes: u64,
    /// Its partitions by GPT name; only those that have a device by now.
    pub partitions: BTreeMap<String, Found>,
}

impl Disk {
    /// The partition with this GPT name.
    ///
    /// # Errors
    /// [`DiskError::NoPartition`] if it is not (yet) there.
    pub fn partition(&self, name: &str) -> Result<&Found, DiskError> {
        self.partitions.get(name).ok_or_else(|| DiskError::NoPartition {
            disk: self.device.clone(),
            name: name.into(),
            present: self.partitions.keys().cloned().collect::<Vec<_>>().join(", "),
        })
    }

    fn matches(&self, selector: Selector) -> bool {
        match selector {
            Selector::Disk(guid) => self.guid == guid,
            Selector::Partition(guid) => self.partitions.values().any(|p| p.part_uuid == guid),
        }
    }
}

/// Where sysfs and the device files are; another place in tests.
#[derive(Debug, Clone)]
pub struct Devices {
    /// sysfs, normally `/sys`.
    pub sys: PathBuf,
    /// Device files, normally `/dev`.
    pub dev: PathBuf,
}

impl Default for Devices {
    fn default() -> Self {
        Self { sys: "/sys".into(), dev: "/dev".into() }
    }
}

impl Devices {
    /// Every disk with a GPT. What cannot be read is none.
    ///
    /// # Errors
    /// [`DiskError::Sysfs`].
    pub fn all(&self) -> Result<Vec<Disk>, DiskError> {
        let block = self.sys.join("block");
        let names = list(&block).map_err(|source| DiskError::Sysfs { path: block.clone(), source })?;
        Ok(names.iter().filter_map(|name| self.read_disk(&block.join(name), name).ok().flatten()).collect())
    }

    /// The further disks of the system that was started from `disk`: those that carry the boot set and are members of the
    /// same *state* file system (design D4). Disks that cannot be read are none.
    ///
    /// # Errors
    /// [`DiskError::Sysfs`].
    pub fn siblings(&self, disk: &Disk) -> Result<Vec<Disk>, DiskError> {
        let Some(system) = disk.partitions.get(layout::STATE).and_then(state_uuid) else {
            return Ok(Vec::new());
        };
        // What the kernel has in the mounted file system. A clone, or a member that was replaced and came back, has the
        // same UUID in its superblock.
        let members = list(&self.sys.join(format!("fs/btrfs/{system}/devices"))).unwrap_or_default();
        let is_member = |state: &Found| {
            state.device.file_name().is_some_and(|name| members.iter().any(|member| name == member.as_str()))
        };
        let is_sibling = |other: &Disk| {
            other.device != disk.device
                && layout::BOOT_SET.iter().all(|name| other.partitions.contains_key(*name))
                && other.partitions.get(layout::STATE).is_some_and(is_member)
        };
        Ok(self.all()?.into_iter().filter(is_sibling).collect())
    }

    /// Every partition with this GPT name that holds a finished btrfs. What cannot be read is none.
    ///
    /// # Errors
    /// [`DiskError::Sysfs`].
    pub fn members(&self, name: &str) -> Result<Vec<Member>, DiskError> {
        let member = |disk: Disk| {
            let device = disk.partitions.get(name)?.device.clone();
            let head = contents::read_head(&mut File::open(&device).ok()?).ok()?;
            Some(Member { superblock: contents::superblock(&head)?, device })
        };
        Ok(self.all()?.into_iter().filter_map(member).collect())
    }

    /// Finds the one disk that the selector names.
    ///
    /// # Errors
    /// [`DiskError::NotFound`] with what was looked at, [`DiskError::Ambiguous`], [`DiskError::Sysfs`].
    pub fn find(&self, selector: Selector) -> Result<Disk, DiskError> {
        let block = self.sys.join("block");
        let names = list(&block).map_err(|source| DiskError::Sysfs { path: block.clone(), source })?;
        let (mut matching, mut looked_at) = (Vec::new(), Vec::new());
        for name in names {
            match self.read_disk(&block.join(&name), &name) {
                Ok(None) => {}
                Ok(Some(disk)) if disk.matches(selector) => matching.push(disk),
                Ok(Some(disk)) => looked_at.push(format!("{name} (GPT {})", disk.guid)),
                Err(cause) => looked_at.push(format!("{name} ({cause})")),
            }
        }
        if matching.len() > 1 {
            let devices = matching.into_iter().map(|disk| disk.device).collect();
            return Err(DiskError::Ambiguous { selector, devices });
        }
        matching.pop().ok_or_else(|| DiskError::NotFound {
            selector,
            looked_at: if looked_at.is_empty() { "no disk at all".into() } else { looked_at.join(", ") },
        })
    }

    /// Waits until the disk and the named partitions are there, looking again several times a second.
    ///
    /// # Errors
    /// What still fails when `patience` is over.
    pub fn wait(&self, selector: Selector, names: &[&str], patience: Duration) -> Result<Disk, DiskError> {
        let deadline = Instant::now() + patience;
        loop {
            let attempt = self.find(selector).and_then(|disk| {
                for name in names {
                    disk.partition(name)?;
                }
                Ok(disk)
            });
            if attempt.is_ok() || Instant::now() >= deadline {
                return attempt;
            }
            std::thread::sleep(POLL);
        }
    }

    /// `None` for what is no disk (empty drives and loop devices).
    fn read_disk(&self, sysfs: &Path, name: &str) -> io::Result<Option<Disk>> {
        // sysfs counts in sectors of 512 bytes, whatever those of the disk are.
        let size_bytes = number(&sysfs.join("size"))? * 512;
        if size_bytes == 0 {
            return Ok(None);
        }
        let sector_bytes = number(&sysfs.join("queue/logical_block_size"))?;
        let block_size = match sector_bytes {
            4096 => LogicalBlockSize::Lb4096,
            _ => LogicalBlockSize::Lb512,
        };
        let device = self.dev.join(name);
        let table = GptConfig::new()
            .writable(false)
            .logical_block_size(block_size)
            .open_from_device(File::open(&device)?)
            .map_err(|error| io::Error::other(format!("no GPT: {error}")))?;
        let devices = self.partition_devices(sysfs)?;
        let partitions = table
            .partitions()
            .iter()
            .filter_map(|(index, entry)| {
                let found = Found {
                    device: devices.get(&u64::from(*index))?.clone(),
                    part_uuid: entry.part_guid,
                    size_bytes: entry.bytes_len(block_size).ok()?,
                };
                Some((entry.name.clone(), found))
            })
            .collect();
        Ok(Some(Disk { device, guid: *table.guid(), size_bytes, sector_bytes, partitions }))
    }

    /// The kernel's partitions of a disk: number in the table → device file.
    fn partition_devices(&self, sysfs: &Path) -> io::Result<BTreeMap<u64, PathBuf>> {
        let mut devices = BTreeMap::new();
        for name in list(sysfs)? {
            let device = self.dev.join(&name);
            if let Ok(index) = number(&sysfs.join(&name).join("partition"))
                && device.exists()
            {
                devices.insert(index, device);
            }
        }
        Ok(devices)
    }
}

/// UUID of the btrfs in a partition, if there is one.
fn state_uuid(partition: &Found) -> Option<Uuid> {
    let head = contents::read_head(&mut File::open(&partition.device).ok()?).ok()?;
    contents::superblock(&head).map(|superblock| superblock.fsid)
}

fn list(directory: &Path) -> io::Result<Vec<String>> {
    let mut names = fs::read_dir(directory)?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<io::Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

fn number(path: &Path) -> io::Result<u64> {
    fs::read_to_string(path)?.trim().parse().map_err(|_| io::Error::other("not a number"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{self, MINIMUM_DISK_BYTES};

    const GUID: &str = "8c5f2a30-1111-4222-8333-444455556666";

    #[test]
    fn the_command_line_names_the_disk() {
        let disk = Selector::Disk(Uuid::parse_str(GUID).unwrap());
        let root = Selector::Partition(Uuid::parse_str(GUID).unwrap());
        let table = [
            (format!("quiet infimonitor.slot=a infimonitor.disk={GUID} panic=10\n"), disk),
            (format!("infimonitor.root={}", GUID.to_uppercase()), root),
            (format!("infimonitor.root=x infimonitor.disk={GUID}"), disk),
            (format!("infimonitor.disk=0 infimonitor.disk={GUID}"), disk),
        ];
        for (text, expected) in table {
            assert_eq!(Selector::from_kernel_command_line(&text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn a_command_line_without_a_usable_disk_is_refused_by_name() {
        let table = [
            ("quiet", "neither infimonitor.disk= nor infimonitor.root="),
            ("infimonitor.diskette=1", "neither infimonitor.disk= nor infimonitor.root="),
            ("infimonitor.disk=sda", "infimonitor.disk=sda on the kernel command line is not a GUID"),
            ("infimonitor.root=", "infimonitor.root= on the kernel command line is not a GUID"),
        ];
        for (text, expected) in table {
            let error = Selector::from_kernel_command_line(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    /// A made-up machine: sysfs entries and a sparse file with a real GPT for each disk.
    struct Machine {
        dir: tempfile::TempDir,
    }

    impl Machine {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            fs::create_dir_all(dir.path().join("sys/block")).unwrap();
            fs::create_dir_all(dir.path().join("dev")).unwrap();
            Self { dir }
        }

        fn devices(&self) -> Devices {
            Devices { sys: self.dir.path().join("sys"), dev: self.dir.path().join("dev") }
        }

        fn sysfs(&self, name: &str, sectors: u64) -> PathBuf {
            let sysfs = self.dir.path().join("sys/block").join(name);
            fs::create_dir_all(sysfs.join("queue")).unwrap();
            fs::write(sysfs.join("size"), format!("{sectors}\n")).unwrap();
            fs::write(sysfs.join("queue/logical_block_size"), "512\n").unwrap();
            sysfs
        }

        /// Adds a system disk; `known` says how many of its partitions the kernel shows by now.
        fn add_disk(&self, name: &str, guid: &str, known: usize) -> Vec<Uuid> {
            let sysfs = self.sysfs(name, MINIMUM_DISK_BYTES / 512);
            let file = File::options()
                .create(true)
                .truncate(true)
                .read(true)
                .write(true)
                .open(self.dir.path().join("dev").join(name))
                .unwrap();
            file.set_len(MINIMUM_DISK_BYTES).unwrap();
            let mut table = GptConfig::new()
                .writable(true)
                .create_from_device(file, Some(Uuid::parse_str(guid).unwrap()))
                .unwrap();
            let mut entries = BTreeMap::new();
            for (i, p) in layout::system_disk(MINIMUM_DISK_BYTES, 512).unwrap().iter().enumerate() {
                let number = i as u32 + 1;
                let entry = gpt::partition::Partition {
                    part_type_guid: gpt::partition_types::Type {
                        guid: Uuid::parse_str(p.type_guid).unwrap(),
                        os: gpt::partition_types::OperatingSystem::None,
                    },
                    part_guid: Uuid::new_v4(),
                    first_lba: p.first_lba,
                    last_lba: p.last_lba,
                    flags: p.flags,
                    name: p.name.into(),
                };
                entries.insert(number, entry);
                if i < known {
                    let directory = sysfs.join(format!("{name}{number}"));
                    fs::create_dir_all(&directory).unwrap();
                    fs::write(directory.join("partition"), format!("{number}\n")).unwrap();
                    fs::write(self.dir.path().join(format!("dev/{name}{number}")), "").unwrap();
                }
            }
            let uuids = entries.values().map(|entry| entry.part_guid).collect();
            table.update_partitions(entries).unwrap();
            drop(table.write().unwrap());
            uuids
        }
    }

    #[test]
    fn partitions_are_found_on_the_disk_that_is_named_not_on_its_neighbour() {
        let machine = Machine::new();
        machine.sysfs("loop0", 0);
        machine.add_disk("sda", "8c5f2a30-1111-4222-8333-444455556667", 10);
        let uuids = machine.add_disk("sdb", GUID, 10);
        for selector in [Selector::Disk(Uuid::parse_str(GUID).unwrap()), Selector::Partition(uuids[4])] {
            let disk = machine.devices().find(selector).unwrap();
            assert_eq!(disk.device, machine.dir.path().join("dev/sdb"));
            let state = disk.partition("state").unwrap();
            assert_eq!(state.device, machine.dir.path().join("dev/sdb9"));
            assert_eq!(state.part_uuid, uuids[8]);
            assert_eq!(state.size_bytes, layout::STATE_BYTES);
        }
    }

    #[test]
    fn a_disk_that_is_missing_is_reported_with_what_is_there() {
        let machine = Machine::new();
        machine.add_disk("sda", "8c5f2a30-1111-4222-8333-444455556667", 10);
        machine.sysfs("sr0", 2048); // no medium: the device cannot be opened
        let selector = Selector::Disk(Uuid::parse_str(GUID).unwrap());
        let error = machine.devices().find(selector).unwrap_err().to_string();
        assert!(error.starts_with(&format!("no disk with GPT disk GUID {GUID} was found")), "{error}");
        assert!(
            error.contains("sda (GPT 8c5f2a30-1111-4222-8333-444455556667), sr0 (No such file"),
            "{error}"
        );
    }

    #[test]
    fn a_cloned_disk_beside_its_original_is_refused() {
        let machine = Machine::new();
        machine.add_disk("sda", GUID, 10);
        machine.add_disk("sdb", GUID, 10);
        let selector = Selector::Disk(Uuid::parse_str(GUID).unwrap());
        let error = machine.devices().find(selector).unwrap_err();
        assert!(matches!(error, DiskError::Ambiguous { ref devices, .. } if devices.len() == 2), "{error}");
    }

    #[test]
    fn waiting_ends_when_the_kernel_shows_the_partitions() {
        let machine = Machine::new();
        machine.add_disk("vda", GUID, 8);
        let selector = Selector::Disk(Uuid::parse_str(GUID).unwrap());
        let devices = machine.devices();
        let error = devices.wait(selector, &["state"], Duration::from_millis(1)).unwrap_err();
        assert!(matches!(error, DiskError::NoPartition { ref name, .. } if name == "state"), "{error}");
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| devices.wait(selector, &["state", "data"], Duration::from_secs(20)));
            for number in [9, 10] {
                let directory = machine.dir.path().join(format!("sys/block/vda/vda{number}"));
                fs::write(machine.dir.path().join(format!("dev/vda{number}")), "").unwrap();
                fs::create_dir_all(&directory).unwrap();
                fs::write(directory.join("partition"), format!("{number}\n")).unwrap();
            }
            assert!(waiting.join().unwrap().is_ok());
        });
    }
}
