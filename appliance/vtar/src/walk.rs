//! Building an index from a directory tree.

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Stat};

use crate::beneath;
use crate::entry::{Entry, Index, Kind};
use crate::{Error, PATH_MAX};

impl Index {
    /// Records a directory tree, which must not change from now on (a read-only snapshot). Follows no symbolic
    /// links. The same tree always gives the same index. What has a path longer than [`PATH_MAX`] is left out.
    pub fn build(root: &Path) -> Result<Self, Error> {
        Self::build_up_to(root, PATH_MAX)
    }

    /// The same with another limit of a path's bytes.
    pub fn build_up_to(root: &Path, path_max: usize) -> Result<Self, Error> {
        let fd = beneath::open_root(root).map_err(|source| failed("open", root.into(), source))?;
        let mut entries = Vec::new();
        let mut skipped = 0;
        let mut waiting = vec![Vec::new()];
        while let Some(directory) = waiting.pop() {
            let first = entries.len();
            skipped += read_directory(&fd, &directory, path_max, &mut entries).map_err(
                |(action, path, source)| failed(action, root.join(OsStr::from_bytes(&path)), source),
            )?;
            let below = entries[first..].iter().filter(|entry| entry.kind == Kind::Directory);
            waiting.extend(below.map(|entry| entry.path.to_vec()));
        }
        // A directory's path is the beginning of what lies in it, so it always comes before.
        entries.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        let too_large = || failed("put into one tar", root.into(), io::ErrorKind::FileTooLarge.into());
        Self::place(entries, skipped).ok_or_else(too_large)
    }
}

type Failure = (&'static str, Vec<u8>, io::Error);

/// Adds what lies in one directory; returns how many things were left out.
fn read_directory(
    root: &OwnedFd,
    directory: &[u8],
    path_max: usize,
    entries: &mut Vec<Entry>,
) -> Result<u64, Failure> {
    let failed = |action, path: &[u8], source: io::Error| (action, path.to_vec(), source);
    let fd = beneath::open_directory(root, directory).map_err(|e| failed("open directory", directory, e))?;
    let listing = Dir::read_from(&fd).map_err(|e| failed("read directory", directory, e.into()))?;
    let mut skipped = 0;
    for item in listing {
        let item = item.map_err(|e| failed("read directory", directory, e.into()))?;
        let name = item.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let path = join(directory, name.to_bytes());
        if path.len() > path_max {
            skipped += 1;
            continue;
        }
        let stat = rustix::fs::statat(&fd, name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| failed("examine", &path, e.into()))?;
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Kind::Directory,
            FileType::RegularFile => Kind::File(stat.st_size.try_into().unwrap_or(0)),
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(&fd, name, Vec::new())
                    .map_err(|e| failed("read symbolic link", &path, e.into()))?;
                Kind::Symlink(target.into_bytes().into())
            }
            _ => {
                skipped += 1;
                continue;
            }
        };
        entries.push(Entry { path: path.into(), kind, mode: mode_bits(&stat), mtime: stat.st_mtime });
    }
    Ok(skipped)
}

fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    if directory.is_empty() { name.to_vec() } else { [directory, name].join(&b'/') }
}

#[allow(clippy::cast_possible_truncation)] // twelve bits remain
fn mode_bits(stat: &Stat) -> u16 {
    (stat.st_mode & 0o7777) as u16
}

fn failed(action: &'static str, path: PathBuf, source: io::Error) -> Error {
    Error::Tree { action, path, source }
}
