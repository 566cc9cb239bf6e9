//! `firstboot system`: what the role's services need, once the root is switched to. Runs at every boot.

use anyhow::{Context, Result, ensure};
use provisioning::Role;

use crate::places::Places;
use crate::report::{problem, say};
use crate::{boot_sector, data, provision, tls};

/// Runs the steps of the running system.
///
/// # Errors
/// `/run` cannot be written. Everything else is reported, and the boot goes on.
pub fn run(places: &Places) -> Result<()> {
    std::fs::create_dir_all(places.runtime("")).context("cannot make /run/infimonitor")?;
    let identity = provision::identity(places);
    firewall(places, identity.as_ref().ok().and_then(Option::as_ref).map(|identity| identity.role));
    let identity = match identity {
        Ok(Some(identity)) => identity,
        Ok(None) => {
            say("system", "the machine has no identity; nothing to do");
            return Ok(());
        }
        Err(error) => {
            problem(places, "provisioning-problem", &format!("{error:#}"));
            return Ok(());
        }
    };
    // Not in the initrd, which has neither zones nor keymaps.
    for (name, done) in [
        ("time-zone-problem", crate::settings::time_zone(places)),
        ("keymap-problem", crate::settings::keymap(places)),
    ] {
        if let Err(error) = done {
            problem(places, name, &format!("{error:#}"));
        }
    }
    if let Err(error) = settings(places, identity.role) {
        problem(places, "settings-problem", &format!("{error:#}"));
    }
    if identity.role != Role::Installer {
        data::ensure(places, identity.role);
        if let Err(error) = boot_sector::ensure(places) {
            problem(places, "boot-sector-problem", &format!("{error:#}. Another disk may not boot"));
        }
    }
    Ok(())
}

/// Before there is a network: nothing but the ports of the role is open, and without a role none.
fn firewall(places: &Places, role: Option<Role>) {
    match firewall::apply(&places.nft, &firewall::ruleset(role, None)) {
        Ok(()) => {
            let of = role.map_or("a machine without role", Role::name);
            say("firewall", &format!("the rules of {of} are in force"));
        }
        Err(error) => {
            problem(places, "firewall-problem", &format!("{error:#}. Every port that is listened on is open"))
        }
    }
}

/// Folders and certificate of the role; the password is made with the identity.
///
/// # Errors
/// The first step that fails.
pub fn settings(places: &Places, role: Role) -> Result<()> {
    let ids = places.ids;
    files::folder(&places.setting(""), 0o755, (ids.root, ids.root))?;
    if role != Role::BackupServer {
        return Ok(());
    }
    let shared = (ids.root, ids.infimonitor);
    for (name, mode, owner) in
        [("tls", 0o750, shared), ("auth", 0o750, shared), ("backupd", 0o700, (ids.backupd, ids.backupd))]
    {
        if files::folder(&places.setting(name), mode, owner)? {
            say("settings", &format!("made or mended the folder {name}"));
        }
    }
    tls::ensure(places)?;
    password(places)
}

/// Made with the identity; see [`provision`].
fn password(places: &Places) -> Result<()> {
    let path = places.setting("auth/password");
    let exists = path.try_exists().with_context(|| format!("cannot look for {}", path.display()))?;
    ensure!(
        exists,
        "{} is missing, so the API and FTP admit nobody; replication goes on. Write an Argon2id hash there \
         (docs/architecture.md), or provision the machine anew",
        path.display()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::places::testing::places;
    use std::collections::BTreeMap;
    use std::fs;
    use std::os::unix::fs::MetadataExt;
    use std::path::{Path, PathBuf};

    /// Everything below a folder, with what would show a change.
    fn listing(folder: &Path) -> BTreeMap<PathBuf, (u64, i64, i64, u32)> {
        let mut found = BTreeMap::new();
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let metadata = fs::symlink_metadata(&path).unwrap();
            found.insert(
                path.clone(),
                (metadata.ino(), metadata.mtime(), metadata.mtime_nsec(), metadata.mode() & 0o7777),
            );
            if metadata.is_dir() {
                found.extend(listing(&path));
            }
        }
        found
    }

    #[test]
    fn a_second_boot_changes_nothing() {
        let (_dir, places) = places();
        provision::ensure(&places).unwrap();
        settings(&places, Role::BackupServer).unwrap();
        let before = listing(&places.in_root("var"));
        let names: Vec<_> = before
            .iter()
            .map(|(path, found)| (path.strip_prefix(places.setting("")).unwrap_or(Path::new("")), found.3))
            .filter(|(path, _)| *path != Path::new(""))
            .map(|(path, mode)| format!("{mode:o} {}", path.display()))
            .collect();
        assert_eq!(
            names,
            [
                "750 auth",
                "640 auth/password",
                "700 backupd",
                "644 hostname",
                "644 identity.json",
                "644 network.json",
                "750 tls",
                "640 tls/certificate.pem",
                "640 tls/key.pem",
            ]
        );
        provision::ensure(&places).unwrap();
        settings(&places, Role::BackupServer).unwrap();
        assert_eq!(listing(&places.in_root("var")), before);
        let verifier = auth::Verifier::new(places.setting("auth/password")).unwrap();
        assert!(verifier.is_default().unwrap());
        // The default password never comes back by itself.
        fs::remove_file(places.setting("auth/password")).unwrap();
        let error = settings(&places, Role::BackupServer).unwrap_err().to_string();
        assert!(error.contains("auth/password is missing, so the API and FTP admit nobody"), "{error}");
        assert!(!places.setting("auth/password").exists());
    }

    #[test]
    fn a_monitor_has_no_server_certificate_and_no_password() {
        let (_dir, places) = places();
        settings(&places, Role::Monitor).unwrap();
        assert!(listing(&places.setting("")).is_empty());
    }

    #[test]
    fn without_identity_or_disk_the_boot_goes_on() {
        let (_dir, places) = places();
        run(&places).unwrap();
        assert!(!places.setting("tls").exists());
        provision::ensure(&places).unwrap();
        fs::write(&places.command_line, "quiet").unwrap();
        fs::write(&places.kmsg, "").unwrap();
        run(&places).unwrap();
        let problem = fs::read_to_string(places.runtime("data-problem")).unwrap();
        assert!(problem.contains("neither infimonitor.disk= nor infimonitor.root="), "{problem}");
        assert!(fs::read_to_string(&places.kmsg).unwrap().starts_with("<3>infimonitor data-problem: "));
        assert!(places.setting("tls/certificate.pem").exists());
    }
}
