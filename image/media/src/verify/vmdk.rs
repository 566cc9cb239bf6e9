//! Rules of VMDK.

use flate2::{Decompress, FlushDecompress, Status};

use super::Findings;
use super::part::{Part, le32, le64};
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
        compression: (le32(sector, 76) >> 8) as u16,
    }
}

/// Looks at a VMDK that is shipped under `name`; gives the disk's size in bytes, where it is known.
pub fn verify(file: &Part<'_>, name: &str, findings: &mut Findings) -> Result<Option<u64>, Error> {
    let Ok(first) = file.read(0, SECTOR_BYTES as usize) else {
        findings.add("vmdk.readable", format!("it has {} bytes", file.bytes));
        return Ok(None);
    };
    let head = header(&first);
    if head.magic != MAGIC {
        findings.add("vmdk.stream-optimized", "it is a descriptor without its disk");
        return Ok(None);
    }
    let expected = (VERSION, FLAGS, GRAIN_SECTORS, TABLE_ENTRIES as u32, COMPRESSION);
    let found = (head.version, head.flags, head.grain, head.table_entries, head.compression);
    findings.check(found == expected, "vmdk.header", || {
        format!(
            "it says version {}, flags {:#x}, grains of {} sectors, {} entries a table, compression {}",
            head.version, head.flags, head.grain, head.table_entries, head.compression
        )
    });
    let text =
        head.descriptor.1.le(&DESCRIPTOR_LIMIT).then(|| {
            file.read(head.descriptor.0.saturating_mul(512), (head.descriptor.1 * 512) as usize).ok()
        });
    match text.flatten() {
        None => findings.add("vmdk.readable", "the descriptor is not in it"),
        Some(text) => {
            let text = String::from_utf8_lossy(&text);
            descriptor(text.trim_end_matches('\0'), name, &head, findings);
        }
    }
    if !file.bytes.is_multiple_of(SECTOR_BYTES) || file.bytes < 4 * SECTOR_BYTES {
        findings.add("vmdk.readable", format!("its {} bytes are no whole sectors", file.bytes));
        return Ok(Some(head.capacity.saturating_mul(SECTOR_BYTES)));
    }
    // The footer's marker, the footer, the end of stream.
    let end = file.read(file.bytes - 3 * SECTOR_BYTES, 3 * SECTOR_BYTES as usize).map_err(Error::Read)?;
    let (before, last) = end.split_at(2 * SECTOR_BYTES as usize);
    findings.check(crate::is_zero(last), "vmdk.end-of-stream", || "the last sector is none".into());
    let (footer_marker, footer) = before.split_at(SECTOR_BYTES as usize);
    let foot = header(footer);
    let is_footer = (le64(footer_marker, 0), le32(footer_marker, 8), le32(footer_marker, 12))
        == (1, 0, marker::FOOTER)
        && foot.magic == MAGIC;
    let directory = if is_footer {
        let equal = Header { directory: head.directory, ..foot } == head;
        findings.check(equal, "vmdk.footer", || "it says something else than the header".into());
        header(footer).directory
    } else {
        findings.check(head.directory != DIRECTORY_AT_END, "vmdk.footer", || "there is none".into());
        head.directory
    };
    if found == expected {
        tables(file, &head, directory, findings)?;
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
    findings.check(kind == "streamOptimized", "vmdk.stream-optimized", || format!("createType says {kind}"));
    let adapter = value("ddb.adapterType").unwrap_or("nothing");
    findings.check(adapter == "lsilogic", "vmdk.adapter", || format!("adapterType says {adapter}"));
    // ACCESS SECTORS TYPE "NAME"
    let extent = text.lines().find_map(|line| {
        let (access, rest) = line.split_once(' ')?;
        ["RW", "RDONLY"].contains(&access).then_some(rest)
    });
    let sectors = extent.and_then(|rest| rest.split(' ').next()?.parse::<u64>().ok());
    let extent_name = extent.and_then(|rest| rest.split('"').nth(1)).unwrap_or_default();
    findings.check(extent_name == name, "vmdk.extent-name", || {
        format!("it says {extent_name:?}, and is {name:?}")
    });
    let whole = head.capacity > 0 && head.capacity.is_multiple_of(GRAIN_SECTORS);
    findings.check(whole && sectors == Some(head.capacity), "vmdk.capacity", || {
        format!("the header says {} sectors, the extent {sectors:?}", head.capacity)
    });
}

/// Follows the directory to every grain.
fn tables(file: &Part<'_>, head: &Header, directory: u64, findings: &mut Findings) -> Result<(), Error> {
    let bytes = head.capacity.saturating_mul(SECTOR_BYTES);
    if bytes > CAPACITY_LIMIT {
        findings.add("vmdk.tables", format!("a capacity of {bytes} bytes is not believed"));
        return Ok(());
    }
    let count = bytes.div_ceil(GRAIN_BYTES * TABLE_ENTRIES);
    let Ok(entries) = file.read(directory.saturating_mul(SECTOR_BYTES), count as usize * 4) else {
        findings.add("vmdk.tables", format!("the directory at sector {directory} is not in the file"));
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
                findings.check(first > before, "vmdk.grain-order", || {
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
) -> Result<Option<(u64, u64)>, (&'static str, String)> {
    let entries = file
        .read(sector * SECTOR_BYTES, TABLE_ENTRIES as usize * 4)
        .map_err(|_| ("vmdk.tables", format!("table {number} at sector {sector} is not in the file")))?;
    let mut ends = None;
    for index in 0..TABLE_ENTRIES {
        let at = u64::from(le32(&entries, index as usize * 4));
        if at == 0 {
            continue;
        }
        let first = (number * TABLE_ENTRIES + index) * GRAIN_SECTORS;
        grain(file, at, first, capacity)
            .map_err(|detail| ("vmdk.grains", format!("grain at sector {at}: {detail}")))?;
        let (begin, before) = ends.unwrap_or((at, 0));
        if at <= before {
            return Err((
                "vmdk.grain-order",
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
