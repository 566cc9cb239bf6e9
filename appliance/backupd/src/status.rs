//! The answer of `GET /v1/status` from what is known: sentences and checks, as pure functions.

use api::{Check, Level, Space, State};

/// The state as a sentence.
pub fn message(state: &State, endpoint: Option<&str>) -> String {
    let monitor = endpoint.map(|endpoint| format!("the monitor at {endpoint}")).unwrap_or_default();
    match state {
        State::NotConnected => {
            "No monitor is paired. Enter this server's address on the monitor's page, Settings → Backups."
                .into()
        }
        State::Connecting => format!("Connecting to {monitor}."),
        State::InitialSync { total: 0, .. } => format!("The full copy of {monitor} begins."),
        State::InitialSync { percent, rate, seconds_left, .. } => {
            let left = seconds_left.map(|left| format!(", about {left} s left")).unwrap_or_default();
            format!("Full copy of {monitor}: {percent} % at {} MB/s{left}.", rate / 1_000_000)
        }
        State::Synchronized { .. } => format!("Every change of {monitor} arrives as it is made."),
        State::Lagging { lag_bytes, lag_seconds } => {
            format!("Behind {monitor} by {lag_seconds:.0} s, {} kB of WAL.", lag_bytes / 1000)
        }
        State::Updating => "The backup server is updating itself.".into(),
        State::Disconnected { reason, .. }
        | State::OutOfSync { reason }
        | State::Incompatible { reason }
        | State::Failed { reason } => sentence(reason),
    }
}

fn sentence(reason: &str) -> String {
    let mut characters = reason.chars();
    let first = characters.next().map(|first| first.to_uppercase().to_string()).unwrap_or_default();
    format!("{first}{}.", characters.as_str().trim_end_matches('.'))
}

/// Check `replication`.
pub fn replication_check(state: &State, message: &str) -> Check {
    let level = match state {
        State::Synchronized { .. } | State::Updating => Level::Ok,
        State::Connecting | State::InitialSync { .. } | State::Lagging { .. } | State::NotConnected => {
            Level::Warn
        }
        State::Disconnected { .. }
        | State::OutOfSync { .. }
        | State::Incompatible { .. }
        | State::Failed { .. } => Level::Fail,
    };
    Check { name: "replication".into(), level, message: message.into() }
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

/// Below this free space is low, in bytes (design D11).
const LOW_SPACE_BYTES: u64 = 10_000_000_000;
/// Below this share of the volume free space is low (design D11).
const LOW_SPACE_SHARE: u64 = 10;
/// Below this PostgreSQL cannot be relied upon to go on, in bytes: WAL between two restartpoints (`max_wal_size`).
const FULL_BYTES: u64 = 1 << 30;

/// Check `free-space` of the data volume; `None`: it is not known.
pub fn space_check(space: Option<Space>) -> Check {
    let check = |level, message| Check { name: "free-space".into(), level, message };
    let Some(Space { total, free }) = space else {
        return check(Level::Warn, "It is not known how much space is free.".into());
    };
    let said = format!("{:.1} GB of {:.1} GB are free", free as f64 / 1e9, total as f64 / 1e9);
    if free < FULL_BYTES {
        check(Level::Fail, format!("The data volume is full: {said}. Use a larger disk."))
    } else if free < LOW_SPACE_BYTES || free < total / LOW_SPACE_SHARE {
        check(Level::Warn, format!("Space is low: {said}."))
    } else {
        check(Level::Ok, format!("{said}."))
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
            (Some((500 * GB, 51 * GB)), Level::Ok),
            (Some((500 * GB, 49 * GB)), Level::Warn),
            (Some((16 * GB, 9 * GB)), Level::Warn),
            (Some((16 * GB, GB)), Level::Fail),
            (None, Level::Warn),
        ];
        for (space, level) in table {
            let check = space_check(space.map(|(total, free)| Space { total, free }));
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
            (State::NotConnected, Level::Warn),
            (State::Failed { reason: String::new() }, Level::Fail),
        ];
        for (state, level) in table {
            assert_eq!(replication_check(&state, "").level, level);
        }
    }
}
