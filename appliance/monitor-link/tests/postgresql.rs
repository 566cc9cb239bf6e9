//! `setup` against a real PostgreSQL 17 of the tools tree, and its rules against a real nft in a network namespace of
//! its own. Needs root (to become PostgreSQL's user, for the namespace) and the tools tree.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::net::{IpAddr, TcpListener};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use api::{Peer, Secret};
use monitor_link::{hba, redirect, setup, sql};
use tools::Toolbox;
use uuid::Uuid;

/// `nobody`: the server refuses to run as root, and its user must be in the host's list.
const USER: u32 = 65534;

struct Server {
    toolbox: Toolbox,
    folder: tempfile::TempDir,
    port: u16,
}

impl Server {
    fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("monitor-link-test-").tempdir_in("/var/tmp").unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        chown(folder.path(), Some(USER), Some(USER)).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let server = Self { toolbox: Toolbox::open().unwrap(), folder, port };
        let mut initdb = server.command("initdb");
        initdb.args(["--auth=trust", "--username=postgres", "--locale=C.UTF-8", "--no-sync", "-D"]);
        good(initdb.arg(server.data()).output().unwrap());
        let mut conf =
            fs::OpenOptions::new().append(true).open(server.data().join("postgresql.conf")).unwrap();
        let socket = server.folder.path().display();
        writeln!(conf, "port = {port}\nunix_socket_directories = '{socket}'\nfsync = off").unwrap();
        drop(conf);
        server.control("start");
        server
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("pgdata")
    }

    fn command(&self, program: &str) -> Command {
        let mut command = self.toolbox.command("setpriv");
        let id = USER.to_string();
        command
            .args(["--reuid", &id, "--regid", &id, "--clear-groups", "--"])
            .arg(self.toolbox.postgresql(program));
        command.current_dir("/");
        command
    }

    fn control(&self, action: &str) {
        let mut command = self.command("pg_ctl");
        command.args(["--wait", "--silent", "--mode=fast", "-D"]).arg(self.data());
        command.arg(format!("--log={}", self.folder.path().join("log").display())).arg(action);
        // The server inherits the streams: a pipe would never end.
        let status =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
        let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        assert!(status.success(), "{action}: {log}");
    }

    fn psql(&self) -> sql::Psql {
        let command = self.command("psql");
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        sql::Psql {
            command: words.map(|word| word.to_str().unwrap().to_owned()).collect(),
            user: "postgres".into(),
            port: self.port,
            socket: Some(self.folder.path().to_str().unwrap().to_owned()),
        }
    }

    /// A connection over the network as the backup server's role.
    fn connect(&self, peer: &Peer, more: &str, statement: &str) -> Output {
        let pinned = self.folder.path().join("pinned.pem");
        fs::write(&pinned, &peer.certificate).unwrap();
        let parameters = format!(
            "host=127.0.0.1 port={} user={} dbname={} sslmode=verify-ca sslrootcert={} channel_binding=require \
             require_auth=scram-sha-256 {more}",
            self.port,
            peer.user,
            peer.database,
            pinned.display()
        );
        let mut command = self.command("psql");
        command.env("PGPASSWORD", peer.password.reveal()).env("HOME", "/");
        command.args(["--no-psqlrc", "-At", "-c", statement]).arg(parameters).output().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.data().join("postmaster.pid").exists() && !std::thread::panicking() {
            self.control("stop");
        } else if let Ok(pid) = fs::read_to_string(self.data().join("postmaster.pid")) {
            let pid =
                pid.lines().next().and_then(|pid| pid.parse().ok()).and_then(rustix::process::Pid::from_raw);
            if let Some(pid) = pid {
                rustix::process::kill_process(pid, rustix::process::Signal::INT).ok();
            }
        }
    }
}

fn good(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn bad(output: Output) -> String {
    assert!(!output.status.success(), "was let in");
    String::from_utf8(output.stderr).unwrap()
}

fn peer(server: &Server, certificate: String, id: Uuid, password: Secret) -> Peer {
    Peer {
        id,
        version: "1".into(),
        address: "127.0.0.1".into(),
        port: server.port,
        user: hba::ROLE.into(),
        password,
        slot: sql::SLOT.into(),
        database: hba::DATABASE.into(),
        certificate,
        configuration: setup::configuration(&server.psql()).unwrap(),
        signing_key: None,
        signature: None,
    }
}

#[test]
fn a_fresh_cluster_lets_the_backup_server_in_and_a_second_run_changes_nothing() {
    let server = Server::new();
    let psql = server.psql();
    let state = server.folder.path().join("state");
    let local: IpAddr = "127.0.0.1".parse().unwrap();
    let restarts = Cell::new(0);
    let run = || {
        let restart = || {
            restarts.set(restarts.get() + 1);
            server.control("restart");
            Ok(())
        };
        let host = "127.0.0.1".parse().unwrap();
        let pinned = setup::prepare(&psql, &host, &[local], local, None, &restart).unwrap();
        let signed =
            |id, password, number| setup::signed(peer(&server, pinned, id, password), &state, number, None);
        setup::credentials(&state, &psql, signed).unwrap()
    };
    let first = run();
    let identity = auth::pin::Identity::of(&first).unwrap();
    let signature = first.signature.as_ref().unwrap();
    let statement = auth::pin::Statement::of(&first, &identity, signature.number);
    assert!(statement.is_signed_by(identity.signing.as_ref().unwrap(), signature));
    // A superuser of the database reads the key of its certificate, and not the one that signs.
    let read = |path: &str| psql.run(&format!("select pg_read_file('{path}')"));
    assert!(read(&psql.value("show ssl_key_file").unwrap()).is_ok());
    let error = read(state.join(setup::SIGNING_KEY_FILE).to_str().unwrap()).unwrap_err();
    assert!(format!("{error:#}").contains("Permission denied"), "{error:#}");
    assert_eq!(restarts.get(), 1, "listen_addresses needs a restart");
    assert_eq!(psql.value("show ssl").unwrap(), "on");
    assert_eq!(psql.value("show listen_addresses").unwrap(), "*");
    assert_ne!(psql.value("show max_slot_wal_keep_size").unwrap(), "-1");
    let role = "select rolcanlogin, rolreplication, rolsuper, rolcreatedb, rolcreaterole from pg_roles \
                where rolname = 'backup_server'";
    assert_eq!(psql.run(role).unwrap(), [["t", "t", "f", "f", "f"]]);
    let slot = "select slot_type, wal_status, restart_lsn is not null from pg_replication_slots";
    assert_eq!(psql.run(slot).unwrap(), [["physical", "reserved", "t"]]);

    let second = run();
    assert_eq!(second, first);
    assert_eq!(restarts.get(), 1);
    assert_eq!(psql.run(slot).unwrap().len(), 1);
    let hba_file = fs::read_to_string(server.data().join("pg_hba.conf")).unwrap();
    assert_eq!(hba_file.matches(hba::FILE).count(), 1);
    let names = |configuration: &BTreeMap<String, String>| -> Vec<String> {
        let name = |path: &String| Path::new(path).file_name().unwrap().to_str().unwrap().to_owned();
        configuration.keys().map(name).collect()
    };
    assert_eq!(
        names(&first.configuration),
        ["pg_hba.conf", "pg_ident.conf", "postgresql.auto.conf", "postgresql.conf"]
    );
    let outside = server.folder.path().join("ident");
    fs::write(&outside, "# users").unwrap();
    psql.run(&format!("alter system set ident_file = '{}'", outside.display())).unwrap();
    server.control("restart");
    let configuration = setup::configuration(&psql).unwrap();
    assert_eq!(configuration[outside.to_str().unwrap()], "# users");
    let auto_conf = &configuration[server.data().join("postgresql.auto.conf").to_str().unwrap()];
    assert!(auto_conf.contains(&format!("ident_file = '{}'", outside.display())), "{auto_conf}");

    // What the backup server does: replication, and SQL about its slot.
    good(server.connect(&first, "replication=true", "IDENTIFY_SYSTEM"));
    assert_eq!(good(server.connect(&first, "", "select wal_status from pg_replication_slots")), "reserved");
    // What it may not: without TLS, with another password, in another database; nor the role by the socket.
    let text = bad(server.connect(&first, "sslmode=disable channel_binding=prefer", "select 1"));
    assert!(text.contains("pg_hba.conf rejects connection"), "{text}");
    let wrong = Peer { password: Secret::new("wrong"), ..first.clone() };
    assert!(bad(server.connect(&wrong, "", "select 1")).contains("password authentication failed"));
    assert!(bad(server.connect(&first, "dbname=template1", "select 1")).contains("rejects connection"));
    let socket = format!("host={}", server.folder.path().display());
    let text =
        bad(server.connect(&first, &format!("{socket} sslmode=prefer channel_binding=prefer"), "select 1"));
    assert!(text.contains("rejects connection"), "{text}");
    let log = fs::read_to_string(server.folder.path().join("log")).unwrap();
    assert!(!log.contains(first.password.reveal()), "the password stands in the server's log");
}

#[test]
fn a_setting_that_alter_system_overrides_is_named() {
    let server = Server::new();
    let psql = server.psql();
    psql.run("alter system set listen_addresses = 'localhost'").unwrap();
    let local = "127.0.0.1".parse().unwrap();
    let restart = || {
        server.control("restart");
        Ok(())
    };
    let error =
        setup::prepare(&psql, &"127.0.0.1".parse().unwrap(), &[local], local, None, &restart).unwrap_err();
    assert!(error.to_string().contains("listen_addresses is \"localhost\" and not \"*\""), "{error:#}");
}

/// PostgreSQL cannot bind a login to it, so the backup server would never connect.
#[test]
fn a_certificate_of_the_hosts_that_binds_no_login_is_refused_before_anything_changes() {
    let server = Server::new();
    let psql = server.psql();
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let certificate =
        rcgen::CertificateParams::new(["monitor".to_owned()]).unwrap().self_signed(&key).unwrap();
    for (name, text) in [("own.crt", certificate.pem()), ("own.key", key.serialize_pem())] {
        let path = server.data().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        chown(&path, Some(USER), Some(USER)).unwrap();
    }
    for (name, value) in [("ssl_cert_file", "own.crt"), ("ssl_key_file", "own.key"), ("ssl", "on")] {
        psql.run(&format!("alter system set {name} = '{value}'")).unwrap();
    }
    server.control("restart");
    assert_eq!(psql.value("show ssl").unwrap(), "on");
    let restart = || panic!("it restarts PostgreSQL");
    let host = "127.0.0.1".parse().unwrap();
    let local = "127.0.0.1".parse().unwrap();
    let error = setup::prepare(&psql, &host, &[local], local, None, &restart).unwrap_err();
    let said = format!("{error:#}");
    assert!(said.contains("signed with Ed25519") && said.contains("ECDSA or RSA"), "{said}");
    assert_ne!(psql.value("show listen_addresses").unwrap(), "*");
}

#[test]
fn nft_takes_the_rules_and_takes_them_again() {
    let toolbox = Toolbox::open().unwrap();
    let addresses = ["192.0.2.5".parse().unwrap(), "2001:db8::5".parse().unwrap()];
    let rules = serde_json::to_string(&redirect::ruleset(&addresses, 5432, true)).unwrap();
    let mut file = tempfile::NamedTempFile::new_in("/var/tmp").unwrap();
    file.write_all(rules.as_bytes()).unwrap();
    let command = toolbox.command("nft");
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let nft = words.map(|word| format!("'{}'", word.to_str().unwrap())).collect::<Vec<_>>().join(" ");
    let path = file.path().display();
    let script = format!("set -e; {nft} -j -f {path}; {nft} -j -f {path}; {nft} list ruleset");
    let text = good(Command::new("unshare").args(["--net", "sh", "-c", &script]).output().unwrap());
    for line in [
        "ip saddr 192.0.2.5 tcp dport 50001 redirect to :5432",
        "ip6 saddr 2001:db8::5 tcp dport 50001 redirect to :5432",
        "iifname \"lo\" accept",
        "tcp dport 5432 ct status dnat accept",
        "tcp dport 5432 drop",
    ] {
        assert_eq!(text.matches(line).count(), 1, "{line} in {text}");
    }
}

/// What a security guideline or an application sets for its accounts and databases, setup overrides for itself and for the
/// backup server's role.
#[test]
fn what_is_set_for_roles_and_databases_does_not_stop_setup() {
    let server = Server::new();
    let psql = server.psql();
    // In one session: no plain one would get in again.
    psql.run(
        "create role app_owner;
         create function refuse() returns event_trigger language plpgsql as $$ begin raise 'nobody'; end $$;
         create event trigger refuse on login execute function refuse();
         alter event trigger refuse enable always;
         alter role postgres set role = 'app_owner';
         alter role all set session_preload_libraries = 'not_here';
         alter role all set statement_timeout = 1;
         alter role all set transaction_timeout = '2ms';
         alter role all set idle_session_timeout = 1;
         alter role all set default_transaction_read_only = on;
         alter role all set search_path = 'nowhere';
         alter role all set password_encryption = 'md5';
         alter database postgres connection limit 0;
         revoke connect on database template1 from public;",
    )
    .unwrap();
    let local = "127.0.0.1".parse().unwrap();
    let restart = || {
        server.control("restart");
        Ok(())
    };
    let host = "127.0.0.1".parse().unwrap();
    let pinned = setup::prepare(&psql, &host, &[local], local, None, &restart).unwrap();
    assert_eq!(psql.open_database().unwrap(), "template1");
    let peer = setup::credentials(&server.folder.path().join("state"), &psql, |id, password, _| {
        Ok(Peer { database: "template1".into(), ..peer(&server, pinned, id, password) })
    })
    .unwrap();
    // As the backup server does it.
    let ours = replica::options_of_replication_role();
    let statement = "select pg_catalog.pg_sleep(0.2), current_user, current_setting('lc_messages')";
    let options = format!("options='{}'", ours.replace('\\', "\\\\"));
    assert_eq!(good(server.connect(&peer, &options, statement)), "|backup_server|C");
    good(server.connect(&peer, "replication=true", "IDENTIFY_SYSTEM"));
    // A database that is closed to all is not asked.
    psql.run("update pg_database set datallowconn = false where datname = 'postgres'").unwrap();
    assert_eq!(psql.value("select current_database()").unwrap(), "template1");
}
