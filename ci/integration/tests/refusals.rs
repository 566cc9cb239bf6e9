//! Bad input: what each wrong peer and each wrong request gets, word by word where people read it.

use api::{Peer, Secret};
use integration::{Certificate, Monitor, Server, free_port};
use std::time::{Duration, Instant};
use tools::{Toolbox, Tree};

/// Within this time a status must say what is wrong with a peer (issue 2).
const LIMIT: Duration = Duration::from_secs(10);

/// Pairs with `peer` and expects the state `name` with a message that has every one of `parts`.
fn expect(toolbox: &Toolbox, peer: &Peer, name: &str, parts: &[&str]) -> anyhow::Result<()> {
    let server = Server::start(toolbox)?;
    let started = Instant::now();
    server.client()?.pair(peer)?;
    let status = server.wait_for_state(&[name], LIMIT)?;
    assert!(started.elapsed() < LIMIT);
    let endpoint = format!("127.0.0.1:{}", peer.port);
    for part in parts.iter().copied().chain([endpoint.as_str()]) {
        assert!(status.message.contains(part), "{part:?} is not in {:?}", status.message);
    }
    Ok(())
}

/// A sound pairing with a monitor that is not there.
fn unreachable_peer() -> anyhow::Result<Peer> {
    Ok(Peer {
        id: uuid::Uuid::new_v4(),
        version: "1".into(),
        address: "127.0.0.1".into(),
        port: free_port()?,
        user: "backup_server".into(),
        password: Secret::new("x"),
        slot: "backup_server".into(),
        database: "postgres".into(),
        configuration: std::collections::BTreeMap::new(),
        signing_key: None,
        signature: None,
        certificate: Certificate::new("monitor")?.certificate,
    })
}

#[test]
fn a_peer_that_cannot_be_reached_is_named_with_address_and_port() -> anyhow::Result<()> {
    let toolbox = Toolbox::open()?;
    expect(&toolbox, &unreachable_peer()?, "disconnected", &["cannot be reached", "refused"])
}

#[test]
fn a_wrong_certificate_is_refused_before_the_password_is_sent() -> anyhow::Result<()> {
    let toolbox = Toolbox::open()?;
    let monitor = Monitor::start(&toolbox)?;
    let mut peer = Peer { certificate: Certificate::new("monitor")?.certificate, ..monitor.peer.clone() };
    // Nothing that a restore would apply: only the key at the other end vouches for that.
    peer.configuration.clear();
    (peer.signing_key, peer.signature) = (None, None);
    expect(&toolbox, &peer, "failed", &["shows another certificate than the one that was paired"])
}

#[test]
fn a_wrong_password_and_a_missing_right_are_said_to_be() -> anyhow::Result<()> {
    let toolbox = Toolbox::open()?;
    let monitor = Monitor::start(&toolbox)?;
    let peer = Peer { password: Secret::new("wrong"), ..monitor.peer.clone() };
    expect(&toolbox, &peer, "failed", &["refuses the password of role backup_server"])?;
    monitor.sql("alter role backup_server noreplication")?;
    expect(&toolbox, &monitor.peer, "failed", &["lacks the REPLICATION attribute"])?;
    monitor.sql("alter role backup_server replication")?;
    // The role may replicate, but pg_hba.conf admits it to database postgres only.
    monitor.write_hba(&["postgres"])?;
    monitor.sql("select pg_reload_conf()")?;
    expect(&toolbox, &monitor.peer, "failed", &["no pg_hba.conf entry for replication connection"])
}

#[test]
fn another_major_is_named_with_both_versions() -> anyhow::Result<()> {
    let monitor = Monitor::start(&Toolbox::open_tree(Tree::OLD_POSTGRESQL)?)?;
    expect(&Toolbox::open()?, &monitor.peer, "incompatible", &["PostgreSQL 15.", "17"])
}

#[test]
fn malformed_requests_are_refused_with_the_fields_name() -> anyhow::Result<()> {
    let toolbox = Toolbox::open()?;
    let server = Server::start(&toolbox)?;
    let put = |body: &str| server.curl(&["-X", "PUT", "-d", body], "/v1/peer");
    let (code, answer) =
        put(r#"{"id":"00000000-0000-0000-0000-000000000001","version":"1","address":"a","port":"x"}"#)?;
    assert_eq!((code, answer["field"].as_str()), (400, Some("port")), "{answer}");
    let (code, answer) = put(r#"{"id":"00000000-0000-0000-0000-000000000001"}"#)?;
    assert_eq!((code, answer["field"].as_str()), (400, Some("version")), "{answer}");
    let damaged = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let mut peer = serde_json::to_value(unreachable_peer()?)?;
    peer["certificate"] = damaged.into();
    let (code, answer) = put(&peer.to_string())?;
    assert_eq!((code, answer["field"].as_str()), (400, Some("certificate")), "{answer}");
    let (code, answer) = put("{")?;
    assert_eq!(code, 400, "{answer}");
    let (code, answer) = server.curl(&["-X", "POST"], "/v1/backups")?;
    assert_eq!(code, 409, "{answer}");
    let (code, _) = server.curl(&[], "/v1/nothing")?;
    assert_eq!(code, 404);
    // Whatever is wrong, and whoever notices it, the answer is the JSON of an error.
    for (arguments, path, expected, field) in [
        (&[][..], "/v1/events?after=x", 400, Some("after")),
        (&[], "/v1/events?after=-1", 400, Some("after")),
        (&[], "/v1/events?after=1&after=2", 400, Some("after")),
        (&[], "/v1/events?after=%FF", 400, Some("after")),
        (&[], "/v1/backups/%FF", 400, None),
        (&["-X", "PUT", "-d", "{}"], "/v1/backups/%FF/pin", 400, None),
        (&[], "/v1/backups/x", 404, None),
        (&["-X", "DELETE"], "/v1/status", 405, None),
        (&["-X", "BREW"], "/v1/peer", 405, None),
        (&["-X", "POST", "-d", "7"], "/v1/backups", 400, None),
        (&["-X", "PUT", "-d", "\u{1}"], "/v1/settings", 400, None),
        (&["-X", "OPTIONS"], "/", 404, None),
    ] {
        let (code, answer) = server.curl(arguments, path)?;
        assert!(answer["error"].is_string(), "{path}: {answer}");
        assert_eq!((code, answer["field"].as_str()), (expected, field), "{arguments:?} {path}: {answer}");
    }
    let large = server.folder_file("large", &"x".repeat(20_000))?;
    let (code, answer) =
        server.curl(&["-X", "PUT", "-d", &format!("@{}", large.display())], "/v1/settings")?;
    assert_eq!((code, answer["error"].is_string()), (413, true), "{answer}");
    let (code, _) = server.curl(&["-u", "backup:wrong"], "/v1/status")?;
    assert_eq!(code, 401);
    let (code, _) = server.curl(&["-u", "root:correct horse"], "/v1/status")?;
    assert_eq!(code, 401);
    Ok(())
}
