//! What the replica has to live through: settings raised on the monitor, a volume that is not there, a certificate
//! that an authority signed, and a database that was prepared to attack the backup server.

use api::{CreateBackup, Verification};
use integration::{Certificate, Monitor, Server, wait_for};
use std::time::Duration;
use tools::Toolbox;

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn a_certificate_signed_by_an_authority_can_be_paired() -> anyhow::Result<()> {
    let toolbox = Toolbox::open()?;
    let monitor = Monitor::start_with(&toolbox, &Certificate::signed("monitor")?)?;
    let server = Server::start(&toolbox)?;
    server.client()?.pair(&monitor.peer)?;
    server.wait_for_state(&["synchronized"], MINUTE)?;
    Ok(())
}

#[test]
fn a_setting_raised_on_the_monitor_does_not_end_replay() -> anyhow::Result<()> {
    let toolbox = Toolbox::open()?;
    let mut monitor = Monitor::start(&toolbox)?;
    let server = Server::start(&toolbox)?;
    server.client()?.pair(&monitor.peer)?;
    server.wait_for_state(&["synchronized"], MINUTE)?;

    monitor.sql("alter system set max_connections = 120")?;
    monitor.stop()?;
    monitor.run_server()?;
    monitor.sql("create table t as select generate_series(1, 100) as id; grant select on t to public")?;
    wait_for("the new table in the replica", MINUTE, || {
        match integration::query_replica(&toolbox, &server, &monitor, "select count(*) from t") {
            Ok(rows) if rows == "100" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })?;
    let setting = integration::query_replica(&toolbox, &server, &monitor, "show max_connections")?;
    assert_eq!(setting, "120");
    server.wait_for_state(&["synchronized"], MINUTE)?;
    Ok(())
}

#[test]
fn a_volume_that_is_not_mounted_is_no_empty_list_and_no_reason_for_a_copy() -> anyhow::Result<()> {
    let toolbox = Toolbox::open()?;
    let monitor = Monitor::start(&toolbox)?;
    let server = Server::start(&toolbox)?;
    let client = server.client()?;
    server.set_volume_problem(Some("no btrfs with the label data"))?;
    client.pair(&monitor.peer)?;
    let status = server.wait_for_state(&["failed"], Duration::from_secs(10))?;
    assert!(status.message.contains("data volume cannot be used: no btrfs with"), "{}", status.message);
    assert_eq!(status.space, None);
    let (code, answer) = server.curl(&[], "/v1/backups")?;
    assert_eq!(code, 503, "{answer}");
    let (code, answer) = server.curl(&["-X", "POST"], "/v1/backups")?;
    assert_eq!(code, 503, "{answer}");
    assert!(answer["error"].as_str().unwrap_or_default().contains("no btrfs with"), "{answer}");
    assert_eq!(std::fs::read_dir(server.data().join("replica"))?.count(), 0);

    server.set_volume_problem(None)?;
    server.wait_for_state(&["synchronized"], MINUTE)?;
    // What stands there and is no monitor's folder hides nothing.
    std::fs::write(server.data().join("backups/notes"), "")?;
    let made = client.create_backup(&CreateBackup::default())?;
    assert!(client.backups()?.backups.iter().any(|backup| backup.id == made.id));
    Ok(())
}

/// Whoever owns the monitor's database may prepare it (design D7: hostile input): a trigger at every login, libraries and
/// commands in its settings, a multitude of files. Nothing of it runs on the backup server, and it is followed, backed
/// up and proven all the same.
#[test]
fn nothing_that_came_with_the_database_runs() -> anyhow::Result<()> {
    let toolbox = Toolbox::open()?;
    let monitor = Monitor::start(&toolbox)?;
    let server = Server::start(&toolbox)?;
    monitor.sql(
        "create function attack() returns event_trigger language plpgsql security definer as $$ \
         begin raise log 'the trigger ran'; if pg_is_in_recovery() then \
         copy (select 1) to program '/bin/sh -c \"echo ran > /srv/cluster/pgdata/ran\"'; \
         end if; end $$; \
         create event trigger attack on login execute function attack(); \
         alter event trigger attack enable always; \
         alter database postgres set event_triggers = on; \
         alter role backup_server set event_triggers = on; \
         alter role postgres set event_triggers = on",
    )?;
    let touch = "echo ran > /srv/cluster/pgdata/ran";
    for (name, value) in [
        ("archive_cleanup_command", touch),
        ("recovery_end_command", touch),
        ("restore_command", "echo ran > /srv/cluster/pgdata/ran; false"),
        ("archive_command", touch),
        ("ssl_passphrase_command", touch),
        ("shared_preload_libraries", "/srv/cluster/pgdata/attack"),
        ("session_preload_libraries", "/srv/cluster/pgdata/attack"),
    ] {
        monitor.sql(&format!("alter system set {name} = '{value}'"))?;
    }
    std::fs::write(monitor.data().join("attack.so"), "no library")?;
    let many = monitor.data().join("base/many");
    std::fs::create_dir(&many)?;
    for number in 0..5000 {
        std::fs::write(many.join(format!("file-{number}")), "")?;
    }
    monitor.own_data()?;
    let client = server.client()?;
    client.pair(&monitor.peer)?;
    server.wait_for_state(&["synchronized"], MINUTE)?;
    let backup = client.create_backup(&CreateBackup::default())?;
    client.verify_backup(&backup.id)?;
    wait_for("the proof", 3 * MINUTE, || match client.backup(&backup.id) {
        Ok(backup) if matches!(backup.verification, Verification::Verified(_)) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .map_err(|error| error.context(server.logs()))?;
    let replica = server.data().join("replica").join(monitor.peer.id.to_string());
    assert!(!replica.join("pgdata/ran").exists(), "a command ran");
    let log = server.hostd_log()?;
    assert!(!log.contains("the trigger ran") && !log.contains("could not execute"), "{}", server.logs());
    Ok(())
}

/// Without the right to switch triggers off nobody logs in, and the state says what to do.
#[test]
fn a_login_without_the_right_to_switch_triggers_off_is_not_made() -> anyhow::Result<()> {
    let toolbox = Toolbox::open()?;
    let monitor = Monitor::start(&toolbox)?;
    let server = Server::start(&toolbox)?;
    monitor.sql("revoke set on parameter event_triggers from backup_server")?;
    server.client()?.pair(&monitor.peer)?;
    let status = server.wait_for_state(&["failed"], MINUTE)?;
    assert!(status.message.contains("event_triggers"), "{}", status.message);
    assert!(status.message.contains("monitor-link setup"), "{}", status.message);
    monitor.sql("grant set on parameter event_triggers to backup_server")?;
    server.wait_for_state(&["synchronized"], MINUTE)?;
    Ok(())
}

/// A link among the tablespaces leads the monitor's own server to send whatever it points to, and a copy to put it
/// there: outside of its place nothing can be written.
#[test]
fn a_tablespace_link_leads_nowhere() -> anyhow::Result<()> {
    let toolbox = Toolbox::open()?;
    let monitor = Monitor::start(&toolbox)?;
    let server = Server::start(&toolbox)?;
    let outside = integration::test_folder()?;
    std::fs::set_permissions(outside.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777))?;
    let link = monitor.data().join("pg_tblspc/99999");
    let target = outside.path().join("PG_17_202406281/1");
    std::fs::create_dir_all(&target)?;
    std::fs::write(target.join("2"), "what the monitor sends")?;
    std::os::unix::fs::symlink(outside.path(), &link)?;
    let client = server.client()?;
    client.pair(&monitor.peer)?;
    let status = server.wait_for_state(&["failed"], MINUTE)?;
    assert!(status.message.contains("full copy failed"), "{}", status.message);
    assert!(server.left_over(monitor.peer.id).is_err(), "there is a replica");
    std::fs::remove_file(&link)?;
    server.wait_for_state(&["synchronized"], MINUTE)?;
    Ok(())
}
