//! The disk boots to an answering API by every firmware, and a further boot, by whichever, changes nothing.

use lab::{COMMAND, Firmware, Machine, SHUTDOWN, scenario};
use scenarios::{User, backup_server};
use std::time::Instant;

/// What a boot must leave as it is: identity, keys, file systems.
const FINGERPRINT: &str = "cat /etc/machine-id /var/lib/infimonitor/identity.json /var/lib/infimonitor/tls/* \
    /var/lib/infimonitor/auth/password; blkid -s UUID -o value /dev/disk/by-partlabel/state /dev/disk/by-partlabel/data";

fn fingerprint(machine: &Machine) -> anyhow::Result<String> {
    machine.run_ok(FINGERPRINT, COMMAND)
}

#[test]
fn the_disk_boots_to_an_answering_api_by_every_firmware_and_changes_nothing_twice() -> anyhow::Result<()> {
    scenario("boot", |lab| {
        let (end, _) = lab.link("nobody-else");
        let started = Instant::now();
        let server = backup_server(lab, end)?;
        let user = User::of(&server)?;
        let status = user.wait_for_api()?;
        println!("UEFI, first boot: the API answers after {:.0?}", started.elapsed());
        assert_eq!(status.state.name(), "not-connected");
        assert!(
            status
                .checks
                .iter()
                .any(|check| check.name == "default-password" && check.level == api::Level::Warn)
        );
        assert!(status.space.is_some_and(|space| space.total > 10_000_000_000), "{status:?}");

        let wrong =
            server.client(lab::CONTROL_PORT)?.login("backup", "wrong").https("GET", "/v1/status", None)?;
        assert_eq!(wrong.code, 401);
        let wrong = server.client(lab::FTP_PORT)?.login("backup", "wrong").ftps("/", None, false)?;
        assert_eq!(wrong.code, 530);

        let first = fingerprint(&server)?;
        for (firmware, secure_boot) in [(Firmware::SeaBios, false), (Firmware::OvmfSecureBoot, true)] {
            server.shutdown(SHUTDOWN)?;
            let started = Instant::now();
            server.boot_with(firmware)?;
            user.wait_for_api()?;
            println!("{firmware:?}: the API answers after {:.0?}", started.elapsed());
            assert_eq!(fingerprint(&server)?, first, "{firmware:?}");
            let messages = server.run_ok("journalctl --boot --no-pager _TRANSPORT=kernel", COMMAND)?;
            assert_eq!(messages.contains("Secure boot enabled"), secure_boot, "{firmware:?}");
            let failed = server.run_ok("systemctl --failed --no-legend --plain", COMMAND)?;
            assert_eq!(failed.trim(), "", "{firmware:?}");
        }
        Ok(())
    })
}
