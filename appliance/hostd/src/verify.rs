//! Proving that a backup restores: a clone is started, recovered, promoted, checked and thrown away (design
//! D9).
//!
//! It goes the way that a restore goes, so what it proves is what counts. The clone is hostile input that is
//! started as a database (design D7): it runs in the sandbox of a clone, and so do the programs that ask it;
//! what they print is read as text and bounded. It is slow on purpose where the machine has something better
//! to do.

use crate::clone_log::CloneLog;
use crate::cluster::{LogTo, Postgres};
use crate::places::Places;
use crate::program::{self, Bounds, Failure};
use crate::sandbox::{Sandbox, user_ids};
use crate::verdict::{self, Hindrance, Source, Verdict};
use crate::{btrfs, catalog, digest, foreign, stragglers, stray_files, write_limit};
use anyhow::{Context, Result};
use api::{Attempt, Backup, Depth, Digests, Manifest, Proof, Reading, Verification};
use backups::BackupId;
use backups::layout::{self, Fate};
use hostd::{Step, reached};
use jiff::Timestamp;
use nix::unistd::{Gid, Uid, getuid};
use replica::{
    CLUSTER_ROOT, CloneConfig, ControlData, Entrance, Lsn, Next, POSTGRESQL_CONF, PREPARED_FOLDER, Replay,
    Settings, history_file, is_early_or_late, is_whole, name_in_ascii, name_of, next_timeline, not_proven,
    prepared, promote_arguments, psql_arguments, recovered_to, superuser_conninfo,
};
use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::fs::DirBuilder;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, lchown};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// A verification that takes longer is given up: newer backups wait for their turn.
const LIMIT: Duration = Duration::from_secs(24 * 3600);
/// What a program that reads the whole cluster may take.
const READING: Bounds = Bounds::SHORT.within(Duration::from_secs(20 * 3600)).printing(4 << 20);
/// What one question may take. The clock is ours: the database can set `statement_timeout` as it likes.
const ASKING: Bounds = Bounds::SHORT.within(Duration::from_secs(1200)).printing(1 << 20);
/// What it may take to tell a server that it is to promote, which does not wait for it.
const PROMOTING: Bounds = Bounds::SHORT;
/// Time in which a server that takes writes lets in who asks.
const LETTING_IN: Duration = Duration::from_secs(60);
/// Time between two tries to get in.
const POLL: Duration = Duration::from_millis(200);
/// Time in which a server that ends has ended.
const ENDING: Duration = Duration::from_secs(1);
/// Memory for shared buffers: the machine's other work goes first.
const SHARED_BUFFERS_MIB: u32 = 128;
/// psql's exit status when the server does not let it in.
const NOT_LET_IN: i32 = 2;
/// The superuser of a clone in which none may log in. No role of PostgreSQL's own or of people's has this name.
const ADMITTED: &str = "infimonitor_verification";
/// The database of a server of one user, which enters closed ones as well: every cluster has it.
const SINGLE_USER_DATABASE: &str = "template1";
/// Folder of the clone's socket, in the clone: what the clone's user can write is limited there.
const SOCKET: &str = "socket";
/// Entries that are left out of a clone and remembered until they are removed.
const LEFT_OUT_MOST: usize = 1000;
/// Bytes of a timeline's history: a line for each timeline.
const HISTORY_MAX: u64 = 1 << 20;
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
    let log = CloneLog::default();
    let proof = async {
        // Asked on the snapshot: nothing is written before the limit is known.
        let control = Sandbox::replica(places, &snapshot).in_background().control_data().await;
        let control = control.map_err(said_by(Source::Other))?;
        let limit = limit(places, backup, &control, &snapshot)?;
        btrfs::clone(&snapshot, &clone).await?;
        write_limit::set(&places.data, &clone, limit).await?;
        reached(Step::VerificationClone);
        prove(places, backup, &control, &clone, depth, &log).await
    };
    let proof = tokio::time::timeout(LIMIT, proof).await;
    let is_short_of_memory = sandbox.memory_kills() > kills;
    tell_of_log(places, &id, &log);
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

/// Says how much PostgreSQL has logged, and where the last of it is.
fn tell_of_log(places: &Places, id: &BackupId, log: &CloneLog) {
    let (path, whose) = (places.verification_log(), format!("verification of {id}"));
    match log.write(&path, &whose) {
        Ok(()) => tracing::info!("{whose}: {}; the last of them are in {}", log.summary(), path.display()),
        Err(error) => tracing::warn!("{whose}: {}, which cannot be kept: {error:#}", log.summary()),
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
    log: &CloneLog,
) -> Result<Proof, Verdict> {
    let began = Instant::now();
    let sandbox = Sandbox::clone_of_backup(places, clone);
    let (uid, gid) = user_ids(sandbox.user())?;
    let tree = clone.to_path_buf();
    let given = tokio::task::spawn_blocking(move || {
        remove_what_a_restore_leaves_out(&tree)?;
        Ok::<_, Verdict>(give(&tree, uid, gid)?)
    });
    given.await.map_err(anyhow::Error::from)??;
    let own = std::env::current_exe().context("cannot find my own program")?;
    sandbox.output(&own, ["disarm"], ASKING).await?;
    let asking = Asking::prepare(places, sandbox, backup, control, clone)?;
    let target: Lsn =
        backup.postgresql.flushed_lsn.parse().context("the manifest's WAL position is not one")?;
    let wal = clone.join("pgdata/pg_wal");
    let history = |timeline| wal.join(history_file(timeline));
    let recovered_on = control.recovery_timeline(backup.postgresql.timeline);
    let timeline = next_timeline(recovered_on, |timeline| history(timeline).symlink_metadata().is_ok());

    let started = Instant::now();
    let mut postgres =
        Postgres::start(places, sandbox, &asking.run, &asking.settings, LogTo::Kept(log.clone()))?;
    reached(Step::VerificationStarted);
    asking.recover(&mut postgres, &history(timeline)).await?;
    recovered_all(&history(timeline), backup.postgresql.timeline, target, &postgres)?;
    reached(Step::VerificationPromoted);
    let recovery_seconds = started.elapsed().as_secs_f64();
    if !postgres.runs() {
        return Err(verdict::of_log(Source::Log, "PostgreSQL ended after its recovery", &postgres.log()));
    }
    postgres.stop().await?;
    // Before any SQL has said or done anything.
    let left = sandbox.control_data().await.map_err(said_by(Source::Other))?;
    left.has_recovered(timeline, target).map_err(|problem| Verdict::Machine(Hindrance::new(problem)))?;

    let prepared = end_prepared(clone)?;
    if asking.superuser.is_none() {
        asking.admit().await?;
    }
    // A restore starts what was recovered once more, with nothing left of the recovery.
    let mut postgres =
        Postgres::start(places, sandbox, &asking.run, &asking.settings, LogTo::Kept(log.clone()))?;
    asking.wait_until_let_in(&mut postgres).await?;
    let mut limits: Vec<String> = not_proven(&prepared).into_iter().collect();
    match asking.check(depth).await {
        Ok(found) => limits.extend(found),
        Err(verdict) => {
            // psql is thrown out a moment before the server has ended.
            tokio::time::sleep(ENDING).await;
            if postgres.runs() {
                postgres.stop().await?;
                // SQL of the database may say anything; pg_checksums reads the files.
                let asks_files = matches!(verdict, Verdict::Machine(_))
                    && depth == Depth::Full
                    && backup.postgresql.checksums;
                if asks_files && let Err(bad @ Verdict::Data(_)) = checksums(places, sandbox, &own).await {
                    return Err(bad);
                }
                return Err(verdict);
            }
            // Its own words say more.
            return Err(verdict::of_log(
                Source::Log,
                "PostgreSQL ended while it was checked",
                &postgres.log(),
            ));
        }
    }
    postgres.stop().await?;
    if depth == Depth::Full {
        if backup.postgresql.checksums {
            limits.extend(checksums(places, sandbox, &own).await?);
        } else {
            limits.push("The monitor's cluster has no page checksums, so none could be checked.".into());
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    Ok(Proof { at: Timestamp::now(), recovery_seconds, seconds, depth, limits })
}

/// Has the checksum of every page checked, once no server runs. Gives what could not be checked.
async fn checksums(places: &Places, sandbox: Sandbox<'_>, own: &Path) -> Result<Vec<String>, Verdict> {
    // The server makes files as well.
    let printed = sandbox.output(own, ["remove-stray-files"], ASKING).await?;
    let program = places.program("pg_checksums");
    let checked = sandbox.output(&program, ["--check", "-D", replica::PGDATA], READING).await;
    checked.map_err(said_by(Source::Checksums))?;
    Ok(stray_files::limits(&printed)?)
}

/// Removes from a clone what a restore would pass over, so that the proof is of what a restore starts. Links are not followed,
/// and nobody else writes here meanwhile.
fn remove_what_a_restore_leaves_out(clone: &Path) -> Result<(), Verdict> {
    let cannot = || format!("cannot look through {}", clone.display());
    let mut left_out = Vec::new();
    let mut entries = files::tree(clone, |_| true).skip(1);
    for entry in &mut entries {
        let entry = match entry {
            // It went with a folder that is left out.
            Err(error) if error.io_error().is_some_and(|error| error.kind() == ErrorKind::NotFound) => {
                continue;
            }
            entry => entry.with_context(cannot)?,
        };
        let kind = entry.file_type();
        let target = if kind.is_symlink() {
            std::fs::read_link(entry.path()).with_context(cannot)?
        } else {
            PathBuf::new()
        };
        let kind = match kind {
            kind if kind.is_dir() => layout::Kind::Folder,
            kind if kind.is_file() => layout::Kind::File,
            kind if kind.is_symlink() => layout::Kind::Link(&target),
            _ => layout::Kind::Other,
        };
        let path = entry.path().strip_prefix(clone).with_context(cannot)?;
        match layout::fate(path, kind) {
            Fate::Taken | Fate::Tablespace(_) => {}
            Fate::LeftOut => left_out.push((entry.path().to_owned(), kind == layout::Kind::Folder)),
            Fate::Outside(oid) => return Err(Verdict::Data(layout::outside(oid))),
        }
        if left_out.len() >= LEFT_OUT_MOST {
            remove_all(&mut left_out)?;
        }
    }
    Ok(remove_all(&mut left_out)?)
}

/// Removes these files, and folders with all that is in them; what went with a folder is not there any more.
fn remove_all(paths: &mut Vec<(PathBuf, bool)>) -> Result<()> {
    for (path, is_folder) in paths.drain(..) {
        if is_folder {
            files::remove_folder(&path)?;
            continue;
        }
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", path.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Ends the transactions that are prepared in a clone whose server was stopped: what they have locked could not be read, and
/// a locked catalog lets nobody in. Gives their numbers. No SQL has run in the clone, so nobody else has written here.
fn end_prepared(clone: &Path) -> Result<Vec<u32>> {
    let folder = clone.join("pgdata").join(PREPARED_FOLDER);
    let mut names = Vec::new();
    for entry in files::tree(&folder, |_| true).skip(1) {
        let entry = entry.with_context(|| format!("cannot look through {}", folder.display()))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.depth() == 1 && entry.file_type().is_file() && !prepared([name.as_str()]).is_empty() {
            files::remove(entry.path())?;
            names.push(name);
        }
    }
    Ok(prepared(names.iter().map(String::as_str)))
}

/// Judges the end of the recovery by the history of the timeline on which the clone goes on.
fn recovered_all(history: &Path, made_on: u32, target: Lsn, postgres: &Postgres) -> Result<(), Verdict> {
    let machine = |problem: String| Verdict::Machine(Hindrance::new(problem));
    let cannot = || format!("cannot read {}", history.display());
    let mut text = String::new();
    let file = files::open_no_link(history).with_context(cannot)?;
    file.take(HISTORY_MAX).read_to_string(&mut text).with_context(cannot)?;
    let reached =
        recovered_to(&text, made_on).ok_or_else(|| machine(format!("{} names no end", history.display())))?;
    is_whole(reached, target).map_err(|problem| verdict::of_log(Source::WalEnd, &problem, &postgres.log()))
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
    settings: Settings,
    /// A superuser that may log in; `None`: there is none.
    superuser: Option<String>,
    /// The databases by which one may come in.
    entrance: Mutex<Entrance>,
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
        let superuser = backup.postgresql.superuser.clone();
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
        let place = format!("{CLUSTER_ROOT}/{SOCKET}");
        let settings = config.settings().with("unix_socket_directories", place);
        for (name, text) in config.files(&settings) {
            let owner = Some((root, gid.as_raw()));
            let path = run.join(name);
            files::replace(&path, 0o640, owner, |file| file.write_all(text.as_bytes()))
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        let known = backup.postgresql.collations.iter().map(|collation| collation.database.as_str());
        let entrance = Mutex::new(Entrance::new(known));
        Ok(Self { places, sandbox, run, settings, superuser, entrance })
    }

    fn conninfo(&self, database: &OsStr) -> OsString {
        let superuser = self.superuser.as_deref().unwrap_or(ADMITTED);
        superuser_conninfo(&format!("{CLUSTER_ROOT}/{SOCKET}"), superuser, database)
    }

    /// A database that lets somebody in.
    fn open_database(&self) -> OsString {
        self.entrance.lock().unwrap_or_else(PoisonError::into_inner).database().to_owned()
    }

    /// Runs SQL; columns are separated by `|`, rows end with a zero byte.
    async fn sql(&self, database: &OsStr, sql: &str, bounds: Bounds) -> Result<String> {
        let conninfo = self.conninfo(database);
        self.sandbox.output(&self.places.program("psql"), psql_arguments(&conninfo, sql), bounds).await
    }

    /// The same; what it says against the backup is a verdict.
    async fn ask(&self, database: &OsStr, sql: &str, bounds: Bounds) -> Result<String, Verdict> {
        self.sql(database, sql, bounds).await.map_err(said_by(Source::Sql))
    }

    /// Has the clone replay all the WAL that it has, and become a database of its own. Nobody logs in meanwhile.
    async fn recover(&self, postgres: &mut Postgres, history: &Path) -> Result<(), Verdict> {
        let mut replay = Replay::new(Instant::now());
        loop {
            let control = self.sandbox.control_data().await;
            if !postgres.runs() {
                let begin = "PostgreSQL does not start from it";
                return Err(verdict::of_log(Source::Log, begin, &postgres.log()));
            }
            let control = control.map_err(said_by(Source::Other))?;
            let stands = |problem| Verdict::Machine(Hindrance::new(problem));
            let has_history = history.symlink_metadata().is_ok();
            match replay.saw(&control, has_history, Instant::now()).map_err(stands)? {
                Next::Done => return Ok(()),
                Next::Promote => self.promote().await?,
                Next::Wait => {}
            }
            tokio::time::sleep(replay.pause(Instant::now())).await;
        }
    }

    async fn promote(&self) -> Result<(), Verdict> {
        let program = self.places.program("pg_ctl");
        match self.sandbox.output(&program, promote_arguments(replica::PGDATA), PROMOTING).await {
            Err(error) => match error.downcast_ref::<Failure>().and_then(Failure::refusal) {
                Some((_, said)) if is_early_or_late(said) => Ok(()),
                _ => Err(said_by(Source::Sql)(error)),
            },
            Ok(_) => Ok(()),
        }
    }

    /// Lets the bootstrap superuser into the clone, under a name that is known, where none may log in. A server of one user
    /// asks for no login (documentation, `postgres --single`).
    async fn admit(&self) -> Result<(), Verdict> {
        let mut arguments = vec!["--single".to_owned(), "-D".into(), replica::PGDATA.into()];
        arguments.extend(["-c".into(), format!("config_file={}", self.run.join(POSTGRESQL_CONF).display())]);
        arguments.extend(self.settings.arguments());
        arguments.push(SINGLE_USER_DATABASE.into());
        let command = self.sandbox.command(&self.places.program("postgres"), arguments)?;
        let (input, mut statement) = std::io::pipe().context("cannot make a pipe")?;
        writeln!(
            statement,
            "update pg_catalog.pg_authid set rolname = '{ADMITTED}', rolcanlogin = true, rolsuper = true where oid = 10"
        )
        .context("cannot write into a pipe")?;
        drop(statement);
        let said = program::fed(command, input.into(), ASKING).await.map_err(anyhow::Error::from);
        said.map(drop).map_err(said_by(Source::Other))
    }

    /// Its control file says that it takes writes a moment before it lets anybody in. Finds a database that does.
    async fn wait_until_let_in(&self, postgres: &mut Postgres) -> Result<(), Verdict> {
        let began = Instant::now();
        loop {
            let Err(error) = self.sql(&self.open_database(), "select 1", ASKING).await else { return Ok(()) };
            if !postgres.runs() {
                let begin = "PostgreSQL does not start once more after its recovery";
                return Err(verdict::of_log(Source::Log, begin, &postgres.log()));
            }
            match error.downcast_ref::<Failure>().and_then(Failure::refusal) {
                Some((NOT_LET_IN, said)) if began.elapsed() <= LETTING_IN => {
                    let mut entrance = self.entrance.lock().unwrap_or_else(PoisonError::into_inner);
                    let refused = entrance.refused(said, Instant::now());
                    refused.map_err(|why| Verdict::Machine(Hindrance::new(why)))?;
                }
                _ => return Err(said_by(Source::Sql)(error)),
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Enters every database, and checks what is in it where `depth` says so. Gives what could not be
    /// checked.
    async fn check(&self, depth: Depth) -> Result<Vec<String>, Verdict> {
        let name = name_in_ascii("datname");
        let names =
            |which: &str| format!("select {name} from pg_catalog.pg_database where {which} order by oid");
        let entrance = self.open_database();
        // What is closed is checked as well: the clone is thrown away.
        let open = "update pg_catalog.pg_database set datallowconn = true where datname <> 'template0' \
                    and datconnlimit <> -2";
        self.ask(&entrance, open, ASKING).await?;
        let cut = self.ask(&entrance, &names("datconnlimit = -2"), ASKING).await?;
        let open = self.ask(&entrance, &names("datallowconn and datconnlimit <> -2"), ASKING).await?;
        let databases: Vec<OsString> = open.split_terminator('\0').map(name_of).collect();
        let Entered { sorts_differently, unlogged } = self.enter(&databases).await?;
        let mut limits: Vec<String> = sorts_differently.iter().cloned().chain(unlogged).collect();
        for database in cut.split_terminator('\0').take(NAMED_DATABASES).map(name_of) {
            let database = database.to_string_lossy();
            limits.push(format!("Not checked: database {database}, of which DROP DATABASE was interrupted."));
        }
        if depth == Depth::Full {
            let mut indexes = Vec::new();
            for database in &databases {
                self.ask(database, &own_amcheck(), ASKING).await?;
                let answer = self.ask(database, foreign::QUESTION, ASKING).await?;
                let name = database.to_string_lossy();
                let found = foreign::parse(&name, &answer)
                    .with_context(|| format!("database {name} does not say which indexes are in it"))?;
                indexes.extend(found);
            }
            let (patterns, is_heap_only) = match foreign::left_out(&indexes) {
                Some(patterns) => (patterns, sorts_differently.is_some()),
                None => (Vec::new(), true),
            };
            if sorts_differently.is_none() {
                limits.extend(foreign::limits(&indexes));
                if is_heap_only {
                    limits
                        .push("Not checked: all other indexes, as those are too many to be left out.".into());
                }
            }
            self.check_relations(is_heap_only, &patterns).await?;
        }
        Ok(limits)
    }

    /// Enters every database; says of what this system's collations cannot tell, and what comes back empty.
    async fn enter(&self, databases: &[OsString]) -> Result<Entered, Verdict> {
        let (mut foreign, mut unlogged) = (Vec::new(), Vec::new());
        for name in databases {
            let question = "select count(*) filter (where relkind = 'r' and relpersistence = 'u'), \
                 exists (select from pg_catalog.pg_database where datname = pg_catalog.current_database() \
                 and datcollversion <> pg_catalog.pg_database_collation_actual_version(oid)) \
                 or exists (select from pg_catalog.pg_collation \
                 where collversion <> pg_catalog.pg_collation_actual_version(oid)) \
                 from pg_catalog.pg_class";
            let said = self.ask(name, question, ASKING).await?;
            let mut columns = said.trim_end_matches('\0').split('|');
            let name = name.to_string_lossy();
            if columns.next().is_some_and(|tables| tables != "0") {
                unlogged.push(name.clone());
            }
            if columns.next() == Some("t") {
                foreign.push(name);
            }
        }
        let sorts_differently = named(&foreign).map(|names| {
            format!("Text sorts differently on the monitor and here (database {names}), so indexes could not be checked.")
        });
        let unlogged = named(&unlogged).map(|names| {
            format!("Comes back empty: each unlogged table (database {names}), as PostgreSQL replicates none of their rows.")
        });
        Ok(Entered { sorts_differently, unlogged })
    }

    /// Reads every table for damage, and unless `heap_only` every B-tree index but those that `patterns` leave out.
    async fn check_relations(&self, heap_only: bool, patterns: &[String]) -> Result<(), Verdict> {
        let conninfo = self.conninfo(&self.open_database());
        // One finding is enough, and all would be too many.
        let mut arguments =
            ["--all", "--on-error-stop", "--no-password", "--no-strict-names", "--maintenance-db"]
                .map(OsStr::new)
                .to_vec();
        arguments.push(&conninfo);
        if heap_only {
            arguments.extend(["--no-dependent-indexes", "--exclude-index=*"].map(OsStr::new));
        }
        arguments.extend(patterns.iter().map(OsStr::new));
        let program = self.places.program("pg_amcheck");
        let checked = self.sandbox.output(&program, arguments, READING).await;
        checked.map(drop).map_err(said_by(Source::Amcheck))
    }
}

/// What was seen by entering every database, as sentences.
struct Entered {
    sorts_differently: Option<String>,
    unlogged: Option<String>,
}

/// Names of databases for a sentence; `None`: there are none.
fn named(names: &[Cow<'_, str>]) -> Option<String> {
    let shown = names.len().min(NAMED_DATABASES);
    let more = names.len() - shown;
    let mut text = names[..shown].join(", ");
    if more > 0 {
        text.push_str(&format!(" and {more} more"));
    }
    Some(text).filter(|_| !names.is_empty())
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
