//! The full screen: keys and results go in, pages and tasks come out ([`app`]); work is done beside, so that the screen
//! answers at all times.

mod app;
mod view;

use std::fs::File;
use std::io::Stdout;
use std::os::fd::AsFd;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use api::Secret;
use ratatui::backend::{Backend as _, CrosstermBackend};
use ratatui::crossterm::event::{self, Event as TerminalEvent, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::layout::Rect;
use ratatui::{Terminal, TerminalOptions, Viewport};
use recovery::Failure;
use recovery::checks::obstacles;
use recovery::local::Local;
use recovery::restore::{Restore, Stage};
use recovery::server::{Address, Server};
use recovery::steps::{self, Event};

use crate::unattended::{sentence, verification};
use app::{App, Message, Row, Task};

/// Between two looks at keys and results.
const POLL: Duration = Duration::from_millis(50);
/// What programs say beside goes here and not over the screen.
const LOG: &str = "/var/log/infimonitor-recovery.log";
/// A serial console does not say how large it is.
const SMALLEST: (u16, u16) = (80, 24);

/// Asks and shows until it is left.
pub fn run(cluster: Option<&str>) -> Result<()> {
    let local = Local::find(cluster)?;
    let log = File::options().create(true).append(true).open(LOG);
    let log = log.with_context(|| format!("cannot open {LOG}"))?;
    let host = local.host();
    let under_way = Restore::under_way(&host)?.map(|restore| {
        let stage = restore.stage();
        let text = sentence(&restore.manifest().backup, stage, &local);
        (text, matches!(stage, Stage::Unpacking(_)), stage == Stage::Live)
    });
    let standard_error = rustix::io::dup(rustix::stdio::stderr()).context("cannot keep standard error")?;
    rustix::stdio::dup2_stderr(log.as_fd()).context("cannot lead standard error to the log")?;
    let shown = on_screen(App::new(under_way), &local);
    rustix::stdio::dup2_stderr(standard_error.as_fd()).context("cannot lead standard error back")?;
    shown
}

fn on_screen(mut app: App, local: &Local) -> Result<()> {
    let (tasks, todo) = channel();
    let (messages, results) = channel();
    thread::scope(|scope| {
        // It ends with the process: what it does can be cut at any point and goes on.
        scope.spawn(|| work(local, todo, &messages));
        let result = show(&mut app, &tasks, &results);
        drop(tasks);
        result.map(|()| std::process::exit(0))
    })
}

fn show(app: &mut App, tasks: &Sender<Task>, results: &Receiver<Message>) -> Result<()> {
    ratatui::crossterm::terminal::enable_raw_mode()
        .context("this is no terminal; `monitor-link restore --help` tells how it is done without")?;
    let shown = until_ended(app, tasks, results);
    ratatui::crossterm::terminal::disable_raw_mode().context("cannot give the terminal back")?;
    empty()?.show_cursor().context("cannot show the cursor")?;
    shown
}

/// An emptied screen. It is made anew instead of cleared because ratatui's clearing asks the terminal where its cursor
/// is, and on a serial line there may be nobody who answers.
fn empty() -> Result<Terminal<CrosstermBackend<Stdout>>> {
    let area = match ratatui::crossterm::terminal::size() {
        Ok((columns, rows)) if columns > 0 && rows > 0 => Rect::new(0, 0, columns, rows),
        _ => Rect::new(0, 0, SMALLEST.0, SMALLEST.1),
    };
    let mut backend = CrosstermBackend::new(std::io::stdout());
    backend.clear().context("cannot clear the screen")?;
    let options = TerminalOptions { viewport: Viewport::Fixed(area) };
    Terminal::with_options(backend, options).context("cannot use the screen")
}

fn until_ended(app: &mut App, tasks: &Sender<Task>, results: &Receiver<Message>) -> Result<()> {
    let mut terminal = empty()?;
    // Not at each look: on a serial line even a drawing of nothing takes time.
    let mut changed = true;
    while !app.ended {
        if std::mem::take(&mut changed) {
            terminal.draw(|frame| view::draw(app, frame)).context("cannot draw")?;
        }
        let mut happened: Vec<Message> = results.try_iter().collect();
        if event::poll(POLL).context("cannot wait for keys")? {
            match event::read().context("cannot read keys")? {
                // What the kernel says goes over the screen of a console.
                TerminalEvent::Key(key)
                    if key.code == KeyCode::Char('l') && key.modifiers.contains(KeyModifiers::CONTROL) =>
                {
                    (terminal, changed) = (empty()?, true);
                }
                TerminalEvent::Resize(..) => (terminal, changed) = (empty()?, true),
                TerminalEvent::Key(key) if key.kind == KeyEventKind::Press => {
                    happened.push(Message::Key(key));
                }
                _ => {}
            }
        }
        for message in happened {
            changed = true;
            if let Some(task) = app.update(message) {
                tasks.send(task).map_err(|_| anyhow!("the program's other half has ended"))?;
            }
        }
    }
    Ok(())
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
            Message::Restored(restore(local, server.as_ref(), name.as_deref(), &mut tell).map_err(text))
        }
        Task::Pair => Message::Paired(pair(local, server.as_ref(), &mut tell).map_err(text)),
        Task::Confirm => Message::Confirmed(
            with_restore(local, |restore| restore.confirm()).map_err(|error| format!("{error:#}")),
        ),
        Task::Abandon => Message::Abandoned(
            with_restore(local, |restore| restore.give_up()).map_err(|error| format!("{error:#}")),
        ),
        Task::Settle => Message::Settled(local.become_monitor().map_err(|error| format!("{error:#}"))),
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
        name: format!("{}_{}", backup.id, backup.monitor.id),
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
    tell: &mut steps::Tell<'_>,
) -> Result<(), Failure> {
    let manifest = match (name, server) {
        (Some(name), Some(server)) => server.manifest(server.choose(name, &local.facts()?)?)?,
        _ => with_restore(local, |restore| Ok(restore.manifest().clone()))?,
    };
    steps::restore(local, server, &manifest, tell)
}

fn pair(local: &Local, server: Option<&Server>, tell: &mut steps::Tell<'_>) -> Result<(), Failure> {
    let server = server.context("no backup server was named")?;
    let manifest = with_restore(local, |restore| Ok(restore.manifest().clone()))?;
    steps::pair(local, server, &manifest, None, tell)
}

fn with_restore<T>(local: &Local, run: impl FnOnce(Restore<'_>) -> Result<T>) -> Result<T> {
    let host = local.host();
    run(Restore::under_way(&host)?.context("no restore is under way here")?)
}
