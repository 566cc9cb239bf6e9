//! Which ports answer, seen from a second machine on the same network: exactly those of the table in
//! docs/architecture/network.md, IPv4 and IPv6, TCP and UDP.

/// Two machines and all ports twice over.
mod full {
    use anyhow::{Result, ensure};
    use lab::{COMMAND, Machine, scenario, wait_until};
    use scenarios::{LONG, MONITOR_ADDRESS, SERVER_ADDRESS, User, backup_server_with, monitor_with};
    use std::collections::BTreeSet;
    use std::path::Path;

    /// The scanner on the machines.
    const SCAN: &str = "/run/scan";

    /// Gives a machine the scanner, which is a disk of it.
    fn with_scanner(machine: &Machine) -> Result<()> {
        let script =
            format!("mount -o remount,exec /run; cat /dev/disk/by-id/virtio-scan >{SCAN}; chmod 755 {SCAN}");
        machine.run_ok(&script, COMMAND).map(drop)
    }

    /// The ports of `address` that answer, as `from` sees them.
    fn scanned(from: &Machine, protocol: &str, address: &str) -> Result<BTreeSet<String>> {
        let said = from.run_ok(&format!("ulimit -n 8192; {SCAN} {protocol} {address}"), LONG)?;
        Ok(said.lines().map(str::to_owned).collect())
    }

    fn ports(open: &[(u16, u16)], word: &str) -> BTreeSet<String> {
        open.iter().flat_map(|(first, last)| *first..=*last).map(|port| format!("{port} {word}")).collect()
    }

    /// The address of a machine's link in the network that both have.
    fn ipv6(machine: &Machine, address: &str) -> Result<()> {
        let device = machine.run_ok(
            &format!("ip -o address show to {} | awk '{{print $2}}'", address_of(address)),
            COMMAND,
        )?;
        machine
            .run_ok(&format!("ip address add {} dev {} nodad", v6(address), device.trim()), COMMAND)
            .map(drop)
    }

    fn address_of(address: &str) -> String {
        format!("{address}/32")
    }

    /// An IPv6 address beside the IPv4 one.
    fn v6(address: &str) -> String {
        let last = address.rsplit('.').next().unwrap_or_default();
        format!("fd77::{last}/64")
    }

    #[test]
    fn from_outside_only_the_table_answers() -> Result<()> {
        scenario("ports", |lab| {
            let (at_monitor, at_server) = lab.link("network");
            let program = Path::new(env!("CARGO_BIN_EXE_scan"));
            let monitor = monitor_with(lab, at_monitor, |builder| builder.image("scan", program))?;
            let server = backup_server_with(lab, at_server, |builder| builder.image("scan", program))?;
            let user = User::of(&server)?;
            user.wait_for_api()?;
            for (machine, address) in [(&monitor, MONITOR_ADDRESS), (&server, SERVER_ADDRESS)] {
                wait_until("the network", COMMAND, || ipv6(machine, address))?;
                with_scanner(machine)?;
            }
            let bare = |address: &str| v6(address).trim_end_matches("/64").to_owned();
            // Nobody listens on a passive port before a transfer, and on the web page's not yet: they refuse.
            let mut server_tcp = ports(&[(2121, 2121), (50000, 50000)], "open");
            server_tcp.extend(ports(&[(30000, 30009)], "closed"));
            let monitor_tcp = ports(&[(443, 443)], "closed");
            for (from, address, expected) in
                [(&monitor, SERVER_ADDRESS, &server_tcp), (&server, MONITOR_ADDRESS, &monitor_tcp)]
            {
                for address in [address.to_owned(), bare(address)] {
                    let found = scanned(from, "tcp", &address)?;
                    println!("tcp {address}: {found:?}");
                    ensure!(found == *expected, "{address}: {found:?} and not {expected:?}");
                    let found = scanned(from, "udp", &address)?;
                    println!("udp {address}: {found:?}");
                    ensure!(found.is_empty(), "{address}: UDP {found:?}");
                }
            }
            Ok(())
        })
    }
}
