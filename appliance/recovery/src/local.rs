//! The machine on which a backup is restored: what it is, and how its PostgreSQL and its application are started.
//!
//! PostgreSQL is the one of Debian's packages, as postgresql-common knows it, on our node and on others.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use monitor_link::cluster::{self, Cluster};
use monitor_link::setup;
use monitor_link::sql::Psql;
use provisioning::Role;

use crate::checks::Machine;
use crate::restore::{Host, Service};
use crate::start::Programs;

/// The monitor's application: the first of these programs that is there is run with `stop` before PostgreSQL is stopped for a
/// restore, and with `start` when the restored one runs. Our own node's `/etc` is part of its image; its `/var/lib` is not.
pub const APPLICATION: [&str; 2] = ["/etc/monitor-link/application", "/var/lib/monitor-link/application"];
const RUN: &str = "/run/infimonitor-recovery";
/// How long a start may take: what was restored was stopped in order, and has nothing to recover.
const START_PATIENCE: Duration = Duration::from_secs(300);

/// This machine's PostgreSQL cluster.
#[derive(Debug)]
pub struct Local {
    cluster: Cluster,
    data: PathBuf,
    configuration: PathBuf,
    programs: Programs,
    application: Option<&'static Path>,
}

impl Local {
    /// The cluster `wanted` (such as `17/main`), or the only one.
    ///
    /// # Errors
    /// There is none, or several; its data directory is missing, or cannot be exchanged.
    pub fn find(wanted: Option<&str>) -> Result<Self> {
        if !rustix::process::geteuid().is_root() {
            bail!("a restore exchanges PostgreSQL's data and configuration: run it as root");
        }
        monitor_link::start::wait()?;
        let cluster = cluster::choose(&cluster::list()?, wanted)?;
        let Cluster { version, name, .. } = &cluster;
        let show = ["--short", version, name, "show", "data_directory"];
        let data = cluster::run(Command::new("pg_conftool").args(show))?;
        let missing = || {
            format!(
                "the data directory {0} of cluster {version}/{name} is missing: mount its file system, or, if all on it is \
                 lost, make it empty: install -d -m 700 -o postgres -g postgres {0}",
                data.trim()
            )
        };
        let data = fs::canonicalize(data.trim()).with_context(missing)?;
        let metadata = fs::metadata(&data).with_context(|| format!("cannot read {}", data.display()))?;
        let folder = data.parent().unwrap_or(&data);
        let around = fs::metadata(folder).with_context(|| format!("cannot read {}", folder.display()))?;
        if around.dev() != metadata.dev() {
            bail!(
                "{} is a file system of its own, and what is restored is exchanged by its name: give the cluster a folder \
                 inside of it as data directory",
                data.display()
            );
        }
        let as_owner = ["runuser", "-u", &cluster.owner, "--"].map(str::to_owned).to_vec();
        let programs = Programs {
            as_owner,
            folder: Path::new("/usr/lib/postgresql").join(version).join("bin"),
            owner: (metadata.uid(), metadata.gid()),
        };
        let configuration = Path::new("/etc/postgresql").join(version).join(name);
        let application = APPLICATION.map(Path::new).into_iter().find(|path| path.exists());
        Ok(Self { cluster, data, configuration, programs, application })
    }

    /// It, for a restore.
    pub fn host(&self) -> Host<'_> {
        Host {
            data: self.data.clone(),
            configuration: Some(self.configuration.clone()),
            programs: self.programs.clone(),
            run: RUN.into(),
            kept: Path::new(setup::STATE).join("kept-configuration"),
            service: self,
        }
    }

    /// Name of the cluster, such as `17/main`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.cluster.version, self.cluster.name)
    }

    /// The live data directory.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// What [`crate::checks`] decides by. What a restore that is under way has made already counts as free: it goes on, or
    /// is abandoned.
    ///
    /// # Errors
    /// A program that should tell cannot be run.
    pub fn facts(&self) -> Result<Machine> {
        let libc = cluster::run(Command::new("getconf").arg("GNU_LIBC_VERSION"))?;
        let locales = cluster::run(Command::new("locale").arg("-a"))?;
        let folder = self.data.parent().unwrap_or(&self.data);
        let space = rustix::fs::statvfs(folder)
            .with_context(|| format!("cannot ask for the space of {}", folder.display()))?;
        let major = &self.cluster.version;
        Ok(Machine {
            monitor_version: setup::monitor_version(),
            postgresql_major: major.parse().with_context(|| format!("PostgreSQL's version is {major:?}"))?,
            libc: libc.trim().trim_start_matches("glibc").trim().to_owned(),
            architecture: std::env::consts::ARCH,
            locales: locales.lines().map(str::to_owned).collect::<BTreeSet<_>>(),
            free_bytes: (space.f_bavail * space.f_frsize).saturating_add(self.host().made_bytes()?),
        })
    }

    /// Makes a node of the role monitor-recovery a monitor, from its next boot on: its restore is done. Returns whether it was
    /// such a node.
    ///
    /// # Errors
    /// Its identity cannot be read or written.
    pub fn become_monitor(&self) -> Result<bool> {
        become_monitor(Path::new("/"))
    }

    fn is_online(&self) -> Result<bool> {
        let same =
            |other: &&Cluster| (&other.version, &other.name) == (&self.cluster.version, &self.cluster.name);
        Ok(cluster::list()?.iter().find(same).is_some_and(|cluster| cluster.online))
    }

    /// psql on the port that the configuration names now: the restored one may name another.
    fn psql(&self) -> Result<Psql> {
        let now = cluster::choose(&cluster::list()?, Some(&self.name()))?;
        Ok(Psql::of(&now.owner, now.port))
    }

    /// Restarts PostgreSQL, and the application around it: it is never without its database.
    ///
    /// # Errors
    /// One of them does not stop or start.
    pub fn restart(&self) -> Result<()> {
        self.application("stop")?;
        setup::service("restart", &self.cluster)?;
        Service::start(self)?;
        self.application("start")
    }

    fn application(&self, action: &str) -> Result<()> {
        let Some(program) = self.application else { return Ok(()) };
        // Without pipes: what it starts lives on and would hold them open.
        let mut command = Command::new(program);
        command.arg(action).stdin(Stdio::null()).stdout(std::io::stderr());
        let status = command.status().with_context(|| format!("cannot run {}", program.display()))?;
        if !status.success() {
            bail!("the monitor's application does not {action}: {} {action}: {status}", program.display());
        }
        Ok(())
    }
}

impl Service for Local {
    fn runs(&self) -> Result<bool> {
        self.is_online()
    }

    fn stop(&self) -> Result<()> {
        self.application("stop")?;
        if self.is_online()? {
            setup::service("stop", &self.cluster)?;
        }
        if self.is_online()? {
            bail!("PostgreSQL still runs after it was stopped; stop cluster {} and go on", self.name());
        }
        Ok(())
    }

    fn start(&self) -> Result<()> {
        if !self.is_online()? {
            setup::service("start", &self.cluster)?;
        }
        let psql = self.psql()?;
        let deadline = Instant::now() + START_PATIENCE;
        loop {
            match psql.value("select pg_is_in_recovery()") {
                Ok(answer) if answer == "f" => break,
                Ok(_) if Instant::now() >= deadline => bail!("PostgreSQL runs, and takes no writes"),
                Err(error) if Instant::now() >= deadline => return Err(error),
                _ => thread::sleep(Duration::from_millis(300)),
            }
        }
        let served = psql.value("show data_directory")?;
        if fs::canonicalize(&served).ok().as_deref() != Some(&self.data) {
            bail!("PostgreSQL serves {served} instead of {}", self.data.display());
        }
        Ok(())
    }

    fn start_application(&self) -> Result<()> {
        self.application("start")
    }
}

fn become_monitor(root: &Path) -> Result<bool> {
    let path = root.join(provisioning::identity::PATH);
    let Some(text) = files::read(&path)? else { return Ok(false) };
    let damaged = || format!("{} is damaged", path.display());
    // As JSON, so that what a later version has added stays.
    let mut identity: serde_json::Value = serde_json::from_str(&text).with_context(damaged)?;
    if identity["role"] != Role::MonitorRecovery.name() {
        return Ok(false);
    }
    identity["role"] = Role::Monitor.name().into();
    let text = serde_json::to_vec_pretty(&identity).with_context(damaged)?;
    let metadata = fs::metadata(&path).with_context(damaged)?;
    files::write(&path, &text, metadata.mode() & 0o777, Some((metadata.uid(), metadata.gid())))?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_node_that_waited_for_its_restore_becomes_a_monitor() {
        let root = tempfile::tempdir().unwrap();
        become_monitor(root.path()).unwrap(); // no node of ours
        let path = root.path().join(provisioning::identity::PATH);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        for (before, after) in [
            (r#"{"role":"monitor-recovery","later":1}"#, r#"{"role":"monitor","later":1}"#),
            (r#"{"role":"backup-server"}"#, r#"{"role":"backup-server"}"#),
        ] {
            fs::write(&path, before).unwrap();
            become_monitor(root.path()).unwrap();
            let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
            assert_eq!(value(&fs::read_to_string(&path).unwrap()), value(after));
        }
        fs::write(&path, "{").unwrap();
        assert!(become_monitor(root.path()).is_err());
    }
}
