//! The backup server as whoever restores sees it: its list by the API, manifests and tars by FTP, one key for both.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use api::{
    Backup, BackupList, Client, ClientError, CreateBackup, Manifest, Peer, Secret, SetPin, State,
    Verification,
};

use backups::{BackupId, ManifestError, parse_manifest};

use crate::Failure;
use crate::checks::{Machine, obstacles};
use crate::download::{Checked, PATIENCE, Source, Tar};
use crate::trust::{Fingerprint, look};

/// How long the server may take to reach a monitor that was paired.
const CONNECTED_WITHIN: Duration = Duration::from_secs(60);
/// Between two looks at that.
const ROUND: Duration = Duration::from_secs(2);
/// How long a password that is not looked at, because of too many wrong ones, is shown again and again.
pub const THROTTLED: Duration = Duration::from_secs(60);
/// The word for the newest backup.
pub const LATEST: &str = "latest";

/// Where a backup server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// IPv4 or IPv6 address, or name.
    pub host: String,
    /// Port of the control API, normally [`api::CONTROL_PORT`].
    pub control_port: u16,
    /// Port of FTP, normally [`api::FTP_PORT`].
    pub ftp_port: u16,
}

impl Address {
    /// A server with the usual ports.
    pub fn new(host: &str) -> Self {
        Self { host: host.to_owned(), control_port: api::CONTROL_PORT, ftp_port: api::FTP_PORT }
    }

    /// The key that answers there; see [`look`].
    ///
    /// # Errors
    /// [`Failure::Unreachable`]
    pub fn fingerprint(&self) -> Result<Fingerprint, Failure> {
        Ok(look(&self.host, self.control_port)?.fingerprint)
    }

    fn endpoint(&self) -> String {
        api::endpoint(&self.host, self.control_port)
    }
}

/// A backup server that has shown the right key and has taken the password.
#[derive(Debug)]
pub struct Server {
    address: Address,
    source: Source,
    client: Client,
    list: BackupList,
}

impl Server {
    /// Shows the password to the server with this key, over both ways, and asks for its backups.
    ///
    /// # Errors
    /// [`Failure::Unreachable`], [`Failure::OtherKey`], [`Failure::Password`]; [`Failure::TooManyTries`] after [`THROTTLED`]
    pub fn open(address: Address, expected: Fingerprint, password: Secret) -> Result<Self, Failure> {
        let shown = look(&address.host, address.control_port)?;
        if shown.fingerprint != expected {
            let endpoint = address.endpoint();
            return Err(Failure::OtherKey { endpoint, shown: shown.fingerprint, expected });
        }
        // By the certificate that was just seen, so that nobody else can come between.
        let client = Client::new(&address.host, address.control_port, &shown.certificate, password.reveal())
            .map_err(|error| refused(&address, error))?;
        let list = patiently(|| client.backups()).map_err(|error| match error {
            ClientError::Refused { endpoint, status: 429, message, .. } => {
                Failure::TooManyTries { endpoint, message }
            }
            error => refused(&address, error),
        })?;
        let source = Source {
            host: address.host.clone(),
            port: address.ftp_port,
            fingerprint: expected,
            password,
            patience: PATIENCE,
        };
        source.check()?;
        Ok(Self { address, source, client, list })
    }

    /// Where it is.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Its backups by monitor, each monitor's newest first. That is told by their numbers: a clock that was wrong may have
    /// dated one years ahead.
    pub fn backups(&self) -> Vec<&Backup> {
        let mut backups: Vec<&Backup> = self.list.backups.iter().collect();
        backups.sort_by(|one, other| {
            one.monitor.id.cmp(&other.monitor.id).then_with(|| other.order().cmp(&one.order()))
        });
        // The monitor whose newest backup is the latest comes first.
        let mut groups: Vec<&[&Backup]> =
            backups.chunk_by(|one, other| one.monitor.id == other.monitor.id).collect();
        groups.sort_by_key(|group| std::cmp::Reverse(group.first().map(|newest| newest.created)));
        groups.concat()
    }

    /// The backup that is meant by an id, by an id and its monitor (`<id>_<monitor>`), or by `latest`: the newest one that
    /// can be restored on `machine`, a verified one before others.
    ///
    /// # Errors
    /// [`Failure::NoSuchBackup`]; [`Failure::Unsuitable`]: there are backups, and none can be restored here.
    pub fn choose(&self, wanted: &str, machine: &Machine) -> Result<&Backup, Failure> {
        choose(&self.backups(), wanted, machine, &self.address.endpoint())
    }

    /// The manifest of a backup.
    ///
    /// # Errors
    /// As [`Source::fetch`]; [`Failure::Damaged`]: it is not a manifest, or not this backup's.
    pub fn manifest(&self, backup: &Backup) -> Result<Manifest, Failure> {
        let name = format!("{}.json", backup.full_name());
        let id: BackupId = backup.id.parse().map_err(anyhow::Error::from)?;
        let bytes = self.source.fetch(&name)?;
        let damaged = |problem| Failure::Damaged { name: name.clone(), problem };
        let manifest = parse_manifest(Path::new(&name), &bytes, &id).map_err(|error| match error {
            ManifestError::Newer { .. } => {
                Failure::Unsuitable { id: backup.id.clone(), obstacles: vec![format!("{error}.")] }
            }
            ManifestError::Contradiction { problem, .. } => damaged(problem),
            ManifestError::Malformed { source, .. } => damaged(source.to_string()),
            ManifestError::Io { .. } => Failure::Here(error.into()),
        })?;
        if manifest.backup.monitor.id != backup.monitor.id {
            return Err(damaged(format!("it is of monitor {}", manifest.backup.monitor.id)));
        }
        Ok(manifest)
    }

    /// The tar of a backup from byte `from` on.
    pub fn tar(&self, manifest: &Manifest, from: u64) -> Checked {
        let tar = Tar {
            name: format!("{}.tar", manifest.backup.full_name()),
            bytes: manifest.backup.sizes.tar,
            digests: manifest.digests.clone(),
        };
        self.source.stream(tar, from)
    }

    /// Pairs a restored monitor: what the server has of it until now is kept first, as a pinned backup. Returns the id of
    /// that backup, or why there is none.
    ///
    /// # Errors
    /// As [`Self::open`]; [`Failure::Refused`]: also where it is paired with another monitor, and where that backup cannot be
    /// made and `before` must be kept.
    pub fn pair(&self, peer: &Peer, before: Before) -> Result<Result<String, String>, Failure> {
        let refused = |error| refused(&self.address, error);
        let status = self.client.status().map_err(refused)?;
        let kept = match (&status.state, &status.peer) {
            // Before a backup of a stranger's monitor is made, which only the console could unpin.
            (_, Some(other)) if other.id != peer.id => {
                return Err(Failure::Refused {
                    endpoint: self.address.endpoint(),
                    message: format!(
                        "it is paired with monitor {} at {}, and not with the one that was restored, {}",
                        other.id,
                        other.endpoint(),
                        peer.id
                    ),
                });
            }
            (State::NotConnected, _) | (_, None) => Err("the server follows no monitor".to_owned()),
            _ => {
                let kept = match self.kept_before(peer).map_err(refused)? {
                    Some(backup) => Ok(backup),
                    None => self.client.create_backup(&CreateBackup { comment: api::BEFORE_PAIRING.into() }),
                };
                let kept = kept.and_then(|backup| self.client.set_pin(&backup.id, SetPin { pinned: true }));
                match (kept, before) {
                    (Ok(backup), _) => Ok(backup.id),
                    (Err(error), Before::MayBeLost) => Err(error.to_string()),
                    (Err(error), Before::Kept) => return Err(refused(error)),
                }
            }
        };
        self.client.pair(peer).map_err(refused)?;
        Ok(kept)
    }

    /// What the server says of its connection to the monitor that was just paired, if after a while there is none.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn not_connected(&self) -> Result<Option<String>, Failure> {
        let deadline = Instant::now() + CONNECTED_WITHIN;
        loop {
            let status = self.client.status().map_err(|error| refused(&self.address, error))?;
            match status.state {
                State::NotConnected | State::Connecting | State::Disconnected { .. } => {}
                _ => return Ok(None),
            }
            if Instant::now() >= deadline {
                return Ok(Some(status.message));
            }
            thread::sleep(ROUND);
        }
    }

    /// The newer backups of the same monitor that were passed over for this one, the newest first.
    pub fn newer_than(&self, chosen: &Backup) -> Vec<&Backup> {
        let of_monitor = |backup: &&Backup| backup.monitor.id == chosen.monitor.id;
        let newer = |backup: &&Backup| backup.order() > chosen.order() && !is_from_before(backup);
        self.backups().into_iter().filter(of_monitor).filter(newer).collect()
    }

    /// The backup that an attempt before has made: the newest one, if it is that.
    fn kept_before(&self, peer: &Peer) -> Result<Option<Backup>, ClientError> {
        let backups = self.client.backups()?.backups.into_iter();
        let newest = backups
            .filter(|backup| backup.monitor.id == peer.id)
            .max_by(|one, other| one.order().cmp(&other.order()));
        Ok(newest.filter(is_from_before))
    }
}

/// What becomes of what the server has of the monitor until it is paired again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Before {
    /// It is kept as a pinned backup, or nothing is paired.
    Kept,
    /// It is kept if that is possible.
    MayBeLost,
}

/// Asks again while the server does not look at the password.
fn patiently<T>(ask: impl Fn() -> Result<T, ClientError>) -> Result<T, ClientError> {
    let began = Instant::now();
    loop {
        let answer = ask();
        match answer.as_ref().err().and_then(|error| pause(error, began.elapsed())) {
            Some(pause) => thread::sleep(pause),
            None => return answer,
        }
    }
}

/// After which pause to ask again; `None`: not at all.
fn pause(error: &ClientError, waited: Duration) -> Option<Duration> {
    let ClientError::Refused { status: 429, retry_after, .. } = error else { return None };
    let pause = Duration::from_secs(retry_after.unwrap_or(1).max(1));
    Some(pause).filter(|pause| waited.saturating_add(*pause) <= THROTTLED)
}

fn refused(address: &Address, error: ClientError) -> Failure {
    match error {
        ClientError::Refused { endpoint, status: 401, .. } => Failure::Password { endpoint },
        ClientError::Refused { endpoint, message, .. } => Failure::Refused { endpoint, message },
        ClientError::Untrusted { endpoint, cause } => Failure::Untrusted { endpoint, cause },
        ClientError::NoAnswer { cause, .. } => Failure::Unreachable { endpoint: address.endpoint(), cause },
    }
}

/// Whether a backup is what was kept when a restored monitor was paired again: the state that somebody has left behind.
pub fn is_from_before(backup: &Backup) -> bool {
    backup.comment == api::BEFORE_PAIRING
}

/// See [`Server::choose`]; the newest first.
fn choose<'a>(
    backups: &[&'a Backup],
    wanted: &str,
    machine: &Machine,
    endpoint: &str,
) -> Result<&'a Backup, Failure> {
    let none = || Failure::NoSuchBackup { endpoint: endpoint.to_owned(), wanted: wanted.to_owned() };
    if wanted != LATEST {
        let (id, monitor) =
            wanted.split_once('_').map_or((wanted, None), |(id, monitor)| (id, Some(monitor)));
        let is_it = |backup: &&&Backup| {
            backup.id == id && monitor.is_none_or(|monitor| backup.monitor.id.to_string() == monitor)
        };
        let mut fitting = backups.iter().filter(is_it);
        return match (fitting.next(), fitting.next()) {
            (Some(one), None) => Ok(one),
            (Some(_), Some(_)) => Err(Failure::Here(anyhow::anyhow!(
                "backup {id} is there of several monitors; name one as {id}_<the monitor's UUID>"
            ))),
            (None, _) => Err(none()),
        };
    }
    let judged: Vec<(&Backup, Vec<String>)> =
        backups.iter().map(|backup| (*backup, obstacles(backup, machine))).collect();
    let is_verified = |backup: &&Backup| matches!(backup.verification, Verification::Verified(_));
    let suitable = || judged.iter().filter(|(_, obstacles)| obstacles.is_empty()).map(|(backup, _)| *backup);
    let wanted = || suitable().filter(|backup| !is_from_before(backup));
    if let Some(backup) = wanted().find(is_verified).or_else(|| wanted().next()).or_else(|| suitable().next())
    {
        return Ok(backup);
    }
    match judged.into_iter().next() {
        Some((newest, obstacles)) => Err(Failure::Unsuitable { id: newest.id.clone(), obstacles }),
        None => Err(none()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(status: u16, retry_after: Option<u64>) -> ClientError {
        ClientError::Refused { endpoint: "a:1".into(), status, message: "too many".into(), retry_after }
    }

    #[test]
    fn only_a_password_that_was_looked_at_is_wrong() {
        let address = Address::new("a");
        for (status, expected) in [(401, 5), (429, 9), (409, 9), (503, 9)] {
            assert_eq!(refused(&address, said(status, None)).exit_status(), expected, "{status}");
        }
    }

    #[test]
    fn who_is_told_to_wait_waits_a_minute_at_most() {
        let s = Duration::from_secs;
        for (error, waited, expected) in [
            (said(429, Some(4)), 0, Some(4)),
            (said(429, Some(0)), 0, Some(1)),
            (said(429, None), 59, Some(1)),
            (said(429, Some(33)), 28, None),
            (said(429, Some(3600)), 0, None),
            (said(401, None), 0, None),
            (said(503, Some(1)), 0, None),
        ] {
            assert_eq!(pause(&error, s(waited)), expected.map(s), "{error} after {waited} s");
        }
    }
}
