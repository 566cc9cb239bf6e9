//! What a backup promises to recover to, where the replica's SQL may say anything.
//!
//! The replica is asked by SQL how far it has replayed, since nothing else knows it exactly. Two things bound the answer that no
//! function of the database changes: what the WAL sender says of the standby over the replication protocol
//! (`IDENTIFY_SYSTEM`), and the control file. A promise above what was received would make a good backup a bad one.

use crate::{ControlData, Lsn};

/// What the WAL sender of a standby says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identified {
    /// The timeline that is replayed.
    pub timeline: u32,
    /// WAL that is received or replayed up to here, perhaps to the middle of a record.
    pub received: Lsn,
}

impl Identified {
    /// Reads psql's answer to `IDENTIFY_SYSTEM`; columns are separated by `|`.
    pub fn parse(answer: &str) -> Option<Self> {
        let mut columns = answer.trim_matches(['\0', '\n']).split('|').skip(1);
        let timeline = columns.next()?.parse().ok()?;
        Some(Self { timeline, received: columns.next()?.parse().ok()? })
    }
}

/// What a backup promises: up to where in the WAL, on which timeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Promise {
    /// The end of a record.
    pub lsn: Lsn,
    /// Timeline.
    pub timeline: u32,
    /// What SQL has said and cannot be, as a sentence's part.
    pub contradiction: Option<String>,
}

/// The promise of a snapshot with this control file, of which SQL said `replayed` on `timeline` before it was made.
pub fn promise(
    replayed: Lsn,
    timeline: u32,
    identified: Option<Identified>,
    control: &ControlData,
) -> Promise {
    let timeline = identified.map_or(timeline, |identified| identified.timeline);
    let kept = Promise { lsn: replayed, timeline, contradiction: None };
    let least = control.min_recovery.parse::<Lsn>().unwrap_or(Lsn(0));
    match identified {
        Some(Identified { received, .. }) if replayed > received => Promise {
            lsn: least,
            contradiction: Some(format!(
                "it says that {replayed} is replayed, and only {received} was received"
            )),
            ..kept
        },
        _ if replayed < least => Promise {
            lsn: least,
            // One that replays on meanwhile has passed what it said.
            contradiction: None,
            ..kept
        },
        _ => kept,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_sql_says_counts_between_what_is_on_disk_and_what_was_received() {
        let control = ControlData { min_recovery: "0/100".into(), ..ControlData::example() };
        let identified = Identified::parse("7549000000000000001|2|0/200|\0").unwrap();
        assert_eq!(identified, Identified { timeline: 2, received: Lsn(0x200) });
        for (said, identified, lsn, timeline, contradicts) in [
            (0x150, Some(identified), 0x150, 2, false),
            (0x200, Some(identified), 0x200, 2, false),
            (0x201, Some(identified), 0x100, 2, true),
            (u64::MAX, Some(identified), 0x100, 2, true),
            (0x50, Some(identified), 0x100, 2, false),
            (0x150, None, 0x150, 7, false),
            (0, None, 0x100, 7, false),
        ] {
            let promise = promise(Lsn(said), 7, identified, &control);
            assert_eq!((promise.lsn, promise.timeline), (Lsn(lsn), timeline), "{said:x}");
            assert_eq!(promise.contradiction.is_some(), contradicts, "{said:x}");
        }
        for text in ["", "1", "1|x|0/1|", "1|1|y|"] {
            assert_eq!(Identified::parse(text), None, "{text:?}");
        }
    }
}
