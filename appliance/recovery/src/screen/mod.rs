//! The full screen: pages ([`app`], [`view`]) and the work that they ask for.

mod app;
mod view;

use std::path::Path;
use std::sync::mpsc::{Receiver, Sender};
use std::time::Instant;

use anyhow::{Context, Result};
use api::Secret;
use recovery::Failure;
use recovery::checks::obstacles;
use recovery::local::Local;
use recovery::restore::{Restore, Stage, Written};
use recovery::server::{Address, Before, Server};
use recovery::steps::{self, Configuration, Event, Pairing};
use screen::ratatui::Frame;
use screen::ratatui::crossterm::event::KeyEvent;

use crate::unattended::{sentence, verification};
use app::{App, Failed, Message, Row, Task, UnderWay};

/// What programs say beside goes here and not over the screen.
const LOG: &str = "/var/log/infimonitor-recovery.log";

/// Asks and shows until it is left.
pub fn run(cluster: Option<&str>) -> Result<()> {
    let local = Local::find(cluster)?;
    // Another console may be at it.
    if let Ok(_lock) = crate::lock() {
        local.host().finish_removal()?;
    }
    let app = App::new(under_way(&local)?);
    screen::run(app, Path::new(LOG), |todo, messages| work(&local, todo, &messages))
}

/// What the journal says.
fn under_way(local: &Local) -> Result<Option<UnderWay>> {
    let host = local.host();
    Ok(Restore::under_way(&host)?.map(|restore| {
        let stage = restore.stage();
        UnderWay {
            text: sentence(&restore.manifest().backup, stage, local),
            needs_server: matches!(stage, Stage::Unpacking(_)),
            is_live: matches!(stage, Stage::Live | Stage::Confirming),
        }
    }))
}

/// A failure, and where it goes on from there.
fn failed(local: &Local, failure: Failure) -> Failed {
    match under_way(local) {
        Ok(under_way) => Failed { text: failure.to_string(), under_way },
        Err(error) => Failed { text: format!("{failure}; {error:#}"), under_way: None },
    }
}

impl screen::App for App {
    type Task = Task;
    type Message = Message;

    fn key(&mut self, key: KeyEvent) -> Option<Task> {
        self.update(Message::Key(key))
    }

    fn told(&mut self, message: Message) -> Option<Task> {
        self.update(message)
    }

    fn draw(&self, frame: &mut Frame<'_>) {
        view::draw(self, frame);
    }

    fn has_ended(&self) -> bool {
        self.ended
    }
}

/// Does what is asked for, one after the other.
fn work(local: &Local, todo: Receiver<Task>, messages: &Sender<Message>) {
    let mut server = None;
    for task in todo {
        // Fails when the screen has gone.
        if messages.send(done(local, &mut server, task, messages)).is_err() {
            return;
        }
    }
}

fn done(local: &Local, server: &mut Option<Server>, task: Task, messages: &Sender<Message>) -> Message {
    let text = |failure: Failure| failure.to_string();
    // Not longer: every console of a machine shows this screen, and any of them may be the one that is used.
    let _lock = match crate::lock() {
        Ok(lock) => lock,
        Err(error) => return Message::Refused(format!("{error:#}")),
    };
    let mut tell = |event: Event| {
        // Fails when the screen has gone; the restore goes on.
        messages.send(Message::Told(event, Instant::now())).ok();
    };
    match task {
        Task::Look(host) => {
            Message::Looked(Address::new(&host).fingerprint().map(|key| key.to_string()).map_err(text))
        }
        Task::Open { address, fingerprint, password } => {
            Message::Opened(open(local, server, &address, &fingerprint, password.0).map_err(text))
        }
        Task::Restore(name) => {
            let restored =
                restore(local, server.as_ref(), name.as_deref(), Configuration::Harmless, &mut tell);
            Message::Restored(restored.map_err(|failure| failed(local, failure)))
        }
        Task::RestoreAll(name) => {
            let restored = restore(local, server.as_ref(), Some(&name), Configuration::All, &mut tell);
            Message::Restored(restored.map_err(|failure| failed(local, failure)))
        }
        Task::Judge(name) => Message::Judged(judge(local, server.as_ref(), &name).map_err(text)),
        Task::Pair(before) => Message::Paired(pair(local, server.as_ref(), before, &mut tell).map_err(text)),
        Task::Confirm => Message::Confirmed(
            with_restore(local, |restore| restore.confirm()).map_err(|error| format!("{error:#}")),
        ),
        Task::Abandon => {
            let abandoned = with_restore(local, |restore| restore.abandon(Written::Kept));
            Message::Abandoned(abandoned.map_err(|error| failed(local, error.into())))
        }
        Task::Settle => {
            Message::Settled(local.become_monitor().map(drop).map_err(|error| format!("{error:#}")))
        }
    }
}

fn open(
    local: &Local,
    server: &mut Option<Server>,
    address: &str,
    fingerprint: &str,
    password: String,
) -> Result<Vec<Row>, Failure> {
    let fingerprint = fingerprint.parse().map_err(anyhow::Error::from)?;
    let opened = server.insert(Server::open(Address::new(address), fingerprint, Secret::new(password))?);
    let machine = local.facts()?;
    let row = |backup: &api::Backup| Row {
        name: backup.full_name(),
        id: backup.id.clone(),
        created: backup.created.strftime("%Y-%m-%d %H:%M UTC").to_string(),
        version: backup.monitor.version.clone(),
        bytes: backup.sizes.files,
        verified: verification(&backup.verification),
        comment: backup.comment.clone(),
        obstacles: obstacles(backup, &machine),
    };
    Ok(opened.backups().into_iter().map(row).collect())
}

fn restore(
    local: &Local,
    server: Option<&Server>,
    name: Option<&str>,
    configuration: Configuration,
    tell: &mut steps::Tell<'_>,
) -> Result<(), Failure> {
    let manifest = match (name, server) {
        (Some(name), Some(server)) => server.manifest(server.choose(name, &local.facts()?)?)?,
        _ => with_restore(local, |restore| Ok(restore.manifest().clone()))?,
    };
    // Whether it is paired is asked afterwards.
    steps::restore(local, server, &manifest, configuration, None, tell)
}

/// What of a backup's configuration would run something, as sentences.
fn judge(local: &Local, server: Option<&Server>, name: &str) -> Result<Vec<String>, Failure> {
    let server = server.context("no backup server was named")?;
    let manifest = server.manifest(server.choose(name, &local.facts()?)?)?;
    let chosen = local.host().choose(&manifest, false)?;
    Ok(chosen.aside.iter().map(|aside| format!("{}.", aside.sentence())).collect())
}

fn pair(
    local: &Local,
    server: Option<&Server>,
    before: Before,
    tell: &mut steps::Tell<'_>,
) -> Result<(), Failure> {
    let server = server.context("no backup server was named")?;
    let manifest = with_restore(local, |restore| Ok(restore.manifest().clone()))?;
    let options = Pairing { address: None, authority: None, before };
    steps::pair(local, server, &manifest, &options, tell)
}

fn with_restore<T>(local: &Local, run: impl FnOnce(Restore<'_>) -> Result<T>) -> Result<T> {
    let host = local.host();
    run(Restore::under_way(&host)?.context("no restore is under way here")?)
}
