//! What is on the screen and what follows from a key or a result. Pure: work is asked for as [`Task`]s, which are done
//! elsewhere, and its results come back as [`Message`]s.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use provisioning::answers::{Interface, Then};
use provisioning::{Answers, Role};
use screen::ratatui::crossterm::event::{KeyCode, KeyEvent};
use screen::{Form, form};
use storage::inventory::Disk;
use storage::plan::{Filter, Plan, Wish};

use super::typed::{self, Passwords, System, Wrong};
use crate::links::{self, Link};
use crate::machine::Machine;

/// What is typed before all on the disks is lost.
pub const WORD: &str = "erase";
/// Lines of a text that a page key turns.
const TURNED: u16 = 12;
/// The same where nothing is lost.
pub const WORD_FOR_BLANK: &str = "install";
/// The roles that are installed, in the order in which they are shown, and what each is.
pub const ROLES: [(Role, &str, &str); 3] = [
    (
        Role::BackupServer,
        "InfiMONITOR Backup Server",
        "Follows a monitor's database in real time, makes backups and serves them.",
    ),
    (Role::Monitor, "InfiMONITOR (monitoring node)", "PostgreSQL and what connects it with a backup server."),
    (
        Role::MonitorRecovery,
        "Monitoring node, restored from a backup",
        "The same; its first start asks for the backup server and the backup.",
    ),
];

/// What is asked or shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Page {
    /// The licence.
    Licence,
    /// What the machine becomes.
    Role,
    /// Its disks, and the plan for them.
    Disks,
    /// Its interfaces.
    Network,
    /// One of them.
    Interface(usize),
    /// A bond of some of them; the number after the last: a new one.
    Bond(usize),
    /// Host name, time, keyboard.
    System,
    /// Passwords.
    Passwords,
    /// All of it, before anything is erased.
    Summary,
    /// It is done.
    Working,
    /// It was not done.
    Failed,
    /// It is done.
    Done,
    /// Whether the machine is restarted instead.
    Leave,
}

/// A row on the page of the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetworkRow {
    /// A card.
    Link(usize),
    /// A bond.
    Bond(usize),
    /// A bond that is to be made.
    NewBond,
    /// The way to the next page.
    Continue,
}

/// What is to be done outside.
#[derive(Debug, PartialEq, Eq)]
pub enum Task {
    /// Look at the machine again.
    Look,
    /// Put a keymap into force.
    Keymap(String),
    /// Install.
    Install(Box<Installation>),
    /// End the machine's run.
    Then(Then),
}

/// What is installed.
#[derive(Debug, PartialEq, Eq)]
pub struct Installation {
    /// On which disks.
    pub plan: Plan,
    /// As what; with the hashes that were given.
    pub answers: Answers,
    /// What was typed in the place of hashes.
    pub passwords: Passwords,
}

/// What has happened.
#[derive(Debug)]
pub enum Message {
    /// The machine was looked at.
    Looked(Result<Machine, String>),
    /// The keymap is in force, or not.
    Keymap(Result<(), String>),
    /// A step began.
    Step(String),
    /// So many bytes are written.
    Bytes {
        /// Of them.
        done: u64,
        /// Of all.
        total: u64,
        /// When.
        at: Instant,
    },
    /// The installation has ended.
    Installed(Result<(), String>),
    /// Nothing was done: another console installs.
    Refused(String),
}

/// How far the installation is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Working {
    /// The steps so far.
    pub steps: Vec<String>,
    /// Bytes that are written, of all, and the time since the first.
    pub bytes: Option<(u64, u64, Duration)>,
    began: Option<Instant>,
}

/// A plan, and for whom the machine is large enough then; or why there is none.
pub type Planned = Result<(Plan, String), String>;

/// The whole state.
#[derive(Debug)]
pub struct App {
    /// What is on the screen.
    pub page: Page,
    /// What went wrong last.
    pub error: Option<String>,
    /// The first line of the licence that is shown.
    pub scroll: u16,
    /// The row that is marked on a page with a list.
    pub marked: usize,
    /// What the machine becomes.
    pub role: Role,
    /// The machine.
    pub machine: Machine,
    /// The plan for its disks.
    pub planned: Planned,
    /// Its interfaces, and what each is told.
    pub links: Vec<(Link, Option<Interface>)>,
    /// Bonds of them.
    pub bonds: Vec<Interface>,
    /// That the answers name an interface which is not here.
    unknown: Option<String>,
    /// The page with fields that is open.
    pub form: Form,
    /// Host name and the like, once its page was left.
    pub system: Option<System>,
    /// The word that is typed on the summary.
    pub word: String,
    /// The work.
    pub working: Working,
    /// Whether what runs outside is waited for.
    pub waiting: bool,
    /// The program ends.
    pub ended: bool,
    /// The disks that somebody chose; `None`: nobody did, and the plan chooses.
    chosen: Option<Vec<PathBuf>>,
    given: Answers,
    passwords: Passwords,
    left_from: Page,
}

impl App {
    /// The first page. `given`: what the pages show at first.
    pub fn new(given: Answers, machine: Machine, links: Vec<Link>) -> Self {
        let (network, unknown) = match links::resolved(&given.network, &links) {
            Ok(network) => (network, None),
            // What is here is shown as it was answered.
            Err(error) => (given.network.clone(), Some(format!("In the answers, {error:#}."))),
        };
        let of = |link: Link| {
            let interface = network.iter().find(|interface| interface.mac() == Some(&link.mac)).cloned();
            (link, interface)
        };
        let is_here = |interface: &Interface| {
            interface
                .bond()
                .is_some_and(|bond| bond.members.iter().all(|member| links::found(member, &links).is_some()))
        };
        let bonds = network.iter().filter(|interface| is_here(interface)).cloned().collect();
        let links = links.into_iter().map(of).collect();
        let role = given.role;
        let mut app = Self {
            page: Page::Licence,
            error: None,
            scroll: 0,
            marked: 0,
            role,
            machine,
            planned: Err(String::new()),
            links,
            bonds,
            unknown,
            form: Form::new(Vec::new()),
            system: None,
            word: String::new(),
            working: Working::default(),
            waiting: false,
            ended: false,
            chosen: None,
            given,
            passwords: Passwords::default(),
            left_from: Page::Licence,
        };
        app.plan();
        app
    }

    /// The word that has to be typed.
    pub fn expected_word(&self) -> &'static str {
        let erases = |plan: &Plan| plan.disks.iter().any(|planned| !planned.disk.contents.is_empty());
        if self.planned.as_ref().is_ok_and(|(plan, _)| erases(plan)) { WORD } else { WORD_FOR_BLANK }
    }

    /// Whether the plan takes this disk, or it was chosen and there is no plan.
    pub fn is_taken(&self, disk: &Disk) -> bool {
        match (&self.chosen, &self.planned) {
            (Some(chosen), _) => chosen.contains(&disk.device),
            (None, Ok((plan, _))) => plan.disks.iter().any(|planned| planned.disk.device == disk.device),
            (None, Err(_)) => false,
        }
    }

    fn plan(&mut self) {
        let wish = match &self.chosen {
            Some(chosen) if chosen.is_empty() => {
                self.planned = Err("No disk is chosen.".into());
                return;
            }
            // That what is on them is lost is agreed to on the summary.
            Some(chosen) => Wish {
                disks: chosen
                    .iter()
                    .map(|path| Filter { path: Some(path.clone()), ..Filter::default() })
                    .collect(),
                require_empty: false,
            },
            None => Wish::default(),
        };
        self.planned = self.machine.plan(&wish).map_err(|error| format!("{error:#}"));
    }

    /// What a key does.
    pub fn press(&mut self, key: KeyEvent) -> Option<Task> {
        if self.waiting {
            return None;
        }
        if screen::is_interrupt(key) {
            if !matches!(self.page, Page::Working | Page::Leave) {
                (self.left_from, self.page) = (self.page, Page::Leave);
            }
            return None;
        }
        self.error = None;
        let key = key.code;
        match self.page {
            Page::Licence => self.licence(key),
            Page::Role => self.choose_role(key),
            Page::Disks => return self.disks(key),
            Page::Network => self.network(key),
            Page::Interface(index) => self.interface(index, key),
            Page::Bond(index) => self.bond(index, key),
            Page::System => return self.describe_system(key),
            Page::Passwords => self.ask_passwords(key),
            Page::Summary => return self.summary(key),
            Page::Working => {}
            Page::Failed => self.go(Page::Summary),
            Page::Done => return ending(key),
            Page::Leave if key == KeyCode::Esc => self.page = self.left_from,
            Page::Leave => return ending(key),
        }
        None
    }

    fn go(&mut self, page: Page) {
        (self.page, self.marked, self.scroll) = (page, 0, 0);
        self.word.clear();
        match page {
            Page::Role => {
                self.marked = ROLES.iter().position(|(role, ..)| *role == self.role).unwrap_or_default();
            }
            // On the row that leads on.
            Page::Network => {
                self.marked = self.network_rows().len() - 1;
                self.error = self.unknown.clone();
            }
            Page::Interface(index) => {
                let interface = self.links.get(index).and_then(|(_, interface)| interface.as_ref());
                self.form = typed::interface_form(interface);
            }
            Page::Bond(index) => self.form = typed::bond_form(self.bonds.get(index), &self.cards()),
            Page::System => self.form = typed::system_form(&self.described(), self.role),
            Page::Passwords => {
                self.form = typed::passwords_form(&self.given, self.role, &self.passwords);
            }
            _ => {}
        }
    }

    /// What was given, and what was typed in its place so far.
    pub(super) fn described(&self) -> Answers {
        let mut answers = Answers { role: self.role, install: None, ..self.given.clone() };
        if let Some(System { host_name, time_zone, ntp, keymap }) = self.system.clone() {
            answers.hostname = Some(host_name);
            (answers.time_zone, answers.ntp, answers.keymap) = (time_zone, ntp, keymap);
        }
        // What a card was told before it came into a bond holds no more.
        let free = self.links.iter().filter(|(link, _)| self.bond_of(link).is_none());
        answers.network = free.filter_map(|(_, interface)| interface.clone()).collect();
        answers.network.extend(self.bonds.iter().cloned());
        answers
    }

    fn licence(&mut self, key: KeyCode) {
        match key {
            KeyCode::Down => self.scroll = self.scroll.saturating_add(1),
            KeyCode::Up => self.scroll = self.scroll.saturating_sub(1),
            KeyCode::Char(' ') => self.turn(KeyCode::PageDown),
            KeyCode::Enter => self.go(Page::Role),
            key => self.turn(key),
        }
    }

    /// Turns pages of a text that is longer than the screen.
    fn turn(&mut self, key: KeyCode) {
        match key {
            KeyCode::PageDown => self.scroll = self.scroll.saturating_add(TURNED),
            KeyCode::PageUp => self.scroll = self.scroll.saturating_sub(TURNED),
            _ => {}
        }
    }

    /// Moves the mark in a list of so many rows.
    fn mark(&mut self, key: KeyCode, rows: usize) {
        match key {
            KeyCode::Up => self.marked = self.marked.saturating_sub(1),
            KeyCode::Down => self.marked = (self.marked + 1).min(rows.saturating_sub(1)),
            _ => {}
        }
    }

    fn choose_role(&mut self, key: KeyCode) {
        match key {
            KeyCode::Esc => self.go(Page::Licence),
            KeyCode::Enter => {
                let Some((role, ..)) = ROLES.get(self.marked) else { return };
                if *role != self.role {
                    // Its host name was that of another role.
                    (self.role, self.system) = (*role, None);
                }
                self.go(Page::Disks);
            }
            key => self.mark(key, ROLES.len()),
        }
    }

    fn disks(&mut self, key: KeyCode) -> Option<Task> {
        match key {
            KeyCode::Esc => self.go(Page::Role),
            KeyCode::Char('r') => {
                self.waiting = true;
                return Some(Task::Look);
            }
            KeyCode::Char(' ') => self.toggle(),
            KeyCode::Enter => match &self.planned {
                Ok(_) => self.go(Page::Network),
                Err(error) => self.error = Some(error.clone()),
            },
            key => self.mark(key, self.machine.disks.len()),
        }
        None
    }

    fn toggle(&mut self) {
        let Some(disk) = self.machine.disks.get(self.marked) else { return };
        let mut chosen: Vec<PathBuf> = self
            .machine
            .disks
            .iter()
            .filter(|disk| self.is_taken(disk))
            .map(|disk| disk.device.clone())
            .collect();
        if self.is_taken(disk) {
            chosen.retain(|device| *device != disk.device);
        } else {
            chosen.push(disk.device.clone());
        }
        let before = self.chosen.replace(chosen);
        self.plan();
        let is_empty = self.chosen.as_ref().is_some_and(Vec::is_empty);
        if let Err(error) = &self.planned
            && !is_empty
        {
            // A disk that cannot be had is not taken; the others stay.
            self.error = Some(error.clone());
            self.chosen = before;
            self.plan();
        }
    }

    /// What can be chosen on the page of the network, the row that leads on at the end.
    pub fn network_rows(&self) -> Vec<NetworkRow> {
        let links = (0..self.links.len()).map(NetworkRow::Link);
        let bonds = (0..self.bonds.len()).map(NetworkRow::Bond);
        let more = (self.links.len() > 1).then_some(NetworkRow::NewBond);
        links.chain(bonds).chain(more).chain([NetworkRow::Continue]).collect()
    }

    /// The number of the bond that a card is in.
    pub fn bond_of(&self, link: &Link) -> Option<usize> {
        let is_in = |bond: &Interface| {
            let mut members = bond.bond().into_iter().flat_map(|bond| &bond.members);
            members.any(|member| links::found(member, std::slice::from_ref(link)).is_some())
        };
        self.bonds.iter().position(is_in)
    }

    fn cards(&self) -> Vec<Link> {
        self.links.iter().map(|(link, _)| link.clone()).collect()
    }

    fn network(&mut self, key: KeyCode) {
        let rows = self.network_rows();
        match (key, rows.get(self.marked)) {
            (KeyCode::Esc, _) => self.go(Page::Disks),
            (KeyCode::Enter, Some(NetworkRow::Link(index))) => {
                let in_bond = self.links.get(*index).and_then(|(link, _)| Some((link, self.bond_of(link)?)));
                match in_bond {
                    Some((link, number)) => {
                        self.error =
                            Some(format!("{} is in bond{number}; what the bond is told holds.", link.name));
                    }
                    None => self.go(Page::Interface(*index)),
                }
            }
            (KeyCode::Enter, Some(NetworkRow::Bond(index))) => self.go(Page::Bond(*index)),
            (KeyCode::Enter, Some(NetworkRow::NewBond)) => self.go(Page::Bond(self.bonds.len())),
            (KeyCode::Enter, _) => self.continue_from_network(),
            (key, _) => self.mark(key, rows.len()),
        }
    }

    /// Cards, VLANs and addresses are told apart over all interfaces, when all of them are known.
    fn continue_from_network(&mut self) {
        match provisioning::answers::together(&self.described().network) {
            Ok(()) => self.go(Page::System),
            Err(cause) => self.error = Some(format!("As it is, {cause}.")),
        }
    }

    fn interface(&mut self, index: usize, key: KeyCode) {
        if key == KeyCode::Esc {
            return self.go(Page::Network);
        }
        if self.form.key(key) != form::Outcome::Submitted {
            return;
        }
        let Some((link, _)) = self.links.get(index) else { return };
        match typed::interface(&link.mac, &self.form) {
            Ok(interface) => {
                if let Some((_, place)) = self.links.get_mut(index) {
                    *place = interface;
                }
                self.go(Page::Network);
            }
            Err(wrong) => self.wrong(wrong),
        }
    }

    fn bond(&mut self, index: usize, key: KeyCode) {
        if key == KeyCode::Esc {
            return self.go(Page::Network);
        }
        if self.form.key(key) != form::Outcome::Submitted {
            return;
        }
        match typed::bond(&self.form, &self.cards()) {
            Ok(Some(bond)) => {
                match self.bonds.get_mut(index) {
                    Some(place) => *place = bond,
                    None => self.bonds.push(bond),
                }
                self.go(Page::Network);
            }
            Ok(None) => {
                if index < self.bonds.len() {
                    self.bonds.remove(index);
                }
                self.go(Page::Network);
            }
            Err(wrong) => self.wrong(wrong),
        }
    }

    fn describe_system(&mut self, key: KeyCode) -> Option<Task> {
        if key == KeyCode::Esc {
            self.go(Page::Network);
            return None;
        }
        if self.form.key(key) != form::Outcome::Submitted {
            return None;
        }
        match typed::system(&self.form) {
            Ok(system) => {
                let keymap = system.keymap.as_ref().map_or_else(|| "us".to_owned(), ToString::to_string);
                self.system = Some(system);
                self.waiting = true;
                Some(Task::Keymap(keymap))
            }
            Err(wrong) => {
                self.wrong(wrong);
                None
            }
        }
    }

    fn ask_passwords(&mut self, key: KeyCode) {
        if key == KeyCode::Esc {
            return self.go(Page::System);
        }
        if self.form.key(key) != form::Outcome::Submitted {
            return;
        }
        match typed::passwords(&self.form, &self.given, self.role) {
            Ok(passwords) => {
                self.passwords = passwords;
                self.go(Page::Summary);
            }
            Err(wrong) => self.wrong(wrong),
        }
    }

    fn wrong(&mut self, Wrong { label, cause }: Wrong) {
        self.error = Some(format!("{label}: {cause}"));
        self.form.focus_on(label);
    }

    fn summary(&mut self, key: KeyCode) -> Option<Task> {
        match key {
            KeyCode::Esc => self.go(Page::Passwords),
            KeyCode::Enter if self.word.trim().eq_ignore_ascii_case(self.expected_word()) => {
                let Ok((plan, _)) = &self.planned else { return None };
                let installation = Installation {
                    plan: plan.clone(),
                    answers: self.described(),
                    passwords: self.passwords.clone(),
                };
                self.working = Working::default();
                self.go(Page::Working);
                return Some(Task::Install(Box::new(installation)));
            }
            KeyCode::Enter => {
                self.error = Some(format!("Type {} to go on.", self.expected_word()));
            }
            KeyCode::PageDown | KeyCode::PageUp => self.turn(key),
            key => screen::parts::edit(&mut self.word, key),
        }
        None
    }

    /// What a result does.
    pub fn take(&mut self, message: Message) {
        match message {
            Message::Looked(looked) => {
                self.waiting = false;
                match looked {
                    Ok(machine) => {
                        self.machine = machine;
                        // What somebody left out stays out.
                        if let Some(chosen) = &mut self.chosen {
                            chosen.retain(|device| {
                                self.machine.disks.iter().any(|disk| disk.device == *device)
                            });
                        }
                        self.marked = 0;
                        self.plan();
                    }
                    Err(error) => self.error = Some(error),
                }
            }
            Message::Keymap(set) => {
                self.waiting = false;
                match set {
                    Ok(()) => self.go(Page::Passwords),
                    Err(error) => self.error = Some(error),
                }
            }
            Message::Step(step) => self.working.steps.push(step),
            Message::Bytes { done, total, at } => {
                let began = *self.working.began.get_or_insert(at);
                self.working.bytes = Some((done, total, at - began));
            }
            Message::Installed(Ok(())) => self.go(Page::Done),
            Message::Installed(Err(error)) => {
                self.go(Page::Failed);
                self.error = Some(error);
            }
            Message::Refused(error) => {
                self.waiting = false;
                self.go(Page::Summary);
                self.error = Some(error);
            }
        }
    }
}

fn ending(key: KeyCode) -> Option<Task> {
    match key {
        KeyCode::Enter => Some(Task::Then(Then::Reboot)),
        KeyCode::Char('p') => Some(Task::Then(Then::Poweroff)),
        _ => None,
    }
}

#[cfg(test)]
pub(super) mod testing {
    use super::*;
    use screen::ratatui::crossterm::event::KeyModifiers;
    use storage::inventory::Transport;
    use storage::plan::Firmware;

    pub fn disk(name: &str, contents: &[&str]) -> Disk {
        Disk {
            device: format!("/dev/{name}").into(),
            size_bytes: 500_107_862_016,
            sector_bytes: 512,
            optimal_io_bytes: 0,
            rotational: false,
            removable: false,
            read_only: false,
            transport: Transport::Ata,
            model: Some("EVO".into()),
            serial: Some(format!("S-{name}")),
            bay: None,
            twins: Vec::new(),
            links: Vec::new(),
            raid_controller: None,
            health: storage::smart::Health::NotVisible,
            contents: contents.iter().map(ToString::to_string).collect(),
            firmware_raid: None,
            uses: Vec::new(),
        }
    }

    pub fn link(name: &str, mac: &str) -> Link {
        Link { name: name.into(), mac: mac.parse().unwrap(), carrier: Some(true), driver: "e1000e".into() }
    }

    pub fn app(disks: Vec<Disk>) -> App {
        let machine = Machine { firmware: Firmware::Uefi, cores: 4, memory_bytes: 8_000_000_000, disks };
        App::new(Answers::for_role(Role::BackupServer), machine, vec![link("eth0", "52:54:00:00:00:01")])
    }

    pub fn press(app: &mut App, code: KeyCode) -> Option<Task> {
        app.press(KeyEvent::new(code, KeyModifiers::NONE))
    }

    pub fn enter(app: &mut App, text: &str) -> Option<Task> {
        text.chars().for_each(|typed| assert_eq!(press(app, KeyCode::Char(typed)), None));
        press(app, KeyCode::Enter)
    }

    /// From the first page to the summary, with all as it is offered.
    pub fn to_summary(app: &mut App) {
        for page in [Page::Role, Page::Disks, Page::Network, Page::System] {
            assert_eq!(press(app, KeyCode::Enter), None);
            assert_eq!(app.page, page);
        }
        (0..3).for_each(|_| assert_eq!(press(app, KeyCode::Enter), None));
        assert_eq!(press(app, KeyCode::Enter), Some(Task::Keymap("us".into())));
        app.take(Message::Keymap(Ok(())));
        for password in ["console-1", "console-1", "network-1", "network-1"] {
            assert_eq!(enter(app, password), None);
        }
        assert_eq!(app.page, Page::Summary, "{:?}", app.error);
    }
}

#[cfg(test)]
mod tests {
    use super::testing::*;
    use super::*;
    use screen::ratatui::crossterm::event::KeyModifiers;

    #[test]
    fn the_pages_lead_to_an_installation_of_what_was_answered() {
        let mut app = app(vec![disk("sda", &[]), disk("sdb", &[])]);
        to_summary(&mut app);
        assert_eq!(enter(&mut app, "instal"), None);
        assert_eq!(app.error.as_deref(), Some("Type install to go on."));
        let Some(Task::Install(installation)) = enter(&mut app, "l") else { panic!("{:?}", app.error) };
        assert_eq!(app.page, Page::Working);
        let Installation { plan, answers, passwords } = *installation;
        assert_eq!((plan.disks.len(), answers.role), (2, Role::BackupServer));
        assert_eq!(answers.hostname.unwrap().to_string(), "backup-server");
        assert_eq!(passwords.network.unwrap().0, "network-1");
        // While it runs no key ends it.
        app.press(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL));
        assert_eq!(app.page, Page::Working);
        app.take(Message::Installed(Err("the disk is broken".into())));
        assert_eq!((app.page, app.error.as_deref()), (Page::Failed, Some("the disk is broken")));
        press(&mut app, KeyCode::Enter);
        assert_eq!(app.page, Page::Summary);
        enter(&mut app, "install");
        app.take(Message::Installed(Ok(())));
        assert_eq!(press(&mut app, KeyCode::Enter), Some(Task::Then(Then::Reboot)));
        assert_eq!(press(&mut app, KeyCode::Char('p')), Some(Task::Then(Then::Poweroff)));
    }

    #[test]
    fn escape_leads_back_to_the_first_page_and_what_was_answered_stays() {
        let mut app = app(vec![disk("sda", &[])]);
        to_summary(&mut app);
        app.system.as_mut().unwrap().host_name = "mine".parse().unwrap();
        for page in [Page::Passwords, Page::System, Page::Network, Page::Disks, Page::Role, Page::Licence] {
            press(&mut app, KeyCode::Esc);
            assert_eq!(app.page, page);
            if page == Page::System {
                assert_eq!(app.form.value(typed::HOST_NAME), "mine");
            }
        }
    }

    #[test]
    fn disks_with_data_are_taken_only_by_hand_and_by_another_word() {
        let mut app = app(vec![disk("sda", &["ext4 on /dev/sda1"]), disk("sdb", &[])]);
        assert!(!app.is_taken(&app.machine.disks[0]) && app.is_taken(&app.machine.disks[1]));
        app.page = Page::Disks;
        press(&mut app, KeyCode::Char(' '));
        assert!(app.machine.disks.iter().all(|disk| app.is_taken(disk)));
        assert_eq!(app.expected_word(), WORD);
        press(&mut app, KeyCode::Char(' '));
        assert_eq!(app.expected_word(), WORD_FOR_BLANK);
        // None at all is no plan.
        press(&mut app, KeyCode::Down);
        press(&mut app, KeyCode::Char(' '));
        press(&mut app, KeyCode::Enter);
        assert_eq!((app.page, app.error.as_deref()), (Page::Disks, Some("No disk is chosen.")));
    }

    #[test]
    fn a_disk_that_cannot_be_had_says_why_and_the_others_stay() {
        let mut small = disk("sdb", &[]);
        small.size_bytes = 8_000_000_000;
        let mut app = app(vec![disk("sda", &[]), small]);
        app.page = Page::Disks;
        press(&mut app, KeyCode::Down);
        press(&mut app, KeyCode::Char(' '));
        assert!(app.error.as_ref().unwrap().contains("is smaller than 20 GB"), "{:?}", app.error);
        assert!(app.is_taken(&app.machine.disks[0]) && !app.is_taken(&app.machine.disks[1]));
        assert!(app.planned.is_ok());
    }

    #[test]
    fn an_interface_gets_fixed_addresses() {
        let mut app = app(vec![disk("sda", &[])]);
        app.go(Page::Network);
        press(&mut app, KeyCode::Up);
        press(&mut app, KeyCode::Enter);
        assert_eq!(app.page, Page::Interface(0));
        for text in ["10.0.0.2/8", "11.0.0.1", "", "", "", ""] {
            enter(&mut app, text);
        }
        assert!(app.error.as_ref().unwrap().starts_with("Gateway: "), "{:?}", app.error);
        (0..8).for_each(|_| drop(press(&mut app, KeyCode::Backspace)));
        for text in ["10.0.0.1", "", "", "", ""] {
            enter(&mut app, text);
        }
        assert_eq!(app.page, Page::Network);
        assert_eq!(super::super::said::told(app.links[0].1.as_ref()), "10.0.0.2/8, gateway 10.0.0.1");
    }

    /// An app with two cards, on the page of the network.
    fn with_two_cards(answers: &str) -> App {
        let machine = Machine {
            firmware: storage::plan::Firmware::Uefi,
            cores: 4,
            memory_bytes: 8_000_000_000,
            disks: vec![disk("sda", &[])],
        };
        let links = vec![link("eth0", "52:54:00:00:00:01"), link("eth1", "52:54:00:00:00:02")];
        let mut app = App::new(Answers::from_yaml(answers).unwrap(), machine, links);
        app.go(Page::Network);
        app
    }

    #[test]
    fn two_cards_become_a_bond_and_two_cards_again() {
        let mut app = with_two_cards(
            "role: monitor\nnetwork:\n  - {mac: 52:54:00:00:00:01, addresses: [10.0.0.3/8]}\n",
        );
        press(&mut app, KeyCode::Up);
        press(&mut app, KeyCode::Enter);
        assert_eq!(app.page, Page::Bond(0));
        for text in ["eth0 eth1", "", "10.0.0.2/8", "", "", "", "", "9000"] {
            enter(&mut app, text);
        }
        assert_eq!((app.page, app.error.as_deref()), (Page::Network, None));
        assert_eq!(super::super::said::told(app.bonds.first()), "active-backup, 10.0.0.2/8, MTU 9000");
        // The card's own address holds no more.
        let network = app.described().network;
        assert_eq!(network.len(), 1);
        assert_eq!(network[0].hardware.to_string(), "the bond of 52:54:00:00:00:01 and 52:54:00:00:00:02");
        app.marked = 0;
        press(&mut app, KeyCode::Enter);
        assert_eq!(app.error.as_deref(), Some("eth0 is in bond0; what the bond is told holds."));
        app.marked = 2;
        press(&mut app, KeyCode::Enter);
        assert_eq!(app.page, Page::Bond(0));
        (0..20).for_each(|_| drop(press(&mut app, KeyCode::Backspace)));
        (0..8).for_each(|_| drop(press(&mut app, KeyCode::Enter)));
        assert_eq!((app.page, app.bonds.len()), (Page::Network, 0));
        assert_eq!(super::super::said::told(app.links[0].1.as_ref()), "10.0.0.3/8");
    }

    #[test]
    fn a_bond_of_the_answers_is_shown_and_one_of_unknown_cards_is_not() {
        let app =
            with_two_cards("role: monitor\nnetwork:\n  - bond: {mode: 802.3ad, members: [eth0, eth1]}\n");
        assert_eq!((app.bonds.len(), app.error.as_deref()), (1, None));
        assert_eq!(app.bond_of(&app.links[1].0), Some(0));
        let app =
            with_two_cards("role: monitor\nnetwork:\n  - bond: {mode: 802.3ad, members: [eth0, eth9]}\n");
        assert_eq!(app.bonds.len(), 0);
        assert!(app.error.as_ref().unwrap().contains("names the interface eth9"), "{:?}", app.error);
    }

    #[test]
    fn what_two_interfaces_claim_is_said_before_the_next_page() {
        let mut app = with_two_cards(
            "role: monitor\nnetwork:\n  - {mac: 52:54:00:00:00:01, addresses: [10.0.0.3/8]}\n",
        );
        app.links[1].1 = app.links[0].1.clone().map(|interface| Interface {
            hardware: provisioning::answers::Hardware::Card("52:54:00:00:00:02".parse().unwrap()),
            ..interface
        });
        press(&mut app, KeyCode::Enter);
        assert_eq!(app.page, Page::Network);
        assert_eq!(app.error.as_deref(), Some("As it is, network names the address 10.0.0.3 twice."));
    }

    #[test]
    fn leaving_asks_first_and_comes_back() {
        let mut app = app(vec![disk("sda", &[])]);
        app.go(Page::Disks);
        app.press(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL));
        assert_eq!(app.page, Page::Leave);
        press(&mut app, KeyCode::Esc);
        assert_eq!(app.page, Page::Disks);
    }
}
