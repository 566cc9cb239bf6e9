//! A backup server that was away for too long, and one whose data volume a growing database fills: both find their way
//! back by themselves, and no backup is lost that must not be.

/// A story of ten minutes.
mod full {
    use anyhow::{Result, ensure};
    use api::Level;
    use lab::{COMMAND, scenario, wait_until};
    use scenarios::{
        BALANCE_SQL, LONG, checksum_sql, machines, pgbench, sql, sql_on_replica, wait_until_replayed,
    };

    /// pgbench's scale: 15 MB each.
    const SCALE: u32 = 4;

    #[test]
    fn an_absence_beyond_the_wal_cap_and_a_full_volume_need_nobody() -> Result<()> {
        scenario("resync", |lab| {
            let (monitor, server, user) = machines(lab, SCALE)?;
            let id = user.pair_with(&monitor)?;
            user.wait_for_state("synchronized", LONG)?;
            // The first one on schedule comes by itself; it is not to be the newest here.
            wait_until("the scheduled backup", LONG, || {
                ensure!(!user.backups()?.backups.is_empty(), "there is none");
                Ok(())
            })?;
            let before = user.create_backup("before the absence")?;
            user.wait_for_proof(&before.id)?;

            // Away until the monitor keeps the WAL no more.
            server.kill()?;
            sql(&monitor, "alter system set max_slot_wal_keep_size = '32MB'", COMMAND)?;
            sql(&monitor, "select pg_reload_conf()", COMMAND)?;
            wait_until("the loss of the slot", LONG, || {
                monitor.run_ok(&pgbench("-n -c 2 -T 10"), LONG)?;
                sql(&monitor, "select pg_switch_wal()", COMMAND)?;
                sql(&monitor, "checkpoint", LONG)?;
                let status = sql(&monitor, "select wal_status from pg_replication_slots", COMMAND)?;
                ensure!(status == "lost", "{status}");
                Ok(())
            })?;
            server.boot_again()?;
            user.wait_for_api()?;
            user.wait_for_state("synchronized", LONG)?;
            wait_until_replayed(&monitor, &server, &id)?;
            sql(&monitor, "grant select on all tables in schema public to public", COMMAND)?;
            wait_until_replayed(&monitor, &server, &id)?;
            let expected = sql(&monitor, &checksum_sql(), LONG)?;
            assert_eq!(sql_on_replica(&server, &id, &checksum_sql())?, expected);
            let list = user.backups()?;
            assert!(list.backups.iter().any(|backup| backup.id == before.id), "{list:?}");
            user.verify_backup(&before.id)?;
            user.wait_for_proof(&before.id)?;

            // A database that grows into a volume with little room, on a monitor that keeps what is missed.
            sql(&monitor, "alter system reset max_slot_wal_keep_size", COMMAND)?;
            sql(&monitor, "select pg_reload_conf()", COMMAND)?;
            let newest = user.create_backup("before the volume is full")?;
            user.wait_for_proof(&newest.id)?;
            server.run_ok(
                "free=$(df --output=avail -B1 /data | tail -1); fallocate -l $((free - 1300 * 1024 * 1024)) /data/filler",
                LONG,
            )?;
            sql(
                &monitor,
                "create table big (content text); alter table big alter content set storage external; \
                 insert into big select repeat(md5(g::text), 250) from generate_series(1, 50000) as g; \
                 grant select on big to public",
                LONG,
            )?;
            let status = wait_until("the alarm of the full volume", LONG, || {
                let status = user.status()?;
                ensure!(status.message.contains("data volume is full"), "{}", status.message);
                Ok(status)
            })?;
            let check = status.checks.iter().find(|check| check.name == "free-space");
            assert_eq!(check.map(|check| check.level), Some(Level::Fail), "{status:?}");
            let left: Vec<String> = user.backups()?.backups.into_iter().map(|backup| backup.id).collect();
            // All are younger than a day, so none may go for room: replay stops instead.
            assert!(left.contains(&before.id) && left.contains(&newest.id), "{left:?}");

            server.run_ok("rm /data/filler", COMMAND)?;
            user.wait_for_state("synchronized", LONG)?;
            wait_until_replayed(&monitor, &server, &id)?;
            let rows = "select count(*), sum(hashtextextended(content, 0)) from big";
            assert_eq!(sql_on_replica(&server, &id, rows)?, sql(&monitor, rows, LONG)?);
            assert_eq!(sql_on_replica(&server, &id, BALANCE_SQL)?, "t");
            let after = user.create_backup("after room was made")?;
            println!("verified after the full volume: {:?}", user.wait_for_proof(&after.id)?);
            Ok(())
        })
    }
}
