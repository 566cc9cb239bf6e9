//! Rules of VHDX.

use super::part::{Part, le32, le64};
use super::{Findings, rules};
use crate::{Error, MIB};

/// Bytes of a header.
pub(crate) const HEADER: usize = 4096;
const TABLE: usize = 64 << 10;
/// Where both headers and both region tables are.
pub(crate) const HEADERS: [u64; 2] = [64 << 10, 128 << 10];
const TABLES: [u64; 2] = [192 << 10, 256 << 10];
/// GUIDs as they lie in the file.
const METADATA: [u8; 16] =
    [0x06, 0xa2, 0x7c, 0x8b, 0x90, 0x47, 0x9a, 0x4b, 0xb8, 0xfe, 0x57, 0x5f, 0x05, 0x0f, 0x88, 0x6e];
const BAT: [u8; 16] =
    [0x66, 0x77, 0xc2, 0x2d, 0x23, 0xf6, 0x00, 0x42, 0x9d, 0x64, 0x11, 0x5e, 0x9b, 0xfd, 0x4a, 0x08];
const PARAMETERS: [u8; 16] =
    [0x37, 0x67, 0xa1, 0xca, 0x36, 0xfa, 0x43, 0x4d, 0xb3, 0xb6, 0x33, 0xf0, 0xaa, 0x44, 0xe7, 0x6b];
const SIZE: [u8; 16] =
    [0x24, 0x42, 0xa5, 0x2f, 0x1b, 0xcd, 0x76, 0x48, 0xb2, 0x11, 0x5d, 0xbe, 0xd8, 0x3b, 0xf4, 0xb8];
/// Entries of the table of blocks that are read at a time.
const PIECE: usize = 1 << 17;
/// Entries of a table that are believed.
const ENTRIES: u32 = 2047;

/// CRC-32C of a structure whose own checksum, at 4, counts as zero.
fn has_checksum(bytes: &[u8]) -> bool {
    // What is thrown at it at random never has one.
    if cfg!(fuzzing) {
        return true;
    }
    let mut zeroed = bytes.to_vec();
    zeroed[4..8].fill(0);
    crc32c::crc32c(&zeroed) == le32(bytes, 4)
}

/// A region table, if it is whole.
fn region_table(file: &Part<'_>, at: u64) -> Option<Vec<u8>> {
    file.read(at, TABLE).ok().filter(|bytes| bytes.starts_with(b"regi") && has_checksum(bytes))
}

/// The region of this GUID, as far as the file has it.
fn region<'f>(file: &Part<'f>, table: &[u8], guid: &[u8; 16]) -> Option<Part<'f>> {
    let count = le32(table, 8).min(ENTRIES) as usize;
    let entry = (0..count).map(|number| 16 + number * 32).find(|at| table[*at..at + 16] == *guid)?;
    Some(file.part(le64(table, entry + 16), le32(table, entry + 24).into()))
}

/// The content of the metadata item of this GUID, which has so many bytes.
fn item<'f>(metadata: &Part<'f>, guid: &[u8; 16], bytes: u64) -> Option<Part<'f>> {
    let table = metadata.read(0, TABLE).ok().filter(|bytes| bytes.starts_with(b"metadata"))?;
    let count = (le32(&table, 8) >> 16).min(ENTRIES) as usize;
    let entry = (0..count).map(|number| 32 + number * 32).find(|at| table[*at..at + 16] == *guid)?;
    Some(metadata.part(le32(&table, entry + 16).into(), bytes)).filter(|item| item.bytes == bytes)
}

/// The same, of a file.
pub(crate) fn metadata_item<'f>(file: &Part<'f>, guid: &[u8; 16], bytes: u64) -> Option<Part<'f>> {
    let table = TABLES.iter().find_map(|at| region_table(file, *at))?;
    item(&region(file, &table, &METADATA)?, guid, bytes)
}

/// Looks at a VHDX.
pub(super) fn verify(file: &Part<'_>, findings: &mut Findings) -> Result<(), Error> {
    let mut newest: Option<Vec<u8>> = None;
    for at in HEADERS {
        let header =
            file.read(at, HEADER).ok().filter(|bytes| bytes.starts_with(b"head") && has_checksum(bytes));
        match header {
            None => findings.add(rules::VHDX_HEADERS, format!("the header at {at} is damaged")),
            Some(header) => {
                if newest.as_ref().is_none_or(|other| le64(&header, 8) > le64(other, 8)) {
                    newest = Some(header);
                }
            }
        }
    }
    let Some(header) = newest else { return Ok(()) };
    findings.check(header[48..64] == [0; 16], rules::VHDX_LOG, || "it is not".into());
    let mut regions = None;
    for at in TABLES {
        match region_table(file, at) {
            None => findings.add(rules::VHDX_HEADERS, format!("the region table at {at} is damaged")),
            Some(table) => regions = regions.or(Some(table)),
        }
    }
    let Some(regions) = regions else { return Ok(()) };
    let (Some(metadata), Some(bat)) = (region(file, &regions, &METADATA), region(file, &regions, &BAT))
    else {
        findings.add(rules::VHDX_READABLE, "metadata or the table of blocks is missing");
        return Ok(());
    };
    let Some((size, block, has_parent)) = disk(&metadata) else {
        findings.add(rules::VHDX_READABLE, "its metadata does not say what disk it is");
        return Ok(());
    };
    findings.check(size > 0 && size.is_multiple_of(MIB), rules::VHDX_WHOLE_MIB, || {
        format!("it is of {size} bytes")
    });
    findings.check(block == MIB, rules::VHDX_BLOCK_SIZE, || format!("they are of {block} bytes"));
    findings.check(!has_parent, rules::VHDX_PARENT, || "it has one".into());
    blocks(file, &bat, size, block, findings);
    Ok(())
}

/// The disk's size, its blocks', and whether it has a parent.
fn disk(metadata: &Part<'_>) -> Option<(u64, u64, bool)> {
    let content = |guid, bytes: u64| {
        let item = item(metadata, guid, bytes)?;
        item.read(0, bytes as usize).ok()
    };
    let parameters = content(&PARAMETERS, 8)?;
    Some((le64(&content(&SIZE, 8)?, 0), le32(&parameters, 0).into(), le32(&parameters, 4) & 2 != 0))
}

/// Every block that is said to be there is.
fn blocks(file: &Part<'_>, bat: &Part<'_>, size: u64, block: u64, findings: &mut Findings) {
    if !block.is_power_of_two() || !(MIB..=256 * MIB).contains(&block) {
        findings.add(rules::VHDX_READABLE, format!("blocks of {block} bytes are not allowed"));
        return;
    }
    // After so many entries comes one of a bitmap, which only disks with a parent use.
    let ratio = (1 << 23) * 512 / block;
    let blocks = size.div_ceil(block);
    let entries = blocks + blocks.saturating_sub(1) / ratio;
    // In pieces: a large disk's table is large.
    for first in (0..entries).step_by(PIECE) {
        let count = (entries - first).min(PIECE as u64) as usize;
        let Ok(table) = bat.read(first * 8, count * 8) else {
            findings.add(rules::VHDX_READABLE, "the table of blocks is cut");
            return;
        };
        for index in 0..count {
            let (number, entry) = (first + index as u64, le64(&table, index * 8));
            // States: 6 is fully present. The place stands in MiB.
            let (state, at) = (entry & 7, (entry >> 20).saturating_mul(MIB));
            let is_bitmap = (number + 1).is_multiple_of(ratio + 1);
            if !is_bitmap && state == 6 && at.saturating_add(block) > file.bytes {
                findings.add(
                    rules::VHDX_READABLE,
                    format!("entry {number} of the table of blocks points behind its end"),
                );
                return;
            }
        }
    }
}
