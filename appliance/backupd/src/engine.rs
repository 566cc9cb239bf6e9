//! The daemon's one loop: observe, name the state, carry out the next step.
//!
//! What the observations mean and what follows from them is decided by pure functions of the `replica` crate; here are
//! the observing and the doing. There is one loop and no second task that changes the replica, so nothing can race.

use crate::monitor::{Answer, Monitor, Trouble};
use crate::shared::{Refusal, Shared};
use crate::standby::{NotReady, Standby};
use crate::status;
use api::{EventKind, Level, Peer, Reason, State};
use hostd::News;
use jiff::Timestamp;
use replica::{
    Backoff, LagClock, Lsn, MonitorView, Observations, Pause, ReplicaView, Steady, Step, WalRate, Working,
    believe, broken_stream, has_what_the_monitor_lost, is_full, looks_empty, next_step, refused_stream,
    seconds_until_lost, set_back, state,
};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Time between two rounds of observing.
const ROUND: Duration = Duration::from_secs(1);
/// Starts of the replica that may fail before the state says so: the first may meet a server that is still stopping.
const STARTS_UNTIL_FAILED: u32 = 3;
/// Restarts of a replica that has paused, without one that helped, until it is left alone.
const RESTARTS_UNTIL_LASTING: u32 = 3;
/// What waits after it failed is taken up again at most so often by somebody who asks for it.
const TRY_AGAIN: Duration = Duration::from_secs(10);
/// For so long a full copy waits for a backup that the replica refuses.
const WAIT_FOR_BACKUP: Duration = Duration::from_secs(3600);
/// Longest wait until a full copy that failed is tried again.
const COPY_BACKOFF: Duration = Duration::from_secs(1800);
/// Time for measuring databases of many files on slow disks.
const MEASURE_TIMEOUT: Duration = Duration::from_secs(300);
/// Rounds in which what SQL says contradicts what the processes say until it is told: the first may be a monitor that has just
/// been set back.
const CONTRADICTIONS_UNTIL_TOLD: u32 = 5;
/// Lines of the replica's log that go into the reason.
const REASON_LINES: usize = 2;

/// Runs for ever: follows whoever is paired.
pub async fn run(shared: Arc<Shared>) {
    let mut pairing = shared.pairing();
    loop {
        let peer = pairing.borrow_and_update().clone();
        let changed = if let Some(peer) = peer {
            shared.publish(State::Connecting);
            // A pairing of an earlier version is known to hostd from here on, and not only when a replica is started.
            match shared.hostd.admit_peer(&peer, false).await {
                Ok(Ok(())) => {}
                Ok(Err(refused)) => {
                    tracing::error!("the privileged process does not follow the paired monitor: {refused}")
                }
                Err(error) => tracing::warn!("{error}"),
            }
            shared.publish_copy_failure(None);
            let mut follower = Follower::new(&shared, &peer);
            tokio::select! {
                never = follower.follow() => match never {},
                changed = pairing.changed() => changed,
            }
        } else {
            shared.publish(State::NotConnected);
            pairing.changed().await
        };
        if changed.is_err() {
            return;
        }
    }
}

/// Follows one peer until it is dropped.
struct Follower<'a> {
    shared: &'a Shared,
    peer: &'a Peer,
    monitor: Option<Monitor>,
    monitor_backoff: Backoff,
    ask_again: Instant,
    standby: Option<Standby>,
    /// Whether hostd was told whom to follow: a server that runs already may follow an older pairing.
    introduced: bool,
    step_backoff: Backoff,
    step_again: Instant,
    starts: u32,
    /// Since when the replica's server gives no answer.
    hung_since: Option<Instant>,
    /// When another full copy may be tried: each costs the monitor a checkpoint and many reads.
    copy_again: Instant,
    copy_backoff: Backoff,
    /// Between tries that end before the copy begins, and cost little.
    ask_backoff: Backoff,
    /// There is a backup of the replica that is to be replaced.
    backed_up: bool,
    /// It was told that the copy waits for room. Each time the figures are others.
    waits_for_room: bool,
    /// Since when the replica has refused that backup.
    refused_since: Option<Instant>,
    /// It was told that there is none.
    is_told: bool,
    /// Restarts since replay moved last.
    restarts: u32,
    /// When it was taken up again last because somebody asked for it.
    tried_again: Option<Instant>,
    lag: LagClock,
    steady: Steady,
    /// What the replica's processes said in this round, and for how many rounds that contradicts what SQL says.
    working: Working,
    contradictions: u32,
    wal_rate: WalRate,
    /// When the monitor's slot is lost if this server stays away.
    slot_lost_at: Option<Instant>,
    /// `Database system identifier` of the replica.
    replica_of: Option<u64>,
    began: Instant,
    seen: Observations,
}

impl<'a> Follower<'a> {
    fn new(shared: &'a Shared, peer: &'a Peer) -> Self {
        let now = Instant::now();
        let seen = Observations {
            paired: true,
            volume_problem: None,
            is_full: false,
            monitor: MonitorView::NotAsked,
            replica: ReplicaView::Absent,
            lag_seconds: 0.0,
            broken_stream: None,
            refused_stream: None,
            copy_failure: None,
            copy_damage: None,
        };
        Self {
            shared,
            peer,
            monitor: None,
            monitor_backoff: Backoff::new(),
            ask_again: now,
            standby: None,
            introduced: false,
            step_backoff: Backoff::new(),
            step_again: now,
            starts: 0,
            hung_since: None,
            copy_again: now,
            copy_backoff: Backoff::up_to(COPY_BACKOFF),
            ask_backoff: Backoff::new(),
            backed_up: false,
            waits_for_room: false,
            refused_since: None,
            is_told: false,
            restarts: 0,
            tried_again: None,
            lag: LagClock::default(),
            steady: Steady::default(),
            working: Working::default(),
            contradictions: 0,
            wal_rate: WalRate::default(),
            slot_lost_at: None,
            replica_of: None,
            began: now,
            seen,
        }
    }

    async fn follow(&mut self) -> std::convert::Infallible {
        loop {
            self.observe_replica().await;
            if Instant::now() >= self.ask_again {
                self.observe_monitor().await;
            }
            self.judge_what_was_said();
            self.measure_lag();
            self.look_at_stream().await;
            let now = state(&self.seen);
            if matches!(now, State::Synchronized { .. }) && self.seen.needs_copy().is_none() {
                // Whatever was tried is over; the next time begins anew, with a backup.
                (self.backed_up, self.is_told, self.refused_since) = (false, false, None);
                (self.seen.copy_failure, self.waits_for_room) = (None, false);
                self.shared.publish_copy_failure(None);
                self.copy_backoff.succeeded();
                self.ask_backoff.succeeded();
            }
            self.shared.publish(self.steady.show(self.began.elapsed(), now));
            if Instant::now() >= self.step_again {
                match next_step(&self.seen) {
                    Step::Wait => {}
                    Step::FullCopy | Step::Resync if Instant::now() < self.copy_again => {}
                    Step::FullCopy => {
                        if self.would_begin().await {
                            self.full_copy(None).await;
                        }
                    }
                    Step::Start => self.start().await,
                    Step::Restart => {
                        self.restarts = self.restarts.saturating_add(1);
                        self.stop("the replica stands still; it is started anew").await;
                    }
                    Step::Stop => self.stop("the data volume is full; the replica is stopped").await,
                    Step::Resync => self.resync().await,
                }
            }
            tokio::select! {
                () = tokio::time::sleep(ROUND) => {}
                // Whoever pairs again wants to see at once whether it works now.
                () = self.shared.pairing_said_again.notified() => self.try_again_now(),
            }
        }
    }

    /// Takes up again what waits after it failed. Full copies keep their pace: each costs the monitor much.
    fn try_again_now(&mut self) {
        let now = Instant::now();
        if self.tried_again.is_some_and(|last| now.duration_since(last) < TRY_AGAIN) {
            return;
        }
        self.tried_again = Some(now);
        (self.ask_again, self.step_again) = (now, now);
        self.monitor_backoff.succeeded();
        self.step_backoff.succeeded();
    }

    async fn observe_monitor(&mut self) {
        let answer = match self.monitor.take().filter(|monitor| !monitor.is_worn()) {
            Some(monitor) => monitor.ask().await.map(|answer| (monitor, answer)),
            None => match Monitor::connect(self.peer).await {
                Ok(monitor) => monitor.ask().await.map(|answer| (monitor, answer)),
                Err(trouble) => Err(trouble),
            },
        };
        self.seen.monitor = match answer {
            Ok((monitor, answer)) => {
                self.monitor_backoff.succeeded();
                let view = self.answer_view(&monitor, answer).await;
                self.monitor = Some(monitor);
                view
            }
            Err(trouble) => {
                self.ask_again = Instant::now() + self.monitor_backoff.failed();
                self.trouble_view(trouble)
            }
        };
    }

    async fn answer_view(&mut self, monitor: &Monitor, mut answer: Answer) -> MonitorView {
        let (ours, theirs) = (self.replica_of, monitor.system_identifier);
        if let Some(ours) = ours.filter(|ours| *ours != theirs) {
            let other = format!(
                "the monitor at {} has another database (system identifier {theirs}) than the replica here ({ours})",
                self.peer.info().endpoint()
            );
            if !self.is_accepted(theirs).await {
                let reason = format!("{other}, which is kept; {}", self.way_to_accept(theirs));
                return MonitorView::OtherDatabase { reason };
            }
            // What was kept for the old one is of no use to it.
            answer.slot_lost =
                Some(format!("{other}, and it was accepted at the console; a full copy is needed"));
        }
        let rate = self.wal_rate.observe(self.began.elapsed(), answer.position);
        let left = seconds_until_lost(answer.safe_wal, rate);
        // Years from now cannot be told from never.
        self.slot_lost_at = left.and_then(|left| Instant::now().checked_add(Duration::from_secs(left)));
        self.shared.publish_headroom(left);
        self.shared.publish_certificate(monitor.shows.clone());
        MonitorView::Answers {
            position: answer.position,
            slot_active: answer.slot_active,
            slot_lost: answer.slot_lost,
        }
    }

    /// Whether somebody at the console has said that this database may take the replica's place.
    async fn is_accepted(&self, system_identifier: u64) -> bool {
        match self.shared.hostd.accepted_database(self.peer.id).await {
            Ok(accepted) => accepted == Some(system_identifier),
            Err(error) => {
                tracing::warn!("cannot ask what was accepted at the console: {error}");
                false
            }
        }
    }

    fn way_to_accept(&self, system_identifier: u64) -> String {
        format!(
            "if that is meant to be, accept it at the server's console: `{} order accept-database --monitor {} \
             --system-identifier {system_identifier}`",
            hostd::PROGRAM,
            self.peer.id
        )
    }

    /// Why a database that is nearly empty must not take the place of the replica unasked (design D13): the monitor may
    /// have been installed anew. What cannot be measured counts as empty: the replica is kept.
    async fn looks_empty(&self) -> Option<String> {
        let monitor = self.monitor.as_ref()?;
        let identifier = monitor.system_identifier;
        if self.is_accepted(identifier).await {
            return None;
        }
        let measured = tokio::time::timeout(MEASURE_TIMEOUT, self.measure_databases(monitor)).await;
        let (theirs, ours) = match measured {
            Ok(Ok(sizes)) => sizes,
            Ok(Err(error)) => {
                return Some(format!("it cannot be told whether the monitor is empty: {error:#}"));
            }
            Err(_) => return Some("it cannot be told in time whether the monitor is empty".into()),
        };
        if !looks_empty(theirs, ours) {
            return None;
        }
        Some(format!(
            "the monitor's databases have {} MB and the replica's {} MB, which is kept; {}",
            theirs / 1_000_000,
            ours / 1_000_000,
            self.way_to_accept(identifier)
        ))
    }

    /// Bytes of the monitor's databases and of the replica's. A replica that cannot be asked is measured by its files.
    async fn measure_databases(&self, monitor: &Monitor) -> anyhow::Result<(u64, u64)> {
        let theirs = monitor.database_bytes().await?;
        let ours = match &self.standby {
            Some(standby) => standby.database_bytes().await?,
            None => self.shared.hostd.replica_bytes(self.peer.id).await?,
        };
        Ok((theirs, ours))
    }

    fn trouble_view(&self, trouble: Trouble) -> MonitorView {
        match trouble {
            Trouble::Unreachable(reason) => {
                let since = match &self.seen.monitor {
                    MonitorView::Unreachable { since, .. } => *since,
                    _ => Timestamp::now(),
                };
                let left = self.slot_lost_at.map(|at| at.saturating_duration_since(Instant::now()).as_secs());
                MonitorView::Unreachable { since, reason, slot_seconds_left: left }
            }
            Trouble::Refuses(reason) => MonitorView::Refuses { reason },
            Trouble::OtherMajor(reason) => MonitorView::OtherMajor { reason },
        }
    }

    async fn observe_replica(&mut self) {
        self.seen.copy_damage = self.shared.copy_damage();
        self.seen.volume_problem = self.shared.volume_problem();
        if self.seen.volume_problem.is_none() {
            self.seen.replica = self.replica_view().await;
            self.working = match &self.seen.replica {
                ReplicaView::Running { .. } => {
                    // Without them what SQL says is believed as it is, in this round.
                    let working = self.shared.hostd.working(self.peer.id).await;
                    working
                        .inspect_err(|error| tracing::warn!("the replica's processes are not seen: {error}"))
                        .unwrap_or_default()
                }
                _ => Working::default(),
            };
            if let Some(space) = self.shared.space() {
                self.seen.is_full = is_full(self.seen.is_full, space.free);
            }
        }
    }

    async fn replica_view(&mut self) -> ReplicaView {
        if let Some(standby) = self.standby.take().filter(|standby| !standby.is_worn())
            && let Ok(answer) = standby.replayed().await
        {
            self.standby = Some(standby);
            return self.running(answer);
        }
        let down = |error: hostd::ClientError| ReplicaView::Down { reason: Some(error.to_string()) };
        let info = match self.shared.hostd.replica(self.peer.id).await {
            Ok(info) => info,
            Err(error) => return down(error),
        };
        if info.is_released
            && let Err(error) = self.shared.released(self.peer.id).await
        {
            tracing::error!("the released monitor stays paired: {error:#}");
        }
        self.replica_of = info.control.map(|control| control.system_identifier);
        if !info.present {
            return ReplicaView::Absent;
        }
        if !info.running {
            let failed = self.starts >= STARTS_UNTIL_FAILED;
            let reason = failed.then(|| {
                format!(
                    "the replica does not start: {}; if that lasts, `{} order discard-replica --monitor {}` at the console has \
                     it copied again",
                    why_it_ended(&info.log),
                    hostd::PROGRAM,
                    self.peer.id
                )
            });
            return ReplicaView::Down { reason };
        }
        if !self.introduced {
            if let Err(error) = self.shared.hostd.start_replica(self.peer).await {
                return down(error);
            }
            self.introduced = true;
        }
        let answer = self.ask_standby(&info.socket_dir).await;
        if answer != Err(NotReady::Hung) {
            self.hung_since = None;
        }
        match answer {
            Ok(answer) => self.running(answer),
            Err(NotReady::Starting(_)) => ReplicaView::Silent { reason: None },
            Err(NotReady::Hung) => {
                let since = *self.hung_since.get_or_insert_with(Instant::now);
                ReplicaView::Hung { silence: since.elapsed() }
            }
            Err(NotReady::Promoted) => ReplicaView::Promoted,
            Err(refuses @ NotReady::Refuses(_)) => {
                ReplicaView::Silent { reason: Some(format!("the replica runs, but {refuses}")) }
            }
        }
    }

    fn running(&mut self, (replayed, paused): (Lsn, bool)) -> ReplicaView {
        self.starts = 0;
        self.hung_since = None;
        if !paused {
            self.restarts = 0;
            self.step_backoff.succeeded();
        }
        let pause = if self.restarts < RESTARTS_UNTIL_LASTING { Pause::Mendable } else { Pause::Lasting };
        ReplicaView::Running { replayed, paused: paused.then_some(pause) }
    }

    async fn ask_standby(&mut self, socket_dir: &str) -> Result<(Lsn, bool), NotReady> {
        let standby = Standby::connect(socket_dir, &self.peer.user, &self.peer.database).await?;
        let answer = standby.replayed().await?;
        self.standby = Some(standby);
        Ok(answer)
    }

    /// Puts what counts in the place of what SQL has said (see [`replica::believe`]). What the monitor's owner makes its
    /// functions say is no reason to stop anything: it is told, and does not count.
    fn judge_what_was_said(&mut self) {
        let (MonitorView::Answers { position, .. }, ReplicaView::Running { replayed, .. }) =
            (&mut self.seen.monitor, &mut self.seen.replica)
        else {
            return;
        };
        let believed = believe(*replayed, *position, &self.working);
        (*replayed, *position) = (believed.replayed, believed.position);
        match believed.contradiction {
            None => self.contradictions = 0,
            Some(contradiction) => {
                self.contradictions = self.contradictions.saturating_add(1);
                if self.contradictions == CONTRADICTIONS_UNTIL_TOLD {
                    let message = status::sentence(&contradiction);
                    self.shared.events.record(EventKind::State, Level::Fail, message, None);
                }
            }
        }
    }

    /// Where nobody streams although both sides are there, or the replica does not start, its log says whether that can
    /// pass.
    async fn look_at_stream(&mut self) {
        self.seen.refused_stream = None;
        self.seen.broken_stream = match (&self.seen.monitor, &self.seen.replica) {
            // The replica was asked before the monitor, so an honest monitor is never behind.
            (MonitorView::Answers { position, slot_active, .. }, ReplicaView::Running { replayed, .. }) => {
                match set_back(*replayed, *position).filter(|_| self.contradictions == 0) {
                    None if *slot_active => None,
                    None => {
                        let log = self.replica_log().await;
                        self.seen.refused_stream = refused_stream(&log);
                        broken_stream(&log)
                    }
                    back => back,
                }
            }
            (MonitorView::Answers { .. }, ReplicaView::Down { reason: Some(_) }) => {
                broken_stream(&self.replica_log().await)
            }
            _ => None,
        };
    }

    /// The end of the replica's log. If that cannot be asked for now, then in the next round.
    async fn replica_log(&self) -> Vec<String> {
        self.shared.hostd.replica(self.peer.id).await.map(|info| info.log).unwrap_or_default()
    }

    fn measure_lag(&mut self) {
        if let (MonitorView::Answers { position, .. }, ReplicaView::Running { replayed, .. }) =
            (&self.seen.monitor, &self.seen.replica)
        {
            self.seen.lag_seconds = self.lag.observe(self.began.elapsed(), *position, *replayed);
        }
    }

    async fn start(&mut self) {
        self.starts = self.starts.saturating_add(1);
        self.step_again = Instant::now() + self.step_backoff.failed();
        match self.shared.hostd.start_replica(self.peer).await {
            Ok(()) => self.introduced = true,
            Err(error) => {
                tracing::error!("cannot start the replica: {error}");
                self.seen.replica = ReplicaView::Down { reason: Some(error.to_string()) };
                self.shared.publish(state(&self.seen));
            }
        }
    }

    /// Stops the replica; the next round finds it down, and starts it if it may run.
    async fn stop(&mut self, why: &str) {
        tracing::info!("{why}");
        self.step_again = Instant::now() + self.step_backoff.failed();
        (self.standby, self.hung_since) = (None, None);
        if let Err(error) = self.shared.hostd.stop_replica(self.peer.id).await {
            tracing::error!("cannot stop the replica: {error}");
        }
    }

    /// Makes another full copy in the place of the replica, after a backup of what is there.
    async fn resync(&mut self) {
        let Some(reason) = self.seen.needs_copy().map(str::to_owned) else { return };
        if let Some(why) = self.looks_empty().await {
            let wait = self.ask_backoff.failed();
            self.copy_failed(&why, wait);
            return;
        }
        let runs = matches!(self.seen.replica, ReplicaView::Running { .. });
        if !runs && !self.is_told {
            self.is_told = true;
            self.tell_no_backup(&format!("the replica does not run; {reason}"));
        }
        // One is enough, however often the copy is tried: each holds what rotation may not touch.
        if runs && !self.backed_up {
            let comment = "before another full copy: the stream could not be continued".into();
            match self.shared.create_backup(Reason::BeforeResync, comment).await {
                Ok(_) => self.backed_up = true,
                Err(refusal) if !self.goes_without_backup(&reason, &refusal) => {
                    let endpoint = self.peer.info().endpoint();
                    let wait = self.ask_backoff.failed();
                    let why = format!("monitor at {endpoint}: no backup could be made before: {refusal}");
                    self.copy_failed(&why, wait);
                    return;
                }
                Err(refusal) => {
                    if !std::mem::replace(&mut self.is_told, true) {
                        self.tell_no_backup(&format!(
                            "the replica could not be asked for an hour: {refusal}"
                        ));
                    }
                }
            }
        }
        if !self.would_begin().await {
            return;
        }
        self.standby = None;
        if let Err(error) = self.shared.hostd.stop_replica(self.peer.id).await {
            let wait = self.ask_backoff.failed();
            self.copy_failed(&format!("cannot stop the replica: {error}"), wait);
            return;
        }
        self.full_copy(Some(reason)).await;
    }

    /// Whether hostd would begin a full copy now. It is asked before the replica is stopped and the slot made anew, since
    /// what it refuses for want of room would cost both for nothing.
    async fn would_begin(&mut self) -> bool {
        let Some(monitor) = &self.monitor else { return false };
        let measured = tokio::time::timeout(MEASURE_TIMEOUT, monitor.database_bytes()).await;
        let announced = if let Ok(Ok(bytes)) = measured {
            bytes
        } else {
            // The copy announces its size itself, and begins on a connection that answers.
            self.monitor = Monitor::connect(self.peer).await.ok();
            if self.monitor.is_none() {
                return false;
            }
            0
        };
        match self.shared.hostd.try_copy(self.peer.id, announced).await {
            Ok(()) => true,
            Err(hostd::ClientError::Refused(refused)) => {
                self.copy_waits(&refused);
                false
            }
            Err(error) => {
                let wait = self.ask_backoff.failed();
                self.copy_failed(&format!("it cannot be told whether it may begin: {error}"), wait);
                false
            }
        }
    }

    /// Whether the copy is made although no backup of the replica could be made before. What it has replayed, such as a role
    /// that may not log in, can keep it from being asked for ever. But where the monitor has gone back or another way, the
    /// replica alone has what is newer.
    fn goes_without_backup(&mut self, reason: &str, refusal: &Refusal) -> bool {
        if !matches!(refusal, Refusal::Conflict(_)) {
            return false;
        }
        let since = *self.refused_since.get_or_insert_with(Instant::now);
        since.elapsed() >= WAIT_FOR_BACKUP && !has_what_the_monitor_lost(reason)
    }

    /// Tells that what the replica has is not kept as a backup before it is replaced: what does not start here would not
    /// start in a restore either. What it had until the last backup is kept.
    fn tell_no_backup(&self, why: &str) {
        let message = format!(
            "No backup is made before the full copy ({why}). What was backed up before is kept; changes since then \
             come with the copy."
        );
        self.shared.events.record(EventKind::FullCopy, Level::Warn, message, None);
    }

    /// Copies the monitor's cluster; `resync` says why there has to be another copy.
    async fn full_copy(&mut self, resync: Option<String>) {
        let Some(monitor) = &self.monitor else { return };
        let replace = resync.is_some();
        let copy = async {
            // What was kept for the old replica is of no use to a new one.
            if replace || matches!(&self.seen.monitor, MonitorView::Answers { slot_lost: Some(_), .. }) {
                monitor.renew_slot().await?;
            }
            let tablespaces = monitor.tablespaces().await?;
            let began = Instant::now();
            let view = |progress, elapsed| ReplicaView::Copying { progress, elapsed, resync: resync.clone() };
            let mut seen = Observations { replica: view(None, Duration::ZERO), ..self.seen.clone() };
            self.shared.publish(state(&seen));
            let news = |news| match news {
                News::Progress(at) => {
                    seen.replica = view(Some(at), began.elapsed());
                    self.shared.publish(state(&seen));
                }
                News::Deleted(deletion) => self.shared.record_deletion(&deletion),
                News::Step(..) => {}
            };
            self.shared.hostd.full_copy(self.peer, tablespaces, replace, news).await?;
            self.shared.copy_came();
            anyhow::Ok(began.elapsed())
        };
        match copy.await {
            Ok(took) => {
                (self.seen.copy_failure, self.waits_for_room) = (None, false);
                self.seen.broken_stream = None;
                (self.backed_up, self.is_told, self.refused_since) = (false, false, None);
                // They, and the log that names their reason, were the old replica's.
                self.starts = 0;
                self.step_backoff.succeeded();
                self.copy_backoff.succeeded();
                let message = format!("The full copy of monitor {} was made in {took:.0?}.", self.peer.id);
                self.shared.events.record(EventKind::FullCopy, Level::Ok, message, None);
            }
            Err(error) => match error.downcast_ref::<hostd::ClientError>() {
                Some(hostd::ClientError::Refused(refused)) => self.copy_waits(refused),
                _ => {
                    let endpoint = self.peer.info().endpoint();
                    let wait = self.copy_backoff.failed();
                    self.copy_failed(&format!("monitor at {endpoint}: {error:#}"), wait);
                }
            },
        }
        // Its connection may be older than the copy took.
        self.ask_again = Instant::now();
    }

    /// hostd refuses the copy for want of room. The check has the figures of each time, an event those of the first.
    fn copy_waits(&mut self, refused: &hostd::Refused) {
        let wait = wait_for_room(refused.retry_after, self.copy_backoff.failed());
        if std::mem::replace(&mut self.waits_for_room, true) {
            self.seen.copy_failure = Some(refused.error.clone());
        }
        self.copy_failed(&refused.error, wait);
        self.waits_for_room = true;
    }

    fn copy_failed(&mut self, why: &str, wait: Duration) {
        self.waits_for_room = false;
        if self.seen.copy_failure.as_deref() != Some(why) {
            let message = format!("A full copy failed: {why}.");
            self.shared.events.record(EventKind::FullCopy, Level::Fail, message, None);
        }
        self.seen.copy_failure = Some(why.into());
        self.shared.publish_copy_failure(Some(why));
        self.copy_again = Instant::now() + wait;
    }
}

/// How long a copy that found no room waits: hostd is asked again at least once in [`COPY_BACKOFF`], as somebody may make
/// room meanwhile, and asking stops nothing.
fn wait_for_room(retry_after: Option<u64>, backoff: Duration) -> Duration {
    retry_after.map_or(backoff, |seconds| Duration::from_secs(seconds.max(1)).min(COPY_BACKOFF))
}

/// What a server's log says of its end: the last line that names a reason, with the next one, which often tells more; else its
/// last lines. What follows a PANIC says only that the server shuts down.
fn why_it_ended(log: &[String]) -> String {
    let names_it = |line: &String| line.contains("PANIC:") || line.contains("FATAL:");
    let from = log.iter().rposition(names_it).unwrap_or(log.len().saturating_sub(REASON_LINES));
    log[from..].iter().take(REASON_LINES).cloned().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_that_names_the_reason_is_shown() {
        let log = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>();
        for (lines, expected) in [
            (&["LOG: a", "LOG: b", "LOG: c"][..], "LOG: b LOG: c"),
            (
                &[
                    "WARNING: page 1",
                    "PANIC:  WAL contains references to invalid pages",
                    "CONTEXT: x",
                    "LOG: down",
                ],
                "PANIC:  WAL contains references to invalid pages CONTEXT: x",
            ),
            (&["FATAL:  first", "FATAL:  last"], "FATAL:  last"),
            (&[], ""),
        ] {
            assert_eq!(why_it_ended(&log(lines)), expected);
        }
    }

    #[test]
    fn a_copy_without_room_waits_as_long_as_it_is_told_to_and_not_for_hours() {
        let backoff = Duration::from_secs(8);
        for (retry_after, seconds) in
            [(None, 8), (Some(0), 1), (Some(600), 600), (Some(86_400), 1800), (Some(u64::MAX), 1800)]
        {
            assert_eq!(wait_for_room(retry_after, backoff), Duration::from_secs(seconds), "{retry_after:?}");
        }
    }
}
