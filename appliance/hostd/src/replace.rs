//! What may take the place of a replica: asked again here, since the process that asks for a copy may be
//! compromised.

use crate::btrfs;
use crate::places::Places;
use crate::sandbox::Sandbox;
use anyhow::{Context, Result, ensure};
use api::Peer;
use hostd::PROGRAM;
use replica::looks_empty;
use std::path::Path;

/// What may take the place of a replica.
#[derive(Debug, Clone, Copy)]
pub struct Replace {
    /// `Database system identifier` of the database that the console has accepted in the replica's place.
    pub accepted: Option<u64>,
}

impl Replace {
    /// Refuses a copy that the network process should not have asked for: of another database, or of one that
    /// looks empty beside the replica, unless the console has accepted it.
    ///
    /// # Errors
    /// It is one of these, or it cannot be told.
    pub async fn check(&self, places: &Places, peer: &Peer, copying: &Path) -> Result<()> {
        let replica = places.replica(peer.id);
        let theirs = Sandbox::replica(places, copying).control_data().await?.system_identifier;
        if self.accepted == Some(theirs) {
            return Ok(());
        }
        let order = format!(
            "if that is meant to be, accept it at the server's console: `{PROGRAM} order accept-database --monitor {} \
             --system-identifier {theirs}`",
            peer.id
        );
        let ours = Sandbox::replica(places, &replica).control_data().await?.system_identifier;
        ensure!(
            ours == theirs,
            "the copy is of another database (system identifier {theirs}) than the replica here ({ours}), which is kept; \
             {order}"
        );
        let bytes = |folder: &Path| {
            let databases = folder.join("pgdata/base");
            tokio::task::spawn_blocking(move || files::bytes_below(&databases, None))
        };
        let (theirs, ours) = (bytes(copying).await??, bytes(&replica).await??);
        ensure!(
            !looks_empty(theirs, ours),
            "the copy's databases have {} MB and the replica's {} MB, which is kept; {order}",
            theirs / 1_000_000,
            ours / 1_000_000
        );
        Ok(())
    }
}

/// Deletes the replica of `monitor`, which does not run: for one that fills the volume, or that cannot go on. Backups share
/// blocks with it and keep theirs.
///
/// # Errors
/// There is none, or it cannot be deleted; what is left of it then is deleted later.
pub async fn discard(places: &Places, monitor: uuid::Uuid) -> Result<()> {
    ensure!(places.has_replica(monitor)?, "there is no replica of monitor {monitor}");
    let half_made = places.copying(monitor);
    btrfs::delete(&half_made).await.context("cannot delete what an interrupted copy left")?;
    // Under this name nobody takes what is left of it for a replica, should the deletion be cut.
    files::rename(&places.replica(monitor), &half_made)?;
    btrfs::delete(&half_made).await
}
