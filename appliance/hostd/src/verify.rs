//! Proving that a backup restores: a clone is started, recovered, promoted, checked and thrown away (design D9).
//!
//! It goes the way that a restore goes, so what it proves is what counts. The clone is hostile input that is started as
//! a database (design D7): it runs in the sandbox of a clone, and so do the programs that ask it; what they print is
//! read as text and bounded. It is slow on purpose where the machine has something better to do.

use crate::cluster::{self, Postgres};
use crate::places::Places;
use crate::program::Bounds;
use crate::sandbox::{Sandbox, user_ids};
use crate::{btrfs, catalog, digest};
use anyhow::{Context, Result};
use api::{Backup, Depth, Digests, Proof, Verification};
use backups::BackupId;
use hostd::{Step, reached};
use jiff::Timestamp;
use nix::unistd::{Gid, Uid};
use replica::{
    CloneConfig, EVERY_CLUSTERS_DATABASE, Lsn, PROMOTE, REPLAYED, Reached, Replay, clone_conninfo,
    psql_arguments,
};
use std::fs::DirBuilder;
use std::os::unix::fs::{DirBuilderExt, lchown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// A verification that takes longer says nothing any more: newer backups wait for their turn.
const LIMIT: Duration = Duration::from_secs(24 * 3600);
/// What a program that reads the whole cluster may take.
const READING: Bounds = Bounds::SHORT.within(LIMIT).printing(1 << 20);
/// What one question may take; to promote writes a checkpoint.
const ASKING: Bounds = Bounds::SHORT.within(Duration::from_secs(3600)).printing(1 << 20);
/// Time between two looks at the recovery.
const POLL: Duration = Duration::from_millis(200);
/// Memory for shared buffers: the machine's other work goes first.
const SHARED_BUFFERS_MIB: u32 = 128;
/// Lines of the server's log that go into a reason.
const REASON_LINES: usize = 3;

/// Why there is no proof.
enum Trouble {
    /// The backup is bad: that is a result.
    Backup(String),
    /// It could not be tried.
    Here(anyhow::Error),
}

impl From<anyhow::Error> for Trouble {
    fn from(error: anyhow::Error) -> Self {
        Self::Here(error)
    }
}

/// What a program says against the backup.
fn against(error: anyhow::Error) -> Trouble {
    Trouble::Backup(format!("{error:#}"))
}

/// What a verification found.
pub struct Found {
    /// The result, which may be that the backup is bad.
    verification: Verification,
    /// Hashes of the tar of one that is good.
    digests: Option<Digests>,
}

/// Verifies a backup.
///
/// # Errors
/// It could not be tried.
pub async fn run(places: &Places, monitor: Uuid, id: &BackupId, depth: Depth) -> Result<Found> {
    let manifest = catalog::read(places, monitor, id)?;
    let backup = &manifest.backup;
    let clone = places.verification(id);
    let folder = clone.parent().context("a clone has a folder")?;
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .with_context(|| format!("cannot make {}", folder.display()))?;
    if clone.exists() {
        btrfs::delete(&clone).await.context("cannot delete what an interrupted verification left")?;
    }
    btrfs::clone(&places.backups(monitor).join(id.as_str()), &clone).await?;
    reached(Step::VerificationClone);
    let attempt = async {
        let began = Instant::now();
        let proof = prove(places, backup, &clone, depth).await?;
        let digests = digest::of(places, monitor, id).await.map_err(against)?;
        let snapshot = places.backups(monitor).join(id.as_str());
        match manifest.digests.as_ref().and_then(|before| digest::difference(before, &digests, &snapshot)) {
            Some(difference) => Err(Trouble::Backup(difference)),
            None => Ok((Proof { seconds: began.elapsed().as_secs_f64(), ..proof }, digests)),
        }
    };
    let attempt = tokio::time::timeout(LIMIT, attempt).await;
    reached(Step::VerificationResult);
    if let Err(error) = btrfs::delete(&clone).await {
        tracing::error!("cannot delete the clone of {id}: {error:#}");
    }
    let failed =
        |reason| Found { verification: Verification::Failed { at: Timestamp::now(), reason }, digests: None };
    match attempt {
        Ok(Ok((proof, digests))) => {
            Ok(Found { verification: Verification::Verified(proof), digests: Some(digests) })
        }
        Ok(Err(Trouble::Backup(reason))) => Ok(failed(reason)),
        Ok(Err(Trouble::Here(error))) => Err(error.context(format!("cannot verify backup {id}"))),
        Err(_) => Ok(failed(format!("it was not done within {} hours", LIMIT.as_secs() / 3600))),
    }
}

/// Records the result, also in older backups that were still waiting: those are superseded.
pub fn record(places: &Places, monitor: Uuid, id: &BackupId, found: Found) -> Result<Backup> {
    let set = |id: &BackupId, Found { verification, digests }| -> Result<Backup> {
        let mut manifest = catalog::read(places, monitor, id)?;
        manifest.backup.verification = verification;
        // Those of a good one stay, whatever becomes of it.
        manifest.digests = digests.or(manifest.digests);
        catalog::write(places, &manifest)?;
        Ok(manifest.backup)
    };
    let backup = set(id, found)?;
    reached(Step::VerificationRecorded);
    for older in catalog::backups(places)? {
        let waits = older.monitor.id == monitor && older.verification == Verification::Pending;
        if waits && older.created < backup.created {
            set(&older.id.parse()?, Found { verification: Verification::Superseded, digests: None })?;
        }
    }
    Ok(backup)
}

async fn prove(places: &Places, backup: &Backup, clone: &Path, depth: Depth) -> Result<Proof, Trouble> {
    let began = Instant::now();
    let sandbox = Sandbox::clone_of_backup(places, clone);
    let (uid, gid) = user_ids(sandbox.user())?;
    let tree = clone.to_path_buf();
    tokio::task::spawn_blocking(move || give(&tree, uid, gid)).await.map_err(anyhow::Error::from)??;
    let own = std::env::current_exe().context("cannot find my own program")?;
    sandbox.output(&own, ["disarm"], Bounds::SHORT).await.map_err(against)?;
    let asking = Asking::prepare(places, sandbox, backup).await?;

    let started = Instant::now();
    let mut postgres =
        Postgres::start(places, sandbox, &asking.run, format!("verification of {}", backup.id))?;
    reached(Step::VerificationStarted);
    asking.recover(&mut postgres, &backup.postgresql.flushed_lsn).await?;
    reached(Step::VerificationPromoted);
    let restore_seconds = started.elapsed().as_secs_f64();

    let mut limits = asking.enter_databases().await?;
    if depth == Depth::Full {
        asking.check_relations(!limits.is_empty()).await?;
    }
    postgres.stop().await?;
    if depth == Depth::Full {
        if backup.postgresql.checksums {
            let program = places.program("pg_checksums");
            sandbox.output(&program, ["--check", "-D", replica::PGDATA], READING).await.map_err(against)?;
        } else {
            limits.push("The monitor's cluster has no page checksums, so none could be checked.".into());
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    Ok(Proof { at: Timestamp::now(), restore_seconds, seconds, depth, limits })
}

/// Gives the tree to the clone's user, as deep as PostgreSQL goes. Links are not followed, and nobody else writes here
/// meanwhile.
fn give(tree: &Path, uid: Uid, gid: Gid) -> Result<()> {
    for entry in files::tree(tree, |_| true) {
        let entry = entry.with_context(|| format!("cannot look through {}", tree.display()))?;
        lchown(entry.path(), Some(uid.as_raw()), Some(gid.as_raw()))
            .with_context(|| format!("cannot give {} to the verifier", entry.path().display()))?;
    }
    Ok(())
}

/// Asks a running clone.
struct Asking<'a> {
    places: &'a Places,
    sandbox: Sandbox<'a>,
    run: PathBuf,
    superuser: &'a str,
}

impl<'a> Asking<'a> {
    /// Writes the configuration under which the clone runs.
    async fn prepare(places: &'a Places, sandbox: Sandbox<'a>, backup: &'a Backup) -> Result<Self, Trouble> {
        let superuser = backup
            .postgresql
            .superuser
            .as_deref()
            .context("the manifest names no superuser that may log in")?;
        let control = sandbox.control_data().await.map_err(against)?;
        let run = places.verification_run();
        // A clone whose server was killed leaves its socket's lock behind, which would keep another from starting.
        files::remove_folder(&run)?;
        let (uid, gid) = user_ids(sandbox.user())?;
        for folder in [&run, &run.join("socket")] {
            files::folder(folder, 0o700, (uid.as_raw(), gid.as_raw()))?;
        }
        let run_dir = run.to_str().context("the run folder's path is not UTF-8")?;
        let config = CloneConfig {
            run_dir,
            control: &control,
            timeline: backup.postgresql.timeline,
            shared_buffers_mib: SHARED_BUFFERS_MIB,
            stays: false,
        };
        for (name, text) in config.files() {
            cluster::write_owned(&run.join(name), &text, uid, gid)?;
        }
        Ok(Self { places, sandbox, run, superuser })
    }

    fn conninfo(&self, database: &str) -> String {
        clone_conninfo(&self.run.join("socket").to_string_lossy(), self.superuser, database)
    }

    /// Runs SQL; columns are separated by `|`, rows end with a zero byte.
    async fn sql(&self, database: &str, sql: &str) -> Result<String> {
        let conninfo = self.conninfo(database);
        self.sandbox.output(&self.places.program("psql"), psql_arguments(&conninfo, sql), ASKING).await
    }

    /// Waits until the clone has replayed all that the backup says it has, and makes it a database of its own.
    async fn recover(&self, postgres: &mut Postgres, flushed: &str) -> Result<(), Trouble> {
        let flushed: Lsn = flushed.parse().context("the manifest's WAL position is none")?;
        let mut replay = Replay::new(flushed, Instant::now());
        loop {
            if !postgres.runs() {
                let log = postgres.log();
                let tail = log[log.len().saturating_sub(REASON_LINES)..].join(" ");
                return Err(Trouble::Backup(format!("PostgreSQL does not start from it: {tail}")));
            }
            // An error is a server that does not let us in yet.
            let said = self.sql(EVERY_CLUSTERS_DATABASE, REPLAYED).await.ok();
            match replay.saw(said.as_deref(), Instant::now()).map_err(Trouble::Backup)? {
                Reached::Target(_) => break,
                Reached::Nothing | Reached::Lsn(_) => tokio::time::sleep(POLL).await,
            }
        }
        let promoted = self.sql(EVERY_CLUSTERS_DATABASE, PROMOTE).await.map_err(against)?;
        if promoted.starts_with('t') {
            return Ok(());
        }
        Err(Trouble::Backup("it cannot be promoted".into()))
    }

    /// Enters every database; says of what this system's collations cannot tell.
    async fn enter_databases(&self) -> Result<Vec<String>, Trouble> {
        let names = "select datname from pg_catalog.pg_database where datallowconn order by oid";
        let names = self.sql(EVERY_CLUSTERS_DATABASE, names).await.map_err(against)?;
        let mut foreign = Vec::new();
        for name in names.split_terminator('\0') {
            let question = "select count(*), \
                 exists (select from pg_catalog.pg_database where datname = pg_catalog.current_database() \
                 and datcollversion <> pg_catalog.pg_database_collation_actual_version(oid)) \
                 or exists (select from pg_catalog.pg_collation \
                 where collversion <> pg_catalog.pg_collation_actual_version(oid)) \
                 from pg_catalog.pg_class";
            let said = self.sql(name, question).await.map_err(against)?;
            if said.trim_end_matches('\0').ends_with("|t") {
                foreign.push(name);
            }
        }
        if foreign.is_empty() {
            return Ok(Vec::new());
        }
        let names = foreign.join(", ");
        Ok(vec![format!(
            "Text sorts differently on the monitor and here (database {names}), so indexes could not be checked."
        )])
    }

    /// Reads every table, and every B-tree index unless text sorts differently here, for damage.
    async fn check_relations(&self, heap_only: bool) -> Result<(), Trouble> {
        let conninfo = self.conninfo(EVERY_CLUSTERS_DATABASE);
        let mut arguments = vec![
            "--all",
            "--install-missing",
            "--no-password",
            "--no-strict-names",
            "--maintenance-db",
            &conninfo,
        ];
        if heap_only {
            arguments.extend(["--no-dependent-indexes", "--exclude-index=*"]);
        }
        let program = self.places.program("pg_amcheck");
        self.sandbox.output(&program, arguments, READING).await.map(drop).map_err(against)
    }
}
