//! A machine under attack: clusters that use up their memory take nothing with them, and connections by the thousand that
//! ask nothing keep nobody out.

/// A story of ten minutes.
mod full {
    use anyhow::{Context, Result, ensure};
    use api::Verification;
    use lab::{COMMAND, Machine, scenario, wait_until};
    use scenarios::{LONG, MONITOR_ADDRESS, SERVER_ADDRESS, machines, wait_until_replayed};
    use std::time::{Duration, Instant};

    /// pgbench's scale: 15 MB each.
    const SCALE: u32 = 4;
    /// Where hostd's clusters have their control groups.
    const GROUPS: &str = "/sys/fs/cgroup/system.slice/infimonitor-hostd.service/clusters";
    /// Addresses that attack, and how many connections each of them opens: 48 of one address get through the firewall.
    const ATTACKERS: u32 = 30;
    const EACH: u32 = 40;
    /// The most memory that a daemon may take under attack, in KiB.
    const MOST: [(&str, u64); 3] = [("hostd", 48 << 10), ("backupd", 64 << 10), ("ftpd", 64 << 10)];

    #[test]
    fn no_cluster_and_no_connection_stops_the_server() -> Result<()> {
        scenario("hostile", |lab| {
            let (monitor, server, user) = machines(lab, SCALE)?;
            let id = user.pair_with(&monitor)?;
            user.wait_for_state("synchronized", LONG)?;
            let hostd = main_process(&server, "hostd")?;

            // The replica uses up its memory: it is killed as a whole, and started again.
            let group = format!("{GROUPS}/replica-{id}");
            let before = processes(&server, &group)?;
            ensure!(before.len() > 1, "the replica's processes are not in {group}: {before:?}");
            use_up_memory(&server, &group)?;
            wait_until("another replica", LONG, || {
                let now = processes(&server, &group)?;
                ensure!(!now.is_empty() && now.iter().all(|process| !before.contains(process)), "{now:?}");
                Ok(())
            })?;
            user.wait_for_state("synchronized", LONG)?;
            wait_until_replayed(&monitor, &server, &id)?;
            ensure!(main_process(&server, "hostd")? == hostd, "hostd was started again");

            // The clone of a backup: that is trouble of the machine, and says nothing about the backup.
            let backup = user.create_backup("verified with little memory")?;
            let group = format!("{GROUPS}/verification");
            wait_until("the trouble", LONG, || {
                if processes(&server, &group).is_ok_and(|processes| !processes.is_empty()) {
                    use_up_memory(&server, &group)?;
                }
                let backup = user.backup(&backup.id)?;
                ensure!(backup.verification == Verification::Pending, "{backup:?}");
                let trouble = backup.trouble.context("no trouble")?;
                println!("{}", trouble.reason);
                Ok(())
            })?;
            ensure!(main_process(&server, "hostd")? == hostd, "hostd was started again");
            user.verify_backup(&backup.id)?;
            user.wait_for_proof(&backup.id)?;

            // Connections that ask nothing, from many addresses, to both ports.
            let interface = monitor.run_ok(&format!("ip -o -4 addr show to {MONITOR_ADDRESS}"), COMMAND)?;
            let interface =
                interface.split_whitespace().nth(1).context("the link has no interface")?.to_owned();
            for number in 0..ATTACKERS {
                let address = format!("192.168.77.{}", 100 + number);
                let port = if number % 2 == 0 { 50000 } else { 2121 };
                // What is connected to has no other way than the one with this source.
                monitor.run_ok(
                    &format!(
                        "ip addr add {address}/24 dev {interface} && \
                         ip route replace {SERVER_ADDRESS}/32 dev {interface} src {address} && \
                         systemd-run --quiet --collect bash -c 'for i in $(seq {EACH}); do \
                         exec {{fd}}<>/dev/tcp/{SERVER_ADDRESS}/{port} || break; done; sleep 120' && sleep 1"
                    ),
                    COMMAND,
                )?;
            }
            for round in 0..10 {
                let asked = Instant::now();
                user.status()?;
                println!("status {round} in {:.1?}", asked.elapsed());
                ensure!(asked.elapsed() < Duration::from_secs(20), "the status took {:.1?}", asked.elapsed());
                std::thread::sleep(Duration::from_secs(2));
            }
            user.fetch_manifest(&backup.id, &lab.folder().join("manifest.json"))?;
            need_little(&server)?;
            monitor.run_ok(&format!("ip route del {SERVER_ADDRESS}/32"), COMMAND)?;
            user.wait_for_state("synchronized", LONG).map(drop)
        })
    }

    fn main_process(server: &Machine, daemon: &str) -> Result<String> {
        let said = server.run_ok(&format!("systemctl show -P MainPID infimonitor-{daemon}"), COMMAND)?;
        Ok(said.trim().to_owned())
    }

    fn processes(server: &Machine, group: &str) -> Result<Vec<String>> {
        let said = server.run_ok(&format!("cat {group}/cgroup.procs"), COMMAND)?;
        Ok(said.split_whitespace().map(str::to_owned).collect())
    }

    /// As if the group's processes needed more than it may have. hostd sets its limit again when it starts the next one.
    fn use_up_memory(server: &Machine, group: &str) -> Result<()> {
        server.run_ok(&format!("echo 1M >{group}/memory.max"), COMMAND).map(drop)
    }

    fn need_little(server: &Machine) -> Result<()> {
        for (daemon, most) in MOST {
            let process = main_process(server, daemon)?;
            let said = server.run_ok(&format!("grep VmHWM /proc/{process}/status"), COMMAND)?;
            println!("{daemon}: {said}");
            let kibibytes: u64 = said.split_whitespace().nth(1).context("no size")?.parse()?;
            ensure!(kibibytes <= most, "{daemon} took {kibibytes} KiB");
        }
        Ok(())
    }
}
