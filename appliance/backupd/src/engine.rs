//! The daemon's one loop: observe, name the state, carry out the next step.
//!
//! What the observations mean and what follows from them is decided by pure functions of the `replica` crate; here are
//! the observing and the doing. There is one loop and no second task that changes the replica, so nothing can race.

use crate::monitor::{Monitor, Trouble};
use crate::shared::Shared;
use crate::standby::Standby;
use api::{Peer, State};
use jiff::Timestamp;
use replica::{Backoff, LagClock, MonitorView, Observations, ReplicaView, Step, next_step, state};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Time between two rounds of observing.
const ROUND: Duration = Duration::from_secs(1);
/// Starts of the replica that may fail before the state says so: the first may meet a server that is still stopping.
const STARTS_UNTIL_FAILED: u32 = 3;
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
    lag: LagClock,
    began: Instant,
    seen: Observations,
}

impl<'a> Follower<'a> {
    fn new(shared: &'a Shared, peer: &'a Peer) -> Self {
        let now = Instant::now();
        let seen = Observations {
            paired: true,
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
        if let Some(standby) = self.standby.take()
            && let Ok(replayed) = standby.replayed().await
        {
            self.standby = Some(standby);
            self.seen.replica = ReplicaView::Running { replayed };
            return;
        }
        let info = match self.shared.hostd.replica(self.peer.id).await {
            Ok(info) => info,
            Err(error) => {
                self.seen.replica = ReplicaView::Down { reason: Some(error.to_string()) };
                return;
            }
        };
        if !info.present {
            self.seen.replica = ReplicaView::Absent;
            return;
        }
        if info.running && !self.introduced {
            if let Err(error) = self.shared.hostd.start_replica(self.peer).await {
                self.seen.replica = ReplicaView::Down { reason: Some(error.to_string()) };
                return;
            }
            self.introduced = true;
        }
        if info.running
            && let Ok(standby) =
                Standby::connect(&info.socket_dir, &self.peer.user, &self.peer.database).await
            && let Ok(replayed) = standby.replayed().await
        {
            self.standby = Some(standby);
            self.starts = 0;
            self.step_backoff.succeeded();
            self.seen.replica = ReplicaView::Running { replayed };
            return;
        }
        let failed = self.starts >= STARTS_UNTIL_FAILED && !info.running;
        let tail = info.log.len().saturating_sub(REASON_LINES);
        let reason = failed.then(|| format!("the replica does not start: {}", info.log[tail..].join(" ")));
        self.seen.replica = ReplicaView::Down { reason };
    }

    fn measure_lag(&mut self) {
        if let (MonitorView::Answers { position, .. }, ReplicaView::Running { replayed }) =
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
            self.shared.hostd.full_copy(self.peer, tablespaces, report).await?;
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
