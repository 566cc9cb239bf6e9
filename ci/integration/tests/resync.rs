//! What ends a stream for good, and the way back that needs nobody: another full copy, after a backup of what is there.

use api::{Backup, BackupList, Client, CreateBackup, EventKind, Reason, SetPin, Verification};
use hostd::{Request, Step};
use integration::{
    CHECKSUM, Monitor, Restored, Server, paired, query_replica, run, wait_for, wait_until_replayed,
};
use std::time::Duration;
use tools::Toolbox;

/// Rows of the monitor's table.
const ROWS: u32 = 1000;
const MINUTE: Duration = Duration::from_secs(60);

fn ids(list: &BackupList) -> Vec<&str> {
    list.backups.iter().map(|backup| backup.id.as_str()).collect()
}

#[test]
fn a_lost_slot_is_made_up_for_by_another_copy_and_backups_stay() -> anyhow::Result<()> {
    let toolbox = Toolbox::open()?;
    let (monitor, mut server) = paired(&toolbox, ROWS)?;
    let client = server.client()?;
    let before = client.create_backup(&CreateBackup::default())?;
    // Away for so long that the monitor keeps the WAL no more.
    server.stop("TERM")?;
    monitor.sql("alter system set max_slot_wal_keep_size = '1MB'; select pg_reload_conf()")?;
    for round in 0..4 {
        monitor.sql(&format!(
            "insert into t select generate_series(1, 1000) + {round} * 1000; select pg_switch_wal()"
        ))?;
    }
    monitor.sql("checkpoint")?;
    assert_eq!(monitor.sql("select wal_status from pg_replication_slots")?, "lost");
    server.start_hostd()?;
    server.start_backupd()?;
    let client = server.client()?;
    let protected = wait_for("the backup before the resync", MINUTE, || {
        let list = client.backups().map_err(|error| error.to_string())?;
        let found = list.backups.iter().find(|backup| backup.reason == Reason::BeforeResync).cloned();
        found.ok_or_else(|| format!("{list:?}"))
    })
    .map_err(|error| error.context(server.logs()))?;
    server.wait_for_state(&["synchronized"], MINUTE)?;
    wait_until_replayed(&toolbox, &server, &monitor)?;

    let list = client.backups()?;
    assert!(
        ids(&list).contains(&before.id.as_str()) && ids(&list).contains(&protected.id.as_str()),
        "{list:?}"
    );
    wait_for("the end of the old replica", MINUTE, || match server.left_over(monitor.peer.id) {
        Ok(left) if left.is_empty() => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    let events = client.events(None)?.events;
    assert!(events.iter().any(|event| event.kind == EventKind::FullCopy), "{events:?}");
    // The old backups are as good as they were.
    client.verify_backup(&before.id)?;
    wait_for("the proof of the old backup", 3 * MINUTE, || match client.backup(&before.id) {
        Ok(backup) if matches!(backup.verification, Verification::Verified(_)) => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    Ok(())
}

/// Keeps the monitor as it is, has it write more, which the replica gets, and stops it.
fn stopped_after_more_than_was_kept(
    toolbox: &Toolbox,
    server: &Server,
    monitor: &mut Monitor,
) -> anyhow::Result<()> {
    monitor.stop()?;
    monitor.keep()?;
    monitor.run_server()?;
    monitor.sql("insert into t select generate_series(1, 100000)")?;
    wait_until_replayed(toolbox, server, monitor)?;
    monitor.stop()
}

#[test]
fn a_monitor_that_was_set_back_is_followed_again() -> anyhow::Result<()> {
    let toolbox = Toolbox::open()?;
    let (mut monitor, server) = paired(&toolbox, ROWS)?;
    stopped_after_more_than_was_kept(&toolbox, &server, &mut monitor)?;
    monitor.set_back()?;
    monitor.run_server()?;
    monitor.sql("insert into t values (-1)")?;
    wait_until_replayed(&toolbox, &server, &monitor)?;
    server.wait_for_state(&["synchronized"], MINUTE)?;
    let list = server.client()?.backups()?;
    // What was there before the monitor was set back is not lost.
    assert!(list.backups.iter().any(|backup| backup.reason == Reason::BeforeResync), "{list:?}");
    Ok(())
}

#[test]
fn a_monitor_that_went_another_way_is_followed_and_what_was_there_before_restores() -> anyhow::Result<()> {
    let toolbox = Toolbox::open()?;
    let (mut monitor, mut server) = paired(&toolbox, ROWS)?;
    monitor.stop()?;
    monitor.keep()?;
    monitor.run_server()?;
    monitor.sql("insert into t select generate_series(1, 100000)")?;
    wait_until_replayed(&toolbox, &server, &monitor)?;
    let before = monitor.sql(CHECKSUM)?;
    // The privileged process ends in the midst of the backup before the resync: by then the replica has the monitor's
    // history, and PostgreSQL does not start with it any more.
    server.stop("TERM")?;
    server.start_hostd_until(Some(Step::BackupNamed))?;
    server.start_backupd()?;
    server.wait_for_state(&["synchronized"], MINUTE)?;
    // As a restore does it: an older state, promoted.
    monitor.stop()?;
    monitor.set_back()?;
    std::fs::write(monitor.data().join("standby.signal"), "")?;
    monitor.own_data()?;
    monitor.run_server()?;
    monitor.sql("select pg_promote()")?;
    monitor.sql("insert into t values (-1)")?;
    server.wait_for_end_of_hostd()?;
    server.start_hostd()?;
    wait_until_replayed(&toolbox, &server, &monitor)?;
    server.wait_for_state(&["synchronized"], 2 * MINUTE)?;

    let client = server.client()?;
    let list = client.backups()?.backups;
    let found = list.iter().find(|backup| backup.reason == Reason::BeforeResync);
    let protected = found.ok_or_else(|| anyhow::anyhow!("{list:?}"))?;
    client.verify_backup(&protected.id)?;
    wait_for("the proof of the backup before", 3 * MINUTE, || match client.backup(&protected.id) {
        Ok(backup) if matches!(backup.verification, Verification::Verified(_)) => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    let folder = server.backups(monitor.peer.id);
    let index = vtar::Index::read_from(std::fs::File::open(folder.join(format!("{}.index", protected.id)))?)?;
    let tar = std::sync::Arc::new(index).reader(folder.join(&protected.id))?;
    assert_eq!(Restored::start(&toolbox, protected, tar)?.sql(CHECKSUM)?, before);
    Ok(())
}

/// A restore keeps what there is before it pairs its monitor; the full copy after it needs no other one of the same.
#[test]
fn what_a_restore_has_kept_before_pairing_is_not_kept_twice() -> anyhow::Result<()> {
    let toolbox = Toolbox::open()?;
    let (mut monitor, server) = paired(&toolbox, ROWS)?;
    let client = server.client()?;
    stopped_after_more_than_was_kept(&toolbox, &server, &mut monitor)?;
    server.wait_for_state(&["disconnected"], MINUTE)?;
    let number = client.backups()?.backups.len();
    let kept = || -> anyhow::Result<Backup> {
        let kept = client.create_backup(&CreateBackup { comment: api::BEFORE_PAIRING.into() })?;
        Ok(client.set_pin(&kept.id, SetPin { pinned: true })?)
    };
    let first = kept()?;
    assert_eq!(kept()?.id, first.id);
    // An older state, promoted.
    monitor.set_back()?;
    std::fs::write(monitor.data().join("standby.signal"), "")?;
    monitor.own_data()?;
    monitor.run_server()?;
    monitor.sql("select pg_promote()")?;
    monitor.sql("insert into t values (-1)")?;
    wait_until_replayed(&toolbox, &server, &monitor)?;
    server.wait_for_state(&["synchronized"], 2 * MINUTE)?;
    let list = client.backups()?.backups;
    let same = list.iter().filter(|backup| backup.postgresql.flushed_lsn == first.postgresql.flushed_lsn);
    assert_eq!(same.map(|backup| &backup.id).collect::<Vec<_>>(), [&first.id], "{list:?}");
    assert!(list.len() > number, "{list:?}");
    Ok(())
}

#[test]
fn a_tablespace_made_while_it_is_followed_comes_along() -> anyhow::Result<()> {
    let toolbox = Toolbox::open()?;
    let (monitor, server) = paired(&toolbox, ROWS)?;
    // The replica has a /tmp of its own: there is no such place, as on another machine.
    let place = tempfile::tempdir_in("/tmp")?;
    std::fs::set_permissions(place.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    monitor.add_tablespace(&place.path().join("tablespace"))?;
    wait_for("the table in the tablespace", 3 * MINUTE, || {
        match query_replica(&toolbox, &server, &monitor, "select place from far") {
            Ok(answer) if answer == "there" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .map_err(|error| error.context(server.logs()))?;
    server.wait_for_state(&["synchronized"], MINUTE)?;
    let events = server.client()?.events(None)?.events;
    let said = events
        .iter()
        .any(|event| event.message.contains("has a tablespace that the replica was copied without"));
    assert!(said, "{events:?}");
    // What the replica had is kept, or it is said why not.
    let list = server.client()?.backups()?.backups;
    let is_kept = list.iter().any(|backup| backup.reason == Reason::BeforeResync);
    let is_told = events.iter().any(|event| event.message.contains("No backup is made before the full copy"));
    assert!(is_kept || is_told, "{list:?} {events:?}");
    Ok(())
}

#[test]
fn another_database_never_replaces_the_replica_unasked() -> anyhow::Result<()> {
    let toolbox = Toolbox::open()?;
    let (mut monitor, server) = paired(&toolbox, ROWS)?;
    monitor.stop()?;
    let mut other = Monitor::start(&toolbox)?;
    let client = server.client()?;
    other.peer.id = monitor.peer.id;
    other.sign(2)?;
    server.pair_by_console(&other.peer)?;
    let status = server.wait_for_state(&["failed"], MINUTE)?;
    assert!(status.message.contains("has another database"), "{}", status.message);
    // It is the old one that a backup would be made of.
    let rows = integration::query_replica(&toolbox, &server, &monitor, "select count(*) from t")?;
    assert_eq!(rows, "1000");

    // Somebody at the console says that it is meant to be, by the words of the message.
    let words = status.message.split('`').nth(1).unwrap();
    server.order_in_words(words)?;
    server.wait_for_state(&["synchronized"], MINUTE)?;
    let list = client.backups()?;
    let kept = list.backups.iter().find(|backup| backup.reason == Reason::BeforeResync).unwrap();
    let identifier = |monitor: &Monitor| monitor.sql("select system_identifier from pg_control_system()");
    let now = client.create_backup(&CreateBackup::default())?;
    assert_eq!(now.postgresql.system_identifier, identifier(&other)?);
    assert_ne!(now.postgresql.system_identifier, kept.postgresql.system_identifier);
    Ok(())
}

#[test]
fn a_database_that_looks_empty_never_replaces_the_replica_unasked() -> anyhow::Result<()> {
    let toolbox = Toolbox::open()?;
    let mut monitor = Monitor::start(&toolbox)?;
    monitor.stop()?;
    monitor.keep()?;
    monitor.run_server()?;
    let server = Server::start(&toolbox)?;
    server.client()?.pair(&monitor.peer)?;
    // Ten times as much as a cluster without tables has.
    monitor.sql(
        "create table t as select repeat(md5(g::text), 30) as id from generate_series(1, 350000) as g",
    )?;
    monitor.sql("grant select on t to public")?;
    wait_until_replayed(&toolbox, &server, &monitor)?;
    monitor.stop()?;
    monitor.set_back()?;
    monitor.run_server()?;
    let status = wait_for("the question", 2 * MINUTE, || {
        let status =
            server.client().and_then(|client| Ok(client.status()?)).map_err(|error| error.to_string())?;
        if status.message.contains("accept-database") { Ok(status) } else { Err(status.message) }
    })?;
    assert!(status.message.contains("which is kept"), "{}", status.message);
    let rows = integration::query_replica(&toolbox, &server, &monitor, "select count(*) from t")?;
    assert_eq!(rows, "350000");
    server.order_in_words(status.message.split('`').nth(1).unwrap())?;
    server.wait_for_state(&["synchronized"], 2 * MINUTE)?;
    Ok(())
}

/// The first backup on schedule comes by itself, at a moment of its own: it must be there before a test makes its backups, or
/// it shares what one of them is to have alone, or is the newest.
fn wait_for_scheduled(client: &Client) -> anyhow::Result<()> {
    wait_for("the scheduled backup", MINUTE, || match client.backups() {
        Ok(list) if !list.backups.is_empty() => Ok(()),
        other => Err(format!("{other:?}")),
    })
}

#[test]
fn a_full_copy_makes_room_by_rotation_down_to_the_newest_verified_backup() -> anyhow::Result<()> {
    let toolbox = Toolbox::open()?;
    let (monitor, mut server) = paired(&toolbox, ROWS)?;
    let client = server.client()?;
    wait_for_scheduled(&client)?;
    let rows = |count: u32| {
        format!("select g as id, repeat(md5(g::text), 60) from generate_series(1, {count}) as g")
    };
    // The one that the schedule has made is the oldest.
    let mut old: Vec<_> = client.backups()?.backups.into_iter().map(|backup| backup.id).collect();
    assert_eq!(old.len(), 1);
    for number in 0..2 {
        // 600 MB that this backup alone has.
        monitor.sql(&format!(
            "create table only_{number} (id int, content text); \
             alter table only_{number} alter content set storage external; \
             insert into only_{number} {}; insert into t values (-1)",
            rows(300_000)
        ))?;
        wait_until_replayed(&toolbox, &server, &monitor)?;
        old.push(client.create_backup(&CreateBackup::default())?.id);
        monitor.sql(&format!("drop table only_{number}"))?;
    }
    monitor.sql("alter table t add content text; alter table t alter content set storage external")?;
    monitor.sql(&format!("insert into t {}", rows(150_000)))?;
    wait_until_replayed(&toolbox, &server, &monitor)?;
    let newest = client.create_backup(&CreateBackup::default())?;
    wait_for("the newest backup's proof", 5 * MINUTE, || match client.backup(&newest.id) {
        Ok(backup) if matches!(backup.verification, Verification::Verified(_)) => Ok(()),
        other => Err(format!("{other:?}")),
    })?;

    server.lower_floor()?;
    // No room for another copy beside what is there, and nobody but the copy to make it.
    server.stop_backupd()?;
    server.order(&Request::StopReplica { monitor: monitor.peer.id })?;
    monitor.sql("checkpoint")?;
    run(std::process::Command::new("sync").arg("-f").arg(server.data()))?;
    let filler = server.data().join("filler");
    let copy =
        Request::FullCopy { peer: Box::new(monitor.peer.clone()), tablespaces: Vec::new(), replace: true };
    let there = |server: &Server| -> anyhow::Result<Vec<bool>> {
        let folder = server.data().join("backups").join(monitor.peer.id.to_string());
        Ok(old.iter().chain([&newest.id]).map(|id| folder.join(id).is_dir()).collect())
    };
    // Space is low: what may go goes while the copy is written, the oldest first, and never the newest verified one.
    server.fill(&filler, 1800 << 20)?;
    // A fast copy is held while a deletion gives its room back.
    server.order(&copy).map_err(|error| error.context(server.logs()))?;
    let left = there(&server)?;
    assert!(!left[0] && left.last() == Some(&true), "{left:?} {}", server.logs());
    std::fs::remove_file(&filler)?;
    server.start_backupd()?;
    server.wait_for_state(&["synchronized"], MINUTE)?;
    wait_until_replayed(&toolbox, &server, &monitor).map(drop)
}

#[test]
fn a_full_volume_stops_replay_in_time_and_room_lets_it_go_on() -> anyhow::Result<()> {
    let toolbox = Toolbox::open()?;
    let (monitor, server) = paired(&toolbox, ROWS)?;
    let client = server.client()?;
    wait_for_scheduled(&client)?;
    let mut made = Vec::new();
    for number in 0..3 {
        monitor.sql(&format!("insert into t values ({number})"))?;
        made.push(client.create_backup(&CreateBackup::default())?.id);
    }
    let newest = made[2].as_str();
    wait_for("the newest backup's proof", 3 * MINUTE, || match client.backup(newest) {
        Ok(backup) if matches!(backup.verification, Verification::Verified(_)) => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    server.lower_floor()?;
    // Less than a tenth is free: the oldest go, the proven one stays, and the alarm is raised.
    let filler = server.data().join("filler");
    server.fill(&filler, 5 << 30)?;
    wait_for("rotation", MINUTE, || {
        let list = client.backups().map_err(|error| error.to_string())?;
        if ids(&list) == [newest] { Ok(()) } else { Err(format!("{:?}", ids(&list))) }
    })?;
    let status = wait_for("the alarm", MINUTE, || {
        let status = client.status().map_err(|error| error.to_string())?;
        let check = status.checks.iter().find(|check| check.name == "free-space").cloned();
        check.filter(|check| check.level == api::Level::Fail).ok_or_else(|| format!("{status:?}"))
    })?;
    assert!(status.message.contains("no backup may be deleted"), "{status:?}");
    assert!(client.rotation_plan()?.stuck);

    server.fill(&filler, 900 << 20)?;
    let status = server.wait_for_state(&["failed"], MINUTE)?;
    assert!(status.message.contains("data volume is full"), "{}", status.message);
    monitor.sql("insert into t select generate_series(1, 10000)")?;
    std::fs::remove_file(&filler)?;
    server.wait_for_state(&["synchronized"], MINUTE)?;
    wait_until_replayed(&toolbox, &server, &monitor)?;
    assert_eq!(ids(&client.backups()?).last(), Some(&newest));
    Ok(())
}
