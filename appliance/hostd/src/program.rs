//! Running an outside program to its end, bounded in time and output.
//!
//! What a program says is one thing, what befalls it is another: a program that is killed, does not start, hangs or prints
//! without end has said nothing about what it was asked. So [`Failure`] tells [`Failure::Refused`], the program's own words,
//! from trouble of the machine. A caller that decides anything by a failure has to look which of the two it is.

use crate::scope::Scope;
use anyhow::Context;
use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::ffi::OsStr;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};

/// Exit status of a step of ours that could not begin the program, such as `hostd cluster-exec`. `nice` and shells use
/// 126 and 127 for the same (POSIX, "Exit Status for Commands").
pub const NOT_STARTED: i32 = 125;
/// Bytes of the end of standard error that are kept.
const SAID_BYTES: usize = 16 * 1024;
/// Characters of a program's words that go into an error.
const SAID_CHARACTERS: usize = 600;
/// Time for a killed program to end; one that is stuck in the kernel is left to end when it can.
const END_TIMEOUT: Duration = Duration::from_secs(10);

/// What a program may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Time until it is killed.
    pub time: Duration,
    /// Bytes that it may print on standard output.
    pub bytes: usize,
}

impl Bounds {
    /// For what answers at once and in a few lines.
    pub const SHORT: Self = Self { time: Duration::from_secs(60), bytes: 64 * 1024 };

    /// The same with another limit of time.
    pub const fn within(self, time: Duration) -> Self {
        Self { time, ..self }
    }

    /// The same with another limit of output.
    pub const fn printing(self, bytes: usize) -> Self {
        Self { bytes, ..self }
    }
}

/// Why a program gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The program ran to its end and refused: these are its own words.
    #[error("{program} failed (exit status {code}): {said}")]
    Refused {
        /// Name of the program.
        program: String,
        /// Its exit status.
        code: i32,
        /// The end of what it said, standard error first.
        said: String,
    },
    /// It could not be started.
    #[error("{program} could not be started: {cause}")]
    NotStarted {
        /// Name of the program.
        program: String,
        /// Why.
        cause: String,
    },
    /// Something killed it.
    #[error("{program} was killed by signal {signal}")]
    Killed {
        /// Name of the program.
        program: String,
        /// The signal's number.
        signal: i32,
    },
    /// It was not done in time, and was killed.
    #[error("{program} was not done within {} s and was stopped", limit.as_secs())]
    TimedOut {
        /// Name of the program.
        program: String,
        /// The time that it had.
        limit: Duration,
    },
    /// It printed too much, and was killed.
    #[error("{program} printed more than {bytes} bytes and was stopped")]
    TooMuch {
        /// Name of the program.
        program: String,
        /// What it may print.
        bytes: usize,
    },
    /// What it printed could not be read, or its end not be waited for.
    #[error("{program} cannot be waited for: {error}")]
    Lost {
        /// Name of the program.
        program: String,
        /// Why.
        error: io::Error,
    },
}

impl Failure {
    /// The program's exit status and words, where it had a say.
    pub fn refusal(&self) -> Option<(i32, &str)> {
        match self {
            Self::Refused { code, said, .. } => Some((*code, said)),
            _ => None,
        }
    }
}

/// Runs `command` to its end and gives what it printed on standard output. It is killed when the future is dropped.
///
/// # Errors
/// See [`Failure`].
pub async fn output(command: Command, bounds: Bounds) -> Result<Vec<u8>, Failure> {
    fed(command, Stdio::null(), bounds).await
}

/// The same with something on standard input.
///
/// # Errors
/// See [`Failure`].
pub async fn fed(mut command: Command, input: Stdio, bounds: Bounds) -> Result<Vec<u8>, Failure> {
    let program = name(&command);
    let bounds = bounds.within(hostd::time_limit(bounds.time));
    command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command.process_group(0);
    let mut child = command
        .spawn()
        .map_err(|error| Failure::NotStarted { program: program.clone(), cause: error.to_string() })?;
    let ended = tokio::time::timeout(bounds.time, finish(&mut child, bounds.bytes)).await;
    let (printed, said, status) = match ended {
        Ok(Ok(Some(ended))) => ended,
        Ok(Ok(None)) => {
            end(&mut child, &program).await;
            return Err(Failure::TooMuch { program, bytes: bounds.bytes });
        }
        Ok(Err(error)) => {
            end(&mut child, &program).await;
            return Err(Failure::Lost { program, error });
        }
        Err(_) => {
            end(&mut child, &program).await;
            return Err(Failure::TimedOut { program, limit: bounds.time });
        }
    };
    judge(program, status, &printed, &said).map(|()| printed)
}

/// What the end of a program means.
fn judge(program: String, status: ExitStatus, printed: &[u8], said: &[u8]) -> Result<(), Failure> {
    // Some say it on standard output (pg_amcheck).
    let words = || last_of(&String::from_utf8_lossy(&[said, printed].concat())).to_owned();
    match (status.code(), status.signal()) {
        (Some(0), _) => Ok(()),
        (Some(NOT_STARTED..=127), _) => Err(Failure::NotStarted { program, cause: words() }),
        (Some(code), _) => Err(Failure::Refused { program, code, said: words() }),
        (None, signal) => Err(Failure::Killed { program, signal: signal.unwrap_or_default() }),
    }
}

/// Waits for the end of the child; `None`: it prints more than `bytes`.
async fn finish(child: &mut Child, bytes: usize) -> io::Result<Option<(Vec<u8>, Vec<u8>, ExitStatus)>> {
    let (output, errors) = (child.stdout.take(), child.stderr.take());
    let printed = async {
        let mut printed = Vec::new();
        if let Some(output) = output {
            output.take(bytes as u64 + 1).read_to_end(&mut printed).await?;
        }
        // What is too long ends the wait for the other stream as well.
        if printed.len() > bytes { Err(None) } else { Ok(printed) }
    };
    let said = async {
        match errors {
            Some(errors) => end_of(errors).await.map_err(Some),
            None => Ok(Vec::new()),
        }
    };
    let printed = async { printed.await.map_err(|error: Option<io::Error>| error) };
    match tokio::try_join!(printed, said) {
        Ok((printed, said)) => Ok(Some((printed, said, child.wait().await?))),
        Err(None) => Ok(None),
        Err(Some(error)) => Err(error),
    }
}

/// Reads to the end, and keeps only the last of it.
async fn end_of(mut from: impl AsyncRead + Unpin) -> io::Result<Vec<u8>> {
    let (mut kept, mut buffer) = (Vec::new(), vec![0; SAID_BYTES]);
    loop {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            return Ok(kept);
        }
        kept.extend_from_slice(&buffer[..count]);
        let over = kept.len().saturating_sub(SAID_BYTES);
        kept.drain(..over);
    }
}

/// Kills the child, with what it has started where it leads a process group, and waits for its end, for a
/// while.
pub async fn end(child: &mut Child, program: &str) {
    end_group(child.id());
    match tokio::time::timeout(END_TIMEOUT, child.kill()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::error!("{program} cannot be stopped: {error}"),
        Err(_) => {
            tracing::error!("{program} does not end although it was killed; it may be stuck in the kernel")
        }
    }
}

/// Kills what is left of the process group that a program has led.
pub fn end_group(leader: Option<u32>) {
    if let Some(leader) = leader.and_then(|leader| i32::try_from(leader).ok())
        && let Err(error) = killpg(Pid::from_raw(leader), Signal::SIGKILL)
        && error != Errno::ESRCH
    {
        tracing::error!("the processes of group {leader} cannot be stopped: {error}");
    }
}

/// The processes of a program, which can be held for a while: its control group, where it has one, and else the process group
/// that it leads. Dropping it lets them go on.
#[derive(Debug)]
pub struct Holder {
    scope: Option<Scope>,
    leader: Option<Pid>,
    is_held: AtomicBool,
}

impl Holder {
    /// Of what runs in `scope`, or was started by `leader`.
    pub fn new(scope: Option<Scope>, leader: Option<u32>) -> Self {
        let leader = leader.and_then(|leader| i32::try_from(leader).ok()).map(Pid::from_raw);
        Self { scope, leader, is_held: AtomicBool::default() }
    }

    /// Holds them; says whether they are held. Where that fails they run on.
    pub fn hold(&self) -> bool {
        self.is_held.store(true, Ordering::Relaxed);
        let held = self.set(true);
        if let Err(error) = &held {
            tracing::error!("a program cannot be held: {error:#}");
            self.go_on();
        }
        held.is_ok()
    }

    /// Lets them go on.
    pub fn go_on(&self) {
        if self.is_held.swap(false, Ordering::Relaxed)
            && let Err(error) = self.set(false)
        {
            tracing::error!("a program that was held cannot go on: {error:#}");
        }
    }

    fn set(&self, held: bool) -> anyhow::Result<()> {
        if let Some(scope) = &self.scope {
            return scope.freeze(held);
        }
        let leader = self.leader.context("it has ended")?;
        match killpg(leader, if held { Signal::SIGSTOP } else { Signal::SIGCONT }) {
            // There is nothing left that could go on.
            Err(Errno::ESRCH) if !held => Ok(()),
            done => done.with_context(|| format!("cannot signal the processes of group {leader}")),
        }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.go_on();
    }
}

/// The name of the program that a command runs in the end: behind `nice` and `hostd cluster-exec … --`.
fn name(command: &Command) -> String {
    let words: Vec<&OsStr> =
        std::iter::once(command.as_std().get_program()).chain(command.as_std().get_args()).collect();
    let inner = words.iter().position(|word| *word == "--").and_then(|at| words.get(at + 1));
    let file = std::path::Path::new(inner.unwrap_or(&words[0])).file_name();
    file.unwrap_or_default().to_string_lossy().into_owned()
}

/// The end of a text that goes into an error: hostile input may print without end.
pub fn last_of(text: &str) -> &str {
    let text = text.trim();
    text.char_indices().rev().nth(SAID_CHARACTERS).map_or(text, |(at, _)| &text[at..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    #[tokio::test]
    async fn what_a_program_says_is_told_from_what_befalls_it() {
        let bounds = Bounds::SHORT.printing(100);
        // Only of what never ends on its own.
        let soon = bounds.within(Duration::from_millis(50));
        assert_eq!(output(shell("echo good; echo noise >&2"), bounds).await.unwrap(), b"good\n");
        let refused = output(shell("echo out; echo no >&2; exit 2"), bounds).await.unwrap_err();
        assert_eq!(refused.refusal(), Some((2, "no\nout")));
        let trouble = [
            ("kill -9 $$", bounds, "killed by signal 9"),
            ("while :; do sleep 1000; done", soon, "not done within 0 s"),
            ("yes", bounds, "more than 100 bytes"),
            ("exit 125", bounds, "could not be started"),
            ("exit 127", bounds, "could not be started"),
        ];
        for (script, bounds, expected) in trouble {
            let failure = output(shell(script), bounds).await.unwrap_err();
            assert!(failure.refusal().is_none(), "{script}: {failure}");
            assert!(failure.to_string().contains(expected), "{script}: {failure}");
        }
        let missing = output(Command::new("/there/is/none"), bounds).await.unwrap_err();
        assert!(matches!(&missing, Failure::NotStarted { program, .. } if program == "none"), "{missing}");
    }

    /// The state of a process (`/proc/<pid>/stat`); `None`: it is not there any more.
    fn state(process: &str) -> Option<char> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.trim())).ok()?;
        stat.rsplit_once(") ")?.1.chars().next()
    }

    /// Looks until it is so.
    async fn until(what: &str, is_so: impl Fn() -> bool) {
        for _ in 0..1200 {
            if is_so() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{what} did not come");
    }

    #[tokio::test]
    async fn what_a_program_has_started_ends_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pid");
        // It is ended when it has said too much, and by then it has started the other one.
        let script = format!("sleep 3000 & echo $! > {}; exec yes", file.display());
        let failure = output(shell(&script), Bounds::SHORT.printing(100)).await.unwrap_err();
        assert!(matches!(failure, Failure::TooMuch { .. }), "{failure}");
        let started = std::fs::read_to_string(file).unwrap();
        until("its end", || matches!(state(&started), None | Some('Z'))).await;
    }

    #[tokio::test]
    async fn standard_error_without_end_takes_no_memory() {
        let script = "head -c 50000000 /dev/zero >&2; echo end >&2; exit 1";
        let failure = output(shell(script), Bounds::SHORT).await.unwrap_err();
        let (code, said) = failure.refusal().unwrap();
        assert!(code == 1 && said.ends_with("end") && said.chars().count() <= SAID_CHARACTERS + 1, "{said}");
    }

    #[tokio::test]
    async fn a_program_that_is_held_does_nothing_until_it_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pid");
        let script = format!("sleep 3000 & echo $! > {}; wait", file.display());
        let mut child = shell(&script).process_group(0).kill_on_drop(true).spawn().unwrap();
        let started = || std::fs::read_to_string(&file).unwrap_or_default();
        until("what it starts", || started().ends_with('\n')).await;
        let all = [child.id().unwrap().to_string(), started()];
        let held = || all.iter().all(|process| state(process) == Some('T'));
        let goes_on = || all.iter().all(|process| !matches!(state(process), None | Some('T' | 'Z')));
        let holder = Holder::new(None, child.id());
        assert!(goes_on());
        assert!(holder.hold());
        until("that also what it has started is held", held).await;
        holder.go_on();
        until("that all goes on", goes_on).await;
        assert!(holder.hold());
        until("that it is held again", held).await;
        drop(holder);
        until("that it goes on without a holder", goes_on).await;
        let leader = child.id();
        let holder = Holder::new(None, leader);
        assert!(holder.hold());
        // What is held can be killed.
        end(&mut child, "sh").await;
        assert!(!Holder::new(None, None).hold());
        drop(holder);
        end_group(leader);
    }

    #[test]
    fn a_program_is_called_by_its_own_name() {
        let mut command = Command::new("nice");
        command.args(["-n", "19", "/x/hostd", "cluster-exec", "--user", "u", "--", "/bin/psql", "--", "x"]);
        assert_eq!(name(&command), "psql");
        assert_eq!(name(&Command::new("/sbin/btrfs")), "btrfs");
    }

    #[test]
    fn only_the_end_of_a_long_text_is_kept() {
        assert_eq!(last_of(" short\n"), "short");
        let long = "ü".repeat(1000);
        assert_eq!(last_of(&long).chars().count(), 601);
    }
}
