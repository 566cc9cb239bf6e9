//! The way back: a monitor is lost, and a new node takes its place from the backup server, whatever happens on the way.

/// A story of twelve minutes; the way without obstacles is in protect.rs.
mod full {
    use anyhow::{Context, Result, ensure};
    use api::Fingerprint;
    use lab::{BOOT, COMMAND, Machine, scenario, wait_until};
    use scenarios::{
        LONG, SERVER_ADDRESS, checksum_sql, machines, node_to_restore, page, pgbench, sql,
        wait_until_replayed,
    };
    use std::time::{Duration, Instant};

    /// pgbench's scale: 15 MB each.
    const SCALE: u32 = 16;
    /// What has to change before anything of the machine has: the live database and what lies beside it.
    const UNCHANGED: &str =
        "ls -A /data/postgresql/17; runuser -u postgres -- psql -XAtqc 'select count(*) from pg_class'";
    /// What the console of the backup server decides.
    const ORDER: &str = "/usr/lib/infimonitor/hostd order";
    /// The program; the rest of its options follow.
    const RESTORE: &str = "monitor-link restore --server 192.168.77.2";

    /// The monitor's application, as a node has it.
    const APPLICATION: &str = "/var/lib/monitor-link/application";
    /// The key of a terminal.
    const ENTER: &str = "\r";

    /// Goes from the first page to where the server has taken the password.
    fn open_server(node: &Machine, key: &Fingerprint) -> Result<()> {
        page(node, "Address or name of the backup server", LONG)?;
        node.type_on_serial(&format!("{SERVER_ADDRESS}{ENTER}"))?;
        page(node, &key.to_string(), COMMAND)?;
        node.type_on_serial("y")?;
        page(node, "Password of user backup", COMMAND)?;
        node.type_on_serial(&format!("backup{ENTER}"))
    }

    /// Runs the program unattended, which must end with this status and say this.
    fn fails(node: &Machine, options: &str, status: i32, text: &str) -> Result<()> {
        let output = node.run(&format!("{RESTORE} {options}"), LONG)?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status == status && said.contains(text), "{options}: {} {said}", output.status);
        println!("exit status {status}: {}", said.lines().last().unwrap_or_default());
        Ok(())
    }

    /// The same, and the machine is as before.
    fn refused(node: &Machine, options: &str, status: i32, text: &str) -> Result<()> {
        let before = node.run_ok(UNCHANGED, COMMAND)?;
        fails(node, options, status, text)?;
        let after = node.run_ok(UNCHANGED, COMMAND)?;
        ensure!(after == before, "{options}: the machine was\n{before}\nand is\n{after}");
        Ok(())
    }

    /// Bytes of the tar that are unpacked, by the program.
    fn unpacked(node: &Machine) -> Result<u64> {
        let status = node.run_ok("monitor-link restore status --json", COMMAND)?;
        let parsed: serde_json::Value = serde_json::from_str(&status)?;
        parsed["stage"]["unpacking"].as_u64().with_context(|| format!("it is not being unpacked: {status}"))
    }

    #[test]
    fn a_lost_monitor_comes_back_through_cuts_of_network_and_power() -> Result<()> {
        scenario("restore", |lab| {
            let (monitor, server, user) = machines(lab, SCALE)?;
            let id = user.pair_with(&monitor)?;
            user.wait_for_state("synchronized", LONG)?;
            monitor.run_ok(&pgbench("-n -c 2 -T 5"), LONG)?;
            sql(&monitor, "alter system set work_mem = '7MB'", COMMAND)?;
            monitor.run_ok(
                "echo \"log_line_prefix = 'as-it-was: '\" >/etc/postgresql/17/main/conf.d/own.conf",
                COMMAND,
            )?;
            user.pair_with(&monitor)?;
            let expected = sql(&monitor, &checksum_sql(), LONG)?;
            wait_until_replayed(&monitor, &server, &id)?;
            let damaged = user.create_backup("to be damaged")?;
            user.wait_for_proof(&damaged.id)?;
            let wanted = user.create_backup("the last before the loss")?;
            user.wait_for_proof(&wanted.id)?;

            // The key is at the server's console, before anybody logs in.
            let pem = server.run_ok("cat /var/lib/infimonitor/tls/certificate.pem", COMMAND)?;
            let key = Fingerprint::of_pem(pem.as_bytes())?;
            let greeting = server.serial()?;
            ensure!(greeting.contains(&key.to_string()), "{greeting}");

            // The monitor is lost.
            monitor.kill()?;
            drop(monitor);
            let lost = Instant::now();
            let (at_node, _) = lab.link("replication");
            let node = node_to_restore(lab, at_node)?;
            page(&node, "Address or name of the backup server", LONG)?;
            node.screendump(&lab.folder().join("first-page.png"))?;
            println!("asks at its console {:.1?} after it was switched on", lost.elapsed());

            node.run_ok(
                &format!("mkdir -p /var/lib/monitor-link && printf '#!/bin/sh\\necho $1 >>{APPLICATION}.log\\n' >{APPLICATION} && chmod 755 {APPLICATION}"),
                COMMAND,
            )?;

            // What is wrong is said, and changes nothing.
            node.run_ok("umask 77; echo backup >/run/password; echo wrong >/run/wrong", COMMAND)?;
            let other_key = "sha256//AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
            let access =
                |key: &str, password: &str| format!("--fingerprint {key} --password-file /run/{password}");
            let right = access(&key.to_string(), "password");
            refused(
                &node,
                &access(other_key, "password"),
                4,
                "it is another machine, or somebody stands between",
            )?;
            refused(&node, &access(&key.to_string(), "wrong"), 5, "refuses the password")?;
            refused(
                &node,
                &format!("{right} --backup 20200101T000000Z"),
                8,
                "has no backup 20200101T000000Z",
            )?;
            node.run_ok(
                "sed 's/^IMAGE_VERSION=.*/IMAGE_VERSION=0.0.1-other/' /etc/os-release >/run/os-release && \
             mount --bind /run/os-release /usr/lib/os-release",
                COMMAND,
            )?;
            refused(&node, &right, 6, "and this machine has 0.0.1-other: install")?;
            node.run_ok("umount /usr/lib/os-release", COMMAND)?;
            node.run_ok(
            "fallocate -l $(($(df --output=avail -B1 /data | tail -1) - 700 * 1024 * 1024)) /data/filler && sync -f /data",
            LONG,
        )?;
            refused(&node, &right, 6, "are free beside the old data: make room")?;
            node.run_ok("rm /data/filler && sync -f /data", COMMAND)?;
            server.run_ok(
                &format!(
                    "cd /data/backups/*/{}/ && btrfs property set . ro false && \
                 file=$(find pgdata/base -size +50M | head -1) && test -n \"$file\" && \
                 printf damaged | dd of=\"$file\" bs=1 seek=30000000 conv=notrunc status=none && \
                 btrfs property set . ro true",
                    damaged.id
                ),
                COMMAND,
            )?;
            let of_damaged = format!("{right} --backup {}", damaged.id);
            fails(&node, &of_damaged, 7, "do not have the manifest's hash")?;
            node.run_ok("monitor-link restore abandon", COMMAND)?;

            // Power is cut while it is unpacked; it goes on at the console. Slowly, so that there is something to cut.
            let slowly = |bytes: u64| -> Result<()> {
                server.run_ok(&format!("{ORDER} ftp --bytes-per-second {bytes}"), COMMAND).map(drop)
            };
            slowly(wanted.sizes.tar / 60)?;
            node.run_ok(&format!("systemd-run --quiet --collect --unit=restore {RESTORE} {right}"), COMMAND)?;
            wait_until("a part is unpacked", LONG, || {
                ensure!(unpacked(&node)? > 0, "nothing yet");
                Ok(())
            })?;
            node.kill()?;
            node.boot_again()?;
            page(&node, "is being restored", LONG)?;
            let goes_on_at = unpacked(&node)?;
            ensure!(goes_on_at > 0, "it begins anew");
            println!("goes on at byte {goes_on_at} of {}", wanted.sizes.tar);
            node.type_on_serial(ENTER)?;
            open_server(&node, &key)?;
            page(&node, "Downloading", LONG)?;
            for _ in 0..2 {
                std::thread::sleep(Duration::from_secs(2));
                node.set_link(1, false)?;
                std::thread::sleep(Duration::from_secs(20));
                node.set_link(1, true)?;
            }
            let screen = node.serial_screen()?;
            ensure!(screen.contains("Downloading"), "the cable was out too late:\n{screen}");
            server.run_ok(&format!("{ORDER} ftp --bytes-per-second none"), COMMAND)?;
            // Power is cut again when it takes its place.
            page(&node, "takes its place", LONG)?;
            node.kill()?;
            node.boot_again()?;
            let screen = wait_until("the page after the cut", LONG, || {
                let screen = node.serial_screen()?;
                ensure!(screen.contains("continue") || screen.contains("restored and runs"), "\n{screen}");
                Ok(screen)
            })?;
            println!("after the power cut in the exchange:\n{screen}");
            if !screen.contains("restored and runs") {
                node.type_on_serial(ENTER)?;
            }
            page(&node, "The monitor is restored and runs", LONG)?;
            let restored = sql(&node, &checksum_sql(), LONG)?;
            ensure!(restored == expected, "{restored}\nand not\n{expected}");
            println!("restored {:.1?} after the loss", lost.elapsed());

            let application = node.run_ok(&format!("cat {APPLICATION}.log"), COMMAND)?;
            ensure!(application.ends_with("stop\nstart"), "the application was not told: {application:?}");

            // It is paired at the console, under the lost monitor's UUID.
            node.type_on_serial(ENTER)?;
            open_server(&node, &key)?;
            // Its key is a new one, which the server's console has to accept; then it is asked again.
            page(&node, "accept-peer", LONG)?;
            println!("{}", server.run_ok(&format!("{ORDER} accept-peer"), COMMAND)?);
            server.run_ok(&format!("{ORDER} accept-peer --number 1"), COMMAND)?;
            node.type_on_serial(ENTER)?;
            page(&node, "Done.", LONG)?;
            node.screendump(&lab.folder().join("last-page.png"))?;
            println!("{}", node.serial_screen()?);
            user.wait_for_state("synchronized", LONG)?;
            println!("streams again {:.1?} after the loss", lost.elapsed());
            let status = user.status()?;
            let peer = status.peer.context("nothing is paired")?;
            ensure!(peer.id.to_string() == id, "{peer:?}");
            let kept = user.backups()?.backups.into_iter().filter(|backup| backup.pinned).count();
            ensure!(kept == 1, "{kept} backups are pinned");
            // Its settings came along, and a client application works.
            assert_eq!(sql(&node, "show work_mem", COMMAND)?, "7MB");
            assert_eq!(sql(&node, "show log_line_prefix", COMMAND)?, "as-it-was:");
            node.run_ok(&pgbench("-n -c 2 -T 5"), LONG)?;
            wait_until_replayed(&node, &server, &id)?;

            // The old data goes when somebody says so, and the node is a monitor from its next boot on.
            node.type_on_serial("c")?;
            page(&node, "What was there before is removed", LONG)?;
            node.type_on_serial(ENTER)?;
            node.wait_for_serial("login:", LONG)?;
            node.reboot(BOOT)?;
            wait_until("PostgreSQL after a boot", LONG, || sql(&node, "select 1", COMMAND))?;
            let role =
                node.run_ok("systemctl is-active monitor.target; ls -A /data/postgresql/17", COMMAND)?;
            ensure!(role.starts_with("active") && !role.contains("restore"), "{role}");
            user.wait_for_state("synchronized", LONG)?;
            Ok(())
        })
    }
}
