//! A monitor's PostgreSQL: TLS, a replication role, a slot.

use crate::{CLUSTER_ID, Process, free_port, run, test_folder, wait_for};
use anyhow::{Context, Result};
use api::{Peer, Secret};
use recovery::start::Programs;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use tools::Toolbox;
use uuid::Uuid;

/// A certificate and its key, both PEM.
#[derive(Debug)]
pub struct Certificate {
    /// The certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
    /// The certificate of the authority that signed it; `None` if it signed itself.
    pub authority: Option<String>,
}

impl Certificate {
    /// A new self-signed one for `name`.
    pub fn new(name: &str) -> Result<Self> {
        let made = rcgen::generate_simple_self_signed([name.to_owned()])?;
        let key = made.signing_key.serialize_pem();
        Ok(Self { certificate: made.cert.pem(), key, authority: None })
    }

    /// A new self-signed one whose key is Ed25519.
    pub fn ed25519(name: &str) -> Result<Self> {
        Self::of(name, &rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519)?, 2090)
    }

    /// A new self-signed one for `name` that expires with the beginning of `year`.
    pub fn until(name: &str, year: i32) -> Result<Self> {
        Self::of(name, &rcgen::KeyPair::generate()?, year)
    }

    /// One of the same key that expires with the beginning of `year`.
    pub fn renewed(&self, name: &str, year: i32) -> Result<Self> {
        Self::of(name, &rcgen::KeyPair::from_pem(&self.key)?, year)
    }

    fn of(name: &str, key: &rcgen::KeyPair, year: i32) -> Result<Self> {
        let mut params = rcgen::CertificateParams::new([name.to_owned()])?;
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.not_before = rcgen::date_time_ymd(2001, 1, 1);
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        let certificate = params.self_signed(key)?.pem();
        Ok(Self { certificate, key: key.serialize_pem(), authority: None })
    }

    /// A new one for `name`, signed by a new authority.
    pub fn signed(name: &str) -> Result<Self> {
        let mut authority = rcgen::CertificateParams::new([])?;
        authority.distinguished_name.push(rcgen::DnType::CommonName, "Test CA");
        authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let authority = rcgen::CertifiedIssuer::self_signed(authority, rcgen::KeyPair::generate()?)?;
        let key = rcgen::KeyPair::generate()?;
        let mut certificate = rcgen::CertificateParams::new([name.to_owned()])?;
        certificate.distinguished_name.push(rcgen::DnType::CommonName, name);
        let certificate = certificate.signed_by(&key, &authority)?;
        Ok(Self {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
            authority: Some(authority.pem()),
        })
    }
}

/// A running PostgreSQL as a monitor's.
#[derive(Debug)]
pub struct Monitor {
    toolbox: Toolbox,
    /// What `PUT /v1/peer` takes.
    pub peer: Peer,
    process: Option<Process>,
    folder: tempfile::TempDir,
    /// Its private signing key, PEM.
    signing_key: String,
    /// Where [`Monitor::sql`] runs.
    pub database: String,
    /// As whom the tests log in.
    pub login_user: String,
    /// What the tests' own logins override of what is set for their role or database (`PGOPTIONS`).
    pub login_options: String,
}

impl Monitor {
    /// Signs what the peer says, as `monitor-link setup` does.
    pub fn sign(&mut self, number: u64) -> Result<()> {
        let key = auth::certificate::Key::from_pem(&self.signing_key)?;
        self.peer.signing_key = Some(auth::pin::PublicKey::of(&key).to_string());
        self.peer.signature = Some(auth::pin::sign(&self.peer, &self.signing_key, number)?);
        Ok(())
    }

    /// Takes the UUID and the signing key of another one, as a monitor that was made anew with the state of monitor-link;
    /// what it says is to be signed anew.
    pub fn take_identity(&mut self, of: &Self) {
        self.peer.id = of.peer.id;
        self.signing_key.clone_from(&of.signing_key);
    }

    /// Makes and starts a cluster prepared as `monitor-link setup` does, of the PostgreSQL in `toolbox`'s tree.
    pub fn start(toolbox: &Toolbox) -> Result<Self> {
        Self::start_with(toolbox, &Certificate::new("monitor")?)
    }

    /// As [`Monitor::start`], with a certificate of one's own.
    pub fn start_with(toolbox: &Toolbox, certificate: &Certificate) -> Result<Self> {
        Self::start_as(toolbox, certificate, &["--locale=C.UTF-8", "--data-checksums"])
    }

    /// As [`Monitor::start_with`], made by `initdb` with these arguments.
    pub fn start_as(toolbox: &Toolbox, certificate: &Certificate, initdb: &[&str]) -> Result<Self> {
        let folder = test_folder()?;
        chown(folder.path(), Some(CLUSTER_ID), Some(CLUSTER_ID))?;
        let files =
            [("server.crt", Some(&certificate.certificate)), ("root.crt", certificate.authority.as_ref())];
        for (name, text) in files {
            fs::write(folder.path().join(name), text.map_or("", String::as_str))?;
        }
        let authority = certificate.authority.as_ref().map(|_| folder.path().join("root.crt"));
        let pinned =
            monitor_link::certificate::to_pin(&folder.path().join("server.crt"), authority.as_deref())?;
        let peer = Peer {
            id: Uuid::new_v4(),
            version: "1.0-test".into(),
            address: "127.0.0.1".into(),
            port: free_port()?,
            user: "backup_server".into(),
            password: Secret::new("it's a \\ test: pass"),
            slot: "backup_server".into(),
            database: "postgres".into(),
            certificate: pinned,
            configuration: BTreeMap::from([("/etc/postgresql.conf".into(), "# the monitor's\n".into())]),
            signing_key: None,
            signature: None,
        };
        let mut monitor = Self {
            toolbox: toolbox.clone(),
            peer,
            process: None,
            folder,
            signing_key: auth::certificate::Key::generate()?.to_pem(),
            database: "postgres".into(),
            login_user: "postgres".into(),
            login_options: String::new(),
        };
        monitor.sign(1)?;
        let data = monitor.data();
        run(monitor
            .command("initdb")
            .args(initdb)
            .args(["--auth=trust", "--username=postgres", "--no-sync", "-D"])
            .arg(&data))?;
        monitor.write_certificate(certificate)?;
        monitor.write_hba(&["replication", "postgres"])?;
        let mut settings = fs::File::options().append(true).open(data.join("postgresql.conf"))?;
        writeln!(settings, "listen_addresses = '127.0.0.1'\nssl = on\nfsync = off\nmax_connections = 50")?;
        monitor.run_server()?;
        monitor.sql(
            "create role backup_server login replication password 'it''s a \\ test: pass'; \
             select pg_create_physical_replication_slot('backup_server', true); \
             do $$ begin if exists (select from pg_settings where name = 'event_triggers') then \
             grant set on parameter event_triggers to backup_server; grant pg_checkpoint to backup_server; \
             end if; end $$; \
             select set_config('session_preload_libraries', '', false); \
             alter role backup_server in database postgres set session_preload_libraries from current; \
             alter role backup_server in database postgres set log_statement = 'none'; \
             alter role backup_server in database postgres set log_min_messages = 'warning'",
        )?;
        Ok(monitor)
    }

    fn write_certificate(&self, certificate: &Certificate) -> Result<()> {
        for (name, text) in [("server.crt", &certificate.certificate), ("server.key", &certificate.key)] {
            let path = self.data().join(name);
            fs::write(&path, text)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
            chown(&path, Some(CLUSTER_ID), Some(CLUSTER_ID))?;
        }
        Ok(())
    }

    /// Gives the stopped server another, self-signed certificate, and the peer what pins it.
    pub fn set_certificate(&mut self, certificate: &Certificate) -> Result<()> {
        self.write_certificate(certificate)?;
        self.peer.certificate.clone_from(&certificate.certificate);
        self.sign(1)
    }

    /// The data directory.
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("pgdata")
    }

    /// Makes a tablespace at `location`, a new folder, with table `far` in it, which has `there`.
    pub fn add_tablespace(&self, location: &Path) -> Result<()> {
        std::fs::create_dir(location)?;
        chown(location, Some(CLUSTER_ID), Some(CLUSTER_ID))?;
        self.sql(&format!("create tablespace elsewhere location '{}'", location.display()))?;
        self.sql(
            "create table far tablespace elsewhere as select 'there' as place; grant select on far to public",
        )
        .map(drop)
    }

    /// Gives what a test has put into the data directory to the server's user.
    pub fn own_data(&self) -> Result<()> {
        let owner = format!("{CLUSTER_ID}:{CLUSTER_ID}");
        run(Command::new("chown").args(["-R", &owner]).arg(self.data())).map(drop)
    }

    /// The folder of its socket.
    pub fn socket_dir(&self) -> &Path {
        self.folder.path()
    }

    /// Lets `backup_server` into `databases` with TLS and SCRAM, and local connections into all.
    pub fn write_hba(&self, databases: &[&str]) -> Result<()> {
        let mut text = "local all all trust\nlocal replication all trust\n".to_owned();
        for database in databases {
            text += &format!("hostssl {database} backup_server 127.0.0.1/32 scram-sha-256\n");
        }
        fs::write(self.data().join("pg_hba.conf"), text).context("cannot write pg_hba.conf")
    }

    /// Keeps a copy of the stopped cluster, as a snapshot of a virtual machine would.
    pub fn keep(&self) -> Result<()> {
        self.copy("pgdata", "kept")
    }

    /// Sets the stopped cluster back to what was kept.
    pub fn set_back(&self) -> Result<()> {
        fs::remove_dir_all(self.data())?;
        self.copy("kept", "pgdata")
    }

    fn copy(&self, from: &str, to: &str) -> Result<()> {
        let place = |name: &str| self.folder.path().join(name);
        run(Command::new("cp").arg("-a").arg(place(from)).arg(place(to))).map(drop)
    }

    /// Starts the server and waits until it answers.
    pub fn run_server(&mut self) -> Result<()> {
        let port = self.peer.port.to_string();
        let socket = format!("unix_socket_directories={}", self.folder.path().display());
        let mut command = self.command("postgres");
        command.arg("-D").arg(self.data()).args(["-p", &port]);
        command.args(["-c", &socket]);
        self.process = Some(Process::start(&mut command, &self.folder.path().join("log"))?);
        wait_for("the monitor's PostgreSQL", Duration::from_secs(30), || {
            self.sql("select 1").map(drop).map_err(|error| format!("{error:#}"))
        })
    }

    /// Stops the server.
    pub fn stop(&mut self) -> Result<()> {
        self.process.take().map_or(Ok(()), |mut process| process.stop("INT"))
    }

    /// Runs SQL as the superuser and gives what is printed, without decoration.
    pub fn sql(&self, sql: &str) -> Result<String> {
        self.sql_in(&self.database, sql)
    }

    /// The same in a database, whose name is bytes.
    pub fn sql_in(&self, database: impl AsRef<OsStr>, sql: &str) -> Result<String> {
        let place = (self.folder.path(), self.peer.port);
        query_in(&self.toolbox, place, &self.login_user, database.as_ref(), &self.login_options, sql)
    }

    fn command(&self, program: &str) -> Command {
        as_cluster_user(&self.toolbox, &self.toolbox.postgresql(program))
    }
}

/// A command of the tools tree that runs as the cluster user.
pub fn as_cluster_user(toolbox: &Toolbox, program: &str) -> Command {
    let id = CLUSTER_ID.to_string();
    let mut command = toolbox.command("setpriv");
    // root's home has files that this user cannot read, and that are not meant for it.
    command.env("HOME", "/");
    command.args(["--reuid", &id, "--regid", &id, "--clear-groups", "--", program]);
    command
}

/// PostgreSQL's programs of a tree, as the recovery program runs them.
pub fn programs(toolbox: &Toolbox) -> Result<Programs> {
    let command = as_cluster_user(toolbox, &toolbox.postgresql("postgres"));
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let mut as_owner: Vec<String> = words.map(|word| word.to_string_lossy().into_owned()).collect();
    let program = PathBuf::from(as_owner.pop().context("a command has a program")?);
    let folder = program.parent().context("a program has a folder")?.to_owned();
    Ok(Programs { as_owner, folder, owner: (CLUSTER_ID, CLUSTER_ID) })
}

/// Runs SQL in database `postgres` over the socket in `socket_dir`.
pub fn query(toolbox: &Toolbox, socket_dir: &Path, port: u16, user: &str, sql: &str) -> Result<String> {
    query_in(toolbox, (socket_dir, port), user, "postgres".as_ref(), "", sql)
}

/// The same in a database, at a folder of the socket and a port, with `options` of the login.
pub fn query_in(
    toolbox: &Toolbox,
    (socket_dir, port): (&Path, u16),
    user: &str,
    database: &OsStr,
    options: &str,
    sql: &str,
) -> Result<String> {
    let mut command = toolbox.command("psql");
    command
        .env("PGOPTIONS", options)
        .args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-U", user, "-f", "-", "-d"])
        .arg(database)
        .arg("-h")
        .arg(socket_dir)
        .args(["-p", &port.to_string()]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    child.stdin.take().context("psql takes no input")?.write_all(sql.as_bytes())?;
    let output = child.wait_with_output()?;
    anyhow::ensure!(output.status.success(), "psql: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}
