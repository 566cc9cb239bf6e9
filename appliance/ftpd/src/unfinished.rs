//! Downloads that broke off: their backups are held a while longer, so that rotation leaves them to who comes back for
//! the rest.
//!
//! A session holds the last backup of which it has not taken the end, as long as it lives. When it has ended, its client has
//! [`GRACE`] to come back. Then a source holds one backup only: with the password somebody may begin many downloads, and what
//! is held is not deleted.

use std::collections::HashMap;
use std::fs::File;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a client has to come back after its session has ended: more than the 15 minutes for which `recovery` tries.
pub const GRACE: Duration = Duration::from_secs(20 * 60);
/// How many backups are held at once: each costs a descriptor.
const MOST: usize = 16;

/// What is held, by the number of the session that took it last.
#[derive(Debug, Default)]
pub struct Unfinished(Mutex<HashMap<u64, Hold>>);

#[derive(Debug)]
struct Hold {
    /// The backup's tar index, and the file by which it is held.
    path: PathBuf,
    _index: File,
    source: IpAddr,
    since: Instant,
    /// When its session was seen to have ended.
    ended: Option<Instant>,
}

impl Unfinished {
    /// Holds on to a backup, by its tar index which [`backups::download::hold`] was called for, for a session of `source`.
    pub fn keep(&self, session: u64, source: IpAddr, (path, index): (PathBuf, File), now: Instant) {
        let mut held = self.held();
        held.insert(session, Hold { path, _index: index, source, since: now, ended: None });
        if held.len() > MOST {
            // One whose session has ended goes first, and of those the oldest.
            let oldest = held.iter().min_by_key(|(_, hold)| (hold.ended.is_none(), hold.since));
            let oldest = oldest.map(|(session, _)| *session);
            oldest.and_then(|session| held.remove(&session));
        }
    }

    /// Lets go of a backup: somebody has come back, and has all of it.
    pub fn forget(&self, path: &Path) {
        self.held().retain(|_, hold| hold.path != path);
    }

    /// Lets go of what nobody came back for. `lives` says whether a session goes on.
    pub fn let_go(&self, now: Instant, lives: impl Fn(u64) -> bool) {
        let mut held = self.held();
        let mut last: HashMap<IpAddr, Instant> = HashMap::new();
        for (session, hold) in held.iter_mut() {
            hold.ended = if lives(*session) { None } else { Some(hold.ended.unwrap_or(now)) };
            if hold.ended.is_some() {
                let last = last.entry(hold.source).or_insert(hold.since);
                *last = hold.since.max(*last);
            }
        }
        held.retain(|_, hold| {
            let Some(ended) = hold.ended else { return true };
            let is_last = last.get(&hold.source).is_none_or(|last| hold.since >= *last);
            is_last && now.saturating_duration_since(ended) < GRACE
        });
    }

    fn held(&self) -> MutexGuard<'_, HashMap<u64, Hold>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const SECOND: Duration = Duration::from_secs(1);

    fn keep(unfinished: &Unfinished, session: u64, source: u8, path: &str, now: Instant) {
        let index = (path.into(), tempfile::tempfile().unwrap());
        unfinished.keep(session, Ipv4Addr::new(192, 0, 2, source).into(), index, now);
    }

    fn sessions(unfinished: &Unfinished) -> Vec<u64> {
        let mut sessions: Vec<u64> = unfinished.held().keys().copied().collect();
        sessions.sort_unstable();
        sessions
    }

    #[test]
    fn a_session_holds_one_backup_and_a_source_one_after_its_sessions() {
        let (unfinished, start) = (Unfinished::default(), Instant::now());
        for (number, path) in ["a", "b", "c"].into_iter().enumerate() {
            keep(&unfinished, 1, 1, path, start + SECOND * u32::try_from(number).unwrap());
        }
        assert_eq!(unfinished.held()[&1].path, Path::new("c"));
        keep(&unfinished, 2, 1, "d", start + SECOND * 5);
        keep(&unfinished, 3, 2, "e", start + SECOND * 6);
        unfinished.let_go(start + GRACE * 3, |_| true);
        assert_eq!(sessions(&unfinished), [1, 2, 3], "what a session holds that goes on stays");
        unfinished.let_go(start + GRACE * 3, |session| session == 1);
        assert_eq!(sessions(&unfinished), [1, 2, 3]);
        unfinished.let_go(start + GRACE * 3, |_| false);
        assert_eq!(sessions(&unfinished), [2, 3], "the last of each source");
        unfinished.let_go(start + GRACE * 4 - SECOND, |_| false);
        assert_eq!(sessions(&unfinished), [2, 3]);
        unfinished.forget(Path::new("e"));
        assert_eq!(sessions(&unfinished), [2]);
        unfinished.let_go(start + GRACE * 4, |_| false);
        assert_eq!(sessions(&unfinished), [0_u64; 0]);
    }

    #[test]
    fn those_whose_sessions_have_ended_make_place_first() {
        let (unfinished, start) = (Unfinished::default(), Instant::now());
        for number in 0..16 {
            keep(&unfinished, u64::from(number), number, "a", start + SECOND * u32::from(number));
        }
        unfinished.let_go(start + SECOND * 20, |session| session != 5);
        keep(&unfinished, 16, 16, "a", start + SECOND * 21);
        keep(&unfinished, 17, 17, "a", start + SECOND * 22);
        assert_eq!(unfinished.held().len(), MOST);
        assert!(!unfinished.held().contains_key(&5) && !unfinished.held().contains_key(&0));
    }
}
