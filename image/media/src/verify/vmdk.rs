//! Rules of VMDK.

use flate2::{Decompress, FlushDecompress, Status};

use super::part::{Part, le32, le64};
use super::{Findings, Rule, rules};
use crate::Error;
use crate::ordered::{ordered, workers};
use crate::vmdk::{
    COMPRESSION, DIRECTORY_AT_END, FLAGS, GRAIN_BYTES, MAGIC, SECTOR_BYTES, TABLE_ENTRIES, VERSION, marker,
};

/// Sectors of a grain.
const GRAIN_SECTORS: u64 = GRAIN_BYTES / SECTOR_BYTES;
/// The largest disk that is believed: 64 TiB, vSphere's own limit.
const CAPACITY_LIMIT: u64 = 64 << 40;
/// Sectors of a descriptor that are believed.
const DESCRIPTOR_LIMIT: u64 = 2048;

/// What the header says.
#[derive(Debug, PartialEq, Eq)]
struct Header {
    magic: u32,
    version: u32,
    flags: u32,
    capacity: u64,
    grain: u64,
    descriptor: (u64, u64),
    table_entries: u32,
    directory: u64,
    overhead: u64,
    compression: u16,
}

fn header(sector: &[u8]) -> Header {
    Header {
        magic: le32(sector, 0),
        version: le32(sector, 4),
        flags: le32(sector, 8),
        capacity: le64(sector, 12),
        grain: le64(sector, 20),
        descriptor: (le64(sector, 28), le64(sector, 36)),
        table_entries: le32(sector, 44),
        directory: le64(sector, 56),
        overhead: le64(sector, 64),
        compression: (le32(sector, 76) >> 8) as u16,
    }
}

/// Looks at a VMDK that is shipped under `name`; gives the disk's size in bytes, where it is known.
pub fn verify(file: &Part<'_>, name: &str, findings: &mut Findings) -> Result<Option<u64>, Error> {
    let Ok(first) = file.read(0, SECTOR_BYTES as usize) else {
        findings.add(rules::VMDK_READABLE, format!("it has {} bytes", file.bytes));
        return Ok(None);
    };
    let head = header(&first);
    if head.magic != MAGIC {
        findings.add(rules::VMDK_STREAM_OPTIMIZED, "it is a descriptor without its disk");
        return Ok(None);
    }
    let expected = (VERSION, FLAGS, GRAIN_SECTORS, TABLE_ENTRIES as u32, COMPRESSION);
    let found = (head.version, head.flags, head.grain, head.table_entries, head.compression);
    findings.check(found == expected, rules::VMDK_HEADER, || {
        let fields = [
            ("version", head.version.to_string(), VERSION.to_string()),
            ("flags", format!("{:#x}", head.flags), format!("{FLAGS:#x}")),
            ("sectors a grain", head.grain.to_string(), GRAIN_SECTORS.to_string()),
            ("entries a table", head.table_entries.to_string(), TABLE_ENTRIES.to_string()),
            ("compression", head.compression.to_string(), COMPRESSION.to_string()),
        ];
        let others = fields.iter().filter(|(_, found, expected)| found != expected);
        let words = others.map(|(name, found, expected)| format!("{name} {found}, and not {expected}"));
        format!("it says {}", words.collect::<Vec<_>>().join("; "))
    });
    let text =
        head.descriptor.1.le(&DESCRIPTOR_LIMIT).then(|| {
            file.read(head.descriptor.0.saturating_mul(512), (head.descriptor.1 * 512) as usize).ok()
        });
    match text.flatten() {
        None => findings.add(rules::VMDK_READABLE, "the descriptor is not in it"),
        Some(text) => {
            let text = String::from_utf8_lossy(&text);
            descriptor(text.trim_end_matches('\0'), name, &head, findings);
        }
    }
    if !file.bytes.is_multiple_of(SECTOR_BYTES) || file.bytes < 4 * SECTOR_BYTES {
        findings.add(rules::VMDK_READABLE, format!("its {} bytes are no whole sectors", file.bytes));
        return Ok(Some(head.capacity.saturating_mul(SECTOR_BYTES)));
    }
    // The footer's marker, the footer, the end of stream.
    let end = file.read(file.bytes - 3 * SECTOR_BYTES, 3 * SECTOR_BYTES as usize).map_err(Error::Read)?;
    let (before, last) = end.split_at(2 * SECTOR_BYTES as usize);
    findings.check(crate::is_zero(last), rules::VMDK_END_OF_STREAM, || {
        "the last sector is no such marker".into()
    });
    let (footer_marker, footer) = before.split_at(SECTOR_BYTES as usize);
    let foot = header(footer);
    let is_footer = (le64(footer_marker, 0), le32(footer_marker, 8), le32(footer_marker, 12))
        == (1, 0, marker::FOOTER)
        && foot.magic == MAGIC;
    let directory = if is_footer {
        let equal = Header { directory: head.directory, ..foot } == head;
        findings.check(equal, rules::VMDK_FOOTER, || "it says something else than the header".into());
        header(footer).directory
    } else {
        findings.check(head.directory != DIRECTORY_AT_END, rules::VMDK_FOOTER, || "there is none".into());
        head.directory
    };
    if found == expected {
        tables(file, &head, directory, findings)?;
        if let Err(detail) = stream(file, head.overhead) {
            findings.add(rules::VMDK_STREAM, detail);
        }
    }
    Ok(Some(head.capacity.saturating_mul(SECTOR_BYTES)))
}

fn descriptor(text: &str, name: &str, head: &Header, findings: &mut Findings) {
    let value = |key: &str| {
        text.lines().find_map(|line| {
            let (found, value) = line.split_once('=')?;
            (found.trim() == key).then(|| value.trim().trim_matches('"'))
        })
    };
    let kind = value("createType").unwrap_or("nothing");
    findings
        .check(kind == "streamOptimized", rules::VMDK_STREAM_OPTIMIZED, || format!("createType says {kind}"));
    let adapter = value("ddb.adapterType").unwrap_or("nothing");
    findings.check(adapter == "lsilogic", rules::VMDK_ADAPTER, || format!("adapterType says {adapter}"));
    let geometry = (value("ddb.geometry.heads"), value("ddb.geometry.sectors"));
    let id = value("ddb.longContentID").unwrap_or_default();
    let is_id = id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    findings.check(geometry == (Some("255"), Some("63")) && is_id, rules::VMDK_GEOMETRY, || {
        let [heads, sectors] = [geometry.0, geometry.1].map(|value| value.unwrap_or("nothing"));
        format!("heads are {heads}, sectors {sectors}, longContentID is {id:?}")
    });
    // ACCESS SECTORS TYPE "NAME"
    let extent = text.lines().find_map(|line| {
        let (access, rest) = line.split_once(' ')?;
        ["RW", "RDONLY"].contains(&access).then_some(rest)
    });
    let sectors = extent.and_then(|rest| rest.split(' ').next()).unwrap_or("nothing");
    let extent_name = extent.and_then(|rest| rest.split('"').nth(1)).unwrap_or_default();
    findings.check(extent_name == name, rules::VMDK_EXTENT_NAME, || {
        format!("it says {extent_name:?}, and the file is {name:?}")
    });
    let whole = head.capacity > 0 && head.capacity.is_multiple_of(GRAIN_SECTORS);
    findings.check(whole && sectors.parse() == Ok(head.capacity), rules::VMDK_CAPACITY, || {
        format!("the header says {} sectors, the extent {sectors}", head.capacity)
    });
}

/// Follows the markers from the first grain to the end, as an importer does that reads the file as it comes.
fn stream(file: &Part<'_>, overhead: u64) -> Result<(), String> {
    let end = file.bytes / SECTOR_BYTES;
    let table_sectors = TABLE_ENTRIES * 4 / SECTOR_BYTES;
    let (mut at, mut has_directory, mut has_footer) = (overhead, false, false);
    loop {
        let head = file
            .read(at.saturating_mul(SECTOR_BYTES), 16)
            .map_err(|_| format!("the markers lead to sector {at}, and there are {end}"))?;
        let (value, length, kind) = (le64(&head, 0), u64::from(le32(&head, 8)), le32(&head, 12));
        let sectors = match (length, kind) {
            (0, marker::END) => break,
            (0, marker::TABLE) if value == table_sectors => 1 + value,
            (0, marker::DIRECTORY) if !has_directory => {
                has_directory = true;
                value.saturating_add(1)
            }
            (0, marker::FOOTER) if value == 1 && !has_footer => {
                has_footer = true;
                2
            }
            (0, _) => return Err(format!("at sector {at} is no marker that is due there")),
            // Behind number and length comes the grain.
            _ => (12 + length).div_ceil(SECTOR_BYTES),
        };
        at = at.saturating_add(sectors);
    }
    if at + 1 != end {
        return Err(format!("it ends at sector {at} of {end}"));
    }
    if !has_directory || !has_footer {
        return Err("directory or footer have no marker".into());
    }
    Ok(())
}

/// Follows the directory to every grain.
fn tables(file: &Part<'_>, head: &Header, directory: u64, findings: &mut Findings) -> Result<(), Error> {
    let bytes = head.capacity.saturating_mul(SECTOR_BYTES);
    if bytes > CAPACITY_LIMIT {
        findings.add(rules::VMDK_TABLES, format!("a capacity of {bytes} bytes is not believed"));
        return Ok(());
    }
    let count = bytes.div_ceil(GRAIN_BYTES * TABLE_ENTRIES);
    let Ok(entries) = file.read(directory.saturating_mul(SECTOR_BYTES), count as usize * 4) else {
        let detail = if directory == DIRECTORY_AT_END {
            "the footer is missing, which would say where the directory is".into()
        } else {
            format!("the directory at sector {directory} is not in the file")
        };
        findings.add(rules::VMDK_TABLES, detail);
        return Ok(());
    };
    let there = (0..count).filter(|number| le32(&entries, *number as usize * 4) != 0);
    let mut before = 0;
    let look =
        |number: u64| Ok(table(file, number, le32(&entries, number as usize * 4).into(), head.capacity));
    ordered(there, workers(), look, |found| {
        match found {
            Err((rule, detail)) => findings.add(rule, detail),
            Ok(None) => {}
            Ok(Some((first, last))) => {
                findings.check(first > before, rules::VMDK_GRAIN_ORDER, || {
                    format!("a grain at sector {first} comes after one at sector {before}")
                });
                before = last;
            }
        }
        Ok(())
    })
}

/// Looks at a table and its grains; gives the sectors of the first and the last, if it has any.
fn table(
    file: &Part<'_>,
    number: u64,
    sector: u64,
    capacity: u64,
) -> Result<Option<(u64, u64)>, (&'static Rule, String)> {
    let entries = file
        .read(sector * SECTOR_BYTES, TABLE_ENTRIES as usize * 4)
        .map_err(|_| (rules::VMDK_TABLES, format!("table {number} at sector {sector} is not in the file")))?;
    let mut ends = None;
    for index in 0..TABLE_ENTRIES {
        let at = u64::from(le32(&entries, index as usize * 4));
        if at == 0 {
            continue;
        }
        let first = (number * TABLE_ENTRIES + index) * GRAIN_SECTORS;
        grain(file, at, first, capacity)
            .map_err(|detail| (rules::VMDK_GRAINS, format!("grain at sector {at}: {detail}")))?;
        let (begin, before) = ends.unwrap_or((at, 0));
        if at <= before {
            return Err((
                rules::VMDK_GRAIN_ORDER,
                format!("a grain at sector {at} comes after one at sector {before}"),
            ));
        }
        ends = Some((begin, at));
    }
    // VMware's own tool writes tables without entries, too.
    Ok(ends)
}

fn grain(file: &Part<'_>, at: u64, first: u64, capacity: u64) -> Result<(), String> {
    let marker = file.read(at * SECTOR_BYTES, 12).map_err(|error| error.to_string())?;
    let (sector, length) = (le64(&marker, 0), le32(&marker, 8));
    if sector != first || first >= capacity {
        return Err(format!("its marker says sector {sector} of the disk, and the table {first}"));
    }
    // Deflate makes nothing much larger.
    if u64::from(length) > 2 * GRAIN_BYTES {
        return Err(format!("{length} bytes are no compressed grain"));
    }
    let deflated = file.read(at * SECTOR_BYTES + 12, length as usize).map_err(|error| error.to_string())?;
    let mut out = Vec::with_capacity(GRAIN_BYTES as usize + 1);
    let status = Decompress::new(true).decompress_vec(&deflated, &mut out, FlushDecompress::Finish);
    match status {
        Ok(Status::StreamEnd) if out.len() as u64 == GRAIN_BYTES => Ok(()),
        Ok(_) => Err(format!("it gives {} bytes", out.len())),
        Err(error) => Err(error.to_string()),
    }
}
