//! The disk boots to an answering API, and a second boot changes nothing.

use lab::{COMMAND, Machine, SHUTDOWN, scenario};
use scenarios::{User, backup_server};

/// What a boot must leave as it is: identity, keys, file systems.
const FINGERPRINT: &str = "cat /etc/machine-id /var/lib/infimonitor/identity.json /var/lib/infimonitor/tls/* \
    /var/lib/infimonitor/auth/password; blkid -s UUID -o value /dev/disk/by-partlabel/state /dev/disk/by-partlabel/data";

fn fingerprint(machine: &Machine) -> anyhow::Result<String> {
    machine.run_ok(FINGERPRINT, COMMAND)
}

#[test]
fn the_disk_boots_to_an_answering_api_and_a_second_boot_changes_nothing() -> anyhow::Result<()> {
    scenario("boot", |lab| {
        let (end, _) = lab.link("nobody-else");
        let server = backup_server(lab, end)?;
        let user = User::of(&server)?;
        let started = std::time::Instant::now();
        let status = user.wait_for_api()?;
        println!("API answers after {:.0?}", started.elapsed());
        assert_eq!(status.state.name(), "not-connected");
        assert!(
            status
                .checks
                .iter()
                .any(|check| check.name == "default-password" && check.level == api::Level::Warn)
        );
        assert!(status.space.is_some_and(|space| space.total > 10_000_000_000), "{status:?}");

        let wrong =
            server.client(lab::API_PORT)?.login("backup", "wrong").https("GET", "/v1/status", None)?;
        assert_eq!(wrong.code, 401);
        let wrong = server.client(lab::FTP_PORT)?.login("backup", "wrong").ftps("/", None, false)?;
        assert_eq!(wrong.code, 530);

        let first = fingerprint(&server)?;
        server.shutdown(SHUTDOWN)?;
        server.boot_again()?;
        user.wait_for_api()?;
        assert_eq!(fingerprint(&server)?, first);
        let failed = server.run_ok("systemctl --failed --no-legend --plain", COMMAND)?;
        assert_eq!(failed.trim(), "");
        Ok(())
    })
}
