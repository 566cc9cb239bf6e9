//! Control connections: before the login answered here, after it carried to libunftp and back.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use auth::PasswordVersion;
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;

use crate::commands::{Known, Step, Style, decide, parse, reply};
use crate::lines::Lines;
use crate::login::Login;
use crate::session::Session;
use crate::tls::Tls;

/// Commands before the login.
const MOST_BEFORE_LOGIN: usize = 40;
/// Wrong passwords on one connection.
const MOST_WRONG: usize = 3;
/// Commands that wait for the one before.
const MOST_WAITING: usize = 16;

const TOO_LONG: &str = "500 The line is too long";
const GREETING: &str = "220 InfiMONITOR Backup Server. Explicit TLS is required: AUTH TLS before USER, PROT P before \
    transfers";
const GREETING_CLEAR: &str =
    "220 InfiMONITOR Backup Server. Clear FTP is allowed; AUTH TLS is available and better";

/// A client that has logged in.
pub(crate) struct LoggedIn {
    pub(crate) lines: Lines,
    pub(crate) known: Known,
    pub(crate) tls: Option<Tls>,
    /// The version of the password.
    pub(crate) password: Option<PasswordVersion>,
}

/// Talks to a client until it has logged in; `None`: it goes without. `load` gives the settings of TLS where it is asked
/// for, `check` looks at user and password.
pub(crate) async fn log_in<F: Future<Output = Login>>(
    mut lines: Lines,
    mut known: Known,
    load: impl Fn() -> Option<Tls>,
    check: impl Fn(Vec<u8>, Vec<u8>) -> F,
) -> io::Result<Option<LoggedIn>> {
    answer(&mut lines, if known.clear_allowed { GREETING_CLEAR } else { GREETING }).await?;
    let (mut user, mut wrong, mut tls) = (Vec::new(), 0, None);
    for _ in 0..MOST_BEFORE_LOGIN {
        let Some(line) = lines.next().await? else { return Ok(None) };
        if line.is_empty() {
            answer(&mut lines, TOO_LONG).await?;
            continue;
        }
        let (name, argument) = parse(&line);
        match decide(&name, argument, &known) {
            Step::Answer(text) => answer(&mut lines, text).await?,
            Step::BeginTls => {
                let Some(loaded) = load() else {
                    answer(&mut lines, "431 The server has no usable certificate").await?;
                    continue;
                };
                answer(&mut lines, "234 Begin TLS").await?;
                let stall = lines.stall();
                let stream =
                    TlsAcceptor::from(Arc::clone(&loaded.control)).accept(lines.into_stream()?).await?;
                lines = Lines::new(Box::new(stream), stall);
                known = Known { tls: true, user: false, ..known };
                tls = Some(loaded);
            }
            Step::User => {
                user = argument.to_vec();
                known.user = true;
                answer(&mut lines, "331 Password required").await?;
            }
            Step::Password => {
                match check(std::mem::take(&mut user), argument.to_vec()).await {
                    Login::Right(password) => {
                        let known = Known { logged_in: true, ..known };
                        return Ok(Some(LoggedIn { lines, known, tls, password }));
                    }
                    Login::Later(seconds) => {
                        let text = format!("421 Too many wrong passwords; try again in {seconds} s");
                        refuse(lines, &text).await?;
                        return Ok(None);
                    }
                    Login::Wrong => {}
                }
                known.user = false;
                wrong += 1;
                answer(&mut lines, "530 Authentication failed").await?;
                if wrong >= MOST_WRONG {
                    break;
                }
            }
            Step::Protect(protected) => protect(&mut lines, &mut known, protected).await?,
            Step::Bye => {
                answer(&mut lines, "221 Bye").await?;
                lines.end().await;
                return Ok(None);
            }
            // decide() names none of the others before the login.
            _ => answer(&mut lines, "530 Log in first").await?,
        }
    }
    answer(&mut lines, "421 Too many tries; connect again").await?;
    lines.end().await;
    Ok(None)
}

/// Says why there is no session, and ends.
pub(crate) async fn refuse(mut lines: Lines, text: &str) -> io::Result<()> {
    answer(&mut lines, text).await?;
    lines.end().await;
    Ok(())
}

/// Logs in to libunftp, which takes everybody who comes this way.
pub(crate) async fn enter(inner: &mut Lines) -> io::Result<()> {
    for (expected, command) in [(220, Some("USER backup\r\n")), (331, Some("PASS -\r\n")), (230, None)] {
        let line = inner.next().await?.unwrap_or_default();
        if reply(&line, None) != (Some(expected), true) {
            let text = format!("libunftp says {:?}", String::from_utf8_lossy(&line));
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        if let Some(command) = command {
            inner.say(command.as_bytes()).await?;
        }
    }
    Ok(())
}

/// Carries commands to libunftp and replies back, until one of the two ends.
pub(crate) async fn carry(
    client: LoggedIn,
    inner: Lines,
    session: &Session,
    named: Option<Ipv4Addr>,
) -> io::Result<()> {
    let LoggedIn { mut lines, known, .. } = client;
    session.protect(known.protected);
    answer(&mut lines, "230 User logged in, proceed").await?;
    let mut carrier = Carrier {
        lines,
        inner,
        known,
        session,
        named: named.map(IpAddr::V4).unwrap_or(session.client.reached),
        waiting: VecDeque::new(),
        answer_due: false,
        asked: Asked::Other,
        within: None,
        mark: None,
        delivery: None,
        restart: 0,
    };
    let result = carrier.carry().await;
    if let Some(reason) = session.ended() {
        answer(&mut carrier.lines, &format!("421 {reason}")).await?;
    }
    carrier.lines.end().await;
    result
}

struct Carrier<'a> {
    lines: Lines,
    inner: Lines,
    known: Known,
    session: &'a Session,
    /// The address that PASV names.
    named: IpAddr,
    waiting: VecDeque<Vec<u8>>,
    /// libunftp owes the last reply to a command: until it is there, no other is carried out, so that replies keep
    /// their order.
    answer_due: bool,
    /// What was asked of libunftp last.
    asked: Asked,
    /// The reply that the lines from libunftp belong to.
    within: Option<u16>,
    /// The mark 150, which libunftp sends before it looks: held back until there is something to send, as a client
    /// that sees it begins a TLS handshake.
    mark: Option<Mark>,
    /// libunftp has given everything away; the client may not have it yet.
    delivery: Option<(oneshot::Receiver<bool>, Vec<u8>)>,
    /// Where the next file begins.
    restart: u64,
}

/// A command of which the reply is put into other words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Port(Style),
    Status,
    Other,
}

/// What became of the mark 150.
enum Mark {
    HeldBack(Vec<u8>),
    Said,
}

impl Carrier<'_> {
    async fn carry(&mut self) -> io::Result<()> {
        loop {
            if !self.answer_due
                && let Some(line) = self.waiting.pop_front()
            {
                if self.command(&line).await? == Next::End {
                    return Ok(());
                }
                continue;
            }
            tokio::select! {
                line = self.inner.next() => match line? {
                    Some(line) => self.reply(line).await?,
                    None => return Ok(()),
                },
                line = self.lines.next(), if self.waiting.len() < MOST_WAITING => match line? {
                    Some(line) => self.came(line).await?,
                    None => return Ok(()),
                },
                () = self.session.until_found(), if matches!(self.mark, Some(Mark::HeldBack(_))) => {
                    self.say_mark().await?;
                }
                complete = delivered(&mut self.delivery) => self.delivered(complete).await?,
            }
        }
    }

    /// Takes a line of the client's. While a transfer goes on, it may be ended, and the connection kept alive.
    async fn came(&mut self, line: Vec<u8>) -> io::Result<()> {
        let (name, _) = parse(&line);
        if name == "ABOR" && self.answer_due {
            self.session.abort(); // its own reply comes after that of the transfer
        } else if name == "NOOP" && self.waiting.is_empty() && matches!(self.mark, Some(Mark::Said)) {
            self.session.asked();
            return answer(&mut self.lines, "200 OK").await;
        }
        self.waiting.push_back(line);
        Ok(())
    }

    async fn command(&mut self, line: &[u8]) -> io::Result<Next> {
        self.session.asked();
        if line.is_empty() {
            answer(&mut self.lines, TOO_LONG).await?;
            return Ok(Next::Go);
        }
        let (name, argument) = parse(line);
        match decide(&name, argument, &self.known) {
            Step::Answer(text) => {
                if uses_data_connection(&name) {
                    self.session.data_connection_settled(); // nothing more is owed
                }
                answer(&mut self.lines, text).await?;
            }
            Step::Protect(protected) => {
                self.session.protect(protected);
                protect(&mut self.lines, &mut self.known, protected).await?;
            }
            Step::Kind { binary } => {
                self.known.binary = binary;
                let text = if binary { "200 Type is image" } else { "200 Type is ASCII, for listings" };
                answer(&mut self.lines, text).await?;
            }
            Step::OnlyEpsv => {
                self.known.only_epsv = true;
                answer(&mut self.lines, "200 EPSV alone from now on").await?;
            }
            Step::Restart(offset) => {
                self.restart = offset;
                answer(&mut self.lines, &format!("350 The next file begins at {offset}: RETR")).await?;
            }
            Step::Abort => {
                self.session.data_connection_settled();
                answer(&mut self.lines, "226 There is no transfer any more").await?;
            }
            Step::Offer(style) => self.ask(Asked::Port(style), "EPSV\r\n").await?,
            Step::Forward(command) => {
                if uses_data_connection(&name) {
                    self.session.restart_at(std::mem::take(&mut self.restart));
                }
                let asked = if name == "STAT" { Asked::Status } else { Asked::Other };
                self.ask(asked, &command).await?;
            }
            Step::Bye => {
                answer(&mut self.lines, "221 Bye").await?;
                return Ok(Next::End);
            }
            // decide() names none of them after the login.
            Step::BeginTls | Step::User | Step::Password => {
                answer(&mut self.lines, "503 Already logged in").await?;
            }
        }
        Ok(Next::Go)
    }

    async fn ask(&mut self, asked: Asked, command: &str) -> io::Result<()> {
        (self.asked, self.answer_due, self.mark) = (asked, true, None);
        self.session.command_begins();
        self.inner.say(command.as_bytes()).await
    }

    async fn reply(&mut self, line: Vec<u8>) -> io::Result<()> {
        let begins = self.within.is_none();
        let (code, ends) = reply(&line, self.within);
        self.within = if ends { None } else { code };
        if code.is_some_and(|code| code < 200) {
            if ends {
                self.mark = Some(Mark::HeldBack(line));
            }
            return Ok(());
        }
        if self.session.is_found() || code.is_some_and(|code| code < 400) {
            self.say_mark().await?;
        }
        if code == Some(226)
            && let Some(delivery) = self.session.take_delivery()
        {
            self.delivery = Some((delivery, line));
            return Ok(());
        }
        self.answer_due &= !ends;
        match (code, self.asked, self.session.failure()) {
            (Some(229), Asked::Port(style), _) => {
                let text = offer(style, self.named, self.session.port().unwrap_or_default());
                answer(&mut self.lines, &text).await
            }
            (Some(200), Asked::Status, _) => self.lines.say(&status(&line, begins, ends)).await,
            (Some(400..), _, Some(failure)) if ends => answer(&mut self.lines, failure).await,
            _ => self.lines.say(&line).await,
        }
    }

    async fn say_mark(&mut self) -> io::Result<()> {
        if let Some(Mark::HeldBack(line)) = self.mark.take() {
            self.lines.say(&line).await?;
            self.mark = Some(Mark::Said);
        }
        Ok(())
    }

    async fn delivered(&mut self, complete: bool) -> io::Result<()> {
        let Some((_, line)) = self.delivery.take() else { return Ok(()) };
        self.answer_due = false;
        if complete {
            return self.lines.say(&line).await;
        }
        answer(&mut self.lines, self.session.failure().unwrap_or("426 The data connection broke off")).await
    }
}

fn uses_data_connection(name: &str) -> bool {
    matches!(name, "RETR" | "LIST" | "NLST" | "MLSD" | "STOR" | "STOU" | "APPE")
}

/// Whether the session goes on after a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Go,
    End,
}

/// Waits for what tells whether all of a delivery arrived.
async fn delivered(delivery: &mut Option<(oneshot::Receiver<bool>, Vec<u8>)>) -> bool {
    match delivery {
        Some((delivery, _)) => delivery.await.unwrap_or(false),
        None => std::future::pending().await,
    }
}

/// A line of libunftp's reply to STAT with a path, which is 200 and begins with the first file: the code that RFC 959 has
/// for it, and every file on a line of its own between the first and the last.
fn status(line: &[u8], begins: bool, ends: bool) -> Vec<u8> {
    let mut text = Vec::new();
    if begins {
        text.extend_from_slice(b"213-Status\r\n");
    }
    let file = if begins || ends { line.get(4..).unwrap_or_default() } else { line };
    if !file.trim_ascii().is_empty() {
        text.push(b' ');
        text.extend_from_slice(file);
    }
    if ends {
        text.extend_from_slice(b"213 End\r\n");
    }
    text
}

/// The reply that offers a port.
fn offer(style: Style, named: IpAddr, port: u16) -> String {
    match (style, named) {
        (Style::Pasv, IpAddr::V4(address)) => {
            let ([a, b, c, d], [high, low]) = (address.octets(), port.to_be_bytes());
            format!("227 Entering Passive Mode ({a},{b},{c},{d},{high},{low})")
        }
        _ => format!("229 Entering Extended Passive Mode (|||{port}|)"),
    }
}

async fn protect(lines: &mut Lines, known: &mut Known, protected: bool) -> io::Result<()> {
    known.protected = protected;
    let text = if protected { "200 Data connections have TLS" } else { "200 Data connections go in clear" };
    answer(lines, text).await
}

async fn answer(lines: &mut Lines, text: &str) -> io::Result<()> {
    lines.say(format!("{text}\r\n").as_bytes()).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_offered_as_it_was_asked_for() {
        let address = IpAddr::from([192, 0, 2, 7]);
        assert_eq!(offer(Style::Pasv, address, 30_001), "227 Entering Passive Mode (192,0,2,7,117,49)");
        assert_eq!(offer(Style::Epsv, address, 30_001), "229 Entering Extended Passive Mode (|||30001|)");
    }

    #[test]
    fn a_status_has_each_file_between_its_first_and_last_line() {
        let said = |lines: &[&str]| {
            let (mut within, mut text) = (None, Vec::new());
            for line in lines {
                let begins = within.is_none();
                let (code, ends) = reply(line.as_bytes(), within);
                within = if ends { None } else { code };
                text.extend(status(line.as_bytes(), begins, ends));
            }
            String::from_utf8(text).unwrap()
        };
        let several = ["200--r--r--r-- a\r\n", "-r--r--r-- b\r\n", "200 -r--r--r-- c\r\n"];
        assert_eq!(
            said(&several),
            "213-Status\r\n -r--r--r-- a\r\n -r--r--r-- b\r\n -r--r--r-- c\r\n213 End\r\n"
        );
        assert_eq!(said(&["200 -r--r--r-- a\r\n"]), "213-Status\r\n -r--r--r-- a\r\n213 End\r\n");
        assert_eq!(said(&["200 \r\n"]), "213-Status\r\n213 End\r\n");
    }
}
