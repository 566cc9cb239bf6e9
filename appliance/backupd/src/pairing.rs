//! What the paired monitor may change of itself with the network password: whatever its key vouches for.
//!
//! Whether it is the paired monitor at all is decided by the privileged process; here is what depends on what
//! is stored, and on who answers.

use crate::monitor::{Monitor, Trouble};
use api::{Peer, Signature};
use auth::pin::Keys;

/// Whether `new` is the monitor that is paired, with the key that is paired.
pub fn is_same(paired: &Peer, new: &Peer) -> bool {
    paired.id == new.id && Keys::of_pem(&paired.certificate) == Keys::of_pem(&new.certificate)
}

/// The signature that stays with `new`, which hostd has found to be the monitor's where there is one.
///
/// # Errors
/// What a restore goes by is other than before, and the monitor has not signed it since.
pub fn signature(paired: &Peer, new: &Peer) -> Result<Option<Signature>, String> {
    let number = |peer: &Peer| peer.signature.as_ref().map(|signature| signature.number);
    let is_newer = number(new) > number(paired);
    let stated = |peer: &Peer| {
        let Peer { version, user, slot, database, configuration, .. } = peer.clone();
        (version, user, slot, database, configuration)
    };
    if stated(paired) == stated(new) {
        let newest = if is_newer { new } else { paired };
        return Ok(newest.signature.clone());
    }
    if is_newer {
        return Ok(new.signature.clone());
    }
    Err("the monitor's version or configuration files are other than before and not signed anew with its key; run \
         `monitor-link setup` there and pair with all that it prints"
        .into())
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
        Peer {
            id: Uuid::from_u128(1),
            version: "1".into(),
            address: "192.0.2.1".into(),
            port: 50001,
            user: "backup_server".into(),
            password: Secret::new("x"),
            slot: "backup_server".into(),
            database: "postgres".into(),
            certificate: String::new(),
            configuration: BTreeMap::from([("/etc/pg_hba.conf".into(), "local\n".into())]),
            signature: number.map(|number| Signature { number, value: format!("of {number}") }),
        }
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
}
