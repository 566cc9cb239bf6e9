//! A build as a graph of named jobs. A job runs when its inputs or an input of a job it needs changed by *content*
//! or when an output is gone; jobs that do not need each other run side by side.
//!
//! Trade-off: jobs are few and coarse (seconds to minutes), so content is hashed plainly at each call, and an
//! output is believed unchanged while size and modification time are. Outputs are made in a scratch folder and
//! moved in place when the job is done: an interrupted build leaves nothing half-made.

mod fingerprint;
mod progress;
mod run;
mod stamp;

pub use fingerprint::{Input, hash_file, of_path as fingerprint_of};
pub use run::{Graph, Outcome};

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, anyhow, bail};

/// What a job does: fills its scratch folder.
pub type Action<'a> = Box<dyn Fn(&Room) -> Result<()> + Send + Sync + 'a>;

/// One named step of a build.
pub struct Job<'a> {
    /// Name, also of its log file; unique in the graph.
    pub name: String,
    /// Names of the jobs whose outputs this one reads.
    pub needs: Vec<String>,
    /// What else the outputs depend on.
    pub inputs: Vec<Input>,
    /// Files or folders that it makes: name in the scratch folder, and final place.
    pub outputs: Vec<(&'static str, PathBuf)>,
    /// Run at every build: for a step that finds out by itself, and fast, whether there is work (cargo).
    pub always: bool,
    /// Read the outputs to tell whether dependent jobs must run. Off for what is large and that nothing needs.
    pub hash_outputs: bool,
    /// The work.
    pub action: Action<'a>,
}

/// Names of jobs.
pub fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// What a running job gets: a scratch folder and a log.
pub struct Room {
    scratch: PathBuf,
    log: File,
}

impl Room {
    /// A room with a log alone, for work that comes before the graph. An error has the end of the log.
    ///
    /// # Errors
    /// What `action` says.
    pub fn alone(log: &Path, name: &str, action: impl FnOnce(&Room) -> Result<()>) -> Result<()> {
        let file = File::create(log).with_context(|| format!("cannot create {}", log.display()))?;
        let room = Room { scratch: PathBuf::new(), log: file };
        action(&room).map_err(|error| of_log(name, &error, log))
    }

    /// A place in the scratch folder; outputs go to the names that the job declares.
    pub fn scratch(&self, name: &str) -> PathBuf {
        self.scratch.join(name)
    }

    /// A second handle of the log, for a program's output.
    pub fn log(&self) -> Result<File> {
        self.log.try_clone().context("cannot share the log file")
    }

    /// Writes a line to the log.
    pub fn note(&self, line: &str) -> Result<()> {
        writeln!(&self.log, "{line}").context("cannot write to the log")
    }

    /// Runs a program with its output in the log; anything but success is an error.
    pub fn run(&self, command: &mut Command) -> Result<()> {
        let program = command.get_program().to_string_lossy().into_owned();
        self.note(&format!("+ {command:?}"))?;
        let status = ending_with_us(command)
            .stdin(Stdio::null())
            .stdout(self.log()?)
            .stderr(self.log()?)
            .status()
            .with_context(|| format!("cannot run {program}"))?;
        if !status.success() {
            bail!("{program} failed ({status})");
        }
        Ok(())
    }
}

/// The same command under `setpriv`, which has the kernel end it when this program ends, however that is: a build that is
/// killed leaves no mkosi behind.
fn ending_with_us(command: &Command) -> Command {
    let mut under = Command::new("setpriv");
    under.args(["--pdeathsig", "TERM", "--"]).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => under.env(name, value),
            None => under.env_remove(name),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        under.current_dir(folder);
    }
    under
}

/// Lines of a failed job's log that its error shows: some errors of a compiler.
const TAIL_LINES: usize = 60;
/// Characters of a log line that an error message shows; progress bars write lines without end.
const TAIL_WIDTH: usize = 240;

/// What is said of a job that failed.
fn of_log(name: &str, error: &anyhow::Error, log: &Path) -> anyhow::Error {
    let end = tail(log, TAIL_LINES);
    anyhow!("job {name} failed: {error:#}\nthe end of {}:\n{}", log.display(), end.trim_end())
}

/// The last lines of a log, for an error message.
fn tail(log: &Path, lines: usize) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    last_lines(&String::from_utf8_lossy(&text), lines)
}

fn last_lines(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.split(['\n', '\r']).filter(|line| !line.trim().is_empty()).collect();
    let shown = &all[all.len().saturating_sub(lines)..];
    shown.iter().map(|line| format!("    {}\n", line.chars().take(TAIL_WIDTH).collect::<String>())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_log_is_shown_without_progress_bars_without_end() {
        let log = format!("first\n10%\r20%\r{}\n\nlast\n", "x".repeat(1000));
        let text = last_lines(&log, 2);
        assert_eq!(text, format!("    {}\n    last\n", "x".repeat(TAIL_WIDTH)));
    }
}
