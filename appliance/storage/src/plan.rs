//! From the disks that are there to the layout that they get: which are taken, with which btrfs profile, how much room
//! that gives, and why. One pure function; installer, unattended answers and first boot all call it.
//!
//! Nothing that holds anything is taken unless it was named and its loss was agreed to (design D15); what was named and
//! cannot be had is an error, and never quietly something else.

use std::fmt;
use std::path::{Path, PathBuf};

use bytesize::ByteSize;
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use thiserror::Error;

use crate::inventory::{Disk, LINKS, Transport, canonical, gigabytes};
use crate::layout::{self, MINIMUM_DISK_BYTES, Partition};
use crate::smart::Health;

/// How the machine boots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Firmware {
    /// BIOS.
    Bios,
    /// UEFI, with Secure Boot or without.
    Uefi,
}

impl Firmware {
    /// What this machine was booted by.
    pub fn of_this_machine() -> Self {
        if Path::new("/sys/firmware/efi").exists() { Self::Uefi } else { Self::Bios }
    }
}

/// Which disks somebody wants. All that is said must hold of a disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    /// Part of the model's name, in any case; a blank and `_` are the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The serial number, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Device file, or a link to it in `/dev/disk/by-id` or `/dev/disk/by-path`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// At least so large, in bytes; written as a number, or such as `400 GB`.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "size")]
    pub min_size: Option<u64>,
    /// At most so large, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "size")]
    pub max_size: Option<u64>,
}

/// No disk is smaller: a number below it was written without its unit.
const LEAST_SIZE: u64 = 1_000_000_000;

/// A size as people write it. It is written as a number of bytes, since words round.
fn size<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    from.deserialize_any(Size).map(Some)
}

struct Size;

impl Visitor<'_> for Size {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a size such as `400 GB`, or a number of bytes")
    }

    fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<u64, E> {
        Ok(bytes)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<u64, E> {
        let size = text.parse::<ByteSize>();
        size.map(|size| size.as_u64())
            .map_err(|_| E::custom(format!("{text:?} is no size; write it such as `400 GB`")))
    }
}

impl Filter {
    /// Whether some disk can be meant.
    ///
    /// # Errors
    /// None can; the cause as a sentence's part.
    pub fn check(&self) -> Result<(), String> {
        for (what, text) in [("model", &self.model), ("serial", &self.serial)] {
            if text.as_ref().is_some_and(|text| canonical(text).is_empty()) {
                return Err(format!("{what} is empty; leave it out"));
            }
        }
        if let Some(path) = &self.path {
            let shown = path.display().to_string();
            not_a_disk(&shown).map_or(Ok(()), |cause| Err(format!("path {shown:?} {cause}")))?;
        }
        for (what, bytes) in [("min_size", self.min_size), ("max_size", self.max_size)] {
            if let Some(bytes) = bytes.filter(|bytes| *bytes < LEAST_SIZE) {
                return Err(format!("{what} is {bytes} bytes; write it with its unit, such as `400 GB`"));
            }
        }
        if let (Some(least), Some(most)) = (self.min_size, self.max_size)
            && least > most
        {
            return Err("min_size is larger than max_size, so no disk is meant".into());
        }
        Ok(())
    }

    /// Whether it names disks, and not only how large they are.
    pub fn is_of_one_kind(&self) -> bool {
        self.model.is_some() || self.serial.is_some() || self.path.is_some()
    }

    /// Whether it is about this disk.
    pub fn matches(&self, disk: &Disk) -> bool {
        let of = |text: &Option<String>| text.as_deref().map(canonical).unwrap_or_default();
        self.model.as_ref().is_none_or(|model| of(&disk.model).contains(&canonical(model)))
            && self.serial.as_ref().is_none_or(|serial| of(&disk.serial) == canonical(serial))
            && self.path.as_ref().is_none_or(|path| *path == disk.device || disk.links.contains(path))
            && self.min_size.is_none_or(|least| disk.size_bytes >= least)
            && self.max_size.is_none_or(|most| disk.size_bytes <= most)
    }
}

/// Why no disk has this path, as far as its words tell: a path that means something else never matches, and that should be known
/// before a machine stands there.
fn not_a_disk(path: &str) -> Option<String> {
    let no_device = || Some("is not a device file, such as /dev/sda".to_owned());
    let Some(name) = path.strip_prefix("/dev/") else { return no_device() };
    let is_plain = |part: &str| !["", ".", ".."].contains(&part) && !part.contains(char::is_whitespace);
    if !name.split('/').all(is_plain) {
        return no_device();
    }
    if let Some((folder, link)) = name.rsplit_once('/') {
        if !LINKS.contains(&folder) {
            return Some(
                "is a link to what is on a disk, or to no disk; those in /dev/disk/by-id and /dev/disk/by-path name a disk".into(),
            );
        }
        let of_parts = link.rsplit_once("-part").is_some_and(|(_, number)| is_number(number));
        let of_volumes = ["dm-", "md-", "lvm-"].iter().any(|prefix| link.starts_with(prefix));
        return match (of_parts, of_volumes) {
            (true, _) => Some("is a partition; name the disk that it is on".into()),
            (_, true) => Some("is a volume over disks; name the disks".into()),
            _ => None,
        };
    }
    let disk = disk_of_partition(name);
    if let Some(disk) = disk {
        return Some(format!("is a partition; the disk is /dev/{disk}"));
    }
    if name.strip_prefix("nvme").is_some_and(is_number) {
        return Some(format!("is a controller; a disk behind it is /dev/{name}n1"));
    }
    let others = ["loop", "ram", "zram", "sr", "fd", "md", "dm-"];
    let is_other = others.iter().any(|prefix| name.strip_prefix(prefix).is_some_and(is_number));
    is_other.then(|| "is not a disk that a system is installed on".into())
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// The disk that a partition's device file is of, by the kernel's rule: a number after the disk's name, and `p` between where that
/// ends with a digit.
fn disk_of_partition(name: &str) -> Option<&str> {
    let disk = name.trim_end_matches(|character: char| character.is_ascii_digit());
    if disk.len() == name.len() {
        return None;
    }
    if ["nvme", "mmcblk", "nbd"].iter().any(|prefix| name.starts_with(prefix)) {
        return disk.strip_suffix('p').filter(|disk| disk.ends_with(|last: char| last.is_ascii_digit()));
    }
    let letters = ["xvd", "sd", "hd", "vd"].iter().find_map(|prefix| disk.strip_prefix(prefix))?;
    (!letters.is_empty() && letters.bytes().all(|byte| byte.is_ascii_lowercase())).then_some(disk)
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            self.model.as_ref().map(|model| format!("model {model:?}")),
            self.serial.as_ref().map(|serial| format!("serial {serial:?}")),
            self.path.as_ref().map(|path| format!("path {}", path.display())),
            self.min_size.map(|bytes| format!("at least {}", gigabytes(bytes))),
            self.max_size.map(|bytes| format!("at most {}", gigabytes(bytes))),
        ];
        f.write_str(&parts.into_iter().flatten().collect::<Vec<_>>().join(", "))
    }
}

/// What is wanted of the disks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// The disks; none: all that are blank and suit.
    pub disks: Vec<Filter>,
    /// Whether named disks must be blank, too.
    pub require_empty: bool,
}

impl Default for Wish {
    fn default() -> Self {
        Self { disks: Vec::new(), require_empty: true }
    }
}

/// How btrfs keeps *data* over the disks (design D5). Metadata, and *state*, are kept twice in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// Once.
    Single,
    /// Twice, on two disks.
    Raid1,
    /// Twice, in stripes over four disks and more.
    Raid10,
}

impl Profile {
    /// btrfs's word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Single => "single",
            Self::Raid1 => "raid1",
            Self::Raid10 => "raid10",
        }
    }

    /// btrfs's word for metadata beside it.
    pub fn metadata(self) -> &'static str {
        match self {
            Self::Single => "dup",
            Self::Raid1 | Self::Raid10 => "raid1",
        }
    }
}

/// A disk that is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedDisk {
    /// Which.
    pub disk: Disk,
    /// Its partitions. Every disk carries the boot set (design D4).
    pub partitions: Vec<Partition>,
    /// On multiples of so many bytes its partitions start.
    pub alignment_bytes: u64,
}

impl PlannedDisk {
    /// Bytes of its part of *data*.
    pub fn data_bytes(&self) -> u64 {
        self.partitions.last().map_or(0, |data| data.size_bytes(self.disk.sector_bytes))
    }
}

/// A disk that is not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// Which.
    pub disk: Disk,
    /// Why.
    pub reason: String,
}

/// The layout of a machine's disks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// What is taken, in the order of the inventory.
    pub disks: Vec<PlannedDisk>,
    /// How *data* is kept.
    pub profile: Profile,
    /// Bytes that *data* can hold.
    pub usable_bytes: u64,
    /// Why it is so, and what should be known, as sentences.
    pub notes: Vec<String>,
    /// What is not taken.
    pub left_out: Vec<LeftOut>,
}

/// Why there is no plan.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum PlanError {
    /// No disk suits.
    #[error("no disk can be used{}", reasons(.0))]
    NoDisk(Vec<LeftOut>),
    /// A wish that no disk fits.
    #[error("no disk is {wish}; there are: {present}")]
    NoMatch {
        /// What was asked for.
        wish: String,
        /// What there is.
        present: String,
    },
    /// A disk that was named and cannot be used.
    #[error("{disk} was named and cannot be used: it {reason}")]
    Unsuitable {
        /// Which.
        disk: String,
        /// Why.
        reason: String,
    },
    /// A disk that was named and holds something.
    #[error(
        "{disk} is not empty, it holds {contents}: name another, erase it, or say `require_empty: false`, \
         and all of that is lost"
    )]
    NotEmpty {
        /// Which.
        disk: String,
        /// What it holds.
        contents: String,
    },
}

fn reasons(left_out: &[LeftOut]) -> String {
    match left_out {
        [] => ": the machine has none".into(),
        some => {
            let each = some.iter().map(|out| format!("{} {}", out.disk.title(), out.reason));
            format!(": {}", each.collect::<Vec<_>>().join("; "))
        }
    }
}

/// Disks whose shares of *data* differ by less than this part count as equal: makers differ by some sectors.
const EQUAL_WITHIN: u64 = 100;

/// Why a disk can be used by nobody's wish.
pub(crate) fn hindrance(disk: &Disk, firmware: Firmware) -> Option<String> {
    if let Some(kind) = &disk.firmware_raid {
        return Some(format!(
            "belongs to a RAID of the mainboard's firmware ({kind}): delete that RAID in the firmware and set the \
             controller to AHCI; the mirror is made by the file system"
        ));
    }
    if !disk.uses.is_empty() {
        return Some(format!("is in use: {}", disk.uses.join(", ")));
    }
    if disk.read_only {
        return Some("can only be read".into());
    }
    if disk.size_bytes < MINIMUM_DISK_BYTES {
        return Some("is smaller than 20 GB".into());
    }
    if disk.sector_bytes == 4096 && firmware == Firmware::Bios {
        return Some(
            "has sectors of 4096 bytes, from which no BIOS boots: switch the machine to UEFI".into(),
        );
    }
    if ![512, 4096].contains(&disk.sector_bytes) {
        return Some(format!("has sectors of {} bytes; only 512 and 4096 are supported", disk.sector_bytes));
    }
    None
}

fn on_usb(disk: &Disk) -> Option<String> {
    let is_so = disk.removable || disk.transport == Transport::Usb;
    is_so.then(|| "is removable or on USB; name it to use it".into())
}

/// That a disk has other paths to it: which of them is meant is not known by itself.
fn by_several_paths(disk: &Disk) -> Option<String> {
    let twin = disk.twins.first()?;
    Some(format!(
        "is the same disk as {}, by another path to it: name one of them by its path to use it",
        twin.display()
    ))
}

/// Why a disk cannot come in beside these: it is one of them, by another path.
pub(crate) fn is_one_of<'a>(disk: &Disk, mut others: impl Iterator<Item = &'a PathBuf>) -> Option<String> {
    let twin = others.find(|other| disk.twins.contains(other))?;
    Some(format!(
        "is the same disk as {}, by another path to it: a disk cannot mirror itself",
        twin.display()
    ))
}

/// Why a disk is not taken by itself, but can be when it is named.
pub(crate) fn reserve(disk: &Disk) -> Option<String> {
    if let Some(reason) = by_several_paths(disk).or_else(|| on_usb(disk)) {
        return Some(reason);
    }
    if !disk.contents.is_empty() {
        return Some(format!("is not empty: it holds {}", disk.contents.join(", ")));
    }
    if disk.health == Health::Failing {
        return Some("says that it fails soon (SMART); name it to use it all the same".into());
    }
    None
}

/// Lays out the disks of a machine.
///
/// # Errors
/// [`PlanError`]
pub fn plan(inventory: &[Disk], wish: &Wish, firmware: Firmware) -> Result<Plan, PlanError> {
    let mut notes = Vec::new();
    let (taken, left_out) = if wish.disks.is_empty() {
        choose(inventory, firmware)
    } else {
        named(inventory, wish, firmware, &mut notes)?
    };
    if taken.is_empty() {
        return Err(PlanError::NoDisk(left_out));
    }
    let mut disks = Vec::new();
    for disk in taken {
        let alignment = alignment(disk, &mut notes);
        let partitions =
            layout::system_disk_aligned(disk.size_bytes, disk.sector_bytes, alignment).map_err(|error| {
                PlanError::Unsuitable {
                    disk: disk.title(),
                    reason: format!("does not take the layout: {error}"),
                }
            })?;
        if disk.health == Health::Failing {
            notes.push(format!("{} says that it fails soon (SMART): take another.", disk.title()));
        }
        if let Some(driver) = &disk.raid_controller {
            notes.push(format!(
                "{} is behind a RAID controller ({driver}): how its disks are is not visible here; watch the \
                 controller's own report.",
                disk.device.display()
            ));
        }
        disks.push(PlannedDisk { disk: disk.clone(), partitions, alignment_bytes: alignment });
    }
    let (profile, usable_bytes) = profile(&disks, &mut notes);
    Ok(Plan { disks, profile, usable_bytes, notes, left_out })
}

/// All that are blank and suit; of SSDs and hard disks only one kind.
fn choose(inventory: &[Disk], firmware: Firmware) -> (Vec<&Disk>, Vec<LeftOut>) {
    let (mut taken, mut left_out) = (Vec::new(), Vec::new());
    for disk in inventory {
        match hindrance(disk, firmware).or_else(|| reserve(disk)) {
            Some(reason) => left_out.push(LeftOut { disk: disk.clone(), reason }),
            None => taken.push(disk),
        }
    }
    let room = |rotational| {
        let sizes = taken.iter().filter(|disk| disk.rotational == rotational).map(|disk| disk.size_bytes);
        mirrored(&sizes.collect::<Vec<_>>())
    };
    // With as much room either way, the faster ones.
    let rotational = room(true) > room(false);
    let (same, others): (Vec<_>, Vec<_>) = taken.into_iter().partition(|disk| disk.rotational == rotational);
    let (is, are) = if rotational { ("an SSD", "hard disks") } else { ("a hard disk", "SSDs") };
    left_out.extend(others.into_iter().map(|disk| LeftOut {
        disk: disk.clone(),
        reason: format!(
            "is {is} and the others are {are}: a mirror is as slow as its slowest disk; name all to use them together"
        ),
    }));
    (same, left_out)
}

/// What was named.
fn named<'a>(
    inventory: &'a [Disk],
    wish: &Wish,
    firmware: Firmware,
    notes: &mut Vec<String>,
) -> Result<(Vec<&'a Disk>, Vec<LeftOut>), PlanError> {
    if let Some(unmet) = wish.disks.iter().find(|filter| !inventory.iter().any(|disk| filter.matches(disk))) {
        let present: Vec<String> = inventory.iter().map(Disk::title).collect();
        let present = if present.is_empty() { "none".into() } else { present.join(", ") };
        return Err(PlanError::NoMatch { wish: unmet.to_string(), present });
    }
    let mut left_out = Vec::new();
    let (mut taken, mut others) = (Vec::new(), Vec::new());
    for disk in inventory {
        let mut matching = wish.disks.iter().filter(|filter| filter.matches(disk)).peekable();
        if matching.peek().is_none() {
            others.push(disk);
        } else if matching.any(Filter::is_of_one_kind) {
            taken.push(disk);
        } else if let Some(reason) =
            hindrance(disk, firmware).or_else(|| by_several_paths(disk)).or_else(|| on_usb(disk))
        {
            // A size alone is meant of the machine's disks, and not of the medium or of somebody's stick.
            left_out.push(LeftOut { disk: disk.clone(), reason });
        } else {
            taken.push(disk);
        }
    }
    for disk in &taken {
        let named = || taken.iter().map(|other| &other.device);
        if let Some(reason) = hindrance(disk, firmware).or_else(|| is_one_of(disk, named())) {
            return Err(PlanError::Unsuitable { disk: disk.title(), reason });
        }
        if !disk.contents.is_empty() {
            let contents = disk.contents.join(", ");
            if wish.require_empty {
                return Err(PlanError::NotEmpty { disk: disk.title(), contents });
            }
            notes.push(format!("{} is erased: it holds {contents}.", disk.title()));
        }
    }
    if taken.iter().any(|disk| disk.rotational) && taken.iter().any(|disk| !disk.rotational) {
        notes.push("SSDs and hard disks are mixed: all is as slow as the hard disks.".into());
    }
    let devices: Vec<PathBuf> = taken.iter().map(|disk| disk.device.clone()).collect();
    left_out.extend(others.into_iter().map(|disk| {
        let reason = is_one_of(disk, devices.iter()).unwrap_or_else(|| "was not named".into());
        LeftOut { disk: disk.clone(), reason }
    }));
    Ok((taken, left_out))
}

/// On multiples of what partitions start: 1 MiB, and the disk's optimal unit where that makes sense.
pub(crate) fn alignment(disk: &Disk, notes: &mut Vec<String>) -> u64 {
    let unit = disk.optimal_io_bytes;
    if unit == 0 || layout::MIB.is_multiple_of(unit) {
        return layout::MIB;
    }
    match layout::alignment(unit) {
        Some(alignment) => alignment,
        None => {
            // Some USB bridges say 33553920.
            notes.push(format!(
                "{} says that it is best written in units of {unit} bytes, which makes no sense and is not followed.",
                disk.device.display()
            ));
            layout::MIB
        }
    }
}

/// How *data* is kept over disks whose shares of it have these sizes.
pub fn profile_of(sizes: &[u64]) -> Profile {
    match sizes.len() {
        0 | 1 => Profile::Single,
        2 | 3 => Profile::Raid1,
        _ if are_equal(sizes) => Profile::Raid10,
        _ => Profile::Raid1,
    }
}

fn are_equal(sizes: &[u64]) -> bool {
    let least = sizes.iter().copied().min().unwrap_or(0);
    sizes.iter().copied().max().unwrap_or(0) - least <= least / EQUAL_WITHIN
}

/// How much a mirror over disks of these sizes holds.
fn mirrored(sizes: &[u64]) -> u64 {
    let (sum, most) = (sizes.iter().sum::<u64>(), sizes.iter().copied().max().unwrap_or(0));
    if sizes.len() < 2 { sum } else { (sum / 2).min(sum - most) }
}

fn profile(disks: &[PlannedDisk], notes: &mut Vec<String>) -> (Profile, u64) {
    let sizes: Vec<u64> = disks.iter().map(PlannedDisk::data_bytes).collect();
    let usable = mirrored(&sizes);
    let profile = profile_of(&sizes);
    match (profile, disks) {
        (Profile::Single, [one]) if one.disk.raid_controller.is_none() => {
            notes.push("One disk: when it fails, the backups on it are lost; two make a mirror.".into());
        }
        (Profile::Single, _) => {}
        (Profile::Raid10, _) => {
            notes.push("Four equal disks and more: a mirror in stripes. Any one of them may fail.".into());
        }
        (Profile::Raid1, disks) => {
            if disks.len() > 3 {
                notes.push("The disks differ in size, so they mirror without stripes.".into());
            }
            unused(&sizes, usable, notes);
        }
    }
    (profile, usable)
}

fn unused(sizes: &[u64], usable: u64, notes: &mut Vec<String>) {
    let left = sizes.iter().sum::<u64>() - 2 * usable;
    if left > usable / EQUAL_WITHIN {
        notes.push(format!(
            "{} of the largest disk stay unused: nothing else is large enough to mirror them.",
            gigabytes(left)
        ));
    }
}
