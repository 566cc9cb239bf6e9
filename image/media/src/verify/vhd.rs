//! Rules of VHD.

use super::part::{Part, be32, be64};
use super::{Findings, rules};
use crate::{Error, MIB};

const SECTOR: usize = 512;
const HEADER: usize = 1024;
/// The largest disk: 2040 GiB.
const LIMIT: u64 = 2040 << 30;
const FIXED: u32 = 2;
const DYNAMIC: u32 = 3;
/// "There is no block."
const NO_BLOCK: u32 = u32::MAX;

/// The ones' complement of the sum of all bytes but the checksum's own.
fn checksum(bytes: &[u8], at: usize) -> u32 {
    let sum = |bytes: &[u8]| bytes.iter().map(|byte| u32::from(*byte)).fold(0, u32::wrapping_add);
    !(sum(bytes).wrapping_sub(sum(&bytes[at..at + 4])))
}

/// Looks at a VHD.
pub fn verify(file: &Part<'_>, findings: &mut Findings) -> Result<(), Error> {
    let Some(last) = file.bytes.checked_sub(SECTOR as u64) else {
        findings.add(rules::VHD_READABLE, format!("it has {} bytes", file.bytes));
        return Ok(());
    };
    let footer = file.read(last, SECTOR).map_err(Error::Read)?;
    if !footer.starts_with(b"conectix") {
        findings.add(rules::VHD_READABLE, "there is no footer at its end");
        return Ok(());
    }
    findings.check(be32(&footer, 64) == checksum(&footer, 64), rules::VHD_FOOTER, || {
        "the footer has another checksum".into()
    });
    let (size, kind) = (be64(&footer, 48), be32(&footer, 60));
    findings
        .check(size > 0 && size.is_multiple_of(MIB), rules::VHD_SIZE, || format!("it is of {size} bytes"));
    findings.check(size <= LIMIT, rules::VHD_LIMIT, || format!("it is of {size} bytes"));
    match kind {
        FIXED => findings.check(size == last, rules::VHD_READABLE, || {
            format!("{size} bytes of disk are not in {last} bytes")
        }),
        DYNAMIC => dynamic(file, &footer, size, findings)?,
        other => findings.add(rules::VHD_KIND, format!("it is of kind {other}")),
    }
    Ok(())
}

fn dynamic(file: &Part<'_>, footer: &[u8], size: u64, findings: &mut Findings) -> Result<(), Error> {
    let copy = file.read(0, SECTOR).map_err(Error::Read)?;
    findings.check(copy == footer, rules::VHD_FOOTER, || "the copy at the beginning differs".into());
    let Ok(header) = file.read(be64(footer, 16), HEADER) else {
        findings.add(rules::VHD_READABLE, "the header is not in it");
        return Ok(());
    };
    let is_header = header.starts_with(b"cxsparse") && be32(&header, 36) == checksum(&header, 36);
    findings.check(is_header, rules::VHD_FOOTER, || "the header of the dynamic disk is damaged".into());
    let (table, entries, block) = (be64(&header, 16), be32(&header, 28), be32(&header, 32));
    let needed = size.div_ceil(u64::from(block.max(1)));
    if !block.is_power_of_two() || u64::from(entries) < needed {
        findings.add(rules::VHD_READABLE, format!("{entries} blocks of {block} bytes are no {size} bytes"));
        return Ok(());
    }
    let Ok(bat) = file.read(table, needed as usize * 4) else {
        findings.add(rules::VHD_READABLE, "the table of blocks is not in it");
        return Ok(());
    };
    // Each block has a bitmap of its sectors before it.
    let bitmap = (u64::from(block) / SECTOR as u64 / 8).next_multiple_of(SECTOR as u64);
    let end = file.bytes - SECTOR as u64;
    for number in 0..needed {
        let sector = be32(&bat, number as usize * 4);
        let after = u64::from(sector) * SECTOR as u64 + bitmap + u64::from(block);
        if sector != NO_BLOCK && after > end {
            findings.add(rules::VHD_READABLE, format!("block {number} is not in it"));
            break;
        }
    }
    Ok(())
}
