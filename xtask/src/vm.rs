//! `cargo xtask vm`: boots what was built, with its console in the terminal and its ports at 127.0.0.1.
//!
//! The VM's disk is an overlay in `.build/vm/<role>`, so a second start goes on where the first was left; the built
//! disk is never written. With `--install` it has blank disks and the installation medium.
//!
//! Trade-off: ports have their real numbers at 127.0.0.1, so one VM of a role runs at a
//! time. Tests use the lab directly, where every VM has an address of its own.

use std::fs;
use std::io::{IsTerminal, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use lab::{
    Bus, CONTROL_PORT, Drive, FTP_PASSIVE_PORTS, FTP_PORT, Lab, MachineBuilder, REPLICATION_PORT,
    backup_server_ports, crypt_hash,
};
use provisioning::{Answers, Role, smbios};

use crate::paths;

/// Length of a password made up here: 48 bits, for a console that only this host's user reaches.
const PASSWORD_LENGTH: usize = 12;
/// Name of the machine that is installed from the medium.
const INSTALLED: &str = "installed";
/// Size of each of its disks; the files are sparse.
const INSTALLED_GIB: u64 = 24;

/// Options of `cargo xtask vm`.
#[derive(clap::Args)]
pub struct Options {
    /// What the machine is to be
    #[arg(long, value_enum, default_value_t = Machine::BackupServer)]
    role: Machine,
    /// Blank disks and the installation medium instead: it asks what the machine is to be
    #[arg(long, conflicts_with_all = ["role", "root_password_file"])]
    install: bool,
    /// How many disks it has, of 24 GiB each
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=4), requires = "install")]
    disks: u8,
    /// Memory in MiB
    #[arg(long, default_value_t = 2048)]
    memory: u32,
    /// Begin with a new machine instead of going on with the last one
    #[arg(long)]
    fresh: bool,
    /// File whose first line is to be root's password at the console; without it one is made up. Only for a new
    /// machine
    #[arg(long, value_name = "FILE")]
    root_password_file: Option<PathBuf>,
}

/// The roles that can be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Machine {
    BackupServer,
    Monitor,
    MonitorRecovery,
}

impl Machine {
    fn role(self) -> Role {
        match self {
            Machine::BackupServer => Role::BackupServer,
            Machine::Monitor => Role::Monitor,
            Machine::MonitorRecovery => Role::MonitorRecovery,
        }
    }

    /// The guest's ports that appear at 127.0.0.1 under the same numbers.
    fn ports(self) -> Vec<u16> {
        match self {
            Machine::BackupServer => backup_server_ports(),
            Machine::Monitor | Machine::MonitorRecovery => vec![REPLICATION_PORT],
        }
    }

    fn mac(self) -> &'static str {
        match self {
            Machine::BackupServer => "52:54:00:00:00:01",
            Machine::Monitor => "52:54:00:00:00:02",
            Machine::MonitorRecovery => "52:54:00:00:00:03",
        }
    }
}

/// Boots a VM and returns when it has ended.
pub fn run(options: &Options) -> Result<()> {
    let base = paths::work().join("vm");
    let name = if options.install { INSTALLED } else { options.role.role().name() };
    let folder = base.join(name);
    if options.fresh && folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("cannot delete {}", folder.display()))?;
    }
    let goes_on = folder.join("disk.qcow2").exists();
    if goes_on && options.root_password_file.is_some() {
        bail!("root's password is set at a machine's first start only: add --fresh for a new machine");
    }
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let lab = Lab::lasting(&base)?;
    let machine = if options.install {
        print!("{}", introduction_to_installing(goes_on, &paths::shown(&folder)));
        blank(&lab, options)
    } else {
        provisioned(&lab, options, &folder, goes_on)?
    };
    wait_for_enter()?;
    machine.memory_mib(options.memory).listen_at(Ipv4Addr::LOCALHOST).terminal().start()?.wait_for_end()?;
    lab.passed()
}

/// A machine with blank disks and the medium, which is started as long as no disk boots.
fn blank<'lab>(lab: &'lab Lab, options: &Options) -> MachineBuilder<'lab> {
    let machine = lab
        .machine(INSTALLED)
        .install_from(&paths::iso(), Drive::Cd, INSTALLED_GIB)
        .disks_first()
        .user_nic_with_way_out("52:54:00:00:00:04", &backup_server_ports());
    (1..options.disks).fold(machine, |machine, number| {
        machine.extra_disk(INSTALLED_GIB, Bus::VirtioBlk, &format!("disk{number}"))
    })
}

/// A machine on the built disk that is told its role and root's password.
fn provisioned<'lab>(
    lab: &'lab Lab,
    options: &Options,
    folder: &Path,
    goes_on: bool,
) -> Result<MachineBuilder<'lab>> {
    let password = root_password(folder, options.root_password_file.as_deref())?;
    let hash = crypt_hash(lab.toolbox(), &password)?;
    let hash = hash.parse().map_err(|cause| anyhow::anyhow!("the hash of root's password: {cause}"))?;
    let answers = Answers { root_password_hash: Some(hash), ..Answers::for_role(options.role.role()) };
    print!("{}", introduction(options.role, goes_on, &password, &paths::shown(folder)));
    Ok(lab
        .machine(options.role.role().name())
        .disk(&paths::system_disk())
        .provisioning(smbios::to_oem_string(&answers).context("cannot write the provisioning data")?)
        .user_nic_with_way_out(options.role.mac(), &options.role.ports()))
}

/// Firmware clears the screen: without a stop nobody could read how to get out again.
fn wait_for_enter() -> Result<()> {
    if !std::io::stdin().is_terminal() {
        return Ok(());
    }
    print!("Enter switches it on. ");
    std::io::stdout().flush().context("cannot write to the terminal")?;
    std::io::stdin().read_line(&mut String::new()).context("cannot read from the terminal")?;
    Ok(())
}

fn state(goes_on: bool) -> &'static str {
    if goes_on { "goes on from its last start (--fresh: a new one)" } else { "a new machine" }
}

const HOW_TO_LEAVE: &str = "this terminal: Ctrl-A X ends the VM at once, Ctrl-A C is QEMU's monitor";

/// `password`: that of user backup, or what stands for it.
fn way_to_a_backup_server(password: &str) -> String {
    format!(
        "  API      https://127.0.0.1:{CONTROL_PORT}, such as\n           \
         curl -k -u backup:{password} https://127.0.0.1:{CONTROL_PORT}/v1/status\n  \
         FTP      127.0.0.1:{FTP_PORT}, explicit TLS, passive ports {}-{}\n",
        FTP_PASSIVE_PORTS.start(),
        FTP_PASSIVE_PORTS.end()
    )
}

fn introduction_to_installing(goes_on: bool, folder: &str) -> String {
    format!(
        "{INSTALLED}: {}\n  console  {HOW_TO_LEAVE}\n  \
         medium   is started until the machine is installed, and asks here; its last entries show the \
         kernel's messages here too\n{}  files    {folder}: disks, serial.log, qemu.stderr\n",
        state(goes_on),
        way_to_a_backup_server("PASSWORD")
    )
}

fn introduction(machine: Machine, goes_on: bool, password: &str, folder: &str) -> String {
    let reach = match machine {
        Machine::BackupServer => way_to_a_backup_server("backup"),
        Machine::Monitor => format!(
            "  database 127.0.0.1:{REPLICATION_PORT}; a backup server beside it finds it at \
             10.0.2.2:{REPLICATION_PORT}\n"
        ),
        Machine::MonitorRecovery => format!(
            "  restore  from a backup server beside it, which it finds at 10.0.2.2; that one finds it at \
             10.0.2.2:{REPLICATION_PORT}\n"
        ),
    };
    format!(
        "{}: {}\n  console  {HOW_TO_LEAVE}\n  login    root, password {password}\n{reach}  files    \
         {folder}: disk, serial.log, qemu.stderr\n",
        machine.role().name(),
        state(goes_on)
    )
}

/// Root's password of a machine: what was given, what it has already, or a new one. Kept beside its disk, because
/// a later start has to name it again.
fn root_password(folder: &Path, given: Option<&Path>) -> Result<String> {
    let kept = folder.join("root-password");
    if given.is_none() && kept.exists() {
        return first_line(&kept);
    }
    let password = match given {
        Some(file) => first_line(file)?,
        None => uuid::Uuid::new_v4().simple().to_string().chars().take(PASSWORD_LENGTH).collect(),
    };
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&kept)
        .with_context(|| format!("cannot make {}", kept.display()))?;
    writeln!(file, "{password}").with_context(|| format!("cannot write {}", kept.display()))?;
    Ok(password)
}

fn first_line(file: &Path) -> Result<String> {
    let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    match text.lines().next() {
        Some(line) if !line.is_empty() => Ok(line.to_owned()),
        _ => bail!("the first line of {} is empty: it is to be root's password", file.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_keeps_its_password() {
        let folder = tempfile::tempdir().unwrap();
        let first = root_password(folder.path(), None).unwrap();
        assert_eq!(first.len(), PASSWORD_LENGTH);
        assert_eq!(root_password(folder.path(), None).unwrap(), first);
        let given = folder.path().join("given");
        fs::write(&given, "mine\n").unwrap();
        assert_eq!(root_password(folder.path(), Some(&given)).unwrap(), "mine");
        assert_eq!(root_password(folder.path(), None).unwrap(), "mine");
        fs::write(&given, "\n").unwrap();
        assert!(root_password(folder.path(), Some(&given)).unwrap_err().to_string().contains("is empty"));
    }

    #[test]
    fn the_introduction_says_how_to_reach_and_how_to_leave() {
        let text = introduction(Machine::BackupServer, false, "word", ".build/vm/backup-server");
        for expected in ["Ctrl-A X", "https://127.0.0.1:50000", "127.0.0.1:2121", "30000-30009", "word"] {
            assert!(text.contains(expected), "{expected} in {text}");
        }
        let text = introduction_to_installing(false, ".build/vm/installed");
        for expected in
            ["a new machine", "Ctrl-A X", "https://127.0.0.1:50000", "until the machine is installed"]
        {
            assert!(text.contains(expected), "{expected} in {text}");
        }
        assert!(introduction(Machine::Monitor, true, "word", "x").contains("127.0.0.1:50001"));
    }
}
