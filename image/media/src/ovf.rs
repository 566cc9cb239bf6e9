//! The description of a machine as OVF 1.1 (DMTF DSP0243), as ESXi and vCenter read it.
//!
//! What they refuse is known from other projects' issues and stands in [`crate::verify`]; nothing of that is written here: one
//! virtual system, virtual hardware and a guest that old hosts know, whole MiB, exact sizes, controllers in their exact case, no
//! licence section, and what only newer hosts know marked as not required.

use crate::xml::escape;
use crate::{Firmware, MIB};

/// Virtual hardware: ESXi 6.7 update 2 and later, and every vSphere 7 and 8.
pub const HARDWARE: &str = "vmx-15";
/// How guests are called that every host knows: CIM's number of it, and VMware's id.
pub const GUEST: (u32, &str, &str) = (101, "other3xLinux64Guest", "Other 3.x or later Linux (64-bit)");
/// The format of the disk.
pub const STREAM_OPTIMIZED: &str =
    "http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized";

/// What the disk is attached to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Controller {
    /// VMware's paravirtual one.
    Pvscsi,
    /// LSI Logic parallel.
    LsiLogic,
    /// LSI Logic SAS.
    LsiLogicSas,
}

impl Controller {
    /// Name in OVF, in VMware's exact case.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pvscsi => "VirtualSCSI",
            Self::LsiLogic => "lsilogic",
            Self::LsiLogicSas => "lsilogicsas",
        }
    }
}

/// The network card.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nic {
    /// VMware's paravirtual one.
    Vmxnet3,
    /// Intel 82574.
    E1000e,
}

impl Nic {
    /// Name in OVF, in VMware's exact case.
    pub fn name(self) -> &'static str {
        match self {
            Self::Vmxnet3 => "VmxNet3",
            Self::E1000e => "E1000e",
        }
    }
}

/// Processors and memory for a number of devices; the person who imports chooses one.
#[derive(Debug, Clone)]
pub struct Size {
    /// Its id.
    pub id: String,
    /// What it is for.
    pub label: String,
    /// Processors.
    pub cores: u32,
    /// Memory in MiB.
    pub memory_mib: u64,
}

/// What is asked at the import and given to the machine.
#[derive(Debug, Clone)]
pub struct Property {
    /// Its key.
    pub key: String,
    /// What is asked.
    pub label: String,
    /// What it means.
    pub description: String,
    /// Whether it is hidden while it is typed.
    pub is_secret: bool,
}

/// The machine.
#[derive(Debug, Clone)]
pub struct Machine {
    /// Its name, also of the files.
    pub name: String,
    /// What it is; an importer offers it as the machine's name.
    pub product: String,
    /// Who makes it.
    pub vendor: String,
    /// Its version.
    pub version: String,
    /// What boots it.
    pub firmware: Firmware,
    /// Whether firmware takes signed boot loaders only; of UEFI only.
    pub secure_boot: bool,
    /// Sizes to choose from, the default first.
    pub sizes: Vec<Size>,
    /// What the disk is attached to.
    pub controller: Controller,
    /// Its network card.
    pub nic: Nic,
    /// What is asked at the import.
    pub properties: Vec<Property>,
}

/// The disk's file.
#[derive(Debug, Clone)]
pub struct File {
    /// Its name.
    pub name: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// Size of the disk in bytes.
    pub disk_bytes: u64,
}

/// The description.
pub fn descriptor(machine: &Machine, file: &File) -> String {
    let name = escape(&machine.name);
    let (os_number, os_id, os_name) = GUEST;
    format!(
        r#"<?xml version="1.0" encoding="UTF-8"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1"
          xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1"
          xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData"
          xmlns:vssd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData"
          xmlns:vmw="http://www.vmware.com/schema/ovf">
  <References>
    <File ovf:href="{href}" ovf:id="file1" ovf:size="{bytes}"/>
  </References>
  <DiskSection>
    <Info>The disk; it grows when it is enlarged before a boot</Info>
    <Disk ovf:capacity="{capacity}" ovf:capacityAllocationUnits="byte * 2^20" ovf:diskId="disk1" ovf:fileRef="file1" ovf:format="{STREAM_OPTIMIZED}"/>
  </DiskSection>
  <NetworkSection>
    <Info>The network</Info>
    <Network ovf:name="VM Network">
      <Description>The network in which the monitor and its administrators reach this machine</Description>
    </Network>
  </NetworkSection>
{sizes}  <VirtualSystem ovf:id="{name}">
    <Info>{product}</Info>
    <Name>{product}</Name>
{properties}    <OperatingSystemSection ovf:id="{os_number}" vmw:osType="{os_id}">
      <Info>The operating system inside</Info>
      <Description>{os_name}</Description>
    </OperatingSystemSection>
    <VirtualHardwareSection ovf:transport="iso com.vmware.guestInfo">
      <Info>The virtual hardware</Info>
      <System>
        <vssd:ElementName>Virtual Hardware Family</vssd:ElementName>
        <vssd:InstanceID>0</vssd:InstanceID>
        <vssd:VirtualSystemIdentifier>{name}</vssd:VirtualSystemIdentifier>
        <vssd:VirtualSystemType>{HARDWARE}</vssd:VirtualSystemType>
      </System>
{items}{firmware}    </VirtualHardwareSection>
  </VirtualSystem>
</Envelope>
"#,
        href = escape(&file.name),
        bytes = file.bytes,
        capacity = file.disk_bytes / MIB,
        product = escape(&machine.product),
        sizes = sizes(machine),
        properties = properties(machine),
        items = items(machine),
        firmware = firmware(machine),
    )
}

fn sizes(machine: &Machine) -> String {
    if machine.sizes.len() < 2 {
        return String::new();
    }
    let configuration = |(number, size): (usize, &Size)| {
        let default = if number == 0 { " ovf:default=\"true\"" } else { "" };
        format!(
            "    <Configuration{default} ovf:id=\"{}\">\n      <Label>{label}</Label>\n      \
             <Description>{label}: {} processors, {} MiB of memory</Description>\n    </Configuration>\n",
            escape(&size.id),
            size.cores,
            size.memory_mib,
            label = escape(&size.label),
        )
    };
    let all: String = machine.sizes.iter().enumerate().map(configuration).collect();
    format!("  <DeploymentOptionSection>\n    <Info>Sizes</Info>\n{all}  </DeploymentOptionSection>\n")
}

fn properties(machine: &Machine) -> String {
    let property = |property: &Property| {
        let secret = if property.is_secret { " ovf:password=\"true\"" } else { "" };
        format!(
            "      <Property ovf:key=\"{}\"{secret} ovf:type=\"string\" ovf:userConfigurable=\"true\" ovf:value=\"\">\n        \
             <Label>{}</Label>\n        <Description>{}</Description>\n      </Property>\n",
            escape(&property.key),
            escape(&property.label),
            escape(&property.description),
        )
    };
    let all: String = machine.properties.iter().map(property).collect();
    let version = escape(&machine.version);
    format!(
        "    <ProductSection>\n      <Info>What is installed, and what it asks</Info>\n      <Product>{}</Product>\n      \
         <Vendor>{}</Vendor>\n      <Version>{version}</Version>\n      <FullVersion>{version}</FullVersion>\n{all}    \
         </ProductSection>\n",
        escape(&machine.product),
        escape(&machine.vendor),
    )
}

/// One resource. CIM's elements come in the order of the alphabet.
fn item(configuration: Option<&str>, elements: &[(&str, &str)]) -> String {
    let configuration =
        configuration.map_or(String::new(), |id| format!(" ovf:configuration=\"{}\"", escape(id)));
    let elements: String = elements
        .iter()
        .map(|(name, value)| format!("        <rasd:{name}>{}</rasd:{name}>\n", escape(value)))
        .collect();
    format!("      <Item{configuration}>\n{elements}      </Item>\n")
}

fn items(machine: &Machine) -> String {
    let mut items = String::new();
    for size in &machine.sizes {
        // One without a configuration holds for all; with sizes to choose from each has its own, as in VMware's own.
        let configuration = (machine.sizes.len() > 1).then_some(size.id.as_str());
        let (cores, memory) = (size.cores.to_string(), size.memory_mib.to_string());
        items += &item(
            configuration,
            &[
                ("AllocationUnits", "hertz * 10^6"),
                ("Description", "Number of virtual processors"),
                ("ElementName", &format!("{cores} virtual processors")),
                ("InstanceID", "1"),
                ("ResourceType", "3"),
                ("VirtualQuantity", &cores),
            ],
        );
        items += &item(
            configuration,
            &[
                ("AllocationUnits", "byte * 2^20"),
                ("Description", "Memory"),
                ("ElementName", &format!("{memory} MiB of memory")),
                ("InstanceID", "2"),
                ("ResourceType", "4"),
                ("VirtualQuantity", &memory),
            ],
        );
    }
    items += &item(
        None,
        &[
            ("Address", "0"),
            ("Description", "SCSI controller"),
            ("ElementName", "SCSI controller 0"),
            ("InstanceID", "3"),
            ("ResourceSubType", machine.controller.name()),
            ("ResourceType", "6"),
        ],
    );
    items += &item(
        None,
        &[
            ("AddressOnParent", "0"),
            ("ElementName", "Hard disk 1"),
            ("HostResource", "ovf:/disk/disk1"),
            ("InstanceID", "4"),
            ("Parent", "3"),
            ("ResourceType", "17"),
        ],
    );
    items += &item(
        None,
        &[
            ("AddressOnParent", "7"),
            ("AutomaticAllocation", "true"),
            ("Connection", "VM Network"),
            ("Description", "Network card"),
            ("ElementName", "Network adapter 1"),
            ("InstanceID", "5"),
            ("ResourceSubType", machine.nic.name()),
            ("ResourceType", "10"),
        ],
    );
    // Where the answers come in by `iso`.
    items += &item(
        None,
        &[
            ("Address", "0"),
            ("Description", "SATA controller"),
            ("ElementName", "SATA controller 0"),
            ("InstanceID", "6"),
            ("ResourceSubType", "vmware.sata.ahci"),
            ("ResourceType", "20"),
        ],
    );
    items
        + &item(
            None,
            &[
                ("AddressOnParent", "0"),
                ("AutomaticAllocation", "false"),
                ("ElementName", "CD/DVD drive 1"),
                ("InstanceID", "7"),
                ("Parent", "6"),
                ("ResourceSubType", "vmware.cdrom.remotepassthrough"),
                ("ResourceType", "15"),
            ],
        )
}

fn firmware(machine: &Machine) -> String {
    let config = |key: &str, value: &str| {
        format!("      <vmw:Config ovf:required=\"false\" vmw:key=\"{key}\" vmw:value=\"{value}\"/>\n")
    };
    match machine.firmware {
        Firmware::Bios => config("firmware", "bios"),
        Firmware::Uefi => {
            config("firmware", "efi")
                + &config(
                    "bootOptions.efiSecureBootEnabled",
                    if machine.secure_boot { "true" } else { "false" },
                )
        }
    }
}
