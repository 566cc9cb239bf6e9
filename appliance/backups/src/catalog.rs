//! What is in the folder of a monitor's backups, by its names.
//!
//! A backup is there when its snapshot has its name. It gets the name last when it is made, and loses it
//! first when it is deleted; under any other name a snapshot is no backup.

use crate::{BackupId, index_path, manifest_path};
use api::Backup;
use std::io;
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// What a snapshot is called until its index and manifest are beside it. Left behind by a power cut, it is
/// deleted later.
pub const PARTIAL_PREFIX: &str = ".partial-";

/// What the snapshot of a backup is called from the moment at which its deletion begins. The name is the
/// mark: whoever finds it goes on with that deletion, and deletes nothing else before it is done.
pub const DELETING_PREFIX: &str = ".deleting-";

/// `<folder>/.partial-<id>`
pub fn partial_path(folder: &Path, id: &BackupId) -> PathBuf {
    folder.join(format!("{PARTIAL_PREFIX}{id}"))
}

/// `<folder>/.deleting-<id>`
pub fn deleting_path(folder: &Path, id: &BackupId) -> PathBuf {
    folder.join(format!("{DELETING_PREFIX}{id}"))
}

/// Whether anything in the folder belongs to a backup of this id, also to one that is half made or half
/// deleted: a new one under the same id would be mixed with it.
///
/// # Errors
/// It cannot be told.
pub fn is_taken(folder: &Path, id: &BackupId) -> io::Result<bool> {
    let names = [
        folder.join(id.as_str()),
        partial_path(folder, id),
        deleting_path(folder, id),
        manifest_path(folder, id),
        index_path(folder, id),
    ];
    for name in names {
        match std::fs::symlink_metadata(&name) {
            Ok(_) => return Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

/// The backups whose deletion has begun and is not done, the oldest first. A folder that does not exist has
/// none.
///
/// # Errors
/// Those of reading the folder.
pub fn deleting(folder: &Path) -> io::Result<Vec<BackupId>> {
    let mut found: Vec<BackupId> = Vec::new();
    each_entry(folder, |entry| {
        let name = entry.file_name();
        found.extend(name.to_str().and_then(|name| name.strip_prefix(DELETING_PREFIX)?.parse().ok()));
        Ok(())
    })?;
    found.sort();
    Ok(found)
}

/// One backup as found.
#[derive(Debug, Clone, PartialEq)]
pub enum Entry {
    /// Snapshot and manifest.
    Complete(Box<Backup>),
    /// A snapshot without a usable manifest.
    Damaged {
        /// The id by the snapshot's name.
        id: BackupId,
        /// What is wrong.
        problem: String,
    },
}

impl Entry {
    /// The backup's id as text.
    pub fn id(&self) -> &str {
        match self {
            Self::Complete(backup) => &backup.id,
            Self::Damaged { id, .. } => id.as_str(),
        }
    }
}

/// A monitor's UUID in a name, in the one spelling that we write ourselves, so that it is one folder and one file.
pub fn monitor(name: &str) -> Option<Uuid> {
    Uuid::parse_str(name).ok().filter(|id| id.to_string() == name)
}

/// The monitors that have a folder in `root`, the folder of all backups. What is no folder of a monitor is left out.
///
/// # Errors
/// Those of reading `root`. That it is missing is one of them: it is made on the data volume at every boot, so
/// without it the volume is not mounted, and "no backups" would be a lie.
pub fn monitors(root: &Path) -> io::Result<Vec<Uuid>> {
    let mut monitors = Vec::new();
    for entry in std::fs::read_dir(root)? {
        let entry = entry?;
        if let Some(monitor) = entry.file_name().to_str().and_then(monitor)
            && entry.file_type()?.is_dir()
        {
            monitors.push(monitor);
        }
    }
    monitors.sort_unstable();
    Ok(monitors)
}

/// The ids of the backups in a monitor's folder, in the order of their ids. A folder that does not exist has
/// none.
///
/// # Errors
/// Those of reading the folder.
pub fn ids(folder: &Path) -> io::Result<Vec<BackupId>> {
    let mut ids = Vec::new();
    each_entry(folder, |entry| {
        let name = entry.file_name();
        // Of three names only one is an id's; the others end otherwise, and most are told by that.
        let id = name.to_str().filter(|name| !name.ends_with('n') && !name.ends_with('x'));
        if let Some(id) = id.and_then(|name| name.parse().ok())
            && entry.file_type()?.is_dir()
        {
            ids.push(id);
        }
        Ok(())
    })?;
    ids.sort();
    Ok(ids)
}

/// Looks at each entry of a folder. A folder that does not exist has none.
fn each_entry(folder: &Path, mut look: impl FnMut(&std::fs::DirEntry) -> io::Result<()>) -> io::Result<()> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        look(&entry?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_folders_of_monitors_are_monitors_and_no_root_is_an_error() {
        let root = tempfile::tempdir().unwrap();
        let monitor = Uuid::from_u128(0x6ba7_b810_9dad_41d1_80b4_00c0_4fd4_30c8);
        std::fs::create_dir(root.path().join(monitor.to_string())).unwrap();
        std::fs::create_dir(root.path().join("6BA7B811-9DAD-41D1-80B4-00C04FD430C8")).unwrap();
        std::fs::create_dir(root.path().join("lost+found")).unwrap();
        std::fs::write(root.path().join(Uuid::from_u128(2).to_string()), "no folder").unwrap();
        assert_eq!(monitors(root.path()).unwrap(), [monitor]);
        assert!(monitors(&root.path().join("missing")).is_err());
    }

    #[test]
    fn what_is_half_made_or_half_deleted_is_no_backup_and_keeps_its_id() {
        let folder = tempfile::tempdir().unwrap();
        let id = |second: u32| format!("20261123T2054{second:02}Z").parse::<BackupId>().unwrap();
        let path = |name: String| folder.path().join(name);
        for name in [id(1).to_string(), format!(".partial-{}", id(2)), format!(".deleting-{}", id(3))] {
            std::fs::create_dir(path(name)).unwrap();
        }
        std::fs::create_dir(path(".deleting-lost".into())).unwrap();
        std::fs::write(path(format!("{}.json", id(4))), "{}").unwrap();
        std::fs::write(path(format!("{}.index", id(5))), "").unwrap();
        std::fs::write(path(id(6).to_string()), "no snapshot").unwrap();
        assert_eq!(ids(folder.path()).unwrap(), [id(1)]);
        assert_eq!(deleting(folder.path()).unwrap(), [id(3)]);
        for second in 1..=6 {
            assert!(is_taken(folder.path(), &id(second)).unwrap(), "{second}");
        }
        assert!(!is_taken(folder.path(), &id(7)).unwrap());
        let missing = folder.path().join("missing");
        assert_eq!((ids(&missing).unwrap(), deleting(&missing).unwrap()), (vec![], vec![]));
    }
}
