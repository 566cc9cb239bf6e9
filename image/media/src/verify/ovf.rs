//! Rules of OVF: the description.

use std::collections::BTreeSet;

use roxmltree::{Document, Node};

use super::hardware::{self, SCSI};
use super::{Findings, rules};
use crate::MIB;
use crate::ovf::STREAM_OPTIMIZED;

const ENVELOPE: &str = "http://schemas.dmtf.org/ovf/envelope/1";
pub(super) const VMWARE: &str = "http://www.vmware.com/schema/ovf";
/// The newest virtual hardware that vSphere 7 knows.
const HARDWARE_LIMIT: u32 = 17;
/// Guests that only new hosts know.
const NEW_GUESTS: [&str; 4] = ["debian12Guest", "debian12_64Guest", "debian13Guest", "debian13_64Guest"];
/// Kinds of SCSI controllers as VMware writes them.
const CONTROLLERS: [&str; 3] = ["lsilogic", "lsilogicsas", "VirtualSCSI"];
/// Network cards as VMware writes them nowhere.
const SHOUTED: [&str; 3] = ["VMXNET3", "VMXNET2", "E1000E"];
/// CIM's number of network cards.
const ETHERNET: &str = "10";
/// Where content has its sections.
const SECTIONED: [&str; 3] = ["Envelope", "VirtualSystem", "VirtualSystemCollection"];

/// A file that the description names.
#[derive(Debug, PartialEq, Eq)]
pub struct File {
    pub name: String,
    /// Its size, if that is said.
    pub bytes: Option<u64>,
    /// The size of its pieces, if it is in pieces.
    pub chunk_bytes: Option<u64>,
    /// Size of the disk in it, if it is one and that is said.
    pub capacity: Option<u64>,
}

/// What the description is about.
#[derive(Debug)]
pub struct Described {
    pub files: Vec<File>,
}

pub(super) fn children<'a, 'i: 'a>(
    node: Node<'a, 'i>,
    name: &'static str,
) -> impl Iterator<Item = Node<'a, 'i>> {
    node.descendants().filter(move |node| node.is_element() && node.tag_name().name() == name)
}

/// What the first element of this name right in `node` says; empty without one.
pub(super) fn text<'a>(node: Node<'a, '_>, name: &str) -> &'a str {
    let mut elements = node.children().filter(|child| child.tag_name().name() == name);
    elements.next().and_then(|child| child.text()).unwrap_or_default().trim()
}

/// Whether an importer may leave it out.
fn is_optional(node: Node<'_, '_>) -> bool {
    matches!(attribute(node, "required"), Some("false" | "0"))
}

pub(super) fn attribute<'a>(node: Node<'a, '_>, name: &str) -> Option<&'a str> {
    node.attribute((ENVELOPE, name)).or_else(|| node.attribute(name))
}

/// Looks at a description; `None`: it is none.
pub fn verify(text: &str, findings: &mut Findings) -> Option<Described> {
    if let Err(cause) = crate::xml::is_moderate(text) {
        findings.add(rules::OVF_WELL_FORMED, cause);
        return None;
    }
    let document = match Document::parse(text) {
        Ok(document) => document,
        Err(error) => {
            findings.add(rules::OVF_WELL_FORMED, error.to_string());
            return None;
        }
    };
    let root = document.root_element();
    if root.tag_name().name() != "Envelope" || root.tag_name().namespace() != Some(ENVELOPE) {
        let (name, space) = (root.tag_name().name(), root.tag_name().namespace());
        let of = space.unwrap_or("no namespace");
        findings.add(rules::OVF_WELL_FORMED, format!("its root is {name} of {of}"));
        return None;
    }
    let systems = children(root, "VirtualSystem").count();
    let collections = children(root, "VirtualSystemCollection").count();
    findings.check(systems > 0, rules::OVF_SYSTEM, || "there is none".into());
    findings.check(systems <= 1 && collections == 0, rules::OVF_ONE_SYSTEM, || {
        format!("there are {systems} virtual systems and {collections} collections")
    });
    for hardware in children(root, "VirtualHardwareSection") {
        hardware::verify(hardware, findings);
    }
    names(root, findings);
    families(root, findings);
    sections(root, findings);
    references(root, findings);
    Some(Described { files: files(root, findings) })
}

/// What is referred to by a name has one of its own.
fn names(root: Node<'_, '_>, findings: &mut Findings) {
    for (element, key) in [
        ("Disk", "diskId"),
        ("File", "id"),
        ("File", "href"),
        ("Network", "name"),
        ("Configuration", "id"),
        ("VirtualSystem", "id"),
    ] {
        let mut seen = BTreeSet::new();
        for node in children(root, element).filter(|node| node.tag_name().namespace() == Some(ENVELOPE)) {
            match attribute(node, key) {
                Some(name) => findings.check(seen.insert(name), rules::OVF_NAMES, || {
                    format!("{element} has the {key} {name:?} twice")
                }),
                None => findings.add(rules::OVF_NAMES, format!("a {element} has no {key}")),
            }
        }
    }
}

fn families(root: Node<'_, '_>, findings: &mut Findings) {
    for node in children(root, "VirtualSystemType") {
        let families: Vec<&str> = node.text().unwrap_or_default().split([' ', ',']).collect();
        let is_known = |family: &&str| {
            family
                .strip_prefix("vmx-")
                .and_then(|number| number.parse().ok())
                .is_some_and(|number: u32| number <= HARDWARE_LIMIT)
        };
        findings.check(families.iter().any(is_known), rules::OVF_HARDWARE, || {
            format!("it asks for {}", families.join(" "))
        });
    }
    for node in children(root, "OperatingSystemSection") {
        let guest = node.attribute((VMWARE, "osType")).unwrap_or_default();
        findings.check(!NEW_GUESTS.contains(&guest), rules::OVF_GUEST, || format!("it is {guest}"));
    }
    for node in children(root, "Item") {
        let kind = text(node, "ResourceSubType");
        findings.check(!SHOUTED.contains(&kind), rules::OVF_NIC, || format!("it is {kind:?}"));
        findings.check(
            text(node, "ResourceType") != SCSI || CONTROLLERS.contains(&kind),
            rules::OVF_CONTROLLER,
            || format!("it is {kind:?}"),
        );
    }
    for name in ["Config", "ExtraConfig"] {
        for node in children(root, name).filter(|node| node.tag_name().namespace() == Some(VMWARE)) {
            let key = node.attribute((VMWARE, "key")).unwrap_or_default();
            findings
                .check(is_optional(node), rules::OVF_REQUIRED, || format!("vmw:{name} {key} is not marked"));
        }
    }
}

fn sections(root: Node<'_, '_>, findings: &mut Findings) {
    for node in root.descendants().filter(Node::is_element) {
        let name = node.tag_name().name();
        let lower = name.to_lowercase();
        let holder = node.parent_element().map(|parent| parent.tag_name().name()).unwrap_or_default();
        let space = node.tag_name().namespace();
        if SECTIONED.contains(&holder) && space != Some(ENVELOPE) && space != Some(VMWARE) {
            findings.check(is_optional(node), rules::OVF_SECTION, || {
                format!("{name} of {} is not marked", space.unwrap_or("no namespace"))
            });
        }
        if lower.starts_with("bootorder") {
            findings.add(rules::OVF_BOOT_ORDER, format!("there is a {name}"));
        } else if lower.starts_with("eula") {
            findings.add(rules::OVF_EULA, format!("there is an {name}"));
        } else if ["virtualsystemotherconfigurationdata", "startupsection"].contains(&lower.as_str())
            || node.tag_name().namespace().is_some_and(|space| space.to_lowercase().contains("xen"))
        {
            findings.add(rules::OVF_XEN, format!("there is {name}"));
        }
    }
}

/// What a system's resources, and its properties, say of others.
fn references(root: Node<'_, '_>, findings: &mut Findings) {
    let all = |name, key: &'static str| -> BTreeSet<&str> {
        children(root, name).filter_map(|node| attribute(node, key)).collect()
    };
    let (disks, files, networks) = (all("Disk", "diskId"), all("File", "id"), all("Network", "name"));
    let configurations = all("Configuration", "id");
    for hardware in children(root, "VirtualHardwareSection") {
        let items = || hardware.children().filter(|node| node.tag_name().name() == "Item");
        let ids: BTreeSet<&str> = items().map(|item| text(item, "InstanceID")).collect();
        for item in items() {
            let mut there = |is_there: bool, what: &str, name: &str| {
                findings.check(is_there, rules::OVF_REFERENCES, || {
                    let id = text(item, "InstanceID");
                    format!("the resource {id} names the {what} {name:?}, which is not there")
                });
            };
            let parent = text(item, "Parent");
            there(parent.is_empty() || ids.contains(parent), "parent", parent);
            let host = text(item, "HostResource");
            let host = host.strip_prefix("ovf:").unwrap_or(host);
            if let Some(disk) = host.strip_prefix("/disk/") {
                there(disks.contains(disk), "disk", disk);
            } else if let Some(file) = host.strip_prefix("/file/") {
                there(files.contains(file), "file", file);
            }
            if text(item, "ResourceType") == ETHERNET {
                let network = text(item, "Connection");
                there(network.is_empty() || networks.contains(network), "network", network);
            }
            for name in attribute(item, "configuration").unwrap_or_default().split_whitespace() {
                there(configurations.contains(name), "configuration", name);
            }
        }
    }
    for section in children(root, "ProductSection") {
        let mut keys = BTreeSet::new();
        for key in children(section, "Property").filter_map(|node| attribute(node, "key")) {
            findings.check(keys.insert(key), rules::OVF_PROPERTIES, || format!("{key} is there twice"));
        }
    }
}

fn files(root: Node<'_, '_>, findings: &mut Findings) -> Vec<File> {
    let disks: Vec<Node<'_, '_>> = children(root, "Disk").collect();
    let ids: Vec<&str> = children(root, "File").filter_map(|node| attribute(node, "id")).collect();
    // A disk without one is empty, which is allowed.
    for id in disks.iter().filter_map(|disk| attribute(*disk, "fileRef")) {
        findings.check(ids.contains(&id), rules::OVF_DISK_FILE, || {
            format!("{id:?} is no file of the description")
        });
    }
    let mut files = Vec::new();
    for node in children(root, "File") {
        let name = attribute(node, "href").unwrap_or_default().to_owned();
        let id = attribute(node, "id");
        let disk = disks.iter().find(|disk| id.is_some() && attribute(**disk, "fileRef") == id);
        if let Some(disk) = disk {
            let format = attribute(*disk, "format").unwrap_or_default();
            findings.check(format == STREAM_OPTIMIZED || !format.contains("vmdk"), rules::OVF_FORMAT, || {
                format!("{name} is {format:?}")
            });
        }
        let capacity = disk.and_then(|disk| capacity(*disk));
        findings.check(
            disk.is_none() || capacity.is_some_and(|bytes| bytes.is_multiple_of(MIB)),
            rules::OVF_CAPACITY,
            || match capacity {
                Some(bytes) => format!("{name} is said to be of {bytes} bytes"),
                None => format!("the capacity of {name} is not understood"),
            },
        );
        let bytes = attribute(node, "size").and_then(|size| match size.parse() {
            Ok(bytes) => Some(bytes),
            Err(_) => {
                findings.add(rules::OVF_FILE_SIZE, format!("ovf:size of {name} is {size:?}"));
                None
            }
        });
        let chunk_bytes = attribute(node, "chunkSize").and_then(|size| match size.parse() {
            Ok(bytes) if bytes > 0 => Some(bytes),
            _ => {
                findings.add(rules::OVF_CHUNKS, format!("ovf:chunkSize of {name} is {size:?}"));
                None
            }
        });
        files.push(File { name, bytes, chunk_bytes, capacity });
    }
    files
}

/// A disk's capacity in bytes, where it is understood.
fn capacity(disk: Node<'_, '_>) -> Option<u64> {
    let number: u64 = attribute(disk, "capacity")?.parse().ok()?;
    // Of the words for units only those of CIM are allowed here.
    let unit = match attribute(disk, "capacityAllocationUnits") {
        None => 1,
        Some(units) if units.trim().starts_with("byte") => hardware::unit(units)?,
        Some(_) => return None,
    };
    number.checked_mul(unit)
}
