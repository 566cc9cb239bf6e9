//! The slots of the machine that this runs on: from the kernel's command line to partitions.

use crate::boot_image::SlotConfig;
use crate::decision::Slot;
use crate::store::Store;
use crate::writer::{Parts, Target};
use anyhow::{Context, Result, ensure};
use std::path::PathBuf;
use std::time::Duration;
use storage::command_line;
use storage::disks::{Devices, Disk, Selector};

/// The disk that was booted is there; its device files may come a little later.
const PATIENCE: Duration = Duration::from_secs(10);

/// How this boot was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Boot {
    /// Which slot.
    pub slot: Slot,
    /// No other slot is left: nothing may reboot by itself.
    pub last: bool,
}

impl Boot {
    /// Reads the kernel's command line.
    ///
    /// # Errors
    /// The machine was not started by the disk's own GRUB entry.
    pub fn from_command_line(text: &str) -> Result<Self> {
        let slot = command_line::value(text, "infimonitor.slot");
        let slot = slot
            .context("the kernel command line has no infimonitor.slot=; boot by the disk's own GRUB entry")?;
        let slot = slot.parse().map_err(anyhow::Error::msg).context("the kernel command line")?;
        Ok(Self { slot, last: command_line::has(text, "infimonitor.last") })
    }
}

/// The system's disks and how it was started.
#[derive(Debug)]
pub struct Machine {
    /// How this boot was started.
    pub boot: Boot,
    /// The disk that was started.
    disk: Disk,
    /// The others that carry the same system (design D4).
    siblings: Vec<Disk>,
}

impl Machine {
    /// Finds the system disk that was started, and its siblings.
    ///
    /// # Errors
    /// The command line does not say, or the disk is not (or not clearly) there.
    pub fn find() -> Result<Self> {
        let line =
            std::fs::read_to_string("/proc/cmdline").context("cannot read the kernel's command line")?;
        let boot = Boot::from_command_line(&line)?;
        let selector = Selector::from_kernel_command_line(&line)?;
        let devices = Devices::default();
        let disk = devices.wait(selector, &["esp", "boot-a", "boot-b"], PATIENCE)?;
        let siblings = devices.siblings(&disk)?;
        Ok(Self { boot, disk, siblings })
    }

    /// The state of the slots on the disk that was started.
    ///
    /// # Errors
    /// The disk has no ESP, or that cannot be opened.
    pub fn store(&self) -> Result<Store> {
        Store::open(&self.disk.partition("esp")?.device)
    }

    /// Where a system for `slot` is written: the disk that was started first, then its siblings.
    ///
    /// # Errors
    /// A partition is missing or cannot be opened on the disk that was started. A sibling of which that is true is left
    /// out, and so is one whose other slot does not have the running system: it would have nothing to start meanwhile. The
    /// second value names them.
    pub fn targets(&self, slot: Slot) -> Result<(Vec<Target>, Vec<String>)> {
        let target = |disk: &Disk| -> Result<Target> {
            let store = Store::open(&disk.partition("esp")?.device)?;
            Ok(Target { store, devices: devices(disk, slot)? })
        };
        let mut targets = vec![target(&self.disk)?];
        let mut problems = Vec::new();
        let has_running = |disk: &Disk| -> Result<()> {
            let running = slot.other();
            let there = SlotConfig::read(&devices(disk, running)?.boot)?;
            let is_same = there.is_some() && there == SlotConfig::read(&devices(&self.disk, running)?.boot)?;
            let device = disk.device.display();
            ensure!(is_same, "{device} does not have the running system in slot {running}");
            Ok(())
        };
        for sibling in &self.siblings {
            match has_running(sibling).and_then(|()| target(sibling)) {
                Ok(target) => targets.push(target),
                Err(error) => problems.push(format!("{error:#}")),
            }
        }
        Ok((targets, problems))
    }

    /// Stores that the system in `slot`, which runs, is good: on the disk that was started, and on each sibling that has
    /// the same system in it. Gives what could not be stored.
    pub fn mark_good(&self, slot: Slot) -> Vec<String> {
        let same = SlotConfig::read(&match devices(&self.disk, slot) {
            Ok(devices) => devices.boot,
            Err(error) => return vec![format!("{error:#}")],
        });
        let has_same = |disk: &Disk| match (&same, devices(disk, slot)) {
            (Ok(Some(same)), Ok(devices)) => {
                SlotConfig::read(&devices.boot).ok().flatten().as_ref() == Some(same)
            }
            _ => false,
        };
        let mark = |disk: &Disk| -> Result<()> {
            let store = Store::open(&disk.partition("esp")?.device)?;
            let mut state = store.read()?;
            state.mark_good(slot);
            store.write(&state)
        };
        let siblings = self.siblings.iter().filter(|disk| has_same(disk));
        let marked = std::iter::once(&self.disk).chain(siblings).map(mark);
        marked.filter_map(|marked| marked.err().map(|error| format!("{error:#}"))).collect()
    }

    /// Version of the system in a slot; `None`: it is empty, half written or damaged.
    pub fn version(&self, slot: Slot) -> Option<String> {
        let config = devices(&self.disk, slot).and_then(|devices| SlotConfig::read(&devices.boot));
        match config {
            Ok(config) => config.map(|config| config.version),
            Err(error) => {
                eprintln!("slots: slot {slot}: {error:#}");
                None
            }
        }
    }
}

/// Partitions of a slot on a disk.
fn devices(disk: &Disk, slot: Slot) -> Result<Parts<PathBuf>> {
    let device =
        |part: &str| -> Result<PathBuf> { Ok(disk.partition(&format!("{part}-{slot}"))?.device.clone()) };
    Ok(Parts { boot: device("boot")?, root: device("root")?, verity: device("verity")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_says_which_slot_was_started() {
        let read = |text: &str| Boot::from_command_line(text).ok();
        assert_eq!(read("ro infimonitor.slot=b panic=10\n"), Some(Boot { slot: Slot::B, last: false }));
        assert_eq!(read("infimonitor.slot=a infimonitor.last"), Some(Boot { slot: Slot::A, last: true }));
        for text in ["", "infimonitor.slot=c", "infimonitor.last"] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
