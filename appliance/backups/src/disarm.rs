//! Making a copy of a backup ready to be started on its own (facts, "Starting a restored copy").
//!
//! The server does it in the clone's namespace as the clone's user, since the tree came from the monitor; a restore does it
//! with a tree in which it let no link but the tablespaces'.

use anyhow::{Context, Result};
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

/// Disarms the tree below `root`: nobody's server runs in it, it holds back no WAL, and it starts as a standby, which
/// recovers at least to where it was consistent. May be done again.
///
/// # Errors
/// Those of the file system.
pub fn disarm(root: &Path) -> Result<()> {
    let pgdata = root.join("pgdata");
    for name in ["postmaster.pid", "postmaster.opts"] {
        let path = pgdata.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", path.display()));
            }
            _ => {}
        }
    }
    let slots = pgdata.join("pg_replslot");
    for entry in fs::read_dir(&slots).with_context(|| format!("cannot read {}", slots.display()))? {
        let path = entry?.path();
        fs::remove_dir_all(&path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    for name in ["postgresql.auto.conf", "standby.signal"] {
        let path = pgdata.join(name);
        fs::write(&path, "").with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_belongs_to_a_running_server_is_gone_and_it_is_a_standby() {
        let root = tempfile::tempdir().unwrap();
        let pgdata = root.path().join("pgdata");
        fs::create_dir_all(pgdata.join("pg_replslot/slot_1")).unwrap();
        fs::write(pgdata.join("pg_replslot/slot_1/state"), "x").unwrap();
        fs::write(pgdata.join("postmaster.pid"), "1").unwrap();
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
