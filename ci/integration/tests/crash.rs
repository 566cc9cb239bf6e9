//! `hostd` is killed at each named step of what changes the data volume, and started again: nothing is lost, nothing is
//! left over, and what is there restores.

use api::{Backup, Client, CreateBackup, Verification};
use hostd::{Request, Step};
use integration::{
    CHECKSUM, Monitor, Restored, Server, monitor_with_rows, paired, wait_for, wait_until_replayed,
};
use std::fs::File;
use std::sync::Arc;
use std::time::Duration;
use tools::Toolbox;

/// Rows of the monitor's table.
const ROWS: u32 = 10_000;
const MINUTE: Duration = Duration::from_secs(60);
/// A retry may have to wait for its turn.
const LONG: Duration = Duration::from_secs(180);

/// Has `hostd` die at `step` of what `provoke` sets going, and starts it again.
fn killed_at(server: &mut Server, step: Step, provoke: impl FnOnce(&Server)) -> anyhow::Result<()> {
    server.stop("TERM")?;
    server.start_hostd_until(Some(step))?;
    server.start_backupd()?;
    provoke(server);
    server.wait_for_end_of_hostd().map_err(|error| error.context(step.name()))?;
    server.start_hostd()
}

/// Waits until nothing is left over.
fn wait_until_clean(server: &Server, monitor: &Monitor, step: Step) -> anyhow::Result<()> {
    wait_for(&format!("the end of what was left over at {}", step.name()), LONG, || {
        match server.left_over(monitor.peer.id) {
            Ok(left) if left.is_empty() => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .map_err(|error| error.context(server.logs()))
}

fn ids(client: &Client) -> anyhow::Result<Vec<String>> {
    let list = client.backups()?;
    assert!(list.damaged.is_empty(), "{list:?}");
    Ok(list.backups.into_iter().map(|backup| backup.id).collect())
}

/// A new row, so that a backup has something to say, and a backup with it.
fn make_backup(monitor: &Monitor, client: &Client) -> anyhow::Result<Backup> {
    monitor.sql("insert into t select max(id) + 1 from t")?;
    Ok(client.create_backup(&CreateBackup::default())?)
}

/// Starts a backup as a restore does and compares its rows.
fn start_and_check(
    toolbox: &Toolbox,
    server: &Server,
    monitor: &Monitor,
    backup: &Backup,
    rows: &str,
) -> anyhow::Result<()> {
    let folder = server.data().join("backups").join(monitor.peer.id.to_string());
    let index = Arc::new(vtar::Index::read_from(File::open(folder.join(format!("{}.index", backup.id)))?)?);
    let restored = Restored::start(toolbox, backup, index.reader(folder.join(&backup.id))?)?;
    assert_eq!(restored.sql(CHECKSUM)?, rows);
    Ok(())
}

#[test]
fn a_full_copy_cut_at_any_step_is_made_anew() -> anyhow::Result<()> {
    let toolbox = Toolbox::open()?;
    let (monitor, mut server) = (monitor_with_rows(&toolbox, ROWS)?, Server::start(&toolbox)?);
    let pair = |server: &mut Server, step| {
        killed_at(server, step, |server| {
            // Once: what is paired is copied when the daemon starts, and hostd may have ended before it is said again.
            if step == Step::CopyBegun {
                let paired = server.client().map(|client| client.pair(&monitor.peer));
                assert!(matches!(paired, Ok(Ok(_))), "{paired:?}");
            }
        })
    };
    for step in [
        Step::CopyBegun,
        Step::CopyUnderWay,
        Step::CopyReceived,
        Step::CopyAdopted,
        Step::CopyKept,
        Step::CopyNamed,
    ] {
        pair(&mut server, step)?;
    }
    server.wait_for_state(&["synchronized"], LONG)?;
    wait_until_clean(&server, &monitor, Step::CopyNamed)?;
    let client = server.client()?;
    let rows = wait_until_replayed(&toolbox, &server, &monitor)?;
    let backup = client.create_backup(&CreateBackup::default())?;
    start_and_check(&toolbox, &server, &monitor, &backup, &rows)
}

#[test]
fn a_resync_cut_at_any_step_keeps_a_replica_and_the_backups() -> anyhow::Result<()> {
    let toolbox = Toolbox::open()?;
    let (monitor, mut server) = paired(&toolbox, ROWS)?;
    let client = server.client()?;
    let rows = wait_until_replayed(&toolbox, &server, &monitor)?;
    let before = client.create_backup(&CreateBackup::default())?;
    for step in [Step::CopyUnderWay, Step::CopyAdopted, Step::CopyExchanged] {
        killed_at(&mut server, step, |_| {
            // The slot is gone: nothing of what the replica would need is kept.
            let lose = "select pg_terminate_backend(active_pid) from pg_replication_slots where active; \
                        select pg_sleep(0.3); select pg_drop_replication_slot('backup_server')";
            let lost = wait_for("the loss of the slot", MINUTE, || {
                monitor.sql(lose).map(drop).map_err(|error| format!("{error:#}"))
            });
            assert!(lost.is_ok(), "{lost:?}");
        })?;
        let replica = server.data().join("replica").join(monitor.peer.id.to_string());
        assert!(replica.join("pgdata/PG_VERSION").is_file(), "{}: no replica", step.name());
        server.wait_for_state(&["synchronized"], LONG)?;
        wait_until_clean(&server, &monitor, step)?;
        monitor.sql("insert into t select max(id) + 1 from t")?;
        wait_until_replayed(&toolbox, &server, &monitor)?;
    }
    assert!(ids(&client)?.contains(&before.id));
    start_and_check(&toolbox, &server, &monitor, &before, &rows)
}

#[test]
fn a_backup_cut_at_any_step_is_there_whole_or_not_at_all() -> anyhow::Result<()> {
    let toolbox = Toolbox::open()?;
    let (monitor, mut server) = paired(&toolbox, ROWS)?;
    let client = server.client()?;
    make_backup(&monitor, &client)?;
    for (step, more) in
        [(Step::BackupSnapshot, 0), (Step::BackupIndex, 0), (Step::BackupManifest, 0), (Step::BackupNamed, 1)]
    {
        let before = ids(&client)?;
        monitor.sql("insert into t select max(id) + 1 from t")?;
        killed_at(&mut server, step, |server| {
            let synchronized = server.wait_for_state(&["synchronized"], MINUTE);
            assert!(synchronized.is_ok(), "{synchronized:?}");
            let made = client.create_backup(&CreateBackup::default());
            assert!(made.is_err(), "{made:?}");
        })?;
        wait_until_clean(&server, &monitor, step)?;
        server.wait_for_state(&["synchronized"], MINUTE)?;
        let after = ids(&client)?;
        // The schedule's own may have come, too.
        assert!(before.iter().all(|id| after.contains(id)), "{}: {before:?}, {after:?}", step.name());
        assert!(after.len() >= before.len() + more, "{}: {before:?}, {after:?}", step.name());
    }
    let rows = wait_until_replayed(&toolbox, &server, &monitor)?;
    let last = client.create_backup(&CreateBackup::default())?;
    start_and_check(&toolbox, &server, &monitor, &last, &rows)
}

#[test]
fn a_deletion_cut_at_any_step_is_done_and_takes_nothing_else() -> anyhow::Result<()> {
    let toolbox = Toolbox::open()?;
    let (monitor, mut server) = paired(&toolbox, ROWS)?;
    let client = server.client()?;
    let rows = wait_until_replayed(&toolbox, &server, &monitor)?;
    let kept = client.create_backup(&CreateBackup::default())?;
    for step in [Step::DeletionUnnamed, Step::DeletionRecords, Step::DeletionSubvolume] {
        let doomed = make_backup(&monitor, &client)?;
        let before = ids(&client)?;
        killed_at(&mut server, step, |server| {
            let delete = Request::DeleteBackup { monitor: monitor.peer.id, id: doomed.id.clone() };
            let deleted = server.order(&delete);
            assert!(deleted.is_err(), "{deleted:?}");
        })?;
        wait_until_clean(&server, &monitor, step)?;
        server.wait_for_state(&["synchronized"], MINUTE)?;
        let after = ids(&client)?;
        assert!(!after.contains(&doomed.id), "{}: {after:?}", step.name());
        assert!(before.iter().all(|id| after.contains(id) || *id == doomed.id), "{before:?}, {after:?}");
    }
    start_and_check(&toolbox, &server, &monitor, &kept, &rows)
}

#[test]
fn a_verification_cut_at_any_step_leaves_no_clone_and_is_made_up_for() -> anyhow::Result<()> {
    let toolbox = Toolbox::open()?;
    let (monitor, mut server) = paired(&toolbox, ROWS)?;
    let client = server.client()?;
    let rows = wait_until_replayed(&toolbox, &server, &monitor)?;
    let backup = client.create_backup(&CreateBackup::default())?;
    for step in [
        Step::VerificationClone,
        Step::VerificationStarted,
        Step::VerificationPromoted,
        Step::VerificationResult,
        Step::VerificationRecorded,
    ] {
        killed_at(&mut server, step, |server| {
            // The daemon may have begun by itself.
            if let Err(error) = client.verify_backup(&backup.id) {
                assert!(
                    server.wait_for_state(&["failed", "synchronized", "connecting"], MINUTE).is_ok(),
                    "{error}"
                );
            }
        })?;
        wait_until_clean(&server, &monitor, step)?;
        assert!(ids(&client)?.contains(&backup.id), "{}", step.name());
    }
    server.wait_for_state(&["synchronized"], MINUTE)?;
    client.verify_backup(&backup.id)?;
    wait_for("the proof", LONG, || match client.backup(&backup.id) {
        Ok(backup) if matches!(backup.verification, Verification::Verified(_)) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .map_err(|error| error.context(server.logs()))?;
    start_and_check(&toolbox, &server, &monitor, &backup, &rows)
}
