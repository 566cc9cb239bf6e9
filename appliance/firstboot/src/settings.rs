//! What stored settings become at each boot: files in `/run`, and binds over the read-only `/etc` (design D3). Only
//! single files are bound: an overlay over all of `/etc` would hide what an update changes there.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use provisioning::values::{CryptHash, Keymap, TimeZone};
use provisioning::{Interface, Role, networkd};
use storage::mounts;

use crate::places::Places;
use crate::report::say;

/// The time zone's name.
pub const TIME_ZONE: &str = "time-zone";
/// NTP servers, with spaces between.
pub const NTP: &str = "ntp";
/// The console's keymap.
pub const KEYMAP: &str = "keymap";

/// What is started without a role: console and nothing that listens.
pub const NO_ROLE_TARGET: &str = "multi-user.target";

/// Links the default target.
///
/// # Errors
/// The image has no such target, or `/run` cannot be written.
pub fn target(places: &Places, name: &str) -> Result<()> {
    let unit = Path::new("usr/lib/systemd/system").join(name);
    if !places.root.join(&unit).exists() {
        bail!("this image has no {name}");
    }
    let link = places.run.join("systemd/system/default.target");
    let unit = Path::new("/").join(unit);
    if fs::read_link(&link).is_ok_and(|old| old == unit) {
        return Ok(());
    }
    files::remove(&link)?;
    let folder = link.parent().context("has no folder")?;
    fs::create_dir_all(folder)
        .and_then(|()| symlink(&unit, &link))
        .with_context(|| format!("cannot link {}", link.display()))?;
    say("target", name);
    Ok(())
}

/// Below `/run`: agetty shows it with the greeting (agetty(8), issue.d).
const ROLE_ISSUE: &str = "issue.d/05-infimonitor-role.issue";

/// Says at the consoles what the machine is: at night two of them look the same.
///
/// # Errors
/// `/run` cannot be written.
pub fn greeting(places: &Places, role: Role) -> Result<()> {
    let text = match role {
        Role::BackupServer => "  Backup server\n",
        Role::Monitor => "  Monitoring node; monitor-link restore restores it from its backup server\n",
        Role::MonitorRecovery => "  Monitoring node, to be restored from a backup\n",
        Role::Installer => return Ok(()),
    };
    let path = places.run.join(ROLE_ISSUE);
    let folder = path.parent().context("has no folder")?;
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    files::write(&path, text.as_bytes(), 0o644, None).map(drop)
}

/// Writes the network files. Without settings, or with damaged ones, every interface uses DHCP: a machine that can be
/// reached is easier to mend.
///
/// # Errors
/// `network.json` is damaged (after DHCP was set up), or `/run` cannot be written.
pub fn network(places: &Places) -> Result<()> {
    let path = places.setting("network.json");
    let text = files::read(&path)?.unwrap_or_else(|| "[]".to_owned());
    let interfaces = serde_json::from_str::<Vec<Interface>>(&text);
    for file in networkd::render(interfaces.as_deref().unwrap_or_default()) {
        files::write(&places.run.join("systemd/network").join(file.name), file.text.as_bytes(), 0o644, None)?;
    }
    let interfaces = interfaces.with_context(|| format!("{} is damaged; using DHCP", path.display()))?;
    say("network", &format!("{} interface(s) with fixed addresses, DHCP for the others", interfaces.len()));
    Ok(())
}

/// Sets the host name. systemd keeps what is set unless the image has an `/etc/hostname`, so that is covered too.
///
/// # Errors
/// `/run` cannot be written, or the kernel refuses the name.
pub fn host_name(places: &Places) -> Result<()> {
    let Some(text) = files::read(&places.setting("hostname"))? else {
        say("hostname", "is not set");
        return Ok(());
    };
    let target = places.in_root("etc/hostname");
    if target.is_file() {
        let shown = places.runtime("hostname");
        files::write(&shown, text.as_bytes(), 0o644, None)?;
        bind(&shown, &target)?;
    }
    rustix::system::sethostname(text.trim().as_bytes()).context("cannot set the host name")?;
    say("hostname", text.trim());
    Ok(())
}

/// Links what the image's `/etc/localtime` leads to; without a setting that is UTC.
///
/// # Errors
/// The setting is damaged, or `/run` cannot be written.
pub fn time_zone(places: &Places) -> Result<()> {
    let Some(text) = files::read(&places.setting(TIME_ZONE))? else { return Ok(()) };
    let zone: TimeZone = text.trim().parse().map_err(|cause: String| anyhow!("{TIME_ZONE}: {cause}"))?;
    let link = places.runtime("localtime");
    files::remove(&link)?;
    symlink(Path::new("/usr/share/zoneinfo").join(zone.to_string()), &link)
        .with_context(|| format!("cannot link {}", link.display()))?;
    say("time zone", &zone.to_string());
    Ok(())
}

/// Tells systemd-timesyncd its servers; without a setting it has those of DHCP and of the image.
///
/// # Errors
/// `/run` cannot be written.
pub fn ntp(places: &Places) -> Result<()> {
    let Some(servers) = files::read(&places.setting(NTP))? else { return Ok(()) };
    let text = format!("[Time]\nNTP={}\n", servers.trim());
    let path = places.run.join("systemd/timesyncd.conf.d/10-infimonitor.conf");
    files::write(&path, text.as_bytes(), 0o644, None)?;
    say("ntp", servers.trim());
    Ok(())
}

/// Puts the console's keymap into force.
///
/// # Errors
/// The setting is damaged, or there is no such keymap.
pub fn keymap(places: &Places) -> Result<()> {
    let Some(text) = files::read(&places.setting(KEYMAP))? else { return Ok(()) };
    let keymap: Keymap = text.trim().parse().map_err(|cause: String| anyhow!("{KEYMAP}: {cause}"))?;
    duct::cmd!(&places.loadkeys, "--quiet", keymap.to_string())
        .stdin_null()
        .run()
        .with_context(|| format!("cannot load the keymap {keymap}"))?;
    say("keymap", &keymap.to_string());
    Ok(())
}

/// Gives root the stored password at the console; without one root stays locked as in the image.
///
/// # Errors
/// The stored hash or the image's shadow file is damaged, or the bind fails. root stays locked then.
pub fn root_password(places: &Places) -> Result<()> {
    let Some(text) = files::read(&places.setting("root-password-hash"))? else {
        say("root", "has no password and is locked at the console");
        return Ok(());
    };
    let hash: CryptHash =
        text.trim().parse().map_err(|cause: String| anyhow!("root-password-hash: {cause}"))?;
    let target = places.in_root("etc/shadow");
    let image = fs::read_to_string(&target).with_context(|| format!("cannot read {}", target.display()))?;
    let shadow = shadow_with_root(&image, &hash)?;
    let shown = places.runtime("shadow");
    files::write(&shown, shadow.as_bytes(), 0o640, Some((places.ids.root, places.ids.shadow)))?;
    bind(&shown, &target)?;
    say("root", "may log in at the console with the stored password");
    Ok(())
}

/// The text of a shadow(5) file with another hash for root.
///
/// # Errors
/// There is no entry for root.
pub fn shadow_with_root(shadow: &str, hash: &CryptHash) -> Result<String> {
    let mut found = false;
    let mut lines = Vec::new();
    for line in shadow.lines() {
        let mut fields: Vec<_> = line.split(':').collect();
        if fields.len() >= 2 && fields[0] == "root" {
            fields[1] = hash.reveal();
            found = true;
        }
        lines.push(fields.join(":"));
    }
    if !found {
        bail!("the image's /etc/shadow has no entry for root");
    }
    Ok(lines.join("\n") + "\n")
}

/// Binds a file over another one, once.
///
/// # Errors
/// The target is missing in the image, or the kernel refuses.
pub fn bind(file: &Path, target: &Path) -> Result<()> {
    if !target.is_file() {
        bail!("the image has no {}, on which {} would appear", target.display(), file.display());
    }
    if mounts::at(target).context("cannot read the list of mounts")?.is_some() {
        return Ok(());
    }
    rustix::mount::mount_bind(file, target)
        .with_context(|| format!("cannot bind {} over {}", file.display(), target.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::places::testing::places;

    #[test]
    fn only_roots_hash_changes() {
        let hash: CryptHash = format!("$6$salt${}", "a".repeat(86)).parse().unwrap();
        let shadow = "root:!:20000:0:99999:7:::\nrooted:*:1::::::\ndaemon:*:20000:0:99999:7:::\n";
        let expected = shadow.replace("root:!:", &format!("root:{}:", hash.reveal()));
        assert_eq!(shadow_with_root(shadow, &hash).unwrap(), expected);
        assert!(shadow_with_root("daemon:*:20000:0:99999:7:::\n", &hash).is_err());
        assert!(shadow_with_root("", &hash).is_err());
    }

    #[test]
    fn the_target_is_linked_and_linked_anew_when_the_role_changes() {
        let (_dir, places) = places();
        let link = places.run.join("systemd/system/default.target");
        assert!(target(&places, "monitor.target").unwrap_err().to_string().contains("no monitor.target"));
        for name in ["monitor.target", NO_ROLE_TARGET, NO_ROLE_TARGET] {
            fs::write(places.in_root("usr/lib/systemd/system").join(name), "").unwrap();
            target(&places, name).unwrap();
            assert_eq!(fs::read_link(&link).unwrap(), Path::new("/usr/lib/systemd/system").join(name));
        }
    }

    #[test]
    fn network_files_follow_the_settings_and_damage_means_dhcp() {
        let (_dir, places) = places();
        let files = || {
            let mut names: Vec<_> = fs::read_dir(places.run.join("systemd/network"))
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        };
        fs::create_dir_all(places.setting("")).unwrap();
        fs::write(places.setting("network.json"), "[{").unwrap();
        assert!(format!("{:#}", network(&places).unwrap_err()).contains("network.json is damaged"));
        assert_eq!(files(), ["90-infimonitor-dhcp.network"]);
        let json = r#"[{"mac":"52:54:00:00:00:01","addresses":["10.0.0.1/8"]}]"#;
        fs::write(places.setting("network.json"), json).unwrap();
        network(&places).unwrap();
        assert_eq!(files(), ["10-infimonitor-525400000001.network", "90-infimonitor-dhcp.network"]);
    }

    #[test]
    fn time_and_keyboard_follow_the_settings() {
        let (_dir, mut places) = places();
        fs::create_dir_all(places.runtime("")).unwrap();
        places.loadkeys = "/bin/true".into();
        for set in [time_zone, ntp, keymap] {
            set(&places).unwrap();
        }
        assert!(
            !places.runtime("localtime").is_symlink()
                && !places.run.join("systemd/timesyncd.conf.d").exists()
        );
        fs::create_dir_all(places.setting("")).unwrap();
        for (name, text) in [(TIME_ZONE, "Europe/Berlin\n"), (NTP, "10.0.0.1 fd00::1\n"), (KEYMAP, "uk\n")] {
            fs::write(places.setting(name), text).unwrap();
        }
        for set in [time_zone, time_zone, ntp, keymap] {
            set(&places).unwrap();
        }
        let zone = fs::read_link(places.runtime("localtime")).unwrap();
        assert_eq!(zone, Path::new("/usr/share/zoneinfo/Europe/Berlin"));
        let ntp =
            fs::read_to_string(places.run.join("systemd/timesyncd.conf.d/10-infimonitor.conf")).unwrap();
        assert_eq!(ntp, "[Time]\nNTP=10.0.0.1 fd00::1\n");
        places.loadkeys = "/bin/false".into();
        assert!(keymap(&places).unwrap_err().to_string().contains("cannot load the keymap uk"));
        fs::write(places.setting(TIME_ZONE), "../../etc\n").unwrap();
        assert!(time_zone(&places).unwrap_err().to_string().contains("is no time zone"));
    }

    #[test]
    fn the_greeting_says_what_the_machine_is() {
        let (_dir, places) = places();
        for (role, expected) in
            [(Role::BackupServer, "Backup server"), (Role::Monitor, "monitor-link restore")]
        {
            greeting(&places, role).unwrap();
            assert!(fs::read_to_string(places.run.join(ROLE_ISSUE)).unwrap().contains(expected));
        }
    }
}
