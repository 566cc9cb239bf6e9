//! The backup server's processes.

use crate::{
    CLUSTER_USER, Certificate, Faults, OBSERVER, Process, VERIFIER, Volume, free_port, program, run,
    test_folder, wait_for,
};
use anyhow::{Context, Result};
use api::{Client, Status};
use hostd::{KILL_AT, Request, Step, TIME_LIMIT};
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tools::Toolbox;

/// Password of user `backup` in tests.
pub const PASSWORD: &str = "correct horse";
/// Has `backupd` look each second what is due, in the tests of what is hostile, which wait for it often.
const LOOK_SECONDS: &str = "BACKUPD_LOOK_SECONDS";
/// The unit that runs `hostd`.
const HOSTD_UNIT: &str =
    include_str!("../../../image/root/mkosi.extra/usr/lib/systemd/system/infimonitor-hostd.service");
/// Size of the data volume in bytes, sparse.
const VOLUME_BYTES: u64 = 64 << 30;

/// `hostd` and `backupd` on a volume of their own, and `ftpd` where it is wanted.
#[derive(Debug)]
pub struct Server {
    // Fields are dropped in this order: processes, then the volume, then the folder.
    ftpd: Option<Process>,
    backupd: Option<Process>,
    hostd: Option<Process>,
    volume: Volume,
    /// Where its API listens on loopback.
    pub port: u16,
    certificate: Certificate,
    toolbox: Toolbox,
    faults: Option<Faults>,
    /// `backupd` runs as a user of its own.
    is_unprivileged: bool,
    /// Most seconds that an outside program of `hostd` may take, where it was set.
    time_limit: Option<u32>,
    folder: tempfile::TempDir,
}

impl Server {
    /// Starts one with nothing paired.
    pub fn start(toolbox: &Toolbox) -> Result<Self> {
        Self::start_on(toolbox, VOLUME_BYTES, false, false)
    }

    /// Starts one whose `backupd` runs as a user of its own, as on the appliance: `hostd` refuses it what only root may.
    pub fn start_unprivileged(toolbox: &Toolbox) -> Result<Self> {
        Self::start_on(toolbox, VOLUME_BYTES, false, true)
    }

    /// Starts one whose outside programs fail when they are told to ([`Self::faults`]), on a data volume of `bytes`.
    pub fn start_sick(toolbox: &Toolbox, bytes: u64) -> Result<Self> {
        Self::start_on(toolbox, bytes, true, false)
    }

    /// Starts one on a data volume of `bytes`, sparse.
    fn start_on(toolbox: &Toolbox, bytes: u64, is_sick: bool, is_unprivileged: bool) -> Result<Self> {
        let folder = test_folder()?;
        let volume = Volume::new(toolbox, folder.path(), bytes)?;
        let faults = is_sick.then(|| Faults::install(&folder.path().join("programs"))).transpose()?;
        let certificate = Certificate::new(api::SERVER_NAME)?;
        for name in ["bin", "tls", "state"] {
            fs::create_dir(folder.path().join(name))?;
        }
        fs::write(folder.path().join("tls/certificate.pem"), &certificate.certificate)?;
        fs::write(folder.path().join("tls/key.pem"), &certificate.key)?;
        auth::write_password_file(&folder.path().join("password"), &auth::hash_password(PASSWORD)?, None)?;
        if is_unprivileged {
            let (_, id) = OBSERVER;
            for name in ["state", "password"] {
                std::os::unix::fs::chown(folder.path().join(name), Some(id), Some(id))?;
            }
        }
        // The cluster user must be able to execute them, wherever the checkout is.
        for name in ["hostd", "backupd"] {
            fs::copy(program(name)?, folder.path().join("bin").join(name))?;
        }
        let port = free_port()?;
        let mut server = Self {
            ftpd: None,
            backupd: None,
            hostd: None,
            volume,
            port,
            certificate,
            toolbox: toolbox.clone(),
            faults,
            is_unprivileged,
            time_limit: None,
            folder,
        };
        server.start_hostd()?;
        server.start_backupd()?;
        Ok(server)
    }

    /// The stand-ins of one that was started by [`Self::start_sick`].
    ///
    /// # Errors
    /// It was started with the real programs.
    pub fn faults(&self) -> Result<&Faults> {
        self.faults.as_ref().context("this server has the real programs")
    }

    /// Gives each outside program so few seconds, from the next start of `hostd` on.
    pub fn set_time_limit(&mut self, seconds: u32) {
        self.time_limit = Some(seconds);
    }

    /// Starts `hostd`.
    pub fn start_hostd(&mut self) -> Result<()> {
        self.start_hostd_until(None)
    }

    /// Starts `hostd`; it kills itself at `last`.
    pub fn start_hostd_until(&mut self, last: Option<Step>) -> Result<()> {
        // The tree sets a PATH of its own; `env` becomes the program.
        let mut command = self.toolbox.command("env");
        if let Some(faults) = &self.faults {
            command.arg(format!("PATH={}:/usr/sbin:/usr/bin", faults.folder().display()));
        }
        // As its unit confines it, as far as that can be done without systemd.
        // When the test is killed it stops its clusters and ends.
        command.args(["setpriv", "--pdeathsig", "TERM"]);
        command.args(["--no-new-privs", "--bounding-set", &bounding_set(HOSTD_UNIT), "--"]);
        command.arg(self.path("bin/hostd")).arg("serve").arg("--socket").arg(self.path("hostd.sock"));
        command.arg("--data").arg(self.volume.path()).arg("--run").arg(self.path("run"));
        command.arg("--state").arg(self.path("hostd"));
        command.args(["--cluster-user", CLUSTER_USER, "--verifier", VERIFIER]);
        let observer = if self.is_unprivileged { OBSERVER.0 } else { "root" };
        command.args(["--observer", observer, "--readers", observer]);
        if let Some(faults) = &self.faults {
            command.arg("--postgresql").arg(faults.folder());
        }
        if let Some(seconds) = self.time_limit {
            command.env(TIME_LIMIT, seconds.to_string());
        }
        if let Some(step) = last {
            command.env(KILL_AT, step.name());
        }
        self.hostd = Some(Process::start(&mut command, &self.path("hostd.log"))?);
        wait_for("hostd", Duration::from_secs(10), || {
            std::os::unix::net::UnixStream::connect(self.path("hostd.sock"))
                .map(drop)
                .map_err(|error| error.to_string())
        })
    }

    /// Waits until `hostd` has killed itself.
    pub fn wait_for_end_of_hostd(&mut self) -> Result<()> {
        let hostd = self.hostd.as_mut().context("hostd was not started")?;
        let waited = wait_for("the end of hostd", Duration::from_secs(120), || match hostd.has_ended() {
            Ok(true) => Ok(()),
            other => Err(format!("{other:?}")),
        });
        waited.with_context(|| self.logs())
    }

    /// Sends `hostd` a request as root, as the console does.
    pub fn order(&self, request: &Request) -> Result<()> {
        let client = self.hostd_client();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(client.order(request)).context("hostd refuses")
    }

    /// Pairs where the server wants its console to be asked first: gives the order that the refusal names, and pairs again.
    pub fn pair_by_console(&self, peer: &api::Peer) -> Result<()> {
        let client = self.client()?;
        let Err(refused) = client.pair(peer) else { anyhow::bail!("it was paired without the console") };
        let words = refused.to_string();
        let order = words.split('`').nth(1).with_context(|| format!("no order is named: {words}"))?;
        self.order_in_words(order)?;
        client.pair(peer)?;
        Ok(())
    }

    /// A client of `hostd`, which asks as root.
    pub fn hostd_client(&self) -> hostd::Client {
        hostd::Client::new(self.path("hostd.sock"))
    }

    /// Gives an order as somebody at the console does: the words of `hostd order …`.
    pub fn order_in_words(&self, words: &str) -> Result<String> {
        let mut words = words.split_whitespace();
        anyhow::ensure!(words.next() == Some(hostd::PROGRAM), "an order begins with the program");
        let mut command = Command::new(self.path("bin/hostd"));
        command.args(words).arg("--socket").arg(self.path("hostd.sock")).arg("--data").arg(self.data());
        Ok(String::from_utf8(run(&mut command)?.stdout)?)
    }

    /// Where `hostd` listens.
    pub fn hostd_socket(&self) -> PathBuf {
        self.path("hostd.sock")
    }

    /// Process id of the replica's PostgreSQL, from the lock of its socket.
    pub fn postmaster(&self, monitor: uuid::Uuid) -> Result<u32> {
        let lock = self.socket_dir(monitor).join(".s.PGSQL.5432.lock");
        let text = fs::read_to_string(&lock).with_context(|| format!("cannot read {}", lock.display()))?;
        text.lines().next().unwrap_or_default().trim().parse().context("the lock names no process")
    }

    /// What lies on the data volume and belongs to no replica and no listed backup: left over.
    pub fn left_over(&self, monitor: uuid::Uuid) -> Result<Vec<PathBuf>> {
        let mut expected = vec![self.data().join("replica").join(monitor.to_string())];
        let folder = self.backups(monitor);
        for backup in self.client()?.backups()?.backups {
            for ending in ["", ".json", ".index"] {
                expected.push(folder.join(format!("{}{ending}", backup.id)));
            }
        }
        let mut found = Vec::new();
        for folder in [self.data().join("replica"), self.data().join("verification"), folder] {
            if folder.is_dir() {
                for entry in fs::read_dir(folder)? {
                    found.push(entry?.path());
                }
            }
        }
        if let Some(missing) = expected.iter().find(|path| !found.contains(path)) {
            anyhow::bail!("{} is missing", missing.display());
        }
        found.retain(|path| !expected.contains(path));
        Ok(found)
    }

    /// Names and process ids of the daemons that run.
    pub fn processes(&self) -> Vec<(&'static str, u32)> {
        let daemons = [("backupd", &self.backupd), ("hostd", &self.hostd)];
        daemons.into_iter().filter_map(|(name, daemon)| Some((name, daemon.as_ref()?.id()))).collect()
    }

    /// A file of the test's with this text.
    pub fn folder_file(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.path(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    /// All that `hostd` has logged, with its clusters' logs.
    pub fn hostd_log(&self) -> Result<String> {
        fs::read_to_string(self.path("hostd.log")).context("cannot read hostd's log")
    }

    /// Writes the same password anew, as the console does: what was known of logins is forgotten.
    pub fn renew_password(&self) -> Result<()> {
        Ok(auth::write_password_file(&self.path("password"), &auth::hash_password(PASSWORD)?, None)?)
    }

    /// All that a daemon (`backupd`, `ftpd`) has logged.
    pub fn log_of(&self, daemon: &str) -> Result<String> {
        let log = self.path(&format!("{daemon}.log"));
        fs::read_to_string(&log).with_context(|| format!("cannot read {}", log.display()))
    }

    /// Starts `backupd`.
    pub fn start_backupd(&mut self) -> Result<()> {
        let mut command = Command::new(self.path("bin/backupd"));
        // As in its unit.
        command.env("MALLOC_ARENA_MAX", "2").env("MALLOC_MMAP_THRESHOLD_", "1048576");
        if self.faults.is_some() || self.is_unprivileged {
            command.env(LOOK_SECONDS, "1");
        }
        if self.is_unprivileged {
            command.uid(OBSERVER.1).gid(OBSERVER.1);
        }
        command.args(["--listen", &format!("127.0.0.1:{}", self.port)]);
        command.arg("--data").arg(self.volume.path());
        for (option, name) in [
            ("--state-dir", "state"),
            ("--tls-dir", "tls"),
            ("--password-file", "password"),
            ("--hostd", "hostd.sock"),
            ("--data-problem", "data-problem"),
            ("--slots-report", "slots.json"),
            ("--ftp-settings", "run/ftp.json"),
            ("--own-failures", "failures-api"),
            ("--other-failures", "failures-ftp"),
        ] {
            command.arg(option).arg(self.path(name));
        }
        self.backupd = Some(Process::start(&mut command, &self.path("backupd.log"))?);
        let client = self.client()?;
        wait_for("backupd's API", Duration::from_secs(10), || {
            client.status().map(drop).map_err(|error| error.to_string())
        })
    }

    /// Starts `ftpd` and gives its port on loopback.
    pub fn start_ftpd(&mut self) -> Result<u16> {
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], free_port()?));
        let mut command = Command::new(program("ftpd")?);
        command.args(["--listen", &address.to_string(), "--passive-ports", "0-0", "--backups"]);
        command.arg(self.data().join("backups")).arg("--tls-dir").arg(self.path("tls"));
        command.arg("--password-file").arg(self.path("password"));
        command.arg("--settings").arg(self.path("run/ftp.json"));
        command.arg("--own-failures").arg(self.path("failures-ftp"));
        command.arg("--other-failures").arg(self.path("failures-api"));
        self.ftpd = Some(Process::start(&mut command, &self.path("ftpd.log"))?);
        wait_for("ftpd", Duration::from_secs(10), || {
            std::net::TcpStream::connect(address).map(drop).map_err(|error| error.to_string())
        })?;
        Ok(address.port())
    }

    /// Folder of `certificate.pem` and `key.pem`.
    pub fn tls_dir(&self) -> PathBuf {
        self.path("tls")
    }

    /// Stops `backupd`.
    pub fn stop_backupd(&mut self) -> Result<()> {
        self.backupd.take().map_or(Ok(()), |mut backupd| backupd.stop("TERM"))
    }

    /// Stops both, `hostd` by `signal`; nothing that they started is left running.
    pub fn stop(&mut self, signal: &str) -> Result<()> {
        self.stop_backupd()?;
        self.hostd.take().map_or(Ok(()), |mut hostd| hostd.stop(signal))
    }

    /// A client with the right password.
    pub fn client(&self) -> Result<Client> {
        Ok(Client::new("127.0.0.1", self.port, &self.certificate.certificate, PASSWORD)?)
    }

    /// `curl` with the right password; gives the status code and the body.
    pub fn curl(&self, arguments: &[&str], path: &str) -> Result<(u16, serde_json::Value)> {
        let mut command = Command::new("curl");
        command.args(["-sk", "-w", "\n%{http_code}", "-u", &format!("backup:{PASSWORD}")]).args(arguments);
        command.arg(format!("https://127.0.0.1:{}{path}", self.port));
        let output = String::from_utf8(run(&mut command)?.stdout)?;
        let (body, code) = output.rsplit_once('\n').context("curl prints the code last")?;
        Ok((code.parse()?, serde_json::from_str(body).with_context(|| format!("no JSON: {body}"))?))
    }

    /// Waits until the state has one of `names`, and gives the status.
    pub fn wait_for_state(&self, names: &[&str], limit: Duration) -> Result<Status> {
        let client = self.client()?;
        let waited = wait_for(&format!("state {names:?}"), limit, || match client.status() {
            Ok(status) if names.contains(&status.state.name()) => Ok(status),
            Ok(status) => Err(format!("{}: {}", status.state.name(), status.message)),
            Err(error) => Err(error.to_string()),
        });
        waited.with_context(|| self.logs())
    }

    /// The ends of the processes' logs, for errors.
    pub fn logs(&self) -> String {
        ["hostd.log", "backupd.log"]
            .map(|name| {
                let text = fs::read_to_string(self.path(name)).unwrap_or_default();
                let lines: Vec<&str> = text.lines().collect();
                format!("{name}:\n{}", lines[lines.len().saturating_sub(40)..].join("\n"))
            })
            .join("\n")
    }

    /// Says, as first boot does, that the data volume is not mounted; `None`: that it is again.
    pub fn set_volume_problem(&self, problem: Option<&str>) -> Result<()> {
        let file = self.path("data-problem");
        match problem {
            Some(problem) => fs::write(file, problem).context("cannot write the problem"),
            None => fs::remove_file(file).context("cannot remove the problem"),
        }
    }

    /// Has the console allow rotation what it may at most: in a test every backup is young, and one of the last.
    pub fn lower_floor(&self) -> Result<()> {
        let limits = "limits --keep-last 1 --min-age-hours 0 --daily-percent 100";
        self.order_in_words(&format!("{} order {limits}", hostd::PROGRAM)).map(drop)
    }

    /// A file of what `hostd` remembers.
    pub fn hostd_state(&self, name: &str) -> PathBuf {
        self.path("hostd").join(name)
    }

    /// Damages a file of the daemon's state, as a bad disk would.
    pub fn damage_state(&self, name: &str) -> Result<()> {
        fs::write(self.path("state").join(name), "\0\0").context("cannot damage the file")
    }

    /// Fills the data volume with the file `filler` until only `free` bytes are free, and stay so: what was deleted before
    /// gives its space back later.
    pub fn fill(&self, filler: &Path, free: u64) -> Result<()> {
        const SLACK: u64 = 32 << 20;
        run(self.toolbox.command("btrfs").args(["subvolume", "sync"]).arg(self.data()))?;
        let file = fs::File::options().create(true).append(true).open(filler)?;
        let mut steady = 0;
        while steady < 3 {
            let volume = nix::sys::statvfs::statvfs(self.data())?;
            let more = (volume.blocks_available() * volume.fragment_size()).saturating_sub(free);
            steady = if more > SLACK { 0 } else { steady + 1 };
            if more > SLACK {
                let (size, more) = (i64::try_from(file.metadata()?.len())?, i64::try_from(more)?);
                nix::fcntl::fallocate(&file, nix::fcntl::FallocateFlags::empty(), size, more)?;
            }
            nix::unistd::syncfs(&file).context("cannot sync the volume")?;
            std::thread::sleep(Duration::from_millis(500));
        }
        Ok(())
    }

    /// The data volume.
    pub fn data(&self) -> &Path {
        self.volume.path()
    }

    /// The folder of the backups of `monitor`.
    pub fn backups(&self, monitor: uuid::Uuid) -> PathBuf {
        self.data().join("backups").join(monitor.to_string())
    }

    /// The socket folder of the replica of `monitor`.
    pub fn socket_dir(&self, monitor: uuid::Uuid) -> PathBuf {
        self.path("run/clusters").join(monitor.to_string()).join("socket")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// The capabilities that a unit keeps, as setpriv(1) takes them.
fn bounding_set(unit: &str) -> String {
    let lines = unit.lines().filter_map(|line| line.strip_prefix("CapabilityBoundingSet="));
    let kept = lines.flat_map(str::split_whitespace).map(|name| name.to_lowercase().replace("cap_", "+"));
    std::iter::once("-all".to_owned()).chain(kept).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_units_capabilities_are_those_that_are_kept() {
        let unit =
            "[Service]\nCapabilityBoundingSet=CAP_CHOWN CAP_SYS_ADMIN\nCapabilityBoundingSet=CAP_KILL\n";
        assert_eq!(bounding_set(unit), "-all,+chown,+sys_admin,+kill");
        assert!(bounding_set(HOSTD_UNIT).contains("+sys_admin"));
    }
}
