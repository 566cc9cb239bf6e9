//! Verification under attack and on a sick machine: only what PostgreSQL says about the data counts against a
//! backup.

use anyhow::{Context, ensure};
use api::{Backup, Check, Client, CreateBackup, EventKind, Level, Verification};
use integration::{Fault, Monitor, Server, run, wait_for};
use jiff::Timestamp;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tools::Toolbox;

const MINUTE: Duration = Duration::from_secs(60);

fn is_verified(backup: &Backup) -> bool {
    matches!(backup.verification, Verification::Verified(_))
}

/// Waits until `seen` says so of the backup.
fn wait_until(
    client: &Client,
    id: &str,
    what: &str,
    seen: impl Fn(&Backup) -> bool,
) -> anyhow::Result<Backup> {
    wait_for(what, 4 * MINUTE, || match client.backup(id) {
        Ok(backup) if seen(&backup) => Ok(backup),
        other => Err(format!("{other:?}")),
    })
}

/// When the last try came to an end.
fn tried_at(backup: &Backup) -> Option<Timestamp> {
    let proven = match &backup.verification {
        Verification::Verified(proof) => Some(proof.at),
        Verification::Failed { at, .. } => Some(*at),
        Verification::Pending | Verification::Superseded => None,
    };
    backup.trouble.as_ref().map(|trouble| trouble.at).max(proven)
}

/// Has a backup verified and gives what came of it.
fn verify(client: &Client, id: &str) -> anyhow::Result<Backup> {
    // One that is asked for while it is under way is not verified twice.
    wait_for("the end of the one before", MINUTE, || match client.backups() {
        Ok(list) if list.verifying.is_none() => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    let asked = Timestamp::now();
    client.verify_backup(id)?;
    wait_until(client, id, "the end of a verification", |backup| {
        tried_at(backup).is_some_and(|at| at > asked)
    })
}

fn first_backup(client: &Client) -> anyhow::Result<Backup> {
    wait_for("the first scheduled backup", 2 * MINUTE, || {
        client.backups().ok().and_then(|list| list.backups.first().cloned()).ok_or_else(|| "none".into())
    })
}

fn check(client: &Client, name: &str) -> anyhow::Result<Check> {
    let found = client.status()?.checks.into_iter().find(|check| check.name == name);
    found.with_context(|| format!("there is no check {name}"))
}

/// Overwrites a page in the middle of table `t`, as a bad disk would.
fn damage(toolbox: &Toolbox, server: &Server, monitor: &Monitor, id: &str) -> anyhow::Result<()> {
    let snapshot = server.backups(monitor.peer.id).join(id);
    let path = monitor.sql("select pg_relation_filepath('t')")?;
    run(toolbox.command("btrfs").args(["property", "set"]).arg(&snapshot).args(["ro", "false"]))?;
    let file = std::fs::File::options().write(true).open(snapshot.join("pgdata").join(path.trim()))?;
    std::os::unix::fs::FileExt::write_all_at(&file, &[0x5a; 4096], 8192 * 20)?;
    run(toolbox.command("btrfs").args(["property", "set"]).arg(&snapshot).args(["ro", "true"])).map(drop)
}

/// Each outside program of a verification, by a word of its arguments.
const PROGRAMS: [(&str, &str); 13] = [
    ("btrfs", "snapshot"),
    ("btrfs", "quota"),
    ("btrfs", "qgroup"),
    ("pg_controldata", ""),
    ("nice", "disarm"),
    ("postgres", ""),
    ("pg_ctl", "promote"),
    ("psql", "select 1"),
    ("psql", "create extension"),
    ("pg_amcheck", ""),
    ("nice", "remove-stray-files"),
    ("pg_checksums", ""),
    ("nice", "digest"),
];

/// The fault matrix of verification: whatever befalls whichever program, a backup that was proven stays
/// proven, the state says that it could not be verified now, and nothing is lost.
#[test]
fn trouble_of_the_machine_is_not_a_verdict() -> anyhow::Result<()> {
    let toolbox = Toolbox::open()?;
    let monitor = integration::monitor_with_rows(&toolbox, 1000)?;
    let mut server = Server::start_sick(&toolbox, 64 << 30)?;
    server.client()?.pair(&monitor.peer)?;
    server.wait_for_state(&["synchronized"], 2 * MINUTE)?;
    let client = server.client()?;
    let backup = first_backup(&client)?;
    wait_until(&client, &backup.id, "the first proof", is_verified).with_context(|| server.logs())?;

    // What hangs is given up when its time is over; here that comes soon.
    server.stop("TERM")?;
    server.set_time_limit(5);
    server.start_hostd()?;
    server.start_backupd()?;
    let client = server.client()?;
    let mut table = String::from("program              fault         what came of it\n");
    for (program, argument) in PROGRAMS {
        for fault in Fault::ALL {
            // Each that hangs takes its time: once for each kind of program is enough.
            let is_hanging = fault == Fault::Hang;
            if is_hanging && !["qgroup", "promote", "digest"].contains(&argument) {
                continue;
            }
            server.faults()?.set(program, fault, argument, None)?;
            let after = verify(&client, &backup.id).with_context(|| server.logs());
            server.faults()?.clear(program)?;
            let after = after?;
            let said = after.trouble.as_ref().map(|trouble| trouble.reason.clone()).unwrap_or_default();
            let line = format!("{:20} {:13} {said}\n", format!("{program} {argument}"), fault.name());
            ensure!(is_verified(&after), "the proof is lost: {line}{after:?}");
            // One that is killed after it has done all is as good as one that was not, where nobody asked for
            // its end.
            ensure!(after.trouble.is_some() || program == "postgres", "no trouble: {line}{}", server.logs());
            ensure!(client.backups()?.backups.len() == 1, "a backup is lost: {line}");
            table.push_str(&line);
        }
    }
    // What follows has its time again.
    server.stop("TERM")?;
    server.set_time_limit(3600);
    server.start_hostd()?;
    server.start_backupd()?;
    let client = server.client()?;
    server.wait_for_state(&["synchronized"], 2 * MINUTE)?;
    let trouble = client.backup(&backup.id)?.trouble.context("no trouble")?;
    ensure!(trouble.times > 30 && trouble.since < trouble.at, "{trouble:?}");
    assert_eq!(check(&client, "last-verification")?.level, Level::Warn);

    // A clone that cannot be deleted is deleted later, and nothing is verified on top of it.
    server.faults()?.set("btrfs", Fault::NoSpace, "delete", None)?;
    let after = verify(&client, &backup.id)?;
    ensure!(is_verified(&after) && after.trouble.is_none(), "{after:?}");
    ensure!(std::fs::read_dir(server.data().join("verification"))?.count() == 1, "the clone is gone");
    let after = verify(&client, &backup.id)?;
    ensure!(is_verified(&after) && after.trouble.is_some(), "{after:?}");
    server.faults()?.clear("btrfs")?;

    // New backups: none is failed, and the old proof is the last one.
    server.faults()?.set("pg_ctl", Fault::Kill, "promote", None)?;
    let mut new = Vec::new();
    for _ in 0..3 {
        let made = client.create_backup(&CreateBackup::default())?;
        let after = wait_until(&client, &made.id, "trouble", |backup| backup.trouble.is_some())?;
        assert_eq!(after.verification, Verification::Pending, "{after:?}");
        new.push(made.id);
    }
    let said = check(&client, "last-verification")?;
    ensure!(said.level == Level::Warn && said.message.contains("could not be verified now"), "{said:?}");
    ensure!(
        said.message.contains(&format!("Backup {} is the newest one that is verified", backup.id)),
        "{said:?}"
    );
    server.faults()?.clear("pg_ctl")?;
    // Each that is asked for is read whole, and its program killed: none of them is failed.
    server.faults()?.set("pg_amcheck", Fault::Kill, "", None)?;
    for id in &new {
        let after = verify(&client, id)?;
        ensure!(after.verification == Verification::Pending && after.trouble.is_some(), "{after:?}");
    }
    server.faults()?.clear("pg_amcheck")?;
    // The machine is well again: the newest is proven, and those before it need no proof.
    let after = verify(&client, &new[2])?;
    ensure!(is_verified(&after) && after.trouble.is_none(), "{after:?}");
    assert_eq!(client.backups()?.backups.len(), 4);
    for older in &new[..2] {
        wait_until(&client, older, "what needs no proof", |older| {
            older.verification == Verification::Superseded && older.trouble.is_none()
        })?;
    }
    assert_eq!(std::fs::read_dir(server.data().join("verification"))?.count(), 0);
    let events = client.events(None)?.events;
    ensure!(!events.iter().any(|event| event.kind == EventKind::Rotation), "{events:?}");
    ensure!(!events.iter().any(|event| event.message.contains("cannot be restored")), "{events:?}");
    println!("{table}");
    Ok(())
}

/// Real damage is a verdict: the newest backup fails, older ones are verified until a good one is known, and
/// one that the disk has changed is found when it is read again.
#[test]
fn damage_is_found_and_older_backups_are_verified_until_one_is_good() -> anyhow::Result<()> {
    let toolbox = Toolbox::open()?;
    let monitor = integration::monitor_with_rows(&toolbox, 50_000)?;
    let mut server = Server::start_sick(&toolbox, 64 << 30)?;
    // The first one keeps verification busy.
    server.faults()?.set("pg_amcheck", Fault::Hang, "", None)?;
    let client = server.client()?;
    client.pair(&monitor.peer)?;
    server.wait_for_state(&["synchronized"], 2 * MINUTE)?;
    let mut ids = vec![first_backup(&client)?.id];
    for _ in 0..3 {
        ids.push(client.create_backup(&CreateBackup::default())?.id);
    }
    for id in &ids[2..] {
        damage(&toolbox, &server, &monitor, id)?;
    }
    server.stop("TERM")?;
    server.faults()?.clear("pg_amcheck")?;
    server.start_hostd()?;
    server.start_backupd()?;
    let client = server.client()?;
    let good = wait_until(&client, &ids[1], "an older one that is good", is_verified);
    let good = good.with_context(|| server.logs())?;
    for id in &ids[2..] {
        let Verification::Failed { reason, .. } = client.backup(id)?.verification else {
            anyhow::bail!("{:?}", client.backup(id)?);
        };
        ensure!(reason.contains("pg_amcheck failed"), "{reason}");
    }
    let oldest = wait_until(&client, &ids[0], "what needs no proof", |backup| {
        backup.verification == Verification::Superseded
    })?;
    ensure!(oldest.trouble.is_none(), "{oldest:?}");
    let said = check(&client, "last-verification")?;
    ensure!(said.level == Level::Fail && said.message.contains("cannot be restored"), "{said:?}");
    ensure!(said.message.contains(&format!("{} is the newest one that is verified", good.id)), "{said:?}");

    // Read again, it is the same; changed by the disk, it is not.
    let hostd = server.hostd_client();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let again = |id: &str| runtime.block_on(hostd.read_backup(monitor.peer.id, id));
    let before = good.read.context("a verification reads the tar")?;
    let read = again(&good.id)?;
    ensure!(is_verified(&read) && read.read.is_some_and(|read| read.same && read.at > before.at), "{read:?}");
    ensure!(again(&ids[0])?.read.is_some_and(|read| read.same), "one that was not verified is read as well");
    assert_eq!(check(&client, "backups-read")?.level, Level::Ok);
    damage(&toolbox, &server, &monitor, &good.id)?;
    let read = again(&good.id)?;
    ensure!(read.read.is_some_and(|read| !read.same), "{read:?}");
    ensure!(
        matches!(&read.verification, Verification::Failed { reason, .. } if reason.contains("has changed")),
        "{read:?}"
    );
    assert_eq!(check(&client, "backups-read")?.level, Level::Fail);
    // Then the one before is needed after all.
    wait_until(&client, &ids[0], "the proof of the last good one", is_verified)
        .with_context(|| server.logs())?;
    Ok(())
}

/// SQL of the monitor's making that runs while its backup is verified: it writes as much as it can, wherever
/// it can. What it gets is bounded, nothing is deleted for it, and the state says what happened.
#[test]
fn sql_in_a_clone_cannot_eat_the_volume() -> anyhow::Result<()> {
    const GIB: u64 = 1 << 30;
    let toolbox = Toolbox::open()?;
    let monitor = integration::monitor_with_rows(&toolbox, 1000)?;
    let outside = format!("/var/tmp/from-a-clone-{}", monitor.peer.id);
    // A function in the place of amcheck's, which nobody may call.
    monitor.sql(&format!(
        "create extension amcheck;
         create function eat() returns void language plpgsql as $$ begin
             if current_setting('cluster_name') = 'restore' then
                 begin
                     copy (select 1) to '{outside}';
                 exception when others then null;
                 end;
                 copy (select repeat('x', 1000000) from generate_series(1, 20000)) to '/srv/cluster/eaten';
             end if;
         end $$;
         create or replace function verify_heapam(relation regclass, on_error_stop boolean default false,
             check_toast boolean default false, skip text default 'none', startblock bigint default null,
             endblock bigint default null, blkno out bigint, offnum out integer, attnum out integer, msg out text)
             returns setof record language plpgsql as $$ begin perform public.eat(); end $$"
    ))?;
    let server = Server::start_sick(&toolbox, 16 * GIB)?;
    let client = server.client()?;
    client.pair(&monitor.peer)?;
    server.wait_for_state(&["synchronized"], 2 * MINUTE)?;
    let first = first_backup(&client)?;
    // What stands in amcheck's place was not called.
    wait_until(&client, &first.id, "the first proof", is_verified).with_context(|| server.logs())?;

    // An operator class, which the check of its index would call; and a function in the place of one that is asked.
    monitor.sql(
        "create function compare(a integer, b integer) returns integer language plpgsql immutable as $$ begin
             perform public.eat(); return btint4cmp(a, b);
         end $$;
         create operator class hostile for type integer using btree as operator 1 <, operator 2 <=,
             operator 3 =, operator 4 >=, operator 5 >, function 1 compare(integer, integer);
         create index hostile on t (id hostile)",
    )?;
    integration::wait_until_replayed(&toolbox, &server, &monitor)?;
    let second = client.create_backup(&CreateBackup::default())?;
    // By itself it is only started, as every index was read lately.
    wait_until(&client, &second.id, "its first proof", is_verified).with_context(|| server.logs())?;
    let proven = verify(&client, &second.id).with_context(|| server.logs())?;
    let Verification::Verified(proof) = &proven.verification else {
        anyhow::bail!("{proven:?}\n{}", server.logs());
    };
    let named = "index public.hostile in database postgres, which uses operator class hostile";
    ensure!(proof.limits.iter().any(|limit| limit.contains(named)), "{:?}", proof.limits);
    monitor.sql(
        "alter function pg_catalog.pg_database_collation_actual_version(oid) rename to collation_version;
         create function pg_catalog.pg_database_collation_actual_version(oid) returns text language plpgsql
             as $$ begin perform public.eat(); return pg_catalog.collation_version($1); end $$",
    )?;
    let rows = integration::wait_until_replayed(&toolbox, &server, &monitor)?;
    let mut ids = vec![first.id.clone(), second.id.clone()];
    // Low space is 10 GB here. The clone's 2 GiB bring the volume below.
    server.fill(&server.data().join("filler"), 10_600_000_000)?;
    for _ in 0..3 {
        ids.push(client.create_backup(&CreateBackup::default())?.id);
    }
    let newest = ids.last().context("no backup")?;
    let lowest = Arc::new(AtomicU64::new(u64::MAX));
    let (watched, data) = (Arc::clone(&lowest), server.data().to_owned());
    let watcher = std::thread::spawn(move || {
        while Arc::strong_count(&watched) > 1 {
            let Ok(volume) = nix::sys::statvfs::statvfs(&data) else { return };
            watched.fetch_min(volume.blocks_available() * volume.fragment_size(), Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(100));
        }
    });
    // On request every index is read.
    let after = verify(&client, newest).with_context(|| server.logs())?;
    let free = lowest.load(Ordering::Relaxed);
    drop(lowest);
    watcher.join().map_err(|_| anyhow::anyhow!("the watcher has failed"))?;
    let trouble = after.trouble.with_context(|| format!("{:?}\n{}", after.verification, server.logs()))?;
    ensure!(trouble.reason.contains("Disk quota exceeded"), "{trouble:?}");
    ensure!(!matches!(after.verification, Verification::Failed { .. }), "{:?}", after.verification);
    ensure!(free < 10_000_000_000 && free > 8 * GIB - GIB / 2, "{free} bytes were free");
    let said = check(&client, "last-verification")?;
    ensure!(said.message.contains("could not be verified now"), "{said:?}");
    ensure!(!std::path::Path::new(&outside).exists(), "a clone has written to {outside}");
    // Nothing was deleted, nothing of the clone stays, and the replica follows.
    let listed: Vec<_> = client.backups()?.backups.into_iter().map(|backup| backup.id).collect();
    ensure!(ids.iter().all(|id| listed.contains(id)), "{ids:?} {listed:?}");
    ensure!(!client.events(None)?.events.iter().any(|event| event.kind == EventKind::Rotation), "rotated");
    wait_for("the end of the clone", MINUTE, || {
        match std::fs::read_dir(server.data().join("verification")).map(Iterator::count) {
            Ok(0) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })?;
    monitor.sql("delete from t where id = 1")?;
    ensure!(
        integration::wait_until_replayed(&toolbox, &server, &monitor)? != rows,
        "the replica stands still"
    );
    Ok(())
}

/// Whoever owns the monitor's database may replace the functions by which a recovery is watched. What they say decides
/// nothing: a whole backup is proven, and one whose WAL ends too early is not.
#[test]
fn what_functions_of_the_database_say_of_recovery_is_not_believed() -> anyhow::Result<()> {
    let toolbox = Toolbox::open()?;
    let monitor = integration::monitor_with_rows(&toolbox, 1000)?;
    let server = Server::start(&toolbox)?;
    let client = server.client()?;
    client.pair(&monitor.peer)?;
    server.wait_for_state(&["synchronized"], 2 * MINUTE)?;
    let first = first_backup(&client)?;
    wait_until(&client, &first.id, "the first proof", is_verified).with_context(|| server.logs())?;
    // On the replica it says what is so: what it says otherwise is another matter.
    monitor.sql(
        "alter function pg_catalog.pg_last_wal_replay_lsn() rename to real_replayed;
         create function pg_catalog.pg_last_wal_replay_lsn() returns pg_lsn language sql as $$
             select case when pg_catalog.current_setting('cluster_name') = 'replica'
                 then pg_catalog.real_replayed() else 'FF/0'::pg_lsn end $$;
         alter function pg_catalog.pg_promote(boolean, integer) rename to real_promote;
         create function pg_catalog.pg_promote(wait boolean default true, wait_seconds integer default 60)
             returns boolean language sql as 'select true';
         alter function pg_catalog.pg_is_in_recovery() rename to really_in_recovery;
         create function pg_catalog.pg_is_in_recovery() returns boolean language sql as 'select false';
         insert into t select generate_series(1, 100000)",
    )?;
    integration::wait_until_replayed(&toolbox, &server, &monitor)?;
    let whole = client.create_backup(&CreateBackup::default())?;
    let after = verify(&client, &whole.id).with_context(|| server.logs())?;
    ensure!(is_verified(&after), "{after:?}\n{}", server.logs());

    // One that promises more than there is, as one that has lost the end of its WAL.
    let folder = server.backups(monitor.peer.id);
    let mut manifest = backups::read_manifest(&folder, &whole.id.parse()?)?;
    manifest.backup.postgresql.flushed_lsn = "F0/0".into();
    backups::write_manifest(&folder, &manifest, None)?;
    let after = verify(&client, &whole.id).with_context(|| server.logs())?;
    let Verification::Failed { reason, .. } = &after.verification else {
        anyhow::bail!("{after:?}\n{}", server.logs());
    };
    ensure!(reason.contains("its WAL ends at") && reason.contains("before F0/0"), "{reason}");
    Ok(())
}
