//! Trees that came from elsewhere: looking through them and removing them, however deep they are.
//!
//! A monitor may send folders in folders without end (design D7). Recursion would use up the stack, and paths get too
//! long for a system call. PostgreSQL itself uses no path longer than [`PATH_MAX`] in a data directory, so what lies deeper is not its own:
//! it is passed over when a tree is looked through. Removing takes all of it.

use anyhow::{Context, Result};
use rustix::fs::{AtFlags, CWD, Dir, DirEntry, FileType, Mode, OFlags, openat, renameat, unlinkat};
use rustix::io::Errno;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// Longest path below the root of a tree that is looked at, in bytes. PostgreSQL takes no path of more than
/// 1023 bytes (`MAXPGPATH`), of which the half is left for where the data directory is.
pub const PATH_MAX: usize = 512;

/// What is in the tree at `root`, itself first, as far as `enters` lets it; links are not followed, nor is anything looked
/// at whose path below the root is longer than [`PATH_MAX`]. Memory and open files do not grow with the depth.
pub fn tree(
    root: &Path,
    mut enters: impl FnMut(&Path) -> bool,
) -> impl Iterator<Item = walkdir::Result<walkdir::DirEntry>> {
    let most = root.as_os_str().len() + 1 + PATH_MAX;
    let entries = walkdir::WalkDir::new(root).follow_links(false).follow_root_links(false).into_iter();
    entries.filter_entry(move |entry| entry.path().as_os_str().len() <= most && enters(entry.path()))
}

/// Removes a folder with all that is in it, if it is there. Links are not followed, and one in its place is removed. The depth is without limit: what lies
/// deeper is moved up, so no path gets long and no more than two folders are open.
///
/// # Errors
/// It is there and cannot be removed.
pub fn remove_folder(path: &Path) -> Result<()> {
    let remove = || -> io::Result<()> {
        let root = match open(CWD, path) {
            Err(Errno::NOENT) => return Ok(()),
            // A link in its place is removed itself.
            Err(Errno::NOTDIR | Errno::LOOP) if path.is_symlink() => return std::fs::remove_file(path),
            opened => opened?,
        };
        let mut moved = 0;
        while empty(&root, &mut moved)? {}
        std::fs::remove_dir(path)
    };
    remove().with_context(|| format!("cannot remove {}", path.display()))
}

/// Removes the files of `root` and of its folders, and the folders; folders below those are moved up into `root`. Gives
/// whether there is more to do.
fn empty(root: &OwnedFd, moved: &mut u64) -> rustix::io::Result<bool> {
    let mut is_left = false;
    for entry in Dir::read_from(root)? {
        let Some((name, is_folder)) = named(root, &entry?)? else { continue };
        if !is_folder {
            unlinkat(root, &name, AtFlags::empty())?;
            continue;
        }
        let folder = open(root, &name)?;
        for entry in Dir::read_from(&folder)? {
            let Some((below, is_folder)) = named(&folder, &entry?)? else { continue };
            if !is_folder {
                unlinkat(&folder, &below, AtFlags::empty())?;
                continue;
            }
            // Most are empty, or hold files alone and get empty in the next round.
            loop {
                *moved += 1;
                match renameat(&folder, &below, root, format!(".removed-{moved}")) {
                    // A folder of that name that is not empty is the tree's own.
                    Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => {}
                    done => break done?,
                }
            }
            is_left = true;
        }
        unlinkat(root, &name, AtFlags::REMOVEDIR)?;
    }
    Ok(is_left)
}

/// The name of an entry, and whether it is a folder; `None` for the folder itself and the one above.
fn named(folder: &OwnedFd, entry: &DirEntry) -> rustix::io::Result<Option<(CString, bool)>> {
    let name = entry.file_name();
    if matches!(name.to_bytes(), b"." | b"..") {
        return Ok(None);
    }
    let kind = match entry.file_type() {
        FileType::Unknown => {
            FileType::from_raw_mode(rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?.st_mode)
        }
        known => known,
    };
    Ok(Some((name.to_owned(), kind == FileType::Directory)))
}

fn open(folder: impl AsFd, path: impl rustix::path::Arg) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(folder, path, flags, Mode::empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::mkdirat;
    use std::fs;

    /// Folders of one name in each other, with a file in the deepest.
    fn deep(root: &Path, name: &str, levels: u32) {
        let mut folder = open(CWD, root).unwrap();
        for _ in 0..levels {
            mkdirat(&folder, name, Mode::RWXU).unwrap();
            folder = open(&folder, name).unwrap();
        }
        openat(&folder, "file", OFlags::CREATE | OFlags::WRONLY, Mode::RUSR).unwrap();
    }

    #[test]
    fn a_tree_is_looked_through_as_deep_as_postgresql_goes() {
        let root = tempfile::tempdir().unwrap();
        deep(root.path(), "d", 3000);
        fs::write(root.path().join("beside"), "x").unwrap();
        let entries: Vec<_> = tree(root.path(), |_| true).collect::<Result<_, _>>().unwrap();
        // The root, 256 folders ("d/d/…" of 511 bytes), one file.
        assert_eq!(entries.len(), 1 + 256 + 1);
        assert_eq!(crate::bytes_below(root.path(), None).unwrap(), 1);
        remove_folder(root.path()).unwrap();
    }

    #[test]
    fn a_folder_is_removed_however_deep_it_is() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("kept"), "").unwrap();
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("tree");
        fs::create_dir_all(path.join("a/b")).unwrap();
        deep(&path.join("a"), "d", 3000);
        deep(&path, ".removed-1", 5);
        deep(&path, &"n".repeat(255), 40);
        fs::write(path.join(".removed-2"), "").unwrap();
        std::os::unix::fs::symlink(outside.path(), path.join("a/link")).unwrap();
        remove_folder(&path).unwrap();
        assert!(!path.exists() && outside.path().join("kept").exists());
        remove_folder(&path).unwrap();
        fs::write(&path, "no folder").unwrap();
        assert!(remove_folder(&path).is_err());
        std::os::unix::fs::symlink(outside.path(), root.path().join("link")).unwrap();
        remove_folder(&root.path().join("link")).unwrap();
        assert!(!root.path().join("link").is_symlink());
        assert!(outside.path().join("kept").exists());
    }
}
