//! What a client that has logged in asks for: answered here, or put into words that libunftp takes.
//!
//! libunftp reads the backups and sends listings; how clients speak is dealt with here. It ends a session at whatever
//! it cannot parse, it keeps a restart offset after a failed transfer, and it knows neither patterns nor representation
//! types. So it is sent commands that are made here, with a path that has been resolved, and nothing that a client
//! wrote otherwise.
//!
//! Backups are sent as they are stored. RFC 959 begins a session with type ASCII, and clients that believe in it turn
//! CR LF into LF in what they receive, which destroys a tar without a word. So RETR of a tar needs TYPE I. A manifest has
//! no CR in it, is the same either way, and goes out in both types.

use std::path::Path;

use crate::commands::{Known, Step};
use crate::path::{Place, resolve};

const MISSING: Step = Step::Answer("501 An argument is missing");
const NO_SUCH_FILE: Step = Step::Answer("550 No such file");
const READ_ONLY: Step = Step::Answer("550 Backups cannot be changed over FTP");
const BINARY_FIRST: Step = Step::Answer("504 A tar is sent in binary only: TYPE I first");
const ONE_DIRECTORY: Step = Step::Answer("550 There is one directory: /");
const STATUS: &str =
    "211-InfiMONITOR Backup Server\r\n Backups can be fetched and listed, not changed\r\n211 End";
const HELP: &str = "214-These commands are offered:\r\n \
    ABOR ALLO AUTH CDUP CWD EPSV FEAT HELP LIST MDTM MLSD MLST MODE NLST NOOP\r\n \
    OPTS PASS PASV PBSZ PROT PWD QUIT REST RETR SIZE STAT STRU SYST TYPE USER\r\n\
    214 Names for LIST and NLST may have * ? and [...] in them";

/// What is done with a command of a client that has logged in.
pub(crate) fn serve(name: &str, argument: &[u8], known: &Known) -> Step {
    use Step::Answer;
    match name {
        "QUIT" => Step::Bye,
        "ABOR" => Step::Abort,
        "HELP" => Answer(HELP),
        "TYPE" => representation(argument),
        "MODE" => only(argument, b'S', b"BCZ", "200 Mode is stream", "504 The only mode is S, stream"),
        "STRU" => only(argument, b'F', b"RP", "200 Structure is file", "504 The only structure is F, file"),
        "REST" => restart(argument),
        "PWD" | "XPWD" => Answer("257 \"/\" is the current directory"),
        "CDUP" | "XCUP" => Answer("250 / is the current directory"),
        "CWD" | "XCWD" if argument.is_empty() => MISSING,
        "CWD" | "XCWD" => match directory(argument) {
            Some(Place::Root) => Answer("250 / is the current directory"),
            _ => ONE_DIRECTORY,
        },
        "STAT" if argument.is_empty() => Answer(STATUS),
        "LIST" | "NLST" | "STAT" => on_path(name, directory(without_options(argument))),
        "MLSD" => match directory(argument) {
            Some(Place::Name(_)) => Answer("501 This is not a directory; MLST shows a file"),
            place => on_path(name, place),
        },
        "MLST" => on_path(name, place(argument)),
        "RETR" | "SIZE" | "MDTM" if argument.is_empty() => MISSING,
        "RETR" | "SIZE" => match place(argument) {
            Some(Place::Root) => Answer("550 This is a directory"),
            Some(Place::Name(file)) if name == "RETR" && !known.binary && file.ends_with(".tar") => {
                BINARY_FIRST
            }
            place => on_path(name, place),
        },
        "MDTM" => on_path(name, place(argument)),
        "STOR" | "STOU" | "APPE" | "DELE" | "RMD" | "XRMD" | "MKD" | "XMKD" | "RNFR" | "MFMT" | "MFCT"
        | "MFF" => READ_ONLY,
        "RNTO" => Answer("503 RNFR first"),
        "ALLO" | "ACCT" => Answer("202 Not needed here"),
        "SITE" if argument.eq_ignore_ascii_case(b"HELP") => Answer("214 No SITE command is offered"),
        "SITE" | "REIN" | "SMNT" | "LANG" | "ADAT" | "MIC" | "CONF" | "ENC" | "LPRT" | "LPSV" => {
            Answer("502 Not offered")
        }
        "" => Answer("500 A command is missing"),
        _ => Answer("500 Unknown command"),
    }
}

/// What OPTS asks for (RFC 2389). The facts of MLST cannot be chosen: the reply lists those that are given (RFC 3659).
pub(crate) fn options(argument: &[u8]) -> Step {
    let argument = argument.to_ascii_uppercase();
    let mut words = argument.split(|byte| *byte == b' ').filter(|word| !word.is_empty());
    match (words.next(), words.next()) {
        (Some(b"UTF8" | b"UTF-8"), None | Some(b"ON" | b"NLST")) => Step::Answer("200 UTF-8 is always on"),
        (Some(b"MLST"), _) => Step::Answer("200 MLST OPTS Type;Size;Modify;"),
        (None, _) => MISSING,
        _ => Step::Answer("501 No such option"),
    }
}

/// A representation type: ASCII with the print format that is none, or image. What else RFC 959 knows is not offered.
fn representation(argument: &[u8]) -> Step {
    let letters: Vec<u8> = argument.to_ascii_uppercase().into_iter().filter(|byte| *byte != b' ').collect();
    match letters.as_slice() {
        b"I" | b"L8" => Step::Kind { binary: true },
        b"A" | b"AN" => Step::Kind { binary: false },
        [b'A', b'T' | b'C'] | [b'E', ..] | [b'L', b'0'..=b'9', ..] => Step::Answer("504 Types are A and I"),
        [] => MISSING,
        _ => Step::Answer("501 Types are A and I"),
    }
}

/// A parameter of one letter, of which one value is offered and RFC 959 knows others.
fn only(argument: &[u8], offered: u8, known: &[u8], yes: &'static str, no: &'static str) -> Step {
    match argument.to_ascii_uppercase().as_slice() {
        [letter] if *letter == offered => Step::Answer(yes),
        [letter] if known.contains(letter) => Step::Answer(no),
        [] => MISSING,
        _ => Step::Answer("501 Unknown parameter"),
    }
}

fn restart(argument: &[u8]) -> Step {
    let digits = Some(argument).filter(|digits| digits.iter().all(u8::is_ascii_digit));
    let offset = digits.and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
    offset.map_or(Step::Answer("501 REST takes a number of bytes"), Step::Restart)
}

/// The command for libunftp.
fn on_path(name: &str, place: Option<Place<'_>>) -> Step {
    match place {
        Some(Place::Root) => Step::Forward(format!("{name} /\r\n")),
        Some(Place::Name(file)) => Step::Forward(format!("{name} /{file}\r\n")),
        None => NO_SUCH_FILE,
    }
}

/// Where an argument leads. Names with control characters lead nowhere: they would be further commands to libunftp.
fn place(argument: &[u8]) -> Option<Place<'_>> {
    let text = std::str::from_utf8(argument).ok().filter(|text| !text.contains(char::is_control))?;
    resolve(Path::new(text))
}

/// The same for commands that take directories: there `~` is the one that a session begins in.
fn directory(argument: &[u8]) -> Option<Place<'_>> {
    if matches!(argument, b"~" | b"~/") { Some(Place::Root) } else { place(argument) }
}

/// Leaves out what clients send to `ls`: `-la`. No file's name begins with a hyphen.
fn without_options(mut argument: &[u8]) -> &[u8] {
    while argument.starts_with(b"-") {
        let end = argument.iter().position(|byte| *byte == b' ').unwrap_or(argument.len());
        argument = argument[end..].trim_ascii_start();
    }
    argument
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn step(line: &str, binary: bool) -> Step {
        let (name, argument) = crate::commands::parse(line.as_bytes());
        let known =
            Known { tls: true, user: true, logged_in: true, protected: true, binary, ..Known::default() };
        crate::commands::decide(&name, argument, &known)
    }

    #[test]
    fn each_command_gets_the_reply_of_its_rfc_or_goes_on_in_words_of_ours() {
        for (line, expected) in [
            // Parameters that libunftp ends a session for.
            ("NOOP x", "200"),
            ("REST -1", "501"),
            ("REST", "501"),
            ("REST +5", "501"),
            ("REST 18446744073709551616", "501"),
            ("MODE S", "200"),
            ("mode s", "200"),
            ("MODE Z", "504"),
            ("MODE X", "501"),
            ("MODE", "501"),
            ("STRU F", "200"),
            ("STRU R", "504"),
            ("STRU", "501"),
            ("OPTS UTF8 on", "200"),
            ("OPTS utf8 ON", "200"),
            ("OPTS UTF8", "200"),
            ("OPTS UTF8 OFF", "501"),
            ("OPTS MLST type;size;modify;unique;", "200 MLST OPTS Type;Size;Modify;"),
            ("OPTS MLST", "200 MLST OPTS Type;Size;Modify;"),
            ("OPTS", "501"),
            ("OPTS X", "501"),
            ("TYPE", "501"),
            ("TYPE X", "501"),
            ("TYPE E", "504"),
            ("TYPE L 36", "504"),
            ("PWD x", "257 \"/\" "),
            ("XPWD", "257 \"/\" "),
            ("CDUP", "250"),
            ("XCUP x", "250"),
            ("CWD", "501"),
            ("CWD /", "250"),
            ("CWD //./", "250"),
            ("XCWD ~", "250"),
            ("CWD ~/", "250"),
            ("CWD ..", "550"),
            ("CWD x/", "550"),
            ("RETR", "501"),
            ("RETR /", "550"),
            ("SIZE", "501"),
            ("SIZE /", "550"),
            ("MDTM", "501"),
            ("MLSD x.tar", "501"),
            ("MLSD /a/b", "550"),
            ("LIST a\u{7}b", "550"),
            ("STAT", "211-"),
            ("HELP", "214-"),
            ("HELP RETR", "214-"),
            ("SITE HELP", "214"),
            ("SITE CHMOD 644 x", "502"),
            ("ALLO 1000", "202"),
            ("STOR x", "550"),
            ("STOU", "550"),
            ("DELE x", "550"),
            ("RNFR x", "550"),
            ("RNTO x", "503"),
            ("REIN", "502"),
            ("LANG en", "502"),
            ("HOST example.com", "502"),
            ("CLNT x", "200"),
            ("PROT P ", "200"),
            ("PROT", "501"),
            ("PROT S", "536"),
            ("PROT X", "504"),
            ("PBSZ", "501"),
            ("PBSZ x", "501"),
            ("PBSZ 16384", "200 PBSZ=0"),
            ("EPSV 3", "522"),
            ("EPSV 2", "522"),
            ("EPSV x", "501"),
            ("", "500"),
            ("   ", "500"),
            ("X", "500"),
            ("GET / HTTP/1.1", "500"),
        ] {
            let said = match step(line, false) {
                Step::Answer(text) => text,
                Step::Protect(_) => "200",
                other => panic!("{line}: {other:?}"),
            };
            assert!(said.starts_with(expected), "{line}: {said}");
        }
        for (line, expected) in [
            ("LIST", "LIST /"),
            ("list", "LIST /"),
            ("  LIST  ", "LIST /"),
            ("LIST -la", "LIST /"),
            ("LIST -l -a  x.tar", "LIST /x.tar"),
            ("LIST -- x.tar", "LIST /x.tar"),
            ("NLST -a", "NLST /"),
            ("NLST *.tar", "NLST /*.tar"),
            ("NLST ./*.tar", "NLST /*.tar"),
            ("NLST ~", "NLST /"),
            ("MLSD", "MLSD /"),
            ("MLSD .", "MLSD /"),
            ("MLST", "MLST /"),
            ("MLST x.tar", "MLST /x.tar"),
            ("STAT -la .", "STAT /"),
            ("RETR ~", "RETR /~"),
            ("STAT x.tar", "STAT /x.tar"),
            ("SIZE   x.tar", "SIZE /x.tar"),
            ("MDTM x.tar ", "MDTM /x.tar"),
            ("RETR x.json", "RETR /x.json"),
            ("\u{fffd}RETR x.json", "500"),
        ] {
            match step(line, false) {
                Step::Forward(said) => assert_eq!(said, format!("{expected}\r\n"), "{line}"),
                Step::Answer(said) => assert!(said.starts_with(expected), "{line}: {said}"),
                other => panic!("{line}: {other:?}"),
            }
        }
        for (line, expected) in [
            ("ABOR", Step::Abort),
            ("QUIT", Step::Bye),
            ("QUIT now", Step::Bye),
            ("REST 0", Step::Restart(0)),
            ("REST 18446744073709551615", Step::Restart(u64::MAX)),
            ("TYPE I", Step::Kind { binary: true }),
            ("type l 8", Step::Kind { binary: true }),
            ("TYPE A", Step::Kind { binary: false }),
            ("TYPE A N", Step::Kind { binary: false }),
            ("EPSV ALL", Step::OnlyEpsv),
        ] {
            assert_eq!(step(line, false), expected, "{line}");
        }
    }

    #[test]
    fn a_tar_goes_out_in_binary_only() {
        assert_eq!(step("RETR x.tar", false), BINARY_FIRST);
        assert_eq!(step("RETR x.tar", true), Step::Forward("RETR /x.tar\r\n".into()));
        assert_eq!(step("RETR x.json", false), step("RETR x.json", true));
    }

    #[test]
    fn telnet_commands_before_a_command_are_left_out() {
        let (name, _) = crate::commands::parse(b"\xff\xf4\xff\xf2ABOR\r\n");
        assert_eq!(name, "ABOR");
        let (name, _) = crate::commands::parse(b"\xff\xf4\xf2abor\r\n");
        assert_eq!(name, "ABOR");
    }

    proptest! {
        /// Whatever a client sends: libunftp gets one line, which it can parse.
        #[test]
        fn libunftp_gets_one_line_that_it_knows(
            bytes in proptest::collection::vec(any::<u8>(), 0..60),
            name in "(LIST|NLST|MLSD|MLST|STAT|RETR|SIZE|MDTM)",
        ) {
            let line = [name.as_bytes(), b" ", &bytes, b"\r\n"].concat();
            let (name, argument) = crate::commands::parse(&line);
            let known = Known { logged_in: true, binary: true, ..Known::default() };
            if let Step::Forward(said) = crate::commands::decide(&name, argument, &known) {
                let path = said.strip_prefix(&name).and_then(|rest| rest.strip_prefix(" /"));
                let path = path.and_then(|rest| rest.strip_suffix("\r\n"));
                prop_assert!(path.is_some_and(|path| !path.contains(char::is_control)), "{:?}", said);
            }
        }
    }
}
