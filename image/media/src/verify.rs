//! What a hypervisor would refuse of a package, and why: OVA, VMDK, VHDX, VHD, XVA, ISO, one's own or other people's.
//!
//! Every rule is a failure that somebody had, or what a specification says, and names its source. Nothing is judged by how a file
//! was made; content is read as far as a rule needs it, and all of it where a checksum stands for it. Files are hostile input: what
//! they claim is checked before it is believed, and no more memory is taken than a piece of them needs.

mod hardware;
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
        write!(f, "{weight} {id}: {}. Rule: {text}. Source: {source}", self.detail)
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
    // Before it is opened: to open a pipe waits for somebody to write.
    let file_type = std::fs::metadata(path).map_err(failed)?.file_type();
    if !file_type.is_file() {
        let what = if file_type.is_dir() { "a folder" } else { "a device, pipe or socket" };
        return Err(Error::NotRegular { path: path.to_owned(), what });
    }
    let file = File::open(path).map_err(failed)?;
    let bytes = file.metadata().map_err(failed)?.len();
    let whole = Part::whole(&file, bytes);
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let Some(kind) = kind(&whole) else { return Err(unknown(path, &whole)) };
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

/// Why a file is not looked at.
fn unknown(path: &Path, file: &Part<'_>) -> Error {
    let path = path.to_owned();
    let what = if file.bytes == 0 {
        "empty"
    } else if file.has(0, b"PK\x03\x04") {
        return Error::Zip(path);
    } else if file.has(0, b"QFI\xfb") {
        "a qcow2 disk, which `qemu-img convert` makes into another"
    } else if file.has(510, &[0x55, 0xaa]) {
        "a raw disk, of which no rules are known"
    } else if file.has(0, &[0x1f, 0x8b]) {
        "compressed by gzip, without a machine of XenServer in it"
    } else {
        return Error::Unknown(path);
    };
    Error::Other { path, what }
}

/// What a file is, by what stands at its beginning and end.
fn kind(file: &Part<'_>) -> Option<Kind> {
    if file.has(0, b"vhdxfile") {
        return Some(Kind::Vhdx);
    }
    if file.has(0, &crate::vmdk::MAGIC.to_le_bytes()) || file.has(0, b"# Disk DescriptorFile") {
        return Some(Kind::Vmdk);
    }
    if file.has(0, b"conectix") || (file.bytes >= 512 && file.has(file.bytes - 512, b"conectix")) {
        return Some(Kind::Vhd);
    }
    if file.has(32769, b"CD001") {
        return Some(Kind::Iso);
    }
    // Newer versions compress so.
    if file.has(0, &xva::ZSTD) {
        return Some(Kind::Xva);
    }
    if file.has(0, &[0x1f, 0x8b]) {
        return xva::is_gzipped(file).then_some(Kind::Xva);
    }
    if file.has(257, b"ustar") || file.has(0, b"ova.xml\0") {
        return Some(if xva::is_xva(file) { Kind::Xva } else { Kind::Ova });
    }
    None
}
