//! A machine's disks after its installation: what they are like, replacing one, adding one, using all of one that has grown,
//! and scrubbing.
//!
//! Whatever a disk that comes in holds is erased, so it must be blank or its loss agreed to, as at the installation. It gets
//! the boot set first, is taken into the volumes next, and becomes bootable last: a cut leaves a machine that boots from the
//! others, and the kernel itself goes on with replacing at the next mount.
//!
//! [`candidate`] is pure; the rest runs `btrfs` and says how far it is.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use uuid::Uuid;

use crate::disks::{self, Devices, Selector};
use crate::inventory::{self, Disk};
use crate::layout::{self, DATA, Partition};
use crate::plan::{self, Firmware, Profile};
use crate::smart::Health;
use crate::volume::{REPLACING, Volume};
use crate::{btrfs, table};

/// Between two looks at how far btrfs is.
const POLL: Duration = Duration::from_secs(1);
/// How long the kernel may take to show the partitions of a new disk.
const PATIENCE: Duration = Duration::from_secs(30);
/// The partition that BIOS machines start from.
const BIOS_BOOT: &str = "bios-boot";

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
}

/// What the machine's disks are like.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Those that are used.
    pub used: Vec<Used>,
    /// How many are missing.
    pub missing: usize,
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
    if let Some(reason) = plan::hindrance(disk, firmware) {
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

    /// What the disks are like.
    ///
    /// # Errors
    /// The volumes or the inventory cannot be read.
    pub fn report(&self) -> Result<Report, LifeError> {
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
        let other = |disk: &Disk| Other {
            device: disk.device.clone(),
            title: disk.title(),
            contents: disk.contents.clone(),
            hindrance: match candidate(disk, true, self.firmware, sector_bytes, &devices) {
                Err(LifeError::Unsuitable { reason, .. }) => Some(reason),
                _ => None,
            },
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
        Ok(Report {
            used: used.iter().map(mine).collect(),
            missing: volumes.iter().map(|volume| volume.missing().len()).max().unwrap_or_default(),
            others: inventory.iter().filter(|disk| !devices.contains(&disk.device)).map(other).collect(),
        })
    }

    /// Has a disk take the place of `old`, or of one that is missing; `wipe`: what was on the old one is erased.
    ///
    /// # Errors
    /// The disk does not suit, or a step fails; it can be begun again then.
    pub fn replace(
        &self,
        old: Option<&Path>,
        incoming: &Incoming,
        profile: Profile,
        wipe: bool,
        progress: &mut Progress<'_>,
    ) -> Result<(), LifeError> {
        let volumes = self.volumes()?;
        let used = self.used(&volumes)?;
        let leaving = match old {
            None => None,
            Some(path) => {
                let disk = used.iter().find(|disk| disk.device == path);
                let none = || LifeError::NoDisk(format!("{} is no disk of this machine", path.display()));
                Some(disk.ok_or_else(none)?)
            }
        };
        let mut numbers = Vec::new();
        for (volume, (name, target)) in volumes.iter().zip(&self.mounted) {
            let number = match leaving {
                Some(disk) => disk.partitions.get(*name).and_then(|found| volume.number_of(&found.device)),
                None => volume.missing().into_iter().find(|number| *number != REPLACING),
            };
            // A volume that was replaced before a cut has nothing missing any more.
            numbers.extend(number.map(|number| (*name, target, number)));
        }
        if numbers.is_empty() {
            return Err(LifeError::NoDisk("no disk is missing: say which one is replaced".into()));
        }
        // Read from another one than that which is replaced because it fails.
        let source = used.iter().find(|disk| Some(*disk) != leaving).or(leaving);
        let source = source.ok_or_else(|| LifeError::NoDisk("no disk of this machine is there".into()))?;
        let new = self.take_in(source, &used, incoming, progress)?;
        for (name, target, number) in numbers {
            let partition = new.partition(name).map_err(|error| LifeError::step("the new disk")(&error))?;
            let step = format!("{name} is copied to {}", partition.device.display());
            self.btrfs_with_progress(
                &step,
                &["replace", "start", "-B", &number.to_string()],
                &[&partition.device, target],
                ("replace", &["-1"]),
                target,
                progress,
            )?;
            let resized = format!("{number}:max");
            self.btrfs_run(&step, &["filesystem", "resize", &resized], &[target])?;
        }
        if leaving.is_none() {
            self.balance(profile, true, progress)?;
        }
        self.make_bootable(source, &new, progress)?;
        if let (Some(old), true) = (leaving, wipe) {
            let step = format!("{} is erased", old.device.display());
            progress(&step, None);
            let partitions = layout::system_disk(old.size_bytes, old.sector_bytes);
            let partitions = partitions.map_err(|error| LifeError::step(&*step)(&error))?;
            open(&old.device)
                .and_then(|mut file| {
                    table::erase(&mut file, old.size_bytes, old.sector_bytes, &partitions)
                        .map_err(io::Error::other)
                })
                .map_err(|error| LifeError::step(step)(&error))?;
        }
        Ok(())
    }

    /// Takes in one more disk. Returns how *data* is kept from now on.
    ///
    /// # Errors
    /// The disk does not suit, or a step fails.
    pub fn add(&self, incoming: &Incoming, progress: &mut Progress<'_>) -> Result<Profile, LifeError> {
        let volumes = self.volumes()?;
        let used = self.used(&volumes)?;
        if volumes.iter().any(|volume| !volume.missing().is_empty()) {
            return Err(LifeError::NoDisk("a disk is missing: replace that one first".into()));
        }
        let source =
            used.first().ok_or_else(|| LifeError::NoDisk("no disk of this machine is there".into()))?;
        let new = self.take_in(source, &used, incoming, progress)?;
        for (name, target) in &self.mounted {
            let partition = new.partition(name).map_err(|error| LifeError::step("the new disk")(&error))?;
            let step = format!("{} comes into {name}", partition.device.display());
            progress(&step, None);
            self.btrfs_run(&step, &["device", "add"], &[&partition.device, target])?;
        }
        let size = |disk: &disks::Disk| disk.partitions.get(DATA).map_or(0, |found| found.size_bytes);
        let sizes: Vec<u64> = used.iter().chain([&new]).map(size).collect();
        let profile = plan::profile_of(&sizes);
        self.balance(profile, false, progress)?;
        self.make_bootable(source, &new, progress)?;
        Ok(profile)
    }

    /// GUIDs of the machine's disks, for the record.
    ///
    /// # Errors
    /// The volumes cannot be read.
    pub fn guids(&self) -> Result<Vec<Uuid>, LifeError> {
        Ok(self.used(&self.volumes()?)?.iter().map(|disk| disk.guid).collect())
    }

    /// Erases a disk, gives it the boot set of `source` and a partition table.
    fn take_in(
        &self,
        source: &disks::Disk,
        used: &[disks::Disk],
        incoming: &Incoming,
        progress: &mut Progress<'_>,
    ) -> Result<disks::Disk, LifeError> {
        let inventory =
            inventory::read().map_err(|error| LifeError::step("looking for the disks")(&error))?;
        let disk = inventory.into_iter().find(|disk| disk.device == incoming.device);
        let disk =
            disk.ok_or_else(|| LifeError::NoDisk(format!("there is no disk {}", incoming.device.display())))?;
        let devices: Vec<PathBuf> = used.iter().map(|disk| disk.device.clone()).collect();
        let partitions = candidate(&disk, incoming.erase, self.firmware, source.sector_bytes, &devices)?;
        let step = format!("{} is prepared", disk.title());
        progress(&step, None);
        let failed = LifeError::step(&*step);
        self.forget(&disk);
        let mut file = open(&disk.device).map_err(|error| failed(&error))?;
        table::erase(&mut file, disk.size_bytes, disk.sector_bytes, &partitions)
            .map_err(|error| failed(&error))?;
        let sizes = |name: &&str| source.partitions.get(*name).map_or(0, |found| found.size_bytes);
        let names: Vec<&str> = [BIOS_BOOT].into_iter().chain(layout::BOOT_SET).collect();
        let total: u64 = names.iter().map(sizes).sum();
        let mut before = 0;
        for name in names {
            let from = source.partition(name).map_err(|error| failed(&error))?;
            let to = partitions.iter().find(|partition| partition.name == name);
            let to = to.ok_or_else(|| failed(&format!("the layout has no partition {name}")))?;
            let mut payload = File::open(&from.device).map_err(|error| failed(&error))?;
            let mut said = before;
            let written = |bytes| {
                // Not at every block.
                if before + bytes >= said + total / 100 {
                    said = before + bytes;
                    progress(&step, Some(said as f32 * 100.0 / total as f32));
                }
            };
            table::fill(&mut file, disk.sector_bytes, to, &mut payload, from.size_bytes, false, written)
                .map_err(|error| failed(&error))?;
            before += from.size_bytes;
        }
        let guid = Uuid::new_v4();
        let of = |name: &str| if name == table::DISK { guid } else { Uuid::new_v4() };
        table::write_gpt(&mut file, disk.sector_bytes, &partitions, of).map_err(|error| failed(&error))?;
        // Nobody but the kernel may have it open then.
        drop(file);
        run("blockdev", &["--rereadpt"], &[&disk.device]).map_err(|cause| failed(&cause))?;
        self.devices
            .wait(Selector::Disk(guid), &[layout::STATE, DATA], PATIENCE)
            .map_err(|error| failed(&error))
    }

    /// The kernel may know partitions of the disk as members of a volume from which it was away.
    fn forget(&self, disk: &Disk) {
        let Ok(all) = self.devices.all() else { return };
        let partitions =
            all.iter().filter(|other| other.device == disk.device).flat_map(|disk| disk.partitions.values());
        for found in partitions {
            // What it does not know it need not forget.
            drop(btrfs::forget(&self.btrfs, &found.device));
        }
    }

    /// The boot sector, last.
    fn make_bootable(
        &self,
        source: &disks::Disk,
        new: &disks::Disk,
        progress: &mut Progress<'_>,
    ) -> Result<(), LifeError> {
        let step = format!("{} becomes bootable", new.device.display());
        progress(&step, None);
        let failed = LifeError::step(step);
        let code = File::open(&source.device).and_then(|mut file| table::mbr_code(&mut file));
        let code = code.map_err(|error| failed(&error))?;
        let code = code.ok_or_else(|| failed(&format!("{} has no boot sector", source.device.display())))?;
        let mut file = open(&new.device).map_err(|error| failed(&error))?;
        table::write_boot_sector(&mut file, new.size_bytes, new.sector_bytes, &code)
            .map_err(|error| failed(&error))
    }

    /// Keeps all of both volumes by their profiles again; `soft`: what is kept so already stays where it is.
    fn balance(&self, profile: Profile, soft: bool, progress: &mut Progress<'_>) -> Result<(), LifeError> {
        for (name, target) in &self.mounted {
            // *state* and all metadata are kept twice at most.
            let data = match (*name, profile) {
                (DATA, profile) => profile,
                (_, Profile::Single) => Profile::Single,
                (_, _) => Profile::Raid1,
            };
            let soft = if soft { ",soft" } else { "" };
            let data = format!("-dconvert={}{soft}", data.name());
            let metadata = format!("-mconvert={}{soft}", profile.metadata());
            self.btrfs_with_progress(
                &format!("{name} is balanced"),
                &["balance", "start", &data, &metadata],
                &[target],
                ("balance", &[]),
                target,
                progress,
            )?;
        }
        Ok(())
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

    /// Runs `btrfs` and returns what it says.
    fn btrfs_run(&self, step: &str, arguments: &[&str], paths: &[&Path]) -> Result<String, LifeError> {
        run(&self.btrfs.to_string_lossy(), arguments, paths).map_err(|cause| LifeError::step(step)(&cause))
    }

    /// The same for what takes long: meanwhile `btrfs STATUS status` is asked how far it is.
    fn btrfs_with_progress(
        &self,
        step: &str,
        arguments: &[&str],
        paths: &[&Path],
        (what, options): (&str, &[&str]),
        target: &Path,
        progress: &mut Progress<'_>,
    ) -> Result<String, LifeError> {
        progress(step, None);
        thread::scope(|scope| {
            let work = scope.spawn(|| self.btrfs_run(step, arguments, paths));
            let mut said = None;
            while !work.is_finished() {
                thread::sleep(POLL);
                let asked: Vec<&str> = [what, "status"].into_iter().chain(options.iter().copied()).collect();
                // It may not have begun, or have ended.
                let percent = run(&self.btrfs.to_string_lossy(), &asked, &[target])
                    .ok()
                    .and_then(|text| percent(&text));
                if percent.is_some() && percent != said {
                    progress(step, percent);
                    said = percent;
                }
            }
            work.join().unwrap_or_else(|_| Err(LifeError::step(step)(&"the step panicked")))
        })
    }
}

fn open(device: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(device)
}

/// Runs a program, and returns what it says; or why it failed.
fn run(program: &str, arguments: &[&str], paths: &[&Path]) -> Result<String, String> {
    let arguments = arguments.iter().map(|argument| (*argument).into());
    let arguments: Vec<std::ffi::OsString> = arguments.chain(paths.iter().map(|path| path.into())).collect();
    let output = duct::cmd(program, arguments)
        .env("LC_ALL", "C")
        .stdin_null()
        .stdout_capture()
        .stderr_capture()
        .unchecked()
        .run()
        .map_err(|error| format!("{program}: {error}"))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    // `btrfs scrub` says 3 for blocks that it could not mend; that it found them is its result.
    if output.status.success() || (output.status.code() == Some(3) && said.contains("uncorrectable_errors")) {
        return Ok(said);
    }
    Err(format!("{program}: {}: {}{}", output.status, said, String::from_utf8_lossy(&output.stderr))
        .trim()
        .into())
}

/// The first number with a percent sign; of what `btrfs balance status` says, which is how much is left, the rest.
fn percent(text: &str) -> Option<f32> {
    let number = text.split('%').next().filter(|before| before.len() < text.len())?;
    let number: f32 = number.rsplit(|c: char| !c.is_ascii_digit() && c != '.').next()?.parse().ok()?;
    Some(if text.contains("% left") { 100.0 - number } else { number })
}

/// What `btrfs scrub start -B -R` says at its end.
fn scrubbed(text: &str) -> Scrubbed {
    let count = |name: &str| {
        let line = text.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
    };
    Scrubbed { corrected: count("corrected_errors"), uncorrectable: count("uncorrectable_errors") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::Transport;

    fn disk(device: &str) -> Disk {
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
        ];
        for (disk, erase, expected) in table {
            match (candidate(&disk, erase, Firmware::Uefi, 512, &used), expected) {
                (Ok(partitions), None) => assert_eq!(partitions.len(), 10),
                (Err(error), Some(expected)) => assert!(error.to_string().contains(expected), "{error}"),
                (other, _) => panic!("{disk:?}: {other:?}"),
            }
        }
    }

    #[test]
    fn how_far_btrfs_is() {
        let table = [
            ("12.3% done, 0 write errs, 0 uncorr. read errs\n", Some(12.3)),
            (
                "Balance on '/data' is running\n3 out of about 8 chunks balanced (4 considered),  62% left\n",
                Some(38.0),
            ),
            ("Bytes scrubbed:   1.20GiB  (40.00%)\n", Some(40.0)),
            ("Never started\n", None),
            ("%\n", None),
        ];
        for (text, expected) in table {
            assert_eq!(percent(text), expected, "{text}");
        }
    }

    #[test]
    fn what_a_scrub_found() {
        let text =
            "scrub done for 7\n\tdata_bytes_scrubbed: 1\n\tuncorrectable_errors: 2\n\tcorrected_errors: 30\n";
        assert_eq!(scrubbed(text), Scrubbed { corrected: 30, uncorrectable: 2 });
    }
}
