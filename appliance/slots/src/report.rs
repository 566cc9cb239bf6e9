//! What the other programs may know of the slots: a file in `/run`, as they have no access to the disk.

use crate::decision::{Slot, State, TRIES};
use api::Level;
use serde::{Deserialize, Serialize};

/// Where the report is.
pub const PATH: &str = "/run/infimonitor/slots.json";

/// The slots as they stood when the running system was proved, or failed to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// `a` or `b`.
    pub running: String,
    /// Version of the running system.
    pub version: String,
    /// It came up healthy.
    pub good: bool,
    /// Why it is not good yet, or why that cannot be stored.
    pub problem: Option<String>,
    /// The other slot.
    pub other: Other,
}

/// The slot that does not run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Other {
    /// `a` or `b`.
    pub slot: String,
    /// Version of the system in it; `None`: it is empty, or half written.
    pub version: Option<String>,
    /// It is the one that should be running.
    pub first: bool,
    /// How often it was started and did not come up.
    pub tries: u8,
}

impl Report {
    /// From the state of the slots and the versions in them.
    pub fn new(
        state: &State,
        running: Slot,
        version: String,
        other_version: Option<String>,
        problem: Option<String>,
    ) -> Self {
        let other = running.other();
        Self {
            running: running.to_string(),
            version,
            good: state.record(running).good,
            problem,
            other: Other {
                slot: other.to_string(),
                first: state.first == other,
                tries: state.record(other).tries,
                version: other_version,
            },
        }
    }

    /// The check `system` of the status.
    pub fn check(&self) -> (Level, String) {
        let Self { running, version, problem, other, .. } = self;
        let runs = format!("ersion {version} runs from slot {running}");
        let slot = &other.slot;
        match (problem, &other.version) {
            (Some(problem), _) if self.good => (Level::Warn, format!("V{runs}, but {problem}.")),
            (Some(problem), _) => (Level::Warn, format!("V{runs} and has not proved itself: {problem}.")),
            (None, _) if !other.first => (Level::Ok, format!("V{runs}.")),
            (None, None) => {
                (Level::Warn, format!("Slot {slot} should run, and cannot be read; v{runs} instead."))
            }
            (None, Some(new)) if other.tries == 0 => {
                (Level::Ok, format!("V{runs}; version {new} in slot {slot} starts at the next restart."))
            }
            (None, Some(new)) if other.tries == TRIES => {
                (Level::Warn, format!("Version {new} in slot {slot} did not come up; v{runs} instead."))
            }
            (None, Some(new)) => (
                Level::Warn,
                format!(
                    "Version {new} in slot {slot} did not come up and is tried again at the next restart; v{runs} \
                     instead."
                ),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::environment::Environment;

    #[test]
    fn the_check_says_what_runs_and_what_should() {
        let new = State::of(&Environment::default());
        let report = |state: &State, running, other: Option<&str>, problem: Option<&str>| {
            Report::new(state, running, "1.0".into(), other.map(Into::into), problem.map(Into::into)).check()
        };
        assert_eq!(report(&new, Slot::A, None, None), (Level::Ok, "Version 1.0 runs from slot a.".into()));
        let mut updated = new;
        updated.finish_write(Slot::B);
        assert_eq!(
            report(&updated, Slot::A, Some("2.0"), None),
            (
                Level::Ok,
                "Version 1.0 runs from slot a; version 2.0 in slot b starts at the next restart.".into()
            )
        );
        assert_eq!(
            report(&updated, Slot::B, Some("0.9"), Some("backupd does not run")),
            (
                Level::Warn,
                "Version 1.0 runs from slot b and has not proved itself: backupd does not run.".into()
            )
        );
        assert_eq!(
            report(&updated, Slot::A, None, None),
            (
                Level::Warn,
                "Slot b should run, and cannot be read; version 1.0 runs from slot a instead.".into()
            )
        );
        updated.b.tries = 1;
        let (level, text) = report(&updated, Slot::A, Some("2.0"), None);
        assert!(level == Level::Warn && text.contains("did not come up and is tried again"), "{text}");
        updated.b.tries = TRIES;
        assert_eq!(
            report(&updated, Slot::A, Some("2.0"), None),
            (
                Level::Warn,
                "Version 2.0 in slot b did not come up; version 1.0 runs from slot a instead.".into()
            )
        );
        // It is being written, or was cut: nothing that could have come up.
        updated.begin_write(Slot::B);
        assert_eq!(report(&updated, Slot::A, None, None).0, Level::Ok);
        assert_eq!(
            report(&new, Slot::A, None, Some("grubenv cannot be written")).1,
            "Version 1.0 runs from slot a, but grubenv cannot be written."
        );
    }
}
