//! The rules: what is refused, by whom, and where that is known from.
//!
//! A rule stands here when somebody's import failed for it and said so in public, or when a specification or the importer's own
//! source says it. What is only wise, or a convention of the vendor's own files, is advice and marked so. No rule: owner and mode
//! of an archive's members, `viridian` and the order of an XVA's boot devices, as no importer is known that minds.

/// How much a rule weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Weight {
    /// It works, and something is worse for it, or some tool minds.
    Advice,
    /// An importer refuses the file, or the machine does not start.
    Refused,
}

impl std::fmt::Display for Weight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Advice => "advice",
            Self::Refused => "refused",
        })
    }
}

/// A rule.
#[derive(Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its name.
    pub id: &'static str,
    /// How much it weighs.
    pub weight: Weight,
    /// What must hold, and what happens otherwise.
    pub text: &'static str,
    /// Where that is known from.
    pub source: &'static str,
}

const VMDK_SPEC: &str = "VMware, Virtual Disk Format 5.0";
const OVF_SCHEMA: &str = "DMTF DSP8023 1.1.1";
/// Of the copy beside the tests (image/media/tests/ovf-schema).
const RASD: &str = "DMTF CIM_ResourceAllocationSettingData.xsd, CIM_ResourceAllocationSettingData_Type";
const VM_MEMORY: &str = "VMware, vSphere Virtual Machine Administration, Change the Memory Configuration; OpenNebula/one issue 1105";
const VM_CONTROLLERS: &str = "VMware, vSphere Virtual Machine Administration, SCSI, SATA and NVMe Storage Controller Conditions; vmware/govmomi, \
     object/virtual_device_list.go";
const VHD_SPEC: &str = "Microsoft, Virtual Hard Disk Image Format Specification 1.0";
const STREAM_VDI: &str = "xapi-project/xen-api, ocaml/xapi/stream_vdi.ml";
const IMPORT: &str = "xapi-project/xen-api, ocaml/xapi/import.ml";

/// A constant for each rule, so that a mistyped name does not compile, and all of them in one list.
macro_rules! rules {
    ($($name:ident: $weight:ident $id:literal: $text:literal, $source:expr;)*) => {
        $(pub(super) const $name: &Rule =
            &Rule { id: $id, weight: Weight::$weight, text: $text, source: $source };)*

        /// All of them.
        pub const RULES: &[&Rule] = &[$($name),*];
    };
}

rules! {
    OVA_READABLE: Refused "ova.readable": "The archive is a whole tar", "vmware/open-vmdk issue 85";
    OVA_OVF_FIRST: Refused "ova.ovf-first": "The description is the first member; vSphere (from a URL), OVF Tool and Workstation do not find it elsewhere", "osbuild/image-builder issue 431; coreos/coreos-assembler pull request 1141";
    OVA_ORDER: Advice "ova.order": "Members come in the order description, manifest, disks as the description names them; or the manifest is the last", "DMTF DSP0243, as bottlerocket-os/bottlerocket pull request 1719 quotes it";
    OVA_NAMES: Refused "ova.names": "Members are plain files on the top level", "vmware/open-vmdk issue 85";
    OVA_USTAR: Refused "ova.ustar": "Members have no pax headers, which vSphere does not know", "vmware/open-vmdk pull request 65";
    OVA_LONG_NAME: Advice "ova.long-name": "A name has 100 bytes at most; for a longer one stands an extension of GNU's, which not everything reads", "vmware/open-vmdk pull request 65";
    OVA_MEMBER_SIZE: Advice "ova.member-size": "A member of 8 GiB and more does not fit a ustar header; what stands there instead not every version reads", "coreos/coreos-assembler issue 3787";
    OVA_MANIFEST_FORM: Refused "ova.manifest-form": "Lines of the manifest are exactly `SHA256(name)= hex`", "home-assistant/operating-system issues 826, 3654";
    OVA_MANIFEST_SHA1: Advice "ova.manifest-sha1": "The manifest has SHA256, which is read from vSphere 6.5 on; of SHA-1 it is said that vSphere 8 refuses it, and no public report was found", "home-assistant/operating-system issue 3654, where it was read";
    OVA_MANIFEST_COMPLETE: Refused "ova.manifest-complete": "The manifest has every file, and no others", "GNS3/gns3-vm issue 96";
    OVA_MANIFEST_DIGEST: Refused "ova.manifest-digest": "The files have the manifest's digests", "Broadcom knowledge base 407022";
    OVF_WELL_FORMED: Refused "ovf.well-formed": "The description is XML with the envelope of OVF 1", OVF_SCHEMA;
    OVF_SYSTEM: Refused "ovf.system": "There is a virtual system", OVF_SCHEMA;
    OVF_ONE_SYSTEM: Advice "ovf.one-system": "There is one virtual system; not every importer takes a collection", OVF_SCHEMA;
    OVF_ITEM_ELEMENTS: Refused "ovf.item-elements": "A resource has InstanceID, ElementName and ResourceType, and each element once; of Connection and HostResource as many as it likes", RASD;
    OVF_INSTANCE_ID: Refused "ovf.instance-id": "An InstanceID is one resource's in a configuration", "DMTF DSP0243 1.1.0, 8.3; vSphere Web Services API, OvfDuplicateElement";
    OVF_NAMES: Refused "ovf.names": "Disks, files, networks, configurations and systems have a name each, and no two the same", "DMTF DSP8023 1.1.1; vSphere Web Services API, OvfDuplicateElement";
    OVF_PROCESSORS: Refused "ovf.processors": "The number of processors is a number, and one at least", "vSphere Web Services API, VirtualMachineConfigSpec numCPUs; CIM_ResourceAllocationSettingData, VirtualQuantity";
    OVF_CORES_PER_SOCKET: Refused "ovf.cores-per-socket": "The number of processors is a multiple of the cores in a socket, or the machine does not start (\"Virtual core count is imperfect divisor of CPUs\")", "VMware knowledge base 1010184";
    OVF_MEMORY: Refused "ovf.memory": "Memory is a number of units that are known, and a multiple of 4 MB", VM_MEMORY;
    OVF_ADDRESS: Refused "ovf.address": "A device has an address of its own that its controller has: of IDE 0 and 1, of SCSI 0 to 15 without 7, which is the controller's own, of SATA 0 to 29, of NVMe 0 to 14", VM_CONTROLLERS;
    OVF_DISK: Refused "ovf.disk": "The system has a disk, or there is nothing that it could be started from", OVF_SCHEMA;
    OVF_FIRMWARE: Refused "ovf.firmware": "The firmware is written bios or efi", "vSphere Web Services API, GuestOsDescriptorFirmwareType";
    OVF_SECURE_BOOT: Refused "ovf.secure-boot": "Secure Boot is true or false, and only with efi", "vSphere Web Services API, VirtualMachineBootOptions efiSecureBootEnabled";
    OVF_CHUNKS: Refused "ovf.chunks": "A file with ovf:chunkSize is in pieces, named by nine digits from 000000000 on, all of that size but the last", "DMTF DSP0243 1.1.0, 7.1";
    OVF_REFERENCES: Refused "ovf.references": "What is referred to is there: a resource's parent, disk, file, network and configuration", "vSphere Web Services API, OvfInvalidValueReference, OvfInvalidValueConfiguration, OvfHostResourceConstraint";
    OVF_PROPERTIES: Refused "ovf.properties": "A property's key is there once in its section", "DMTF DSP0243 1.1.0, 9.5";
    OVF_SECTION: Refused "ovf.section": "A section that is neither OVF's nor VMware's is marked ovf:required=\"false\", or who does not know it refuses all", "vSphere Web Services API, OvfManager and OvfUnsupportedSection; DMTF DSP8023 1.1.1, Section_Type";
    OVF_HARDWARE: Refused "ovf.hardware": "Virtual hardware above vmx-17 is unknown to vSphere 7 before 7.0.3, and other families are refused", "librenms/packer-builds issue 36; EMCECS/ECS-CommunityEdition issue 575";
    OVF_GUEST: Refused "ovf.guest": "Guests that only new hosts know do not start on others: debian12_64Guest needs vSphere API 8.0.0.1, debian13_64Guest 9.0", "vmware/govmomi, vim25/types/enum.go; vmware/packer-plugin-vsphere issue 194";
    OVF_CONTROLLER: Refused "ovf.controller": "The SCSI controller is lsilogic, lsilogicsas or VirtualSCSI, in this case", "vmware/open-vmdk, ova-compose.py; inverse-inc/packetfence issue 5522";
    OVF_NIC: Advice "ovf.nic": "The network card is written as VMware does, VmxNet3 or vmxnet3, E1000e", "vmware/govmomi, ovf/fixtures";
    OVF_REQUIRED: Refused "ovf.required": "VMware's own settings are marked ovf:required=\"false\", or a host that does not know one refuses all", "sexibytes/sexigraf issues 240, 241";
    OVF_CAPACITY: Advice "ovf.capacity": "A disk's capacity is understood, and whole MiB: what cuts it to a unit makes it smaller than the disk", "teamdfir/sift issue 220";
    OVF_CAPACITY_EQUAL: Refused "ovf.capacity-equal": "The description and the disk say the same capacity", "home-assistant/operating-system issue 1084";
    OVF_FILE_SIZE: Refused "ovf.file-size": "A file has the size that the description says, which is a number", "gardenlinux/gardenlinux issue 2322";
    OVF_FILE_THERE: Refused "ovf.file-there": "Every file that the description names is in the archive", "vmware/govmomi issue 3087";
    OVF_DISK_FILE: Refused "ovf.disk-file": "A disk's fileRef names a file of the description", OVF_SCHEMA;
    OVF_FORMAT: Advice "ovf.format": "The disk's format is named by the URL that ends in #streamOptimized, as in VMware's own", "vmware/open-vmdk, ova-compose.py";
    OVF_BOOT_ORDER: Refused "ovf.boot-order": "A boot order section has vCenter and the Content Library boot by BIOS what is meant for EFI", "kubernetes-sigs/image-builder issue 619; vmware/govmomi issue 2304";
    OVF_EULA: Advice "ovf.eula": "A licence section stops imports that nobody watches until it is accepted", "hashicorp/packer issue 1383";
    OVF_XEN: Refused "ovf.xen": "Xen's configuration data and start-up sections are refused by VMware", "xcp-ng/xenadmin issue 202";
    VMDK_READABLE: Refused "vmdk.readable": "The file is a whole VMDK", VMDK_SPEC;
    VMDK_STREAM_OPTIMIZED: Refused "vmdk.stream-optimized": "An import takes streamOptimized disks alone", "OpenNebula/one issue 5784";
    VMDK_HEADER: Refused "vmdk.header": "The header says version 3, deflate, markers, grains of 64 KiB, 512 entries a table", "glennmatthews/cot issue 65; vmware/open-vmdk, vmdk/sparse.c";
    VMDK_FOOTER: Refused "vmdk.footer": "Where the header says that the directory's place stands in the footer, there is one, and it says the same as the header", VMDK_SPEC;
    VMDK_END_OF_STREAM: Refused "vmdk.end-of-stream": "The file ends with an end-of-stream marker; vSphere's import and the Content Library refuse it otherwise, which is so with qemu-img's files", "siderolabs/talos issue 8148, pull request 11053; siderolabs/image-factory issue 232";
    VMDK_TABLES: Refused "vmdk.tables": "Directory and tables point at what is there", VMDK_SPEC;
    VMDK_GRAINS: Refused "vmdk.grains": "Every grain has its marker, and gives a grain's bytes", VMDK_SPEC;
    VMDK_STREAM: Refused "vmdk.stream": "Read as a stream, the markers lead from the first grain over tables, directory and footer to the end-of-stream marker, which is the last sector", VMDK_SPEC;
    VMDK_GRAIN_ORDER: Advice "vmdk.grain-order": "Grains come in the order of the disk, so that it can be written as it comes", "vmware/open-vmdk, vmdk/sparse.c";
    VMDK_ADAPTER: Advice "vmdk.adapter": "The descriptor says adapterType \"lsilogic\", as VMware's own do for every SCSI controller", "home-assistant/operating-system pull request 1695";
    VMDK_GEOMETRY: Advice "vmdk.geometry": "The descriptor has 255 heads and 63 sectors, and a longContentID, as VMware's own", "vmware/open-vmdk, vmdk/sparse.c";
    VMDK_EXTENT_NAME: Advice "vmdk.extent-name": "The descriptor bears the name of the shipped file, or libvmdk does not open it", "libyal/libvmdk issue 34";
    VMDK_CAPACITY: Refused "vmdk.capacity": "The disk is of whole grains, and extent and header agree", VMDK_SPEC;
    VHDX_READABLE: Refused "vhdx.readable": "The file is a whole VHDX", "MS-VHDX 2.2";
    VHDX_HEADERS: Refused "vhdx.headers": "Both headers and both region tables have their checksums", "MS-VHDX 2.2.2, 2.2.3";
    VHDX_LOG: Refused "vhdx.log": "The log is empty: Windows refuses to attach what was not closed in order", "medo64/VhdAttach issue 11";
    VHDX_WHOLE_MIB: Advice "vhdx.whole-mib": "The disk is of whole MiB, or it cannot go on to Azure", "Azure/azure-xplat-cli issue 1784";
    VHDX_BLOCK_SIZE: Advice "vhdx.block-size": "Blocks are of 1 MiB, as Microsoft advises for Linux; larger ones take much room for little data", "Microsoft, Best practices for running Linux on Hyper-V";
    VHDX_PARENT: Refused "vhdx.parent": "A disk that is shipped has no parent", "MS-VHDX 2.6.2.1";
    VHD_READABLE: Refused "vhd.readable": "The file is a whole VHD", VHD_SPEC;
    VHD_FOOTER: Refused "vhd.footer": "Footer and header have their checksums, and the copies are equal", VHD_SPEC;
    VHD_SIZE: Refused "vhd.size": "The disk's size is whole MiB: rounded up to a geometry, the backup GPT is not at the disk's end", "qemu, block/vpc.c, calculate_rounded_image_size and force_size";
    VHD_LIMIT: Refused "vhd.limit": "A VHD holds 2040 GiB at most", "qemu, block/vpc.c, VHD_MAX_SECTORS";
    VHD_KIND: Refused "vhd.kind": "The disk is dynamic or fixed, and has no parent", VHD_SPEC;
    XVA_READABLE: Refused "xva.readable": "The archive is a whole tar, plain or with gzip, which every version takes", IMPORT;
    XVA_OVA_XML_FIRST: Refused "xva.ova-xml-first": "ova.xml is the first member", IMPORT;
    XVA_NAMES: Refused "xva.names": "Members are ova.xml and Ref:N/NNNNNNNN with their checksums, of the machine's own disks; no directories", STREAM_VDI;
    XVA_CHECKSUM_FOLLOWS: Refused "xva.checksum-follows": "A chunk's checksum follows it at once", STREAM_VDI;
    XVA_CHECKSUM: Refused "xva.checksum": "A chunk has its checksum: SHA-1 in lower case in .checksum, XXH64 in upper case in .xxhash", STREAM_VDI;
    XVA_CHUNK_SIZE: Refused "xva.chunk-size": "Chunks are of 1 MiB but for the last: what is left out is counted in the first one's size", STREAM_VDI;
    XVA_CHUNK_ORDER: Refused "xva.chunk-order": "The numbers of chunks grow, and disks come in the order of their references", STREAM_VDI;
    XVA_ENDS: Refused "xva.ends": "The first and the last chunk of a disk are there", STREAM_VDI;
    XVA_RECORDS: Refused "xva.records": "ova.xml is XML-RPC with a version and the records of VM, VBD, VDI and the VDI's SR", IMPORT;
    XVA_VERSION: Advice "xva.version": "A version of xapi above the importing host's is refused; 1.9 is old enough for all, and export_vsn 2 has checksums beside the chunks", "xapi-project/xen-api, ocaml/xapi/importexport.ml, assert_compatible";
    XVA_FIELDS: Refused "xva.fields": "A record has all fields that have no default (\"Field not present in rpc\"), the version has all of its fields, and sizes are numbers", "xapi-project/xen-api, ocaml/idl/ocaml_backend/gen_api.ml";
    XVA_REFERENCES: Refused "xva.references": "What a record refers to is in the file: a VBD's VM and VDI, a VIF's VM and network, a VDI's SR", IMPORT;
    XVA_HVM: Refused "xva.hvm": "HVM_boot_policy is set, or the machine is started as a paravirtual one", "xapi-project/xen-api, ocaml/xapi/xapi_vm_helpers.ml, derive_domain_type";
    XVA_DEVICE_MODEL: Refused "xva.device-model": "The device model qemu-upstream-uefi does not boot by BIOS, and qemu-trad not by UEFI", "xapi-project/xen-api, ocaml/xapi/vm_platform.ml, sanity_check";
    ISO_READABLE: Refused "iso.readable": "The volume is whole", "ECMA-119";
    ISO_BIOS: Refused "iso.bios": "A boot image for BIOS stands in the boot catalogue", "El Torito 1.0";
    ISO_UEFI: Refused "iso.uefi": "A boot image for UEFI stands in the boot catalogue", "UEFI 2.11, ISO-9660 and El Torito";
    ISO_STICK: Refused "iso.stick": "A boot sector with code and signature, or no BIOS boots it from a stick", "libisofs, doc/boot_sectors.txt, Master Boot Record";
    ISO_ACTIVE: Advice "iso.active": "One partition is marked active, or some BIOSes start no stick", "GNU xorriso, manual of xorrisofs, --mbr-force-bootable";
    ISO_GPT_ESP: Refused "iso.gpt-esp": "A partition table names the ESP, or no UEFI boots it from a stick", "libisofs, doc/boot_sectors.txt, GUID Partition Table";
    ISO_ESP_SIZE: Refused "iso.esp-size": "An ESP above 20 MB failed on some firmware, and El Torito cannot say more than 32 MiB", "OSInside/kiwi pull request 2390";
    ISO_EFI_TREE: Refused "iso.efi-tree": "/EFI/BOOT/BOOTX64.EFI is in the volume too: Rufus and Ventoy start no other", "pbatard/rufus issue 526; ventoy/Ventoy issue 313";
    ISO_LABEL: Advice "iso.label": "The label has capitals, digits and underscores alone, 16 at most, of which Rufus keeps 11", "ECMA-119; pbatard/rufus issue 1074";
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_rule_has_a_name_of_its_own_and_a_source() {
        let ids: BTreeSet<_> = RULES.iter().map(|rule| rule.id).collect();
        assert_eq!(ids.len(), RULES.len());
        assert!(RULES.iter().all(|rule| !rule.source.is_empty() && !rule.text.ends_with('.')));
    }
}
