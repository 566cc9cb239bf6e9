//! The daemons' memory over a long life, in short: a thousand backups, and rotation.

mod full {
    use anyhow::{Context, Result};
    use api::CreateBackup;
    use integration::{Monitor, Server, wait_for};
    use std::time::Duration;
    use tools::Toolbox;

    const MINUTE: Duration = Duration::from_secs(60);
    const BACKUPS: u32 = 1000;
    /// From this one on the volume has little room, so that rotation works all the time.
    const ROTATES_FROM: u32 = 500;
    /// Each daemon's own peak of resident memory (`VmHWM`) stays below this, in KiB.
    const LIMIT: u64 = 64 * 1024;

    /// `VmHWM` of a process in KiB.
    fn peak(process: u32) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    }

    #[test]
    fn a_thousand_backups_with_rotation_need_little_memory() -> Result<()> {
        let toolbox = Toolbox::open()?;
        let monitor = Monitor::start(&toolbox)?;
        let server = Server::start(&toolbox)?;
        monitor.sql("create table t (id int)")?;
        let client = server.client()?;
        client.pair(&monitor.peer)?;
        server.wait_for_state(&["synchronized"], MINUTE)?;
        let mut most = 0;
        for number in 0..BACKUPS {
            if number == ROTATES_FROM {
                server.lower_floor()?;
                server.fill(&server.data().join("filler"), 5 << 30)?;
            }
            monitor.sql(&format!("insert into t values ({number})"))?;
            client.create_backup(&CreateBackup::default())?;
            if number % 50 == 0 {
                most = most.max(client.backups()?.backups.len());
            }
        }
        let left = wait_for("rotation", MINUTE, || {
            let left = client.backups().map_err(|error| error.to_string())?.backups.len();
            if left < 100 { Ok(left) } else { Err(format!("{left} backups")) }
        })?;
        let processes = server.processes();
        assert_eq!(processes.len(), 2);
        for (name, process) in processes {
            let peak = peak(process)?;
            println!(
                "{name}: {peak} KiB at most over {BACKUPS} backups, {most} of them at once, {left} left"
            );
            assert!(peak < LIMIT, "{name}: {peak} KiB");
        }
        Ok(())
    }
}
