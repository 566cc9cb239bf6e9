//! Disks that come in and disks that leave.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use uuid::Uuid;

use super::redundancy::{kept, wanted};
use super::replacing::{Replacing, device_sizes, replacing};
use super::run::{open, run};
use super::{Incoming, LifeError, Machine, Progress, candidate};
use crate::disks::{self, Selector};
use crate::inventory::{self, Disk};
use crate::layout::{self, DATA, Partition};
use crate::volume::{REPLACING, Volume};
use crate::{btrfs, plan, table};

/// How long the kernel may take to show the partitions of a new disk.
const PATIENCE: Duration = Duration::from_secs(30);
/// The partition that BIOS machines start from.
const BIOS_BOOT: &str = "bios-boot";

impl Machine {
    /// Has a disk take the place of `old`, or of one that is missing; `wipe`: all of the old one is overwritten. In any case the
    /// old one starts no machine any more.
    ///
    /// # Errors
    /// The disk does not suit, which is told before anything is erased; or a step fails. The same order goes on then.
    pub fn replace(
        &self,
        old: Option<&Path>,
        incoming: &Incoming,
        wipe: bool,
        progress: &mut Progress<'_>,
    ) -> Result<(), LifeError> {
        let failed = LifeError::step("looking for the disks");
        let volumes = self.named_volumes()?;
        let all = self.devices.all().map_err(|error| failed(&error))?;
        let used = self.used(&self.volumes()?)?;
        let leaving = match old {
            None => None,
            Some(path) => {
                let none = || LifeError::NoDisk(format!("{} is no disk of this machine", path.display()));
                Some(all.iter().find(|disk| disk.device == path).ok_or_else(none)?)
            }
        };
        let Replacing { numbers, has_begun } = replacing(&volumes, leaving, &incoming.device, &all)?;
        // Read from another one than that which is replaced because it fails.
        let is_other = |disk: &&disks::Disk| {
            Some(&disk.device) != leaving.map(|leaving| &leaving.device) && disk.device != incoming.device
        };
        let source = used.iter().find(is_other).or(leaving);
        let source = source.ok_or_else(|| LifeError::NoDisk("no disk of this machine is there".into()))?;
        let stays = leaving.is_none_or(|leaving| leaving.device != source.device);
        let new = if has_begun {
            let new = all.iter().find(|disk| disk.device == incoming.device).cloned();
            new.ok_or_else(|| LifeError::NoDisk(format!("there is no disk {}", incoming.device.display())))?
        } else {
            let needed = self.needed(&volumes, &numbers, source)?;
            self.take_in(source, &used, incoming, &needed, progress)?
        };
        if let (Some(leaving), true) = (leaving, stays) {
            // Its *state* is none from the next step on, and firmware may prefer it.
            self.retire(leaving, progress)?;
        }
        for (name, number) in numbers {
            let target = self.target(name)?;
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
        self.make_bootable(source, &new, progress)?;
        let Some(leaving) = leaving else { return Ok(()) };
        if !stays {
            self.retire(leaving, progress)?;
        }
        if wipe {
            overwrite(leaving, progress)?;
        }
        Ok(())
    }

    /// Takes in one more disk; [`Self::settle`] spreads over it what is stored.
    ///
    /// # Errors
    /// The disk does not suit, or a step fails.
    pub fn add(&self, incoming: &Incoming, progress: &mut Progress<'_>) -> Result<(), LifeError> {
        let volumes = self.named_volumes()?;
        let used = self.used(&self.volumes()?)?;
        if volumes.iter().any(|(_, volume)| !volume.missing().is_empty()) {
            return Err(LifeError::NoDisk("a disk is missing: replace that one first".into()));
        }
        let source =
            used.first().ok_or_else(|| LifeError::NoDisk("no disk of this machine is there".into()))?;
        // One that a cut has left in some of the volumes goes on.
        let begun = used.iter().find(|disk| disk.device == incoming.device);
        let lacks = |disk: &disks::Disk, name: &str, volume: &Volume| {
            disk.partitions.get(name).and_then(|found| volume.number_of(&found.device)).is_none()
        };
        let new = match begun {
            Some(disk) if volumes.iter().any(|(name, volume)| lacks(disk, name, volume)) => disk.clone(),
            _ => self.take_in(source, &used, incoming, &[], progress)?,
        };
        for (name, volume) in &volumes {
            if !lacks(&new, name, volume) {
                continue;
            }
            let partition = new.partition(name).map_err(|error| LifeError::step("the new disk")(&error))?;
            let step = format!("{} comes into {name}", partition.device.display());
            progress(&step, None);
            self.btrfs_run(&step, &["device", "add"], &[&partition.device, &volume.target])?;
        }
        self.make_bootable(source, &new, progress)
    }

    /// The machine's disks by the GUIDs of their tables, and what they are called.
    ///
    /// # Errors
    /// The volumes or the inventory cannot be read.
    pub fn titles(&self) -> Result<Vec<(Uuid, String)>, LifeError> {
        let failed = LifeError::step("looking for the disks");
        let inventory = inventory::read().map_err(|error| failed(&error))?;
        let title = |disk: &disks::Disk| {
            let known = inventory.iter().find(|known| known.device == disk.device);
            (disk.guid, known.map_or_else(|| disk.device.display().to_string(), Disk::title))
        };
        Ok(self.used(&self.volumes()?)?.iter().map(title).collect())
    }

    /// The names of the volumes that are not kept as their disks allow, see [`super::redundancy`]. None while a disk is missing or
    /// being replaced: then nothing can be said.
    ///
    /// # Errors
    /// The volumes cannot be looked at.
    pub fn unsettled(&self) -> Result<Vec<&'static str>, LifeError> {
        let volumes = self.named_volumes()?;
        if volumes
            .iter()
            .any(|(_, volume)| !volume.missing().is_empty() || volume.devices.contains_key(&REPLACING))
        {
            return Ok(Vec::new());
        }
        let sizes = self.data_sizes()?;
        let mut unsettled = Vec::new();
        for (name, volume) in &volumes {
            let said = self.btrfs_run("how data is kept", &["filesystem", "df"], &[&volume.target])?;
            if !kept(&said).is(wanted(name, &sizes)) {
                unsettled.push(*name);
            }
        }
        Ok(unsettled)
    }

    /// Has everything be kept as the disks allow. What is so already stays where it is, so it can be begun again.
    ///
    /// # Errors
    /// btrfs does not balance, as when it is full.
    pub fn settle(&self, progress: &mut Progress<'_>) -> Result<(), LifeError> {
        let sizes = self.data_sizes()?;
        for name in self.unsettled()? {
            let (target, wanted) = (self.target(name)?, wanted(name, &sizes));
            let data = format!("-dconvert={},soft", wanted.data);
            let metadata = format!("-mconvert={},soft", wanted.metadata);
            // From two copies on two disks to two on one is what one disk allows, and said on purpose.
            self.btrfs_with_progress(
                &format!("{name} is balanced"),
                &["balance", "start", "--force", &data, &metadata],
                &[target],
                ("balance", &[]),
                target,
                progress,
            )?;
        }
        Ok(())
    }

    /// Counts errors of the disks anew: somebody has seen those that there were.
    ///
    /// # Errors
    /// btrfs does not.
    pub fn clear_errors(&self) -> Result<(), LifeError> {
        for (_, target) in &self.mounted {
            self.btrfs_run("counting errors anew", &["device", "stats", "--reset"], &[target])?;
        }
        Ok(())
    }

    fn named_volumes(&self) -> Result<Vec<(&'static str, Volume)>, LifeError> {
        Ok(self.mounted.iter().map(|(name, _)| *name).zip(self.volumes()?).collect())
    }

    fn target(&self, name: &str) -> Result<&Path, LifeError> {
        let found = self.mounted.iter().find(|(of, _)| *of == name);
        let none = || LifeError::NoDisk(format!("there is no volume {name}"));
        found.map(|(_, target)| target.as_path()).ok_or_else(none)
    }

    /// How *data* should be kept over the disks that it has.
    ///
    /// # Errors
    /// The volumes cannot be read.
    pub fn profile(&self) -> Result<plan::Profile, LifeError> {
        Ok(plan::profile_of(&self.data_sizes()?))
    }

    fn data_sizes(&self) -> Result<Vec<u64>, LifeError> {
        let size = |disk: &disks::Disk| disk.partitions.get(DATA).map_or(0, |found| found.size_bytes);
        Ok(self.used(&self.volumes()?)?.iter().map(size).collect())
    }

    /// The least bytes that the new disk's partitions need: btrfs takes none that is smaller than what it replaces.
    fn needed(
        &self,
        volumes: &[(&'static str, Volume)],
        numbers: &[(&'static str, u64)],
        source: &disks::Disk,
    ) -> Result<Vec<(&'static str, u64)>, LifeError> {
        let mut needed = Vec::new();
        for (name, number) in numbers {
            let there = volumes.iter().find(|(of, _)| of == name).and_then(|(_, volume)| {
                let mut devices = volume.devices.values().filter_map(|device| device.path.clone());
                let of_source = source.partitions.get(*name).map(|found| found.device.clone());
                of_source.filter(|device| volume.number_of(device).is_some()).or_else(|| devices.next())
            });
            let Some(device) = there else { continue };
            let arguments = ["inspect-internal", "dump-tree", "--noscan", "-t", "chunk"];
            let said = self.btrfs_run("how large the disks are", &arguments, &[&device])?;
            let size = device_sizes(&said).into_iter().find(|(found, _)| found == number);
            needed.extend(size.map(|(_, bytes)| (*name, bytes)));
        }
        Ok(needed)
    }

    /// Erases a disk, gives it the boot set of `source` and a partition table. `needed`: the least bytes of some of its partitions.
    fn take_in(
        &self,
        source: &disks::Disk,
        used: &[disks::Disk],
        incoming: &Incoming,
        needed: &[(&'static str, u64)],
        progress: &mut Progress<'_>,
    ) -> Result<disks::Disk, LifeError> {
        let inventory =
            inventory::read().map_err(|error| LifeError::step("looking for the disks")(&error))?;
        let disk = inventory.into_iter().find(|disk| disk.device == incoming.device);
        let disk =
            disk.ok_or_else(|| LifeError::NoDisk(format!("there is no disk {}", incoming.device.display())))?;
        let devices: Vec<PathBuf> = used.iter().map(|disk| disk.device.clone()).collect();
        let partitions = candidate(&disk, incoming.erase, self.firmware, source.sector_bytes, &devices)?;
        is_large_enough(&disk, &partitions, needed)?;
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

    /// No firmware starts from it any more, and nobody takes it for a disk of this machine.
    fn retire(&self, disk: &disks::Disk, progress: &mut Progress<'_>) -> Result<(), LifeError> {
        let step = format!("{} starts no machine any more", disk.device.display());
        progress(&step, None);
        let failed = LifeError::step(step);
        let mut file = open(&disk.device).map_err(|error| failed(&error))?;
        table::retire(&mut file, disk.size_bytes).map_err(|error| failed(&error))
    }

    /// The boot sector, last, and only of a disk that has *state*: another one would start as a new machine.
    fn make_bootable(
        &self,
        source: &disks::Disk,
        new: &disks::Disk,
        progress: &mut Progress<'_>,
    ) -> Result<(), LifeError> {
        let step = format!("{} becomes bootable", new.device.display());
        progress(&step, None);
        let failed = LifeError::step(step);
        for (name, volume) in self.named_volumes()? {
            let partition = new.partition(name).map_err(|error| failed(&error))?;
            if volume.number_of(&partition.device).is_none() {
                return Err(failed(&format!("it is not in {name}")));
            }
        }
        let code = File::open(&source.device).and_then(|mut file| table::mbr_code(&mut file));
        let code = code.map_err(|error| failed(&error))?;
        let code = code.ok_or_else(|| failed(&format!("{} has no boot sector", source.device.display())))?;
        let mut file = open(&new.device).map_err(|error| failed(&error))?;
        table::write_boot_sector(&mut file, new.size_bytes, new.sector_bytes, &code)
            .map_err(|error| failed(&error))
    }
}

/// Whether the partitions that a disk would get have the bytes that are needed.
fn is_large_enough(
    disk: &Disk,
    partitions: &[Partition],
    needed: &[(&'static str, u64)],
) -> Result<(), LifeError> {
    for (name, bytes) in needed {
        let found = partitions.iter().find(|partition| partition.name == *name);
        let room = found.map_or(0, |partition| partition.size_bytes(disk.sector_bytes));
        if room < *bytes {
            return Err(LifeError::Unsuitable {
                disk: disk.title(),
                reason: format!(
                    "is too small: its share of {name} would be {room} bytes, and that of the disk before it is {bytes}"
                ),
            });
        }
    }
    Ok(())
}

/// Writes zeros over all of a disk.
fn overwrite(disk: &disks::Disk, progress: &mut Progress<'_>) -> Result<(), LifeError> {
    let step = format!("{} is overwritten", disk.device.display());
    progress(&step, None);
    let failed = LifeError::step(&*step);
    let mut file = open(&disk.device).map_err(|error| failed(&error))?;
    let mut said = 0;
    let total = disk.size_bytes.max(1);
    let written = |bytes: u64| {
        if bytes >= said + total / 1000 {
            said = bytes;
            progress(&step, Some(bytes as f32 * 100.0 / total as f32));
        }
    };
    table::overwrite(&mut file, disk.size_bytes, written)
        .map_err(io::Error::other)
        .map_err(|error| failed(&error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout;

    #[test]
    fn a_disk_is_as_large_as_what_it_replaces_or_refused_before_it_is_erased() {
        let bytes = 40_000_000_000;
        let partitions = layout::system_disk(bytes, 512).unwrap();
        let disk = Disk { size_bytes: bytes, ..crate::life::tests::disk("/dev/sdb") };
        let room = partitions.last().unwrap().size_bytes(512);
        assert!(is_large_enough(&disk, &partitions, &[]).is_ok());
        assert!(
            is_large_enough(&disk, &partitions, &[("state", layout::STATE_BYTES), ("data", room)]).is_ok()
        );
        let error = is_large_enough(&disk, &partitions, &[("data", room + 512)]).unwrap_err().to_string();
        assert!(error.contains("is too small: its share of data would be"), "{error}");
    }
}
