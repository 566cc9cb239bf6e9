//! Rules of OVF: a system's processors, memory, disks and where they are attached.
//!
//! Each value is judged by what an importer's documentation or source says of it, never by what is usual. An item may hold for some
//! configurations alone (`ovf:configuration`): two items are only compared where both hold.

use std::collections::{BTreeMap, BTreeSet};

use roxmltree::Node;

use super::ovf::{VMWARE, attribute, children, text};
use super::{Findings, rules};
use crate::MIB;

/// How the namespaces of an item's elements begin, whatever class of CIM it is of.
const CIM: &str = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_";
/// CIM's numbers of kinds of resources (CIM_ResourceAllocationSettingData, ResourceType).
const PROCESSOR: &str = "3";
const MEMORY: &str = "4";
const IDE: &str = "5";
pub(super) const SCSI: &str = "6";
/// Disk drives, and logical disks.
const DISKS: [&str; 2] = ["17", "31"];
/// Whose kind is told by its subtype: SATA, or NVMe.
const STORAGE: &str = "20";

/// The units of memory, besides `byte * 2^n`.
const UNITS: [(&str, u64); 8] = [
    ("byte", 1),
    ("bytes", 1),
    ("kilobytes", 1 << 10),
    ("kb", 1 << 10),
    ("megabytes", 1 << 20),
    ("mb", 1 << 20),
    ("gigabytes", 1 << 30),
    ("gb", 1 << 30),
];
/// On multiples of so many bytes VMware's memory ends.
const MEMORY_STEP: u64 = 4 * MIB;
/// The address that a SCSI controller has itself.
const SCSI_OWN: u64 = 7;
/// Elements of an item that may be there more than once, as CIM's arrays are.
const ARRAYS: [&str; 8] = [
    "Connection",
    "HostResource",
    // Of EthernetPortItem and StorageItem.
    "AllowedPriorities",
    "AllowedToReceiveMACAddresses",
    "AllowedToReceiveVLANs",
    "AllowedToTransmitMACAddresses",
    "AllowedToTransmitVLANs",
    "ComponentSetting",
];

/// The greatest address on a kind of controller, by the item's `ResourceType` and subtype; `None`: it is not known.
fn greatest_address(kind: &str, subtype: &str) -> Option<u64> {
    match kind {
        IDE => Some(1),
        SCSI => Some(15),
        STORAGE if subtype.to_lowercase().contains("nvme") => Some(14),
        STORAGE if subtype.to_lowercase().contains("sata") => Some(29),
        _ => None,
    }
}

/// An item, and for which configurations it holds.
#[derive(Debug)]
struct Item<'a, 'i> {
    node: Node<'a, 'i>,
    /// None: for all.
    configurations: BTreeSet<&'a str>,
}

impl<'a> Item<'a, '_> {
    fn text(&self, name: &str) -> &'a str {
        text(self.node, name)
    }

    /// Whether both hold in one configuration. What one resource is for all configurations, an item of its kind and its id is
    /// otherwise for some (DSP0243 1.1.0, 9.8).
    fn meets(&self, other: &Item<'_, '_>) -> bool {
        match (self.configurations.is_empty(), other.configurations.is_empty()) {
            (true, true) => true,
            (false, false) => !self.configurations.is_disjoint(&other.configurations),
            _ => ["InstanceID", "ResourceType"].iter().any(|name| self.text(name) != other.text(name)),
        }
    }
}

/// Looks at the hardware of a system.
pub fn verify(hardware: Node<'_, '_>, findings: &mut Findings) {
    let item = |node| Item {
        node,
        configurations: attribute(node, "configuration").unwrap_or_default().split_whitespace().collect(),
    };
    // Of newer versions; the elements of these two have names of their own (DSP0243 2.1).
    let is_item =
        |node: &Node<'_, '_>| ["Item", "EthernetPortItem", "StorageItem"].contains(&node.tag_name().name());
    let all: Vec<Item<'_, '_>> = hardware.children().filter(is_item).map(item).collect();
    for item in &all {
        elements(item, findings);
    }
    // `ovf:bound` says between what values a resource may be; the item without it says what it is.
    let items: Vec<&Item<'_, '_>> = all
        .iter()
        .filter(|item| attribute(item.node, "bound").is_none_or(|bound| bound == "normal"))
        .collect();
    let cores = cores_per_socket(hardware, findings);
    for item in &items {
        match item.text("ResourceType") {
            PROCESSOR => processors(item, cores, findings),
            MEMORY => memory(item, findings),
            _ => {}
        }
    }
    identities(&items, findings);
    addresses(&items, findings);
    let is_disk = |item: &&Item<'_, '_>| {
        DISKS.contains(&item.text("ResourceType")) && item.text("HostResource").contains("/disk/")
    };
    let has_disk = items.iter().any(is_disk);
    findings.check(has_disk, rules::OVF_DISK, || "none of the system's resources is a disk".into());
    firmware(hardware, findings);
}

/// What an item is called in a finding.
fn named(item: &Item<'_, '_>) -> String {
    format!("the resource {:?} ({})", item.text("InstanceID"), item.text("ElementName"))
}

fn elements(item: &Item<'_, '_>, findings: &mut Findings) {
    let mut counts = BTreeMap::<&str, usize>::new();
    // Elements of others are as many as they like (xs:any).
    let is_of_cim =
        |node: &Node<'_, '_>| node.tag_name().namespace().is_some_and(|space| space.starts_with(CIM));
    for element in item.node.children().filter(is_of_cim) {
        *counts.entry(element.tag_name().name()).or_default() += 1;
    }
    for (name, count) in counts.iter().filter(|(name, count)| **count > 1 && !ARRAYS.contains(name)) {
        findings.add(rules::OVF_ITEM_ELEMENTS, format!("{} has {count} elements {name}", named(item)));
    }
    for name in ["InstanceID", "ElementName", "ResourceType"] {
        findings.check(!item.text(name).is_empty(), rules::OVF_ITEM_ELEMENTS, || {
            format!("{} has no {name}", named(item))
        });
    }
}

/// `vmw:CoresPerSocket`, of the hardware or in an item of it.
fn cores_per_socket(hardware: Node<'_, '_>, findings: &mut Findings) -> Option<u64> {
    let node =
        children(hardware, "CoresPerSocket").find(|node| node.tag_name().namespace() == Some(VMWARE))?;
    let said = node.text().unwrap_or_default().trim();
    let cores = said.parse().ok().filter(|cores| *cores > 0);
    findings.check(cores.is_some(), rules::OVF_CORES_PER_SOCKET, || format!("it is {said:?}"));
    cores
}

fn processors(item: &Item<'_, '_>, cores_per_socket: Option<u64>, findings: &mut Findings) {
    let said = item.text("VirtualQuantity");
    let Some(count) = said.parse::<u64>().ok().filter(|count| *count > 0) else {
        return findings.add(rules::OVF_PROCESSORS, format!("{} says {said:?}", named(item)));
    };
    if let Some(cores) = cores_per_socket {
        findings.check(count.is_multiple_of(cores), rules::OVF_CORES_PER_SOCKET, || {
            format!("{} has {count} processors, {cores} a socket", named(item))
        });
    }
}

fn memory(item: &Item<'_, '_>, findings: &mut Findings) {
    let (quantity, units) = (item.text("VirtualQuantity"), item.text("AllocationUnits"));
    let bytes =
        quantity.parse::<u64>().ok().zip(unit(units)).and_then(|(count, unit)| count.checked_mul(unit));
    let Some(bytes) = bytes.filter(|bytes| *bytes > 0) else {
        return findings.add(rules::OVF_MEMORY, format!("{} says {quantity:?} of {units:?}", named(item)));
    };
    findings.check(bytes.is_multiple_of(MEMORY_STEP), rules::OVF_MEMORY, || {
        format!("{} has {bytes} bytes", named(item))
    });
}

/// How many bytes a unit is, as CIM's programmatic units and VMware's older words have it.
pub fn unit(units: &str) -> Option<u64> {
    let units: String = units.chars().filter(|character| !character.is_whitespace()).collect();
    let units = units.to_lowercase();
    if let Some((_, bytes)) = UNITS.iter().find(|(name, _)| *name == units) {
        return Some(*bytes);
    }
    1u64.checked_shl(units.strip_prefix("byte*2^")?.parse().ok()?)
}

/// One id for two resources.
fn identities(items: &[&Item<'_, '_>], findings: &mut Findings) {
    pairs(items, |one, other| {
        let id = one.text("InstanceID");
        if id == other.text("InstanceID") && !id.is_empty() {
            let detail =
                format!("{id:?} is {:?} and {:?}", one.text("ElementName"), other.text("ElementName"));
            findings.add(rules::OVF_INSTANCE_ID, detail);
        }
    });
}

fn addresses(items: &[&Item<'_, '_>], findings: &mut Findings) {
    let controller = |id: &str| items.iter().find(|item| item.text("InstanceID") == id && !id.is_empty());
    for item in items {
        let (said, Some(controller)) = (item.text("AddressOnParent"), controller(item.text("Parent"))) else {
            continue;
        };
        let kind = controller.text("ResourceType");
        let Some(greatest) = greatest_address(kind, controller.text("ResourceSubType")) else { continue };
        // Without one the importer chooses.
        if said.is_empty() {
            continue;
        }
        let address = said.parse::<u64>().ok();
        let is_free = address.is_some_and(|at| at <= greatest && (kind != SCSI || at != SCSI_OWN));
        findings.check(is_free, rules::OVF_ADDRESS, || {
            let own = if kind == SCSI { ", without 7" } else { "" };
            format!("{} is at {said:?}, and addresses there are 0 to {greatest}{own}", named(item))
        });
    }
    pairs(items, |one, other| {
        let place =
            |item: &Item<'_, '_>| (item.text("Parent").to_owned(), item.text("AddressOnParent").to_owned());
        let (parent, address) = place(one);
        if !parent.is_empty() && !address.is_empty() && place(other) == (parent.clone(), address.clone()) {
            let detail = format!("{} and {} are both at {address} of {parent:?}", named(one), named(other));
            findings.add(rules::OVF_ADDRESS, detail);
        }
    });
}

/// Each two of the items that hold in one configuration.
fn pairs<'a, 'i>(items: &[&Item<'a, 'i>], mut look: impl FnMut(&Item<'a, 'i>, &Item<'a, 'i>)) {
    // A description of many thousand items would keep it for hours: a machine has fewer than a hundred.
    const LIMIT: usize = 1000;
    for (index, one) in items.iter().take(LIMIT).enumerate() {
        for other in items.iter().take(LIMIT).skip(index + 1).filter(|other| one.meets(other)) {
            look(one, other);
        }
    }
}

fn firmware(hardware: Node<'_, '_>, findings: &mut Findings) {
    let value = |key: &str| {
        let mut configs =
            children(hardware, "Config").filter(|node| node.tag_name().namespace() == Some(VMWARE));
        configs
            .find(|node| node.attribute((VMWARE, "key")) == Some(key))
            .and_then(|node| node.attribute((VMWARE, "value")))
    };
    let firmware = value("firmware");
    if let Some(firmware) = firmware {
        findings.check(["bios", "efi"].contains(&firmware), rules::OVF_FIRMWARE, || {
            format!("it is {firmware:?}")
        });
    }
    if let Some(secure) = value("bootOptions.efiSecureBootEnabled") {
        findings.check(["true", "false"].contains(&secure), rules::OVF_SECURE_BOOT, || {
            format!("efiSecureBootEnabled is {secure:?}")
        });
        // Without the setting the firmware is BIOS.
        findings.check(secure != "true" || firmware == Some("efi"), rules::OVF_SECURE_BOOT, || {
            format!("it is switched on, and the firmware is {:?}", firmware.unwrap_or("bios"))
        });
    }
}
