//! What a VM is made of, as data. [`crate::argv`] turns it into QEMU's command line; nothing here touches the
//! machine that the lab runs on.

use std::collections::BTreeSet;
use std::net::SocketAddrV4;
use std::path::PathBuf;

/// FTP's passive data ports: the server tells the client their numbers, so they must be forwarded unchanged.
pub use api::FTP_PASSIVE_PORTS;
pub use api::{CONTROL_PORT, FTP_PORT, REPLICATION_PORT};

/// Every TCP port that a backup server offers.
pub fn backup_server_ports() -> Vec<u16> {
    [CONTROL_PORT, FTP_PORT].into_iter().chain(FTP_PASSIVE_PORTS).collect()
}

/// What starts the operating system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Firmware {
    /// UEFI without Secure Boot (OVMF, 4 MiB flash).
    Ovmf,
    /// UEFI with Secure Boot on and Microsoft's keys enrolled (OVMF with SMM).
    OvmfSecureBoot,
    /// A PC's BIOS.
    SeaBios,
}

/// How a disk is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bus {
    /// virtio-blk: a controller for each disk.
    VirtioBlk,
    /// virtio-scsi: a controller for each disk too, because OVMF honours the boot order only across controllers.
    VirtioScsi,
    /// SATA, on the mainboard's controller.
    Sata,
    /// NVMe.
    Nvme,
    /// A volume of a RAID controller (LSI MegaRAID).
    Megasas,
    /// VMware's paravirtual SCSI.
    Pvscsi,
    /// LSI Logic SAS, as VMware emulates it too.
    LsiLogicSas,
    /// IDE of an old mainboard (PIIX), which the VM then has; of the system disk only.
    Ide,
}

/// What a network card is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Card {
    /// virtio-net.
    Virtio,
    /// VMware's paravirtual one.
    Vmxnet3,
    /// Intel 82574.
    E1000e,
}

/// How an installation medium is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drive {
    /// In an optical drive.
    Cd,
    /// As a USB stick.
    Stick,
}

/// Serial number of the system disk.
pub const SYSTEM_DISK: &str = "system";

/// A blank disk beside the system disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtraDisk {
    /// Size in GiB; the file is sparse.
    pub gib: u64,
    /// How it is attached.
    pub bus: Bus,
    /// Serial number that the guest sees in `/dev/disk/by-id`.
    pub serial: String,
}

/// A TCP port of the guest at an address of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forward {
    /// Where the host listens.
    pub host: SocketAddrV4,
    /// The port in the guest.
    pub guest_port: u16,
}

/// The other end of a network card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Network {
    /// QEMU's user-mode network: DHCP, and TCP forwards from the host.
    User {
        /// What the host can reach.
        forwards: Vec<Forward>,
        /// The guest reaches nothing but its own DHCP server. Off: it reaches the host as 10.0.2.2, and through
        /// it whatever the host reaches.
        isolated: bool,
    },
    /// A cable to one other VM, over a unix socket.
    Link(LinkEnd),
}

/// One of the two ends of a cable between VMs. One VM listens, the other connects and reconnects, so either may
/// be killed and booted again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkEnd {
    pub(crate) socket: PathBuf,
    pub(crate) listens: bool,
}

/// A network card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nic {
    /// MAC address: provisioning data names interfaces by it.
    pub mac: String,
    /// What it is plugged into.
    pub network: Network,
}

/// Where the guest's first serial port goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SerialPort {
    /// A file for what the guest says, and a pipe for what is typed.
    Files,
    /// The terminal of the calling program, shared with QEMU's monitor (Ctrl-A C, Ctrl-A X ends the VM).
    Terminal,
}

/// How instructions are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerator {
    /// Translation by QEMU: slow, works everywhere.
    Tcg,
    /// The processor's virtualization.
    Kvm,
}

impl Accelerator {
    /// KVM only when asked for by `INFIMONITOR_ACCEL=kvm`: a /dev/kvm may exist and open, and yet every kernel
    /// dies in its decompressor, so it is never tried by itself.
    pub fn from_setting(setting: Option<&str>) -> Accelerator {
        if setting == Some("kvm") { Accelerator::Kvm } else { Accelerator::Tcg }
    }
}

/// A VM, but for the files that it uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    /// Name: of its folder and in messages.
    pub name: String,
    /// What starts it.
    pub firmware: Firmware,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Processors.
    pub cpus: u8,
    /// How the system disk is attached.
    pub bus: Bus,
    /// Where an installation medium is, if there is one.
    pub medium: Option<Drive>,
    /// What is started: the disks and, as long as none of them boots, the medium; otherwise the medium first.
    pub disks_first: bool,
    /// Bytes of a logical sector of the disks.
    pub sector_bytes: u32,
    /// Blank disks beside it.
    pub extra_disks: Vec<ExtraDisk>,
    /// Serial numbers of disks that are not there; the system disk's is `system`.
    pub pulled: BTreeSet<String>,
    /// Network cards, in order.
    pub nics: Vec<Nic>,
    /// What they are.
    pub card: Card,
    /// First serial port.
    pub serial_port: SerialPort,
    /// How instructions are run.
    pub accelerator: Accelerator,
}

impl Spec {
    /// A VM with 2 processors and 2 GiB, without network.
    pub fn new(name: &str, accelerator: Accelerator) -> Spec {
        Spec {
            name: name.to_owned(),
            firmware: Firmware::Ovmf,
            memory_mib: 2048,
            cpus: 2,
            bus: Bus::VirtioBlk,
            medium: None,
            disks_first: false,
            sector_bytes: 512,
            extra_disks: Vec::new(),
            pulled: BTreeSet::new(),
            nics: Vec::new(),
            card: Card::Virtio,
            serial_port: SerialPort::Files,
            accelerator,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kvm_is_used_only_when_asked_for() {
        assert_eq!(Accelerator::from_setting(None), Accelerator::Tcg);
        assert_eq!(Accelerator::from_setting(Some("")), Accelerator::Tcg);
        assert_eq!(Accelerator::from_setting(Some("tcg")), Accelerator::Tcg);
        assert_eq!(Accelerator::from_setting(Some("kvm")), Accelerator::Kvm);
    }

    #[test]
    fn a_backup_server_offers_api_ftp_and_passive_ports() {
        let ports = backup_server_ports();
        assert_eq!(ports.len(), 12);
        assert!(ports.starts_with(&[50000, 2121, 30000]));
    }
}
