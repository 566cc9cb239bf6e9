//! The machine's file systems over one disk or several; here *state*, its `/var`, and what *data* has in common with it.
//!
//! Blank or half-made: made. btrfs: mounted. Anything else, or a mount that fails, is somebody's data: it stays as it
//! is, the machine runs with an empty `/var` in memory, and says why.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use rustix::mount::MountFlags;
use storage::contents::{self, Contents};
use storage::disks::Selector;
use storage::members::{self, Assembly};
use storage::plan::Profile;
use storage::recorded::Recorded;
use storage::{btrfs, layout, mounts};
use uuid::Uuid;

use crate::places::Places;
use crate::report::{problem, say};

/// The last transaction of a btrfs that mkfs has made and nobody has mounted: it needs fewer.
const FRESH: u64 = 12;
/// Between two looks for members.
const POLL: Duration = Duration::from_millis(200);

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

/// A file system of the machine.
#[derive(Debug)]
pub struct Volume<'a> {
    /// GPT name of its partitions.
    pub name: &'static str,
    /// Where it is mounted.
    pub target: &'a Path,
    /// How.
    pub flags: MountFlags,
    /// It is known to have been made.
    pub was_made: bool,
    /// Over which disks it is made; `None`: over the one that was booted.
    pub plan: Option<Recorded>,
}

/// Mounts *state* on `/var`, or memory in its place. Returns whether it is *state*.
///
/// # Errors
/// Not even memory can be mounted.
pub fn mount(places: &Places) -> Result<bool> {
    let var = places.in_root("var");
    // Over several disks the installer makes it: only it knows the plan then.
    let state =
        Volume { name: layout::STATE, target: &var, flags: btrfs::STATE_FLAGS, was_made: false, plan: None };
    let Err(error) = attach(places, &state) else { return Ok(true) };
    problem(
        places,
        "state-problem",
        &format!("{error:#}. Settings are not available; nothing on the disk was changed"),
    );
    in_memory(places)?;
    Ok(false)
}

/// Mounts memory on `/var`, unless something is mounted there.
///
/// # Errors
/// It cannot be mounted.
pub fn in_memory(places: &Places) -> Result<()> {
    let var = places.in_root("var");
    if mounts::at(&var).context("cannot read the list of mounts")?.is_none() {
        rustix::mount::mount("tmpfs", &var, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, c"mode=0755")
            .with_context(|| format!("cannot mount a tmpfs at {}", var.display()))?;
    }
    Ok(())
}

/// Finds a volume's partition on the system disk and its other members, makes its file system if there is none yet (and it
/// was not made before, as far as is known), mounts it.
///
/// # Errors
/// The disk or partition is missing, holds something else, or cannot be mounted.
pub fn attach(places: &Places, volume: &Volume<'_>) -> Result<()> {
    let Volume { name, target, .. } = volume;
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
    let device = partition(places, selector, name)?;
    if let Some(other) = taken_over(places, name, &device)? {
        return mount_members(places, volume, &other);
    }
    if volume.plan.is_none() && !volume.was_made {
        nobody_elses(places, name, &device)?;
    }
    match decide(name, &device, volume.was_made)? {
        (Action::Make, _) => make(places, volume, device),
        (_, _) if is_unfinished(places, volume)? => make(places, volume, device),
        (_, _) => mount_members(places, volume, &device),
    }
}

/// Whether a cut has left partitions of the plan without a file system while it was made over several disks.
fn is_unfinished(places: &Places, volume: &Volume<'_>) -> Result<bool> {
    let Volume { name, was_made, plan, .. } = volume;
    let Some(plan) = plan.as_ref().filter(|plan| !was_made && plan.disks.len() > 1) else { return Ok(false) };
    for guid in &plan.disks {
        let device =
            partition(places, Selector::Disk(*guid), name).context("a disk of the plan is missing")?;
        let found = File::open(&device)
            .and_then(|mut file| contents::identify(&mut file))
            .with_context(|| format!("cannot read {}", device.display()))?;
        if matches!(found, Contents::Blank | Contents::HalfMade) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Another member of the file system in which this partition was until it was replaced: firmware has started the machine from
/// a disk that has left it.
fn taken_over(places: &Places, name: &str, device: &Path) -> Result<Option<PathBuf>> {
    let head = File::open(device)
        .and_then(|mut file| contents::read_head(&mut file))
        .with_context(|| format!("cannot read {}", device.display()))?;
    let Some(fsid) = contents::scratched(&head) else { return Ok(None) };
    let found = places.devices.members(name)?;
    let other = found.into_iter().find(|member| member.superblock.fsid == fsid).map(|member| member.device);
    if let Some(other) = &other {
        say(
            name,
            &format!("{} was replaced; {} has it. Take the old disk out", device.display(), other.display()),
        );
    }
    Ok(other)
}

/// A blank partition beside one that holds a file system is no new machine: which of the two is meant, nobody knows here.
fn nobody_elses(places: &Places, name: &str, device: &Path) -> Result<()> {
    let found = places.devices.members(name)?;
    match found.iter().find(|member| member.device != *device) {
        Some(other) if !found.iter().any(|member| member.device == *device) => bail!(
            "partition {name} ({}) of the disk that was started holds no btrfs, and {} of another disk does. Start from \
             that one, or take it out",
            device.display(),
            other.device.display()
        ),
        _ => Ok(()),
    }
}

fn partition(places: &Places, selector: Selector, name: &str) -> Result<PathBuf> {
    let disk = places.devices.wait(selector, &[name], places.patience)?;
    Ok(disk.partition(name)?.device.clone())
}

/// What is done about a partition, and what it holds.
fn decide(name: &str, device: &Path, was_made: bool) -> Result<(Action, Contents)> {
    let found = File::open(device)
        .and_then(|mut file| contents::identify(&mut file))
        .with_context(|| format!("cannot read {}", device.display()))?;
    match action(found, was_made) {
        Action::Refuse if found != Contents::Foreign => Err(anyhow!(
            "partition {name} ({}) is blank, and it held a file system before: its disk lost it or was replaced",
            device.display()
        )),
        Action::Refuse => Err(anyhow!(
            "partition {name} ({}) holds something that is no btrfs; it is left alone. \
             To use it, erase its first mebibyte with another system",
            device.display()
        )),
        action => Ok((action, found)),
    }
}

/// Makes the file system over the disks of the plan, and mounts it.
fn make(places: &Places, volume: &Volume<'_>, booted: PathBuf) -> Result<()> {
    let Volume { name, target, flags, was_made, plan } = volume;
    let (mut devices, mut profile) = (vec![booted], Profile::Single);
    if let Some(plan) = plan {
        profile = plan.profile;
        let of_disk = |guid: &Uuid| partition(places, Selector::Disk(*guid), name);
        devices =
            plan.disks.iter().map(of_disk).collect::<Result<_>>().context("a disk of the plan is missing")?;
    }
    for device in &devices {
        let why = match decide(name, device, *was_made)? {
            (Action::Make, Contents::Blank) => "is blank",
            (Action::Make, _) => "was never finished",
            // mkfs finishes them one after the other; a cut in between leaves some that are.
            (_, _) => {
                begin_anew(name, device)?;
                "was finished, and others of the plan were not"
            }
        };
        say(name, &format!("{} {why}; making a btrfs ({})", device.display(), profile.name()));
    }
    let paths: Vec<&Path> = devices.iter().map(PathBuf::as_path).collect();
    btrfs::make(&places.mkfs, &paths, name, profile)?;
    btrfs::mount(&devices, target, *flags, false)?;
    say(name, &format!("mounted {} at {}", list(&devices), target.display()));
    Ok(())
}

/// Has a partition be blank on which mkfs was done, and nothing after it.
fn begin_anew(name: &str, device: &Path) -> Result<()> {
    let failed = || format!("cannot begin anew on {}", device.display());
    let mut file = File::options().read(true).write(true).open(device).with_context(failed)?;
    let head = contents::read_head(&mut file).with_context(failed)?;
    let is_fresh = contents::superblock(&head).is_some_and(|superblock| superblock.generation <= FRESH);
    if !is_fresh {
        bail!(
            "partition {name} ({}) holds a btrfs that was used, and another one of the plan none; both are left alone",
            device.display()
        );
    }
    io::Seek::rewind(&mut file).with_context(failed)?;
    io::Write::write_all(&mut file, &vec![0; contents::PROBE_BYTES]).with_context(failed)?;
    file.sync_all().with_context(failed)
}

/// Mounts what is there of the file system, after a while also without all of it (design D5).
fn mount_members(places: &Places, volume: &Volume<'_>, device: &Path) -> Result<()> {
    let Volume { name, target, flags, .. } = volume;
    let Assembly { devices, missing, stale } = assembled(places, name, device)?;
    for device in &stale {
        if let Err(error) = btrfs::forget(&places.btrfs, device) {
            say(name, &format!("{error}"));
        }
    }
    btrfs::mount(&devices, target, *flags, missing > 0)?;
    say(name, &format!("mounted {} at {}", list(&devices), target.display()));
    if missing == 0 {
        return Ok(());
    }
    let back = match stale.as_slice() {
        [] => String::new(),
        stale => format!(" {} was away, has missed what was written since, and is not used.", list(stale)),
    };
    problem(
        places,
        &format!("{name}-degraded"),
        &format!(
            "{name} runs without {missing} of its {} disks: what is written now has no second copy, and another disk that \
             fails may take everything with it.{back} Replace the disk",
            devices.len() as u64 + missing
        ),
    );
    fall_behind(target).with_context(|| format!("cannot write to {}", target.display()))
}

/// The members of the file system on `device`; waits for those that are missing, as long as more may come.
fn assembled(places: &Places, name: &str, device: &Path) -> Result<Assembly> {
    let deadline = Instant::now() + places.patience;
    loop {
        let found = places.devices.members(name)?;
        let one = found.iter().find(|member| member.device == *device);
        let one = one.with_context(|| format!("{} cannot be read any more", device.display()))?;
        let assembly = members::assemble(one, &found)?;
        if assembly.missing <= assembly.stale.len() as u64 || Instant::now() >= deadline {
            return Ok(assembly);
        }
        thread::sleep(POLL);
    }
}

/// Makes transactions that a member which is away misses: a single one could also be a cut in the midst of a commit, see
/// [`members`]. So many that two halves of a mirror which both ran alone do not end at the same number.
fn fall_behind(target: &Path) -> io::Result<()> {
    let path = target.join(".degraded");
    let more = uuid::Uuid::new_v4().as_bytes()[0] % 32;
    for _ in 0..2 + more {
        fs::write(&path, "")?;
        rustix::fs::syncfs(File::open(target)?)?;
        fs::remove_file(&path)?;
        rustix::fs::syncfs(File::open(target)?)?;
    }
    Ok(())
}

fn list(devices: &[PathBuf]) -> String {
    devices.iter().map(|device| device.display().to_string()).collect::<Vec<_>>().join(", ")
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
