//! Rules of XVA.

use std::collections::BTreeMap;
use std::io::{BufReader, Read};

use flate2::read::MultiGzDecoder;
use roxmltree::{Document, Node};
use sha1::{Digest, Sha1};
use tar::{Archive, EntryType};
use twox_hash::XxHash64;

use super::Findings;
use super::part::Part;
use crate::xva::CHUNK_BYTES;
use crate::{Error, hex};

/// The longest ova.xml that is read.
const RECORDS_LIMIT: u64 = 2 << 20;
/// The newest version of xapi that every host takes: 1.9.
const XAPI: (u32, u32) = (1, 9);
/// Fields without which an import ends, by class.
const FIELDS: [(&str, &[&str]); 3] = [
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
            "xva.readable",
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
            findings.add("xva.readable", error.to_string());
            return Ok(());
        }
    };
    let mut total = 0u64;
    for (number, entry) in entries.enumerate() {
        let mut entry = match entry {
            Ok(entry) => entry,
            Err(error) => {
                findings.add("xva.readable", error.to_string());
                break;
            }
        };
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        // Compressed, a small file may hold years of members.
        let allowed = sizes.as_ref().map_or(BESIDE, |sizes: &BTreeMap<String, u64>| {
            sizes.values().fold(BESIDE, |sum, size| sum.saturating_add(*size).saturating_add(size / 256))
        });
        total = total.saturating_add(512).saturating_add(entry.size());
        if total > allowed {
            findings.add("xva.readable", format!("it holds more than {allowed} bytes, which its disks have"));
            break;
        }
        if entry.header().entry_type() != EntryType::Regular {
            findings.add("xva.names", format!("{name} is of kind {:?}", entry.header().entry_type()));
            continue;
        }
        let limit = if name == "ova.xml" { RECORDS_LIMIT } else { CHUNK_BYTES };
        let mut content = Vec::new();
        if entry.size() <= limit
            && let Err(error) = entry.read_to_end(&mut content)
        {
            findings.add("xva.readable", format!("{name}: {error}"));
            break;
        }
        if name == "ova.xml" {
            findings.check(number == 0, "xva.ova-xml-first", || format!("it is member {}", number + 1));
            sizes = records(&String::from_utf8_lossy(&content), findings);
        } else {
            findings.check(number > 0, "xva.ova-xml-first", || format!("{name} comes first"));
            disks.member(&name, entry.size(), &content, findings);
        }
    }
    disks.end(&sizes.unwrap_or_default(), findings);
    Ok(())
}

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
                    findings.check(found == expected, "xva.checksum", || {
                        format!("{name} says {found:?}, the chunk has {expected}")
                    });
                    return;
                }
                None => findings.add("xva.checksum-follows", format!("{name} comes after {chunk}")),
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
            let id = if is_checksum { "xva.checksum-follows" } else { "xva.names" };
            findings.add(id, format!("there is {name}"));
            return;
        };
        if disk != self.current {
            findings.check(disk > self.current.as_str(), "xva.chunk-order", || {
                format!("{disk} comes after {}", self.current)
            });
            self.current = disk.to_owned();
        }
        let count = self.seen.len();
        match self.seen.get_mut(disk) {
            None if count >= DISKS_LIMIT => {
                findings.add("xva.names", format!("{name} is of more than {DISKS_LIMIT} disks"));
                return;
            }
            None => {
                let reached = number.saturating_mul(CHUNK_BYTES).saturating_add(bytes);
                let seen = Seen { first: number, unit: bytes, last: (number, bytes), reached };
                self.seen.insert(disk.to_owned(), seen);
            }
            Some(seen) => {
                let (last, last_bytes) = seen.last;
                findings
                    .check(number > last, "xva.chunk-order", || format!("{name} comes after chunk {last}"));
                // XenServer writes empty ones now and then, so that a long run of zeros does not look like a broken connection.
                findings.check([0, CHUNK_BYTES].contains(&last_bytes), "xva.chunk-size", || {
                    format!("chunk {last} has {last_bytes} bytes")
                });
                let skipped = number.saturating_sub(last).saturating_sub(1).saturating_mul(seen.unit);
                seen.reached = seen.reached.saturating_add(skipped).saturating_add(bytes);
                seen.last = (number, bytes);
            }
        }
        findings.check(bytes <= CHUNK_BYTES, "xva.chunk-size", || format!("{name} has {bytes} bytes"));
        let sha1 = hex(&Sha1::digest(content));
        self.awaited = Some((name.to_owned(), sha1, format!("{:016X}", XxHash64::oneshot(0, content))));
    }

    fn end(self, sizes: &BTreeMap<String, u64>, findings: &mut Findings) {
        if let Some((chunk, _, _)) = self.awaited {
            findings.add("xva.checksum-follows", format!("nothing comes after {chunk}"));
        }
        for (disk, size) in sizes {
            let Some(Seen { first, last: (last, _), reached, .. }) = self.seen.get(disk) else {
                findings.add("xva.ends", format!("{disk} is not there"));
                continue;
            };
            findings.check(*first == 0 && reached == size, "xva.ends", || {
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
fn records(xml: &str, findings: &mut Findings) -> Option<BTreeMap<String, u64>> {
    if let Err(cause) = crate::xml::is_moderate(xml) {
        findings.add("xva.records", cause);
        return None;
    }
    let document = match Document::parse(xml) {
        Ok(document) => document,
        Err(error) => {
            findings.add("xva.records", error.to_string());
            return None;
        }
    };
    let root = document.root_element().first_element_child();
    let version = root.and_then(|root| member(root, "version"));
    let objects = root.and_then(|root| member(root, "objects"));
    let (Some(version), Some(objects)) = (version, objects) else {
        findings.add("xva.records", "version or objects are missing");
        return None;
    };
    let number = |name: &str| text(version, name).parse::<u32>().ok();
    let xapi = (number("xapi_major"), number("xapi_minor"));
    let is_old = matches!(xapi, (Some(major), Some(minor)) if (major, minor) <= XAPI);
    findings.check(is_old && number("export_vsn") == Some(2), "xva.version", || {
        format!("it says xapi {xapi:?}, export_vsn {:?}", number("export_vsn"))
    });
    let mut sizes = BTreeMap::new();
    let mut classes = Vec::new();
    for object in objects.descendants().filter(|node| node.has_tag_name("struct")) {
        let Some(snapshot) = member(object, "snapshot") else { continue };
        let class = text(object, "class");
        if let Some((_, fields)) = FIELDS.iter().find(|(name, _)| *name == class) {
            for field in *fields {
                findings.check(member(snapshot, field).is_some(), "xva.fields", || {
                    format!("{class} has no {field}")
                });
            }
        }
        match class.as_str() {
            "VM" => machine(snapshot, findings),
            "VDI" => {
                if let Ok(size) = text(snapshot, "virtual_size").parse() {
                    sizes.insert(text(object, "id"), size);
                }
            }
            _ => {}
        }
        classes.push(class);
    }
    for needed in ["VM", "VBD", "VDI", "SR"] {
        findings.check(classes.iter().any(|class| class == needed), "xva.records", || {
            format!("there is no {needed}")
        });
    }
    Some(sizes)
}

fn machine(vm: Node<'_, '_>, findings: &mut Findings) {
    let policy = text(vm, "HVM_boot_policy");
    let is_hvm = !policy.is_empty() || text(vm, "domain_type") == "hvm";
    findings.check(is_hvm, "xva.hvm", || "neither it nor domain_type is".into());
    let firmware = member(vm, "HVM_boot_params").map(|params| text(params, "firmware")).unwrap_or_default();
    let platform = member(vm, "platform");
    let of = |name: &str| platform.map(|platform| text(platform, name)).unwrap_or_default();
    let model = of("device-model");
    let is_refused = match model.as_str() {
        "qemu-upstream-uefi" => firmware != "uefi",
        "qemu-trad" => firmware == "uefi",
        _ => false,
    };
    findings.check(!is_refused, "xva.device-model", || {
        format!("firmware is {firmware:?}, device-model {model:?}")
    });
}
