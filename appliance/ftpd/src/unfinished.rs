//! Downloads that broke off: their backups are held a while longer, so that rotation leaves them to who comes back for
//! the rest.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a client has to come back.
pub const GRACE: Duration = Duration::from_secs(3600);
/// How many backups are held at once: each costs a descriptor.
const MOST: usize = 16;

/// What is held, by the path of its tar index.
#[derive(Debug, Default)]
pub struct Unfinished(Mutex<HashMap<PathBuf, (Instant, File)>>);

impl Unfinished {
    /// Holds on to a backup, by its tar index which [`backups::download::hold`] was called for.
    pub fn keep(&self, path: PathBuf, index: File, now: Instant) {
        let mut held = self.held();
        held.insert(path, (now, index));
        if held.len() > MOST {
            let oldest = held.iter().min_by_key(|(_, (since, _))| *since).map(|(path, _)| path.clone());
            oldest.and_then(|path| held.remove(&path));
        }
    }

    /// Lets go of a backup: somebody has come back, and has all of it.
    pub fn forget(&self, path: &Path) {
        self.held().remove(path);
    }

    /// Lets go of what nobody came back for.
    pub fn let_go(&self, now: Instant) {
        self.held().retain(|_, (since, _)| now.saturating_duration_since(*since) < GRACE);
    }

    fn held(&self) -> MutexGuard<'_, HashMap<PathBuf, (Instant, File)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_ones_are_held_for_a_while() {
        let unfinished = Unfinished::default();
        let start = Instant::now();
        for number in 0..20u64 {
            let file = tempfile::tempfile().unwrap();
            unfinished.keep(number.to_string().into(), file, start + Duration::from_secs(number));
        }
        assert_eq!(unfinished.held().len(), MOST);
        assert!(!unfinished.held().contains_key(&PathBuf::from("3")));
        unfinished.let_go(start + GRACE + Duration::from_secs(10));
        assert_eq!(unfinished.held().len(), 9);
        unfinished.forget(Path::new("19"));
        assert_eq!(unfinished.held().len(), 8);
        unfinished.let_go(start + GRACE * 2);
        assert_eq!(unfinished.held().len(), 0);
    }
}
