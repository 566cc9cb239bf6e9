//! The thread through the whole system: protect a real database, lose power, get the data back.

use anyhow::{Result, ensure};
use api::Backup;
use integration::Restored;
use lab::{COMMAND, CONTROL_PORT, Lab, scenario, wait_until};
use scenarios::{
    BALANCE_SQL, LONG, MONITOR_ADDRESS, SERVER_ADDRESS, User, checksum_sql, machines, node_to_restore,
    pgbench, sql, sql_on_replica, wait_until_replayed,
};
use std::fs::File;
use std::time::{Duration, Instant};

/// pgbench's scale: 15 MB each, so more than the 200 MB that the scenario is about.
const SCALE: u32 = 16;

/// Fetches the tar of `backup` by FTP and starts it.
fn restore(lab: &Lab, user: &User, backup: &Backup) -> Result<Restored> {
    let tar = lab.folder().join("backup.tar");
    let started = Instant::now();
    user.fetch_tar(backup, &tar)?;
    println!("{} fetched, {} bytes in {:.1?}", backup.id, backup.sizes.tar, started.elapsed());
    Restored::start(lab.toolbox(), backup, File::open(&tar)?)
}

#[test]
fn a_database_is_protected_and_comes_back_equal_also_after_a_power_cut() -> Result<()> {
    scenario("protect", |lab| {
        let (monitor, server, user) = machines(lab, SCALE)?;
        let bytes: u64 = sql(&monitor, "select pg_database_size('postgres')", COMMAND)?.parse()?;
        ensure!(bytes > 200_000_000, "the database has only {bytes} bytes");

        // Pairing and full copy.
        let started = Instant::now();
        let id = user.pair_with(&monitor)?;
        user.wait_for_state("synchronized", LONG)?;
        println!("{bytes} bytes paired, copied and synchronized in {:.1?}", started.elapsed());

        // Rows written afterwards arrive.
        sql(&monitor, "create table later as select 42 as answer; grant select on later to public", COMMAND)?;
        wait_until("a row written afterwards", COMMAND, || {
            let answer = sql_on_replica(&server, &id, "select answer from later")?;
            ensure!(answer == "42", "{answer}");
            Ok(())
        })?;

        // Load, paused at a known LSN: the backup has it, and every table is equal.
        monitor.run_ok(&pgbench("-n -c 2 -T 10"), LONG)?;
        let position = sql(&monitor, "select pg_current_wal_flush_lsn()", COMMAND)?;
        wait_until("the replica has flushed the pause", COMMAND, || {
            let question = format!("select pg_last_wal_receive_lsn() >= '{position}'");
            let there = sql_on_replica(&server, &id, &question)?;
            ensure!(there == "t", "{there}");
            Ok(())
        })?;
        let paused = user.create_backup("paused")?;
        println!("snapshot in {:.1} ms", paused.snapshot_ms);
        let manifest = user.fetch_manifest(&paused.id, &lab.folder().join("manifest.json"))?;
        let files: Vec<&str> = manifest.configuration.keys().map(String::as_str).collect();
        for name in ["postgresql.conf", "pg_hba.conf"] {
            assert!(files.contains(&&*format!("/etc/postgresql/17/main/{name}")), "{files:?}");
        }
        assert!(files.iter().any(|file| file.ends_with("/postgresql.auto.conf")), "{files:?}");
        let expected = sql(&monitor, &checksum_sql(), LONG)?;
        let restored = restore(lab, &user, &paused)?;
        assert_eq!(restored.sql(&checksum_sql())?, expected);
        drop(restored);

        // Under load.
        let background = format!("systemd-run --quiet --unit=load --collect {}", pgbench("-n -c 2 -T 3600"));
        monitor.run_ok(&background, COMMAND)?;
        std::thread::sleep(Duration::from_secs(5));
        let loaded = user.create_backup("under load")?;
        let restored = restore(lab, &user, &loaded)?;
        assert_eq!(restored.sql(BALANCE_SQL)?, "t");
        drop(restored);

        // Power cut while it streams.
        server.kill()?;
        server.boot_again()?;
        user.wait_for_api()?;
        user.wait_for_state("synchronized", LONG)?;
        let ids: Vec<String> = user.backups()?.backups.into_iter().map(|backup| backup.id).collect();
        assert!([&loaded.id, &paused.id].iter().all(|id| ids.contains(id)), "{ids:?}");
        assert!(user.backups()?.damaged.is_empty());
        let restored = restore(lab, &user, &paused)?;
        assert_eq!(restored.sql(&checksum_sql())?, expected);
        drop(restored);

        // And it goes on: a new backup has the load that went on meanwhile.
        monitor.run_ok("systemctl stop load", COMMAND)?;
        wait_until_replayed(&monitor, &server, &id)?;
        let after = user.create_backup("after the power cut")?;
        let restored = restore(lab, &user, &after)?;
        assert_eq!(restored.sql(BALANCE_SQL)?, "t");
        // The machine proves it by itself.
        let proof = user.wait_for_proof(&after.id)?;
        println!("verified by the machine: {proof:?}");

        // What the console decides, as the guide says it.
        let said = server.run_ok(
            "/usr/lib/infimonitor/hostd order --help >&2 && \
             /usr/lib/infimonitor/hostd order limits --low-space-percent 15 --keep-verified 5",
            COMMAND,
        )?;
        ensure!(said.contains("or 15 %") && said.contains("the newest 5 verified"), "{said}");
        server.run_ok(&format!("/usr/lib/infimonitor/hostd order delete-backup {}", loaded.id), COMMAND)?;
        ensure!(user.backups()?.backups.iter().all(|backup| backup.id != loaded.id), "it is still there");

        // The ports open for the monitor alone: it gets an answer, and this host none.
        let said = server.run_ok("/usr/lib/infimonitor/hostd order firewall --peer-only true", COMMAND)?;
        ensure!(said.contains(&format!("open to {MONITOR_ADDRESS}")), "{said}");
        let knock = format!("timeout 20 bash -c 'echo >/dev/tcp/{SERVER_ADDRESS}/50000'");
        monitor.run_ok(&knock, COMMAND)?;
        let other = server.client(CONTROL_PORT)?.limit(Duration::from_secs(10));
        let reply = other.https("GET", "/v1/status", None)?;
        ensure!(reply.exit != 0 && reply.code == 0, "another machine gets an answer: {reply:?}");
        server.run_ok("/usr/lib/infimonitor/hostd order firewall --peer-only false", COMMAND)?;
        user.wait_for_api()?;
        let said = server.run_ok("/usr/lib/infimonitor/hostd order grow-disks", COMMAND)?;
        ensure!(said.contains("no disk has grown"), "{said}");

        // The monitor is lost, and comes back on another node, as the guide says it: the server's console accepts its new key. The story of what
        // can go wrong on that way is in restore.rs.
        let expected = sql(&monitor, &checksum_sql(), LONG)?;
        wait_until_replayed(&monitor, &server, &id)?;
        let last = user.create_backup("the last before the loss")?;
        user.wait_for_proof(&last.id)?;
        monitor.kill()?;
        drop(monitor);
        let lost = Instant::now();
        let (at_node, _) = lab.link("replication");
        let node = node_to_restore(lab, at_node)?;
        node.run_ok("umask 077; echo backup >/run/password", LONG)?;
        let key =
            node.run_ok(&format!("monitor-link restore fingerprint --server {SERVER_ADDRESS}"), COMMAND)?;
        let access = format!("--server {SERVER_ADDRESS} --fingerprint {key} --password-file /run/password");
        println!("{}", node.run_ok(&format!("monitor-link restore list {access}"), COMMAND)?);
        let restore = format!("monitor-link restore {access} --backup latest --pair --json");
        let refused = node.run(&restore, LONG)?;
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        let words = said.lines().find(|line| line.contains("accept-peer")).unwrap_or_default();
        let order = words.split('`').nth(1).unwrap_or_default();
        ensure!(refused.status == 9 && order.contains("accept-peer"), "{} {said}", refused.status);
        server.run_ok(order, COMMAND)?;
        let said = node.run_ok(&restore, LONG)?;
        let end = said.lines().last().unwrap_or_default();
        ensure!(end.contains("\"done\"") && end.contains(&last.id), "{said}");
        ensure!(sql(&node, &checksum_sql(), LONG)? == expected, "the tables differ");
        user.wait_for_state("synchronized", LONG)?;
        println!("restored and followed again {:.1?} after the loss", lost.elapsed());
        println!("{}", node.run_ok("monitor-link restore status; monitor-link restore confirm", COMMAND)?);
        Ok(())
    })
}
