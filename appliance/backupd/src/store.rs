//! What the daemon remembers over restarts: the pairing.

use anyhow::{Context, Result};
use api::Peer;
use serde::{Deserialize, Serialize};
use std::io::{ErrorKind, Write};
use std::path::PathBuf;

/// Version of the file's form.
const FORMAT: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    format: u32,
    peer: Peer,
}

/// The file with the pairing. It holds the replication role's password: mode 0600, in the daemon's own folder.
#[derive(Debug, Clone)]
pub struct PeerStore {
    path: PathBuf,
}

impl PeerStore {
    /// The store in the daemon's state folder.
    pub fn new(state_dir: &std::path::Path) -> Self {
        Self { path: state_dir.join("peer.json") }
    }

    /// The paired monitor, if any.
    ///
    /// # Errors
    /// A file that is there and cannot be used; a pairing is never dropped silently.
    pub fn load(&self) -> Result<Option<Peer>> {
        let text = match std::fs::read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", self.path.display())),
        };
        let stored: Stored = serde_json::from_slice(&text)
            .with_context(|| format!("{} is damaged; pair again from the monitor", self.path.display()))?;
        anyhow::ensure!(
            stored.format <= FORMAT,
            "{} was written by a newer version (format {}); update the backup server",
            self.path.display(),
            stored.format
        );
        Ok(Some(stored.peer))
    }

    /// Remembers the pairing.
    pub fn save(&self, peer: &Peer) -> Result<()> {
        let text = serde_json::to_vec_pretty(&Stored { format: FORMAT, peer: peer.clone() })?;
        files::replace(&self.path, 0o600, None, |file| file.write_all(&text))
            .with_context(|| format!("cannot write {}", self.path.display()))
    }
}
