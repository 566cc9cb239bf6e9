//! Which monitor may be followed: decided here and not by the network process, which may be compromised
//! (design D14).
//!
//! ```text
//! never ──the first that is followed or paired──▶ paired ──console: release──▶ released
//!                                                 ▲ ▲  │                          │
//!                                                 │ └──┘◀──the next that is paired┘
//!            its signing key signs another identity, or the console has accepted it
//!                                                 │
//! lost ──what this machine has a replica or backups of is followed on, or the console has accepted one
//! ```
//!
//! *Lost* is what a record is that cannot be read, or that is missing although the data volume shows that a monitor was
//! followed here.
//!
//! Pure: [`judge`] gives what is to be kept, or why not.

use std::fmt;

use api::{Fingerprint, Peer};
use auth::pin::{Identity, Keys, PublicKey, Statement};
use hostd::{BackupRequest, PROGRAM, Pairing};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// So far ahead of the clock may the number of a statement be, in milliseconds: it is the time at the monitor. Without
/// a limit one far-future number would lock the monitor out for ever.
const AHEAD_MAX: u64 = 24 * 3600 * 1000;

/// What is known of the monitor.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Known {
    /// None was ever followed.
    #[default]
    Never,
    /// The console has let it go.
    Released,
    /// The record could not be read.
    Lost,
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
    /// Its signing key; `None`: it was paired by an earlier version, and what it says of itself stays as it is.
    #[serde(default)]
    pub signing: Option<PublicKey>,
    /// Its replication role.
    pub user: String,
    /// Its replication slot.
    pub slot: String,
    /// The role's database.
    pub database: String,
    /// Number of its last statement; 0: it has made none.
    pub number: u64,
    /// Whose first key signed that.
    pub signer: Keys,
    /// The record was lost, and this is what was followed when that was found: the console has not confirmed it yet.
    #[serde(default)]
    pub is_derived: bool,
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

/// What decides beside the peer itself.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// What is on record.
    pub known: &'a Known,
    /// What the console has accepted.
    pub accepted: Option<&'a Accepted>,
    /// The number of a statement that the console has confirmed, however far it is ahead of the clock.
    pub confirmed: Option<u64>,
    /// The monitors of which this machine has a replica or backups.
    pub stored: &'a [Uuid],
    /// This machine's clock, in milliseconds since 1970.
    pub now: u64,
}

/// Why a peer may not be followed, as sentences without the last full stop.
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
pub fn judge(facts: &Facts<'_>, peer: &Peer, asked: Asked) -> Result<Pin, Refused> {
    let identity = Identity::of(peer).map_err(|error| Refused(error.to_string()))?;
    let is_accepted = || {
        let key = identity.fingerprint();
        asked == Asked::Pair && facts.accepted.is_some_and(|accepted| accepted.is_of(peer.id, &key))
    };
    match facts.known {
        Known::Released if asked == Asked::Follow => Err(Refused(format!(
            "monitor {} was released at the console. Pair it again, or pair another one",
            peer.id
        ))),
        Known::Released => first(facts, peer, &identity, asked),
        known if known.is_lost(facts.stored) => {
            if is_accepted() {
                return first(facts, peer, &identity, asked);
            }
            if asked == Asked::Follow && facts.stored.contains(&peer.id) {
                return Ok(Pin { is_derived: true, ..first(facts, peer, &identity, asked)? });
            }
            Err(Refused(format!(
                "this server has lost the record of the monitor that it was paired with, so it admits no new one. If the key \
                 is the one that the monitor shows, accept it at the server's console and pair again: {}",
                order(peer, &identity)
            )))
        }
        Known::Never | Known::Lost => first(facts, peer, &identity, asked),
        // What was paired is followed, whatever was said to be new and did not come to be paired.
        Known::Paired(pin) if pin.is_of(peer, &identity) && asked == Asked::Follow => Ok(pin.clone()),
        Known::Paired(pin) if pin.is_of(peer, &identity) => again(facts, pin, peer, &identity),
        Known::Paired(pin) => match handed_over(pin, peer, &identity) {
            Some(number) => {
                facts.check_clock(number)?;
                let (signer, is_derived) = (pin.signer_now(), pin.is_derived);
                Ok(Pin { number, signer, is_derived, ..Pin::new(peer, identity) })
            }
            None if is_accepted() => first(facts, peer, &identity, asked),
            None => Err(pin.refusal(peer, &identity)),
        },
    }
}

/// The number of a new statement by which the signing key gives its monitor other keys, another role, slot or database.
fn handed_over(pin: &Pin, peer: &Peer, identity: &Identity) -> Option<u64> {
    let (signing, signature) = (pin.signing.as_ref()?, peer.signature.as_ref()?);
    let is_new = pin.id == peer.id && identity.signing.is_some() && signature.number > pin.number;
    let statement = Statement::of(peer, identity, signature.number);
    (is_new && statement.is_signed_by(signing, signature)).then_some(signature.number)
}

/// A monitor of which nothing is known: its own key has to vouch for what it says.
fn first(facts: &Facts<'_>, peer: &Peer, identity: &Identity, asked: Asked) -> Result<Pin, Refused> {
    // What was paired by an earlier version is followed as it is.
    let signs = match asked {
        Asked::Pair => identity.signing.as_ref(),
        Asked::Follow => identity.signing.as_ref().or(identity.keys.own()),
    };
    let number = match (&peer.signature, signs) {
        (Some(signature), Some(key)) => {
            if !Statement::of(peer, identity, signature.number).is_signed_by(key, signature) {
                return Err(wrong_signature());
            }
            if asked == Asked::Pair {
                facts.check_clock(signature.number)?;
            }
            signature.number
        }
        (Some(_), None) => return Err(no_signing_key()),
        (None, _) if asked == Asked::Follow => 0,
        (None, None) if peer.configuration.is_empty() => 0,
        (None, _) => return Err(no_signature()),
    };
    Ok(Pin { number, ..Pin::new(peer, identity.clone()) })
}

/// The monitor that is known.
fn again(facts: &Facts<'_>, pin: &Pin, peer: &Peer, identity: &Identity) -> Result<Pin, Refused> {
    let Some(signature) = &peer.signature else {
        return if peer.configuration.is_empty() { Ok(pin.clone()) } else { Err(no_signature()) };
    };
    let statement = Statement::of(peer, identity, signature.number);
    // Without any before it, 0 is the number of none.
    let is_last = pin.number > 0
        && signature.number == pin.number
        && pin.signer.own().is_some_and(|signer| statement.is_signed_by(signer, signature));
    if is_last {
        return Ok(pin.clone());
    }
    let Some(signing) = &pin.signing else { return Err(no_signing_key()) };
    if !statement.is_signed_by(signing, signature) {
        return Err(wrong_signature());
    }
    if signature.number < pin.number {
        return Err(Refused(format!(
            "the monitor has said something else of itself since, so this is out of date. Run `monitor-link setup` there and \
             pair with what it prints. If that is refused too, the monitor's clock was wrong before: confirm the number at \
             the server's console: `{PROGRAM} order confirm-peer --number {}`",
            signature.number
        )));
    }
    if signature.number > pin.number {
        facts.check_clock(signature.number)?;
    }
    Ok(Pin { number: signature.number, signer: pin.signer_now(), ..pin.clone() })
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
        signing: pin.signing.as_ref(),
    };
    // Without a signing key only what was said before the pairing was pinned counts. Else an older statement may stand in
    // a backup: the network process may not have kept the newest yet.
    let is_told = pin.signing.is_some() || (pin.number > 0 && signature.number == pin.number);
    pin.id == request.monitor.id
        && is_told
        && [pin.signing.as_ref(), pin.signer.own()]
            .into_iter()
            .flatten()
            .any(|signer| statement.is_signed_by(signer, signature))
}

fn order(peer: &Peer, identity: &Identity) -> String {
    format!(
        "`{PROGRAM} order accept-peer --monitor {} --key {}` (without options it lists who has asked)",
        peer.id,
        identity.fingerprint()
    )
}

fn no_signature() -> Refused {
    Refused(
        "the monitor's configuration files are not signed, and a restore would apply them. Run `monitor-link setup` of this \
         version there and pair with all that it prints"
            .into(),
    )
}

fn no_signing_key() -> Refused {
    Refused(
        "the monitor has no signing key, so nothing vouches for what it says of itself. Run `monitor-link setup` of this \
         version there and pair with all that it prints; where it was paired before, accept its key at the server's console"
            .into(),
    )
}

fn wrong_signature() -> Refused {
    Refused(
        "the signature is not of the monitor's signing key, or something was changed after it was signed. Run `monitor-link \
         setup` there and pair with what it prints"
            .into(),
    )
}

impl Known {
    /// Whether a monitor was paired of which there is no record; `stored` are those of which this machine has something.
    pub fn is_lost(&self, stored: &[Uuid]) -> bool {
        match self {
            Self::Lost => true,
            Self::Never => !stored.is_empty(),
            Self::Released | Self::Paired(_) => false,
        }
    }

    /// What the network process shows of it.
    pub fn shown(&self, stored: &[Uuid]) -> Pairing {
        match self {
            Self::Paired(pin) => Pairing::Paired {
                monitor: pin.id,
                key: pin.identity().fingerprint().to_string(),
                has_signing_key: pin.signing.is_some(),
                is_derived: pin.is_derived,
            },
            known if known.is_lost(stored) => Pairing::Lost,
            _ => Pairing::None,
        }
    }
}

impl Facts<'_> {
    fn check_clock(&self, number: u64) -> Result<(), Refused> {
        if number <= self.now.saturating_add(AHEAD_MAX) || self.confirmed == Some(number) {
            return Ok(());
        }
        Err(Refused(format!(
            "the number {number} of what the monitor says is more than one day ahead of this server's clock. Set the clocks of \
             both machines and run `monitor-link setup` again; or, if the clocks are right, confirm the number at the server's \
             console and pair again: `{PROGRAM} order confirm-peer --number {number}`"
        )))
    }
}

impl Accepted {
    fn is_of(&self, monitor: Uuid, key: &Fingerprint) -> bool {
        self.monitor == monitor && self.key.parse() == Ok(*key)
    }

    /// Whether it is what `pin` says.
    pub fn is_pinned(&self, pin: &Pin) -> bool {
        self.is_of(pin.id, &pin.identity().fingerprint())
    }
}

impl Pin {
    fn new(peer: &Peer, Identity { keys, signing }: Identity) -> Self {
        let Peer { id, user, slot, database, .. } = peer.clone();
        let signer = signing.clone().map_or_else(|| keys.clone(), Keys::from);
        Self { id, user, slot, database, number: 0, signer, keys, signing, is_derived: false }
    }

    fn identity(&self) -> Identity {
        Identity { keys: self.keys.clone(), signing: self.signing.clone() }
    }

    /// Who signs what is said now.
    fn signer_now(&self) -> Keys {
        self.signing.clone().map_or_else(|| self.keys.clone(), Keys::from)
    }

    fn is_of(&self, peer: &Peer, identity: &Identity) -> bool {
        let names = (peer.id, peer.user.as_str(), peer.slot.as_str(), peer.database.as_str());
        self.identity() == *identity
            && names == (self.id, self.user.as_str(), self.slot.as_str(), self.database.as_str())
    }

    fn refusal(&self, peer: &Peer, identity: &Identity) -> Refused {
        let order = order(peer, identity);
        if self.id != peer.id {
            return Refused(format!(
                "this server is paired with monitor {}. If this one is to take its place, accept it at the server's console and \
                 pair again: {order}; or release the paired one there first: `{PROGRAM} order release-peer`",
                self.id
            ));
        }
        let what = if self.identity() == *identity {
            "role, slot or database is not the pinned one"
        } else if self.keys == identity.keys && self.signing.is_none() {
            "signing key is not pinned yet"
        } else {
            "key is not the pinned one"
        };
        Refused(format!(
            "this peer's {what}, and the network password does not suffice to change that. If the key is the one that the \
             monitor shows, accept it at the server's console and pair again: {order}"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::{MonitorRef, Reason};
    use auth::certificate::Key;
    use auth::testing::Monitor;
    use std::collections::BTreeMap;
    use std::time::SystemTime;

    /// The numbers of these tests are small: the clock is at 1970.
    const NOW: u64 = 0;

    fn facts(known: &Known) -> Facts<'_> {
        Facts { known, accepted: None, confirmed: None, stored: &[], now: NOW }
    }

    fn pair(known: &Known, peer: &Peer) -> Result<Pin, String> {
        judge(&facts(known), peer, Asked::Pair).map_err(|refused| refused.to_string())
    }

    fn follow(known: &Known, peer: &Peer) -> Result<Pin, String> {
        judge(&facts(known), peer, Asked::Follow).map_err(|refused| refused.to_string())
    }

    fn paired(peer: &Peer) -> Known {
        Known::Paired(pair(&Known::Never, peer).unwrap())
    }

    /// What an earlier version has on record of a monitor without a signing key.
    fn paired_before(peer: &Peer) -> Known {
        Known::Paired(follow(&Known::Never, peer).unwrap())
    }

    #[test]
    fn the_first_monitor_vouches_for_itself() {
        let (monitor, other) = (Monitor::new(1), Monitor::new(1));
        for known in [Known::Never, Known::Released] {
            assert_eq!(pair(&known, &monitor.says(5, |_| ())).unwrap().number, 5);
            let bare = Peer { configuration: BTreeMap::new(), signing_key: None, ..monitor.peer.clone() };
            assert_eq!(pair(&known, &bare).unwrap().number, 0);
            assert!(pair(&known, &monitor.peer).unwrap_err().contains("not signed"));
            let mut wrong = monitor.says(5, |_| ());
            wrong.configuration.insert("/etc/x.conf".into(), "archive_command = 'x'".into());
            assert!(pair(&known, &wrong).unwrap_err().contains("signature is not"));
            let mut foreign = monitor.peer.clone();
            foreign.signature = Some(other.signs(&foreign, 5));
            assert!(pair(&known, &foreign).unwrap_err().contains("signature is not"));
            // A key that signs nothing could be anybody's.
            let unsigned = Peer { configuration: BTreeMap::new(), ..monitor.peer.clone() };
            assert!(pair(&known, &unsigned).unwrap_err().contains("not signed"));
            let former = monitor.clone().of_an_earlier_version();
            assert!(pair(&known, &former.says(5, |_| ())).unwrap_err().contains("no signing key"));
        }
        // A pairing of an earlier version is followed as it is, unless it was released.
        let former = monitor.clone().of_an_earlier_version();
        assert!(follow(&Known::Never, &monitor.peer).is_ok());
        assert_eq!(follow(&Known::Never, &former.says(5, |_| ())).unwrap().number, 5);
        let refused = follow(&Known::Released, &monitor.says(9, |_| ())).unwrap_err();
        assert!(refused.contains("was released"), "{refused}");
    }

    #[test]
    fn who_is_paired_changes_only_by_its_signing_key_or_the_console() {
        let (monitor, other) = (Monitor::new(1), Monitor::new(2));
        let known = paired(&monitor.says(5, |_| ()));
        let stolen = Monitor::new(1);
        // Who controls the database has PostgreSQL's key, and the network password perhaps.
        let superuser = Monitor { signing_key: monitor.certificate_key.clone(), ..monitor.clone() };
        let posing = Key::from_pem(&monitor.certificate_key).unwrap();
        let posing = Some(PublicKey::of(&posing).to_string());
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
            ("another key", stolen.says(9, |_| ()), Err("key is not the pinned one")),
            (
                "another authority beside",
                monitor.says(5, |peer| peer.certificate += &other.peer.certificate),
                Err("key is not the pinned one"),
            ),
            (
                "another role",
                Peer { user: "postgres".into(), ..monitor.says(5, |_| ()) },
                Err("role, slot or database is not"),
            ),
            ("another slot", Peer { slot: "x".into(), ..monitor.says(5, |_| ()) }, Err("role, slot")),
            ("another database", Peer { database: "x".into(), ..monitor.says(5, |_| ()) }, Err("role, slot")),
            (
                "another role, an old word",
                monitor.says(5, |peer| peer.user = "postgres".into()),
                Err("role, slot"),
            ),
            ("another role, signed", monitor.says(6, |peer| peer.user = "other".into()), Ok(6)),
            (
                "another certificate, signed",
                monitor.says(6, |peer| peer.certificate.clone_from(&stolen.peer.certificate)),
                Ok(6),
            ),
            ("another monitor", other.says(9, |_| ()), Err("is paired with monitor")),
            (
                "another monitor, signed by this one",
                { Peer { signature: Some(monitor.signs(&other.peer, 9)), ..other.peer.clone() } },
                Err("is paired with monitor"),
            ),
            // PostgreSQL's key vouches for nothing.
            ("PostgreSQL's key signs again", superuser.says(9, |_| ()), Err("signature is not")),
            (
                "PostgreSQL's key signs a configuration",
                superuser.says(9, |peer| peer.configuration.clear()),
                Err("signature is not"),
            ),
            (
                "PostgreSQL's key signs another certificate",
                superuser.says(9, |peer| peer.certificate.clone_from(&stolen.peer.certificate)),
                Err("key is not the pinned one"),
            ),
            (
                "PostgreSQL's key as signing key",
                superuser.says(9, |peer| peer.signing_key.clone_from(&posing)),
                Err("key is not the pinned one"),
            ),
            (
                "PostgreSQL's key as an earlier version",
                superuser.says(9, |peer| peer.signing_key = None),
                Err("key is not the pinned one"),
            ),
            // Without a signing key there would be none who says the next thing.
            (
                "the signing key gives itself up",
                monitor.says(9, |peer| peer.signing_key = None),
                Err("key is not the pinned one"),
            ),
        ];
        for (name, peer, expected) in table {
            match (pair(&known, &peer), expected) {
                (Ok(pin), Ok(number)) => assert_eq!(pin.number, number, "{name}"),
                (Err(refused), Err(words)) => assert!(refused.contains(words), "{name}: {refused}"),
                (got, _) => panic!("{name}: {got:?}"),
            }
        }
        // An old statement is no reason to follow no more.
        assert!(follow(&known, &monitor.says(4, |_| ())).is_ok());
        assert!(follow(&known, &stolen.says(9, |_| ())).is_err());
        assert!(follow(&known, &superuser.says(9, |peer| peer.signing_key = None)).is_err());
        // The old key hands over to a new one, which counts from then on.
        let mut handed = stolen.peer.clone();
        handed.signature = Some(monitor.signs(&handed, 7));
        let next = Known::Paired(pair(&known, &handed).unwrap());
        assert!(pair(&next, &handed).is_ok(), "said again");
        assert!(pair(&next, &stolen.says(8, |_| ())).is_ok());
        assert!(pair(&next, &monitor.says(9, |_| ())).unwrap_err().contains("key is not the pinned one"));
        handed.configuration.clear();
        handed.signature = Some(monitor.signs(&handed, 9));
        assert!(pair(&next, &handed).is_err(), "the old key has nothing to say any more");
    }

    #[test]
    fn a_pairing_of_an_earlier_version_goes_on_and_changes_by_the_console_alone() {
        let updated = Monitor::new(1);
        let monitor = updated.clone().of_an_earlier_version();
        // As such a version has it on record.
        let known = paired_before(&monitor.says(5, |_| ()));
        let mut record = serde_json::to_value(&known).unwrap();
        let pin = record["paired"].as_object_mut().unwrap();
        assert!(pin.remove("signing").is_some() && pin.remove("is_derived").is_some());
        assert_eq!(serde_json::from_value::<Known>(record).unwrap(), known);
        let moved = monitor.says(5, |peer| peer.address = "192.0.2.9".into());
        let bare = Peer { configuration: BTreeMap::new(), ..monitor.peer.clone() };
        for peer in [&moved, &bare] {
            assert_eq!(pair(&known, peer).unwrap().number, 5);
        }
        for peer in [monitor.says(6, |_| ()), monitor.says(9, |peer| peer.configuration.clear())] {
            assert!(follow(&known, &peer).is_ok());
            let refused = pair(&known, &peer).unwrap_err();
            assert!(
                refused.contains("has no signing key") && refused.contains("monitor-link setup"),
                "{refused}"
            );
        }
        // What was paired without a word of its own gets none by PostgreSQL's key.
        let silent = Known::Paired(pair(&Known::Never, &bare).unwrap());
        assert!(pair(&silent, &monitor.says(0, |_| ())).unwrap_err().contains("has no signing key"));
        let certified = monitor.says(9, |peer| peer.certificate = Monitor::new(1).peer.certificate);
        assert!(pair(&known, &certified).unwrap_err().contains("key is not the pinned one"));
        // The updated one comes in once, by the console.
        let peer = updated.says(6, |_| ());
        let refused = pair(&known, &peer).unwrap_err();
        assert!(
            refused.contains("signing key is not pinned yet") && refused.contains("accept-peer"),
            "{refused}"
        );
        let accepted = Accepted { monitor: peer.id, key: updated.fingerprint() };
        let facts = Facts { accepted: Some(&accepted), ..facts(&known) };
        let next = Known::Paired(judge(&facts, &peer, Asked::Pair).unwrap());
        assert!(pair(&next, &updated.says(7, |peer| peer.version = "2".into())).is_ok());
        assert!(
            pair(&next, &monitor.says(8, |_| ())).is_err(),
            "PostgreSQL's key has nothing to say any more"
        );
    }

    #[test]
    fn the_console_accepts_one_monitor_with_one_key() {
        let (monitor, new, other) = (Monitor::new(1), Monitor::new(1), Monitor::new(2));
        let known = paired(&monitor.says(5, |_| ()));
        let accepted = |id, key| Accepted { monitor: Uuid::from_u128(id), key };
        for (accepted, of, asked, expected) in [
            (accepted(1, new.fingerprint()), &new, Asked::Pair, true),
            (accepted(2, other.fingerprint()), &other, Asked::Pair, true),
            (accepted(1, new.fingerprint()), &new, Asked::Follow, false),
            (accepted(2, new.fingerprint()), &new, Asked::Pair, false),
            (accepted(1, other.fingerprint()), &new, Asked::Pair, false),
            (accepted(1, "rubbish".into()), &new, Asked::Pair, false),
        ] {
            let facts = Facts { accepted: Some(&accepted), ..facts(&known) };
            let judged = judge(&facts, &of.says(1, |_| ()), asked);
            assert_eq!(judged.is_ok(), expected, "{accepted:?}");
        }
        let words = pair(&known, &new.says(1, |_| ())).unwrap_err();
        assert!(
            words.contains(&format!("accept-peer --monitor {} --key {}", new.peer.id, new.fingerprint())),
            "{words}"
        );
        // The same certificate with another signing key is another monitor to people, too.
        let thief = Monitor { signing_key: new.signing_key.clone(), ..monitor.clone() };
        let mut peer = monitor.peer.clone();
        peer.signing_key.clone_from(&new.peer.signing_key);
        peer.signature = Some(thief.signs(&peer, 9));
        let words = pair(&known, &peer).unwrap_err();
        assert!(!words.contains(&monitor.fingerprint()) && !words.contains(&new.fingerprint()), "{words}");
    }

    #[test]
    fn a_number_far_ahead_of_the_clock_needs_the_console() {
        let monitor = Monitor::new(1);
        let known = paired(&monitor.says(5, |_| ()));
        let never = Known::Never;
        let far = AHEAD_MAX + 1;
        let table = [
            (&known, AHEAD_MAX, None, true),
            (&known, far, None, false),
            (&known, far, Some(far), true),
            (&known, far, Some(far + 1), false),
            (&known, u64::MAX, None, false),
            (&never, far, None, false),
            (&never, far, Some(far), true),
        ];
        let certificate = Monitor::new(1).peer.certificate;
        for (known, number, confirmed, expected) in table {
            let facts = Facts { confirmed, ..facts(known) };
            let other_certificate = |peer: &mut Peer| peer.certificate.clone_from(&certificate);
            for peer in [monitor.says(number, |_| ()), monitor.says(number, other_certificate)] {
                match judge(&facts, &peer, Asked::Pair) {
                    Ok(pin) => assert!(expected && pin.number == number, "{number}"),
                    Err(refused) => {
                        let order = format!("order confirm-peer --number {number}`");
                        assert!(!expected && refused.to_string().contains(&order), "{number}: {refused}");
                    }
                }
            }
        }
        // One that is on record is followed and may be said again; what comes after it may be too far as well.
        let beyond = Facts { confirmed: Some(far), ..facts(&known) };
        let ahead = Known::Paired(judge(&beyond, &monitor.says(far, |_| ()), Asked::Pair).unwrap());
        assert!(pair(&ahead, &monitor.says(far, |_| ())).is_ok());
        assert!(follow(&ahead, &monitor.says(far, |_| ())).is_ok());
        assert!(pair(&ahead, &monitor.says(far + 1, |_| ())).unwrap_err().contains("confirm-peer"));
        // The monitor whose clock is right again is told the way out.
        let refused = pair(&ahead, &monitor.says(6, |_| ())).unwrap_err();
        assert!(refused.contains("out of date") && refused.contains("confirm-peer --number 6`"), "{refused}");
    }

    #[test]
    fn a_lost_record_admits_nobody_but_what_this_machine_has() {
        let (monitor, other) = (Monitor::new(1), Monitor::new(2));
        let stored = [monitor.peer.id];
        let (peer, another) = (monitor.says(5, |_| ()), other.says(5, |_| ()));
        let accepted = Accepted { monitor: another.id, key: other.fingerprint() };
        // The console's word is for who pairs.
        let table = [
            (Known::Lost, &stored[..], &peer, Asked::Follow, None, Some(true)),
            (Known::Never, &stored[..], &peer, Asked::Follow, None, Some(true)),
            (Known::Never, &stored[..], &peer, Asked::Pair, None, None),
            (Known::Lost, &stored[..], &another, Asked::Follow, None, None),
            (Known::Lost, &stored[..], &another, Asked::Pair, None, None),
            (Known::Lost, &stored[..], &another, Asked::Pair, Some(&accepted), Some(false)),
            (Known::Lost, &stored[..], &another, Asked::Follow, Some(&accepted), None),
            (Known::Lost, &[][..], &peer, Asked::Follow, None, None),
            (Known::Lost, &[][..], &another, Asked::Pair, None, None),
            (Known::Lost, &[][..], &another, Asked::Pair, Some(&accepted), Some(false)),
            (Known::Never, &[][..], &another, Asked::Pair, None, Some(false)),
            // Nothing is lost.
            (Known::Released, &stored[..], &another, Asked::Pair, None, Some(false)),
        ];
        for (known, stored, peer, asked, accepted, expected) in table {
            let judged = judge(&Facts { accepted, stored, ..facts(&known) }, peer, asked);
            let case = format!("{known:?} {stored:?} {asked:?} {accepted:?}");
            match (judged, expected) {
                (Ok(pin), Some(is_derived)) => assert_eq!(pin.is_derived, is_derived, "{case}"),
                (Err(refused), None) => {
                    assert!(refused.to_string().contains("accept-peer"), "{case}: {refused}")
                }
                (other, _) => panic!("{case}: {other:?}"),
            }
        }
        // What is derived stays so, whatever it says, until the console says something.
        let derived = judge(&Facts { stored: &stored, ..facts(&Known::Lost) }, &peer, Asked::Follow).unwrap();
        assert!(Accepted { monitor: peer.id, key: monitor.fingerprint() }.is_pinned(&derived));
        assert!(!accepted.is_pinned(&derived));
        let known = Known::Paired(derived);
        assert!(pair(&known, &monitor.says(6, |_| ())).unwrap().is_derived);
        assert!(pair(&known, &monitor.says(6, |peer| peer.slot = "x".into())).unwrap().is_derived);
        assert!(pair(&known, &another).is_err());
    }

    #[test]
    fn a_backup_carries_only_what_the_monitor_vouches_for() {
        let monitor = Monitor::new(1);
        let peer = monitor.says(5, |_| ());
        let known = paired(&peer);
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
        assert!(!vouches(&Known::Lost, &request(&peer)));
        assert!(vouches(&known, &request(&monitor.says(4, |_| ()))));
        assert!(!vouches(&known, &request(&Peer { version: "2".into(), ..peer.clone() })));
        assert!(!vouches(&known, &request(&Peer { configuration: BTreeMap::new(), ..peer.clone() })));
        let superuser = Monitor { signing_key: monitor.certificate_key.clone(), ..monitor.clone() };
        assert!(!vouches(&known, &request(&superuser.says(5, |_| ()))));
        assert!(!vouches(&known, &request(&Peer { signature: None, ..peer })));
        // Of an earlier version: what was on record counts, and nothing that its key may have signed since.
        let former = Monitor::new(1).of_an_earlier_version();
        let known = paired_before(&former.says(5, |_| ()));
        assert!(vouches(&known, &request(&former.says(5, |_| ()))));
        for number in [4, 6] {
            assert!(!vouches(&known, &request(&former.says(number, |_| ()))));
        }
        let silent = Known::Paired(follow(&Known::Never, &former.peer).unwrap());
        assert!(!vouches(&silent, &request(&former.says(0, |_| ()))));
    }

    #[test]
    fn the_network_process_is_shown_what_is_known() {
        let monitor = Monitor::new(1);
        let (peer, stored) = (monitor.says(5, |_| ()), [monitor.peer.id]);
        let (monitor, key) = (peer.id, monitor.fingerprint());
        let shown = Pairing::Paired { monitor, key, has_signing_key: true, is_derived: false };
        for (known, stored, expected) in [
            (Known::Never, &[][..], Pairing::None),
            (Known::Never, &stored[..], Pairing::Lost),
            (Known::Lost, &[][..], Pairing::Lost),
            (Known::Released, &stored[..], Pairing::None),
            (paired(&peer), &stored[..], shown),
        ] {
            assert_eq!(known.shown(stored), expected, "{known:?}");
        }
    }

    #[test]
    fn a_renewed_certificate_is_the_same_monitor() {
        let monitor = Monitor::new(1);
        let known = paired(&monitor.says(5, |_| ()));
        let key = Key::from_pem(&monitor.certificate_key).unwrap();
        let renewed = key.certificate("other", SystemTime::now()).unwrap();
        assert!(pair(&known, &monitor.says(5, |peer| peer.certificate = renewed)).is_ok());
    }
}
