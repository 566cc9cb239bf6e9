//! Pairing, full copy, streaming, backup, restart: on real PostgreSQL and btrfs.

use api::{CreateBackup, Peer, Secret};
use integration::{Monitor, Restored, Server, wait_for};
use std::fs::File;
use std::sync::Arc;
use std::time::Duration;
use tools::Toolbox;

/// Number and content of all rows, whatever their order.
const CHECKSUM: &str = "select count(*), sum(hashtextextended(t::text, 0)) from t";
const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn a_monitor_is_copied_followed_and_backed_up() -> anyhow::Result<()> {
    let toolbox = Toolbox::open()?;
    let monitor = Monitor::start(&toolbox)?;
    monitor.sql("create table t as select generate_series(1, 10000) as id; grant select on t to public")?;
    let mut server = Server::start(&toolbox)?;
    let client = server.client()?;
    assert_eq!(client.status()?.state.name(), "not-connected");

    client.pair(&monitor.peer)?;
    let status = server.wait_for_state(&["synchronized"], MINUTE)?;
    assert_eq!(status.checks[0].level, api::Level::Ok, "{status:?}");

    monitor.sql("insert into t select generate_series(10001, 20000)")?;
    let replica_has = |expected: &str| {
        wait_for(&format!("{expected} rows in the replica"), MINUTE, || {
            let rows = integration::query_replica(&toolbox, &server, &monitor, "select count(*) from t");
            match rows {
                Ok(rows) if rows == expected => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
    };
    replica_has("20000")?;

    let backup = client.create_backup(&CreateBackup { comment: "before the change".into() })?;
    assert_eq!(backup.comment, "before the change");
    assert_eq!(backup.postgresql.major, 17);
    assert!(backup.postgresql.checksums);
    assert!(client.backups()?.backups.iter().any(|listed| listed.id == backup.id));
    let folder = server.data().join("backups").join(monitor.peer.id.to_string());
    assert!(folder.join(&backup.id).join("pgdata/PG_VERSION").is_file());
    let index = Arc::new(vtar::Index::read_from(File::open(folder.join(format!("{}.index", backup.id)))?)?);
    assert_eq!(index.len(), backup.sizes.tar);
    let restored = Restored::start(&toolbox, &backup, index.reader(folder.join(&backup.id))?)?;
    assert_eq!(restored.sql(CHECKSUM)?, monitor.sql(CHECKSUM)?);

    // The password changes: the running replica goes on with the new one, not with what it was started with.
    monitor.sql(
        "alter role backup_server password 'another'; \
         select pg_terminate_backend(pid) from pg_stat_replication; \
         insert into t select generate_series(20001, 25000)",
    )?;
    client.pair(&Peer { password: Secret::new("another"), ..monitor.peer.clone() })?;
    replica_has("25000")?;

    // The daemon and the privileged process die and come back: the stream goes on, the backup is still there.
    server.stop("KILL")?;
    monitor.sql("insert into t select generate_series(25001, 30000)")?;
    server.start_hostd()?;
    server.start_backupd()?;
    server.wait_for_state(&["synchronized"], MINUTE)?;
    let rows = integration::query_replica(&toolbox, &server, &monitor, "select count(*) from t")?;
    assert_eq!(rows, "30000");
    let list = server.client()?.backups()?;
    assert!(list.backups.iter().any(|listed| listed.id == backup.id) && list.damaged.is_empty(), "{list:?}");
    Ok(())
}
