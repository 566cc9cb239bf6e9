//! Asking the monitor's PostgreSQL: who it is, where it is, how the slot stands.
//!
//! The connection is kept and asked every few seconds. Whatever goes wrong becomes one sentence with address and port
//! ([`Trouble`]), within [`ANSWER_TIMEOUT`].

use crate::bounded::{Bounded, Connection, Row, Unanswered, short};
use crate::pinned;
use anyhow::{Context, Result};
use api::Peer;
use api::tls::TlsTrouble;
use auth::usable::{Validity, chain, chain_usable, usable};
use hostd::Tablespace;
use replica::{Lsn, POSTGRESQL_MAJOR, name_in_ascii, options_of_everybody, options_of_replication_role};
use rustls::CertificateError;
use rustls_pki_types::CertificateDer;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_postgres::Config;
use tokio_postgres::config::{ChannelBinding, SslMode};
use tokio_postgres::error::SqlState;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres_rustls::MakeRustlsConnect;

/// Longest time until a question is answered or the monitor counts as unreachable; a status must say so within 10 s.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(7);
/// Time for what changes or lists something there.
const WORK_TIMEOUT: Duration = Duration::from_secs(60);
/// Time for measuring its databases, file by file.
const MEASURE_TIMEOUT: Duration = Duration::from_secs(600);
/// Idle time after which the connection is kept up, for what stands between and forgets.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);

/// Size of all databases in the tablespace of the current one, which anybody may ask for: the same on the monitor and on
/// its replica.
pub const DATABASE_BYTES: &str = "select pg_catalog.pg_tablespace_size(dattablespace)::pg_catalog.text \
     from pg_catalog.pg_database where datname operator(pg_catalog.=) pg_catalog.current_database()";

/// Why the monitor cannot be followed, as a sentence with address and port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// It does not answer; it may come back.
    Unreachable(String),
    /// It refuses, or shows the wrong certificate: someone has to act.
    Refuses(String),
    /// Another PostgreSQL major.
    OtherMajor(String),
}

/// How the monitor stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// `pg_current_wal_lsn()`, or what is replayed where the monitor is itself a standby.
    pub position: Lsn,
    /// The slot is in use.
    pub slot_active: bool,
    /// Why the slot cannot be used any more.
    pub slot_lost: Option<String>,
    /// Bytes of WAL that may be written before the slot is lost; `None`: as many as there are.
    pub safe_wal: Option<u64>,
}

/// What is known of the certificate that the monitor shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shows {
    /// When PostgreSQL's programs take it.
    pub validity: Validity,
    /// They do not: it has the key that was paired, but is another certificate, which nothing that was paired has signed.
    pub is_unknown: bool,
}

/// The certificate that the monitor has shown, or why it cannot be read; `None`: it has shown none.
pub type Shown = Option<Result<Shows, String>>;

impl Shows {
    fn of(peer: &Peer, shown: &pinned::Shown) -> Shown {
        shown.get().map(|shown| Self::read(&peer.certificate, shown.clone()))
    }

    fn read(paired: &str, shown: CertificateDer<'static>) -> Result<Self, String> {
        let pinned = chain(paired).map_err(|error| format!("the paired certificate: {error}"))?;
        let mut certificates = vec![shown];
        certificates.extend(pinned.iter().skip(1).cloned());
        let is_unknown = pinned.len() == 1 && pinned.first() != certificates.first();
        let validity = chain_usable(&certificates).map_err(|error| error.to_string())?;
        Ok(Self { validity, is_unknown })
    }
}

/// A connection to the monitor.
#[derive(Debug)]
pub struct Monitor {
    connection: Connection,
    endpoint: String,
    slot: String,
    /// `Database system identifier`: another one is another database.
    pub system_identifier: u64,
    /// Its certificate.
    pub shows: Shown,
}

impl Monitor {
    /// Connects and checks that the monitor can be replicated.
    pub async fn connect(peer: &Peer) -> Result<Self, Trouble> {
        let endpoint = peer.info().endpoint();
        tokio::time::timeout(ANSWER_TIMEOUT, Self::connect_now(peer, endpoint.clone()))
            .await
            .unwrap_or_else(|_| Err(silent(&endpoint)))
    }

    async fn connect_now(peer: &Peer, endpoint: String) -> Result<Self, Trouble> {
        let refuses = |why: String| Trouble::Refuses(format!("the monitor at {endpoint} {why}"));
        let shown = pinned::Shown::default();
        let tls = pinned::client_config(&peer.certificate, shown.clone()).map_err(|error| {
            refuses(format!("was paired with a certificate that cannot be used: {error:#}"))
        })?;
        usable(&peer.certificate).map_err(|error| refuses(format!("cannot be replicated: {error}")))?;
        let unreachable = |error: std::io::Error| {
            Trouble::Unreachable(format!("the monitor at {endpoint} cannot be reached: {error}"))
        };
        let mut tls = MakeRustlsConnect::new(tls);
        let mut config = Config::new();
        config
            .user(&peer.user)
            .password(peer.password.reveal())
            .dbname(&peer.database)
            .ssl_mode(SslMode::Require)
            .channel_binding(ChannelBinding::Require)
            .application_name("backup-server");
        // A role that an older `monitor-link setup` made has no right to the first, another major does not know them: what
        // the monitor then sets for the role is its own business.
        let mut kinds = [options_of_replication_role(), options_of_everybody(), String::new()].into_iter();
        let connection = loop {
            config.options(kinds.next().unwrap_or_default());
            let stream = reach(peer).await.map_err(unreachable)?;
            let tls = MakeTlsConnect::<Bounded<TcpStream>>::make_tls_connect(&mut tls, &peer.address)
                .map_err(|error| refuses(format!("cannot be asked with TLS: {error}")))?;
            match Connection::over(&config, Bounded::new(stream), tls).await {
                Ok(connection) => break connection,
                Err(error) if refuses_options(&error) && kinds.len() > 0 => {}
                Err(error) => return Err(diagnose(&endpoint, peer, &error)),
            }
        };
        let mut monitor = Self {
            connection,
            endpoint: endpoint.clone(),
            slot: peer.slot.clone(),
            system_identifier: 0,
            shows: Shows::of(peer, &shown),
        };
        let row = monitor
            .row(
                "select pg_catalog.current_setting('server_version_num'), \
                 pg_catalog.current_setting('server_version'), \
                 (select rolreplication from pg_catalog.pg_roles where rolname = current_user), \
                 (select system_identifier from pg_catalog.pg_control_system())",
                ANSWER_TIMEOUT,
            )
            .await
            .map_err(|error| refuses(format!("does not say what it is: {error:#}")))?;
        let number: u32 = row.get(0).and_then(|number| number.parse().ok()).unwrap_or(0);
        let version = short(row.get(1).unwrap_or("unknown"));
        if number / 10_000 != POSTGRESQL_MAJOR {
            return Err(Trouble::OtherMajor(format!(
                "the monitor at {endpoint} runs PostgreSQL {version}; this backup server replicates PostgreSQL \
                 {POSTGRESQL_MAJOR}"
            )));
        }
        if row.get(2) != Some("t") {
            return Err(refuses(format!(
                "does not let role {} replicate: it lacks the REPLICATION attribute; run `monitor-link setup` there",
                peer.user
            )));
        }
        monitor.system_identifier = row
            .get(3)
            .and_then(|number| number.parse().ok())
            .ok_or_else(|| refuses("does not say its system identifier".into()))?;
        Ok(monitor)
    }

    /// Makes the slot anew: what was lost cannot be continued, and a full copy begins from here.
    ///
    /// # Errors
    /// Somebody uses it, or there are too many slots.
    pub async fn renew_slot(&self) -> Result<()> {
        let slot = &self.slot;
        let statement = format!(
            "select pg_catalog.pg_drop_replication_slot(slot_name) from pg_catalog.pg_replication_slots \
             where slot_name = '{slot}'; \
             select pg_catalog.pg_create_physical_replication_slot('{slot}', true)"
        );
        self.connection
            .ask(&statement, WORK_TIMEOUT)
            .await
            .map(drop)
            .with_context(|| format!("cannot make the monitor's replication slot {slot} anew"))
    }

    /// Asks how the monitor and the slot stand.
    pub async fn ask(&self) -> Result<Answer, Trouble> {
        let question = format!(
            "select case when pg_catalog.pg_is_in_recovery() then pg_catalog.pg_last_wal_replay_lsn() \
             else pg_catalog.pg_current_wal_lsn() end, s.active, s.wal_status, s.invalidation_reason, s.safe_wal_size \
             from (select 1) as one left join pg_catalog.pg_replication_slots as s on s.slot_name = '{}'",
            self.slot
        );
        let endpoint = &self.endpoint;
        let row = match self.connection.ask(&question, ANSWER_TIMEOUT).await {
            Ok(rows) => rows.into_iter().next(),
            Err(Unanswered::Silent(_)) => return Err(silent(endpoint)),
            Err(error @ (Unanswered::TooLong | Unanswered::NotText)) => {
                return Err(Trouble::Refuses(format!("the monitor at {endpoint} cannot be asked: {error}")));
            }
            Err(error @ Unanswered::Failed(_)) => {
                let why = format!("the connection to the monitor at {endpoint} ended: {error}");
                return Err(Trouble::Unreachable(why));
            }
        };
        let row = row
            .ok_or_else(|| Trouble::Unreachable(format!("the monitor at {endpoint} answers with nothing")))?;
        let position = row.get(0).unwrap_or_default().parse().map_err(|error| {
            Trouble::Refuses(format!(
                "the monitor at {} does not say its WAL position: {error}",
                self.endpoint
            ))
        })?;
        let slot_lost = slot_problem(&self.slot, row.get(1).is_some(), row.get(2), row.get(3));
        // Negative when the limit is passed already.
        let safe_wal = row.get(4).map(|bytes| bytes.parse().unwrap_or(0));
        Ok(Answer { position, slot_active: row.get(1) == Some("t"), slot_lost, safe_wal })
    }

    /// The monitor's own tablespaces.
    pub async fn tablespaces(&self) -> Result<Vec<Tablespace>> {
        let question = format!(
            "select oid, {} from pg_catalog.pg_tablespace where spcname not in ('pg_default', 'pg_global')",
            name_in_ascii("pg_catalog.pg_tablespace_location(oid)")
        );
        let rows = self.connection.ask(&question, WORK_TIMEOUT).await;
        rows.context("cannot ask for the monitor's tablespaces")?
            .into_iter()
            .map(|row| {
                let oid = row.get(0).unwrap_or_default().parse().context("a tablespace without OID")?;
                Ok(Tablespace { oid, location: row.get(1).unwrap_or_default().to_owned() })
            })
            .collect()
    }

    /// Size of its databases, those of other tablespaces aside, in bytes; may take minutes.
    pub async fn database_bytes(&self) -> Result<u64> {
        let row = self.row(DATABASE_BYTES, MEASURE_TIMEOUT).await?;
        row.get(0).and_then(|bytes| bytes.parse().ok()).context("it does not say how large its databases are")
    }

    /// Whether the connection has taken so much that it is to be made anew.
    pub fn is_worn(&self) -> bool {
        self.connection.is_worn()
    }

    async fn row(&self, question: &str, limit: Duration) -> Result<Row> {
        self.connection.ask(question, limit).await?.into_iter().next().context("it answers with nothing")
    }
}

/// Opens a TCP connection to the monitor.
async fn reach(peer: &Peer) -> std::io::Result<TcpStream> {
    use rustix::net::sockopt;
    let stream = TcpStream::connect((peer.address.as_str(), peer.port)).await?;
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(&stream, true)?;
    sockopt::set_tcp_keepidle(&stream, KEEPALIVE_IDLE)?;
    Ok(stream)
}

/// Whether a login was refused for the options that it gave.
fn refuses_options(error: &tokio_postgres::Error) -> bool {
    let code = error.code();
    [SqlState::INSUFFICIENT_PRIVILEGE, SqlState::UNDEFINED_OBJECT].iter().any(|known| code == Some(known))
}

/// Why the slot cannot be used, from `pg_replication_slots`.
fn slot_problem(
    slot: &str,
    exists: bool,
    wal_status: Option<&str>,
    invalidation: Option<&str>,
) -> Option<String> {
    if !exists {
        return Some(format!("the monitor has no replication slot {slot}; a full copy is needed"));
    }
    (wal_status == Some("lost")).then(|| {
        let why = invalidation.map(|reason| format!(" ({})", short(reason))).unwrap_or_default();
        format!("the monitor's replication slot {slot} is lost{why}; a full copy is needed")
    })
}

fn silent(endpoint: &str) -> Trouble {
    Trouble::Unreachable(format!(
        "the monitor at {endpoint} does not answer within {} s; check address, port and firewall",
        ANSWER_TIMEOUT.as_secs()
    ))
}

/// What a failed connection means.
fn diagnose(endpoint: &str, peer: &Peer, error: &tokio_postgres::Error) -> Trouble {
    let refuses = |why: String| Trouble::Refuses(format!("the monitor at {endpoint} {why}"));
    if let Some(answer) = error.as_db_error() {
        let message = short(answer.message());
        return match *answer.code() {
            SqlState::INVALID_PASSWORD => refuses(format!(
                "refuses the password of role {}; run `monitor-link setup` there and pair again",
                peer.user
            )),
            SqlState::INVALID_AUTHORIZATION_SPECIFICATION => {
                refuses(format!("does not admit role {} from this server: {message}", peer.user))
            }
            // It is starting, stopping or full: that passes.
            SqlState::CANNOT_CONNECT_NOW | SqlState::ADMIN_SHUTDOWN | SqlState::TOO_MANY_CONNECTIONS => {
                Trouble::Unreachable(format!("the monitor at {endpoint} takes no connections now: {message}"))
            }
            _ => refuses(format!("answers: {message}")),
        };
    }
    match tls_error(error) {
        Some(rustls::Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)) => refuses(
            "shows another certificate than the one that was paired; if it got a new key, pair again".into(),
        ),
        Some(tls) => refuses(format!("cannot be asked with TLS: {}", TlsTrouble::of(tls).words())),
        None => {
            let causes: Vec<String> = causes(error).map(ToString::to_string).collect();
            let cause = short(&causes.last().cloned().unwrap_or_else(|| error.to_string()));
            if cause.contains("does not support TLS") {
                refuses("does not offer TLS; run `monitor-link setup` there".into())
            } else {
                Trouble::Unreachable(format!("the monitor at {endpoint} cannot be reached: {cause}"))
            }
        }
    }
}

fn causes(error: &tokio_postgres::Error) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error as &(dyn std::error::Error + 'static)), |error| {
        // An io::Error hides the error that it wraps from source().
        error
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::get_ref)
            .map(|inner| inner as &(dyn std::error::Error + 'static))
            .or_else(|| error.source())
    })
}

fn tls_error(error: &tokio_postgres::Error) -> Option<&rustls::Error> {
    causes(error).find_map(|cause| cause.downcast_ref::<rustls::Error>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_that_cannot_be_read_is_said_to_be_so() {
        let rubbish = || CertificateDer::from(vec![0x30, 0x03, 0x02, 0x01]);
        assert!(!Shows::read("", rubbish()).unwrap_err().is_empty());
        let broken = "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n";
        let unread = Shows::read(broken, rubbish()).unwrap_err();
        assert!(unread.starts_with("the paired certificate: "), "{unread}");
    }

    #[test]
    fn a_slot_that_is_gone_or_lost_is_said_to_be() {
        let table = [
            ((true, Some("reserved"), None), None),
            ((true, Some("extended"), None), None),
            ((true, Some("unreserved"), None), None),
            ((true, Some("lost"), Some("wal_removed")), Some("is lost (wal_removed)")),
            ((false, None, None), Some("has no replication slot s")),
        ];
        for ((exists, status, why), expected) in table {
            let problem = slot_problem("s", exists, status, why);
            assert_eq!(problem.is_some(), expected.is_some());
            assert!(problem.unwrap_or_default().contains(expected.unwrap_or_default()));
        }
    }
}
