//! What somebody with the network password, the monitor and the time server in hand can do to the list of backups: nothing
//! that the console does not see in time. `backupd` runs without privileges, as on the appliance.

use anyhow::{Context, Result};
use api::{Backup, Check, Client, CreateBackup, Level, SetPin, Settings, Verification};
use integration::{Server, monitor_with_rows, wait_for};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::time::Duration;
use tools::Toolbox;
use uuid::Uuid;

const MINUTE: Duration = Duration::from_secs(60);

fn check(client: &Client, name: &str) -> Result<Check> {
    let checks = client.status()?.checks;
    checks.into_iter().find(|check| check.name == name).with_context(|| format!("there is no check {name}"))
}

fn wait_for_check(client: &Client, name: &str, level: Level, part: &str) -> Result<Check> {
    wait_for(&format!("{level:?} of {name}"), 3 * MINUTE, || match check(client, name) {
        Ok(check) if check.level == level && check.message.contains(part) => Ok(check),
        other => Err(format!("{other:?}")),
    })
}

fn list(client: &Client) -> Result<Vec<Backup>> {
    let mut backups = client.backups()?.backups;
    backups.sort_by(|one, other| other.order().cmp(&one.order()));
    Ok(backups)
}

fn ids(client: &Client) -> Result<Vec<String>> {
    Ok(list(client)?.into_iter().map(|backup| backup.id).collect())
}

/// Changes a JSON document as a clock that was wrong would have written it.
fn edit(path: &Path, change: impl FnOnce(&mut Value)) -> Result<()> {
    let mut document = serde_json::from_slice(&fs::read(path)?)?;
    change(&mut document);
    // Readers that remember files by their identity see another one.
    let new = path.with_extension("edited");
    fs::write(&new, serde_json::to_vec(&document)?)?;
    std::os::unix::fs::chown(&new, Some(0), Some(integration::OBSERVER.1))?;
    fs::rename(&new, path).context("cannot replace the document")
}

fn date(server: &Server, monitor: Uuid, id: &str, created: Timestamp) -> Result<()> {
    let path = server.backups(monitor).join(format!("{id}.json"));
    edit(&path, |manifest| manifest["created"] = json!(created))
}

fn order(server: &Server, words: &str) -> Result<String> {
    server.order_in_words(&format!("{} order {words}", hostd::PROGRAM))
}

#[test]
fn the_network_empties_no_list_and_fills_no_volume() -> Result<()> {
    let toolbox = Toolbox::open()?;
    let monitor = monitor_with_rows(&toolbox, 100)?;
    let mut server = Server::start_unprivileged(&toolbox)?;
    let client = server.client()?;
    client.pair(&monitor.peer)?;
    server.wait_for_state(&["synchronized"], 2 * MINUTE)?;
    wait_for("the scheduled backup", 2 * MINUTE, || match client.backups() {
        Ok(list) if !list.backups.is_empty() => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .map_err(|error| error.context(server.logs()))?;

    wishes_are_limited(&mut server)?;
    numbers_are_given_once(&server)?;
    pins_are_limited(&server)?;
    retention_waits_for_the_console(&mut server, monitor.peer.id)?;
    a_stuck_volume_deletes_nothing(&server)?;
    clocks_delete_nothing(&mut server, monitor.peer.id)
}

fn wishes_are_limited(server: &mut Server) -> Result<()> {
    let wish = |server: &Server| server.curl(&["-X", "POST"], "/v1/backups");
    assert_eq!(wish(server)?.0, 201, "{}", server.logs());
    let (code, answer) = wish(server)?;
    let error = answer["error"].as_str().unwrap_or_default();
    assert_eq!(code, 429, "{answer}");
    assert!(error.contains("every 60 s at most, and 24 in a day; try again in"), "{error}");
    order(server, "limits --on-demand-seconds 0 --on-demand-per-day 6")?;
    for _ in 0..5 {
        assert_eq!(wish(server)?.0, 201);
    }
    // A privileged process that is restarted has forgotten nothing.
    server.stop("TERM")?;
    server.start_hostd()?;
    server.start_backupd()?;
    server.wait_for_state(&["synchronized"], 2 * MINUTE)?;
    let (code, answer) = wish(server)?;
    assert_eq!(code, 429, "{answer}");
    order(server, "limits --on-demand-per-day 100").map(drop)
}

fn numbers_are_given_once(server: &Server) -> Result<()> {
    let client = server.client()?;
    let numbers: Vec<u64> = list(&client)?.iter().map(|backup| backup.sequence).collect();
    assert!(numbers.is_sorted_by(|newer, older| newer > older) && !numbers.contains(&0), "{numbers:?}");
    let newest = list(&client)?.remove(0);
    order(server, &format!("delete-backup {}", newest.id))?;
    let next = client.create_backup(&CreateBackup::default())?;
    assert!(next.sequence > newest.sequence, "{} after {}", next.sequence, newest.sequence);
    Ok(())
}

fn pins_are_limited(server: &Server) -> Result<()> {
    let client = server.client()?;
    order(server, "limits --pinned 1")?;
    let oldest = ids(&client)?;
    let (one, other) = (&oldest[oldest.len() - 2], &oldest[oldest.len() - 1]);
    assert!(client.set_pin(one, SetPin { pinned: true })?.pinned);
    assert!(client.set_pin(one, SetPin { pinned: true })?.pinned, "said again");
    let body = ["-X", "PUT", "-d", r#"{"pinned":true}"#];
    let (code, answer) = server.curl(&body, &format!("/v1/backups/{other}/pin"))?;
    assert_eq!(code, 409, "{answer}");
    let error = answer["error"].as_str().unwrap_or_default();
    assert!(error.contains("may pin up to 1;") && error.contains("order unpin"), "{error}");
    order(server, &format!("unpin {one}")).map(drop)
}

fn retention_waits_for_the_console(server: &mut Server, monitor: Uuid) -> Result<()> {
    let client = server.client()?;
    order(server, "limits --min-age-hours 0 --keep-last 1 --keep-verified 1")?;
    let all = ids(&client)?;
    let newest = all[0].clone();
    client.verify_backup(&newest)?;
    wait_for("the newest one's proof, by which the others need none", 5 * MINUTE, || {
        match client.backups() {
            Ok(list) if list.backups.iter().all(|backup| backup.verification != Verification::Pending) => {
                Ok(())
            }
            other => Err(format!("{other:?}")),
        }
    })
    .map_err(|error| error.context(server.logs()))?;
    let week = Timestamp::now() - SignedDuration::from_hours(7 * 24);
    for id in &all[1..] {
        date(server, monitor, id, week)?;
    }
    let keep = |days| Settings { retention_days: Some(days), ..Settings::default() };
    client.set_settings(&keep(1))?;
    let would_go = format!("for 1 day only, by which {} would be deleted now", all.len() - 1);
    let waits = wait_for_check(&client, "retention", Level::Warn, &would_go)?;
    // A restart does not shorten the delay, and nothing has gone.
    server.stop("TERM")?;
    server.start_hostd()?;
    server.start_backupd()?;
    let client = server.client()?;
    let pending = client.rotation_plan()?.retention.pending.context("nothing waits")?;
    assert!(pending.seconds_left > 71 * 3600, "{pending:?}");
    assert_eq!(ids(&client)?, all);
    let events = client.events(None)?.events;
    assert!(events.iter().any(|event| event.message == waits.message), "{events:?}");

    // The console refuses; what is asked for next waits anew, and then the console confirms, each in the check's own words.
    let words =
        |check: &Check, at| check.message.split('`').nth(at).map(ToOwned::to_owned).context("no words");
    let said = server.order_in_words(&words(&waits, 3)?)?;
    assert!(said.contains("kept for 30 days") && said.contains("refused"), "{said}");
    wait_for_check(&client, "retention", Level::Warn, "the console has refused")?;
    client.set_settings(&keep(2))?;
    let waits = wait_for_check(&client, "retention", Level::Warn, "for 2 days only")?;
    assert_eq!(ids(&client)?, all);
    server.order_in_words(&words(&waits, 1)?)?;
    wait_for("the end of the old ones", 3 * MINUTE, || match ids(&client) {
        Ok(left) if left == [newest.clone()] => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .map_err(|error| error.context(server.logs()))?;
    wait_for_check(&client, "retention", Level::Ok, "kept for 2 days").map(drop)
}

fn a_stuck_volume_deletes_nothing(server: &Server) -> Result<()> {
    let client = server.client()?;
    order(server, "limits --min-age-hours 24 --keep-last 3")?;
    for _ in 0..4 {
        client.create_backup(&CreateBackup::default())?;
    }
    let all = ids(&client)?;
    let filler = server.data().join("filler");
    server.fill(&filler, 5 << 30)?;
    wait_for_check(&client, "free-space", Level::Fail, "no backup may be deleted")?;
    assert!(client.rotation_plan()?.stuck);
    server.fill(&filler, 900 << 20)?;
    let status = server.wait_for_state(&["failed"], 2 * MINUTE)?;
    assert!(status.message.contains("data volume is full"), "{}", status.message);
    assert_eq!(ids(&client)?, all);
    fs::remove_file(&filler)?;
    server.wait_for_state(&["synchronized"], 3 * MINUTE).map(drop)
}

fn clocks_delete_nothing(server: &mut Server, monitor: Uuid) -> Result<()> {
    // The clock moved by 30 h while nobody looked.
    server.stop("TERM")?;
    edit(&server.hostd_state("clock.json"), |document| {
        let seen = Timestamp::now() - SignedDuration::from_hours(30);
        document["value"]["seen"] = json!(seen);
    })?;
    server.start_hostd()?;
    server.start_backupd()?;
    let client = server.client()?;
    let plan = client.rotation_plan()?;
    assert!(!plan.clock_is_trusted && plan.clock_offset_seconds > 29 * 3600, "{plan:?}");
    let doubt = wait_for_check(&client, "clock", Level::Fail, "order confirm-clock")?;
    server.order_in_words(doubt.message.split('`').nth(1).context("no words")?)?;
    assert!(client.rotation_plan()?.clock_is_trusted);

    // A backup of 2036 is a failure, and not the last success.
    let newest = ids(&client)?.remove(0);
    date(server, monitor, &newest, "2036-01-01T00:00:00Z".parse()?)?;
    let check = check(&client, "last-backup")?;
    assert_eq!(check.level, Level::Fail, "{check:?}");
    assert!(check.message.contains("dated in the future"), "{check:?}");
    Ok(())
}
