//! Ending what still runs in a cluster that is over: in the clone of a backup, or in any cluster of an earlier hostd.
//!
//! A server that is killed leaves backends that end when they look for it. A query of the database's making need not look,
//! and a process that is stopped cannot. All see their cluster at one place of their own mount namespace, which they
//! cannot leave; by that they are known.

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Time between two looks.
const POLL: Duration = Duration::from_millis(50);
/// Looks after which a process that does not end is given up.
const LOOKS: u32 = 200;

/// Kills every process whose cluster is the subvolume `folder` of the volume at `data`, or lies below that folder, and waits
/// for their end.
///
/// # Errors
/// One does not end, or they cannot be told.
pub async fn end(data: &Path, folder: &Path) -> Result<()> {
    let own = fs::read_to_string("/proc/self/mountinfo").context("cannot read the mounts")?;
    let place = place(&own, data, folder).context("the data volume is not mounted")?;
    end_in(&place, folder).await
}

/// Kills what an earlier hostd, or this one, has left in any cluster of the volume at `data`. Where the volume is not
/// mounted nothing is told of its clusters; systemd has killed them then, as they are in hostd's control group.
///
/// # Errors
/// One does not end, or they cannot be told.
pub async fn end_all(data: &Path) -> Result<()> {
    let own = fs::read_to_string("/proc/self/mountinfo").context("cannot read the mounts")?;
    match place(&own, data, data) {
        Some(place) => end_in(&place, data).await,
        None => Ok(()),
    }
}

async fn end_in(place: &Place, folder: &Path) -> Result<()> {
    for _ in 0..LOOKS {
        let found = processes(place)?;
        if found.is_empty() {
            return Ok(());
        }
        for process in found {
            match kill(process, Signal::SIGKILL) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(error) => return Err(error).with_context(|| format!("cannot kill process {process}")),
            }
        }
        tokio::time::sleep(POLL).await;
    }
    let found = processes(place)?;
    ensure!(found.is_empty(), "processes {found:?} in {} were killed and do not end", folder.display());
    Ok(())
}

/// A folder of a file system, as mountinfo names it.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    source: String,
    root: PathBuf,
}

/// A line of mountinfo (proc_pid_mountinfo(5)): what is mounted, and where.
fn mounted(line: &str) -> Option<(Place, &str)> {
    let (mount, file_system) = line.split_once(" - ")?;
    let mut mount = mount.split(' ').skip(3);
    let (root, at) = (mount.next()?, mount.next()?);
    let source = file_system.split(' ').nth(1)?;
    Some((Place { source: source.to_owned(), root: root.into() }, at))
}

/// The device that is mounted at `mount_point`.
pub fn device(mountinfo: &str, mount_point: &Path) -> Option<PathBuf> {
    mounted_at(mountinfo, mount_point).map(|volume| volume.source.into())
}

/// The last one that is mounted there, which hides those before.
fn mounted_at(mountinfo: &str, mount_point: &Path) -> Option<Place> {
    let mut lines = mountinfo.lines().rev().filter_map(mounted);
    lines.find(|(_, at)| Path::new(at) == mount_point).map(|(place, _)| place)
}

/// Where `folder`, which is below `mount_point`, is on its file system.
fn place(mountinfo: &str, mount_point: &Path, folder: &Path) -> Option<Place> {
    let below = folder.strip_prefix(mount_point).ok()?;
    let volume = mounted_at(mountinfo, mount_point)?;
    Some(Place { root: volume.root.join(below), ..volume })
}

fn processes(place: &Place) -> Result<Vec<Pid>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").context("cannot list the processes")? {
        let name = entry.context("cannot list the processes")?.file_name();
        let Some(process) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        // One that has ended meanwhile has none any more.
        let mountinfo = fs::read_to_string(format!("/proc/{process}/mountinfo")).unwrap_or_default();
        if sees(&mountinfo, place) {
            found.push(Pid::from_raw(process));
        }
    }
    Ok(found)
}

fn sees(mountinfo: &str, place: &Place) -> bool {
    let is_in = |seen: &Place| seen.source == place.source && seen.root.starts_with(&place.root);
    mountinfo.lines().filter_map(mounted).any(|(seen, at)| at == replica::CLUSTER_ROOT && is_in(&seen))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_the_clone_that_it_sees() {
        let own = "22 1 0:20 / / rw - ext4 /dev/vda rw\n\
                   40 22 0:35 / /data rw,noatime shared:7 - btrfs /dev/sda9 rw,subvolid=5\n\
                   41 22 0:35 /sub /other rw - btrfs /dev/sda9 rw";
        let clone = place(own, Path::new("/data"), Path::new("/data/verification/a")).unwrap();
        let all = place(own, Path::new("/data"), Path::new("/data")).unwrap();
        assert_eq!(clone, Place { source: "/dev/sda9".into(), root: "/verification/a".into() });
        assert_eq!(place(own, Path::new("/other"), Path::new("/other/a")).unwrap().root, Path::new("/sub/a"));
        assert_eq!(place(own, Path::new("/none"), Path::new("/none/a")), None);
        let line =
            |root: &str, at: &str, source: &str| format!("50 49 0:35 {root} {at} rw - btrfs {source} rw\n");
        for (line, expected) in [
            (line("/verification/a", "/srv/cluster", "/dev/sda9"), (true, true)),
            (line("/verification/b", "/srv/cluster", "/dev/sda9"), (false, true)),
            (line("/verification/ab", "/srv/cluster", "/dev/sda9"), (false, true)),
            (line("/verification/a", "/srv/cluster", "/dev/sdb9"), (false, false)),
            (line("/verification/a", "/mnt", "/dev/sda9"), (false, false)),
            (String::new(), (false, false)),
        ] {
            assert_eq!((sees(&line, &clone), sees(&line, &all)), expected, "{line}");
        }
    }
}
