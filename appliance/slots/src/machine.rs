//! The slots of the machine that this runs on: from the kernel's command line to partitions.

use crate::boot_image::SlotConfig;
use crate::decision::Slot;
use crate::store::Store;
use crate::writer::Parts;
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::time::Duration;
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
        let value = |word: &str| word.strip_prefix("infimonitor.slot=").map(str::to_owned);
        let slot = text.split_ascii_whitespace().rev().find_map(value);
        let slot = slot
            .context("the kernel command line has no infimonitor.slot=; boot by the disk's own GRUB entry")?;
        let slot = slot.parse().map_err(anyhow::Error::msg).context("the kernel command line")?;
        Ok(Self { slot, last: text.split_ascii_whitespace().any(|word| word == "infimonitor.last") })
    }
}

/// The system disk and how it was started.
#[derive(Debug)]
pub struct Machine {
    /// How this boot was started.
    pub boot: Boot,
    disk: Disk,
}

impl Machine {
    /// Finds the system disk that was started.
    ///
    /// # Errors
    /// The command line does not say, or the disk is not (or not clearly) there.
    pub fn find() -> Result<Self> {
        let line =
            std::fs::read_to_string("/proc/cmdline").context("cannot read the kernel's command line")?;
        let boot = Boot::from_command_line(&line)?;
        let selector = Selector::from_kernel_command_line(&line)?;
        let disk = Devices::default().wait(selector, &["esp", "boot-a", "boot-b"], PATIENCE)?;
        Ok(Self { boot, disk })
    }

    /// The state of the slots.
    ///
    /// # Errors
    /// The disk has no ESP, or that cannot be opened.
    pub fn store(&self) -> Result<Store> {
        Store::open(&self.disk.partition("esp")?.device)
    }

    /// Partitions of a slot.
    ///
    /// # Errors
    /// One is missing.
    pub fn devices(&self, slot: Slot) -> Result<Parts<PathBuf>> {
        let device = |part: &str| -> Result<PathBuf> {
            Ok(self.disk.partition(&format!("{part}-{slot}"))?.device.clone())
        };
        Ok(Parts { boot: device("boot")?, root: device("root")?, verity: device("verity")? })
    }

    /// Version of the system in a slot; `None`: it is empty, half written or damaged.
    pub fn version(&self, slot: Slot) -> Option<String> {
        let config = self.devices(slot).and_then(|devices| SlotConfig::read(Path::new(&devices.boot)));
        match config {
            Ok(config) => config.map(|config| config.version),
            Err(error) => {
                eprintln!("slots: slot {slot}: {error:#}");
                None
            }
        }
    }
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
