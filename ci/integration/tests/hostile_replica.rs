//! SQL of the monitor's making that runs in the replica: a catalog view is replaced on the monitor, and the backup server asks
//! for it just before each snapshot. What such SQL leaves in the replica must spoil no restore.

#![allow(clippy::expect_used, reason = "helpers of tests fail by panicking")]

use anyhow::{Context, Result, ensure};
use api::{Backup, CreateBackup, Verification};
use integration::{CHECKSUM, Monitor, Server, paired, programs, test_folder, wait_for, wait_until_replayed};
use recovery::restore::{Host, Restore, Service};
use std::cell::RefCell;
use std::fs;
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;
use tools::Toolbox;

const MINUTE: Duration = Duration::from_secs(60);

/// Has the replica run SQL as its superuser whenever it is asked for the roles.
const RUNS_IN_THE_REPLICA: &str = "
    create table hostile (command text);
    grant select on hostile to public;
    create function hostile() returns boolean language plpgsql security definer as $$
    declare one text;
    begin
        if pg_is_in_recovery() then
            for one in select command from public.hostile loop
                begin execute one; exception when others then raise log 'hostile: %', sqlerrm; end;
            end loop;
        end if;
        return true;
    end $$;
    set allow_system_table_mods = on;
    create or replace view pg_catalog.pg_roles as
        select rolname, rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolcanlogin, rolreplication, rolconnlimit,
            '********'::text as rolpassword, rolvaliduntil, rolbypassrls, setconfig as rolconfig, pg_authid.oid
        from pg_authid left join pg_db_role_setting s on pg_authid.oid = s.setrole and s.setdatabase = 0::oid
        where public.hostile()";

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

/// Restores a backup as the recovery program does, and gives the rows of `t` that are live then.
fn restored(toolbox: &Toolbox, server: &Server, monitor: &Monitor, backup: &Backup) -> Result<String> {
    let folder = server.backups(monitor.peer.id);
    let manifest = backups::read_manifest(&folder, &backup.id.parse()?)?;
    let tar = |from: u64| {
        let index = fs::File::open(folder.join(format!("{}.index", backup.id))).expect("there is an index");
        let index = Arc::new(vtar::Index::read_from(index).expect("it is one"));
        let mut tar = index.reader(folder.join(&backup.id)).expect("the tar opens");
        tar.seek(SeekFrom::Start(from)).expect("any offset can be read");
        tar
    };
    let lost = Monitor::start(toolbox)?;
    let data = lost.data();
    let service = Machine(RefCell::new(lost));
    let own = test_folder()?;
    let host = Host {
        data,
        configuration: None,
        programs: programs(toolbox)?,
        run: own.path().join("run"),
        kept: own.path().join("kept"),
        service: &service,
    };
    let mut restore = Restore::begin(&host, &manifest)?;
    restore.unpack(tar)?;
    restore.recover(|_, _| ())?;
    restore.bring_in()?;
    service.0.borrow().sql(CHECKSUM)
}

fn verified(server: &Server, id: &str) -> Result<Backup> {
    let client = server.client()?;
    wait_for("the proof", 2 * MINUTE, || match client.backup(id) {
        Ok(backup) if matches!(backup.verification, Verification::Verified(_)) => Ok(backup),
        other => Err(format!("{other:?}")),
    })
    .with_context(|| server.logs())
}

#[test]
fn a_mark_of_recovery_that_sql_left_in_the_replica_keeps_nobody_from_starting() -> Result<()> {
    let toolbox = Toolbox::open()?;
    let (monitor, server) = paired(&toolbox, 1000)?;
    monitor.sql(RUNS_IN_THE_REPLICA)?;
    monitor
        .sql("insert into hostile values ('copy (select 1) to ''/srv/cluster/pgdata/recovery.signal''')")?;
    let rows = wait_until_replayed(&toolbox, &server, &monitor)?;
    wait_for("the hostile SQL in the replica", MINUTE, || {
        match integration::query_replica(
            &toolbox,
            &server,
            &monitor,
            "select count(*) from pg_catalog.pg_class where relname = 'hostile'",
        ) {
            Ok(seen) if seen == "1" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })?;
    let backup = server.client()?.create_backup(&CreateBackup::default())?;
    let mark = server.backups(monitor.peer.id).join(&backup.id).join("pgdata/recovery.signal");
    ensure!(mark.is_file(), "the SQL did not run");
    let backup = verified(&server, &backup.id)?;
    assert_eq!(restored(&toolbox, &server, &monitor, &backup)?, rows);
    Ok(())
}

/// What such SQL writes beside the cluster is in no backup, and what it would write elsewhere is not written.
#[test]
fn what_sql_writes_beside_the_cluster_spoils_no_proof_and_no_restore() -> Result<()> {
    let toolbox = Toolbox::open()?;
    let (monitor, server) = paired(&toolbox, 1000)?;
    monitor.sql(RUNS_IN_THE_REPLICA)?;
    let outside = test_folder()?;
    fs::set_permissions(outside.path(), fs::Permissions::from_mode(0o777))?;
    let elsewhere = outside.path().join("written");
    for place in ["/srv/cluster/x", "/srv/cluster/socket", &elsewhere.to_string_lossy()] {
        monitor.sql(&format!("insert into hostile values ($$copy (select 1) to '{place}'$$)"))?;
    }
    let rows = wait_until_replayed(&toolbox, &server, &monitor)?;
    let backup = server.client()?.create_backup(&CreateBackup::default())?;
    let snapshot = server.backups(monitor.peer.id).join(&backup.id);
    ensure!(snapshot.join("x").is_file() && snapshot.join("socket").is_file(), "the SQL did not run");
    ensure!(!elsewhere.exists(), "the replica writes outside of its folder");
    let backup = verified(&server, &backup.id)?;
    assert_eq!(restored(&toolbox, &server, &monitor, &backup)?, rows);
    Ok(())
}

/// Replay makes a tablespace wherever both see such a folder. What is in it would be in no backup.
#[test]
fn a_tablespace_outside_of_the_replica_is_told_and_in_no_backup() -> Result<()> {
    let toolbox = Toolbox::open()?;
    let (monitor, server) = paired(&toolbox, 1000)?;
    monitor.sql("create tablespace outside location '/proc/self/cwd/base'")?;
    wait_until_replayed(&toolbox, &server, &monitor)?;
    let refused = server.client()?.create_backup(&CreateBackup::default());
    let refused = format!("{:#}", refused.err().context("a backup was made without the tablespace")?);
    ensure!(refused.contains("lies outside of the replica"), "{refused}");
    let events = server.client()?.events(None)?;
    let is_told = events.events.iter().any(|event| event.message.contains("lies outside of the replica"));
    ensure!(is_told, "{events:?}");
    Ok(())
}

/// SQL can promote the replica: it is started anew, as a standby, and copied where it has gone another way.
#[test]
fn a_replica_that_sql_has_promoted_follows_again() -> Result<()> {
    let toolbox = Toolbox::open()?;
    let (monitor, server) = paired(&toolbox, 1000)?;
    monitor.sql(RUNS_IN_THE_REPLICA)?;
    monitor.sql("insert into hostile values ('select pg_promote(false)')")?;
    wait_until_replayed(&toolbox, &server, &monitor)?;
    // It runs when the replica is asked for the backup's facts; whether a backup is made depends on who is quicker.
    drop(server.client()?.create_backup(&CreateBackup::default()));
    let client = server.client()?;
    wait_for("the promotion", MINUTE, || {
        let events = client.events(None).map_err(|error| error.to_string())?.events;
        let is_told = events.iter().any(|event| event.message.contains("replica was promoted"));
        if is_told { Ok(()) } else { Err(format!("{events:?}")) }
    })?;
    monitor.sql("delete from hostile")?;
    wait_for("the replica that follows", 3 * MINUTE, || {
        match integration::query_replica(&toolbox, &server, &monitor, "select count(*) from hostile") {
            Ok(left) if left == "0" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .with_context(|| server.logs())?;
    server.wait_for_state(&["synchronized"], 2 * MINUTE).map(drop)
}

/// PostgreSQL lets nobody into a database whose `DROP DATABASE` was interrupted.
#[test]
fn a_half_dropped_database_keeps_no_backup_from_its_proof() -> Result<()> {
    let toolbox = Toolbox::open()?;
    let (monitor, server) = paired(&toolbox, 1000)?;
    monitor.sql("create database half")?;
    monitor.sql("update pg_database set datconnlimit = -2 where datname = 'half'")?;
    monitor.sql("insert into t values (-1)")?;
    wait_until_replayed(&toolbox, &server, &monitor)?;
    let backup = server.client()?.create_backup(&CreateBackup::default())?;
    server.client()?.verify_backup(&backup.id)?;
    verified(&server, &backup.id).map(drop)
}
