//! What rotation and the network's wishes have used up, kept over restarts: the numbers of backups, how old they are by the
//! time that the machine ran, how many went for space within a day, what full copies cost that came to nothing, and how many
//! were made.
//!
//! All times are those of [`crate::clock::Seen::lived`]. What is counted is written before it happens.

use anyhow::{Context, Result};
use api::{Limits, Reason};
use backups::copy_tries::CopyTries;
use backups::recent::Recent;
use backups::standstill::Standstill;
use backups::witness::Witness;
use files::Document;
use hostd::Refused;
use jiff::SignedDuration;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use uuid::Uuid;

/// Version of the file's form.
const FORMAT: u32 = 1;
/// The network process may make so many backups a day by schedule, at least one an hour is allowed: what asks for more is not
/// the schedule.
const SCHEDULED_PER_DAY: usize = 48;
/// The same before full copies.
const RESYNCS_PER_DAY: usize = 24;
/// The same before a restored monitor is paired, whatever was made on request: a restore must find one left.
const BEFORE_PAIRING_PER_DAY: usize = 4;
/// The network may change so many comments a day.
const COMMENTS_PER_DAY: usize = 100;

/// What a backup is made for, where that is counted apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Somebody asks for it.
    OnDemand,
    /// It keeps what there is before a restored monitor is paired.
    BeforePairing,
    /// It is due.
    Schedule,
    /// It keeps what there is before a full copy.
    BeforeResync,
}

impl Purpose {
    /// What a request is for. The network can claim one that it is not; each has its limit.
    pub fn of(reason: Reason, comment: &str) -> Self {
        match reason {
            Reason::OnDemand if comment == api::BEFORE_PAIRING => Self::BeforePairing,
            Reason::OnDemand => Self::OnDemand,
            Reason::Schedule => Self::Schedule,
            Reason::BeforeResync => Self::BeforeResync,
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Record {
    /// The highest number that a backup of each monitor ever had.
    sequences: BTreeMap<Uuid, u64>,
    /// How old the backups of each monitor are at least.
    witnesses: BTreeMap<Uuid, Witness>,
    /// Backups that went for space.
    gone_for_space: Recent,
    /// The last of them: where its deletion fails and is tried again, it counts once.
    last_gone: Option<String>,
    /// Whether what went lets replay go on.
    standstill: Standstill,
    /// What full copies came to.
    copies: CopyTries,
    /// Backups that the network made beside the schedule.
    on_demand: Recent,
    /// Backups that it made before a restored monitor was paired.
    before_pairing: Recent,
    /// Comments that it changed.
    comments: Recent,
    /// Backups that it made by schedule.
    scheduled: Recent,
    /// Backups that it made before full copies.
    before_resync: Recent,
}

impl Record {
    fn made(&mut self, purpose: Purpose) -> &mut Recent {
        match purpose {
            Purpose::OnDemand => &mut self.on_demand,
            Purpose::BeforePairing => &mut self.before_pairing,
            Purpose::Schedule => &mut self.scheduled,
            Purpose::BeforeResync => &mut self.before_resync,
        }
    }
}

/// The ledger and its file.
#[derive(Debug)]
pub struct Ledger {
    document: Document<Record>,
    record: Mutex<Record>,
}

impl Ledger {
    /// Loads it from `folder`.
    pub fn load(folder: &Path) -> Result<Self> {
        let document = Document::new(folder.join("ledger.json"), FORMAT, 0o600);
        let loaded = document.load()?;
        if let Some(problem) = loaded.problem {
            tracing::error!("{problem}");
        }
        Ok(Self { document, record: Mutex::new(loaded.value.unwrap_or_default()) })
    }

    /// The number of the next backup of `monitor`, whose backups have numbers up to `highest`. No number comes twice, also
    /// after the backup that had it is deleted.
    pub fn next_sequence(&self, monitor: Uuid, highest: u64) -> Result<u64> {
        let mut number = 0;
        self.change(|record| {
            let last = record.sequences.entry(monitor).or_default();
            *last = (*last).max(highest).saturating_add(1);
            number = *last;
        })?;
        Ok(number)
    }

    /// Notes up to which numbers the backups have come.
    pub fn note(&self, highest: &BTreeMap<Uuid, u64>, lived: u64) -> Result<()> {
        let mut noted = self.record.lock().unwrap_or_else(PoisonError::into_inner).witnesses.clone();
        let mut is_news = false;
        for (monitor, sequence) in highest {
            is_news |= noted.entry(*monitor).or_default().note(lived, *sequence);
        }
        if is_news { self.change(|record| record.witnesses = noted) } else { Ok(()) }
    }

    /// How old a backup is at least.
    pub fn age(&self, monitor: Uuid, sequence: u64, lived: u64) -> SignedDuration {
        let record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        record.witnesses.get(&monitor).map_or(SignedDuration::ZERO, |witness| witness.age(lived, sequence))
    }

    /// How many backups went for space within the last day.
    pub fn gone_for_space(&self, lived: u64) -> usize {
        self.record.lock().unwrap_or_else(PoisonError::into_inner).gone_for_space.count(lived)
    }

    /// The backup with this full name goes for space, that of a full copy if `for_copy` says so.
    pub fn goes_for_space(&self, name: &str, for_copy: bool, lived: u64) -> Result<()> {
        if self.record.lock().unwrap_or_else(PoisonError::into_inner).last_gone.as_deref() == Some(name) {
            return Ok(());
        }
        self.change(|record| {
            record.gone_for_space.add(lived);
            if for_copy {
                record.copies.goes(lived);
            }
            record.last_gone = Some(name.to_owned());
        })
    }

    /// The console lets another day's share go at once, and full copies begin as if none had come to nothing.
    pub fn allow_more(&self) -> Result<()> {
        self.change(|record| {
            record.gone_for_space = Recent::default();
            record.standstill = Standstill::default();
            record.copies.forget();
        })
    }

    /// Whether what went for space did not let replay go on.
    pub fn is_in_vain(&self) -> bool {
        self.record.lock().unwrap_or_else(PoisonError::into_inner).standstill.is_in_vain()
    }

    /// Something is seen of replay that stands still for want of room; written only where that is news.
    pub fn change_standstill(&self, change: impl FnOnce(&mut Standstill)) -> Result<()> {
        self.change(|record| change(&mut record.standstill))
    }

    /// What full copies came to.
    pub fn copies(&self) -> CopyTries {
        self.record.lock().unwrap_or_else(PoisonError::into_inner).copies.clone()
    }

    /// A full copy begins or ends.
    pub fn change_copies(&self, change: impl FnOnce(&mut CopyTries)) -> Result<()> {
        self.change(|record| change(&mut record.copies))
    }

    /// Refuses a backup that the network process asks for, where it has made too many.
    pub fn may_make(&self, purpose: Purpose, limits: &Limits, lived: u64) -> Result<(), Refused> {
        let (most, pause) = match purpose {
            Purpose::OnDemand => (
                usize::try_from(limits.on_demand_per_day).unwrap_or(usize::MAX),
                u64::from(limits.on_demand_seconds),
            ),
            Purpose::BeforePairing => (BEFORE_PAIRING_PER_DAY, 0),
            Purpose::Schedule => (SCHEDULED_PER_DAY, 0),
            Purpose::BeforeResync => (RESYNCS_PER_DAY, 0),
        };
        let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(seconds) = record.made(purpose).wait(lived, most, pause) else { return Ok(()) };
        Err(Refused {
            error: format!(
                "{}; try again in {seconds} s, or allow more at the server's console (`{} order limits --help`)",
                match purpose {
                    Purpose::OnDemand =>
                        format!("on request a backup is made every {pause} s at most, and {most} in a day"),
                    Purpose::BeforePairing => format!(
                        "before restored monitors are paired at most {most} backups are made in a day"
                    ),
                    Purpose::Schedule => format!("by schedule at most {most} backups are made in a day"),
                    Purpose::BeforeResync =>
                        format!("before full copies at most {most} backups are made in a day"),
                },
                hostd::PROGRAM
            ),
            retry_after: Some(seconds),
        })
    }

    /// The network process has made a backup.
    pub fn made(&self, purpose: Purpose, lived: u64) -> Result<()> {
        self.change(|record| record.made(purpose).add(lived))
    }

    /// The network process wants to change a comment; refused where it has changed too many.
    pub fn may_comment(&self, lived: u64) -> Result<(), Refused> {
        let record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(seconds) = record.comments.wait(lived, COMMENTS_PER_DAY, 0) else { return Ok(()) };
        let error =
            format!("the network may change {COMMENTS_PER_DAY} comments in a day; try again in {seconds} s");
        Err(Refused { error, retry_after: Some(seconds) })
    }

    /// The network process changes a comment.
    pub fn commented(&self, lived: u64) -> Result<()> {
        self.change(|record| record.comments.add(lived))
    }

    fn change(&self, change: impl FnOnce(&mut Record)) -> Result<()> {
        let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        let mut changed = record.clone();
        change(&mut changed);
        if changed == *record {
            return Ok(());
        }
        self.document.save(&changed).context("cannot keep what rotation has used up")?;
        *record = changed;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_it_is_forgotten_by_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let monitor = Uuid::from_u128(7);
        let limits = Limits::default();
        let ledger = Ledger::load(folder.path()).unwrap();
        let numbers = [0, 0, 7, 3].map(|highest| ledger.next_sequence(monitor, highest).unwrap());
        assert_eq!(numbers, [1, 2, 8, 9]);
        ledger.note(&BTreeMap::from([(monitor, 9)]), 100).unwrap();
        for name in ["a", "a", "b", "b"] {
            ledger.goes_for_space(name, name == "b", 100).unwrap();
        }
        ledger.made(Purpose::OnDemand, 100).unwrap();

        let ledger = Ledger::load(folder.path()).unwrap();
        assert_eq!(ledger.next_sequence(monitor, 0).unwrap(), 10);
        assert_eq!(ledger.age(monitor, 9, 160), SignedDuration::from_secs(60));
        assert_eq!(ledger.gone_for_space(101), 2, "a deletion that is tried again counts once");
        assert_eq!((ledger.copies().gone(), ledger.copies().wasted(101)), (1, 1));
        let refused = ledger.may_make(Purpose::OnDemand, &limits, 110).unwrap_err();
        assert_eq!(refused.retry_after, Some(50));
        assert!(
            refused.error.contains("every 60 s at most, and 24 in a day; try again in 50 s"),
            "{refused}"
        );
        ledger.may_make(Purpose::Schedule, &limits, 110).unwrap();
        for _ in 0..23 {
            ledger.made(Purpose::OnDemand, 1000).unwrap();
        }
        let refused = ledger.may_make(Purpose::OnDemand, &limits, 2000).unwrap_err();
        assert_eq!(refused.retry_after, Some(24 * 3600 - 1900));
        ledger.allow_more().unwrap();
        assert_eq!((ledger.gone_for_space(101), ledger.copies().wasted(101)), (0, 1));
    }

    #[test]
    fn what_is_asked_for_leaves_room_for_a_restore() {
        let folder = tempfile::tempdir().unwrap();
        let (limits, ledger) = (Limits::default(), Ledger::load(folder.path()).unwrap());
        for (reason, comment, expected) in [
            (Reason::OnDemand, "x", Purpose::OnDemand),
            (Reason::OnDemand, api::BEFORE_PAIRING, Purpose::BeforePairing),
            (Reason::Schedule, api::BEFORE_PAIRING, Purpose::Schedule),
            (Reason::BeforeResync, "", Purpose::BeforeResync),
        ] {
            assert_eq!(Purpose::of(reason, comment), expected);
        }
        for n in 0..24 {
            ledger.made(Purpose::OnDemand, 1000 + n).unwrap();
        }
        ledger.may_make(Purpose::OnDemand, &limits, 5000).unwrap_err();
        for n in 0..4 {
            ledger.may_make(Purpose::BeforePairing, &limits, 5000 + n).unwrap();
            ledger.made(Purpose::BeforePairing, 5000 + n).unwrap();
        }
        let refused = ledger.may_make(Purpose::BeforePairing, &limits, 5010).unwrap_err();
        assert_eq!(refused.retry_after, Some(24 * 3600 - 10));
        assert!(refused.error.contains("at most 4 backups are made in a day"), "{refused}");
    }

    #[test]
    fn comments_of_the_network_are_few_in_a_day() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = Ledger::load(folder.path()).unwrap();
        for n in 0..100 {
            ledger.may_comment(n).unwrap();
            ledger.commented(n).unwrap();
        }
        let refused = Ledger::load(folder.path()).unwrap().may_comment(200).unwrap_err();
        assert_eq!(refused.retry_after, Some(24 * 3600 - 200));
    }
}
