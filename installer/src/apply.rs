//! Carrying out a plan.
//!
//! The order is what makes a cut harmless. First every disk loses what made it bootable. Then all of its partitions are
//! written, each payload against its sum, and *state* is made with the answers in it, all of it in places that no partition
//! table names yet. Then every disk gets its GPT, and at the very end its boot sector. Until that, the machine boots from
//! nothing but the medium, and can be installed again.
//!
//! Between the boot sectors of two disks the kernel is told by `gpt` on its command line to go without the one that is
//! missing; see grub.cfg.

use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use provisioning::Answers;
use rustix::mount::UnmountFlags;
use storage::inventory::Disk;
use storage::layout::{self, Partition};
use storage::medium::ESP;
use storage::plan::{Plan, PlannedDisk, Profile};
use storage::recorded::{self, Recorded};
use storage::{btrfs, table};
use uuid::Uuid;

use crate::loops::Loop;
use crate::medium::Medium;

/// Programs and places; others in tests.
#[derive(Debug, Clone)]
pub struct Host {
    /// The program that makes a btrfs.
    pub mkfs: PathBuf,
    /// The program for btrfs devices that are there.
    pub btrfs: PathBuf,
    /// Where *state* is mounted for a moment.
    pub mount_point: PathBuf,
    /// The log so far, which the machine keeps.
    pub log: PathBuf,
}

impl Default for Host {
    fn default() -> Self {
        Self {
            mkfs: btrfs::MKFS.into(),
            btrfs: btrfs::BTRFS.into(),
            mount_point: "/run/infimonitor/state".into(),
            log: crate::report::LOG.into(),
        }
    }
}

/// What is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress<'p> {
    /// A step begins.
    Step(&'p str),
    /// So many bytes of so many are written.
    Bytes {
        /// Written.
        done: u64,
        /// Of all.
        total: u64,
    },
}

/// A disk while it is written.
struct Target<'p> {
    planned: &'p PlannedDisk,
    /// Held for oneself, so that nobody mounts what is on it.
    file: File,
    guid: Uuid,
}

impl Target<'_> {
    fn disk(&self) -> &Disk {
        &self.planned.disk
    }

    fn partition(&self, name: &str) -> Result<&Partition> {
        let found = self.planned.partitions.iter().find(|partition| partition.name == name);
        found.with_context(|| format!("the plan has no partition {name}"))
    }
}

/// Installs by the plan. All that is on its disks is lost.
///
/// # Errors
/// The first step that fails, with the disk; none of the disks boots then, and it can be begun again. Where even that cannot be
/// had, the error says which may boot.
pub fn install(
    host: &Host,
    plan: &Plan,
    answers: &Answers,
    medium: &Medium,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<()> {
    let mut targets = plan.disks.iter().map(target).collect::<Result<Vec<_>>>()?;
    for target in &mut targets {
        progress(Progress::Step(&format!("erasing {}", target.disk().title())));
        let Disk { size_bytes, sector_bytes, .. } = target.planned.disk;
        table::erase(&mut target.file, size_bytes, sector_bytes, &target.planned.partitions)
            .with_context(|| target.disk().title())?;
    }
    write_payloads(&mut targets, medium, progress)?;
    progress(Progress::Step("making the state file system"));
    make_state(host, &targets, plan, answers)?;
    progress(Progress::Step("writing the partition tables"));
    for target in &mut targets {
        let guid = target.guid;
        let of = |name: &str| if name == table::DISK { guid } else { Uuid::new_v4() };
        let sector_bytes = target.planned.disk.sector_bytes;
        table::write_gpt(&mut target.file, sector_bytes, &target.planned.partitions, of)
            .with_context(|| target.disk().title())?;
    }
    boot_sectors(&mut targets, medium)
}

/// The boot sectors, last: all or none.
fn boot_sectors(targets: &mut [Target<'_>], medium: &Medium) -> Result<()> {
    let write = |target: &mut Target<'_>| {
        let Disk { size_bytes, sector_bytes, .. } = target.planned.disk;
        table::write_boot_sector(&mut target.file, size_bytes, sector_bytes, &medium.mbr_code)
            .with_context(|| target.disk().title())
    };
    let Err(error) = targets.iter_mut().try_for_each(write) else { return Ok(()) };
    // A mirror with a disk that already fails is no good installation.
    let mut bootable = Vec::new();
    for target in targets {
        let Disk { size_bytes, .. } = target.planned.disk;
        if let Err(second) = table::retire(&mut target.file, size_bytes) {
            bootable.push(format!("{} ({second})", target.disk().title()));
        }
    }
    match bootable.as_slice() {
        [] => Err(error),
        some => {
            Err(error.context(format!("these may boot a half installation, erase them: {}", some.join(", "))))
        }
    }
}

/// Opens a disk, and makes sure that it is still the one of the plan.
fn target(planned: &PlannedDisk) -> Result<Target<'_>> {
    let Disk { device, size_bytes, .. } = &planned.disk;
    let exclusive = i32::try_from(rustix::fs::OFlags::EXCL.bits()).context("O_EXCL is no flag")?;
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(exclusive)
        .open(device)
        .with_context(|| format!("cannot have {} for the installation alone", device.display()))?;
    let bytes = std::io::Seek::seek(&mut file, std::io::SeekFrom::End(0))
        .with_context(|| format!("cannot size {}", device.display()))?;
    if bytes != *size_bytes {
        bail!(
            "{} has {bytes} bytes now and had {size_bytes}: another disk took its place; begin again",
            device.display()
        );
    }
    Ok(Target { planned, file, guid: Uuid::new_v4() })
}

fn write_payloads(
    targets: &mut [Target<'_>],
    medium: &Medium,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<()> {
    let total = medium.bytes() * targets.len() as u64;
    let mut before = 0;
    for target in targets {
        progress(Progress::Step(&format!("writing the system to {}", target.disk().title())));
        for payload in &medium.payloads {
            let partition = *target.partition(payload.partition)?;
            let sector_bytes = target.disk().sector_bytes;
            let mut reader = payload.open()?;
            let written =
                |bytes: u64| progress(Progress::Bytes { done: before + bytes.min(payload.bytes), total });
            // The medium leaves out the zeros at the ESP's end. They are written, here and in between: what was there before
            // is not known to be blank.
            let bytes = match payload.path.ends_with(ESP) {
                true => payload.bytes.max(partition.size_bytes(sector_bytes)),
                false => payload.bytes,
            };
            let mut content = (&mut reader).chain(std::io::repeat(0));
            table::fill(&mut target.file, sector_bytes, &partition, &mut content, bytes, false, written)
                .with_context(|| target.disk().title())?;
            reader.check()?;
            before += payload.bytes;
        }
        target.file.sync_all().with_context(|| format!("cannot write to {}", target.disk().title()))?;
    }
    Ok(())
}

/// Makes *state* over all disks, with what the first boot reads from it.
fn make_state(host: &Host, targets: &[Target<'_>], plan: &Plan, answers: &Answers) -> Result<()> {
    let profile = if targets.len() > 1 { Profile::Raid1 } else { Profile::Single };
    let show = |target: &Target<'_>| {
        Loop::of(&target.disk().device, target.disk().sector_bytes, target.partition(layout::STATE)?)
    };
    let loops = targets.iter().map(show).collect::<Result<Vec<_>>>()?;
    let devices: Vec<PathBuf> = loops.iter().map(|device| device.device().to_owned()).collect();
    let paths: Vec<&Path> = devices.iter().map(PathBuf::as_path).collect();
    btrfs::make(&host.mkfs, &paths, layout::STATE, profile)?;
    fs::create_dir_all(&host.mount_point)
        .with_context(|| format!("cannot make {}", host.mount_point.display()))?;
    btrfs::mount(&devices, &host.mount_point, btrfs::STATE_FLAGS, false)?;
    let disks = targets.iter().map(|target| target.guid).collect();
    let titles = targets.iter().map(|target| (target.guid, target.disk().title())).collect();
    let written = fill_state(host, &Recorded { profile: plan.profile, disks, titles }, answers);
    let unmounted = rustix::mount::unmount(&host.mount_point, UnmountFlags::empty())
        .with_context(|| format!("cannot unmount {}", host.mount_point.display()));
    // Or the kernel remembers these devices as its members when the real ones come.
    let forgotten = devices.iter().try_for_each(|device| btrfs::forget(&host.btrfs, device));
    written.and(unmounted).and(forgotten.map_err(Into::into))
}

fn fill_state(host: &Host, recorded: &Recorded, answers: &Answers) -> Result<()> {
    let settings = host.mount_point.join("lib/infimonitor");
    let recorded = serde_json::to_vec_pretty(recorded).context("cannot write the plan")?;
    files::write(&settings.join(recorded::FILE), &recorded, 0o644, None)?;
    let yaml = answers.to_yaml()?;
    files::write(&settings.join(provisioning::answers::FILE), yaml.as_bytes(), 0o600, None)?;
    let log = files::read(&host.log)?.unwrap_or_default();
    files::write(&host.mount_point.join("log/infimonitor-install.log"), log.as_bytes(), 0o644, None).map(drop)
}
