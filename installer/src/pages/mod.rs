//! The installation by pages, at any console of the machine. What is on the screen is decided by [`app`] (pure), drawn by
//! [`view`], and read by [`typed`]; here is the work that the pages ask for.

mod app;
mod said;
mod typed;
mod view;

pub use said::told;

use std::fs::File;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use provisioning::{Answers, Role};
use rustix::fs::FlockOperation;
use screen::ratatui::Frame;
use screen::ratatui::crossterm::event::KeyEvent;

use crate::apply::{self, Host, Progress};
use crate::machine::{self, Machine};
use crate::medium::{MOUNTED, Medium};
use crate::report::Report;
use crate::{hash, links, sources, unattended};
use app::{App, Installation, Message, Task};
use typed::Passwords;

/// What programs say beside goes here and not over the screen.
const LOG: &str = "/run/infimonitor/installer-screen.log";
/// Held while something is erased and written: every console shows the pages.
const LOCK: &str = "/run/infimonitor/install.lock";
/// Names the role that is marked at first, on the kernel's command line (image/grub/medium.cfg).
const ROLE: &str = "infimonitor.role";

/// Asks, installs, and ends only with the machine's run.
///
/// # Errors
/// The machine cannot be looked at, or this is no terminal.
pub fn run() -> Result<()> {
    let found = sources::find(Path::new(MOUNTED))?;
    let command_line = std::fs::read_to_string("/proc/cmdline").context("cannot read /proc/cmdline")?;
    let given = found.map_or_else(|| Answers::for_role(role(&command_line)), |found| found.answers);
    let app = App::new(given, Machine::look()?, links::links()?);
    screen::run(app, Path::new(LOG), |todo, messages| work(&todo, &messages))
}

/// The role that the boot menu was asked for.
fn role(command_line: &str) -> Role {
    let named = storage::command_line::value(command_line, ROLE);
    let known = app::ROLES.iter().map(|(role, ..)| *role);
    known.into_iter().find(|role| Some(role.name()) == named).unwrap_or(Role::BackupServer)
}

impl screen::App for App {
    type Task = Task;
    type Message = Message;

    fn key(&mut self, key: KeyEvent) -> Option<Task> {
        self.press(key)
    }

    fn told(&mut self, message: Message) -> Option<Task> {
        self.take(message);
        None
    }

    fn draw(&self, frame: &mut Frame<'_>) {
        view::draw(self, frame);
    }

    fn has_ended(&self) -> bool {
        self.ended
    }
}

/// Does what is asked for, one after the other.
fn work(todo: &Receiver<Task>, messages: &Sender<Message>) {
    for task in todo {
        let message = match task {
            Task::Look => Message::Looked(Machine::look().map_err(|error| format!("{error:#}"))),
            Task::Keymap(name) => Message::Keymap(load(&name).map_err(|error| format!("{error:#}"))),
            Task::Install(installation) => match lock() {
                Ok(_lock) => {
                    Message::Installed(install(*installation, messages).map_err(|error| format!("{error:#}")))
                }
                Err(error) => Message::Refused(format!("{error:#}")),
            },
            Task::Then(then) => match unattended::then(then) {
                Ok(()) => continue,
                Err(error) => Message::Refused(format!("{error:#}")),
            },
        };
        // Fails when the screen has gone.
        if messages.send(message).is_err() {
            return;
        }
    }
}

fn lock() -> Result<File> {
    let file = File::create(LOCK).with_context(|| format!("cannot make {LOCK}"))?;
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)
        .context("another console of this machine installs it already")?;
    Ok(file)
}

/// Puts a keymap into force, on the screen's consoles; a serial line has its keyboard elsewhere.
fn load(name: &str) -> Result<()> {
    let loaded = duct::cmd!("loadkeys", "--quiet", name).stdin_null().stderr_null().stdout_null().unchecked();
    let output = loaded.run().context("cannot run loadkeys")?;
    ensure!(
        output.status.success(),
        "Keyboard: there is no keymap {name:?}; `us`, `uk`, `de-latin1` and `fr-latin9` are some"
    );
    Ok(())
}

fn install(installation: Installation, messages: &Sender<Message>) -> Result<()> {
    let Installation { plan, mut answers, passwords: Passwords { console, network } } = installation;
    // Since the plan was shown another console may have installed, or somebody have changed disks.
    machine::unchanged(&plan, &Machine::look()?.disks)?;
    let mut report = Report::of_pages()?;
    let mut say = |text: &str| {
        report.say(text);
        // Fails when the screen has gone; the installation goes on.
        messages.send(Message::Step(text.to_owned())).ok();
    };
    say(&format!("role: {}", answers.role.name()));
    machine::lines(&plan).iter().for_each(|line| say(line));
    if let Some(password) = console {
        answers.root_password_hash = Some(hash::console(&password.0)?);
    }
    if let Some(password) = network {
        answers.password_hash = Some(hash::network(&password.0)?);
    }
    let medium = Medium::open(Path::new(MOUNTED))?;
    let mut told = |progress: Progress<'_>| {
        match progress {
            Progress::Step(text) => messages.send(Message::Step(text.to_owned())).ok(),
            Progress::Bytes { done, total } => {
                messages.send(Message::Bytes { done, total, at: Instant::now() }).ok()
            }
        };
        report.progress(progress);
    };
    let installed = apply::install(&Host::default(), &plan, &answers, &medium, &mut told);
    match &installed {
        Ok(()) => report.say("Installed."),
        Err(error) => report.say(&format!("Not installed: {error:#}")),
    }
    installed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boot_menus_role_is_marked_at_first() {
        for (command_line, expected) in [
            ("quiet infimonitor.role=monitor console=tty0", Role::Monitor),
            ("infimonitor.role=monitor-recovery", Role::MonitorRecovery),
            ("infimonitor.role=mainframe", Role::BackupServer),
            ("quiet", Role::BackupServer),
        ] {
            assert_eq!(role(command_line), expected, "{command_line}");
        }
    }
}
