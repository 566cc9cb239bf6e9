//! What happens by the clock: backups on schedule, rotation, verification. The replica has its own loop.
//!
//! What is due is decided from the backups that are there: nothing can disagree, and a backup server that was restored,
//! moved or switched off goes on where it is. The one thing remembered is when the last scheduled backup was made: if
//! rotation has taken it to make room, another one would only take that room again.

use crate::shared::{Made, Refusal, Shared};
use crate::verification::{self, Asked, Work};
use anyhow::{Context, Result};
use api::{EventKind, Level, Reason, Settings};
use backups::schedule::{Due, due};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Time between two looks.
const ROUND: Duration = Duration::from_secs(15);
/// Time between two runs of rotation while space is not low.
const ROTATION: Duration = Duration::from_secs(3600);
/// The same while it waits for a word of the console.
const ROTATION_WAITS: Duration = Duration::from_secs(15);
/// Time between two looks at the room.
const SAMPLE: Duration = Duration::from_secs(1800);
/// Time between two looks at the disks.
const DISKS: Duration = Duration::from_secs(30);
/// Time between two looks whether the monitor has anything new.
const CHANGES: Duration = Duration::from_secs(600);
/// Time until a verification that could not be tried is tried again.
const VERIFICATION_AGAIN: Duration = Duration::from_secs(600);

/// Environment variable with the seconds between two looks, in builds with debug assertions: a test waits for many of them.
const LOOK_SECONDS: &str = "BACKUPD_LOOK_SECONDS";

/// So long, or less where [`LOOK_SECONDS`] says so.
fn paced(pause: Duration) -> Duration {
    let shorter = || Some(Duration::from_secs(std::env::var(LOOK_SECONDS).ok()?.parse().ok()?));
    if cfg!(debug_assertions) { shorter().map_or(pause, |shorter| pause.min(shorter)) } else { pause }
}

/// Runs for ever.
pub async fn run(shared: Arc<Shared>) {
    tokio::join!(
        make_and_rotate(&shared),
        verify(&shared),
        look_at_room(&shared),
        look_at_disks(&shared),
        look_for_changes(&shared),
        look_at_pairing(&shared)
    );
}

async fn look_for_changes(shared: &Shared) {
    loop {
        if let Err(error) = shared.look_for_changes().await {
            tracing::debug!("it is not seen whether the monitor has anything new: {error}");
        }
        tokio::time::sleep(CHANGES).await;
    }
}

async fn look_at_pairing(shared: &Shared) {
    loop {
        shared.look_at_pairing().await;
        tokio::time::sleep(paced(ROUND)).await;
    }
}

async fn make_and_rotate(shared: &Shared) {
    let mut schedule = Failing::default();
    let mut rotation = Failing::default();
    let mut rotated: Option<Instant> = None;
    loop {
        shared.changes.look();
        if shared.volume_problem().is_none() {
            let made = make_scheduled(shared).await;
            if let Some(error) = schedule.news(made.map(drop)) {
                let message = format!("A scheduled backup could not be made: {error}.");
                shared.events.record(EventKind::Backup, Level::Fail, message, None);
            }
            let pause = if shared.waits_for_console() { paced(ROTATION_WAITS) } else { ROTATION };
            let is_due = rotated.is_none_or(|at| at.elapsed() > pause);
            if is_due || shared.space_is_low() {
                rotated = Some(Instant::now());
                if let Some(error) = rotation.news(shared.rotate().await) {
                    let message = format!("Old backups could not be removed: {error}.");
                    shared.events.record(EventKind::Rotation, Level::Fail, message, None);
                }
            }
        }
        tokio::select! {
            () = tokio::time::sleep(paced(ROUND)) => {}
            () = shared.settings_changed.notified() => rotated = None,
        }
    }
}

async fn look_at_disks(shared: &Shared) {
    loop {
        shared.look_at_disks().await;
        tokio::time::sleep(DISKS).await;
    }
}

async fn look_at_room(shared: &Shared) {
    let (mut sampled, mut measured, mut failed): (Option<Instant>, Option<Instant>, Option<Instant>) =
        (None, None, None);
    let is_over = |since: Option<Instant>, pause| since.is_none_or(|since| since.elapsed() > pause);
    loop {
        if shared.volume_problem().is_none()
            && is_over(sampled, SAMPLE)
            && let Some(space) = shared.space()
        {
            shared.room.sample(space.total.saturating_sub(space.free));
            sampled = Some(Instant::now());
        }
        let zone = shared.settings().zone().unwrap_or(TimeZone::UTC);
        let each = shared.room.is_due(Timestamp::now(), &zone);
        // Before the first copy there is nothing to measure.
        if shared.follows() && is_over(failed, SAMPLE) && (each || is_over(measured, SAMPLE)) {
            match shared.hostd.measure_usage(each).await {
                Ok((usage, exclusive)) => {
                    shared.room.measured(usage, exclusive);
                    measured = Some(Instant::now());
                }
                Err(error) => {
                    tracing::warn!("cannot measure what takes the room: {error}");
                    failed = Some(Instant::now());
                }
            }
        }
        tokio::select! {
            () = tokio::time::sleep(paced(ROUND)) => {}
            () = shared.backups_changed.notified() => {
                // Another one follows soon where many are deleted; those are measured together.
                tokio::time::sleep(paced(ROUND)).await;
                measured = None;
            }
        }
    }
}

/// Tells a failure once, not at every round.
#[derive(Debug, Default)]
struct Failing {
    said: bool,
}

impl Failing {
    /// The error, if it is news.
    fn news(&mut self, result: Result<(), Refusal>) -> Option<String> {
        match result {
            Ok(()) => {
                self.said = false;
                None
            }
            Err(error) => (!std::mem::replace(&mut self.said, true)).then(|| error.to_string()),
        }
    }
}

async fn make_scheduled(shared: &Shared) -> Result<(), Refusal> {
    let Some(peer) = shared.peer() else { return Ok(()) };
    // The first one waits for the first full copy; that is no failure.
    if !shared.follows() {
        return Ok(());
    }
    let backups = shared.backups()?.backups;
    let made = backups
        .iter()
        .filter(|backup| backup.monitor.id == peer.id && backup.reason == Reason::Schedule)
        .map(|backup| backup.created)
        .chain(shared.last_scheduled(peer.id));
    if is_due(&shared.settings(), made, Timestamp::now())? {
        match shared.create_backup(Reason::Schedule, String::new()).await? {
            Made::Backup(backup) => shared.remember_scheduled(&backup)?,
            Made::Unchanged(last) => tracing::debug!("nothing has changed since backup {last}"),
        }
    }
    Ok(())
}

fn is_due(settings: &Settings, made: impl Iterator<Item = Timestamp>, now: Timestamp) -> Result<bool> {
    let zone = settings.zone().context("the settings are damaged")?;
    Ok(due(settings.frequency, made, now, &zone).context("the schedule cannot be computed")? == Due::Now)
}

/// Whether the same would only happen again at once; a process that is started anew soon is back.
fn is_lasting(error: &Refusal) -> bool {
    !matches!(error, Refusal::Unavailable(_))
}

async fn verify(shared: &Shared) {
    let (mut copy, mut backup) = (Failing::default(), Failing::default());
    let mut copy_again = Instant::now();
    // A reading gives way once; the next one goes to its end, or who asks often would keep all from being read.
    let mut was_cut = false;
    let mut had_last_turn = false;
    loop {
        if shared.volume_problem().is_none() && Instant::now() >= copy_again {
            let verified = shared.verify_copy().await;
            if verified.as_ref().is_err_and(is_lasting) {
                copy_again = Instant::now() + VERIFICATION_AGAIN;
            }
            if let Some(error) = copy.news(verified) {
                let message = format!("The full copy could not be verified: {error}.");
                shared.events.record(EventKind::FullCopy, Level::Fail, message, None);
            }
        }
        let mut asked = shared.asked();
        if shared.volume_problem().is_none()
            && let Ok(list) = shared.backups()
        {
            // What was deleted is not waited for.
            let (there, gone) =
                asked.into_iter().partition(|id| list.backups.iter().any(|backup| backup.id == *id));
            asked = there;
            let gone: Vec<String> = gone;
            gone.iter().for_each(|id| shared.was_tried(id));
        }
        let next = match shared.volume_problem() {
            None => shared.backups().map(|list| {
                verification::next(Asked { ids: &asked, had_last_turn }, &list.backups, Timestamp::now())
            }),
            Some(_) => Ok(None),
        };
        let began = Instant::now();
        let (tried, pause) = match next {
            Ok(Some((backup, Work::Verify(depth)))) => {
                had_last_turn = asked.contains(&backup.id);
                let tried = shared.verify(&backup, depth).await;
                // What could not be asked for, as hostd is away, is still wanted.
                if had_last_turn && !matches!(tried, Err(Refusal::Unavailable(_))) {
                    shared.was_tried(&backup.id);
                }
                (tried, paced(ROUND))
            }
            Ok(Some((backup, Work::Read))) => tokio::select! {
                // The disks have as long for others.
                read = shared.read_backup(&backup) => {
                    was_cut = false;
                    (read, began.elapsed().max(paced(ROUND)))
                }
                // It is read later.
                () = shared.verification_asked.notified(), if !was_cut => {
                    was_cut = true;
                    continue;
                }
            },
            Ok(None) => (Ok(true), paced(ROUND)),
            Err(error) => (Err(error), paced(ROUND)),
        };
        let pause = match &tried {
            Ok(true) => pause,
            // Each that somebody asked for is tried once.
            Ok(false) if !shared.asked().is_empty() => paced(ROUND),
            // What has trouble waits by itself; that of the machine would befall the next one as well.
            Ok(false) => VERIFICATION_AGAIN,
            Err(error) if is_lasting(error) => VERIFICATION_AGAIN,
            Err(_) => paced(ROUND),
        };
        if let Some(error) = backup.news(tried.map(drop)) {
            let message = format!("A backup could not be verified: {error}.");
            shared.events.record(EventKind::Verification, Level::Fail, message, None);
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shared.verification_asked.notified() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_said_once() {
        let mut failing = Failing::default();
        let fails = || Err(Refusal::Conflict("x".into()));
        let said: Vec<bool> =
            [fails(), fails(), Ok(()), fails()].map(|result| failing.news(result).is_some()).into();
        assert_eq!(said, [true, false, false, true]);
    }
}
