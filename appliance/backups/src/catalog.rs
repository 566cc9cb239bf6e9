//! The list of a monitor's backups, read from the folder itself: there is no second record that could disagree.

use crate::{BackupId, read_manifest};
use api::Backup;
use std::io;
use std::path::Path;
use uuid::Uuid;

/// What a snapshot is called until its index and manifest are beside it; left behind by a power cut, it is deleted at
/// the next start.
pub const PARTIAL_PREFIX: &str = ".partial-";

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

/// Lists the backups in a monitor's folder, newest first. A folder that does not exist has none.
///
/// # Errors
/// Those of reading the folder; a backup that cannot be read is an [`Entry::Damaged`].
pub fn list(folder: &Path) -> io::Result<Vec<Entry>> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut ids = Vec::new();
    for entry in entries {
        let entry = entry?;
        let id = entry.file_name().to_str().and_then(|name| name.parse::<BackupId>().ok());
        if let Some(id) = id
            && entry.file_type()?.is_dir()
        {
            ids.push(id);
        }
    }
    ids.sort();
    Ok(ids
        .into_iter()
        .rev()
        .map(|id| match read_manifest(folder, &id) {
            Ok(manifest) => Entry::Complete(Box::new(manifest.backup)),
            Err(error) => Entry::Damaged { id, problem: error.to_string() },
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::tests::manifest;
    use crate::write_manifest;

    #[test]
    fn every_snapshot_is_listed_newest_first_and_damage_is_shown() {
        let folder = tempfile::tempdir().unwrap();
        for id in ["20261123T205430Z", "20261123T205430Z-2", "20261124T000000Z"] {
            std::fs::create_dir(folder.path().join(id)).unwrap();
        }
        for id in ["20261123T205430Z", "20261124T000000Z"] {
            write_manifest(folder.path(), &manifest(id), None).unwrap();
        }
        std::fs::create_dir(folder.path().join(format!("{PARTIAL_PREFIX}20261125T000000Z"))).unwrap();
        let entries = list(folder.path()).unwrap();
        let ids: Vec<_> = entries.iter().map(Entry::id).collect();
        assert_eq!(ids, ["20261124T000000Z", "20261123T205430Z-2", "20261123T205430Z"]);
        assert!(matches!(&entries[1], Entry::Damaged { problem, .. } if problem.contains("No such file")));
    }

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
    fn no_folder_means_no_backups() {
        assert_eq!(list(Path::new("/nonexistent/x")).unwrap(), []);
    }
}
