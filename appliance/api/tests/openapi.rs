//! The OpenAPI document says what the types say: samples of each type are valid under its schema, and no schema has or
//! lacks a field.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use api::{
    Attempt, Backup, BackupList, Check, CreateBackup, DamagedBackup, Deletion, DeletionReason, Depth,
    ErrorBody, Event, EventKind, EventList, Frequency, Kept, KeptReason, Level, Limits, NextByAge, OPENAPI,
    Peer, PeerInfo, PendingRetention, Progress, Proof, Reading, RetentionState, RotationPlan, SetComment,
    SetPin, Settings, Space, State, Status, StuckReason, Trouble, Usage, Verification, VerifyBackup,
    Versions,
};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use uuid::Uuid;

fn document() -> Value {
    serde_saphyr::from_str(OPENAPI).unwrap()
}

/// Refuses properties that a schema does not name.
fn seal(schema: &mut Value) {
    match schema {
        Value::Object(members) => {
            members.values_mut().for_each(seal);
            if members.contains_key("properties") {
                members.insert("additionalProperties".into(), false.into());
            }
        }
        Value::Array(items) => items.iter_mut().for_each(seal),
        _ => {}
    }
}

fn check(name: &str, sample: impl Serialize) {
    let sample = serde_json::to_value(sample).unwrap();
    let mut components = document()["components"].clone();
    seal(&mut components["schemas"]);
    let schema = json!({ "$ref": format!("#/components/schemas/{name}"), "components": components });
    let validator = jsonschema::validator_for(&schema).unwrap();
    let errors: Vec<_> =
        validator.iter_errors(&sample).map(|error| format!("{error} at {}", error.instance_path())).collect();
    assert!(errors.is_empty(), "{name}: {errors:#?}\n{sample:#}");
}

fn monitor() -> Uuid {
    Uuid::from_u128(7)
}

fn peer() -> Peer {
    Peer { id: monitor(), ..api::testing::peer() }
}

fn backup(verification: Verification) -> Backup {
    let json = json!({
        "format": 1, "id": "20261123T205430Z", "created": "2026-11-23T20:54:30Z", "reason": "before-resync",
        "monitor": {"id": monitor(), "version": "1.0"},
        "postgresql": {"major": 17, "version": "17.6", "system_identifier": "1", "timeline": 1, "superuser": "postgres",
            "flushed_lsn": "0/1", "block_size": 8192, "checksums": true,
            "collations": [{"database": "a", "provider": "c", "collate": "C", "ctype": "C", "version": null}]},
        "sizes": {"files": 1, "tar": 2}, "snapshot_ms": 1.0, "verification": {"status": "pending"}
    });
    Backup { verification, ..serde_json::from_value(json).unwrap() }
}

#[test]
fn every_state_is_valid() {
    let progress = Progress { done: 1, total: 2, percent: 50, rate: 1, seconds_left: None };
    let since = Timestamp::UNIX_EPOCH;
    let reason = String::from("x");
    let states = [
        State::NotConnected,
        State::Connecting,
        State::InitialSync(progress),
        State::Synchronized { lag_bytes: 0, lag_seconds: 0.5 },
        State::Lagging { lag_bytes: 1, lag_seconds: 20.0 },
        State::Disconnected { since, reason: reason.clone(), slot_seconds_left: Some(7) },
        State::OutOfSync { reason: reason.clone(), copy: None },
        State::OutOfSync { reason: reason.clone(), copy: Some(progress) },
        State::Incompatible { reason: reason.clone() },
        State::Updating,
        State::Failed { reason },
    ];
    for state in states {
        let status = Status {
            state,
            since,
            message: "x".into(),
            peer: Some(peer().info()),
            checks: vec![Check { name: "clock".into(), level: Level::Fail, message: String::new() }],
            space: Some(Space {
                total: 2,
                free: 1,
                usage: Some(Usage { at: since, replica: 1, backups: 0 }),
                low_at: Some(since),
            }),
            versions: Versions { server: "1".into(), postgresql: 17 },
        };
        check("Status", Status { peer: None, space: None, ..status.clone() });
        check("Status", status);
    }
}

#[test]
fn every_answer_and_body_is_valid() {
    let at = Timestamp::UNIX_EPOCH;
    let proof =
        Proof { at, recovery_seconds: 1.0, seconds: 2.0, depth: Depth::Full, limits: vec!["x".into()] };
    for verification in [
        Verification::Pending,
        Verification::Superseded,
        Verification::Verified(proof),
        Verification::Failed { at, reason: "x".into() },
    ] {
        check("Backup", backup(verification));
    }
    for attempt in [Attempt::Verify, Attempt::Read] {
        let trouble = Some(Trouble { attempt, since: at, at, times: 1, reason: "x".into(), disk: false });
        let read = Some(Reading { at, same: true });
        check("Backup", Backup { trouble, read, ..backup(Verification::Pending) });
    }
    let damaged = vec![DamagedBackup { id: "x".into(), problem: "y".into() }];
    let backups = vec![backup(Verification::Pending)];
    check(
        "BackupList",
        BackupList { backups, damaged, verifying: Some("x".into()), exclusive: [("x".into(), 1)].into() },
    );
    check("BackupList", BackupList::default());
    check("Peer", peer());
    let info: PeerInfo = peer().info();
    check("PeerInfo", info);
    let time = "03:00".parse().unwrap();
    let on = api::Day::Sunday;
    for frequency in
        [Frequency::Hours { hours: 6 }, Frequency::Day { at: time }, Frequency::Week { on, at: time }]
    {
        check("Settings", Settings { frequency, ..Settings::default() });
    }
    check("Settings", Settings { retention_days: None, ..Settings::default() });
    check("CreateBackup", CreateBackup { comment: "x".into() });
    check("SetPin", SetPin { pinned: true });
    check("SetComment", SetComment { comment: "x".into() });
    check("VerifyBackup", VerifyBackup {});
    check("ErrorBody", ErrorBody { error: "x".into(), field: Some("y".into()) });
    let (monitor, id) = (monitor(), String::from("20261123T205430Z"));
    let deletion = |why| Deletion { monitor, id: id.clone(), why };
    let kept = |why| Kept { monitor, id: id.clone(), why };
    let plan = RotationPlan {
        limits: Limits::default(),
        now: [DeletionReason::Age, DeletionReason::Space, DeletionReason::OnDemand].map(deletion).into(),
        next_for_space: Some(deletion(DeletionReason::Space)),
        next_by_age: Some(NextByAge { monitor, id: id.clone(), at }),
        kept: [
            KeptReason::Pinned,
            KeptReason::NewestVerified,
            KeptReason::Newest,
            KeptReason::BeforeResync,
            KeptReason::Downloading,
            KeptReason::Last,
            KeptReason::Young,
        ]
        .map(kept)
        .into(),
        stuck: true,
        stuck_reason: Some(StuckReason::DailyShare),
        clock_is_trusted: true,
        clock_offset_seconds: 7,
        retention: RetentionState {
            days: None,
            pending: Some(PendingRetention { days: Some(1), seconds_left: 7, would_go: 2 }),
            refused: false,
        },
    };
    let unstuck = RotationPlan { stuck: false, stuck_reason: None, ..plan.clone() };
    check("RotationPlan", RotationPlan { retention: RetentionState::default(), ..unstuck });
    check("RotationPlan", RotationPlan { stuck_reason: Some(StuckReason::Floor), ..plan.clone() });
    check("RotationPlan", RotationPlan { next_for_space: None, next_by_age: None, ..plan.clone() });
    check("RotationPlan", plan);
    let kinds = [
        EventKind::Started,
        EventKind::Paired,
        EventKind::State,
        EventKind::FullCopy,
        EventKind::Backup,
        EventKind::Verification,
        EventKind::Rotation,
        EventKind::Settings,
    ];
    let event =
        |kind| Event { number: 1, at, kind, level: Level::Ok, message: "x".into(), backup: Some("y".into()) };
    check("EventList", EventList { events: kinds.map(event).into() });
}

#[test]
fn every_schema_is_used_and_every_reference_leads_somewhere() {
    let document = document();
    let mut used = BTreeSet::new();
    references(&document, &mut used);
    for reference in &used {
        let pointer = reference.strip_prefix('#').expect("references stay in the document");
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }
    for name in document["components"]["schemas"].as_object().unwrap().keys() {
        assert!(used.contains(&format!("#/components/schemas/{name}")), "nothing refers to {name}");
    }
}

fn references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(members) => {
            if let Some(reference) = members.get("$ref").and_then(Value::as_str) {
                found.insert(reference.into());
            }
            members.values().for_each(|value| references(value, found));
        }
        Value::Array(items) => items.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}
