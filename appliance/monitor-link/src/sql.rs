//! SQL: run by psql as the cluster's owner over the local socket, always through standard input, so that no password
//! stands on a command line. What is set for the owner or for all roles does not count
//! ([`replica::options_of_superuser`]).

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, anyhow, bail};

use crate::hba::{self, ROLE};
use crate::settings::{self, Current};

/// The physical replication slot of the backup server.
pub const SLOT: &str = "backup_server";

/// Separates columns; occurs in no value that is asked for.
const SEPARATOR: char = '\u{1f}';

/// Where SQL is run if [`hba::DATABASE`] is closed.
const OTHER_DATABASE: &str = "template1";
/// Seconds that a login may take.
const LOGIN_SECONDS: &str = "60";
/// psql's exit status when the server does not let it in.
const NOT_LET_IN: i32 = 2;

/// How psql is called.
#[derive(Debug, Clone)]
pub struct Psql {
    /// Program and first arguments: how to become the cluster's owner, then psql itself.
    pub command: Vec<String>,
    /// Database superuser: Debian names it as the operating-system user that owns the cluster.
    pub user: String,
    /// Port, which also names the socket.
    pub port: u16,
    /// Folder of the socket; PostgreSQL's default if `None`.
    pub socket: Option<String>,
}

impl Psql {
    /// psql as the operating-system user `owner`.
    pub fn of(owner: &str, port: u16) -> Self {
        let command = ["runuser", "-u", owner, "--", "psql"].map(str::to_owned).to_vec();
        Self { command, user: owner.to_owned(), port, socket: None }
    }

    /// Runs SQL in database `postgres`, or in `template1` where that is closed; rows of columns.
    ///
    /// # Errors
    /// psql cannot be run, or the server refuses: with its own words, which do not repeat the statement.
    pub fn run(&self, sql: &str) -> Result<Vec<Vec<String>>> {
        self.run_in(hba::DATABASE, sql)?.or_else(|closed| {
            let other = self.run_in(OTHER_DATABASE, sql)?;
            other.map_err(|also| {
                closed.context(format!("neither {} nor {OTHER_DATABASE}: {also:#}", hba::DATABASE))
            })
        })
    }

    /// The same in `database`; an error inside is one of the login.
    fn run_in(&self, database: &str, sql: &str) -> Result<Result<Vec<Vec<String>>>> {
        let [program, first @ ..] = self.command.as_slice() else { bail!("no psql is named") };
        let options = replica::options_of_superuser();
        let mut command = Command::new(program);
        command
            .args(first)
            .args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--no-password"])
            .args(["--set=ON_ERROR_STOP=1", "--set=VERBOSITY=terse"])
            .arg(format!("--field-separator={SEPARATOR}"))
            .arg(format!("--port={}", self.port))
            .arg(format!("--username={}", self.user))
            .arg(format!("--dbname=dbname={database} options='{}'", options.replace('\\', "\\\\")))
            .current_dir("/")
            // root's home has files that the owner cannot read, and that are not meant for this.
            .env("HOME", "/")
            .env("PGCLIENTENCODING", "UTF8")
            // A login waits for a catalog that somebody has locked, whatever the settings are.
            .env("PGCONNECT_TIMEOUT", LOGIN_SECONDS)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        for name in ["PGHOST", "PGHOSTADDR", "PGSERVICE", "PGOPTIONS", "PGSSLMODE", "PGPASSFILE"] {
            command.env_remove(name);
        }
        if let Some(socket) = &self.socket {
            command.arg(format!("--host={socket}"));
        }
        let mut child = command.spawn().with_context(|| format!("cannot run {program}"))?;
        let written = child.stdin.take().context("psql has no input")?.write_all(sql.as_bytes());
        let output = child.wait_with_output().context("cannot wait for psql")?;
        if output.status.code() == Some(NOT_LET_IN) {
            return Ok(Err(anyhow!("PostgreSQL: {}", String::from_utf8_lossy(&output.stderr).trim())));
        }
        if !output.status.success() {
            bail!("PostgreSQL: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        written.context("cannot write to psql")?;
        // A name may have any bytes, whatever the encoding.
        let text = String::from_utf8_lossy(&output.stdout);
        Ok(Ok(text.lines().map(|line| line.split(SEPARATOR).map(str::to_owned).collect()).collect()))
    }

    /// A single value.
    ///
    /// # Errors
    /// As [`Self::run`], or there is no row.
    pub fn value(&self, sql: &str) -> Result<String> {
        self.run(sql)?
            .into_iter()
            .flatten()
            .next()
            .with_context(|| format!("PostgreSQL gave no row for: {sql}"))
    }

    /// The database that the backup server's role is to enter: `postgres` where it is open.
    ///
    /// # Errors
    /// As [`Self::run`], or all databases are closed or have names that are not plain.
    pub fn open_database(&self) -> Result<String> {
        let rows = self.run(&format!(
            "select datname from pg_database where datallowconn and (datconnlimit < 0 or datconnlimit > 4)
             and {} ~ '^[a-z0-9_]+$' order by datname <> '{}', datname <> '{OTHER_DATABASE}', oid limit 1",
            replica::name_in_ascii("datname"),
            hba::DATABASE
        ))?;
        rows.into_iter().flatten().next().context(
            "the backup server's role cannot enter any database of PostgreSQL: allow connections to database postgres \
             (ALTER DATABASE postgres ALLOW_CONNECTIONS true CONNECTION LIMIT -1)",
        )
    }

    /// The settings that [`settings`] decides by.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn settings(&self) -> Result<BTreeMap<String, Current>> {
        let names = settings::LOOKED_AT.map(|name| format!("'{name}'")).join(", ");
        let rows = self.run(&format!(
            "select name, setting, coalesce(sourcefile, '') from pg_settings where name in ({names})"
        ))?;
        rows.into_iter()
            .map(|row| match row.as_slice() {
                [name, value, file] => {
                    let ours = file.ends_with(&format!("/{}", settings::FILE));
                    Ok((name.clone(), Current { value: value.clone(), ours }))
                }
                _ => bail!("PostgreSQL gave a row of {} columns for its settings", row.len()),
            })
            .collect()
    }
}

/// What only a superuser may set for the role's sessions: which libraries they load, what is logged of them, and in which
/// language. A log of each question would push the stream's troubles out of what is kept of the replica's log.
const OF_THE_ROLE: [&str; 6] = [
    "session_preload_libraries",
    "lc_messages",
    "log_statement",
    "log_duration",
    "log_min_duration_statement",
    "log_min_messages",
];

/// Makes or mends the role, with this password, and the slot. May be run again.
///
/// The session keeps its statements out of the server's log and of pg_stat_statements, as one holds the password;
/// where that extension is not loaded, its setting is a placeholder without effect. The right to `event_triggers` is for
/// the backup server's own logins to its replica: no login trigger runs there, whatever the database says; that to
/// checkpoints is for restartpoints there before a backup. Its sessions in `database` have [`OF_THE_ROLE`] as this
/// session has, whatever is set for all roles (`from current`: an empty list that is written out becomes one with an empty
/// name). A slot that was invalidated
/// is of no use to anybody: it is made anew.
///
/// # Errors
/// The password is not of letters and digits.
pub fn role_and_slot(password: &str, database: &str) -> Result<String> {
    if password.is_empty() || !password.bytes().all(|c| c.is_ascii_alphanumeric()) {
        bail!("the replication password may have letters and digits only");
    }
    let own: String = OF_THE_ROLE
        .iter()
        .map(|name| format!("alter role {ROLE} in database \"{database}\" set {name} from current;\n"))
        .collect();
    Ok(format!(
        "set log_statement = 'none';
set log_min_duration_statement = -1;
set log_duration = off;
set log_min_error_statement = 'panic';
set pg_stat_statements.track_utility = off;
set password_encryption = 'scram-sha-256';
begin;
do $$ begin
  if not exists (select from pg_roles where rolname = '{ROLE}') then
    create role {ROLE};
  end if;
end $$;
alter role {ROLE} with login replication nosuperuser nocreatedb nocreaterole nobypassrls
  connection limit -1 valid until 'infinity' password '{password}';
grant set on parameter event_triggers to {ROLE};
grant pg_checkpoint to {ROLE};
grant connect on database \"{database}\" to {ROLE};
{own}commit;
select pg_drop_replication_slot(slot_name) from pg_replication_slots
  where slot_name = '{SLOT}' and not active and (wal_status = 'lost' or slot_type <> 'physical');
select pg_create_physical_replication_slot('{SLOT}', true)
  where not exists (select from pg_replication_slots where slot_name = '{SLOT}');
"
    ))
}

/// A random password of letters and digits.
///
/// # Errors
/// The kernel gives no random numbers.
pub fn random_password() -> Result<String> {
    /// 32 of 62 characters: 190 bits.
    const LENGTH: usize = 32;
    const ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    let mut password = String::with_capacity(LENGTH);
    while password.len() < LENGTH {
        let mut bytes = [0; 64];
        getrandom::fill(&mut bytes).context("the kernel gives no random numbers")?;
        // What lies above the last multiple of 62 would make some characters likelier.
        let fair = bytes.iter().filter(|byte| **byte < 248).map(|byte| ALPHABET[usize::from(*byte) % 62]);
        password.extend(fair.take(LENGTH - password.len()).map(char::from));
    }
    Ok(password)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_long_and_need_no_quoting() {
        let (a, b) = (random_password().unwrap(), random_password().unwrap());
        assert_eq!(a.len(), 32);
        assert_ne!(a, b);
        assert!(role_and_slot(&a, "postgres").unwrap().contains(&format!("password '{a}'")));
        for bad in ["", "a'b", "a b", "a\\"] {
            assert!(role_and_slot(bad, "postgres").is_err(), "{bad}");
        }
    }
}
