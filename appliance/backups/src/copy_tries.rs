//! What a full copy may do after others came to nothing: begin, delete backups for its room, or wait. Pure.
//!
//! A copy that never fits must not cost a share of the backups each day, and one that fits must come by itself. The monitor
//! announces a size that may be a lie, large now and small later. So what counts is what came and what was free:
//!
//! 1. **An allowance.** Backups that went for copies which came to nothing, for whatever reason, count for [`WINDOW`].
//!    Together they are never more than one day's share of the list.
//! 2. **Not the same again.** After a copy was stopped for room, another one deletes only where the room that could be made
//!    is larger, by a margin, than what the last one needed.
//! 3. **What costs nothing goes on.** Else a copy may be tried within what is free, and deletes nothing. When such a copy
//!    was announced to fit and did not, the next one waits a day, then two, up to [`LONGEST_PAUSE`].
//!
//! Times are those of [`ClockRecord::lived`](crate::clock::ClockRecord::lived).

use crate::recent::DAY;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// So long counts what went for a copy that came to nothing.
pub const WINDOW: u64 = 30 * DAY;
/// Longest pause after copies that did not fit although they were announced to.
pub const LONGEST_PAUSE: u64 = 8 * DAY;
/// The least by which the room has to be larger than what the last copy needed.
const MARGIN: u64 = 1 << 30;

/// What is remembered of full copies.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CopyTries {
    /// When backups went for the copy that is under way.
    gone: Vec<u64>,
    /// When backups went for copies that came to nothing.
    wasted: Vec<u64>,
    /// The last copy, if it was stopped for room.
    stopped: Option<Stopped>,
}

/// A copy that was stopped for room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stopped {
    /// Whose copy.
    pub monitor: Uuid,
    /// When.
    pub at: u64,
    /// It needed more free bytes than this.
    pub needed: u64,
    /// So many in a row were announced to fit in what was free, and did not.
    pub misjudged: u32,
}

/// The room for a copy, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Free now.
    pub free: u64,
    /// What rotation could free today at least, within the allowance.
    pub freeable: u64,
}

/// What the next copy may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// Begin, and have at most so many backups deleted.
    Deleting(usize),
    /// Begin if what is announced fits in what is free; delete nothing.
    WithinFree,
    /// Not begin for so many seconds.
    Wait(u64),
}

impl CopyTries {
    /// How many backups may go for the next copy, where `share` gives one day's share of a list to which so many that went
    /// are added.
    pub fn allowance(&self, now: u64, share: impl FnOnce(usize) -> usize) -> usize {
        let wasted = self.wasted(now);
        share(wasted).saturating_sub(wasted)
    }

    /// Backups that went for copies that came to nothing, as far as they count now; of the copy under way, too.
    pub fn wasted(&self, now: u64) -> usize {
        let counts = |at: &&u64| now.saturating_sub(**at) < WINDOW;
        self.wasted.iter().chain(&self.gone).filter(counts).count()
    }

    /// What the next copy of `monitor` may do, with this allowance.
    pub fn begin(&self, monitor: Uuid, room: Room, allowance: usize, now: u64) -> Begin {
        let Some(stopped) = self.stopped(monitor) else { return Begin::Deleting(allowance) };
        if room.free.saturating_add(room.freeable) >= stopped.wants() {
            return Begin::Deleting(allowance);
        }
        match stopped.pause().saturating_sub(now.saturating_sub(stopped.at)) {
            0 => Begin::WithinFree,
            left => Begin::Wait(left),
        }
    }

    /// The last copy of `monitor`, if it was stopped for room.
    pub fn stopped(&self, monitor: Uuid) -> Option<&Stopped> {
        self.stopped.as_ref().filter(|stopped| stopped.monitor == monitor)
    }

    /// A copy begins. What went for one that was cut by a crash went for nothing.
    pub fn begins(&mut self, now: u64) {
        self.wasted.append(&mut self.gone);
        // After the machine's time was lost, times that are still to come count as now.
        self.wasted.iter_mut().for_each(|at| *at = (*at).min(now));
        self.wasted.retain(|at| now - *at < WINDOW);
        if let Some(stopped) = &mut self.stopped {
            stopped.at = stopped.at.min(now);
        }
    }

    /// A backup goes for the copy that is under way.
    pub fn goes(&mut self, now: u64) {
        self.gone.push(now);
    }

    /// How many backups went for the copy that is under way.
    pub fn gone(&self) -> usize {
        self.gone.len()
    }

    /// The console lets copies begin and delete as if none had come to nothing. What goes for one that is under way counts.
    pub fn forget(&mut self) {
        (self.wasted, self.stopped) = (Vec::new(), None);
    }

    /// The copy is complete.
    pub fn succeeded(&mut self) {
        (self.gone, self.stopped) = (Vec::new(), None);
    }

    /// The copy came to nothing, for another reason than room.
    pub fn failed(&mut self, now: u64) {
        self.begins(now);
    }

    /// The copy was stopped for room: it needed more free bytes than `needed`. `was_to_fit`: what was announced of it would
    /// have fit in what was free.
    pub fn stopped_for_room(&mut self, monitor: Uuid, needed: u64, was_to_fit: bool, now: u64) {
        self.begins(now);
        let before = self.stopped(monitor).map_or(0, |before| before.misjudged);
        let misjudged = before.saturating_add(u32::from(was_to_fit));
        self.stopped = Some(Stopped { monitor, at: now, needed, misjudged });
    }
}

impl Stopped {
    /// How many bytes of room make another copy that deletes worth a try.
    pub fn wants(&self) -> u64 {
        self.needed.saturating_add(MARGIN.max(self.needed / 8))
    }

    /// Seconds until another copy is tried.
    fn pause(&self) -> u64 {
        let Some(doublings) = self.misjudged.checked_sub(1) else { return 0 };
        DAY.checked_shl(doublings.min(32)).map_or(LONGEST_PAUSE, |pause| pause.min(LONGEST_PAUSE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GB: u64 = 1_000_000_000;
    const A: Uuid = Uuid::from_u128(7);
    const B: Uuid = Uuid::from_u128(8);

    fn room(free: u64, freeable: u64) -> Room {
        Room { free, freeable }
    }

    #[test]
    fn a_copy_that_did_not_fit_deletes_again_only_where_there_is_more_room() {
        let mut tries = CopyTries::default();
        assert_eq!(tries.begin(A, room(0, 0), 3, 0), Begin::Deleting(3));
        tries.stopped_for_room(A, 80 * GB, false, 100);
        let table = [
            (A, room(80 * GB, 0), Begin::WithinFree),
            (A, room(80 * GB, 9 * GB), Begin::WithinFree),
            (A, room(80 * GB, 10 * GB), Begin::Deleting(3)),
            (A, room(90 * GB, 0), Begin::Deleting(3)),
            // Another monitor's copy is another one.
            (B, room(0, 0), Begin::Deleting(3)),
        ];
        for (monitor, room, expected) in table {
            assert_eq!(tries.begin(monitor, room, 3, 200), expected, "{room:?}");
        }
        tries.stopped_for_room(A, GB, false, 200);
        assert_eq!(tries.begin(A, room(2 * GB, 0), 3, 200), Begin::WithinFree, "a margin of 1 GiB at least");
        tries.succeeded();
        assert_eq!(tries.begin(A, room(0, 0), 3, 200), Begin::Deleting(3));
    }

    #[test]
    fn what_is_announced_to_fit_and_does_not_waits_longer_each_time() {
        let (mut tries, mut now) = (CopyTries::default(), 1000);
        for days in [1, 2, 4, 8, 8, 8] {
            tries.stopped_for_room(A, 80 * GB, true, now);
            assert_eq!(tries.begin(A, room(80 * GB, 0), 0, now), Begin::Wait(days * DAY));
            assert_eq!(tries.begin(A, room(80 * GB, 0), 0, now + DAY / 2), Begin::Wait(days * DAY - DAY / 2));
            assert_eq!(tries.begin(A, room(99 * GB, 0), 0, now), Begin::Deleting(0), "a larger disk");
            now += days * DAY;
            assert_eq!(tries.begin(A, room(80 * GB, 0), 0, now), Begin::WithinFree);
        }
        // What is announced truly makes the pause no longer, and the machine's time may be lost.
        tries.stopped_for_room(A, 80 * GB, false, now);
        tries.begins(5);
        assert_eq!(tries.begin(A, room(80 * GB, 0), 0, 5), Begin::Wait(8 * DAY));
        assert_eq!(
            Stopped { monitor: A, at: 0, needed: u64::MAX, misjudged: u32::MAX }.pause(),
            LONGEST_PAUSE
        );
    }

    #[test]
    fn what_went_for_nothing_counts_for_a_month_whatever_ended_the_copy() {
        let quarter = |added| (40 + added) / 4;
        let mut tries = CopyTries::default();
        assert_eq!(tries.allowance(0, quarter), 10);
        tries.begins(0);
        (0..4).for_each(|_| tries.goes(0));
        // Also while it is under way, and after a crash.
        assert_eq!((tries.gone(), tries.allowance(0, quarter)), (4, 7));
        tries.begins(1);
        (0..4).for_each(|_| tries.goes(1));
        tries.failed(1);
        assert_eq!((tries.gone(), tries.allowance(1, quarter)), (0, 4));
        tries.goes(2);
        tries.succeeded();
        assert_eq!(tries.allowance(2, quarter), 4, "what a complete copy took is not wasted");
        assert_eq!(tries.allowance(WINDOW, quarter), 7);
        assert_eq!(tries.allowance(WINDOW + 1, quarter), 10);
    }

    /// One copy as a hostile monitor may have it.
    #[derive(Debug, Clone)]
    struct Copy {
        /// Seconds since the one before.
        later: u64,
        free: u64,
        freeable: u64,
        announced: u64,
        came: u64,
        /// Backups that rotation would let go for it.
        would_go: usize,
        ends: u8,
    }

    fn copies() -> impl Strategy<Value = Vec<Copy>> {
        let size = || prop_oneof![0..200 * GB, Just(u64::MAX)];
        let copy = (0..2 * DAY, size(), size(), size(), size(), 0..30_usize, 0..3_u8).prop_map(
            |(later, free, freeable, announced, came, would_go, ends)| Copy {
                later,
                free,
                freeable,
                announced,
                came,
                would_go,
                ends,
            },
        );
        proptest::collection::vec(copy, 1..60)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn failed_copies_cost_one_share_a_month_and_protection_never_stops_for_good(copies in copies()) {
            const SHARE: usize = 10;
            let (mut tries, mut now) = (CopyTries::default(), 0);
            let mut wasted: Vec<u64> = Vec::new();
            for copy in &copies {
                now += copy.later;
                let allowance = tries.allowance(now, |_| SHARE);
                let room = Room { free: copy.free, freeable: copy.freeable };
                let begin = tries.begin(A, room, allowance, now);
                let most = match begin {
                    Begin::Wait(left) => {
                        prop_assert!(left <= LONGEST_PAUSE);
                        continue;
                    }
                    Begin::WithinFree if copy.announced > copy.free => continue,
                    Begin::WithinFree => 0,
                    Begin::Deleting(most) => most,
                };
                tries.begins(now);
                let going = copy.would_go.min(most);
                (0..going).for_each(|_| tries.goes(now));
                if copy.ends == 0 {
                    tries.failed(now);
                } else if copy.ends == 1 {
                    tries.stopped_for_room(A, copy.came, copy.announced <= copy.free, now);
                } // else: a crash
                wasted.extend(std::iter::repeat_n(now, going));
                let within = wasted.iter().filter(|at| now - **at < WINDOW).count();
                prop_assert!(within <= SHARE, "{within} went for nothing within a month");
            }
            // Whatever was said before: what fits in what is free begins, after the longest pause at last.
            let begin = tries.begin(A, Room { free: GB, freeable: 0 }, 0, now + LONGEST_PAUSE);
            prop_assert!(!matches!(begin, Begin::Wait(_)));
        }
    }
}
