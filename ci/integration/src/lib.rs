//! The backup server's processes on real PostgreSQL and real btrfs, without a VM.
//!
//! [`Server`] runs `hostd` and `backupd` as they are, inside the tools tree, on a btrfs volume on a loop device;
//! [`Monitor`] is a PostgreSQL with TLS that they follow. Everything lives in one folder below /var/tmp (a cluster's
//! namespace hides /tmp) and is gone when the test ends, also when it panics; what a killed test leaves, the next one removes. It
//! needs root.

pub mod faults;
mod monitor;
mod restored;
mod server;
mod volume;

pub use faults::{Fault, Faults};
pub use monitor::{Certificate, Monitor, as_cluster_user, programs, query_in};
pub use restored::Restored;
pub use server::{PASSWORD, Server};
pub use volume::Volume;

use anyhow::{Context, Result, bail};
use api::Peer;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::time::{Duration, Instant};

/// User and group that clusters run as: they exist everywhere and own nothing.
pub const CLUSTER_USER: &str = "nobody";
/// User that clones of backups run as while they are verified.
pub const VERIFIER: &str = "games";
/// Name and number of the user and group that `backupd` runs as where it has no privileges.
pub const OBSERVER: (&str, u32) = ("daemon", 1);
/// Number of [`CLUSTER_USER`] and its group.
pub const CLUSTER_ID: u32 = 65534;

/// Where folders of tests are, and how their names begin.
const SCRATCH: (&str, &str) = ("/var/tmp", "infimonitor-test-");
/// Room that a test is to find, in bytes. Volumes are sparse; what is written to them, to clusters and to WAL is less than this.
const ROOM_BYTES: u64 = 3 << 30;

/// A folder for one test that every user may enter. It goes when the test ends; what a test that was killed has left goes when the
/// next one begins.
///
/// # Errors
/// There is too little room, or it cannot be made.
pub fn test_folder() -> Result<tempfile::TempDir> {
    use std::os::unix::fs::PermissionsExt;
    let (parent, prefix) = SCRATCH;
    tools::scratch::require(Path::new(parent), ROOM_BYTES, "a test")?;
    let make = || {
        let folder = tempfile::Builder::new()
            .prefix(prefix)
            .permissions(std::fs::Permissions::from_mode(0o755))
            .tempdir_in(parent)
            .with_context(|| format!("cannot make a folder in {parent}"))?;
        let path = folder.path().to_owned();
        Ok((folder, path))
    };
    let (folder, hold) = tools::scratch::Scratch::new(Path::new(parent), prefix).make(|_| true, make)?;
    // As long as the process lives: a test has no end of its own when it is killed.
    HOLDS.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(hold);
    Ok(folder)
}

/// The folders of this process.
static HOLDS: std::sync::Mutex<Vec<tools::scratch::Hold>> = std::sync::Mutex::new(Vec::new());

/// A TCP port of loopback that was free just now.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0)).context("no free port")?.local_addr()?.port())
}

/// A program of this workspace, as built beside the running test.
pub fn program(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    // A test lies in target/<profile>/deps, a program of the workspace in target/<profile>.
    let folder = own.ancestors().skip(1).take(2).find(|folder| folder.join(name).is_file());
    let Some(path) = folder.map(|folder| folder.join(name)) else {
        let path = own.ancestors().nth(2).unwrap_or(&own).join(name);
        bail!("{} is not built; run `cargo build --workspace` first, or `cargo xtask test`", path.display());
    };
    Ok(path)
}

/// Polls `seen` until it gives a value, at most for `limit`; the error says what was seen last.
pub fn wait_for<T>(what: &str, limit: Duration, mut seen: impl FnMut() -> Result<T, String>) -> Result<T> {
    let started = Instant::now();
    loop {
        match seen() {
            Ok(value) => return Ok(value),
            Err(last) if started.elapsed() > limit => {
                bail!("{what} did not come within {limit:?}; last: {last}")
            }
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

/// Runs a command to its end; anything but success is an error with its output.
pub fn run(command: &mut Command) -> Result<Output> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?} failed ({}): {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(output)
}

/// A process that ends with its owner.
#[derive(Debug)]
pub struct Process(Child);

impl Process {
    /// Starts `command` with its output in `log`.
    pub fn start(command: &mut Command, log: &Path) -> Result<Self> {
        let file = std::fs::File::options().create(true).append(true).open(log)?;
        let child = command
            .stdin(std::process::Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("cannot start {command:?}"))?;
        Ok(Self(child))
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> Result<bool> {
        Ok(self.0.try_wait()?.is_some())
    }

    /// Asks it to stop with `signal` (a name for `kill -s`) and waits.
    pub fn stop(&mut self, signal: &str) -> Result<()> {
        if self.0.try_wait()?.is_some() {
            return Ok(());
        }
        run(Command::new("/bin/kill").args(["-s", signal, &self.0.id().to_string()]))?;
        wait_for("the end of a process", Duration::from_secs(60), || {
            self.0.try_wait().ok().flatten().map(drop).ok_or_else(|| "it runs".into())
        })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.stop("INT").is_err() {
            drop(self.0.kill());
            drop(self.0.wait());
        }
    }
}

/// Number and content of all rows of the tests' table, whatever their order.
pub const CHECKSUM: &str = "select count(*), sum(hashtextextended(t::text, 0)) from t";

/// A monitor with a table `t` of so many rows that everybody may read.
pub fn monitor_with_rows(toolbox: &tools::Toolbox, rows: u32) -> Result<Monitor> {
    let monitor = Monitor::start(toolbox)?;
    monitor.sql(&format!(
        "create table t as select generate_series(1, {rows}) as id; grant select on t to public"
    ))?;
    Ok(monitor)
}

/// The same, and a backup server that follows it.
pub fn paired(toolbox: &tools::Toolbox, rows: u32) -> Result<(Monitor, Server)> {
    let monitor = monitor_with_rows(toolbox, rows)?;
    let server = followed(toolbox, &monitor)?;
    Ok((monitor, server))
}

/// A backup server that follows a monitor.
pub fn followed(toolbox: &tools::Toolbox, monitor: &Monitor) -> Result<Server> {
    let server = Server::start(toolbox)?;
    server.client()?.pair(&monitor.peer)?;
    server.wait_for_state(&["synchronized"], Duration::from_secs(60))?;
    Ok(server)
}

/// Waits until the replica has the rows of the monitor's table `t`, and gives their [`CHECKSUM`].
pub fn wait_until_replayed(toolbox: &tools::Toolbox, server: &Server, monitor: &Monitor) -> Result<String> {
    let rows = monitor.sql(CHECKSUM)?;
    wait_for("the monitor's rows in the replica", Duration::from_secs(180), || {
        match query_replica(toolbox, server, monitor, CHECKSUM) {
            Ok(seen) if seen == rows => Ok(()),
            other => Err(format!("{other:?}, not {rows}")),
        }
    })
    .with_context(|| server.logs())?;
    Ok(rows)
}

/// Runs SQL on the server's replica, as the only role that may.
pub fn query_replica(
    toolbox: &tools::Toolbox,
    server: &Server,
    monitor: &Monitor,
    sql: &str,
) -> Result<String> {
    let socket_dir = server.socket_dir(monitor.peer.id);
    let Peer { user, database, .. } = &monitor.peer;
    let ours = replica::options_of_replication_role() + " -c search_path=public";
    // Those of an older major have no such settings.
    let options = if monitor.login_options.is_empty() { "" } else { &ours };
    query_in(toolbox, (&socket_dir, 5432), user, database.as_ref(), options, sql)
}
