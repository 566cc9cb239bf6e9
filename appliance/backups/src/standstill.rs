//! Whether the room of deleted backups lets replay go on that stands still for want of room. Pure.
//!
//! A replica that takes all room it gets for one record of the WAL (a page far behind the end of a file) comes no further
//! however much is deleted: then nothing more is, until the console says so. What is compared is PostgreSQL's own position in
//! the control file.

use replica::Lsn;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use uuid::Uuid;

/// Bytes of WAL that count as having come further: one segment. Before it stops at a record, PostgreSQL writes pages out that
/// it had replayed earlier, which moves the position by less.
const STEP: u64 = 16 << 20;

/// Where replay stood still for want of room, and whether it had room since.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standstill {
    /// Position of each replica when the volume was full.
    at: BTreeMap<Uuid, u64>,
    /// There was room for replay to go on afterwards.
    went_on: bool,
    /// It stood still again where it had stood.
    in_vain: bool,
}

impl Standstill {
    /// The volume is full, and replay stands at these positions.
    pub fn full(&mut self, at: &BTreeMap<Uuid, Lsn>) {
        let further = |(monitor, position): (&Uuid, &Lsn)| {
            self.at.get(monitor).is_none_or(|before| position.0 >= before.saturating_add(STEP))
        };
        if at.iter().any(further) {
            *self = Self {
                at: at.iter().map(|(monitor, position)| (*monitor, position.0)).collect(),
                ..Self::default()
            };
        } else if self.went_on {
            self.in_vain = true;
        }
    }

    /// There is room for replay to go on.
    pub fn has_room(&mut self) {
        self.went_on |= !self.at.is_empty();
    }

    /// Space is low no more.
    pub fn is_over(&mut self) {
        *self = Self::default();
    }

    /// Whether deleting backups brings replay no further.
    pub fn is_in_vain(&self) -> bool {
        self.in_vain
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deleting_is_in_vain_where_replay_stops_at_the_same_place_again() {
        let at = |position: u64| BTreeMap::from([(Uuid::from_u128(1), Lsn(position))]);
        let mut seen = Standstill::default();
        seen.has_room();
        assert_eq!(seen, Standstill::default(), "nothing stood still");
        seen.full(&at(1 << 30));
        seen.full(&at(1 << 30));
        assert!(!seen.is_in_vain(), "there was no room yet to go on");
        seen.has_room();
        assert!(!seen.is_in_vain());
        seen.full(&at((1 << 30) + STEP));
        assert!(!seen.is_in_vain(), "it came further");
        seen.has_room();
        seen.full(&at((1 << 30) + STEP + 8192));
        assert!(seen.is_in_vain(), "it stands where it stood");
        seen.full(&BTreeMap::new());
        assert!(seen.is_in_vain(), "nothing is known of a replica");
        seen.full(&at((1 << 30) + 2 * STEP));
        assert!(!seen.is_in_vain(), "it came further after all");
        seen.is_over();
        assert_eq!(seen, Standstill::default());
    }
}
