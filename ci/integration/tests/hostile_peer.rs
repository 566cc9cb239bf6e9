//! Whoever has the network password, or the network process itself, against the pairing: who is followed,
//! what backups carry of the monitor's configuration, and what a restore runs of it.

#![allow(clippy::expect_used, reason = "helpers of tests fail by panicking")]

use anyhow::{Context, Result};
use api::{CreateBackup, Level, Manifest, Peer, Secret, Signature};
use auth::pin::{Identity, PublicKey, Statement};
use hostd::{BackupRequest, Request};
use integration::{
    CHECKSUM, Certificate, Fault, Monitor, Server, free_port, monitor_with_rows, paired, programs,
    query_replica, test_folder, wait_until_replayed,
};
use recovery::restore::{Host, Restore, Service};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::io::{Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tools::Toolbox;
use uuid::Uuid;

const MINUTE: Duration = Duration::from_secs(60);

/// What a thief would have run.
fn hostile_configuration() -> BTreeMap<String, String> {
    BTreeMap::from([(
        "/etc/postgresql/17/main/postgresql.conf".into(),
        "archive_mode = on\narchive_command = 'id'\n".into(),
    )])
}

fn manifest(server: &Server, monitor: Uuid, id: &str) -> Result<Manifest> {
    Ok(backups::read_manifest(&server.backups(monitor), &id.parse()?)?)
}

#[test]
fn the_network_password_does_not_change_who_is_followed_or_what_a_restore_applies() -> Result<()> {
    let toolbox = Toolbox::open()?;
    let (monitor, server) = paired(&toolbox, 1000)?;
    let mut thief = Monitor::start(&toolbox)?;
    let client = server.client()?;
    let rightful = &monitor.peer;
    thief.peer.id = rightful.id;
    thief.sign(9)?;
    let signed_by_thief = |mut peer: Peer| -> Result<Peer> {
        peer.signature =
            Some(Signature { number: 9, ..thief.peer.signature.clone().context("it is signed")? });
        Ok(peer)
    };
    let other = |change: fn(&mut Peer)| {
        let mut peer = rightful.clone();
        change(&mut peer);
        peer
    };
    let table = [
        ("nobody there", Peer { port: free_port()?, ..rightful.clone() }, "stays as it is"),
        ("the thief there", Peer { port: thief.peer.port, ..rightful.clone() }, "shows another certificate"),
        ("another password", other(|peer| peer.password = Secret::new("x")), "refuses the password"),
        ("the thief's key", thief.peer.clone(), "order accept-peer --monitor"),
        (
            "the thief's key beside",
            other(|peer| peer.certificate += &Certificate::new("x").expect("made").certificate),
            "key is not the pinned one",
        ),
        ("another monitor", Peer { id: Uuid::from_u128(7), ..thief.peer.clone() }, "is paired with monitor"),
        ("another role", other(|peer| peer.user = "postgres".into()), "role, slot or database is not"),
        ("another slot", other(|peer| peer.slot = "other".into()), "role, slot or database is not"),
        ("another database", other(|peer| peer.database = "other".into()), "role, slot or database is not"),
        (
            "another configuration",
            other(|peer| peer.configuration = hostile_configuration()),
            "signature is not",
        ),
        (
            "unsigned",
            other(|peer| {
                peer.signature = None;
                peer.configuration = hostile_configuration();
            }),
            "are not signed",
        ),
        (
            "signed by the thief",
            signed_by_thief(other(|peer| peer.configuration = hostile_configuration()))?,
            "signature is not",
        ),
        (
            "without a configuration",
            other(|peer| {
                peer.signature = None;
                peer.configuration.clear();
            }),
            "not signed anew",
        ),
        ("another version", other(|peer| peer.version = "9".into()), "signature is not"),
    ];
    for (name, peer, words) in table {
        let refused = client.pair(&peer).err().with_context(|| format!("{name}: it was paired"))?.to_string();
        assert!(refused.contains(words) && refused.contains("409"), "{name}: {refused}");
    }
    let events = client.events(None)?.events;
    let told = events.iter().filter(|event| event.message.starts_with("A pairing was refused")).count();
    assert!((1..=3).contains(&told), "{told} events");
    // Nothing has changed, and the stream goes on.
    let status = server.wait_for_state(&["synchronized"], MINUTE)?;
    assert_eq!(status.peer, Some(rightful.info()));
    monitor.sql("insert into t select generate_series(1, 1000)")?;
    wait_until_replayed(&toolbox, &server, &monitor)?;
    let backup = client.create_backup(&CreateBackup::default())?;
    assert_eq!(manifest(&server, rightful.id, &backup.id)?.configuration, rightful.configuration);

    // The console sees who has asked.
    let listed = server.order_in_words(&format!("{} order accept-peer", hostd::PROGRAM))?;
    let key = Identity::of(&thief.peer)?.fingerprint();
    assert!(listed.contains(&format!("key {key}")) && listed.contains("--number"), "{listed}");

    // What its key says anew is taken.
    let mut monitor = monitor;
    monitor.peer.configuration.insert("/etc/more.conf".into(), "work_mem = '7MB'\n".into());
    monitor.sign(2)?;
    client.pair(&monitor.peer)?;
    monitor.sql("insert into t values (-1)")?;
    wait_until_replayed(&toolbox, &server, &monitor)?;
    let backup = client.create_backup(&CreateBackup::default())?;
    assert_eq!(manifest(&server, monitor.peer.id, &backup.id)?.configuration, monitor.peer.configuration);

    // Also another certificate of its PostgreSQL.
    monitor.stop()?;
    monitor.set_certificate(&Certificate::new("monitor")?)?;
    monitor.sign(3)?;
    monitor.run_server()?;
    client.pair(&monitor.peer)?;
    wait_until_replayed(&toolbox, &server, &monitor)?;

    // The console lets it go, and then anybody may be paired, once.
    server.order_in_words(&format!("{} order release-peer", hostd::PROGRAM))?;
    server.wait_for_state(&["not-connected"], MINUTE)?;
    assert!(client.status()?.peer.is_none());
    let backups = client.backups()?.backups.len();
    let next = monitor_with_rows(&toolbox, 10)?;
    client.pair(&next.peer)?;
    server.wait_for_state(&["synchronized"], MINUTE)?;
    assert!(client.pair(&monitor.peer).is_err());
    assert!(client.backups()?.backups.len() >= backups, "backups went with the pairing");
    Ok(())
}

#[test]
fn a_compromised_network_process_follows_nobody_else_and_replaces_no_replica() -> Result<()> {
    let toolbox = Toolbox::open()?;
    let certificate = Certificate::new("monitor")?;
    let monitor = Monitor::start_with(&toolbox, &certificate)?;
    monitor.sql("create table t as select generate_series(1, 1000) as id; grant select on t to public")?;
    let mut server = integration::followed(&toolbox, &monitor)?;
    let rows = wait_until_replayed(&toolbox, &server, &monitor)?;
    let id = monitor.peer.id;
    server.stop_backupd()?;

    // Another key, with every request that takes a peer.
    let mut thief = Monitor::start(&toolbox)?;
    thief.peer.id = id;
    thief.sign(9)?;
    let boxed = |peer: &Peer| Box::new(peer.clone());
    for request in [
        Request::StartReplica { peer: boxed(&thief.peer) },
        Request::FullCopy { peer: boxed(&thief.peer), tablespaces: Vec::new(), replace: true },
    ] {
        let refused = format!("{:#}", server.order(&request).err().context("it was followed")?);
        assert!(refused.contains("key is not the pinned one"), "{refused}");
    }

    // A backup with a configuration of its own.
    let request = BackupRequest {
        monitor: api::MonitorRef { id, version: monitor.peer.version.clone() },
        reason: api::Reason::OnDemand,
        comment: String::new(),
        version: "17.6".into(),
        flushed_lsn: "0/1000000".into(),
        timeline: 1,
        superuser: None,
        collations: Vec::new(),
        configuration: hostile_configuration(),
        signature: monitor.peer.signature.clone(),
    };
    let before = backups_of(&server, id)?;
    // Not the reply of an order, and done.
    server.order(&Request::CreateBackup(Box::new(request))).err().context("it replies with the backup")?;
    let made = backups_of(&server, id)?.into_iter().find(|name| !before.contains(name));
    let made = manifest(&server, id, &made.context("no backup was made")?)?;
    assert_eq!(made.configuration, BTreeMap::new());

    // Another database of the same key in the replica's place.
    let mut other = Monitor::start_with(&toolbox, &certificate)?;
    other.take_identity(&monitor);
    other.sign(2)?;
    server.order(&Request::StopReplica { monitor: id })?;
    let copy = Request::FullCopy { peer: boxed(&other.peer), tablespaces: Vec::new(), replace: true };
    let refused = format!("{:#}", server.order(&copy).err().context("the replica was replaced")?);
    assert!(refused.contains("is of another database"), "{refused}");
    server.order(&Request::StartReplica { peer: boxed(&monitor.peer) })?;
    integration::wait_for("the old replica", MINUTE, || {
        match query_replica(&toolbox, &server, &monitor, CHECKSUM) {
            Ok(seen) if seen == rows => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })?;
    // The console says that it is meant to be.
    server.order(&Request::StopReplica { monitor: id })?;
    server.order_in_words(refused.split('`').nth(1).context("no order is named")?)?;
    let copy = Request::FullCopy { peer: boxed(&other.peer), tablespaces: Vec::new(), replace: true };
    server.order(&copy).map_err(|error| error.context(server.logs()))
}

/// A superuser of the database reads the key of PostgreSQL's certificate, and knows the network password.
#[test]
fn who_controls_the_database_takes_nothing_over() -> Result<()> {
    let toolbox = Toolbox::open()?;
    let (monitor, server) = paired(&toolbox, 1000)?;
    let thief = Monitor::start(&toolbox)?;
    let client = server.client()?;
    let key = monitor.sql("select pg_read_file('server.key')")?;
    let own = PublicKey::of(&auth::certificate::Key::from_pem(&key)?).to_string();
    let signed = |change: &dyn Fn(&mut Peer)| -> Result<Peer> {
        let mut peer = monitor.peer.clone();
        change(&mut peer);
        let identity = Identity::of(&peer)?;
        peer.signature = Some(Statement::of(&peer, &identity, 9).sign(&key)?);
        Ok(peer)
    };
    let take_over = |peer: &mut Peer| {
        peer.port = thief.peer.port;
        peer.certificate.clone_from(&thief.peer.certificate);
    };
    let no_key = |peer: &mut Peer| peer.signing_key = None;
    let own_key = |peer: &mut Peer| peer.signing_key = Some(own.clone());
    let configure = |peer: &mut Peer| peer.configuration = hostile_configuration();
    for (name, peer, words) in [
        ("a takeover", signed(&take_over)?, "key is not the pinned one"),
        ("a configuration", signed(&configure)?, "signature is not"),
        ("the same", signed(&|_| ())?, "signature is not"),
        ("PostgreSQL's key as signing key", signed(&own_key)?, "key is not the pinned one"),
        ("as an earlier version", signed(&no_key)?, "key is not the pinned one"),
        (
            "a takeover as an earlier version",
            signed(&|peer| {
                take_over(peer);
                no_key(peer);
                configure(peer);
            })?,
            "key is not the pinned one",
        ),
    ] {
        let refused = client.pair(&peer).err().with_context(|| format!("{name}: it was paired"))?.to_string();
        assert!(refused.contains(words), "{name}: {refused}");
        let request = Request::StartReplica { peer: Box::new(peer.clone()) };
        let is_same = Identity::of(&peer)? == Identity::of(&monitor.peer)?;
        assert_eq!(server.order(&request).is_ok(), is_same, "{name}: hostd");
    }
    monitor.sql("insert into t values (-1)")?;
    wait_until_replayed(&toolbox, &server, &monitor)?;
    let backup = client.create_backup(&CreateBackup::default())?;
    assert_eq!(manifest(&server, monitor.peer.id, &backup.id)?.configuration, monitor.peer.configuration);
    Ok(())
}

/// A number of the far future locks the monitor out no longer than until the console says so.
#[test]
fn a_number_far_ahead_of_the_clock_needs_the_console() -> Result<()> {
    let toolbox = Toolbox::open()?;
    let (mut monitor, server) = paired(&toolbox, 10)?;
    let client = server.client()?;
    let far = u64::MAX / 2;
    for number in [far, 5] {
        monitor.peer.version = format!("of {number}");
        monitor.sign(number)?;
        let refused = client.pair(&monitor.peer).err().context("it was paired")?.to_string();
        let order = format!("{} order confirm-peer --number {number}", hostd::PROGRAM);
        assert!(refused.contains(&format!("`{order}`")), "{refused}");
        server.order_in_words(&order)?;
        client.pair(&monitor.peer)?;
    }
    monitor.peer.version = "3".into();
    monitor.sign(6)?;
    client.pair(&monitor.peer)?;
    assert_eq!(client.status()?.peer, Some(monitor.peer.info()));
    Ok(())
}

#[test]
fn a_copy_of_a_monitor_does_not_outlive_its_release() -> Result<()> {
    let toolbox = Toolbox::open()?;
    let monitor = Monitor::start(&toolbox)?;
    let mut server = Server::start_sick(&toolbox, 16 << 30)?;
    server.faults()?.set("pg_basebackup", Fault::Hang, "", None)?;
    server.client()?.pair(&monitor.peer)?;
    server.wait_for_state(&["initial-sync"], MINUTE)?;
    // The network process is compromised and does not care.
    server.stop_backupd()?;
    let client = server.hostd_client();
    let faults = server.faults()?;
    let before = faults.failed("pg_basebackup")?;
    let (peer, copying) =
        (monitor.peer.clone(), server.data().join(format!("replica/{}.copying", monitor.peer.id)));
    let copy = std::thread::spawn(move || -> Result<String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let copied = runtime.block_on(client.full_copy(&peer, Vec::new(), false, drop));
        Ok(copied.err().context("it was copied")?.to_string())
    });
    integration::wait_for("the copy, which hangs", MINUTE, || match faults.failed("pg_basebackup") {
        Ok(failed) if failed > before => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    assert!(copying.exists());
    server.order_in_words(&format!("{} order release-peer", hostd::PROGRAM))?;
    assert!(!copying.exists(), "{}", server.logs());
    let refused = copy.join().ok().context("the copy panicked")??;
    assert!(refused.contains("released the monitor"), "{refused}");
    let again =
        Request::FullCopy { peer: Box::new(monitor.peer.clone()), tablespaces: Vec::new(), replace: false };
    let refused = format!("{:#}", server.order(&again).err().context("it was copied")?);
    assert!(refused.contains("was released"), "{refused}");
    Ok(())
}

#[test]
fn a_lost_record_of_the_pairing_admits_nobody_and_what_runs_goes_on() -> Result<()> {
    let toolbox = Toolbox::open()?;
    let (monitor, mut server) = paired(&toolbox, 1000)?;
    let mut thief = Monitor::start(&toolbox)?;
    let client = server.client()?;
    for is_damaged in [false, true] {
        server.stop("TERM")?;
        for name in ["decisions.json", "decisions.json.last"] {
            let path = server.hostd_state(name);
            if is_damaged { fs::write(path, "\0\0")? } else { fs::remove_file(path)? }
        }
        server.start_hostd()?;
        // Before the network process has said anything.
        thief.peer.id = Uuid::new_v4();
        thief.sign(9)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        for is_new in [true, false] {
            let admitted = runtime.block_on(server.hostd_client().admit_peer(&thief.peer, is_new))?;
            assert!(admitted.is_err(), "another monitor was admitted");
        }
        server.start_backupd()?;
        server.wait_for_state(&["synchronized"], MINUTE)?;
        monitor.sql("insert into t values (-1)")?;
        wait_until_replayed(&toolbox, &server, &monitor)?;
        assert!(client.pair(&thief.peer).is_err(), "another monitor was paired");
        let check = || -> Result<api::Check> {
            let checks = client.status()?.checks;
            checks.into_iter().find(|check| check.name == "pairing").context("there is no check")
        };
        let lost = integration::wait_for("the check", MINUTE, || match check() {
            Ok(check) if check.level == Level::Fail && check.message.contains("--key") => Ok(check),
            other => Err(format!("{other:?}")),
        })?;
        let events = client.events(None)?.events;
        assert!(events.iter().any(|event| event.message == lost.message), "{events:?}");
        let key = Identity::of(&monitor.peer)?.fingerprint().to_string();
        let order = lost.message.split('`').find(|words| words.contains("accept-peer"));
        let order = order.with_context(|| format!("no order is named: {}", lost.message))?;
        assert!(order.contains(&key), "{order}");
        server.order_in_words(order)?;
        integration::wait_for("the check", MINUTE, || match check() {
            Ok(check) if check.level == Level::Ok => Ok(()),
            other => Err(format!("{other:?}")),
        })?;
        assert!(client.pair(&Peer { id: Uuid::new_v4(), ..thief.peer.clone() }).is_err());
    }
    Ok(())
}

fn backups_of(server: &Server, monitor: Uuid) -> Result<Vec<String>> {
    let folder = server.backups(monitor);
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let names = fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let names: Vec<String> = names.collect::<Result<_>>()?;
    Ok(names.into_iter().filter_map(|name| name.strip_suffix(".json").map(str::to_owned)).collect())
}

/// A monitor's PostgreSQL on the machine of a restore.
struct Machine(RefCell<Monitor>);

impl Service for Machine {
    fn runs(&self) -> Result<bool> {
        Ok(self.0.borrow().sql("select 1").is_ok())
    }

    fn stop(&self) -> Result<()> {
        self.0.borrow_mut().stop()
    }

    fn start(&self) -> Result<()> {
        self.0.borrow_mut().run_server()
    }

    fn start_application(&self) -> Result<()> {
        Ok(())
    }
}

#[test]
fn a_restore_runs_nothing_of_the_monitors_configuration_until_somebody_says_so() -> Result<()> {
    let toolbox = Toolbox::open()?;
    let (monitor, server) = paired(&toolbox, 1000)?;
    let rows = wait_until_replayed(&toolbox, &server, &monitor)?;
    let backup = server.client()?.create_backup(&CreateBackup::default())?;
    let mut manifest = manifest(&server, monitor.peer.id, &backup.id)?;
    let folder = server.backups(monitor.peer.id);
    let tar = |from: u64| {
        let index = fs::File::open(folder.join(format!("{}.index", backup.id))).expect("there is an index");
        let index = Arc::new(vtar::Index::read_from(index).expect("it is one"));
        let mut tar = index.reader(folder.join(&backup.id)).expect("the tar opens");
        tar.seek(SeekFrom::Start(from)).expect("any offset can be read");
        tar
    };

    let lost = Monitor::start(&toolbox)?;
    let data = lost.data();
    let proof = test_folder()?;
    let proof = proof.path();
    let run = format!("touch {}/ran", proof.display());
    fs::set_permissions(proof, std::os::unix::fs::PermissionsExt::from_mode(0o777))?;
    let named = |name: &str| data.join(name).to_string_lossy().into_owned();
    manifest.configuration = BTreeMap::from([
        (
            named("postgresql.conf"),
            format!(
                "work_mem = '7MB'\nmax_connections = 60\narchive_mode = on\narchive_command = '{run}'\narchive_timeout = 1\n\
                 shared_preload_libraries = '{0}/evil'\nexternal_pid_file = '{0}/pid'\nlog_directory = '{0}'\n",
                proof.display()
            ),
        ),
        (named("pg_hba.conf"), "local all all trust\nhost all all 0.0.0.0/0 trust\n".into()),
        (
            named("postgresql.auto.conf"),
            format!("maintenance_work_mem = '99MB'\narchive_command = '{run}'\n"),
        ),
    ]);
    let service = Machine(RefCell::new(lost));
    let own = test_folder()?;
    let host = Host {
        data: data.clone(),
        configuration: None,
        programs: programs(&toolbox)?,
        run: own.path().join("run"),
        kept: own.path().join("kept"),
        service: &service,
    };
    let sql = |sql: &str| service.0.borrow().sql(sql);
    let show = |name: &str| sql(&format!("select setting from pg_settings where name = '{name}'"));
    let switch = || sql("create table if not exists w(); select pg_switch_wal(); select pg_sleep(3)");
    let restored = |manifest: &Manifest, accepted: bool| -> Result<Vec<String>> {
        let mut restore = Restore::begin(&host, manifest)?;
        if accepted {
            restore.accept_configuration()?;
        }
        restore.unpack(tar)?;
        restore.recover(|_, _| ())?;
        let notes = restore.bring_in()?;
        restore.confirm()?;
        Ok(notes)
    };

    let notes = restored(&manifest, false)?;
    assert_eq!(sql(CHECKSUM)?, rows);
    switch()?;
    assert_eq!(fs::read_dir(proof)?.count(), 0, "something of it ran");
    assert_eq!((show("archive_mode")?.as_str(), show("shared_preload_libraries")?.as_str()), ("off", ""));
    // What is harmless counts, and the machine's own stays.
    assert_eq!((show("work_mem")?.as_str(), show("max_connections")?.as_str()), ("7168", "60"));
    assert_eq!((show("maintenance_work_mem")?.as_str(), show("ssl")?.as_str()), ("101376", "on"));
    let methods = sql("select string_agg(auth_method, ',' order by rule_number) from pg_hba_file_rules")?;
    assert_eq!(methods, "trust,scram-sha-256", "the first is the machine's own rule too");
    // And it is said, and kept.
    let said = notes.join("\n");
    for part in ["archive_command", "evil", "external_pid_file", "0.0.0.0/0", "kept in"] {
        assert!(said.contains(part), "{part:?} is not in {said}");
    }
    let kept = host.kept.join(&backup.id);
    assert!(read(&kept.join("kept-aside.txt"))?.contains("line 4: `archive_command"), "{said}");
    let all: Vec<String> =
        (1..=3).map(|number| read(&kept.join(format!("{number}.conf")))).collect::<Result<_>>()?;
    assert!(all.iter().any(|text| text.contains("archive_timeout = 1")), "{all:?}");

    // Confirmed, it is applied as it was.
    for text in manifest_texts(&data) {
        assert!(!text.contains(&run), "{text}");
    }
    let mut accepted = manifest.clone();
    let main =
        "archive_mode = on\n".to_owned() + &format!("archive_command = '{run}'\n") + &own_settings(&data)?;
    accepted.configuration = BTreeMap::from([
        (named("postgresql.conf"), main),
        (named("pg_hba.conf"), read(&data.join("pg_hba.conf"))?),
    ]);
    restored(&accepted, true)?;
    switch()?;
    assert!(proof.join("ran").exists(), "what was accepted does not run");
    Ok(())
}

/// A new PostgreSQL brings settings that nobody has judged.
#[test]
fn every_setting_of_postgresql_is_judged() -> Result<()> {
    let programs = programs(&Toolbox::open()?)?;
    let (first, rest) = programs.as_owner.split_first().context("a command has a program")?;
    let mut command = std::process::Command::new(first);
    command.args(rest).arg(programs.folder.join("postgres")).arg("--describe-config").current_dir("/");
    let printed = String::from_utf8(integration::run(&mut command)?.stdout)?;
    let names: Vec<String> =
        printed.lines().filter_map(|line| Some(line.split_once('\t')?.0.to_ascii_lowercase())).collect();
    assert!(names.len() > 300, "{printed}");
    let judged = recovery::harmless::judged();
    let missing: Vec<&String> = names.iter().filter(|name| !judged.contains(name.as_str())).collect();
    assert!(missing.is_empty(), "{missing:?}");
    Ok(())
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// The texts of the configuration that is live.
fn manifest_texts(data: &Path) -> Vec<String> {
    recovery::configuration::IN_DATA
        .iter()
        .filter_map(|name| fs::read_to_string(data.join(name)).ok())
        .collect()
}

fn own_settings(data: &Path) -> Result<String> {
    let text = read(&data.join("postgresql.conf"))?;
    Ok(text.split(recovery::filter::MARK).next().unwrap_or_default().to_owned())
}
