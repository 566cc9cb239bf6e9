//! The answer of `GET /v1/status` from what is known: sentences and checks, as pure functions.

use crate::monitor::{Shown, Shows};
use api::{Check, FtpSettings, Level, Progress, State};
use jiff::SignedDuration;
use std::time::{Duration, SystemTime};

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
            // Not from a monitor's clock, and bounded before it is converted.
            let seconds = SignedDuration::from_secs_f64(lag_seconds.clamp(0.0, 1e9));
            format!("Behind {monitor} by {}, {} of WAL.", in_words(seconds), amount(*lag_bytes))
        }
        State::Updating => "The backup server is updating itself.".into(),
        State::Disconnected { reason, .. }
        | State::OutOfSync { reason, .. }
        | State::Incompatible { reason }
        | State::Failed { reason } => sentence(reason),
    }
}

fn progress(Progress { percent, rate, seconds_left, .. }: &Progress) -> String {
    let left = seconds_left.map(|left| {
        let left = SignedDuration::from_secs(i64::try_from(left).unwrap_or(i64::MAX));
        format!(", about {} left", in_words(left))
    });
    format!("{percent} % at {}/s{}", amount(*rate), left.unwrap_or_default())
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

/// Check `full-copy`: the last one is what the monitor sent, as far as that is known, and none that is needed came to nothing.
pub fn copy_check(damage: Option<&str>, failure: Option<&str>) -> Check {
    let (level, message) = match (failure, damage) {
        (Some(why), _) => {
            (Level::Fail, format!("A full copy is needed and failed: {}.", why.trim_end_matches('.')))
        }
        (None, None) => (Level::Ok, "Nothing is known against the last full copy.".into()),
        (None, Some(reason)) => (
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

/// A certificate of the monitor that ends within this time is told.
const CERTIFICATE_ENDS: Duration = Duration::from_secs(30 * 24 * 3600);

/// Check `monitor-certificate`: PostgreSQL's programs, which copy and stream, look at the dates of the monitor's certificate
/// and at who signed it, not at its key alone. `None`: it was not seen yet.
pub fn monitor_certificate_check(is_paired: bool, shows: &Shown, now: SystemTime) -> Check {
    const EFFECT: &str = "No full copy can be made, and a stream that is interrupted cannot begin anew";
    const WAY_OUT: &str = "give the monitor's PostgreSQL another certificate, with the same private key if that is possible, \
                           run `monitor-link setup` there and pair again with what it prints.";
    let (level, message) = match shows {
        _ if !is_paired => (Level::Ok, "No monitor is paired.".into()),
        None => (Level::Ok, "The monitor's certificate was not seen yet.".into()),
        Some(Err(why)) => (
            Level::Warn,
            format!(
                "The monitor's certificate cannot be read ({why}). PostgreSQL's programs may refuse it: {WAY_OUT}"
            ),
        ),
        Some(Ok(Shows { validity, is_unknown })) => match validity.not_after.duration_since(now) {
            Err(past) => {
                let past = in_words(SignedDuration::try_from(past.duration()).unwrap_or_default());
                (Level::Fail, format!("The monitor's certificate expired {past} ago. {EFFECT}: {WAY_OUT}"))
            }
            Ok(_) if validity.not_before > now => (
                Level::Fail,
                format!(
                    "The monitor's certificate is not valid yet by this machine's clock. {EFFECT}: check both machines' \
                     clocks."
                ),
            ),
            Ok(_) if *is_unknown => (
                Level::Warn,
                format!(
                    "The monitor shows another certificate than the paired one, with the same key. {EFFECT}: run \
                     `monitor-link setup` there and pair again with what it prints."
                ),
            ),
            Ok(left) if left < CERTIFICATE_ENDS => {
                let left = in_words(SignedDuration::try_from(left).unwrap_or_default());
                (Level::Warn, format!("The monitor's certificate expires in {left}. Before that, {WAY_OUT}"))
            }
            Ok(_) => (Level::Ok, "The monitor's certificate is valid for more than 30 days.".into()),
        },
    };
    Check { name: "monitor-certificate".into(), level, message }
}

/// Check `ftp`: a warning as long as clear FTP, or a data connection without proof, is allowed.
pub fn ftp_check(settings: Result<FtpSettings, String>) -> Check {
    let (level, message) = match settings {
        Ok(FtpSettings { allow_clear: false, allow_unproven_data: false, .. }) => {
            (Level::Ok, "Backups are served over TLS only.".into())
        }
        Ok(FtpSettings { allow_clear: false, .. }) => (
            Level::Warn,
            format!(
                "FTP serves data connections that do not resume the TLS session of their control connection: a machine \
                 that shares a client's address can take a backup in its place; `{} order ftp --allow-unproven-data \
                 false` at the console ends that.",
                hostd::PROGRAM
            ),
        ),
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

/// A number of bytes as people say it.
pub fn amount(bytes: u64) -> String {
    match bytes {
        ..1000 => format!("{bytes} bytes"),
        1000..1_000_000 => format!("{} kB", bytes / 1000),
        1_000_000..10_000_000_000 => format!("{} MB", bytes / 1_000_000),
        _ => format!("{} GB", bytes / 1_000_000_000),
    }
}

/// A length of time as people say it.
pub fn in_words(age: SignedDuration) -> String {
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
    use auth::usable::Validity;

    #[test]
    fn what_ftp_does_without_protection_is_a_warning_with_the_way_out() {
        let safe = FtpSettings::default();
        for (settings, level, order) in [
            (Ok(safe), Level::Ok, ""),
            (Ok(FtpSettings { allow_clear: true, ..safe }), Level::Warn, "--allow-clear false"),
            (
                Ok(FtpSettings { allow_unproven_data: true, ..safe }),
                Level::Warn,
                "--allow-unproven-data false",
            ),
            (Err("no".to_owned()), Level::Warn, "no"),
        ] {
            let check = ftp_check(settings);
            assert_eq!(check.level, level);
            assert!(check.message.contains(order), "{}", check.message);
        }
    }

    #[test]
    fn the_end_of_the_monitors_certificate_is_told_in_time() {
        const DAY: u64 = 24 * 3600;
        let at = |days| SystemTime::UNIX_EPOCH + Duration::from_secs(days * DAY);
        let validity = Validity { not_before: at(100), not_after: at(200) };
        for (day, is_unknown, level, part) in [
            (99, false, Level::Fail, "not valid yet"),
            (150, false, Level::Ok, "more than 30 days"),
            (150, true, Level::Warn, "pair again"),
            (180, false, Level::Warn, "expires in 20 days. Before that, give"),
            (205, false, Level::Fail, "expired 5 days ago. No full copy"),
            (205, true, Level::Fail, "monitor-link setup"),
        ] {
            let shown = Some(Ok(Shows { validity, is_unknown }));
            let check = monitor_certificate_check(true, &shown, at(day));
            assert_eq!(check.level, level, "{day} {check:?}");
            assert!(check.message.contains(part), "{day} {check:?}");
        }
        assert_eq!(monitor_certificate_check(true, &None, at(0)).level, Level::Ok);
        assert_eq!(monitor_certificate_check(false, &None, at(0)).level, Level::Ok);
        let check = monitor_certificate_check(true, &Some(Err("it has no end".into())), at(0));
        assert!(check.level == Level::Warn && check.message.contains("it has no end"), "{check:?}");
    }

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
    fn a_copy_that_is_needed_and_does_not_come_is_said_with_its_reason() {
        assert_eq!(copy_check(None, None).level, Level::Ok);
        let check = copy_check(None, Some("the last one needed more than 9 GB"));
        assert!(check.level == Level::Fail && check.message.ends_with("needed more than 9 GB."), "{check:?}");
        assert!(
            copy_check(Some("the full copy is damaged"), None)
                .message
                .starts_with("The full copy is damaged.")
        );
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
}
