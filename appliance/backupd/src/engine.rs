//! The daemon's one loop: observe, name the state, carry out the next step.
//!
//! What the observations mean and what follows from them is decided by pure functions of the `replica` crate; here are
//! the observing and the doing. There is one loop and no second task that changes the replica, so nothing can race.

use crate::monitor::{Monitor, Trouble};
use crate::shared::Shared;
use crate::standby::{NotReady, Standby};
use api::{Peer, State};
use jiff::Timestamp;
use replica::{
    Backoff, LagClock, Lsn, MonitorView, Observations, Pause, ReplicaView, Step, next_step, state,
};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Time between two rounds of observing.
const ROUND: Duration = Duration::from_secs(1);
/// Starts of the replica that may fail before the state says so: the first may meet a server that is still stopping.
const STARTS_UNTIL_FAILED: u32 = 3;
/// Restarts of a replica that has paused, without one that helped, until it is left alone.
const RESTARTS_UNTIL_LASTING: u32 = 3;
/// Lines of the replica's log that go into the reason.
const REASON_LINES: usize = 2;

/// Runs for ever: follows whoever is paired.
pub async fn run(shared: Arc<Shared>) {
    let mut pairing = shared.pairing();
    loop {
        let peer = pairing.borrow_and_update().clone();
        let changed = if let Some(peer) = peer {
            shared.publish(State::Connecting);
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
    /// Restarts since replay moved last.
    restarts: u32,
    lag: LagClock,
    began: Instant,
    seen: Observations,
}

impl<'a> Follower<'a> {
    fn new(shared: &'a Shared, peer: &'a Peer) -> Self {
        let now = Instant::now();
        let seen = Observations {
            paired: true,
            volume_problem: None,
            monitor: MonitorView::NotAsked,
            replica: ReplicaView::Absent,
            lag_seconds: 0.0,
            copy_failure: None,
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
            restarts: 0,
            lag: LagClock::default(),
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
            self.measure_lag();
            self.shared.publish(state(&self.seen));
            if Instant::now() >= self.step_again {
                match next_step(&self.seen) {
                    Step::Wait => {}
                    Step::FullCopy => self.full_copy().await,
                    Step::Start => self.start().await,
                    Step::Restart => self.stop().await,
                }
            }
            tokio::time::sleep(ROUND).await;
        }
    }

    async fn observe_monitor(&mut self) {
        let answer = match self.monitor.take() {
            Some(monitor) => monitor.ask().await.map(|answer| (monitor, answer)),
            None => match Monitor::connect(self.peer).await {
                Ok(monitor) => monitor.ask().await.map(|answer| (monitor, answer)),
                Err(trouble) => Err(trouble),
            },
        };
        self.seen.monitor = match answer {
            Ok((monitor, answer)) => {
                self.monitor = Some(monitor);
                self.monitor_backoff.succeeded();
                MonitorView::Answers {
                    position: answer.position,
                    slot_active: answer.slot_active,
                    slot_lost: answer.slot_lost,
                }
            }
            Err(trouble) => {
                self.ask_again = Instant::now() + self.monitor_backoff.failed();
                self.trouble_view(trouble)
            }
        };
    }

    fn trouble_view(&self, trouble: Trouble) -> MonitorView {
        match trouble {
            Trouble::Unreachable(reason) => {
                let since = match &self.seen.monitor {
                    MonitorView::Unreachable { since, .. } => *since,
                    _ => Timestamp::now(),
                };
                MonitorView::Unreachable { since, reason }
            }
            Trouble::Refuses(reason) => MonitorView::Refuses { reason },
            Trouble::OtherMajor(reason) => MonitorView::OtherMajor { reason },
        }
    }

    async fn observe_replica(&mut self) {
        self.seen.volume_problem = self.shared.volume_problem();
        if self.seen.volume_problem.is_none() {
            self.seen.replica = self.replica_view().await;
        }
    }

    async fn replica_view(&mut self) -> ReplicaView {
        if let Some(standby) = self.standby.take()
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
        if !info.present {
            return ReplicaView::Absent;
        }
        if !info.running {
            let tail = info.log.len().saturating_sub(REASON_LINES);
            let failed = self.starts >= STARTS_UNTIL_FAILED;
            let reason =
                failed.then(|| format!("the replica does not start: {}", info.log[tail..].join(" ")));
            return ReplicaView::Down { reason };
        }
        if !self.introduced {
            if let Err(error) = self.shared.hostd.start_replica(self.peer).await {
                return down(error);
            }
            self.introduced = true;
        }
        match self.ask_standby(&info.socket_dir).await {
            Ok(answer) => self.running(answer),
            Err(NotReady::Starting(_)) => ReplicaView::Silent { reason: None },
            Err(refuses @ NotReady::Refuses(_)) => {
                ReplicaView::Silent { reason: Some(format!("the replica runs, but {refuses}")) }
            }
        }
    }

    fn running(&mut self, (replayed, paused): (Lsn, bool)) -> ReplicaView {
        self.starts = 0;
        if !paused {
            self.restarts = 0;
            self.step_backoff.succeeded();
        }
        let pause = if self.restarts < RESTARTS_UNTIL_LASTING { Pause::Mendable } else { Pause::Lasting };
        ReplicaView::Running { replayed, paused: paused.then_some(pause) }
    }

    async fn ask_standby(&mut self, socket_dir: &str) -> Result<(Lsn, bool), NotReady> {
        let standby = Standby::connect(socket_dir, &self.peer.user, &self.peer.database).await?;
        let answer = standby.replayed().await.map_err(|error| NotReady::Refuses(format!("{error:#}")))?;
        self.standby = Some(standby);
        Ok(answer)
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

    /// Stops the replica; the next round finds it down and starts it.
    async fn stop(&mut self) {
        tracing::info!("replay has paused: the replica is started anew");
        self.restarts = self.restarts.saturating_add(1);
        self.step_again = Instant::now() + self.step_backoff.failed();
        self.standby = None;
        if let Err(error) = self.shared.hostd.stop_replica(self.peer.id).await {
            tracing::error!("cannot stop the replica: {error}");
        }
    }

    async fn full_copy(&mut self) {
        let Some(monitor) = &self.monitor else { return };
        let copy = async {
            let tablespaces = monitor.tablespaces().await?;
            let began = Instant::now();
            let mut seen = Observations {
                replica: ReplicaView::Copying { progress: None, elapsed: Duration::ZERO },
                ..self.seen.clone()
            };
            self.shared.publish(state(&seen));
            let report = |at| {
                seen.replica = ReplicaView::Copying { progress: Some(at), elapsed: began.elapsed() };
                self.shared.publish(state(&seen));
            };
            self.shared.hostd.full_copy(self.peer, tablespaces, false, report).await?;
            tracing::info!("full copy of monitor {} done in {:.1?}", self.peer.id, began.elapsed());
            anyhow::Ok(())
        };
        match copy.await {
            Ok(()) => {
                self.seen.copy_failure = None;
                self.step_backoff.succeeded();
            }
            Err(error) => {
                tracing::error!("full copy of monitor {}: {error:#}", self.peer.id);
                let endpoint = self.peer.info().endpoint();
                self.seen.copy_failure = Some(format!("monitor at {endpoint}: {error:#}"));
                self.step_again = Instant::now() + self.step_backoff.failed();
            }
        }
        // Its connection may be older than the copy took.
        self.ask_again = Instant::now();
    }
}
