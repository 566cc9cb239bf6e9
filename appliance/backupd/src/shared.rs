//! What the loop and the API share: the pairing, the state, and the way to make a backup.

use crate::standby::Standby;
use crate::status;
use crate::store::PeerStore;
use anyhow::{Context, Result};
use api::{Backup, BackupList, DamagedBackup, MonitorRef, Peer, Reason, Space, State, Status, Versions};
use backups::Entry;
use hostd::BackupRequest;
use jiff::Timestamp;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use tokio::sync::watch;

/// Why a request was refused.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The machine is not in a state for it.
    #[error("{0}")]
    Conflict(String),
    /// What it needs is not there now.
    #[error("{0}")]
    Unavailable(String),
    /// It went wrong here.
    #[error("{0:#}")]
    Failed(#[from] anyhow::Error),
}

/// Places that the daemon uses.
#[derive(Debug, Clone)]
pub struct Places {
    /// Data volume.
    pub data: PathBuf,
    /// File whose text says why the data volume is not mounted; absent when all is well.
    pub data_problem: PathBuf,
    /// The report of `slots prove`.
    pub slots_report: PathBuf,
}

/// Shared by the loop and the API.
#[derive(Debug)]
pub struct Shared {
    /// The privileged process.
    pub hostd: hostd::Client,
    places: Places,
    store: PeerStore,
    pairing: watch::Sender<Option<Peer>>,
    /// Held while a pairing is checked, saved and made known: two monitors at once must not both be told yes.
    pairing_lock: Mutex<()>,
    state: Mutex<(State, Timestamp)>,
    /// Held while a backup is made: one at a time.
    backup: tokio::sync::Mutex<()>,
}

impl Shared {
    /// Loads the pairing.
    pub fn load(hostd: hostd::Client, places: Places, store: PeerStore) -> Result<Self> {
        let peer = store.load()?;
        Ok(Self {
            hostd,
            places,
            store,
            pairing: watch::Sender::new(peer),
            pairing_lock: Mutex::new(()),
            state: Mutex::new((State::NotConnected, Timestamp::now())),
            backup: tokio::sync::Mutex::new(()),
        })
    }

    /// The pairing as it changes.
    pub fn pairing(&self) -> watch::Receiver<Option<Peer>> {
        self.pairing.subscribe()
    }

    /// The paired monitor.
    pub fn peer(&self) -> Option<Peer> {
        self.pairing.borrow().clone()
    }

    /// Pairs, or follows the paired monitor to another address or password.
    ///
    /// # Errors
    /// Another monitor is paired: releasing it needs the console (design D13, D14).
    pub fn pair(&self, peer: Peer) -> Result<(), Refusal> {
        let _one_at_a_time = self.pairing_lock.lock().unwrap_or_else(PoisonError::into_inner);
        if self.peer().as_ref() == Some(&peer) {
            return Ok(()); // said again: what runs, a full copy perhaps, goes on
        }
        if let Some(paired) = self.peer()
            && paired.id != peer.id
        {
            return Err(Refusal::Conflict(format!(
                "this server is paired with monitor {} at {}; release it at the server's console first",
                paired.id,
                paired.info().endpoint()
            )));
        }
        self.store.save(&peer)?;
        tracing::info!("paired with monitor {} at {}", peer.id, peer.info().endpoint());
        // An old state must not be read as the answer to the new pairing.
        self.publish(State::Connecting);
        self.pairing.send_replace(Some(peer));
        Ok(())
    }

    /// Makes `state` the one that is shown.
    pub fn publish(&self, state: State) {
        let mut shown = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let since = if shown.0.name() == state.name() { shown.1 } else { Timestamp::now() };
        if shown.0.name() != state.name() {
            tracing::info!("state {} → {}", shown.0.name(), state.name());
        }
        *shown = (state, since);
    }

    /// The answer of `GET /v1/status`; `is_default_password` from the password file.
    pub fn status(&self, is_default_password: Result<bool, String>) -> Status {
        let (state, since) = self.state.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let peer = self.peer().map(|peer| peer.info());
        let message = status::message(&state, peer.as_ref().map(|peer| peer.endpoint()).as_deref());
        let problem = self.volume_problem();
        let space = if problem.is_none() { self.space() } else { None };
        let checks = vec![
            status::replication_check(&state, &message),
            status::volume_check(problem),
            status::space_check(space),
            status::password_check(is_default_password),
            status::system_check(
                files::read(&self.places.slots_report).map_err(|error| format!("{error:#}")),
            ),
        ];
        let versions =
            Versions { server: env!("CARGO_PKG_VERSION").into(), postgresql: replica::POSTGRESQL_MAJOR };
        Status { state, since, message, peer, checks, space, versions }
    }

    /// Why the data volume cannot be used; `None` when it can.
    pub fn volume_problem(&self) -> Option<String> {
        let said = files::read(&self.places.data_problem).map_err(|error| format!("{error:#}"));
        let folders = ["replica", "backups"].map(|name| self.places.data.join(name).is_dir());
        status::volume_problem(said, folders == [true; 2])
    }

    /// Refuses what needs the data volume while that is not there: what lies below its mount point then says nothing.
    fn need_volume(&self) -> Result<(), Refusal> {
        self.volume_problem().map_or(Ok(()), |problem| Err(Refusal::Unavailable(problem)))
    }

    fn space(&self) -> Option<Space> {
        match nix::sys::statvfs::statvfs(&self.places.data) {
            Ok(volume) => Some(Space {
                total: volume.blocks() * volume.fragment_size(),
                free: volume.blocks_available() * volume.fragment_size(),
            }),
            Err(error) => {
                tracing::warn!("cannot ask for free space on {}: {error}", self.places.data.display());
                None
            }
        }
    }

    /// All backups of all monitors, newest first.
    ///
    /// # Errors
    /// The data volume is not mounted or cannot be read.
    pub fn backups(&self) -> Result<BackupList, Refusal> {
        self.need_volume()?;
        let mut list = BackupList::default();
        let root = self.places.data.join("backups");
        let cannot_list = || format!("cannot list the backups in {}", root.display());
        for monitor in backups::monitors(&root).with_context(cannot_list)? {
            for entry in backups::list(&root.join(monitor.to_string())).with_context(cannot_list)? {
                match entry {
                    Entry::Complete(backup) => list.backups.push(*backup),
                    Entry::Damaged { id, problem } => {
                        list.damaged.push(DamagedBackup { id: id.to_string(), problem });
                    }
                }
            }
        }
        list.backups.sort_by_key(|backup| std::cmp::Reverse(backup.created));
        Ok(list)
    }

    /// Makes a backup now.
    pub async fn create_backup(&self, comment: String) -> Result<Backup, Refusal> {
        let _one_at_a_time = self.backup.lock().await;
        self.need_volume()?;
        let peer = self
            .peer()
            .ok_or_else(|| Refusal::Conflict("no monitor is paired, there is nothing to back up".into()))?;
        let not_ready =
            |why: String| Refusal::Conflict(format!("the replica is not ready for a backup: {why}"));
        let info = self.hostd.replica(peer.id).await.map_err(|error| Refusal::Failed(error.into()))?;
        if !info.present || !info.running {
            let (state, _) = self.state.lock().unwrap_or_else(PoisonError::into_inner).clone();
            return Err(not_ready(status::message(&state, Some(&peer.info().endpoint()))));
        }
        // It accepts connections only when it is consistent.
        let standby = Standby::connect(&info.socket_dir, &peer.user, &peer.database)
            .await
            .map_err(|error| not_ready(error.to_string()))?;
        let facts = standby.facts().await?;
        let request = BackupRequest {
            monitor: MonitorRef { id: peer.id, version: peer.version },
            reason: Reason::OnDemand,
            comment,
            version: facts.version,
            flushed_lsn: facts.flushed.to_string(),
            timeline: facts.timeline,
            collations: facts.collations,
        };
        let backup =
            self.hostd.create_backup(request).await.map_err(|error| Refusal::Failed(error.into()))?;
        tracing::info!("backup {} made, snapshot in {:.1} ms", backup.id, backup.snapshot_ms);
        Ok(backup)
    }
}
