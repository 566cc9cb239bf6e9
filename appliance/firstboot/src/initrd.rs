//! `firstboot initrd`: from the mounted root to a machine that knows who it is.

use anyhow::{Context, Result};
use provisioning::{Identity, Role};

use crate::places::Places;
use crate::report::problem;
use crate::{machine_id, medium, provision, settings, state};

/// Runs the steps of the initrd.
///
/// # Errors
/// Only if nothing at all can be mounted as `/var`; everything else is reported and the boot goes on.
pub fn run(places: &Places) -> Result<()> {
    std::fs::create_dir_all(places.runtime("")).context("cannot make /run/infimonitor")?;
    if medium::booted(places)?.is_some() {
        return installer(places);
    }
    let has_state = state::mount(places)?;
    let identity = machine(places, has_state);
    let target = match &identity {
        Some(identity) => format!("{}.target", identity.role.name()),
        None => settings::NO_ROLE_TARGET.to_owned(),
    };
    note(places, "role-problem", settings::target(places, &target));
    if let Some(identity) = &identity {
        note(places, "greeting-problem", settings::greeting(places, identity.role));
        note(places, "hostname-problem", settings::host_name(places));
        note(places, "root-password-problem", settings::root_password(places));
        note(places, "ntp-problem", settings::ntp(places));
    }
    note(places, "network-problem", settings::network(places));
    Ok(())
}

/// Of the installation medium: nothing of the machine's disks is touched, and nothing is kept.
fn installer(places: &Places) -> Result<()> {
    state::in_memory(places)?;
    let id =
        machine_id::ensure(places).and_then(|file| settings::bind(&file, &places.in_root("etc/machine-id")));
    note(places, "machine-id-problem", id);
    let target = format!("{}.target", Role::Installer.name());
    note(places, "role-problem", settings::target(places, &target));
    note(places, "network-problem", settings::network(places));
    Ok(())
}

/// The machine's id and identity. Without *state* there is no identity: answers are not taken again then, since a
/// machine whose settings cannot be read is not a new one.
fn machine(places: &Places, has_state: bool) -> Option<Identity> {
    let id =
        machine_id::ensure(places).and_then(|file| settings::bind(&file, &places.in_root("etc/machine-id")));
    note(places, "machine-id-problem", id);
    if !has_state {
        return None;
    }
    match provision::ensure(places) {
        Ok(identity) => Some(identity),
        Err(error) => {
            problem(places, provision::PROBLEM, &format!("{error:#}"));
            None
        }
    }
}

fn note(places: &Places, name: &str, result: Result<()>) {
    if let Err(error) = result {
        problem(places, name, &format!("{error:#}"));
    }
}
