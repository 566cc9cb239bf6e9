//! Saying what is done: to every console of the machine, to the journal, and to a log that the machine keeps.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::apply::Progress;

/// The log.
pub const LOG: &str = "/run/infimonitor/install.log";
/// Between two lines about bytes.
const PAUSE: Duration = Duration::from_secs(5);

/// Where lines go.
#[derive(Debug, Default)]
pub struct Report {
    consoles: Vec<PathBuf>,
    log: Option<File>,
    bytes: Option<(Instant, Instant)>,
}

impl Report {
    /// To the consoles and the log of this machine.
    ///
    /// # Errors
    /// There can be no log.
    pub fn of_machine() -> Result<Self> {
        let active = fs::read_to_string("/sys/class/tty/console/active").unwrap_or_default();
        let names = active.split_whitespace().map(|name| if name == "tty0" { "tty1" } else { name });
        let consoles = names.map(|name| Path::new("/dev").join(name)).collect();
        Ok(Self { consoles, ..Self::of_pages()? })
    }

    /// To the log alone: the consoles show pages.
    ///
    /// # Errors
    /// There can be no log.
    pub fn of_pages() -> Result<Self> {
        let log = OpenOptions::new().append(true).create(true).open(LOG);
        let log = log.with_context(|| format!("cannot write {LOG}"))?;
        Ok(Self { log: Some(log), ..Self::default() })
    }

    /// Says a line.
    pub fn say(&mut self, text: &str) {
        eprintln!("{text}");
        let written = self.log.as_mut().map(|log| writeln!(log, "{text}"));
        // Opened each time: a terminal that was hung up takes nothing from those who had it open.
        let show = |console: &PathBuf| writeln!(OpenOptions::new().write(true).open(console)?, "{text}");
        let shown = self.consoles.iter().map(show);
        // Nothing depends on a console that is not there, and the log is in memory.
        for error in written.into_iter().chain(shown).filter_map(Result::err) {
            eprintln!("cannot say it everywhere: {error}");
        }
    }

    /// Says what is done: each step, and now and then how many bytes are written, how fast, and how long it takes yet.
    pub fn progress(&mut self, progress: Progress<'_>) {
        match progress {
            Progress::Step(text) => self.say(text),
            Progress::Bytes { done, total } => {
                let now = Instant::now();
                let (began, said) = *self.bytes.get_or_insert((now, now));
                if now - said >= PAUSE {
                    self.bytes = Some((began, now));
                    self.say(&bytes_line(done, total, now - began));
                }
            }
        }
    }
}

/// How far it is.
pub fn bytes_line(done: u64, total: u64, elapsed: Duration) -> String {
    let rate = done as f64 / elapsed.as_secs_f64().max(0.001);
    let left = total.saturating_sub(done) as f64 / rate.max(1.0);
    format!("  {} of {} MB, {:.0} MB/s, {left:.0} s left", done / 1_000_000, total / 1_000_000, rate / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_said_with_rate_and_time_left() {
        assert_eq!(
            bytes_line(100_000_000, 400_000_000, Duration::from_secs(2)),
            "  100 of 400 MB, 50 MB/s, 6 s left"
        );
    }
}
