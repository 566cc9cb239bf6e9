//! Asking our own standby, over its local socket, as the replication role.
//!
//! The database is hostile input (design D7): nothing is called by an unqualified name, and every value is parsed.

use crate::bounded::{Bounded, Connection, Row, Unanswered, short};
use crate::monitor::DATABASE_BYTES;
use anyhow::{Context, Result, bail, ensure};
use api::Collation;
use replica::{Lsn, name_in_ascii, name_of, options_of_replication_role};
use std::io;
use std::path::Path;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Config, NoTls};

/// The standby is on this machine; it answers at once or not at all.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Time for measuring its databases, file by file.
const MEASURE_TIMEOUT: Duration = Duration::from_secs(600);

/// Its socket, by PostgreSQL's naming.
const SOCKET: &str = ".s.PGSQL.5432";

/// Longest name of a role, locale or version that is put on record, in bytes. PostgreSQL's are shorter.
const NAME_MAX: usize = 256;

/// Databases that are asked for at once: with the longest names of PostgreSQL they are within what an answer may have.
const PAGE: usize = 100;
/// Databases whose locales go into the manifest one by one. Of further ones only such locales do as no other one has.
const COLLATIONS_MAX: usize = 500;
/// Databases that are looked at. PostgreSQL makes two of them a second at best.
const DATABASES_MAX: usize = 20_000;

/// Longest wait for a restartpoint before a backup.
const RESTARTPOINT_TIMEOUT: Duration = Duration::from_secs(60);

/// A connection to the standby.
#[derive(Debug)]
pub struct Standby {
    connection: Connection,
}

/// Why the standby cannot be asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotReady {
    /// It has begun to run and does not accept connections yet.
    #[error("its PostgreSQL is starting: {0}")]
    Starting(String),
    /// It gives no answer.
    #[error("its PostgreSQL does not answer within {} s", ANSWER_TIMEOUT.as_secs())]
    Hung,
    /// The replica is not a standby any more.
    #[error("the replica was promoted and does not follow the monitor")]
    Promoted,
    /// It does not let us in.
    #[error("its PostgreSQL cannot be asked: {0}")]
    Refuses(String),
}

impl From<Unanswered> for NotReady {
    fn from(unanswered: Unanswered) -> Self {
        let said = unanswered.to_string();
        match (unanswered.of_server().map(|answer| answer.code()), &unanswered) {
            (Some(&SqlState::CANNOT_CONNECT_NOW), _) => Self::Starting(said),
            // Replay's functions say so outside of recovery.
            (Some(&SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE), _) => Self::Promoted,
            (Some(&SqlState::INSUFFICIENT_PRIVILEGE), _) => Self::Refuses(format!(
                "{said}: run `monitor-link setup` on the monitor again, which grants it"
            )),
            // A library that every session is to load, and that is not here.
            (Some(&SqlState::UNDEFINED_FILE), _) => Self::Refuses(format!(
                "{said}: run `monitor-link setup` on the monitor again, which has the backup server's sessions load nothing"
            )),
            (_, Unanswered::Silent(_)) => Self::Hung,
            _ => Self::Refuses(said),
        }
    }
}

impl From<io::Error> for NotReady {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            // Its socket is not there yet, or nobody listens on it yet.
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Self::Starting(error.to_string()),
            _ => Self::Refuses(error.to_string()),
        }
    }
}

/// What a manifest says of the standby.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// `server_version`
    pub version: String,
    /// WAL flushed to disk here, up to the end of the last record that is replayed.
    pub flushed: Lsn,
    /// Timeline.
    pub timeline: u32,
    /// The first superuser that may log in.
    pub superuser: Option<String>,
    /// Locales of the databases.
    pub collations: Collations,
}

/// The locales of the databases, as a manifest has them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Collations {
    /// Of each database; of those beyond [`COLLATIONS_MAX`] what is new.
    pub taken: Vec<Collation>,
    /// Databases that were looked at.
    pub databases: usize,
    /// There are more of them.
    pub is_cut: bool,
}

impl Collations {
    fn add(&mut self, collation: Collation) {
        self.databases += 1;
        let is_new = || !self.taken.iter().any(|taken| locale(taken) == locale(&collation));
        let there = self.taken.len();
        if there < COLLATIONS_MAX || there < 2 * COLLATIONS_MAX && is_new() {
            self.taken.push(collation);
        } else {
            self.is_cut = true;
        }
    }

    /// What the manifest lacks, as a sentence's part.
    pub fn cut(&self) -> Option<String> {
        self.is_cut.then(|| {
            format!(
                "the monitor has {}{} databases, and a manifest names {} of them with their locales",
                if self.databases >= DATABASES_MAX { "at least " } else { "" },
                self.databases,
                self.taken.len()
            )
        })
    }
}

impl Standby {
    /// Connects over the socket in `socket_dir`.
    ///
    /// # Errors
    /// [`NotReady::Starting`] until it is consistent, which may take long; anything else is [`NotReady::Refuses`].
    pub async fn connect(socket_dir: &str, user: &str, database: &str) -> Result<Self, NotReady> {
        let mut config = Config::new();
        config.user(user).dbname(database);
        // ALTER DATABASE and ALTER ROLE came with the database, and count more than our postgresql.conf.
        config.options(options_of_replication_role());
        let connect = async {
            let stream = UnixStream::connect(Path::new(socket_dir).join(SOCKET)).await?;
            let connection = Connection::over(&config, Bounded::new(stream), NoTls).await;
            Ok(Self { connection: connection.map_err(Unanswered::Failed)? })
        };
        tokio::time::timeout(ANSWER_TIMEOUT, connect).await.unwrap_or(Err(NotReady::Hung))
    }

    /// The replayed position, and whether replay has paused.
    ///
    /// # Errors
    /// As [`Standby::connect`].
    pub async fn replayed(&self) -> Result<(Lsn, bool), NotReady> {
        let question =
            "select pg_catalog.pg_last_wal_replay_lsn(), pg_catalog.pg_get_wal_replay_pause_state()";
        let row = self.row(question, ANSWER_TIMEOUT).await?;
        let replayed = row.get(0).ok_or(NotReady::Promoted)?;
        let unclear = |_| NotReady::Refuses("it does not say its WAL position".into());
        let replayed = replayed.parse().map_err(unclear)?;
        Ok((replayed, row.get(1) == Some("paused")))
    }

    /// What the manifest records.
    ///
    /// The position is the replayed one, which is where a record ends: what was received may end in the middle of one,
    /// and no recovery would ever come that far. The last restartpoint may be of an older timeline than the stream.
    pub async fn facts(&self) -> Result<Facts> {
        let role = name_in_ascii("rolname");
        let row = self
            .row(
                &format!(
                    "select pg_catalog.current_setting('server_version'), \
                 pg_catalog.pg_last_wal_replay_lsn(), \
                 coalesce((select received_tli from pg_catalog.pg_stat_wal_receiver), \
                 (select timeline_id from pg_catalog.pg_control_checkpoint())), \
                 (select {role} from pg_catalog.pg_roles where rolsuper and rolcanlogin \
                 order by pg_catalog.strpos({role}, pg_catalog.chr(92)), oid limit 1)"
                ),
                ANSWER_TIMEOUT,
            )
            .await?;
        let text = |at: usize, what: &str| {
            row.get(at).with_context(|| format!("the replica does not say its {what}"))
        };
        let flushed = text(1, "WAL position")?.parse()?;
        let timeline = text(2, "timeline")?.parse().context("the replica's timeline is no number")?;
        // One with a name in ASCII comes first. Of no other it is known what its bytes mean, but UTF-8 is likely.
        let superuser = row.get(3).and_then(|name| name_of(name).into_string().ok());
        // "17.6 (Debian 17.6-0+deb13u1)": the packager's part is no version
        let version = text(0, "version")?.split_whitespace().next().unwrap_or_default().to_owned();
        let collations = self.collations().await?;
        for name in superuser.iter().chain([&version]) {
            bounded(name)?;
        }
        Ok(Facts { version, flushed, timeline, superuser, collations })
    }

    /// How far it has replayed, as [`Standby::facts`] says it.
    ///
    /// # Errors
    /// As [`Standby::connect`].
    pub async fn position(&self) -> Result<(String, u32), NotReady> {
        let row = self
            .row(
                "select pg_catalog.pg_last_wal_replay_lsn(), \
                 coalesce((select received_tli from pg_catalog.pg_stat_wal_receiver), \
                 (select timeline_id from pg_catalog.pg_control_checkpoint()))",
                ANSWER_TIMEOUT,
            )
            .await?;
        let unclear = || NotReady::Refuses("it does not say its WAL position".into());
        let lsn: Lsn = row.get(0).and_then(|lsn| lsn.parse().ok()).ok_or_else(unclear)?;
        let timeline = row.get(1).and_then(|timeline| timeline.parse().ok()).ok_or_else(unclear)?;
        Ok((lsn.to_string(), timeline))
    }

    /// The databases' locales, page by page: a catalog of thousands is no reason for no backup.
    async fn collations(&self) -> Result<Collations> {
        let (mut collations, mut last) = (Collations::default(), 0_u32);
        loop {
            let databases = format!(
                "select {}, datlocprovider::pg_catalog.text, {}, {}, datcollversion, oid::pg_catalog.text \
                 from pg_catalog.pg_database where oid operator(pg_catalog.>) {last}::pg_catalog.oid \
                 order by oid limit {PAGE}",
                name_in_ascii("datname"),
                name_in_ascii("datcollate"),
                name_in_ascii("datctype"),
            );
            let rows = self.connection.ask(&databases, ANSWER_TIMEOUT).await.map_err(NotReady::from)?;
            for row in &rows {
                collations.add(collation(row)?);
            }
            let Some(next) = rows.last().and_then(|row| row.get(5)?.parse().ok()).filter(|next| *next > last)
            else {
                return Ok(collations);
            };
            last = next;
            if rows.len() < PAGE {
                return Ok(collations);
            }
            if collations.databases >= DATABASES_MAX {
                collations.is_cut = true;
                return Ok(collations);
            }
        }
    }

    /// Size of its databases, those of other tablespaces aside, in bytes; may take minutes.
    pub async fn database_bytes(&self) -> Result<u64> {
        let row = self.row(DATABASE_BYTES, MEASURE_TIMEOUT).await?;
        row.get(0).and_then(|bytes| bytes.parse().ok()).context("it does not say how large its databases are")
    }

    /// Makes a restartpoint, so that a snapshot taken now has little WAL to replay; waits for it at most
    /// [`RESTARTPOINT_TIMEOUT`], as a backup that restores later is better than none.
    ///
    /// # Errors
    /// The role may not (`monitor-link setup` grants it), or it takes too long.
    pub async fn restartpoint(&self) -> Result<()> {
        match self.connection.ask("checkpoint", RESTARTPOINT_TIMEOUT).await {
            Ok(_) => Ok(()),
            Err(Unanswered::Silent(limit)) => bail!("it is not done after {} s", limit.as_secs()),
            Err(other) => Err(NotReady::from(other).into()),
        }
    }

    /// Whether the connection has taken so much that it is to be made anew.
    pub fn is_worn(&self) -> bool {
        self.connection.is_worn()
    }

    async fn row(&self, question: &str, limit: Duration) -> Result<Row, NotReady> {
        let rows = self.connection.ask(question, limit).await?;
        rows.into_iter().next().ok_or_else(|| NotReady::Refuses("it answers with nothing".into()))
    }
}

/// What a restore needs of it on the machine.
fn locale(of: &Collation) -> (&str, &str, &str, Option<&str>) {
    (&of.provider, &of.collate, &of.ctype, of.version.as_deref())
}

fn collation(row: &Row) -> Result<Collation> {
    // Of a name that is not UTF-8, the manifest has what can be shown.
    let text = |at: usize| bounded(&name_of(row.get(at).unwrap_or_default()).to_string_lossy());
    Ok(Collation {
        database: text(0)?,
        provider: text(1)?,
        collate: text(2)?,
        ctype: text(3)?,
        version: row.get(4).map(bounded).transpose()?,
    })
}

/// A name that goes into the manifest. A longer one was put into the catalog by hand, and is refused.
fn bounded(text: &str) -> Result<String> {
    ensure!(
        text.len() <= NAME_MAX,
        "the database's catalog has a name of {} bytes where PostgreSQL's have at most {NAME_MAX}: {}",
        text.len(),
        short(text)
    );
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database(number: usize, collate: &str) -> Collation {
        Collation {
            database: format!("d{number}"),
            provider: "c".into(),
            collate: collate.into(),
            ctype: "C".into(),
            version: None,
        }
    }

    #[test]
    fn of_thousands_of_databases_every_locale_is_kept_and_the_rest_is_said() {
        let mut collations = Collations::default();
        for number in 0..COLLATIONS_MAX {
            collations.add(database(number, "C"));
        }
        assert_eq!((collations.taken.len(), collations.cut()), (COLLATIONS_MAX, None));
        for number in 0..4000 {
            collations.add(database(number, if number == 3000 { "de_DE" } else { "C" }));
        }
        assert_eq!(collations.taken.len(), COLLATIONS_MAX + 1);
        assert_eq!(collations.taken.last().map(|last| last.collate.as_str()), Some("de_DE"));
        let cut = collations.cut().unwrap();
        assert!(cut.contains("has 4500 databases") && cut.contains("names 501 of them"), "{cut}");
        for number in 0..5000 {
            collations.add(database(number, &format!("l{number}")));
        }
        assert_eq!(collations.taken.len(), 2 * COLLATIONS_MAX);
    }

    #[test]
    fn a_page_of_the_longest_names_is_within_an_answer() {
        // A name has 63 bytes, of which each may be written as four. The row's frame and OID are small.
        let row = 3 * 63 * 4 + 63 + 64;
        assert!(PAGE * row < crate::bounded::ANSWER_BYTES);
    }
}
