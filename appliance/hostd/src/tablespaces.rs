//! Where a cluster's tablespaces lie.
//!
//! Replay makes a tablespace wherever the monitor has it, if there is such a folder in the replica's sandbox. Its files would
//! be in no backup, and a restore refuses one with such a link, so it is to be known before a backup is made.

use anyhow::{Context, Result};
use backups::layout::{self, Fate, Kind};
use std::io::ErrorKind;
use std::path::Path;

/// Links that are looked at. A cluster with more has a superuser who makes them on purpose.
const MOST: usize = 10_000;

/// What is wrong with the cluster in `subvolume` if one of its tablespaces lies outside, as a sentence without full stop.
///
/// # Errors
/// It cannot be read.
pub fn outside(subvolume: &Path) -> Result<Option<String>> {
    let folder = subvolume.join("pgdata/pg_tblspc");
    let cannot = || format!("cannot look through {}", folder.display());
    let entries = match std::fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(cannot),
    };
    for (number, entry) in entries.enumerate() {
        let entry = entry.with_context(cannot)?;
        if number >= MOST {
            return Ok(Some(format!(
                "the cluster has more than {MOST} tablespaces, and not all can be looked at"
            )));
        }
        if !entry.file_type().with_context(cannot)?.is_symlink() {
            continue;
        }
        let target = match std::fs::read_link(entry.path()) {
            Ok(target) => target,
            // It was dropped meanwhile.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(error).with_context(cannot),
        };
        let path = Path::new("pgdata/pg_tblspc").join(entry.file_name());
        if let Fate::Outside(oid) = layout::fate(&path, Kind::Link(&target)) {
            return Ok(Some(layout::outside(oid)));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_tablespace_elsewhere_is_found() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(outside(root.path()).unwrap(), None);
        let links = root.path().join("pgdata/pg_tblspc");
        std::fs::create_dir_all(links.join("16399")).unwrap();
        symlink("/srv/cluster/tablespaces/16400", links.join("16400")).unwrap();
        symlink("/etc", links.join("no oid")).unwrap();
        assert_eq!(outside(root.path()).unwrap(), None);
        symlink("/proc/self/cwd/base", links.join("16401")).unwrap();
        assert!(outside(root.path()).unwrap().unwrap().contains("tablespace 16401 lies outside"));
    }
}
