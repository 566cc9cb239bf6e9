//! What the replica's own processes say, beside what SQL says of it and of the monitor.
//!
//! `pg_last_wal_replay_lsn()` and `pg_current_wal_lsn()` are rows of a catalog that the monitor's owner writes: who replaces them
//! looks synchronized for ever. PostgreSQL's processes say in their titles which segment is replayed and up to where WAL was
//! received, and no SQL changes that. It is coarse, to a segment; so it bounds what was said, and does not replace it.

use crate::{Lsn, SYNCHRONIZED_BYTES};
use serde::{Deserialize, Serialize};

/// What the processes of a standby say in their titles.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Working {
    /// The end of the WAL segment that is replayed.
    pub replaying_before: Option<Lsn>,
    /// WAL that was received up to here, while it streams.
    pub received: Option<Lsn>,
}

impl Working {
    /// Reads the titles of the processes of the cluster called `name`, with WAL segments of so many bytes.
    pub fn of_titles<'a>(name: &str, titles: impl IntoIterator<Item = &'a str>, segment_bytes: u64) -> Self {
        let beginning = format!("postgres: {name}: ");
        let mut working = Self::default();
        for title in titles {
            let Some(words) = title.trim_end_matches(['\0', ' ']).strip_prefix(&beginning) else { continue };
            // A backend's title has its user and database first: it never ends after a segment or a position.
            match words.split(' ').collect::<Vec<_>>()[..] {
                ["startup", "recovering", segment] => {
                    working.replaying_before = segment_end(segment, segment_bytes);
                }
                ["walreceiver", "streaming", lsn] => working.received = lsn.parse().ok(),
                _ => {}
            }
        }
        working
    }
}

/// Where the WAL segment with this file name ends.
fn segment_end(name: &str, bytes: u64) -> Option<Lsn> {
    if name.len() != 24 || !name.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let number = |at: std::ops::Range<usize>| u64::from_str_radix(name.get(at)?, 16).ok();
    let (log, segment) = (number(8..16)?, number(16..24)?);
    Some(Lsn((log << 32).saturating_add(segment.saturating_add(1).saturating_mul(bytes))))
}

/// What counts of what SQL says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Believed {
    /// Replayed up to here.
    pub replayed: Lsn,
    /// The monitor is here.
    pub position: Lsn,
    /// What cannot be, as a sentence without full stop.
    pub contradiction: Option<String>,
}

/// Judges what the replica has said first (`replayed`) and the monitor last (`position`) by what the replica's processes said
/// between. A segment's difference is none: titles are a moment late.
pub fn believe(replayed: Lsn, position: Lsn, working: &Working) -> Believed {
    let most = working.replaying_before.into_iter().chain(working.received).min();
    let is_above = |one: Lsn, other: Lsn| one.bytes_since(other) > SYNCHRONIZED_BYTES;
    if let Some(most) = most.filter(|most| is_above(replayed, *most)) {
        let contradiction = format!(
            "the replica's SQL says that {replayed} is replayed, and its processes are not beyond {most}: a function of the \
             monitor's database is not PostgreSQL's own"
        );
        return Believed { replayed: most, position, contradiction: Some(contradiction) };
    }
    if let Some(received) = working.received.filter(|received| is_above(*received, position)) {
        let contradiction = format!(
            "the monitor's SQL says that it is at {position}, and WAL up to {received} has come from it: a function of its \
             database is not PostgreSQL's own"
        );
        return Believed { replayed, position: received, contradiction: Some(contradiction) };
    }
    Believed { replayed, position, contradiction: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENT: u64 = 16 << 20;

    #[test]
    fn titles_are_read_and_those_of_backends_are_not() {
        let titles = [
            "postgres: replica: checkpointer ",
            "postgres: replica: startup recovering 000000010000000200000003\0\0",
            "postgres: replica: walreceiver streaming 2/3000148",
            "postgres: replica: walreceiver streaming [local] idle",
            "postgres: other: walreceiver streaming F/0",
            "/bin/sh postgres: replica: walreceiver streaming F/0",
        ];
        let working = Working::of_titles("replica", titles, SEGMENT);
        assert_eq!(working.replaying_before, Some(Lsn(0x2_0400_0000)));
        assert_eq!(working.received, Some(Lsn(0x2_0300_0148)));
        for name in ["", "00000001000000020000000", "00000001000000020000000g", "0000000100000002000000033"] {
            assert_eq!(segment_end(name, SEGMENT), None, "{name}");
        }
        assert_eq!(Working::of_titles("replica", [], SEGMENT), Working::default());
    }

    #[test]
    fn what_was_said_counts_as_far_as_the_processes_allow_it() {
        let working = Working { replaying_before: Some(Lsn(4 * SEGMENT)), received: Some(Lsn(9 * SEGMENT)) };
        let none = Working::default();
        for (said, position, working, replayed, believed, contradicts) in [
            // An honest replica, up to date and behind.
            (4 * SEGMENT, 9 * SEGMENT, working, 4 * SEGMENT, 9 * SEGMENT, false),
            (SEGMENT, 9 * SEGMENT, working, SEGMENT, 9 * SEGMENT, false),
            // A moment late.
            (5 * SEGMENT, 8 * SEGMENT, working, 5 * SEGMENT, 8 * SEGMENT, false),
            // One that stands still and says otherwise.
            (9 * SEGMENT, 9 * SEGMENT, working, 4 * SEGMENT, 9 * SEGMENT, true),
            // Both say that nothing is written.
            (2 * SEGMENT, 2 * SEGMENT, working, 2 * SEGMENT, 9 * SEGMENT, true),
            // Nothing is known.
            (u64::MAX, 2, none, u64::MAX, 2, false),
        ] {
            let judged = believe(Lsn(said), Lsn(position), &working);
            assert_eq!(
                (judged.replayed, judged.position),
                (Lsn(replayed), Lsn(believed)),
                "{said} {position}"
            );
            assert_eq!(judged.contradiction.is_some(), contradicts, "{said} {position}");
        }
    }
}
