//! A control group for each cluster: so much memory, so many tasks, so much weight (design D14).
//!
//! systemd delegates the group of hostd's unit to hostd (`Delegate=`) and runs hostd itself in the group [`DAEMON`] below it
//! (`DelegateSubgroup=`). Beside that, hostd makes one group for all clusters, and in it one for each. A cluster that needs
//! more memory than it may have is killed as a whole, and nothing else is: hostd starts it again.
//!
//! ```text
//! infimonitor-hostd.service/
//!   daemon/                hostd, and the programs that it runs for itself
//!   clusters/              limits of all clusters together
//!     replica-<uuid>/      limits of one
//!     verification/
//! ```
//!
//! Where nothing is delegated (hostd is run by hand, or by a test) the clusters run without limits, and hostd says so once.

use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Name of the group that systemd runs hostd in (`DelegateSubgroup=` of its unit).
const DAEMON: &str = "daemon";
/// Name of the group of all clusters.
const CLUSTERS: &str = "clusters";
/// Controllers that are used, where the kernel has them.
const CONTROLLERS: [&str; 4] = ["cpu", "io", "memory", "pids"];
/// Time for killed processes to leave their group.
const EMPTY_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes in a MiB.
const MIB: u64 = 1 << 20;

/// What a cluster is for: that decides what it may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// All clusters together.
    All,
    /// The replica, which follows the monitor.
    Replica,
    /// A full copy, and what else is done with a replica that does not run.
    Copy,
    /// The clone of a backup, or a check that nobody waits for.
    Background,
}

/// Limits of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Limits {
    memory_mib: u64,
    tasks: u32,
    /// Weight for the processor and the disk; 100 is everybody's.
    weight: u32,
}

impl Share {
    /// The limits on a machine with so much memory. What the clusters leave is for hostd, backupd, ftpd and the system.
    fn limits(self, machine_mib: u64) -> Limits {
        let part = |percent: u64, least: u64| (machine_mib * percent / 100).max(least);
        match self {
            Self::All => Limits { memory_mib: part(80, 512), tasks: 1024, weight: 100 },
            Self::Replica => Limits { memory_mib: part(60, 384), tasks: 512, weight: 100 },
            Self::Copy => Limits { memory_mib: part(25, 256), tasks: 128, weight: 50 },
            Self::Background => Limits { memory_mib: part(25, 320), tasks: 256, weight: 10 },
        }
    }
}

/// Where clusters get their groups.
#[derive(Debug, Clone, Default)]
pub struct Scopes {
    /// The group of all clusters; `None`: nothing is delegated.
    clusters: Option<PathBuf>,
    /// Memory of the machine in MiB.
    machine_mib: u64,
}

impl Scopes {
    /// Takes over the group that systemd has delegated, and ends what an earlier hostd left in it.
    pub fn take_over(machine_mib: u64) -> Self {
        let group = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let Some(unit) = delegated(&group, &mounts) else {
            tracing::warn!(
                "no control group is delegated to hostd, so its clusters run without limits; the unit file of the \
                 appliance delegates one"
            );
            return Self::default();
        };
        match prepare(&unit, machine_mib) {
            Ok(clusters) => Self { clusters: Some(clusters), machine_mib },
            Err(error) => {
                tracing::error!("clusters run without limits of memory and tasks: {error:#}");
                Self::default()
            }
        }
    }

    /// The group `name`, made if it is not there, with its limits; `None` where there are none, or it cannot be made: a
    /// cluster without limits is better than no replica.
    pub fn get(&self, name: &str, share: Share) -> Option<Scope> {
        let folder = self.clusters.as_ref()?.join(name);
        if let Err(error) = make(&folder) {
            tracing::error!("a cluster runs without limits of memory and tasks: {error:#}");
            return None;
        }
        for problem in set(&folder, share.limits(self.machine_mib)) {
            tracing::error!("a limit of a cluster cannot be set: {problem:#}");
        }
        Some(Scope { folder })
    }
}

/// The group of one cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    folder: PathBuf,
}

impl Scope {
    /// Its folder, where `hostd cluster-exec` enters it.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// How many of its processes were killed because memory was short, since the group was made.
    pub fn memory_kills(&self) -> u64 {
        kills(&fs::read_to_string(self.folder.join("memory.events")).unwrap_or_default())
    }

    /// Holds every process in it, or lets them go on.
    pub fn freeze(&self, held: bool) -> Result<()> {
        write(&self.folder.join("cgroup.freeze"), if held { "1" } else { "0" })
    }

    /// Kills every process in it.
    pub fn kill(&self) -> Result<()> {
        kill(&self.folder)
    }
}

/// Moves the calling process into the group at `folder`.
pub fn enter(folder: &Path) -> Result<()> {
    write(&folder.join("cgroup.procs"), "0")
}

/// The folder of the group that is delegated, from `/proc/self/cgroup` and `/proc/self/mountinfo`: the one above [`DAEMON`].
/// That name is the sign that systemd has delegated it.
fn delegated(group: &str, mountinfo: &str) -> Option<PathBuf> {
    let path = group.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let unit = path.strip_suffix(DAEMON)?.strip_suffix('/')?;
    // proc_pid_mountinfo(5): the fifth field is the mount point; the file system's type follows " - ".
    let mount = mountinfo.lines().find_map(|line| {
        let (fields, kind) = line.split_once(" - ")?;
        kind.starts_with("cgroup2 ").then(|| fields.split(' ').nth(4))?
    })?;
    Some(Path::new(mount).join(unit))
}

/// Makes the group of all clusters below the unit's; what an earlier hostd left there is killed.
fn prepare(unit: &Path, machine_mib: u64) -> Result<PathBuf> {
    let clusters = unit.join(CLUSTERS);
    hand_down(unit)?;
    make(&clusters)?;
    hand_down(&clusters)?;
    for problem in set(&clusters, Share::All.limits(machine_mib)) {
        tracing::error!("a limit of all clusters cannot be set: {problem:#}");
    }
    for entry in fs::read_dir(&clusters).with_context(|| format!("cannot read {}", clusters.display()))? {
        let left = entry?.path();
        if left.is_dir()
            && let Err(error) = remove(&left)
        {
            // Its limits hold, and a cluster of the same name uses it again.
            tracing::warn!("a group of an earlier cluster stays: {error:#}");
        }
    }
    Ok(clusters)
}

/// Lets the groups below have the controllers.
fn hand_down(folder: &Path) -> Result<()> {
    let file = folder.join("cgroup.controllers");
    let there = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let there: Vec<&str> = there.split_whitespace().collect();
    for name in CONTROLLERS {
        if there.contains(&name) {
            write(&folder.join("cgroup.subtree_control"), &format!("+{name}"))?;
        } else {
            tracing::warn!("the kernel gives clusters no limits of {name}");
        }
    }
    Ok(())
}

/// Sets limits; gives what went wrong. A file that is missing belongs to a controller that is missing, which was said.
fn set(folder: &Path, limits: Limits) -> Vec<anyhow::Error> {
    let values = [
        ("memory.max", (limits.memory_mib * MIB).to_string()),
        // It dies as a whole: half a PostgreSQL is of no use.
        ("memory.oom.group", if folder.ends_with(CLUSTERS) { "0" } else { "1" }.into()),
        ("memory.swap.max", "0".into()),
        ("pids.max", limits.tasks.to_string()),
        ("cpu.weight", limits.weight.to_string()),
        ("io.weight", format!("default {}", limits.weight)),
    ];
    let present = values.iter().map(|(name, value)| (folder.join(name), value));
    present.filter(|(file, _)| file.exists()).filter_map(|(file, value)| write(&file, value).err()).collect()
}

/// Makes a group unless it is there.
fn make(folder: &Path) -> Result<()> {
    match fs::create_dir(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(error).with_context(|| format!("cannot make the control group {}", folder.display()))
        }
        _ => Ok(()),
    }
}

/// Kills what is in a group, and removes it.
fn remove(folder: &Path) -> Result<()> {
    kill(folder)?;
    let began = Instant::now();
    // rmdir(2) refuses while there are processes, and they end when the kernel comes to it.
    while let Err(error) = fs::remove_dir(folder) {
        if began.elapsed() > EMPTY_TIMEOUT {
            return Err(error).with_context(|| format!("cannot remove {}", folder.display()));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

fn kill(folder: &Path) -> Result<()> {
    write(&folder.join("cgroup.kill"), "1")
}

fn write(file: &Path, value: &str) -> Result<()> {
    fs::write(file, value).with_context(|| format!("cannot write {value} to {}", file.display()))
}

/// `oom_kill` of a group's `memory.events`.
fn kills(events: &str) -> u64 {
    let count = events.lines().find_map(|line| line.strip_prefix("oom_kill "));
    count.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The unit that runs hostd.
    const UNIT: &str =
        include_str!("../../../image/root/mkosi.extra/usr/lib/systemd/system/infimonitor-hostd.service");
    const MOUNTS: &str = "23 28 0:21 / /sys rw,nosuid - sysfs sysfs rw\n\
                          30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";

    #[test]
    fn the_delegated_group_is_the_one_above_the_daemons() {
        let table = [
            (
                "0::/system.slice/infimonitor-hostd.service/daemon\n",
                Some("/system.slice/infimonitor-hostd.service"),
            ),
            ("9:memory:/x\n0::/a.service/daemon\n", Some("/a.service")),
            // Not delegated: a session, the unit's own group, the root.
            ("0::/user.slice/session-1.scope\n", None),
            ("0::/system.slice/infimonitor-hostd.service\n", None),
            ("0::/daemon\n", None),
            ("0::/\n", None),
            ("", None),
        ];
        for (group, expected) in table {
            let expected = expected.map(|path| PathBuf::from(format!("/sys/fs/cgroup{path}")));
            assert_eq!(delegated(group, MOUNTS), expected, "{group}");
        }
        assert_eq!(delegated("0::/a.service/daemon", "23 28 0:21 / /sys rw - sysfs sysfs rw"), None);
    }

    #[test]
    fn the_unit_delegates_what_is_used_and_outlives_its_clusters() {
        let has = |line: &str| UNIT.lines().any(|found| found == line);
        assert!(has("Delegate=cpu io memory pids"), "{CONTROLLERS:?}");
        assert!(has(&format!("DelegateSubgroup={DAEMON}")));
        assert!(has("OOMPolicy=continue"));
    }

    #[test]
    fn clusters_leave_memory_for_the_rest_of_the_machine() {
        let mib = |share: Share, machine| share.limits(machine).memory_mib;
        for (machine, all, replica, copy, background) in [
            (1024, 819, 614, 256, 320),
            (6 * 1024, 4915, 3686, 1536, 1536),
            (64 * 1024, 52_428, 39_321, 16_384, 16_384),
        ] {
            let found = (mib(Share::All, machine), mib(Share::Replica, machine), mib(Share::Copy, machine));
            assert_eq!(found, (all, replica, copy));
            assert_eq!(mib(Share::Background, machine), background);
            // The rest of the machine has at least 200 MiB.
            assert!(all + 200 <= machine && replica <= all && copy <= all && background <= all);
        }
    }

    #[test]
    fn limits_are_set_where_the_kernel_has_them() {
        let group = tempfile::tempdir().unwrap();
        for name in ["memory.max", "memory.oom.group", "pids.max"] {
            fs::write(group.path().join(name), "").unwrap();
        }
        let limits = Limits { memory_mib: 2, tasks: 7, weight: 10 };
        assert!(set(group.path(), limits).is_empty());
        let value = |name: &str| fs::read_to_string(group.path().join(name)).unwrap();
        assert_eq!((value("memory.max"), value("memory.oom.group")), ("2097152".into(), "1".into()));
        assert_eq!(value("pids.max"), "7");
        assert!(!group.path().join("cpu.weight").exists());
    }

    #[test]
    fn what_was_killed_for_memory_is_counted() {
        assert_eq!(kills("low 0\nhigh 0\nmax 12\noom 2\noom_kill 3\noom_group_kill 1\n"), 3);
        assert_eq!(kills(""), 0);
    }

    #[test]
    fn nothing_delegated_is_no_limit_and_no_error() {
        assert_eq!(Scopes::default().get("replica-x", Share::Replica), None);
    }
}
