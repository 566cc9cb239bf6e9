//! Proof that a system came up: what is asked, and what follows (design D3).
//!
//! Asked is only what the system itself is responsible for: its processes run and answer. A missing disk, a full data
//! volume or a monitor that is away would be no better with the other slot.

use crate::machine::Boot;
use provisioning::Role;
use std::time::Duration;

/// Time that a new system has, from the start of its userland.
pub const LIMIT: Duration = Duration::from_secs(5 * 60);
/// Time that is left to it once everything was started: what is not healthy then will not be.
pub const SETTLED: Duration = Duration::from_secs(30);
/// How long it has to be healthy without a break: a service that crashes is restarted after 2 s.
pub const STEADY: Duration = Duration::from_secs(10);

/// What follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It came up: the count of its tries is taken back, and it is good.
    Good,
    /// Look again.
    Wait,
    /// It is given up: the machine restarts, which counts as a try that failed.
    Restart,
    /// It is not healthy, and there is nothing better: the machine stays up and says so.
    Stay,
}

/// What was seen of a system until now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Seen {
    /// Time since its userland began.
    pub up: Duration,
    /// Time since everything was started that is started at boot; `None`: not yet.
    pub booted: Option<Duration>,
    /// Time since it is healthy without a break; `None`: it is not.
    pub healthy: Option<Duration>,
}

/// Judges a system.
///
/// A slot that was good once is good as soon as its userland runs: it is never restarted for what fails later.
pub fn judge(boot: Boot, was_good: bool, seen: Seen) -> Verdict {
    if was_good || seen.healthy.is_some_and(|healthy| healthy >= STEADY) {
        Verdict::Good
    } else if seen.up < LIMIT && (seen.healthy.is_some() || seen.booted.is_none_or(|booted| booted < SETTLED))
    {
        Verdict::Wait
    } else if boot.last {
        Verdict::Stay
    } else {
        Verdict::Restart
    }
}

/// What has to run for a role.
pub fn units(role: Option<Role>) -> &'static [&'static str] {
    match role {
        Some(Role::BackupServer) => {
            &["infimonitor-hostd.service", "infimonitor-backupd.service", "infimonitor-ftpd.service"]
        }
        Some(Role::Monitor | Role::MonitorRecovery) => &["infimonitor-monitor.service"],
        Some(Role::Installer) | None => &["multi-user.target"],
    }
}

/// Reads `systemctl show --property=Id,ActiveState`: the units that are not active, or `None` if all are.
pub fn inactive(shown: &str) -> Option<String> {
    let mut wrong = Vec::new();
    let mut id = "";
    for line in shown.lines() {
        match line.split_once('=') {
            Some(("Id", value)) => id = value,
            Some(("ActiveState", value)) if value != "active" => wrong.push(format!("{id} is {value}")),
            _ => {}
        }
    }
    (!wrong.is_empty()).then(|| wrong.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decision::Slot;

    #[test]
    fn only_a_new_system_has_to_prove_itself() {
        let (seconds, boot) = (Duration::from_secs, Boot { slot: Slot::B, last: false });
        let last = Boot { last: true, ..boot };
        let seen = |up, booted, healthy| Seen {
            up: seconds(up),
            booted: Option::map(booted, seconds),
            healthy: Option::map(healthy, seconds),
        };
        let table = [
            (boot, true, seen(0, None, None), Verdict::Good),
            (last, true, seen(999, Some(900), None), Verdict::Good),
            (boot, false, seen(0, None, None), Verdict::Wait),
            (boot, false, seen(20, Some(1), Some(9)), Verdict::Wait),
            (boot, false, seen(20, Some(1), Some(10)), Verdict::Good),
            (boot, false, seen(60, Some(29), None), Verdict::Wait),
            (boot, false, seen(60, Some(30), None), Verdict::Restart),
            (boot, false, seen(60, Some(30), Some(9)), Verdict::Wait),
            (boot, false, seen(300, None, None), Verdict::Restart),
            (boot, false, seen(300, Some(99), Some(9)), Verdict::Restart),
            (last, false, seen(300, None, None), Verdict::Stay),
        ];
        for (boot, was_good, seen, expected) in table {
            assert_eq!(judge(boot, was_good, seen), expected, "{seen:?}");
        }
    }

    #[test]
    fn units_that_are_not_active_are_named() {
        let shown =
            |state: &str| format!("Id=a.service\nActiveState=active\n\nId=b.service\nActiveState={state}\n");
        assert_eq!(inactive(&shown("active")), None);
        assert_eq!(inactive(&shown("failed")), Some("b.service is failed".into()));
    }
}
