//! What a hypervisor would refuse of a package, and why: OVA, VMDK, VHDX, VHD, XVA, ISO, one's own or other people's.
//!
//! Every rule is a failure that somebody had, or what a specification says, and names its source. Nothing is judged by how a file
//! was made; content is read as far as a rule needs it, and all of it where a checksum stands for it. Files are hostile input: what
//! they claim is checked before it is believed, and no more memory is taken than a piece of them needs.

mod iso;
mod ova;
mod ovf;
pub(crate) mod part;
mod rules;
mod vhd;
pub(crate) mod vhdx;
mod vmdk;
mod xva;

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io;
use std::path::Path;

use crate::Error;
use part::Part;
pub use rules::{RULES, Rule, Weight};

/// What kind of package a file is, by its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Open Virtual Appliance.
    Ova,
    /// VMware's disk.
    Vmdk,
    /// Hyper-V's disk.
    Vhdx,
    /// Its predecessor.
    Vhd,
    /// XenServer's machine.
    Xva,
    /// An installation medium.
    Iso,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ova => "OVA",
            Self::Vmdk => "VMDK",
            Self::Vhdx => "VHDX",
            Self::Vhd => "VHD",
            Self::Xva => "XVA",
            Self::Iso => "ISO",
        })
    }
}

/// A rule that a file breaks.
#[derive(Debug, Clone)]
pub struct Finding {
    /// Which.
    pub rule: &'static Rule,
    /// What was found.
    pub detail: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Rule { id, weight, text, source } = self.rule;
        write!(f, "{weight} {id}: {}. {text}. Source: {source}", self.detail)
    }
}

/// What was found in a file.
#[derive(Debug)]
pub struct Report {
    /// What it is.
    pub kind: Kind,
    /// The rules that it breaks; none: nothing known stands against its import.
    pub findings: Vec<Finding>,
}

/// What a zip begins with.
const ZIP: [u8; 4] = *b"PK\x03\x04";
/// Findings of a rule that are kept; the others are counted.
const KEPT: usize = 5;

/// What is collected while a file is read.
#[derive(Debug, Default)]
struct Findings {
    kept: Vec<Finding>,
    counts: BTreeMap<&'static str, usize>,
}

impl Findings {
    /// Notes that this rule is broken.
    fn add(&mut self, rule: &'static Rule, detail: impl Into<String>) {
        let count = self.counts.entry(rule.id).or_default();
        *count += 1;
        if *count > KEPT {
            return;
        }
        // Names come from the file, and go to somebody's terminal.
        let shown = |character: char| {
            if character.is_control() {
                character.escape_default().to_string()
            } else {
                character.to_string()
            }
        };
        self.kept.push(Finding { rule, detail: detail.into().chars().map(shown).collect() });
    }

    /// All, with the number of those that were only counted.
    fn finish(mut self) -> Vec<Finding> {
        for (id, count) in self.counts {
            let last = self.kept.iter_mut().rfind(|finding| finding.rule.id == id);
            if let (Some(last), true) = (last, count > KEPT) {
                last.detail += &format!("; and {} more of this kind", count - KEPT);
            }
        }
        self.kept
    }

    /// Notes it unless this holds.
    fn check(&mut self, holds: bool, rule: &'static Rule, detail: impl FnOnce() -> String) {
        if !holds {
            self.add(rule, detail());
        }
    }
}

/// Looks at a file.
///
/// # Errors
/// It cannot be read, or is none of the kinds.
pub fn verify(path: &Path) -> Result<Report, Error> {
    let failed = |cause: io::Error| Error::File { path: path.to_owned(), cause };
    let file = File::open(path).map_err(failed)?;
    let bytes = file.metadata().map_err(failed)?.len();
    let whole = Part { file: &file, start: 0, bytes };
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let Some(kind) = kind(&whole) else {
        let is_zip = whole.read(0, ZIP.len()).is_ok_and(|found| found == ZIP);
        return Err(if is_zip { Error::Zip(path.to_owned()) } else { Error::Unknown(path.to_owned()) });
    };
    let mut findings = Findings::default();
    match kind {
        Kind::Ova => ova::verify(&whole, &mut findings)?,
        Kind::Vmdk => drop(vmdk::verify(&whole, &name, &mut findings)?),
        Kind::Vhdx => vhdx::verify(&whole, &mut findings)?,
        Kind::Vhd => vhd::verify(&whole, &mut findings)?,
        Kind::Xva => xva::verify(&whole, &mut findings)?,
        Kind::Iso => iso::verify(&whole, &mut findings)?,
    }
    Ok(Report { kind, findings: findings.finish() })
}

/// What a file is, by what stands at its beginning and end.
fn kind(file: &Part<'_>) -> Option<Kind> {
    let at =
        |offset: u64, expected: &[u8]| file.read(offset, expected.len()).is_ok_and(|found| found == expected);
    if at(0, b"vhdxfile") {
        return Some(Kind::Vhdx);
    }
    if at(0, &crate::vmdk::MAGIC.to_le_bytes()) || at(0, b"# Disk DescriptorFile") {
        return Some(Kind::Vmdk);
    }
    if at(0, b"conectix") || (file.bytes >= 512 && at(file.bytes - 512, b"conectix")) {
        return Some(Kind::Vhd);
    }
    if at(32769, b"CD001") {
        return Some(Kind::Iso);
    }
    // Newer versions compress so.
    if at(0, &xva::ZSTD) {
        return Some(Kind::Xva);
    }
    if at(0, &[0x1f, 0x8b]) {
        return xva::is_gzipped(file).then_some(Kind::Xva);
    }
    if at(257, b"ustar") || at(0, b"ova.xml\0") {
        return Some(if xva::is_xva(file) { Kind::Xva } else { Kind::Ova });
    }
    None
}
