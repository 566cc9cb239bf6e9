//! Whether the monitor has anything new: where it has not, no backup is missing, however old the last one is.
//!
//! PostgreSQL writes nothing while nobody changes anything, no checkpoint either. So the age of a backup and the age of the
//! checkpoint in it say nothing of a monitor that is idle. What counts is when the replica, which had all of the monitor, was
//! seen at the same position as at the look before.

use api::Backup;
use files::Document;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use uuid::Uuid;

/// Version of the record's form.
const FORMAT: u32 = 1;

/// A position in the WAL: as a manifest writes it, and its timeline.
pub type Position = (String, u32);

/// What was seen of one monitor.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// The position at the last look.
    pub position: Option<Position>,
    /// Where and when nothing new was found last.
    pub still: Option<(Position, Timestamp)>,
    /// The last backup, and when nothing new was found last before it.
    pub before: Option<(String, Timestamp)>,
}

impl Seen {
    /// The replica is here.
    fn looked(&mut self, position: Position, now: Timestamp) {
        if self.position.as_ref() == Some(&position) {
            self.still = Some((position, now));
        } else {
            self.position = Some(position);
        }
    }

    /// When it was seen last, until `now`, that nothing is newer than this backup.
    pub fn nothing_since(&self, backup: &Backup, now: Timestamp) -> Option<Timestamp> {
        let (position, at) = self.still.as_ref()?;
        let of_backup = (&backup.postgresql.flushed_lsn, backup.postgresql.timeline);
        (of_backup == (&position.0, position.1) && *at <= now).then_some(*at)
    }

    /// Until when all that the monitor had was known to be in this backup, but for what came after.
    pub fn known_before(&self, backup: &Backup) -> Option<Timestamp> {
        let (id, at) = self.before.as_ref()?;
        (*id == backup.id && *at <= backup.created).then_some(*at)
    }
}

/// What was seen of each monitor, and its file.
#[derive(Debug)]
pub struct Quiet {
    document: Document<BTreeMap<Uuid, Seen>>,
    seen: Mutex<BTreeMap<Uuid, Seen>>,
}

impl Quiet {
    /// Loads it from the daemon's folder. What is lost is seen again soon, so damage is worth a line in the log only.
    pub fn load(folder: &Path) -> Self {
        let document = Document::new(folder.join("quiet.json"), FORMAT, 0o600);
        let seen = match document.load() {
            Ok(loaded) => {
                if let Some(problem) = loaded.problem {
                    tracing::warn!("{problem}");
                }
                loaded.value.unwrap_or_default()
            }
            Err(error) => {
                tracing::warn!("when the monitor was seen to be idle is not known any more: {error:#}");
                BTreeMap::new()
            }
        };
        Self { document, seen: Mutex::new(seen) }
    }

    /// What was seen of this monitor.
    pub fn of(&self, monitor: Uuid) -> Seen {
        self.seen().get(&monitor).cloned().unwrap_or_default()
    }

    /// The replica of this monitor, which has all of it, is here.
    pub fn looked(&self, monitor: Uuid, position: Position, now: Timestamp) {
        self.change(monitor, |seen| seen.looked(position, now));
    }

    /// A backup was made, before which nothing new was found at this place and time.
    pub fn made(&self, backup: &Backup, still: Option<(Position, Timestamp)>) {
        self.change(backup.monitor.id, |seen| seen.before = still.map(|(_, at)| (backup.id.clone(), at)));
    }

    fn change(&self, monitor: Uuid, change: impl FnOnce(&mut Seen)) {
        let mut all = self.seen();
        let before = all.get(&monitor).cloned();
        change(all.entry(monitor).or_default());
        if all.get(&monitor) != before.as_ref()
            && let Err(error) = self.document.save(&all)
        {
            tracing::warn!("when the monitor was seen to be idle cannot be kept: {error:#}");
        }
    }

    fn seen(&self) -> MutexGuard<'_, BTreeMap<Uuid, Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_new_is_what_was_there_at_the_look_before() {
        let at = |minute: u8| format!("2026-11-24T12:{minute:02}:00Z").parse::<Timestamp>().unwrap();
        let position = |lsn: &str, timeline| (lsn.to_owned(), timeline);
        let mut seen = Seen::default();
        // position, minute → since when nothing is new
        let table = [
            (position("0/1", 1), 0, None),
            (position("0/1", 1), 1, Some(1)),
            (position("0/1", 1), 2, Some(2)),
            // What is new does not undo what was seen.
            (position("0/2", 1), 3, Some(2)),
            (position("0/2", 2), 4, Some(2)),
            (position("0/2", 2), 5, Some(5)),
        ];
        for (position, minute, still) in table {
            seen.looked(position, at(minute));
            assert_eq!(seen.still.as_ref().map(|(_, at)| *at), still.map(at), "{minute}");
        }
    }
}
