//! The programs that the backup is compared with, set up as their documentation does it for one local server.

use anyhow::{Context, Result, bail};
use integration::{CLUSTER_USER, Monitor, Process, as_cluster_user};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use tools::Toolbox;

/// Seconds that `command` takes.
pub fn seconds(command: &mut Command) -> Result<f64> {
    let started = Instant::now();
    integration::run(command)?;
    Ok(started.elapsed().as_secs_f64())
}

/// A folder for a peer on the data volume, of the cluster's user.
fn folder(data: &Path, name: &str) -> Result<PathBuf> {
    let folder = data.join(name);
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    chown(&folder, Some(integration::CLUSTER_ID), Some(integration::CLUSTER_ID))?;
    Ok(folder)
}

/// An empty folder as PostgreSQL wants its data directory.
fn data_directory(place: &Path) -> Result<()> {
    std::fs::create_dir_all(place)?;
    std::fs::set_permissions(place, std::fs::Permissions::from_mode(0o700))?;
    chown(place, Some(integration::CLUSTER_ID), Some(integration::CLUSTER_ID))
        .with_context(|| format!("cannot give {} to PostgreSQL's user", place.display()))
}

/// Seconds of pg_basebackup over the connection that ours takes, into `target`, which is made.
pub fn basebackup(toolbox: &Toolbox, monitor: &Monitor, target: &Path) -> Result<f64> {
    data_directory(target)?;
    let peer = &monitor.peer;
    let source = format!("host={} port={} user={} sslmode=require", peer.address, peer.port, peer.user);
    let mut command = as_cluster_user(toolbox, &toolbox.postgresql("pg_basebackup"));
    command.args(["-X", "stream", "-c", "fast", "-d", &source, "-D"]).arg(target);
    seconds(command.env("PGPASSWORD", peer.password.reveal()))
}

/// pgBackRest with a local repository.
#[derive(Debug)]
pub struct PgBackRest<'a> {
    toolbox: &'a Toolbox,
    config: PathBuf,
}

impl<'a> PgBackRest<'a> {
    /// Makes its stanza.
    pub fn prepare(toolbox: &'a Toolbox, monitor: &Monitor, data: &Path) -> Result<Self> {
        let folder = folder(data, "pgbackrest")?;
        let place = folder.display();
        let config = folder.join("pgbackrest.conf");
        // WAL goes nowhere: archiving is no part of what is timed.
        std::fs::write(
            &config,
            format!(
                "[global]\nrepo1-path={place}/repo\nlog-path={place}/log\nlock-path={place}/lock\nspool-path={place}/spool\n\
                 log-level-console=warn\nlog-level-file=off\nstart-fast=y\narchive-check=n\nprocess-max=2\ncompress-type=lz4\n\
                 [main]\npg1-path={}\npg1-port={}\npg1-socket-path={}\npg1-user=postgres\n",
                monitor.data().display(),
                monitor.peer.port,
                monitor.socket_dir().display()
            ),
        )?;
        let peer = Self { toolbox, config };
        integration::run(peer.command().arg("stanza-create"))?;
        Ok(peer)
    }

    fn command(&self) -> Command {
        let mut command = as_cluster_user(self.toolbox, "pgbackrest");
        command.arg(format!("--config={}", self.config.display())).arg("--stanza=main");
        command
    }

    /// Makes a backup of `kind` (`full`, `incr`); gives seconds.
    pub fn backup(&self, kind: &str) -> Result<f64> {
        seconds(self.command().arg(format!("--type={kind}")).arg("backup"))
    }

    /// Puts the monitor's finished WAL into the repository, so that the backup can be restored; gives how many segments.
    pub fn archive(&self, monitor: &Monitor) -> Result<usize> {
        monitor.sql("select pg_switch_wal()")?;
        let mut count = 0;
        // The last one that was written to may not be whole.
        let last = monitor.sql("select pg_walfile_name(pg_current_wal_lsn())")?;
        for entry in std::fs::read_dir(monitor.data().join("pg_wal"))? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name.len() == last.len() && name < last {
                let segment = monitor.data().join("pg_wal").join(name);
                integration::run(self.command().arg("archive-push").arg(segment))?;
                count += 1;
            }
        }
        Ok(count)
    }

    /// Restores the newest backup into `target`, so that it ends its recovery as soon as it may; gives seconds.
    pub fn restore(&self, target: &Path) -> Result<f64> {
        data_directory(target)?;
        let mut command = self.command();
        command.arg(format!("--pg1-path={}", target.display()));
        seconds(command.args(["--type=immediate", "--target-action=promote", "restore"]))
    }
}

/// vsftpd with anonymous clients, clear and with TLS.
#[derive(Debug)]
pub struct Vsftpd {
    _process: Process,
    /// Where it listens on loopback.
    pub port: u16,
}

impl Vsftpd {
    /// Serves `folder` with the certificate and key of `tls`.
    pub fn start(toolbox: &Toolbox, folder: &Path, tls: &Path) -> Result<Self> {
        let port = integration::free_port()?;
        let config = folder.with_extension("conf");
        // Its sandbox and its users are for hosts that it is installed on; they cost nothing that is timed.
        std::fs::write(
            &config,
            format!(
                "listen=YES\nlisten_address=127.0.0.1\nlisten_port={port}\nbackground=NO\nanonymous_enable=YES\n\
                 no_anon_password=YES\nanon_root={}\nftp_username={CLUSTER_USER}\nnopriv_user={CLUSTER_USER}\n\
                 run_as_launching_user=YES\nseccomp_sandbox=NO\nssl_enable=YES\nallow_anon_ssl=YES\n\
                 force_local_data_ssl=NO\nforce_local_logins_ssl=NO\nrequire_ssl_reuse=NO\nssl_ciphers=HIGH\n\
                 rsa_cert_file={tls}/certificate.pem\nrsa_private_key_file={tls}/key.pem\n",
                folder.display(),
                tls = tls.display()
            ),
        )?;
        let log = folder.with_extension("log");
        let process = Process::start(toolbox.command("vsftpd").arg(&config), &log)?;
        integration::wait_for("vsftpd", Duration::from_secs(10), || {
            std::net::TcpStream::connect(("127.0.0.1", port)).map(drop).map_err(|error| {
                format!("{error}; it says: {}", std::fs::read_to_string(&log).unwrap_or_default())
            })
        })?;
        Ok(Self { _process: process, port })
    }
}

/// Barman with streaming backup and streaming WAL.
#[derive(Debug)]
pub struct Barman<'a> {
    toolbox: &'a Toolbox,
    config: PathBuf,
    _receiver: Process,
}

impl<'a> Barman<'a> {
    /// Configures it and waits until it says that it may make backups.
    pub fn prepare(toolbox: &'a Toolbox, monitor: &Monitor, data: &Path) -> Result<Self> {
        let folder = folder(data, "barman")?;
        let place = folder.display();
        let config = folder.join("barman.conf");
        let server =
            format!("host={} port={} user=postgres", monitor.socket_dir().display(), monitor.peer.port);
        std::fs::write(
            &config,
            format!(
                "[barman]\nbarman_user = {CLUSTER_USER}\nbarman_home = {place}\nconfiguration_files_directory = {place}/conf.d\n\
                 log_file = {place}/barman.log\n[main]\ndescription = main\nconninfo = {server} dbname=postgres\n\
                 streaming_conninfo = {server}\nbackup_method = postgres\nstreaming_archiver = on\nslot_name = barman\n\
                 create_slot = auto\npath_prefix = {}\nimmediate_checkpoint = true\n",
                Path::new(&toolbox.postgresql("x")).parent().unwrap_or(Path::new("/")).display()
            ),
        )?;
        let command = |arguments: &[&str]| {
            let mut command = as_cluster_user(toolbox, "barman");
            command.arg("-c").arg(&config).args(arguments);
            command
        };
        integration::run(&mut command(&["receive-wal", "--create-slot", "main"]))?;
        let receiver = Process::start(&mut command(&["receive-wal", "main"]), &folder.join("receiver.log"))?;
        let ready = integration::wait_for("Barman's readiness", Duration::from_secs(90), || {
            let switched = integration::run(&mut command(&["switch-wal", "--force", "--archive", "main"]));
            switched.map_err(|error| format!("{error:#}"))?;
            let check = command(&["check", "main"]).output().map_err(|error| error.to_string())?;
            if check.status.success() {
                Ok(())
            } else {
                Err(String::from_utf8_lossy(&check.stdout).into_owned())
            }
        });
        if let Err(error) = ready {
            bail!("{error:#}");
        }
        Ok(Self { toolbox, config, _receiver: receiver })
    }

    /// Makes a backup; gives seconds.
    pub fn backup(&self) -> Result<f64> {
        seconds(as_cluster_user(self.toolbox, "barman").arg("-c").arg(&self.config).args(["backup", "main"]))
    }
}
