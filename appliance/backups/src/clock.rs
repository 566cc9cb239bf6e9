//! Whether the clock can be trusted to expire backups, and how much time has really passed (design D11). Pure.
//!
//! A clock that runs ahead makes every backup old, in one jump or in many small steps. So the clock is compared with the
//! kernel's monotonic one, and every difference counts, forward and back, until the console confirms the clock. Above
//! [`MOST`] in all nothing expires by age; below it the sum is the doubt by which every age is taken to be shorter.
//!
//! How long the machine was off is not known: the whole time by which the clock moved meanwhile counts as a difference. So a
//! weekend without power asks for a confirmation, and a restart of two minutes costs two minutes of [`MOST`].
//!
//! What has to take its time whatever the clock says is measured by [`ClockRecord::lived`]: the time that the machine
//! ran. It stands still while the machine is off, and no clock can shorten it.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// The clock is trusted as long as all differences since its last confirmation together are not more than this.
pub const MOST: SignedDuration = SignedDuration::from_hours(24);
/// Differences count as soon as they add up to this: two clocks cannot be read at the same moment.
const NOISE: SignedDuration = SignedDuration::from_secs(1);

/// One look at the clocks of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// The clock that shows date and time.
    pub clock: Timestamp,
    /// The kernel's name for the time since the machine was started.
    pub boot: String,
    /// How long the machine has been running since then.
    pub uptime: SignedDuration,
}

/// What is remembered of the clock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClockRecord {
    /// The clock when it was last looked at.
    pub seen: Timestamp,
    /// [`Reading::boot`] at that time; empty in what the first versions wrote.
    #[serde(default)]
    boot: String,
    /// [`Reading::uptime`] at that time.
    #[serde(default)]
    uptime_ms: i64,
    /// How long the machine has been running in all, as far as it was watched.
    #[serde(default)]
    lived_ms: i64,
    /// All differences since the clock was confirmed.
    #[serde(default)]
    offsets_ms: i64,
    /// A difference that is too small to count yet.
    #[serde(default)]
    residue_ms: i64,
    /// The sum that the first versions wrote.
    #[serde(default, skip_serializing)]
    jumped_seconds: i64,
}

impl ClockRecord {
    /// The first look at a clock: there is nothing to doubt it by.
    pub fn first(reading: &Reading) -> Self {
        Self {
            seen: reading.clock,
            boot: reading.boot.clone(),
            uptime_ms: ms(reading.uptime),
            lived_ms: 0,
            offsets_ms: 0,
            residue_ms: 0,
            jumped_seconds: 0,
        }
    }

    /// The first look after what was remembered is lost: the clock may have been anywhere meanwhile.
    pub fn lost(reading: &Reading) -> Self {
        Self { offsets_ms: ms(MOST).saturating_add(ms(NOISE)), ..Self::first(reading) }
    }

    /// The next look.
    #[must_use]
    pub fn observe(self, reading: &Reading) -> Self {
        let uptime = ms(reading.uptime);
        let ran = if self.boot == reading.boot {
            uptime.saturating_sub(self.uptime_ms)
        } else if self.boot.is_empty() {
            0
        } else {
            uptime
        }
        .max(0);
        let residue = ms(reading.clock.duration_since(self.seen)).saturating_sub(ran);
        let residue = self.residue_ms.saturating_add(residue);
        let counts = residue.saturating_abs() >= ms(NOISE);
        let old = self.jumped_seconds.saturating_abs().saturating_mul(1000);
        Self {
            seen: reading.clock,
            boot: reading.boot.clone(),
            uptime_ms: uptime,
            lived_ms: self.lived_ms.saturating_add(ran),
            offsets_ms: self.offsets_ms.saturating_add(old).saturating_add(if counts {
                residue.saturating_abs()
            } else {
                0
            }),
            residue_ms: if counts { 0 } else { residue },
            jumped_seconds: 0,
        }
    }

    /// All differences since the clock was confirmed: the clock may be wrong by so much, and no more than that.
    pub fn doubt(&self) -> SignedDuration {
        SignedDuration::from_millis(self.offsets_ms.saturating_add(self.residue_ms.saturating_abs()))
    }

    /// Whether little speaks against the clock.
    pub fn is_trusted(&self) -> bool {
        SignedDuration::from_millis(self.offsets_ms) <= MOST
    }

    /// For how long the machine has been running in all, in seconds.
    pub fn lived(&self) -> u64 {
        u64::try_from(self.lived_ms / 1000).unwrap_or(0)
    }

    /// The console says that the clock is right.
    #[must_use]
    pub fn confirmed(self) -> Self {
        Self { offsets_ms: 0, residue_ms: 0, ..self }
    }
}

fn ms(duration: SignedDuration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(if duration.is_negative() { i64::MIN } else { i64::MAX })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HOUR: i64 = 3_600_000;

    /// A machine whose clocks are moved by hand.
    #[derive(Debug, Clone)]
    struct Machine {
        reading: Reading,
        record: ClockRecord,
    }

    impl Machine {
        fn new() -> Self {
            let clock = "2026-11-24T12:00:00Z".parse().unwrap();
            let reading = Reading { clock, boot: "1".into(), uptime: SignedDuration::from_secs(30) };
            let record = ClockRecord::first(&reading);
            Self { reading, record }
        }

        /// The clock moves by `clock`, while the machine runs for `ran`, in milliseconds.
        fn run(&mut self, clock: i64, ran: i64) {
            self.reading.clock += SignedDuration::from_millis(clock);
            self.reading.uptime += SignedDuration::from_millis(ran);
            self.record = self.record.clone().observe(&self.reading);
        }

        /// The machine is restarted, and has been running for `ran` when it looks at the clock.
        fn restart(&mut self, clock: i64, ran: i64) {
            self.reading.boot.push('+');
            self.reading.uptime = SignedDuration::ZERO;
            self.run(clock, ran);
        }
    }

    #[test]
    fn every_step_counts_in_both_directions_until_the_clock_is_confirmed() {
        // Each look: milliseconds by the clock since the one before, and milliseconds that have really passed.
        type Looks = &'static [(i64, i64)];
        let table: [(Looks, i64, bool); 9] = [
            (&[(HOUR, HOUR), (HOUR, HOUR)], 0, true),
            (&[(1000 * HOUR, 1000 * HOUR)], 0, true),
            (&[(24 * HOUR, 0)], 24 * HOUR, true),
            (&[(25 * HOUR, 0)], 25 * HOUR, false),
            (&[(-25 * HOUR, 0)], 25 * HOUR, false),
            // steps that are small alone
            (&[(23 * HOUR, 0), (23 * HOUR, 0)], 46 * HOUR, false),
            // to and fro
            (&[(13 * HOUR, 0), (-13 * HOUR, 0)], 26 * HOUR, false),
            // steps below what counts alone
            (&[(60_900, 60_000), (60_900, 60_000)], 1800, true),
            // noise of reading
            (&[(60_400, 60_000), (59_600, 60_000)], 0, true),
        ];
        for (looks, doubt, trusted) in table {
            let mut machine = Machine::new();
            looks.iter().for_each(|(clock, ran)| machine.run(*clock, *ran));
            let record = machine.record;
            assert_eq!(
                (record.doubt().as_millis(), record.is_trusted()),
                (i128::from(doubt), trusted),
                "{looks:?}"
            );
            assert!(record.confirmed().is_trusted());
        }
    }

    #[test]
    fn thirty_five_steps_of_almost_a_day_are_not_trusted_also_across_restarts() {
        let (mut steps, mut restarts) = (Machine::new(), Machine::new());
        for _ in 0..35 {
            steps.run(23 * HOUR + 60_000, 60_000);
            restarts.restart(23 * HOUR, 30_000);
        }
        assert!(!steps.record.is_trusted() && !restarts.record.is_trusted());
        assert_eq!(steps.record.lived(), 35 * 60);
        assert_eq!(restarts.record.lived(), 35 * 30);
    }

    #[test]
    fn time_without_power_is_a_difference_and_no_time_that_was_lived() {
        let mut machine = Machine::new();
        machine.run(HOUR, HOUR);
        // a restart of two minutes, of which one was the start
        machine.restart(120_000, 60_000);
        assert_eq!((machine.record.doubt().as_millis(), machine.record.lived()), (60_000, 3660));
        // a weekend
        machine.restart(60 * HOUR, 60_000);
        assert!(!machine.record.is_trusted());
        // a battery that is dead: 1970, and back again
        let mut machine = Machine::new();
        let away = -machine.reading.clock.as_millisecond();
        machine.restart(away, 60_000);
        machine.run(-away, 0);
        assert!(!machine.record.is_trusted(), "two jumps that undo each other are two jumps");
    }

    #[test]
    fn what_the_first_versions_wrote_is_read_and_what_is_lost_is_doubted() {
        let reading = Machine::new().reading;
        for (jumped, trusted) in [(0, true), (-90_000, false)] {
            let text = format!(r#"{{"seen":"2026-11-24T12:00:00Z","jumped_seconds":{jumped}}}"#);
            let record: ClockRecord = serde_json::from_str(&text).unwrap();
            let record = record.observe(&reading);
            assert_eq!((record.is_trusted(), record.lived()), (trusted, 0));
            let text = serde_json::to_string(&record).unwrap();
            assert_eq!(serde_json::from_str::<ClockRecord>(&text).unwrap(), record);
        }
        assert!(!ClockRecord::lost(&reading).is_trusted());
    }

    proptest! {
        /// Whatever was done to the clock, its error since the confirmation is not more than the doubt, and the time that
        /// was lived is not more than what has passed.
        #[test]
        fn the_doubt_bounds_the_error(
            moves in prop::collection::vec((-90_000_000..90_000_000i64, 0..90_000_000i64, any::<bool>()), 0..60),
        ) {
            let mut machine = Machine::new();
            let (began, mut passed) = (machine.reading.clock, 0);
            for (step, ran, restart) in moves {
                passed += ran;
                if restart { machine.restart(ran + step, ran) } else { machine.run(ran + step, ran) }
                let shown = machine.reading.clock.duration_since(began);
                let error = (shown - SignedDuration::from_millis(passed)).abs();
                prop_assert!(error <= machine.record.doubt(), "{error:?} {:?}", machine.record);
                prop_assert!(machine.record.lived() <= u64::try_from(passed / 1000).unwrap());
            }
        }
    }
}
