//! A full screen on a console: keys and results go in, pages and tasks come out. What is on it is decided by a pure [`App`];
//! work is done beside, so that the screen answers at all times.
//!
//! Eighty columns and 24 lines are enough, as a serial console has no more, and does not say how large it is.

pub mod form;
mod keys;
pub mod parts;
pub mod testing;

use std::fs::File;
use std::io::Stdout;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use ratatui::backend::{Backend as _, CrosstermBackend};
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::layout::Rect;
use ratatui::{Frame, Terminal, TerminalOptions, Viewport};

pub use form::{Field, Form};
pub use parts::Typed;
pub use ratatui;

/// Between two looks at keys and results.
const POLL: Duration = Duration::from_millis(50);
/// What is assumed of a console that does not say it.
const SMALLEST: (u16, u16) = (80, 24);

/// What is on the screen, and what follows.
pub trait App {
    /// Work that is done beside.
    type Task: Send;
    /// Its results.
    type Message: Send;

    /// A key was pressed.
    fn key(&mut self, key: KeyEvent) -> Option<Self::Task>;

    /// Something was done.
    fn told(&mut self, message: Self::Message) -> Option<Self::Task>;

    /// Draws it.
    fn draw(&self, frame: &mut Frame<'_>);

    /// Whether the program ends.
    fn has_ended(&self) -> bool;
}

/// Whether the key is the one that ends a program.
pub fn is_interrupt(key: KeyEvent) -> bool {
    key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c')
}

/// Whether the key means what it says: with Control or Alt a letter is another key, such as the prefix of a terminal's
/// multiplexer on a serial line.
fn is_plain(key: KeyEvent) -> bool {
    is_interrupt(key)
        || with_backspace(key).code == KeyCode::Backspace
        || !key.modifiers.intersects(KeyModifiers::CONTROL | KeyModifiers::ALT)
        || !matches!(key.code, KeyCode::Char(_))
}

/// Many terminals send Control-H for their key above Enter.
fn with_backspace(key: KeyEvent) -> KeyEvent {
    if key.modifiers == KeyModifiers::CONTROL && key.code == KeyCode::Char('h') {
        return KeyEvent::from(KeyCode::Backspace);
    }
    key
}

/// Shows the app until it has ended, then ends the process: what `work` does can be cut at any point. What programs say on
/// standard error meanwhile goes to `log`, and not over the screen.
///
/// # Errors
/// This is no terminal, or it cannot be used.
pub fn run<A: App>(
    mut app: A,
    log: &Path,
    work: impl FnOnce(Receiver<A::Task>, Sender<A::Message>) + Send,
) -> Result<()> {
    let file = File::options().create(true).append(true).open(log);
    let file = file.with_context(|| format!("cannot open {}", log.display()))?;
    let standard_error = rustix::io::dup(rustix::stdio::stderr()).context("cannot keep standard error")?;
    rustix::stdio::dup2_stderr(file.as_fd()).context("cannot lead standard error to the log")?;
    let (tasks, todo) = channel();
    let (messages, results) = channel();
    thread::scope(|scope| {
        scope.spawn(|| work(todo, messages));
        let shown = show(&mut app, &tasks, &results);
        drop(tasks);
        rustix::stdio::dup2_stderr(standard_error.as_fd()).context("cannot lead standard error back")?;
        shown.map(|()| std::process::exit(0))
    })
}

fn show<A: App>(app: &mut A, tasks: &Sender<A::Task>, results: &Receiver<A::Message>) -> Result<()> {
    ratatui::crossterm::terminal::enable_raw_mode()
        .context("this is no terminal; `--help` tells how it is done without")?;
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

/// What has happened within [`POLL`]. An escape that more follows at once is taken together with it.
fn events() -> Result<Vec<Event>> {
    let next = |patience| -> Result<Option<Event>> {
        let is_there = event::poll(patience).context("cannot wait for keys")?;
        is_there.then(event::read).transpose().context("cannot read keys")
    };
    let Some(first) = next(POLL)? else { return Ok(Vec::new()) };
    let mut found = vec![first];
    while keys::may_go_on(&found) {
        let Some(event) = next(keys::PATIENCE)? else { break };
        found.push(event);
    }
    Ok(keys::assembled(found))
}

fn until_ended<A: App>(app: &mut A, tasks: &Sender<A::Task>, results: &Receiver<A::Message>) -> Result<()> {
    let mut terminal = empty()?;
    // Not at each look: on a serial line even a drawing of nothing takes time.
    let mut changed = true;
    while !app.has_ended() {
        if std::mem::take(&mut changed) {
            terminal.draw(|frame| app.draw(frame)).context("cannot draw")?;
        }
        let mut asked: Vec<A::Task> = Vec::new();
        for message in results.try_iter() {
            changed = true;
            asked.extend(app.told(message));
        }
        for event in events()? {
            match event {
                // What the kernel says goes over the screen of a console.
                Event::Key(key)
                    if key.code == KeyCode::Char('l') && key.modifiers.contains(KeyModifiers::CONTROL) =>
                {
                    (terminal, changed) = (empty()?, true);
                }
                Event::Resize(..) => (terminal, changed) = (empty()?, true),
                Event::Key(key) if key.kind == KeyEventKind::Press && is_plain(key) => {
                    changed = true;
                    asked.extend(app.key(with_backspace(key)));
                }
                _ => {}
            }
        }
        for task in asked {
            tasks.send(task).map_err(|_| anyhow!("the program's other half has ended"))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_with_control_is_no_letter() {
        for (code, modifiers, expected) in [
            (KeyCode::Char('a'), KeyModifiers::NONE, true),
            (KeyCode::Char('A'), KeyModifiers::SHIFT, true),
            (KeyCode::Char('a'), KeyModifiers::CONTROL, false),
            (KeyCode::Char('s'), KeyModifiers::ALT, false),
            (KeyCode::Char('c'), KeyModifiers::CONTROL, true),
            (KeyCode::Char('h'), KeyModifiers::CONTROL, true),
            (KeyCode::Left, KeyModifiers::CONTROL, true),
        ] {
            assert_eq!(is_plain(KeyEvent::new(code, modifiers)), expected, "{code:?} {modifiers:?}");
        }
    }
}
