//! Asking our own standby, over its local socket, as the replication role.
//!
//! The database is hostile input (design D7): nothing is called by an unqualified name, and every value is parsed.

use crate::monitor::{DATABASE_BYTES, rows};
use anyhow::{Context, Result};
use api::Collation;
use replica::Lsn;
use std::io;
use std::time::Duration;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config, NoTls, SimpleQueryRow};

/// The standby is on this machine; it answers at once or not at all.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest wait for a restartpoint before a backup.
const RESTARTPOINT_TIMEOUT: Duration = Duration::from_secs(60);

/// A connection to the standby.
#[derive(Debug)]
pub struct Standby {
    client: Client,
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
    /// It does not let us in.
    #[error("its PostgreSQL cannot be asked: {0}")]
    Refuses(String),
}

impl From<&tokio_postgres::Error> for NotReady {
    fn from(error: &tokio_postgres::Error) -> Self {
        match error.as_db_error() {
            Some(answer) if *answer.code() == SqlState::CANNOT_CONNECT_NOW => {
                Self::Starting(answer.message().into())
            }
            Some(answer) if *answer.code() == SqlState::INSUFFICIENT_PRIVILEGE => Self::Refuses(format!(
                "{}: run `monitor-link setup` on the monitor again, which grants it",
                answer.message()
            )),
            Some(answer) => Self::Refuses(answer.message().into()),
            None => {
                let source = std::error::Error::source(error);
                let text = source.map_or_else(|| error.to_string(), ToString::to_string);
                match source.and_then(|source| source.downcast_ref::<io::Error>()).map(io::Error::kind) {
                    // Its socket is not there yet, or nobody listens on it yet.
                    Some(io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => Self::Starting(text),
                    _ => Self::Refuses(text),
                }
            }
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
    /// Locale of each database.
    pub collations: Vec<Collation>,
}

impl Standby {
    /// Connects over the socket in `socket_dir`.
    ///
    /// # Errors
    /// [`NotReady::Starting`] until it is consistent, which may take long; anything else is [`NotReady::Refuses`].
    pub async fn connect(socket_dir: &str, user: &str, database: &str) -> Result<Self, NotReady> {
        let mut config = Config::new();
        config.host_path(socket_dir).user(user).dbname(database).connect_timeout(ANSWER_TIMEOUT);
        // A client's options count more than ALTER DATABASE and ALTER ROLE, which came with the database, and those count
        // more than our postgresql.conf. The role needs the right, which `monitor-link setup` grants.
        config.options("-c event_triggers=off");
        let (client, connection) = tokio::time::timeout(ANSWER_TIMEOUT, config.connect(NoTls))
            .await
            .map_err(|_| NotReady::Hung)?
            .map_err(|error| NotReady::from(&error))?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!("the connection to the replica ended: {error}");
            }
        });
        Ok(Self { client })
    }

    /// The replayed position, and whether replay has paused.
    ///
    /// # Errors
    /// As [`Standby::connect`].
    pub async fn replayed(&self) -> Result<(Lsn, bool), NotReady> {
        let question =
            "select pg_catalog.pg_last_wal_replay_lsn(), pg_catalog.pg_get_wal_replay_pause_state()";
        let row = self.row(question).await?;
        let refuses = |why: &str| NotReady::Refuses(why.to_owned());
        let replayed = row.get(0).ok_or_else(|| refuses("the replica is not in recovery"))?;
        let replayed = replayed.parse().map_err(|_| refuses("it does not say its WAL position"))?;
        Ok((replayed, row.get(1) == Some("paused")))
    }

    /// What the manifest records.
    ///
    /// The position is the replayed one, which is where a record ends: what was received may end in the middle of one,
    /// and no recovery would ever come that far. The last restartpoint may be of an older timeline than the stream.
    pub async fn facts(&self) -> Result<Facts> {
        let row = self
            .row(
                "select pg_catalog.current_setting('server_version'), \
                 pg_catalog.pg_last_wal_replay_lsn(), \
                 coalesce((select received_tli from pg_catalog.pg_stat_wal_receiver), \
                 (select timeline_id from pg_catalog.pg_control_checkpoint())), \
                 (select rolname from pg_catalog.pg_roles where rolsuper and rolcanlogin order by oid limit 1)",
            )
            .await?;
        let text = |at: usize, what: &str| {
            row.get(at).with_context(|| format!("the replica does not say its {what}"))
        };
        let flushed = text(1, "WAL position")?.parse()?;
        let timeline = text(2, "timeline")?.parse().context("the replica's timeline is no number")?;
        let superuser = row.get(3).map(str::to_owned);
        // "17.6 (Debian 17.6-0+deb13u1)": the packager's part is no version
        let version = text(0, "version")?.split_whitespace().next().unwrap_or_default().to_owned();
        let databases = self.client.simple_query(
            "select datname, datlocprovider::pg_catalog.text, datcollate, datctype, datcollversion \
             from pg_catalog.pg_database order by oid",
        );
        let messages = tokio::time::timeout(ANSWER_TIMEOUT, databases)
            .await
            .context("the replica does not answer")??;
        let collations = rows(messages)
            .map(|row| {
                let text = |at: usize| row.get(at).unwrap_or_default().to_owned();
                Collation {
                    database: text(0),
                    provider: text(1),
                    collate: text(2),
                    ctype: text(3),
                    version: row.get(4).map(str::to_owned),
                }
            })
            .collect();
        Ok(Facts { version, flushed, timeline, superuser, collations })
    }

    /// Size of its databases, those of other tablespaces aside, in bytes; may take minutes.
    pub async fn database_bytes(&self) -> Result<u64> {
        let messages = self.client.simple_query(DATABASE_BYTES).await?;
        let row = rows(messages).next().context("it answers with nothing")?;
        row.get(0).and_then(|bytes| bytes.parse().ok()).context("it does not say how large its databases are")
    }

    /// Makes a restartpoint, so that a snapshot taken now has little WAL to replay; waits for it at most
    /// [`RESTARTPOINT_TIMEOUT`], as a backup that restores later is better than none.
    ///
    /// # Errors
    /// The role may not (`monitor-link setup` grants it), or it takes too long.
    pub async fn restartpoint(&self) -> Result<()> {
        tokio::time::timeout(RESTARTPOINT_TIMEOUT, self.client.simple_query("checkpoint"))
            .await
            .with_context(|| format!("it is not done after {} s", RESTARTPOINT_TIMEOUT.as_secs()))?
            .map(drop)
            .map_err(|error| NotReady::from(&error).into())
    }

    async fn row(&self, question: &str) -> Result<SimpleQueryRow, NotReady> {
        let messages = tokio::time::timeout(ANSWER_TIMEOUT, self.client.simple_query(question))
            .await
            .map_err(|_| NotReady::Hung)?
            .map_err(|error| NotReady::from(&error))?;
        rows(messages).next().ok_or_else(|| NotReady::Refuses("it answers with nothing".into()))
    }
}
