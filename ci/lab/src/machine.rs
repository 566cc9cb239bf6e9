//! One VM: from its description to a running QEMU, and what a scenario does to it.
//!
//! The disk that was built is never written: a VM runs on a qcow2 overlay in its folder. The power cut is SIGKILL
//! to QEMU. That loses what QEMU itself still held (queued requests, unwritten qcow2 metadata), not what it had
//! handed to the host's page cache: milder than a real cut, which a replay of logged writes has to cover.

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::json;
use tools::Toolbox;

use crate::address;
use crate::argv::{Files, argv, disk_id, nic_id};
use crate::client::Client;
use crate::disks;
use crate::lab::Lab;
use crate::process;
use crate::qmp::Qmp;
use crate::serial::SerialLog;
use crate::shell::{Output, Shell};
use crate::spec::{
    Accelerator, Bus, Card, Drive, ExtraDisk, Firmware, Forward, LinkEnd, Network, Nic, SYSTEM_DISK,
    SerialPort, Spec,
};
use crate::wait::{BOOT, COMMAND, MachineEnded, wait_until};

/// How long a shell may take to answer when a failed scenario asks for journals.
const EVIDENCE: Duration = Duration::from_secs(30);
/// What is asked then; packed, because the virtio console carries some 50 kB/s.
const EVIDENCE_SCRIPT: &str = "{ systemctl --no-pager --failed; ip address; findmnt --real; df -h; \
     journalctl --boot --no-pager --output=short-monotonic; } 2>&1 | gzip";

/// What the system disk is at first.
#[derive(Debug)]
enum SystemDisk {
    /// A copy of this image.
    Image(PathBuf),
    /// Blank, of so many GiB.
    Blank(u64),
}

/// Describes a VM; [`MachineBuilder::start`] switches it on.
#[derive(Debug)]
pub struct MachineBuilder<'lab> {
    lab: &'lab Lab,
    spec: Spec,
    disk: Option<SystemDisk>,
    medium: Option<PathBuf>,
    images: Vec<(String, PathBuf)>,
    write_log: Option<PathBuf>,
    oem_string: Option<String>,
    root_password: Option<String>,
    address: Option<Ipv4Addr>,
}

impl<'lab> MachineBuilder<'lab> {
    pub(crate) fn new(lab: &'lab Lab, name: &str, accelerator: Accelerator) -> Self {
        let spec = Spec::new(name, accelerator);
        MachineBuilder {
            lab,
            spec,
            disk: None,
            medium: None,
            images: Vec::new(),
            write_log: None,
            oem_string: None,
            root_password: None,
            address: None,
        }
    }

    /// The disk image (raw or qcow2) to boot from; it is read, never written.
    pub fn disk(mut self, image: &Path) -> Self {
        self.disk = Some(SystemDisk::Image(image.to_owned()));
        self
    }

    /// A blank system disk of so many GiB, and a medium (ISO) to install from, which is started first until
    /// [`Machine::take_medium_out`].
    pub fn install_from(mut self, medium: &Path, drive: Drive, gib: u64) -> Self {
        self.disk = Some(SystemDisk::Blank(gib));
        self.medium(medium, drive)
    }

    /// The medium is started only as long as no disk boots.
    pub fn disks_first(mut self) -> Self {
        self.spec.disks_first = true;
        self
    }

    /// A medium (ISO) that is started first, until [`Machine::take_medium_out`].
    pub fn medium(mut self, medium: &Path, drive: Drive) -> Self {
        self.medium = Some(medium.to_owned());
        self.spec.medium = Some(drive);
        self
    }

    /// What starts the VM; UEFI without Secure Boot when not said.
    pub fn firmware(mut self, firmware: Firmware) -> Self {
        self.spec.firmware = firmware;
        self
    }

    /// Memory in MiB; 2048 when not said.
    pub fn memory_mib(mut self, mib: u32) -> Self {
        self.spec.memory_mib = mib;
        self
    }

    /// Processors; 2 when not said.
    pub fn cpus(mut self, cpus: u8) -> Self {
        self.spec.cpus = cpus;
        self
    }

    /// How the system disk is attached; virtio-blk when not said.
    pub fn bus(mut self, bus: Bus) -> Self {
        self.spec.bus = bus;
        self
    }

    /// Bytes of a logical sector of all disks; 512 when not said.
    pub fn sector_bytes(mut self, bytes: u32) -> Self {
        self.spec.sector_bytes = bytes;
        self
    }

    /// What network cards are; virtio when not said.
    pub fn card(mut self, card: Card) -> Self {
        self.spec.card = card;
        self
    }

    /// Adds a blank disk.
    pub fn extra_disk(mut self, gib: u64, bus: Bus, serial: &str) -> Self {
        self.spec.extra_disks.push(ExtraDisk { gib, bus, serial: serial.to_owned() });
        self
    }

    /// Adds a raw image as a disk that can only be read: `/dev/disk/by-id/virtio-<serial>`.
    pub fn image(mut self, serial: &str, image: &Path) -> Self {
        self.images.push((serial.to_owned(), image.to_owned()));
        self
    }

    /// Logs all writes to the system disk into a new file, in the format of dm-log-writes.
    pub fn log_writes(mut self, log: &Path) -> Self {
        self.write_log = Some(log.to_owned());
        self
    }

    /// Provisioning data: the OEM string, as `provisioning::to_oem_string` makes it.
    pub fn provisioning(mut self, oem_string: String) -> Self {
        self.oem_string = Some(oem_string);
        self
    }

    /// Root's password in the guest, for [`Machine::run`]. The guest knows it by its provisioning data.
    pub fn root_password(mut self, password: &str) -> Self {
        self.root_password = Some(password.to_owned());
        self
    }

    /// Adds a network card whose guest ports the host reaches at the VM's own loopback address, see
    /// [`Machine::endpoint`]. The guest itself reaches nothing.
    pub fn user_nic(self, mac: &str, ports: &[u16]) -> Self {
        self.add_user_nic(mac, ports, true)
    }

    /// The same, and the guest reaches the host as 10.0.2.2, and through it what the host reaches.
    pub fn user_nic_with_way_out(self, mac: &str, ports: &[u16]) -> Self {
        self.add_user_nic(mac, ports, false)
    }

    fn add_user_nic(mut self, mac: &str, ports: &[u16], isolated: bool) -> Self {
        let forward = |port: &u16| Forward {
            // The address is filled in when the VM starts.
            host: SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, *port),
            guest_port: *port,
        };
        let network = Network::User { forwards: ports.iter().map(forward).collect(), isolated };
        self.spec.nics.push(Nic { mac: mac.to_owned(), network });
        self
    }

    /// Adds a network card with a cable to another VM.
    pub fn link_nic(mut self, mac: &str, end: LinkEnd) -> Self {
        self.spec.nics.push(Nic { mac: mac.to_owned(), network: Network::Link(end) });
        self
    }

    /// Forwards from this address of the host instead of one that nobody else uses.
    pub fn listen_at(mut self, address: Ipv4Addr) -> Self {
        self.address = Some(address);
        self
    }

    /// Puts the first serial port into the calling program's terminal.
    pub fn terminal(mut self) -> Self {
        self.spec.serial_port = SerialPort::Terminal;
        self
    }

    /// Switches the VM on. It belongs to the lab from then on and ends with it.
    pub fn start(mut self) -> Result<Machine> {
        let name = self.spec.name.clone();
        let disk = self.disk.take().with_context(|| format!("VM {name} has no disk"))?;
        let folder = self.lab.folder().join(&name);
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let ports = forwarded_ports(&self.spec);
        let address = match self.address {
            Some(address) => address,
            None => address::free(&ports)?,
        };
        set_address(&mut self.spec, address);
        let toolbox = self.lab.toolbox();
        if let Some(log) = &self.write_log {
            fs::File::create(log).with_context(|| format!("cannot make {}", log.display()))?;
        }
        let files = Files {
            disk: match disk {
                SystemDisk::Image(image) => disks::overlay(toolbox, &image, &folder)?,
                SystemDisk::Blank(gib) => disks::blank(toolbox, gib, &folder.join("disk.qcow2"))?,
            },
            medium: self.medium,
            extra_disks: disks::blanks(toolbox, &self.spec.extra_disks, &folder)?,
            images: self.images,
            write_log: self.write_log,
            flash: None, // by the firmware of each boot
            oem_string: self
                .oem_string
                .map(|text| disks::secret_file(&folder, "oem-string", &text))
                .transpose()?,
            qmp: self.lab.sockets().join(format!("{name}-qmp")),
            serial: self.lab.sockets().join(format!("{name}-ttyS0")),
            serial_log: folder.join("serial.log"),
            hvc0: self.lab.sockets().join(format!("{name}-hvc0")),
            hvc0_log: folder.join("hvc0.log"),
            pid: folder.join("pid"),
        };
        let machine = Machine(Arc::new(Inner {
            toolbox: toolbox.clone(),
            firmware: Mutex::new(self.spec.firmware),
            drive: Mutex::new(self.spec.medium),
            pulled: Mutex::default(),
            serial_log: Mutex::new(SerialLog::at(&files.serial_log)),
            hvc0_log: Mutex::new(SerialLog::at(&files.hvc0_log)),
            folder,
            spec: self.spec,
            files,
            address,
            root_password: self.root_password,
            child: Mutex::new(None),
            qmp: Mutex::new(None),
            shell: Mutex::new(None),
            keyboard: Mutex::new(None),
        }));
        self.lab.machines().push(machine.clone());
        machine.boot_again()?;
        Ok(machine)
    }
}

fn forwarded_ports(spec: &Spec) -> Vec<u16> {
    let forwards = |nic: &Nic| match &nic.network {
        Network::User { forwards, .. } => forwards.clone(),
        Network::Link(_) => Vec::new(),
    };
    spec.nics.iter().flat_map(forwards).map(|forward| forward.host.port()).collect()
}

fn set_address(spec: &mut Spec, address: Ipv4Addr) {
    for nic in &mut spec.nics {
        if let Network::User { forwards, .. } = &mut nic.network {
            for forward in forwards {
                forward.host.set_ip(address);
            }
        }
    }
}

/// A VM. Clones are the same VM.
#[derive(Debug, Clone)]
pub struct Machine(Arc<Inner>);

/// Each resource has a lock of its own, so that one thread may cut the power while another waits for a command.
#[derive(Debug)]
struct Inner {
    toolbox: Toolbox,
    /// That of the next boot.
    firmware: Mutex<Firmware>,
    /// Where the medium is at the next boot.
    drive: Mutex<Option<Drive>>,
    /// Which disks the next boot does not find.
    pulled: Mutex<BTreeSet<String>>,
    spec: Spec,
    files: Files,
    folder: PathBuf,
    address: Ipv4Addr,
    root_password: Option<String>,
    child: Mutex<Option<Child>>,
    qmp: Mutex<Option<Qmp>>,
    shell: Mutex<Option<Shell>>,
    keyboard: Mutex<Option<process::Keyboard>>,
    serial_log: Mutex<SerialLog>,
    hvc0_log: Mutex<SerialLog>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Machine {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.0.spec.name
    }

    /// Its folder: disks, `serial.log`, `hvc0.log`, `qemu.stderr`.
    pub fn folder(&self) -> &Path {
        &self.0.folder
    }

    /// Where the host reaches a forwarded port of the guest.
    pub fn endpoint(&self, guest_port: u16) -> Result<SocketAddrV4> {
        if !forwarded_ports(&self.0.spec).contains(&guest_port) {
            bail!("port {guest_port} of VM {} is not forwarded: name it in user_nic", self.name());
        }
        Ok(SocketAddrV4::new(self.0.address, guest_port))
    }

    /// A client of a forwarded port of the guest.
    pub fn client(&self, guest_port: u16) -> Result<Client> {
        Ok(Client::new(&self.0.toolbox, self.endpoint(guest_port)?))
    }

    /// Switches a VM on that is off, with the disks that it had and from now on with `firmware`.
    pub fn boot_with(&self, firmware: Firmware) -> Result<()> {
        *lock(&self.0.firmware) = firmware;
        self.boot_again()
    }

    /// The next boot finds no disk with this serial number; the system disk's is [`SYSTEM_DISK`](crate::SYSTEM_DISK).
    pub fn pull_disk(&self, serial: &str) {
        lock(&self.0.pulled).insert(serial.to_owned());
    }

    /// Pulls a SCSI disk out of the VM while it runs; the next boot does not find it either.
    pub fn pull_disk_now(&self, serial: &str) -> Result<()> {
        let others = self.0.spec.extra_disks.iter().position(|disk| disk.serial == serial);
        let index = if serial == SYSTEM_DISK { Some(0) } else { others.map(|index| index + 1) };
        let index = index.with_context(|| format!("VM {} has no disk {serial}", self.name()))?;
        self.pull_disk(serial);
        self.qmp(|qmp| qmp.unplug(&disk_id(index)))
    }

    /// The next boot finds a disk again that was pulled, as it was then.
    pub fn put_disk_back(&self, serial: &str) {
        lock(&self.0.pulled).remove(serial);
    }

    /// Enlarges a disk of the VM, which is off.
    pub fn enlarge_disk(&self, serial: &str, gib: u64) -> Result<()> {
        let Inner { spec, files, toolbox, .. } = &*self.0;
        let extra = spec.extra_disks.iter().zip(&files.extra_disks).find(|(disk, _)| disk.serial == serial);
        let path = if serial == SYSTEM_DISK { Some(&files.disk) } else { extra.map(|(_, path)| path) };
        let path = path.with_context(|| format!("VM {} has no disk {serial}", self.name()))?;
        disks::resize(toolbox, path, gib)
    }

    /// The next boot finds no medium.
    pub fn take_medium_out(&self) {
        *lock(&self.0.drive) = None;
    }

    /// Switches a VM on that is off, with the disks that it had.
    pub fn boot_again(&self) -> Result<()> {
        let inner = &self.0;
        if self.alive().is_ok() {
            bail!("VM {} is running", self.name());
        }
        if let Some(reason) = address::taken(inner.address, &forwarded_ports(&inner.spec)) {
            bail!("cannot forward ports to VM {}: {reason}", self.name());
        }
        self.forget_connections();
        self.begin_logs();
        let stderr = inner.folder.join("qemu.stderr");
        let interactive = inner.spec.serial_port == SerialPort::Terminal;
        let firmware = *lock(&inner.firmware);
        let flash = disks::flash(&inner.toolbox, firmware, inner.spec.bus, &inner.folder)?;
        let arguments = argv(
            &Spec {
                firmware,
                medium: *lock(&inner.drive),
                pulled: lock(&inner.pulled).clone(),
                ..inner.spec.clone()
            },
            &Files { flash, ..inner.files.clone() },
        );
        if !interactive {
            *lock(&inner.keyboard) = Some(process::Keyboard::at(&inner.files.serial)?);
        }
        let child = process::start(&inner.toolbox, arguments, &stderr, interactive)?;
        let id = child.id();
        *lock(&inner.child) = Some(child);
        let qmp = wait_until(&format!("QEMU of VM {} to start", self.name()), COMMAND, || {
            self.alive()?;
            Qmp::connect(&inner.files.qmp)
        })?;
        process::check_id(&inner.files.pid, id)?;
        *lock(&inner.qmp) = Some(qmp);
        Ok(())
    }

    /// Cuts the power: QEMU is killed, the guest notices nothing. Does nothing to a VM that is off.
    pub fn kill(&self) -> Result<()> {
        let mut child = lock(&self.0.child);
        if let Some(child) = child.as_mut() {
            child.kill().with_context(|| format!("cannot kill VM {}", self.name()))?;
            child.wait().with_context(|| format!("cannot wait for the end of VM {}", self.name()))?;
        }
        *child = None;
        drop(child);
        self.forget_connections();
        Ok(())
    }

    /// Presses the power button and waits until the guest has shut down.
    pub fn shutdown(&self, within: Duration) -> Result<()> {
        self.qmp(Qmp::system_powerdown)?;
        wait_until(&format!("VM {} to shut down", self.name()), within, || match self.alive() {
            Ok(()) => bail!("still running; console: {}", self.console_end()),
            Err(_) => Ok(()),
        })?;
        self.kill()
    }

    /// Restarts the guest cleanly, from inside, and returns when the firmware starts again.
    pub fn reboot(&self, within: Duration) -> Result<()> {
        // Later: the shell's answer would race with the end of its session.
        self.run_ok("(sleep 2; systemctl reboot) >/dev/shm/reboot 2>&1 &", COMMAND)?;
        self.wait_for_restart(within)
    }

    /// Waits until the guest restarts by itself.
    pub fn wait_for_restart(&self, within: Duration) -> Result<()> {
        self.qmp(|qmp| qmp.wait_event("RESET", within).map(drop))?;
        *lock(&self.0.shell) = None;
        *lock(&self.0.keyboard) = None;
        self.begin_logs();
        Ok(())
    }

    /// Fails with [`MachineEnded`] when QEMU is not running.
    pub fn alive(&self) -> Result<()> {
        let detail = match lock(&self.0.child).as_mut() {
            None => "it is switched off".to_owned(),
            Some(child) => match child.try_wait().context("cannot ask for QEMU's state")? {
                None => return Ok(()),
                Some(status) => {
                    format!("{status}: {}", process::last_words(&self.0.folder.join("qemu.stderr")))
                }
            },
        };
        Err(anyhow::Error::new(MachineEnded { machine: self.name().to_owned(), detail }))
    }

    /// Waits until the VM ends by itself or by its user.
    pub fn wait_for_end(&self) -> Result<()> {
        let mut child = lock(&self.0.child);
        let Some(child) = child.as_mut() else { return Ok(()) };
        let status = child.wait().context("cannot wait for QEMU")?;
        if !status.success() {
            bail!("QEMU failed ({status}): {}", process::last_words(&self.0.folder.join("qemu.stderr")));
        }
        Ok(())
    }

    /// Talks to QEMU itself.
    pub fn qmp<T>(&self, talk: impl FnOnce(&mut Qmp) -> Result<T>) -> Result<T> {
        self.alive()?;
        let mut qmp = lock(&self.0.qmp);
        let qmp = qmp.as_mut().ok_or_else(|| anyhow!("VM {} has no control connection", self.name()))?;
        talk(qmp).with_context(|| format!("VM {}", self.name()))
    }

    /// Writes what the screen shows to a PNG file.
    pub fn screendump(&self, png: &Path) -> Result<()> {
        self.qmp(|qmp| qmp.screendump(png))
    }

    /// Plugs the cable of the n-th network card (from 0) in or out.
    pub fn set_link(&self, nic: usize, up: bool) -> Result<()> {
        self.qmp(|qmp| qmp.set_link(&nic_id(nic), up))
    }

    /// Types on the serial port.
    pub fn type_on_serial(&self, keys: &str) -> Result<()> {
        let mut keyboard = lock(&self.0.keyboard);
        keyboard.as_mut().with_context(|| format!("VM {} has no keyboard", self.name()))?.type_keys(keys)
    }

    /// Waits for a text on the serial port, in this boot, and returns all that was said there.
    pub fn wait_for_serial(&self, text: &str, within: Duration) -> Result<String> {
        let log = lock(&self.0.serial_log).clone();
        log.wait_for(text, within, || self.alive())
    }

    /// What the serial port said in this boot.
    pub fn serial(&self) -> Result<String> {
        lock(&self.0.serial_log).this_boot()
    }

    /// What a terminal at the serial port shows now: 24 lines of 80 columns.
    pub fn serial_screen(&self) -> Result<String> {
        lock(&self.0.serial_log).screen()
    }

    fn console_end(&self) -> String {
        self.serial().map_or_else(|error| format!("{error:#}"), |said| crate::serial::last_lines(&said, 8))
    }

    /// Waits until root can log in on the virtio console.
    pub fn wait_for_login(&self, within: Duration) -> Result<()> {
        self.shell(within, |_| Ok(()))
    }

    /// Runs a bash script as root in the guest, logging in first where needed.
    pub fn run(&self, script: &str, within: Duration) -> Result<Output> {
        self.shell(BOOT, |shell| shell.run(script, within))
    }

    /// Runs a bash script that must succeed, and returns its standard output without white space at its end.
    pub fn run_ok(&self, script: &str, within: Duration) -> Result<String> {
        let output = self.run(script, within)?;
        output.success(script).with_context(|| format!("VM {}", self.name()))
    }

    /// Writes a file of the guest (mode 0600 when it is new). Slow: for kilobytes.
    pub fn write_file(&self, path: &str, bytes: &[u8], within: Duration) -> Result<()> {
        self.shell(BOOT, |shell| shell.write_file(path, bytes, within))
    }

    /// Reads a file of the guest. Slow, 40 kB/s: for what is small.
    pub fn read_file(&self, path: &str, within: Duration) -> Result<Vec<u8>> {
        self.shell(BOOT, |shell| shell.read_file(path, within))
    }

    fn shell<T>(&self, login_within: Duration, talk: impl FnOnce(&mut Shell) -> Result<T>) -> Result<T> {
        self.alive()?;
        let mut slot = lock(&self.0.shell);
        let result = self.logged_in(&mut slot, login_within).and_then(talk);
        if result.is_err() {
            // A lost shell is replaced at the next call; one that merely timed out goes on.
            slot.take_if(|shell| shell.is_lost());
            // When QEMU has ended, that is the reason to be told.
            self.alive()?;
        }
        result.with_context(|| format!("VM {}", self.name()))
    }

    fn logged_in<'a>(&self, slot: &'a mut Option<Shell>, within: Duration) -> Result<&'a mut Shell> {
        if slot.is_none() {
            let password = self.0.root_password.as_deref();
            let password = password.context("no root password was given for this VM")?;
            let begun = Instant::now();
            // Until a getty has spoken, what is typed would go to firmware and boot menu.
            let console = lock(&self.0.hvc0_log).clone();
            console.wait_for("login:", within, || self.alive()).with_context(|| {
                format!("nobody can log in on the virtio console; serial port: {}", self.console_end())
            })?;
            let within = within.saturating_sub(begun.elapsed()).max(COMMAND);
            *slot = Some(Shell::login(&self.0.files.hvc0, password, within)?);
        }
        slot.as_mut().context("no shell")
    }

    /// What was said so far belongs to an earlier boot.
    fn begin_logs(&self) {
        *lock(&self.0.serial_log) = SerialLog::at(&self.0.files.serial_log);
        *lock(&self.0.hvc0_log) = SerialLog::at(&self.0.files.hvc0_log);
    }

    fn forget_connections(&self) {
        *lock(&self.0.qmp) = None;
        *lock(&self.0.shell) = None;
    }

    /// Saves what explains a failure: `screen.png`, `journal.log`. Returns what could not be had.
    pub(crate) fn save_evidence(&self) -> Vec<anyhow::Error> {
        if self.alive().is_err() {
            return Vec::new();
        }
        let screen = self.screendump(&self.0.folder.join("screen.png"));
        let journal = self.save_journal();
        [screen, journal].into_iter().filter_map(Result::err).collect()
    }

    fn save_journal(&self) -> Result<()> {
        if self.0.root_password.is_none() {
            return Ok(());
        }
        // Another thread may hang in a command: its shell cannot be had.
        let Ok(mut slot) = self.0.shell.try_lock() else { bail!("no journal: the shell is in use") };
        let shell = self.logged_in(&mut slot, EVIDENCE).context("no journal")?;
        let output = shell.run(EVIDENCE_SCRIPT, EVIDENCE * 2).context("no journal")?;
        let packed = self.0.folder.join("journal.log.gz");
        fs::write(&packed, output.stdout).with_context(|| format!("cannot write {}", packed.display()))?;
        let unpacked = self.0.toolbox.command("gzip").args(["-d", "-f"]).arg(&packed).status();
        if !unpacked.context("cannot run gzip")?.success() {
            bail!("cannot unpack {}", packed.display());
        }
        Ok(())
    }

    /// Asks QEMU for its version: shows that it answers.
    pub fn qemu_version(&self) -> Result<String> {
        let answer = self.qmp(|qmp| qmp.execute("query-version", json!({})))?;
        Ok(format!("{}.{}", answer["qemu"]["major"], answer["qemu"]["minor"]))
    }
}
