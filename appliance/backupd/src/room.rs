//! What the daemon remembers of the room on the data volume: how it grew, and what took it when that was measured.

use api::{Limits, Usage};
use backups::forecast::{Sample, low_at, remember};
use files::Document;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// Version of the record's form.
const FORMAT: u32 = 1;
/// Hours of the day in which the machine has little else to do.
const OFF_PEAK: std::ops::Range<i8> = 2..6;
/// At night it is measured again after so long.
const AGAIN: SignedDuration = SignedDuration::from_hours(18);
/// At any time of the day after so long: it was switched off at night.
const OVERDUE: SignedDuration = SignedDuration::from_hours(48);

/// What is remembered.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Record {
    samples: Vec<Sample>,
    usage: Option<Usage>,
    exclusive: BTreeMap<String, u64>,
    /// When each backup was measured.
    #[serde(default)]
    exclusive_at: Option<Timestamp>,
}

/// The record and its file.
#[derive(Debug)]
pub struct Room {
    document: Document<Record>,
    record: Mutex<Record>,
}

impl Room {
    /// Loads it from the daemon's folder. It can all be measured again, so damage is worth a line in the log only.
    pub fn load(folder: &Path) -> Self {
        let document = Document::new(folder.join("room.json"), FORMAT, 0o600);
        let record = match document.load() {
            Ok(loaded) => {
                if let Some(problem) = loaded.problem {
                    tracing::warn!("{problem}");
                }
                loaded.value.unwrap_or_default()
            }
            Err(error) => {
                tracing::warn!("what was remembered of the room is not used: {error:#}");
                Record::default()
            }
        };
        Self { document, record: Mutex::new(record) }
    }

    /// Records what is used now.
    pub fn sample(&self, used: u64) {
        self.change(|record| remember(&mut record.samples, Sample { at: Timestamp::now(), used }));
    }

    /// Records what was measured; `exclusive` where that of each backup was.
    pub fn measured(&self, usage: Usage, exclusive: Option<BTreeMap<String, u64>>) {
        self.change(|record| {
            record.usage = Some(usage);
            if let Some(exclusive) = exclusive {
                (record.exclusive, record.exclusive_at) = (exclusive, Some(usage.at));
            }
        });
    }

    /// What took the room, and when space will be low on a volume of `total` bytes.
    pub fn outlook(&self, total: u64, limits: &Limits) -> (Option<Usage>, Option<Timestamp>) {
        let record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        (record.usage, low_at(&record.samples, limits, total))
    }

    /// Bytes that each backup alone takes, of those that `is_there`.
    pub fn exclusive(&self, is_there: impl Fn(&str) -> bool) -> BTreeMap<String, u64> {
        let record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        record
            .exclusive
            .iter()
            .filter(|(id, _)| is_there(id))
            .map(|(id, bytes)| (id.clone(), *bytes))
            .collect()
    }

    /// Whether it is time to measure each backup.
    pub fn is_due(&self, now: Timestamp, zone: &TimeZone) -> bool {
        let record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        is_due(record.exclusive_at, now, zone)
    }

    fn change(&self, change: impl FnOnce(&mut Record)) {
        let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut record);
        if let Err(error) = self.document.save(&record) {
            tracing::warn!("what is known of the room cannot be kept: {error:#}");
        }
    }
}

/// Once a night; at once where nothing is known, or for too long, or by a clock that was wrong.
fn is_due(last: Option<Timestamp>, now: Timestamp, zone: &TimeZone) -> bool {
    let Some(last) = last else { return true };
    let age = now.duration_since(last);
    let at_night = OFF_PEAK.contains(&now.to_zoned_datetime(zone.clone()).hour());
    age < SignedDuration::ZERO || age > OVERDUE || (at_night && age > AGAIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_measured_once_a_night() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let table = [
            (None, "2026-11-24T12:00:00Z", true),
            (Some("2026-11-24T02:00:00Z"), "2026-11-24T03:00:00Z", false),
            (Some("2026-11-24T02:00:00Z"), "2026-11-24T22:00:00Z", false),
            (Some("2026-11-24T02:00:00Z"), "2026-11-25T01:30:00Z", true),
            (Some("2026-11-24T12:00:00Z"), "2026-11-25T01:30:00Z", false),
            (Some("2026-11-24T12:00:00Z"), "2026-11-26T13:00:00Z", true),
            (Some("2045-01-01T00:00:00Z"), "2026-11-24T12:00:00Z", true),
        ];
        let zone = TimeZone::fixed(jiff::tz::offset(1));
        for (last, now, expected) in table {
            assert_eq!(is_due(last.map(at), at(now), &zone), expected, "{last:?} {now}");
        }
    }
}
