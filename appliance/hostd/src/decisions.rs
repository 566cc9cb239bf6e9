//! What was decided at the console and counts until it is decided otherwise: the limits of rotation, how backups are served
//! over FTP, who may come to the ports, which monitor is paired, and which other database may take the place of a replica.
//! Root's alone (design D14), so kept here and not by the network process.

use anyhow::{Context, Result, ensure};
use api::{FtpSettings, Limits, Peer};
use auth::pin::Keys;
use backups::retention::{Period, Retention};
use files::Document;
use hostd::{Access, RefusedPeer};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use uuid::Uuid;

use crate::pairing::{self, Accepted, Asked, Known};

/// Version of the file's form.
const FORMAT: u32 = 1;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    limits: Limits,
    /// How backups are served over FTP.
    #[serde(default)]
    ftp: FtpSettings,
    /// Who may come to the ports.
    #[serde(default)]
    access: Access,
    /// By monitor: `Database system identifier` of what may replace its replica.
    accepted: BTreeMap<Uuid, u64>,
    /// Which monitor is paired.
    #[serde(default)]
    peer: Known,
    /// Which one may be paired in its place.
    #[serde(default)]
    accepted_peer: Option<Accepted>,
    /// The retention period that counts, and what the network would like instead.
    #[serde(default)]
    retention: Retention,
    /// What was wrong with the file, until the limits are set anew.
    #[serde(default)]
    problem: Option<String>,
}

/// The decisions and their file.
#[derive(Debug)]
pub struct Decisions {
    document: Document<Record>,
    record: Mutex<Record>,
    /// Who was refused, the last one first; forgotten with the process.
    refused: Mutex<Vec<RefusedPeer>>,
    /// How many of them got a number.
    numbered: AtomicU32,
}

/// So many refused monitors are remembered.
const REFUSED_MAX: usize = 32;

impl Decisions {
    /// Loads them from `folder`. What is damaged there and has no copy counts as never decided.
    pub fn load(folder: &Path) -> Result<Self> {
        let document = Document::new(folder.join("decisions.json"), FORMAT, 0o600);
        let loaded = document.load()?;
        let decisions = Self {
            document,
            record: Mutex::new(loaded.value.unwrap_or_default()),
            refused: Mutex::default(),
            numbered: AtomicU32::default(),
        };
        if let Some(problem) = loaded.problem {
            tracing::error!("{problem}");
            // Also after the next start.
            decisions.change(|record| record.problem = Some(problem))?;
        }
        Ok(decisions)
    }

    /// What was wrong with the file, as a sentence without full stop. Until the limits are set anew nothing may be removed by
    /// age: they may have been stricter.
    pub fn problem(&self) -> Option<String> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner).problem.clone()
    }

    /// The limits of rotation.
    pub fn limits(&self) -> Limits {
        self.record.lock().unwrap_or_else(PoisonError::into_inner).limits
    }

    /// Sets the limits of rotation.
    pub fn set_limits(&self, limits: Limits) -> Result<()> {
        limits.check()?;
        self.change(|record| (record.limits, record.problem) = (limits, None))
    }

    /// The retention period that counts, `lived` by the machine's running time.
    pub fn retention_now(&self, lived: u64) -> Retention {
        let record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        record.retention.at(lived, delay(&record.limits))
    }

    /// The retention period that would count if the network asked for this one, `lived` by the machine's running time.
    pub fn retention(&self, asked: Period, lived: u64, has_backups: bool) -> Retention {
        let record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        record.retention.asked(asked, lived, delay(&record.limits), has_backups)
    }

    /// The network asks for a retention period.
    pub fn ask_retention(&self, asked: Period, lived: u64, has_backups: bool) -> Result<Retention> {
        let new = self.retention(asked, lived, has_backups);
        if new != self.record.lock().unwrap_or_else(PoisonError::into_inner).retention {
            self.change(|record| record.retention = new)?;
        }
        Ok(new)
    }

    /// The console lets the shorter retention period of so many days count, or refuses the one that waits.
    ///
    /// # Errors
    /// None waits, or another one than the console has seen: the network may have changed it meanwhile.
    pub fn decide_retention(&self, confirm: Option<u32>) -> Result<()> {
        let old = self.record.lock().unwrap_or_else(PoisonError::into_inner).retention;
        if let (Some(days), Some(Period(Some(waits)))) =
            (confirm, old.pending().map(|pending| pending.period))
        {
            ensure!(days == waits, "a retention period of {waits} days waits, not of {days}; look again");
        }
        let new = if confirm.is_some() { old.confirmed() } else { old.refuse() };
        let new = new.context("no shorter retention period waits for the console")?;
        self.change(|record| record.retention = new)
    }

    /// How backups are served over FTP.
    pub fn ftp(&self) -> FtpSettings {
        self.record.lock().unwrap_or_else(PoisonError::into_inner).ftp
    }

    /// Sets how backups are served over FTP.
    pub fn set_ftp(&self, settings: FtpSettings) -> Result<()> {
        settings.check()?;
        self.change(|record| record.ftp = settings)
    }

    /// Who may come to the ports.
    pub fn access(&self) -> Access {
        self.record.lock().unwrap_or_else(PoisonError::into_inner).access.clone()
    }

    /// Sets who may come to the ports.
    pub fn set_access(&self, access: Access) -> Result<()> {
        self.change(|record| record.access = access)
    }

    /// The database that may take the place of the replica of `monitor`.
    pub fn accepted(&self, monitor: Uuid) -> Option<u64> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner).accepted.get(&monitor).copied()
    }

    /// Accepts a database in the place of the replica of `monitor`.
    pub fn accept(&self, monitor: Uuid, system_identifier: u64) -> Result<()> {
        self.change(|record| {
            record.accepted.insert(monitor, system_identifier);
        })
    }

    /// The accepted database has taken its place: the next one is to be accepted anew.
    pub fn done(&self, monitor: Uuid) -> Result<()> {
        if self.accepted(monitor).is_none() {
            return Ok(());
        }
        self.change(|record| {
            record.accepted.remove(&monitor);
        })
    }

    /// Decides whether `peer` may be followed, and keeps what is known of it then.
    ///
    /// # Errors
    /// [`pairing::Refused`]: it may not; any other error: it cannot be kept.
    pub fn admit(&self, peer: &Peer, asked: Asked) -> Result<()> {
        let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        let pin = pairing::judge(&record.peer, record.accepted_peer.as_ref(), peer, asked)?;
        let is_accepted = |accepted: &Accepted| {
            accepted.monitor == pin.id && accepted.key == pin.keys.fingerprint().to_string()
        };
        // What was accepted was accepted once.
        let is_used = asked == Asked::Pair && record.accepted_peer.as_ref().is_some_and(is_accepted);
        let known = Known::Paired(pin);
        if record.peer == known && !is_used {
            return Ok(());
        }
        let mut changed = Record { peer: known, ..record.clone() };
        if is_used {
            changed.accepted_peer = None;
        }
        self.document.save(&changed).context("cannot keep which monitor is paired")?;
        *record = changed;
        Ok(())
    }

    /// Remembers who was refused, for the console to see.
    pub fn remember_refused(&self, peer: &Peer) {
        let Ok(keys) = Keys::of_pem(&peer.certificate) else { return };
        let key = keys.fingerprint().to_string();
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let known = refused.iter().position(|other| (other.monitor, &other.key) == (peer.id, &key));
        let number = match known {
            Some(at) => refused.remove(at).number,
            None => self.numbered.fetch_add(1, Ordering::Relaxed) + 1,
        };
        refused.insert(0, RefusedPeer { number, monitor: peer.id, key, endpoint: peer.info().endpoint() });
        refused.truncate(REFUSED_MAX);
    }

    /// Who was refused, the last one first.
    pub fn refused(&self) -> Vec<RefusedPeer> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Lets a monitor pair in the place of the paired one, once.
    pub fn accept_peer(&self, accepted: Accepted) -> Result<()> {
        self.change(|record| record.accepted_peer = Some(accepted))
    }

    /// Lets the paired monitor go; gives its UUID.
    pub fn release_peer(&self) -> Result<Option<Uuid>> {
        let known = self.known();
        self.change(|record| (record.peer, record.accepted_peer) = (Known::Released, None))?;
        Ok(match known {
            Known::Paired(pin) => Some(pin.id),
            Known::Never | Known::Released => None,
        })
    }

    /// What is known of the paired monitor.
    pub fn known(&self) -> Known {
        self.record.lock().unwrap_or_else(PoisonError::into_inner).peer.clone()
    }

    fn change(&self, change: impl FnOnce(&mut Record)) -> Result<()> {
        let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        let mut changed = record.clone();
        change(&mut changed);
        self.document.save(&changed).context("cannot keep what was decided")?;
        *record = changed;
        Ok(())
    }
}

/// Seconds that a shorter retention period waits.
pub fn delay(limits: &Limits) -> u64 {
    u64::from(limits.retention_delay_hours) * 3600
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decisions_outlive_the_process_and_bad_ones_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let monitor = Uuid::from_u128(7);
        let decisions = Decisions::load(folder.path()).unwrap();
        assert_eq!((decisions.limits(), decisions.accepted(monitor)), (Limits::default(), None));
        let limits = Limits { low_space_percent: 20, ..Limits::default() };
        decisions.set_limits(limits).unwrap();
        decisions.accept(monitor, 42).unwrap();
        let error = decisions.set_limits(Limits { keep_verified: 0, ..limits }).unwrap_err().to_string();
        assert!(error.contains("keep_verified: 0 is out of range; allowed is 1 to 1000"), "{error}");
        let again = Decisions::load(folder.path()).unwrap();
        assert_eq!((again.limits(), again.accepted(monitor)), (limits, Some(42)));
        // Damage is said, and taken back by who sets the limits.
        std::fs::write(folder.path().join("decisions.json"), "{").unwrap();
        let damaged = Decisions::load(folder.path()).unwrap();
        assert_eq!(damaged.limits(), limits);
        assert!(damaged.problem().unwrap().contains("was damaged"));
        damaged.accept(monitor, 43).unwrap();
        let damaged = Decisions::load(folder.path()).unwrap();
        assert!(damaged.problem().is_some(), "it is forgotten");
        damaged.set_limits(limits).unwrap();
        assert_eq!(damaged.problem(), None);
        again.done(monitor).unwrap();
        assert_eq!(Decisions::load(folder.path()).unwrap().accepted(monitor), None);
    }

    #[test]
    fn a_shorter_retention_period_waits_also_over_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let (month, day) = (Period(Some(30)), Period(Some(1)));
        let decisions = Decisions::load(folder.path()).unwrap();
        assert!(decisions.decide_retention(Some(1)).is_err(), "nothing waits");
        decisions.ask_retention(month, 0, true).unwrap();
        assert_eq!(decisions.retention(day, 100, true).pending().map(|pending| pending.since), Some(100));
        assert_eq!(decisions.retention(month, 200, true).pending(), None, "a look changes nothing");
        decisions.ask_retention(day, 300, true).unwrap();
        let again = Decisions::load(folder.path()).unwrap();
        let retention = again.ask_retention(day, 1000, true).unwrap();
        assert_eq!(retention.in_force(), Some(month));
        assert_eq!(retention.pending().map(|pending| pending.since), Some(300));
        let late = again.retention(day, 300 + delay(&Limits::default()), true);
        assert_eq!(late.in_force(), Some(day));
        again.decide_retention(None).unwrap();
        assert_eq!(again.retention(day, u64::MAX, true).in_force(), Some(month), "it was refused");
        again.ask_retention(Period(Some(2)), 0, true).unwrap();
        let other = again.decide_retention(Some(20)).unwrap_err().to_string();
        assert!(other.contains("of 2 days waits"), "{other}");
        again.decide_retention(Some(2)).unwrap();
        assert_eq!(again.retention(Period(Some(2)), 0, true).in_force(), Some(Period(Some(2))));
    }
}
