//! Making a copy of a backup ready to be started on its own (facts, "Starting a restored copy").
//!
//! The tree is a database's, perhaps a hostile one's: what is removed or written goes through no link. The server does it in
//! the clone's namespace as the clone's user; a restore as root, in a folder that is PostgreSQL's by then.

use crate::layout::OF_A_START;
use anyhow::{Context, Result};
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Disarms the tree below `root`: nobody's server runs in it, it holds back no WAL, and it starts as a standby, which
/// recovers at least to where it was consistent, and as nothing else afterwards. May be done again.
///
/// # Errors
/// Those of the file system.
pub fn disarm(root: &Path) -> Result<()> {
    let pgdata = root.join("pgdata");
    for name in OF_A_START {
        let path = pgdata.join(name);
        match fs::symlink_metadata(&path) {
            Ok(found) if found.is_dir() => files::remove_folder(&path)?,
            Ok(_) => drop(files::remove(&path)?),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("cannot look at {}", path.display())),
        }
    }
    // As a whole: a link in its place is removed itself, and so is one in it.
    let slots = pgdata.join("pg_replslot");
    let owner = fs::symlink_metadata(&pgdata).map(|pgdata| (pgdata.uid(), pgdata.gid()));
    let owner = owner.with_context(|| format!("cannot look at {}", pgdata.display()))?;
    files::remove_folder(&slots)?;
    files::folder(&slots, 0o700, owner)?;
    for name in ["postgresql.auto.conf", "standby.signal"] {
        files::write(&pgdata.join(name), b"", 0o600, Some(owner))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_outside_is_touched_through_a_link() {
        let root = tempfile::tempdir().unwrap();
        let (pgdata, outside) = (root.path().join("pgdata"), root.path().join("outside"));
        for folder in [&pgdata, &outside, &outside.join("kept")] {
            fs::create_dir_all(folder).unwrap();
        }
        fs::write(outside.join("file"), "kept").unwrap();
        std::os::unix::fs::symlink(&outside, pgdata.join("pg_replslot")).unwrap();
        std::os::unix::fs::symlink(outside.join("file"), pgdata.join("postgresql.auto.conf")).unwrap();
        disarm(root.path()).unwrap();
        assert_eq!(fs::read_to_string(outside.join("file")).unwrap(), "kept");
        assert!(outside.join("kept").is_dir() && pgdata.join("pg_replslot").is_dir());
        assert!(!pgdata.join("pg_replslot").is_symlink() && pgdata.join("standby.signal").is_file());
    }

    #[test]
    fn what_belongs_to_a_running_server_is_gone_and_it_is_a_standby() {
        let root = tempfile::tempdir().unwrap();
        let pgdata = root.path().join("pgdata");
        fs::create_dir_all(pgdata.join("pg_replslot/slot_1")).unwrap();
        fs::write(pgdata.join("pg_replslot/slot_1/state"), "x").unwrap();
        fs::write(pgdata.join("postmaster.pid"), "1").unwrap();
        fs::write(pgdata.join("recovery.signal"), "").unwrap();
        fs::create_dir_all(pgdata.join("promote/x")).unwrap();
        fs::write(pgdata.join("backup_label"), "kept").unwrap();
        for _ in 0..2 {
            disarm(root.path()).unwrap();
            let mut names: Vec<_> =
                fs::read_dir(&pgdata).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            assert_eq!(names, ["backup_label", "pg_replslot", "postgresql.auto.conf", "standby.signal"]);
            assert_eq!(fs::read_dir(pgdata.join("pg_replslot")).unwrap().count(), 0);
        }
    }
}
