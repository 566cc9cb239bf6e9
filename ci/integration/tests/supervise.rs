//! The replica's life with a monitor that comes and goes, and with a PostgreSQL that crashes, hangs or lags: each
//! transition for real, and the way back that needs nobody, or only what its message says.

use api::{EventKind, Level, Peer, Secret};
use hostd::Step;
use integration::{
    Certificate, Monitor, Server, monitor_with_rows, paired, run, wait_for, wait_until_replayed,
};
use std::process::Command;
use std::time::Duration;
use tools::Toolbox;

/// Rows of the monitor's table.
const ROWS: u32 = 1000;
const MINUTE: Duration = Duration::from_secs(60);

/// A new row arrives.
fn streams(toolbox: &Toolbox, monitor: &Monitor, server: &Server) -> anyhow::Result<()> {
    monitor.sql("insert into t select max(id) + 1 from t")?;
    wait_until_replayed(toolbox, server, monitor)?;
    server.wait_for_state(&["synchronized"], MINUTE).map(drop)
}

/// Sends a signal to processes.
fn signal(name: &str, processes: &[u32]) -> anyhow::Result<()> {
    let processes = processes.iter().map(ToString::to_string);
    run(Command::new("/bin/kill").args(["-s", name]).args(processes)).map(drop)
}

/// The children of a process whose command line contains `what`.
fn children(process: u32, what: &str) -> anyhow::Result<Vec<u32>> {
    let output = run(Command::new("pgrep").args(["-f", "-P", &process.to_string(), what]))?;
    Ok(String::from_utf8(output.stdout)?.lines().filter_map(|line| line.parse().ok()).collect())
}

#[test]
fn a_replica_that_crashes_or_hangs_is_started_anew() -> anyhow::Result<()> {
    let toolbox = Toolbox::open()?;
    let (monitor, server) = paired(&toolbox, ROWS)?;
    let id = monitor.peer.id;
    let crashed = server.postmaster(id)?;
    signal("KILL", &[crashed])?;
    wait_for("another server", MINUTE, || match server.postmaster(id) {
        Ok(process) if process != crashed => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    streams(&toolbox, &monitor, &server)?;

    // None of its processes answers or can be stopped in an orderly way.
    let hung = server.postmaster(id)?;
    let mut all = children(hung, ".")?;
    all.push(hung);
    signal("STOP", &all)?;
    let status = server.wait_for_state(&["failed"], 3 * MINUTE)?;
    assert!(status.message.contains("has not answered for"), "{}", status.message);
    wait_for("another server", 4 * MINUTE, || match server.postmaster(id) {
        Ok(process) if process != hung => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .map_err(|error| error.context(server.logs()))?;
    streams(&toolbox, &monitor, &server)
}

/// Those of the processes that are there, and are no zombies.
fn alive(processes: &[u32]) -> Vec<u32> {
    let stat = |process: &u32| std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let is_alive = |process: &&u32| !stat(process).is_empty() && !stat(process).contains(") Z ");
    processes.iter().filter(is_alive).copied().collect()
}

fn wait_for_end_of(processes: &[u32]) -> anyhow::Result<()> {
    wait_for("the end of the cluster's processes", MINUTE, || match alive(processes).as_slice() {
        [] => Ok(()),
        left => Err(format!("{left:?} run")),
    })
}

#[test]
fn no_cluster_outlives_a_hostd_that_is_killed() -> anyhow::Result<()> {
    let toolbox = Toolbox::open()?;
    let (monitor, mut server) = paired(&toolbox, ROWS)?;
    let id = monitor.peer.id;
    let stopped = |server: &Server| -> anyhow::Result<(u32, Vec<u32>)> {
        // None of them can do what it is asked for.
        let postmaster = server.postmaster(id)?;
        let all = children(postmaster, ".")?;
        signal("STOP", &[all.as_slice(), &[postmaster]].concat())?;
        Ok((postmaster, all))
    };
    let (postmaster, others) = stopped(&server)?;
    assert!(others.len() > 2, "{others:?}");
    server.stop("KILL")?;
    wait_for_end_of(&[postmaster])?;
    server.start_hostd()?;
    assert_eq!(alive(&others), [0_u32; 0], "the next hostd meets what it does not know");
    server.start_backupd()?;
    streams(&toolbox, &monitor, &server)?;

    // Neither does one outlive a test.
    let (postmaster, others) = stopped(&server)?;
    server.stop("KILL")?;
    drop(server);
    wait_for_end_of(&[others.as_slice(), &[postmaster]].concat())
}

#[test]
fn a_receiver_that_stands_still_is_lag_and_passes() -> anyhow::Result<()> {
    let toolbox = Toolbox::open()?;
    let (monitor, server) = paired(&toolbox, ROWS)?;
    let receiver = children(server.postmaster(monitor.peer.id)?, "walreceiver")?;
    assert_eq!(receiver.len(), 1);
    signal("STOP", &receiver)?;
    monitor.sql("insert into t select generate_series(1, 1000)")?;
    let status = server.wait_for_state(&["lagging"], MINUTE)?;
    let check = status.checks.iter().find(|check| check.name == "replication").unwrap();
    assert_eq!(check.level, Level::Warn, "{check:?}");
    signal("CONT", &receiver)?;
    streams(&toolbox, &monitor, &server)
}

#[test]
fn a_monitor_that_restarts_moves_or_has_new_secrets_is_followed_on() -> anyhow::Result<()> {
    let toolbox = Toolbox::open()?;
    let (mut monitor, server) = paired(&toolbox, ROWS)?;
    let client = server.client()?;

    monitor.stop()?;
    let status = server.wait_for_state(&["disconnected"], MINUTE)?;
    assert!(status.message.contains(&format!("127.0.0.1:{}", monitor.peer.port)), "{}", status.message);
    monitor.run_server()?;
    streams(&toolbox, &monitor, &server)?;

    // Another address.
    monitor.stop()?;
    monitor.peer.port = integration::free_port()?;
    monitor.run_server()?;
    client.pair(&monitor.peer)?;
    streams(&toolbox, &monitor, &server)?;

    // Another password.
    monitor.sql(
        "alter role backup_server password 'another'; select pg_terminate_backend(pid) from pg_stat_activity \
         where usename = 'backup_server'",
    )?;
    let status = server.wait_for_state(&["failed"], MINUTE)?;
    assert!(status.message.contains("refuses the password"), "{}", status.message);
    monitor.peer = Peer { password: Secret::new("another"), ..monitor.peer.clone() };
    client.pair(&monitor.peer)?;
    streams(&toolbox, &monitor, &server)?;

    // Another key.
    monitor.stop()?;
    monitor.set_certificate(&Certificate::new("monitor")?)?;
    monitor.run_server()?;
    let status = server.wait_for_state(&["failed"], MINUTE)?;
    assert!(status.message.contains("another certificate"), "{}", status.message);
    server.pair_by_console(&monitor.peer)?;
    streams(&toolbox, &monitor, &server)?;

    // Another timeline, as after a restore of the monitor to its latest state.
    monitor.stop()?;
    std::fs::write(monitor.data().join("standby.signal"), "")?;
    monitor.own_data()?;
    monitor.run_server()?;
    monitor.sql("select pg_promote()")?;
    streams(&toolbox, &monitor, &server)?;
    assert_eq!(monitor.sql("select timeline_id from pg_control_checkpoint()")?, "2");

    // All of it with the one full copy.
    let copies = |event: &&api::Event| event.message.contains("was made in");
    assert_eq!(client.events(None)?.events.iter().filter(copies).count(), 1);
    Ok(())
}

#[test]
fn a_full_copy_is_checked_and_a_damaged_one_is_made_anew() -> anyhow::Result<()> {
    let toolbox = Toolbox::open()?;
    let monitor = monitor_with_rows(&toolbox, ROWS)?;
    let path = monitor.sql("checkpoint; select pg_relation_filepath('t')")?;
    let mut server = Server::start(&toolbox)?;
    server.stop("TERM")?;
    server.start_hostd_until(Some(Step::CopyNamed))?;
    server.start_backupd()?;
    let client = server.client()?;
    client.pair(&monitor.peer)?;
    server.wait_for_end_of_hostd()?;
    // What arrived is not what was sent.
    let kept = server.data().join(format!("replica/{}.unverified", monitor.peer.id));
    let read_only =
        |value| run(toolbox.command("btrfs").args(["property", "set"]).arg(&kept).args(["ro", value]));
    read_only("false")?;
    let file = std::fs::File::options().write(true).open(kept.join("pgdata").join(path.trim()))?;
    std::os::unix::fs::FileExt::write_all_at(&file, &[0x5a; 64], 8192)?;
    read_only("true")?;
    server.start_hostd()?;

    let said = |level: Level, what: &'static str| {
        wait_for(what, 2 * MINUTE, || {
            let events = client.events(None).map_err(|error| error.to_string())?.events;
            let found = events.iter().any(|event| {
                event.kind == EventKind::FullCopy && event.level == level && event.message.contains(what)
            });
            if found { Ok(()) } else { Err(format!("{events:?}")) }
        })
        .map_err(|error| error.context(server.logs()))
    };
    said(Level::Fail, "The full copy is damaged: ")?;
    said(Level::Ok, "is what the monitor sent")?;
    streams(&toolbox, &monitor, &server)?;
    assert!(!kept.exists());
    Ok(())
}

/// PostgreSQL would wait for its WAL sender until TCP gives up, and with it everybody who waits for the checkpoint.
#[test]
fn a_backup_server_that_stands_still_does_not_hold_up_the_monitor() -> anyhow::Result<()> {
    let toolbox = Toolbox::open()?;
    let (monitor, server) = paired(&toolbox, ROWS)?;
    let receiver = children(server.postmaster(monitor.peer.id)?, "walreceiver")?;
    signal("STOP", &receiver)?;
    monitor.sql("alter system set max_slot_wal_keep_size = '32MB'; select pg_reload_conf()")?;
    monitor.sql("create table large (content text); alter table large alter content set storage external")?;
    for _ in 0..6 {
        monitor.sql(
            "insert into large select repeat(md5(g::text), 70) from generate_series(1, 10000) as g; \
             select pg_switch_wal()",
        )?;
    }
    // Asked in the same breath: a backup server that moves again makes the slot anew at once.
    let question = "checkpoint; select wal_status from pg_replication_slots";
    let (done, status) = std::thread::scope(|scope| {
        let running = scope.spawn(|| monitor.sql(question));
        let done = wait_for("the checkpoint", 2 * MINUTE, || {
            if running.is_finished() { Ok(()) } else { Err("it waits".into()) }
        });
        // Whatever came of it, nothing may stand still for ever.
        (signal("CONT", &receiver).and(done), running.join())
    });
    done?;
    let Ok(status) = status else { panic!("the thread that asked panicked") };
    assert_eq!(status?, "lost");
    streams(&toolbox, &monitor, &server)
}
