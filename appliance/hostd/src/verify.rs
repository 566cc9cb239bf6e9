//! Proving that a backup restores: a clone is started, recovered, promoted, checked and thrown away (design
//! D9).
//!
//! It goes the way that a restore goes, so what it proves is what counts. The clone is hostile input that is
//! started as a database (design D7): it runs in the sandbox of a clone, and so do the programs that ask it;
//! what they print is read as text and bounded. It is slow on purpose where the machine has something better
//! to do.

use crate::cluster::Postgres;
use crate::places::Places;
use crate::program::{Bounds, Failure};
use crate::sandbox::{Sandbox, user_ids};
use crate::verdict::{self, Hindrance, Source, Verdict};
use crate::{btrfs, catalog, digest, stragglers, write_limit};
use anyhow::{Context, Result};
use api::{Attempt, Backup, Depth, Digests, Manifest, Proof, Reading, Verification};
use backups::BackupId;
use hostd::{Step, reached};
use jiff::Timestamp;
use nix::unistd::{Gid, Uid, getuid};
use replica::{
    CLUSTER_ROOT, CloneConfig, ControlData, EVERY_CLUSTERS_DATABASE, Lsn, POSTGRESQL_CONF, PROMOTE, REPLAYED,
    Reached, Replay, clone_conninfo, psql_arguments,
};
use std::fs::DirBuilder;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, lchown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// A verification that takes longer is given up: newer backups wait for their turn.
const LIMIT: Duration = Duration::from_secs(24 * 3600);
/// What a program that reads the whole cluster may take.
const READING: Bounds = Bounds::SHORT.within(Duration::from_secs(20 * 3600)).printing(4 << 20);
/// What one question may take. The clock is ours: the database can set `statement_timeout` as it likes.
const ASKING: Bounds = Bounds::SHORT.within(Duration::from_secs(1200)).printing(1 << 20);
/// What it may take to ask how far recovery is.
const LOOKING: Bounds = Bounds::SHORT;
/// To promote writes a checkpoint.
const PROMOTING: Bounds = Bounds::SHORT.within(Duration::from_secs(3700));
/// Time between two looks at the recovery.
const POLL: Duration = Duration::from_millis(200);
/// Time in which a server that ends has ended.
const ENDING: Duration = Duration::from_secs(1);
/// Memory for shared buffers: the machine's other work goes first.
const SHARED_BUFFERS_MIB: u32 = 128;
/// psql's exit status when the server does not let it in.
const NOT_LET_IN: i32 = 2;
/// Folder of the clone's socket, in the clone: what the clone's user can write is limited there.
const SOCKET: &str = "socket";
/// Databases that are named where text sorts differently.
const NAMED_DATABASES: usize = 5;

impl From<anyhow::Error> for Verdict {
    fn from(error: anyhow::Error) -> Self {
        Self::Machine(error.into())
    }
}

/// The verdict in a program's failure.
fn said_by(source: Source) -> impl Fn(anyhow::Error) -> Verdict {
    move |error| match error.downcast_ref::<Failure>() {
        Some(failure) => verdict::of_failure(source, failure),
        None => error.into(),
    }
}

/// What a verification or a reading found.
#[derive(Debug)]
pub struct Found {
    attempt: Attempt,
    /// The proof, which only a verification gives, or why there is none.
    result: Result<Option<Proof>, Verdict>,
    /// When the tar was read, if it was.
    read: Option<Reading>,
    /// Hashes of the tar of one that is good.
    digests: Option<Digests>,
}

impl Found {
    fn hindered(attempt: Attempt, error: anyhow::Error) -> Self {
        Self { attempt, result: Err(error.into()), read: None, digests: None }
    }
}

/// Verifies a backup.
///
/// # Errors
/// There is no such backup, or its record cannot be read.
pub async fn run(places: &Places, monitor: Uuid, id: &BackupId, depth: Depth) -> Result<Found> {
    let manifest = catalog::read(places, monitor, id)?;
    if let Err(error) = sweep(places).await {
        return Ok(Found::hindered(Attempt::Verify, error));
    }
    let began = Instant::now();
    let mut tried = attempt(places, monitor, &manifest, depth).await;
    let was_good = matches!(manifest.backup.verification, Verification::Verified(_));
    if was_good && let Err(Verdict::Data(reason)) = &tried {
        // It was proven before: memory that fails must not take that away.
        tracing::warn!("backup {id} was verified before and fails now, it is tried once more: {reason}");
        tried = attempt(places, monitor, &manifest, depth).await;
    }
    let found = match tried {
        Ok(proof) => {
            let mut found = read(places, monitor, &manifest, Attempt::Verify).await;
            let proof = Proof { at: Timestamp::now(), seconds: began.elapsed().as_secs_f64(), ..proof };
            found.result = found.result.map(|_| Some(proof));
            found
        }
        Err(verdict) => Found { attempt: Attempt::Verify, result: Err(verdict), read: None, digests: None },
    };
    reached(Step::VerificationResult);
    Ok(found)
}

/// Reads a backup from end to end and compares it with what it was before.
///
/// # Errors
/// There is no such backup, or its record cannot be read.
pub async fn read_again(places: &Places, monitor: Uuid, id: &BackupId) -> Result<Found> {
    let manifest = catalog::read(places, monitor, id)?;
    Ok(read(places, monitor, &manifest, Attempt::Read).await)
}

async fn read(places: &Places, monitor: Uuid, manifest: &Manifest, attempt: Attempt) -> Found {
    let (result, digests) = match digest::compare(places, monitor, manifest).await {
        Ok(digests) => (Ok(None), Some(digests)),
        Err(verdict) => (Err(verdict), None),
    };
    let same = match &result {
        Ok(_) => Some(true),
        Err(Verdict::Data(_)) => Some(false),
        Err(Verdict::Machine(_)) => None,
    };
    let read = same.map(|same| Reading { at: Timestamp::now(), same });
    Found { attempt, result, read, digests }
}

/// Records what was found. An earlier result stays where there is no new one. What is older than a verified
/// one and waited is superseded.
pub fn record(places: &Places, monitor: Uuid, id: &BackupId, found: Found) -> Result<Backup> {
    let Found { attempt, result, read, digests } = found;
    let mut manifest = catalog::read(places, monitor, id)?;
    // Those of a good one stay, whatever becomes of it.
    manifest.digests = digests.or(manifest.digests);
    let backup = &mut manifest.backup;
    backup.read = read.or(backup.read);
    match result {
        Ok(proof) => {
            if let Some(proof) = proof {
                backup.verification = Verification::Verified(proof);
                backup.trouble = None;
            }
            // That it could be read does not say that it can be verified now.
            backup.trouble = backup.trouble.take().filter(|trouble| trouble.attempt != attempt);
        }
        Err(Verdict::Data(reason)) => {
            backup.verification = Verification::Failed { at: Timestamp::now(), reason };
            backup.trouble = None;
        }
        Err(Verdict::Machine(hindrance)) => backup.trouble = Some(trouble(backup, attempt, hindrance)),
    }
    catalog::write(places, &manifest)?;
    reached(Step::VerificationRecorded);
    if attempt == Attempt::Verify && matches!(manifest.backup.verification, Verification::Verified(_)) {
        supersede(places, &manifest.backup)?;
    }
    Ok(manifest.backup)
}

/// The trouble that follows what is on record.
fn trouble(backup: &Backup, attempt: Attempt, Hindrance { reason, disk }: Hindrance) -> api::Trouble {
    let at = Timestamp::now();
    let before = backup.trouble.as_ref().filter(|before| before.attempt == attempt);
    let (since, times) = before.map_or((at, 0), |before| (before.since, before.times));
    api::Trouble { attempt, since, at, times: times.saturating_add(1), reason, disk }
}

/// Records of the backups that waited and are older than one that is verified.
fn supersede(places: &Places, verified: &Backup) -> Result<()> {
    for older in catalog::backups(places)? {
        let waits = older.monitor.id == verified.monitor.id && older.verification == Verification::Pending;
        if waits && older.order() < verified.order() {
            let mut manifest = catalog::read(places, older.monitor.id, &older.id.parse()?)?;
            manifest.backup.verification = Verification::Superseded;
            manifest.backup.trouble = None;
            catalog::write(places, &manifest)?;
        }
    }
    Ok(())
}

/// Deletes the clones that earlier verifications left. One at a time is verified, so none of them is in use.
async fn sweep(places: &Places) -> Result<()> {
    for clone in places.clones()? {
        discard(places, &clone).await.context("cannot delete what an interrupted verification left")?;
    }
    Ok(())
}

/// Ends whatever runs in a clone, and deletes the clone.
pub async fn discard(places: &Places, clone: &Path) -> Result<()> {
    // A query that never ends outlives its server, and keeps the clone's room.
    stragglers::end(&places.data, clone).await?;
    btrfs::delete(clone).await
}

/// Makes a clone, proves the backup by it, and throws it away.
async fn attempt(
    places: &Places,
    monitor: Uuid,
    manifest: &Manifest,
    depth: Depth,
) -> Result<Proof, Verdict> {
    let backup = &manifest.backup;
    let id: BackupId = backup.id.parse().context("the manifest's id is not one")?;
    let snapshot = places.backups(monitor).join(id.as_str());
    let clone = places.verification(&id);
    let folder = clone.parent().context("a clone has a folder")?;
    let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.with_context(|| format!("cannot make {}", folder.display()))?;
    let sandbox = Sandbox::clone_of_backup(places, &clone);
    let kills = sandbox.memory_kills();
    let proof = async {
        // Asked on the snapshot: nothing is written before the limit is known.
        let control = Sandbox::replica(places, &snapshot).in_background().control_data().await;
        let control = control.map_err(said_by(Source::Other))?;
        let limit = limit(places, backup, &control, &snapshot)?;
        btrfs::clone(&snapshot, &clone).await?;
        write_limit::set(&places.data, &clone, limit).await?;
        reached(Step::VerificationClone);
        prove(places, backup, &control, &clone, depth).await
    };
    let proof = tokio::time::timeout(LIMIT, proof).await;
    let is_short_of_memory = sandbox.memory_kills() > kills;
    // Not made at all, where the limit or the snapshot failed.
    if clone.exists()
        && let Err(error) = discard(places, &clone).await
    {
        tracing::error!("cannot delete the clone of {id}, which is tried again: {error:#}");
    }
    let too_long = || {
        let reason = format!("it was not done within {} hours", LIMIT.as_secs() / 3600);
        Err(Verdict::Machine(Hindrance::new(reason)))
    };
    match proof.unwrap_or_else(|_| too_long()) {
        // Whatever their ends looked like.
        Err(_) if is_short_of_memory => {
            let reason = "its programs were killed: they used all the memory that a verification may have";
            Err(Verdict::Machine(Hindrance::new(reason)))
        }
        proof => proof,
    }
}

/// How many bytes the clone may write.
fn limit(places: &Places, backup: &Backup, control: &ControlData, snapshot: &Path) -> Result<u64, Verdict> {
    let flushed: Lsn =
        backup.postgresql.flushed_lsn.parse().context("the manifest's WAL position is not one")?;
    let redo: Lsn = control.redo.parse().context("pg_controldata's WAL position is not one")?;
    // A damaged pg_control may name any position; what is not there is not replayed.
    let there = files::bytes_below(&snapshot.join("pgdata/pg_wal"), None)?;
    let (_, free) = catalog::room(places)?;
    write_limit::limit(flushed.bytes_since(redo).min(there), free)
        .map_err(|reason| Verdict::Machine(Hindrance::new(reason)))
}

async fn prove(
    places: &Places,
    backup: &Backup,
    control: &ControlData,
    clone: &Path,
    depth: Depth,
) -> Result<Proof, Verdict> {
    let began = Instant::now();
    let sandbox = Sandbox::clone_of_backup(places, clone);
    let (uid, gid) = user_ids(sandbox.user())?;
    let tree = clone.to_path_buf();
    tokio::task::spawn_blocking(move || give(&tree, uid, gid)).await.map_err(anyhow::Error::from)??;
    let own = std::env::current_exe().context("cannot find my own program")?;
    sandbox.output(&own, ["disarm"], ASKING).await?;
    let asking = Asking::prepare(places, sandbox, backup, control, clone)?;

    let started = Instant::now();
    let mut postgres =
        Postgres::start(places, sandbox, &asking.run, format!("verification of {}", backup.id))?;
    reached(Step::VerificationStarted);
    asking.recover(&mut postgres, &backup.postgresql.flushed_lsn).await?;
    reached(Step::VerificationPromoted);
    let restore_seconds = started.elapsed().as_secs_f64();

    let mut limits = match asking.check(depth).await {
        Ok(limits) => limits,
        Err(verdict) => {
            // One who is thrown out is so before the server has ended.
            tokio::time::sleep(ENDING).await;
            if postgres.runs() {
                return Err(verdict);
            }
            // Its own words say more.
            return Err(verdict::of_log(
                Source::Log,
                "PostgreSQL ended while it was checked",
                &postgres.log(),
            ));
        }
    };
    postgres.stop().await?;
    if depth == Depth::Full {
        if backup.postgresql.checksums {
            let program = places.program("pg_checksums");
            let checked = sandbox.output(&program, ["--check", "-D", replica::PGDATA], READING).await;
            checked.map_err(said_by(Source::Checksums))?;
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
    /// Writes the configuration under which the clone runs. Its user can read it and not write it: what a
    /// clone could write beside its subvolume, nothing would limit.
    fn prepare(
        places: &'a Places,
        sandbox: Sandbox<'a>,
        backup: &'a Backup,
        control: &ControlData,
        clone: &Path,
    ) -> Result<Self> {
        let superuser = backup
            .postgresql
            .superuser
            .as_deref()
            .context("the manifest names no superuser that may log in")?;
        let run = places.verification_run();
        files::remove_folder(&run)?;
        let (uid, gid) = user_ids(sandbox.user())?;
        let root = getuid().as_raw();
        files::folder(&run, 0o750, (root, gid.as_raw()))?;
        let socket = clone.join(SOCKET);
        files::remove_folder(&socket)?;
        files::folder(&socket, 0o700, (uid.as_raw(), gid.as_raw()))?;
        let run_dir = run.to_str().context("the run folder's path is not UTF-8")?;
        let config = CloneConfig {
            run_dir,
            control,
            timeline: backup.postgresql.timeline,
            shared_buffers_mib: SHARED_BUFFERS_MIB,
            stays: false,
        };
        for (name, mut text) in config.files() {
            if name == POSTGRESQL_CONF {
                // The last one counts.
                text.push_str(&format!("unix_socket_directories = '{CLUSTER_ROOT}/{SOCKET}'\n"));
            }
            let owner = Some((root, gid.as_raw()));
            let path = run.join(name);
            files::replace(&path, 0o640, owner, |file| file.write_all(text.as_bytes()))
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(Self { places, sandbox, run, superuser })
    }

    fn conninfo(&self, database: &str) -> String {
        clone_conninfo(&format!("{CLUSTER_ROOT}/{SOCKET}"), self.superuser, database)
    }

    /// Runs SQL; columns are separated by `|`, rows end with a zero byte.
    async fn sql(&self, database: &str, sql: &str, bounds: Bounds) -> Result<String> {
        let conninfo = self.conninfo(database);
        self.sandbox.output(&self.places.program("psql"), psql_arguments(&conninfo, sql), bounds).await
    }

    /// The same; what it says against the backup is a verdict.
    async fn ask(&self, database: &str, sql: &str, bounds: Bounds) -> Result<String, Verdict> {
        self.sql(database, sql, bounds).await.map_err(said_by(Source::Other))
    }

    /// Waits until the clone has replayed all that the backup says it has, and makes it a database of its
    /// own.
    async fn recover(&self, postgres: &mut Postgres, flushed: &str) -> Result<(), Verdict> {
        let flushed: Lsn = flushed.parse().context("the manifest's WAL position is not one")?;
        let mut replay = Replay::new(flushed, Instant::now());
        let ended = |postgres: &Postgres| {
            verdict::of_log(Source::Log, "PostgreSQL does not start from it", &postgres.log())
        };
        loop {
            if !postgres.runs() {
                return Err(ended(postgres));
            }
            let said = match self.sql(EVERY_CLUSTERS_DATABASE, REPLAYED, LOOKING).await {
                Ok(said) => Some(said),
                Err(error) => match error.downcast_ref::<Failure>().and_then(Failure::refusal) {
                    Some((NOT_LET_IN, _)) => None,
                    _ if !postgres.runs() => return Err(ended(postgres)),
                    _ => return Err(said_by(Source::Other)(error)),
                },
            };
            let stands = |problem: String| {
                if problem.contains("WAL ends") || problem.contains("not consistent") {
                    verdict::of_log(Source::Stall, &problem, &postgres.log())
                } else {
                    Verdict::Machine(Hindrance::new(problem))
                }
            };
            match replay.saw(said.as_deref(), Instant::now()).map_err(stands)? {
                Reached::Target(_) => break,
                Reached::Nothing | Reached::Lsn(_) => tokio::time::sleep(POLL).await,
            }
        }
        match self.ask(EVERY_CLUSTERS_DATABASE, PROMOTE, PROMOTING).await {
            Ok(promoted) if promoted.starts_with('t') => Ok(()),
            _ if !postgres.runs() => Err(ended(postgres)),
            Ok(_) => Err(Verdict::Machine(Hindrance::new("it was not promoted within an hour"))),
            Err(verdict) => Err(verdict),
        }
    }

    /// Enters every database, and checks what is in it where `depth` says so. Gives what could not be
    /// checked.
    async fn check(&self, depth: Depth) -> Result<Vec<String>, Verdict> {
        // PostgreSQL lets nobody into one whose DROP DATABASE was interrupted (-2), and nothing of it can be restored.
        let names = "select datname from pg_catalog.pg_database \
                     where datallowconn and datconnlimit <> -2 order by oid";
        let names = self.ask(EVERY_CLUSTERS_DATABASE, names, ASKING).await?;
        let databases: Vec<&str> = names.split_terminator('\0').collect();
        let limits = self.enter(&databases).await?;
        if depth == Depth::Full {
            for database in &databases {
                self.ask(database, &own_amcheck(), ASKING).await?;
            }
            self.check_relations(!limits.is_empty()).await?;
        }
        Ok(limits)
    }

    /// Enters every database; says of what this system's collations cannot tell.
    async fn enter(&self, databases: &[&str]) -> Result<Vec<String>, Verdict> {
        let mut foreign = Vec::new();
        for &name in databases {
            let question = "select count(*), \
                 exists (select from pg_catalog.pg_database where datname = pg_catalog.current_database() \
                 and datcollversion <> pg_catalog.pg_database_collation_actual_version(oid)) \
                 or exists (select from pg_catalog.pg_collation \
                 where collversion <> pg_catalog.pg_collation_actual_version(oid)) \
                 from pg_catalog.pg_class";
            let said = self.ask(name, question, ASKING).await?;
            if said.trim_end_matches('\0').ends_with("|t") {
                foreign.push(name);
            }
        }
        if foreign.is_empty() {
            return Ok(Vec::new());
        }
        let named = foreign.len().min(NAMED_DATABASES);
        let mut names = foreign[..named].join(", ");
        if foreign.len() > named {
            names.push_str(&format!(" and {} more", foreign.len() - named));
        }
        Ok(vec![format!(
            "Text sorts differently on the monitor and here (database {names}), so indexes could not be checked."
        )])
    }

    /// Reads every table, and every B-tree index unless text sorts differently here, for damage.
    async fn check_relations(&self, heap_only: bool) -> Result<(), Verdict> {
        let conninfo = self.conninfo(EVERY_CLUSTERS_DATABASE);
        // One finding is enough, and all would be too many.
        let mut arguments = vec![
            "--all",
            "--on-error-stop",
            "--no-password",
            "--no-strict-names",
            "--maintenance-db",
            &conninfo,
        ];
        if heap_only {
            arguments.extend(["--no-dependent-indexes", "--exclude-index=*"]);
        }
        let program = self.places.program("pg_amcheck");
        let checked = self.sandbox.output(&program, arguments, READING).await;
        checked.map(drop).map_err(said_by(Source::Amcheck))
    }
}

/// SQL that brings amcheck from our own tree, in a schema that nobody knows before. An extension of that name
/// in the database may have other functions: it loses its name and is called by nobody. To drop it would drop
/// whatever was made to depend on it.
fn own_amcheck() -> String {
    let name = format!("verification_{}", Uuid::new_v4().simple());
    format!(
        "update pg_catalog.pg_extension set extname = '{name}' \
         where extname operator(pg_catalog.=) 'amcheck'; \
         create schema {name}; create extension amcheck schema {name}"
    )
}
