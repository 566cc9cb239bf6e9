//! Which slot is started, and what follows from how it went (design D3, D4). Pure.
//!
//! grub.cfg takes the same decision at boot, in its own language; the scenario `grub` runs it on every state
//! there is and compares it with [`choose`].
//!
//! A slot is *good* once it came up healthy; a new one is not. Every start is counted before it happens, and the count
//! is taken back by a system that came up: three starts that never came back lead to the other slot. That goes for
//! good slots too, since a disk may lose a block of one; where no other slot is left, the last one is started
//! nevertheless, and then without any reboot by itself.

use crate::environment::Environment;
use std::fmt;

/// Starts that may fail before a slot is passed over.
pub const TRIES: u8 = 3;

/// One of the two slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Slot {
    /// Slot A.
    A,
    /// Slot B.
    B,
}

impl Slot {
    /// Both.
    pub const ALL: [Self; 2] = [Self::A, Self::B];

    /// The other one.
    pub fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    /// `a` or `b`, as in partition names and on the kernel's command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
        }
    }

    fn variable(self, what: &str) -> String {
        format!("{}_{what}", self.name().to_uppercase())
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Slot {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|slot| slot.name() == text).ok_or(format!("{text:?} is no slot"))
    }
}

/// What is known of one slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// It came up healthy once.
    pub good: bool,
    /// Starts since it came up last, 0 to [`TRIES`].
    pub tries: u8,
}

/// What is known of both slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    /// The slot that is to be started.
    pub first: Slot,
    /// Slot A.
    pub a: Record,
    /// Slot B.
    pub b: Record,
}

/// How a slot is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// Which slot.
    pub slot: Slot,
    /// No other slot is left: nothing may reboot by itself.
    pub last: bool,
}

impl State {
    /// Reads the state; what is missing or senseless is as on a new disk: slot A first, everything good, no tries.
    pub fn of(environment: &Environment) -> Self {
        let record = |slot: Slot| {
            let good = environment.get(&slot.variable("OK")) != Some("0");
            let tries = environment.get(&slot.variable("TRY")).and_then(|text| match text {
                "1" => Some(1),
                "2" => Some(2),
                "3" => Some(3),
                _ => None,
            });
            Record { good, tries: tries.unwrap_or(0) }
        };
        let first = if environment.get("ORDER") == Some("b a") { Slot::B } else { Slot::A };
        Self { first, a: record(Slot::A), b: record(Slot::B) }
    }

    /// Writes the state; other variables stay.
    pub fn store(&self, environment: &mut Environment) {
        let order = format!("{} {}", self.first, self.first.other());
        environment.set("ORDER", &order);
        for slot in Slot::ALL {
            let record = self.record(slot);
            environment.set(&slot.variable("OK"), if record.good { "1" } else { "0" });
            environment.set(&slot.variable("TRY"), &record.tries.to_string());
        }
    }

    /// One slot's record.
    pub fn record(&self, slot: Slot) -> Record {
        match slot {
            Slot::A => self.a,
            Slot::B => self.b,
        }
    }

    fn set(&mut self, slot: Slot, record: Record) {
        match slot {
            Slot::A => self.a = record,
            Slot::B => self.b = record,
        }
    }

    /// `slot` came up healthy.
    pub fn mark_good(&mut self, slot: Slot) {
        self.set(slot, Record { good: true, tries: 0 });
    }

    /// `slot` is about to be written: until that is done it is never started.
    pub fn begin_write(&mut self, slot: Slot) {
        self.set(slot, Record { good: false, tries: TRIES });
        self.first = slot.other();
    }

    /// `slot` was written and verified: it is started next.
    pub fn finish_write(&mut self, slot: Slot) {
        self.set(slot, Record { good: false, tries: 0 });
        self.first = slot;
    }
}

/// Which slot is started, and the state that is stored before. `startable` says whether a slot's boot partition has
/// what is started, by slot.
///
/// `None`: there is nothing to start.
pub fn choose(state: &State, startable: impl Fn(Slot) -> bool) -> Option<(Choice, State)> {
    let candidates = || [state.first, state.first.other()].into_iter().filter(|slot| startable(*slot));
    if let Some(slot) = candidates().find(|slot| state.record(*slot).tries < TRIES) {
        let mut counted = *state;
        let record = state.record(slot);
        counted.set(slot, Record { tries: record.tries + 1, ..record });
        return Some((Choice { slot, last: false }, counted));
    }
    let slot = candidates().find(|slot| state.record(*slot).good).or_else(|| candidates().next())?;
    Some((Choice { slot, last: true }, *state))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GOOD: Record = Record { good: true, tries: 0 };
    const NEW: Record = Record { good: false, tries: 0 };
    const WRITING: Record = Record { good: false, tries: TRIES };

    fn state(first: Slot, a: Record, b: Record) -> State {
        State { first, a, b }
    }

    #[test]
    fn the_slot_that_is_started() {
        use Slot::{A, B};
        let tired = Record { good: true, tries: TRIES };
        let table = [
            // a new disk: B is empty
            (state(A, GOOD, GOOD), [true, false], Some((A, false))),
            // an update
            (state(B, GOOD, NEW), [true, true], Some((B, false))),
            (state(B, GOOD, Record { good: false, tries: 2 }), [true, true], Some((B, false))),
            (state(B, GOOD, WRITING), [true, true], Some((A, false))),
            // a new slot whose boot partition is damaged
            (state(B, GOOD, NEW), [true, false], Some((A, false))),
            // a good slot that does not come up any more
            (state(A, tired, GOOD), [true, true], Some((B, false))),
            (state(A, tired, tired), [true, true], Some((A, true))),
            (state(A, tired, WRITING), [true, true], Some((A, true))),
            (state(B, tired, WRITING), [true, true], Some((A, true))),
            (state(B, tired, WRITING), [false, true], Some((B, true))),
            (state(A, GOOD, GOOD), [false, false], None),
        ];
        for (state, startable, expected) in table {
            let chosen = choose(&state, |slot| startable[slot as usize]);
            assert_eq!(chosen.map(|(choice, _)| (choice.slot, choice.last)), expected, "{state:?}");
        }
    }

    #[test]
    fn damaged_variables_are_as_on_a_new_disk() {
        let mut environment = Environment::default();
        let new = state(Slot::A, GOOD, GOOD);
        assert_eq!(State::of(&environment), new);
        for (name, value) in [("ORDER", "c"), ("A_OK", "x"), ("A_TRY", "4"), ("B_TRY", "-1"), ("B_OK", "")] {
            environment.set(name, value);
            assert_eq!(State::of(&environment), new, "{name}");
        }
    }

    /// Runs boots of a machine: which slots come up is given.
    fn boot(state: &mut State, startable: [bool; 2], comes_up: [bool; 2]) -> Option<Choice> {
        let (choice, counted) = choose(state, |slot| startable[slot as usize])?;
        *state = counted;
        if comes_up[choice.slot as usize] {
            state.mark_good(choice.slot);
        }
        Some(choice)
    }

    #[test]
    fn an_update_that_never_comes_up_is_back_on_the_old_slot_after_three_tries() {
        let mut state = state(Slot::A, GOOD, GOOD);
        state.begin_write(Slot::B);
        assert_eq!(boot(&mut state.clone(), [true; 2], [true; 2]).unwrap().slot, Slot::A);
        state.finish_write(Slot::B);
        let slots: Vec<_> =
            (0..6).map(|_| boot(&mut state, [true; 2], [true, false]).unwrap().slot.name()).collect();
        assert_eq!(slots, ["b", "b", "b", "a", "a", "a"]);
    }

    fn record() -> impl Strategy<Value = Record> {
        (any::<bool>(), 0..=TRIES).prop_map(|(good, tries)| Record { good, tries })
    }

    fn any_state() -> impl Strategy<Value = State> {
        (any::<bool>(), record(), record()).prop_map(|(a_first, a, b)| State {
            first: if a_first { Slot::A } else { Slot::B },
            a,
            b,
        })
    }

    proptest! {
        #[test]
        fn a_state_survives_grubenv(state in any_state()) {
            let mut environment = Environment::default();
            environment.set("other", "kept");
            state.store(&mut environment);
            prop_assert_eq!(State::of(&Environment::parse(&environment.render().unwrap()).unwrap()), state);
            prop_assert_eq!(environment.get("other"), Some("kept"));
        }

        #[test]
        fn whatever_the_state_a_slot_that_comes_up_is_running_after_seven_boots(
            mut state in any_state(), startable: [bool; 2], comes_up: [bool; 2]
        ) {
            let possible = Slot::ALL.iter().any(|s| startable[*s as usize] && comes_up[*s as usize]);
            let mut last = None;
            for _ in 0..=2 * TRIES {
                last = boot(&mut state, startable, comes_up);
            }
            // The last resort prefers a slot that was good once; only a bad one that would come up is missed then.
            if let Some(choice) = last && possible && !choice.last {
                prop_assert!(comes_up[choice.slot as usize]);
            }
            prop_assert_eq!(last.is_some(), startable[0] || startable[1]);
        }
    }
}
