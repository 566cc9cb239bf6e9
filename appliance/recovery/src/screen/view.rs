//! How a page looks. Eighty columns and 24 lines are enough, as a serial console has no more.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Text};
use ratatui::widgets::{Block, Gauge, List, ListState, Paragraph, Wrap};

use super::app::{App, Page, Row, Working};

const TITLE: &str = " Restore from backup ";

/// Draws it.
pub fn draw(app: &App, frame: &mut Frame<'_>) {
    let height = app.error.as_ref().map_or(0, |error| lines_of(error, frame.area().width));
    let [page, error, keys] =
        Layout::vertical([Constraint::Fill(1), Constraint::Length(height), Constraint::Length(1)])
            .areas(frame.area());
    let block = Block::bordered().title(TITLE).title_style(Modifier::BOLD);
    let inside = block.inner(page);
    frame.render_widget(block, page);
    match &app.page {
        Page::List { marked } => list(app, *marked, frame, inside),
        Page::Working(working) => work(app, working, frame, inside),
        _ => frame.render_widget(Paragraph::new(text(app)).wrap(Wrap { trim: false }), inside),
    }
    if let Some(message) = &app.error {
        let message = Paragraph::new(message.as_str()).wrap(Wrap { trim: true });
        frame.render_widget(message.style(Style::new().add_modifier(Modifier::REVERSED)), error);
    }
    frame.render_widget(Line::from(keys_of(&app.page)), keys);
}

/// Lines that an error takes at most: words do not break where lines end, so a line is not always full.
fn lines_of(error: &str, width: u16) -> u16 {
    let full = error.chars().count() / usize::from((width * 3 / 4).max(1)) + 1;
    u16::try_from(full).unwrap_or(u16::MAX).min(10)
}

fn keys_of(page: &Page) -> &'static str {
    match page {
        Page::UnderWay { .. } => " Enter go on · g give up · Ctrl-C leave",
        Page::Address => " Enter next · Ctrl-C leave",
        Page::Fingerprint(_) => " y it is the same · Esc back · Ctrl-C leave",
        Page::Password => " Enter next · Esc back · Ctrl-C leave",
        Page::List { .. } => " ↑ ↓ choose · Enter next · Esc back · Ctrl-C leave",
        Page::Preflight(_) => " Enter restore · Esc back · Ctrl-C leave",
        Page::Working(_) => " Ctrl-C leave: it goes on when this is started again",
        Page::Restored => " Enter pair · s skip · Ctrl-C leave",
        Page::Done => " c remove the old data · Enter leave",
        Page::Waiting(_) => " Ctrl-C leave",
    }
}

fn text(app: &App) -> Text<'_> {
    let mut lines: Vec<Line<'_>> = Vec::new();
    match &app.page {
        Page::UnderWay { text, .. } => {
            lines.push(text.as_str().into());
            lines.push("".into());
            lines.push("It can go on where it was, or be given up: then what it has made is removed.".into());
        }
        Page::Address => {
            lines.push("Address or name of the backup server:".into());
            lines.push("".into());
            lines.push(field(&app.address));
        }
        Page::Fingerprint(fingerprint) => {
            lines.push("The backup server shows this key:".into());
            lines.push("".into());
            lines.push(Line::styled(format!("  {fingerprint}"), Modifier::BOLD));
            lines.push("".into());
            lines.push(
                "Compare it with the one on the backup server's console. If it differs, another machine answers: \
                 do not go on, as it would get the password."
                    .into(),
            );
        }
        Page::Password => {
            lines.push("Password of user backup:".into());
            lines.push("".into());
            lines.push(field(&"•".repeat(app.password.0.chars().count())));
        }
        Page::Preflight(row) => preflight(row, &mut lines),
        Page::Restored => {
            lines.push("The monitor is restored and runs.".into());
            notes(app, &mut lines);
            lines.push("".into());
            lines.push(
                "Pair it with the backup server again? The server first keeps what it has of this monitor as a pinned \
                 backup, then follows the restored one."
                    .into(),
            );
        }
        Page::Done => {
            lines.push("Done. The monitor is restored and runs.".into());
            notes(app, &mut lines);
            lines.push("".into());
            lines.push(
                "The data that was there before is kept until you remove it, here or later with `monitor-link restore \
                 confirm`."
                    .into(),
            );
        }
        Page::Waiting(what) => lines.push((*what).into()),
        Page::List { .. } | Page::Working(_) => {}
    }
    Text::from(lines)
}

fn field(text: &str) -> Line<'static> {
    Line::from(format!("  {text}█"))
}

fn notes<'a>(app: &'a App, lines: &mut Vec<Line<'a>>) {
    for note in &app.notes {
        lines.push("".into());
        lines.push(note.as_str().into());
    }
}

fn preflight(row: &Row, lines: &mut Vec<Line<'_>>) {
    lines.push(format!("Backup {} of {}, {}.", row.id, row.created, row.verified).into());
    lines.push(format!("Monitor version {}, {}.", row.version, gigabytes(row.bytes)).into());
    if !row.comment.is_empty() {
        lines.push(row.comment.clone().into());
    }
    lines.push("".into());
    for sentence in [
        "1. It is downloaded, checked and unpacked beside the live data.",
        "2. PostgreSQL recovers it there. Until here the monitor goes on as it is.",
        "3. The monitor is stopped, the restored database takes its place, and the monitor is started again. If that \
         fails, what was there before is back and runs.",
        "4. The data that was there before is kept until you say that it may go.",
    ] {
        lines.push(sentence.into());
    }
}

fn list(app: &App, marked: usize, frame: &mut Frame<'_>, area: ratatui::layout::Rect) {
    let [rows, details] = Layout::vertical([Constraint::Fill(1), Constraint::Length(6)]).areas(area);
    if app.rows.is_empty() {
        frame.render_widget(Paragraph::new("The backup server has no backups."), rows);
        return;
    }
    let lines = app.rows.iter().map(|row| {
        let can = if row.obstacles.is_empty() { ' ' } else { '✗' };
        let size = gigabytes(row.bytes);
        format!("{can} {}  {}  {:>10}  {size:>9}  {}", row.id, row.created, row.version, row.verified)
    });
    let list = List::new(lines).highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    let mut state = ListState::default().with_selected(Some(marked));
    frame.render_stateful_widget(list, rows, &mut state);
    let Some(row) = app.rows.get(marked) else { return };
    let mut text: Vec<Line<'_>> = row.obstacles.iter().map(|obstacle| obstacle.as_str().into()).collect();
    if !row.comment.is_empty() {
        text.push(row.comment.as_str().into());
    }
    let details_block = Block::new().borders(ratatui::widgets::Borders::TOP);
    frame.render_widget(Paragraph::new(text).wrap(Wrap { trim: true }).block(details_block), details);
}

fn work(app: &App, working: &Working, frame: &mut Frame<'_>, area: ratatui::layout::Rect) {
    let [step, bar, figures, rest] = Layout::vertical([
        Constraint::Length(2),
        Constraint::Length(1),
        Constraint::Length(2),
        Constraint::Fill(1),
    ])
    .areas(area);
    let sentence = working.step.map_or("Looking at what is there …", recovery::steps::Step::sentence);
    frame.render_widget(Line::from(sentence), step);
    if let Some(progress) = &working.progress {
        let ratio = f64::from(progress.percent.min(100)) / 100.0;
        frame.render_widget(Gauge::default().ratio(ratio), bar);
        let left = progress.seconds_left.map_or(String::new(), |left| format!(", {} left", time(left)));
        let text = format!(
            "{} of {}, {} MB/s{left}",
            gigabytes(progress.done),
            gigabytes(progress.total),
            progress.rate / 1_000_000
        );
        frame.render_widget(Line::from(text), figures);
    } else if let Some((lsn, target)) = &working.replayed {
        frame.render_widget(Line::from(format!("WAL is replayed to {lsn}, needed is {target}")), figures);
    }
    let mut lines = Vec::new();
    notes(app, &mut lines);
    frame.render_widget(Paragraph::new(lines).wrap(Wrap { trim: true }), rest);
}

fn gigabytes(bytes: u64) -> String {
    format!("{}.{:02} GB", bytes / 1_000_000_000, bytes % 1_000_000_000 / 10_000_000)
}

fn time(seconds: u64) -> String {
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds} s"),
        (0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (hours, minutes, _) => format!("{hours} h {minutes} min"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    fn shown(app: &App) -> String {
        let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
        terminal.draw(|frame| draw(app, frame)).unwrap();
        let buffer = terminal.backend().buffer().clone();
        let lines = buffer.content().chunks(80);
        lines.map(|line| line.iter().map(|cell| cell.symbol()).collect::<String>() + "\n").collect()
    }

    #[test]
    fn every_page_says_what_it_is_about_and_its_keys() {
        let row = Row {
            name: "20261126T030000Z_x".into(),
            id: "20261126T030000Z".into(),
            created: "2026-11-26 03:00 UTC".into(),
            version: "1.3".into(),
            bytes: 2_340_000_000,
            verified: "verified",
            comment: "before the update".into(),
            obstacles: vec!["It is of monitor version 1.3, and this machine has 1.2: install 1.3.".into()],
        };
        let mut app = App::new(None);
        app.address = "backup.example".into();
        app.password.0 = "secret".into();
        app.rows = vec![row.clone()];
        let progress = api::Progress {
            done: 1_170_000_000,
            total: 2_340_000_000,
            percent: 50,
            rate: 105_000_000,
            seconds_left: Some(75),
        };
        let working = Working {
            step: Some(recovery::steps::Step::Download),
            progress: Some(progress),
            ..Working::default()
        };
        let table: Vec<(Page, &[&str])> = vec![
            (Page::Address, &["Restore from backup", "backup.example█", "Enter next"]),
            (Page::Fingerprint("sha256//abc".into()), &["sha256//abc", "console", "y it is the same"]),
            (Page::Password, &["user backup", "••••••█"]),
            (
                Page::List { marked: 0 },
                &["✗ 20261126T030000Z", "2.34 GB", "install 1.3.", "before the update", "↑ ↓ choose"],
            ),
            (Page::Preflight(row), &["Backup 20261126T030000Z", "1. It is downloaded", "Enter restore"]),
            (Page::Working(working), &["50%", "1.17 GB of 2.34 GB, 105 MB/s, 1 min 15 s left"]),
            (Page::Restored, &["restored and runs", "s skip"]),
            (Page::Done, &["kept until you remove it", "c remove the old data"]),
            (Page::UnderWay { text: "Cut.".into(), needs_server: true }, &["Cut.", "g give up"]),
        ];
        for (page, parts) in table {
            app.page = page;
            let shown = shown(&app);
            for part in parts {
                assert!(shown.contains(part), "{part:?} is not in\n{shown}");
            }
            assert!(!shown.contains("secret"));
        }
    }

    #[test]
    fn a_long_error_is_shown_to_its_end() {
        let mut app = App::new(None);
        app.error = Some(format!("{} the end", "many words of an error ".repeat(12)));
        assert!(shown(&app).contains("the end"));
    }
}
