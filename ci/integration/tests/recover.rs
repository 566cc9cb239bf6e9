//! The way back, with a real PostgreSQL: a backup's tar is unpacked and recovered as the recovery program does it.

use anyhow::{Context, Result};
use api::CreateBackup;
use integration::{CHECKSUM, CLUSTER_ID, Monitor, as_cluster_user, paired, test_folder, wait_until_replayed};
use recovery::Failure;
use recovery::start::{Programs, Unpacked};
use recovery::swap::{Place, Swap};
use recovery::unpack::{Destination, unpack};
use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use tools::Toolbox;

/// PostgreSQL's programs in the tools tree.
fn programs(toolbox: &Toolbox) -> Result<Programs> {
    let command = as_cluster_user(toolbox, &toolbox.postgresql("postgres"));
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let mut as_owner: Vec<String> = words.map(|word| word.to_string_lossy().into_owned()).collect();
    let program = PathBuf::from(as_owner.pop().context("a command has a program")?);
    let folder = program.parent().context("a program has a folder")?.to_owned();
    Ok(Programs { as_owner, folder, owner: (CLUSTER_ID, CLUSTER_ID) })
}

fn destination(folder: &Path) -> Destination {
    Destination {
        pgdata: folder.join("pgdata"),
        tablespaces: folder.join("tablespaces"),
        monitor_config: folder.join("monitor-config"),
        owner: (CLUSTER_ID, CLUSTER_ID),
    }
}

#[test]
fn a_backup_is_recovered_beside_and_takes_the_place_of_a_lost_database() -> Result<()> {
    let toolbox = Toolbox::open()?;
    let (monitor, server) = paired(&toolbox, 1000)?;
    let rows = wait_until_replayed(&toolbox, &server, &monitor)?;
    let backup = server.client()?.create_backup(&CreateBackup::default())?;
    let backups = server.data().join("backups").join(monitor.peer.id.to_string());
    let index = fs::File::open(backups.join(format!("{}.index", backup.id)))?;
    let tar = std::sync::Arc::new(vtar::Index::read_from(index)?).reader(backups.join(&backup.id))?;

    let folder = test_folder()?;
    let run = test_folder()?;
    unpack("x.tar", tar, 0, &destination(folder.path()), |_| Ok(()))?;
    let programs = programs(&toolbox)?;
    let run = run.path().join("run");
    let unpacked = Unpacked { programs: &programs, folder: folder.path(), run: &run, backup: &backup };
    let mut seen = 0;
    // Twice: after a cut, the second attempt finds what the first has left.
    for _ in 0..2 {
        let notes = unpacked.recover(|_, _| seen += 1)?;
        assert_eq!(notes, Vec::<String>::new());
    }
    assert!(seen >= 2);

    // It takes the place of another monitor's database, and serves.
    let mut lost = Monitor::start(&toolbox)?;
    lost.stop()?;
    let restored = folder.path().join("pgdata");
    for name in ["postgresql.conf", "pg_hba.conf", "pg_ident.conf", "server.crt", "server.key"] {
        fs::copy(lost.data().join(name), restored.join(name))?;
        chown(restored.join(name), Some(CLUSTER_ID), Some(CLUSTER_ID))?;
    }
    let swap = Swap { live: lost.data(), beside: restored, id: backup.id.clone() };
    swap.mark()?;
    assert!(swap.bring_in()?);
    lost.run_server()?;
    assert_eq!(lost.sql(CHECKSUM)?, rows);
    assert_eq!(lost.sql("select pg_is_in_recovery()")?, "f");
    // And back: what was there before is still whole.
    lost.stop()?;
    assert!(swap.bring_back()?);
    assert_eq!(swap.place()?, Place::Beside);
    lost.run_server()?;
    assert!(lost.sql(CHECKSUM).is_err(), "the old database has no table t");
    Ok(())
}

#[test]
fn a_tree_without_its_control_file_is_not_called_recovered() -> Result<()> {
    let toolbox = Toolbox::open()?;
    let (monitor, server) = paired(&toolbox, 1000)?;
    wait_until_replayed(&toolbox, &server, &monitor)?;
    let backup = server.client()?.create_backup(&CreateBackup::default())?;
    let backups = server.data().join("backups").join(monitor.peer.id.to_string());
    let index = fs::File::open(backups.join(format!("{}.index", backup.id)))?;
    let tar = std::sync::Arc::new(vtar::Index::read_from(index)?).reader(backups.join(&backup.id))?;
    let (folder, run) = (test_folder()?, test_folder()?);
    unpack("x.tar", tar, 0, &destination(folder.path()), |_| Ok(()))?;
    fs::remove_file(folder.path().join("pgdata/global/pg_control"))?;
    let programs = programs(&toolbox)?;
    let run = run.path().join("run");
    let unpacked = Unpacked { programs: &programs, folder: folder.path(), run: &run, backup: &backup };
    let failure = unpacked.recover(|_, _| ()).err().context("it was called recovered")?;
    assert!(matches!(&failure, Failure::Here(_) | Failure::Damaged { .. }), "{failure}");
    assert!(failure.to_string().contains("pg_control"), "{failure}");
    Ok(())
}
