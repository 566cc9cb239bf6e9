//! Logins to a PostgreSQL that somebody else has set up: what each overrides, which database it enters, and what a refusal
//! means.
//!
//! A cluster's owner may set nearly everything for a role, a database or all roles (`ALTER ROLE … SET`), and may close
//! databases. All of it comes with the data to a replica, to a clone that is verified, and to what was restored. A client's
//! options count more than those settings (PostgreSQL documentation, "Parameter Interaction via the Client"), so every
//! login of the product gives them all. Trade-off: a list of settings in place of one switch, which PostgreSQL does not
//! have; what is not in the list stays as the owner has set it.
//!
//! Only a superuser may give [`OF_SUPERUSER`]. `monitor-link setup` sets those that matter for the replication role itself.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::time::{Duration, Instant};

/// What everybody may set: who asks, what a transaction is, how long anything may take, how text is written and read.
const OF_EVERYBODY: &[(&str, &str)] = &[
    ("role", "none"),
    ("search_path", "pg_catalog"),
    ("default_transaction_isolation", "read committed"),
    ("default_transaction_read_only", "off"),
    ("default_transaction_deferrable", "off"),
    ("statement_timeout", "0"),
    ("lock_timeout", "0"),
    ("transaction_timeout", "0"),
    ("idle_in_transaction_session_timeout", "0"),
    ("idle_session_timeout", "0"),
    ("client_connection_check_interval", "0"),
    ("local_preload_libraries", ""),
    ("synchronous_commit", "local"),
    ("row_security", "on"),
    ("client_min_messages", "warning"),
    ("standard_conforming_strings", "on"),
    ("quote_all_identifiers", "off"),
    ("bytea_output", "hex"),
    ("DateStyle", "ISO, YMD"),
    ("IntervalStyle", "postgres"),
    ("TimeZone", "UTC"),
    ("extra_float_digits", "1"),
    ("xmloption", "content"),
    ("array_nulls", "on"),
    ("transform_null_equals", "off"),
    ("password_encryption", "scram-sha-256"),
    ("default_tablespace", ""),
    ("temp_tablespaces", ""),
    ("default_table_access_method", "heap"),
    ("check_function_bodies", "on"),
    ("jit", "off"),
    ("debug_parallel_query", "off"),
    ("max_parallel_workers_per_gather", "0"),
    ("max_parallel_maintenance_workers", "0"),
    ("work_mem", "4MB"),
    ("maintenance_work_mem", "64MB"),
    ("temp_buffers", "8MB"),
];

/// What only a superuser may set: what runs at a login, whether damage is shown, what is logged and in which language.
const OF_SUPERUSER: &[(&str, &str)] = &[
    TRIGGERS,
    ("session_preload_libraries", ""),
    ("dynamic_library_path", "$libdir"),
    ("session_replication_role", "origin"),
    ("zero_damaged_pages", "off"),
    ("ignore_checksum_failure", "off"),
    ("allow_system_table_mods", "off"),
    ("temp_file_limit", "-1"),
    ("lc_messages", "C"),
    ("log_statement", "none"),
    ("log_min_messages", "warning"),
    ("log_min_error_statement", "error"),
    ("log_min_duration_statement", "-1"),
    ("log_min_duration_sample", "-1"),
    ("log_duration", "off"),
    ("log_error_verbosity", "default"),
    ("log_parser_stats", "off"),
    ("log_planner_stats", "off"),
    ("log_executor_stats", "off"),
    ("log_statement_stats", "off"),
];

/// No trigger runs at the login. The replication role has the right to it from `monitor-link setup`.
const TRIGGERS: (&str, &str) = ("event_triggers", "off");

/// Seconds that a login there may take: until it is over, no setting of ours counts, and a locked catalog holds it for ever. The
/// machine may have better things to do for a while.
const LOGIN_SECONDS: &str = "300";
/// The wait for a lock in a cluster that nobody else uses. It counts more than what stands before it.
const LOCKED: (&str, &str) = ("lock_timeout", "60s");

/// Refusals that last so long do not pass by themselves.
const REFUSED: Duration = Duration::from_secs(20);

/// Databases that are tried first: nearly every cluster has them.
const USUAL_DATABASES: [&str; 2] = ["postgres", "template1"];
/// Nobody is ever let into it.
const CLOSED_DATABASE: &str = "template0";

/// The options of a login as the replication role, on the monitor or on its replica, without those that need a right.
pub fn options_of_everybody() -> String {
    options(OF_EVERYBODY)
}

/// The same, and no trigger runs; for a role that `monitor-link setup` has granted it.
pub fn options_of_replication_role() -> String {
    options(std::iter::once(&TRIGGERS).chain(OF_EVERYBODY))
}

/// The options of a login as a superuser.
pub fn options_of_superuser() -> String {
    options(OF_SUPERUSER.iter().chain(OF_EVERYBODY))
}

/// Settings as the start-up message of a login takes them: white space and backslashes are escaped (PostgreSQL
/// documentation, "Message Formats", `StartupMessage`).
pub fn options<'a>(settings: impl IntoIterator<Item = &'a (&'a str, &'a str)>) -> String {
    let words = settings
        .into_iter()
        .map(|(name, value)| format!("-c {name}={}", value.replace('\\', "\\\\").replace(' ', "\\ ")));
    words.collect::<Vec<_>>().join(" ")
}

/// The connection string for a superuser's login over the socket in `socket_dir`, to a cluster that nobody else uses: what
/// is locked there stays so, and neither a login nor a statement waits for it without end. A database's name is bytes: nothing
/// says of which encoding.
pub fn superuser_conninfo(socket_dir: &str, user: &str, database: &OsStr) -> OsString {
    let mut conninfo = Vec::new();
    let options = format!("{} {}", options_of_superuser(), options(&[LOCKED]));
    for (key, value) in [
        ("host", socket_dir.as_bytes()),
        ("user", user.as_bytes()),
        ("dbname", database.as_bytes()),
        // What is printed is what is stored, byte by byte.
        ("client_encoding", b"SQL_ASCII"),
        ("connect_timeout", LOGIN_SECONDS.as_bytes()),
        ("options", options.as_bytes()),
    ] {
        conninfo.extend_from_slice(key.as_bytes());
        conninfo.extend_from_slice(b"='");
        for &byte in value {
            if matches!(byte, b'\'' | b'\\') {
                conninfo.push(b'\\');
            }
            conninfo.push(byte);
        }
        conninfo.extend_from_slice(b"' ");
    }
    OsString::from_vec(conninfo)
}

/// An SQL expression that gives the bytes of the name `column` in ASCII, whatever encoding the database and its client
/// have: to be read by [`name_of`].
pub fn name_in_ascii(column: &str) -> String {
    format!(
        "pg_catalog.encode(pg_catalog.decode(pg_catalog.replace({column}::pg_catalog.text, pg_catalog.chr(92), \
         pg_catalog.repeat(pg_catalog.chr(92), 2)), 'escape'), 'escape')"
    )
}

/// The bytes of a name from [`name_in_ascii`]: `\ooo` is a byte in octal digits, and `\\` a backslash (PostgreSQL
/// documentation, "bytea Escape Format").
pub fn name_of(ascii: &str) -> OsString {
    let mut bytes = Vec::with_capacity(ascii.len());
    let mut rest = ascii.as_bytes();
    loop {
        rest = match rest {
            [] => return OsString::from_vec(bytes),
            [b'\\', b'\\', rest @ ..] => {
                bytes.push(b'\\');
                rest
            }
            [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', rest @ ..] => {
                bytes.push(((a - b'0') << 6) | ((b - b'0') << 3) | (c - b'0'));
                rest
            }
            [byte, rest @ ..] => {
                bytes.push(*byte);
                rest
            }
        };
    }
}

/// Why psql was not let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The server starts or recovers: it is to be asked again.
    Starts,
    /// The server runs and refuses, with these words.
    Refuses(String),
}

/// What the server's or libpq's words mean. They are English: a server's before a login by our `lc_messages`, libpq's by
/// `LC_ALL`.
pub fn refusal(said: &str) -> Refusal {
    const STARTS: [&str; 7] = [
        "the database system is starting up",
        "the database system is not yet accepting connections",
        "the database system is not accepting connections",
        "the database system is in recovery mode",
        // The socket is not there, or nobody listens on it.
        "Is the server running locally and accepting connections on that socket?",
        "Connection refused",
        "server closed the connection unexpectedly",
    ];
    if STARTS.iter().any(|words| said.contains(words)) {
        return Refusal::Starts;
    }
    let line = said.lines().find(|line| line.contains("FATAL:")).or_else(|| said.lines().next());
    let line = line.unwrap_or("nothing was said");
    Refusal::Refuses(line.rsplit_once("FATAL:").map_or(line, |(_, words)| words).trim().to_owned())
}

/// The databases of a cluster by which one may come in, tried one after the other.
///
/// `postgres` or `template1` may be closed or gone, so what else is known follows. A refusal moves on to the next one, as
/// it may be that database's alone; one that lasts through all of them for [`REFUSED`] is an error.
#[derive(Debug, Clone)]
pub struct Entrance {
    databases: Vec<OsString>,
    at: usize,
    refused_since: Option<Instant>,
}

impl Entrance {
    /// Into a cluster with the databases `known`.
    pub fn new<'a>(known: impl IntoIterator<Item = &'a str>) -> Self {
        let mut databases: Vec<OsString> = USUAL_DATABASES.map(OsString::from).to_vec();
        for name in known {
            // One that was not UTF-8 stands there changed.
            let is_usable = name != CLOSED_DATABASE && !name.contains(char::REPLACEMENT_CHARACTER);
            if is_usable && !databases.iter().any(|known| known == name) {
                databases.push(name.into());
            }
        }
        Self { databases, at: 0, refused_since: None }
    }

    /// The database to be entered.
    pub fn database(&self) -> &OsStr {
        &self.databases[self.at]
    }

    /// The server let somebody in.
    pub fn opened(&mut self) {
        self.refused_since = None;
    }

    /// The server did not let psql in, which said this.
    ///
    /// # Errors
    /// Nobody is let into any of the databases, as a sentence without full stop.
    pub fn refused(&mut self, said: &str, now: Instant) -> Result<(), String> {
        let Refusal::Refuses(why) = refusal(said) else {
            self.refused_since = None;
            return Ok(());
        };
        let since = *self.refused_since.get_or_insert(now);
        let last = self.at + 1 == self.databases.len();
        let refused = self.database().to_string_lossy().into_owned();
        self.at = if last { 0 } else { self.at + 1 };
        if last && now.saturating_duration_since(since) > REFUSED {
            return Err(format!(
                "PostgreSQL runs, but lets nobody into it ({} databases were tried; {refused}: {why})",
                self.databases.len()
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_escaped_as_the_server_reads_them() {
        assert_eq!(options(&[("a", "b c"), ("d", "\\"), ("e", "")]), "-c a=b\\ c -c d=\\\\ -c e=");
        for (options, is_super, has_triggers) in [
            (options_of_everybody(), false, false),
            (options_of_replication_role(), false, true),
            (options_of_superuser(), true, true),
        ] {
            assert!(options.contains("-c role=none -c search_path=pg_catalog"), "{options}");
            assert!(options.contains("default_transaction_isolation=read\\ committed"), "{options}");
            assert_eq!(options.contains("session_preload_libraries="), is_super, "{options}");
            assert_eq!(options.contains("event_triggers=off"), has_triggers, "{options}");
            // A start-up message has 10 000 bytes at most.
            assert!(options.len() < 4000, "{}", options.len());
        }
    }

    #[test]
    fn a_connection_string_takes_any_bytes() {
        let name = OsStr::from_bytes(b"a'\\\xe9");
        let conninfo = superuser_conninfo("/socket", "it's", name).into_vec();
        let begin =
            b"host='/socket' user='it\\'s' dbname='a\\'\\\\\xe9' client_encoding='SQL_ASCII' connect_timeout='300' \
              options='-c ";
        assert!(conninfo.starts_with(begin), "{}", String::from_utf8_lossy(&conninfo));
    }

    #[test]
    fn names_are_bytes() {
        for (ascii, name) in [
            ("postgres", b"postgres".as_slice()),
            ("caf\\351", b"caf\xe9"),
            ("\\303\\274", "ü".as_bytes()),
            ("a\\\\b\\\\351", b"a\\b\\351"),
            ("", b""),
            ("\\", b"\\"),
            ("\\9", b"\\9"),
        ] {
            assert_eq!(name_of(ascii).as_bytes(), name, "{ascii}");
        }
    }

    #[test]
    fn a_server_that_starts_is_told_from_one_that_refuses() {
        let psql = "psql: error: connection to server on socket \"/s/.s.PGSQL.5432\" failed: ";
        for words in [
            "FATAL:  the database system is starting up",
            "FATAL:  the database system is not yet accepting connections\nDETAIL:  Consistent recovery state has not been \
             yet reached.",
            "No such file or directory\n\tIs the server running locally and accepting connections on that socket?",
        ] {
            assert_eq!(refusal(&format!("{psql}{words}")), Refusal::Starts, "{words}");
        }
        for words in [
            "database \"template1\" is not currently accepting connections",
            "role \"postgres\" is not permitted to log in",
            "could not access file \"pg_hint_plan\": No such file or directory",
            "database \"x\" does not exist",
        ] {
            assert_eq!(refusal(&format!("{psql}FATAL:  {words}\n")), Refusal::Refuses(words.into()));
        }
        assert!(matches!(refusal(""), Refusal::Refuses(_)));
    }

    #[test]
    fn each_database_is_tried_and_a_refusal_of_all_ends_the_wait() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let starts = "FATAL:  the database system is starting up";
        let closed = "FATAL:  database is not currently accepting connections";
        let mut entrance = Entrance::new(["template0", "app", "postgres", "caf\u{fffd}"]);
        let names = ["postgres", "template1", "app"];
        for seconds in 0..10_000 {
            assert_eq!(entrance.refused(starts, at(seconds)), Ok(()));
            assert_eq!(entrance.database(), "postgres");
        }
        // Which one is open is found by trying, and stays.
        for name in names {
            assert_eq!(entrance.database(), name);
            assert_eq!(entrance.refused(closed, at(10_000)), Ok(()));
        }
        assert_eq!(entrance.database(), "postgres");
        for seconds in 10_001..10_021 {
            assert_eq!(entrance.refused(closed, at(seconds)), Ok(()));
        }
        let problem = (10_021..10_025).find_map(|seconds| entrance.refused(closed, at(seconds)).err());
        let problem = problem.expect("it is refused for too long");
        assert!(problem.contains("3 databases") && problem.contains("not currently accepting"), "{problem}");
        // One that starts anew in between is waited for.
        assert_eq!(entrance.refused(starts, at(20_000)), Ok(()));
        for seconds in 20_000..20_003 {
            assert_eq!(entrance.refused(closed, at(seconds)), Ok(()));
        }
    }
}
