//! Watching a backup's recovery: whether it is done, goes on, or has come to the end of its WAL too early.
//!
//! The backup server proves its backups by it, and a restore waits by it: one judgement for both. Trade-off: a standby
//! says that it has stalled by nothing but not moving, so a bad backup is called so after minutes only.

use std::time::{Duration, Instant};

use crate::Lsn;

/// Recovery that does not move for so long has come to the end of its WAL.
const STALLED: Duration = Duration::from_secs(300);
/// Recovery that is not consistent after so long will not be: a backup has a few gigabytes of WAL to be replayed before.
const SILENT: Duration = Duration::from_secs(2 * 3600);

/// The question whose answer is [`Replay::saw`]'s.
pub const REPLAYED: &str = "select pg_catalog.pg_last_wal_replay_lsn()";
/// What ends the recovery: the database is one of its own. Answers whether it is.
pub const PROMOTE: &str = "select pg_catalog.pg_promote(true, 3600)";
/// Database that every cluster has.
pub const EVERY_CLUSTERS_DATABASE: &str = "template1";

/// The arguments with which psql asks; columns are separated by `|`, rows end with a zero byte.
pub fn psql_arguments<'a>(conninfo: &'a str, sql: &'a str) -> [&'a str; 8] {
    ["-XAtq0", "--no-password", "-v", "ON_ERROR_STOP=1", "-c", sql, "-d", conninfo]
}

/// A recovery that is watched.
#[derive(Debug, Clone)]
pub struct Replay {
    target: Lsn,
    last: Option<Lsn>,
    moved: Instant,
}

/// Where a recovery is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reached {
    /// It does not let us in yet.
    Nothing,
    /// Up to here, which is not enough.
    Lsn(Lsn),
    /// All that the backup promises.
    Target(Lsn),
}

impl Replay {
    /// A recovery that begins `now` and must come to `target`.
    pub fn new(target: Lsn, now: Instant) -> Self {
        Self { target, last: None, moved: now }
    }

    /// Where it has to come.
    pub fn target(&self) -> Lsn {
        self.target
    }

    /// Judges what psql has said to [`REPLAYED`]; `None`: the server did not let it in.
    ///
    /// # Errors
    /// What is wrong with the backup, as a sentence without full stop.
    pub fn saw(&mut self, answer: Option<&str>, now: Instant) -> Result<Reached, String> {
        let still = now.saturating_duration_since(self.moved);
        let Some(answer) = answer else {
            return match self.last {
                None if still > SILENT => {
                    Err(format!("its recovery is not consistent after {} hours", SILENT.as_secs() / 3600))
                }
                Some(at) if still > STALLED => {
                    Err(format!("PostgreSQL does not answer any more, after {at}"))
                }
                _ => Ok(Reached::Nothing),
            };
        };
        // Nothing: the server is no standby, as one is that was promoted already.
        let at: Lsn = answer
            .trim_matches(['\0', '\n'])
            .parse()
            .map_err(|_| format!("PostgreSQL does not recover it (it answers {answer:?})"))?;
        if at >= self.target {
            return Ok(Reached::Target(at));
        }
        if self.last != Some(at) {
            (self.last, self.moved) = (Some(at), now);
        } else if still > STALLED {
            return Err(format!("its WAL ends at {at}, before {}", self.target));
        }
        Ok(Reached::Lsn(at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_done_at_the_target_and_bad_where_it_stays_before() {
        let begin = Instant::now();
        let target: Lsn = "1/10".parse().unwrap();
        // (seconds since the begin, answer, judgement or a part of the error)
        type Row<'a> = (u64, Option<&'a str>, Result<Reached, &'a str>);
        let lsn = |text: &str| text.parse::<Lsn>().unwrap();
        let tables: &[&[Row<'_>]] = &[
            &[(0, None, Ok(Reached::Nothing)), (1, Some("1/10\0\n"), Ok(Reached::Target(lsn("1/10"))))],
            &[(0, Some("2/0\0"), Ok(Reached::Target(lsn("2/0"))))],
            &[
                (7200, None, Ok(Reached::Nothing)),
                (7300, Some("1/8\0"), Ok(Reached::Lsn(lsn("1/8")))),
                (7600, Some("1/8\0"), Ok(Reached::Lsn(lsn("1/8")))),
                (7601, Some("1/9\0"), Ok(Reached::Lsn(lsn("1/9")))),
                (7901, Some("1/9\0"), Ok(Reached::Lsn(lsn("1/9")))),
                (7902, Some("1/9\0"), Err("its WAL ends at 1/9, before 1/10")),
            ],
            &[(7201, None, Err("not consistent after 2 hours"))],
            &[
                (0, Some("1/8\0"), Ok(Reached::Lsn(lsn("1/8")))),
                (301, None, Err("not answer any more, after 1/8")),
            ],
            &[(0, Some("\0"), Err("does not recover it"))],
        ];
        for table in tables {
            let mut replay = Replay::new(target, begin);
            for (seconds, answer, expected) in *table {
                let judged = replay.saw(*answer, begin + Duration::from_secs(*seconds));
                match (&judged, expected) {
                    (Ok(judged), Ok(expected)) => assert_eq!(judged, expected, "{table:?}"),
                    (Err(problem), Err(part)) => assert!(problem.contains(part), "{problem}"),
                    _ => panic!("{judged:?} after {seconds} s of {table:?}"),
                }
            }
        }
    }
}
