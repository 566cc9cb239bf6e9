//! What PostgreSQL logs while a backup is verified: counted and kept apart from hostd's journal.
//!
//! A clone logs as much as its data make it: thousands of lines a day from backups that are good. In the journal they would
//! push out what the machine says of itself, and words such as "data might be corrupted" would alarm without need. So the
//! journal has one line for each verification, and the last lines are in one file, which the next verification replaces.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Result;

/// Lines that are kept. Each has [`crate::lines::LINE_BYTES`] at most.
const KEPT: usize = 200;

/// The log of all servers of one verification.
#[derive(Debug, Clone, Default)]
pub struct CloneLog(Arc<Mutex<Lines>>);

#[derive(Debug, Default)]
struct Lines {
    last: VecDeque<String>,
    all: u64,
    warnings: u64,
    errors: u64,
}

impl CloneLog {
    /// Takes a line.
    pub fn add(&self, line: &str) {
        let mut lines = self.lines();
        lines.all += 1;
        // The settings of a clone leave the severity in front, in English.
        match line.split(':').next() {
            Some("WARNING") => lines.warnings += 1,
            Some("ERROR" | "FATAL" | "PANIC") => lines.errors += 1,
            _ => {}
        }
        if lines.last.len() == KEPT {
            lines.last.pop_front();
        }
        lines.last.push_back(line.to_owned());
    }

    /// How much was logged, as a sentence without full stop.
    pub fn summary(&self) -> String {
        let Lines { all, warnings, errors, .. } = *self.lines();
        format!("PostgreSQL logged {all} lines ({warnings} warnings, {errors} errors)")
    }

    /// Writes the last lines to a file, below a line that says `whose` they are.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, path: &Path, whose: &str) -> Result<()> {
        let mut text = format!("{whose}: {}\n", self.summary());
        let lines = self.lines();
        let left_out = lines.all - lines.last.len() as u64;
        if left_out > 0 {
            // Writing to a String does not fail.
            writeln!(text, "({left_out} lines before these are left out)").ok();
        }
        for line in &lines.last {
            text.push_str(line);
            text.push('\n');
        }
        files::write(path, text.as_bytes(), 0o600, None).map(drop)
    }

    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_counted_by_severity_and_the_last_ones_kept() {
        let log = CloneLog::default();
        for line in [
            "LOG:  database system is ready to accept connections",
            "WARNING:  database \"x\" has a collation version mismatch",
            "DETAIL:  ERROR: not at the beginning",
            "ERROR:  invalid page in block 1",
            "FATAL:  the database system is starting up",
            "",
        ] {
            log.add(line);
        }
        assert_eq!(log.summary(), "PostgreSQL logged 6 lines (1 warnings, 2 errors)");
        for number in 0..1000 {
            log.add(&format!("WARNING:  line {number}"));
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        log.write(&path, "verification of x").unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2 + KEPT);
        assert_eq!(
            lines[..2],
            [
                "verification of x: PostgreSQL logged 1006 lines (1001 warnings, 2 errors)",
                "(806 lines before these are left out)"
            ]
        );
        assert_eq!(lines.last(), Some(&"WARNING:  line 999"));
    }
}
