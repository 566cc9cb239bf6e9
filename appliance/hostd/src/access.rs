//! Who may come to the ports of the backup server: everybody, or the paired monitor alone, as the console has decided.
//!
//! The boot opens them to everybody ([`firewall::ruleset`]), before there is a network; here they are narrowed, before the
//! network-facing programs start. Which addresses the monitor has is asked whenever it is followed anew, and kept: a name
//! server that is away at the next boot locks nobody out.

use anyhow::{Context, Result, ensure};
use api::{Host, Peer};
use hostd::Access;
use provisioning::Role;
use std::net::IpAddr;
use std::path::Path;
use tokio::sync::Mutex;

use crate::decisions::Decisions;

/// Held from the look at what was decided until it is changed and in force: two that change different parts must not undo
/// each other's.
static CHANGING: Mutex<()> = Mutex::const_new(());

/// Puts it into force.
///
/// # Errors
/// nft refuses.
pub fn apply(access: &Access) -> Result<()> {
    let only = access.peer_only.then_some(access.peer.as_slice());
    firewall::apply(Path::new(firewall::NFT), &firewall::ruleset(Some(Role::BackupServer), only))
}

/// Decides it.
///
/// # Errors
/// No monitor was ever followed, so nobody could come; nft refuses; it cannot be kept.
pub async fn set(decisions: &Decisions, peer_only: bool) -> Result<()> {
    let _one_at_a_time = CHANGING.lock().await;
    let access = Access { peer_only, ..decisions.access() };
    ensure!(
        !peer_only || !access.peer.is_empty(),
        "no monitor was followed yet, so nobody could reach this server; pair one first"
    );
    apply(&access)?;
    decisions.set_access(access)
}

/// Takes note of the addresses of the monitor that is followed. What fails leaves those that were known.
pub async fn know(decisions: &Decisions, peer: &Peer) {
    let known = async {
        let host = peer.address.parse().map_err(anyhow::Error::msg)?;
        let addresses = resolve(&host).await?;
        let _one_at_a_time = CHANGING.lock().await;
        let old = decisions.access();
        if addresses == old.peer {
            return Ok(());
        }
        let access = Access { peer: addresses, ..old };
        if access.peer_only {
            apply(&access)?;
        }
        decisions.set_access(access)
    };
    if let Err(error) = known.await {
        tracing::warn!("the firewall keeps the monitor's former addresses: {error:#}");
    }
}

/// The addresses behind an address or a name, sorted.
async fn resolve(host: &Host) -> Result<Vec<IpAddr>> {
    let name = match host {
        Host::Address(address) => return Ok(vec![*address]),
        Host::Name(name) => name,
    };
    let found = tokio::net::lookup_host((name.as_str(), 0)).await;
    let mut addresses: Vec<IpAddr> =
        found.with_context(|| format!("{name} cannot be resolved"))?.map(|address| address.ip()).collect();
    addresses.sort_unstable();
    addresses.dedup();
    ensure!(!addresses.is_empty(), "{name} has no address");
    Ok(addresses)
}
