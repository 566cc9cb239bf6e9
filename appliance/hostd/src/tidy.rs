//! What failures, crashes and power cuts left half made on the data volume is deleted while `hostd` runs, and
//! tried again until it is gone; at the start first of all.
//!
//! A full copy that never became a replica, the clone of a verification, a backup without its name, and a
//! backup whose deletion has begun: nothing refers to them, and they take room. Whoever makes such things
//! holds a lock meanwhile, so what is found while that is free is left over. Where it is taken, the next
//! round looks again.

use crate::places::{Area, Leftover, Places, leftovers};
use crate::{btrfs, catalog, verify};
use anyhow::Result;
use replica::Backoff;
use std::time::Duration;
use tokio::sync::Mutex;

/// Time between two rounds when all is well.
const ROUND: Duration = Duration::from_secs(15);
/// Time that a round waits for who makes, verifies or changes backups; what takes hours is waited for in the next one.
const TURN: Duration = Duration::from_secs(15);
/// Longest time between two rounds while something cannot be deleted.
const LONGEST: Duration = Duration::from_secs(900);

/// Runs for ever. The locks are those of whoever copies, verifies, and changes backups.
pub async fn run(places: &Places, copying: &Mutex<()>, verifying: &Mutex<()>, catalog: &Mutex<()>) {
    let mut failures = Backoff::up_to(LONGEST);
    loop {
        let mut is_well = true;
        for (area, lock) in [(Area::Backups, catalog), (Area::Copies, copying), (Area::Clones, verifying)] {
            // In its turn: whoever asks for one thing after the other would keep a lock that is only tried for ever.
            let Ok(_nobody_makes_any) = tokio::time::timeout(TURN, lock.lock()).await else { continue };
            is_well &= clean(places, area).await;
        }
        keep_lists(places).await;
        let pause = if is_well { ROUND } else { failures.failed().max(ROUND) };
        if is_well {
            failures.succeeded();
        }
        tokio::time::sleep(pause).await;
    }
}

/// Keeps the lists of backups for the next start. What cannot be kept costs that start some seconds.
async fn keep_lists(places: &Places) {
    let places = places.clone();
    match tokio::task::spawn_blocking(move || catalog::keep_lists(&places)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!("the lists of backups are not kept for the next start: {error:#}"),
        Err(error) => tracing::error!("the lists of backups are not kept for the next start: {error}"),
    }
}

/// Deletes what is left over in one area, where nobody makes anything now; says whether nothing is left.
async fn clean(places: &Places, area: Area) -> bool {
    let found = match leftovers(&places.data, area) {
        Ok(found) => found,
        // The data volume is not there, which others say; it may be mended.
        Err(error) => {
            tracing::debug!("cannot look for what was left half made: {error:#}");
            return true;
        }
    };
    let mut is_clean = true;
    for leftover in found {
        match delete(places, area, &leftover).await {
            Ok(()) => tracing::info!("deleted what was left half made: {}", name_of(&leftover)),
            Err(error) => {
                is_clean = false;
                tracing::error!("cannot delete what was left half made, which is tried again: {error:#}");
            }
        }
    }
    is_clean
}

async fn delete(places: &Places, area: Area, leftover: &Leftover) -> Result<()> {
    match leftover {
        Leftover::Subvolume(path) if area == Area::Clones => verify::discard(places, path).await,
        Leftover::Subvolume(path) => btrfs::delete(path).await,
        Leftover::File(path) => files::remove(path).map(drop),
        Leftover::Deletion(monitor, id) => catalog::finish_deletion(places, *monitor, id).await,
    }
}

fn name_of(leftover: &Leftover) -> String {
    match leftover {
        Leftover::Subvolume(path) | Leftover::File(path) => path.display().to_string(),
        Leftover::Deletion(monitor, id) => format!("backup {id} of monitor {monitor}"),
    }
}
