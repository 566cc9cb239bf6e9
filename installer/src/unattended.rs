//! The installation without a question: all that is decided is said, and any doubt ends it before anything is erased.

use std::path::Path;

use anyhow::{Context, Result};
use provisioning::Answers;
use provisioning::answers::{Install, Then};

use crate::apply::{self, Host};
use crate::links;
use crate::machine::{self, Machine};
use crate::medium::{MOUNTED, Medium};
use crate::report::Report;

/// Installs what the answers say. Returns what the machine does next; `None`: it was a dry run.
///
/// # Errors
/// There is no plan for this machine, or a step fails.
pub fn run(answers: &Answers, install: &Install, report: &mut Report) -> Result<Option<Then>> {
    let machine = Machine::look()?;
    report.say(&format!("role: {}", answers.role.name()));
    let network = links::resolved(&answers.network, &links::links()?)?;
    let answers = &Answers { network, ..answers.clone() };
    let (plan, verdict) = machine.plan(&install.wish())?;
    machine::lines(&plan).iter().for_each(|line| report.say(line));
    report.say(&verdict);
    if install.dry_run {
        report.say("A dry run: nothing was written. Take dry_run out of the answers to install.");
        return Ok(None);
    }
    let medium = Medium::open(Path::new(MOUNTED))?;
    apply::install(&Host::default(), &plan, answers, &medium, &mut |progress| report.progress(progress))?;
    report.say("Installed. Take the medium out if the machine starts from it again.");
    Ok(Some(install.then))
}

/// Has the machine do what comes next.
///
/// # Errors
/// systemd cannot be asked.
pub fn then(then: Then) -> Result<()> {
    let verb = match then {
        Then::Reboot => "reboot",
        Then::Poweroff => "poweroff",
    };
    duct::cmd!("systemctl", verb)
        .stdin_null()
        .run()
        .with_context(|| format!("cannot ask systemd for {verb}"))?;
    Ok(())
}
