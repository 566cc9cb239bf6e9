//! Targets: what kind of machine a package is for, one YAML file each in `firmware-profiles/`.
//!
//! A new target is a new file. What cannot go together is refused when the file is read, not when a hypervisor does.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use bytesize::ByteSize;
use serde::{Deserialize, Deserializer};
use thiserror::Error;

use crate::{Firmware, MIB};

/// The smallest machine that the product is for (design, "Sizing").
const LEAST_MEMORY: u64 = 1 << 30;
/// The smallest disk (design, "Sizing").
const LEAST_DISK: u64 = 20_000_000_000;
/// vSphere takes memory in multiples of it, Hyper-V in those of 2 MiB (vSphere: "Virtual Machine Memory Configuration").
const MEMORY_STEP: u64 = 4 * MIB;
/// The most memory that Hyper-V gives to a machine of generation 1, the least of all targets' limits (Microsoft, "Plan for
/// Hyper-V scalability").
const MOST_MEMORY: u64 = 1 << 40;
/// The most processors that XenServer 7 gives to a machine, the least of all targets' limits (Citrix, "Configuration limits").
const MOST_CORES: u32 = 32;
/// The longest VHD (Microsoft, "Virtual Hard Disk Format Specification").
const LONGEST_VHD: u64 = 2040 << 30;

/// A target.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// What it is, for people.
    pub title: String,
    /// What boots it.
    pub firmware: Boot,
    /// Whether firmware takes signed boot loaders only.
    #[serde(default)]
    pub secure_boot: bool,
    /// Its disk.
    pub disk: Disk,
    /// Its network card.
    pub nic: Nic,
    /// Processors and memory by number of devices, smallest first; the first is the default.
    pub sizes: Vec<Size>,
    /// What is made for it.
    pub packages: Vec<Package>,
    /// Drivers that must be in the initrd, or it does not find its disk, its keyboard or its network.
    pub drivers: Vec<String>,
}

/// What boots a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Boot {
    /// BIOS.
    Bios,
    /// UEFI.
    Uefi,
    /// Either.
    Any,
}

/// The disk of a target.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disk {
    /// What it is attached to.
    pub bus: Bus,
    /// Its size in bytes, written such as `100 GiB`.
    #[serde(deserialize_with = "bytes")]
    pub size: u64,
}

/// Processors and memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Size {
    /// For so many monitored devices.
    pub devices: u32,
    /// Processors.
    pub cores: u32,
    /// Memory in bytes, written such as `6 GiB`.
    #[serde(deserialize_with = "bytes")]
    pub memory: u64,
}

/// What a disk is attached to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Bus {
    /// VMware's paravirtual SCSI.
    Pvscsi,
    /// LSI Logic parallel SCSI.
    LsiLogic,
    /// LSI Logic SAS.
    LsiLogicSas,
    /// IDE.
    Ide,
    /// Hyper-V's SCSI.
    Hyperv,
    /// Xen's block device.
    Xen,
    /// Whatever there is.
    Any,
}

/// A network card.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Nic {
    /// VMware's paravirtual one.
    Vmxnet3,
    /// Intel 82574.
    E1000e,
    /// Hyper-V's.
    Hyperv,
    /// Xen's.
    Xen,
    /// Whatever there is.
    Any,
}

/// What is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Package {
    /// Open Virtual Appliance.
    Ova,
    /// VHDX with what a Windows administrator needs beside it, in a zip.
    HypervZip,
    /// XenServer's machine.
    Xva,
    /// The disk alone, for XenServer.
    Vhd,
    /// The installation medium.
    Iso,
    /// The disk alone, as it is.
    Raw,
}

/// What is wrong with a target's file.
#[derive(Debug, Error)]
pub enum ProfileError {
    /// The file cannot be read.
    #[error("cannot read {}: {cause}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// The cause.
        cause: std::io::Error,
    },
    /// The file is no target.
    #[error("{}: {cause}", path.display())]
    Wrong {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        cause: String,
    },
}

fn bytes<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    ByteSize::deserialize(from).map(|size| size.as_u64())
}

impl Profile {
    /// Reads a target.
    ///
    /// # Errors
    /// A sentence that names the field and what is wrong.
    pub fn from_yaml(yaml: &str) -> Result<Self, String> {
        if yaml.trim().is_empty() {
            return Err(
                "it is empty; docs/hypervisors.md has the keys, and the other targets are examples".into()
            );
        }
        let profile: Self = serde_saphyr::from_str(yaml).map_err(|error| error.to_string())?;
        profile.check()?;
        Ok(profile)
    }

    /// The driver without which the disk is not found, and that of the network card.
    fn needed_drivers(&self) -> Vec<(&'static str, &'static str)> {
        // Of both generations: `ata_piix` leaves its disks to Hyper-V's own driver.
        let hyperv = self.packages.contains(&Package::HypervZip);
        let hyperv = hyperv.then_some([("hyperv-zip", "hv_vmbus"), ("hyperv-zip", "hv_storvsc")]);
        let disk = match self.disk.bus {
            Bus::Pvscsi => Some(("disk.bus: pvscsi", "vmw_pvscsi")),
            Bus::LsiLogic => Some(("disk.bus: lsilogic", "mptspi")),
            Bus::LsiLogicSas => Some(("disk.bus: lsilogicsas", "mptsas")),
            Bus::Ide => Some(("disk.bus: ide", "ata_piix")),
            Bus::Hyperv => Some(("disk.bus: hyperv", "hv_storvsc")),
            Bus::Xen => Some(("disk.bus: xen", "xen-blkfront")),
            Bus::Any => None,
        };
        let nic = match self.nic {
            Nic::Vmxnet3 => Some(("nic: vmxnet3", "vmxnet3")),
            Nic::E1000e => Some(("nic: e1000e", "e1000e")),
            Nic::Hyperv => Some(("nic: hyperv", "hv_netvsc")),
            Nic::Xen => Some(("nic: xen", "xen-netfront")),
            Nic::Any => None,
        };
        disk.into_iter().chain(nic).chain(hyperv.into_iter().flatten()).collect()
    }

    fn check(&self) -> Result<(), String> {
        if self.secure_boot && self.firmware != Boot::Uefi {
            return Err("secure_boot: only firmware: uefi has it".into());
        }
        let bytes = self.disk.size;
        if !bytes.is_multiple_of(MIB) {
            return Err(format!("disk.size: {bytes} bytes are no whole MiB; write it such as `100 GiB`"));
        }
        if bytes < LEAST_DISK {
            return Err(format!("disk.size: {bytes} bytes are less than the 20 GB that the machine needs"));
        }
        if self.packages.contains(&Package::Vhd) && bytes > LONGEST_VHD {
            return Err(format!("disk.size: {bytes} bytes are more than the 2040 GiB that a vhd holds"));
        }
        if self.sizes.is_empty() {
            return Err("sizes: at least one is needed".into());
        }
        if !self.sizes.is_sorted_by(|before, after| before.devices < after.devices) {
            return Err("sizes: the smallest number of devices comes first, and each once".into());
        }
        let fits = |size: &Size| {
            (1..=MOST_CORES).contains(&size.cores)
                && (LEAST_MEMORY..=MOST_MEMORY).contains(&size.memory)
                && size.memory.is_multiple_of(MEMORY_STEP)
        };
        if let Some(Size { devices, .. }) = self.sizes.iter().find(|size| !fits(size)) {
            return Err(format!(
                "sizes: that for {devices} devices needs 1 to {MOST_CORES} cores and 1 GiB to 1 TiB of memory, in whole \
                 multiples of 4 MiB"
            ));
        }
        if self.packages.is_empty() {
            return Err("packages: at least one is needed".into());
        }
        for (index, package) in self.packages.iter().enumerate() {
            if self.packages[..index].contains(package) {
                return Err(format!("packages: {package} is listed twice"));
            }
            self.check_package(*package)?;
        }
        for (what, driver) in self.needed_drivers() {
            if !self.drivers.iter().any(|listed| listed.replace('-', "_") == driver.replace('-', "_")) {
                return Err(format!("drivers: {what} needs {driver}, which is not listed"));
            }
        }
        Ok(())
    }

    fn check_package(&self, package: Package) -> Result<(), String> {
        let (bus, nic) = (self.disk.bus, self.nic);
        let (fits, what) = match package {
            Package::Ova => (
                matches!(bus, Bus::Pvscsi | Bus::LsiLogic | Bus::LsiLogicSas)
                    && matches!(nic, Nic::Vmxnet3 | Nic::E1000e)
                    && self.firmware != Boot::Any,
                "ova: bus pvscsi, lsilogic or lsilogicsas, nic vmxnet3 or e1000e, and one firmware",
            ),
            Package::HypervZip => (
                nic == Nic::Hyperv
                    && matches!((self.firmware, bus), (Boot::Bios, Bus::Ide) | (Boot::Uefi, Bus::Hyperv)),
                "hyperv-zip: firmware bios with bus ide, or uefi with hyperv; nic hyperv",
            ),
            Package::Xva => (
                bus == Bus::Xen && nic == Nic::Xen && self.firmware != Boot::Any && !self.secure_boot,
                "xva: bus xen, nic xen, one firmware, and no secure_boot",
            ),
            Package::Vhd => (bus == Bus::Xen, "vhd: bus xen"),
            Package::Iso | Package::Raw => (true, ""),
        };
        if fits {
            return Ok(());
        }
        let secure_boot = if self.secure_boot { ", secure_boot" } else { "" };
        let found = format!("firmware {:?}, bus {bus:?}, nic {nic:?}{secure_boot}", self.firmware);
        Err(format!("packages: {what}; the target has {}", found.to_lowercase()))
    }

    /// The one firmware of the target, where it has one.
    pub fn one_firmware(&self) -> Option<Firmware> {
        match self.firmware {
            Boot::Bios => Some(Firmware::Bios),
            Boot::Uefi => Some(Firmware::Uefi),
            Boot::Any => None,
        }
    }
}

impl fmt::Display for Package {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ova => "ova",
            Self::HypervZip => "hyperv-zip",
            Self::Xva => "xva",
            Self::Vhd => "vhd",
            Self::Iso => "iso",
            Self::Raw => "raw",
        })
    }
}

/// Reads all targets of a folder, in which nothing else lies: file name without `.yaml` → target.
///
/// # Errors
/// [`ProfileError`], of the first file in the order of names.
pub fn read_all(folder: &Path) -> Result<BTreeMap<String, Profile>, ProfileError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |cause| ProfileError::Read { path, cause }
    };
    let mut profiles = BTreeMap::new();
    for entry in std::fs::read_dir(folder).map_err(failed(folder))? {
        let path = entry.map_err(failed(folder))?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let Some(name) = name.strip_suffix(".yaml") else {
            let cause = "its name does not end in .yaml; call it so, or put it elsewhere".into();
            return Err(ProfileError::Wrong { path, cause });
        };
        let yaml = std::fs::read_to_string(&path).map_err(failed(&path))?;
        let profile =
            Profile::from_yaml(&yaml).map_err(|cause| ProfileError::Wrong { path: path.clone(), cause })?;
        profiles.insert(name.to_owned(), profile);
    }
    Ok(profiles)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../firmware-profiles")
    }

    #[test]
    fn the_targets_of_this_repository_are_sound() {
        let profiles = read_all(&folder()).unwrap();
        // Design, "Sizing". Somebody's own target beside these may have others.
        for name in ["bare-metal", "esxi", "hyperv-gen1", "hyperv-gen2", "xenserver-bios", "xenserver-uefi"] {
            let profile = &profiles[name];
            let sizes: Vec<_> =
                profile.sizes.iter().map(|size| (size.devices, size.cores, size.memory >> 30)).collect();
            assert_eq!(sizes, [(2000, 4, 6), (10000, 6, 8)], "{name}");
        }
    }

    #[test]
    fn what_does_not_go_together_is_refused_by_name() {
        let esxi = std::fs::read_to_string(folder().join("esxi.yaml")).unwrap();
        let size = "sizes: that for 2000 devices needs 1 to 32 cores and 1 GiB";
        let table = [
            ("firmware: uefi", "firmware: bios", "secure_boot: only firmware: uefi has it"),
            ("firmware: uefi", "firmware: efi", "unknown variant `efi`"),
            ("size: 100 GiB", "size: 100.5 MB", "disk.size: 100500000 bytes are no whole MiB"),
            ("size: 100 GiB", "size: much", "much"),
            ("size: 100 GiB", "size: 18 GiB", "are less than the 20 GB that the machine needs"),
            ("memory: 6 GiB", "memory: 6145 MiB", size),
            ("memory: 6 GiB", "memory: 512 MiB", size),
            ("memory: 6 GiB", "memory: 2 TiB", "1 GiB to 1 TiB of memory"),
            ("cores: 4", "cores: 4000", "1 to 32 cores"),
            ("packages: [ova]", "packages: [ova, ova]", "packages: ova is listed twice"),
            (
                "bus: lsilogicsas",
                "bus: ide",
                "the target has firmware uefi, bus ide, nic vmxnet3, secure_boot",
            ),
            ("cores: 4", "cores: 0", size),
            ("firmware: uefi\nsecure_boot: true", "firmware: any", "and one firmware"),
            ("bus: lsilogicsas", "bus: ide", "packages: ova: bus pvscsi, lsilogic or lsilogicsas"),
            ("nic: vmxnet3", "nic: xen", "packages: ova:"),
            ("mptsas, ", "", "drivers: disk.bus: lsilogicsas needs mptsas, which is not listed"),
            ("devices: 2000", "devices: 20000", "sizes: the smallest number"),
            ("packages: [ova]", "packages: []", "packages: at least one"),
            ("title:", "titel:", "titel"),
        ];
        for (from, to, expected) in table {
            assert!(esxi.contains(from), "{from}");
            let error = Profile::from_yaml(&esxi.replacen(from, to, 1)).unwrap_err();
            assert!(error.contains(expected), "{from} -> {to}: {error}");
        }
        let xen = std::fs::read_to_string(folder().join("xenserver-uefi.yaml")).unwrap();
        for (from, to, expected) in [
            ("firmware: uefi", "firmware: uefi\nsecure_boot: true", "packages: xva: "),
            ("size: 100 GiB\n", "size: 2041 GiB\n", "more than the 2040 GiB that a vhd holds"),
        ] {
            let changed = xen.replacen(from, to, 1).replace("[xva]", "[xva, vhd]");
            let error = Profile::from_yaml(&changed).unwrap_err();
            assert!(error.contains(expected), "{from} -> {to}: {error}");
        }
    }

    #[test]
    fn an_empty_file_says_where_the_keys_are() {
        assert!(Profile::from_yaml(" \n").unwrap_err().contains("it is empty; docs/hypervisors.md"));
    }

    #[test]
    fn a_file_that_is_no_target_is_named() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("esxi.yml"), "").unwrap();
        let error = read_all(folder.path()).unwrap_err().to_string();
        assert!(error.contains("esxi.yml: its name does not end in .yaml"), "{error}");
    }
}
