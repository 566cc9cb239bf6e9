//! What disks a machine has, as far as laying them out needs to know.
//!
//! `lsblk` and the udev database behind it know it all; its JSON is parsed here (pure) and asked for in one place. What
//! only sysfs knows, the driver of a disk's controller, is added to it. Trade-off: a program is run where ioctls would do,
//! for which signatures of some hundred formats are recognised that nobody here has to know.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use thiserror::Error;

use crate::smart::{self, Health};
use crate::{layout, table};

/// The columns that are asked for.
const COLUMNS: &str = "PATH,TYPE,SIZE,LOG-SEC,PHY-SEC,OPT-IO,ROTA,RM,RO,TRAN,MODEL,SERIAL,WWN,FSTYPE,PTTYPE,LABEL,\
                       PARTLABEL,MOUNTPOINTS";
/// Drivers of controllers that make volumes of several disks, whose members nobody sees behind them.
const RAID_DRIVERS: [&str; 8] =
    ["3w-9xxx", "3w-sas", "aacraid", "arcmsr", "hpsa", "megaraid_sas", "mpi3mr", "smartpqi"];
/// libblkid's names of members of RAIDs that the mainboard's firmware makes end so; Linux's own is no such.
const FIRMWARE_RAID: &str = "_raid_member";
const LINUX_RAID: &str = "linux_raid_member";

/// How a disk is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Transport {
    /// NVMe.
    Nvme,
    /// SATA or PATA.
    Ata,
    /// SAS, or what presents itself as SCSI.
    Scsi,
    /// virtio.
    Virtio,
    /// USB: mostly a stick, perhaps the medium that the installer runs from.
    Usb,
    /// Another one, or not said (Hyper-V, Xen).
    Other,
}

/// A disk as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// Device file, such as `/dev/sda`.
    pub device: PathBuf,
    /// Size in bytes.
    pub size_bytes: u64,
    /// Bytes of a logical sector: 512, or 4096 (4Kn).
    pub sector_bytes: u64,
    /// The unit in which it is best written, in bytes, such as a RAID volume's stripe; 0: not said.
    pub optimal_io_bytes: u64,
    /// Whether it is a hard disk and no SSD.
    pub rotational: bool,
    /// Whether its medium can be taken out.
    pub removable: bool,
    /// Whether it can only be read.
    pub read_only: bool,
    /// How it is attached.
    pub transport: Transport,
    /// Model, without white space at its ends.
    pub model: Option<String>,
    /// Serial number.
    pub serial: Option<String>,
    /// Where it is in the machine: the bay that its enclosure names, or the mainboard's port.
    pub bay: Option<String>,
    /// Other device files that show the same disk, by other paths to it.
    pub twins: Vec<PathBuf>,
    /// Links of udev to it that name the disk and not what is on it: those of `/dev/disk/by-id` and `/dev/disk/by-path`.
    pub links: Vec<PathBuf>,
    /// The RAID controller's driver, where it is behind one: then it is a volume or a disk that the controller hands on,
    /// and how the disks of a volume are is not visible here.
    pub raid_controller: Option<String>,
    /// What it says of its own health.
    pub health: Health,
    /// What is on it: signatures of partition tables and file systems, as sentences' parts. Empty: it is blank.
    pub contents: Vec<String>,
    /// The kind of firmware RAID that it is a member of, by libblkid's name, such as `isw_raid_member` (Intel).
    pub firmware_raid: Option<String>,
    /// What uses it now, as sentences' parts.
    pub uses: Vec<String>,
}

impl Disk {
    /// Device, size and what else tells it from others, for people.
    pub fn title(&self) -> String {
        let mut text = format!("{} ({}", self.device.display(), gigabytes(self.size_bytes));
        for part in [&self.model, &self.serial, &self.bay].into_iter().flatten() {
            text += &format!(", {part}");
        }
        text + ")"
    }
}

/// Bytes in GB or TB as disks are sold.
pub fn gigabytes(bytes: u64) -> String {
    let gb = bytes as f64 / 1e9;
    if gb < 1000.0 { format!("{gb:.0} GB") } else { format!("{:.1} TB", gb / 1e3) }
}

/// Why there is no inventory.
#[derive(Debug, Error)]
pub enum InventoryError {
    /// `lsblk` cannot be run, or fails.
    #[error("cannot ask lsblk for the disks: {0}")]
    Run(std::io::Error),
    /// What it printed is not understood.
    #[error("lsblk's answer is not understood: {0}")]
    Answer(#[from] serde_json::Error),
}

#[derive(Deserialize)]
struct Answer {
    blockdevices: Vec<Row>,
}

/// A row of `lsblk --json --bytes`.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Row {
    path: PathBuf,
    #[serde(rename = "type")]
    kind: String,
    size: u64,
    log_sec: u64,
    opt_io: u64,
    rota: bool,
    rm: bool,
    ro: bool,
    tran: Option<String>,
    model: Option<String>,
    serial: Option<String>,
    wwn: Option<String>,
    fstype: Option<String>,
    pttype: Option<String>,
    label: Option<String>,
    partlabel: Option<String>,
    #[serde(default)]
    mountpoints: Vec<Option<String>>,
    #[serde(default)]
    children: Vec<Row>,
}

impl Row {
    /// What is on it and its parts, and what they are used for.
    fn collect(&self, contents: &mut Vec<String>, uses: &mut Vec<String>) {
        let path = self.path.display();
        if let Some(table) = &self.pttype
            && self.kind == "disk"
        {
            contents.push(format!("a partition table ({table})"));
        }
        let name = self
            .label
            .as_ref()
            .or(self.partlabel.as_ref())
            .map_or(String::new(), |label| format!(" {label:?}"));
        match (&self.fstype, self.kind.as_str()) {
            (Some(fs), _) => contents.push(format!("{fs}{name} on {path}")),
            (None, "part") => contents.push(format!("partition {path}{name}")),
            (None, _) => {}
        }
        // The kernel has made something of it: md, device-mapper.
        if !["disk", "part"].contains(&self.kind.as_str()) {
            uses.push(format!("part of {} {path}", self.kind));
        }
        for place in self.mountpoints.iter().flatten() {
            uses.push(match place.as_str() {
                "[SWAP]" => format!("{path} is swap"),
                place => format!("{path} is mounted at {place}"),
            });
        }
        for child in &self.children {
            child.collect(contents, uses);
        }
    }

    /// Itself and all below it.
    fn all(&self) -> Vec<&Row> {
        std::iter::once(self).chain(self.children.iter().flat_map(Row::all)).collect()
    }
}

/// Reads `lsblk`'s answer, which knows nothing of health; `drivers`: the driver of a disk's controller, by device file. Disks without a medium, and what
/// is no disk, are left out.
///
/// # Errors
/// [`InventoryError::Answer`]
pub fn parse(answer: &str, drivers: &BTreeMap<PathBuf, String>) -> Result<Vec<Disk>, InventoryError> {
    let answer: Answer = serde_json::from_str(answer)?;
    let text = |text: &Option<String>| {
        text.as_deref().map(str::trim).filter(|text| !text.is_empty()).map(String::from)
    };
    let disk = |row: &Row| {
        let (mut contents, mut uses) = (Vec::new(), Vec::new());
        row.collect(&mut contents, &mut uses);
        let rows = row.all();
        let mut kinds = rows.iter().filter_map(|row| row.fstype.as_deref());
        Disk {
            device: row.path.clone(),
            size_bytes: row.size,
            sector_bytes: row.log_sec,
            optimal_io_bytes: row.opt_io,
            rotational: row.rota,
            removable: row.rm,
            read_only: row.ro,
            transport: match row.tran.as_deref() {
                Some("nvme") => Transport::Nvme,
                Some("sata" | "ata") => Transport::Ata,
                Some("sas" | "spi" | "fc" | "iscsi") => Transport::Scsi,
                Some("virtio") => Transport::Virtio,
                Some("usb") => Transport::Usb,
                _ => Transport::Other,
            },
            model: text(&row.model),
            serial: text(&row.serial),
            bay: None,
            twins: twins(row, &answer.blockdevices),
            links: Vec::new(),
            raid_controller: drivers
                .get(&row.path)
                .filter(|driver| RAID_DRIVERS.contains(&driver.as_str()))
                .cloned(),
            health: Health::NotVisible,
            contents,
            firmware_raid: kinds
                .find(|kind| kind.ends_with(FIRMWARE_RAID) && *kind != LINUX_RAID)
                .map(String::from),
            uses,
        }
    };
    let is_disk = |row: &&Row| row.kind == "disk" && row.size > 0;
    Ok(answer.blockdevices.iter().filter(is_disk).map(disk).collect())
}

/// The other rows of the same disk.
fn twins(row: &Row, all: &[Row]) -> Vec<PathBuf> {
    all.iter()
        .filter(|other| other.path != row.path && is_same(row, other))
        .map(|other| other.path.clone())
        .collect()
}

/// Whether two rows show one disk, by two paths to it: all that is known of both agrees, and a WWN or a serial number is among it.
/// Neither alone is enough to tell: makers have sold disks with one EUI for all, and bridges to USB give one serial number to all.
fn is_same(one: &Row, other: &Row) -> bool {
    let agree = |of: fn(&Row) -> &Option<String>| match (identity(of(one)), identity(of(other))) {
        (Some(one), Some(other)) => Some(one == other),
        _ => None,
    };
    let [wwn, serial, model, transport] =
        [agree(|row| &row.wwn), agree(|row| &row.serial), agree(|row| &row.model), agree(|row| &row.tran)];
    let differs = [wwn, serial, model, transport].contains(&Some(false));
    !differs && (wwn.is_some() || serial.is_some()) && one.size == other.size && one.kind == other.kind
}

/// What the kernel and udev write before a WWN.
const PREFIXES: [&str; 4] = ["0x", "eui.", "naa.", "uuid."];

/// What identifies a disk, as far as it does: nothing but zeros stands where a maker wrote none.
fn identity(text: &Option<String>) -> Option<String> {
    let text = canonical(text.as_deref()?);
    let number = PREFIXES.iter().find_map(|prefix| text.strip_prefix(prefix)).unwrap_or(&text);
    number.chars().any(|character| character.is_alphanumeric() && character != '0').then_some(text)
}

/// A name or a serial number without what people and tools write differently: case, and blanks, for which udev writes `_`.
pub(crate) fn canonical(text: &str) -> String {
    let words = text.split(|character: char| character.is_whitespace() || character == '_');
    words.filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ").to_lowercase()
}

/// Folders of links that name a disk by what it is, and by where it is.
pub(crate) const LINKS: [&str; 2] = ["disk/by-id", "disk/by-path"];

/// The links to each device file below `dev`.
fn links(dev: &Path) -> BTreeMap<PathBuf, Vec<PathBuf>> {
    let mut links = BTreeMap::<_, Vec<_>>::new();
    for entry in LINKS.iter().flat_map(|folder| fs::read_dir(dev.join(folder))).flatten().flatten() {
        // What has gone meanwhile leads nowhere.
        if let Ok(device) = fs::canonicalize(entry.path()) {
            links.entry(device).or_default().push(entry.path());
        }
    }
    links.values_mut().for_each(|links| links.sort());
    links
}

/// The disks of this machine.
///
/// # Errors
/// [`InventoryError`]
pub fn read() -> Result<Vec<Disk>, InventoryError> {
    // Loop devices, RAM disks, floppies and drives for optical media are no disks to be laid out.
    let answer = duct::cmd!("lsblk", "--json", "--bytes", "--exclude", "1,2,7,11", "--output", COLUMNS)
        .env("LC_ALL", "C")
        .read()
        .map_err(InventoryError::Run)?;
    let block = Path::new("/sys/block");
    let mut disks = parse(&answer, &drivers(block))?;
    let mut links = links(Path::new("/dev"));
    for disk in &mut disks {
        disk.links = links.remove(&disk.device).unwrap_or_default();
        // What a volume answers is its controller's word, and says nothing of its disks.
        if disk.raid_controller.is_none() {
            disk.health = smart::health(&disk.device);
        }
        disk.bay = disk.device.file_name().and_then(|name| bay(&block.join(name)));
        if disk.contents.is_empty() {
            disk.contents.extend(unnamed_contents(disk));
        }
    }
    Ok(disks)
}

/// What is on a disk on which no signature is known: nothing but zeros at its ends counts as blank (design D15). Encrypted disks
/// without a header, databases on raw disks and tapes' images look so.
fn unnamed_contents(disk: &Disk) -> Option<String> {
    let read = |file: &mut File, offset: u64| {
        let mut bytes = vec![0; layout::MIB.min(disk.size_bytes) as usize];
        file.seek(SeekFrom::Start(offset))?;
        file.read_exact(&mut bytes)?;
        std::io::Result::Ok(bytes.iter().all(|byte| *byte == 0))
    };
    let is_blank = File::open(&disk.device).and_then(|mut file| {
        let ends = read(&mut file, 0)? && read(&mut file, disk.size_bytes.saturating_sub(layout::MIB))?;
        Ok(ends || table::is_cut_installation(&mut file, disk.sector_bytes)?)
    });
    match is_blank {
        Ok(true) => None,
        Ok(false) => Some("something that is not recognised".into()),
        Err(error) => Some(format!("what cannot be read ({error})")),
    }
}

/// The bay of a disk, as its enclosure calls it, or its port on the mainboard.
fn bay(sysfs: &Path) -> Option<String> {
    let slots = fs::read_dir(sysfs.join("device")).into_iter().flatten().flatten();
    let slot = slots.filter_map(|entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        Some(format!("bay {}", name.strip_prefix("enclosure_device:")?.trim()))
    });
    let port = || {
        let device = fs::canonicalize(sysfs).ok()?;
        let mut parts = device.components().map(|part| part.as_os_str().to_string_lossy().into_owned());
        parts.find_map(|part| {
            let number = part.strip_prefix("ata")?;
            number.bytes().all(|byte| byte.is_ascii_digit()).then(|| format!("port ata{number}"))
        })
    };
    slot.into_iter().next().or_else(port)
}

/// The driver of each disk's controller: of the nearest device above it that is on the PCI bus.
fn drivers(block: &Path) -> BTreeMap<PathBuf, String> {
    let mut drivers = BTreeMap::new();
    for entry in fs::read_dir(block).into_iter().flatten().flatten() {
        let Ok(device) = fs::canonicalize(entry.path()) else { continue };
        let driver = device.ancestors().skip(1).find_map(|device| {
            let is_pci = fs::read_link(device.join("subsystem")).is_ok_and(|bus| bus.ends_with("bus/pci"));
            let driver = is_pci.then(|| fs::read_link(device.join("driver")).ok()).flatten()?;
            Some(driver.file_name()?.to_string_lossy().into_owned())
        });
        if let Some(driver) = driver {
            drivers.insert(Path::new("/dev").join(entry.file_name()), driver);
        }
    }
    drivers
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// A row of a disk: WWN, serial number, model, transport, size.
    fn row(path: &str, (wwn, serial, model, tran, size): (&str, &str, &str, &str, u64)) -> Row {
        let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Row {
            path: path.into(),
            kind: "disk".into(),
            size,
            log_sec: 512,
            opt_io: 0,
            rota: false,
            rm: false,
            ro: false,
            tran: text(tran),
            model: text(model),
            serial: text(serial),
            wwn: text(wwn),
            fstype: None,
            pttype: None,
            label: None,
            partlabel: None,
            mountpoints: Vec::new(),
            children: Vec::new(),
        }
    }

    #[test]
    fn two_rows_are_one_disk_when_all_that_is_known_agrees() {
        let one = ("eui.0025385b71b0a1c2", "S5SVNG0N", "Samsung 970", "nvme", 500);
        let table = [
            ("by two paths", one, one, true),
            // The same EUI for all disks of a maker.
            (
                "serial numbers differ",
                one,
                ("eui.0025385b71b0a1c2", "S5SVNG0P", "Samsung 970", "nvme", 500),
                false,
            ),
            ("models differ", one, ("eui.0025385b71b0a1c2", "S5SVNG0N", "Samsung 980", "nvme", 500), false),
            ("sizes differ", one, ("eui.0025385b71b0a1c2", "S5SVNG0N", "Samsung 970", "nvme", 501), false),
            (
                "transports differ",
                one,
                ("eui.0025385b71b0a1c2", "S5SVNG0N", "Samsung 970", "usb", 500),
                false,
            ),
            // Two namespaces of one controller.
            ("WWNs differ", one, ("eui.0025385b71b0a1c3", "S5SVNG0N", "Samsung 970", "nvme", 500), false),
            ("one path says less", one, ("eui.0025385b71b0a1c2", "", "", "", 500), true),
            ("only a serial number", ("", "S5", "EVO", "sata", 500), ("", "S5", "EVO", "sata", 500), true),
            (
                "written differently",
                ("0x5000C500A1B2C3D4", " s5 1 ", "", "", 5),
                ("0x5000c500a1b2c3d4", "S5_1", "", "", 5),
                true,
            ),
            ("nothing known", ("", "", "EVO", "sata", 500), ("", "", "EVO", "sata", 500), false),
            // What stands where nothing was written.
            (
                "zeros",
                ("eui.0000000000000000", "00000000", "Stick", "usb", 5),
                ("eui.0000000000000000", "00000000", "Stick", "usb", 5),
                false,
            ),
            ("an x at the end", ("", "S5X", "", "", 5), ("", "S5X", "", "", 5), true),
            (
                "zeros and a serial number",
                ("0x0000000000000000", "A", "", "", 5),
                ("0x0000000000000000", "B", "", "", 5),
                false,
            ),
        ];
        for (what, one, other, expected) in table {
            let rows = [row("/dev/a", one), row("/dev/b", other)];
            assert_eq!(is_same(&rows[0], &rows[1]), expected, "{what}");
            assert_eq!(is_same(&rows[1], &rows[0]), expected, "{what}");
            assert_eq!(
                twins(&rows[0], &rows),
                if expected { vec![PathBuf::from("/dev/b")] } else { vec![] },
                "{what}"
            );
        }
    }

    #[test]
    fn all_paths_to_a_disk_are_its_twins() {
        let one = ("0x5000c500a1b2c3d4", "S5", "EVO", "sas", 500);
        let rows = ["/dev/a", "/dev/b", "/dev/c"].map(|path| row(path, one));
        assert_eq!(twins(&rows[2], &rows), [PathBuf::from("/dev/a"), PathBuf::from("/dev/b")]);
    }

    #[test]
    fn links_lead_to_their_disk() {
        let folder = tempfile::tempdir().unwrap();
        let dev = folder.path().canonicalize().unwrap();
        for name in ["by-id", "by-path", "by-label"] {
            fs::create_dir_all(dev.join("disk").join(name)).unwrap();
        }
        fs::write(dev.join("sda"), "").unwrap();
        for (link, target) in [
            ("by-id/wwn-0x5", "../../sda"),
            ("by-id/ata-EVO_S5", "../../sda"),
            ("by-path/pci-0000:00:1f.2-ata-1", "../../sda"),
            ("by-id/gone", "../../sdz"),
            ("by-label/data", "../../sda"),
        ] {
            symlink(target, dev.join("disk").join(link)).unwrap();
        }
        let found = links(&dev);
        let expected = ["by-id/ata-EVO_S5", "by-id/wwn-0x5", "by-path/pci-0000:00:1f.2-ata-1"];
        assert_eq!(found.len(), 1);
        assert_eq!(found[&dev.join("sda")], expected.map(|link| dev.join("disk").join(link)));
        assert!(links(&dev.join("none")).is_empty());
    }
}
