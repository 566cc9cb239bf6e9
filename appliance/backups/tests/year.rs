//! A year in the life of a list of backups, with everything in hostile hands: the network password (settings, pins, backups
//! on request), the monitor (sizes, full copies), the time server and the battery (clocks), the verdicts, and the machine's
//! restarts. The console acts as a careful administrator: the clock is confirmed only when it is right.
//!
//! The rules are told again here from what is true in the world, not from what the machine knows. After each deletion they
//! must hold. `YEARS` cases run in each of the tests, of which the runner takes several at once.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail by panicking")]

use api::{DeletionReason, Limits, Reason};
use backups::clock::{ClockRecord, Reading};
use backups::recent::Recent;
use backups::retention::{Period, Retention};
use backups::rotation::{Candidate, Decision, Now, Proof, Rules, decide, for_copy};
use backups::witness::Witness;
use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use uuid::Uuid;

/// Cases of each test.
const YEARS: u32 = 25_000;
/// Most steps of a year; a step takes between an hour and ten days.
const STEPS: usize = 150;
/// Hours of a year.
const YEAR: i64 = 365 * 24;
const DAY: i64 = 24;
const GB: u64 = 1_000_000_000;
const TOTAL: u64 = 500 * GB;
/// The default of the console.
const RETENTION_DELAY: i64 = 72;

/// A backup as it is in truth.
#[derive(Debug, Clone)]
struct True {
    /// What the planner is told.
    candidate: Candidate,
    /// Hours since the begin of the world.
    made: i64,
    /// The clock was right when it was made.
    is_dated_well: bool,
}

#[derive(Debug)]
struct World {
    /// Hours since the begin.
    time: i64,
    /// By how much the clock is ahead, in hours.
    error: i64,
    /// By how many hours the clock was moved, or the machine was off, since the clock was confirmed.
    moved: i64,
    boot: u32,
    /// Hours since the machine was started.
    uptime: i64,
    record: ClockRecord,
    /// In the order in which they were made.
    backups: Vec<True>,
    sequence: u64,
    retention: Retention,
    asked: Period,
    /// Since when the network asks for what, in hours.
    wishes: Vec<(i64, Period)>,
    gone: Recent,
    on_demand: Recent,
    witness: Witness,
    free: u64,
    clone_bytes: u64,
    /// Deletions for space, in hours, and for age.
    by_space: Vec<i64>,
    by_age: usize,
}

fn hours(hours: i64) -> SignedDuration {
    SignedDuration::from_hours(hours)
}

fn begin() -> Timestamp {
    "2026-11-24T12:00:00Z".parse().unwrap()
}

impl World {
    fn new() -> Self {
        let reading = Reading { clock: begin(), boot: String::from("0"), uptime: hours(1) };
        let month = Period(Some(30));
        let mut world = Self {
            time: 0,
            error: 0,
            moved: 0,
            boot: 0,
            uptime: 1,
            record: ClockRecord::first(&reading),
            backups: Vec::new(),
            sequence: 0,
            retention: Retention::default().asked(month, 0, 0, false),
            asked: month,
            wishes: vec![(-1000, month)],
            gone: Recent::default(),
            on_demand: Recent::default(),
            witness: Witness::default(),
            free: 400 * GB,
            clone_bytes: 0,
            by_space: Vec::new(),
            by_age: 0,
        };
        for _ in 0..10 {
            world.make(Reason::Schedule);
            world.verdict(0, Proof::Verified);
            world.pass(DAY, false);
        }
        world
    }

    fn clock(&self) -> Timestamp {
        begin() + hours(self.time + self.error)
    }

    fn look(&mut self) {
        let reading =
            Reading { clock: self.clock(), boot: self.boot.to_string(), uptime: hours(self.uptime) };
        self.record = self.record.clone().observe(&reading);
    }

    /// Time passes, with the machine off or not. While it runs it notes what there is.
    fn pass(&mut self, hours: i64, is_off: bool) {
        self.time += hours;
        if is_off {
            self.moved += hours;
            self.boot += 1;
            self.uptime = 0;
        } else {
            self.uptime += hours;
        }
        self.look();
        self.witness.note(self.record.lived(), self.sequence);
    }

    fn make(&mut self, reason: Reason) {
        self.sequence += 1;
        let candidate = Candidate {
            monitor: Uuid::from_u128(1),
            id: self.sequence.to_string(),
            sequence: self.sequence,
            created: self.clock(),
            witnessed: SignedDuration::ZERO,
            reason,
            pinned: false,
            proof: Proof::None,
            downloading: false,
        };
        self.backups.push(True { candidate, made: self.time, is_dated_well: self.error == 0 });
    }

    /// The network asks for a backup.
    fn make_on_demand(&mut self) {
        let (limits, lived) = (Limits::default(), self.record.lived());
        let (most, pause) = (limits.on_demand_per_day as usize, u64::from(limits.on_demand_seconds));
        if self.on_demand.wait(lived, most, pause).is_none() {
            self.on_demand.add(lived);
            self.make(Reason::OnDemand);
        }
    }

    /// Of the backup so many places before the newest.
    fn verdict(&mut self, back: usize, proof: Proof) {
        if let Some(at) = self.backups.len().checked_sub(back + 1) {
            self.backups[at].candidate.proof = proof;
        }
    }

    fn pin(&mut self, at: usize) {
        let pinned = self.backups.iter().filter(|backup| backup.candidate.pinned).count();
        if pinned < Limits::default().pinned as usize && !self.backups.is_empty() {
            let at = at % self.backups.len();
            self.backups[at].candidate.pinned = true;
        }
    }

    /// The administrator sets the clock right and confirms it.
    fn confirm(&mut self) {
        self.error = 0;
        self.moved = 0;
        self.look();
        self.record = self.record.clone().confirmed();
    }

    fn step_clock(&mut self, hours: i64) {
        self.error += hours;
        self.moved += hours.abs();
        self.look();
    }

    /// One step, all of it from one number.
    fn step(&mut self, dice: u32) {
        let (what, how, length) = (dice % 16, (dice >> 8) as usize, dice >> 24);
        let mut is_off = false;
        match what {
            0 => self.step_clock([23, -23, 1, -1, 12, -12, 24 * 365 * 10, -24 * 400][how % 8]),
            1 => self.step_clock(-self.error),
            2 => is_off = true,
            3 => {
                self.asked = Period([Some(1), Some(2), Some(7), Some(30), Some(3650), None][how % 6]);
                self.wishes.push((self.time, self.asked));
            }
            4 => (0..how % 6).for_each(|_| self.make_on_demand()),
            5 => self.make(Reason::BeforeResync),
            6 => self.verdict(how % 8, [Proof::Failed, Proof::None, Proof::Verified][how / 8 % 3]),
            7 => self.pin(how),
            8 | 9 => self.free = [0, GB, 20 * GB, 45 * GB, 300 * GB][how % 5],
            10 => self.clone_bytes = [0, 3 * GB, 60 * GB][how % 3],
            11 => self.confirm(),
            _ => {
                self.make(Reason::Schedule);
                self.verdict(0, [Proof::Verified, Proof::Verified, Proof::None, Proof::Failed][how % 4]);
            }
        }
        self.pass([1, 2, 5, 24, 24, 48, 72, 240][length as usize % 8], is_off);
        let delay = u64::from(Limits::default().retention_delay_hours) * 3600;
        self.retention =
            self.retention.asked(self.asked, self.record.lived(), delay, !self.backups.is_empty());
        // A full copy that would like everything; else rotation as it comes.
        self.rotate(what == 5 && how % 2 == 0);
    }

    fn rotate(&mut self, is_copy: bool) {
        let lived = self.record.lived();
        loop {
            let period = self.retention.in_force().unwrap().0;
            let rules =
                Rules { retention: period.map(|days| hours(24 * i64::from(days))), ..Rules::default() };
            let now = Now {
                time: self.clock(),
                clock_is_trusted: self.record.is_trusted(),
                doubt: self.record.doubt(),
                total: TOTAL,
                free: self.free,
                clone_bytes: self.clone_bytes,
                gone_for_space: self.gone.count(lived),
                in_vain: false,
            };
            let candidates: Vec<Candidate> = self
                .backups
                .iter()
                .map(|backup| {
                    let witnessed = self.witness.age(lived, backup.candidate.sequence);
                    Candidate { witnessed, ..backup.candidate.clone() }
                })
                .collect();
            let decision = if is_copy {
                for_copy(&candidates, &rules, &now, TOTAL)
            } else {
                decide(&candidates, &rules, &now)
            };
            let Decision::Delete(deletion) = decision else { return };
            let at = self.backups.iter().position(|backup| backup.candidate.id == deletion.id).unwrap();
            self.check(at, deletion.why, is_copy);
            self.backups.remove(at);
            match deletion.why {
                DeletionReason::Space => {
                    self.gone.add(lived);
                    self.by_space.push(self.time);
                }
                _ => self.by_age += 1,
            }
        }
    }

    /// What must be true of the one that goes.
    fn check(&self, at: usize, why: DeletionReason, is_copy: bool) {
        let own = &self.backups[at];
        let age = self.time - own.made;
        let after = self.backups.len() - at - 1;
        assert!(after >= 3, "one of the last three goes");
        assert!(!own.candidate.pinned, "a pinned one goes");
        assert!(age >= DAY, "one of {age} h goes");
        let is_verified = |backup: &True| backup.candidate.proof == Proof::Verified;
        assert!(
            !is_verified(own) || self.backups[at + 1..].iter().any(is_verified),
            "the newest verified one goes"
        );
        match why {
            DeletionReason::Space => {
                let lately = self.by_space.iter().filter(|then| self.time - **then < DAY).count();
                let list = self.backups.len() + lately;
                assert!(lately < (list / 4).max(1), "{} of {list} go in a day for space", lately + 1);
                let room = self.free + self.clone_bytes;
                assert!(is_copy || room < TOTAL / 10, "one goes for the room of a clone");
            }
            _ => {
                assert!(self.backups[at + 1..].iter().any(is_verified), "no newer one is verified");
                assert!(self.moved <= DAY, "the clock was moved by {} h in all", self.moved);
                let early = self.wishes.iter().filter(|(since, _)| since + RETENTION_DELAY <= self.time);
                let shortest = early.filter_map(|(_, period)| period.0).min().unwrap();
                assert!(
                    !own.is_dated_well || age > i64::from(shortest) * DAY,
                    "one of {age} h goes under {shortest} days"
                );
            }
        }
    }
}

/// Lives a year.
fn live(dice: &[u32]) -> World {
    let mut world = World::new();
    for dice in dice {
        if world.time > YEAR {
            break;
        }
        world.step(*dice);
        assert!(world.backups.len() >= 3, "{} backups are left", world.backups.len());
    }
    world
}

fn years() -> ProptestConfig {
    ProptestConfig { failure_persistence: None, max_shrink_iters: 500, ..ProptestConfig::with_cases(YEARS) }
}

macro_rules! years {
    ($($name:ident)*) => {
        proptest! {
            #![proptest_config(years())]
            $(
                #[test]
                fn $name(dice in prop::collection::vec(any::<u32>(), STEPS)) {
                    live(&dice);
                }
            )*
        }
    };
}

years! {
    the_floor_holds_for_a_year
    the_floor_holds_for_another_year
    the_floor_holds_for_a_third_year
    the_floor_holds_for_a_fourth_year
}

/// The world is not so strict that nothing ever goes: otherwise the tests above would show nothing.
#[test]
fn in_a_quiet_year_backups_go_by_age_and_in_a_tight_one_by_space() {
    let mut world = World::new();
    for _ in 0..365 {
        world.make(Reason::Schedule);
        world.verdict(0, Proof::Verified);
        world.pass(DAY, false);
        world.retention = world.retention.asked(world.asked, world.record.lived(), 72 * 3600, true);
        world.rotate(false);
    }
    assert_eq!((world.backups.len(), world.by_space.len()), (30, 0));
    assert!(world.by_age > 330, "{}", world.by_age);
    world.free = GB;
    for _ in 0..30 {
        world.make(Reason::Schedule);
        world.verdict(0, Proof::Verified);
        world.pass(DAY, false);
        world.rotate(false);
    }
    // As many go as are made, down to where a quarter of the list is one.
    assert!((3..=8).contains(&world.backups.len()), "{}", world.backups.len());
    assert!(world.by_space.len() >= 30, "{}", world.by_space.len());
}

/// What an audit did: 35 steps of the clock, each of almost a day, and a retention of one day.
#[test]
fn steps_of_the_clock_that_are_small_alone_delete_nothing() {
    let mut world = World::new();
    for _ in 0..35 {
        world.step_clock(23);
        world.pass(1, false);
        world.rotate(false);
    }
    assert_eq!(world.backups.len(), 10);
}
