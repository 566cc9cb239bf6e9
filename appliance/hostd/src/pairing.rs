//! Which monitor may be followed: decided here and not by the network process, which may be compromised
//! (design D14).
//!
//! ```text
//! never ──the first that is followed or paired──▶ paired ──console: release──▶ released
//!                                                 ▲    │                          │
//!                                                 └────┘◀──the next that is paired┘
//!            its key signs another identity, or the console has accepted it
//! ```
//!
//! Pure: [`judge`] gives what is to be kept, or why not.

use std::fmt;

use api::{Fingerprint, Peer};
use auth::pin::{Keys, Statement};
use hostd::{BackupRequest, PROGRAM};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// What is known of the monitor.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Known {
    /// None was ever followed.
    #[default]
    Never,
    /// The console has let it go.
    Released,
    /// It is this one.
    Paired(Pin),
}

/// Who the paired monitor is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// Its UUID.
    pub id: Uuid,
    /// The keys of its certificate.
    pub keys: Keys,
    /// Its replication role.
    pub user: String,
    /// Its replication slot.
    pub slot: String,
    /// The role's database.
    pub database: String,
    /// Number of its last statement; 0: it has made none.
    pub number: u64,
    /// Whose key signed that.
    pub signer: Keys,
}

/// What the console has accepted in the paired monitor's place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// UUID of the monitor.
    pub monitor: Uuid,
    /// Its key, as [`Fingerprint`] writes it.
    pub key: String,
}

/// Why a peer is asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// It was paired before and is followed.
    Follow,
    /// It is paired now.
    Pair,
}

/// Why a peer may not be followed, as a sentence without full stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused(String);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}

/// Decides whether `peer` may be followed, and gives what is known of the monitor then.
///
/// # Errors
/// It may not.
pub fn judge(known: &Known, accepted: Option<&Accepted>, peer: &Peer, asked: Asked) -> Result<Pin, Refused> {
    let keys = Keys::of_pem(&peer.certificate).map_err(|error| Refused(error.to_string()))?;
    match known {
        Known::Released if asked == Asked::Follow => Err(Refused(format!(
            "monitor {} was released at the console; pair it again, or another one",
            peer.id
        ))),
        Known::Never | Known::Released => first(peer, keys, asked),
        // What was paired is followed, whatever was said to be new and did not come to be paired.
        Known::Paired(pin) if pin.is_of(peer, &keys) && asked == Asked::Follow => Ok(pin.clone()),
        Known::Paired(pin) if pin.is_of(peer, &keys) => again(pin, peer, &keys),
        Known::Paired(pin) => {
            let signed = peer.signature.as_ref().filter(|signature| {
                signature.number > pin.number
                    && Statement::of(peer, &keys, signature.number).is_signed_by(&pin.keys, signature)
            });
            if let (Some(signature), true) = (signed, pin.id == peer.id) {
                let signer = pin.keys.clone();
                return Ok(Pin { number: signature.number, signer, ..Pin::new(peer, keys) });
            }
            let fingerprint = keys.fingerprint();
            if asked == Asked::Pair && accepted.is_some_and(|accepted| accepted.is_of(peer.id, &fingerprint))
            {
                return first(peer, keys, asked);
            }
            Err(pin.refusal(peer, &keys, &fingerprint))
        }
    }
}

/// A monitor of which nothing is known: its own key has to vouch for what it says.
fn first(peer: &Peer, keys: Keys, asked: Asked) -> Result<Pin, Refused> {
    let number = match &peer.signature {
        Some(signature) if Statement::of(peer, &keys, signature.number).is_signed_by(&keys, signature) => {
            signature.number
        }
        Some(_) => return Err(wrong_signature()),
        None if peer.configuration.is_empty() || asked == Asked::Follow => 0,
        None => return Err(no_signature()),
    };
    Ok(Pin { number, ..Pin::new(peer, keys) })
}

/// The monitor that is known.
fn again(pin: &Pin, peer: &Peer, keys: &Keys) -> Result<Pin, Refused> {
    let Some(signature) = &peer.signature else {
        return if peer.configuration.is_empty() { Ok(pin.clone()) } else { Err(no_signature()) };
    };
    let statement = Statement::of(peer, keys, signature.number);
    let signer = [keys, &pin.signer].into_iter().find(|signer| statement.is_signed_by(signer, signature));
    let signer = signer.ok_or_else(wrong_signature)?;
    if signature.number < pin.number || (signer != keys && signature.number != pin.number) {
        return Err(Refused(
            "the monitor has said something else of itself since, so this is out of date; run `monitor-link setup` \
             there and pair with what it prints"
                .into(),
        ));
    }
    Ok(Pin { number: signature.number, signer: signer.clone(), ..pin.clone() })
}

/// Whether the paired monitor vouches for the configuration files and the version of a backup.
pub fn vouches(known: &Known, request: &BackupRequest) -> bool {
    let (Known::Paired(pin), Some(signature)) = (known, &request.signature) else { return false };
    let statement = Statement {
        id: request.monitor.id,
        version: &request.monitor.version,
        user: &pin.user,
        slot: &pin.slot,
        database: &pin.database,
        keys: &pin.keys,
        configuration: &request.configuration,
        number: signature.number,
    };
    // An older statement may stand in a backup: the network process may not have kept the newest yet.
    pin.id == request.monitor.id
        && [&pin.keys, &pin.signer].into_iter().any(|signer| statement.is_signed_by(signer, signature))
}

fn no_signature() -> Refused {
    Refused(
        "the monitor's configuration files are not signed with its key, and a restore would apply them; run \
         `monitor-link setup` of this version there and pair with all that it prints"
            .into(),
    )
}

fn wrong_signature() -> Refused {
    Refused(
        "the signature is not of the monitor's key, or something was changed after it was signed; run `monitor-link \
         setup` there and pair with what it prints"
            .into(),
    )
}

impl Accepted {
    fn is_of(&self, monitor: Uuid, key: &Fingerprint) -> bool {
        self.monitor == monitor && self.key.parse() == Ok(*key)
    }
}

impl Pin {
    fn new(peer: &Peer, keys: Keys) -> Self {
        let Peer { id, user, slot, database, .. } = peer.clone();
        Self { id, user, slot, database, number: 0, signer: keys.clone(), keys }
    }

    fn is_of(&self, peer: &Peer, keys: &Keys) -> bool {
        let identity = (peer.id, peer.user.as_str(), peer.slot.as_str(), peer.database.as_str());
        self.keys == *keys
            && identity == (self.id, self.user.as_str(), self.slot.as_str(), self.database.as_str())
    }

    fn refusal(&self, peer: &Peer, keys: &Keys, fingerprint: &Fingerprint) -> Refused {
        let order = format!(
            "`{PROGRAM} order accept-peer --monitor {} --key {fingerprint}` (without options it lists who has asked)",
            peer.id
        );
        if self.id != peer.id {
            return Refused(format!(
                "this server is paired with monitor {}; release it at the server's console first, or accept the other \
                 one there in its place: {order}",
                self.id
            ));
        }
        let other = if self.keys == *keys { "role, slot or database" } else { "key" };
        Refused(format!(
            "monitor {} was paired with another {other}, and the network password does not suffice to change that; if \
             the key is the one that the monitor shows, accept it at the server's console and pair again: {order}",
            self.id
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::{MonitorRef, Reason, Secret, Signature};
    use auth::certificate::Key;
    use std::collections::BTreeMap;
    use std::time::SystemTime;

    struct Monitor {
        peer: Peer,
        key: String,
    }

    impl Monitor {
        fn new(id: u128) -> Self {
            let key = Key::generate().unwrap();
            let peer = Peer {
                id: Uuid::from_u128(id),
                version: "1".into(),
                address: "192.0.2.1".into(),
                port: 50001,
                user: "backup_server".into(),
                password: Secret::new("x"),
                slot: "backup_server".into(),
                database: "postgres".into(),
                certificate: key.certificate("monitor", SystemTime::now()).unwrap(),
                configuration: BTreeMap::from([("/etc/pg_hba.conf".into(), "local\n".into())]),
                signature: None,
            };
            Self { peer, key: key.to_pem() }
        }

        /// What it says, with a change, as its own key signs it.
        fn says(&self, number: u64, change: impl FnOnce(&mut Peer)) -> Peer {
            let mut peer = self.peer.clone();
            change(&mut peer);
            peer.signature = Some(signature(&peer, &self.key, number));
            peer
        }
    }

    fn signature(peer: &Peer, key: &str, number: u64) -> Signature {
        let keys = Keys::of_pem(&peer.certificate).unwrap();
        Statement::of(peer, &keys, number).sign(key).unwrap()
    }

    fn pair(known: &Known, peer: &Peer) -> Result<Pin, String> {
        judge(known, None, peer, Asked::Pair).map_err(|refused| refused.to_string())
    }

    #[test]
    fn the_first_monitor_vouches_for_itself() {
        let (monitor, other) = (Monitor::new(1), Monitor::new(1));
        for known in [Known::Never, Known::Released] {
            assert_eq!(pair(&known, &monitor.says(5, |_| ())).unwrap().number, 5);
            let bare = Peer { configuration: BTreeMap::new(), ..monitor.peer.clone() };
            assert_eq!(pair(&known, &bare).unwrap().number, 0);
            assert!(pair(&known, &monitor.peer).unwrap_err().contains("not signed"));
            let mut wrong = monitor.says(5, |_| ());
            wrong.configuration.insert("/etc/x.conf".into(), "archive_command = 'x'".into());
            assert!(pair(&known, &wrong).unwrap_err().contains("signature is not"));
            let mut foreign = monitor.peer.clone();
            foreign.signature = Some(signature(&foreign, &other.key, 5));
            assert!(pair(&known, &foreign).unwrap_err().contains("signature is not"));
        }
        // A pairing of an earlier version is followed as it is, unless it was released.
        assert!(judge(&Known::Never, None, &monitor.peer, Asked::Follow).is_ok());
        let refused = judge(&Known::Released, None, &monitor.says(9, |_| ()), Asked::Follow).unwrap_err();
        assert!(refused.to_string().contains("was released"), "{refused}");
    }

    #[test]
    fn who_is_paired_changes_only_by_its_key_or_the_console() {
        let (monitor, other) = (Monitor::new(1), Monitor::new(2));
        let known = Known::Paired(pair(&Known::Never, &monitor.says(5, |_| ())).unwrap());
        let stolen = Monitor::new(1);
        type Row<'a> = (&'a str, Peer, Result<u64, &'a str>);
        let table: Vec<Row<'_>> = vec![
            ("again", monitor.says(5, |_| ()), Ok(5)),
            ("moved", monitor.says(5, |peer| peer.address = "192.0.2.9".into()), Ok(5)),
            ("another configuration", monitor.says(6, |peer| peer.configuration.clear()), Ok(6)),
            ("an old one", monitor.says(4, |_| ()), Err("out of date")),
            ("unsigned", monitor.peer.clone(), Err("not signed")),
            (
                "changed after it was signed",
                { Peer { version: "2".into(), ..monitor.says(6, |_| ()) } },
                Err("signature is not"),
            ),
            ("another key", stolen.says(9, |_| ()), Err("another key")),
            (
                "another authority beside",
                monitor.says(5, |peer| peer.certificate += &other.peer.certificate),
                Ok(5),
            ),
            (
                "another role",
                Peer { user: "postgres".into(), ..monitor.says(5, |_| ()) },
                Err("another role, slot"),
            ),
            ("another slot", Peer { slot: "x".into(), ..monitor.says(5, |_| ()) }, Err("another role, slot")),
            (
                "another database",
                Peer { database: "x".into(), ..monitor.says(5, |_| ()) },
                Err("another role, slot"),
            ),
            (
                "another role, an old word",
                monitor.says(5, |peer| peer.user = "postgres".into()),
                Err("another role"),
            ),
            ("another role, signed", monitor.says(6, |peer| peer.user = "other".into()), Ok(6)),
            ("another monitor", other.says(9, |_| ()), Err("is paired with monitor")),
            (
                "another monitor, signed by this one",
                {
                    let mut peer = other.peer.clone();
                    peer.signature = Some(signature(&peer, &monitor.key, 9));
                    peer
                },
                Err("is paired with monitor"),
            ),
        ];
        for (name, peer, expected) in table {
            // An authority beside is another identity: what is signed with the same number is not newer.
            let expected = if name.starts_with("another authority") { Err("another key") } else { expected };
            match (pair(&known, &peer), expected) {
                (Ok(pin), Ok(number)) => assert_eq!(pin.number, number, "{name}"),
                (Err(refused), Err(words)) => assert!(refused.contains(words), "{name}: {refused}"),
                (got, _) => panic!("{name}: {got:?}"),
            }
        }
        // An old statement is no reason to follow no more.
        assert!(judge(&known, None, &monitor.says(4, |_| ()), Asked::Follow).is_ok());
        assert!(judge(&known, None, &stolen.says(9, |_| ()), Asked::Follow).is_err());
        // The old key hands over to a new one, which counts from then on.
        let mut handed = stolen.peer.clone();
        handed.signature = Some(signature(&handed, &monitor.key, 7));
        let next = Known::Paired(pair(&known, &handed).unwrap());
        assert!(pair(&next, &handed).is_ok(), "said again");
        assert!(pair(&next, &stolen.says(8, |_| ())).is_ok());
        assert!(pair(&next, &monitor.says(9, |_| ())).unwrap_err().contains("another key"));
        handed.configuration.clear();
        handed.signature = Some(signature(&handed, &monitor.key, 9));
        assert!(pair(&next, &handed).is_err(), "the old key has nothing to say any more");
    }

    #[test]
    fn the_console_accepts_one_monitor_with_one_key() {
        let (monitor, new, other) = (Monitor::new(1), Monitor::new(1), Monitor::new(2));
        let known = Known::Paired(pair(&Known::Never, &monitor.says(5, |_| ())).unwrap());
        let key =
            |monitor: &Monitor| Keys::of_pem(&monitor.peer.certificate).unwrap().fingerprint().to_string();
        let accepted = |id, key| Accepted { monitor: Uuid::from_u128(id), key };
        for (accepted, of, asked, expected) in [
            (accepted(1, key(&new)), &new, Asked::Pair, true),
            (accepted(2, key(&other)), &other, Asked::Pair, true),
            (accepted(1, key(&new)), &new, Asked::Follow, false),
            (accepted(2, key(&new)), &new, Asked::Pair, false),
            (accepted(1, key(&other)), &new, Asked::Pair, false),
            (accepted(1, "rubbish".into()), &new, Asked::Pair, false),
        ] {
            let judged = judge(&known, Some(&accepted), &of.says(1, |_| ()), asked);
            assert_eq!(judged.is_ok(), expected, "{accepted:?}");
        }
        let words = pair(&known, &new.says(1, |_| ())).unwrap_err();
        assert!(
            words.contains(&format!("accept-peer --monitor {} --key {}", new.peer.id, key(&new))),
            "{words}"
        );
    }

    #[test]
    fn a_backup_carries_only_what_the_monitor_vouches_for() {
        let monitor = Monitor::new(1);
        let peer = monitor.says(5, |_| ());
        let known = Known::Paired(pair(&Known::Never, &peer).unwrap());
        let request = |peer: &Peer| BackupRequest {
            monitor: MonitorRef { id: peer.id, version: peer.version.clone() },
            reason: Reason::OnDemand,
            comment: String::new(),
            version: "17.6".into(),
            flushed_lsn: "0/1".into(),
            timeline: 1,
            superuser: None,
            collations: Vec::new(),
            configuration: peer.configuration.clone(),
            signature: peer.signature.clone(),
        };
        assert!(vouches(&known, &request(&peer)));
        assert!(vouches(&known, &request(&monitor.says(6, |peer| peer.version = "2".into()))));
        assert!(!vouches(&Known::Never, &request(&peer)));
        assert!(vouches(&known, &request(&monitor.says(4, |_| ()))));
        assert!(!vouches(&known, &request(&Peer { version: "2".into(), ..peer.clone() })));
        assert!(!vouches(&known, &request(&Peer { configuration: BTreeMap::new(), ..peer.clone() })));
        assert!(!vouches(&known, &request(&Peer { signature: None, ..peer })));
    }
}
