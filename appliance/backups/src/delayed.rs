//! A wish of the network that protects less than what counts, and what comes of it with time. Pure.
//!
//! Whoever has the network password may ask for a shorter retention period or fewer backups, and may have stolen it. So a
//! wish that protects less is told for a while (for retention: it counts only then):
//!
//! 1. What is in force stays, and the other is `pending`.
//! 2. One that protects still less begins the delay anew. One that protects more than the pending one does not.
//! 3. What protects as much as the one in force, or more, ends what is pending.
//! 4. What the console has refused stays refused until the network asks for something else.
//!
//! The delay is time that the machine ran (`ClockRecord::lived`), so no clock shortens it. Of two values the greater one
//! protects more.

use serde::{Deserialize, Serialize};

/// What protects less, and waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending<T> {
    /// The wish that would count. Its name in files is of the time when only retention periods waited.
    #[serde(rename = "period")]
    pub wish: T,
    /// For how long the machine had been running when it was asked for, in seconds.
    pub since: u64,
}

/// What counts, and what waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default = "Delayed::nothing")]
#[serde(bound(serialize = "T: Serialize", deserialize = "T: Deserialize<'de>"))]
pub struct Delayed<T> {
    /// What counts; `None`: nothing was asked for yet.
    in_force: Option<T>,
    /// What waits.
    pending: Option<Pending<T>>,
    /// What the console has refused.
    refused: Option<T>,
}

impl<T> Default for Delayed<T> {
    fn default() -> Self {
        Self::nothing()
    }
}

impl<T> Delayed<T> {
    /// Nothing was asked for yet.
    fn nothing() -> Self {
        Self { in_force: None, pending: None, refused: None }
    }
}

impl<T: Copy + Ord> Delayed<T> {
    /// The network asks for `wish`, `now` by the machine's running time, under a delay of so many seconds. Where there are
    /// no backups, nothing has to be protected.
    #[must_use]
    pub fn asked(self, wish: T, now: u64, delay: u64, has_backups: bool) -> Self {
        let Self { in_force, pending, refused } = self.at(now, delay);
        let settled = Self { in_force: Some(wish), pending: None, refused: None };
        let Some(current) = in_force.filter(|current| has_backups && wish < *current) else {
            return settled;
        };
        if refused == Some(wish) {
            return Self { in_force: Some(current), pending: None, refused };
        }
        let since = pending.filter(|pending| wish >= pending.wish).map_or(now, |pending| pending.since);
        Self { in_force: Some(current), pending: Some(Pending { wish, since }), refused: None }
    }

    /// The same at a later time: what has waited long enough counts.
    #[must_use]
    pub fn at(self, now: u64, delay: u64) -> Self {
        let Some(mut pending) = self.pending else { return self };
        // The machine's time was lost: the delay begins anew.
        pending.since = pending.since.min(now);
        if now - pending.since >= delay {
            return Self { in_force: Some(pending.wish), pending: None, refused: None };
        }
        Self { pending: Some(pending), ..self }
    }

    /// What counts, where something was ever asked for.
    pub fn in_force(&self) -> Option<T> {
        self.in_force
    }

    /// What waits.
    pub fn pending(&self) -> Option<Pending<T>> {
        self.pending
    }

    /// What the console has refused, and the network still asks for.
    pub fn refused(&self) -> Option<T> {
        self.refused
    }

    /// The console confirms what waits; `None`: nothing does.
    pub fn confirmed(self) -> Option<Self> {
        Some(Self { in_force: Some(self.pending?.wish), pending: None, refused: None })
    }

    /// The console refuses what waits; `None`: nothing does.
    pub fn refuse(self) -> Option<Self> {
        Some(Self { refused: Some(self.pending?.wish), pending: None, ..self })
    }
}
