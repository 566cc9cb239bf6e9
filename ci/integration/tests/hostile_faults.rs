//! Outside programs that fail: trouble of the machine loses nothing.

use api::CreateBackup;
use integration::{Fault, Monitor, Server};
use std::time::Duration;
use tools::Toolbox;

const MINUTE: Duration = Duration::from_secs(60);

/// A backup for which a program fails is not there, nothing of it stays, and the next one is made.
#[test]
fn a_backup_that_fails_leaves_nothing_and_the_next_one_is_made() -> anyhow::Result<()> {
    let toolbox = Toolbox::open()?;
    let monitor = Monitor::start(&toolbox)?;
    let server = Server::start_sick(&toolbox, 16 << 30)?;
    let (client, faults) = (server.client()?, server.faults()?);
    client.pair(&monitor.peer)?;
    server.wait_for_state(&["synchronized"], MINUTE)?;
    for (program, argument) in [("btrfs", "snapshot"), ("pg_controldata", "")] {
        for fault in [Fault::Kill, Fault::NoSpace, Fault::NoMemory, Fault::InputOutput] {
            let before = client.backups()?.backups.len();
            faults.set(program, fault, argument, None)?;
            let refused = client.create_backup(&CreateBackup::default());
            faults.clear(program)?;
            assert!(refused.is_err(), "{program} {fault:?}: {refused:?}");
            assert_eq!(client.backups()?.backups.len(), before, "{program} {fault:?}");
        }
    }
    let backup = client.create_backup(&CreateBackup::default())?;
    assert!(client.backups()?.backups.iter().any(|listed| listed.id == backup.id));
    Ok(())
}
