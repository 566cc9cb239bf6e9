//! A stand-in for an outside program, which fails as `integration::Faults` tells it or becomes the real one.

use anyhow::{Context, Result};
use integration::Fault;
use nix::sys::signal::{Signal, raise};
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

fn main() -> Result<()> {
    let own = std::env::current_exe().context("cannot find my own program")?;
    let beside = |ending: &str| own.with_extension(ending);
    let real = fs::read_to_string(beside("real")).context("no real program is named")?;
    let mut command = Command::new(real.trim());
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    command.args(&arguments);
    let Some(fault) = told(&beside("fault"), &beside("count"), &arguments) else {
        return Err(command.exec()).with_context(|| format!("cannot become {real}"));
    };
    let says = |words: &str| {
        eprintln!("ERROR: {words}");
        std::process::exit(1)
    };
    match fault {
        Fault::Kill => raise(Signal::SIGKILL).context("cannot kill myself"),
        Fault::KillAfter => {
            command.status().with_context(|| format!("cannot run {real}"))?;
            raise(Signal::SIGKILL).context("cannot kill myself")
        }
        Fault::NoSpace => says("could not write: No space left on device"),
        Fault::NoMemory => says("out of memory: Cannot allocate memory"),
        Fault::InputOutput => says("could not read: Input/output error"),
        Fault::Hang => loop {
            std::thread::sleep(std::time::Duration::from_secs(3600));
        },
    }
}

/// How to fail this time, if at all.
fn told(file: &Path, count: &Path, arguments: &[OsString]) -> Option<Fault> {
    let text = fs::read_to_string(file).ok()?;
    let (name, argument) = text.split_once('\n')?;
    let fits =
        |given: &OsString| given.as_bytes().windows(argument.len()).any(|part| part == argument.as_bytes());
    if !argument.is_empty() && !arguments.iter().any(fits) {
        return None;
    }
    if let Ok(left) = fs::read_to_string(count).ok()?.trim().parse::<u32>() {
        fs::write(count, left.checked_sub(1)?.to_string()).ok()?;
    }
    Fault::ALL.into_iter().find(|fault| fault.name() == name)
}
