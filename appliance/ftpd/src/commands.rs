//! What is done with a command: answered here, or handed to libunftp.
//!
//! Everything before the login and everything about TLS and ports is decided here, so that libunftp meets nobody who
//! has not logged in, and never decides what goes out in clear. What comes after the login is in [`crate::requests`].

use crate::requests;

/// What is known of a control connection when a command comes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Known {
    /// Clear FTP is allowed.
    pub(crate) clear_allowed: bool,
    /// The client came over IPv6.
    pub(crate) ipv6: bool,
    /// There is TLS.
    pub(crate) tls: bool,
    /// A user was named.
    pub(crate) user: bool,
    /// The password was right.
    pub(crate) logged_in: bool,
    /// Data connections have TLS (PROT P).
    pub(crate) protected: bool,
    /// Files are sent as they are stored (TYPE I).
    pub(crate) binary: bool,
    /// Ports are asked for by EPSV alone (EPSV ALL).
    pub(crate) only_epsv: bool,
}

/// What is done with a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Answer with this.
    Answer(&'static str),
    /// Begin TLS.
    BeginTls,
    /// Remember the user named.
    User,
    /// Check the password.
    Password,
    /// Data connections have TLS from now on, or none.
    Protect(bool),
    /// Offer a port.
    Offer(Style),
    /// Offer ports by EPSV alone from now on.
    OnlyEpsv,
    /// The representation type is image from now on, or ASCII.
    Kind { binary: bool },
    /// The next file is sent from this offset on.
    Restart(u64),
    /// A transfer was ended, if there was one.
    Abort,
    /// Let libunftp do this: a line with its end.
    Forward(String),
    /// End.
    Bye,
}

/// How a port is offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// PASV: address and port.
    Pasv,
    /// EPSV: a port.
    Epsv,
}

const FEATURES: &str = "211-Extensions supported:\r\n AUTH TLS\r\n EPSV\r\n MDTM\r\n MLSD\r\n \
    MLST Type*;Size*;Modify*;\r\n PBSZ\r\n PROT\r\n REST STREAM\r\n SIZE\r\n UTF8\r\n211 END";
const TLS_FIRST: &str = "534 TLS is required: AUTH TLS before USER";
const PROTECT_FIRST: &str = "521 TLS is required for data connections: PROT P first";
const LOG_IN_FIRST: &str = "530 Log in first: USER and PASS";

/// A command's name in capitals and its argument. Telnet commands before it, which clients send with ABOR, and blanks
/// around name and argument are left out; a password keeps its own.
pub(crate) fn parse(line: &[u8]) -> (String, &[u8]) {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let start = line.iter().position(|byte| *byte < 0xf0 && *byte != b' ').unwrap_or(line.len());
    let line = &line[start..];
    let end = line.iter().position(|byte| *byte == b' ').unwrap_or(line.len());
    let name = String::from_utf8_lossy(&line[..end]).to_ascii_uppercase();
    let argument = line.get(end + 1..).unwrap_or_default();
    let argument = if name == "PASS" { argument } else { argument.trim_ascii() };
    (name, argument)
}

/// What is done with a command.
pub(crate) fn decide(name: &str, argument: &[u8], known: &Known) -> Step {
    use Step::Answer;
    let secure = known.tls || known.clear_allowed;
    match name {
        "QUIT" if !known.logged_in => Step::Bye,
        "FEAT" => Answer(FEATURES),
        "NOOP" => Answer("200 OK"),
        "SYST" => Answer("215 UNIX Type: L8"),
        "OPTS" => requests::options(argument),
        "CLNT" => Answer("200 Noted"),
        "HOST" => Answer("502 There is one host"),
        "AUTH" if known.tls => Answer("503 There is TLS already"),
        "AUTH" if known.logged_in => Answer("503 AUTH TLS comes before the login"),
        "AUTH" if argument.is_empty() => Answer("501 AUTH TLS is offered"),
        "AUTH" if argument.eq_ignore_ascii_case(b"TLS") || argument.eq_ignore_ascii_case(b"TLS-C") => {
            Step::BeginTls
        }
        "AUTH" => Answer("504 Only AUTH TLS is offered"),
        "CCC" => Answer("533 The control connection keeps TLS"),
        "PBSZ" | "PROT" if !known.tls => Answer("503 AUTH TLS first"),
        "PBSZ" if argument.is_empty() || !argument.iter().all(u8::is_ascii_digit) => {
            Answer("501 PBSZ takes a number; for TLS it is 0")
        }
        "PBSZ" => Answer("200 PBSZ=0"),
        "PROT" => protection(argument, known),
        "USER" | "PASS" if known.logged_in => Answer("503 Already logged in"),
        "USER" | "PASS" if !secure => Answer(TLS_FIRST),
        "USER" => Step::User,
        "PASS" if known.user => Step::Password,
        "PASS" => Answer("503 USER first"),
        _ if !known.logged_in => Answer(LOG_IN_FIRST),
        "PASV" | "EPSV" | "PORT" | "EPRT" => port(name, argument, known),
        _ => requests::serve(name, argument, known),
    }
}

fn protection(argument: &[u8], known: &Known) -> Step {
    match argument.to_ascii_uppercase().as_slice() {
        b"P" => Step::Protect(true),
        b"C" if known.clear_allowed => Step::Protect(false),
        b"C" => Step::Answer("534 TLS is required for data connections: PROT P"),
        b"S" | b"E" => Step::Answer("536 Only PROT P is offered"),
        b"" => Step::Answer("501 An argument is missing"),
        _ => Step::Answer("504 Only PROT P is offered"),
    }
}

fn port(name: &str, argument: &[u8], known: &Known) -> Step {
    use Step::Answer;
    let own = if known.ipv6 { b"2" } else { b"1" };
    match name {
        "PORT" | "EPRT" => Answer("502 Only passive data connections are offered: EPSV or PASV"),
        "EPSV" if argument.eq_ignore_ascii_case(b"ALL") => Step::OnlyEpsv,
        _ if !known.protected && !known.clear_allowed => Answer(PROTECT_FIRST),
        "PASV" if known.only_epsv => Answer("503 EPSV ALL has been sent: EPSV"),
        "PASV" if known.ipv6 => Answer("425 PASV names IPv4 addresses only: EPSV"),
        "PASV" => Step::Offer(Style::Pasv),
        _ if argument.is_empty() || argument == own => Step::Offer(Style::Epsv),
        _ if !argument.iter().all(u8::is_ascii_digit) => Answer("501 EPSV takes nothing, ALL, 1 or 2"),
        _ if known.ipv6 => Answer("522 Network protocol not supported, use (2)"),
        _ => Answer("522 Network protocol not supported, use (1)"),
    }
}

/// The code of a reply's line, and whether the reply ends with it.
pub(crate) fn reply(line: &[u8], within: Option<u16>) -> (Option<u16>, bool) {
    let code = line
        .get(..3)
        .and_then(|digits| std::str::from_utf8(digits).ok())
        .and_then(|digits| digits.parse().ok());
    let ends = line.get(3) != Some(&b'-');
    match within {
        // Lines within a reply may begin with anything but its code and a space.
        Some(first) if code == Some(first) && ends => (code, true),
        Some(first) => (Some(first), false),
        None => (code, ends),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(line: &str, known: Known) -> Step {
        let (name, argument) = parse(line.as_bytes());
        decide(&name, argument, &known)
    }

    #[test]
    fn nothing_reaches_libunftp_before_the_login_or_about_tls() {
        let before = Known::default();
        let tls = Known { tls: true, ..before };
        let known = Known { user: true, logged_in: true, ..tls };
        let commands = [
            "AUTH TLS",
            "USER backup",
            "PASS x",
            "PBSZ 0",
            "PROT P",
            "PROT C",
            "CCC",
            "FEAT",
            "PASV",
            "EPSV",
            "PORT 1",
            "EPRT 1",
            "QUIT",
            "NOOP",
            "SYST",
            "OPTS UTF8 ON",
        ];
        let forwarded = |step: &Step| matches!(step, Step::Forward(_));
        for command in ["LIST", "RETR x", "CWD /", "SITE x", "STAT", "HELP", "ABOR", "REST 0", "\u{fffd}", ""]
        {
            for known in [before, tls, Known { clear_allowed: true, ..before }] {
                assert_eq!(step(command, known), Step::Answer(LOG_IN_FIRST), "{command}");
            }
        }
        assert!(forwarded(&step("LIST", known)) && forwarded(&step("RETR x", known)));
        for command in commands {
            for known in [before, tls, known, Known { protected: true, ..known }] {
                assert!(!forwarded(&step(command, known)), "{command}");
            }
        }
    }

    #[test]
    fn neither_a_password_nor_a_backup_goes_in_clear_unless_that_is_allowed() {
        let clear = Known::default();
        let tls = Known { tls: true, ..clear };
        let known = Known { logged_in: true, ..tls };
        let allowed = |known| Known { clear_allowed: true, ..known };
        for (line, known, expected) in [
            ("user backup\r\n", clear, Step::Answer(TLS_FIRST)),
            ("PASS x", Known { user: true, ..clear }, Step::Answer(TLS_FIRST)),
            ("USER backup", allowed(clear), Step::User),
            ("USER backup", tls, Step::User),
            ("PASS x", tls, Step::Answer("503 USER first")),
            ("PASS x", Known { user: true, ..tls }, Step::Password),
            ("EPSV", known, Step::Answer(PROTECT_FIRST)),
            ("PASV", known, Step::Answer(PROTECT_FIRST)),
            ("EPSV", allowed(known), Step::Offer(Style::Epsv)),
            ("epsv 1", Known { protected: true, ..known }, Step::Offer(Style::Epsv)),
            ("PASV", Known { protected: true, ..known }, Step::Offer(Style::Pasv)),
            ("prot p", known, Step::Protect(true)),
            ("PROT C", known, Step::Answer("534 TLS is required for data connections: PROT P")),
            ("PROT C", allowed(known), Step::Protect(false)),
            ("AUTH TLS", clear, Step::BeginTls),
        ] {
            assert_eq!(step(line, known), expected, "{line} {known:?}");
        }
    }

    #[test]
    fn a_password_keeps_its_blanks_and_nothing_else_does() {
        assert_eq!(parse(b"PASS  two blanks \r\n"), ("PASS".into(), &b" two blanks "[..]));
        assert_eq!(parse(b"user  backup \r\n"), ("USER".into(), &b"backup"[..]));
        assert_eq!(parse(b"PASS\n"), ("PASS".into(), &b""[..]));
        assert_eq!(parse(b"\r\n"), (String::new(), &b""[..]));
    }

    #[test]
    fn after_epsv_all_no_other_way_to_a_port_is_offered() {
        let known = Known { logged_in: true, protected: true, only_epsv: true, ..Known::default() };
        assert_eq!(step("EPSV", known), Step::Offer(Style::Epsv));
        assert_eq!(step("EPSV 2", Known { ipv6: true, ..known }), Step::Offer(Style::Epsv));
        for command in ["PASV", "PORT 1,2,3,4,5,6", "EPRT |1|192.0.2.1|1|"] {
            assert!(
                matches!(step(command, known), Step::Answer(text) if text.starts_with("50")),
                "{command}"
            );
        }
    }

    #[test]
    fn replies_end_with_their_code_and_a_space() {
        assert_eq!(reply(b"200 OK\r\n", None), (Some(200), true));
        assert_eq!(reply(b"211-Status\r\n", None), (Some(211), false));
        assert_eq!(reply(b" 213 in the midst\r\n", Some(211)), (Some(211), false));
        assert_eq!(reply(b"213 in the midst\r\n", Some(211)), (Some(211), false));
        assert_eq!(reply(b"211 End\r\n", Some(211)), (Some(211), true));
        assert_eq!(reply(b"nonsense", None), (None, true));
    }
}
