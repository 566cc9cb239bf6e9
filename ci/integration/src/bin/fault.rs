//! A stand-in for an outside program, which fails as `integration::Faults` tells it or becomes the real one.

use anyhow::{Context, Result};
use integration::{Fault, faults::ask};
use nix::sys::signal::{Signal, raise};
use std::ffi::OsString;
use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Command;

fn main() -> Result<()> {
    let own = std::env::current_exe().context("cannot find my own program")?;
    let real = fs::read_to_string(own.with_extension("real")).context("no real program is named")?;
    let mut command = Command::new(real.trim());
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    command.args(&arguments);
    let Some(fault) = ask(&own, &arguments)? else {
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
