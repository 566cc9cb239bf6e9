//! Keeping an eye on the clock: what [`backups::clock`] decides, on this machine's clocks and disk.

use anyhow::{Context, Result};
use backups::clock::{ClockRecord, Reading};
use files::Document;
use jiff::{SignedDuration, Timestamp};
use std::fs;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Version of the file's form.
const FORMAT: u32 = 1;
/// Time between two looks.
pub const INTERVAL: Duration = Duration::from_secs(60);
/// Time between two writes while nothing jumps: more would only wear the disk.
const WRITE_INTERVAL: Duration = Duration::from_secs(600);

/// The clock as watched.
#[derive(Debug)]
pub struct Clock {
    document: Document<ClockRecord>,
    state: Mutex<Watched>,
}

#[derive(Debug, Clone)]
struct Watched {
    record: ClockRecord,
    written: Instant,
}

/// What a look at the clock gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// The clock.
    pub time: Timestamp,
    /// Little speaks against it.
    pub is_trusted: bool,
    /// It may be wrong by so much.
    pub doubt: SignedDuration,
    /// For how long the machine has been running in all, in seconds.
    pub lived: u64,
}

impl Clock {
    /// Begins to watch; what is known from before is in `folder`.
    pub fn start(folder: &Path) -> Result<Self> {
        let document = Document::new(folder.join("clock.json"), FORMAT, 0o600);
        let loaded = document.load()?;
        let reading = read()?;
        let record = match (loaded.value, loaded.problem) {
            (Some(record), problem) => {
                if let Some(problem) = problem {
                    tracing::error!("{problem}");
                }
                let record: ClockRecord = record;
                record.observe(&reading)
            }
            (None, Some(problem)) => {
                tracing::error!("{problem}; the clock is doubted until the console confirms it");
                ClockRecord::lost(&reading)
            }
            (None, None) => ClockRecord::first(&reading),
        };
        document.save(&record).context("cannot remember the clock")?;
        let state = Mutex::new(Watched { record, written: Instant::now() });
        Ok(Self { document, state })
    }

    /// Looks at the clock.
    pub fn look(&self) -> Result<Seen> {
        self.change(|record| record)
    }

    /// The console says that the clock is right.
    pub fn confirm(&self) -> Result<Seen> {
        self.change(ClockRecord::confirmed)
    }

    fn change(&self, next: impl FnOnce(ClockRecord) -> ClockRecord) -> Result<Seen> {
        let mut watched = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let reading = read()?;
        let record = next(watched.record.clone().observe(&reading));
        let (before, doubt) = (watched.record.doubt(), record.doubt());
        let moved = (doubt - before).abs() >= SignedDuration::from_secs(1);
        if moved {
            tracing::warn!("the clock was moved; now by {} s in all", doubt.as_secs());
        }
        watched.record = record.clone();
        if moved || watched.written.elapsed() >= WRITE_INTERVAL {
            self.document.save(&record).context("cannot remember the clock")?;
            watched.written = Instant::now();
        }
        Ok(Seen { time: reading.clock, is_trusted: record.is_trusted(), doubt, lived: record.lived() })
    }
}

/// Looks at the clocks: the one that shows the date, and the kernel's, which nobody sets.
fn read() -> Result<Reading> {
    let text = |path: &str| fs::read_to_string(path).with_context(|| format!("cannot read {path}"));
    let boot = text("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
    let uptime = text("/proc/uptime")?;
    let clock = Timestamp::now();
    let uptime = uptime.split_whitespace().next().and_then(|seconds| seconds.parse::<f64>().ok());
    let uptime = uptime.and_then(|seconds| SignedDuration::try_from_secs_f64(seconds).ok());
    Ok(Reading { clock, boot, uptime: uptime.context("/proc/uptime does not begin with seconds")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_of_this_machine_is_trusted_until_its_record_is_lost() {
        let folder = tempfile::tempdir().unwrap();
        let clock = Clock::start(folder.path()).unwrap();
        let seen = clock.look().unwrap();
        assert!(seen.is_trusted && seen.doubt < SignedDuration::from_secs(60), "{seen:?}");
        for name in ["clock.json", "clock.json.last"] {
            fs::write(folder.path().join(name), "{").unwrap();
        }
        let clock = Clock::start(folder.path()).unwrap();
        assert!(!clock.look().unwrap().is_trusted);
        assert!(clock.confirm().unwrap().is_trusted);
        assert!(
            Clock::start(folder.path()).unwrap().look().unwrap().is_trusted,
            "the confirmation is forgotten"
        );
    }
}
