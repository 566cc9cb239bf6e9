//! Rules of OVA: the tar and its manifest.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

use sha1::Sha1;
use sha2::{Digest, Sha256, Sha512};
use tar::{Archive, EntryType};

use super::part::Part;
use super::{Findings, ovf, rules, vmdk};
use crate::{Error, hex};

/// The longest description and manifest that are read, in bytes: they have some thousand, those of large vApps a million.
const TEXT_LIMIT: u64 = 4 << 20;
/// The longest name by GNU's extension that is read, in bytes.
const NAME_LIMIT: u64 = 4096;
/// Members of an archive that are looked at.
const MEMBERS_LIMIT: usize = 10_000;

/// A member.
struct Member<'f> {
    name: String,
    part: Part<'f>,
}

/// Looks at an OVA.
pub fn verify(file: &Part<'_>, findings: &mut Findings) -> Result<(), Error> {
    let members = members(file, findings);
    let ends_with = |end: &str| members.iter().position(|member| member.name.to_lowercase().ends_with(end));
    let Some(description) = ends_with(".ovf") else {
        findings.add(rules::OVA_OVF_FIRST, "there is no .ovf in it");
        return Ok(());
    };
    findings.check(description == 0, rules::OVA_OVF_FIRST, || {
        format!("{} comes after {description} other members", members[description].name)
    });
    let manifest = ends_with(".mf");
    if let Some(at) = manifest {
        sums(&text(&members[at])?, &members, findings)?;
    }
    let Some(described) = ovf::verify(&text(&members[description])?, findings) else { return Ok(()) };
    // The order of members is that of the description.
    let manifest = manifest.filter(|at| *at + 1 < members.len());
    let mut before = description.max(manifest.unwrap_or(0));
    let mut looked_at = BTreeSet::new();
    let places: BTreeMap<&str, usize> =
        members.iter().enumerate().rev().map(|(at, member)| (member.name.as_str(), at)).collect();
    for described in &described.files {
        let found = found(described, &places);
        let Some(first) = found.first() else {
            findings.add(rules::OVF_FILE_THERE, format!("{} is not in the archive", described.name));
            continue;
        };
        if !looked_at.insert(*first) {
            findings.add(rules::OVA_ORDER, format!("{} is named twice", described.name));
            continue;
        }
        for at in &found {
            findings
                .check(*at > before, rules::OVA_ORDER, || format!("{} comes too early", members[*at].name));
            before = (*at).max(before);
        }
        let parts: Vec<Part<'_>> = found.iter().map(|at| members[*at].part).collect();
        if let Some(bytes) = described.chunk_bytes {
            chunks(described, bytes, &parts, findings);
        }
        let row = Part::row(parts);
        let part = file.of_row(&row);
        if let Some(bytes) = described.bytes.filter(|bytes| *bytes != part.bytes) {
            let detail = format!("{} has {} bytes, and ovf:size says {bytes}", described.name, part.bytes);
            findings.add(rules::OVF_FILE_SIZE, detail);
        }
        if described.name.to_lowercase().ends_with(".vmdk") {
            let capacity = vmdk::verify(&part, &described.name, findings)?;
            if let (Some(found), Some(said)) = (capacity, described.capacity) {
                findings.check(found == said, rules::OVF_CAPACITY_EQUAL, || {
                    format!("{} is a disk of {found} bytes, and the description says {said}", described.name)
                });
            }
        }
    }
    Ok(())
}

/// The members that a described file is: one, or its pieces in order.
fn found(described: &ovf::File, places: &BTreeMap<&str, usize>) -> Vec<usize> {
    if described.chunk_bytes.is_none() {
        return places.get(described.name.as_str()).copied().into_iter().collect();
    }
    let piece = |number: usize| places.get(format!("{}.{number:09}", described.name).as_str()).copied();
    (0..places.len()).map_while(piece).collect()
}

/// Whether pieces have their size.
fn chunks(described: &ovf::File, bytes: u64, parts: &[Part<'_>], findings: &mut Findings) {
    let last = parts.len().saturating_sub(1);
    for (number, part) in parts.iter().enumerate() {
        let is_right = if number == last { (1..=bytes).contains(&part.bytes) } else { part.bytes == bytes };
        findings.check(is_right, rules::OVF_CHUNKS, || {
            format!("{}.{number:09} has {} bytes, and ovf:chunkSize says {bytes}", described.name, part.bytes)
        });
    }
}

fn members<'f>(file: &Part<'f>, findings: &mut Findings) -> Vec<Member<'f>> {
    let mut members = Vec::new();
    let mut archive = Archive::new(file.stream());
    let entries = match archive.entries_with_seek() {
        Ok(entries) => entries.raw(true),
        Err(error) => {
            findings.add(rules::OVA_READABLE, error.to_string());
            return members;
        }
    };
    // By GNU's extension, of the member that comes next.
    let mut long_name = None;
    for entry in entries.take(MEMBERS_LIMIT) {
        let mut entry = match entry {
            Ok(entry) => entry,
            Err(error) => {
                findings.add(rules::OVA_READABLE, error.to_string());
                break;
            }
        };
        let header = entry.header();
        let short = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let name = long_name.take().unwrap_or(short);
        match header.entry_type() {
            EntryType::Regular => {}
            EntryType::Directory => {
                findings.add(rules::OVA_NAMES, format!("{name} is a directory"));
                continue;
            }
            EntryType::GNULongName => {
                let mut bytes = Vec::new();
                let read = entry.by_ref().take(NAME_LIMIT).read_to_end(&mut bytes);
                if let Err(error) = read {
                    findings.add(rules::OVA_READABLE, error.to_string());
                    break;
                }
                let name = String::from_utf8_lossy(&bytes).trim_end_matches('\0').to_owned();
                findings.add(rules::OVA_LONG_NAME, format!("{name} has {} bytes", name.len()));
                long_name = Some(name);
                continue;
            }
            EntryType::XHeader | EntryType::XGlobalHeader => {
                findings.add(rules::OVA_USTAR, format!("{name} is an extended header"));
                continue;
            }
            _ => {
                findings.add(rules::OVA_NAMES, format!("{name} is a link, a device or something else"));
                continue;
            }
        }
        findings.check(!name.contains('/') && !name.is_empty(), rules::OVA_NAMES, || {
            format!("it is called {name:?}")
        });
        // The first bit of the field says that the size is binary, as GNU tar writes what has no room.
        findings.check(header.as_bytes()[124] & 0x80 == 0, rules::OVA_MEMBER_SIZE, || {
            format!("{name} has {} bytes", entry.size())
        });
        let part = file.part(entry.raw_file_position(), entry.size());
        findings.check(part.bytes == entry.size(), rules::OVA_READABLE, || format!("{name} is cut"));
        members.push(Member { name, part });
    }
    members
}

/// What a member says.
fn text(Member { name, part }: &Member<'_>) -> Result<String, Error> {
    let wrong = |cause: String| Error::Text { name: name.clone(), cause };
    if part.bytes > TEXT_LIMIT {
        return Err(wrong(format!(
            "it has {} bytes, and no description is larger than {TEXT_LIMIT}",
            part.bytes
        )));
    }
    let bytes = part.read(0, part.bytes as usize).map_err(|error| wrong(error.to_string()))?;
    String::from_utf8(bytes)
        .map_err(|error| wrong(format!("it is not UTF-8 from byte {} on", error.utf8_error().valid_up_to())))
}

/// A line of a manifest: algorithm, name, digest.
fn line(line: &str) -> Option<(&str, &str, &str)> {
    let (algorithm, rest) = line.split_once('(')?;
    let (name, digest) = rest.split_once(")= ")?;
    // SHA256 is known from vSphere 6.5 on.
    let known = ["SHA1", "SHA256", "SHA512"].contains(&algorithm);
    (known && !digest.is_empty() && digest.bytes().all(|byte| byte.is_ascii_hexdigit()))
        .then_some((algorithm, name, digest))
}

fn sums(text: &str, members: &[Member<'_>], findings: &mut Findings) -> Result<(), Error> {
    let mut listed = BTreeMap::new();
    for text in text.lines().filter(|text| !text.trim().is_empty()) {
        let Some((algorithm, name, digest)) = line(text) else {
            findings.add(rules::OVA_MANIFEST_FORM, format!("a line is {text:?}"));
            continue;
        };
        findings.check(algorithm != "SHA1", rules::OVA_MANIFEST_SHA1, || format!("{name} has SHA1"));
        if listed.insert(name, (algorithm, digest)).is_some() {
            findings.add(rules::OVA_MANIFEST_COMPLETE, format!("{name} is listed twice"));
        }
    }
    for member in members {
        let lower = member.name.to_lowercase();
        if lower.ends_with(".mf") || lower.ends_with(".cert") {
            continue;
        }
        let Some((algorithm, digest)) = listed.remove(member.name.as_str()) else {
            findings.add(rules::OVA_MANIFEST_COMPLETE, format!("{} is not listed", member.name));
            continue;
        };
        let found = match algorithm {
            "SHA1" => of_part::<Sha1>(&member.part)?,
            "SHA512" => of_part::<Sha512>(&member.part)?,
            _ => of_part::<Sha256>(&member.part)?,
        };
        findings.check(found.eq_ignore_ascii_case(digest), rules::OVA_MANIFEST_DIGEST, || {
            format!("{} has {found}, and the manifest says {digest}", member.name)
        });
    }
    for name in listed.keys() {
        findings.add(rules::OVA_MANIFEST_COMPLETE, format!("{name} is listed and not there"));
    }
    Ok(())
}

fn of_part<D: Digest>(part: &Part<'_>) -> Result<String, Error> {
    let mut digest = D::new();
    let mut stream = part.stream();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match stream.read(&mut buffer).map_err(Error::Read)? {
            0 => break,
            count => digest.update(&buffer[..count]),
        }
    }
    Ok(hex(&digest.finalize()))
}
