//! The event log: bounded, kept over restarts, and followed live.
//!
//! One JSON document a line, appended; when there are twice as many as are kept, the file is written anew. A line that a
//! power cut or a bad block damaged is left out: a history with a gap is better than none. A disk that refuses to be
//! written costs the history, never the protection, so that is logged and no error.

use api::{EVENTS_KEPT, Event, EventKind, Level};
use jiff::Timestamp;
use std::cmp::Reverse;
use std::collections::VecDeque;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use tokio::sync::broadcast;

/// Connections that may listen at once: each costs memory, and whoever knows the network password can open them.
pub const MOST_LISTENERS: usize = 32;
/// Events that a slow listener may be behind; then it misses some.
const LIVE: usize = 64;

/// The log.
#[derive(Debug)]
pub struct Events {
    path: PathBuf,
    log: Mutex<Log>,
    live: broadcast::Sender<Event>,
}

#[derive(Debug, Default)]
struct Log {
    kept: VecDeque<Event>,
    /// Lines in the file.
    lines: usize,
    next: u64,
}

impl Events {
    /// The log in the daemon's state folder, with what is there from before.
    pub fn load(folder: &Path) -> Self {
        let path = folder.join("events.jsonl");
        let text = files::read(&path).unwrap_or_else(|error| {
            tracing::error!("the event log begins anew: {error:#}");
            None
        });
        let log = Log::parse(&text.unwrap_or_default());
        Self { path, log: Mutex::new(log), live: broadcast::Sender::new(LIVE) }
    }

    /// Records an event of now.
    pub fn record(&self, kind: EventKind, level: Level, message: impl Into<String>, backup: Option<&str>) {
        let message = message.into();
        match level {
            Level::Ok => tracing::info!("{message}"),
            Level::Warn => tracing::warn!("{message}"),
            Level::Fail => tracing::error!("{message}"),
        }
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let at = Timestamp::now();
        let event = Event { number: log.next, at, kind, level, message, backup: backup.map(Into::into) };
        log.push(event.clone());
        if let Err(error) = self.write(&mut log, &event) {
            tracing::error!("cannot write the event log {}: {error:#}", self.path.display());
        }
        drop(log);
        // Nobody listens: that is no error.
        drop(self.live.send(event));
    }

    fn write(&self, log: &mut Log, event: &Event) -> anyhow::Result<()> {
        log.lines += 1;
        if log.lines > 2 * EVENTS_KEPT {
            log.lines = log.kept.len();
            files::replace(&self.path, 0o600, None, |file| {
                log.kept.iter().try_for_each(|event| line(event).and_then(|line| file.write_all(&line)))
            })?;
            return Ok(());
        }
        let mut file = OpenOptions::new().create(true).append(true).mode(0o600).open(&self.path)?;
        Ok(file.write_all(&line(event)?)?)
    }

    /// Those after number `after`, oldest first.
    pub fn after(&self, after: Option<u64>) -> Vec<Event> {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.kept.iter().filter(|event| after.is_none_or(|after| event.number > after)).cloned().collect()
    }

    /// The events from now on; `None`: [`MOST_LISTENERS`] are listening already.
    pub fn live(&self) -> Option<broadcast::Receiver<Event>> {
        (self.live.receiver_count() < MOST_LISTENERS).then(|| self.live.subscribe())
    }
}

fn line(event: &Event) -> std::io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(event)?;
    line.push(b'\n');
    Ok(line)
}

impl Log {
    fn parse(text: &str) -> Self {
        let mut log = Self { next: 1, ..Self::default() };
        for event in text.lines().filter_map(|line| serde_json::from_str(line).ok()) {
            log.push(event);
            log.lines += 1;
        }
        log
    }

    fn push(&mut self, event: Event) {
        self.next = self.next.max(event.number.saturating_add(1));
        self.kept.push_back(event);
        if self.kept.len() > EVENTS_KEPT
            && let Some(at) = outnumbered(&self.kept)
        {
            self.kept.remove(at);
        }
    }
}

/// Which event goes first: the oldest of the class that has most.
fn outnumbered(kept: &VecDeque<Event>) -> Option<usize> {
    let class = |event: &Event| (event.kind, event.level);
    // The number and the oldest of each; there are few classes.
    let mut classes: Vec<((EventKind, Level), usize, usize)> = Vec::new();
    for (at, event) in kept.iter().enumerate() {
        match classes.iter_mut().find(|(named, ..)| *named == class(event)) {
            Some((_, count, _)) => *count += 1,
            None => classes.push((class(event), 1, at)),
        }
    }
    classes.into_iter().max_by_key(|(_, count, oldest)| (*count, Reverse(*oldest))).map(|(.., oldest)| oldest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_one_class_pushes_out_only_its_own() {
        let mut log = Log { next: 1, ..Log::default() };
        let event = |number, kind, level| Event {
            number,
            at: Timestamp::UNIX_EPOCH,
            kind,
            level,
            message: String::new(),
            backup: None,
        };
        let important = [
            (EventKind::Verification, Level::Fail),
            (EventKind::FullCopy, Level::Fail),
            (EventKind::Paired, Level::Warn),
            (EventKind::Rotation, Level::Ok),
            (EventKind::Settings, Level::Warn),
        ];
        for (number, (kind, level)) in (1..).zip(important) {
            log.push(event(number, kind, level));
        }
        for number in 6..6 + 5 * EVENTS_KEPT as u64 {
            let kind = if number % 3 == 0 { EventKind::Backup } else { EventKind::Settings };
            log.push(event(number, kind, Level::Ok));
        }
        assert_eq!(log.kept.len(), EVENTS_KEPT);
        let numbers: Vec<u64> = log.kept.iter().map(|event| event.number).collect();
        assert_eq!(numbers[..5], [1, 2, 3, 4, 5]);
        assert!(numbers.is_sorted());
        let backups = log.kept.iter().filter(|event| event.kind == EventKind::Backup).count();
        assert!((400..600).contains(&backups), "two floods share the room: {backups}");
    }

    #[test]
    fn the_log_is_bounded_and_numbers_go_on_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.jsonl");
        let events = Events::load(folder.path());
        let mut live = events.live().unwrap();
        for number in 1..=2 * EVENTS_KEPT + 5 {
            events.record(EventKind::Backup, Level::Ok, format!("{number}"), Some("id"));
        }
        assert!(live.try_recv().is_err(), "a slow listener is told that it missed some");
        assert_eq!(events.after(None).len(), EVENTS_KEPT);
        assert!(std::fs::read_to_string(&path).unwrap().lines().count() <= 2 * EVENTS_KEPT);
        // a power cut in the middle of a line
        let mut text = std::fs::read_to_string(&path).unwrap();
        text.insert_str(0, "{\"number\":1,\"at\n");
        std::fs::write(&path, text).unwrap();
        let events = Events::load(folder.path());
        events.record(EventKind::Started, Level::Ok, "again", None);
        let after = events.after(Some(2 * EVENTS_KEPT as u64 + 4));
        let numbers: Vec<_> = after.iter().map(|event| event.number).collect();
        assert_eq!(numbers, [2 * EVENTS_KEPT as u64 + 5, 2 * EVENTS_KEPT as u64 + 6]);
    }
}
