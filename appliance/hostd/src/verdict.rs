//! What the end of a program says about a backup: PostgreSQL's verdict on the data, or trouble of the machine
//! (design D9).
//!
//! A failed backup is protected by nothing and used by nobody, so calling a good one so is worse than having
//! no result. Only words that PostgreSQL uses of damaged data count against a backup. A program that is
//! killed, runs out of room, memory, files or time, or says what is unknown here, has said nothing. Pure.

use crate::program::Failure;

/// What the end of a program says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The backup is bad, for this reason.
    Data(String),
    /// It could not be tried.
    Machine(Hindrance),
}

/// Trouble of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hindrance {
    /// What, as a sentence without full stop.
    pub reason: String,
    /// The disk could not be read or written.
    pub disk: bool,
}

impl Hindrance {
    /// Of these words.
    pub fn new(reason: impl Into<String>) -> Self {
        let reason = reason.into();
        let disk = reason.contains(DISK);
        Self { reason, disk }
    }
}

impl From<anyhow::Error> for Hindrance {
    fn from(error: anyhow::Error) -> Self {
        Self::new(format!("{error:#}"))
    }
}

/// Where words come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The log of a server that has ended by itself.
    Log,
    /// The log of a server whose recovery came to the end of its WAL, as its timeline's history has it, too early.
    WalEnd,
    /// `pg_amcheck`
    Amcheck,
    /// `pg_checksums`
    Checksums,
    /// `psql`, which hands on what the database's own triggers, views and functions raise: of whatever words.
    Sql,
    /// Any other program: `pg_controldata`, `pg_ctl`.
    Other,
}

/// EIO: the disk, or btrfs that finds a block damaged and has no second one.
const DISK: &str = "Input/output error";

/// Words of a machine in trouble: strerror(3) of what no data can cause, and PostgreSQL's own.
const MACHINE: [&str; 27] = [
    DISK,
    "No space left on device",
    "Disk quota exceeded",
    "File too large",
    "Read-only file system",
    "Structure needs cleaning",
    "Stale file handle",
    "No such device",
    "Permission denied",
    "Operation not permitted",
    "Cannot allocate memory",
    "out of memory",
    "out of shared memory",
    "could not map anonymous shared memory",
    "could not resize shared memory",
    "could not create shared memory",
    "Too many open files",
    "Resource temporarily unavailable",
    "could not fork",
    "was terminated by signal 9",
    "was terminated by signal 15",
    "shutdown request",
    "canceling statement",
    "terminating connection",
    "connection to server",
    "server closed the connection",
    "remaining connection slots",
];

/// Words that PostgreSQL uses of damaged data and of nothing else.
const DAMAGE: [&str; 32] = [
    "incorrect checksum in control file",
    "database files are incompatible with server",
    "is not a valid data directory",
    "could not locate a valid checkpoint record",
    "could not locate required checkpoint record",
    "could not find redo location",
    "invalid checkpoint",
    "invalid redo",
    "WAL ends before",
    "WAL contains references to invalid pages",
    "requested timeline",
    "unexpected timeline ID",
    "recovery ended before configured recovery target",
    "invalid page in block",
    "read only ",
    "could not access status of transaction",
    "contains invalid data",
    "contains incorrect checksum",
    "contains wrong size",
    "invalid data in file",
    "missing chunk number",
    "unexpected chunk number",
    "unexpected chunk size",
    "compressed pglz data is corrupt",
    "compressed lz4 data is corrupt",
    "contains unexpected zero page",
    "contains corrupted page",
    "is not a btree",
    "left-link doesn't match",
    "failed to re-find parent key",
    "from before relfrozenxid",
    "could not open relation mapping file",
];

/// Words of pg_verifybackup for what is not as the manifest has it.
const COPY: [&str; 10] = [
    "on disk but not in the manifest",
    "in the manifest but not on disk",
    " on disk but size ",
    "checksum mismatch",
    "has checksum of length",
    " bytes, but read ",
    "CRC is incorrect",
    "system identifier",
    "manifest has no checksum",
    "could not parse backup manifest",
];

/// How many characters of its words go into a reason.
const REASON_CHARACTERS: usize = 600;
/// Lines of a log that go into a reason.
const REASON_LINES: usize = 3;

/// What the failure of a program says; `source` is the program.
pub fn of_failure(source: Source, failure: &Failure) -> Verdict {
    match failure.refusal() {
        Some((code, said)) => of_words(source, Some(code), said, &failure.to_string()),
        None => Verdict::Machine(Hindrance::new(failure.to_string())),
    }
}

/// What the log of a server says that has ended by itself or has come to the end of its WAL; `begin` begins the reason.
pub fn of_log(source: Source, begin: &str, lines: &[String]) -> Verdict {
    // Lines before the last tell what went before, such as the write that failed.
    let trouble = MACHINE.iter().find_map(|word| lines.iter().find(|line| line.contains(word)));
    let tail = || lines[lines.len().saturating_sub(REASON_LINES)..].join(" ");
    let reason = format!("{begin}: {}", short(&trouble.cloned().unwrap_or_else(tail)));
    of_words(source, None, &lines.join("\n"), &reason)
}

/// What these words say.
fn of_words(source: Source, code: Option<i32>, said: &str, reason: &str) -> Verdict {
    let machine = || Verdict::Machine(Hindrance::new(reason));
    let data = || Verdict::Data(reason.to_owned());
    let is_data = match source {
        Source::Amcheck if code == Some(2) => return of_findings(said, reason),
        Source::Checksums => code == Some(1) && said.contains("checksum verification failed in file"),
        Source::Log | Source::Other | Source::Amcheck => said.lines().any(is_damage),
        Source::Sql => false,
        // It has replayed all that it could read; what it could not read is among the words of a machine.
        Source::WalEnd => true,
    };
    if has_any(said, &MACHINE) || !is_data { machine() } else { data() }
}

/// What pg_amcheck has found: for each finding a line with the relation, then lines that are indented. An
/// `ERROR` among those is of the check itself, which may have been hindered.
fn of_findings(said: &str, reason: &str) -> Verdict {
    let mut findings: Vec<Vec<&str>> = Vec::new();
    for line in said.lines() {
        if line.starts_with("heap table \"") || line.starts_with("btree index \"") {
            findings.push(Vec::new());
        } else if let Some(finding) = findings.last_mut() {
            finding.push(line);
        }
    }
    let is_data = |lines: &Vec<&str>| {
        let text = lines.join("\n");
        let of_check = lines.iter().find_map(|line| line.trim_start().strip_prefix("ERROR:"));
        !text.is_empty()
            && !has_any(&text, &MACHINE)
            && of_check.is_none_or(|error| error.contains("index \"") || lines.iter().copied().any(is_damage))
    };
    if findings.iter().any(is_data) {
        Verdict::Data(reason.to_owned())
    } else {
        Verdict::Machine(Hindrance::new(reason))
    }
}

/// Whether these words of pg_verifybackup are of a file that is not what the monitor sent, and not of one
/// that cannot be read.
pub fn is_of_copy(words: &str) -> bool {
    has_any(words, &COPY) && !has_any(words, &MACHINE)
}

/// Whether a line is of damage. A file of the cluster that is not there is damage as well: a snapshot loses
/// none.
fn is_damage(line: &str) -> bool {
    let severe = ["ERROR", "FATAL", "PANIC", "pg_controldata: error"].iter().any(|word| line.contains(word));
    let lost = ["\"base/", "\"global/", "\"pg_", "/pgdata/global/pg_control\""];
    severe && (has_any(line, &DAMAGE) || line.contains("No such file or directory") && has_any(line, &lost))
}

fn has_any(text: &str, words: &[&str]) -> bool {
    words.iter().any(|word| text.contains(word))
}

fn short(text: &str) -> String {
    let left_out = text.chars().count().saturating_sub(REASON_CHARACTERS);
    text.chars().skip(left_out).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(source: Source, code: i32, said: &str) -> Verdict {
        of_failure(source, &Failure::Refused { program: "p".into(), code, said: said.into() })
    }

    fn log(lines: &str) -> Verdict {
        let lines: Vec<String> = lines.lines().map(str::to_owned).collect();
        of_log(Source::Log, "PostgreSQL does not start from it", &lines)
    }

    #[test]
    fn only_words_about_the_data_are_a_verdict() {
        let table = [
            // pg_amcheck
            (refused(Source::Amcheck, 2, "heap table \"d.s.t\", block 20:\n    line pointer is bad"), true),
            (
                refused(
                    Source::Amcheck,
                    2,
                    "btree index \"d.s.i\":\n    ERROR:  item order invariant violated for index \"i\"",
                ),
                true,
            ),
            (
                refused(
                    Source::Amcheck,
                    2,
                    "heap table \"d.s.t\":\n    ERROR:  invalid page in block 3 of relation base/5/6",
                ),
                true,
            ),
            (refused(Source::Amcheck, 2, "btree index \"d.s.i\":\n    ERROR:  division by zero"), false),
            (
                refused(
                    Source::Amcheck,
                    2,
                    "heap table \"d.s.t\":\n    ERROR:  out of memory\n    DETAIL:  Failed on request",
                ),
                false,
            ),
            (
                refused(
                    Source::Amcheck,
                    2,
                    "heap table \"d.s.t\":\n    ERROR:  could not read block 7 in file \"base/5/6\": Input/output error",
                ),
                false,
            ),
            (
                refused(
                    Source::Amcheck,
                    2,
                    "heap table \"a\":\n    ERROR:  out of memory\nheap table \"b\":\n    line pointer is bad",
                ),
                true,
            ),
            (refused(Source::Amcheck, 2, ""), false),
            (refused(Source::Amcheck, 1, "ERROR: could not write: No space left on device"), false),
            (
                refused(
                    Source::Amcheck,
                    1,
                    "pg_amcheck: error: query failed: ERROR:  invalid page in block 0 of relation base/5/1259",
                ),
                true,
            ),
            (
                refused(
                    Source::Amcheck,
                    1,
                    "pg_amcheck: error: connection to server on socket failed: No such file or directory",
                ),
                false,
            ),
            // pg_checksums
            (
                refused(
                    Source::Checksums,
                    1,
                    "pg_checksums: error: checksum verification failed in file \"/x\", block 1: …\nBad checksums:  1",
                ),
                true,
            ),
            (
                refused(
                    Source::Checksums,
                    1,
                    "pg_checksums: error: could not read block 1 in file \"/x\": Input/output error",
                ),
                false,
            ),
            (refused(Source::Checksums, 1, "pg_checksums: error: cluster must be shut down"), false),
            (refused(Source::Checksums, 1, "ERROR: out of memory: Cannot allocate memory"), false),
            // psql
            (refused(Source::Sql, 1, "ERROR:  invalid page in block 1 of relation base/5/1"), false),
            // pg_controldata
            (refused(Source::Other, 1, "ERROR:  could not access status of transaction 7"), true),
            (
                refused(
                    Source::Other,
                    1,
                    "ERROR:  could not open file \"base/5/1259\": No such file or directory",
                ),
                true,
            ),
            (
                refused(
                    Source::Other,
                    2,
                    "connection to server on socket \"/run/x\" failed: No such file or directory",
                ),
                false,
            ),
            (refused(Source::Other, 3, "ERROR:  permission denied to set parameter"), false),
            (
                refused(
                    Source::Other,
                    1,
                    "pg_controldata: error: could not open file \"/srv/cluster/pgdata/global/pg_control\" for reading: No such file or directory",
                ),
                true,
            ),
            (refused(Source::Other, 1, "ERROR: could not read: Input/output error"), false),
            // a server that ended by itself
            (
                log(
                    "LOG:  starting\nPANIC:  could not locate a valid checkpoint record at 0/60\nLOG:  startup process (PID 7) was terminated by signal 6: Aborted",
                ),
                true,
            ),
            (log("FATAL:  incorrect checksum in control file"), true),
            (log("PANIC:  WAL contains references to invalid pages"), true),
            (
                log("FATAL:  could not open file \"pg_multixact/members/0000\": No such file or directory"),
                true,
            ),
            (log("FATAL:  could not open file \"/run/x/pg_hba.conf\": No such file or directory"), false),
            (
                log(
                    "PANIC:  could not write to file \"pg_wal/xlogtemp.7\": Disk quota exceeded\nLOG:  startup process (PID 7) was terminated by signal 6",
                ),
                false,
            ),
            (log("FATAL:  could not extend file \"base/1/2\": No space left on device"), false),
            (log("LOG:  startup process (PID 7) was terminated by signal 9: Killed"), false),
            (log("FATAL:  could not map anonymous shared memory: Cannot allocate memory"), false),
            (log("ERROR:  out of memory\nDETAIL:  Failed on request of size 8"), false),
            (
                log(
                    "ERROR:  could not resize shared memory segment \"/PostgreSQL.7\" to 1 bytes: No space left on device",
                ),
                false,
            ),
            (log("LOG:  could not fork worker process: Resource temporarily unavailable"), false),
            (log("FATAL:  could not read file \"global/pg_control\": Input/output error"), false),
            (log(""), false),
        ];
        for (verdict, is_data) in table {
            assert_eq!(matches!(verdict, Verdict::Data(_)), is_data, "{verdict:?}");
        }
    }

    #[test]
    fn recovery_that_ends_early_is_bad_unless_the_machine_kept_it_from_reading() {
        let ended = |lines: &str| {
            let lines: Vec<String> = lines.lines().map(str::to_owned).collect();
            of_log(Source::WalEnd, "its WAL ends at 0/5, before 0/6", &lines)
        };
        let record = "LOG:  invalid record length at 0/5: expected at least 24, got 0";
        assert!(matches!(ended(record), Verdict::Data(reason) if reason.contains("invalid record length")));
        // A segment that is not there is not mentioned.
        assert!(matches!(ended("LOG:  received promote request"), Verdict::Data(_)));
        for trouble in ["Disk quota exceeded", "Input/output error", "out of memory"] {
            let log = format!("LOG:  could not read from WAL segment: {trouble}\n{record}");
            assert!(matches!(ended(&log), Verdict::Machine(_)), "{log}");
        }
    }

    #[test]
    fn what_befalls_a_program_says_nothing_whatever_the_program() {
        let program = || String::from("pg_amcheck");
        for failure in [
            Failure::Killed { program: program(), signal: 9 },
            Failure::Killed { program: program(), signal: 11 },
            Failure::NotStarted { program: program(), cause: "checksum verification failed in file".into() },
            Failure::TimedOut { program: program(), limit: std::time::Duration::from_secs(1) },
            Failure::TooMuch { program: program(), bytes: 7 },
            Failure::Lost { program: program(), error: std::io::Error::other("invalid page in block") },
        ] {
            for source in [Source::Log, Source::WalEnd, Source::Amcheck, Source::Checksums, Source::Other] {
                assert!(matches!(of_failure(source, &failure), Verdict::Machine(_)), "{failure}");
            }
        }
    }

    #[test]
    fn a_copy_is_damaged_only_by_what_differs() {
        for (words, expected) in [
            ("checksum mismatch for file \"base/1/2\"", true),
            ("\"base/1/2\" is present in the manifest but not on disk", true),
            ("\"base/1/2\" has size 8192 on disk but size 16384 in the manifest", true),
            ("could not read file \"base/1/2\": Input/output error", false),
            ("could not open file \"base/1/2\": Too many open files", false),
            ("out of memory", false),
            ("", false),
        ] {
            assert_eq!(is_of_copy(words), expected, "{words}");
        }
    }

    #[test]
    fn a_disk_that_cannot_be_read_is_named() {
        assert!(Hindrance::new("cannot read x: Input/output error (os error 5)").disk);
        assert!(!Hindrance::new("No space left on device").disk);
    }
}
