//! One PostgreSQL cluster: its run folder and its running server.

use crate::clone_log::CloneLog;
use crate::lines::Lines;
use crate::places::Places;
use crate::program::Bounds;
use crate::sandbox::{Sandbox, user_ids};
use crate::scope::Scope;
use anyhow::{Context, Result};
use api::Peer;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Gid, Pid, Uid};
use replica::{
    CERTIFICATE_FILE, ControlData, HBA_FILE, IDENT_FILE, Identified, PASS_FILE, POSTGRESQL_CONF,
    REPLICA_NAME, ReplicaConfig, Settings, Source, Working,
};
use std::collections::VecDeque;
use std::fs;
use std::io::Write;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::process::Child;
use uuid::Uuid;

/// Lines of a server's log that are kept for the status.
const LOG_LINES: usize = 40;
/// Time for a fast shutdown, which writes a restartpoint; then it is killed, which costs a longer recovery.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);

/// What it may take to ask its WAL sender.
const IDENTIFYING: Bounds = Bounds::SHORT.within(Duration::from_secs(20));
/// Time for an immediate shutdown; a server that has not ended then hangs.
const QUIT_TIMEOUT: Duration = Duration::from_secs(10);

/// Writes the run folder with what connects to the monitor: passfile and pinned certificate. No server runs then; SQL in the last
/// one may have filled the folder of its socket, which shares the room with the run folder, or spoilt its lock file.
pub fn write_credentials(places: &Places, peer: &Peer) -> Result<PathBuf> {
    let run = places.cluster_run(peer.id);
    fs::create_dir_all(&run).with_context(|| format!("cannot make {}", run.display()))?;
    files::remove_folder(&run.join("socket"))?;
    let (uid, gid) = user_ids(&places.cluster_user)?;
    let passfile = replica::passfile_line(peer.password.reveal());
    for (name, text) in [(PASS_FILE, passfile.as_str()), (CERTIFICATE_FILE, peer.certificate.as_str())] {
        write_owned(&run.join(name), text, uid, gid)?;
    }
    Ok(run)
}

/// Writes everything under which the replica runs: ours alone (design D7). Gives the run folder and the settings.
fn write_configuration(places: &Places, peer: &Peer, control: &ControlData) -> Result<(PathBuf, Settings)> {
    let run = write_credentials(places, peer)?;
    let (uid, gid) = user_ids(&places.cluster_user)?;
    let socket = run.join("socket");
    fs::create_dir_all(&socket).with_context(|| format!("cannot make {}", socket.display()))?;
    chown(&socket, Some(uid.as_raw()), Some(gid.as_raw()))
        .with_context(|| format!("cannot give {} to {}", socket.display(), places.cluster_user))?;
    let run_dir = run.to_str().context("the run folder's path is not UTF-8")?;
    let source = Source::from(peer);
    let config = ReplicaConfig {
        run_dir,
        source: &source,
        control,
        observer: &places.observer,
        cluster_user: &places.cluster_user,
        shared_buffers_mib: shared_buffers_mib(machine_mib()?),
    };
    let settings = config.settings();
    for (name, text) in
        [(POSTGRESQL_CONF, settings.conf()), (HBA_FILE, config.hba()), (IDENT_FILE, config.ident())]
    {
        write_owned(&run.join(name), &text, uid, gid)?;
    }
    Ok((run, settings))
}

/// Writes a file for a cluster's user.
pub fn write_owned(path: &Path, text: &str, uid: Uid, gid: Gid) -> Result<()> {
    let owner = Some((uid.as_raw(), gid.as_raw()));
    files::replace(path, 0o600, owner, |file| file.write_all(text.as_bytes()))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Memory of this machine in MiB.
pub fn machine_mib() -> Result<u64> {
    Ok(memory_mib(&fs::read_to_string("/proc/meminfo").context("cannot read /proc/meminfo")?))
}

/// `MemTotal` of /proc/meminfo in MiB; 0 where it is not there.
fn memory_mib(meminfo: &str) -> u64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) / 1024
}

/// An eighth of the memory, from 64 MiB to 1 GiB: a standby only replays, the rest serves as page cache.
fn shared_buffers_mib(memory_mib: u64) -> u32 {
    u32::try_from((memory_mib / 8).clamp(64, 1024)).unwrap_or(64)
}

/// A replica's server that was started here.
#[derive(Debug)]
pub struct Server {
    peer: Peer,
    wal_segment_bytes: u64,
    /// Its process.
    pub postgres: Postgres,
}

impl Server {
    /// Starts the replica of `peer`.
    pub async fn start(places: &Places, peer: &Peer) -> Result<Self> {
        let subvolume = places.replica(peer.id);
        let sandbox = Sandbox::replica(places, &subvolume);
        let control = sandbox.control_data().await?;
        // What SQL of the database has written since the last start: another way to go, or none.
        let own = std::env::current_exe().context("cannot find my own program")?;
        sandbox.output(&own, ["arm"], Bounds::SHORT).await.context("cannot make the replica a standby")?;
        let (run, settings) = write_configuration(places, peer, &control)?;
        let postgres = Postgres::start(
            places,
            sandbox,
            &run,
            &settings,
            LogTo::Journal(format!("replica of {}", peer.id)),
        )?;
        Ok(Self { peer: peer.clone(), wal_segment_bytes: control.wal_segment_bytes, postgres })
    }

    /// What its WAL sender says: no function of the database, and nothing that is set for a role.
    ///
    /// # Errors
    /// It does not say it.
    pub async fn identify(places: &Places, monitor: Uuid, user: &str) -> Result<Identified> {
        let subvolume = places.replica(monitor);
        let socket = places.cluster_run(monitor).join("socket");
        let conninfo = replica::sender_conninfo(&socket.to_string_lossy(), user);
        let arguments = replica::psql_arguments(&conninfo, "IDENTIFY_SYSTEM");
        let program = places.program("psql");
        let said = Sandbox::replica(places, &subvolume).output(&program, arguments, IDENTIFYING).await?;
        Identified::parse(&said).with_context(|| format!("its WAL sender says {said:?}"))
    }

    /// What its processes say in their titles.
    ///
    /// # Errors
    /// The processes cannot be listed.
    pub fn working(&self) -> Result<Working> {
        let Some(pid) = self.postgres.child.id() else { return Ok(Working::default()) };
        let pid = Pid::from_raw(i32::try_from(pid).context("the process id is invalid")?);
        // One that has ended meanwhile has no title any more.
        let title = |process| fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
        let titles: Vec<String> = (children(pid)?.into_iter())
            .map(|process| String::from_utf8_lossy(&title(process)).into_owned())
            .collect();
        let titles = titles.iter().map(String::as_str);
        Ok(Working::of_titles(REPLICA_NAME, titles, self.wal_segment_bytes))
    }

    /// The role as which it is asked.
    pub fn user(&self) -> &str {
        &self.peer.user
    }

    /// Whether it was started to follow `peer` as it is now: same address, password and certificate.
    pub fn follows(&self, peer: &Peer) -> bool {
        self.peer.is_reached_like(peer)
    }
}

/// A running PostgreSQL.
#[derive(Debug)]
pub struct Postgres {
    child: Child,
    log: Arc<Mutex<VecDeque<String>>>,
    scope: Option<Scope>,
    /// What was killed in the group before it was started.
    earlier_kills: u64,
}

impl Postgres {
    /// Starts the server of the cluster in `sandbox` under the configuration in `run` and the `settings`, which hold
    /// whatever else is written.
    pub fn start(
        places: &Places,
        sandbox: Sandbox<'_>,
        run: &Path,
        settings: &Settings,
        log_to: LogTo,
    ) -> Result<Self> {
        let config = format!("config_file={}", run.join(POSTGRESQL_CONF).display());
        let scope = sandbox.scope();
        let earlier_kills = scope.as_ref().map_or(0, Scope::memory_kills);
        let mut child = sandbox
            .command(
                &places.program("postgres"),
                ["-D", replica::PGDATA, "-c", &config]
                    .map(str::to_owned)
                    .into_iter()
                    .chain(settings.arguments()),
            )?
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start PostgreSQL")?;
        let log = Arc::new(Mutex::new(VecDeque::new()));
        let errors = child.stderr.take().context("the server's log is not connected")?;
        tokio::spawn(keep_log(errors, log_to, Arc::clone(&log)));
        Ok(Self { child, log, scope, earlier_kills })
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Whether the kernel has killed it, or a program that asked it, because its memory was used up: trouble of the machine,
    /// and no verdict on its data.
    pub fn killed_for_memory(&self) -> bool {
        self.scope.as_ref().is_some_and(|scope| scope.memory_kills() > self.earlier_kills)
    }

    /// The last lines of its log.
    pub fn log(&self) -> Vec<String> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// Stops it: fast shutdown, and the hard way where that takes too long.
    pub async fn stop(&mut self) -> Result<()> {
        let Some(pid) = self.child.id() else { return Ok(()) };
        let pid = Pid::from_raw(i32::try_from(pid).context("the process id is invalid")?);
        kill(pid, Signal::SIGINT).context("cannot ask PostgreSQL to stop")?;
        if tokio::time::timeout(STOP_TIMEOUT, self.child.wait()).await.is_err() {
            tracing::warn!(
                "PostgreSQL did not stop within {STOP_TIMEOUT:?}; it is killed and recovers at its next start"
            );
            kill(pid, Signal::SIGQUIT).context("cannot kill PostgreSQL")?;
            if tokio::time::timeout(QUIT_TIMEOUT, self.child.wait()).await.is_err() {
                if let Some(scope) = &self.scope {
                    scope.kill()?;
                }
                // It hangs. Its children are in sessions of their own, and one that hangs as well would keep the next
                // server from the data directory.
                for process in children(pid)?.into_iter().chain([pid]) {
                    match kill(process, Signal::SIGKILL) {
                        Ok(()) | Err(nix::errno::Errno::ESRCH) => {}
                        Err(error) => tracing::error!("cannot kill process {process}: {error}"),
                    }
                }
                self.child.wait().await.context("cannot wait for PostgreSQL")?;
            }
        }
        Ok(())
    }
}

/// The processes whose parent is `pid`.
fn children(pid: Pid) -> Result<Vec<Pid>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").context("cannot list the processes")? {
        let name = entry.context("cannot list the processes")?.file_name();
        let Some(process) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        // One that has ended meanwhile has no file any more.
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        if parent(&stat) == Some(pid.as_raw()) {
            found.push(Pid::from_raw(process));
        }
    }
    Ok(found)
}

/// The parent's id in the text of `/proc/<pid>/stat`: the second field after the name, which is in parentheses and may
/// hold anything (proc(5)).
fn parent(stat: &str) -> Option<i32> {
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// How many lines of a cluster's log the journal takes: so many at once, and then so many a second. A cluster
/// that logs without end would push everything else out of the journal.
#[derive(Debug)]
struct Allowance {
    lines: f64,
    seen: Instant,
    left_out: u64,
}

impl Allowance {
    const AT_ONCE: f64 = 500.0;
    const A_SECOND: f64 = 5.0;

    fn new(now: Instant) -> Self {
        Self { lines: Self::AT_ONCE, seen: now, left_out: 0 }
    }

    /// Whether one more line may go to the journal: with how many were left out before it.
    fn take(&mut self, now: Instant) -> Option<u64> {
        let passed = now.saturating_duration_since(self.seen).as_secs_f64();
        self.seen = now;
        self.lines = passed.mul_add(Self::A_SECOND, self.lines).min(Self::AT_ONCE);
        if self.lines < 1.0 {
            self.left_out += 1;
            return None;
        }
        self.lines -= 1.0;
        Some(std::mem::take(&mut self.left_out))
    }
}

/// Where a server's log goes, beside the ring from which the reason of its end is told.
#[derive(Debug, Clone)]
pub enum LogTo {
    /// To the journal, as far as it takes it; by this name.
    Journal(String),
    /// To what is kept of a verification.
    Kept(CloneLog),
}

async fn keep_log(errors: tokio::process::ChildStderr, log_to: LogTo, log: Arc<Mutex<VecDeque<String>>>) {
    let mut lines = Lines::new(errors);
    let mut allowance = Allowance::new(Instant::now());
    loop {
        match lines.next().await {
            Ok(Some(line)) => {
                match &log_to {
                    // The ring has every line; the journal does not.
                    LogTo::Journal(name) => match allowance.take(Instant::now()) {
                        Some(0) => tracing::info!("{name}: {line}"),
                        Some(left_out) => tracing::info!("{name}: {line} (after {left_out} lines left out)"),
                        None => {}
                    },
                    LogTo::Kept(kept) => kept.add(&line),
                }
                let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
                if log.len() == LOG_LINES {
                    log.pop_front();
                }
                log.push_back(line);
            }
            Ok(None) => return,
            Err(error) => {
                tracing::warn!("PostgreSQL's log cannot be read any more: {error}");
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parent_is_told_whatever_the_name() {
        assert_eq!(parent("12 (a) b) S 7 12 12 0"), Some(7));
        assert_eq!(parent(""), None);
        assert!(children(nix::unistd::getppid()).unwrap().contains(&Pid::this()));
    }

    #[test]
    fn the_journal_takes_a_burst_and_then_some_lines_a_second() {
        let began = Instant::now();
        let mut allowance = Allowance::new(began);
        let taken = (0..10_000).filter(|_| allowance.take(began).is_some()).count();
        assert_eq!(taken, 500);
        assert_eq!(allowance.take(began + Duration::from_millis(100)), None);
        assert_eq!(allowance.take(began + Duration::from_millis(300)), Some(9501));
        assert_eq!(allowance.take(began + Duration::from_millis(300)), None);
        assert_eq!(allowance.take(began + Duration::from_secs(3600)), Some(1));
    }

    #[test]
    fn shared_buffers_are_an_eighth_within_bounds() {
        for (memory, buffers) in [(0, 64), (512, 64), (1024, 128), (6 * 1024, 768), (64 * 1024, 1024)] {
            assert_eq!(shared_buffers_mib(memory), buffers);
        }
        assert_eq!(memory_mib("MemFree: 1 kB\nMemTotal:       24689152 kB\n"), 24110);
    }
}
