//! What the monitor announces decides no deletion: a full copy finds room step by step while it is written,
//! and is stopped where there is none.

use api::{Backup, CreateBackup, EventKind, Level, Reason, SetPin};
use hostd::Request;
use integration::{Server, monitor_with_rows, query_replica, wait_for, wait_until_replayed};
use std::time::Duration;
use tools::Toolbox;

const MINUTE: Duration = Duration::from_secs(60);
const VOLUME_BYTES: u64 = 12 << 30;

#[test]
fn a_sparse_file_at_the_monitor_costs_no_backup_and_the_old_replica_goes_on() -> anyhow::Result<()> {
    let toolbox = Toolbox::open()?;
    let monitor = monitor_with_rows(&toolbox, 1000)?;
    let mut server = Server::start_sick(&toolbox, VOLUME_BYTES)?;
    let client = server.client()?;
    client.pair(&monitor.peer)?;
    server.wait_for_state(&["synchronized"], MINUTE)?;
    let mut backups = Vec::new();
    for _ in 0..3 {
        monitor.sql("insert into t select max(id) + 1 from t")?;
        let made = client.create_backup(&CreateBackup::default())?;
        client.set_pin(&made.id, SetPin { pinned: true })?;
        backups.push(made);
    }
    let are_there = |server: &Server| {
        let is_there = |backup: &Backup| {
            let folder = server.backups(monitor.peer.id);
            ["", ".json", ".index"]
                .iter()
                .all(|ending| folder.join(format!("{}{ending}", backup.id)).exists())
        };
        backups.iter().all(is_there)
    };
    // Where the monitor's databases are, so that it also counts when they are measured.
    let sparse_path = monitor.data().join("base/1/sparse");
    let sparse = std::fs::File::create(&sparse_path)?;
    monitor.own_data()?;

    // Announced to be larger than the whole volume: not begun, and nothing goes for it.
    sparse.set_len(65_000_000_000)?;
    server.stop_backupd()?;
    server.order(&Request::StopReplica { monitor: monitor.peer.id })?;
    let copy =
        Request::FullCopy { peer: Box::new(monitor.peer.clone()), tablespaces: Vec::new(), replace: true };
    let refused = server.order(&copy).unwrap_err();
    assert!(format!("{refused:#}").contains("the monitor announces"), "{refused:#}");
    assert!(are_there(&server), "{}", server.logs());

    // It would fit on the volume, and not beside what is there: stopped by what has come and what is free.
    sparse.set_len(6_000_000_000)?;
    let filler = server.data().join("filler");
    server.fill(&filler, (1 << 30) + (700 << 20))?;
    let stopped = server.order(&copy).unwrap_err();
    assert!(format!("{stopped:#}").contains("was stopped"), "{stopped:#}");
    assert!(are_there(&server), "{}", server.logs());
    let replica = server.data().join("replica");
    assert!(!replica.join(format!("{}.copying", monitor.peer.id)).exists(), "the partial copy is there");

    // The same again is not begun: nothing is written and nothing goes, also after hostd was started anew.
    server.stop("KILL")?;
    server.start_hostd()?;
    for _ in 0..2 {
        let refused = format!("{:#}", server.order(&copy).unwrap_err());
        for part in ["was not begun", "needed more than", "announces 60", "are free", "Add a disk"] {
            assert!(refused.contains(part), "{part}: {refused}");
        }
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let trial = |announced| runtime.block_on(server.hostd_client().try_copy(monitor.peer.id, announced));
    let told = trial(6_000_000_000).unwrap_err().to_string();
    assert!(told.contains("was not begun") && told.contains("announces 6000 MB"), "{told}");
    trial(100_000_000)?;
    assert!(are_there(&server), "{}", server.logs());
    // The console lets it be tried again, with what that costs.
    server.order(&Request::AllowRotation)?;
    let stopped = server.order(&copy).unwrap_err();
    assert!(format!("{stopped:#}").contains("was stopped"), "{stopped:#}");
    let refused = server.order(&copy).unwrap_err();
    assert!(format!("{refused:#}").contains("was not begun"), "{refused:#}");
    std::fs::remove_file(&filler)?;

    // A copy moves the slot on, so the old replica may need another one. The daemon asks for it and is
    // refused: what is there runs on and serves, and the reason is said.
    sparse.set_len(65_000_000_000)?;
    let rows = monitor.sql("select count(*) from t")?;
    monitor.sql(
        "select pg_drop_replication_slot('backup_server'); insert into t select max(id) + 1 from t; select pg_switch_wal()",
    )?;
    server.start_backupd()?;
    wait_for("the reason", 2 * MINUTE, || {
        let events = client.events(None).map_err(|error| error.to_string())?.events;
        let says = |event: &&api::Event| {
            event.kind == EventKind::FullCopy && event.message.contains("the monitor announces")
        };
        events.iter().find(says).map(drop).ok_or_else(|| format!("{events:?}"))
    })
    .map_err(|error| error.context(server.logs()))?;
    let postmaster = server.postmaster(monitor.peer.id)?;
    let check = client.status()?.checks.into_iter().find(|check| check.name == "full-copy");
    assert!(
        check.as_ref().is_some_and(|check| check.level == Level::Fail && check.message.contains("announces")),
        "{check:?}"
    );
    wait_for("the old replica", 2 * MINUTE, || {
        match query_replica(&toolbox, &server, &monitor, "select count(*) from t") {
            Ok(there) if there.parse::<u64>().ok() >= rows.parse::<u64>().ok() => Ok(()),
            other => Err(format!("{other:?}, not {rows}")),
        }
    })
    .map_err(|error| error.context(server.logs()))?;
    assert!(are_there(&server), "{}", server.logs());
    let list = client.backups()?.backups;
    // What it had before is in one of its own, or in a pinned one that holds the same.
    let keeps = |backup: &Backup| backup.reason == Reason::BeforeResync || backup.pinned;
    let newest = list.iter().max_by_key(|backup| backup.sequence);
    assert!(newest.is_some_and(keeps), "{list:?}");

    // It was asked before anything was done for the copy: the replica was not stopped, the slot is as it was left.
    assert_eq!(server.postmaster(monitor.peer.id)?, postmaster);
    assert_eq!(monitor.sql("select count(*) from pg_replication_slots")?, "0");
    let told = |event: &api::Event| event.kind == EventKind::FullCopy && event.message.contains("not begun");
    assert_eq!(client.events(None)?.events.iter().filter(|event| told(event)).count(), 1);

    // What was announced is true no more: it is tried again by itself.
    std::fs::remove_file(&sparse_path)?;
    server.wait_for_state(&["synchronized"], 4 * MINUTE)?;
    wait_until_replayed(&toolbox, &server, &monitor)?;
    assert!(are_there(&server), "{}", server.logs());
    Ok(())
}

/// A page far behind the end of a file: PostgreSQL fills the file up to it in the replica, gigabytes for one record.
#[test]
fn a_replica_that_fills_the_volume_is_given_up_at_the_console_and_every_backup_stays() -> anyhow::Result<()> {
    let toolbox = Toolbox::open()?;
    let mut monitor = monitor_with_rows(&toolbox, 1000)?;
    let server = Server::start_sick(&toolbox, 5 << 30)?;
    let client = server.client()?;
    client.pair(&monitor.peer)?;
    server.wait_for_state(&["synchronized"], MINUTE)?;
    let rows = wait_until_replayed(&toolbox, &server, &monitor)?;
    let kept = client.create_backup(&CreateBackup::default())?;
    monitor.sql("create table far (i int) with (autovacuum_enabled = off)")?;
    let file = monitor.data().join(monitor.sql("checkpoint; select pg_relation_filepath('far')")?);
    monitor.stop()?;
    for segment in 0..8 {
        let mut path = file.clone().into_os_string();
        if segment > 0 {
            path.push(format!(".{segment}"));
        }
        std::fs::File::create(path)?.set_len(1 << 30)?;
    }
    monitor.own_data()?;
    monitor.run_server()?;
    monitor.sql("insert into far values (1)")?;
    server.wait_for_state(&["failed"], 2 * MINUTE)?;
    let said = client.status()?.message;
    assert!(said.contains("discard-replica"), "{said}");
    assert_eq!(monitor.sql("drop table far; checkpoint; select 1")?, "1");

    // As the state and the check name it.
    server.order_in_words(&format!("{} order discard-replica", hostd::PROGRAM))?;
    server.wait_for_state(&["synchronized"], 3 * MINUTE)?;
    let list = client.backups()?;
    assert!(list.damaged.is_empty() && list.backups.iter().any(|backup| backup.id == kept.id), "{list:?}");
    assert_eq!(wait_until_replayed(&toolbox, &server, &monitor)?, rows);
    let order = format!("{} order discard-replica --monitor {}", hostd::PROGRAM, uuid::Uuid::new_v4());
    let refused = format!("{:#}", server.order_in_words(&order).unwrap_err());
    assert!(refused.contains("there is no replica"), "{refused}");
    Ok(())
}
