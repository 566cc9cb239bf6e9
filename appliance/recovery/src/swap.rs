//! Taking the place of what is there: one exchange of names, which the file system does whole or not at all.
//!
//! A power cut between two exchanges (data, configuration) is told from the outside by a mark that the restored folder
//! carries in itself, so that every step can be done again without being done twice. What was there before has
//! afterwards the restored folder's old place, until somebody confirms that it may go; the same exchange brings it back.

use std::path::PathBuf;

use anyhow::{Context, Result};

/// A file in the restored folder that holds the backup's full name. PostgreSQL leaves files alone that it does not know.
pub const MARK: &str = "infimonitor-restore";

/// A restored folder and the place that it takes. Both lie on one file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Swap {
    /// Where the live folder is.
    pub live: PathBuf,
    /// Where the restored one was made; after the exchange, where the old one is.
    pub beside: PathBuf,
    /// Full name of the backup.
    pub name: String,
    /// User and group number of PostgreSQL, which reads all that is in its data directory when it is copied.
    pub owner: (u32, u32),
}

/// Where the restored folder is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Made ready, and not in use.
    Beside,
    /// In use.
    Live,
}

impl Swap {
    /// Marks the restored folder as ready: all of it is on the disk.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn mark(&self) -> Result<()> {
        files::write(&self.beside.join(MARK), self.name.as_bytes(), 0o600, Some(self.owner)).map(drop)
    }

    /// Where the restored folder is; `None`: none was made ready.
    ///
    /// # Errors
    /// It cannot be told.
    pub fn place(&self) -> Result<Option<Place>> {
        for (folder, place) in [(&self.live, Place::Live), (&self.beside, Place::Beside)] {
            if files::read(&folder.join(MARK))?.as_deref() == Some(self.name.as_str()) {
                return Ok(Some(place));
            }
        }
        Ok(None)
    }

    /// Puts the restored folder in its place, if it is not there already. Returns whether it did.
    ///
    /// # Errors
    /// As [`Self::place`]; none was made ready; those of the file system. Then nothing has changed.
    pub fn bring_in(&self) -> Result<bool> {
        self.bring_to(Place::Live)
    }

    /// Brings back what was there before, if it is not there already. Returns whether it did.
    ///
    /// # Errors
    /// As [`Self::bring_in`].
    pub fn bring_back(&self) -> Result<bool> {
        self.bring_to(Place::Beside)
    }

    /// Where the restored folder is, which must have been made ready.
    ///
    /// # Errors
    /// As [`Self::bring_in`].
    pub fn place_of_ready(&self) -> Result<Place> {
        self.place()?.with_context(|| {
            let (live, beside) = (self.live.display(), self.beside.display());
            format!("the restored backup {} is neither at {live} nor at {beside}", self.name)
        })
    }

    fn bring_to(&self, wanted: Place) -> Result<bool> {
        if self.place_of_ready()? == wanted {
            return Ok(false);
        }
        files::exchange(&self.beside, &self.live)?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn swap() -> (tempfile::TempDir, Swap) {
        let folder = tempfile::tempdir().unwrap();
        let swap = Swap {
            live: folder.path().join("main"),
            beside: folder.path().join("work/pgdata"),
            name: "20261125T120000Z".into(),
            owner: (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw()),
        };
        for (folder, content) in [(&swap.live, "old"), (&swap.beside, "restored")] {
            fs::create_dir_all(folder).unwrap();
            fs::write(folder.join("data"), content).unwrap();
        }
        (folder, swap)
    }

    fn contents(swap: &Swap) -> [String; 2] {
        [&swap.live, &swap.beside].map(|folder| fs::read_to_string(folder.join("data")).unwrap())
    }

    #[test]
    fn it_goes_in_once_and_back_once() {
        let (_folder, swap) = swap();
        swap.mark().unwrap();
        assert_eq!(swap.place().unwrap(), Some(Place::Beside));
        assert!(!swap.bring_back().unwrap());
        for done in [true, false] {
            assert_eq!(swap.bring_in().unwrap(), done);
            assert_eq!(contents(&swap), ["restored", "old"]);
            assert_eq!(swap.place().unwrap(), Some(Place::Live));
        }
        for done in [true, false] {
            assert_eq!(swap.bring_back().unwrap(), done);
            assert_eq!(contents(&swap), ["old", "restored"]);
        }
    }

    #[test]
    fn what_is_not_ready_or_another_backup_changes_nothing() {
        let (_folder, swap) = swap();
        assert!(swap.bring_in().is_err());
        assert_eq!(swap.place().unwrap(), None);
        swap.mark().unwrap();
        let other = Swap { name: "20261126T120000Z".into(), ..swap.clone() };
        let error = other.bring_in().unwrap_err().to_string();
        assert!(error.contains("backup 20261126T120000Z is neither at"), "{error}");
        fs::rename(&swap.live, swap.live.with_extension("gone")).unwrap();
        assert!(swap.bring_in().is_err());
        assert_eq!(fs::read_to_string(swap.beside.join("data")).unwrap(), "restored");
    }
}
