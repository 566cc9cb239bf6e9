//! `hostd cluster-exec`: becomes a program of the cluster user that sees one cluster and none of the others.
//!
//! A process of its own, not a `pre_exec` hook: it has one thread, so every step is a safe call, and it can be tried by
//! hand. It unshares the mount namespace, puts the cluster's subvolume at its fixed place, hides the other clusters,
//! the backups and our secrets, gives up every privilege, and executes the program in its own place, so that the
//! process id that `hostd` knows is the program's.

use crate::scope;
use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Pid, Uid, User, getppid, setgroups, setresgid, setresuid};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// File systems in memory that a cluster has for itself, with their sizes. `/dev/shm` holds PostgreSQL's dynamic shared memory:
/// without parallel workers that is the statistics, some hundred bytes for each table.
const TEMPORARY: [(&str, &str); 2] =
    [("/tmp", "mode=1777,size=64m,nr_inodes=10k"), ("/dev/shm", "mode=1777,size=256m,nr_inodes=10k")];

/// Arguments of `hostd cluster-exec`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Subvolume that becomes /srv/cluster
    #[arg(long)]
    subvolume: PathBuf,
    /// Process whose end is the end of the program
    #[arg(long)]
    supervisor: i32,
    /// User to become
    #[arg(long)]
    user: String,
    /// Control group to enter first; without limits otherwise
    #[arg(long)]
    scope: Option<PathBuf>,
    /// Folder to hide; may be given several times
    #[arg(long)]
    hide: Vec<PathBuf>,
    /// Folder outside of the cluster that stays writable; may be given several times
    #[arg(long)]
    writable: Vec<PathBuf>,
    /// Without network
    #[arg(long)]
    no_network: bool,
    /// Program and its arguments
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// Sets up and executes; returns only on failure.
pub fn run(args: &Args) -> Result<std::convert::Infallible> {
    let user = User::from_name(&args.user)
        .with_context(|| format!("cannot look up user {}", args.user))?
        .with_context(|| format!("there is no user {}", args.user))?;
    // A cluster without limits is better than none.
    if let Some(Err(error)) = args.scope.as_deref().map(scope::enter) {
        eprintln!("hostd: a cluster runs without limits of memory and tasks: {error:#}");
    }
    // hostd is spared when memory runs out; a cluster, which the monitor's data can make large, is not.
    std::fs::write("/proc/self/oom_score_adj", "0").context("cannot set the OOM score")?;
    if args.no_network {
        unshare(CloneFlags::CLONE_NEWNET).context("cannot unshare the network namespace")?;
    }
    enter_namespace(&args.subvolume, &args.hide, &args.writable)?;
    give_up_privileges(user.uid, user.gid)?;
    die_with(Pid::from_raw(args.supervisor))?;
    let (program, arguments) = args.command.split_first().context("no program was given")?;
    let error = Command::new(program)
        .args(arguments)
        .env_clear()
        .env("LC_ALL", "C")
        // As pg_controldata writes times.
        .env("TZ", "UTC")
        .env("HOME", "/")
        .current_dir(replica::CLUSTER_ROOT)
        .exec();
    Err(error).with_context(|| format!("cannot execute {}", program.display()))
}

fn enter_namespace(subvolume: &Path, hide: &[PathBuf], writable: &[PathBuf]) -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("cannot unshare the mount namespace")?;
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .context("cannot make mounts private")?;
    let safe = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    // SQL of the monitor's database runs in a replica as its superuser, and writes wherever the cluster's user may: to volumes of
    // the machine that nothing limits, and to folders that the next backup would not have.
    read_only_everywhere(writable)?;
    // Bound before its parent is hidden.
    let cluster = Path::new(replica::CLUSTER_ROOT);
    let srv = cluster.parent().context("the cluster's place has a parent")?;
    let holder = tempfs_with(srv, cluster)?;
    mount(Some(subvolume), &holder, none, MsFlags::MS_BIND, none)
        .with_context(|| format!("cannot bind {} to {}", subvolume.display(), holder.display()))?;
    mount(none, &holder, none, MsFlags::MS_BIND | MsFlags::MS_REMOUNT | safe, none)
        .with_context(|| format!("cannot restrict {}", holder.display()))?;
    for (place, options) in TEMPORARY.iter().filter(|(place, _)| Path::new(place).is_dir()) {
        tmpfs(Path::new(place), options)?;
    }
    for place in hide.iter().filter(|place| place.is_dir()) {
        tmpfs(place, "mode=0555,size=4k")?;
    }
    Ok(())
}

/// Makes every mount read only from here, but for the folders in `writable`.
fn read_only_everywhere(writable: &[PathBuf]) -> Result<()> {
    let none: Option<&str> = None;
    for place in writable {
        mount(Some(place), place, none, MsFlags::MS_BIND, none)
            .with_context(|| format!("cannot bind {} to itself", place.display()))?;
    }
    let mounts = std::fs::read("/proc/self/mountinfo").context("cannot read /proc/self/mountinfo")?;
    for (place, flags) in parse_mounts(&mounts) {
        if writable.contains(&place) {
            continue;
        }
        let flags = flags | MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        match mount(none, &place, none, flags, none) {
            // Another mount covers it or its folder was removed, so nobody gets there, or it is another user's (FUSE), who
            // has not let root in.
            Ok(()) | Err(Errno::EINVAL | Errno::ENOENT | Errno::EACCES) => {}
            Err(error) => {
                return Err(error).with_context(|| format!("cannot make {} read only", place.display()));
            }
        }
    }
    Ok(())
}

/// Places and flags of mounts, from `/proc/self/mountinfo` (proc(5): the fifth field has `\040` for a blank and the like, the
/// sixth the flags of this mount).
fn parse_mounts(mountinfo: &[u8]) -> Vec<(PathBuf, MsFlags)> {
    const FLAGS: [(&[u8], MsFlags); 6] = [
        (b"nosuid", MsFlags::MS_NOSUID),
        (b"nodev", MsFlags::MS_NODEV),
        (b"noexec", MsFlags::MS_NOEXEC),
        (b"noatime", MsFlags::MS_NOATIME),
        (b"nodiratime", MsFlags::MS_NODIRATIME),
        (b"relatime", MsFlags::MS_RELATIME),
    ];
    let line = |line: &[u8]| {
        let mut fields = line.split(|byte| *byte == b' ').skip(4);
        let place = PathBuf::from(OsString::from_vec(unescape(fields.next()?)));
        let said = fields.next()?.split(|byte| *byte == b',');
        let flags =
            said.filter_map(|word| FLAGS.iter().find(|(name, _)| *name == word)).map(|(_, flag)| *flag);
        Some((place, flags.collect()))
    };
    mountinfo.split(|byte| *byte == b'\n').filter_map(line).collect()
}

/// `\ooo` is the byte of this octal number.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, after)) = rest.split_first() {
        let octal = after.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()).filter(|_| first == b'\\') {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[3..];
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    bytes
}

/// An empty file system on `parent` that has only `folder`.
fn tempfs_with(parent: &Path, folder: &Path) -> Result<PathBuf> {
    tmpfs(parent, "mode=0755,size=64k")?;
    std::fs::create_dir(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder.into())
}

fn tmpfs(place: &Path, options: &str) -> Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("tmpfs"), place, Some("tmpfs"), flags, Some(options))
        .with_context(|| format!("cannot mount a tmpfs on {}", place.display()))
}

fn give_up_privileges(uid: Uid, gid: Gid) -> Result<()> {
    setgroups(&[gid]).context("cannot drop supplementary groups")?;
    setresgid(gid, gid, gid).context("cannot change the group")?;
    setresuid(uid, uid, uid).context("cannot change the user")?;
    prctl::set_no_new_privs().context("cannot set no_new_privs")?;
    umask(Mode::S_IWGRP | Mode::S_IRWXO);
    Ok(())
}

/// No cluster outlives the process that supervises it. SIGKILL, as it is the one signal that also ends a process that is
/// stopped or hangs: hostd has stopped its clusters in order before, unless it was killed itself. What the program has
/// started is ended by the next hostd. To be called after the change of user, which would clear it.
fn die_with(supervisor: Pid) -> Result<()> {
    prctl::set_pdeathsig(Signal::SIGKILL).context("cannot set the parent death signal")?;
    // It may have ended before: then no signal comes.
    ensure!(getppid() == supervisor, "the process that supervises the cluster has ended");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_read_with_their_flags() {
        let text =
            b"36 35 98:0 /mnt1 /mnt\\0402 rw,noatime,nosuid master:1 - ext3 /dev/root rw,errors=continue\n\
                     37 35 0:5 / /dev rw,relatime - devtmpfs udev rw\n\
                     broken\n";
        let mounts = parse_mounts(text);
        assert_eq!(
            mounts,
            [
                ("/mnt 2".into(), MsFlags::MS_NOATIME | MsFlags::MS_NOSUID),
                ("/dev".into(), MsFlags::MS_RELATIME)
            ]
        );
        assert_eq!(unescape(b"a\\134b\\"), b"a\\b\\");
    }
}
