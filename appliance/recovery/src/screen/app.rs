//! What is on the screen and what follows from a key or a result. Pure: work is asked for as [`Task`]s, which are done
//! elsewhere, and its results come back as [`Message`]s.

use std::time::{Duration, Instant};

use api::Progress;
use recovery::server::Before;
use recovery::steps::{Event, Step};
use replica::{CopyProgress, meter};
use screen::Typed;
use screen::parts::edit;
use screen::ratatui::crossterm::event::{KeyCode, KeyEvent};

/// What is typed before hours of work are removed.
pub const ABANDON: &str = "abandon";

/// A backup as it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The name by which [`recovery::server::Server::choose`] finds it.
    pub name: String,
    /// Its id.
    pub id: String,
    /// When it was made, for people.
    pub created: String,
    /// Version of the monitor.
    pub version: String,
    /// Bytes of its files.
    pub bytes: u64,
    /// Whether it was verified, in words.
    pub verified: &'static str,
    /// What somebody wrote about it.
    pub comment: String,
    /// Why it cannot be restored here.
    pub obstacles: Vec<String>,
}

/// How far the work is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Working {
    /// The step that runs.
    pub step: Option<Step>,
    /// The download, while it runs.
    pub progress: Option<Progress>,
    /// What is replayed, while it is.
    pub replayed: Option<(String, String)>,
    /// Where the download began, and when.
    pub began: Option<(u64, Instant)>,
}

/// What the journal of a restore says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnderWay {
    /// What it is, as a sentence.
    pub text: String,
    /// The server is needed to go on.
    pub needs_server: bool,
    /// It is restored already.
    pub is_live: bool,
}

/// A failure, and what is under way after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    /// What went wrong.
    pub text: String,
    /// Where it can go on.
    pub under_way: Option<UnderWay>,
}

/// What is asked or shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Page {
    /// A restore was cut; whether it goes on.
    UnderWay(UnderWay),
    /// Whether what it has made is really removed.
    Abandon(UnderWay),
    /// The server's address.
    Address,
    /// The key that it shows.
    Fingerprint(String),
    /// The password.
    Password,
    /// Which backup.
    List {
        /// The one that is marked.
        marked: usize,
    },
    /// What will be done, before it is.
    Preflight(Row),
    /// What of the monitor's configuration would run something, as sentences; whether it is applied.
    Configuration(Row, Vec<String>),
    /// It is done.
    Working(Working),
    /// It is restored; whether to pair.
    Restored,
    /// All is done.
    Done,
    /// Something small is waited for; what, as a sentence.
    Waiting(&'static str),
}

/// What is to be done outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Task {
    /// Ask the server for its key.
    Look(String),
    /// Show the password to the server with this key, and get the list.
    Open {
        /// Address of the server.
        address: String,
        /// Its key.
        fingerprint: String,
        /// The password.
        password: Typed,
    },
    /// Restore the backup of this name; `None`: what is under way.
    Restore(Option<String>),
    /// Pair with the server again.
    Pair(Before),
    /// Look at the configuration of the backup of this name.
    Judge(String),
    /// Restore the backup of this name with all of its configuration.
    RestoreAll(String),
    /// Remove the data that was there before.
    Confirm,
    /// Remove what is under way.
    Abandon,
    /// The restore is done: the node is a monitor from its next boot on.
    Settle,
}

/// What has happened.
#[derive(Debug)]
pub enum Message {
    /// A key.
    Key(KeyEvent),
    /// The server's key.
    Looked(Result<String, String>),
    /// The server's backups.
    Opened(Result<Vec<Row>, String>),
    /// From a restore or a pairing that runs.
    Told(Event, Instant),
    /// A restore has ended.
    Restored(Result<(), Failed>),
    /// What of the configuration would run something.
    Judged(Result<Vec<String>, String>),
    /// A pairing has ended.
    Paired(Result<(), String>),
    /// The old data is removed, or not. What should be known of it.
    Confirmed(Result<Vec<String>, String>),
    /// What was under way is removed, or not.
    Abandoned(Result<(), Failed>),
    /// Nothing was done: another restore runs.
    Refused(String),
    /// The node is a monitor from now on, or could not be made one.
    Settled(Result<(), String>),
}

/// The whole state.
#[derive(Debug)]
pub struct App {
    /// What is on the screen.
    pub page: Page,
    /// The server's address as typed.
    pub address: String,
    /// The password as typed.
    pub password: Typed,
    /// The word as typed.
    pub word: String,
    /// The server's backups.
    pub rows: Vec<Row>,
    /// What went wrong last.
    pub error: Option<String>,
    /// What should be known of the restore.
    pub notes: Vec<String>,
    /// The data that was there before is removed.
    pub removed: bool,
    /// A pairing has failed, perhaps because what the server has cannot be kept.
    pub pairing_failed: bool,
    /// The program ends.
    pub ended: bool,
    /// The page on which the last task was asked for.
    asked_on: Page,
    fingerprint: String,
    /// What the server is asked for.
    aim: Aim,
    /// The page from which the server was asked for.
    asked_server_on: Option<Page>,
    /// The server is known, so that pairing is possible.
    opened: bool,
}

/// What follows when the server has taken the password.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Aim {
    /// A backup is chosen.
    Choose,
    /// What was cut goes on.
    GoOn,
    /// What is restored is paired.
    Pair,
}

impl App {
    /// The first page; `under_way`: what was cut.
    pub fn new(under_way: Option<UnderWay>) -> Self {
        let page = Self::page_of(under_way, Page::Address);
        Self {
            page,
            address: String::new(),
            password: Typed::default(),
            word: String::new(),
            rows: Vec::new(),
            error: None,
            notes: Vec::new(),
            removed: false,
            pairing_failed: false,
            ended: false,
            asked_on: Page::Address,
            fingerprint: String::new(),
            aim: Aim::Choose,
            asked_server_on: None,
            opened: false,
        }
    }

    /// What follows.
    pub fn update(&mut self, message: Message) -> Option<Task> {
        match message {
            Message::Key(key) => return self.key(key),
            Message::Looked(Ok(fingerprint)) => {
                self.fingerprint.clone_from(&fingerprint);
                self.page = Page::Fingerprint(fingerprint);
            }
            Message::Looked(Err(error)) => self.fail(error, Page::Address),
            Message::Opened(Ok(rows)) => return self.opened_with(rows),
            Message::Opened(Err(error)) => {
                self.password = Typed::default();
                self.fail(error, Page::Password);
            }
            Message::Judged(judged) => return self.judged(judged),
            Message::Told(event, now) => self.told(event, now),
            Message::Restored(Ok(())) => self.page = Page::Restored,
            Message::Restored(Err(failed)) | Message::Abandoned(Err(failed)) => {
                let page = Self::page_of(failed.under_way, self.page_of_choice());
                self.fail(failed.text, page);
            }
            Message::Paired(Ok(())) => {
                self.page = Page::Done;
                return Some(Task::Settle);
            }
            Message::Paired(Err(error)) => {
                self.pairing_failed = true;
                self.fail(error, Page::Restored);
            }
            Message::Confirmed(Ok(notes)) => {
                self.notes.extend(notes);
                self.removed = true;
                self.page = Page::Done;
            }
            Message::Confirmed(Err(error)) => self.fail(error, Page::Done),
            Message::Abandoned(Ok(())) => {
                (self.aim, self.asked_server_on) = (Aim::Choose, None);
                self.page = self.page_of_choice();
            }
            Message::Refused(error) => self.fail(error, self.asked_on.clone()),
            Message::Settled(Ok(())) => {}
            Message::Settled(Err(error)) => self.error = Some(error),
        }
        None
    }

    /// With nothing to decide it goes on.
    fn judged(&mut self, judged: Result<Vec<String>, String>) -> Option<Task> {
        match (judged, self.asked_on.clone()) {
            (Ok(asides), Page::Preflight(row)) if asides.is_empty() => {
                self.page = Page::Working(Working::default());
                Some(Task::Restore(Some(row.name)))
            }
            (Ok(asides), Page::Preflight(row)) => {
                self.page = Page::Configuration(row, asides);
                None
            }
            (Ok(_), page) => {
                self.page = page;
                None
            }
            (Err(error), page) => {
                self.fail(error, page);
                None
            }
        }
    }

    fn fail(&mut self, error: String, page: Page) {
        self.error = Some(error);
        self.page = page;
    }

    /// Where it goes on by what the journal says; `else_page`: nothing is under way.
    fn page_of(under_way: Option<UnderWay>, else_page: Page) -> Page {
        match under_way {
            Some(UnderWay { is_live: true, .. }) => Page::Restored,
            Some(under_way) => Page::UnderWay(under_way),
            None => else_page,
        }
    }

    /// Where a backup is chosen.
    fn page_of_choice(&self) -> Page {
        if self.opened { Page::List { marked: 0 } } else { Page::Address }
    }

    /// Asks for the server first.
    fn ask_server(&mut self, aim: Aim) {
        self.asked_server_on = Some(self.page.clone());
        (self.aim, self.page) = (aim, Page::Address);
    }

    fn opened_with(&mut self, rows: Vec<Row>) -> Option<Task> {
        self.rows = rows;
        self.opened = true;
        self.asked_server_on = None;
        let task = match std::mem::replace(&mut self.aim, Aim::Choose) {
            Aim::Choose => {
                self.page = Page::List { marked: 0 };
                return None;
            }
            Aim::GoOn => Task::Restore(None),
            Aim::Pair => Task::Pair(Before::Kept),
        };
        self.page = Page::Working(Working::default());
        Some(task)
    }

    fn told(&mut self, event: Event, now: Instant) {
        let Page::Working(working) = &mut self.page else { return };
        match event {
            Event::Step { step } => {
                *working = Working { step: Some(step), ..Working::default() };
            }
            Event::Downloaded { bytes, total } => {
                let (from, since) = *working.began.get_or_insert((bytes, now));
                // The rate is that of this run, the percentage that of the whole.
                let copied = CopyProgress { done: bytes - from, total: total.saturating_sub(from) };
                let elapsed = now.checked_duration_since(since).unwrap_or(Duration::ZERO);
                let whole = meter(CopyProgress { done: bytes, total }, elapsed);
                let now = meter(copied, elapsed);
                working.progress = Some(Progress { rate: now.rate, seconds_left: now.seconds_left, ..whole });
            }
            Event::Replayed { lsn, target } => working.replayed = Some((lsn, target)),
            Event::Note { text } => self.notes.push(text),
            // Whoever has chosen it knows.
            Event::Chosen { .. } => {}
        }
    }

    fn key(&mut self, key: KeyEvent) -> Option<Task> {
        if screen::is_interrupt(key) {
            self.ended = true;
            return None;
        }
        // The error was seen.
        self.error = None;
        let page = self.page.clone();
        let task = self.key_on(page.clone(), key.code);
        if task.is_some() {
            self.asked_on = page;
        }
        task
    }

    fn key_on(&mut self, page: Page, code: KeyCode) -> Option<Task> {
        match (page, code) {
            (Page::UnderWay(under_way), KeyCode::Enter) => {
                if under_way.needs_server && !self.opened {
                    self.ask_server(Aim::GoOn);
                    return None;
                }
                self.page = Page::Working(Working::default());
                return Some(Task::Restore(None));
            }
            (Page::UnderWay(under_way), KeyCode::Char('a')) => {
                self.word.clear();
                self.page = Page::Abandon(under_way);
            }
            (Page::Abandon(under_way), KeyCode::Esc) => self.page = Page::UnderWay(under_way),
            (Page::Abandon(_), KeyCode::Enter) if self.word.trim() == ABANDON => {
                self.page = Page::Waiting("Removing what the restore has made …");
                return Some(Task::Abandon);
            }
            (Page::Abandon(_), KeyCode::Enter) => self.error = Some(format!("Type {ABANDON} to go on.")),
            (Page::Abandon(_), code) => edit(&mut self.word, code),
            (Page::Address, KeyCode::Esc) => {
                if let Some(page) = self.asked_server_on.take() {
                    (self.aim, self.page) = (Aim::Choose, page);
                }
            }
            (Page::Address, KeyCode::Enter) if !self.address.trim().is_empty() => {
                self.page = Page::Waiting("Asking the backup server for its key …");
                return Some(Task::Look(self.address.trim().to_owned()));
            }
            (Page::Address, code) => edit(&mut self.address, code),
            (Page::Fingerprint(_), KeyCode::Char('y')) => self.page = Page::Password,
            (Page::Fingerprint(_), KeyCode::Esc) => self.page = Page::Address,
            (Page::Password, KeyCode::Esc) => self.page = Page::Fingerprint(self.fingerprint.clone()),
            (Page::Password, KeyCode::Enter) if !self.password.0.is_empty() => {
                self.page = Page::Waiting("Asking for the backups …");
                let (address, fingerprint) = (self.address.trim().to_owned(), self.fingerprint.clone());
                return Some(Task::Open {
                    address,
                    fingerprint,
                    password: std::mem::take(&mut self.password),
                });
            }
            (Page::Password, code) => edit(&mut self.password.0, code),
            (Page::List { .. }, KeyCode::Esc) => self.page = Page::Address,
            (Page::List { marked }, KeyCode::Up) => {
                self.page = Page::List { marked: marked.saturating_sub(1) };
            }
            (Page::List { marked }, KeyCode::Down) => {
                self.page = Page::List { marked: (marked + 1).min(self.rows.len().saturating_sub(1)) };
            }
            (Page::List { marked }, KeyCode::Enter) => {
                if let Some(row) = self.rows.get(marked).filter(|row| row.obstacles.is_empty()) {
                    self.page = Page::Preflight(row.clone());
                }
            }
            (Page::Preflight(row), KeyCode::Enter) => {
                self.page = Page::Waiting("Looking at the monitor's configuration …");
                return Some(Task::Judge(row.name));
            }
            (Page::Configuration(row, _), KeyCode::Enter) => {
                self.page = Page::Working(Working::default());
                return Some(Task::Restore(Some(row.name)));
            }
            (Page::Configuration(row, _), KeyCode::Char('x')) => {
                self.page = Page::Working(Working::default());
                return Some(Task::RestoreAll(row.name));
            }
            (Page::Configuration(row, _), KeyCode::Esc) => self.page = Page::Preflight(row),
            (Page::Preflight(_), KeyCode::Esc) => self.page = Page::List { marked: 0 },
            (Page::Restored, KeyCode::Enter) => {
                if self.opened {
                    self.page = Page::Working(Working::default());
                    return Some(Task::Pair(Before::Kept));
                }
                self.ask_server(Aim::Pair);
            }
            (Page::Restored, KeyCode::Char('w')) if self.pairing_failed => {
                self.page = Page::Working(Working::default());
                return Some(Task::Pair(Before::MayBeLost));
            }
            (Page::Restored, KeyCode::Char('s')) => {
                self.page = Page::Done;
                return Some(Task::Settle);
            }
            (Page::Done, KeyCode::Char('c')) if !self.removed => {
                self.page = Page::Waiting("Removing the data that was there before …");
                return Some(Task::Confirm);
            }
            (Page::Done, KeyCode::Enter) => self.ended = true,
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn app(needs_server_and_is_live: Option<(bool, bool)>) -> App {
        App::new(needs_server_and_is_live.map(under_way))
    }

    fn under_way((needs_server, is_live): (bool, bool)) -> UnderWay {
        UnderWay { text: "Cut.".into(), needs_server, is_live }
    }

    fn failed(needs_server_and_is_live: Option<(bool, bool)>) -> Failed {
        Failed { text: "It failed.".into(), under_way: needs_server_and_is_live.map(under_way) }
    }

    fn row(name: &str, obstacles: &[&str]) -> Row {
        Row {
            name: name.into(),
            id: name.into(),
            created: "2026-11-26 03:00 UTC".into(),
            version: "1.2".into(),
            bytes: 2_000_000_000,
            verified: "verified",
            comment: String::new(),
            obstacles: obstacles.iter().map(|&text| text.to_owned()).collect(),
        }
    }

    /// Types words: one character each, or a key by its name.
    fn typed(app: &mut App, keys: &str) -> Option<Task> {
        let mut task = None;
        for word in keys.split(' ') {
            let codes = match word {
                "Enter" => vec![KeyCode::Enter],
                "Esc" => vec![KeyCode::Esc],
                "Down" => vec![KeyCode::Down],
                "Up" => vec![KeyCode::Up],
                "Back" => vec![KeyCode::Backspace],
                text => text.chars().map(KeyCode::Char).collect(),
            };
            for code in codes {
                task = app.update(Message::Key(KeyEvent::from(code)));
            }
        }
        task
    }

    #[test]
    fn the_way_from_the_address_to_the_end() {
        let mut app = app(None);
        assert_eq!(typed(&mut app, "Enter"), None, "nothing was typed");
        assert_eq!(typed(&mut app, "10.0.0.22 Back Enter"), Some(Task::Look("10.0.0.2".into())));
        app.update(Message::Looked(Ok("sha256//x".into())));
        assert_eq!(typed(&mut app, "Enter"), None, "the key is not confirmed by the way");
        assert_eq!(app.page, Page::Fingerprint("sha256//x".into()));
        let open = Task::Open {
            address: "10.0.0.2".into(),
            fingerprint: "sha256//x".into(),
            password: Typed("secret".into()),
        };
        assert_eq!(typed(&mut app, "y secret Enter"), Some(open));
        assert_eq!(app.password, Typed::default(), "it is not kept");
        app.update(Message::Opened(Ok(vec![
            row("new", &["It is of monitor version 1.3."]),
            row("old", &[]),
        ])));
        assert_eq!(typed(&mut app, "Enter"), None, "it cannot be restored here");
        typed(&mut app, "Down Down Enter");
        assert_eq!(app.page, Page::Preflight(row("old", &[])));
        assert_eq!(typed(&mut app, "Enter"), Some(Task::Judge("old".into())));
        let nothing = app.update(Message::Judged(Ok(Vec::new())));
        assert_eq!(nothing, Some(Task::Restore(Some("old".into()))));
        app.update(Message::Restored(Ok(())));
        assert_eq!(typed(&mut app, "Enter"), Some(Task::Pair(Before::Kept)));
        assert_eq!(app.update(Message::Paired(Ok(()))), Some(Task::Settle));
        assert_eq!(typed(&mut app, "c"), Some(Task::Confirm));
        app.update(Message::Confirmed(Ok(vec!["A note.".into()])));
        assert_eq!((&app.page, app.notes.as_slice()), (&Page::Done, &["A note.".to_owned()][..]));
        assert_eq!(typed(&mut app, "c"), None, "there is nothing more to remove");
        typed(&mut app, "Enter");
        assert!(app.ended);
    }

    #[test]
    fn each_failure_leads_to_where_it_can_be_mended() {
        let mut app = app(None);
        typed(&mut app, "a Enter");
        app.update(Message::Looked(Err("no answer".into())));
        assert_eq!((&app.page, app.error.as_deref()), (&Page::Address, Some("no answer")));
        typed(&mut app, "Enter");
        assert_eq!(app.error, None);
        app.update(Message::Looked(Ok("k".into())));
        typed(&mut app, "y wrong Enter");
        app.update(Message::Opened(Err("refused".into())));
        assert_eq!(app.page, Page::Password);
        typed(&mut app, "right Enter");
        app.update(Message::Opened(Ok(vec![row("x", &[])])));
        typed(&mut app, "Enter Enter");
        app.update(Message::Refused("another console".into()));
        assert!(matches!(app.page, Page::Preflight(_)), "{:?}", app.page);
        typed(&mut app, "Enter");
        app.update(Message::Judged(Ok(Vec::new())));
        app.update(Message::Restored(Err(failed(None))));
        assert_eq!(app.page, Page::List { marked: 0 }, "it has not begun");
        typed(&mut app, "Enter Enter");
        app.update(Message::Judged(Ok(Vec::new())));
        app.update(Message::Restored(Err(failed(Some((true, false))))));
        assert_eq!(app.page, Page::UnderWay(under_way((true, false))));
        assert_eq!(typed(&mut app, "Enter"), Some(Task::Restore(None)), "the server is known");
        app.update(Message::Restored(Err(failed(Some((false, false))))));
        assert_eq!(typed(&mut app, "a aban Enter"), None);
        assert_eq!((typed(&mut app, "don Enter"), app.error.take()), (Some(Task::Abandon), None));
        app.update(Message::Abandoned(Err(failed(Some((false, false))))));
        assert_eq!(app.page, Page::UnderWay(under_way((false, false))));
        typed(&mut app, "a abandon Enter");
        app.update(Message::Abandoned(Ok(())));
        assert_eq!(app.page, Page::List { marked: 0 });
        typed(&mut app, "Enter Enter");
        app.update(Message::Judged(Ok(Vec::new())));
        app.update(Message::Restored(Ok(())));
        assert_eq!(typed(&mut app, "w"), None, "it is tried with the backup first");
        typed(&mut app, "Enter");
        app.update(Message::Paired(Err("no".into())));
        assert_eq!(app.page, Page::Restored);
        assert_eq!(typed(&mut app, "w"), Some(Task::Pair(Before::MayBeLost)));
        app.update(Message::Paired(Err("no".into())));
        assert_eq!(typed(&mut app, "s"), Some(Task::Settle));
        assert_eq!(app.page, Page::Done);
    }

    #[test]
    fn what_would_run_something_is_applied_only_when_somebody_says_so() {
        let mut app = app(None);
        typed(&mut app, "a Enter");
        app.update(Message::Looked(Ok("k".into())));
        typed(&mut app, "y p Enter");
        app.update(Message::Opened(Ok(vec![row("x", &[])])));
        typed(&mut app, "Enter Enter");
        app.update(Message::Judged(Err("no answer".into())));
        assert_eq!((&app.page, app.error.as_deref()), (&Page::Preflight(row("x", &[])), Some("no answer")));
        let asides = vec!["It runs a program.".to_owned()];
        for (key, expected) in
            [("Enter", Task::Restore(Some("x".into()))), ("x", Task::RestoreAll("x".into()))]
        {
            app.page = Page::Preflight(row("x", &[]));
            typed(&mut app, "Enter");
            assert_eq!(app.update(Message::Judged(Ok(asides.clone()))), None);
            assert_eq!(app.page, Page::Configuration(row("x", &[]), asides.clone()));
            typed(&mut app, "Esc Enter");
            app.update(Message::Judged(Ok(asides.clone())));
            assert_eq!(typed(&mut app, key), Some(expected));
        }
    }

    #[test]
    fn what_was_cut_goes_on() {
        // After the download the server is not needed.
        assert_eq!(typed(&mut app(Some((false, false))), "Enter"), Some(Task::Restore(None)));
        let mut cut = app(Some((false, false)));
        assert_eq!(typed(&mut cut, "a Esc"), None);
        assert_eq!(cut.page, Page::UnderWay(under_way((false, false))));
        // From where the server is asked for it goes back, and what was begun is forgotten with it.
        let mut cut = app(Some((true, false)));
        typed(&mut cut, "Enter Esc");
        assert_eq!(cut.page, Page::UnderWay(under_way((true, false))));
        // Before its end it is asked for, and then nothing is chosen.
        let mut cut = app(Some((true, false)));
        typed(&mut cut, "Enter a Enter");
        cut.update(Message::Looked(Ok("k".into())));
        typed(&mut cut, "y p Enter");
        assert_eq!(cut.update(Message::Opened(Ok(vec![]))), Some(Task::Restore(None)));
        // Restored and not paired: the server is asked for first.
        let mut live = app(Some((false, true)));
        typed(&mut live, "Enter a Enter");
        live.update(Message::Looked(Ok("k".into())));
        typed(&mut live, "y p Enter");
        assert_eq!(live.update(Message::Opened(Ok(vec![]))), Some(Task::Pair(Before::Kept)));
    }

    #[test]
    fn the_rate_is_that_of_this_run_and_the_percentage_that_of_the_whole() {
        let mut app = app(None);
        app.page = Page::Working(Working::default());
        let begin = Instant::now();
        let mut tell = |bytes, seconds| {
            let now = begin + Duration::from_secs(seconds);
            app.update(Message::Told(Event::Downloaded { bytes, total: 1000 }, now));
            let Page::Working(working) = &app.page else { panic!("{:?}", app.page) };
            working.progress.unwrap()
        };
        assert_eq!(tell(500, 0).percent, 50);
        let Progress { percent, rate, seconds_left, .. } = tell(700, 2);
        assert_eq!((percent, rate, seconds_left), (70, 100, Some(3)));
    }

    #[test]
    fn the_password_is_in_no_debug_output() {
        let mut app = app(None);
        app.page = Page::Password;
        typed(&mut app, "secret");
        assert!(!format!("{app:?}").contains("secret"));
    }
}
