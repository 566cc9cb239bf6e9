//! Rules of XVA.

use std::collections::BTreeMap;
use std::io::{BufReader, Read};

use flate2::read::MultiGzDecoder;
use roxmltree::{Document, Node};
use sha1::{Digest, Sha1};
use tar::{Archive, EntryType};
use twox_hash::XxHash64;

use super::part::Part;
use super::{Findings, rules};
use crate::xva::CHUNK_BYTES;
use crate::{Error, hex};

/// The longest ova.xml that is read.
const RECORDS_LIMIT: u64 = 2 << 20;
/// The newest version of xapi that every host takes: 1.9.
const XAPI: (u32, u32) = (1, 9);
/// Fields of the version without which an import ends (`importexport.ml`, `version_of_rpc`).
const VERSION_FIELDS: [&str; 5] = ["hostname", "date", "product_version", "product_brand", "build_number"];
/// What a record refers to, by class and field, and which class that is of (`import.ml`).
const REFERENCES: [(&str, &str, &str); 5] = [
    ("VBD", "VM", "VM"),
    ("VBD", "VDI", "VDI"),
    ("VIF", "VM", "VM"),
    ("VIF", "network", "network"),
    ("VDI", "SR", "SR"),
];
/// A reference to nothing.
const NULL: &str = "OpaqueRef:NULL";
/// Fields without which an import ends, by class: those without a default in xapi's data model.
const FIELDS: [(&str, &[&str]); 6] = [
    ("network", &["uuid", "other_config"]),
    ("VIF", &["uuid", "device", "network", "VM", "MAC", "MTU", "other_config"]),
    (
        "SR",
        &[
            "uuid",
            "virtual_allocation",
            "physical_utilisation",
            "physical_size",
            "type",
            "content_type",
            "shared",
            "other_config",
        ],
    ),
    (
        "VM",
        &[
            "uuid",
            "name_label",
            "memory_static_max",
            "memory_static_min",
            "memory_dynamic_max",
            "memory_dynamic_min",
            "VCPUs_max",
            "VCPUs_at_startup",
            "VCPUs_params",
            "actions_after_crash",
            "VBDs",
            "VIFs",
            "HVM_boot_policy",
            "HVM_boot_params",
            "platform",
            "other_config",
            "power_state",
            "is_a_template",
            "PV_bootloader",
            "PV_kernel",
            "PV_args",
            "affinity",
            "blocked_operations",
            "tags",
            "xenstore_data",
            "domain_type",
        ],
    ),
    (
        "VBD",
        &[
            "uuid",
            "VM",
            "VDI",
            "userdevice",
            "bootable",
            "mode",
            "type",
            "empty",
            "other_config",
            "unpluggable",
        ],
    ),
    (
        "VDI",
        &[
            "uuid",
            "name_label",
            "SR",
            "virtual_size",
            "type",
            "sharable",
            "read_only",
            "other_config",
            "managed",
            "tags",
        ],
    ),
];

/// What zstd's files begin with.
pub const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// Disks of a machine that are looked at.
const DISKS_LIMIT: usize = 64;
/// Bytes beside the disks' own that an archive may have for each of theirs: headers, checksums.
const BESIDE: u64 = 64 << 20;

/// Whether a file is a tar of a machine.
pub fn is_xva(file: &Part<'_>) -> bool {
    first_name(file.stream()).is_some_and(|name| name == "ova.xml" || name.starts_with("Ref:"))
}

/// Whether a file is such a tar with gzip.
pub fn is_gzipped(file: &Part<'_>) -> bool {
    first_name(MultiGzDecoder::new(file.stream()))
        .is_some_and(|name| name == "ova.xml" || name.starts_with("Ref:"))
}

fn first_name(stream: impl Read) -> Option<String> {
    let mut archive = Archive::new(stream);
    let entry = archive.entries().ok()?.raw(true).next()?.ok()?;
    Some(String::from_utf8_lossy(&entry.path_bytes()).into_owned())
}

/// Looks at an XVA.
pub fn verify(file: &Part<'_>, findings: &mut Findings) -> Result<(), Error> {
    if file.read(0, ZSTD.len()).is_ok_and(|magic| magic == ZSTD) {
        findings.add(
            rules::XVA_READABLE,
            "it is compressed with zstd, which older versions do not know; nothing in it was looked at",
        );
        return Ok(());
    }
    let is_plain = file.read(0, 2).is_ok_and(|magic| magic != [0x1f, 0x8b]);
    let stream: Box<dyn Read> = if is_plain {
        Box::new(BufReader::with_capacity(1 << 20, file.stream()))
    } else {
        Box::new(MultiGzDecoder::new(BufReader::with_capacity(1 << 20, file.stream())))
    };
    let mut archive = Archive::new(stream);
    let mut disks = Disks::default();
    let mut sizes = None;
    let entries = match archive.entries() {
        Ok(entries) => entries.raw(true),
        Err(error) => {
            findings.add(rules::XVA_READABLE, error.to_string());
            return Ok(());
        }
    };
    let mut total = 0u64;
    for (number, entry) in entries.enumerate() {
        let mut entry = match entry {
            Ok(entry) => entry,
            Err(error) => {
                findings.add(rules::XVA_READABLE, error.to_string());
                break;
            }
        };
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        // Compressed, a small file may hold years of members.
        let allowed = sizes.as_ref().map_or(BESIDE, |sizes: &Sizes| {
            let known = sizes.values().flatten();
            known.fold(BESIDE, |sum, size| sum.saturating_add(*size).saturating_add(size / 256))
        });
        total = total.saturating_add(512).saturating_add(entry.size());
        if total > allowed {
            findings.add(
                rules::XVA_READABLE,
                format!("it holds more than {allowed} bytes, which its disks have"),
            );
            break;
        }
        if entry.header().entry_type() != EntryType::Regular {
            findings.add(rules::XVA_NAMES, format!("{name} is no plain file"));
            continue;
        }
        let limit = if name == "ova.xml" { RECORDS_LIMIT } else { CHUNK_BYTES };
        let mut content = Vec::new();
        if entry.size() <= limit
            && let Err(error) = entry.read_to_end(&mut content)
        {
            findings.add(rules::XVA_READABLE, format!("{name}: {error}"));
            break;
        }
        if name == "ova.xml" {
            findings.check(number == 0, rules::XVA_OVA_XML_FIRST, || format!("it is member {}", number + 1));
            sizes = records(&String::from_utf8_lossy(&content), findings);
        } else {
            findings.check(number > 0, rules::XVA_OVA_XML_FIRST, || format!("{name} comes first"));
            disks.member(&name, entry.size(), &content, findings);
        }
    }
    disks.end(sizes.as_ref(), findings);
    Ok(())
}

/// The disks by their references, with their sizes in bytes where these are numbers.
type Sizes = BTreeMap<String, Option<u64>>;

/// What came of the disks so far.
#[derive(Default)]
struct Disks {
    /// The chunk whose checksum must come now: name, SHA-1, XXH64.
    awaited: Option<(String, String, String)>,
    /// Reference of the current disk.
    current: String,
    /// The disks by their references.
    seen: BTreeMap<String, Seen>,
}

/// A disk so far.
struct Seen {
    /// Number of the first chunk.
    first: u64,
    /// Length of the first chunk, in which importers count what is left out.
    unit: u64,
    /// Number and length of the last one.
    last: (u64, u64),
    /// Byte of the disk after it.
    reached: u64,
}

impl Disks {
    fn member(&mut self, name: &str, bytes: u64, content: &[u8], findings: &mut Findings) {
        if let Some((chunk, sha1, xxh)) = self.awaited.take() {
            let found = String::from_utf8_lossy(content);
            let expected = match name.strip_prefix(chunk.as_str()) {
                Some(".checksum") => Some(sha1),
                Some(".xxhash") => Some(xxh),
                _ => None,
            };
            match expected {
                Some(expected) => {
                    findings.check(found == expected, rules::XVA_CHECKSUM, || {
                        format!("{name} says {found:?}, the chunk has {expected}")
                    });
                    return;
                }
                None => findings.add(rules::XVA_CHECKSUM_FOLLOWS, format!("{name} comes after {chunk}")),
            }
        }
        let parts = name.split_once('/').and_then(|(disk, number)| {
            let is_number = number.len() >= 8 && number.bytes().all(|byte| byte.is_ascii_digit());
            (disk.starts_with("Ref:") && is_number)
                .then(|| Some((disk, number.parse::<u64>().ok()?)))
                .flatten()
        });
        let Some((disk, number)) = parts else {
            let is_checksum = name.ends_with(".checksum") || name.ends_with(".xxhash");
            let id = if is_checksum { rules::XVA_CHECKSUM_FOLLOWS } else { rules::XVA_NAMES };
            findings.add(id, format!("there is {name}"));
            return;
        };
        if disk != self.current {
            findings.check(disk > self.current.as_str(), rules::XVA_CHUNK_ORDER, || {
                format!("{disk} comes after {}", self.current)
            });
            self.current = disk.to_owned();
        }
        let count = self.seen.len();
        match self.seen.get_mut(disk) {
            None if count >= DISKS_LIMIT => {
                findings.add(rules::XVA_NAMES, format!("{name} is of more than {DISKS_LIMIT} disks"));
                return;
            }
            None => {
                let reached = number.saturating_mul(CHUNK_BYTES).saturating_add(bytes);
                let seen = Seen { first: number, unit: bytes, last: (number, bytes), reached };
                self.seen.insert(disk.to_owned(), seen);
            }
            Some(seen) => {
                let (last, last_bytes) = seen.last;
                findings.check(number > last, rules::XVA_CHUNK_ORDER, || {
                    format!("{name} comes after chunk {last}")
                });
                // XenServer writes empty ones now and then, so that a long run of zeros does not look like a broken connection.
                findings.check([0, CHUNK_BYTES].contains(&last_bytes), rules::XVA_CHUNK_SIZE, || {
                    format!("chunk {last} has {last_bytes} bytes")
                });
                let skipped = number.saturating_sub(last).saturating_sub(1).saturating_mul(seen.unit);
                seen.reached = seen.reached.saturating_add(skipped).saturating_add(bytes);
                seen.last = (number, bytes);
            }
        }
        findings.check(bytes <= CHUNK_BYTES, rules::XVA_CHUNK_SIZE, || format!("{name} has {bytes} bytes"));
        let sha1 = hex(&Sha1::digest(content));
        self.awaited = Some((name.to_owned(), sha1, format!("{:016X}", XxHash64::oneshot(0, content))));
    }

    fn end(self, sizes: Option<&Sizes>, findings: &mut Findings) {
        if let Some((chunk, _, _)) = self.awaited {
            findings.add(rules::XVA_CHECKSUM_FOLLOWS, format!("nothing comes after {chunk}"));
        }
        // Without records it has been said already that they are missing.
        let Some(sizes) = sizes else { return };
        for disk in self.seen.keys().filter(|disk| !sizes.contains_key(*disk)) {
            findings.add(rules::XVA_NAMES, format!("{disk} is no disk of the machine"));
        }
        for (disk, size) in sizes.iter().filter_map(|(disk, size)| Some((disk, size.as_ref()?))) {
            let Some(Seen { first, last: (last, _), reached, .. }) = self.seen.get(disk) else {
                findings.add(rules::XVA_ENDS, format!("{disk} is not there"));
                continue;
            };
            findings.check(*first == 0 && reached == size, rules::XVA_ENDS, || {
                format!("{disk} is of {size} bytes, and its chunks go from {first} to {last} and end at byte {reached}")
            });
        }
    }
}

/// The value of a member of an XML-RPC struct.
fn member<'a, 'i>(structure: Node<'a, 'i>, name: &str) -> Option<Node<'a, 'i>> {
    let elements = |node: Node<'a, 'i>| node.children().filter(Node::is_element);
    let found = elements(structure).find(|member| {
        elements(*member).any(|part| part.has_tag_name("name") && part.text().unwrap_or_default() == name)
    })?;
    let value = elements(found).find(|part| part.has_tag_name("value"))?;
    Some(elements(value).next().unwrap_or(value))
}

fn text(structure: Node<'_, '_>, name: &str) -> String {
    member(structure, name).and_then(|value| value.text()).unwrap_or_default().trim().to_owned()
}

/// Looks at the records; gives the disks' sizes by their references.
fn records(xml: &str, findings: &mut Findings) -> Option<Sizes> {
    if let Err(cause) = crate::xml::is_moderate(xml) {
        findings.add(rules::XVA_RECORDS, cause);
        return None;
    }
    let document = match Document::parse(xml) {
        Ok(document) => document,
        Err(error) => {
            findings.add(rules::XVA_RECORDS, error.to_string());
            return None;
        }
    };
    let root = document.root_element().first_element_child();
    let version = root.and_then(|root| member(root, "version"));
    let objects = root.and_then(|root| member(root, "objects"));
    let (Some(version), Some(objects)) = (version, objects) else {
        findings.add(rules::XVA_RECORDS, "version or objects are missing");
        return None;
    };
    let number = |name: &str| text(version, name).parse::<u32>().ok();
    let xapi = (number("xapi_major"), number("xapi_minor"));
    let is_old = matches!(xapi, (Some(major), Some(minor)) if (major, minor) <= XAPI);
    findings.check(is_old && number("export_vsn") == Some(2), rules::XVA_VERSION, || {
        let [major, minor, export] =
            ["xapi_major", "xapi_minor", "export_vsn"].map(|name| text(version, name));
        format!("it says xapi {major:?}.{minor:?}, export_vsn {export:?}")
    });
    for field in VERSION_FIELDS {
        findings.check(member(version, field).is_some(), rules::XVA_FIELDS, || {
            format!("the version has no {field}")
        });
    }
    let mut sizes = BTreeMap::new();
    let mut classes = BTreeMap::new();
    let mut references = Vec::new();
    for object in objects.descendants().filter(|node| node.has_tag_name("struct")) {
        let Some(snapshot) = member(object, "snapshot") else { continue };
        let class = text(object, "class");
        if let Some((_, fields)) = FIELDS.iter().find(|(name, _)| *name == class) {
            for field in *fields {
                findings.check(member(snapshot, field).is_some(), rules::XVA_FIELDS, || {
                    format!("{class} has no {field}")
                });
            }
        }
        match class.as_str() {
            "VM" => machine(snapshot, findings),
            "VDI" => {
                let size = text(snapshot, "virtual_size");
                // Without one nothing can be said of its chunks, but that they are its own.
                sizes.insert(text(object, "id"), size.parse().ok());
                findings.check(size.parse::<u64>().is_ok(), rules::XVA_FIELDS, || {
                    format!("virtual_size is {size:?}")
                });
            }
            _ => {}
        }
        for (_, field, to) in REFERENCES.iter().filter(|(from, ..)| *from == class) {
            references.push((format!("{class} {field}"), text(snapshot, field), *to));
        }
        classes.insert(text(object, "id"), class);
    }
    for needed in ["VM", "VBD", "VDI", "SR"] {
        findings.check(classes.values().any(|class| class == needed), rules::XVA_RECORDS, || {
            format!("there is no {needed}")
        });
    }
    // An empty drive has no disk.
    for (what, to, class) in references.iter().filter(|(_, to, _)| to != NULL && !to.is_empty()) {
        findings.check(classes.get(to).is_some_and(|found| found == class), rules::XVA_REFERENCES, || {
            format!("{what} is {to}, and there is no such {class}")
        });
    }
    Some(sizes)
}

fn machine(vm: Node<'_, '_>, findings: &mut Findings) {
    let policy = text(vm, "HVM_boot_policy");
    let is_hvm = !policy.is_empty() || text(vm, "domain_type") == "hvm";
    findings.check(is_hvm, rules::XVA_HVM, || "neither it nor domain_type is".into());
    let firmware = member(vm, "HVM_boot_params").map(|params| text(params, "firmware")).unwrap_or_default();
    let platform = member(vm, "platform");
    let of = |name: &str| platform.map(|platform| text(platform, name)).unwrap_or_default();
    let model = of("device-model");
    let is_refused = match model.as_str() {
        "qemu-upstream-uefi" => firmware != "uefi",
        "qemu-trad" => firmware == "uefi",
        _ => false,
    };
    findings.check(!is_refused, rules::XVA_DEVICE_MODEL, || {
        format!("firmware is {firmware:?}, device-model {model:?}")
    });
}
