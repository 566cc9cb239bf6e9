//! Walking a directory tree in the order of the tar, with bounded memory.
//!
//! The order is that of whole paths by their bytes. All that lies below a folder `a` begins with `a/`, so it stands together;
//! but names with bytes below `/` come between the folder and what is in it (`a`, `a-b`, `a/x`). So a folder stands in the
//! sorted names of its parent twice: as itself, and with a slash as the place where its own names come.
//!
//! Of each folder on the way down, the walk holds names: as many of the next ones as fit in a budget that all of them share.
//! A folder that has more is read again for those that follow. Trade-off: folders of millions of files are read a few times,
//! and neither memory nor temporary files grow with their number.

use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Stat};

use crate::entry::{Entry, Kind};
use crate::{Error, beneath};

/// Memory for the names of all folders on the way down, in bytes.
pub(crate) const NAMES_BYTES: usize = 8 << 20;

/// The least that a folder gets of it.
const FOLDER_BYTES_MIN: usize = 32 << 10;

/// Gives all entries of the tree at `root` that `takes` says to `visit`, in the order of the tar, but for those with a path of
/// more than `path_max` bytes; returns how many things were left out.
pub(crate) fn walk(
    root: &Path,
    path_max: usize,
    names_bytes: usize,
    takes: impl Fn(&Entry) -> bool,
    mut visit: impl FnMut(Entry) -> Result<(), Error>,
) -> Result<u64, Error> {
    let fd = beneath::open_root(root).map_err(|source| failed("open", root.into(), source))?;
    let named = |(action, path, source): Failure| failed(action, root.join(OsStr::from_bytes(&path)), source);
    let mut skipped = 0;
    let mut folders = vec![Folder::open(&fd, Vec::new(), names_bytes).map_err(named)?];
    while let Some(mut folder) = folders.pop() {
        let used: usize = folders.iter().map(|above| above.names.bytes()).sum();
        let budget = (names_bytes.saturating_sub(used) / 2).max(FOLDER_BYTES_MIN);
        let Some(key) = folder.next(&fd, budget).map_err(named)? else { continue };
        let (name, is_below) = match key.split_last() {
            Some((b'/', name)) => (name, true),
            _ => (&key[..], false),
        };
        let path = join(&folder.path, name);
        let is_too_long = path.len() > path_max;
        if is_below && !is_too_long {
            folder.fd = None;
            folders.push(folder);
            let used: usize = folders.iter().map(|above| above.names.bytes()).sum();
            let budget = (names_bytes.saturating_sub(used) / 2).max(FOLDER_BYTES_MIN);
            folders.push(Folder::open(&fd, path, budget).map_err(named)?);
            continue;
        }
        if !is_below {
            match if is_too_long { Ok(None) } else { folder.examine(&fd, name, path) }.map_err(named)? {
                Some(entry) if takes(&entry) => visit(entry)?,
                _ => skipped += 1,
            }
        }
        folders.push(folder);
    }
    Ok(skipped)
}

type Failure = (&'static str, Vec<u8>, io::Error);

/// A folder on the way down.
struct Folder {
    path: Vec<u8>,
    /// Open while it is the deepest.
    fd: Option<OwnedFd>,
    names: Names,
}

impl Folder {
    fn open(root: &OwnedFd, path: Vec<u8>, budget: usize) -> Result<Self, Failure> {
        let mut folder = Self { path, fd: None, names: Names::default() };
        folder.read(root, Vec::new(), budget)?;
        Ok(folder)
    }

    /// Its next name; with a slash where what is in the folder of that name comes.
    fn next(&mut self, root: &OwnedFd, budget: usize) -> Result<Option<Vec<u8>>, Failure> {
        if self.names.is_used_up() && self.names.has_more {
            let last = std::mem::take(&mut self.names.last);
            self.read(root, last, budget)?;
        }
        Ok(self.names.next())
    }

    /// Reads the names that come after `last`, as many as the budget lets.
    fn read(&mut self, root: &OwnedFd, last: Vec<u8>, budget: usize) -> Result<(), Failure> {
        let fd = self.fd(root)?;
        let failed = |source: rustix::io::Errno| ("read directory", Vec::new(), source.into());
        let listing = Dir::read_from(fd).map_err(failed);
        let read = || -> Result<Names, Failure> {
            let mut names = Names::after(last, budget);
            for item in listing? {
                let item = item.map_err(failed)?;
                let name = item.file_name().to_bytes();
                if matches!(name, b"." | b"..") {
                    continue;
                }
                let kind = match item.file_type() {
                    FileType::Unknown => {
                        let stat = rustix::fs::statat(fd, item.file_name(), AtFlags::SYMLINK_NOFOLLOW);
                        FileType::from_raw_mode(stat.map_err(failed)?.st_mode)
                    }
                    known => known,
                };
                names.add(name, false);
                if kind == FileType::Directory {
                    names.add(name, true);
                }
            }
            names.sort();
            Ok(names)
        };
        let read = read();
        self.names = read.map_err(|(action, _, source)| (action, self.path.clone(), source))?;
        Ok(())
    }

    fn fd(&mut self, root: &OwnedFd) -> Result<&OwnedFd, Failure> {
        let fd = match self.fd.take() {
            Some(fd) => fd,
            None => beneath::open_directory(root, &self.path)
                .map_err(|source| ("open directory", self.path.clone(), source))?,
        };
        Ok(self.fd.insert(fd))
    }

    /// The entry of what has this name; `None`: it has no place in a tar.
    fn examine(&mut self, root: &OwnedFd, name: &[u8], path: Vec<u8>) -> Result<Option<Entry>, Failure> {
        let fd = self.fd(root)?;
        let name =
            CString::new(name).map_err(|_| ("examine", path.clone(), io::ErrorKind::InvalidInput.into()))?;
        let stat = rustix::fs::statat(fd, &name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| ("examine", path.clone(), e.into()))?;
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Kind::Directory,
            FileType::RegularFile => Kind::File(stat.st_size.try_into().unwrap_or(0)),
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(fd, &name, Vec::new())
                    .map_err(|e| ("read symbolic link", path.clone(), e.into()))?;
                Kind::Symlink(target.into_bytes().into())
            }
            _ => return Ok(None),
        };
        Ok(Some(Entry { path: path.into(), kind, mode: mode_bits(&stat), mtime: stat.st_mtime }))
    }
}

/// The next names of a folder, packed.
#[derive(Debug, Default)]
struct Names {
    /// All names one after the other.
    text: Vec<u8>,
    /// Where each begins in that, and its length; when they are sorted, the next one last.
    places: Vec<(u32, u16)>,
    /// Only names after this one are taken; then, the one that was given last.
    last: Vec<u8>,
    /// Only names before this one are taken, since some were dropped.
    before: Option<Vec<u8>>,
    /// There are names after these.
    has_more: bool,
    budget: usize,
}

impl Names {
    fn after(last: Vec<u8>, budget: usize) -> Self {
        Self { last, budget, ..Self::default() }
    }

    /// Memory that they take.
    fn bytes(&self) -> usize {
        self.text.capacity() + self.places.capacity() * size_of::<(u32, u16)>()
    }

    fn name(&self, place: (u32, u16)) -> &[u8] {
        let from = place.0 as usize;
        &self.text[from..from + usize::from(place.1)]
    }

    /// Takes a name, with a slash if `is_below`, unless it was given out before or comes too late.
    fn add(&mut self, name: &[u8], is_below: bool) {
        let from = self.text.len();
        self.text.extend_from_slice(name);
        if is_below {
            self.text.push(b'/');
        }
        let key = &self.text[from..];
        let is_late = self.before.as_deref().is_some_and(|before| key >= before);
        self.has_more |= is_late;
        // The system's names have 255 bytes at most, and the budget ends long before 2^32.
        let place = u32::try_from(from).ok().zip(u16::try_from(key.len()).ok());
        match place.filter(|_| !is_late && *key > *self.last) {
            Some(place) => self.places.push(place),
            None => self.text.truncate(from),
        }
        if self.text.len() + self.places.len() * size_of::<(u32, u16)>() > self.budget {
            self.halve();
        }
    }

    /// Drops the later half.
    fn halve(&mut self) {
        if self.places.len() < 2 {
            return;
        }
        let mut places = std::mem::take(&mut self.places);
        let half = places.len() / 2;
        let (_, first, _) =
            places.select_nth_unstable_by(half, |one, other| self.name(*one).cmp(self.name(*other)));
        let before = self.name(*first).to_vec();
        places.truncate(half);
        // They lie in the order in which they came, so each moves to the front.
        places.sort_unstable();
        let mut end = 0;
        for place in &mut places {
            let (from, length) = (place.0 as usize, usize::from(place.1));
            self.text.copy_within(from..from + length, end);
            place.0 = u32::try_from(end).unwrap_or(u32::MAX);
            end += length;
        }
        self.text.truncate(end);
        (self.places, self.before, self.has_more) = (places, Some(before), true);
    }

    fn sort(&mut self) {
        let mut places = std::mem::take(&mut self.places);
        places.sort_unstable_by(|one, other| self.name(*other).cmp(self.name(*one)));
        places.shrink_to_fit();
        self.places = places;
        self.text.shrink_to_fit();
    }

    fn is_used_up(&self) -> bool {
        self.places.is_empty()
    }

    fn next(&mut self) -> Option<Vec<u8>> {
        let place = self.places.pop()?;
        let name = self.name(place).to_vec();
        self.last.clone_from(&name);
        Some(name)
    }
}

fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    if directory.is_empty() { name.to_vec() } else { [directory, name].join(&b'/') }
}

#[allow(clippy::cast_possible_truncation)] // twelve bits remain
fn mode_bits(stat: &Stat) -> u16 {
    (stat.st_mode & 0o7777) as u16
}

pub(crate) fn failed(action: &'static str, path: PathBuf, source: io::Error) -> Error {
    Error::Tree { action, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn names_come_in_order_whatever_the_budget(
            names in prop::collection::btree_set(prop::collection::vec(b'-'..=b'0', 1..9), 0..200),
            budget in 0..3000_usize,
            seed: u64,
        ) {
            let names: Vec<_> = names
                .into_iter()
                .map(|name| name.into_iter().map(|byte| if byte == b'/' { b'1' } else { byte }).collect::<Vec<_>>())
                .collect::<std::collections::BTreeSet<_>>()
                .into_iter()
                .collect();
            let is_folder = |at: usize| seed.rotate_left(u32::try_from(at % 64).unwrap()) & 1 == 1;
            // In some order, as a folder gives them.
            let step = (seed as usize % 7) * 2 + 1;
            let mut order: Vec<usize> = (0..names.len()).collect();
            order.sort_by_key(|at| at.wrapping_mul(step) % names.len().max(1));
            let (mut last, mut found, mut reads) = (Vec::new(), Vec::new(), 0);
            loop {
                let mut some = Names::after(last, budget);
                for at in &order {
                    some.add(&names[*at], false);
                    if is_folder(*at) {
                        some.add(&names[*at], true);
                    }
                    prop_assert!(some.text.len() <= budget + 20 || some.places.len() <= 2);
                }
                some.sort();
                reads += 1;
                while let Some(name) = some.next() {
                    found.push(name);
                }
                last = some.last.clone();
                if !some.has_more {
                    break;
                }
                prop_assert!(reads < 1000);
            }
            let mut expected: Vec<_> = names.clone();
            expected.extend(names.iter().enumerate().filter(|(at, _)| is_folder(*at)).map(|(_, name)| {
                let mut below = name.clone();
                below.push(b'/');
                below
            }));
            expected.sort();
            prop_assert_eq!(found, expected);
        }
    }
}
