//! What the VM scenarios share: the two machines, what users do with them, and how the outcome is read.
//!
//! A scenario is a story about booted machines and real clients. It reads as such in `tests/`; what is needed for it
//! stands here.

use anyhow::{Context, Result, bail, ensure};
use api::{Backup, BackupList, Check, Manifest, Proof, Status, Verification};
use lab::{BOOT, COMMAND, Client, Lab, LinkEnd, Machine, MachineBuilder, wait_until};
use provisioning::{Answers, smbios::to_oem_string};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tools::Toolbox;

pub mod write_log;

/// Time for filling, copying and checking some hundred megabytes without KVM.
pub const LONG: Duration = Duration::from_secs(900);
/// Time for writing a slot and reading it back, 400 MB with emulated processors.
pub const WRITE_SLOT: Duration = Duration::from_secs(300);
/// Password of root at the console of test machines.
pub const ROOT_PASSWORD: &str = "look inside";
/// The network between the two machines.
pub const MONITOR_ADDRESS: &str = "192.168.77.1";
/// The backup server's address in it.
pub const SERVER_ADDRESS: &str = "192.168.77.2";

/// The disk that `cargo xtask build` made.
pub fn built_disk() -> Result<PathBuf> {
    let disk = checkout().join("dist/infimonitor-backup-server.raw");
    ensure!(
        disk.is_file(),
        "{} is missing: run `cargo xtask build` first, or `cargo xtask test`",
        disk.display()
    );
    Ok(disk)
}

/// The installation medium that `cargo xtask build` made.
pub fn built_medium() -> Result<PathBuf> {
    let iso = checkout().join("dist/infimonitor-backup-server.iso");
    ensure!(
        iso.is_file(),
        "{} is missing: run `cargo xtask build` first, or `cargo xtask test`",
        iso.display()
    );
    Ok(iso)
}

/// The package that `cargo xtask build` made and whose name ends so, such as `esxi.ova`.
pub fn package(end: &str) -> Result<PathBuf> {
    let version = env!("CARGO_PKG_VERSION");
    let path = checkout().join(format!("dist/infimonitor-backup-server-{version}-{end}"));
    ensure!(path.is_file(), "{} is missing: run `cargo xtask build` first", path.display());
    Ok(path)
}

/// A payload of the last build.
pub fn payload(name: &str) -> PathBuf {
    checkout().join(".build/dev/payloads").join(name)
}

fn checkout() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap_or(Path::new("/")).to_owned()
}

/// The built boot image with another slot.cfg.
#[derive(Debug, Clone, Copy)]
pub struct BootImage<'a> {
    /// Name of the file.
    pub name: &'a str,
    /// Version that it claims.
    pub version: &'a str,
    /// More on the kernel's command line.
    pub options: &'a str,
}

impl BootImage<'_> {
    /// Makes it in `folder`.
    pub fn make(&self, toolbox: &Toolbox, folder: &Path) -> Result<PathBuf> {
        let (tree, image) =
            (folder.join(format!("{}-tree", self.name)), folder.join(format!("{}.squashfs", self.name)));
        let mut unpack = toolbox.command("unsquashfs");
        unpack.args(["-no-progress", "-quiet", "-dest"]).arg(&tree).arg(payload("boot.squashfs"));
        ensure!(unpack.status()?.success(), "cannot unpack the boot image");
        let file = tree.join("slot.cfg");
        let config = std::fs::read_to_string(&file)?;
        let more = format!("set slot_version={}\nset slot_options=\"{}\"\n", self.version, self.options);
        std::fs::write(&file, config + &more)?;
        let mut pack = toolbox.command("mksquashfs");
        pack.arg(&tree).arg(&image).args([
            "-noappend",
            "-no-progress",
            "-quiet",
            "-noI",
            "-noD",
            "-no-fragments",
        ]);
        ensure!(pack.status()?.success(), "cannot pack the boot image");
        std::fs::remove_dir_all(&tree)?;
        Ok(image)
    }
}

/// Provisioning data for `role` with a fixed address on the interface `mac`, as users would write it.
fn answers(toolbox: &Toolbox, role: &str, mac: &str, address: &str) -> Result<String> {
    let hash = lab::crypt_hash(toolbox, ROOT_PASSWORD)?;
    let yaml = format!(
        "role: {role}\nhostname: {role}\nroot_password_hash: \"{hash}\"\nnetwork:\n  - mac: \"{mac}\"\n    \
         addresses: [\"{address}/24\"]\n"
    );
    Ok(to_oem_string(&Answers::from_yaml(&yaml)?)?)
}

/// Provisioning data for the unattended installation of a backup server; `install`: its section, as YAML of two spaces.
pub fn installing(toolbox: &Toolbox, install: &str) -> Result<String> {
    let hash = lab::crypt_hash(toolbox, ROOT_PASSWORD)?;
    let yaml = format!(
        "role: backup-server\nhostname: installed\nroot_password_hash: \"{hash}\"\ninstall:\n{install}"
    );
    Ok(to_oem_string(&Answers::from_yaml(&yaml)?)?)
}

/// Boots a monitoring node.
pub fn monitor(lab: &Lab, end: LinkEnd) -> Result<Machine> {
    monitor_with(lab, end, |builder| builder)
}

/// Boots a monitoring node that has more than the usual.
pub fn monitor_with<'lab>(
    lab: &'lab Lab,
    end: LinkEnd,
    more: impl FnOnce(MachineBuilder<'lab>) -> MachineBuilder<'lab>,
) -> Result<Machine> {
    more(node(lab, "monitor", ["52:54:00:00:01:01", "52:54:00:00:01:02"], end)?).start()
}

/// Boots a node that is to take a lost monitor's place, at its address.
pub fn node_to_restore(lab: &Lab, end: LinkEnd) -> Result<Machine> {
    node(lab, "monitor-recovery", ["52:54:00:00:03:01", "52:54:00:00:03:02"], end)?.start()
}

/// A node at the monitor's address, with the MAC addresses of its way to the host and of the link.
fn node<'lab>(
    lab: &'lab Lab,
    role: &str,
    [host_mac, link_mac]: [&str; 2],
    end: LinkEnd,
) -> Result<MachineBuilder<'lab>> {
    let builder = lab
        .machine(role)
        .disk(&built_disk()?)
        .provisioning(answers(lab.toolbox(), role, link_mac, MONITOR_ADDRESS)?)
        .root_password(ROOT_PASSWORD)
        .user_nic(host_mac, &[])
        .link_nic(link_mac, end);
    Ok(builder)
}

/// Boots a backup server.
pub fn backup_server(lab: &Lab, end: LinkEnd) -> Result<Machine> {
    backup_server_with(lab, end, |builder| builder)
}

/// Boots a backup server that has more than the usual.
pub fn backup_server_with<'lab>(
    lab: &'lab Lab,
    end: LinkEnd,
    more: impl FnOnce(MachineBuilder<'lab>) -> MachineBuilder<'lab>,
) -> Result<Machine> {
    let mac = "52:54:00:00:02:02";
    let builder = lab
        .machine("backup-server")
        .disk(&built_disk()?)
        .provisioning(answers(lab.toolbox(), "backup-server", mac, SERVER_ADDRESS)?)
        .root_password(ROOT_PASSWORD)
        .user_nic("52:54:00:00:02:01", &lab::backup_server_ports())
        .link_nic(mac, end);
    more(builder).start()
}

/// Boots a monitoring node with pgbench's tables at `scale` (15 MB each) and a backup server, not paired yet.
pub fn machines(lab: &Lab, scale: u32) -> Result<(Machine, Machine, User)> {
    let (at_monitor, at_server) = lab.link("replication");
    let monitor = monitor(lab, at_monitor)?;
    let server = backup_server(lab, at_server)?;
    let user = User::of(&server)?;
    user.wait_for_api()?;
    wait_until("the monitor's PostgreSQL", LONG, || sql(&monitor, "select 1", COMMAND))?;
    monitor.run_ok(&pgbench(&format!("-q -i -s {scale}")), LONG)?;
    Ok((monitor, server, user))
}

/// The command that runs pgbench on the monitoring node.
pub fn pgbench(options: &str) -> String {
    format!("runuser -u postgres -- /usr/lib/postgresql/17/bin/pgbench {options} postgres")
}

/// Waits until the serial console shows a page with this text. Returns all of it.
///
/// # Errors
/// It does not within the time, or the machine has ended.
pub fn page(machine: &Machine, text: &str, within: Duration) -> Result<String> {
    wait_until(&format!("{text:?} on the screen"), within, || {
        let screen = machine.serial_screen()?;
        machine.alive()?;
        ensure!(screen.contains(text), "\n{screen}");
        Ok(screen)
    })
}

/// A user of a backup server.
#[derive(Debug)]
pub struct User {
    api: Client,
    ftp: Client,
}

impl User {
    /// Talks to `server` over its forwarded ports, with the default password.
    pub fn of(server: &Machine) -> Result<Self> {
        Self::with_password(server, "backup")
    }

    /// Talks to `server` with another password.
    pub fn with_password(server: &Machine, password: &str) -> Result<Self> {
        let client = |port| Ok::<_, anyhow::Error>(server.client(port)?.login("backup", password));
        Ok(Self {
            api: client(lab::CONTROL_PORT)?.limit(Duration::from_secs(120)),
            ftp: client(lab::FTP_PORT)?.limit(Duration::from_secs(900)),
        })
    }

    /// `GET /v1/status`
    pub fn status(&self) -> Result<Status> {
        self.get("/v1/status")
    }

    /// The check of this name in the status.
    pub fn check(&self, name: &str) -> Result<Check> {
        let checks = self.status()?.checks;
        checks
            .into_iter()
            .find(|check| check.name == name)
            .with_context(|| format!("there is no check {name}"))
    }

    /// Waits until the API answers after a boot.
    pub fn wait_for_api(&self) -> Result<Status> {
        wait_until("the API answers", BOOT, || self.status())
    }

    /// Waits for a state by name.
    pub fn wait_for_state(&self, name: &str, within: Duration) -> Result<Status> {
        wait_until(&format!("state {name}"), within, || {
            let status = self.status()?;
            ensure!(status.state.name() == name, "{}: {}", status.state.name(), status.message);
            Ok(status)
        })
    }

    /// Pairs by what `monitor-link setup` says, and gives the monitor's UUID.
    pub fn pair_with(&self, monitor: &Machine) -> Result<String> {
        monitor.run_ok(&format!("monitor-link setup --server {SERVER_ADDRESS} >/run/peer.json"), LONG)?;
        let peer = String::from_utf8(monitor.read_file("/run/peer.json", COMMAND)?)?;
        self.pair(&peer)?;
        Ok(serde_json::from_str::<api::Peer>(&peer)?.id.to_string())
    }

    /// Waits until a backup is verified.
    pub fn wait_for_proof(&self, id: &str) -> Result<Proof> {
        wait_until("a backup's proof", LONG, || match self.backup(id)?.verification {
            Verification::Verified(proof) => Ok(proof),
            other => bail!("{other:?}"),
        })
    }

    /// `PUT /v1/peer` with what `monitor-link setup` printed.
    pub fn pair(&self, peer: &str) -> Result<()> {
        let reply = self.api.https("PUT", "/v1/peer", Some(peer))?;
        ensure!(reply.code == 200, "{reply:?}");
        Ok(())
    }

    /// `GET /v1/backups`
    pub fn backups(&self) -> Result<BackupList> {
        self.get("/v1/backups")
    }

    /// `GET /v1/backups/{id}`
    pub fn backup(&self, id: &str) -> Result<Backup> {
        self.get(&format!("/v1/backups/{id}"))
    }

    /// `POST /v1/backups`
    pub fn create_backup(&self, comment: &str) -> Result<Backup> {
        let body = serde_json::json!({ "comment": comment }).to_string();
        // The network may ask for one a minute.
        let reply = wait_until("a backup may be made", LONG, || {
            let reply = self.api.https("POST", "/v1/backups", Some(&body))?;
            ensure!(reply.code != 429, "{reply:?}");
            Ok(reply)
        })?;
        ensure!(reply.code == 201, "{reply:?}");
        Ok(serde_json::from_str(&reply.body)?)
    }

    /// `POST /v1/backups/{id}/verify`
    pub fn verify_backup(&self, id: &str) -> Result<()> {
        let reply = self.api.https("POST", &format!("/v1/backups/{id}/verify"), None)?;
        ensure!(reply.code == 202, "{reply:?}");
        Ok(())
    }

    /// Fetches a backup's tar by FTP.
    pub fn fetch_tar(&self, backup: &Backup, to: &Path) -> Result<()> {
        let reply = self.ftp.ftps(&format!("/{}.tar", backup.id), Some(to), false)?;
        ensure!(reply.code == 226, "{reply:?}");
        let size = std::fs::metadata(to)?.len();
        ensure!(size == backup.sizes.tar, "the tar has {size} bytes, the manifest says {}", backup.sizes.tar);
        Ok(())
    }

    /// Fetches a backup's manifest by FTP.
    pub fn fetch_manifest(&self, id: &str, to: &Path) -> Result<Manifest> {
        let reply = self.ftp.ftps(&format!("/{id}.json"), Some(to), false)?;
        ensure!(reply.code == 226, "{reply:?}");
        Ok(serde_json::from_slice(&std::fs::read(to)?)?)
    }

    fn get<T: serde::de::DeserializeOwned>(&self, path: &str) -> Result<T> {
        let reply = self.api.https("GET", path, None)?;
        ensure!(reply.code == 200, "{reply:?}");
        Ok(serde_json::from_str(&reply.body)?)
    }
}

/// Runs SQL as the superuser on the monitoring node and gives what is printed, without decoration.
pub fn sql(monitor: &Machine, sql: &str, within: Duration) -> Result<String> {
    let script =
        format!("runuser -u postgres -- psql -XAtq -v ON_ERROR_STOP=1 -d postgres <<'SQL'\n{sql}\nSQL");
    Ok(monitor.run_ok(&script, within)?.trim().to_owned())
}

/// Runs SQL on the replica, as the one user and role that may.
pub fn sql_on_replica(server: &Machine, monitor_id: &str, sql: &str) -> Result<String> {
    let script = format!(
        "runuser -u backupd -- psql -XAtq -v ON_ERROR_STOP=1 -h /run/infimonitor/clusters/{monitor_id}/socket \
         -U backup_server -d postgres <<'SQL'\n{sql}\nSQL"
    );
    Ok(server.run_ok(&script, COMMAND)?.trim().to_owned())
}

/// Waits until the replica has what the monitor has written so far.
pub fn wait_until_replayed(monitor: &Machine, server: &Machine, monitor_id: &str) -> Result<()> {
    let position = sql(monitor, "select pg_current_wal_flush_lsn()", COMMAND)?;
    let question = format!("select pg_last_wal_replay_lsn() >= '{position}'");
    wait_until("the replica has caught up", LONG, || {
        let there = sql_on_replica(server, monitor_id, &question)?;
        ensure!(there == "t", "{there}");
        Ok(())
    })
}

/// pgbench's tables.
pub const TABLES: [&str; 4] = ["pgbench_accounts", "pgbench_tellers", "pgbench_branches", "pgbench_history"];

/// SQL that gives number and content of all rows of pgbench's tables, whatever their order.
pub fn checksum_sql() -> String {
    let part = |table: &&str| {
        format!("select '{table}', count(*), sum(hashtextextended(t::text, 0)) from {table} t")
    };
    TABLES.iter().map(part).collect::<Vec<_>>().join(" union all ") + " order by 1"
}

/// SQL that is `t` when pgbench's books balance: every transaction adds the same to an account, a teller, a branch
/// and the history, so a state in the middle of one would differ.
pub const BALANCE_SQL: &str = "select a = t and t = b and b = h from \
    (select sum(abalance) as a from pgbench_accounts), (select sum(tbalance) as t from pgbench_tellers), \
    (select sum(bbalance) as b from pgbench_branches), (select sum(delta) as h from pgbench_history)";
