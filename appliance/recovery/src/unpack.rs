//! Unpacking a backup's tar beside the live data, so that it can be cut at any point and go on.
//!
//! What is unpacked came from a monitor's database, perhaps a hostile one, and is written by root: only what
//! [`backups::layout`] says is taken, the rest is passed over as a verification does, and the kernel itself refuses to leave
//! the folder or to follow a link on the way (openat2). Links are not taken over but made anew, as they are absolute.
//!
//! After a cut it goes on at the last point at which all before was on the disk. Each entry of our tars stands for itself
//! (no global pax headers), so every entry's beginning is such a point.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, anyhow};
use backups::layout::{self, Fate};
use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, ResolveFlags, Uid};
use tar::{Archive, EntryType};

use crate::Failure;
use crate::download::failure_of;

/// Between two points at which all is brought to the disk, in bytes.
const SYNC_BYTES: u64 = 128 << 20;
/// Granularity of a tar, in bytes.
const BLOCK: u64 = 512;
/// Permission bits that are taken over: the owner's, as initdb gives them. The backup server has opened its copy to its FTP;
/// PostgreSQL would refuse a key of its own that others may read.
const MODES: u32 = 0o700;

/// Where the parts of a backup go, and whose they are.
#[derive(Debug, Clone)]
pub struct Destination {
    /// The data directory.
    pub pgdata: PathBuf,
    /// A folder for the tablespaces: where they stay.
    pub tablespaces: PathBuf,
    /// User and group number of PostgreSQL.
    pub owner: (u32, u32),
}

impl Destination {
    /// The folder for the first component of a path in the tar.
    fn folder(&self, name: &str) -> Option<&Path> {
        match name {
            "pgdata" => Some(&self.pgdata),
            "tablespaces" => Some(&self.tablespaces),
            _ => None,
        }
    }
}

/// Unpacks the tar from byte `from` on, which must be the beginning of an entry; `reader` begins there.
///
/// `reached` is called with the offset up to which all is on the disk, from which another call may go on.
///
/// # Errors
/// The reader's, the disk's, `reached`'s, or [`Failure::Damaged`] for what no backup holds.
pub fn unpack(
    name: &str,
    reader: impl Read,
    from: u64,
    destination: &Destination,
    reached: impl FnMut(u64) -> anyhow::Result<()>,
) -> Result<(), Failure> {
    let mut source = Remembering { reader, error: None };
    let result = unpack_from(name, &mut source, from, destination, reached);
    // What the reader said counts more than what became of it on its way through the tar library.
    match source.error {
        Some(error) => Err(failure_of(error)),
        None => result,
    }
}

/// A reader that keeps its error.
struct Remembering<R> {
    reader: R,
    error: Option<io::Error>,
}

impl<R: Read> Read for Remembering<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reader.read(buffer).map_err(|error| {
            let kind = error.kind();
            if kind != io::ErrorKind::Interrupted {
                self.error = Some(error);
            }
            kind.into()
        })
    }
}

fn unpack_from(
    name: &str,
    reader: impl Read,
    from: u64,
    destination: &Destination,
    mut reached: impl FnMut(u64) -> anyhow::Result<()>,
) -> Result<(), Failure> {
    let no_tar = |error: io::Error| Failure::Damaged { name: name.into(), problem: error.to_string() };
    let mut archive = Archive::new(reader);
    let (mut done, mut synced) = (from, from);
    for entry in archive.entries().map_err(no_tar)? {
        let mut entry = entry.map_err(no_tar)?;
        write_entry(name, &mut entry, destination)?;
        let end = entry.raw_file_position() + entry.size().next_multiple_of(BLOCK);
        done = from + end;
        if done - synced >= SYNC_BYTES {
            sync(destination)?;
            reached(done)?;
            synced = done;
        }
    }
    sync(destination)?;
    reached(done)?;
    Ok(())
}

fn write_entry(name: &str, entry: &mut tar::Entry<'_, impl Read>, to: &Destination) -> Result<(), Failure> {
    let damaged = |problem: String| Failure::Damaged { name: name.into(), problem };
    let bytes = entry.path_bytes().into_owned();
    let path = Path::new(std::ffi::OsStr::from_bytes(&bytes)).to_owned();
    let refused = || damaged(format!("it holds {}, which no backup has", path.display()));
    let (top, rest) = split(&path).ok_or_else(refused)?;
    let kind = entry.header().entry_type();
    let target = entry.link_name_bytes().unwrap_or_default().into_owned();
    let found = match kind {
        EntryType::Directory => layout::Kind::Folder,
        EntryType::Regular => layout::Kind::File,
        EntryType::Symlink => layout::Kind::Link(Path::new(std::ffi::OsStr::from_bytes(&target))),
        _ => return Err(refused()),
    };
    let oid = match layout::fate(&path, found) {
        Fate::Taken => None,
        Fate::Tablespace(oid) => Some(oid),
        Fate::LeftOut => return Ok(()),
        Fate::Outside(oid) => return Err(damaged(layout::outside(oid))),
    };
    // The mark of a restore before.
    if top == layout::FOLDERS[0] && rest == Path::new(crate::swap::MARK) {
        return Ok(());
    }
    let folder = to.folder(top).ok_or_else(refused)?;
    let here = |action: &str| format!("cannot {action} {}", folder.join(rest).display());
    let mode =
        Mode::from_raw_mode(entry.header().mode().map_err(|error| damaged(error.to_string()))? & MODES);
    let (parent, last) = match (rest.parent(), rest.file_name()) {
        (Some(parent), Some(last)) => {
            (beneath(folder, parent).with_context(|| here("open the folder of"))?, last)
        }
        _ if kind == EntryType::Directory => {
            make_folder(CWD, folder, mode, to.owner).with_context(|| here("make"))?;
            return Ok(());
        }
        _ => return Err(refused()),
    };
    match kind {
        EntryType::Directory => {
            make_folder(&parent, Path::new(last), mode, to.owner).with_context(|| here("make"))?;
        }
        EntryType::Regular => {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = rustix::fs::openat(&parent, last, flags, Mode::RUSR | Mode::WUSR)
                .with_context(|| here("make"))?;
            let mut file = File::from(file);
            copy(entry, &mut file).map_err(|trouble| match trouble {
                Copy::Read(error) => damaged(error.to_string()),
                Copy::Write(error) => Failure::Here(anyhow::Error::from(error).context(here("write"))),
            })?;
            own(&file, mode, to.owner).with_context(|| here("give PostgreSQL"))?;
        }
        EntryType::Symlink => {
            let oid = oid.ok_or_else(refused)?;
            let place = to.tablespaces.join(oid.to_string());
            match rustix::fs::unlinkat(&parent, last, AtFlags::empty()) {
                Err(error) if error != rustix::io::Errno::NOENT => {
                    return Err(Failure::Here(anyhow!(error).context(here("replace"))));
                }
                _ => {}
            }
            rustix::fs::symlinkat(&place, &parent, last).with_context(|| here("make"))?;
            let (user, group) = ids(to.owner);
            rustix::fs::chownat(&parent, last, user, group, AtFlags::SYMLINK_NOFOLLOW)
                .with_context(|| here("give PostgreSQL"))?;
        }
        _ => return Err(refused()),
    }
    Ok(())
}

/// The first component of a path and the rest, where all of it is made of plain names.
fn split(path: &Path) -> Option<(&str, &Path)> {
    let mut components = path.components();
    let Some(Component::Normal(top)) = components.next() else { return None };
    let rest = components.as_path();
    let is_plain = rest.components().all(|component| matches!(component, Component::Normal(_)));
    is_plain.then_some((top.to_str()?, rest))
}

fn beneath(folder: &Path, path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let top = rustix::fs::openat(CWD, folder, flags, Mode::empty())?;
    if path.as_os_str().is_empty() {
        return Ok(top);
    }
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    Ok(rustix::fs::openat2(&top, path, flags, Mode::empty(), resolve)?)
}

fn make_folder(parent: impl AsFd, name: &Path, mode: Mode, owner: (u32, u32)) -> io::Result<()> {
    match rustix::fs::mkdirat(&parent, name, Mode::RWXU) {
        Err(error) if error != rustix::io::Errno::EXIST => return Err(error.into()),
        _ => {}
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    own(rustix::fs::openat(&parent, name, flags, Mode::empty())?, mode, owner)
}

fn own(file: impl AsFd, mode: Mode, owner: (u32, u32)) -> io::Result<()> {
    let (user, group) = ids(owner);
    rustix::fs::fchown(&file, user, group)?;
    Ok(rustix::fs::fchmod(&file, mode)?)
}

fn ids((user, group): (u32, u32)) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(user)), Some(Gid::from_raw(group)))
}

/// Which side of a copy failed: they mean different things.
enum Copy {
    Read(io::Error),
    Write(io::Error),
}

fn copy(reader: &mut impl Read, writer: &mut impl io::Write) -> Result<(), Copy> {
    let mut piece = vec![0; 256 << 10];
    loop {
        match reader.read(&mut piece).map_err(Copy::Read)? {
            0 => return Ok(()),
            count => writer.write_all(&piece[..count]).map_err(Copy::Write)?,
        }
    }
}

/// Brings all that was written to the disk.
fn sync(to: &Destination) -> anyhow::Result<()> {
    for folder in [&to.pgdata, &to.tablespaces] {
        match File::open(folder) {
            Ok(folder) => rustix::fs::syncfs(&folder).context("cannot bring the files to the disk")?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("cannot open {}", folder.display())),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_paths_are_taken_apart() {
        for (path, expected) in [
            ("pgdata", Some(("pgdata", ""))),
            ("pgdata/", Some(("pgdata", ""))),
            ("pgdata/base/1", Some(("pgdata", "base/1"))),
            ("/pgdata", None),
            ("../pgdata", None),
            ("pgdata/../x", None),
            ("", None),
        ] {
            assert_eq!(split(Path::new(path)), expected.map(|(top, rest)| (top, Path::new(rest))), "{path}");
        }
    }
}
