//! Waiting for a condition with a deadline.
//!
//! Nothing in a scenario sleeps for a fixed time: under TCG a boot takes anything between half a minute and
//! several, so every wait polls, and a wait that fails says what was seen last. The price is a poll every
//! half second.

use std::fmt;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

/// How long a boot may take before it is called dead. Without KVM a login prompt was seen after 36 s on an idle
/// machine; a shared one with several VMs needs multiples of that.
pub const BOOT: Duration = Duration::from_secs(600);
/// How long a simple command in the guest may take (fork and a few hundred milliseconds of work, under TCG).
pub const COMMAND: Duration = Duration::from_secs(120);
/// How long a clean shutdown may take: systemd's own stop timeout is 90 s.
pub const SHUTDOWN: Duration = Duration::from_secs(180);

const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// The VM's process is gone: no condition that needs it can become true any more, so waiting stops at once.
#[derive(Debug)]
pub struct MachineEnded {
    /// Name of the machine.
    pub machine: String,
    /// What is known about the end: exit status and QEMU's last words.
    pub detail: String,
}

impl fmt::Display for MachineEnded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VM {} is not running: {}", self.machine, self.detail)
    }
}

impl std::error::Error for MachineEnded {}

/// Polls until `poll` returns `Ok`. An `Err` means "not yet" and is the observation that a failed wait reports,
/// with what was waited for and for how long. A [`MachineEnded`] among its causes ends the wait early.
pub fn wait_until<T>(what: &str, within: Duration, mut poll: impl FnMut() -> Result<T>) -> Result<T> {
    let begun = Instant::now();
    loop {
        let last = match poll() {
            Ok(seen) => return Ok(seen),
            Err(observation) => observation,
        };
        let waited = begun.elapsed();
        let hopeless = last.chain().any(|cause| cause.is::<MachineEnded>());
        if hopeless || waited >= within {
            let seconds = waited.as_secs_f32();
            let limit = within.as_secs_f32();
            return Err(anyhow!("waited {seconds:.1} s of {limit:.0} s for: {what}; last seen: {last:#}"));
        }
        thread::sleep(POLL_INTERVAL.min(within.saturating_sub(waited)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::bail;

    #[test]
    fn returns_what_the_poll_found() {
        let mut polls = 0;
        let found = wait_until("the third poll", Duration::from_secs(10), || {
            polls += 1;
            if polls < 3 { bail!("poll {polls}") } else { Ok(polls) }
        });
        assert_eq!(found.unwrap(), 3);
    }

    #[test]
    fn failure_names_what_was_waited_for_how_long_and_the_last_observation() {
        let failed = wait_until::<()>("lag below 1 MB", Duration::from_millis(50), || bail!("lag is 7 MB"));
        let message = failed.unwrap_err().to_string();
        assert!(message.contains("for: lag below 1 MB; last seen: lag is 7 MB"), "{message}");
        assert!(message.starts_with("waited 0."), "{message}");
    }

    #[test]
    fn a_dead_machine_ends_the_wait_at_once() {
        let begun = Instant::now();
        let failed = wait_until::<()>("an answer", Duration::from_secs(60), || {
            let ended = MachineEnded { machine: "backup".into(), detail: "exit status 1".into() };
            Err(anyhow::Error::new(ended).context("cannot run `true`"))
        });
        assert!(failed.unwrap_err().to_string().contains("VM backup is not running: exit status 1"));
        assert!(begun.elapsed() < Duration::from_secs(5));
    }
}
