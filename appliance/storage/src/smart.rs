//! What a disk says of its own health (SMART), as `smartctl` reads it.
//!
//! The overall verdict alone: what single attributes mean is the maker's secret. A volume of a RAID controller has no health of
//! its own, whatever it answers, and how the disks behind it are is not visible here (issue: hardware RAID is never "OK").

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// A dying disk may answer nothing for minutes.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long an answer holds: the disk itself looks seldom, and one that hangs is not asked again at once.
const HOLDS: Duration = Duration::from_secs(3600);
/// What disks have answered, and when.
static KNOWN: Mutex<BTreeMap<PathBuf, (Instant, Health)>> = Mutex::new(BTreeMap::new());

/// A disk's health.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Health {
    /// The disk does not tell: a virtual one, a volume of a RAID controller, one without SMART.
    #[default]
    NotVisible,
    /// It says that it is well.
    Passed,
    /// It says that it fails soon.
    Failing,
}

#[derive(Deserialize)]
struct Answer {
    smart_status: Option<Status>,
}

#[derive(Deserialize)]
struct Status {
    passed: bool,
}

/// Reads what `smartctl --json --health` printed.
pub fn parse(answer: &str) -> Health {
    match serde_json::from_str(answer) {
        Ok(Answer { smart_status: Some(Status { passed: true }) }) => Health::Passed,
        Ok(Answer { smart_status: Some(Status { passed: false }) }) => Health::Failing,
        _ => Health::NotVisible,
    }
}

/// What a disk says, or said within the hour. One that does not answer in time is not visible.
pub fn health(device: &Path) -> Health {
    let known = || KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let said = known().get(device).copied();
    match said {
        Some((at, health)) if at.elapsed() < HOLDS => health,
        _ => {
            let health = ask(device);
            known().insert(device.to_owned(), (Instant::now(), health));
            health
        }
    }
}

fn ask(device: &Path) -> Health {
    // Its exit code is a set of findings; what it prints counts.
    let asked = duct::cmd!("smartctl", "--json=c", "--health", device)
        .env("LC_ALL", "C")
        .stdin_null()
        .stdout_capture()
        .stderr_null()
        .unchecked()
        .start();
    let Ok(asked) = asked else { return Health::NotVisible };
    let health = match asked.wait_timeout(PATIENCE) {
        Ok(Some(output)) => parse(&String::from_utf8_lossy(&output.stdout)),
        _ => Health::NotVisible,
    };
    // It has ended, or hangs in the kernel; then there is nothing to be had of it.
    asked.kill().ok();
    health
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_disk_says_counts() {
        let table = [
            (r#"{"smartctl":{"exit_status":0},"smart_status":{"passed":true}}"#, Health::Passed),
            (
                r#"{"smartctl":{"exit_status":8},"smart_status":{"passed":false,"nvme":{"value":4}}}"#,
                Health::Failing,
            ),
            (
                r#"{"smartctl":{"exit_status":1,"messages":[{"string":"Unable to detect device type"}]}}"#,
                Health::NotVisible,
            ),
            ("", Health::NotVisible),
        ];
        for (answer, expected) in table {
            assert_eq!(parse(answer), expected, "{answer}");
        }
    }
}
