//! Backups as their owner meets them: made on schedule, verified, pinned, rotated, listed when damaged.

use anyhow::Context;
use api::{
    Check, Client, CreateBackup, Depth, EventKind, Frequency, KeptReason, Level, Reason, SetComment, SetPin,
    Settings, Verification,
};
use integration::{Monitor, Server, run, wait_for};
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::time::Duration;
use tools::Toolbox;

const MINUTE: Duration = Duration::from_secs(60);

/// Waits until the backup's verification has come to an end.
fn verified(client: &Client, id: &str) -> anyhow::Result<Verification> {
    wait_for("the verification", 3 * MINUTE, || match client.backup(id) {
        Ok(backup) if backup.verification == Verification::Pending => Err("pending".into()),
        Ok(backup) => Ok(backup.verification),
        Err(error) => Err(error.to_string()),
    })
}

#[test]
fn a_backup_is_made_on_schedule_and_verified() -> anyhow::Result<()> {
    let toolbox = Toolbox::open()?;
    let monitor = Monitor::start(&toolbox)?;
    let server = Server::start(&toolbox)?;
    monitor.sql(
        "create table t as select g as id, 'row ' || g as text from generate_series(1, 10000) as g; \
         create unique index on t (id); create index on t (text)",
    )?;
    let client = server.client()?;
    client.pair(&monitor.peer)?;
    server.wait_for_state(&["synchronized"], MINUTE)?;
    let backup = wait_for("the first scheduled backup", MINUTE, || {
        client.backups().ok().and_then(|list| list.backups.first().cloned()).ok_or_else(|| "none".into())
    })?;
    assert_eq!(backup.reason, Reason::Schedule);
    let Verification::Verified(proof) = verified(&client, &backup.id)? else {
        panic!("{:?}\n{}", client.backup(&backup.id)?.verification, server.logs());
    };
    assert_eq!(proof.depth, Depth::Full);
    assert!(proof.recovery_seconds > 0.0 && proof.seconds >= proof.recovery_seconds, "{proof:?}");
    // Its tar was read from end to end.
    let folder = server.data().join("backups").join(monitor.peer.id.to_string());
    let manifest = backups::read_manifest(&folder, &backup.id.parse()?)?;
    let index = std::fs::File::open(folder.join(format!("{}.index", backup.id)))?;
    let mut tar = std::sync::Arc::new(vtar::Index::read_from(index)?).reader(folder.join(&backup.id))?;
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut tar, &mut bytes)?;
    let hash: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(manifest.digests.map(|digests| digests.tar), Some(hash));
    // Nothing of it is left, and the next one within the week need not be read whole.
    assert_eq!(std::fs::read_dir(server.data().join("verification"))?.count(), 0);
    monitor.sql("insert into t values (0, 'new')")?;
    let next = client.create_backup(&CreateBackup::default())?;
    let Verification::Verified(proof) = verified(&client, &next.id)? else {
        panic!("{:?}", client.backup(&next.id)?.verification);
    };
    assert_eq!(proof.depth, Depth::Start);

    let status = client.status()?;
    for name in ["last-backup", "last-verification", "clock", "settings"] {
        let check = status.checks.iter().find(|check| check.name == name).unwrap();
        assert_eq!(check.level, Level::Ok, "{check:?}");
    }
    let usage = wait_for("what takes the room", MINUTE, || {
        let space = client.status().map_err(|error| error.to_string())?.space;
        space.and_then(|space| space.usage).ok_or_else(|| format!("{space:?}"))
    })
    .map_err(|error| error.context(server.logs()))?;
    assert!(usage.replica > 20 << 20, "{usage:?}");
    // It is measured anew after each backup, and not an hour or a night later.
    let last = client.create_backup(&CreateBackup::default())?;
    wait_for("what takes the room after a backup", MINUTE, || {
        let space = client.status().map_err(|error| error.to_string())?.space;
        match space.and_then(|space| space.usage) {
            Some(usage) if usage.at > last.created => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .map_err(|error| error.context(server.logs()))?;
    let events = client.events(None)?.events;
    for kind in [EventKind::Started, EventKind::Paired, EventKind::Backup, EventKind::Verification] {
        assert!(events.iter().any(|event| event.kind == kind), "{kind:?} in {events:?}");
    }
    let last = events.last().unwrap().number;
    assert_eq!(client.events(Some(last - 1))?.events.len(), 1);
    Ok(())
}

#[test]
fn a_backup_that_was_damaged_fails_its_verification_and_stays() -> anyhow::Result<()> {
    let toolbox = Toolbox::open()?;
    let monitor = Monitor::start(&toolbox)?;
    let server = Server::start(&toolbox)?;
    monitor.sql("create table t as select g as id from generate_series(1, 100000) as g")?;
    let client = server.client()?;
    client.pair(&monitor.peer)?;
    server.wait_for_state(&["synchronized"], MINUTE)?;
    let backup = client.create_backup(&CreateBackup::default())?;
    verified(&client, &backup.id)?;
    // A page in the middle of the table, as a bad disk would leave it.
    let folder = server.data().join("backups").join(monitor.peer.id.to_string());
    let snapshot = folder.join(&backup.id);
    let path = monitor.sql("select pg_relation_filepath('t')")?;
    run(toolbox.command("btrfs").args(["property", "set"]).arg(&snapshot).args(["ro", "false"]))?;
    let file = snapshot.join("pgdata").join(path.trim());
    let file = std::fs::File::options().write(true).open(file)?;
    std::os::unix::fs::FileExt::write_all_at(&file, &[0x5a; 4096], 8192 * 20)?;
    run(toolbox.command("btrfs").args(["property", "set"]).arg(&snapshot).args(["ro", "true"]))?;

    client.verify_backup(&backup.id)?;
    let reason = wait_for("the failed verification", 3 * MINUTE, || match client.backup(&backup.id) {
        Ok(backup) => match backup.verification {
            Verification::Failed { reason, .. } => Ok(reason),
            other => Err(format!("{other:?}")),
        },
        Err(error) => Err(error.to_string()),
    })?;
    assert!(reason.contains("pg_amcheck failed"), "{reason}");
    let status = client.status()?;
    let check = status.checks.iter().find(|check| check.name == "last-verification").unwrap();
    assert_eq!(check.level, Level::Fail, "{check:?}");

    // A manifest that somebody tampered with: listed as damaged, neither hidden nor deleted.
    std::fs::write(folder.join(format!("{}.json", backup.id)), "{")?;
    let list = client.backups()?;
    assert!(list.damaged.iter().any(|damaged| damaged.id == backup.id), "{list:?}");
    let (code, answer) = server.curl(&["-X", "POST"], &format!("/v1/backups/{}/verify", backup.id))?;
    assert_eq!(code, 409, "{answer}");
    assert!(snapshot.is_dir());
    Ok(())
}

#[test]
fn what_is_pinned_stays_and_settings_are_checked_and_kept() -> anyhow::Result<()> {
    let toolbox = Toolbox::open()?;
    let monitor = Monitor::start(&toolbox)?;
    let mut server = Server::start(&toolbox)?;
    let client = server.client()?;
    client.pair(&monitor.peer)?;
    server.wait_for_state(&["synchronized"], MINUTE)?;
    let old = client.create_backup(&CreateBackup::default())?;
    let backup = client.create_backup(&CreateBackup::default())?;
    // Which of them is verified first decides what is kept.
    client.verify_backup(&backup.id)?;
    wait_for("the proof", 2 * MINUTE, || match client.backup(&backup.id) {
        Ok(backup) if matches!(backup.verification, Verification::Verified(_)) => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    client.set_comment(&backup.id, &SetComment { comment: "before the upgrade".into() })?;
    assert!(client.set_pin(&backup.id, SetPin { pinned: true })?.pinned);
    let pin = format!("/v1/backups/{}/pin", backup.id);
    let (code, answer) = server.curl(&["-X", "PUT", "-d", r#"{"pinned":false}"#], &pin)?;
    assert_eq!(code, 403, "{answer}");
    assert!(answer["error"].as_str().unwrap_or_default().contains("console"), "{answer}");
    let plan = client.rotation_plan()?;
    assert!(plan.kept.iter().any(|kept| kept.id == old.id && kept.why == KeptReason::Last), "{plan:?}");
    server.lower_floor()?;
    let plan = client.rotation_plan()?;
    assert!(plan.kept.iter().any(|kept| kept.id == backup.id && kept.why == KeptReason::Pinned), "{plan:?}");

    // A download, as ftpd does it.
    assert_eq!(plan.next_for_space.map(|next| next.id).as_deref(), Some(old.id.as_str()));
    let index = File::open(backups::index_path(&server.backups(monitor.peer.id), &old.id.parse()?))?;
    backups::download::hold(&index)?;
    let plan = client.rotation_plan()?;
    assert!(
        plan.kept.iter().any(|kept| kept.id == old.id && kept.why == KeptReason::Downloading),
        "{plan:?}"
    );
    drop(index);

    // Clear FTP is the console's to allow, and the status does not cease to say so.
    let ftp = |client: &Client| -> anyhow::Result<Check> {
        let checks = client.status()?.checks;
        checks.into_iter().find(|check| check.name == "ftp").context("there is no check `ftp`")
    };
    assert_eq!(ftp(&client)?.level, Level::Ok);
    let words = |options: &str| format!("{} order ftp {options}", hostd::PROGRAM);
    assert!(server.order_in_words(&words("--bytes-per-second 1")).is_err());
    let said = server.order_in_words(&words("--allow-clear true --passive-address 192.0.2.7"))?;
    assert!(said.contains("clear FTP is served too") && said.contains("192.0.2.7"), "{said}");
    let check = ftp(&client)?;
    assert_eq!(check.level, Level::Warn);
    server.order_in_words(check.message.split('`').nth(1).context("no order")?)?;
    assert_eq!(ftp(&client)?.level, Level::Ok);
    server.order_in_words(&words("--allow-unproven-data true"))?;
    let check = ftp(&client)?;
    assert_eq!(check.level, Level::Warn);
    server.order_in_words(check.message.split('`').nth(1).context("no order")?)?;
    assert_eq!(ftp(&client)?.level, Level::Ok);

    for (body, field, range) in [
        (
            r#"{"frequency":{"every":"hours","hours":25},"retention_days":1,"time_zone":"UTC"}"#,
            "frequency.hours",
            "1 to 24",
        ),
        (
            r#"{"frequency":{"every":"hours","hours":6},"retention_days":0,"time_zone":"UTC"}"#,
            "retention_days",
            "1 to 3650",
        ),
        (
            r#"{"frequency":{"every":"hours","hours":6},"retention_days":1,"time_zone":"Mars"}"#,
            "time_zone",
            "Europe/Berlin",
        ),
        (r#"{"frequency":{"every":"hours","hours":6},"retention_days":1}"#, "time_zone", "missing"),
    ] {
        let (code, answer) = server.curl(&["-X", "PUT", "-d", body], "/v1/settings")?;
        assert_eq!((code, answer["field"].as_str()), (400, Some(field)), "{answer}");
        assert!(answer["error"].as_str().unwrap_or_default().contains(range), "{answer}");
    }
    let settings = Settings {
        frequency: Frequency::Hours { hours: 6 },
        retention_days: None,
        time_zone: "Europe/Berlin".into(),
    };
    client.set_settings(&settings)?;
    // A daemon that is killed, and a disk that forgets: the settings and the pairing are still there.
    server.stop("TERM")?;
    server.damage_state("settings.json")?;
    server.start_hostd()?;
    server.start_backupd()?;
    let client = server.client()?;
    assert_eq!(client.settings()?, settings);
    let status = client.status()?;
    let check = status.checks.iter().find(|check| check.name == "settings").unwrap();
    assert_eq!(check.level, Level::Warn);
    assert!(check.message.contains("the last good copy is used"), "{check:?}");
    let kept = client.backup(&backup.id)?;
    assert!(kept.pinned && kept.comment == "before the upgrade", "{kept:?}");
    Ok(())
}
