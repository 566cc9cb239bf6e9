//! Whoever owns the monitor's database, or the process that talks to the network, tries to use up the server: by answers
//! and log lines without end, by folders in folders, by connections that ask nothing. The daemons live, and their memory
//! stays small.

use anyhow::{Context, Result, ensure};
use api::{CreateBackup, Verification};
use integration::{Monitor, Server, wait_for};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tools::Toolbox;

const MINUTE: Duration = Duration::from_secs(60);
/// Peaks of resident memory stay below these, in KiB.
const LIMITS: [(&str, u64); 2] = [("backupd", 64 * 1024), ("hostd", 48 * 1024)];

/// `VmHWM` of a process in KiB.
fn peak(process: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// Prints the daemons' peaks, and holds them to their limits.
fn need_little_memory(server: &Server, after: &str, expected: &[(&str, u32)]) -> Result<()> {
    ensure!(server.processes() == expected, "a daemon was started again: {:?}", server.processes());
    for (name, process) in server.processes() {
        let peak = peak(process)?;
        println!("{name}: {peak} KiB at most, after {after}");
        let (_, limit) = LIMITS.iter().find(|(limited, _)| *limited == name).context("no limit")?;
        ensure!(peak < *limit, "{name} took {peak} KiB after {after}; the limit is {limit} KiB");
    }
    Ok(())
}

#[test]
fn a_hostile_monitor_takes_neither_memory_nor_time() -> Result<()> {
    let toolbox = Toolbox::open()?;
    let monitor = Monitor::start(&toolbox)?;
    let server = Server::start(&toolbox)?;
    let client = server.client()?;
    let processes = server.processes();
    client.pair(&monitor.peer)?;
    server.wait_for_state(&["synchronized"], MINUTE)?;

    // Lines of 20 MB in the replica's log.
    for _ in 0..3 {
        let log = "do $$ begin raise log '%', repeat('x', 20000000); end $$";
        integration::query_replica(&toolbox, &server, &monitor, log)?;
    }
    wait_for("the beginning of a long line in hostd's log", MINUTE, || match server.hostd_log() {
        Ok(log) if log.matches("bytes more)").count() >= 3 => Ok(()),
        other => Err(format!("{} bytes of log", other.map_or(0, |log| log.len()))),
    })?;
    ensure!(server.hostd_log()?.len() < 1 << 20, "hostd's log has grown by long lines");
    need_little_memory(&server, "log lines of 20 MB", &processes)?;

    // Folders in folders, as a copy from a hostile server could bring them.
    let pgdata = server.data().join("replica").join(monitor.peer.id.to_string()).join("pgdata");
    let script = "import os, sys\nos.chdir(sys.argv[1])\n\
        for name in ['deep', 'base/deep']:\n    os.mkdir(name)\n\
        os.chdir('deep')\nfor i in range(3000):\n    os.mkdir('d'); os.chdir('d')\n";
    integration::run(Command::new("python3").args(["-c", script]).arg(&pgdata))?;
    integration::run(Command::new("chown").arg("-R").arg("nobody").arg(pgdata.join("deep")))?;
    let backup = client.create_backup(&CreateBackup::default())?;
    client.verify_backup(&backup.id)?;
    wait_for("the proof", 3 * MINUTE, || match client.backup(&backup.id) {
        Ok(backup) if matches!(backup.verification, Verification::Verified(_)) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .with_context(|| server.logs())?;
    need_little_memory(&server, "folders 3000 deep", &processes)?;

    // A replica with them starts again.
    let postmaster = server.postmaster(monitor.peer.id)?;
    integration::run(Command::new("kill").args(["-s", "KILL", &postmaster.to_string()]))?;
    wait_for("another replica", 2 * MINUTE, || match server.postmaster(monitor.peer.id) {
        Ok(other) if other != postmaster => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    server.wait_for_state(&["synchronized"], 2 * MINUTE)?;

    // An answer of 300 MB to how the slot stands. A superuser may change even what the system itself brings.
    monitor.sql(
        "set allow_system_table_mods = on; do $$ begin execute \
         'create or replace view pg_catalog.pg_replication_slots as ' || \
         replace(pg_get_viewdef('pg_replication_slots'::regclass), 'l.wal_status', \
         'repeat(''x'', 300000000) as wal_status'); end $$",
    )?;
    let said = wait_for("what is said of the answer", 2 * MINUTE, || match client.status() {
        Ok(status) if status.message.contains("longer than 256 KiB") => Ok(status.message),
        other => Err(format!("{other:?}")),
    })
    .with_context(|| server.logs())?;
    println!("{said}");
    ensure!(said.chars().count() < 600, "{said}");
    need_little_memory(&server, "answers of 300 MB", &processes)
}

#[test]
fn connections_that_ask_nothing_keep_nobody_out() -> Result<()> {
    let toolbox = Toolbox::open()?;
    let server = Server::start(&toolbox)?;
    let processes = server.processes();
    let (_, hostd) = *processes.iter().find(|(name, _)| *name == "hostd").context("hostd does not run")?;
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most.min(4096), most)?;
    let limit_files = |limit: u32| {
        integration::run(
            Command::new("prlimit").arg(format!("--pid={hostd}")).arg(format!("--nofile={limit}:")),
        )
    };
    limit_files(1024)?;
    let idle = connect(&server.hostd_socket(), 1100)?;
    for _ in 0..3 {
        let said = server.order_in_words(&format!("{} order limits", hostd::PROGRAM))?;
        ensure!(!said.is_empty());
    }
    need_little_memory(&server, "1100 idle connections", &processes)?;
    drop(idle);

    // What is asked takes time to come, and what is answered is not read: neither holds anything up.
    let requests = connect(&server.hostd_socket(), 50)?;
    for mut request in &requests {
        std::io::Write::write_all(&mut request, &vec![b'x'; 60_000])?;
    }
    server.order_in_words(&format!("{} order limits", hostd::PROGRAM))?;
    drop(requests);

    // No descriptors at all: connections wait, and are answered when there are some again.
    limit_files(3)?;
    let waiting = connect(&server.hostd_socket(), 20)?;
    std::thread::sleep(Duration::from_secs(3));
    ensure!(server.processes() == processes && Path::new(&format!("/proc/{hostd}")).exists());
    drop(waiting);
    limit_files(1024)?;
    server.order_in_words(&format!("{} order limits", hostd::PROGRAM))?;
    let log = server.hostd_log()?;
    ensure!(log.contains("cannot accept a connection"), "hostd was never without descriptors: {log}");
    need_little_memory(&server, "a time without descriptors", &processes)
}

/// A control group as systemd delegates it, with this process in its group `daemon`; removed at the end.
struct Delegated {
    mount: PathBuf,
    unit: PathBuf,
}

impl Delegated {
    fn enter() -> Result<Self> {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
        let cgroup2 = mounts.lines().find(|line| line.contains(" - cgroup2 "));
        let mount = cgroup2.and_then(|line| line.split(' ').nth(4)).context("no cgroup2 is mounted")?;
        let unit = Path::new(mount).join(format!("infimonitor-test-{}.service", std::process::id()));
        std::fs::create_dir_all(unit.join("daemon")).context("cannot make a control group")?;
        std::fs::write(unit.join("daemon/cgroup.procs"), "0").context("cannot enter a control group")?;
        Ok(Self { mount: mount.into(), unit })
    }
}

impl Drop for Delegated {
    fn drop(&mut self) {
        drop(std::fs::write(self.mount.join("cgroup.procs"), "0"));
        let clusters = self.unit.join("clusters");
        let below = std::fs::read_dir(&clusters).into_iter().flatten().flatten().map(|entry| entry.path());
        let groups: Vec<PathBuf> = below.filter(|path| path.is_dir()).collect();
        for group in groups.iter().chain([&clusters, &self.unit.join("daemon"), &self.unit]) {
            if let Err(error) = std::fs::remove_dir(group) {
                eprintln!("cannot remove {}: {error}", group.display());
            }
        }
    }
}

/// As the kernel does when a cluster needs more memory than its group may have.
#[test]
fn a_cluster_that_is_killed_as_a_whole_is_started_again() -> Result<()> {
    let toolbox = Toolbox::open()?;
    let delegated = Delegated::enter()?;
    let (monitor, server) = integration::paired(&toolbox, 10)?;
    let processes = server.processes();
    let group = delegated.unit.join(format!("clusters/replica-{}", monitor.peer.id));
    let inside = || -> Result<Vec<u32>> {
        let text = std::fs::read_to_string(group.join("cgroup.procs"))?;
        Ok(text.lines().map(str::parse).collect::<Result<_, _>>()?)
    };
    let postmaster = server.postmaster(monitor.peer.id)?;
    let all = inside().with_context(|| server.logs())?;
    ensure!(
        all.contains(&postmaster) && all.len() > 1,
        "{postmaster} and its children are not all of {all:?}"
    );
    let daemon = std::fs::read_to_string(delegated.unit.join("daemon/cgroup.procs"))?;
    ensure!(processes.iter().all(|(_, id)| daemon.lines().any(|line| line == id.to_string())), "{daemon}");

    std::fs::write(group.join("cgroup.kill"), "1")?;
    wait_for("another replica", 2 * MINUTE, || match server.postmaster(monitor.peer.id) {
        Ok(other) if other != postmaster && inside().is_ok_and(|all| all.contains(&other)) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .with_context(|| server.logs())?;
    server.wait_for_state(&["synchronized"], 2 * MINUTE)?;
    monitor.sql("insert into t values (11)")?;
    integration::wait_until_replayed(&toolbox, &server, &monitor)?;

    // What belongs to a backup does not stay in the replica's group.
    let client = server.client()?;
    let backup = client.create_backup(&CreateBackup::default())?;
    wait_for("the proof", 3 * MINUTE, || match client.backup(&backup.id) {
        Ok(backup) if matches!(backup.verification, Verification::Verified(_)) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .with_context(|| server.logs())?;
    ensure!(delegated.unit.join("clusters/verification").is_dir(), "the clone had no group of its own");
    need_little_memory(&server, "a killed cluster", &processes)
}

fn connect(socket: &Path, count: usize) -> Result<Vec<UnixStream>> {
    let connections = (0..count).map(|_| UnixStream::connect(socket)).collect::<std::io::Result<_>>();
    connections.with_context(|| format!("cannot connect to {}", socket.display()))
}
