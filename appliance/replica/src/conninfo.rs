//! How libpq reaches the monitor: connection strings and the passfile.
//!
//! The password goes into a passfile outside the data directory and never into a connection string, an argument or
//! `primary_conninfo`: those end up in process lists, logs and backups (facts: `pg_basebackup -R`).

use crate::login;
use api::Peer;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How long the monitor waits for a stream's receiver: one that comes back later goes on where it was.
pub const STREAM_PATIENCE: Duration = Duration::from_secs(30);
/// How long the monitor waits for a full copy's receiver, whose disk may be busy and which would have to begin anew.
pub const COPY_PATIENCE: Duration = Duration::from_secs(300);

/// How long the monitor waits at least for a receiver's reports, which come every few seconds: PostgreSQL's own default.
const SENDER_PATIENCE: Duration = Duration::from_secs(60);

/// Seconds for one connection attempt; below the 10 s within which a status must say what is wrong.
const CONNECT_TIMEOUT_SECONDS: u32 = 5;

/// What a PostgreSQL client needs to reach the monitor, without the secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// Address or host name.
    pub address: String,
    /// TCP port.
    pub port: u16,
    /// Role.
    pub user: String,
    /// Physical replication slot.
    pub slot: String,
    /// Database for questions about the slot.
    pub database: String,
}

impl From<&Peer> for Source {
    fn from(peer: &Peer) -> Self {
        Self {
            address: peer.address.clone(),
            port: peer.port,
            user: peer.user.clone(),
            slot: peer.slot.clone(),
            database: peer.database.clone(),
        }
    }
}

impl Source {
    /// libpq connection string with the pinned certificate, and its authority's where one signed it, as the only trust
    /// anchors; SCRAM and channel binding required, and no password.
    ///
    /// `verify-ca` and not `verify-full`: the name is the monitor's business. With an authority libpq would take any of
    /// its certificates; what ties the connection to the monitor then is SCRAM with channel binding, since only the
    /// monitor knows the password. Neither may ever be made optional.
    ///
    /// The monitor ends the connection after `patience` without a sign of life from here. Its own default is to wait until
    /// TCP gives up (a quarter of an hour), or for ever where the receiver lives and stands still; and a checkpoint there
    /// that takes away the slot of an absent receiver waits as long (seen with PostgreSQL 17: the dying WAL sender cannot
    /// send its farewell).
    pub fn conninfo(&self, passfile: &str, certificate: &str, patience: Duration) -> String {
        // A monitor whose own limits are for a LAN would end a copy whose receiver waits for its disk.
        let sender = patience.max(SENDER_PATIENCE).as_millis().to_string();
        let options = login::options(&[
            ("tcp_user_timeout", patience.as_millis().to_string().as_str()),
            ("wal_sender_timeout", &sender),
            ("statement_timeout", "0"),
            ("idle_session_timeout", "0"),
        ]);
        let pairs = [
            ("host", self.address.as_str()),
            ("port", &self.port.to_string()),
            ("user", &self.user),
            ("passfile", passfile),
            ("sslmode", "verify-ca"),
            ("sslrootcert", certificate),
            ("sslcert", ""),
            ("channel_binding", "require"),
            ("require_auth", "scram-sha-256"),
            ("gssencmode", "disable"),
            ("application_name", "backup-server"),
            ("connect_timeout", &CONNECT_TIMEOUT_SECONDS.to_string()),
            // A cable that was pulled says nothing: notice it within half a minute, not after two hours.
            ("keepalives_idle", "10"),
            ("keepalives_interval", "5"),
            ("keepalives_count", "4"),
            ("tcp_user_timeout", "30000"),
            ("options", &options),
        ];
        pairs.iter().map(|(key, value)| format!("{key}={}", quote(value))).collect::<Vec<_>>().join(" ")
    }
}

/// The connection string for the WAL sender of a standby, which no setting of a role or database reaches.
pub fn sender_conninfo(socket_dir: &str, user: &str) -> String {
    let pairs = [("host", socket_dir), ("user", user), ("replication", "true"), ("connect_timeout", "5")];
    pairs.map(|(key, value)| format!("{key}={}", quote(value))).join(" ")
}

/// Quotes a value for a libpq connection string (PostgreSQL documentation, "Keyword/Value Connection Strings").
fn quote(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// The line of a passfile that gives `password` to every connection made with it; `:` and `\` are escaped
/// (PostgreSQL documentation, "The Password File").
pub fn passfile_line(password: &str) -> String {
    format!("*:*:*:*:{}\n", password.replace('\\', "\\\\").replace(':', "\\:"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_quoted() {
        for (value, quoted) in [("a", "'a'"), ("", "''"), ("it's", r"'it\'s'"), (r"a\b", r"'a\\b'")] {
            assert_eq!(quote(value), quoted);
        }
    }

    #[test]
    fn the_passfile_escapes_its_separator() {
        assert_eq!(passfile_line(r"a:b\c"), "*:*:*:*:a\\:b\\\\c\n");
    }

    #[test]
    fn the_connection_is_pinned_and_has_no_password() {
        let source = Source {
            address: "2001:db8::1".into(),
            port: 50001,
            user: "u".into(),
            slot: "s".into(),
            database: "postgres".into(),
        };
        let conninfo = source.conninfo("/run/pass", "/run/cert", STREAM_PATIENCE);
        for part in [
            "host='2001:db8::1'",
            "sslmode='verify-ca'",
            "sslrootcert='/run/cert'",
            "channel_binding='require'",
            "options='-c tcp_user_timeout=30000 -c wal_sender_timeout=60000 ",
        ] {
            assert!(conninfo.contains(part), "{conninfo}");
        }
        assert!(!conninfo.contains("password"));
    }
}
