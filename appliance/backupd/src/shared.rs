//! What the loops and the API share: the pairing, the settings, the state, and the ways to make and change backups.

use crate::changes::Changes;
use crate::events::Events;
use crate::monitor::Shown;
use crate::paced::Paced;
use crate::quiet::Quiet;
use crate::room::Room;
use crate::standby::{NotReady, Standby};
use crate::{hardware_checks, pairing, rotation_checks, stand_in, status, verification_checks};
use anyhow::{Context, Result};
use api::{
    Attempt, Backup, BackupList, DamagedBackup, Deletion, Depth, EventKind, Frequency, Level, Limits,
    MonitorRef, Peer, Reason, RetentionState, RotationPlan, Settings, Space, State, Status, StuckReason,
    Verification, Versions,
};
use backups::{BackupId, Entry};
use files::Document;
use hostd::{BackupRequest, Change, CopyCheck, Disks};
use jiff::Timestamp;
use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, watch};
use uuid::Uuid;

/// Version of the form of what the daemon remembers.
const FORMAT: u32 = 1;
/// Verifications that are kept for whoever asked for them.
const ASKED_MAX: usize = 16;
/// Between two events about refused pairings.
const REFUSAL_PERIOD: Duration = Duration::from_secs(60);
/// Between two rotation plans for the network: while hostd makes one, it makes no room.
const PLAN_PERIOD: Duration = Duration::from_secs(1);

/// Why a request was refused.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// There is no such thing.
    #[error("{0}")]
    Missing(String),
    /// The network password does not suffice for it.
    #[error("{0}")]
    Forbidden(String),
    /// The machine is not in a state for it.
    #[error("{0}")]
    Conflict(String),
    /// It may be tried again after so many seconds.
    #[error("{0}")]
    TooMany(String, u64),
    /// What it needs is not there now.
    #[error("{0}")]
    Unavailable(String),
    /// It went wrong here.
    #[error("{0:#}")]
    Failed(#[from] anyhow::Error),
}

impl From<hostd::ClientError> for Refusal {
    fn from(error: hostd::ClientError) -> Self {
        match error {
            hostd::ClientError::NoAnswer { .. } => Self::Unavailable(error.to_string()),
            hostd::ClientError::Refused(hostd::Refused { error, retry_after: Some(seconds) }) => {
                Self::TooMany(error, seconds)
            }
            hostd::ClientError::Refused(refused) => Self::Conflict(refused.error),
            hostd::ClientError::Failed(_) => Self::Failed(error.into()),
        }
    }
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
    /// Where hostd hands out what the console has set of FTP.
    pub ftp_settings: PathBuf,
    /// File with the machine's time zone; absent: UTC.
    pub time_zone: PathBuf,
}

/// The settings of a machine for which nobody has made any: the clock of the schedule is that of the machine.
fn first_settings(places: &Places) -> Settings {
    let text = match std::fs::read_to_string(&places.time_zone) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Settings::default(),
        Err(error) => {
            tracing::warn!("the schedule keeps UTC: cannot read {}: {error}", places.time_zone.display());
            return Settings::default();
        }
    };
    let settings = Settings { time_zone: text.trim().to_owned(), ..Settings::default() };
    match settings.check() {
        Ok(()) => settings,
        Err(error) => {
            tracing::warn!("the schedule keeps UTC: {}: {error}", places.time_zone.display());
            Settings::default()
        }
    }
}

/// What came of making a backup.
#[derive(Debug)]
pub enum Made {
    /// It was made.
    Backup(Box<Backup>),
    /// Nothing has changed since the backup with this id, so another one that nobody asked for would only be the same again.
    Unchanged(String),
}

/// What the check of full copies found.
#[derive(Debug, Clone, Default)]
struct CopyDamage {
    /// Why the last one is not what the monitor sent.
    reason: Option<String>,
    /// How many in a row were not.
    times: u32,
}

/// What the last look at rotation gave.
#[derive(Debug, Clone, Default)]
struct Rotation {
    /// Why it failed, until it succeeds.
    failed: Option<String>,
    stuck: Option<StuckReason>,
    /// Whether the clock is trusted, and by how many seconds it was moved.
    clock: Option<(bool, u64)>,
    retention: Option<RetentionState>,
    limits: Limits,
    /// What was wrong with what the console has decided.
    problem: Option<String>,
}

/// Shared by the loops and the API.
#[derive(Debug)]
pub struct Shared {
    /// The privileged process.
    pub hostd: hostd::Client,
    /// What happened.
    pub events: Events,
    /// The settings have changed.
    pub settings_changed: Notify,
    /// Somebody wants a backup verified.
    pub verification_asked: Notify,
    /// A backup was made or deleted.
    pub backups_changed: Notify,
    /// The monitor that is paired was paired again, with nothing changed.
    pub pairing_said_again: Notify,
    places: Places,
    peer_document: Document<Peer>,
    settings_document: Document<Settings>,
    settings: Mutex<Settings>,
    schedule_document: Document<BTreeMap<Uuid, Timestamp>>,
    /// When the last scheduled backup was made, by monitor.
    scheduled: Mutex<BTreeMap<Uuid, Timestamp>>,
    /// What was damaged when it was read, as sentences without full stop.
    damage: Vec<String>,
    rotation: Mutex<Rotation>,
    /// What rotation would do, for the network.
    plans: Paced<RotationPlan>,
    /// What the network has changed for the worse.
    pub changes: Changes,
    /// What takes the room.
    pub room: Room,
    /// How the disks were at the last look.
    disks: Mutex<Option<Result<Disks, String>>>,
    /// Seconds until the monitor's slot would be lost without this server.
    headroom: Mutex<Option<u64>>,
    /// The certificate that the monitor has shown last.
    certificate: Mutex<Shown>,
    asked_document: Document<Vec<String>>,
    /// The backups that somebody wants to have verified, the first one first.
    asked: Mutex<Vec<String>>,
    /// The backup that is being verified.
    verifying: Mutex<Option<String>>,
    pairing: watch::Sender<Option<Peer>>,
    /// Held while a pairing is checked, saved and made known: two monitors at once must not both be told yes.
    pairing_lock: tokio::sync::Mutex<()>,
    /// What hostd knew of the paired monitor at the last look.
    known: Mutex<pairing::Known>,
    /// When it was told last that a pairing was refused.
    refusal_told: Mutex<Option<Instant>>,
    state: Mutex<(State, Timestamp)>,
    /// What the check of the last full copy found.
    copy_damage: Mutex<CopyDamage>,
    /// Why the last full copy came to nothing, until one comes or none is needed any more.
    copy_failure: Mutex<Option<String>>,
    /// What the last backup's manifest lacks of the databases' locales.
    collations_cut: Mutex<Option<String>>,
    /// Where the replica was seen to have nothing new.
    quiet: Quiet,
    /// Held while a backup is made: one at a time.
    backup: tokio::sync::Mutex<()>,
}

impl Shared {
    /// Loads the pairing and the settings from the daemon's folder. What is damaged there and has no copy counts as not
    /// set, and a check says so.
    ///
    /// # Errors
    /// A file cannot be read, or a newer version wrote it.
    pub fn load(hostd: hostd::Client, places: Places, folder: &Path) -> Result<Self> {
        let document = |name: &str| folder.join(name);
        // It holds the replication role's password: for the daemon alone.
        let peer_document = Document::new(document("peer.json"), FORMAT, 0o600);
        let settings_document = Document::new(document("settings.json"), FORMAT, 0o600);
        let (peer, settings) = (peer_document.load()?, settings_document.load()?);
        // What is lost of these costs one backup, and is asked for again: it is worth a line in the log.
        let schedule_document = Document::new(document("schedule.json"), FORMAT, 0o600);
        let asked_document = Document::new(document("asked.json"), FORMAT, 0o600);
        let (scheduled, asked) = (schedule_document.load()?, asked_document.load()?);
        for problem in [&scheduled.problem, &asked.problem].into_iter().flatten() {
            tracing::warn!("{problem}");
        }
        let (scheduled, asked) = (scheduled.value.unwrap_or_default(), asked.value.unwrap_or_default());
        let damage: Vec<_> = [peer.problem, settings.problem].into_iter().flatten().collect();
        let events = Events::load(folder);
        events.record(EventKind::Started, Level::Ok, "The backup server's daemon has started.", None);
        for problem in &damage {
            events.record(EventKind::Settings, Level::Fail, status::sentence(problem), None);
        }
        let shared = Self {
            plans: Paced::new(PLAN_PERIOD),
            changes: Changes::load(folder)?,
            hostd,
            events,
            settings_changed: Notify::new(),
            verification_asked: Notify::new(),
            backups_changed: Notify::new(),
            pairing_said_again: Notify::new(),
            settings: Mutex::new(settings.value.unwrap_or_else(|| first_settings(&places))),
            places,
            peer_document,
            settings_document,
            schedule_document,
            scheduled: Mutex::new(scheduled),
            damage,
            rotation: Mutex::default(),
            room: Room::load(folder),
            disks: Mutex::default(),
            headroom: Mutex::default(),
            certificate: Mutex::default(),
            asked_document,
            asked: Mutex::new(asked),
            verifying: Mutex::default(),
            pairing: watch::Sender::new(peer.value),
            pairing_lock: tokio::sync::Mutex::new(()),
            known: Mutex::default(),
            refusal_told: Mutex::default(),
            state: Mutex::new((State::NotConnected, Timestamp::now())),
            copy_damage: Mutex::default(),
            copy_failure: Mutex::default(),
            collations_cut: Mutex::default(),
            quiet: Quiet::load(folder),
            backup: tokio::sync::Mutex::new(()),
        };
        // A power cut may have come between the settings and what was noted of them.
        shared.note_frequency(shared.settings().frequency);
        Ok(shared)
    }

    /// Notes which frequency counts; a lower one is an event.
    fn note_frequency(&self, frequency: Frequency) {
        // Backups that cannot be looked at now may be there.
        let has_backups = self.backups().map_or(true, |list| !list.backups.is_empty());
        if let Some(message) = self.changes.asked(frequency, has_backups) {
            self.events.record(EventKind::Settings, Level::Warn, message, None);
        }
    }

    /// The settings.
    pub fn settings(&self) -> Settings {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes the settings, which were checked.
    pub fn set_settings(&self, settings: Settings) -> Result<(), Refusal> {
        let mut current = self.settings.lock().unwrap_or_else(PoisonError::into_inner);
        if *current != settings {
            self.settings_document.save(&settings)?;
            let frequency = settings.frequency;
            *current = settings;
            drop(current);
            self.events.record(EventKind::Settings, Level::Ok, "The settings were changed.", None);
            self.note_frequency(frequency);
            self.settings_changed.notify_one();
        }
        Ok(())
    }

    /// When the last scheduled backup of `monitor` was made.
    pub fn last_scheduled(&self, monitor: Uuid) -> Option<Timestamp> {
        self.scheduled.lock().unwrap_or_else(PoisonError::into_inner).get(&monitor).copied()
    }

    /// Remembers that a scheduled backup was made.
    pub fn remember_scheduled(&self, backup: &Backup) -> Result<(), Refusal> {
        let mut scheduled = self.scheduled.lock().unwrap_or_else(PoisonError::into_inner);
        scheduled.insert(backup.monitor.id, backup.created);
        Ok(self.schedule_document.save(&scheduled)?)
    }

    /// The pairing as it changes.
    pub fn pairing(&self) -> watch::Receiver<Option<Peer>> {
        self.pairing.subscribe()
    }

    /// The paired monitor.
    pub fn peer(&self) -> Option<Peer> {
        self.pairing.borrow().clone()
    }

    /// Pairs, as [`Self::pair_now`]. That a paired monitor would have been changed and was not is an event, at most once a
    /// minute: somebody may have stolen the password.
    ///
    /// # Errors
    /// As [`Self::pair_now`].
    pub async fn pair(&self, peer: Peer) -> Result<(), Refusal> {
        let paired = self.pair_now(peer).await;
        self.look_at_pairing().await;
        if let Err(Refusal::Conflict(why)) = &paired {
            let mut told = self.refusal_told.lock().unwrap_or_else(PoisonError::into_inner);
            if told.is_none_or(|told| told.elapsed() >= REFUSAL_PERIOD) {
                *told = Some(Instant::now());
                let message = format!("A pairing was refused: {why}.");
                self.events.record(EventKind::Paired, Level::Warn, message, None);
            }
        }
        paired
    }

    /// Pairs, or follows the paired monitor to another address or password.
    ///
    /// # Errors
    /// Another monitor is paired, or the paired one has another key: that needs the console (design D13, D14). The paired
    /// key does not answer at the other address, or has not signed the other configuration.
    async fn pair_now(&self, mut peer: Peer) -> Result<(), Refusal> {
        let _one_at_a_time = self.pairing_lock.lock().await;
        let paired = self.peer();
        if let Some(paired) = &paired {
            // Or another one could be the first that hostd knows, where it has lost or never had what it knew.
            match self.hostd.admit_peer(paired, false).await? {
                Ok(()) if *paired == peer => {
                    self.pairing_said_again.notify_one();
                    return Ok(());
                }
                Ok(()) => {}
                Err(refused) => tracing::warn!("the paired monitor is not followed any more: {refused}"),
            }
        }
        // A trial first: what is refused below must not use up what the console has accepted.
        self.hostd.try_peer(&peer).await?.map_err(Refusal::Conflict)?;
        if let Some(paired) = paired.as_ref().filter(|paired| pairing::is_same(paired, &peer)) {
            peer.signature = pairing::signature(paired, &peer).map_err(Refusal::Conflict)?;
            if !paired.is_reached_like(&peer) {
                pairing::answers(paired, &peer).await.map_err(Refusal::Conflict)?;
            }
        }
        self.hostd.admit_peer(&peer, true).await?.map_err(Refusal::Conflict)?;
        self.peer_document.save(&peer)?;
        if paired.is_some_and(|paired| paired.is_reached_like(&peer)) {
            // What runs, a full copy perhaps, goes on.
            let message =
                format!("Monitor {} has another version, signing key or other configuration files.", peer.id);
            self.events.record(EventKind::Paired, Level::Ok, message, None);
            self.pairing.send_if_modified(|paired| {
                *paired = Some(peer);
                false
            });
            return Ok(());
        }
        let message = format!("Paired with monitor {} at {}.", peer.id, peer.info().endpoint());
        self.events.record(EventKind::Paired, Level::Ok, message, None);
        // An old state must not be read as the answer to the new pairing.
        self.publish(State::Connecting);
        self.pairing.send_replace(Some(peer));
        Ok(())
    }

    /// Asks what hostd knows of the paired monitor. What needs attention, and is new, is an event.
    pub async fn look_at_pairing(&self) {
        let now = self.hostd.pairing().await.map_err(|error| error.to_string());
        let peer = self.peer();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if now.is_err() && matches!(*known, Some(Ok(_))) {
            return; // hostd is started anew, which changes no pairing
        }
        let before = pairing::check(&known, peer.as_ref());
        *known = Some(now);
        let check = pairing::check(&known, peer.as_ref());
        let is_known = matches!(*known, Some(Ok(_)));
        drop(known);
        if is_known && check.level > Level::Ok && check != before {
            self.events.record(EventKind::Paired, check.level, check.message, None);
        }
    }

    /// The console has let the paired monitor go.
    pub async fn released(&self, monitor: Uuid) -> Result<()> {
        let _one_at_a_time = self.pairing_lock.lock().await;
        if self.peer().is_none_or(|paired| paired.id != monitor) {
            return Ok(());
        }
        self.peer_document.remove()?;
        self.publish_copy_failure(None);
        let message = format!("Monitor {monitor} was released at the console and is followed no more.");
        self.events.record(EventKind::Paired, Level::Ok, message, None);
        self.pairing.send_replace(None);
        Ok(())
    }

    /// Makes `state` the one that is shown.
    pub fn publish(&self, state: State) {
        let mut shown = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if shown.0.name() == state.name() {
            shown.0 = state;
            return;
        }
        tracing::info!("state {} → {}", shown.0.name(), state.name());
        *shown = (state.clone(), Timestamp::now());
        drop(shown);
        let endpoint = self.peer().map(|peer| peer.info().endpoint());
        let message = status::message(&state, endpoint.as_deref());
        let level = status::event_level(&state);
        self.events.record(EventKind::State, level, message, None);
    }

    /// Makes known in how many seconds the monitor's slot would be lost without this server.
    pub fn publish_headroom(&self, seconds: Option<u64>) {
        *self.headroom.lock().unwrap_or_else(PoisonError::into_inner) = seconds;
    }

    /// Makes known which certificate the monitor has shown.
    pub fn publish_certificate(&self, shows: Shown) {
        *self.certificate.lock().unwrap_or_else(PoisonError::into_inner) = shows;
    }

    /// The answer of `GET /v1/status`; `is_default_password` from the password file.
    pub fn status(&self, is_default_password: Result<bool, String>) -> Status {
        let (state, since) = self.state.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let paired = self.peer();
        let peer = paired.as_ref().map(Peer::info);
        let message = status::message(&state, peer.as_ref().map(|peer| peer.endpoint()).as_deref());
        let problem = self.volume_problem();
        let space = if problem.is_none() { self.space() } else { None };
        let rotation = self.rotation.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let all = self.backups().map_err(|refusal| refusal.to_string());
        let own = all.as_ref().map_err(Clone::clone).map(|all| {
            let is_own = |backup: &&Backup| peer.as_ref().is_some_and(|peer| peer.id == backup.monitor.id);
            all.backups.iter().filter(is_own).cloned().collect::<Vec<_>>()
        });
        let settings = self.settings();
        let copy_damage = self.copy_damage.lock().unwrap_or_else(PoisonError::into_inner).reason.clone();
        let copy_failure = self.copy_failure.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let disks = self.disks.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let checks = vec![
            status::replication_check(&state, &message),
            pairing::check(&known, paired.as_ref()),
            status::copy_check(copy_damage.as_deref(), copy_failure.as_deref()),
            status::headroom_check(
                peer.is_some(),
                *self.headroom.lock().unwrap_or_else(PoisonError::into_inner),
            ),
            status::monitor_certificate_check(
                peer.is_some(),
                &self.certificate.lock().unwrap_or_else(PoisonError::into_inner),
                std::time::SystemTime::now(),
            ),
            rotation_checks::backup_check(
                &settings,
                peer.as_ref().map(|peer| self.quiet.of(peer.id)).as_ref(),
                &own,
                self.collations_cut.lock().unwrap_or_else(PoisonError::into_inner).as_deref(),
                Timestamp::now(),
            ),
            verification_checks::last_verification(peer.is_some(), &own, Timestamp::now()),
            verification_checks::backups_read(&all, peer.as_ref().map(|peer| peer.id), Timestamp::now()),
            status::volume_check(problem),
            rotation_checks::space_check(space, &rotation.limits, rotation.stuck, rotation.failed.as_deref()),
            rotation_checks::retention_check(rotation.retention.as_ref()),
            self.changes.check(),
            hardware_checks::size_check(size(space.as_ref()).as_ref()),
            hardware_checks::disks_check(disks.as_ref()),
            hardware_checks::scrub_check(disks.as_ref(), Timestamp::now()),
            rotation_checks::clock_check(rotation.clock),
            status::settings_check(self.damage.iter().chain(&rotation.problem)),
            status::password_check(is_default_password),
            status::ftp_check(
                api::FtpSettings::read(&self.places.ftp_settings).map_err(|error| error.to_string()),
            ),
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

    /// Room on the data volume, where it is known.
    pub fn space(&self) -> Option<Space> {
        match nix::sys::statvfs::statvfs(&self.places.data) {
            Ok(volume) => {
                let total = volume.blocks() * volume.fragment_size();
                let (usage, low_at) = self.room.outlook(total, &self.limits());
                Some(Space { total, free: volume.blocks_available() * volume.fragment_size(), usage, low_at })
            }
            Err(error) => {
                tracing::warn!("cannot ask for free space on {}: {error}", self.places.data.display());
                None
            }
        }
    }

    /// The folders of the monitors' backups.
    fn monitors(&self) -> Result<Vec<Uuid>, Refusal> {
        self.need_volume()?;
        let root = self.places.data.join("backups");
        let monitors = backups::monitors(&root);
        Ok(monitors.with_context(|| format!("cannot list the backups in {}", root.display()))?)
    }

    /// The folder of a monitor's backups.
    fn folder(&self, monitor: Uuid) -> PathBuf {
        self.places.data.join("backups").join(monitor.to_string())
    }

    /// The backups of one monitor, newest first, and those that are damaged.
    fn backups_of(&self, monitor: Uuid) -> Result<(Vec<Backup>, Vec<DamagedBackup>), Refusal> {
        self.need_volume()?;
        let folder = self.folder(monitor);
        let entries = backups::list(&folder).with_context(|| format!("cannot list {}", folder.display()))?;
        let (mut backups, mut damaged) = (Vec::with_capacity(entries.len()), Vec::new());
        for entry in entries {
            match entry {
                Entry::Complete(backup) => backups.push(*backup),
                Entry::Damaged { id, problem } => damaged.push(DamagedBackup { id: id.to_string(), problem }),
            }
        }
        backups.sort_by(|one, other| other.order().cmp(&one.order()));
        Ok((backups, damaged))
    }

    /// All backups: those of each monitor newest first, and the monitor with the newest one first.
    ///
    /// # Errors
    /// The data volume is not mounted or cannot be read.
    pub fn backups(&self) -> Result<BackupList, Refusal> {
        let (mut each, mut damaged) = (Vec::new(), Vec::new());
        for monitor in self.monitors()? {
            let (backups, more) = self.backups_of(monitor)?;
            each.push(backups);
            damaged.extend(more);
        }
        each.sort_by_key(|backups| std::cmp::Reverse(backups.first().map(|newest| newest.created)));
        let backups: Vec<Backup> = each.into_iter().flatten().collect();
        let ids: HashSet<&str> = backups.iter().map(|backup| backup.id.as_str()).collect();
        let exclusive = self.room.exclusive(|id| ids.contains(id));
        let verifying = self.verifying.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Ok(BackupList { backups, damaged, verifying, exclusive })
    }

    /// The backup with this id.
    ///
    /// # Errors
    /// There is none, or it is damaged.
    pub fn find(&self, id: &str) -> Result<Backup, Refusal> {
        let missing = || Refusal::Missing(format!("there is no backup {id}"));
        let parsed: BackupId = id.parse().map_err(|_| missing())?;
        let monitors = self.monitors()?;
        let found = monitors.into_iter().find_map(|monitor| backups::find(&self.folder(monitor), &parsed));
        match found.ok_or_else(missing)? {
            Entry::Complete(backup) => Ok(*backup),
            Entry::Damaged { problem, .. } => {
                Err(Refusal::Conflict(format!("backup {id} is damaged: {problem}")))
            }
        }
    }

    /// Whether there is a replica that a backup can be made of.
    pub fn follows(&self) -> bool {
        let shown = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        matches!(shown.0, State::Synchronized { .. } | State::Lagging { .. } | State::Disconnected { .. })
    }

    /// The console's limits of rotation, as they were at its last run.
    fn limits(&self) -> Limits {
        self.rotation.lock().unwrap_or_else(PoisonError::into_inner).limits
    }

    /// Whether rotation has to make room.
    pub fn space_is_low(&self) -> bool {
        let limits = self.limits();
        self.space().is_some_and(|Space { total, free, .. }| free < limits.low_space(total))
    }

    /// Makes a backup now.
    ///
    /// # Errors
    /// No monitor is paired, or its replica is not consistent; the data volume is not there; it went wrong.
    pub async fn create_backup(&self, reason: Reason, comment: String) -> Result<Made, Refusal> {
        let _one_at_a_time = self.backup.lock().await;
        self.need_volume()?;
        let peer = self
            .peer()
            .ok_or_else(|| Refusal::Conflict("no monitor is paired, there is nothing to back up".into()))?;
        let not_ready =
            |why: String| Refusal::Conflict(format!("the replica is not ready for a backup: {why}"));
        let info = self.hostd.replica(peer.id).await?;
        if !info.present || !info.running {
            let (state, _) = self.state.lock().unwrap_or_else(PoisonError::into_inner).clone();
            return Err(not_ready(status::message(&state, Some(&peer.info().endpoint()))));
        }
        if let Some(outside) = info.outside {
            self.copy_is_of_no_use(outside.clone());
            return Err(not_ready(outside));
        }
        // It accepts connections only when it is consistent.
        let standby = Standby::connect(&info.socket_dir, &peer.user, &peer.database)
            .await
            .map_err(|error| not_ready(error.to_string()))?;
        // One that was promoted has gone another way than the monitor.
        standby.replayed().await.map_err(|error| not_ready(error.to_string()))?;
        // A role that was set up by an older monitor-link may not: then a restore replays more.
        if let Err(error) = standby.restartpoint().await {
            tracing::warn!("no restartpoint before the backup: {error:#}");
        }
        let facts = standby.facts().await?;
        let flushed_lsn = facts.flushed.to_string();
        *self.collations_cut.lock().unwrap_or_else(PoisonError::into_inner) = facts.collations.cut();
        if let Some(last) = self.backups()?.backups.iter().find(|last| last.monitor.id == peer.id)
            && stand_in::stands_for(last, reason, &comment)
            && (&last.postgresql.flushed_lsn, last.postgresql.timeline) == (&flushed_lsn, facts.timeline)
        {
            return Ok(Made::Unchanged(last.id.clone()));
        }
        let seen_before = self.quiet.of(peer.id).still;
        let request = BackupRequest {
            monitor: MonitorRef { id: peer.id, version: peer.version },
            configuration: peer.configuration,
            signature: peer.signature,
            reason,
            comment,
            version: facts.version,
            flushed_lsn,
            timeline: facts.timeline,
            superuser: facts.superuser,
            collations: facts.collations.taken,
        };
        let backup = self.hostd.create_backup(request).await?;
        self.quiet.made(&backup, seen_before);
        let message =
            format!("Backup {} was made, the snapshot took {:.0} ms.", backup.id, backup.snapshot_ms);
        self.events.record(EventKind::Backup, Level::Ok, message, Some(&backup.id));
        self.verification_asked.notify_one();
        self.backups_changed.notify_one();
        Ok(Made::Backup(Box::new(backup)))
    }

    /// Looks whether the replica has anything new. Only while it has all of the monitor: one that is not reached has nothing
    /// new either.
    ///
    /// # Errors
    /// The replica cannot be asked.
    pub async fn look_for_changes(&self) -> Result<(), Refusal> {
        let has_all = || {
            let shown = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            matches!(shown.0, State::Synchronized { .. })
        };
        let Some(peer) = self.peer().filter(|_| has_all()) else { return Ok(()) };
        let info = self.hostd.replica(peer.id).await?;
        if !info.running {
            return Ok(());
        }
        let cannot = |error: NotReady| Refusal::Conflict(error.to_string());
        let standby = Standby::connect(&info.socket_dir, &peer.user, &peer.database).await.map_err(cannot)?;
        let position = standby.position().await.map_err(cannot)?;
        // It may have changed meanwhile.
        if has_all() {
            self.quiet.looked(peer.id, position, Timestamp::now());
        }
        Ok(())
    }

    /// Changes what is on record of a backup.
    pub async fn change_backup(&self, id: &str, change: Change) -> Result<Backup, Refusal> {
        let backup = self.find(id)?;
        let what = match &change {
            Change::Comment(comment) if comment == api::BEFORE_PAIRING => {
                let why = "comment: a restore would pass this backup over; use other words";
                return Err(Refusal::Forbidden(why.into()));
            }
            Change::Comment(_) => "Its comment was changed",
            Change::Pinned(true) => "It was pinned",
            Change::Pinned(false) => {
                return Err(Refusal::Forbidden(
                    "a backup is unpinned at the server's console: the network password must not suffice to destroy one"
                        .into(),
                ));
            }
        };
        let changed = self.hostd.change_backup(backup.monitor.id, id, change).await?;
        self.events.record(EventKind::Settings, Level::Ok, format!("Backup {id}: {what}."), Some(id));
        Ok(changed)
    }

    /// Has a backup verified when it is its turn; that is kept until it was tried, over restarts as well.
    ///
    /// # Errors
    /// There is no such backup; too many wait.
    pub fn ask_verification(&self, id: &str) -> Result<Backup, Refusal> {
        let backup = self.find(id)?;
        // Also while it is verified by itself: that may only start it, and who asks wants all of it read.
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        // One that is deleted waits for nothing any more.
        asked.retain(|id| self.find(id).is_ok());
        if !asked.contains(&backup.id) {
            if asked.len() >= ASKED_MAX {
                let why = format!("{ASKED_MAX} backups wait to be verified already; ask again later");
                return Err(Refusal::Conflict(why));
            }
            asked.push(backup.id.clone());
            if let Err(error) = self.asked_document.save(&asked) {
                asked.pop();
                return Err(error.into());
            }
        }
        drop(asked);
        self.verification_asked.notify_one();
        Ok(backup)
    }

    /// The backups that somebody wants to have verified.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A backup was tried: whoever asked for that sees what came of it.
    pub fn was_tried(&self, id: &str) {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if asked.iter().any(|asked| asked == id) {
            asked.retain(|asked| asked != id);
            if let Err(error) = self.asked_document.save(&asked) {
                tracing::error!("a verification that is done is done once more after a restart: {error:#}");
            }
        }
    }

    /// Why the last full copy is not what the monitor sent, if another one may mend that: the second in a row would only be
    /// followed by the third.
    pub fn copy_damage(&self) -> Option<String> {
        let damage = self.copy_damage.lock().unwrap_or_else(PoisonError::into_inner);
        damage.reason.clone().filter(|_| damage.times < 2)
    }

    /// The replica is not what a backup can be made of, by what is in it: another full copy may mend that. The monitor can
    /// bring it about again, so as with a damaged copy, the second in a row is only told.
    fn copy_is_of_no_use(&self, reason: String) {
        let mut damage = self.copy_damage.lock().unwrap_or_else(PoisonError::into_inner);
        if damage.reason.as_ref() != Some(&reason) {
            self.events.record(EventKind::FullCopy, Level::Fail, status::sentence(&reason), None);
            *damage = CopyDamage { reason: Some(reason), times: damage.times + 1 };
        }
    }

    /// Why the last full copy came to nothing; `None`: one came, or none is needed.
    pub fn publish_copy_failure(&self, why: Option<&str>) {
        *self.copy_failure.lock().unwrap_or_else(PoisonError::into_inner) = why.map(Into::into);
    }

    /// Another full copy came: what was known of the one before counts no more.
    pub fn copy_came(&self) {
        self.copy_damage.lock().unwrap_or_else(PoisonError::into_inner).reason = None;
        self.publish_copy_failure(None);
        self.verification_asked.notify_one();
    }

    /// Checks the last full copy, where that was not done yet; may take hours.
    pub async fn verify_copy(&self) -> Result<(), Refusal> {
        let Some(peer) = self.peer() else { return Ok(()) };
        if self.copy_damage.lock().unwrap_or_else(PoisonError::into_inner).reason.is_some() {
            return Ok(());
        }
        let replica = self.hostd.replica(peer.id).await?;
        if !replica.present || !replica.unverified {
            return Ok(());
        }
        let check = self.hostd.verify_copy(peer.id).await?;
        let mut damage = self.copy_damage.lock().unwrap_or_else(PoisonError::into_inner);
        let (level, message) = match check {
            CopyCheck::Nothing => return Ok(()),
            CopyCheck::Good => {
                *damage = CopyDamage::default();
                (Level::Ok, "Every file of the full copy is what the monitor sent.".into())
            }
            CopyCheck::Damaged { problem } => {
                let reason = format!("the full copy is damaged: {problem}");
                let message = status::sentence(&reason);
                *damage = CopyDamage { reason: Some(reason), times: damage.times + 1 };
                (Level::Fail, message)
            }
        };
        drop(damage);
        self.events.record(EventKind::FullCopy, level, message, None);
        Ok(())
    }

    /// Verifies a backup, which may take hours. Says whether that came to a result.
    pub async fn verify(&self, backup: &Backup, depth: Depth) -> Result<bool, Refusal> {
        let set = |verifying| *self.verifying.lock().unwrap_or_else(PoisonError::into_inner) = verifying;
        set(Some(backup.id.clone()));
        let verified = self.hostd.verify_backup(backup.monitor.id, &backup.id, depth).await;
        set(None);
        let verified = verified?;
        if self.tell_trouble(&verified) {
            return Ok(false);
        }
        let (level, message) = match &verified.verification {
            Verification::Verified(proof) => (Level::Ok, verification_checks::verified(&backup.id, proof)),
            Verification::Failed { reason, .. } => {
                (Level::Fail, format!("Backup {} cannot be restored: {reason}.", backup.id))
            }
            Verification::Pending | Verification::Superseded => return Ok(true),
        };
        self.events.record(EventKind::Verification, level, message, Some(&backup.id));
        Ok(true)
    }

    /// Reads a backup from end to end, which may take hours. Says whether that came to a result.
    pub async fn read_backup(&self, backup: &Backup) -> Result<bool, Refusal> {
        let read = self.hostd.read_backup(backup.monitor.id, &backup.id).await?;
        if self.tell_trouble(&read) {
            return Ok(false);
        }
        if let Verification::Failed { reason, .. } = &read.verification
            && read.verification != backup.verification
        {
            let message = format!("Backup {} cannot be restored: {reason}.", backup.id);
            self.events.record(EventKind::Verification, Level::Fail, message, Some(&backup.id));
        }
        Ok(true)
    }

    /// Tells trouble with a backup when it is new; the checks tell how it goes on. Says whether there is any.
    fn tell_trouble(&self, backup: &Backup) -> bool {
        let Some(trouble) = &backup.trouble else { return false };
        if trouble.times == 1 {
            let what = match trouble.attempt {
                Attempt::Verify => "verified",
                Attempt::Read => "read",
            };
            let (id, reason) = (&backup.id, &trouble.reason);
            let message =
                format!("Backup {id} could not be {what} now, because {reason}. It is tried again.");
            self.events.record(EventKind::Verification, Level::Warn, message, Some(id));
        }
        true
    }

    /// Looks at the disks. Something that is worse than before is an event.
    pub async fn look_at_disks(&self) {
        let disks = self.hostd.disks().await.map_err(|error| error.to_string());
        let check = hardware_checks::disks_check(Some(&disks));
        let before = {
            let mut known = self.disks.lock().unwrap_or_else(PoisonError::into_inner);
            hardware_checks::disks_check(known.replace(disks).as_ref())
        };
        if check.level != before.level {
            self.events.record(EventKind::Disks, check.level, check.message, None);
        }
    }

    /// Deletes what is too old or has to make room.
    pub async fn rotate(&self) -> Result<(), Refusal> {
        let rotated = self.rotate_now().await;
        if let Err(error) = &rotated {
            let mut rotation = self.rotation.lock().unwrap_or_else(PoisonError::into_inner);
            rotation.failed = Some(error.to_string());
        }
        rotated
    }

    async fn rotate_now(&self) -> Result<(), Refusal> {
        let retention = self.settings().retention_days;
        let (deleted, _) = self.hostd.rotate(retention).await?;
        for deletion in &deleted {
            self.record_deletion(deletion);
        }
        let plan = self.rotation_plan().await?;
        let (_, problem) = self.hostd.limits().await?;
        let mut rotation = self.rotation.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(reason) = plan.stuck_reason
            && rotation.stuck != plan.stuck_reason
        {
            self.events.record(EventKind::Rotation, Level::Fail, rotation_checks::stuck_event(reason), None);
        }
        if let Some(message) = rotation_checks::retention_event(rotation.retention.as_ref(), &plan.retention)
        {
            self.events.record(EventKind::Settings, Level::Warn, message, None);
        }
        *rotation = Rotation {
            failed: None,
            stuck: plan.stuck_reason,
            clock: Some((plan.clock_is_trusted, plan.clock_offset_seconds)),
            retention: Some(plan.retention),
            limits: plan.limits,
            problem,
        };
        Ok(())
    }

    /// Whether rotation waits for a word of the console, which is to be seen soon after it is given.
    pub fn waits_for_console(&self) -> bool {
        let rotation = self.rotation.lock().unwrap_or_else(PoisonError::into_inner);
        rotation.clock.is_some_and(|(is_trusted, _)| !is_trusted)
            || rotation.retention.is_some_and(|retention| retention.pending.is_some() || retention.refused)
    }

    /// Records that a backup was deleted, and why.
    pub fn record_deletion(&self, Deletion { id, why, .. }: &Deletion) {
        let why = match why {
            api::DeletionReason::Age => "it was older than the retention period",
            api::DeletionReason::Space => "space was low and it was the next that may go",
            api::DeletionReason::OnDemand => "somebody asked for it",
        };
        let message = format!("Backup {id} was deleted: {why}.");
        self.events.record(EventKind::Rotation, Level::Ok, message, Some(id));
        self.backups_changed.notify_one();
    }

    /// What rotation would do, for the network: at most once in [`PLAN_PERIOD`].
    pub async fn paced_plan(&self) -> Result<RotationPlan, Refusal> {
        self.plans.get(async || self.rotation_plan().await).await
    }

    /// What rotation would do.
    pub async fn rotation_plan(&self) -> Result<RotationPlan, Refusal> {
        self.need_volume()?;
        let retention = self.settings().retention_days;
        Ok(self.hostd.rotation_plan(retention).await?)
    }
}
/// How large the machine is, as far as the kernel tells.
fn size(space: Option<&Space>) -> Option<storage::sizing::Machine> {
    let meminfo = std::fs::read_to_string("/proc/meminfo").ok()?;
    Some(storage::sizing::Machine {
        cores: u32::try_from(std::thread::available_parallelism().ok()?.get()).unwrap_or(u32::MAX),
        memory_bytes: storage::sizing::memory_bytes(&meminfo)?,
        usable_bytes: space?.total,
    })
}
