//! Recovery of what was unpacked: it is started beside the live database, on a socket that only PostgreSQL's user reaches,
//! replays its WAL at least to where the backup promises, becomes a database of its own, and is stopped in order.
//!
//! The backup server proves its backups in the same way and under the same settings ([`replica::CloneConfig`]). What SQL
//! says decides nothing: that it has recovered is told from its control file and its timeline's history.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use api::Backup;
use replica::{
    CloneConfig, ControlData, Entrance, Lsn, Next, POSTGRESQL_CONF, PREPARED_FOLDER, Replay, Settings,
    history_file, is_early_or_late, is_whole, name_in_ascii, name_of, next_timeline, prepared,
    promote_arguments, psql_arguments, recovered_to, restored, superuser_conninfo,
};

use crate::Failure;

/// Time between two tries to get in, and time in which a server that takes writes lets in who asks.
const POLL: Duration = Duration::from_millis(200);
const LETTING_IN: Duration = Duration::from_secs(60);
/// Bytes of a timeline's history: a line for each timeline.
const HISTORY_MAX: u64 = 1 << 20;
/// Memory for shared buffers: the live database beside it keeps its own.
const SHARED_BUFFERS_MIB: u32 = 128;
/// Seconds that a stop may take: it writes a checkpoint.
const STOP_SECONDS: &str = "86400";
/// Seconds that are waited for a start: after it, a server either recovers or has ended.
const START_SECONDS: &str = "60";
const NO_START: &str = "PostgreSQL does not start from it";
/// Lines of the server's log that go into an error.
const REASON_LINES: usize = 3;

/// How PostgreSQL's programs are run.
#[derive(Debug, Clone)]
pub struct Programs {
    /// What stands before a program so that PostgreSQL's user runs it, such as `runuser -u postgres --`.
    pub as_owner: Vec<String>,
    /// Folder of the programs, such as `/usr/lib/postgresql/17/bin`.
    pub folder: PathBuf,
    /// User and group number of that user.
    pub owner: (u32, u32),
}

impl Programs {
    fn command(&self, program: &str) -> Result<Command> {
        let program = self.folder.join(program);
        let mut command = match self.as_owner.as_slice() {
            [first, rest @ ..] => {
                let mut command = Command::new(first);
                command.args(rest).arg(program);
                command
            }
            [] => Command::new(program),
        };
        // root's home has files that the owner cannot read, and that are not meant for this.
        command.current_dir("/").env("HOME", "/").env("LC_ALL", "C").stdin(Stdio::null());
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PG")) {
            command.env_remove(name);
        }
        Ok(command)
    }

    /// Names of the libraries of PostgreSQL's packages, without their ending.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn libraries(&self) -> Result<BTreeSet<String>> {
        let folder = self.folder.parent().unwrap_or(&self.folder).join("lib");
        let cannot = || format!("cannot read {}", folder.display());
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
            entries => entries.with_context(cannot)?,
        };
        let mut names = BTreeSet::new();
        for entry in entries {
            let name = entry.with_context(cannot)?.file_name();
            names.extend(name.to_string_lossy().strip_suffix(".so").map(str::to_owned));
        }
        Ok(names)
    }

    fn output(&self, program: &str, arguments: impl FnOnce(&mut Command)) -> Result<String> {
        let mut command = self.command(program)?;
        arguments(&mut command);
        monitor_link::cluster::run(&mut command)
    }
}

/// A backup that was unpacked.
#[derive(Debug, Clone)]
pub struct Unpacked<'a> {
    /// PostgreSQL's programs.
    pub programs: &'a Programs,
    /// The folder in which `pgdata` is.
    pub folder: &'a Path,
    /// A folder for its configuration and socket, which is made; short, as a socket's path has 107 bytes at most.
    pub run: &'a Path,
    /// What it is of.
    pub backup: &'a Backup,
}

impl Unpacked<'_> {
    /// Recovers it. `replayed` is called with the WAL position that is reached and the one to be reached.
    ///
    /// Returns, as sentences, what whoever restores should know. May be done again after a cut.
    ///
    /// # Errors
    /// [`Failure::Damaged`]: it does not start, or its WAL ends too early.
    pub fn recover(&self, replayed: impl FnMut(Lsn, Lsn)) -> Result<Vec<String>, Failure> {
        self.end_of_a_cut_attempt()?;
        backups::disarm(self.folder)?;
        let control = self.control_data()?;
        let settings = self.configure(&control)?;
        let target: Lsn = (self.backup.postgresql.flushed_lsn.parse())
            .map_err(|_| self.damaged("the WAL position in its manifest is invalid"))?;
        let recovered_on = control.recovery_timeline(self.backup.postgresql.timeline);
        let timeline =
            next_timeline(recovered_on, |timeline| self.history(timeline).symlink_metadata().is_ok());
        let log = self.run.join("log");
        let config = [format!("config_file={}", self.run.join(POSTGRESQL_CONF).display())];
        let options: Vec<String> =
            std::iter::once("-c".to_owned()).chain(config).chain(settings.arguments()).collect();
        // A shell takes them apart.
        let options = options.iter().map(|option| quoted(option)).collect::<Vec<_>>().join(" ");
        // It inherits the streams: a pipe would never end.
        let mut command = self.programs.command("pg_ctl")?;
        // Its waiting ends when the recovery is consistent, which may be long after, or never, if WAL is missing. Before the
        // time is over, there may be nothing by which to tell that it runs.
        command.args(["--wait", "--silent", "--timeout", START_SECONDS, "-D"]).arg(self.pgdata());
        command.arg("-l").arg(&log).arg("-o").arg(options).arg("start");
        let started =
            command.stdout(Stdio::null()).stderr(Stdio::null()).status().context("cannot run pg_ctl")?;
        let result = match started.success() || self.runs()? {
            true => self.until_promoted(timeline, target, replayed).and_then(|()| {
                self.has_replayed(timeline, target)?;
                self.notes()
            }),
            false => Err(self.damaged(NO_START)),
        };
        match result {
            Ok(mut notes) => {
                self.stop("fast")?;
                // Whatever SQL has said or done: this is what the server has left.
                let left = self.control_data()?;
                left.has_recovered(timeline, target).map_err(|problem| self.damaged(&problem))?;
                notes.extend(restored(&self.prepared()?));
                Ok(notes)
            }
            Err(failure) => {
                if self.runs()? {
                    self.stop("immediate")?;
                }
                Err(failure)
            }
        }
    }

    fn pgdata(&self) -> PathBuf {
        self.folder.join("pgdata")
    }

    /// Whether a server runs in it. The number in `postmaster.pid` alone says nothing: after a restart of the machine it may be
    /// the live database's, which would then be stopped. So the process must be in this folder.
    fn runs(&self) -> Result<bool> {
        let pgdata = self.pgdata();
        let Some(text) = files::read(&pgdata.join("postmaster.pid"))? else { return Ok(false) };
        let Some(Ok(process)) = text.lines().next().map(|line| line.trim().parse::<u32>()) else {
            return Ok(false);
        };
        let here = fs::metadata(&pgdata).with_context(|| format!("cannot look at {}", pgdata.display()))?;
        // An error is a process that is not there.
        let there = fs::metadata(format!("/proc/{process}/cwd"));
        Ok(there.is_ok_and(|there| (there.dev(), there.ino()) == (here.dev(), here.ino())))
    }

    /// The prepared transactions that are in it, once its server was stopped.
    fn prepared(&self) -> Result<Vec<u32>> {
        let folder = self.pgdata().join(PREPARED_FOLDER);
        let cannot = || format!("cannot read {}", folder.display());
        let mut names = Vec::new();
        for entry in fs::read_dir(&folder).with_context(cannot)? {
            names.push(entry.with_context(cannot)?.file_name().to_string_lossy().into_owned());
        }
        Ok(prepared(names.iter().map(String::as_str)))
    }

    fn stop(&self, mode: &str) -> Result<()> {
        let stop = |command: &mut Command| {
            command.args(["--wait", "--silent", "--timeout", STOP_SECONDS, "-m", mode, "-D"]);
            command.arg(self.pgdata()).arg("stop");
        };
        self.programs.output("pg_ctl", stop).context("cannot stop the restored database").map(drop)
    }

    /// Ends a server that an attempt before has left running: two would destroy the data.
    ///
    /// # Errors
    /// It runs and cannot be stopped.
    pub fn end_of_a_cut_attempt(&self) -> Result<()> {
        if self.runs()? {
            self.stop("immediate")?;
        }
        Ok(())
    }

    fn control_data(&self) -> Result<ControlData> {
        let printed = self.programs.output("pg_controldata", |command| {
            command.arg(self.pgdata()).env("TZ", "UTC");
        })?;
        Ok(ControlData::parse(&printed)?)
    }

    fn history(&self, timeline: u32) -> PathBuf {
        self.pgdata().join("pg_wal").join(history_file(timeline))
    }

    /// Writes the configuration under which it recovers.
    fn configure(&self, control: &ControlData) -> Result<Settings> {
        files::remove_folder(self.run)?;
        let owner = self.programs.owner;
        for folder in [self.run, &self.run.join("socket")] {
            files::folder(folder, 0o700, owner)?;
        }
        let run_dir = self.run.to_str().context("the run folder's path is not UTF-8")?;
        let config = CloneConfig {
            run_dir,
            control,
            timeline: self.backup.postgresql.timeline,
            shared_buffers_mib: SHARED_BUFFERS_MIB,
            stays: true,
        };
        let settings = config.settings();
        for (name, text) in config.files(&settings) {
            files::write(&self.run.join(name), text.as_bytes(), 0o600, Some(owner))?;
        }
        Ok(settings)
    }

    /// Runs SQL; columns are separated by `|`, rows end with a zero byte.
    fn sql(&self, superuser: &str, database: &OsStr, sql: &str) -> Result<String> {
        let conninfo = superuser_conninfo(&self.run.join("socket").to_string_lossy(), superuser, database);
        self.programs.output("psql", |command| {
            command.args(psql_arguments(&conninfo, sql));
        })
    }

    /// Waits until it takes writes. Nobody logs in meanwhile.
    fn until_promoted(
        &self,
        timeline: u32,
        target: Lsn,
        mut replayed: impl FnMut(Lsn, Lsn),
    ) -> Result<(), Failure> {
        let mut replay = Replay::new(Instant::now());
        loop {
            let control = self.control_data()?;
            if let Some(at) = control.recovered_at_least() {
                replayed(at.min(target), target);
            }
            if !self.runs()? {
                return Err(self.damaged(NO_START));
            }
            let stands = |problem| Failure::Here(anyhow!("backup {}: {problem}", self.backup.id));
            let has_history = self.history(timeline).symlink_metadata().is_ok();
            match replay.saw(&control, has_history, Instant::now()).map_err(stands)? {
                Next::Done => break,
                Next::Promote => self.promote()?,
                Next::Wait => {}
            }
            thread::sleep(replay.pause(Instant::now()));
        }
        replayed(target, target);
        Ok(())
    }

    fn promote(&self) -> Result<()> {
        let pgdata = self.pgdata();
        let pgdata = pgdata.to_str().context("the data directory's path is not UTF-8")?;
        let promoted = self.programs.output("pg_ctl", |command| {
            command.args(promote_arguments(pgdata));
        });
        match promoted {
            Err(error) if !is_early_or_late(&format!("{error:#}")) => Err(error),
            _ => Ok(()),
        }
    }

    /// Whether all was replayed that the backup promises, by the history of the timeline on which it goes on.
    fn has_replayed(&self, timeline: u32, target: Lsn) -> Result<(), Failure> {
        let path = self.history(timeline);
        let mut text = String::new();
        let file = files::open_no_link(&path).with_context(|| format!("cannot read {}", path.display()))?;
        file.take(HISTORY_MAX)
            .read_to_string(&mut text)
            .with_context(|| format!("cannot read {}", path.display()))?;
        let made_on = self.backup.postgresql.timeline;
        let reached =
            recovered_to(&text, made_on).ok_or_else(|| anyhow!("{} names no end", path.display()))?;
        is_whole(reached, target).map_err(|problem| self.damaged(&problem))
    }

    /// Where text sorts differently here than where the database comes from: what the C library's version does not say. That
    /// it cannot be asked is no reason to give up what has recovered.
    fn notes(&self) -> Result<Vec<String>, Failure> {
        let unknown =
            |why: &str| vec![format!("It is not known whether text sorts differently here: {why}.")];
        let Some(superuser) = &self.backup.postgresql.superuser else {
            return Ok(unknown("no superuser of the database may log in"));
        };
        let databases = format!(
            "select {} from pg_catalog.pg_database where datallowconn \
             and datcollversion <> pg_catalog.pg_database_collation_actual_version(oid) order by 1",
            name_in_ascii("datname")
        );
        let known = &self.backup.postgresql.collations;
        let mut entrance = Entrance::new(known.iter().map(|collation| collation.database.as_str()));
        let began = Instant::now();
        loop {
            let error = match self.sql(superuser, entrance.database(), &databases) {
                Ok(found) => {
                    let note = |name: &str| {
                        let name = name_of(name);
                        format!(
                            "Text in database {} sorts differently here: run REINDEX DATABASE in it.",
                            name.to_string_lossy()
                        )
                    };
                    return Ok(found.split_terminator('\0').map(note).collect());
                }
                Err(error) => format!("{error:#}"),
            };
            if !self.runs()? {
                return Err(self.damaged("PostgreSQL ended after its recovery"));
            }
            if let Err(why) = entrance.refused(&error, Instant::now()) {
                return Ok(unknown(&why));
            }
            if began.elapsed() > LETTING_IN {
                return Ok(unknown(&error));
            }
            thread::sleep(POLL);
        }
    }

    fn damaged(&self, problem: &str) -> Failure {
        let log = files::open_no_link(&self.run.join("log")).and_then(|mut file| {
            let mut text = String::new();
            file.read_to_string(&mut text)?;
            Ok(text)
        });
        let log = log.unwrap_or_default();
        let lines: Vec<&str> = log.lines().filter(|line| !line.is_empty()).collect();
        let tail = lines[lines.len().saturating_sub(REASON_LINES)..].join(" ");
        let problem = if tail.is_empty() { problem.to_owned() } else { format!("{problem}: {tail}") };
        if let Some(cause) = cause_here(&log) {
            return Failure::Here(anyhow!(
                "{cause}, so backup {} cannot be recovered here: {tail}",
                self.backup.id
            ));
        }
        Failure::Damaged { name: format!("backup {}", self.backup.id), problem }
    }
}

/// An argument as a shell takes it.
fn quoted(argument: &str) -> String {
    format!("'{}'", argument.replace('\'', "'\\''"))
}

/// What this machine lacks, by the server's log; `None`: it lacks nothing that is known.
fn cause_here(log: &str) -> Option<&'static str> {
    let causes = [
        ("No space left on device", "the disk is full"),
        ("could not map anonymous shared memory", "memory is short"),
        ("out of memory", "memory is short"),
        ("Cannot allocate memory", "memory is short"),
        ("Too many open files", "too many files are open"),
    ];
    causes.into_iter().find(|(said, _)| log.contains(said)).map(|(_, cause)| cause)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_gives_back_what_was_quoted() {
        for argument in ["", "a b", "it's", "$HOME `x` \\ \"", "dynamic_library_path=$libdir"] {
            let mut shell = Command::new("sh");
            let said = shell.arg("-c").arg(format!("printf %s {}", quoted(argument))).output().unwrap();
            assert_eq!(String::from_utf8(said.stdout).unwrap(), argument);
        }
    }

    #[test]
    fn what_the_machine_lacks_is_no_damage_of_the_backup() {
        let table = [
            (
                "FATAL:  could not write to file \"pg_wal/xlogtemp.7\": No space left on device",
                Some("the disk is full"),
            ),
            (
                "FATAL:  could not map anonymous shared memory: Cannot allocate memory",
                Some("memory is short"),
            ),
            ("FATAL:  invalid checkpoint record", None),
        ];
        for (log, expected) in table {
            assert_eq!(cause_here(log), expected);
        }
    }
}
