//! Programs that fail while backups are made, copied and deleted: trouble of the machine is no reason to lose
//! anything, no other backup goes for it, and everything is tried again. The matrix of what was provoked is
//! printed.

use api::{Backup, Client, CreateBackup, Limits};
use hostd::Request;
use integration::{Fault, Faults, Monitor, Server, monitor_with_rows, wait_for, wait_until_replayed};
use std::path::PathBuf;
use std::time::Duration;
use tools::Toolbox;

const MINUTE: Duration = Duration::from_secs(60);
/// Seconds until a program that hangs is given up in these tests.
const TIME_LIMIT: u32 = 6;

/// A server whose programs can fail, and its monitor. The first full copy meets a program that fails.
fn sick(toolbox: &Toolbox) -> anyhow::Result<(Monitor, Server)> {
    let monitor = monitor_with_rows(toolbox, 1000)?;
    let mut server = Server::start_sick(toolbox, 16 << 30)?;
    server.stop("TERM")?;
    server.set_time_limit(TIME_LIMIT);
    server.start_hostd()?;
    server.start_backupd()?;
    server.faults()?.set("pg_basebackup", Fault::NoSpace, "", Some(2))?;
    server.client()?.pair(&monitor.peer)?;
    server.wait_for_state(&["synchronized"], 3 * MINUTE)?;
    assert_eq!(server.faults()?.left("pg_basebackup")?, Some(0), "the first copy was not tried again");
    Ok((monitor, server))
}

/// Makes a backup of something new.
fn backup(monitor: &Monitor, client: &Client) -> anyhow::Result<Backup> {
    monitor.sql("insert into t select max(id) + 1 from t")?;
    Ok(client.create_backup(&CreateBackup::default())?)
}

/// The three names of a backup.
fn names(server: &Server, backup: &Backup) -> [PathBuf; 3] {
    let folder = server.backups(backup.monitor.id);
    ["", ".json", ".index"].map(|ending| folder.join(format!("{}{ending}", backup.id)))
}

/// What is missing of backups that must be whole.
fn missing(server: &Server, backups: &[Backup]) -> Vec<PathBuf> {
    backups.iter().flat_map(|backup| names(server, backup)).filter(|name| !name.exists()).collect()
}

fn wait_until_clean(server: &Server, monitor: &Monitor) -> anyhow::Result<()> {
    wait_for("the end of what was left over", 2 * MINUTE, || match server.left_over(monitor.peer.id) {
        Ok(left) if left.is_empty() => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .map_err(|error| error.context(server.logs()))
}

fn delete(server: &Server, backup: &Backup) -> anyhow::Result<()> {
    server.order(&Request::DeleteBackup { monitor: backup.monitor.id, id: backup.id.clone() })
}

/// One row of the matrix for each program, one column for each fault.
fn print(what: &str, rows: &[(String, Vec<&str>)]) {
    let faults: Vec<String> = Fault::ALL.iter().map(|fault| format!("{:>14}", fault.name())).collect();
    println!("{what:<28}{}", faults.concat());
    for (program, cells) in rows {
        let cells: Vec<String> = cells.iter().map(|cell| format!("{cell:>14}")).collect();
        println!("{program:<28}{}", cells.concat());
    }
}

/// For each of `programs` and each fault: `attempt` says whether what was tried had to be tried again.
fn matrix(
    what: &str,
    faults: &Faults,
    programs: &[(&str, &str)],
    mut attempt: impl FnMut() -> anyhow::Result<&'static str>,
) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    for (program, argument) in programs {
        let mut cells = Vec::new();
        for fault in Fault::ALL {
            faults.set(program, fault, argument, None)?;
            let cell = attempt().map_err(|error| error.context(format!("{program} {argument} {fault:?}")))?;
            faults.clear(program)?;
            cells.push(cell);
        }
        rows.push((format!("{program} {argument}"), cells));
    }
    print(what, &rows);
    Ok(())
}

#[test]
fn whatever_fails_while_a_backup_is_deleted_no_other_one_loses_anything() -> anyhow::Result<()> {
    let toolbox = Toolbox::open()?;
    let (monitor, server) = sick(&toolbox)?;
    let (client, faults) = (server.client()?, server.faults()?);
    let kept = [backup(&monitor, &client)?, backup(&monitor, &client)?];

    // What is deleted, as long as it is not: the only one, however often anything is ordered.
    let mut doomed = backup(&monitor, &client)?;
    let attempt = || {
        if !names(&server, &doomed)[0].exists() {
            doomed = backup(&monitor, &client)?;
        }
        let first = delete(&server, &doomed);
        // Whoever asks for another one now is told that this one has to be gone first, or it goes as it
        // should: not here.
        let is_begun = server.left_over(monitor.peer.id)?.iter().any(|path| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(".deleting-"))
        });
        if is_begun {
            let second = delete(&server, &kept[0]);
            anyhow::ensure!(second.is_err(), "another backup was deleted");
        }
        let lost = missing(&server, &kept);
        anyhow::ensure!(lost.is_empty(), "{lost:?} is lost; {}", server.logs());
        let listed = client.backups()?;
        anyhow::ensure!(listed.damaged.is_empty(), "{listed:?}");
        anyhow::ensure!(listed.backups.iter().all(|listed| listed.id != doomed.id) || first.is_err());
        Ok(if is_begun { "tried again" } else { "gone" })
    };
    matrix("deletion", faults, &[("btrfs", "delete"), ("btrfs", "sync")], attempt)?;
    // Nobody asks again, and it goes all the same while the process runs.
    wait_until_clean(&server, &monitor)?;

    // Once more by rotation: five old ones that may go, and none of them may be deleted.
    let mut old = Vec::new();
    for _ in 0..3 {
        old.push(backup(&monitor, &client)?);
    }
    let newest = [backup(&monitor, &client)?, backup(&monitor, &client)?, backup(&monitor, &client)?];
    let mut server = server;
    server.stop_backupd()?;
    for backup in kept.iter().chain(&old) {
        let path = &names(&server, backup)[1];
        let mut manifest: serde_json::Value = serde_json::from_slice(&std::fs::read(path)?)?;
        manifest["created"] = "2026-01-01T00:00:00Z".into();
        std::fs::write(path, serde_json::to_vec(&manifest)?)?;
    }
    server.order(&Request::SetLimits(Limits { low_space_bytes: 1_000_000_000_000, ..Limits::default() }))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let rotate = |server: &Server| runtime.block_on(server.hostd_client().rotate(None));
    let all: Vec<Backup> = kept.iter().chain(&old).chain(&newest).cloned().collect();
    let unnamed = |server: &Server| {
        all.iter()
            .filter(|backup| !names(server, backup)[0].exists())
            .map(|backup| backup.id.clone())
            .collect()
    };
    let mut begun: Vec<String> = Vec::new();
    for fault in [Fault::NoSpace, Fault::Kill, Fault::InputOutput] {
        server.faults()?.set("btrfs", fault, "delete", None)?;
        let rotated = rotate(&server);
        let now: Vec<String> = unnamed(&server);
        assert!(now.len() <= 1 && (begun.is_empty() || begun == now), "{now:?} after {begun:?}: {rotated:?}");
        assert!(rotated.is_err() || now.is_empty(), "{rotated:?}");
        begun = now;
    }
    server.faults()?.clear("btrfs")?;
    rotate(&server)?;
    server.start_backupd()?;
    wait_until_clean(&server, &monitor)?;
    assert!(missing(&server, &newest[2..]).is_empty(), "{}", server.logs());
    for id in begun {
        assert!(unnamed(&server).contains(&id), "it was begun and is not gone");
    }
    Ok(())
}

#[test]
fn whatever_fails_while_backups_and_copies_are_made_nothing_is_lost_and_the_next_one_comes()
-> anyhow::Result<()> {
    let toolbox = Toolbox::open()?;
    let (monitor, mut server) = sick(&toolbox)?;
    let client = server.client()?;
    let kept = [backup(&monitor, &client)?];
    let attempt = || {
        monitor.sql("insert into t select max(id) + 1 from t")?;
        let made = client.create_backup(&CreateBackup::default());
        anyhow::ensure!(made.is_err(), "{made:?}");
        let lost = missing(&server, &kept);
        anyhow::ensure!(lost.is_empty(), "{lost:?} is lost; {}", server.logs());
        let listed = client.backups()?;
        anyhow::ensure!(listed.damaged.is_empty(), "{listed:?}");
        Ok("refused")
    };
    matrix("backup", server.faults()?, &[("btrfs", "snapshot"), ("pg_controldata", "")], attempt)?;
    server.wait_for_state(&["synchronized"], MINUTE)?;
    let kept = [kept, [backup(&monitor, &client)?]].concat();
    wait_until_clean(&server, &monitor)?;

    server.stop_backupd()?;
    server.order(&Request::StopReplica { monitor: monitor.peer.id })?;
    let copy =
        Request::FullCopy { peer: Box::new(monitor.peer.clone()), tablespaces: Vec::new(), replace: true };
    let replica = server.data().join("replica").join(monitor.peer.id.to_string());
    let attempt = || {
        let copied = server.order(&copy);
        anyhow::ensure!(copied.is_err(), "it was copied");
        let lost = missing(&server, &kept);
        anyhow::ensure!(lost.is_empty(), "{lost:?} is lost; {}", server.logs());
        anyhow::ensure!(replica.join("pgdata/PG_VERSION").is_file(), "the replica is lost");
        Ok("refused")
    };
    let programs =
        [("btrfs", "create"), ("pg_basebackup", ""), ("pg_controldata", ""), ("btrfs", "snapshot")];
    matrix("full copy", server.faults()?, &programs, attempt)?;
    server.order(&copy).map_err(|error| error.context(server.logs()))?;
    server.start_backupd()?;
    server.wait_for_state(&["synchronized"], MINUTE)?;
    wait_until_replayed(&toolbox, &server, &monitor)?;
    assert!(missing(&server, &kept).is_empty());
    wait_for("the check of the copy, and the end of what was left over", 2 * MINUTE, || {
        let left = server.left_over(monitor.peer.id).map_err(|error| error.to_string())?;
        let left: Vec<_> =
            left.into_iter().filter(|path| !path.to_string_lossy().ends_with(".unverified")).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .map_err(|error| error.context(server.logs()))
}
