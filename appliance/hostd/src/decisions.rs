//! What was decided at the console and counts until it is decided otherwise: the limits of rotation, how backups are served
//! over FTP, who may come to the ports, which monitor is paired, and which other database may take the place of a replica.
//! Root's alone (design D14), so kept here and not by the network process.

use anyhow::{Context, Result, ensure};
use api::{FtpSettings, Limits, Peer};
use auth::pin::Identity;
use backups::retention::{Period, Retention};
use files::Document;
use hostd::{Access, RefusedPeer};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;
use tokio::sync::watch;
use uuid::Uuid;

use crate::pairing::{self, Accepted, Asked, Facts, Known, Pin};

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
    /// The number that the next statement of the monitor may have.
    #[serde(default)]
    confirmed_number: Option<u64>,
    /// The retention period that counts, and what the network would like instead.
    #[serde(default)]
    retention: Retention,
    /// What was wrong with the file, until the limits are set anew.
    #[serde(default)]
    problem: Option<String>,
}

impl Record {
    fn judge(&self, peer: &Peer, asked: Asked, stored: &[Uuid]) -> Result<Pin, pairing::Refused> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let facts = Facts {
            known: &self.peer,
            accepted: self.accepted_peer.as_ref(),
            confirmed: self.confirmed_number,
            stored,
            now: u64::try_from(now.as_millis()).unwrap_or(u64::MAX),
        };
        pairing::judge(&facts, peer, asked)
    }
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
    /// Changes with what is known of the paired monitor.
    pairing: watch::Sender<()>,
}

/// So many refused monitors are remembered.
const REFUSED_MAX: usize = 32;

impl Decisions {
    /// Loads them from `folder`. What is damaged there and has no copy counts as never decided, but for which monitor is
    /// paired: that is lost, and no new one is admitted without the console.
    pub fn load(folder: &Path) -> Result<Self> {
        let document = Document::new(folder.join("decisions.json"), FORMAT, 0o600);
        let loaded = document.load()?;
        let lost = match loaded.problem {
            Some(_) => Known::Lost,
            None => Known::Never,
        };
        let decisions = Self {
            document,
            record: Mutex::new(loaded.value.unwrap_or(Record { peer: lost, ..Record::default() })),
            refused: Mutex::default(),
            numbered: AtomicU32::default(),
            pairing: watch::Sender::new(()),
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
        if let (Some(days), Some(Period(Some(waits)))) = (confirm, old.pending().map(|pending| pending.wish))
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

    /// Decides whether `peer` may be followed, and keeps what is known of it then; `stored` are the monitors of which this
    /// machine has something.
    ///
    /// # Errors
    /// [`pairing::Refused`]: it may not; any other error: it cannot be kept.
    pub fn admit(&self, peer: &Peer, asked: Asked, stored: &[Uuid]) -> Result<()> {
        let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        let pin = record.judge(peer, asked, stored)?;
        // What was accepted was accepted once.
        let mut changed = record.clone();
        if asked == Asked::Pair {
            changed.accepted_peer.take_if(|accepted| accepted.is_pinned(&pin));
            changed.confirmed_number.take_if(|number| *number == pin.number);
        }
        changed.peer = Known::Paired(pin);
        if *record == changed {
            return Ok(());
        }
        self.document.save(&changed).context("cannot keep which monitor is paired")?;
        *record = changed;
        drop(record);
        self.pairing.send_replace(());
        Ok(())
    }

    /// Whether [`Self::admit`] would take `peer`; nothing changes.
    ///
    /// # Errors
    /// [`pairing::Refused`]: it would not.
    pub fn try_peer(&self, peer: &Peer, asked: Asked, stored: &[Uuid]) -> Result<()> {
        let record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        record.judge(peer, asked, stored)?;
        Ok(())
    }

    /// Waits until `peer`, which is followed, may not be followed any more.
    pub async fn until_refused(&self, peer: &Peer) {
        let mut changes = self.pairing.subscribe();
        // The sender lives as long as this.
        while self.try_peer(peer, Asked::Follow, &[]).is_ok() && changes.changed().await.is_ok() {}
    }

    /// Remembers who was refused, for the console to see.
    pub fn remember_refused(&self, peer: &Peer) {
        let Ok(identity) = Identity::of(peer) else { return };
        let key = identity.fingerprint().to_string();
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

    /// Lets a monitor pair in the place of the paired one, once. The paired one itself is confirmed by that.
    pub fn accept_peer(&self, accepted: Accepted) -> Result<()> {
        self.change(|record| match &mut record.peer {
            Known::Paired(pin) if accepted.is_pinned(pin) => pin.is_derived = false,
            _ => record.accepted_peer = Some(accepted),
        })
    }

    /// Lets the next statement of the monitor have this number: neither the clock nor the one before speaks against it.
    pub fn confirm_number(&self, number: u64) -> Result<()> {
        self.change(|record| {
            record.confirmed_number = Some(number);
            if let Known::Paired(pin) = &mut record.peer {
                pin.number = number.saturating_sub(1);
            }
        })
    }

    /// Lets the paired monitor go; gives its UUID.
    pub fn release_peer(&self) -> Result<Option<Uuid>> {
        let known = self.known();
        self.change(|record| {
            (record.peer, record.accepted_peer, record.confirmed_number) = (Known::Released, None, None);
        })?;
        self.pairing.send_replace(());
        Ok(match known {
            Known::Paired(pin) => Some(pin.id),
            Known::Never | Known::Released | Known::Lost => None,
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
    use auth::testing::Monitor;
    use hostd::Pairing;
    use std::task::Poll;

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

    fn damaged(folder: &Path) -> Decisions {
        for name in ["decisions.json", "decisions.json.last"] {
            std::fs::write(folder.join(name), "{").unwrap();
        }
        Decisions::load(folder).unwrap()
    }

    #[test]
    fn a_damaged_record_admits_nobody_new_until_the_console_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let (monitor, thief) = (Monitor::new(1), Monitor::new(2));
        let (peer, foreign) = (monitor.says(5, |_| ()), thief.says(5, |_| ()));
        let stored = [peer.id];
        Decisions::load(folder.path()).unwrap().admit(&peer, Asked::Pair, &[]).unwrap();
        let decisions = damaged(folder.path());
        // Nor after the limits were set anew, which takes the problem back.
        decisions.set_limits(Limits::default()).unwrap();
        let decisions = Decisions::load(folder.path()).unwrap();
        for stored in [&stored[..], &[]] {
            assert_eq!(decisions.known().shown(stored), Pairing::Lost);
            assert!(decisions.admit(&foreign, Asked::Pair, stored).is_err());
            assert!(decisions.admit(&foreign, Asked::Follow, stored).is_err());
        }
        // What runs is followed on, and takes its place; the console confirms it.
        decisions.admit(&peer, Asked::Follow, &stored).unwrap();
        assert!(decisions.admit(&foreign, Asked::Pair, &stored).is_err());
        let is_derived = |decisions: &Decisions| match decisions.known() {
            Known::Paired(pin) => pin.is_derived,
            other => panic!("{other:?}"),
        };
        let decisions = Decisions::load(folder.path()).unwrap();
        assert!(is_derived(&decisions));
        decisions.accept_peer(Accepted { monitor: peer.id, key: monitor.fingerprint() }).unwrap();
        assert!(!is_derived(&Decisions::load(folder.path()).unwrap()));
        // Or it says that another one may come.
        let decisions = damaged(folder.path());
        decisions.accept_peer(Accepted { monitor: foreign.id, key: thief.fingerprint() }).unwrap();
        decisions.admit(&foreign, Asked::Pair, &stored).unwrap();
        assert!(!is_derived(&decisions));
    }

    #[test]
    fn a_trial_uses_nothing_up() {
        let folder = tempfile::tempdir().unwrap();
        let (monitor, other) = (Monitor::new(1), Monitor::new(1));
        let decisions = Decisions::load(folder.path()).unwrap();
        let peer = monitor.says(5, |_| ());
        decisions.try_peer(&peer, Asked::Pair, &[]).unwrap();
        assert_eq!(decisions.known(), Known::Never);
        decisions.admit(&peer, Asked::Pair, &[]).unwrap();
        let new = other.says(1, |_| ());
        decisions.accept_peer(Accepted { monitor: new.id, key: other.fingerprint() }).unwrap();
        for _ in 0..2 {
            decisions.try_peer(&new, Asked::Pair, &[]).unwrap();
        }
        decisions.admit(&new, Asked::Pair, &[]).unwrap();
        assert!(decisions.try_peer(&peer, Asked::Pair, &[]).is_err());
        decisions.admit(&new, Asked::Pair, &[]).unwrap();
    }

    #[test]
    fn the_console_sets_the_number_up_and_down() {
        let folder = tempfile::tempdir().unwrap();
        let monitor = Monitor::new(1);
        let far = u64::MAX / 2;
        let decisions = Decisions::load(folder.path()).unwrap();
        let pair = |number| decisions.admit(&monitor.says(number, |_| ()), Asked::Pair, &[]);
        assert!(pair(far).is_err());
        decisions.confirm_number(far).unwrap();
        pair(far).unwrap();
        assert!(pair(far + 1).is_err(), "it was confirmed once");
        // The monitor's clock is right again.
        assert!(pair(7).is_err());
        decisions.confirm_number(7).unwrap();
        pair(7).unwrap();
        pair(8).unwrap();
        assert!(pair(far).is_err());
    }

    #[tokio::test]
    async fn who_waits_for_a_refusal_is_told_of_a_release() {
        let folder = tempfile::tempdir().unwrap();
        let monitor = Monitor::new(1);
        let decisions = Decisions::load(folder.path()).unwrap();
        let peer = monitor.says(5, |_| ());
        decisions.admit(&peer, Asked::Pair, &[]).unwrap();
        let mut refused = std::pin::pin!(decisions.until_refused(&peer));
        let mut waits = async || {
            std::future::poll_fn(|context| Poll::Ready(refused.as_mut().poll(context).is_pending())).await
        };
        assert!(waits().await);
        decisions.admit(&monitor.says(6, |_| ()), Asked::Pair, &[]).unwrap();
        assert!(waits().await, "it is still the paired one");
        assert_eq!(decisions.release_peer().unwrap(), Some(peer.id));
        assert!(!waits().await);
    }
}
