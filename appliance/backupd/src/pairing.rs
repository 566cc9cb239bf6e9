//! What the paired monitor may change of itself with the network password: what its signing key vouches for.
//!
//! Whether it is the paired monitor at all, and whether its statement is right and not out of date, is decided by the
//! privileged process; here is what depends on what is stored, and on who answers. And the check `pairing`.

use crate::monitor::{Monitor, Trouble};
use crate::status::sentence;
use api::{Check, Level, Peer, Signature};
use auth::pin::Identity;
use hostd::{PROGRAM, Pairing};

/// Whether `new` is the monitor that is paired, with the keys that are paired.
pub fn is_same(paired: &Peer, new: &Peer) -> bool {
    paired.id == new.id && Identity::of(paired) == Identity::of(new)
}

/// The signature that stays with `new`, which hostd has found to be the monitor's, and not out of date, where there is one.
///
/// # Errors
/// What a restore goes by is other than before, and the monitor has not signed it since.
pub fn signature(paired: &Peer, new: &Peer) -> Result<Option<Signature>, String> {
    let number = |peer: &Peer| peer.signature.as_ref().map(|signature| signature.number);
    let stated = |peer: &Peer| {
        let Peer { version, user, slot, database, configuration, .. } = peer.clone();
        (version, user, slot, database, configuration)
    };
    if stated(paired) == stated(new) {
        let newest = if number(new) > number(paired) { new } else { paired };
        return Ok(newest.signature.clone());
    }
    // The console may have set the number back.
    if new.signature.is_some() && number(new) != number(paired) {
        return Ok(new.signature.clone());
    }
    Err("the monitor's version or configuration files have changed and are not signed anew. Run `monitor-link setup` there \
         and pair with all that it prints"
        .into())
}

/// What is known of the pairing, where hostd was asked.
pub type Known = Option<Result<Pairing, String>>;

/// Check `pairing`: who is followed is on record, and may say something new of itself.
pub fn check(known: &Known, peer: Option<&Peer>) -> Check {
    let warn = |message: String| (Level::Warn, message);
    let accept = |monitor, key| {
        format!("`{PROGRAM} order accept-peer --monitor {monitor} --key {key}` at this server's console")
    };
    let (level, message) = match known {
        None => (Level::Ok, "The pairing was not looked at yet.".into()),
        Some(Err(error)) => warn(format!("It is not known which monitor is paired: {}", sentence(error))),
        Some(Ok(Pairing::Lost)) => (
            Level::Fail,
            format!(
                "The record of the paired monitor is lost, so no new monitor is admitted. Pair the monitor again and accept its \
                 key: `{PROGRAM} order accept-peer` at this server's console."
            ),
        ),
        Some(Ok(Pairing::None)) => (Level::Ok, "No monitor is paired.".into()),
        Some(Ok(Pairing::Paired { monitor, key, is_derived: true, .. })) => (
            Level::Fail,
            format!(
                "The record of the paired monitor was lost. Monitor {monitor} is followed as before, and no other one is admitted. \
                 Compare its key with what `monitor-link setup` shows there, and confirm it: {}.",
                accept(monitor, key)
            ),
        ),
        Some(Ok(Pairing::Paired { has_signing_key: false, .. })) => warn(format!(
            "The monitor was paired without a signing key: it is followed, but changes of its version and configuration files \
             are refused{}. Run `monitor-link setup` of this version there, pair with what it prints, and accept its key once: \
             `{PROGRAM} order accept-peer` at this server's console.",
            if peer.is_some_and(is_unsigned) { ", and backups are made without these files" } else { "" }
        )),
        Some(Ok(Pairing::Paired { .. })) if peer.is_some_and(is_unsigned) => warn(
            "The monitor's configuration files are not signed, so backups are made without them. Run `monitor-link setup` \
             there and pair again."
                .into(),
        ),
        Some(Ok(Pairing::Paired { .. })) => {
            (Level::Ok, "The monitor is known by its keys.".into())
        }
    };
    Check { name: "pairing".into(), level, message }
}

/// Whether it has configuration files that it has not signed.
fn is_unsigned(peer: &Peer) -> bool {
    peer.signature.is_none() && !peer.configuration.is_empty()
}

/// Whether the paired key answers where `new` says that the monitor is now, and takes its password.
///
/// # Errors
/// It does not: as a sentence without full stop.
pub async fn answers(paired: &Peer, new: &Peer) -> Result<(), String> {
    match Monitor::connect(new).await {
        Ok(_) => Ok(()),
        Err(Trouble::Unreachable(why) | Trouble::Refuses(why) | Trouble::OtherMajor(why)) => Err(format!(
            "the pairing with the monitor at {} stays as it is, since the paired monitor does not answer at the new place: \
             {why}",
            paired.info().endpoint()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::Secret;
    use std::collections::BTreeMap;
    use uuid::Uuid;

    fn peer(number: Option<u64>) -> Peer {
        let signature = number.map(|number| Signature { number, value: format!("of {number}") });
        Peer { signature, ..api::testing::peer() }
    }

    #[test]
    fn what_a_restore_goes_by_changes_only_with_a_newer_signature() {
        let moved = |number| Peer { address: "192.0.2.2".into(), password: Secret::new("y"), ..peer(number) };
        let updated = |number| Peer { version: "2".into(), ..peer(number) };
        let bare = |number| Peer { configuration: BTreeMap::new(), ..peer(number) };
        let table = [
            (peer(Some(5)), moved(None), Ok(Some(5))),
            (peer(Some(5)), moved(Some(4)), Ok(Some(5))),
            (peer(Some(5)), moved(Some(6)), Ok(Some(6))),
            (peer(None), moved(None), Ok(None)),
            (peer(None), moved(Some(1)), Ok(Some(1))),
            (peer(Some(5)), updated(Some(6)), Ok(Some(6))),
            (peer(Some(5)), updated(Some(4)), Ok(Some(4))),
            (peer(Some(5)), updated(Some(5)), Err(())),
            (peer(Some(5)), updated(None), Err(())),
            (peer(Some(5)), bare(None), Err(())),
            (peer(None), updated(None), Err(())),
            (peer(None), updated(Some(1)), Ok(Some(1))),
        ];
        for (paired, new, expected) in table {
            let stays = signature(&paired, &new).map(|stays| stays.map(|signature| signature.number));
            assert_eq!(stays.map_err(drop), expected, "{new:?}");
        }
    }

    #[test]
    fn another_certificate_or_signing_key_is_another_monitor() {
        let (monitor, other) = (auth::testing::Monitor::new(1).peer, auth::testing::Monitor::new(1).peer);
        let changed = |change: fn(&mut Peer, Peer)| {
            let mut peer = monitor.clone();
            change(&mut peer, other.clone());
            peer
        };
        for (new, expected) in [
            (changed(|peer, _| peer.address = "192.0.2.9".into()), true),
            (changed(|peer, _| peer.version = "2".into()), true),
            (changed(|peer, other| peer.certificate = other.certificate), false),
            (changed(|peer, other| peer.signing_key = other.signing_key), false),
            (changed(|peer, _| peer.signing_key = None), false),
            (changed(|peer, _| peer.id = Uuid::from_u128(2)), false),
        ] {
            assert_eq!(is_same(&monitor, &new), expected, "{new:?}");
        }
    }

    #[test]
    fn what_needs_the_console_is_a_check_with_the_order() {
        let shown = |has_signing_key, is_derived| {
            let (monitor, key) = (Uuid::from_u128(1), "sha256//x".into());
            Some(Ok(Pairing::Paired { monitor, key, has_signing_key, is_derived }))
        };
        let confirm = "order accept-peer --monitor 00000000-0000-0000-0000-000000000001 --key sha256//x`";
        for (known, number, level, part) in [
            (None, None, Level::Ok, "not looked at"),
            (Some(Err("no answer".into())), Some(5), Level::Warn, "is paired: No answer."),
            (Some(Ok(Pairing::None)), None, Level::Ok, "No monitor is paired."),
            (Some(Ok(Pairing::Lost)), Some(5), Level::Fail, "order accept-peer`"),
            (shown(true, true), Some(5), Level::Fail, confirm),
            (shown(false, true), Some(5), Level::Fail, confirm),
            (shown(false, false), Some(5), Level::Warn, "files are refused. Run"),
            (shown(false, false), None, Level::Warn, "made without these files"),
            (shown(true, false), None, Level::Warn, "made without them"),
            (shown(true, false), Some(5), Level::Ok, "known by its keys"),
        ] {
            let check = check(&known, Some(&peer(number)));
            assert_eq!(check.level, level, "{check:?}");
            assert!(check.message.contains(part), "{check:?}");
        }
    }
}
