//! What the replica has to live through: settings raised on the monitor, a volume that is not there, a certificate
//! that an authority signed, and a database that was prepared to attack the backup server.

use api::CreateBackup;
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

/// Whoever owns the monitor's database may prepare it so that a login to the replica runs SQL as the superuser there
/// (design D7: hostile input). No program can be started by it.
#[test]
fn a_login_trigger_that_came_with_the_database_starts_no_program() -> anyhow::Result<()> {
    let toolbox = Toolbox::open()?;
    let monitor = Monitor::start(&toolbox)?;
    let server = Server::start(&toolbox)?;
    monitor.sql(
        "create function attack() returns event_trigger language plpgsql security definer as $$ \
         begin if pg_is_in_recovery() then \
         copy (select 1) to program '/bin/sh -c \"echo ran > /srv/cluster/pgdata/ran\"'; \
         end if; end $$; \
         create event trigger attack on login execute function attack(); \
         alter event trigger attack enable always; \
         alter database postgres set event_triggers = on",
    )?;
    server.client()?.pair(&monitor.peer)?;
    // `event_triggers = off` in our file does not hold: ALTER DATABASE overrides it. What holds is that a cluster sees
    // no program, and that the state says what happened.
    let status = server.wait_for_state(&["failed"], MINUTE)?;
    assert!(status.message.contains("could not execute command"), "{}", status.message);
    let ran = server.data().join("replica").join(monitor.peer.id.to_string()).join("pgdata/ran");
    assert!(!ran.exists(), "the trigger ran a program");
    Ok(())
}
