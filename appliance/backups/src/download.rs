//! A backup that is being downloaded stays: who sends it holds its tar index (a shared `flock`), who would delete it for
//! rotation has to have that for itself.
//!
//! A lock and no record: it ends with the process that holds it, however that ends, and the sender needs no right to
//! write anything.

use crate::{BackupId, index_path};
use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;

/// Holds a backup, by its opened tar index, until the file is closed. Waits while somebody looks whether it is held, or
/// deletes it: then its snapshot is gone afterwards.
pub fn hold(index: &File) -> io::Result<()> {
    index.lock_shared()
}

/// Downloads of a backup are kept from beginning as long as this lives.
#[derive(Debug)]
pub struct KeptOut(#[expect(dead_code, reason = "it is held, not used")] Option<File>);

/// Keeps downloads of a backup from beginning; `None`: one is under way.
pub fn keep_out(folder: &Path, id: &BackupId) -> io::Result<Option<KeptOut>> {
    let index = match File::open(index_path(folder, id)) {
        Ok(index) => index,
        // Without an index there is no tar.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Some(KeptOut(None))),
        Err(error) => return Err(error),
    };
    match index.try_lock() {
        Ok(()) => Ok(Some(KeptOut(Some(index)))),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_download_and_a_deletion_exclude_each_other() {
        let folder = tempfile::tempdir().unwrap();
        let id: BackupId = "20261123T205430Z".parse().unwrap();
        let path = index_path(folder.path(), &id);
        std::fs::write(&path, "index").unwrap();
        let (first, second) = (File::open(&path).unwrap(), File::open(&path).unwrap());
        hold(&first).unwrap();
        hold(&second).unwrap();
        drop(first);
        assert!(keep_out(folder.path(), &id).unwrap().is_none());
        drop(second);
        let deletion = keep_out(folder.path(), &id).unwrap().unwrap();
        let late = File::open(&path).unwrap();
        assert!(
            matches!(late.try_lock_shared(), Err(TryLockError::WouldBlock)),
            "it is deleted under a download"
        );
        std::thread::scope(|scope| {
            let download = scope.spawn(|| hold(&late));
            drop(deletion);
            download.join().unwrap().unwrap();
        });
        assert!(keep_out(folder.path(), &id).unwrap().is_none(), "a look at it turned a download away");
        std::fs::remove_file(&path).unwrap();
        assert!(keep_out(folder.path(), &id).unwrap().is_some(), "what has no index blocks rotation");
    }
}
