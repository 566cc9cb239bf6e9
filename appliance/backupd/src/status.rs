//! The answer of `GET /v1/status` from what is known: sentences and checks, as pure functions.

use api::{Check, Level, State};

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

/// Check `data-volume`: it is mounted.
pub fn volume_check(problem: Option<String>) -> Check {
    match problem {
        None => Check {
            name: "data-volume".into(),
            level: Level::Ok,
            message: "The data volume is mounted.".into(),
        },
        Some(problem) => Check { name: "data-volume".into(), level: Level::Fail, message: problem },
    }
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
