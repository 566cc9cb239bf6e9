//! `hostd cluster-exec`: becomes a program of the cluster user that sees one cluster and none of the others.
//!
//! A process of its own, not a `pre_exec` hook: it has one thread, so every step is a safe call, and it can be tried by
//! hand. It unshares the mount namespace, puts the cluster's subvolume at its fixed place, hides the other clusters,
//! the backups and our secrets, gives up every privilege, and executes the program in its own place, so that the
//! process id that `hostd` knows is the program's.

use crate::scope;
use anyhow::{Context, Result, ensure};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Pid, Uid, User, getppid, setgroups, setresgid, setresuid};
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// File systems in memory that a cluster has for itself, with their sizes. `/dev/shm` holds PostgreSQL's dynamic shared memory:
/// without parallel workers that is the statistics, some hundred bytes for each table.
const TEMPORARY: [(&str, &str); 2] =
    [("/tmp", "mode=1777,size=64m,nr_inodes=10k"), ("/dev/shm", "mode=1777,size=256m,nr_inodes=10k")];

/// Where else any user may write: nothing limits that, and `/var/tmp` is on the volume of the machine's state.
const WRITABLE: [&str; 3] = ["/var/tmp", "/run/lock", "/dev/mqueue"];

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
    /// Without network, and with nothing to write to but the cluster
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
    enter_namespace(&args.subvolume, &args.hide, args.no_network)?;
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

fn enter_namespace(subvolume: &Path, hide: &[PathBuf], read_only: bool) -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("cannot unshare the mount namespace")?;
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .context("cannot make mounts private")?;
    let safe = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
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
    for place in WRITABLE.iter().map(Path::new).filter(|place| read_only && place.is_dir()) {
        bind_read_only(place)?;
    }
    for place in hide.iter().filter(|place| place.is_dir()) {
        tmpfs(place, "mode=0555,size=4k")?;
    }
    Ok(())
}

/// Has `place` and what is below it read only from here, mounts below it aside: those are not seen any more.
fn bind_read_only(place: &Path) -> Result<()> {
    let none: Option<&str> = None;
    mount(Some(place), place, none, MsFlags::MS_BIND, none)
        .with_context(|| format!("cannot bind {} to itself", place.display()))?;
    let flags =
        MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(none, place, none, flags, none)
        .with_context(|| format!("cannot make {} read only", place.display()))
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

/// No cluster outlives the process that supervises it. SIGINT is PostgreSQL's fast shutdown. To be called after the change
/// of user, which would clear it.
fn die_with(supervisor: Pid) -> Result<()> {
    prctl::set_pdeathsig(Signal::SIGINT).context("cannot set the parent death signal")?;
    // It may have ended before: then no signal comes.
    ensure!(getppid() == supervisor, "the process that supervises the cluster has ended");
    Ok(())
}
