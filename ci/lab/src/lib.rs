//! VMs for tests and for looking around: starts what was built, connects it, talks to it, cuts its power.
//!
//! A [`Lab`] owns VMs ([`Machine`]); each is QEMU from the tools tree, on an overlay of a built disk. A scenario
//! talks to the guest as users do (its ports, by [`Client`], which is curl) and looks inside as root on the virtio
//! console ([`Machine::run`]). Trade-off: everything works unprivileged and without KVM, and is slow: minutes where
//! KVM takes seconds, so nothing waits for a fixed time ([`wait_until`]).
//!
//! # A scenario with two VMs
//!
//! ```no_run
//! use std::path::Path;
//!
//! use lab::{BOOT, COMMAND, SHUTDOWN, scenario, wait_until};
//!
//! fn the_replica_survives_a_power_cut(backup_answers: String, monitor_answers: String) -> anyhow::Result<()> {
//!     scenario("power-cut", |lab| {
//!         let disk = Path::new("dist/infimonitor-backup-server.raw");
//!         let (at_monitor, at_backup) = lab.link("replication");
//!         // First card: from the host to the guest's ports. Second card: to the other VM. Both answers name
//!         // the second by its MAC address and give it a fixed one of the same network.
//!         let monitor = lab
//!             .machine("monitor")
//!             .disk(disk)
//!             .provisioning(monitor_answers)
//!             .root_password("lab")
//!             .user_nic("52:54:00:00:01:01", &[lab::REPLICATION_PORT])
//!             .link_nic("52:54:00:00:01:02", at_monitor)
//!             .start()?;
//!         let backup = lab
//!             .machine("backup")
//!             .disk(disk)
//!             .provisioning(backup_answers)
//!             .root_password("lab")
//!             .user_nic("52:54:00:00:02:01", &lab::backup_server_ports())
//!             .link_nic("52:54:00:00:02:02", at_backup)
//!             .extra_disk(20, lab::Bus::VirtioBlk, "second")
//!             .start()?;
//!
//!         let api = backup.client(lab::CONTROL_PORT)?.login("backup", "backup");
//!         let status = || {
//!             let reply = api.https("GET", "/v1/status", None)?;
//!             anyhow::ensure!(reply.code == 200, "{reply:?}");
//!             Ok(reply.body)
//!         };
//!         wait_until("the API answers", BOOT, status)?;
//!         monitor.run_ok("monitor-link setup --server 192.168.77.2 >/run/peer.json", COMMAND)?;
//!         let peer = String::from_utf8(monitor.read_file("/run/peer.json", COMMAND)?)?;
//!         api.https("PUT", "/v1/peer", Some(&peer))?;
//!         wait_until("the replica follows", BOOT, || {
//!             let status = status()?;
//!             anyhow::ensure!(status.contains("\"synchronized\""), "{status}");
//!             Ok(())
//!         })?;
//!
//!         backup.kill()?; // the power cut
//!         backup.boot_again()?;
//!         wait_until("the API answers after the power cut", BOOT, status)?;
//!         backup.set_link(1, false)?; // the cable pulled out
//!         backup.shutdown(SHUTDOWN)
//!     })
//! }
//! ```

mod address;
mod argv;
mod client;
mod disks;
mod lab;
mod lines;
mod machine;
mod password;
mod process;
mod qmp;
mod serial;
mod shell;
mod spawn;
mod spec;
mod wait;

pub use argv::{Files, Flash, argv, disk_id, nic_id};
pub use client::{Client, Reply};
pub use lab::{ACCELERATOR_SETTING, KEEP_SETTING, Lab, scenario};
pub use machine::{Machine, MachineBuilder};
pub use password::crypt_hash;
pub use qmp::{Event, Message, Qmp, parse as parse_qmp};
pub use serial::SerialLog;
pub use shell::{Output, Shell};
pub use spec::{
    Accelerator, Bus, CONTROL_PORT, Card, Drive, ExtraDisk, FTP_PASSIVE_PORTS, FTP_PORT, Firmware, Forward,
    LinkEnd, Network, Nic, REPLICATION_PORT, SYSTEM_DISK, SerialPort, Spec, backup_server_ports,
};
pub use wait::{BOOT, COMMAND, MachineEnded, SHUTDOWN, wait_until};
