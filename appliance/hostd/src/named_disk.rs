//! Which disk is meant by a name at the console: a device file, or a link to it such as those in `/dev/disk/by-id`.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use storage::life::Report;

/// Disks that a refusal names.
const NAMED: usize = 8;

/// What the disk is named for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// It is to come in.
    ComesIn,
    /// It is to leave.
    Leaves,
}

/// The device file of the disk that `name` means on this machine.
///
/// # Errors
/// It means none: the disks that could be meant are listed.
pub fn device(report: &Report, name: &Path, part: Part) -> Result<PathBuf> {
    choose(report, name, std::fs::canonicalize(name).ok(), part)
}

/// The same; `leads_to`: the device file behind `name`, if there is one. Pure.
fn choose(report: &Report, name: &Path, leads_to: Option<PathBuf>, part: Part) -> Result<PathBuf> {
    // An order that goes on after a cut may find the one that leaves out of use already, and the other one in use.
    let mut known =
        (report.used.iter().map(|disk| &disk.device)).chain(report.others.iter().map(|disk| &disk.device));
    if let Some(device) = leads_to.clone().filter(|device| known.any(|known| known == device)) {
        return Ok(device);
    }
    let shown = match leads_to {
        None => format!("there is no {}", name.display()),
        Some(device) if device == name => {
            format!("{} is not one of the machine's whole disks", name.display())
        }
        Some(device) => format!(
            "{} leads to {}, which is not one of the machine's whole disks",
            name.display(),
            device.display()
        ),
    };
    let (what, titles): (_, Vec<&str>) = match part {
        Part::Leaves => {
            ("this machine's disks are", report.used.iter().map(|disk| disk.title.as_str()).collect())
        }
        Part::ComesIn => {
            let fitting = report.others.iter().filter(|disk| disk.hindrance.is_none());
            ("could come in", fitting.map(|disk| disk.title.as_str()).collect())
        }
    };
    let more = titles.len().saturating_sub(NAMED);
    match titles.as_slice() {
        [] => bail!("{shown}; no disk could come in: `hostd order disks` says why"),
        titles => bail!(
            "{shown}; {what}: {}{}",
            titles[..titles.len() - more].join("; "),
            if more > 0 { format!("; and {more} more") } else { String::new() }
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use storage::life::{Other, Used};
    use storage::smart::Health;

    fn report(others: usize) -> Report {
        let used = |device: &str| Used {
            device: device.into(),
            title: format!("{device}, 500 GB, EVO, S5"),
            errors: 0,
            health: Health::Passed,
            raid_controller: None,
        };
        let other = |number: usize| Other {
            device: format!("/dev/other{number}").into(),
            title: format!("/dev/other{number}, 500 GB, EVO, S{number}"),
            contents: Vec::new(),
            // The first is too small.
            hindrance: (number == 0).then(|| "is too small".into()),
            is_offered: false,
        };
        Report {
            used: vec![used("/dev/sda"), used("/dev/sdb")],
            missing: 0,
            lost: Vec::new(),
            unsettled: Vec::new(),
            others: (0..others).map(other).collect(),
        }
    }

    #[test]
    fn a_disk_is_meant_by_its_device_file_or_a_link_to_it() {
        let by_id = "/dev/disk/by-id/ata-EVO_S5";
        for (name, leads_to, part, expected) in [
            ("/dev/sda", Some("/dev/sda"), Part::Leaves, Ok("/dev/sda")),
            (by_id, Some("/dev/sdb"), Part::Leaves, Ok("/dev/sdb")),
            (by_id, Some("/dev/other1"), Part::ComesIn, Ok("/dev/other1")),
            // Why it cannot come in is said later, with its contents.
            (by_id, Some("/dev/other0"), Part::ComesIn, Ok("/dev/other0")),
            // An order goes on that was cut.
            ("/dev/sdb", Some("/dev/sdb"), Part::ComesIn, Ok("/dev/sdb")),
            (by_id, Some("/dev/other1"), Part::Leaves, Ok("/dev/other1")),
            (by_id, Some("/dev/sda1"), Part::Leaves, Err("leads to /dev/sda1, which is not one of")),
            (by_id, Some("/dev/sda1"), Part::ComesIn, Err("leads to /dev/sda1")),
            (
                by_id,
                None,
                Part::ComesIn,
                Err("there is no /dev/disk/by-id/ata-EVO_S5; could come in: /dev/other1, "),
            ),
            (
                "/dev/null",
                Some("/dev/null"),
                Part::Leaves,
                Err("this machine's disks are: /dev/sda, 500 GB, EVO, S5; /dev/sdb"),
            ),
        ] {
            let chosen = choose(&report(2), Path::new(name), leads_to.map(PathBuf::from), part);
            match (chosen, expected) {
                (Ok(device), Ok(expected)) => assert_eq!(device, Path::new(expected)),
                (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
                (chosen, expected) => panic!("{name}: {chosen:?}, {expected:?}"),
            }
        }
    }

    #[test]
    fn what_could_be_meant_is_listed_and_bounded() {
        let said = |others| {
            choose(&report(others), Path::new("/dev/x"), None, Part::ComesIn).unwrap_err().to_string()
        };
        assert!(said(1).ends_with("no disk could come in: `hostd order disks` says why"), "{}", said(1));
        assert!(said(20).ends_with("/dev/other8, 500 GB, EVO, S8; and 11 more"), "{}", said(20));
    }
}
