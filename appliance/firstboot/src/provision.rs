//! Becoming somebody: answers are taken once, while `identity.json` is absent (design D15).

use std::fs;

use anyhow::{Context, Result};
use auth::{DEFAULT_PASSWORD, hash_password, write_password_file};
use jiff::Timestamp;
use provisioning::answers::FILE as ANSWERS;
use provisioning::{Answers, Identity, Role};
use uuid::Uuid;

use crate::places::Places;
use crate::report::say;
use crate::{ovf, settings};

/// Name of the file that says why there are no answers, or none that could be taken.
pub const PROBLEM: &str = "provisioning-problem";
/// The firmware's table is a few KiB; this bounds what a strange hypervisor may hand over, in bytes.
const TABLE_BYTES: usize = 1 << 20;

/// The machine's identity: the one it has, or the one it gets now. After an error it stays unprovisioned, and the next boot
/// tries again.
///
/// # Errors
/// The identity or the answers cannot be understood, or *state* cannot be written.
pub fn ensure(places: &Places) -> Result<Identity> {
    if let Some(identity) = identity(places)? {
        say("identity", &format!("is there: role {}, id {}", identity.role.name(), identity.id));
        files::remove(&places.setting(ANSWERS))?;
        return Ok(identity);
    }
    let (answers, whose) = match (installers(places)?, smbios(places)) {
        // Whoever installed the machine has answered for it.
        (Some(answers), _) => (answers, "the installer's answers"),
        (None, answers) => match answers? {
            Some(answers) => (answers, "answers in SMBIOS"),
            None => match ovf::find(places)? {
                Some(answers) => (answers, "answers of the import (OVF)"),
                None => (Answers::unattended_default(), "no answers"),
            },
        },
    };
    say("identity", &format!("is missing; {whose}: role {}", answers.role.name()));
    let identity = apply(places, &answers)?;
    files::remove(&places.setting(ANSWERS))?;
    Ok(identity)
}

/// What the installer left.
fn installers(places: &Places) -> Result<Option<Answers>> {
    let path = places.setting(ANSWERS);
    let text = files::read(&path)?;
    let answers = text.map(|text| Answers::from_yaml(&text)).transpose();
    answers.with_context(|| format!("{} is wrong; install anew", path.display()))
}

/// The identity that is stored.
///
/// # Errors
/// It is there and cannot be read or understood.
pub fn identity(places: &Places) -> Result<Option<Identity>> {
    let path = places.in_root(provisioning::identity::PATH);
    let Some(text) = files::read(&path)? else { return Ok(None) };
    let identity = serde_json::from_str(&text)
        .with_context(|| format!("{} is damaged; restore it or install anew", path.display()))?;
    Ok(Some(identity))
}

fn smbios(places: &Places) -> Result<Option<Answers>> {
    let table = match fs::read(&places.smbios) {
        Ok(table) => table,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(error).with_context(|| format!("cannot read {}", places.smbios.display()));
        }
    };
    let table = &table[..table.len().min(TABLE_BYTES)];
    provisioning::smbios::answers_in_table(table)
        .context("the provisioning data is wrong; the machine stays unprovisioned until it is mended")
}

/// Stores what the answers say, the identity last. What an earlier, interrupted attempt left behind and these answers
/// do not name is removed: they may have been changed in between.
fn apply(places: &Places, answers: &Answers) -> Result<Identity> {
    let root = (places.ids.root, places.ids.root);
    let network = serde_json::to_vec_pretty(&answers.network).context("cannot write network settings")?;
    files::write(&places.setting("network.json"), &network, 0o644, Some(root))?;
    let host_name =
        answers.hostname.as_ref().map_or_else(|| answers.role.name().to_owned(), ToString::to_string);
    files::write(&places.setting("hostname"), format!("{host_name}\n").as_bytes(), 0o644, Some(root))?;
    let time_zone = answers.time_zone.as_ref().map(ToString::to_string);
    let ntp: Vec<_> = answers.ntp.iter().map(ToString::to_string).collect();
    let ntp = (!ntp.is_empty()).then(|| ntp.join(" "));
    let keymap = answers.keymap.as_ref().map(ToString::to_string);
    for (name, text) in [(settings::TIME_ZONE, time_zone), (settings::NTP, ntp), (settings::KEYMAP, keymap)] {
        match text {
            Some(text) => {
                files::write(&places.setting(name), format!("{text}\n").as_bytes(), 0o644, Some(root))?
            }
            None => files::remove(&places.setting(name))?,
        };
    }
    let root_hash = places.setting("root-password-hash");
    match &answers.root_password_hash {
        Some(hash) => {
            files::write(&root_hash, format!("{}\n", hash.reveal()).as_bytes(), 0o600, Some(root))?;
        }
        None => {
            files::remove(&root_hash)?;
        }
    }
    password(places, answers)?;
    let identity = Identity { id: Uuid::new_v4(), role: answers.role, provisioned: Timestamp::now() };
    let text = serde_json::to_vec_pretty(&identity).context("cannot write the identity")?;
    files::write(&places.in_root(provisioning::identity::PATH), &text, 0o644, Some(root))?;
    say("identity", &format!("made: role {}, id {}", identity.role.name(), identity.id));
    Ok(identity)
}

/// The password of the API and of FTP, the default one unless another was given. Only here: a password file that
/// vanishes later admits nobody, instead of everybody who knows the default.
fn password(places: &Places, answers: &Answers) -> Result<()> {
    let path = places.setting("auth/password");
    let hash = match (&answers.password_hash, answers.role) {
        (Some(hash), _) => hash.reveal().to_owned(),
        (None, Role::BackupServer) => hash_password(DEFAULT_PASSWORD)?,
        (None, _) => return files::remove(&path).map(drop),
    };
    let shared = (places.ids.root, places.ids.infimonitor);
    files::folder(&places.setting("auth"), 0o750, shared)?;
    Ok(write_password_file(&path, &hash, Some(shared))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::places::testing::places;
    use provisioning::smbios;
    use std::os::unix::fs::MetadataExt;

    const ARGON: &str =
        "$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHRzYWx0$4GdCtpBqB9FCbZnRSQnVaZ4fnTcQ5iKTbs1UcGKwyxs";

    fn table(yaml: &str) -> Vec<u8> {
        let answers = Answers::from_yaml(yaml).unwrap();
        let mut bytes = vec![11, 5, 0, 0, 1];
        bytes.extend(smbios::to_oem_string(&answers).unwrap().bytes());
        bytes.extend([0, 0, 127, 4, 0, 0, 0, 0]);
        bytes
    }

    fn has_default_password(places: &Places) -> bool {
        auth::Verifier::new(places.setting("auth/password")).unwrap().is_default().unwrap()
    }

    #[test]
    fn without_answers_the_machine_becomes_a_backup_server() {
        let (_dir, places) = places();
        let identity = ensure(&places).unwrap();
        assert_eq!(identity.role, Role::BackupServer);
        assert_eq!(ensure(&places).unwrap(), identity);
        assert_eq!(fs::read_to_string(places.setting("hostname")).unwrap(), "backup-server\n");
        assert_eq!(fs::read_to_string(places.setting("network.json")).unwrap(), "[]");
        assert!(!places.setting("root-password-hash").exists());
        assert!(has_default_password(&places));
    }

    #[test]
    fn answers_are_stored_and_taken_only_once() {
        let (_dir, places) = places();
        let hash = format!("$6$salt${}", "a".repeat(86));
        let yaml = format!(
            "role: monitor\nhostname: m1\nnetwork:\n  - mac: 52:54:00:00:00:01\n    addresses: [10.0.0.1/8]\n\
             time_zone: Europe/Berlin\nntp: [10.0.0.1, fd00::1]\nkeymap: uk\n\
             root_password_hash: {hash}\npassword_hash: {ARGON}\n"
        );
        fs::write(&places.smbios, table(&yaml)).unwrap();
        let identity = ensure(&places).unwrap();
        assert_eq!(identity.role, Role::Monitor);
        assert_eq!(fs::read_to_string(places.setting("hostname")).unwrap(), "m1\n");
        assert!(fs::read_to_string(places.setting("network.json")).unwrap().contains("10.0.0.1/8"));
        assert_eq!(fs::read_to_string(places.setting("root-password-hash")).unwrap(), format!("{hash}\n"));
        for (name, text) in [
            (settings::TIME_ZONE, "Europe/Berlin\n"),
            (settings::NTP, "10.0.0.1 fd00::1\n"),
            (settings::KEYMAP, "uk\n"),
        ] {
            assert_eq!(fs::read_to_string(places.setting(name)).unwrap(), text);
        }
        assert_eq!(fs::metadata(places.setting("root-password-hash")).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read_to_string(places.setting("auth/password")).unwrap(), format!("{ARGON}\n"));
        fs::write(&places.smbios, table("role: backup-server\nhostname: other")).unwrap();
        assert_eq!(ensure(&places).unwrap(), identity);
        assert_eq!(fs::read_to_string(places.setting("hostname")).unwrap(), "m1\n");
    }

    #[test]
    fn wrong_answers_leave_the_machine_unprovisioned_until_they_are_mended() {
        let (_dir, places) = places();
        let text = format!("{}cm9sZTogbWFpbmZyYW1l", smbios::PREFIX); // role: mainframe
        fs::write(&places.smbios, [&[11, 5, 0, 0, 1], text.as_bytes(), &[0, 0]].concat()).unwrap();
        let error = format!("{:#}", ensure(&places).unwrap_err());
        assert!(error.contains("answers: role, line 1: unknown variant `mainframe`"), "{error}");
        assert!(!places.setting("hostname").exists() && identity(&places).unwrap().is_none());
        fs::write(&places.smbios, table("role: monitor")).unwrap();
        assert_eq!(ensure(&places).unwrap().role, Role::Monitor);
    }

    #[test]
    fn a_cut_before_the_identity_is_finished_by_the_next_boot() {
        let (_dir, places) = places();
        let yaml = format!("role: monitor\nhostname: first\nkeymap: uk\npassword_hash: {ARGON}\n");
        fs::write(&places.smbios, table(&yaml)).unwrap();
        ensure(&places).unwrap();
        // as if the power had gone just before the last write
        fs::remove_file(places.in_root(provisioning::identity::PATH)).unwrap();
        fs::write(&places.smbios, table("role: backup-server\nhostname: second")).unwrap();
        assert_eq!(ensure(&places).unwrap().role, Role::BackupServer);
        assert_eq!(fs::read_to_string(places.setting("hostname")).unwrap(), "second\n");
        assert!(!places.setting(settings::KEYMAP).exists());
        assert!(has_default_password(&places), "a password of the first attempt stayed");
    }

    #[test]
    fn what_the_installer_left_goes_before_smbios_and_is_gone_afterwards() {
        let (_dir, places) = places();
        fs::write(&places.smbios, table("role: backup-server\nhostname: other")).unwrap();
        fs::create_dir_all(places.setting("")).unwrap();
        fs::write(places.setting(ANSWERS), "role: monitor\nhostname: m1\ninstall: {}\n").unwrap();
        assert_eq!(ensure(&places).unwrap().role, Role::Monitor);
        assert_eq!(fs::read_to_string(places.setting("hostname")).unwrap(), "m1\n");
        assert!(!places.setting(ANSWERS).exists());
    }

    #[test]
    fn a_damaged_identity_is_never_replaced() {
        let (_dir, places) = places();
        ensure(&places).unwrap();
        let path = places.in_root(provisioning::identity::PATH);
        fs::write(&path, "{").unwrap();
        assert!(format!("{:#}", ensure(&places).unwrap_err()).contains("identity.json is damaged"));
        assert_eq!(fs::read_to_string(&path).unwrap(), "{");
    }
}
