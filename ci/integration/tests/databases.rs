//! Databases as people set them up: accounts, closed databases, settings for roles and databases, properties of the
//! cluster. Each is followed, backed up, proven and restored by the recovery program, and has the same tables then.

use anyhow::{Context, Result};
use api::{Backup, Check, CreateBackup, Level, Manifest, Proof, Verification};
use integration::{
    CLUSTER_ID, Certificate, Monitor, Process, Server, as_cluster_user, followed, programs, query_in,
    query_replica, test_folder, wait_for,
};
use recovery::start::Unpacked;
use recovery::unpack::{Destination, unpack};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::time::Duration;
use tools::Toolbox;

const MINUTE: Duration = Duration::from_secs(60);

/// What the tests' own logins override.
const OPTIONS: &str = "-c role=none -c default_transaction_isolation=read\\ committed -c session_preload_libraries= \
                       -c default_transaction_read_only=off -c statement_timeout=0 -c transaction_timeout=0 \
                       -c idle_session_timeout=0 -c idle_in_transaction_session_timeout=0 -c lock_timeout=0 \
                       -c search_path=public -c event_triggers=off -c default_tablespace= \
                       -c quote_all_identifiers=off -c local_preload_libraries=";

/// All rows of a table, whatever their order.
const ROWS: &str = "select count(*), sum(hashtextextended(t::text, 0)) from t";

/// A monitor with a database of its application, a backup server that is started and not paired yet.
fn monitor(toolbox: &Toolbox, initdb: &[&str]) -> Result<Monitor> {
    let mut monitor = Monitor::start_as(toolbox, &Certificate::new("monitor")?, initdb)?;
    monitor.login_options = OPTIONS.into();
    monitor.sql("create role app_owner; create database app owner app_owner")?;
    monitor.sql_in(
        "app",
        "create table t as select g as id, md5(g::text) as text from generate_series(1, 5000) as g",
    )?;
    Ok(monitor)
}

const UTF8: [&str; 2] = ["--locale=C.UTF-8", "--data-checksums"];

/// Waits until the replica has all WAL of the monitor.
fn wait_until_all_is_there(server: &Server, monitor: &Monitor) -> Result<()> {
    let position = monitor.sql("select pg_current_wal_lsn()")?;
    wait_for("all WAL in the replica", MINUTE, || {
        let sql = format!("select pg_last_wal_replay_lsn() >= '{position}'");
        match query_replica(&Toolbox::open().map_err(|error| error.to_string())?, server, monitor, &sql) {
            Ok(is_there) if is_there == "t" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
}

/// Makes a backup and waits until it is proven in all depth.
fn proven(server: &Server, monitor: &Monitor) -> Result<(Manifest, Proof)> {
    let client = server.client()?;
    wait_until_all_is_there(server, monitor)?;
    let id = client.create_backup(&CreateBackup::default())?.id;
    client.verify_backup(&id)?;
    let proof = wait_for("the proof", 12 * MINUTE, || match client.backup(&id) {
        Ok(backup) => match backup.verification {
            Verification::Verified(proof) => Ok(proof),
            other => Err(format!("{other:?} {:?}", backup.trouble)),
        },
        Err(error) => Err(error.to_string()),
    })
    .with_context(|| server.logs())?;
    // One line tells how much PostgreSQL has logged, and no other line is the clone's.
    let logs = server.logs();
    let told = format!("verification of {id}: PostgreSQL logged ");
    assert!(logs.contains(&told), "{logs}");
    assert!(!logs.contains("LOG:  selected new timeline ID"), "{logs}");
    Ok((backups::read_manifest(&server.backups(monitor.peer.id), &id.parse()?)?, proof))
}

/// What was restored, and serves.
struct Fresh {
    toolbox: Toolbox,
    _process: Process,
    folder: tempfile::TempDir,
    login: (String, String),
    notes: Vec<String>,
}

impl Fresh {
    /// Restores a backup onto a fresh cluster, as the recovery program does.
    fn restore(toolbox: &Toolbox, server: &Server, monitor: &Monitor, manifest: &Manifest) -> Result<Self> {
        let (folder, run) = (test_folder()?, test_folder()?);
        let destination = Destination {
            pgdata: folder.path().join("pgdata"),
            tablespaces: folder.path().join("tablespaces"),
            owner: (CLUSTER_ID, CLUSTER_ID),
        };
        let backup = &manifest.backup;
        let source = server.backups(monitor.peer.id);
        let index = fs::File::open(source.join(format!("{}.index", backup.id)))?;
        let tar = std::sync::Arc::new(vtar::Index::read_from(index)?).reader(source.join(&backup.id))?;
        unpack("x.tar", tar, 0, &destination, |_| Ok(()))?;
        let programs = programs(toolbox)?;
        let run = run.path().join("run");
        let unpacked = Unpacked { programs: &programs, folder: folder.path(), run: &run, backup };
        let notes = unpacked.recover(|_, _| ())?;
        let socket = folder.path().join("socket");
        fs::create_dir(&socket)?;
        std::os::unix::fs::chown(&socket, Some(CLUSTER_ID), Some(CLUSTER_ID))?;
        let hba = folder.path().join("hba");
        fs::write(&hba, "local all all trust\n")?;
        let conf = folder.path().join("postgresql.conf");
        fs::write(
            &conf,
            format!(
                "listen_addresses = ''\nunix_socket_directories = '{}'\nhba_file = '{}'\nmin_wal_size = 2GB\n\
             max_wal_size = 4GB\nmax_prepared_transactions = 10\n",
                socket.display(),
                hba.display()
            ),
        )?;
        let mut command = as_cluster_user(toolbox, &toolbox.postgresql("postgres"));
        command.arg("-D").arg(&destination.pgdata).arg("-c").arg(format!("config_file={}", conf.display()));
        let process = Process::start(&mut command, &folder.path().join("log"))?;
        let login = (monitor.login_user.clone(), monitor.login_options.clone());
        let fresh = Self { toolbox: toolbox.clone(), _process: process, folder, login, notes };
        wait_for("what was restored", MINUTE, || {
            fresh.sql("app", "select 1").map_err(|error| format!("{error:#}"))
        })?;
        Ok(fresh)
    }

    fn sql(&self, database: impl AsRef<OsStr>, sql: &str) -> Result<String> {
        let socket = self.folder.path().join("socket");
        let (user, options) = &self.login;
        query_in(&self.toolbox, (&socket, 5432), user, database.as_ref(), options, sql)
    }
}

/// What an application, its consultant and its security guideline may set, all at once: every login of ours hits it.
#[test]
fn no_setting_of_a_role_or_database_stops_a_login() -> Result<()> {
    let toolbox = Toolbox::open()?;
    let monitor = monitor(&toolbox, &UTF8)?;
    // One session: it would not get in again.
    monitor.sql(
        "create function refuse() returns event_trigger language plpgsql as $$ begin raise 'nobody logs in'; end $$; \
         create event trigger refuse on login execute function refuse(); alter event trigger refuse enable always; \
         alter role postgres set role = 'app_owner'; \
         alter role all set session_preload_libraries = 'pg_hint_plan'; \
         alter database app set session_preload_libraries = 'pg_hint_plan'; \
         alter database postgres set default_transaction_isolation = 'serializable'; \
         alter database app set default_transaction_isolation = 'serializable'; \
         alter database app set zero_damaged_pages = on; \
         alter role all set default_transaction_read_only = on; \
         alter role all set default_transaction_deferrable = on; \
         alter role all set search_path = 'nowhere'; \
         alter role all set local_preload_libraries = ''; \
         alter role all set default_tablespace = ''; \
         alter role all set quote_all_identifiers = on; \
         alter role all set standard_conforming_strings = off; \
         alter role all set bytea_output = 'escape'; \
         alter role all set datestyle = 'German'; \
         alter role all set timezone = 'Asia/Kathmandu'; \
         alter role all set client_min_messages = 'debug1'; \
         alter role all set log_statement = 'all'; \
         alter role all set log_min_messages = 'debug1'; \
         alter role all set lock_timeout = 1; \
         alter role all set transaction_timeout = '2ms'; \
         alter role all set idle_in_transaction_session_timeout = 1; \
         alter role all set idle_session_timeout = 1; \
         alter role all set statement_timeout = 1; \
         alter database template1 allow_connections false",
    )?;
    assert!(monitor.sql_in("template1", "select 1").is_err());
    let server = followed(&toolbox, &monitor)?;
    let (manifest, proof) = proven(&server, &monitor)?;
    assert_eq!(proof.limits, Vec::<String>::new());
    let fresh = Fresh::restore(&toolbox, &server, &monitor, &manifest)?;
    assert_eq!(fresh.notes, Vec::<String>::new());
    assert_eq!(fresh.sql("app", ROWS)?, monitor.sql_in("app", ROWS)?);
    // They are as they were.
    let settings = "select string_agg(setdatabase || ' ' || setrole || ' ' || setconfig::text, e'\\n' \
                    order by setdatabase, setrole) from pg_db_role_setting";
    assert_eq!(fresh.sql("app", settings)?, monitor.sql(settings)?);
    assert!(fresh.sql("template1", "select 1").is_err());
    Ok(())
}

/// Both usual databases are closed, and nobody who may do everything may log in: the proof and the restore need neither.
#[test]
fn a_cluster_without_open_databases_and_superusers_is_proven_and_restored() -> Result<()> {
    let toolbox = Toolbox::open()?;
    let mut monitor = monitor(&toolbox, &UTF8)?;
    monitor.sql(
        "create role admin superuser nologin; create role support login; grant admin to support; \
         grant connect on database app to backup_server",
    )?;
    // The role asks where it can.
    monitor.write_hba(&["replication", "app"])?;
    monitor.sql("select pg_reload_conf()")?;
    monitor.database = "app".into();
    monitor.peer.database = "app".into();
    monitor.sign(2)?;
    let rows = monitor.sql_in("app", ROWS)?;
    monitor.sql_in(
        "app",
        "alter database postgres allow_connections false; alter database template1 allow_connections false; \
         alter role postgres nologin",
    )?;
    // Whoever may become one who may do everything.
    monitor.login_user = "support".into();
    monitor.login_options = "-c role=admin".into();
    let server = followed(&toolbox, &monitor)?;
    let (manifest, _) = proven(&server, &monitor)?;
    assert_eq!(manifest.backup.postgresql.superuser, None);
    let fresh = Fresh::restore(&toolbox, &server, &monitor, &manifest)?;
    assert_eq!(fresh.sql("app", ROWS)?, rows);
    assert!(fresh.notes.iter().any(|note| note.contains("superuser")), "{:?}", fresh.notes);
    let login = "select rolname, rolcanlogin from pg_authid where rolsuper order by 1";
    assert_eq!(fresh.sql("app", login)?, "admin|f\npostgres|f");
    Ok(())
}

/// Segments of 64 MiB, an encoding that says nothing of bytes, names and a tablespace in Latin 1, and unlogged tables.
#[test]
fn segments_of_another_size_and_names_of_bytes_are_followed_and_restored() -> Result<()> {
    let toolbox = Toolbox::open()?;
    let initdb = ["--locale=C", "--encoding=SQL_ASCII", "--wal-segsize=64"];
    let monitor = monitor(&toolbox, &initdb)?;
    let name = OsString::from_vec(b"caf\xe9".to_vec());
    let place = monitor.data().parent().context("a data directory is in a folder")?.join(&name);
    fs::create_dir(&place)?;
    std::os::unix::fs::chown(&place, Some(CLUSTER_ID), Some(CLUSTER_ID))?;
    // `psql -f -` takes bytes, and these go in as escapes.
    let octal =
        "select 'create database ' || quote_ident(convert_from('\\x636166e9', 'SQL_ASCII')) \\gexec\n";
    monitor.sql(octal)?;
    let folder = place.parent().context("it has a parent")?.display().to_string();
    monitor.sql(&format!(
        "select format('create tablespace elsewhere location %L', '{folder}/' || convert_from('\\x636166e9', \
         'SQL_ASCII')) \\gexec\n"
    ))?;
    monitor.sql_in(
        &name,
        "create table t tablespace elsewhere as select g as id from generate_series(1, 5000) as g; \
         create unlogged table cache as select 1 as id",
    )?;
    let server = followed(&toolbox, &monitor)?;
    let (manifest, proof) = proven(&server, &monitor)?;
    assert!(proof.limits.iter().any(|limit| limit.contains("unlogged")), "{:?}", proof.limits);
    let fresh = Fresh::restore(&toolbox, &server, &monitor, &manifest)?;
    for database in [&OsString::from("app"), &name] {
        assert_eq!(fresh.sql(database, ROWS)?, monitor.sql_in(database, ROWS)?);
    }
    assert_eq!(fresh.sql(&name, "select count(*) from cache")?, "0");
    Ok(())
}

/// An amcheck of the monitor's own, whatever it is: older, elsewhere, of another role, of other functions, or half of it gone.
/// Ours is asked, in every database.
#[test]
fn the_monitors_own_amcheck_neither_hinders_a_check_nor_is_asked() -> Result<()> {
    let toolbox = Toolbox::open()?;
    // Without page checksums, only amcheck finds anything.
    let monitor = monitor(&toolbox, &["--locale=C.UTF-8"])?;
    let functions = "verify_heapam(regclass, boolean, boolean, text, bigint, bigint)";
    let set_ups = [
        ("app", "create extension amcheck version '1.0'".to_owned()),
        ("elsewhere", "create schema tools; create extension amcheck schema tools version '1.2'".to_owned()),
        (
            "of_another",
            "create role consultant superuser login; set role consultant; create extension amcheck version '1.3'; \
             reset role; alter role consultant nosuperuser nologin"
                .to_owned(),
        ),
        (
            "replaced",
            "create extension amcheck; create or replace function verify_heapam(relation regclass, \
             on_error_stop boolean default false, check_toast boolean default false, skip text default 'none', \
             startblock bigint default null, endblock bigint default null, blkno out bigint, offnum out integer, \
             attnum out integer, msg out text) returns setof record language plpgsql as \
             $$ begin raise 'invalid page in block 1 of relation base/1/2'; end $$"
                .to_owned(),
        ),
        (
            "half",
            format!("create extension amcheck; alter extension amcheck drop function {functions}; drop function {functions}"),
        ),
        ("later", "create extension amcheck; update pg_extension set extversion = '9.9'".to_owned()),
        ("no_public", "create schema tools; create extension amcheck schema tools; drop schema public cascade".to_owned()),
    ];
    for (name, sql) in &set_ups {
        if *name != "app" {
            monitor.sql(&format!("create database {name}"))?;
            monitor
                .sql_in(name, "create schema s; create table s.t as select generate_series(1, 100) as id")?;
        }
        monitor.sql_in(name, sql)?;
    }
    monitor.sql_in("app", "create index t_id on t (id)")?;
    let server = followed(&toolbox, &monitor)?;
    let (manifest, proof) = proven(&server, &monitor)?;
    assert!(!proof.limits.iter().any(|limit| limit.starts_with("Not checked")), "{:?}", proof.limits);
    let fresh = Fresh::restore(&toolbox, &server, &monitor, &manifest)?;
    assert_eq!(fresh.sql("app", ROWS)?, monitor.sql_in("app", ROWS)?);
    let versions = "select extversion from pg_extension where extname = 'amcheck'";
    for (name, _) in &set_ups {
        assert_eq!(fresh.sql(name, versions)?, monitor.sql_in(name, versions)?, "{name}");
    }
    drop(fresh);
    // An index that says that it is sorted the other way: in the database with the oldest one it is found.
    monitor.sql_in("app", "update pg_index set indoption = '3' where indexrelid = 't_id'::regclass")?;
    wait_until_all_is_there(&server, &monitor)?;
    let client = server.client()?;
    let id = client.create_backup(&CreateBackup::default())?.id;
    client.verify_backup(&id)?;
    let reason = wait_for("the verdict", 3 * MINUTE, || match client.backup(&id) {
        Ok(Backup { verification: Verification::Failed { reason, .. }, .. }) => Ok(reason),
        other => Err(format!("{other:?}")),
    })
    .with_context(|| server.logs())?;
    assert!(reason.contains("app.public.t_id"), "{reason}");
    Ok(())
}

/// As with PostGIS, pgvector or citext of a monitor whose packages are not installed here.
#[test]
fn an_index_whose_library_is_missing_is_named_and_all_others_are_checked() -> Result<()> {
    let toolbox = Toolbox::open()?;
    let monitor = monitor(&toolbox, &UTF8)?;
    monitor.sql_in(
        "app",
        "create extension citext; create table names (name citext primary key); \
         insert into names select 'Name ' || g from generate_series(1, 1000) as g; \
         create function number(citext) returns integer language c immutable strict as '$libdir/citext', 'citext_hash'; \
         create index numbers on names (number(name)); create index t_id on t (id); \
         update pg_proc set probin = '$libdir/not_here' where probin = '$libdir/citext'",
    )?;
    assert!(monitor.sql_in("app", "select 'a'::citext < 'B'::citext").is_err());
    let server = followed(&toolbox, &monitor)?;
    let (manifest, proof) = proven(&server, &monitor)?;
    let named = "Not checked: index public.names_pkey in database app, which uses operator class citext_ops of extension \
                 citext.";
    assert_eq!(proof.limits, [named]);
    let fresh = Fresh::restore(&toolbox, &server, &monitor, &manifest)?;
    let names = "select count(*), sum(hashtextextended(name::text, 0)) from names";
    for rows in [ROWS, names] {
        assert_eq!(fresh.sql("app", rows)?, monitor.sql_in("app", rows)?);
    }
    Ok(())
}

/// What a prepared transaction has locked lets nobody in, nor do the catalogs of a database. The proof reads all of it, in a
/// bounded time, and names the transactions; a restore has them.
#[test]
fn what_a_prepared_transaction_has_locked_is_proven_and_restored() -> Result<()> {
    let toolbox = Toolbox::open()?;
    let mut monitor = monitor(&toolbox, &UTF8)?;
    monitor.sql("alter system set max_prepared_transactions = 10; create database locked")?;
    monitor.stop()?;
    monitor.run_server()?;
    monitor.sql_in(
        "app",
        "create index t_id on t (id); create table other as select 1 as id; create index other_id on other (id)",
    )?;
    let rows = monitor.sql_in("app", ROWS)?;
    monitor.sql_in(
        "app",
        "begin; lock table t in access exclusive mode; insert into t values (0, 'prepared'); \
         create table made as select 1 as id; drop table other; prepare transaction 'first'",
    )?;
    monitor.sql_in(
        "locked",
        "begin; lock table pg_class in access exclusive mode; prepare transaction 'second'",
    )?;
    let server = followed(&toolbox, &monitor)?;
    let (manifest, proof) = proven(&server, &monitor)?;
    let named =
        |sentences: &[String]| sentences.iter().any(|said| said.contains("the prepared transactions "));
    assert!(named(&proof.limits) && proof.limits.len() == 1, "{:?}", proof.limits);
    let fresh = Fresh::restore(&toolbox, &server, &monitor, &manifest)?;
    assert!(named(&fresh.notes), "{:?}", fresh.notes);
    let prepared = "select string_agg(gid || ' ' || database, ', ' order by gid) from pg_prepared_xacts";
    assert_eq!(fresh.sql("postgres", prepared)?, "first app, second locked");
    fresh.sql("app", "rollback prepared 'first'")?;
    assert_eq!(fresh.sql("app", ROWS)?, rows);
    assert_eq!(fresh.sql("app", "select count(*) from other")?, "1");
    Ok(())
}

/// Thousands of databases, of which only the catalog is made here: their names are too many for one answer.
#[test]
fn thousands_of_databases_are_backed_up_and_what_the_manifest_lacks_is_said() -> Result<()> {
    let toolbox = Toolbox::open()?;
    let monitor = monitor(&toolbox, &UTF8)?;
    let server = followed(&toolbox, &monitor)?;
    // As DROP DATABASE leaves them when it is interrupted: nobody looks for their files.
    monitor.sql(
        "set allow_system_table_mods = on; \
         insert into pg_database select (1000000 + g)::oid, rpad('many ' || g || ' ', 63, 'x'), datdba, encoding, \
         datlocprovider, false, false, dathasloginevt, -2, datfrozenxid, datminmxid, dattablespace, \
         case when g = 2999 then 'C' else datcollate end, datctype, datlocale, daticurules, datcollversion, null \
         from pg_database, generate_series(1, 3000) as g where datname = 'template1'",
    )?;
    let client = server.client()?;
    wait_until_all_is_there(&server, &monitor)?;
    let id = client.create_backup(&CreateBackup::default()).with_context(|| server.logs())?.id;
    let manifest = backups::read_manifest(&server.backups(monitor.peer.id), &id.parse()?)?;
    let collations = manifest.backup.postgresql.collations;
    assert!(collations.len() > 500, "{}", collations.len());
    assert!(collations.len() < 600, "{}", collations.len());
    assert!(
        collations.iter().any(|collation| collation.database.starts_with("many 2999 ")),
        "a locale is lost"
    );
    let check = client.status()?.checks.into_iter().find(|check| check.name == "last-backup");
    let check = check.context("there is no such check")?;
    assert!(check.level == Level::Ok && check.message.contains("has 300"), "{check:?}");
    Ok(())
}

fn certificate_check(server: &Server) -> Result<Check> {
    let checks = server.client()?.status()?.checks;
    checks.into_iter().find(|check| check.name == "monitor-certificate").context("there is no such check")
}

/// PostgreSQL's programs look at a certificate's dates, which the control connection does not: that is told, with the way
/// out, and a renewed one of the same key is taken.
#[test]
fn a_certificate_that_has_expired_is_told_and_may_be_renewed() -> Result<()> {
    let toolbox = Toolbox::open()?;
    let expired = Certificate::until("monitor", 2020)?;
    let mut monitor = Monitor::start_with(&toolbox, &expired)?;
    let server = Server::start(&toolbox)?;
    server.client()?.pair(&monitor.peer)?;
    let status = server.wait_for_state(&["failed"], MINUTE)?;
    assert!(status.message.contains("certificate verify failed"), "{}", status.message);
    let check = certificate_check(&server)?;
    assert_eq!(check.level, Level::Fail, "{check:?}");
    assert!(check.message.contains("expired") && check.message.contains("monitor-link setup"), "{check:?}");
    monitor.stop()?;
    monitor.set_certificate(&expired.renewed("monitor", 2090)?)?;
    monitor.run_server()?;
    server.client()?.pair(&monitor.peer)?;
    server.wait_for_state(&["synchronized"], 2 * MINUTE)?;
    assert_eq!(certificate_check(&server)?.level, Level::Ok);
    // Renewed, and not paired again: the stream goes on until it is interrupted.
    monitor.stop()?;
    let paired = monitor.peer.clone();
    monitor.set_certificate(&expired.renewed("monitor", 2091)?)?;
    monitor.run_server()?;
    let status = server.wait_for_state(&["failed"], 2 * MINUTE)?;
    assert!(status.message.contains("monitor-certificate"), "{}", status.message);
    let check = certificate_check(&server)?;
    assert_eq!(check.level, Level::Warn, "{check:?}");
    assert!(check.message.contains("pair again"), "{check:?}");
    assert_ne!(paired.certificate, monitor.peer.certificate);
    server.client()?.pair(&monitor.peer)?;
    server.wait_for_state(&["synchronized"], 2 * MINUTE)?;
    Ok(())
}

/// No login can be bound to it, so it would never be followed.
#[test]
fn a_certificate_that_is_signed_with_ed25519_is_refused_at_pairing() -> Result<()> {
    let toolbox = Toolbox::open()?;
    let monitor = Monitor::start_with(&toolbox, &Certificate::ed25519("monitor")?)?;
    let server = Server::start(&toolbox)?;
    let refused = server.client()?.pair(&monitor.peer).err().context("it was paired")?.to_string();
    assert!(refused.contains("signed with Ed25519") && refused.contains("ECDSA or RSA"), "{refused}");
    Ok(())
}

/// A monitor that lets in hardly anybody: what runs here needs more connections than it has.
#[test]
fn a_monitor_with_three_connections_is_proven_restored_and_followed_after_a_restart() -> Result<()> {
    let toolbox = Toolbox::open()?;
    let mut monitor = monitor(&toolbox, &UTF8)?;
    let mut server = followed(&toolbox, &monitor)?;
    monitor.sql(
        "alter system set max_connections = 3; alter system set superuser_reserved_connections = 0; \
         alter system set max_wal_senders = 2; alter system set max_worker_processes = 1",
    )?;
    monitor.stop()?;
    monitor.run_server()?;
    let (manifest, _) = proven(&server, &monitor)?;
    let fresh = Fresh::restore(&toolbox, &server, &monitor, &manifest)?;
    assert_eq!(fresh.sql("app", ROWS)?, monitor.sql_in("app", ROWS)?);
    drop(fresh);
    server.stop("TERM")?;
    server.start_hostd()?;
    server.start_backupd()?;
    server.wait_for_state(&["synchronized"], MINUTE)?;
    wait_until_all_is_there(&server, &monitor)
}

/// Other people's databases.
mod full {
    use super::*;
    use std::io::Read;
    use std::process::{Command, Stdio};
    use tools::Tree;

    /// A Zabbix server's schema, images and templates as Debian has them, and values, events and trends as its server
    /// and housekeeper write and delete them.
    #[test]
    fn a_zabbix_database_with_rows_is_proven_and_restored_table_by_table() -> Result<()> {
        let (toolbox, clients) = (Toolbox::open()?, Toolbox::open_tree(Tree::CLIENTS)?);
        let monitor = monitor(&toolbox, &UTF8)?;
        let server = followed(&toolbox, &monitor)?;
        let folder = clients.folder().join("usr/share/zabbix-server-pgsql");
        for name in ["schema.sql", "images.sql", "data.sql"] {
            let mut text = String::new();
            let packed = folder.join(format!("{name}.gz"));
            if packed.is_file() {
                let mut child =
                    Command::new("gzip").arg("-dc").arg(&packed).stdout(Stdio::piped()).spawn()?;
                child.stdout.take().context("gzip has an output")?.read_to_string(&mut text)?;
                anyhow::ensure!(child.wait()?.success(), "gzip fails with {}", packed.display());
            } else {
                text = fs::read_to_string(folder.join(name))
                    .with_context(|| format!("{} is not in {}", name, folder.display()))?;
            }
            monitor.sql_in("app", &text)?;
        }
        monitor.sql_in(
            "app",
            "insert into history_uint (itemid, clock, value, ns) \
               select itemid, 1700000000 + g * 60, g, 0 from (select itemid from items where flags = 0 limit 200) as i, \
               generate_series(1, 1000) as g; \
             insert into trends_uint (itemid, clock, num, value_min, value_avg, value_max) \
               select itemid, 1700000000 + g * 3600, 60, 0, g, g from (select itemid from items limit 200) as i, \
               generate_series(1, 100) as g; \
             delete from history_uint where clock < 1700020000; vacuum history_uint",
        )?;
        let tables = monitor.sql_in("app", "select count(*) from pg_tables where schemaname = 'public'")?;
        assert!(tables.parse::<u32>()? > 100, "{tables}");
        // Number and content of the rows of every table.
        let all = "select string_agg(tablename || ' ' || (xpath('/row/c/text()', query_to_xml(format('select count(*) || \
                   '' '' || coalesce(sum(hashtextextended(t::text, 0)), 0) as c from %I t', tablename), false, true, \
                   '')))[1]::text, E'\\n' order by tablename) from pg_tables where schemaname = 'public'";
        let expected = monitor.sql_in("app", all)?;
        let (manifest, proof) = proven(&server, &monitor)?;
        assert!(!proof.limits.iter().any(|limit| limit.starts_with("Not checked")), "{:?}", proof.limits);
        let fresh = Fresh::restore(&toolbox, &server, &monitor, &manifest)?;
        assert_eq!(fresh.sql("app", all)?, expected);
        Ok(())
    }
}
