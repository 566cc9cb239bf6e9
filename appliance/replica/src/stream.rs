//! What the replica's own log says of a stream that cannot be continued, although both servers run.
//!
//! PostgreSQL shows it nowhere else: the WAL receiver ends and is started anew for ever. The texts are those of
//! PostgreSQL 17 with `lc_messages = C` (xlogrecovery.c, walreceiver.c, walsender.c, tablespace.c).

use crate::Lsn;

/// What a monitor did that is behind its replica.
const SET_BACK: &str = "the monitor was set back to an older state than the replica has";

/// What a monitor did that was promoted before the replica's position, such as a restored one.
const DIVERGED: &str = "the monitor went another way than the replica (its timeline diverged)";

/// What a monitor is that was restored to before its last promotion.
const BEHIND: &str = "the monitor is behind the replica (its timeline is older)";

/// A tablespace lies where the monitor has it, and there is no such place here; a copy is told another one.
const TABLESPACE: &str = "the monitor has a tablespace that the replica was copied without";

/// Parts of lines after which the stream never continues.
const BROKEN: [(&str, &str); 8] = [
    ("has already been removed", "the monitor does not have the WAL any more that the replica needs"),
    ("forked off current database system timeline", DIVERGED),
    // The same at the replica's next start, which fails: it has the monitor's history by then.
    ("is not a child of this server's history", DIVERGED),
    ("does not contain minimum recovery point", DIVERGED),
    ("is ahead of the WAL flush position", SET_BACK),
    ("Create this directory for the tablespace before restarting the server", TABLESPACE),
    ("could not set permissions on directory", TABLESPACE),
    ("is behind recovery timeline", BEHIND),
];

/// Why a replica at `replayed` cannot follow a monitor that was at `position` later: a busy one that was set back soon
/// passes the replica, and would then be followed on the wrong way.
pub fn set_back(replayed: Lsn, position: Lsn) -> Option<String> {
    (replayed > position).then(|| format!("{SET_BACK} ({position} < {replayed}); a full copy is needed"))
}

/// Whether the replica has something newer than the monitor, by the reason why its stream cannot be continued.
pub fn has_what_the_monitor_lost(reason: &str) -> bool {
    [SET_BACK, DIVERGED, BEHIND].iter().any(|lost| reason.contains(lost))
}

/// Less than this is no database that anybody would miss, in bytes: a cluster without tables has about 22 MB.
const WORTH_ASKING: u64 = 64 << 20;

/// Whether a monitor whose databases have `monitor` bytes looks empty beside a replica with `replica` bytes: then it was
/// perhaps installed anew, and must not replace the replica unasked (design D13).
pub fn looks_empty(monitor: u64, replica: u64) -> bool {
    replica > WORTH_ASKING && monitor < replica / 10
}

/// Why the stream cannot be continued, by the last lines of the log.
pub fn broken_stream(log: &[String]) -> Option<String> {
    let reason = log
        .iter()
        .rev()
        .find_map(|line| BROKEN.iter().find(|(text, _)| line.contains(text)).map(|(_, reason)| *reason))?;
    Some(format!("{reason}; a full copy is needed"))
}

/// Parts of lines after which the stream begins only when somebody has acted; nothing is lost until then.
const REFUSED: [(&str, &str); 3] = [
    (
        "certificate verify failed",
        "the replica's stream does not take the monitor's certificate; see the check `monitor-certificate`",
    ),
    (
        "no pg_hba.conf entry for replication",
        "the monitor does not admit the replica's stream; run `monitor-link setup` there",
    ),
    (
        "password authentication failed",
        "the monitor refuses the password of the replica's stream; run `monitor-link setup` there and pair again",
    ),
];

/// Why the monitor and the replica do not come together although both run, by the last lines of the log.
pub fn refused_stream(log: &[String]) -> Option<String> {
    let line = log.iter().rev().find(|line| line.contains("could not connect to the primary server"))?;
    let (_, reason) = REFUSED.iter().find(|(text, _)| line.contains(text))?;
    Some((*reason).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_monitor_behind_its_replica_was_set_back() {
        assert_eq!(set_back(Lsn(5), Lsn(5)), None);
        assert_eq!(set_back(Lsn(5), Lsn(6)), None);
        let back = set_back(Lsn(6), Lsn(5)).unwrap();
        assert!(back.contains("(0/5 < 0/6)") && has_what_the_monitor_lost(&back));
        let gone =
            broken_stream(&["FATAL:  requested WAL segment 1 has already been removed".into()]).unwrap();
        assert!(!has_what_the_monitor_lost(&gone));
    }

    #[test]
    fn a_tenth_of_what_was_there_looks_empty() {
        const GB: u64 = 1_000_000_000;
        let table = [
            (22_000_000, 30_000_000, false),
            (22_000_000, 20 * GB, true),
            (3 * GB, 20 * GB, false),
            (0, WORTH_ASKING, false),
            (40 * GB, 20 * GB, false),
        ];
        for (monitor, replica, expected) in table {
            assert_eq!(looks_empty(monitor, replica), expected, "{monitor} {replica}");
        }
    }

    #[test]
    fn a_stream_that_is_refused_has_its_reason() {
        let begin =
            "FATAL:  could not connect to the primary server: connection to server at \"x\", port 1 failed: ";
        for (words, part) in [
            ("SSL error: certificate verify failed", Some("monitor-certificate")),
            ("FATAL:  no pg_hba.conf entry for replication connection from host \"x\"", Some("admit")),
            ("FATAL:  password authentication failed for user \"x\"", Some("password")),
            ("Connection refused", None),
        ] {
            let log = ["LOG:  x".to_owned(), format!("{begin}{words}"), "LOG:  waiting for WAL".into()];
            let reason = refused_stream(&log);
            assert_eq!(reason.is_some(), part.is_some(), "{words}");
            assert!(reason.unwrap_or_default().contains(part.unwrap_or_default()), "{words}");
            // What was refused before counts no more.
            let later = [log[1].clone(), format!("{begin}Connection refused")];
            assert_eq!(refused_stream(&later), None);
        }
        assert_eq!(refused_stream(&[]), None);
    }

    #[test]
    fn lines_after_which_nothing_streams_are_known() {
        let table = [
            (
                "FATAL:  could not receive data from WAL stream: ERROR:  requested WAL segment 000000010000000000000003 \
                 has already been removed",
                Some("does not have the WAL"),
            ),
            (
                "LOG:  new timeline 2 forked off current database system timeline 1 before current recovery point \
                 0/5000000",
                Some("went another way"),
            ),
            (
                "FATAL:  highest timeline 1 of the primary is behind recovery timeline 2",
                Some("is behind the replica"),
            ),
            (
                "FATAL:  could not receive data from WAL stream: ERROR:  requested starting point 0/5000000 is ahead of \
                 the WAL flush position of this server 0/4000000",
                Some("was set back"),
            ),
            (
                "HINT:  Create this directory for the tablespace before restarting the server.",
                Some("has a tablespace"),
            ),
            ("LOG:  started streaming WAL from primary at 0/3000000 on timeline 1", None),
            ("FATAL:  could not connect to the primary server: connection refused", None),
        ];
        for (line, expected) in table {
            let reason = broken_stream(&["LOG:  x".into(), line.into(), "LOG:  y".into()]);
            assert_eq!(reason.is_some(), expected.is_some(), "{line}");
            assert!(reason.unwrap_or_default().contains(expected.unwrap_or_default()), "{line}");
        }
    }
}
