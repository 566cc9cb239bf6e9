//! Control connections: before the login answered here, after it carried to libunftp and back.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use auth::PasswordVersion;
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
            // decide() names neither before the login.
            Step::Offer(_) | Step::Forward => answer(&mut lines, "530 Log in first").await?,
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
        style: Style::Epsv,
        within: None,
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
    /// libunftp owes a reply: until it is there, no command is answered here, so that replies keep their order.
    answer_due: bool,
    /// How a port was asked for last.
    style: Style,
    /// The reply that the lines from libunftp belong to.
    within: Option<u16>,
}

impl Carrier<'_> {
    async fn carry(&mut self) -> io::Result<()> {
        loop {
            if !self.answer_due
                && let Some(line) = self.waiting.pop_front()
            {
                self.command(&line).await?;
                continue;
            }
            tokio::select! {
                line = self.inner.next() => match line? {
                    Some(line) => self.reply(line).await?,
                    None => return Ok(()),
                },
                line = self.lines.next(), if self.waiting.len() < MOST_WAITING => match line? {
                    Some(line) => self.waiting.push_back(line),
                    None => return Ok(()),
                },
            }
        }
    }

    async fn command(&mut self, line: &[u8]) -> io::Result<()> {
        self.session.asked();
        let (name, argument) = parse(line);
        let forward = match decide(&name, argument, &self.known) {
            Step::Answer(text) => return answer(&mut self.lines, text).await,
            Step::Protect(protected) => {
                self.session.protect(protected);
                return protect(&mut self.lines, &mut self.known, protected).await;
            }
            Step::Offer(style) => {
                self.style = style;
                b"EPSV\r\n"
            }
            Step::Forward => line,
            // decide() names none of them after the login.
            Step::BeginTls | Step::User | Step::Password | Step::Bye => {
                return answer(&mut self.lines, "503 Already logged in").await;
            }
        };
        self.answer_due = true;
        self.inner.say(forward).await
    }

    async fn reply(&mut self, line: Vec<u8>) -> io::Result<()> {
        let (code, ends) = reply(&line, self.within);
        self.within = if ends { None } else { code };
        self.answer_due &= !ends;
        match code {
            Some(229) => {
                let text = offer(self.style, self.named, self.session.port().unwrap_or_default());
                answer(&mut self.lines, &text).await
            }
            // libunftp has given everything away; the client may not have it yet.
            Some(226) if !self.session.delivery_over().await => {
                answer(&mut self.lines, "426 The data connection broke off").await
            }
            _ => self.lines.say(&line).await,
        }
    }
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
}
