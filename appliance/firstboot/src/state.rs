//! The *state* file system, the machine's `/var`.
//!
//! Blank or half-made: made. btrfs: mounted. Anything else, or a mount that fails, is somebody's data: it stays as it
//! is, the machine runs with an empty `/var` in memory, and says why.

use std::fs::{self, File};
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use rustix::mount::MountFlags;
use storage::contents::{self, Contents};
use storage::disks::Selector;
use storage::plan::Profile;
use storage::{btrfs, mounts};

use crate::places::Places;
use crate::report::{problem, say};

/// What is done about a partition. `Make` is followed by mounting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Make a file system, then mount it.
    Make,
    /// Mount it.
    Mount,
    /// Leave it alone.
    Refuse,
}

/// The one rule about formatting (design D15). `was_made`: the partition is known to have held a file system.
pub fn action(contents: Contents, was_made: bool) -> Action {
    match contents {
        Contents::Blank | Contents::HalfMade if !was_made => Action::Make,
        Contents::Btrfs => Action::Mount,
        Contents::Blank | Contents::HalfMade | Contents::Foreign => Action::Refuse,
    }
}

/// Mounts *state* on `/var`, or memory in its place. Returns whether it is *state*.
///
/// # Errors
/// Not even memory can be mounted.
pub fn mount(places: &Places) -> Result<bool> {
    let var = places.in_root("var");
    let done = attach(places, "state", &var, btrfs::STATE_FLAGS, false);
    let Err(error) = done else { return Ok(true) };
    problem(
        places,
        "state-problem",
        &format!("{error:#}. Settings are not available; nothing on the disk was changed"),
    );
    if mounts::at(&var).context("cannot read the list of mounts")?.is_none() {
        rustix::mount::mount("tmpfs", &var, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, c"mode=0755")
            .with_context(|| format!("cannot mount a tmpfs at {}", var.display()))?;
    }
    Ok(false)
}

/// Finds the partition `name` on the system disk, makes its file system if there is none yet (and it was not made
/// before, as far as is known), mounts it.
///
/// # Errors
/// The disk or partition is missing, holds something else, or cannot be mounted.
pub fn attach(places: &Places, name: &str, target: &Path, flags: MountFlags, was_made: bool) -> Result<()> {
    if let Some(mounted) = mounts::at(target).context("cannot read the list of mounts")?
        && mounted.fs_type == "btrfs"
    {
        say(name, &format!("{} is mounted at {}", mounted.source, target.display()));
        return Ok(());
    }
    let command_line =
        fs::read_to_string(&places.command_line).context("cannot read the kernel's command line")?;
    let selector = Selector::from_kernel_command_line(&command_line)?;
    say(name, &format!("looking for the partition on the {selector}"));
    let disk = places.devices.wait(selector, &[name], places.patience)?;
    let partition = disk.partition(name)?;
    let device = &partition.device;
    let found = File::open(device)
        .and_then(|mut file| contents::identify(&mut file))
        .with_context(|| format!("cannot read {}", device.display()))?;
    match action(found, was_made) {
        Action::Refuse if found != Contents::Foreign => {
            return Err(anyhow!(
                "partition {name} ({}) is blank, and it held a file system before: its disk lost it or was replaced",
                device.display()
            ));
        }
        Action::Refuse => {
            return Err(anyhow!(
                "partition {name} ({}) holds something that is no btrfs; it is left alone. \
                 To use it, erase its first mebibyte with another system",
                device.display()
            ));
        }
        Action::Make => {
            let why = if found == Contents::Blank { "is blank" } else { "was never finished" };
            say(name, &format!("{} {why}; making a btrfs", device.display()));
            btrfs::make(&places.mkfs, &[device.as_path()], name, Profile::Single)?;
        }
        Action::Mount => say(name, &format!("{} holds a btrfs", device.display())),
    }
    btrfs::mount(device, target, flags, "")?;
    say(name, &format!("mounted {} at {}", device.display(), target.display()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_never_held_anything_is_formatted() {
        let table = [
            (Contents::Blank, false, Action::Make),
            (Contents::HalfMade, false, Action::Make),
            (Contents::Btrfs, false, Action::Mount),
            (Contents::Foreign, false, Action::Refuse),
            (Contents::Blank, true, Action::Refuse),
            (Contents::HalfMade, true, Action::Refuse),
            (Contents::Btrfs, true, Action::Mount),
            (Contents::Foreign, true, Action::Refuse),
        ];
        for (contents, was_made, expected) in table {
            assert_eq!(action(contents, was_made), expected);
        }
    }
}
