//! How a page looks. Eighty columns and 24 lines are enough, as a serial console has no more.

use recovery::checks::gigabytes;
use screen::parts::{self, field};
use screen::ratatui::Frame;
use screen::ratatui::layout::{Constraint, Layout, Rect};
use screen::ratatui::style::Modifier;
use screen::ratatui::text::{Line, Text};
use screen::ratatui::widgets::{Block, Borders, List, ListState, Paragraph, Wrap};

use super::app::{ABANDON, App, Page, Row, Working};

const TITLE: &str = "Restore from backup";

/// Draws it.
pub fn draw(app: &App, frame: &mut Frame<'_>) {
    let inside = parts::page(frame, TITLE, app.error.as_deref(), keys_of(app));
    match &app.page {
        Page::List { marked } => list(app, *marked, frame, inside),
        Page::Working(working) => work(app, working, frame, inside),
        _ => frame.render_widget(Paragraph::new(text(app)).wrap(Wrap { trim: false }), inside),
    }
}

fn keys_of(app: &App) -> &'static str {
    match &app.page {
        Page::UnderWay(_) => " Enter continue · a abandon · Ctrl-C leave",
        Page::Abandon(_) => " Enter abandon · Esc back · Ctrl-C leave",
        Page::Address => " Enter next · Esc back · Ctrl-C leave",
        Page::Fingerprint(_) => " y it is the same · Esc back · Ctrl-C leave",
        Page::Password => " Enter next · Esc back · Ctrl-C leave",
        Page::List { .. } => " ↑ ↓ choose · Enter next · Esc back · Ctrl-C leave",
        Page::Preflight(_) => " Enter restore · Esc back · Ctrl-C leave",
        Page::Configuration(..) => {
            " Enter restore without these · x restore with them · Esc back · Ctrl-C leave"
        }
        Page::Working(_) => " Ctrl-C leave: it goes on when this is started again",
        Page::Restored if app.pairing_failed => {
            " Enter pair · w pair without that backup · s skip · Ctrl-C leave"
        }
        Page::Restored => " Enter pair · s skip · Ctrl-C leave",
        Page::Done if app.removed => " Enter leave",
        Page::Done => " c remove the old data · Enter leave",
        Page::Waiting(_) => " Ctrl-C leave",
    }
}

fn text(app: &App) -> Text<'_> {
    let mut lines: Vec<Line<'_>> = Vec::new();
    match &app.page {
        Page::UnderWay(under_way) => {
            lines.push(under_way.text.as_str().into());
            lines.push("".into());
            lines.push(
                "It can continue where it was, or be abandoned: then what it has made is removed, and the machine has \
                 what it had before."
                    .into(),
            );
        }
        Page::Abandon(under_way) => {
            lines.push(under_way.text.as_str().into());
            lines.push("".into());
            lines.push(
                format!("All that the restore has made is removed, also what was downloaded. Type {ABANDON} to do that:").into(),
            );
            lines.push("".into());
            lines.push(field(&app.word));
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
            lines.push(field(&app.password.dots()));
        }
        Page::Preflight(row) => preflight(row, &mut lines),
        Page::Configuration(_, asides) => configuration(asides, &mut lines),
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
            if app.removed {
                lines.push("What was there before is removed.".into());
                return lines.into();
            }
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

/// Lines that fit on a serial console.
const ASIDES_SHOWN: usize = 5;

fn configuration<'a>(asides: &'a [String], lines: &mut Vec<Line<'a>>) {
    lines.push(
        "These parts of the monitor's configuration run a program, load a library, lead elsewhere or let somebody in. Without \
         them the machine's own stays in their place, and they are kept in a folder for you to look at."
            .into(),
    );
    lines.push("".into());
    for aside in asides.iter().take(ASIDES_SHOWN) {
        lines.push(aside.as_str().into());
    }
    if asides.len() > ASIDES_SHOWN {
        lines.push(format!("And {} more.", asides.len() - ASIDES_SHOWN).into());
    }
}

fn list(app: &App, marked: usize, frame: &mut Frame<'_>, area: Rect) {
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
    let list = List::new(lines).highlight_style(parts::marked());
    let mut state = ListState::default().with_selected(Some(marked));
    frame.render_stateful_widget(list, rows, &mut state);
    let Some(row) = app.rows.get(marked) else { return };
    let mut text: Vec<Line<'_>> = row.obstacles.iter().map(|obstacle| obstacle.as_str().into()).collect();
    if !row.comment.is_empty() {
        text.push(row.comment.as_str().into());
    }
    let details_block = Block::new().borders(Borders::TOP);
    frame.render_widget(Paragraph::new(text).wrap(Wrap { trim: true }).block(details_block), details);
}

fn work(app: &App, working: &Working, frame: &mut Frame<'_>, area: Rect) {
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
        frame.render_widget(parts::bar(progress.done, progress.total), bar);
        let text = parts::figures(progress.done, progress.total, progress.rate, progress.seconds_left);
        frame.render_widget(Line::from(text), figures);
    } else if let Some((lsn, target)) = &working.replayed {
        frame.render_widget(Line::from(format!("WAL is replayed to {lsn}, needed is {target}")), figures);
    }
    let mut lines = Vec::new();
    notes(app, &mut lines);
    frame.render_widget(Paragraph::new(lines).wrap(Wrap { trim: true }), rest);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::screen::app::UnderWay;

    fn shown(app: &App) -> String {
        screen::testing::shown(|frame| draw(app, frame))
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
            (
                Page::Configuration(row.clone(), vec!["pg.conf, line 7: `x`: it runs a program.".into(); 7]),
                &["line 7: `x`", "And 2 more", "Enter restore without these"],
            ),
            (Page::Preflight(row), &["Backup 20261126T030000Z", "1. It is downloaded", "Enter restore"]),
            (Page::Working(working), &["50%", "1.17 GB of 2.34 GB, 105 MB/s, 1 min 15 s left"]),
            (Page::Restored, &["restored and runs", "s skip"]),
            (Page::Done, &["kept until you remove it", "c remove the old data"]),
            (
                Page::UnderWay(UnderWay { text: "Cut.".into(), needs_server: true, is_live: false }),
                &["Cut.", "a abandon"],
            ),
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
