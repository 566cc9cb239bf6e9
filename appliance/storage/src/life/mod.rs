//! A machine's disks after its installation: what they are like, replacing one, adding one, using all of one that has grown,
//! and scrubbing.
//!
//! Whatever a disk that comes in holds is erased, so it must be blank or its loss agreed to, as at the installation. It gets
//! the boot set first, is taken into the volumes next, and becomes bootable last; one that leaves is retired first where another
//! disk boots, and last where none does. A cut leaves a machine that boots and an order that can be given again: what is left to
//! do of it is told from the volumes ([`replacing`]), and how data is kept from their block groups ([`redundancy`]), never from
//! a note of what was meant.
//!
//! [`candidate`], [`replacing`] and [`redundancy`] decide and are pure; the rest runs `btrfs` and says how far it is.

mod change;
pub mod redundancy;
pub mod replacing;
mod run;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use uuid::Uuid;

use crate::disks::{self, Devices};
use crate::inventory::{self, Disk};
use crate::layout::{self, DATA, Partition};
use crate::plan::{self, Firmware};
use crate::recorded::Recorded;
use crate::smart::Health;
use crate::volume::Volume;
use crate::{btrfs, table};
use run::{open, run, scrubbed};

/// Why something cannot be done with a disk.
#[derive(Debug, Error)]
pub enum LifeError {
    /// The disk cannot be taken in.
    #[error("{disk} cannot be used: it {reason}")]
    Unsuitable {
        /// Which.
        disk: String,
        /// Why.
        reason: String,
    },
    /// No disk, or none of this machine's.
    #[error("{0}")]
    NoDisk(String),
    /// A step failed.
    #[error("{step}: {cause}")]
    Step {
        /// What was done.
        step: String,
        /// Why it failed.
        cause: String,
    },
}

impl LifeError {
    fn step(step: impl Into<String>) -> impl Fn(&dyn std::fmt::Display) -> Self {
        let step = step.into();
        move |cause| Self::Step { step: step.clone(), cause: cause.to_string() }
    }
}

/// How far it is: a step, and the share of it that is done where that is known, in percent.
pub type Progress<'p> = dyn FnMut(&str, Option<f32>) + 'p;

/// A disk of the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Used {
    /// Its device file.
    pub device: PathBuf,
    /// Device, size, model and serial number, for people.
    pub title: String,
    /// Errors on it, see [`crate::volume::Device::errors`].
    pub errors: u64,
    /// What it says of its own health.
    pub health: Health,
    /// The RAID controller's driver, where it is a volume behind one.
    pub raid_controller: Option<String>,
}

/// A disk that is not the machine's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Other {
    /// Its device file.
    pub device: PathBuf,
    /// Device, size, model and serial number, for people.
    pub title: String,
    /// What is on it, as sentences' parts.
    pub contents: Vec<String>,
    /// Why it cannot be taken in, where it cannot.
    pub hindrance: Option<String>,
    /// Whether it suits, is blank, and is no stick that somebody has left: nothing is lost if it comes in.
    pub is_offered: bool,
}

/// What the machine's disks are like.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Those that are used.
    pub used: Vec<Used>,
    /// How many are missing.
    pub missing: usize,
    /// What those that are missing are called, as far as that was recorded.
    pub lost: Vec<String>,
    /// The volumes that are not kept yet as the disks allow.
    pub unsettled: Vec<String>,
    /// All others.
    pub others: Vec<Other>,
}

/// What a scrub found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scrubbed {
    /// Blocks that were wrong and could be mended from their second copy.
    pub corrected: u64,
    /// Blocks that were wrong and could not.
    pub uncorrectable: u64,
}

/// The machine whose disks these are.
#[derive(Debug, Clone)]
pub struct Machine {
    /// sysfs and device files.
    pub devices: Devices,
    /// The program `btrfs`.
    pub btrfs: PathBuf,
    /// Where *state* and *data* are mounted.
    pub mounted: [(&'static str, PathBuf); 2],
    /// How the machine boots.
    pub firmware: Firmware,
}

/// A disk that is to come in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incoming {
    /// Its device file.
    pub device: PathBuf,
    /// Whether what is on it may be lost.
    pub erase: bool,
}

/// The partitions that a disk gets when it comes into a machine whose disks have sectors of `sector_bytes` and are `used`.
///
/// # Errors
/// [`LifeError::Unsuitable`] with the reason.
pub fn candidate(
    disk: &Disk,
    erase: bool,
    firmware: Firmware,
    sector_bytes: u64,
    used: &[PathBuf],
) -> Result<Vec<Partition>, LifeError> {
    let unsuitable = |reason: String| LifeError::Unsuitable { disk: disk.title(), reason };
    if used.contains(&disk.device) {
        return Err(unsuitable("is one of this machine's disks already".into()));
    }
    if let Some(reason) = plan::hindrance(disk, firmware).or_else(|| plan::is_one_of(disk, used.iter())) {
        return Err(unsuitable(reason));
    }
    if disk.sector_bytes != sector_bytes {
        return Err(unsuitable(format!(
            "has sectors of {} bytes, and the machine's disks have {sector_bytes}: the boot partitions cannot be copied",
            disk.sector_bytes
        )));
    }
    if !disk.contents.is_empty() && !erase {
        return Err(unsuitable(format!(
            "is not empty, it holds {}; agree to its loss to use it",
            disk.contents.join(", ")
        )));
    }
    let alignment = plan::alignment(disk, &mut Vec::new());
    layout::system_disk_aligned(disk.size_bytes, disk.sector_bytes, alignment)
        .map_err(|error| unsuitable(format!("does not take the layout: {error}")))
}

impl Machine {
    /// This one, booted by its own disk, with *data* mounted at `data`.
    pub fn this(data: &Path) -> Self {
        Self {
            devices: Devices::default(),
            btrfs: btrfs::BTRFS.into(),
            mounted: [(layout::STATE, "/var".into()), (DATA, data.into())],
            firmware: Firmware::of_this_machine(),
        }
    }

    fn volumes(&self) -> Result<Vec<Volume>, LifeError> {
        let volume = |(_, target): &(&str, PathBuf)| {
            Volume::at(target, &self.devices)
                .map_err(|error| LifeError::step("looking at the volumes")(&error))
        };
        self.mounted.iter().map(volume).collect()
    }

    /// The disks of which any partition is in a volume, and the partitions' devices by GPT name.
    fn used(&self, volumes: &[Volume]) -> Result<Vec<disks::Disk>, LifeError> {
        let all = self.devices.all().map_err(|error| LifeError::step("looking for the disks")(&error))?;
        let is_used = |disk: &disks::Disk| {
            let mut partitions = disk.partitions.values();
            partitions.any(|found| volumes.iter().any(|volume| volume.number_of(&found.device).is_some()))
        };
        Ok(all.into_iter().filter(is_used).collect())
    }

    /// What the disks are like; `recorded`: those that were the machine's.
    ///
    /// # Errors
    /// The volumes or the inventory cannot be read.
    pub fn report(&self, recorded: Option<&Recorded>) -> Result<Report, LifeError> {
        let volumes = self.volumes()?;
        let used = self.used(&volumes)?;
        let inventory =
            inventory::read().map_err(|error| LifeError::step("looking for the disks")(&error))?;
        let errors = |disk: &disks::Disk| {
            let of = |found: &disks::Found| {
                let numbers = volumes.iter().filter_map(|volume| {
                    let number = volume.number_of(&found.device)?;
                    volume.devices.get(&number).map(|device| device.errors)
                });
                numbers.sum::<u64>()
            };
            disk.partitions.values().map(of).sum()
        };
        let devices: Vec<PathBuf> = used.iter().map(|disk| disk.device.clone()).collect();
        let sector_bytes = used.first().map_or(512, |disk| disk.sector_bytes);
        let other = |disk: &Disk| {
            let hindrance = match candidate(disk, true, self.firmware, sector_bytes, &devices) {
                Err(LifeError::Unsuitable { reason, .. }) => Some(reason),
                _ => None,
            };
            Other {
                device: disk.device.clone(),
                title: disk.title(),
                contents: disk.contents.clone(),
                is_offered: hindrance.is_none() && plan::reserve(disk).is_none(),
                hindrance,
            }
        };
        let mine = |disk: &disks::Disk| {
            let known = inventory.iter().find(|known| known.device == disk.device);
            Used {
                device: disk.device.clone(),
                title: known.map_or_else(|| disk.device.display().to_string(), Disk::title),
                errors: errors(disk),
                health: known.map(|known| known.health).unwrap_or_default(),
                raid_controller: known.and_then(|known| known.raid_controller.clone()),
            }
        };
        let guids: Vec<Uuid> = used.iter().map(|disk| disk.guid).collect();
        Ok(Report {
            used: used.iter().map(mine).collect(),
            missing: volumes.iter().map(|volume| volume.missing().len()).max().unwrap_or_default(),
            lost: recorded.map(|recorded| recorded.lost(&guids)).unwrap_or_default(),
            unsettled: self.unsettled()?.into_iter().map(String::from).collect(),
            others: inventory.iter().filter(|disk| !devices.contains(&disk.device)).map(other).collect(),
        })
    }

    /// Uses all of disks that have grown. Returns what has.
    ///
    /// # Errors
    /// A partition table cannot be written, or the volume does not take the room.
    pub fn grow(&self) -> Result<Vec<String>, LifeError> {
        let volumes = self.volumes()?;
        let mut grown = Vec::new();
        for disk in self.used(&volumes)? {
            let step = format!("using all of {}", disk.device.display());
            let failed = LifeError::step(&*step);
            let extended = open(&disk.device).map_err(|error| failed(&error)).and_then(|mut file| {
                table::extend_last(&mut file, disk.size_bytes, disk.sector_bytes)
                    .map_err(|error| failed(&error))
            })?;
            if extended {
                run("partx", &["--update"], &[&disk.device]).map_err(|cause| failed(&cause))?;
            }
            // Also where a cut came in between.
            for (volume, (name, target)) in volumes.iter().zip(&self.mounted) {
                let number = disk.partitions.get(*name).and_then(|found| volume.number_of(&found.device));
                if let Some(number) = number
                    && *name == DATA
                {
                    self.btrfs_run(&step, &["filesystem", "resize", &format!("{number}:max")], &[target])?;
                }
            }
            if extended {
                grown.push(disk.device.display().to_string());
            }
        }
        Ok(grown)
    }

    /// Reads all that is stored and mends what is wrong from its second copy.
    ///
    /// # Errors
    /// It does not run to its end.
    pub fn scrub(&self, progress: &mut Progress<'_>) -> Result<Scrubbed, LifeError> {
        // `btrfs` keeps there how far it is.
        std::fs::create_dir_all("/var/lib/btrfs").map_err(|error| LifeError::step("scrub")(&error))?;
        let mut found = Scrubbed::default();
        for (name, target) in &self.mounted {
            let said = self.btrfs_with_progress(
                &format!("{name} is scrubbed"),
                &["scrub", "start", "-B", "-R"],
                &[target],
                ("scrub", &[]),
                target,
                progress,
            )?;
            let Scrubbed { corrected, uncorrectable } = scrubbed(&said);
            found.corrected += corrected;
            found.uncorrectable += uncorrectable;
        }
        Ok(found)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::inventory::Transport;

    pub(crate) fn disk(device: &str) -> Disk {
        Disk {
            device: device.into(),
            size_bytes: 500_107_862_016,
            sector_bytes: 512,
            optimal_io_bytes: 0,
            rotational: false,
            removable: false,
            read_only: false,
            transport: Transport::Ata,
            model: Some("EVO".into()),
            serial: None,
            bay: None,
            twins: Vec::new(),
            links: Vec::new(),
            raid_controller: None,
            health: Health::NotVisible,
            contents: Vec::new(),
            firmware_raid: None,
            uses: Vec::new(),
        }
    }

    #[test]
    fn a_disk_comes_in_only_if_it_suits_and_nothing_is_lost_unasked() {
        let used = [PathBuf::from("/dev/sda")];
        let full = Disk { contents: vec!["btrfs \"data\" on /dev/sdb10".into()], ..disk("/dev/sdb") };
        let table = [
            (disk("/dev/sdb"), false, None),
            (disk("/dev/sda"), true, Some("is one of this machine's disks already")),
            (
                full.clone(),
                false,
                Some("is not empty, it holds btrfs \"data\" on /dev/sdb10; agree to its loss"),
            ),
            (full, true, None),
            (Disk { size_bytes: 8_000_000_000, ..disk("/dev/sdb") }, true, Some("is smaller than 20 GB")),
            (Disk { sector_bytes: 4096, ..disk("/dev/sdb") }, true, Some("has sectors of 4096 bytes, and")),
            (
                Disk { uses: vec!["/dev/sdb1 is mounted at /mnt".into()], ..disk("/dev/sdb") },
                true,
                Some("is in use"),
            ),
            // By another path it is the machine's own; one that no disk of the machine is can be named.
            (
                Disk { twins: vec!["/dev/sda".into()], ..disk("/dev/sdb") },
                true,
                Some("is the same disk as /dev/sda"),
            ),
            (Disk { twins: vec!["/dev/sdc".into()], ..disk("/dev/sdb") }, false, None),
        ];
        for (disk, erase, expected) in table {
            match (candidate(&disk, erase, Firmware::Uefi, 512, &used), expected) {
                (Ok(partitions), None) => assert_eq!(partitions.len(), 10),
                (Err(error), Some(expected)) => assert!(error.to_string().contains(expected), "{error}"),
                (other, _) => panic!("{disk:?}: {other:?}"),
            }
        }
    }
}
