//! Room for a full copy, made step by step while it is written.
//!
//! What the monitor announces of its size decides no deletion: a sparse file there, or whoever owns the
//! database, may announce anything. What counts is what has come and what is free. While the copy is written:
//!
//! - Where free space is low, one backup goes, by the rules of rotation and within their floor; then it is
//!   measured again.
//! - Where nothing may go and there is just the room that replay needs, the copy is stopped, and the old
//!   replica goes on.
//! - What is announced to be larger than the whole volume is not begun. That deletes nothing.

use crate::places::Places;
use crate::rotate::{self, MadeRoom, Memory};
use crate::{catalog, copy_check};
use anyhow::{Context, Result};
use api::Deletion;
use replica::{CopyProgress, FULL_BYTES};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex as Lock, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Mutex;
use tokio::sync::mpsc::UnboundedSender;

/// Time between two looks.
const LOOK: Duration = Duration::from_secs(1);
/// Time until rotation is asked again when it could not help.
const ASK_AGAIN: Duration = Duration::from_secs(15);
/// Time that whoever makes, deletes or looks at backups may keep a copy from making room.
const TURN: Duration = Duration::from_secs(60);

/// What comes between two looks beyond what came between those before, in bytes: looks are late on a busy
/// machine.
const MARGIN: u64 = 128 << 20;

/// What was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Free bytes on the data volume.
    pub free: u64,
    /// Below this rotation makes room, copy or not.
    pub low: u64,
    /// Bytes that the copy has written since the look before.
    pub lately: u64,
}

impl Seen {
    /// How many bytes should be free: what rotation keeps free, and what will have come until the next look.
    pub fn wanted(&self) -> u64 {
        self.low.max(FULL_BYTES + MARGIN).saturating_add(self.lately.saturating_mul(2))
    }

    /// Whether there is less than replay needs beside the copy: then the old replica, which may stream, would
    /// have to stop.
    pub fn is_too_little(&self) -> bool {
        self.free < (FULL_BYTES + MARGIN).saturating_add(self.lately.saturating_mul(2))
    }
}

/// Why a copy is not worth beginning: what is announced of it is more than the volume of `total` bytes holds
/// in all.
pub fn refusal(at: CopyProgress, total: u64) -> Option<String> {
    (at.total.saturating_add(FULL_BYTES) > total).then(|| {
        format!(
            "the monitor announces {} for a full copy, and the data volume has {} in all; use a larger disk, or look for \
             large sparse files in the data directory of the monitor",
            megabytes(at.total),
            megabytes(total)
        )
    })
}

fn megabytes(bytes: u64) -> String {
    format!("{} MB", bytes / 1_000_000)
}

/// Where a copy finds room.
pub struct Room<'a> {
    /// The places.
    pub places: &'a Places,
    /// What rotation remembers.
    pub memory: Memory<'a>,
    /// Held while backups go.
    pub catalog: &'a Mutex<()>,
    /// Of what is kept of copies for their check.
    pub generation: &'a copy_check::Generation,
}

/// The watch over the room while one copy is written.
pub struct Watch<'a> {
    room: &'a Room<'a>,
    /// Bytes that have come.
    written: AtomicU64,
    /// The copy has ended.
    is_over: AtomicBool,
    /// Why rotation could not help when it was asked last.
    problem: Lock<Option<String>>,
}

impl<'a> Watch<'a> {
    /// Begins with nothing written.
    pub fn new(room: &'a Room<'a>) -> Self {
        Self { room, written: AtomicU64::default(), is_over: AtomicBool::default(), problem: Lock::default() }
    }

    /// So many bytes have come.
    pub fn has_come(&self, bytes: u64) {
        self.written.store(bytes, Ordering::Relaxed);
    }

    /// Ends [`Self::make_room`] when what it does now is done.
    pub fn end(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }

    /// Bytes of the whole data volume.
    pub fn volume_bytes(&self) -> Result<u64> {
        Ok(catalog::room(self.room.places)?.0)
    }

    /// Looks; `before` is what had come at the look before.
    fn look(&self, before: &mut u64) -> Result<Seen> {
        let written = self.written.load(Ordering::Relaxed);
        let lately = written.saturating_sub(*before);
        *before = written;
        let (total, free) = catalog::room(self.room.places)?;
        Ok(Seen { free, low: self.room.memory.decisions.limits().low_space(total), lately })
    }

    /// Ends with the reason when the copy has to be stopped. It waits for nobody, so that nothing that makes
    /// room, or hangs at it, keeps it from that.
    pub async fn guard(&self) -> Result<String> {
        let mut before = 0;
        loop {
            tokio::time::sleep(LOOK).await;
            let mut seen = self.look(&mut before)?;
            // What is written has its place on the disk only later, and counts as free until then.
            if !seen.is_too_little() {
                seen.free = seen.free.saturating_sub(unwritten()?);
                if !seen.is_too_little() {
                    continue;
                }
                let brought = catalog::bring_to_disk(self.room.places);
                seen = settled(brought, LOOK, || self.look(&mut before)).await?;
            }
            if seen.is_too_little() {
                let problem = self.problem.lock().unwrap_or_else(PoisonError::into_inner).clone();
                return Ok(format!(
                    "it needs more room than there is: {} of it had come when only {} were left on the data volume, of which \
                     replay needs {}; {}",
                    megabytes(self.written.load(Ordering::Relaxed)),
                    megabytes(seen.free),
                    megabytes(FULL_BYTES),
                    problem.as_deref().unwrap_or("use a larger disk, or delete backups at the console")
                ));
            }
        }
    }

    /// Makes room until the copy ends; names what goes. What goes wrong is no reason to stop the copy, and is
    /// tried again.
    pub async fn make_room(&self, gone: &UnboundedSender<Deletion>) {
        let mut before = 0;
        let mut ask_at = Instant::now();
        // At once first: where space is low already, the copy need not meet the guard for it.
        while !self.is_over.load(Ordering::Relaxed) {
            if Instant::now() < ask_at {
                tokio::time::sleep(LOOK).await;
                continue;
            }
            let problem = match self.make_some(&mut before).await {
                Ok(MadeRoom::Enough) => None,
                Ok(MadeRoom::Deleted(deletion)) => {
                    // Nobody listens any more when the copy has ended, and the journal has it.
                    drop(gone.send(deletion));
                    None
                }
                Ok(MadeRoom::Nothing(problem)) => Some(problem),
                Err(error) => Some(format!("no room could be made now: {error:#}")),
            };
            ask_at = Instant::now() + if problem.is_some() { ASK_AGAIN } else { LOOK };
            if let Some(problem) = &problem {
                tracing::warn!("a full copy finds little room: {problem}");
            }
            *self.problem.lock().unwrap_or_else(PoisonError::into_inner) = problem;
        }
    }

    /// Lets one backup go, where space is low.
    async fn make_some(&self, before: &mut u64) -> Result<MadeRoom> {
        let Room { places, memory, catalog, generation } = self.room;
        let seen = self.look(before)?;
        if seen.free >= seen.wanted() {
            return Ok(MadeRoom::Enough);
        }
        copy_check::drop_all(places, generation).await?;
        // In its turn: a lock that is only tried may be taken each time, by whoever asks for plans again and again.
        let turn = tokio::time::timeout(TURN, catalog.lock()).await;
        let _one_at_a_time = turn.context("the backups are being changed or looked at")?;
        rotate::make_room(places, *memory, seen.wanted()).await
    }
}

/// What is seen when `brought` has brought everything to the disk. Meanwhile `look` looks on: bringing it may take
/// minutes in which the copy is written at full speed. What is free by then can only become less, so too little ends
/// the wait.
async fn settled(
    brought: impl Future<Output = Result<()>>,
    every: Duration,
    mut look: impl FnMut() -> Result<Seen>,
) -> Result<Seen> {
    let mut brought = pin!(brought);
    loop {
        tokio::select! {
            done = brought.as_mut() => {
                done?;
                return look();
            }
            () = tokio::time::sleep(every) => {
                let seen = look()?;
                if seen.is_too_little() {
                    return Ok(seen);
                }
            }
        }
    }
}

/// Bytes that wait in memory to be written to some disk.
fn unwritten() -> Result<u64> {
    let meminfo = std::fs::read_to_string("/proc/meminfo").context("cannot read /proc/meminfo")?;
    Ok(unwritten_of(&meminfo))
}

fn unwritten_of(meminfo: &str) -> u64 {
    let kib = |name: &str| -> Option<u64> {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix(" kB")?.trim().parse().ok()
    };
    ["Dirty:", "Writeback:"].into_iter().filter_map(kib).sum::<u64>().saturating_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GB: u64 = 1_000_000_000;

    #[test]
    fn room_is_wanted_by_what_is_measured_and_the_copy_stops_before_replay_has_to() {
        let least = FULL_BYTES + MARGIN;
        // free, low, lately → more is wanted, the copy is stopped
        let table = [
            ((20 * GB, 10 * GB, 0), false, false),
            ((10 * GB, 10 * GB, GB), true, false),
            ((9 * GB, 10 * GB, 0), true, false),
            ((least + 2 * GB, 10 * GB, GB), true, false),
            ((least + 2 * GB - 1, 10 * GB, GB), true, true),
            ((least, 0, 0), false, false),
            ((least - 1, 0, 0), true, true),
            ((0, 0, u64::MAX), true, true),
        ];
        for ((free, low, lately), wants, stops) in table {
            let seen = Seen { free, low, lately };
            assert_eq!((seen.free < seen.wanted(), seen.is_too_little()), (wants, stops), "{seen:?}");
        }
    }

    #[test]
    fn only_what_no_volume_of_this_size_holds_is_not_begun() {
        let at = |total| CopyProgress { done: 0, total };
        assert_eq!(refusal(at(0), 500 * GB), None);
        assert_eq!(refusal(at(500 * GB - FULL_BYTES), 500 * GB), None);
        let refused = refusal(at(65 * GB), 64 * GB).unwrap();
        assert!(refused.contains("65000 MB") && refused.contains("sparse"), "{refused}");
        assert!(refusal(at(u64::MAX), 64 * GB).is_some());
    }

    #[tokio::test]
    async fn a_sync_that_takes_long_keeps_no_copy_from_being_stopped() {
        let least = FULL_BYTES + MARGIN;
        let shrinking = || {
            let mut left = 5;
            move || {
                left -= 1;
                Ok(Seen { free: least - 1 + left * GB, low: 0, lately: 0 })
            }
        };
        let every = Duration::from_millis(1);
        let seen = settled(std::future::pending(), every, shrinking()).await.unwrap();
        assert!(seen.is_too_little(), "{seen:?}");
        // One that ends in time is the last word.
        let seen = settled(async { Ok(()) }, Duration::from_secs(3600), shrinking()).await.unwrap();
        assert_eq!(seen.free, least - 1 + 4 * GB);
        assert!(settled(async { anyhow::bail!("EIO") }, every, shrinking()).await.is_err());
    }

    #[test]
    fn what_waits_in_memory_is_read() {
        let meminfo =
            "MemTotal: 24 kB\nDirty:               100 kB\nWriteback:             3 kB\nWritebackTmp: 9 kB\n";
        assert_eq!(unwritten_of(meminfo), 103 * 1024);
        assert_eq!(unwritten_of(""), 0);
    }

    #[test]
    fn a_copy_that_is_stopped_has_wanted_room_before() {
        let sizes = [0, 1, FULL_BYTES - 1, FULL_BYTES, 10 * GB, u64::MAX - FULL_BYTES, u64::MAX];
        for free in sizes {
            for low in sizes {
                for lately in sizes {
                    let seen = Seen { free, low, lately };
                    assert!(
                        !seen.is_too_little() || seen.free < seen.wanted() || free == u64::MAX,
                        "{seen:?}"
                    );
                }
            }
        }
    }
}
