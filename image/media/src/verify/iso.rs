//! Rules of installation media.

use super::part::{Part, le32, le64};
use super::{Findings, rules};
use crate::{Error, MIB};

const SECTOR: u64 = 2048;
/// The largest ESP.
const ESP_LIMIT: u64 = 20 * MIB;
/// Entries of a boot catalogue and records of a directory that are looked at.
const CATALOGUE: usize = 64;
const DIRECTORY_LIMIT: usize = 1 << 20;
const ESP: [u8; 16] =
    [0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b];
/// Platform ids of a boot catalogue.
const BIOS: u8 = 0;
const EFI: u8 = 0xef;

/// Looks at an ISO.
pub fn verify(file: &Part<'_>, findings: &mut Findings) -> Result<(), Error> {
    let Ok(primary) = file.read(16 * SECTOR, SECTOR as usize) else {
        findings.add(rules::ISO_READABLE, format!("it has {} bytes", file.bytes));
        return Ok(());
    };
    let blocks = u64::from(le32(&primary, 80));
    findings.check(blocks * SECTOR <= file.bytes, rules::ISO_READABLE, || {
        format!("it is of {} bytes, and has {}", blocks * SECTOR, file.bytes)
    });
    let label = String::from_utf8_lossy(&primary[40..72]).trim_end().to_owned();
    let is_plain = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
    findings.check((1..=16).contains(&label.len()) && label.bytes().all(is_plain), rules::ISO_LABEL, || {
        format!("it is {label:?}")
    });
    catalogue(file, findings);
    stick(file, findings);
    let loader = find(file, &primary[156..190], &["EFI", "BOOT", "BOOTX64.EFI"]);
    findings.check(loader, rules::ISO_EFI_TREE, || "it is not there".into());
    Ok(())
}

/// The boot catalogue (El Torito).
fn catalogue(file: &Part<'_>, findings: &mut Findings) {
    let record = file.read(17 * SECTOR, SECTOR as usize).unwrap_or_default();
    let is_record = record
        .get(..39)
        .is_some_and(|record| record[0] == 0 && record[7..].starts_with(b"EL TORITO SPECIFICATION"));
    let entries =
        if is_record { file.read(u64::from(le32(&record, 71)) * SECTOR, CATALOGUE * 32).ok() } else { None };
    let mut platforms = Vec::new();
    if let Some(entries) = entries {
        // The first entry validates the catalogue and names the platform of the one after it; headers do so for theirs.
        let mut platform = entries[1];
        for entry in entries.chunks(32).skip(1) {
            match entry[0] {
                0x88 => platforms.push(platform),
                0x90 | 0x91 => platform = entry[1],
                _ => {}
            }
        }
    }
    for (id, platform) in [(rules::ISO_BIOS, BIOS), (rules::ISO_UEFI, EFI)] {
        findings.check(platforms.contains(&platform), id, || {
            format!("the catalogue has platforms {platforms:?}")
        });
    }
}

/// What firmware wants of a stick.
fn stick(file: &Part<'_>, findings: &mut Findings) {
    let sector = file.read(0, 512).unwrap_or_default();
    let boots = sector.get(510..) == Some(&[0x55, 0xaa]) && sector[..440].iter().any(|byte| *byte != 0);
    findings.check(boots, rules::ISO_STICK, || "there is none".into());
    // Four entries, of which the first byte is 0x80 where one is active.
    let active = (0..4).filter(|number| sector.get(446 + number * 16) == Some(&0x80)).count();
    findings.check(active == 1, rules::ISO_ACTIVE, || format!("{active} are"));
    let header = file.read(512, 512).unwrap_or_default();
    let esp = header.starts_with(b"EFI PART").then(|| {
        let count = le32(&header, 80).min(128) as usize;
        let entries = file.read(le64(&header, 72).saturating_mul(512), count * 128).ok()?;
        let entry = entries.chunks(128).find(|entry| entry[..16] == ESP)?;
        let end = le64(entry, 40).saturating_add(1).saturating_mul(512);
        Some((end.saturating_sub(le64(entry, 32).saturating_mul(512)), end))
    });
    match esp.flatten() {
        None => findings.add(rules::ISO_GPT_ESP, "there is none"),
        Some((bytes, end)) => {
            findings.check(bytes <= ESP_LIMIT, rules::ISO_ESP_SIZE, || format!("it has {bytes} bytes"));
            findings.check(end <= file.bytes, rules::ISO_READABLE, || "the ESP is cut".into());
        }
    }
}

/// Whether the path is in the directory of this record.
fn find(file: &Part<'_>, record: &[u8], path: &[&str]) -> bool {
    let Some((name, rest)) = path.split_first() else { return true };
    let (at, bytes) = (u64::from(le32(record, 2)) * SECTOR, le32(record, 10) as usize);
    let Ok(directory) = file.read(at, bytes.min(DIRECTORY_LIMIT)) else { return false };
    let mut offset = 0;
    while let Some(length) = directory.get(offset).map(|length| usize::from(*length)) {
        if length == 0 {
            // Records do not go over the end of a sector.
            offset = (offset + 1).next_multiple_of(SECTOR as usize);
            continue;
        }
        let Some(record) = directory.get(offset..offset + length).filter(|record| record.len() > 33) else {
            return false;
        };
        let found = record.get(33..33 + usize::from(record[32])).unwrap_or_default();
        let found = String::from_utf8_lossy(found);
        // Files have a version behind a semicolon.
        if found.split(';').next().is_some_and(|found| found.trim_end_matches('.').eq_ignore_ascii_case(name))
        {
            return find(file, record, rest);
        }
        offset += length;
    }
    false
}
