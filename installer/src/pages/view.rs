//! How a page looks. Eighty columns and 24 lines are enough, as a serial console has no more.

use provisioning::Interface;
use screen::parts::{self, field, marked};
use screen::ratatui::Frame;
use screen::ratatui::layout::{Constraint, Layout, Rect};
use screen::ratatui::style::Modifier;
use screen::ratatui::text::{Line, Text};
use screen::ratatui::widgets::{Block, Borders, List, ListState, Paragraph, Wrap};
use storage::inventory::{Disk, gigabytes};
use storage::plan::{Plan, PlannedDisk};

use super::app::{App, NetworkRow, Page, ROLES, WORD};
use super::said::{role_title, told};
use crate::links::Link;

/// The licence that the product is under.
const LICENCE: &str = include_str!("../../../LICENSE");

/// Draws it.
pub fn draw(app: &App, frame: &mut Frame<'_>) {
    let keys = if app.waiting { " One moment …" } else { keys_of(app) };
    let inside = parts::page(frame, title_of(app), app.error.as_deref(), keys);
    match app.page {
        Page::Licence => {
            let licence = Paragraph::new(LICENCE).scroll((app.scroll, 0));
            frame.render_widget(licence, inside);
        }
        Page::Role => roles(app, frame, inside),
        Page::Disks => disks(app, frame, inside),
        Page::Network => network(app, frame, inside),
        Page::Working => working(app, frame, inside),
        Page::Summary => summary(app, frame, inside),
        _ => frame.render_widget(Paragraph::new(text(app)).wrap(Wrap { trim: false }), inside),
    }
}

fn title_of(app: &App) -> &'static str {
    match app.page {
        Page::Licence => "Install InfiMONITOR: licence",
        Page::Role => "Install InfiMONITOR: what this machine becomes",
        Page::Disks => "Install InfiMONITOR: disks",
        Page::Network | Page::Interface(_) | Page::Bond(_) => "Install InfiMONITOR: network",
        Page::System => "Install InfiMONITOR: name, time and keyboard",
        Page::Passwords => "Install InfiMONITOR: passwords",
        Page::Summary => "Install InfiMONITOR: summary",
        Page::Working => "Installing",
        Page::Failed => "Not installed",
        Page::Done => "Installed",
        Page::Leave => "Leave the installer",
    }
}

fn keys_of(app: &App) -> &'static str {
    match app.page {
        Page::Licence => " ↑ ↓ PgDn read · Enter accept · Ctrl-C leave",
        Page::Role => " ↑ ↓ choose · Enter next · Esc back · Ctrl-C leave",
        Page::Disks => " ↑ ↓ move · Space take or leave out · r look again · Enter next · Esc back",
        Page::Network => " ↑ ↓ move · Enter change, or next · Esc back · Ctrl-C leave",
        Page::Interface(_) | Page::Bond(_) | Page::System | Page::Passwords => {
            " Tab ↑ ↓ move · Enter next · Esc back · Ctrl-C leave"
        }
        Page::Summary => " PgDn PgUp read · Enter begin · Esc back · Ctrl-C leave",
        Page::Working => " Switched off before the end, the machine has to be installed from the beginning",
        Page::Failed => " Enter back to the summary · Ctrl-C leave",
        Page::Done => " Enter restart · p switch off",
        Page::Leave => " Enter restart the machine · p switch it off · Esc back to the installer",
    }
}

fn text(app: &App) -> Text<'_> {
    let mut lines: Vec<Line<'_>> = Vec::new();
    match app.page {
        Page::Interface(index) => {
            if let Some((link, _)) = app.links.get(index) {
                lines.push(format!("{}, {}, driver {}", link.name, link.mac, link.driver).into());
                lines.push("".into());
            }
            lines.extend(app.form.lines());
        }
        Page::Bond(index) => {
            lines.push(format!("bond{index}: network cards that act as one").into());
            lines.push("".into());
            lines.extend(app.form.lines());
        }
        Page::System | Page::Passwords => lines.extend(app.form.lines()),
        Page::Failed => {
            lines.push(
                "None of the chosen disks boots by a half installation. When what went wrong is mended, begin again."
                    .into(),
            );
        }
        Page::Done => done(app, &mut lines),
        Page::Leave => lines.push(
            "Nothing was installed. What was answered so far is lost when the machine restarts.".into(),
        ),
        _ => {}
    }
    Text::from(lines)
}

/// What will be done, and below it, always on the screen, the word.
fn summary(app: &App, frame: &mut Frame<'_>, area: Rect) {
    let [above, below] = Layout::vertical([Constraint::Fill(1), Constraint::Length(3)]).areas(area);
    let lines = app.summary_lines().into_iter().map(|(label, said)| format!("{label:10} {said}"));
    scrolled(frame, above, &lines.collect::<Vec<_>>(), app.scroll);
    let word = app.expected_word();
    let loss = if word == WORD {
        "All that is on these disks is lost. Type erase to begin:"
    } else {
        "The disks are blank. Type install to begin:"
    };
    let prompt = vec![Line::from(""), Line::styled(loss, Modifier::BOLD), field(&app.word)];
    frame.render_widget(Paragraph::new(prompt), below);
}

/// A text from a line on, at most so far that its end is seen; what is not on the screen is said.
fn scrolled(frame: &mut Frame<'_>, area: Rect, lines: &[String], from: u16) {
    let lines: Vec<String> =
        lines.iter().flat_map(|line| parts::wrapped(line, usize::from(area.width))).collect();
    let height = usize::from(area.height);
    if lines.len() <= height {
        let lines: Vec<Line<'_>> = lines.into_iter().map(Line::from).collect();
        return frame.render_widget(Paragraph::new(lines), area);
    }
    let shown = height.saturating_sub(1);
    let from = usize::from(from).min(lines.len() - shown);
    let below = lines.len() - shown - from;
    let mut page: Vec<Line<'_>> = lines.into_iter().skip(from).take(shown).map(Line::from).collect();
    let more = match (from, below) {
        (from, 0) => format!("({from} lines above: PgUp)"),
        (_, below) => format!("({below} more lines: PgDn)"),
    };
    page.push(Line::styled(more, marked()));
    frame.render_widget(Paragraph::new(page), area);
}

fn done<'a>(app: &App, lines: &mut Vec<Line<'a>>) {
    lines.push(format!("This machine is installed: {}.", role_title(app.role)).into());
    lines.push("".into());
    lines.push("1. Take the installation medium out.".into());
    lines.push("2. Restart. The first start takes some minutes.".into());
    let next = match app.role {
        provisioning::Role::BackupServer => {
            "3. Its console shows its address and the hash of its key. Pair it with the monitor: on the monitor's web page, \
             Settings → Backups, or by `monitor-link setup` there; the password is that of backup."
        }
        provisioning::Role::MonitorRecovery => {
            "3. Its console asks for the backup server then, and which backup is restored."
        }
        _ => "3. On its web page, Settings → Backups: enter the backup server's address and password.",
    };
    lines.push(next.into());
    lines.push("".into());
    lines.push("What was done is in /var/log/infimonitor-install.log of the installed machine.".into());
}

fn roles(app: &App, frame: &mut Frame<'_>, area: Rect) {
    let [rows, details] = Layout::vertical([Constraint::Length(5), Constraint::Fill(1)]).areas(area);
    let list = List::new(ROLES.iter().map(|(_, title, _)| format!(" {title}"))).highlight_style(marked());
    let mut state = ListState::default().with_selected(Some(app.marked));
    frame.render_stateful_widget(list, rows, &mut state);
    let details_text = ROLES.get(app.marked).map_or("", |(.., details)| *details);
    frame.render_widget(Paragraph::new(details_text).wrap(Wrap { trim: true }), details);
}

fn disks(app: &App, frame: &mut Frame<'_>, area: Rect) {
    let count = u16::try_from(app.machine.disks.len()).unwrap_or(u16::MAX).clamp(1, 7);
    let [rows, plan] = Layout::vertical([Constraint::Length(count), Constraint::Fill(1)]).areas(area);
    if app.machine.disks.is_empty() {
        let none =
            "The machine shows no disk. Attach one, or look whether its controller is set to AHCI or RAID.";
        frame.render_widget(Paragraph::new(none).wrap(Wrap { trim: true }), rows);
    } else {
        let lines = app.machine.disks.iter().map(|disk| row(disk, app.is_taken(disk)));
        let list = List::new(lines).highlight_style(marked());
        let mut state = ListState::default().with_selected(Some(app.marked));
        frame.render_stateful_widget(list, rows, &mut state);
    }
    let text = match &app.planned {
        Ok((planned, verdict)) => plan_text(planned, verdict, usize::from(area.width)),
        Err(error) => vec![error.clone()],
    };
    let block = Block::new().borders(Borders::TOP).title(" Plan ");
    let inside = block.inner(plan);
    frame.render_widget(block, plan);
    scrolled(frame, inside, &text, app.scroll);
}

fn row(disk: &Disk, is_taken: bool) -> String {
    let mark = if is_taken { 'x' } else { ' ' };
    let kind = if disk.rotational { "HDD" } else { "SSD" };
    let what = match &disk.raid_controller {
        Some(driver) => format!("RAID volume ({driver})"),
        None => kind.to_owned(),
    };
    let name = [&disk.model, &disk.serial].into_iter().flatten().cloned().collect::<Vec<_>>().join(" ");
    let holds = if disk.contents.is_empty() { "blank".to_owned() } else { disk.contents.join(", ") };
    let device = disk.device.display().to_string();
    format!("[{mark}] {device:12} {:>8} {what}  {name}  {holds}", gigabytes(disk.size_bytes))
}

fn plan_text(plan: &Plan, verdict: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> =
        plan.disks.iter().take(4).map(|planned| drawing(planned, plan, width)).collect();
    if plan.disks.len() > 4 {
        lines.push(format!("… and the same on {} more", plan.disks.len() - 4));
    }
    let starts = if plan.disks.len() > 1 { " The machine can start from each disk." } else { "" };
    lines.push(format!(
        "Data is kept as {}: {} for backups.{starts}",
        plan.profile.name(),
        gigabytes(plan.usable_bytes)
    ));
    lines.push(verdict.to_owned());
    lines.extend(plan.notes.iter().cloned());
    lines.extend(
        plan.left_out
            .iter()
            .map(|out| format!("{} is left alone: it {}.", out.disk.device.display(), out.reason)),
    );
    lines
}

/// A disk as a bar of its partitions; the last one, *data*, takes what is left of the line.
fn drawing(planned: &PlannedDisk, plan: &Plan, width: usize) -> String {
    let name = planned.disk.device.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let start = format!("{name:9}│esp│boot a b│root a b│state 2 GB│");
    let data = format!("data {}, {}", gigabytes(planned.data_bytes()), plan.profile.name());
    let room = width.saturating_sub(start.chars().count() + 2);
    format!("{start}{data:─^room$}│")
}

fn network(app: &App, frame: &mut Frame<'_>, area: Rect) {
    let all = app.network_rows();
    let count = u16::try_from(all.len()).unwrap_or(u16::MAX);
    let [rows_area, details] =
        Layout::vertical([Constraint::Max(count.saturating_add(1)), Constraint::Min(5)]).areas(area);
    let list = List::new(all.iter().map(|row| network_row(app, *row))).highlight_style(marked());
    let mut state = ListState::default().with_selected(Some(app.marked));
    frame.render_stateful_widget(list, rows_area, &mut state);
    let text = match all.get(app.marked) {
        Some(NetworkRow::Link(index)) => app.links.get(*index).map(|(link, interface)| {
            format!("{}, driver {}: {}", link.name, link.driver, told_of_link(app, link, interface.as_ref()))
        }),
        Some(NetworkRow::Bond(index)) => {
            app.bonds.get(*index).map(|bond| format!("{}: {}", bond.hardware, told(Some(bond))))
        }
        Some(NetworkRow::NewBond) => {
            Some("Two cards and more that act as one: when one fails, the others go on.".into())
        }
        _ => None,
    };
    if let Some(text) = text {
        frame.render_widget(Paragraph::new(text).wrap(Wrap { trim: true }), details);
    }
}

fn network_row(app: &App, row: NetworkRow) -> String {
    match row {
        NetworkRow::Link(index) => app.links.get(index).map_or(String::new(), |(link, interface)| {
            let carrier = match link.carrier {
                Some(true) => "connected",
                Some(false) => "no cable",
                None => "not up",
            };
            let told = told_of_link(app, link, interface.as_ref());
            format!(" {:10} {}  {carrier:10} {told}", link.name, link.mac)
        }),
        NetworkRow::Bond(index) => format!(" bond{index:<6} {}", told(app.bonds.get(index))),
        NetworkRow::NewBond => " Make a bond of cards".into(),
        NetworkRow::Continue => " Continue".into(),
    }
}

fn told_of_link(app: &App, link: &Link, interface: Option<&Interface>) -> String {
    app.bond_of(link).map_or_else(|| told(interface), |number| format!("in bond{number}"))
}

fn working(app: &App, frame: &mut Frame<'_>, area: Rect) {
    let [bar, figures, steps] =
        Layout::vertical([Constraint::Length(1), Constraint::Length(2), Constraint::Fill(1)]).areas(area);
    if let Some((done, total, elapsed)) = app.working.bytes {
        frame.render_widget(parts::bar(done, total), bar);
        let rate = (done as f64 / elapsed.as_secs_f64().max(0.1)) as u64;
        let left = (rate > 0).then(|| total.saturating_sub(done) / rate.max(1));
        frame.render_widget(Line::from(parts::figures(done, total, rate, left)), figures);
    }
    let steps_of = app.working.steps.iter();
    let lines = steps_of.flat_map(|step| parts::wrapped(step, usize::from(steps.width)));
    let lines: Vec<Line<'_>> = lines.map(Line::from).collect();
    let above = u16::try_from(lines.len()).unwrap_or(u16::MAX).saturating_sub(steps.height);
    frame.render_widget(Paragraph::new(lines).scroll((above, 0)), steps);
}

#[cfg(test)]
mod tests {
    use super::super::app::testing::{app, disk, link, to_summary};
    use super::super::app::{Message, Page};
    use super::*;
    use std::time::{Duration, Instant};

    fn shown(app: &App) -> String {
        screen::testing::shown(|frame| draw(app, frame))
    }

    #[test]
    fn every_page_says_what_it_is_about_and_its_keys() {
        let mut app =
            app(vec![disk("sda", &[]), disk("sdb", &[]), disk("sdc", &["ntfs \"Photos\" on /dev/sdc1"])]);
        to_summary(&mut app);
        let now = Instant::now();
        app.take(Message::Step("writing the system to /dev/sda".into()));
        app.take(Message::Bytes { done: 0, total: 1_000_000_000, at: now });
        app.take(Message::Bytes {
            done: 500_000_000,
            total: 1_000_000_000,
            at: now + Duration::from_secs(5),
        });
        let table: [(Page, &[&str]); 9] = [
            (Page::Licence, &["Apache License", "Enter accept"]),
            (Page::Role, &["InfiMONITOR Backup Server", "Follows a monitor's database"]),
            (
                Page::Disks,
                &[
                    "[x] /dev/sda       500 GB SSD  EVO S-sda  blank",
                    "[ ] /dev/sdc",
                    "│esp│boot a b│root a b│state 2 GB│─",
                    "Data is kept as raid1: 495 GB for backups.",
                    "/dev/sdc is left alone: it is not empty",
                    "The machine suits a monitor with up to 2000 devices",
                ],
            ),
            (
                Page::Network,
                &["eth0", "52:54:00:00:00:01  connected", "eth0, driver e1000e: DHCP", "Continue"],
            ),
            (Page::Passwords, &["Password of backup", "The same, so that no slip", "•••••••••"]),
            (
                Page::Summary,
                &["Host name  backup-server", "(500 GB, EVO, S-sda), blank", "Type install to begin:"],
            ),
            (
                Page::Working,
                &["writing the system to /dev/sda", "50%", "0.50 GB of 1.00 GB, 100 MB/s, 5 s left"],
            ),
            (Page::Done, &["1. Take the installation medium out.", "Settings → Backups"]),
            (Page::Leave, &["Nothing was installed", "p switch it off"]),
        ];
        for (page, parts) in table {
            (app.page, app.marked) = (page, 0);
            let shown = shown(&app);
            for part in parts {
                assert!(shown.contains(part), "{part:?} is not in\n{shown}");
            }
            assert!(!shown.contains("console-1") && !shown.contains("network-1"));
        }
    }

    #[test]
    fn a_bond_is_shown_with_its_cards() {
        let mut app = app(vec![disk("sda", &[])]);
        app.links.push((link("eth1", "52:54:00:00:00:02"), None));
        let answers = provisioning::Answers::from_yaml(
            "role: monitor\nnetwork:\n  - bond: {mode: 802.3ad, members: [eth0, eth1]}\n    addresses: [10.0.0.2/8]\n",
        );
        app.bonds = answers.unwrap().network;
        (app.page, app.marked) = (Page::Network, 2);
        let network = shown(&app);
        for part in [
            "connected  in bond0",
            "bond0      802.3ad, 10.0.0.2/8",
            "the bond of eth0 and eth1: 802.3ad",
            "Make a bond",
        ] {
            assert!(network.contains(part), "{part:?} is not in\n{network}");
        }
        app.page = Page::Bond(0);
        assert!(shown(&app).contains("bond0: network cards that act as one"));
        let summary = app.summary_lines().into_iter().map(|(_, said)| said).collect::<Vec<_>>();
        assert!(summary.contains(&"eth1: in bond0".to_owned()), "{summary:?}");
        assert!(summary.contains(&"bond0: 802.3ad, 10.0.0.2/8".to_owned()), "{summary:?}");
        assert!(summary.iter().any(|said| said == "UTC, NTP servers: Debian's"), "{summary:?}");
    }

    #[test]
    fn however_many_disks_there_are_the_word_and_the_way_to_the_rest_are_on_the_screen() {
        let disks = (b'a'..=b'h').map(|letter| {
            disk(&format!("sd{}", char::from(letter)), &["ext4 \"Photos of a whole year\" on a partition"])
        });
        let mut app = app(disks.collect());
        app.page = Page::Disks;
        for _ in 0..8 {
            use screen::ratatui::crossterm::event::KeyCode::{Char, Down};
            super::super::app::testing::press(&mut app, Char(' '));
            super::super::app::testing::press(&mut app, Down);
        }
        app.page = Page::Summary;
        let mut seen = String::new();
        for _ in 0..4 {
            let shown = shown(&app);
            assert!(shown.contains("Type erase to begin:") && shown.contains("  █"), "{shown}");
            assert!(shown.contains("PgDn)") || shown.contains("PgUp)"), "{shown}");
            seen += &shown;
            super::super::app::testing::press(&mut app, screen::ratatui::crossterm::event::KeyCode::PageDown);
        }
        for letter in 'a'..='h' {
            assert!(seen.contains(&format!("S-sd{letter}), ERASED")), "sd{letter} is not in\n{seen}");
        }
        assert!(seen.contains("Keyboard   us"), "{seen}");
    }

    #[test]
    fn what_is_lost_is_said_before_the_word_is_typed() {
        let mut app = app(vec![disk("sda", &["ext4 \"Photos\" on /dev/sda1"])]);
        app.page = Page::Disks;
        super::super::app::testing::press(&mut app, screen::ratatui::crossterm::event::KeyCode::Char(' '));
        app.page = Page::Summary;
        let shown = shown(&app);
        for part in ["ERASED: ext4 \"Photos\" on /dev/sda1", "All that is on these disks is lost. Type erase"]
        {
            assert!(shown.contains(part), "{part:?} is not in\n{shown}");
        }
    }
}
