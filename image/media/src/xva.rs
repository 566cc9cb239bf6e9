//! Machines as XVA, which XenServer and XCP-ng import with disk, processors, memory and network card.
//!
//! A tar: `ova.xml` (records of the management database, as XML-RPC values), then the disk in chunks of 1 MiB, each *immediately*
//! followed by its checksum. Chunks of zeros are left out, but for the first and the last (xapi-project/xen-api,
//! `ocaml/xapi/stream_vdi.ml`). The records hold every field that an import asks for ("Field X not present in rpc"); the set is the
//! one of vatesfr/xen-orchestra `@xen-orchestra/xva/templates`. SHA-1 and not XXH64 as checksum: versions before 2019 know no other.

use std::io::{self, Write};

use sha1::{Digest, Sha1};
use sha2::Sha256;

use crate::member::{END, member};
use crate::ordered::{ordered, workers};
use crate::xml::escape;
use crate::{Error, Firmware, MIB, Progress, Source, gzip, hex, is_zero};

/// Bytes of a chunk.
pub const CHUNK_BYTES: u64 = MIB;
/// The disk's reference; disks come in the order of theirs.
const DISK: &str = "Ref:3";

/// The machine.
#[derive(Debug, Clone)]
pub struct Machine {
    /// Its name.
    pub name: String,
    /// What it is.
    pub description: String,
    /// Processors.
    pub cores: u32,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// What boots it.
    pub firmware: Firmware,
    /// What all UUIDs are derived from; an import makes new ones.
    pub identity: [u8; 16],
    /// Date of everything in it, seconds since 1970.
    pub date: u64,
    /// Compression of the whole with gzip at this level; `None`: none.
    pub level: Option<u32>,
}

/// An XML-RPC value, as xapi writes them: numbers are strings.
enum Value {
    Text(String),
    Flag(bool),
    Date,
    List(Vec<String>),
    Map(Vec<(&'static str, Value)>),
}

impl Value {
    fn write(&self, out: &mut String) {
        *out += "<value>";
        match self {
            Self::Text(text) => *out += &escape(text),
            Self::Flag(flag) => *out += &format!("<boolean>{}</boolean>", u8::from(*flag)),
            Self::Date => *out += "<dateTime.iso8601>19700101T00:00:00Z</dateTime.iso8601>",
            Self::List(items) => {
                *out += "<array><data>";
                for item in items {
                    *out += &format!("<value>{}</value>", escape(item));
                }
                *out += "</data></array>";
            }
            Self::Map(members) => {
                *out += "<struct>";
                for (name, value) in members {
                    *out += &format!("<member><name>{name}</name>");
                    value.write(out);
                    *out += "</member>";
                }
                *out += "</struct>";
            }
        }
        *out += "</value>";
    }
}

fn text(text: impl Into<String>) -> Value {
    Value::Text(text.into())
}

fn list(items: &[&str]) -> Value {
    Value::List(items.iter().map(|item| (*item).to_owned()).collect())
}

const NULL: &str = "OpaqueRef:NULL";
const VM: &str = "Ref:0";
const VIF: &str = "Ref:1";
const NETWORK: &str = "Ref:2";
const SR: &str = "Ref:4";
const VBD: &str = "Ref:5";

/// A UUID that is the same for the same machine and object.
fn uuid(machine: &Machine, object: &str) -> String {
    let digest = Sha256::new().chain_update(machine.identity).chain_update(object).finalize();
    let hex = hex(&digest[..16]);
    // Version 8 (RFC 9562): made by one's own rule.
    format!("{}-{}-8{}-a{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..])
}

/// Many empty members of a record.
fn empty(names: &[&'static str], value: fn() -> Value) -> Vec<(&'static str, Value)> {
    names.iter().map(|name| (*name, value())).collect()
}

fn object(class: &str, reference: &str, snapshot: Vec<(&'static str, Value)>) -> Value {
    Value::Map(vec![("class", text(class)), ("id", text(reference)), ("snapshot", Value::Map(snapshot))])
}

fn vm(machine: &Machine) -> Value {
    let memory = machine.memory_bytes.to_string();
    let cores = machine.cores.to_string();
    let (firmware, model) = match machine.firmware {
        Firmware::Bios => ("bios", "qemu-upstream-compat"),
        Firmware::Uefi => ("uefi", "qemu-upstream-uefi"),
    };
    let platform = [
        ("timeoffset", "0"),
        ("device-model", model),
        // Needs certificates that the pool's administrator installs first.
        ("secureboot", "false"),
        ("hpet", "true"),
        ("nx", "true"),
        ("pae", "true"),
        ("apic", "true"),
        ("acpi", "1"),
        // Windows's interface, of which Linux has no use.
        ("viridian", "false"),
    ];
    let other = [
        ("base_template_name", "Other install media".to_owned()),
        ("mac_seed", uuid(machine, "mac seed")),
        ("install-methods", "cdrom".to_owned()),
    ];
    let map = |pairs: Vec<(&'static str, String)>| {
        Value::Map(pairs.into_iter().map(|(name, value)| (name, Value::Text(value))).collect())
    };
    let mut record = vec![
        ("uuid", text(uuid(machine, "VM"))),
        ("name_label", text(&machine.name)),
        ("name_description", text(&machine.description)),
        ("power_state", text("Halted")),
        ("user_version", text("1")),
        ("domain_type", text("hvm")),
        ("HVM_boot_policy", text("BIOS order")),
        ("HVM_boot_params", map(vec![("firmware", firmware.into()), ("order", "cdn".into())])),
        ("HVM_shadow_multiplier", text("1")),
        ("platform", map(platform.into_iter().map(|(name, value)| (name, value.to_owned())).collect())),
        ("other_config", map(other.into())),
        ("VCPUs_max", text(&cores)),
        ("VCPUs_at_startup", text(&cores)),
        ("actions_after_shutdown", text("destroy")),
        ("actions_after_reboot", text("restart")),
        ("actions_after_crash", text("restart")),
        ("VBDs", list(&[VBD])),
        ("VIFs", list(&[VIF])),
        ("reference_label", text("other-install-media")),
        ("snapshot_time", Value::Date),
        ("memory_overhead", text("11534336")),
        ("memory_target", text("0")),
        ("domid", text("-1")),
    ];
    for name in ["memory_static_max", "memory_static_min", "memory_dynamic_max", "memory_dynamic_min"] {
        record.push((name, text(&memory)));
    }
    let numbers = ["hardware_platform_version", "order", "shutdown_delay", "start_delay", "version"];
    record.extend(empty(&numbers, || text("0")));
    let flags = [
        "ha_always_run",
        "has_vendor_device",
        "is_a_template",
        "is_control_domain",
        "is_default_template",
        "is_a_snapshot",
        "is_snapshot_from_vmpp",
        "is_vmss_snapshot",
        "requires_reboot",
    ];
    record.extend(empty(&flags, || Value::Flag(false)));
    let references = [
        "affinity",
        "appliance",
        "guest_metrics",
        "metrics",
        "parent",
        "protection_policy",
        "resident_on",
        "scheduled_to_be_resident_on",
        "snapshot_of",
        "snapshot_schedule",
        "suspend_SR",
        "suspend_VDI",
    ];
    record.extend(empty(&references, || text(NULL)));
    let strings = [
        "PCI_bus",
        "PV_args",
        "PV_bootloader",
        "PV_bootloader_args",
        "PV_kernel",
        "PV_legacy_args",
        "PV_ramdisk",
        "domarch",
        "generation_id",
        "ha_restart_priority",
        "last_booted_record",
        "recommendations",
        "snapshot_metadata",
        "transportable_snapshot_id",
    ];
    record.extend(empty(&strings, || text("")));
    let lists = [
        "VGPUs",
        "VTPMs",
        "VUSBs",
        "allowed_operations",
        "attached_PCIs",
        "children",
        "consoles",
        "crash_dumps",
        "snapshots",
        "tags",
    ];
    record.extend(empty(&lists, || list(&[])));
    let maps = [
        "NVRAM",
        "VCPUs_params",
        "bios_strings",
        "blobs",
        "blocked_operations",
        "current_operations",
        "last_boot_CPU_flags",
        "snapshot_info",
        "xenstore_data",
    ];
    record.extend(empty(&maps, || Value::Map(Vec::new())));
    object("VM", VM, record)
}

fn vbd(machine: &Machine) -> Value {
    let mut record = vec![
        ("uuid", text(uuid(machine, "VBD"))),
        ("VM", text(VM)),
        ("VDI", text(DISK)),
        ("device", text("xvda")),
        ("userdevice", text("0")),
        ("bootable", Value::Flag(true)),
        ("mode", text("RW")),
        ("type", text("Disk")),
        ("metrics", text(NULL)),
        ("status_code", text("0")),
    ];
    record.extend(empty(&["currently_attached", "empty", "storage_lock", "unpluggable"], || {
        Value::Flag(false)
    }));
    record.extend(empty(&["qos_algorithm_type", "status_detail"], || text("")));
    record.extend(empty(&["allowed_operations", "qos_supported_algorithms"], || list(&[])));
    let maps = ["current_operations", "other_config", "qos_algorithm_params", "runtime_properties"];
    record.extend(empty(&maps, || Value::Map(Vec::new())));
    object("VBD", VBD, record)
}

fn vdi(machine: &Machine, disk: &Source) -> Value {
    let mut record = vec![
        ("uuid", text(uuid(machine, "VDI"))),
        ("name_label", text(format!("{} disk", machine.name))),
        ("name_description", text("system and data")),
        ("SR", text(SR)),
        ("VBDs", list(&[VBD])),
        ("vbds", list(&[VBD])),
        ("location", text(uuid(machine, "VDI"))),
        ("virtual_size", text(disk.bytes().to_string())),
        // What the file system keeps is no property of the disk, and nobody reads it at an import.
        ("physical_utilisation", text("0")),
        ("type", text("user")),
        ("on_boot", text("persist")),
        ("managed", Value::Flag(true)),
        ("snapshot_time", Value::Date),
    ];
    let flags = [
        "allow_caching",
        "cbt_enabled",
        "is_a_snapshot",
        "is_tools_iso",
        "missing",
        "read_only",
        "sharable",
        "storage_lock",
    ];
    record.extend(empty(&flags, || Value::Flag(false)));
    record.extend(empty(&["metadata_of_pool", "metrics", "parent", "snapshot_of"], || text(NULL)));
    record.extend(empty(&["allowed_operations", "crash_dumps", "snapshots", "tags"], || list(&[])));
    let maps = ["current_operations", "other_config", "sm_config", "xenstore_data"];
    record.extend(empty(&maps, || Value::Map(Vec::new())));
    object("VDI", DISK, record)
}

fn vif(machine: &Machine) -> Value {
    let mut record = vec![
        ("uuid", text(uuid(machine, "VIF"))),
        ("VM", text(VM)),
        ("network", text(NETWORK)),
        ("device", text("0")),
        ("MAC", text("")),
        ("MAC_autogenerated", Value::Flag(true)),
        ("MTU", text("1500")),
        ("metrics", text(NULL)),
        ("status_code", text("0")),
        ("locking_mode", text("network_default")),
    ];
    record.extend(empty(&["ipv4_configuration_mode", "ipv6_configuration_mode"], || text("None")));
    record.extend(empty(&["currently_attached", "unpluggable"], || Value::Flag(false)));
    record
        .extend(empty(&["ipv4_gateway", "ipv6_gateway", "qos_algorithm_type", "status_detail"], || text("")));
    let lists = [
        "allowed_operations",
        "ipv4_addresses",
        "ipv4_allowed",
        "ipv6_addresses",
        "ipv6_allowed",
        "qos_supported_algorithms",
    ];
    record.extend(empty(&lists, || list(&[])));
    let maps = ["current_operations", "other_config", "qos_algorithm_params", "runtime_properties"];
    record.extend(empty(&maps, || Value::Map(Vec::new())));
    object("VIF", VIF, record)
}

fn network(machine: &Machine) -> Value {
    let mut record = vec![
        ("uuid", text(uuid(machine, "network"))),
        // The name of the first card's network on every host; the import asks which one to use.
        ("name_label", text("Pool-wide network associated with eth0")),
        // Named, it would have to be there (xapi-project/xen-api issue 6040).
        ("bridge", text("")),
        ("MTU", text("1500")),
        ("VIFs", list(&[VIF])),
        ("managed", Value::Flag(true)),
        ("default_locking_mode", text("unlocked")),
        ("name_description", text("")),
    ];
    record.extend(empty(&["PIFs", "allowed_operations", "purpose", "tags"], || list(&[])));
    let maps = ["assigned_ips", "blobs", "current_operations", "other_config"];
    record.extend(empty(&maps, || Value::Map(Vec::new())));
    object("network", NETWORK, record)
}

fn sr(machine: &Machine, disk: &Source) -> Value {
    let mut record = vec![
        ("uuid", text(uuid(machine, "SR"))),
        ("name_label", text("Local storage")),
        ("name_description", text("")),
        ("VDIs", list(&[DISK])),
        ("type", text("ext")),
        ("content_type", text("user")),
        ("physical_size", text(disk.bytes().to_string())),
        // What the file system keeps is no property of the disk, and nobody reads it at an import.
        ("physical_utilisation", text("0")),
        ("virtual_allocation", text(disk.bytes().to_string())),
        ("introduced_by", text(NULL)),
    ];
    record
        .extend(empty(&["clustered", "is_tools_sr", "local_cache_enabled", "shared"], || Value::Flag(false)));
    record.extend(empty(&["PBDs", "allowed_operations", "tags"], || list(&[])));
    let maps = ["blobs", "current_operations", "other_config", "sm_config"];
    record.extend(empty(&maps, || Value::Map(Vec::new())));
    object("SR", SR, record)
}

/// The records.
fn ova_xml(machine: &Machine, disk: &Source) -> String {
    let version = [
        ("hostname", "localhost"),
        ("date", "2018-01-01"),
        ("product_version", "7.0.0"),
        ("product_brand", "XenServer"),
        ("build_number", "0"),
        // A version above the host's is refused; this one is old enough for all that import XVA with SHA-1.
        ("xapi_major", "1"),
        ("xapi_minor", "9"),
        ("export_vsn", "2"),
    ];
    let version = Value::Map(version.into_iter().map(|(name, value)| (name, text(value))).collect());
    let objects =
        [vm(machine), vbd(machine), vif(machine), network(machine), vdi(machine, disk), sr(machine, disk)];
    let mut xml = String::from("<?xml version='1.0'?>\n<value><struct><member><name>version</name>");
    version.write(&mut xml);
    xml += "</member><member><name>objects</name><value><array><data>";
    for object in objects {
        object.write(&mut xml);
    }
    xml + "</data></array></value></member></struct></value>"
}

/// A chunk and its checksum, as members.
fn chunk(number: u64, bytes: &[u8], mtime: u64) -> Result<Vec<u8>, Error> {
    let name = format!("{DISK}/{number:08}");
    let checksum = hex(&Sha1::digest(bytes));
    let mut members = member(&name, bytes, mtime)?;
    members.extend(member(&format!("{name}.checksum"), checksum.as_bytes(), mtime)?);
    Ok(members)
}

/// A part of the tar, as it is or compressed.
enum Part {
    Plain(Vec<u8>),
    Deflated(gzip::Piece, u64),
}

impl Part {
    fn of(bytes: Vec<u8>, level: Option<u32>) -> Result<Self, Error> {
        Ok(match level {
            None => Self::Plain(bytes),
            Some(level) => Self::Deflated(gzip::piece(&bytes, level)?, bytes.len() as u64),
        })
    }
}

/// Where parts go.
enum Sink<W> {
    Plain(W),
    Gzip(gzip::Gzip<W>),
}

impl<W: Write> Sink<W> {
    fn add(&mut self, part: &Part) -> io::Result<()> {
        match (self, part) {
            (Self::Plain(out), Part::Plain(bytes)) => out.write_all(bytes),
            (Self::Gzip(gzip), Part::Deflated(piece, bytes)) => gzip.add(piece, *bytes),
            // Both come of the same level.
            _ => Err(io::Error::other("a part is compressed and the package is not")),
        }
    }
}

/// Writes the machine; `progress` hears how many bytes of the disk's data are done.
///
/// # Errors
/// The disk cannot be read, or `out` not written; or there is no such level.
pub fn write(
    disk: &Source,
    machine: &Machine,
    out: impl Write,
    progress: &mut Progress<'_>,
) -> Result<(), Error> {
    let mut sink = match machine.level {
        None => Sink::Plain(out),
        Some(_) => Sink::Gzip(gzip::Gzip::new(out).map_err(Error::Write)?),
    };
    let (date, level) = (machine.date, machine.level);
    let head = member("ova.xml", ova_xml(machine, disk).as_bytes(), date)?;
    sink.add(&Part::of(head, level)?).map_err(Error::Write)?;
    let last = disk.bytes() / CHUNK_BYTES - 1;
    let pack = |number: u64| {
        let mut bytes = vec![0; CHUNK_BYTES as usize];
        disk.read(number * CHUNK_BYTES, &mut bytes)?;
        if is_zero(&bytes) && number != 0 && number != last {
            return Ok(None);
        }
        Part::of(chunk(number, &bytes, date)?, level).map(Some)
    };
    // The first and the last come in any case.
    let inner =
        disk.pieces(CHUNK_BYTES).map(|at| at / CHUNK_BYTES).filter(|number| *number != 0 && *number != last);
    let ends = if last == 0 { vec![] } else { vec![last] };
    let mut done = 0;
    ordered([0].into_iter().chain(inner).chain(ends), workers(), pack, |part| {
        done += CHUNK_BYTES;
        progress(done);
        part.map_or(Ok(()), |part| sink.add(&part)).map_err(Error::Write)
    })?;
    sink.add(&Part::of(END.to_vec(), level)?).map_err(Error::Write)?;
    let mut out = match sink {
        Sink::Plain(out) => out,
        Sink::Gzip(gzip) => gzip.finish().map_err(Error::Write)?,
    };
    out.flush().map_err(Error::Write)
}
