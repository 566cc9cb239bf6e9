//! The answer of `GET /v1/status` from what is known: sentences and checks, as pure functions.

use api::{
    Backup, Check, Frequency, FtpSettings, Level, Limits, Progress, Settings, Space, State, Verification,
};
use hostd::Disks;
use jiff::{SignedDuration, Timestamp};
use storage::life::Report;
use storage::sizing;
use storage::smart::Health;

/// The state as a sentence.
pub fn message(state: &State, endpoint: Option<&str>) -> String {
    let monitor = endpoint.map_or("the monitor".into(), |endpoint| format!("the monitor at {endpoint}"));
    match state {
        State::NotConnected => {
            "No monitor is paired. Enter this server's address on the monitor's page, Settings → Backups."
                .into()
        }
        State::Connecting => format!("Connecting to {monitor}."),
        State::InitialSync(Progress { total: 0, .. }) => format!("The full copy of {monitor} begins."),
        State::InitialSync(copy) => format!("Full copy of {monitor}: {}.", progress(copy)),
        State::OutOfSync { reason, copy: Some(copy) } => {
            format!("{} Full copy of {monitor}: {}.", sentence(reason), progress(copy))
        }
        State::Disconnected { reason, slot_seconds_left: Some(left), .. } => {
            let left = SignedDuration::from_secs(i64::try_from(*left).unwrap_or(i64::MAX));
            format!("{} The monitor keeps what is missing for about {}.", sentence(reason), in_words(left))
        }
        State::Synchronized { .. } => format!("Every change of {monitor} arrives as it is made."),
        State::Lagging { lag_bytes, lag_seconds } => {
            format!("Behind {monitor} by {lag_seconds:.0} s, {} kB of WAL.", lag_bytes / 1000)
        }
        State::Updating => "The backup server is updating itself.".into(),
        State::Disconnected { reason, .. }
        | State::OutOfSync { reason, .. }
        | State::Incompatible { reason }
        | State::Failed { reason } => sentence(reason),
    }
}

fn progress(Progress { percent, rate, seconds_left, .. }: &Progress) -> String {
    let left = seconds_left.map(|left| format!(", about {left} s left")).unwrap_or_default();
    format!("{percent} % at {} MB/s{left}", rate / 1_000_000)
}

/// A reason as a sentence.
pub fn sentence(reason: &str) -> String {
    let mut characters = reason.chars();
    let first = characters.next().map(|first| first.to_uppercase().to_string()).unwrap_or_default();
    format!("{first}{}.", characters.as_str().trim_end_matches('.'))
}

/// Replay that is behind by more than this does not catch up by itself soon, or has stopped.
const LAG_FAILS_SECONDS: f64 = 900.0;

/// Check `replication`.
pub fn replication_check(state: &State, message: &str) -> Check {
    let level = match state {
        State::Synchronized { .. } | State::Updating => Level::Ok,
        State::Lagging { lag_seconds, .. } if *lag_seconds > LAG_FAILS_SECONDS => Level::Fail,
        State::Connecting | State::InitialSync(_) | State::Lagging { .. } | State::NotConnected => {
            Level::Warn
        }
        State::Disconnected { .. }
        | State::OutOfSync { .. }
        | State::Incompatible { .. }
        | State::Failed { .. } => Level::Fail,
    };
    Check { name: "replication".into(), level, message: message.into() }
}

/// How an event is marked that says that the state is this now: on the way to protection nothing is wrong.
pub fn event_level(state: &State) -> Level {
    match state {
        State::Connecting | State::InitialSync(_) => Level::Ok,
        other => replication_check(other, "").level,
    }
}

/// Check `default-password`.
pub fn password_check(is_default: Result<bool, String>) -> Check {
    let (level, message) = match is_default {
        Ok(false) => (Level::Ok, "The password was changed from the default.".into()),
        Ok(true) => (Level::Warn, "The password is the default one; change it at the console.".into()),
        Err(error) => (Level::Fail, format!("The password cannot be checked: {error}")),
    };
    Check { name: "default-password".into(), level, message }
}

/// Why the data volume cannot be used: what first boot says (its file is there while something is wrong), or that the
/// folders which first boot makes on it are not there. `None`: it can be used.
pub fn volume_problem(said: Result<Option<String>, String>, has_folders: bool) -> Option<String> {
    match said {
        Ok(Some(problem)) => Some(format!("the data volume cannot be used: {}", problem.trim())),
        Err(error) => Some(format!("it cannot be told whether the data volume is there: {error}")),
        Ok(None) if !has_folders => Some(
            "the data volume cannot be used: it is not mounted; see `systemctl status infimonitor-firstboot`"
                .into(),
        ),
        Ok(None) => None,
    }
}

/// Check `data-volume`: it is mounted.
pub fn volume_check(problem: Option<String>) -> Check {
    match problem {
        None => Check {
            name: "data-volume".into(),
            level: Level::Ok,
            message: "The data volume is mounted.".into(),
        },
        Some(problem) => {
            Check { name: "data-volume".into(), level: Level::Fail, message: sentence(&problem) }
        }
    }
}

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
    let Report { used, missing, lost, unsettled, .. } = &disks.report;
    let now = disks.under_way.as_ref().map_or(String::new(), |step| format!(" Now: {step}."));
    if *missing > 0 {
        let all = used.len() + missing;
        return check(
            Level::Fail,
            format!(
                "{missing} of {all} disks are missing{}: what is written now has no second copy. Replace the disk at the \
                 console: `hostd order replace-disk`.{now}",
                if lost.is_empty() { String::new() } else { format!(" ({})", lost.join("; ")) }
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
    check(Level::Ok, count + &controller + &now)
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

/// Check `free-space` of the data volume; `None`: it is not known. `stuck`: rotation may delete nothing more.
pub fn space_check(space: Option<Space>, limits: &Limits, stuck: bool) -> Check {
    let check = |level, message| Check { name: "free-space".into(), level, message };
    let Some(Space { total, free, .. }) = space else {
        return check(Level::Warn, "It is not known how much space is free.".into());
    };
    let said = format!("{:.1} GB of {:.1} GB are free", free as f64 / 1e9, total as f64 / 1e9);
    if free < replica::FULL_BYTES {
        check(Level::Fail, format!("The data volume is full: {said}. Use a larger disk."))
    } else if free < limits.low_space(total) {
        let rest = "no backup may be deleted; unpin some at the console or use a larger disk";
        let (level, rest) =
            if stuck { (Level::Fail, rest) } else { (Level::Warn, "the oldest backups are deleted") };
        check(level, format!("Space is low: {said}; {rest}."))
    } else {
        check(Level::Ok, format!("{said}."))
    }
}

/// Check `last-backup`: its age against the schedule. `backups` are the paired monitor's, newest first.
pub fn backup_check(
    settings: &Settings,
    is_paired: bool,
    backups: &Result<Vec<Backup>, String>,
    now: Timestamp,
) -> Check {
    let period = SignedDuration::from_hours(match settings.frequency {
        Frequency::Hours { hours } => i64::from(hours),
        Frequency::Day { .. } => 24,
        Frequency::Week { .. } => 7 * 24,
    });
    let (level, message) = match backups {
        _ if !is_paired => (Level::Ok, "No monitor is paired, so no backup is due.".into()),
        Err(error) => (Level::Fail, sentence(error)),
        Ok(backups) => match backups.first() {
            None => (Level::Warn, "There is no backup yet.".into()),
            Some(backup) => {
                let age = now.duration_since(backup.created);
                // One may be late by half a period: a summer's hour, a slow start.
                let level = if age > period * 3 {
                    Level::Fail
                } else if age > period * 3 / 2 {
                    Level::Warn
                } else {
                    Level::Ok
                };
                (level, format!("The last backup was made {} ago.", in_words(age)))
            }
        },
    };
    Check { name: "last-backup".into(), level, message }
}

/// Check `last-verification`. `backups` are the paired monitor's, newest first.
pub fn verification_check(is_paired: bool, backups: &Result<Vec<Backup>, String>) -> Check {
    let decided = |backup: &&Backup| {
        matches!(backup.verification, Verification::Verified(_) | Verification::Failed { .. })
    };
    let (level, message) = match backups {
        Err(error) => (Level::Fail, sentence(error)),
        Ok(backups) => match backups.iter().find(decided) {
            Some(Backup { id, verification: Verification::Failed { reason, .. }, .. }) => {
                (Level::Fail, format!("Backup {id} cannot be restored: {}", sentence(reason)))
            }
            Some(Backup { id, verification: Verification::Verified(proof), .. }) => {
                let limits: String = proof.limits.iter().map(|limit| format!(" {limit}")).collect();
                let seconds = proof.restore_seconds;
                (Level::Ok, format!("Backup {id} is verified, it restores in {seconds:.0} s.{limits}"))
            }
            _ if !is_paired || backups.is_empty() => (Level::Ok, "There is no backup to verify.".into()),
            _ => (Level::Warn, "No backup is verified yet.".into()),
        },
    };
    Check { name: "last-verification".into(), level, message }
}

/// Check `full-copy`: the last one is what the monitor sent, as far as that is known.
pub fn copy_check(damage: Option<&str>) -> Check {
    let (level, message) = match damage {
        None => (Level::Ok, "Nothing is known against the last full copy.".into()),
        Some(reason) => (
            Level::Fail,
            format!(
                "{} It is made anew once by itself; if that does not help, check disk, memory and network, and then \
                 begin another with `systemctl restart infimonitor-backupd`.",
                sentence(reason)
            ),
        ),
    };
    Check { name: "full-copy".into(), level, message }
}

/// Less time than this until the slot is lost needs attention.
const HEADROOM: SignedDuration = SignedDuration::from_hours(24);

/// Check `slot-headroom`: how long the monitor keeps what has not arrived here, at the rate at which it writes WAL;
/// `None`: for ever, or it is not known yet.
pub fn headroom_check(is_paired: bool, seconds_left: Option<u64>) -> Check {
    let left = seconds_left.map(|left| SignedDuration::from_secs(i64::try_from(left).unwrap_or(i64::MAX)));
    let (level, message) = match left {
        _ if !is_paired => (Level::Ok, "No monitor is paired.".into()),
        None => (Level::Ok, "The monitor keeps what has not arrived here.".into()),
        Some(left) => {
            let level = if left < HEADROOM { Level::Warn } else { Level::Ok };
            let said = format!(
                "If this server were away, the monitor would keep what it misses for about {}.",
                in_words(left)
            );
            (level, said)
        }
    };
    Check { name: "slot-headroom".into(), level, message }
}

/// Check `clock`; `None`: it was not looked at yet.
pub fn clock_check(is_trusted: Option<bool>) -> Check {
    let (level, message) = match is_trusted {
        Some(false) => (
            Level::Warn,
            "The clock has jumped by more than a day; nothing expires by age until it is confirmed at the console.",
        ),
        Some(true) => (Level::Ok, "The clock runs evenly."),
        None => (Level::Ok, "The clock was not looked at yet."),
    };
    Check { name: "clock".into(), level, message: message.into() }
}

/// Check `ftp`: a warning as long as clear FTP is allowed.
pub fn ftp_check(settings: Result<FtpSettings, String>) -> Check {
    let (level, message) = match settings {
        Ok(FtpSettings { allow_clear: false, .. }) => (Level::Ok, "Backups are served over TLS only.".into()),
        Ok(_) => (
            Level::Warn,
            format!(
                "Clear FTP is allowed: the password and every backup can be read on the network; `{} order ftp \
                 --allow-clear false` at the console ends that.",
                hostd::PROGRAM
            ),
        ),
        Err(error) => (Level::Warn, format!("The settings of FTP cannot be read, TLS is required: {error}")),
    };
    Check { name: "ftp".into(), level, message }
}

/// Check `settings`: what was damaged when the daemon started.
pub fn settings_check<'a>(damage: impl Iterator<Item = &'a String>) -> Check {
    let said: Vec<_> = damage.map(|problem| sentence(problem)).collect();
    let (level, message) = if said.is_empty() {
        (Level::Ok, "Pairing and settings are in order.".into())
    } else {
        (Level::Warn, said.join(" "))
    };
    Check { name: "settings".into(), level, message }
}

/// A length of time as people say it.
fn in_words(age: SignedDuration) -> String {
    match age.as_secs() {
        ..120 => format!("{} s", age.as_secs().max(0)),
        120..7200 => format!("{} min", age.as_mins()),
        7200..172_800 => format!("{} h", age.as_hours()),
        _ => format!("{} days", age.as_hours() / 24),
    }
}

/// Check `system`: which slot runs, and whether it is the one that should; from the report of `slots prove`.
pub fn system_check(report: Result<Option<String>, String>) -> Check {
    let unknown = |why: String| (Level::Warn, format!("It is not known how the system was started: {why}."));
    let (level, message) = match report {
        Ok(Some(text)) => match serde_json::from_str::<slots::Report>(&text) {
            Ok(report) => report.check(),
            Err(error) => unknown(format!("the report is damaged: {error}")),
        },
        Ok(None) => unknown("there is no report yet".into()),
        Err(error) => unknown(error),
    };
    Check { name: "system".into(), level, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_become_sentences() {
        let failed = |reason: &str| State::Failed { reason: reason.into() };
        assert_eq!(message(&failed("the monitor refuses"), None), "The monitor refuses.");
        assert_eq!(message(&failed("ünder."), None), "Ünder.");
        assert_eq!(message(&failed(""), None), ".");
    }

    #[test]
    fn the_volume_is_there_only_if_nobody_says_otherwise_and_it_has_its_folders() {
        let table = [
            (Ok(None), true, None),
            (Ok(None), false, Some("it is not mounted")),
            (Ok(Some("no disk\n".into())), true, Some("cannot be used: no disk")),
            (Ok(Some("no disk".into())), false, Some("cannot be used: no disk")),
            (Err("x".into()), true, Some("cannot be told whether the data volume is there: x")),
        ];
        for (said, has_folders, expected) in table {
            let problem = volume_problem(said, has_folders);
            assert_eq!(problem.is_some(), expected.is_some());
            assert!(problem.unwrap_or_default().contains(expected.unwrap_or_default()));
        }
    }

    #[test]
    fn little_space_is_warned_of_and_none_is_a_failure() {
        const GB: u64 = 1_000_000_000;
        let table = [
            (Some((500 * GB, 51 * GB)), false, Level::Ok),
            (Some((500 * GB, 49 * GB)), false, Level::Warn),
            (Some((500 * GB, 49 * GB)), true, Level::Fail),
            (Some((16 * GB, 9 * GB)), false, Level::Warn),
            (Some((16 * GB, GB)), false, Level::Fail),
            (None, false, Level::Warn),
        ];
        for (space, stuck, level) in table {
            let check = space_check(
                space.map(|(total, free)| Space { total, free, usage: None, low_at: None }),
                &Limits::default(),
                stuck,
            );
            assert_eq!(check.level, level, "{}", check.message);
        }
    }

    #[test]
    fn a_missing_or_damaged_report_of_the_slots_is_said_to_be() {
        let report = r#"{"running":"a","version":"1","good":true,"problem":null,
            "other":{"slot":"b","version":null,"first":false,"tries":0}}"#;
        for (text, level, part) in [
            (Ok(Some(report.to_owned())), Level::Ok, "Version 1 runs from slot a."),
            (Ok(Some("{".into())), Level::Warn, "report is damaged"),
            (Ok(None), Level::Warn, "no report yet"),
            (Err("x".into()), Level::Warn, "started: x."),
        ] {
            let check = system_check(text);
            assert_eq!(check.level, level);
            assert!(check.message.contains(part), "{}", check.message);
        }
    }

    #[test]
    fn only_a_stream_without_lag_is_ok() {
        let table = [
            (State::Synchronized { lag_bytes: 0, lag_seconds: 0.0 }, Level::Ok),
            (State::Lagging { lag_bytes: 0, lag_seconds: 0.0 }, Level::Warn),
            (State::Lagging { lag_bytes: 0, lag_seconds: 901.0 }, Level::Fail),
            (State::NotConnected, Level::Warn),
            (State::Failed { reason: String::new() }, Level::Fail),
        ];
        for (state, level) in table {
            assert_eq!(replication_check(&state, "").level, level);
        }
    }

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
        let unsettled = || changed(|report, name| report.unsettled.push(name.to_owned()), "data");
        let table = [
            (None, Level::Ok, "are being looked at"),
            (Some(Err("lsblk is not there".to_owned())), Level::Warn, "Lsblk is not there."),
            (Some(disks(two(), 0, None)), Level::Ok, "All 2 disks are there"),
            (Some(disks(vec![used("sda", 0)], 0, None)), Level::Ok, "The disk is there"),
            (Some(disks(vec![used("sda", 0)], 1, None)), Level::Fail, "1 of 2 disks are missing"),
            (Some(lost("EVO, S2, bay 3")), Level::Fail, "1 of 2 disks are missing (EVO, S2, bay 3): what"),
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
