//! Starting QEMU so that it never outlives the program that wanted it.
//!
//! A test program that is killed runs no `Drop`. The kernel's parent-death signal covers that case, but it is sent
//! when the *thread* that started the child ends, and tests start VMs from threads that come and go: so one
//! thread, which lives as long as the program, starts them all.

use std::io;
use std::process::{Child, Command};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, OnceLock};
use std::thread;

use anyhow::{Context, Result, anyhow};

type Order = (Command, Sender<io::Result<Child>>);

/// Arguments of `setpriv` before the program that is to die with its parent.
pub(crate) const DIE_WITH_PARENT: [&str; 3] = ["--pdeathsig", "KILL", "--"];

/// Starts a program whose first words are `setpriv` and [`DIE_WITH_PARENT`].
pub(crate) fn spawn(command: Command) -> Result<Child> {
    static STARTER: OnceLock<Mutex<Sender<Order>>> = OnceLock::new();
    let starter = STARTER.get_or_init(|| {
        let (sender, orders) = channel::<Order>();
        thread::spawn(move || {
            for (mut command, answer) in orders {
                // Nobody waits for the answer any more: then the child must not stay either.
                if let Err(unheard) = answer.send(command.spawn())
                    && let Ok(mut child) = unheard.0
                    && let Err(error) = child.kill()
                {
                    eprintln!("lab: cannot end process {}: {error}", child.id());
                }
            }
        });
        Mutex::new(sender)
    });
    let program = format!("{:?}", command.get_program());
    let (sender, answer) = channel();
    starter
        .lock()
        .map_err(|_| anyhow!("the thread that starts VMs has failed"))?
        .send((command, sender))
        .map_err(|_| anyhow!("the thread that starts VMs has ended"))?;
    let child = answer.recv().context("the thread that starts VMs has ended")?;
    child.with_context(|| format!("cannot start {program}"))
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;

    use super::*;

    #[test]
    fn a_child_outlives_the_thread_that_asked_for_it() {
        let mut child = thread::spawn(|| {
            let mut command = Command::new("setpriv");
            command.args(DIE_WITH_PARENT).arg("cat").stdin(Stdio::piped()).stdout(Stdio::null());
            spawn(command).unwrap()
        })
        .join()
        .unwrap();
        thread::sleep(std::time::Duration::from_millis(300));
        assert!(child.try_wait().unwrap().is_none(), "it died with the asking thread");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_missing_program_is_named() {
        let message = format!("{:#}", spawn(Command::new("no-such-qemu")).unwrap_err());
        assert!(message.contains("no-such-qemu"), "{message}");
    }
}
