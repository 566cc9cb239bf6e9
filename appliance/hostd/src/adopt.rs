//! `hostd adopt`: turns a fresh base backup into a replica under our configuration (design D7); `hostd arm`: has the
//! replica's next start go our way, whatever was written there since.
//!
//! Both run in the cluster's namespace as the cluster user: the tree came from the monitor, and whatever its links and
//! names do, they do it without privileges and with nothing else in sight.

use anyhow::{Context, Result};
use backups::layout::OF_A_START;
use std::fs::{self, Permissions};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Files that a data directory may bring and that PostgreSQL would read or act on. They go: a restore has the monitor's
/// from the manifest, as they were last and without passwords. The lock of a running server stays, since PostgreSQL
/// itself tells whether that server still runs.
pub fn foreign() -> impl Iterator<Item = &'static str> {
    OF_A_START.into_iter().filter(|name| *name != "postmaster.pid")
}

/// Bytes of a lock file that are looked at: the process's number is in its first line.
const LOCK_MAX: u64 = 4096;

/// Folders and files: the group may read, nobody else anything (design D14: FTP reads snapshots by group).
const FOLDER_MODE: u32 = 0o750;
const FILE_MODE: u32 = 0o640;

/// Adopts the tree below `root`, that is `pgdata/` and `tablespaces/`.
pub fn run(root: &Path) -> Result<()> {
    arm(root)?;
    grant_group_read(root)
}

/// Makes the data directory below `root` a standby's that has no settings of its own. SQL of the replicated database may
/// have written there: `COPY … TO` and `ALTER SYSTEM` write files, and what was granted came with the database.
pub fn arm(root: &Path) -> Result<()> {
    let pgdata = root.join("pgdata");
    for name in foreign() {
        remove(&pgdata.join(name))?;
    }
    remove_spoilt_lock(&pgdata.join("postmaster.pid"))?;
    // It would be read after config_file, whatever that says.
    for name in ["postgresql.auto.conf", "standby.signal"] {
        files::write(&pgdata.join(name), b"", FILE_MODE, None)?;
    }
    Ok(())
}

/// Removes a lock file that names no process: PostgreSQL would refuse to start at it for ever. One that does stays, as
/// PostgreSQL itself tells whether that process still uses the data directory.
fn remove_spoilt_lock(path: &Path) -> Result<()> {
    let mut text = String::new();
    let read =
        files::open_no_link(path).and_then(|file| Ok(file.take(LOCK_MAX).read_to_string(&mut text)?));
    let names_a_process =
        read.is_ok() && text.lines().next().is_some_and(|line| line.parse::<u32>().is_ok_and(|pid| pid > 0));
    if names_a_process || fs::symlink_metadata(path).is_err() { Ok(()) } else { remove(path) }
}

/// Removes what has this name, a link itself, a folder as a whole.
fn remove(path: &Path) -> Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => files::remove_folder(path),
        _ => files::remove(path).map(drop),
    }
}

/// Opens the tree to the group, before the first start: PostgreSQL takes the mode of new files from the folder's.
/// Symbolic links are left alone and not followed. So is what lies deeper than PostgreSQL goes: no backup has it.
fn grant_group_read(root: &Path) -> Result<()> {
    for entry in files::tree(root, |_| true) {
        let entry = entry.with_context(|| format!("cannot look through {}", root.display()))?;
        if entry.file_type().is_dir() {
            set_mode(entry.path(), FOLDER_MODE)?;
        } else if entry.file_type().is_file() {
            set_mode(entry.path(), FILE_MODE)?;
        }
    }
    Ok(())
}

fn set_mode(path: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(path, Permissions::from_mode(mode))
        .with_context(|| format!("cannot set the mode of {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn what_is_too_deep_to_be_adopted_is_in_no_backup() {
        assert_eq!(files::PATH_MAX, vtar::PATH_MAX);
    }

    #[test]
    fn foreign_configuration_goes_and_links_are_left_alone() {
        let root = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        fs::set_permissions(outside.path(), Permissions::from_mode(0o700)).unwrap();
        let pgdata = root.path().join("pgdata");
        fs::create_dir_all(pgdata.join("base")).unwrap();
        fs::write(pgdata.join("base/1"), "x").unwrap();
        fs::set_permissions(pgdata.join("base/1"), Permissions::from_mode(0o600)).unwrap();
        for name in foreign() {
            fs::write(pgdata.join(name), "archive_cleanup_command = 'sh'").unwrap();
        }
        symlink(outside.path(), pgdata.join("link")).unwrap();
        let link = pgdata.join("standby.signal");
        fs::remove_file(&link).unwrap();
        symlink(outside.path().join("written"), &link).unwrap();
        run(root.path()).unwrap();
        assert!(!outside.path().join("written").exists() && !link.is_symlink());
        // SQL of the replica has written again, a folder among it.
        fs::write(pgdata.join("postgresql.auto.conf"), "primary_conninfo = 'host=elsewhere'").unwrap();
        fs::remove_file(&link).unwrap();
        fs::create_dir_all(pgdata.join("recovery.signal/x")).unwrap();
        for (lock, stays) in
            [("17\n/srv/cluster/pgdata\n", true), ("x\n", false), ("", false), ("0\n", false)]
        {
            fs::write(pgdata.join("postmaster.pid"), lock).unwrap();
            arm(root.path()).unwrap();
            assert_eq!(pgdata.join("postmaster.pid").exists(), stays, "{lock:?}");
        }
        assert_eq!(fs::read_to_string(pgdata.join("postgresql.auto.conf")).unwrap(), "");
        assert_eq!(fs::read_to_string(pgdata.join("standby.signal")).unwrap(), "");
        assert!(!pgdata.join("recovery.signal").exists());
        assert!(!pgdata.join("postgresql.conf").exists());
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&pgdata), 0o750);
        assert_eq!(mode(&pgdata.join("base/1")), 0o640);
        assert_eq!(mode(outside.path()), 0o700);
    }
}
