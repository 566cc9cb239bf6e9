//! A change of the settings that nobody would miss until it is too late: fewer backups than before.
//!
//! The frequency is the network's to set, and counts at once: backups can still be made, and none is lost by it. But whoever
//! has stolen the password could set it from hourly to weekly without a trace. So a lower one is an event, and a check
//! warns of it for [`WARNED`] in which the machine ran; as for a shorter retention period, another one that is still lower
//! begins the time anew, and one as high as before ends it ([`Delayed`]). A higher one needs nothing.

use crate::status::in_words;
use anyhow::Result;
use api::{Check, Frequency, Level};
use backups::delayed::Delayed;
use files::Document;
use jiff::SignedDuration;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Version of the file's form.
const FORMAT: u32 = 1;
/// How long a lower frequency is warned of.
pub const WARNED: Duration = Duration::from_secs(72 * 3600);
/// Between two events about it: whoever changes it to and fro must not fill the history.
const TOLD: Duration = Duration::from_secs(3600);
/// How often the time that the machine ran is written down. What a power cut takes of it only lengthens the warning.
const SAVED: Duration = Duration::from_secs(600);

/// Hours between two backups. The fewer, the more is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
struct Interval(u32);

impl PartialOrd for Interval {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Interval {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        other.0.cmp(&self.0)
    }
}

/// Hours between two backups.
pub fn interval_hours(frequency: Frequency) -> u32 {
    match frequency {
        Frequency::Hours { hours } => hours.into(),
        Frequency::Day { .. } => 24,
        Frequency::Week { .. } => 7 * 24,
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Record {
    /// For how long the machine has been running, in seconds.
    lived: u64,
    frequency: Delayed<Interval>,
    /// When a lower one was told last.
    told: Option<u64>,
}

impl Record {
    /// The network asks for a frequency. Gives what is to be told.
    fn asked(&mut self, frequency: Frequency, has_backups: bool) -> Option<String> {
        let before = self.frequency.pending().map(|pending| pending.wish);
        let wish = Interval(interval_hours(frequency));
        self.frequency = self.frequency.asked(wish, self.lived, WARNED.as_secs(), has_backups);
        let (from, to) = (self.frequency.in_force()?, self.frequency.pending()?.wish);
        let is_old = self.told.is_some_and(|told| self.lived.saturating_sub(told) < TOLD.as_secs());
        if before == Some(to) || is_old {
            return None;
        }
        self.told = Some(self.lived);
        Some(format!("The network has set that backups are made {} instead of {}.", every(to), every(from)))
    }

    fn ran(&mut self, seconds: u64) {
        self.lived = self.lived.saturating_add(seconds);
        self.frequency = self.frequency.at(self.lived, WARNED.as_secs());
    }

    fn check(&self) -> Check {
        let check = |level, message| Check { name: "frequency".into(), level, message };
        let (Some(from), Some(pending)) = (self.frequency.in_force(), self.frequency.pending()) else {
            return check(Level::Ok, "The network has not lowered the frequency of backups lately.".into());
        };
        let since = self.lived.saturating_sub(pending.since);
        let in_words =
            |seconds: u64| in_words(SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX)));
        let message = format!(
            "The frequency of backups was lowered over the network {} ago: {} instead of {}. If it was not you, set the \
             frequency again, and set another password at the console. This warning ends in {}.",
            in_words(since),
            every(pending.wish),
            every(from),
            in_words(WARNED.as_secs().saturating_sub(since)),
        );
        check(Level::Warn, message)
    }
}

fn every(Interval(hours): Interval) -> String {
    match hours {
        1 => "every hour".into(),
        24 => "every day".into(),
        168 => "every week".into(),
        hours => format!("every {hours} hours"),
    }
}

/// What was changed, and its file.
#[derive(Debug)]
pub struct Changes {
    document: Document<Record>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    record: Record,
    /// Up to when the time that the machine ran is counted.
    counted: Instant,
    saved: Instant,
}

impl Changes {
    /// Loads it from the daemon's folder. What is damaged counts as nothing: it costs a warning.
    ///
    /// # Errors
    /// The file cannot be read, or a newer version wrote it.
    pub fn load(folder: &Path) -> Result<Self> {
        let document = Document::new(folder.join("frequency.json"), FORMAT, 0o600);
        let loaded = document.load()?;
        if let Some(problem) = loaded.problem {
            tracing::error!("{problem}");
        }
        let (record, now) = (loaded.value.unwrap_or_default(), Instant::now());
        Ok(Self { document, state: Mutex::new(State { record, counted: now, saved: now }) })
    }

    /// These settings count now. Gives what is to be told. Where there are no backups, nothing has to be warned of.
    pub fn asked(&self, frequency: Frequency, has_backups: bool) -> Option<String> {
        let mut state = self.state();
        state.count();
        let before = state.record;
        let told = state.record.asked(frequency, has_backups);
        if state.record != before {
            self.save(&mut state);
        }
        told
    }

    /// Counts the time that the machine runs. To be called often.
    pub fn look(&self) {
        let mut state = self.state();
        let before = state.record.frequency;
        state.count();
        if state.record.frequency != before || state.saved.elapsed() >= SAVED {
            self.save(&mut state);
        }
    }

    /// Check `frequency`.
    pub fn check(&self) -> Check {
        self.state().record.check()
    }

    /// What cannot be written is not forgotten while the daemon runs.
    fn save(&self, state: &mut State) {
        state.saved = Instant::now();
        if let Err(error) = self.document.save(&state.record) {
            tracing::error!("cannot keep that the frequency was lowered: {error:#}");
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn count(&mut self) {
        let seconds = self.counted.elapsed().as_secs();
        self.counted += Duration::from_secs(seconds);
        self.record.ran(seconds);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::Day;
    use jiff::civil::Time;

    const HOURLY: Frequency = Frequency::Hours { hours: 1 };
    const DAILY: Frequency = Frequency::Day { at: Time::midnight() };
    const WEEKLY: Frequency = Frequency::Week { on: Day::Friday, at: Time::midnight() };

    #[test]
    fn a_lower_frequency_is_told_and_warned_of_for_three_days_and_a_higher_one_is_not() {
        let mut record = Record::default();
        assert_eq!(record.asked(HOURLY, true), None, "the first is not a change");
        assert_eq!(record.check().level, Level::Ok);
        let told = record.asked(WEEKLY, true).unwrap();
        assert_eq!(told, "The network has set that backups are made every week instead of every hour.");
        assert_eq!(record.asked(WEEKLY, true), None, "said again");
        record.ran(WARNED.as_secs() - 3600);
        let check = record.check();
        assert_eq!(check.level, Level::Warn);
        assert!(check.message.contains("2 days ago: every week instead of every hour"), "{}", check.message);
        record.ran(3600);
        assert_eq!(record.check().level, Level::Ok);
        assert_eq!(record.asked(HOURLY, true), None);
        assert_eq!(record.check().level, Level::Ok);
    }

    #[test]
    fn what_is_between_is_warned_of_against_what_was_before_and_going_back_ends_it() {
        let mut record = Record::default();
        record.asked(HOURLY, true);
        record.asked(DAILY, true).unwrap();
        record.ran(7200);
        assert!(record.asked(WEEKLY, true).unwrap().contains("every week instead of every hour"));
        assert!(record.check().message.contains("ends in 3 days"));
        assert_eq!(record.asked(HOURLY, true), None);
        assert_eq!(record.check().level, Level::Ok);
        // No backups: nothing to protect.
        assert_eq!(record.asked(WEEKLY, false), None);
        assert_eq!(record.check().level, Level::Ok);
    }

    #[test]
    fn whoever_changes_it_to_and_fro_is_told_of_once_an_hour() {
        let mut record = Record::default();
        record.asked(HOURLY, true);
        let mut told = 0;
        for _ in 0..600 {
            told += usize::from(record.asked(WEEKLY, true).is_some());
            assert_eq!(record.check().level, Level::Warn);
            record.asked(HOURLY, true);
            record.ran(12);
        }
        assert_eq!(told, 2);
    }

    #[test]
    fn it_is_kept_over_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let changes = Changes::load(folder.path()).unwrap();
        changes.asked(HOURLY, true);
        changes.asked(WEEKLY, true).unwrap();
        let changes = Changes::load(folder.path()).unwrap();
        assert_eq!(changes.asked(WEEKLY, true), None);
        changes.look();
        assert_eq!(changes.check().level, Level::Warn);
    }
}
