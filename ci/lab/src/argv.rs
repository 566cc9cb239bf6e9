//! QEMU's command line, from a [`Spec`] and the files of one VM. Pure: tests read it without a QEMU.
//!
//! Block devices are given as JSON, so that a path may hold any character; the options that know only
//! `key=value` get their commas doubled. Provisioning data goes by file: a command line is readable by every
//! user of the host.

use std::path::{Path, PathBuf};

use serde_json::json;

use crate::spec::{Accelerator, Bus, Card, Drive, Firmware, Network, Nic, SYSTEM_DISK, SerialPort, Spec};

/// Files of one VM: those it reads, and the sockets and logs that it makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// System disk (qcow2).
    pub disk: PathBuf,
    /// Further disks (qcow2), as many as the spec has.
    pub extra_disks: Vec<PathBuf>,
    /// Log of all writes to the system disk (dm-log-writes' format), if one is wanted.
    pub write_log: Option<PathBuf>,
    /// Installation medium (ISO); used where the spec has a drive for it.
    pub medium: Option<PathBuf>,
    /// Images (raw) that the guest may only read, each with its serial number.
    pub images: Vec<(String, PathBuf)>,
    /// Firmware code and this VM's own copy of its variables; none for SeaBIOS.
    pub flash: Option<Flash>,
    /// OEM string for SMBIOS type 11 (provisioning data).
    pub oem_string: Option<PathBuf>,
    /// QMP socket.
    pub qmp: PathBuf,
    /// Pipe of what is typed on ttyS0.
    pub serial: PathBuf,
    /// Everything that ttyS0 said, over all boots.
    pub serial_log: PathBuf,
    /// Socket of hvc0.
    pub hvc0: PathBuf,
    /// Everything that hvc0 said, over all boots.
    pub hvc0_log: PathBuf,
    /// QEMU's process id.
    pub pid: PathBuf,
}

/// UEFI firmware as two flash chips.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flash {
    /// Code, read-only.
    pub code: PathBuf,
    /// Variables, written by the guest.
    pub variables: PathBuf,
}

/// Identifier of the n-th network card, for [`crate::Qmp::set_link`].
pub fn nic_id(index: usize) -> String {
    format!("nic{index}")
}

/// Identifier of a SCSI disk: 0 is the system disk, then come the others in order.
pub fn disk_id(index: usize) -> String {
    format!("unit{index}")
}

/// The arguments after `qemu-system-x86_64`.
pub fn argv(spec: &Spec, files: &Files) -> Vec<String> {
    let mut args = Args(Vec::new());
    args.option("-name", &spec.name);
    args.flag("-nodefaults");
    args.flag("-no-user-config");
    machine(&mut args, spec, files);
    args.option("-smp", spec.cpus.to_string());
    args.option("-m", format!("{}M", spec.memory_mib));
    args.option("-rtc", "base=utc");
    args.option("-device", "virtio-rng-pci");
    disks(&mut args, spec, files);
    for (index, nic) in spec.nics.iter().enumerate() {
        network_card(&mut args, index, nic, spec.card);
    }
    if let Some(path) = &files.oem_string {
        args.option("-smbios", format!("type=11,path={}", doubled_commas(path)));
    }
    consoles(&mut args, spec, files);
    args.option("-display", "none");
    args.option("-vga", "std");
    args.option("-pidfile", files.pid.display().to_string());
    args.0
}

fn machine(args: &mut Args, spec: &Spec, files: &Files) {
    // Only the older mainboard has IDE.
    let mut machine = if spec.bus == Bus::Ide { "pc" } else { "q35" }.to_owned();
    if files.flash.is_some() {
        machine.push_str(",pflash0=flash-code,pflash1=flash-variables");
    }
    if spec.firmware == Firmware::OvmfSecureBoot {
        // The variables may be written only from system management mode, or a guest could enrol keys.
        machine.push_str(",smm=on");
        args.option("-global", "driver=cfi.pflash01,property=secure,value=on");
    }
    args.option("-machine", machine);
    let accelerator = match spec.accelerator {
        Accelerator::Tcg => "tcg,thread=multi",
        Accelerator::Kvm => "kvm",
    };
    args.option("-accel", accelerator);
    // Without the fifth level of page tables, which each translated access to memory would pay for.
    args.option("-cpu", "max,la57=off");
    if let Some(flash) = &files.flash {
        args.option("-blockdev", flash_chip("flash-code", &flash.code, true));
        args.option("-blockdev", flash_chip("flash-variables", &flash.variables, false));
    }
}

fn flash_chip(node: &str, path: &Path, read_only: bool) -> String {
    let file = json!({ "driver": "file", "filename": path });
    json!({ "driver": "raw", "node-name": node, "read-only": read_only, "file": file }).to_string()
}

fn disks(args: &mut Args, spec: &Spec, files: &Files) {
    if !spec.pulled.contains(SYSTEM_DISK) {
        disk(args, 0, &files.disk, spec, spec.bus, SYSTEM_DISK, files.write_log.as_deref());
    }
    for (index, (extra, path)) in spec.extra_disks.iter().zip(&files.extra_disks).enumerate() {
        if !spec.pulled.contains(&extra.serial) {
            disk(args, index + 1, path, spec, extra.bus, &extra.serial, None);
        }
    }
    for (index, (serial, path)) in files.images.iter().enumerate() {
        image(args, index, serial, path);
    }
    if let (Some(drive), Some(path)) = (spec.medium, &files.medium) {
        // The disks have the numbers from 1 on.
        let order = if spec.disks_first { spec.extra_disks.len() + 2 } else { 0 };
        medium(args, drive, path, order);
    }
}

fn medium(args: &mut Args, drive: Drive, path: &Path, order: usize) {
    args.option("-blockdev", read_only("medium", path));
    match drive {
        Drive::Cd => args.option("-device", format!("ide-cd,bus=ide.5,drive=medium,bootindex={order}")),
        Drive::Stick => {
            args.option("-device", "qemu-xhci,id=usb");
            let stick = format!("usb-storage,bus=usb.0,drive=medium,removable=on,bootindex={order}");
            args.option("-device", stick);
        }
    }
}

fn read_only(node: &str, path: &Path) -> String {
    let file = json!({ "driver": "file", "filename": path, "read-only": true });
    json!({ "driver": "raw", "node-name": node, "read-only": true, "file": file }).to_string()
}

/// An image that the guest may only read; several VMs may have the same one.
fn image(args: &mut Args, index: usize, serial: &str, path: &Path) {
    let node = format!("image{index}");
    args.option("-blockdev", read_only(&node, path));
    args.option("-device", format!("virtio-blk-pci,drive={node},serial={}", serial.replace(',', ",,")));
}

/// The host's page cache is used and flushes are passed on: what the guest was told is on disk survives QEMU's
/// sudden end.
fn disk(
    args: &mut Args,
    index: usize,
    path: &Path,
    spec: &Spec,
    bus: Bus,
    serial: &str,
    write_log: Option<&Path>,
) {
    let file = json!({ "driver": "file", "filename": path });
    let node = format!("disk{index}");
    let image = json!({ "driver": "qcow2", "discard": "unmap", "file": file });
    let mut blockdev = match write_log {
        None => image,
        Some(log) => {
            let log = json!({ "driver": "file", "filename": log });
            json!({ "driver": "blklogwrites", "discard": "unmap", "file": image, "log": log })
        }
    };
    blockdev["node-name"] = node.as_str().into();
    args.option("-blockdev", blockdev.to_string());
    // Firmware tries what is named here, and perhaps nothing else.
    let mut boot = format!(",bootindex={}", index + 1);
    if spec.sector_bytes != 512 {
        boot += &format!(",logical_block_size={0},physical_block_size={0}", spec.sector_bytes);
    }
    let serial = serial.replace(',', ",,");
    match bus {
        Bus::VirtioBlk => {
            args.option("-device", format!("virtio-blk-pci,drive={node},serial={serial}{boot}"));
        }
        Bus::VirtioScsi | Bus::Megasas | Bus::Pvscsi | Bus::LsiLogicSas => {
            let controller = match bus {
                Bus::Megasas => "megasas",
                Bus::Pvscsi => "pvscsi",
                Bus::LsiLogicSas => "mptsas1068",
                _ => "virtio-scsi-pci",
            };
            args.option("-device", format!("{controller},id=scsi{index}"));
            let id = disk_id(index);
            // To Linux's `mptsas` a device without a SAS address is none.
            let address = match bus {
                Bus::LsiLogicSas => format!(",wwn=0x5000c500000000{index:02x}"),
                _ => String::new(),
            };
            let device =
                format!("scsi-hd,id={id},bus=scsi{index}.0,drive={node},serial={serial}{address}{boot}");
            args.option("-device", device);
        }
        Bus::Sata => {
            args.option("-device", format!("ide-hd,bus=ide.{index},drive={node},serial={serial}{boot}"));
        }
        Bus::Ide => {
            args.option(
                "-device",
                format!("ide-hd,bus=ide.0,unit={index},drive={node},serial={serial}{boot}"),
            );
        }
        Bus::Nvme => args.option("-device", format!("nvme,drive={node},serial={serial}{boot}")),
    }
}

fn network_card(args: &mut Args, index: usize, nic: &Nic, card: Card) {
    let backend = match &nic.network {
        Network::User { forwards, isolated } => {
            let mut user = format!("user,id=net{index}");
            if *isolated {
                user.push_str(",restrict=on");
            }
            for forward in forwards {
                let (ip, port) = (forward.host.ip(), forward.host.port());
                user.push_str(&format!(",hostfwd=tcp:{ip}:{port}-:{}", forward.guest_port));
            }
            user
        }
        Network::Link(end) => {
            let path = doubled_commas(&end.socket);
            // A stream, not datagrams: a full socket then slows the sender down instead of losing frames.
            let role = if end.listens { "server=on" } else { "server=off,reconnect-ms=500" };
            format!("stream,id=net{index},addr.type=unix,addr.path={path},{role}")
        }
    };
    args.option("-netdev", backend);
    // Without a boot ROM the firmware wastes no time on network boot.
    let card = match card {
        Card::Virtio => "virtio-net-pci",
        Card::Vmxnet3 => "vmxnet3",
        Card::E1000e => "e1000e",
    };
    let device = format!("{card},id={},netdev=net{index},mac={},romfile=", nic_id(index), nic.mac);
    args.option("-device", device);
}

fn consoles(args: &mut Args, spec: &Spec, files: &Files) {
    let log = doubled_commas(&files.serial_log);
    match spec.serial_port {
        SerialPort::Files => {
            // Not over a socket: QEMU loses what the guest says there while its reader is slow.
            let typed = doubled_commas(&files.serial);
            let file = format!("file,id=ttyS0,path={log},append=on,input-path={typed}");
            args.option("-chardev", file);
        }
        SerialPort::Terminal => {
            let terminal = format!("stdio,id=ttyS0,mux=on,signal=off,logfile={log},logappend=on");
            args.option("-chardev", terminal);
            args.option("-mon", "chardev=ttyS0,mode=readline");
        }
    }
    args.option("-serial", "chardev:ttyS0");
    args.option("-chardev", listening_socket("hvc0", &files.hvc0, Some(&files.hvc0_log)));
    args.option("-device", "virtio-serial-pci");
    args.option("-device", "virtconsole,chardev=hvc0");
    args.option("-chardev", listening_socket("qmp", &files.qmp, None));
    args.option("-mon", "chardev=qmp,mode=control");
}

fn listening_socket(id: &str, path: &Path, log: Option<&Path>) -> String {
    let mut socket = format!("socket,id={id},path={},server=on,wait=off", doubled_commas(path));
    if let Some(log) = log {
        socket.push_str(&format!(",logfile={},logappend=on", doubled_commas(log)));
    }
    socket
}

fn doubled_commas(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

struct Args(Vec<String>);

impl Args {
    fn flag(&mut self, flag: &str) {
        self.0.push(flag.to_owned());
    }

    fn option(&mut self, name: &str, value: impl Into<String>) {
        self.0.push(name.to_owned());
        self.0.push(value.into());
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddrV4};

    use super::*;
    use crate::spec::{ExtraDisk, Forward, LinkEnd};

    fn files() -> Files {
        Files {
            disk: "/run/disk.qcow2".into(),
            extra_disks: vec![],
            medium: None,
            images: vec![],
            write_log: None,
            flash: Some(Flash { code: "/fw/code.fd".into(), variables: "/run/vars.fd".into() }),
            oem_string: None,
            qmp: "/s/qmp".into(),
            serial: "/s/ttyS0".into(),
            serial_log: "/run/serial.log".into(),
            hvc0: "/s/hvc0".into(),
            hvc0_log: "/run/hvc0.log".into(),
            pid: "/run/pid".into(),
        }
    }

    fn spec() -> Spec {
        Spec::new("backup", Accelerator::Tcg)
    }

    /// The values of an option, in order.
    fn values(args: &[String], option: &str) -> Vec<String> {
        args.windows(2).filter(|pair| pair[0] == option).map(|pair| pair[1].clone()).collect()
    }

    #[test]
    fn a_plain_machine() {
        let args = argv(&spec(), &files());
        assert_eq!(values(&args, "-machine"), ["q35,pflash0=flash-code,pflash1=flash-variables"]);
        assert_eq!(values(&args, "-accel"), ["tcg,thread=multi"]);
        assert_eq!(values(&args, "-cpu"), ["max,la57=off"]);
        assert_eq!(values(&args, "-smp"), ["2"]);
        assert_eq!(values(&args, "-m"), ["2048M"]);
        assert_eq!(values(&args, "-netdev"), Vec::<String>::new());
        assert_eq!(values(&args, "-smbios"), Vec::<String>::new());
        assert_eq!(values(&args, "-display"), ["none"]);
        assert_eq!(values(&args, "-vga"), ["std"]);
        assert_eq!(values(&args, "-pidfile"), ["/run/pid"]);
        assert!(args.contains(&"-nodefaults".to_owned()));
        assert!(values(&args, "-device").contains(&"virtio-rng-pci".to_owned()));
    }

    #[test]
    fn code_is_read_only_and_variables_are_not() {
        let flash: Vec<serde_json::Value> = values(&argv(&spec(), &files()), "-blockdev")
            .iter()
            .map(|value| serde_json::from_str(value).unwrap())
            .filter(|node: &serde_json::Value| node["driver"] == "raw")
            .collect();
        assert_eq!(flash[0]["file"]["filename"], "/fw/code.fd");
        assert_eq!(flash[0]["read-only"], true);
        assert_eq!(flash[1]["file"]["filename"], "/run/vars.fd");
        assert_eq!(flash[1]["read-only"], false);
    }

    #[test]
    fn secure_boot_guards_the_variables_by_smm() {
        let spec = Spec { firmware: Firmware::OvmfSecureBoot, ..spec() };
        let args = argv(&spec, &files());
        assert!(values(&args, "-machine")[0].ends_with(",smm=on"));
        assert_eq!(values(&args, "-global"), ["driver=cfi.pflash01,property=secure,value=on"]);
    }

    #[test]
    fn seabios_has_no_flash() {
        let spec = Spec { firmware: Firmware::SeaBios, ..spec() };
        let args = argv(&spec, &Files { flash: None, ..files() });
        assert_eq!(values(&args, "-machine"), ["q35"]);
        assert_eq!(values(&args, "-blockdev").len(), 1);
    }

    #[test]
    fn every_disk_may_boot_the_system_disk_first() {
        let extra = |bus, serial: &str| ExtraDisk { gib: 20, bus, serial: serial.to_owned() };
        let spec = Spec {
            extra_disks: vec![extra(Bus::VirtioBlk, "two"), extra(Bus::VirtioScsi, "three")],
            ..spec()
        };
        let files = Files { extra_disks: vec!["/run/1.qcow2".into(), "/run/2.qcow2".into()], ..files() };
        let args = argv(&spec, &files);
        let devices = values(&args, "-device");
        assert!(devices.contains(&"virtio-blk-pci,drive=disk0,serial=system,bootindex=1".to_owned()));
        assert!(devices.contains(&"virtio-blk-pci,drive=disk1,serial=two,bootindex=2".to_owned()));
        assert!(devices.contains(&"virtio-scsi-pci,id=scsi2".to_owned()));
        assert!(
            devices.contains(&"scsi-hd,id=unit2,bus=scsi2.0,drive=disk2,serial=three,bootindex=3".to_owned())
        );
    }

    #[test]
    fn writes_are_logged_above_the_image() {
        let args = argv(&spec(), &Files { write_log: Some("/run/log".into()), ..files() });
        let node: serde_json::Value = values(&args, "-blockdev")
            .iter()
            .map(|value| serde_json::from_str(value).unwrap())
            .find(|node: &serde_json::Value| node["node-name"] == "disk0")
            .unwrap();
        assert_eq!((&node["driver"], &node["log"]["filename"]), (&"blklogwrites".into(), &"/run/log".into()));
        assert_eq!(node["file"]["file"]["filename"], "/run/disk.qcow2");
    }

    #[test]
    fn an_image_is_read_only_and_found_by_its_serial_number() {
        let files = Files { images: vec![("root".into(), "/run/root.erofs".into())], ..files() };
        let args = argv(&spec(), &files);
        let node: serde_json::Value =
            serde_json::from_str(values(&args, "-blockdev").last().unwrap()).unwrap();
        assert_eq!(
            (&node["read-only"], &node["file"]["filename"]),
            (&true.into(), &"/run/root.erofs".into())
        );
        assert!(values(&args, "-device").contains(&"virtio-blk-pci,drive=image0,serial=root".to_owned()));
    }

    #[test]
    fn a_medium_is_started_before_the_disks_or_after_them_and_only_where_there_is_a_drive() {
        let files = Files { medium: Some("/run/medium.iso".into()), ..files() };
        for (drive, disks_first, expected) in [
            (None, false, None),
            (Some(Drive::Cd), false, Some("ide-cd,bus=ide.5,drive=medium,bootindex=0")),
            (Some(Drive::Cd), true, Some("ide-cd,bus=ide.5,drive=medium,bootindex=2")),
            (Some(Drive::Stick), false, Some("usb-storage,bus=usb.0,drive=medium,removable=on,bootindex=0")),
        ] {
            let devices = values(&argv(&Spec { medium: drive, disks_first, ..spec() }, &files), "-device");
            let found = devices.iter().find(|device| device.contains("drive=medium"));
            assert_eq!(found.map(String::as_str), expected);
        }
    }

    #[test]
    fn a_disk_that_was_pulled_is_not_there_and_the_others_keep_their_places() {
        let disk = |serial: &str| ExtraDisk { gib: 1, bus: Bus::Sata, serial: serial.into() };
        let spec = Spec {
            extra_disks: vec![disk("one"), disk("two")],
            pulled: ["system", "one"].map(String::from).into(),
            ..spec()
        };
        let files = Files { extra_disks: vec!["/run/1".into(), "/run/2".into()], ..files() };
        let devices = values(&argv(&spec, &files), "-device");
        let disks: Vec<_> = devices.iter().filter(|device| device.contains("drive=disk")).collect();
        assert_eq!(disks, ["ide-hd,bus=ide.2,drive=disk2,serial=two,bootindex=3"]);
    }

    #[test]
    fn each_bus_has_its_controller() {
        for (bus, expected) in [
            (Bus::Sata, "ide-hd,bus=ide.0,drive=disk0,serial=system,bootindex=1"),
            (Bus::Nvme, "nvme,drive=disk0,serial=system,bootindex=1"),
            (Bus::Megasas, "megasas,id=scsi0"),
            (Bus::Pvscsi, "pvscsi,id=scsi0"),
            (Bus::LsiLogicSas, "mptsas1068,id=scsi0"),
            (
                Bus::LsiLogicSas,
                "scsi-hd,id=unit0,bus=scsi0.0,drive=disk0,serial=system,wwn=0x5000c50000000000,bootindex=1",
            ),
            (Bus::Ide, "ide-hd,bus=ide.0,unit=0,drive=disk0,serial=system,bootindex=1"),
        ] {
            let devices = values(&argv(&Spec { bus, ..spec() }, &files()), "-device");
            assert!(devices.contains(&expected.to_owned()), "{devices:?}");
        }
    }

    #[test]
    fn forwards_listen_on_the_given_address_only() {
        let host = SocketAddrV4::new(Ipv4Addr::new(127, 83, 1, 2), 50000);
        let user = Network::User { forwards: vec![Forward { host, guest_port: 50000 }], isolated: true };
        let spec = Spec { nics: vec![Nic { mac: "52:54:00:00:00:01".into(), network: user }], ..spec() };
        let args = argv(&spec, &files());
        let expected = "user,id=net0,restrict=on,hostfwd=tcp:127.83.1.2:50000-:50000";
        assert_eq!(values(&args, "-netdev"), [expected]);
        let card = "virtio-net-pci,id=nic0,netdev=net0,mac=52:54:00:00:00:01,romfile=";
        assert!(values(&args, "-device").contains(&card.to_owned()));
    }

    #[test]
    fn one_end_of_a_link_listens_and_the_other_reconnects() {
        let nic = |listens| Nic {
            mac: "52:54:00:00:00:02".into(),
            network: Network::Link(LinkEnd { socket: "/s/a,b".into(), listens }),
        };
        let args = argv(&Spec { nics: vec![nic(true), nic(false)], ..spec() }, &files());
        assert_eq!(
            values(&args, "-netdev"),
            [
                "stream,id=net0,addr.type=unix,addr.path=/s/a,,b,server=on",
                "stream,id=net1,addr.type=unix,addr.path=/s/a,,b,server=off,reconnect-ms=500",
            ]
        );
    }

    #[test]
    fn provisioning_data_goes_by_file() {
        let files = Files { oem_string: Some("/run/oem,string".into()), ..files() };
        assert_eq!(values(&argv(&spec(), &files), "-smbios"), ["type=11,path=/run/oem,,string"]);
    }

    #[test]
    fn consoles_are_logged_whether_somebody_listens_or_not() {
        let chardevs = values(&argv(&spec(), &files()), "-chardev");
        assert_eq!(
            chardevs,
            [
                "file,id=ttyS0,path=/run/serial.log,append=on,input-path=/s/ttyS0",
                "socket,id=hvc0,path=/s/hvc0,server=on,wait=off,logfile=/run/hvc0.log,logappend=on",
                "socket,id=qmp,path=/s/qmp,server=on,wait=off",
            ]
        );
    }

    #[test]
    fn a_terminal_shares_the_serial_port_with_the_monitor() {
        let args = argv(&Spec { serial_port: SerialPort::Terminal, ..spec() }, &files());
        assert!(values(&args, "-chardev")[0].starts_with("stdio,id=ttyS0,mux=on,signal=off,"));
        assert_eq!(values(&args, "-mon"), ["chardev=ttyS0,mode=readline", "chardev=qmp,mode=control"]);
    }
}
