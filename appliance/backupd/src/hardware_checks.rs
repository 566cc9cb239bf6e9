//! Checks of what the machine is made of: its disks, the scrub of them, its size. Pure functions, as in [`crate::status`].

use api::{Check, Level};
use hostd::Disks;
use jiff::{SignedDuration, Timestamp};
use storage::life::{Other, Report};
use storage::sizing;
use storage::smart::Health;

use crate::status::{in_words, sentence};

/// Check `disks`: all are there and none has had errors. `None`: they were not looked at yet.
pub fn disks_check(disks: Option<&Result<Disks, String>>) -> Check {
    let check = |level, message| Check { name: "disks".into(), level, message };
    let disks = match disks {
        None => return check(Level::Ok, "The disks are being looked at.".into()),
        Some(Err(error)) => {
            return check(Level::Warn, format!("It cannot be told how the disks are: {}", sentence(error)));
        }
        Some(Ok(disks)) => disks,
    };
    let Report { used, missing, lost, unsettled, others } = &disks.report;
    let now = disks.under_way.as_ref().map_or(String::new(), |step| format!(" Now: {step}."));
    if *missing > 0 {
        let all = used.len() + missing;
        return check(
            Level::Fail,
            format!(
                "{missing} of {all} disks are missing{}: what is written now has no second copy. Replace the disk at the \
                 console: `hostd order replace-disk {}`.{now}",
                if lost.is_empty() { String::new() } else { format!(" ({})", lost.join("; ")) },
                offered(others).map_or("NEW".into(), |other| other.device.display().to_string()),
            ),
        );
    }
    if !unsettled.is_empty() {
        let volumes = unsettled.join(" and ");
        let rest = if now.is_empty() { " Go on at the console: `hostd order balance-disks`." } else { "" };
        return check(
            Level::Warn,
            format!("Not all of {volumes} is kept yet as the disks allow.{rest}{now}"),
        );
    }
    let failing = used.iter().filter_map(|disk| {
        let why = match (disk.health, disk.errors) {
            (Health::Failing, _) => "says that it fails soon (SMART)",
            (_, 1..) => "has had errors",
            _ => return None,
        };
        Some(format!("{} {why}", disk.title))
    });
    let failing: Vec<String> = failing.collect();
    if !failing.is_empty() {
        return check(
            Level::Warn,
            format!(
                "{}; replace it at the console before it fails, or, when the cause is known and gone, `hostd order \
                 clear-disk-errors`.{now}",
                failing.join(", ")
            ),
        );
    }
    let count = match used.len() {
        1 => "The disk is there, without errors.".to_owned(),
        count => format!("All {count} disks are there, without errors."),
    };
    let controller = used.iter().find_map(|disk| disk.raid_controller.as_ref());
    let controller = controller.map_or(String::new(), |driver| {
        format!(
            " How the disks behind the RAID controller ({driver}) are is not visible here: watch the controller's own report."
        )
    });
    let offer = offered(others).map_or(String::new(), |other| {
        format!(
            " {} is blank: `hostd order add-disk {}` at the console takes it in.",
            other.title,
            other.device.display()
        )
    });
    // While something is done with the disks, none comes in.
    let last = if now.is_empty() { offer } else { now };
    check(Level::Ok, count + &controller + &last)
}

/// The first disk that could come in without any loss.
fn offered(others: &[Other]) -> Option<&Other> {
    others.iter().find(|other| other.is_offered)
}

/// Check `size`: for whom the machine is large enough (design section 7), and whether it is above the least. `None`: it cannot be
/// told.
pub fn size_check(machine: Option<&sizing::Machine>) -> Check {
    let check = |level, message| Check { name: "size".into(), level, message };
    let Some(machine) = machine else {
        return check(Level::Ok, "How large the machine is cannot be told now.".into());
    };
    match sizing::refusals(machine).as_slice() {
        [] => check(Level::Ok, sizing::verdict(machine)),
        some => check(Level::Warn, sentence(&some.join("; "))),
    }
}

/// A scrub is made every month; one that is so late warns, and so late fails.
const SCRUB_WARNS: SignedDuration = SignedDuration::from_hours(45 * 24);
const SCRUB_FAILS: SignedDuration = SignedDuration::from_hours(90 * 24);

/// Check `scrub`: all that is stored was read lately, and what was wrong could be mended. Without disks that can be looked
/// at there is nothing to say beside [`disks_check`].
pub fn scrub_check(disks: Option<&Result<Disks, String>>, now: Timestamp) -> Check {
    let check = |level, message| Check { name: "scrub".into(), level, message };
    let Some(Ok(Disks { scrub, provisioned, .. })) = disks else {
        return check(Level::Ok, "The last scrub is not known yet.".into());
    };
    let Some(since) = scrub.map(|scrub| scrub.at).or(*provisioned) else {
        return check(Level::Ok, "No scrub was made yet.".into());
    };
    let age = now.duration_since(since);
    let late = if age > SCRUB_FAILS {
        Level::Fail
    } else if age > SCRUB_WARNS {
        Level::Warn
    } else {
        Level::Ok
    };
    let ago = in_words(age);
    match scrub.map(|scrub| scrub.found) {
        None => check(late, format!("No scrub was made yet; the machine is there since {ago}.")),
        Some(found) if found.uncorrectable > 0 => check(
            Level::Fail,
            format!(
                "The scrub {ago} ago found {} blocks that have no second copy to be mended from: replace the disk, and \
                 have backups verified.",
                found.uncorrectable
            ),
        ),
        Some(found) if found.corrected > 0 => {
            check(late.max(Level::Warn), format!("The scrub {ago} ago mended {} blocks.", found.corrected))
        }
        Some(_) => check(late, format!("All was read {ago} ago, and nothing was wrong.")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_machine_is_told_what_falls_short() {
        let machine =
            |cores, memory_bytes, usable_bytes| sizing::Machine { cores, memory_bytes, usable_bytes };
        let table = [
            (None, Level::Ok, "cannot be told"),
            (Some(machine(4, 8 << 30, 600_000_000_000)), Level::Ok, "up to 2000 devices"),
            (Some(machine(2, 8 << 30, 600_000_000_000)), Level::Ok, "2 cores and not 4"),
            (Some(machine(2, 500_000_000, 600_000_000_000)), Level::Warn, "1 GB is the least"),
        ];
        for (machine, level, message) in table {
            let check = size_check(machine.as_ref());
            assert!(check.level == level && check.message.contains(message), "{check:?}");
        }
    }

    #[test]
    fn disks_are_all_there_or_the_way_out_is_said() {
        use storage::life::{Scrubbed, Used};
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let used = |name: &str, errors| Used {
            device: format!("/dev/{name}").into(),
            title: format!("/dev/{name} (500 GB)"),
            errors,
            health: Health::Passed,
            raid_controller: None,
        };
        let disks = |used: Vec<Used>, missing, scrub: Option<(&str, u64, u64)>| {
            Ok(Disks {
                report: Report { used, missing, others: Vec::new(), lost: Vec::new(), unsettled: Vec::new() },
                scrub: scrub.map(|(text, corrected, uncorrectable)| hostd::Scrub {
                    at: at(text),
                    found: Scrubbed { corrected, uncorrectable },
                }),
                provisioned: Some(at("2026-06-01T00:00:00Z")),
                under_way: None,
            })
        };
        let two = || vec![used("sda", 0), used("sdb", 0)];
        let changed = |change: fn(&mut Report, &str), text: &str| {
            let mut disks: Result<Disks, String> = disks(two(), 0, None);
            disks.iter_mut().for_each(|disks| change(&mut disks.report, text));
            disks
        };
        let lost = |title: &str| {
            changed(
                |report, title| {
                    (report.missing, report.lost) = (1, vec![title.to_owned()]);
                    report.used.pop();
                },
                title,
            )
        };
        let other = |is_offered| Other {
            device: "/dev/sdc".into(),
            title: "/dev/sdc (500 GB)".into(),
            contents: Vec::new(),
            hindrance: None,
            is_offered,
        };
        let beside = |used: Vec<Used>, missing, is_offered| {
            let mut disks: Result<Disks, String> = disks(used, missing, None);
            disks.iter_mut().for_each(|disks| disks.report.others.push(other(is_offered)));
            disks
        };
        let unsettled = || changed(|report, name| report.unsettled.push(name.to_owned()), "data");
        let table = [
            (None, Level::Ok, "are being looked at"),
            (Some(Err("lsblk is not there".to_owned())), Level::Warn, "Lsblk is not there."),
            (Some(disks(two(), 0, None)), Level::Ok, "All 2 disks are there"),
            (Some(disks(vec![used("sda", 0)], 0, None)), Level::Ok, "The disk is there"),
            (Some(disks(vec![used("sda", 0)], 1, None)), Level::Fail, "1 of 2 disks are missing"),
            (Some(lost("EVO, S2, bay 3")), Level::Fail, "1 of 2 disks are missing (EVO, S2, bay 3): what"),
            (
                Some(beside(two(), 0, true)),
                Level::Ok,
                "without errors. /dev/sdc (500 GB) is blank: `hostd order add-disk /dev/sdc` at the console",
            ),
            (Some(beside(two(), 1, true)), Level::Fail, "`hostd order replace-disk /dev/sdc`."),
            (Some(beside(two(), 1, false)), Level::Fail, "`hostd order replace-disk NEW`."),
            (Some(unsettled()), Level::Warn, "Not all of data is kept yet as the disks allow. Go on at"),
            (Some(disks(vec![used("sda", 7)], 0, None)), Level::Warn, "/dev/sda (500 GB) has had errors;"),
            (
                Some(disks(vec![Used { health: Health::Failing, ..used("sdb", 0) }], 0, None)),
                Level::Warn,
                "/dev/sdb (500 GB) says that it fails soon (SMART);",
            ),
            (
                Some(disks(vec![Used { raid_controller: Some("hpsa".into()), ..used("sda", 0) }], 0, None)),
                Level::Ok,
                "behind the RAID controller (hpsa) are is not visible here",
            ),
        ];
        for (disks, level, message) in table {
            let check = disks_check(disks.as_ref());
            assert!(check.level == level && check.message.contains(message), "{check:?}");
        }
        let table = [
            (None, "2026-06-20T00:00:00Z", Level::Ok, "No scrub was made yet"),
            (None, "2026-08-01T00:00:00Z", Level::Warn, "No scrub was made yet"),
            (Some(("2026-07-01T00:00:00Z", 0, 0)), "2026-08-01T00:00:00Z", Level::Ok, "nothing was wrong"),
            (Some(("2026-07-01T00:00:00Z", 0, 0)), "2026-12-01T00:00:00Z", Level::Fail, "nothing was wrong"),
            (Some(("2026-07-01T00:00:00Z", 5, 0)), "2026-07-02T00:00:00Z", Level::Warn, "mended 5 blocks"),
            (Some(("2026-07-01T00:00:00Z", 5, 1)), "2026-07-02T00:00:00Z", Level::Fail, "found 1 blocks"),
        ];
        for (scrub, now, level, message) in table {
            let check = scrub_check(Some(&disks(two(), 0, scrub)), at(now));
            assert!(check.level == level && check.message.contains(message), "{check:?}");
        }
    }
}
