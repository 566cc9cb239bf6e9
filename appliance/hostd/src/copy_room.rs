//! Room for a full copy, made step by step while it is written.
//!
//! What the monitor announces of its size decides no deletion: a sparse file there, or whoever owns the
//! database, may announce anything. What counts is what has come and what is free. While the copy is written:
//!
//! - Where free space is low, one backup goes, by the rules of rotation and within their floor; then it is
//!   measured again.
//! - Where there is just the room that replay needs, the copy is held: a deletion may take longer than the copy takes to
//!   write what is left. If that makes no room, the copy is stopped, and the old replica goes on.
//! - What is announced to be larger than the whole volume is not begun. That deletes nothing.
//! - A copy that came to nothing is remembered ([`backups::copy_tries`]): what never fits does not cost backups again and again.

use crate::places::Places;
use crate::program::Holder;
use crate::rotate::{self, MadeRoom, Memory};
use crate::usage::Exclusive;
use crate::{catalog, copy_check};
use anyhow::{Context, Result, bail};
use api::Deletion;
use backups::copy_tries::{self, Begin};
use hostd::{PROGRAM, Refused};
use replica::{CopyProgress, FULL_BYTES};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex as Lock, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{Mutex, Notify};
use uuid::Uuid;

/// Time between two looks.
const LOOK: Duration = Duration::from_secs(1);
/// Time until rotation is asked again when it could not help.
const ASK_AGAIN: Duration = Duration::from_secs(15);
/// Time that whoever makes, deletes or looks at backups may keep a copy from making room, or from being told whether it may
/// begin.
const TURN: Duration = Duration::from_secs(60);
/// The same before it begins, when nothing waits for it.
const FIRST_TURN: Duration = Duration::from_secs(600);

/// Longest time that a copy is held. The monitor ends the connection of one that does not answer for 60 s
/// (`wal_sender_timeout`), by its defaults.
const HOLD: Duration = Duration::from_secs(30);

/// What comes between two looks beyond what came between those before, in bytes: looks are late on a busy
/// machine.
const MARGIN: u64 = 128 << 20;

/// What stays free beside a copy that is not written at the moment.
const LEAST: u64 = FULL_BYTES + MARGIN;

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
        self.low.max(LEAST).saturating_add(self.lately.saturating_mul(2))
    }

    /// Whether there is less than replay needs beside the copy: then the old replica, which may stream, would
    /// have to stop.
    pub fn is_too_little(&self) -> bool {
        self.free < LEAST.saturating_add(self.lately.saturating_mul(2))
    }

    /// Whether a copy that was held, and wrote so much between two looks before, may go on: not just to be held again.
    fn lets_go_on(&self, lately: u64) -> bool {
        self.free
            >= LEAST
                .saturating_add(MARGIN)
                .saturating_add(lately.saturating_mul(4))
                .min(self.wanted_after(lately))
    }

    /// [`Self::wanted`] if so much had come lately.
    fn wanted_after(&self, lately: u64) -> u64 {
        Self { lately, ..*self }.wanted()
    }
}

/// Why a copy is not worth beginning: the `announced` bytes are more than the volume of `total` bytes holds in all.
fn refusal(announced: u64, total: u64) -> Option<Refused> {
    (announced.saturating_add(FULL_BYTES) > total).then(|| {
        let error = format!(
            "the full copy was not begun: the monitor announces {} for it, and the data volume has {} in all; use a larger \
             disk, or look for large sparse files in the data directory of the monitor",
            megabytes(announced),
            megabytes(total)
        );
        Refused { error, retry_after: None }
    })
}

/// Whether a copy may begin, before anything is done for it: by what the last copies came to, the room that there is on a
/// volume of `total` bytes, and what is announced of it so far.
fn may_begin(begin: Begin, needed: Option<u64>, room: Finds, announced: u64) -> Result<Permit, Refused> {
    let permit = Permit::new(begin, needed, room)?;
    match refusal(announced, room.total).or_else(|| permit.refusal(announced)) {
        Some(refused) => Err(refused),
        None => Ok(permit),
    }
}

/// What a copy finds on the volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Finds {
    /// The room for it.
    there: copy_tries::Room,
    /// Bytes of the volume.
    total: u64,
    /// It was measured what each backup takes alone.
    is_measured: bool,
}

/// Says whether a full copy of `monitor`, of which so many bytes are announced, would be begun now. Nothing changes.
///
/// # Errors
/// [`Refused`]: it would not.
pub async fn would_begin(room: &Room<'_>, monitor: Uuid, announced: u64) -> Result<()> {
    decide(room, monitor, announced, TURN).await.map(drop)
}

/// [`may_begin`] with what there is; waits for its turn with the backups so long.
async fn decide(room: &Room<'_>, monitor: Uuid, announced: u64, turn: Duration) -> Result<Permit> {
    let memory = room.memory;
    let measured = room.exclusive.known();
    let (begin, there) = {
        let turn = tokio::time::timeout(turn, room.catalog.lock()).await;
        let _one_at_a_time = turn.context("the backups are being changed or looked at")?;
        // What was not measured may free nothing.
        let exclusive = |id: &str| measured.as_ref().and_then(|each| each.get(id)).copied().unwrap_or(0);
        rotate::copy_may(room.places, memory, monitor, exclusive).await?
    };
    let before = memory.ledger.copies();
    let needed = before.stopped(monitor).map(|stopped| stopped.needed);
    let (total, _) = catalog::room(room.places)?;
    let finds = Finds { there, total, is_measured: measured.is_some() };
    Ok(may_begin(begin, needed, finds, announced)?)
}

/// Why a copy does not begin now, after one that needed more than `needed` bytes and was stopped: by what is announced, or for
/// `wait` seconds more.
fn not_begun(needed: u64, room: Finds, announced: Option<u64>, wait: Option<u64>) -> Refused {
    let announced = announced
        .map_or_else(String::new, |bytes| format!(", the monitor announces {} now", megabytes(bytes)));
    let again = wait.map_or_else(
        || "what is announced to fit in what is free is copied".to_owned(),
        |seconds| {
            format!(
                "it did not fit although it was announced to, so another one is tried in {} h",
                seconds.div_ceil(3600)
            )
        },
    );
    let freeable = if room.is_measured {
        format!("{} more could be freed today", megabytes(room.there.freeable))
    } else {
        "how much more could be freed is measured in the coming night".to_owned()
    };
    let error = format!(
        "the full copy was not begun, and nothing is deleted for it: the last one needed more than {}{announced}, and {} are \
         free ({freeable}); {again}. Add a disk, delete or unpin backups at the console, or let rotation \
         delete more (`{PROGRAM} order allow-rotation`)",
        megabytes(needed),
        megabytes(room.there.free)
    );
    Refused { error, retry_after: wait }
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
    /// Bytes that each backup alone takes, as far as they were measured.
    pub exclusive: &'a Exclusive,
}

/// What one copy may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Permit {
    /// How many backups may go for it.
    deletions: usize,
    /// The copy before needed more than this and was stopped, so what is announced has to fit in what is free.
    needed: Option<u64>,
    /// What there was room for when it began.
    room: Finds,
}

impl Permit {
    fn new(begin: Begin, needed: Option<u64>, room: Finds) -> Result<Self, Refused> {
        match begin {
            Begin::Deleting(deletions) => Ok(Self { deletions, needed: None, room }),
            Begin::WithinFree => Ok(Self { deletions: 0, needed, room }),
            Begin::Wait(seconds) => Err(not_begun(needed.unwrap_or(0), room, None, Some(seconds))),
        }
    }

    /// Why it is not begun with what is announced.
    fn refusal(&self, announced: u64) -> Option<Refused> {
        let needed = self.needed.filter(|_| !self.fits(announced))?;
        Some(not_begun(needed, self.room, Some(announced), None))
    }

    /// Whether what is announced fits in what was free. What announces nothing says that it fits.
    fn fits(&self, announced: u64) -> bool {
        announced.saturating_add(LEAST) <= self.room.there.free
    }
}

/// The watch over the room while one copy is written.
pub struct Watch<'a> {
    room: &'a Room<'a>,
    monitor: Uuid,
    permit: Permit,
    /// Bytes that have come.
    written: AtomicU64,
    /// Bytes that are announced.
    announced: AtomicU64,
    /// It was stopped for room.
    is_stopped: AtomicBool,
    /// Rotation is to be asked at once.
    ask_now: Notify,
    /// It has answered that nothing may go.
    nothing_may_go: AtomicBool,
    /// The copy has ended.
    is_over: AtomicBool,
    /// Why rotation could not help when it was asked last.
    problem: Lock<Option<String>>,
}

impl<'a> Watch<'a> {
    /// Begins with nothing written.
    ///
    /// # Errors
    /// [`Refused`]: after one that found no room it is too early for another.
    pub async fn begin(room: &'a Room<'a>, monitor: Uuid) -> Result<Self> {
        let memory = room.memory;
        let permit = decide(room, monitor, 0, FIRST_TURN).await?;
        let lived = memory.clock.look()?.lived;
        memory.ledger.change_copies(|tries| tries.begins(lived))?;
        Ok(Self {
            room,
            monitor,
            permit,
            written: AtomicU64::default(),
            announced: AtomicU64::default(),
            is_stopped: AtomicBool::default(),
            ask_now: Notify::new(),
            nothing_may_go: AtomicBool::default(),
            is_over: AtomicBool::default(),
            problem: Lock::default(),
        })
    }

    /// Refuses what is announced to be too large.
    pub fn announced(&self, at: CopyProgress) -> Result<()> {
        if let Some(refused) = refusal(at.total, catalog::room(self.room.places)?.0) {
            bail!(refused);
        }
        self.announced.fetch_max(at.total, Ordering::Relaxed);
        if let Some(refused) = self.permit.refusal(at.total) {
            bail!(refused);
        }
        Ok(())
    }

    /// Keeps what came of the copy.
    pub fn ended(&self, is_complete: bool) {
        let keep = || {
            let memory = self.room.memory;
            let lived = memory.clock.look()?.lived;
            // All that was free when it began is used up by then, and more has come if backups went.
            let needed =
                self.written.load(Ordering::Relaxed).saturating_add(LEAST).max(self.permit.room.there.free);
            let was_to_fit = self.permit.fits(self.announced.load(Ordering::Relaxed));
            memory.ledger.change_copies(|tries| {
                if is_complete {
                    tries.succeeded();
                } else if self.is_stopped.load(Ordering::Relaxed) {
                    tries.stopped_for_room(self.monitor, needed, was_to_fit, lived);
                } else {
                    tries.failed(lived);
                }
            })
        };
        if let Err(error) = keep() {
            tracing::error!("what came of the full copy is not kept: {error:#}");
        }
    }

    /// So many bytes have come.
    pub fn has_come(&self, bytes: u64) {
        self.written.store(bytes, Ordering::Relaxed);
    }

    /// Ends [`Self::make_room`] when what it does now is done.
    pub fn end(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }

    /// Looks; `before` is what had come at the look before.
    fn look(&self, before: &mut u64) -> Result<Seen> {
        let written = self.written.load(Ordering::Relaxed);
        let lately = written.saturating_sub(*before);
        *before = written;
        let (total, free) = catalog::room(self.room.places)?;
        Ok(Seen { free, low: self.room.memory.decisions.limits().low_space(total), lately })
    }

    /// Ends with the reason when the copy has to be stopped, after it was held for a while. It waits for nobody, so that
    /// nothing that makes room, or hangs at it, keeps it from that.
    pub async fn guard(&self, copy: &Holder) -> Result<String> {
        let mut before = 0;
        loop {
            tokio::time::sleep(LOOK).await;
            let mut seen = self.look(&mut before)?;
            if !seen.is_too_little() {
                // What is written has its place on the disk only later, and counts as free until then.
                seen.free = seen.free.saturating_sub(unwritten()?);
                if !seen.is_too_little() {
                    continue;
                }
            }
            let (until, lately, is_held) = (Instant::now() + HOLD, seen.lately, copy.hold());
            // Nothing comes while it is held, and then as much as before.
            let at_rate = |seen: Seen| Seen { lately: seen.lately.max(lately), ..seen };
            let brought = catalog::bring_to_disk(self.room.places);
            let mut seen = at_rate(settled(brought, LOOK, until, || self.look(&mut before)).await?);
            if seen.is_too_little() && is_held {
                self.nothing_may_go.store(false, Ordering::Relaxed);
                self.ask_now.notify_one();
                let is_vain = || self.nothing_may_go.load(Ordering::Relaxed);
                seen = at_rate(held(until, LOOK, lately, is_vain, || self.look(&mut before)).await?);
            }
            if seen.is_too_little() {
                self.is_stopped.store(true, Ordering::Relaxed);
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
            copy.go_on();
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
                tokio::select! {
                    () = tokio::time::sleep(LOOK) => continue,
                    () = self.ask_now.notified() => {}
                }
            }
            let problem = match self.make_some(&mut before).await {
                Ok(MadeRoom::Enough) => None,
                Ok(MadeRoom::Deleted(deletion)) => {
                    // Nobody listens any more when the copy has ended, and the journal has it.
                    drop(gone.send(deletion));
                    None
                }
                Ok(MadeRoom::Nothing(problem)) => {
                    self.nothing_may_go.store(true, Ordering::Relaxed);
                    Some(problem)
                }
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
        let Room { places, memory, catalog, generation, .. } = self.room;
        let seen = self.look(before)?;
        if seen.free >= seen.wanted() {
            return Ok(MadeRoom::Enough);
        }
        copy_check::drop_all(places, generation).await?;
        // In its turn: a lock that is only tried may be taken each time, by whoever asks for plans again and again.
        let turn = tokio::time::timeout(TURN, catalog.lock()).await;
        let _one_at_a_time = turn.context("the backups are being changed or looked at")?;
        rotate::make_room(places, *memory, seen.wanted(), self.permit.deletions).await
    }
}

/// What is seen when `brought` has brought everything to the disk, and at `until` at the latest. Meanwhile `look` looks on:
/// what is free by then can only become less, so too little ends the wait.
async fn settled(
    brought: impl Future<Output = Result<()>>,
    every: Duration,
    until: Instant,
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
                if seen.is_too_little() || Instant::now() >= until {
                    return Ok(seen);
                }
            }
        }
    }
}

/// What is seen when a copy that is held, and wrote `lately` between two looks before, may go on, when holding it `is_vain`, or
/// at `until`.
async fn held(
    until: Instant,
    every: Duration,
    lately: u64,
    is_vain: impl Fn() -> bool,
    mut look: impl FnMut() -> Result<Seen>,
) -> Result<Seen> {
    loop {
        let seen = look()?;
        if seen.lets_go_on(lately) || is_vain() || Instant::now() >= until {
            return Ok(seen);
        }
        tokio::time::sleep(every).await;
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
        assert_eq!(refusal(0, 500 * GB), None);
        assert_eq!(refusal(500 * GB - FULL_BYTES, 500 * GB), None);
        let refused = refusal(65 * GB, 64 * GB).unwrap().error;
        assert!(refused.contains("65000 MB") && refused.contains("sparse"), "{refused}");
        assert!(refusal(u64::MAX, 64 * GB).is_some());
    }

    #[test]
    fn whether_a_copy_would_begin_is_told_before_anything_is_done_for_it() {
        let room = Finds {
            there: copy_tries::Room { free: 20 * GB, freeable: GB },
            total: 64 * GB,
            is_measured: true,
        };
        // how it may begin, what is announced → deletions that it may cost, or when it may be tried again
        let table = [
            (Begin::Deleting(3), 0, Ok(3)),
            (Begin::Deleting(3), 40 * GB, Ok(3)),
            (Begin::Deleting(3), 64 * GB, Err(None)),
            (Begin::WithinFree, 0, Ok(0)),
            (Begin::WithinFree, 20 * GB - LEAST, Ok(0)),
            (Begin::WithinFree, 20 * GB, Err(None)),
            (Begin::WithinFree, 64 * GB, Err(None)),
            (Begin::Wait(7200), 0, Err(Some(7200))),
            (Begin::Wait(7200), 64 * GB, Err(Some(7200))),
        ];
        for (begin, announced, expected) in table {
            let told = may_begin(begin, Some(30 * GB), room, announced);
            let told = told.map(|permit| permit.deletions).map_err(|refused| refused.retry_after);
            assert_eq!(told, expected, "{begin:?} {announced}");
        }
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
        let (every, long) = (Duration::from_millis(1), Instant::now() + Duration::from_secs(60));
        let seen = settled(std::future::pending(), every, long, shrinking()).await.unwrap();
        assert!(seen.is_too_little(), "{seen:?}");
        // Nor for longer than it may be held.
        let seen = settled(std::future::pending(), every, Instant::now(), shrinking()).await.unwrap();
        assert!(!seen.is_too_little(), "{seen:?}");
        // One that ends in time is the last word.
        let seen = settled(async { Ok(()) }, Duration::from_secs(3600), long, shrinking()).await.unwrap();
        assert_eq!(seen.free, least - 1 + 4 * GB);
        assert!(settled(async { anyhow::bail!("EIO") }, every, long, shrinking()).await.is_err());
    }

    #[tokio::test]
    async fn a_copy_that_is_held_goes_on_when_there_is_room_and_not_just_to_be_held_again() {
        let growing = |by: u64| {
            let mut free = LEAST - 1;
            move || {
                free += by;
                Ok(Seen { free, low: 10 * GB, lately: 0 })
            }
        };
        let (every, long) = (Duration::from_millis(1), Instant::now() + Duration::from_secs(60));
        let seen = held(long, every, GB, || false, growing(MARGIN)).await.unwrap();
        assert!(!Seen { lately: GB, ..seen }.is_too_little() && seen.free < LEAST + 5 * GB, "{seen:?}");
        // Where it writes slowly, it goes on sooner; where low space is less than that, with what rotation keeps free.
        assert!(held(long, every, 0, || false, growing(MARGIN)).await.unwrap().free < LEAST + 3 * MARGIN);
        let low = Seen { free: LEAST, low: 0, lately: 0 };
        assert!(low.lets_go_on(0) && !low.lets_go_on(1));
        // No room: not for ever.
        let short = Instant::now() + Duration::from_millis(20);
        assert!(held(short, every, 0, || false, growing(0)).await.unwrap().is_too_little());
        assert!(held(long, every, 0, || true, growing(0)).await.unwrap().is_too_little());
    }

    #[test]
    fn what_is_not_begun_is_said_with_its_figures_and_the_way_out() {
        let there = copy_tries::Room { free: 2 * GB, freeable: GB };
        let room = Finds { there, total: 64 * GB, is_measured: true };
        let unmeasured = not_begun(9 * GB, Finds { is_measured: false, ..room }, None, None).error;
        assert!(unmeasured.contains("measured in the coming night"), "{unmeasured}");
        let said = not_begun(9 * GB, room, Some(6 * GB), None);
        for part in [
            "needed more than 9000 MB",
            "announces 6000 MB",
            "2000 MB are free",
            "1000 MB more",
            "Add a disk",
        ] {
            assert!(said.error.contains(part), "{said}");
        }
        let said = not_begun(9 * GB, room, None, Some(3601));
        assert!(said.error.contains("in 2 h") && said.retry_after == Some(3601), "{said}");
        let permit = Permit { deletions: 0, needed: Some(9 * GB), room };
        assert!(permit.fits(0) && permit.fits(2 * GB - LEAST) && !permit.fits(2 * GB - LEAST + 1));
        assert!(!permit.fits(u64::MAX));
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
