//! How old a backup is at least, whatever the clock says. Pure.
//!
//! From time to time it is noted up to which number a monitor's backups have come, and how long the machine had been
//! running by then. What was there at a note is at least as old as the note. Without a note nothing is known.

use jiff::SignedDuration;
use serde::{Deserialize, Serialize};

/// Seconds between two notes.
const BETWEEN: u64 = 3600;
/// Notes that are kept: those of a month, which is the longest minimum age that can be set, and one before them.
const MOST: usize = 24 * 31;

/// The notes about the backups of a monitor, the oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Witness(Vec<Note>);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    /// How long the machine had been running, in seconds.
    lived: u64,
    /// The highest number of a backup.
    sequence: u64,
}

impl Witness {
    /// Notes that there is a backup with this number, and none with a higher one; says whether that is worth keeping.
    pub fn note(&mut self, now: u64, sequence: u64) -> bool {
        // The machine's time was lost: what was noted by it is worth nothing.
        let is_lost = self.0.last().is_some_and(|last| last.lived > now);
        if is_lost {
            self.0.retain(|note| note.lived <= now);
        }
        if self.0.last().is_some_and(|last| now - last.lived < BETWEEN) {
            return is_lost;
        }
        // A number that falls would say of new backups that they are old.
        let sequence = self.0.last().map_or(sequence, |last| last.sequence.max(sequence));
        self.0.push(Note { lived: now, sequence });
        if self.0.len() > MOST {
            self.0.remove(0);
        }
        true
    }

    /// How old the backup with this number is at least.
    pub fn age(&self, now: u64, sequence: u64) -> SignedDuration {
        let noted = self.0.iter().find(|note| note.sequence >= sequence);
        let seconds = noted.map_or(0, |note| now.saturating_sub(note.lived));
        SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_there_at_a_note_is_as_old_as_the_note() {
        let hours = |age: SignedDuration| age.as_secs() / 3600;
        let mut witness = Witness::default();
        assert_eq!(witness.age(0, 0), SignedDuration::ZERO);
        assert!(witness.note(0, 2));
        assert!(!witness.note(BETWEEN - 1, 3), "it is too soon");
        assert!(witness.note(BETWEEN, 3));
        let now = 5 * BETWEEN;
        // one of the first versions has no number, and was there before
        let ages = [0, 1, 2, 3, 4].map(|sequence| hours(witness.age(now, sequence)));
        assert_eq!(ages, [5, 5, 5, 4, 0]);
        for hour in 2..2000 {
            witness.note(hour * BETWEEN, 3 + hour);
        }
        assert_eq!(witness.0.len(), MOST);
        assert_eq!(hours(witness.age(2000 * BETWEEN, 1)), MOST as i64);
        // The machine's time was lost.
        assert!(witness.note(7, 1));
        assert_eq!(witness.age(7, 1), SignedDuration::ZERO);
    }
}
