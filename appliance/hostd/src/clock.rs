//! Keeping an eye on the clock: what [`backups::clock`] decides, on this machine's clock and disk.

use anyhow::{Context, Result};
use backups::clock::ClockRecord;
use files::Document;
use jiff::{SignedDuration, Timestamp};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Version of the file's form.
const FORMAT: u32 = 1;
/// How often it is looked at.
pub const INTERVAL: Duration = Duration::from_secs(60);
/// How often it is written while nothing jumps: more often would only wear the disk.
const WRITE_INTERVAL: Duration = Duration::from_secs(600);

/// The clock as watched.
#[derive(Debug)]
pub struct Clock {
    document: Document<ClockRecord>,
    state: Mutex<Watched>,
}

#[derive(Debug, Clone, Copy)]
struct Watched {
    record: ClockRecord,
    looked: Instant,
    written: Instant,
}

impl Clock {
    /// Begins to watch; what is known from before is in `folder`.
    pub fn start(folder: &Path) -> Result<Self> {
        let document = Document::new(folder.join("clock.json"), FORMAT, 0o600);
        let loaded = document.load()?;
        if let Some(problem) = loaded.problem {
            tracing::error!("{problem}");
        }
        let now = Timestamp::now();
        let record = loaded
            .value
            .map_or(ClockRecord::first(now), |record: ClockRecord| record.observe(now, SignedDuration::ZERO));
        document.save(&record).context("cannot remember the clock")?;
        let instant = Instant::now();
        let state = Mutex::new(Watched { record, looked: instant, written: instant });
        Ok(Self { document, state })
    }

    /// Looks at the clock, and says whether it can be trusted.
    pub fn look(&self) -> Result<bool> {
        self.change(|record, elapsed| record.observe(Timestamp::now(), elapsed))
    }

    /// Somebody at the console says that the clock is right.
    pub fn confirm(&self) -> Result<bool> {
        self.change(|record, elapsed| record.observe(Timestamp::now(), elapsed).confirmed())
    }

    fn change(&self, next: impl FnOnce(ClockRecord, SignedDuration) -> ClockRecord) -> Result<bool> {
        let mut watched = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let elapsed = SignedDuration::try_from(now - watched.looked).unwrap_or(SignedDuration::MAX);
        let record = next(watched.record, elapsed);
        let jumped = record.jumped_seconds != watched.record.jumped_seconds;
        if jumped {
            tracing::warn!("the clock has jumped; now {} s in all", record.jumped_seconds);
        }
        *watched = Watched { record, looked: now, written: watched.written };
        if jumped || now - watched.written >= WRITE_INTERVAL {
            self.document.save(&record).context("cannot remember the clock")?;
            watched.written = now;
        }
        Ok(record.is_trusted())
    }
}
