//! The way back, with a real PostgreSQL: a backup's tar is unpacked, recovered and takes the live data's place as the
//! recovery program does it.

#![allow(clippy::expect_used, reason = "helpers of tests fail by panicking")]

use anyhow::{Context, Result, bail};
use api::{CreateBackup, Manifest};
use integration::{
    CHECKSUM, CLUSTER_ID, Monitor, Server, followed, monitor_with_rows, programs, test_folder,
    wait_until_replayed,
};
use recovery::Failure;
use recovery::configuration::IN_DATA;
use recovery::restore::{Host, Restore, Service, Stage, Written};
use recovery::start::Unpacked;
use recovery::swap::{Place, Swap};
use recovery::unpack::{Destination, unpack};
use std::cell::{Cell, RefCell};
use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use tools::Toolbox;

fn destination(folder: &Path) -> Destination {
    Destination {
        pgdata: folder.join("pgdata"),
        tablespaces: folder.join("tablespaces"),
        owner: (CLUSTER_ID, CLUSTER_ID),
    }
}

/// A backup of a monitor that had so many rows, as the server has it.
struct Kept {
    monitor: Monitor,
    _server: Server,
    manifest: Manifest,
    folder: PathBuf,
    rows: String,
}

impl Kept {
    fn make(toolbox: &Toolbox) -> Result<Self> {
        let monitor = monitor_with_rows(toolbox, 1000)?;
        monitor.add_tablespace(&monitor.data().with_file_name("tablespace"))?;
        let server = followed(toolbox, &monitor)?;
        let rows = wait_until_replayed(toolbox, &server, &monitor)?;
        let backup = server.client()?.create_backup(&CreateBackup::default())?;
        let folder = server.data().join("backups").join(monitor.peer.id.to_string());
        let manifest = backups::read_manifest(&folder, &backup.id.parse()?)?;
        Ok(Self { monitor, _server: server, manifest, folder, rows })
    }

    fn tar(&self) -> Result<vtar::Reader> {
        let id = &self.manifest.backup.id;
        let index = fs::File::open(self.folder.join(format!("{id}.index")))?;
        Ok(std::sync::Arc::new(vtar::Index::read_from(index)?).reader(self.folder.join(id))?)
    }

    fn tar_from(&self, from: u64) -> vtar::Reader {
        let mut tar = self.tar().expect("the tar opens");
        tar.seek(SeekFrom::Start(from)).expect("any offset can be read");
        tar
    }
}

/// A monitor's PostgreSQL whose next starts fail.
struct Failing {
    monitor: RefCell<Monitor>,
    failures: Cell<u32>,
    application_runs: Cell<bool>,
}

impl Failing {
    fn restart(&self) -> Result<()> {
        self.monitor.borrow_mut().stop()?;
        self.monitor.borrow_mut().run_server()
    }
}

impl Service for Failing {
    fn runs(&self) -> Result<bool> {
        Ok(self.monitor.borrow().sql("select 1").is_ok())
    }

    fn stop(&self) -> Result<()> {
        self.application_runs.set(false);
        self.monitor.borrow_mut().stop()
    }

    fn start(&self) -> Result<()> {
        if self.failures.get() > 0 {
            self.failures.set(self.failures.get() - 1);
            bail!("it does not start");
        }
        self.monitor.borrow_mut().run_server()
    }

    fn start_application(&self) -> Result<()> {
        self.application_runs.set(true);
        Ok(())
    }
}

#[test]
fn a_restore_goes_on_after_every_cut_and_what_does_not_start_is_taken_back() -> Result<()> {
    let toolbox = Toolbox::open()?;
    let mut kept = Kept::make(&toolbox)?;
    let lost = Monitor::start(&toolbox)?;
    lost.sql("create table precious as select 1 as id")?;
    let data = lost.data();
    // As a monitor's whose data directory was at the same place.
    for name in IN_DATA {
        let text = fs::read_to_string(kept.monitor.data().join(name))?;
        kept.manifest.configuration.insert(data.join(name).to_string_lossy().into_owned(), text);
    }
    let service =
        Failing { monitor: RefCell::new(lost), failures: Cell::new(0), application_runs: Cell::new(true) };
    let run = test_folder()?;
    let host = Host {
        data: data.clone(),
        configuration: None,
        programs: programs(&toolbox)?,
        run: run.path().join("run"),
        kept: run.path().join("kept"),
        service: &service,
    };
    let sql = |sql: &str| service.monitor.borrow().sql(sql);
    let reopened = || -> Result<Restore<'_>> { Restore::under_way(&host)?.context("none is under way") };

    // Cut while it is unpacked: the tar ends somewhere.
    let mut restore = Restore::begin(&host, &kept.manifest)?;
    assert!(restore.unpack(|_| kept.tar_from(0).take(5_000_000)).is_err());
    drop(restore);
    // Abandoned, nothing is left.
    reopened()?.abandon(Written::Kept)?;
    assert!(!host.work().exists() && Restore::under_way(&host)?.is_none());

    // Another process each time, as after a power cut.
    Restore::begin(&host, &kept.manifest)?.unpack(|from| kept.tar_from(from))?;
    assert_eq!(reopened()?.stage(), Stage::Unpacked);
    assert!(reopened()?.confirm().is_err(), "the live data would go");
    reopened()?.recover(|_, _| ())?;
    assert_eq!(reopened()?.stage(), Stage::Ready);
    assert_eq!(sql("select id from precious")?, "1");
    assert!(service.application_runs.get());

    // It starts with no configuration: all is as it was.
    service.failures.set(2);
    let failure = reopened()?.bring_in().err().context("it was brought in")?;
    assert!(failure.to_string().contains("what was there before is back and runs"), "{failure}");
    assert_eq!(sql("select id from precious")?, "1");
    assert!(service.application_runs.get());
    assert_eq!(reopened()?.stage(), Stage::Ready);

    // It starts with this machine's configuration only: that is said.
    service.failures.set(1);
    let notes = reopened()?.bring_in()?;
    assert!(
        notes.iter().any(|note| note.contains("does not start with the monitor's configuration")),
        "{notes:?}"
    );
    assert_eq!(sql(CHECKSUM)?, kept.rows);
    assert_eq!(sql("select pg_is_in_recovery()")?, "f");
    assert!(service.application_runs.get());
    // The old data is kept until it is confirmed, also from another restore.
    assert_eq!(reopened()?.stage(), Stage::Live);
    assert!(reopened()?.abandon(Written::Kept).is_err());
    let mut other = kept.manifest.clone();
    other.backup.id = "20200101T000000Z".into();
    assert!(Restore::begin(&host, &other).is_err());
    assert_eq!(reopened()?.confirm()?, Vec::<String>::new());
    assert!(!host.work().exists() && !data.join("infimonitor-restore").exists());
    assert_eq!(sql(CHECKSUM)?, kept.rows);

    // The same backup once more: the live tablespace is in nobody's way, and goes with its database.
    assert_eq!(tablespaces(&data)?.len(), 1);
    assert_eq!(sql("select place from far")?, "there");
    sql("update far set place = 'here'")?;
    Restore::begin(&host, &kept.manifest)?.unpack(|from| kept.tar_from(from))?;
    reopened()?.recover(|_, _| ())?;
    assert_eq!(tablespaces(&data)?.len(), 2);
    reopened()?.bring_in()?;
    assert_eq!(sql("select place from far")?, "there");
    // Whoever is not content goes back, from the live one too.
    assert!(reopened()?.abandon(Written::Kept).is_err());
    reopened()?.abandon(Written::Lost)?;
    assert!(Restore::under_way(&host)?.is_none() && !data.join("infimonitor-restore").exists());
    assert_eq!((sql("select place from far")?, tablespaces(&data)?.len()), ("here".into(), 1));
    let first = tablespaces(&data)?;
    Restore::begin(&host, &kept.manifest)?.unpack(|from| kept.tar_from(from))?;
    reopened()?.recover(|_, _| ())?;
    // PostgreSQL is restarted for settings before the application is started, and not under it.
    let settled = Cell::new(false);
    let settle = || {
        assert!(!service.application_runs.get());
        settled.set(true);
        service.restart()
    };
    assert_eq!(reopened()?.bring_in_with(&settle)?, Vec::<String>::new());
    assert!(settled.get() && service.application_runs.get());
    reopened()?.abandon(Written::Lost)?;
    Restore::begin(&host, &kept.manifest)?.unpack(|from| kept.tar_from(from))?;
    reopened()?.recover(|_, _| ())?;
    // Settings that fail leave neither without the other.
    let settle = || {
        service.monitor.borrow_mut().stop()?;
        bail!("no settings")
    };
    let notes = reopened()?.bring_in_with(&settle)?;
    assert!(notes.len() == 1 && notes[0].contains("no settings"), "{notes:?}");
    assert!(service.application_runs.get());
    reopened()?.confirm()?;
    assert_eq!(sql("select place from far")?, "there");
    let last = tablespaces(&data)?;
    assert!(last.len() == 1 && last != first, "{first:?} {last:?}");
    Ok(())
}

/// The folders of restored tablespaces beside a data directory.
fn tablespaces(data: &Path) -> Result<Vec<PathBuf>> {
    let beginning = format!("{}.tablespaces-", data.display());
    let folder = data.parent().context("a data directory is in a folder")?;
    let entries = fs::read_dir(folder)?.map(|entry| Ok(entry?.path()));
    let paths: Vec<PathBuf> = entries.collect::<Result<_>>()?;
    Ok(paths.into_iter().filter(|path| path.to_string_lossy().starts_with(&beginning)).collect())
}

#[test]
fn a_backup_is_recovered_beside_and_takes_the_place_of_a_lost_database() -> Result<()> {
    let toolbox = Toolbox::open()?;
    let kept = Kept::make(&toolbox)?;
    let (folder, run) = (test_folder()?, test_folder()?);
    unpack("x.tar", kept.tar()?, 0, &destination(folder.path()), |_| Ok(()))?;
    let programs = programs(&toolbox)?;
    let run = run.path().join("run");
    let backup = &kept.manifest.backup;
    let unpacked = Unpacked { programs: &programs, folder: folder.path(), run: &run, backup };
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
    let swap = Swap {
        live: lost.data(),
        beside: restored,
        name: backup.full_name(),
        owner: (CLUSTER_ID, CLUSTER_ID),
    };
    swap.mark()?;
    assert!(swap.bring_in()?);
    lost.run_server()?;
    assert_eq!(lost.sql(CHECKSUM)?, kept.rows);
    assert_eq!(lost.sql("select pg_is_in_recovery()")?, "f");
    // And back: what was there before is still whole.
    lost.stop()?;
    assert!(swap.bring_back()?);
    assert_eq!(swap.place()?, Some(Place::Beside));
    lost.run_server()?;
    assert!(lost.sql(CHECKSUM).is_err(), "the old database has no table t");
    Ok(())
}

#[test]
fn a_tree_without_its_control_file_is_not_called_recovered() -> Result<()> {
    let toolbox = Toolbox::open()?;
    let kept = Kept::make(&toolbox)?;
    let (folder, run) = (test_folder()?, test_folder()?);
    unpack("x.tar", kept.tar()?, 0, &destination(folder.path()), |_| Ok(()))?;
    fs::remove_file(folder.path().join("pgdata/global/pg_control"))?;
    let programs = programs(&toolbox)?;
    let run = run.path().join("run");
    let backup = &kept.manifest.backup;
    let unpacked = Unpacked { programs: &programs, folder: folder.path(), run: &run, backup };
    let failure = unpacked.recover(|_, _| ()).err().context("it was called recovered")?;
    assert!(matches!(&failure, Failure::Here(_) | Failure::Damaged { .. }), "{failure}");
    assert!(failure.to_string().contains("pg_control"), "{failure}");
    Ok(())
}
