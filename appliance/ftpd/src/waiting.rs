//! Places of connections before their login, apart from those of sessions.
//!
//! Who gets one, and who ends for it, is decided by [`auth::crowd`], as for the control API.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use auth::crowd::{Crowd, Guest, Limits, Number};
use tokio::task::AbortHandle;

/// The connections that wait for their login.
#[derive(Debug)]
pub(crate) struct Waiting(Mutex<Room>);

#[derive(Debug)]
struct Room {
    crowd: Crowd,
    tasks: HashMap<Number, AbortHandle>,
}

/// A place; dropping it frees it.
#[derive(Debug)]
pub(crate) struct WaitingPlace {
    waiting: Arc<Waiting>,
    number: Number,
}

impl Waiting {
    /// Nobody waits.
    pub(crate) fn new(limits: Limits) -> Self {
        Self(Mutex::new(Room { crowd: Crowd::new(limits), tasks: HashMap::new() }))
    }

    /// Gives a place to a newcomer; whoever has to go for it is ended.
    pub(crate) fn admit(self: &Arc<Self>, guest: Guest) -> WaitingPlace {
        let mut room = self.room();
        let entered = room.crowd.enter(guest);
        if let Some(task) = entered.closes.and_then(|number| room.tasks.remove(&number)) {
            task.abort();
        }
        WaitingPlace { waiting: Arc::clone(self), number: entered.number }
    }

    /// Names what is to be ended should another need a place. Where it has gone already, so be it.
    pub(crate) fn held_by(&self, number: Number, task: AbortHandle) {
        if !task.is_finished() {
            self.room().tasks.insert(number, task);
        }
    }

    /// How many were ended for others since this was last asked.
    pub(crate) fn take_displaced(&self) -> u64 {
        self.room().crowd.take_displaced()
    }

    fn room(&self) -> MutexGuard<'_, Room> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl WaitingPlace {
    /// Names the place.
    pub(crate) fn number(&self) -> Number {
        self.number
    }

    /// Gives the place back, having logged in; false: it was given to another.
    pub(crate) fn leave(self) -> bool {
        self.waiting.room().crowd.log_in(self.number).is_some()
    }
}

impl Drop for WaitingPlace {
    fn drop(&mut self) {
        let mut room = self.waiting.room();
        room.tasks.remove(&self.number);
        room.crowd.leave(self.number);
    }
}
