//! `GET /metrics`: the status in the text format of Prometheus (its documentation, "Exposition formats"), version 0.0.4.
//!
//! Everything comes from the answers of `/v1/status` and `/v1/backups`, so the numbers cannot disagree with the page.

use crate::rotation_checks::is_ahead;
use crate::verification::last_read;
use api::{Backup, BackupList, Level, State, Status, Verification};
use jiff::Timestamp;
use std::fmt::Write as _;

/// Content type of the answer.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// All states, since an alert on a state that is not there must see 0 and not nothing.
const STATES: [&str; 10] = [
    "not-connected",
    "connecting",
    "initial-sync",
    "synchronized",
    "lagging",
    "disconnected",
    "out-of-sync",
    "incompatible",
    "updating",
    "failed",
];

/// The text; `list` is not there while the data volume is not.
pub fn render(status: &Status, list: Option<&BackupList>) -> String {
    let mut page = Page(String::new());
    page.family("info", "Versions of what runs here.");
    let versions = &status.versions;
    let labels = [("version", versions.server.as_str()), ("postgresql", &versions.postgresql.to_string())];
    page.sample("info", &labels, 1.0);

    page.family("state", "1 for the state that the replica is in.");
    for state in STATES {
        page.sample("state", &[("state", state)], f64::from(u8::from(status.state.name() == state)));
    }
    page.family("check", "How each check stands: 0 OK, 1 WARN, 2 FAIL.");
    for check in &status.checks {
        let value = match check.level {
            Level::Ok => 0.0,
            Level::Warn => 1.0,
            Level::Fail => 2.0,
        };
        page.sample("check", &[("check", &check.name)], value);
    }
    if let State::Synchronized { lag_bytes, lag_seconds } | State::Lagging { lag_bytes, lag_seconds } =
        status.state
    {
        page.single(
            "lag_bytes",
            "WAL between the monitor's position and what is replayed.",
            lag_bytes as f64,
        );
        page.single("lag_seconds", "Time by which the replay is behind the monitor.", lag_seconds);
    }
    if let State::InitialSync(copy) | State::OutOfSync { copy: Some(copy), .. } = status.state {
        page.single("copy_done_bytes", "Bytes of the full copy that are done.", copy.done as f64);
        page.single("copy_total_bytes", "Bytes of the full copy.", copy.total as f64);
    }
    if let Some(space) = status.space {
        page.single("data_total_bytes", "Size of the data volume.", space.total as f64);
        page.single("data_free_bytes", "Free on the data volume.", space.free as f64);
        if let Some(usage) = space.usage {
            page.single("replica_bytes", "What the replica takes.", usage.replica as f64);
            page.single("backups_bytes", "What all backups together take.", usage.backups as f64);
        }
    }
    if let Some(list) = list {
        backups(&mut page, list, Timestamp::now());
    }
    page.0
}

fn backups(page: &mut Page, list: &BackupList, now: Timestamp) {
    // The age of one that is dated in the future is unknown: it is no success.
    let known = || list.backups.iter().filter(|backup| !is_ahead(backup, now));
    let seconds = |at: &Timestamp| at.as_millisecond() as f64 / 1000.0;
    page.single("backups", "Backups that are there.", list.backups.len() as f64);
    page.single("backups_damaged", "Snapshots without a usable manifest.", list.damaged.len() as f64);
    let is_failed = |backup: &&Backup| matches!(backup.verification, Verification::Failed { .. });
    let failed = list.backups.iter().filter(is_failed).count();
    page.single("backups_failed", "Backups that cannot be restored.", failed as f64);
    let troubled = list.backups.iter().filter(|backup| backup.trouble.is_some()).count();
    let help = "Backups whose last verification or reading came to no result.";
    page.single("backups_troubled", help, troubled as f64);
    if let Some(longest_ago) = list.backups.iter().map(last_read).min() {
        let help =
            "When the backup that was not read for the longest was read or made, in seconds since 1970.";
        page.single("oldest_reading_timestamp_seconds", help, seconds(&longest_ago));
    }
    if let Some(newest) = known().next() {
        let help = "When the newest backup was made, in seconds since 1970.";
        page.single("last_backup_timestamp_seconds", help, seconds(&newest.created));
    }
    let proof = known().find_map(|backup| match &backup.verification {
        Verification::Verified(proof) => Some((backup, proof)),
        _ => None,
    });
    if let Some((backup, proof)) = proof {
        let help = "When the newest verified backup was made, in seconds since 1970.";
        page.single("last_verified_backup_timestamp_seconds", help, seconds(&backup.created));
        let help =
            "Seconds that PostgreSQL took to recover the newest verified backup, on the backup server.";
        page.single("last_verified_recovery_seconds", help, proof.recovery_seconds);
    }
}

/// The page as it grows. Every metric is a gauge, and carries the product's prefix.
struct Page(String);

const PREFIX: &str = "infimonitor_backup_";

impl Page {
    fn family(&mut self, name: &str, help: &str) {
        // Writing to a string does not fail.
        let _infallible = write!(self.0, "# HELP {PREFIX}{name} {help}\n# TYPE {PREFIX}{name} gauge\n");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        let labels: Vec<_> =
            labels.iter().map(|(key, value)| format!("{key}=\"{}\"", escape(value))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _infallible = writeln!(self.0, "{PREFIX}{name}{labels} {value}");
    }

    fn single(&mut self, name: &str, help: &str, value: f64) {
        self.family(name, help);
        self.sample(name, &[], value);
    }
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::{Check, Space, Versions};

    #[test]
    fn the_page_has_the_figures_and_every_family_once() {
        let status = Status {
            state: State::Synchronized { lag_bytes: 7, lag_seconds: 0.5 },
            since: Timestamp::UNIX_EPOCH,
            message: String::new(),
            peer: None,
            checks: vec![Check { name: "free-space".into(), level: Level::Warn, message: String::new() }],
            space: Some(Space { total: 100, free: 9, usage: None, low_at: None }),
            versions: Versions { server: "1\"0".into(), postgresql: 17 },
        };
        let text = render(&status, Some(&BackupList::default()));
        for line in [
            "infimonitor_backup_info{version=\"1\\\"0\",postgresql=\"17\"} 1",
            "infimonitor_backup_state{state=\"synchronized\"} 1",
            "infimonitor_backup_state{state=\"failed\"} 0",
            "infimonitor_backup_check{check=\"free-space\"} 1",
            "infimonitor_backup_lag_bytes 7",
            "infimonitor_backup_lag_seconds 0.5",
            "infimonitor_backup_data_free_bytes 9",
            "infimonitor_backup_backups 0",
        ] {
            assert!(text.lines().any(|other| other == line), "{line} in {text}");
        }
        let mut families: Vec<_> = text.lines().filter(|line| line.starts_with("# TYPE")).collect();
        let count = families.len();
        families.dedup();
        assert_eq!(families.len(), count);
        assert!(!render(&status, None).contains("backup_backups"));
    }
}
