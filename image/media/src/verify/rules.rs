//! The rules: what is refused, by whom, and where that is known from.

/// A rule.
#[derive(Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its name.
    pub id: &'static str,
    /// What must hold, and what happens otherwise.
    pub text: &'static str,
    /// Where that is known from.
    pub source: &'static str,
}

/// Stands for a rule that is not in the list.
pub(super) const UNNAMED: Rule = Rule { id: "unnamed", text: "", source: "" };

const SPEC_VMDK: &str = "VMware, Virtual Disk Format 5.0";
const SPEC_OVF: &str = "DMTF DSP0243 1.1.1";
const SPEC_VHDX: &str = "Microsoft, MS-VHDX";
const SPEC_VHD: &str = "Microsoft, Virtual Hard Disk Image Format Specification 1.0";
const SPEC_ISO: &str = "ECMA-119, El Torito 1.0";
const XAPI: &str = "xapi-project/xen-api, ocaml/xapi/import.ml and stream_vdi.ml";

macro_rules! rules {
    ($($id:literal: $text:literal, $source:expr;)*) => {
        /// All of them.
        pub const RULES: &[Rule] = &[$(Rule { id: $id, text: $text, source: $source }),*];
    };
}

rules! {
    "ova.readable": "The archive must be a whole tar", SPEC_OVF;
    "ova.ovf-first": "The description must be the first member, or ESXi does not find it", "osbuild/image-builder issue 431";
    "ova.order": "Members come in the order description, manifest, disks as the description names them; importers stream them", SPEC_OVF;
    "ova.names": "Members are plain file names, without directories and `./`", SPEC_OVF;
    "ova.ustar": "Members have ustar headers alone; vSphere knows no pax and GNU extensions", "osbuild/image-builder issue 431";
    "ova.member-size": "A member of 8 GiB and more does not fit a ustar header", SPEC_OVF;
    "ova.manifest-form": "Lines of the manifest are exactly `SHA256(name)= hex`", "home-assistant/operating-system issues 826, 3654";
    "ova.manifest-sha1": "vSphere 8 refuses SHA-1; SHA256 is known from 6.5 on", "VMware, vSphere 8.0 release notes";
    "ova.manifest-complete": "The manifest has every file once, and no others", SPEC_OVF;
    "ova.manifest-digest": "The files must have the manifest's digests", SPEC_OVF;
    "ovf.well-formed": "The description must be XML with the envelope of OVF 1", SPEC_OVF;
    "ovf.one-system": "ESXi takes one virtual system, and no collection", "VMware, OVF Tool user's guide";
    "ovf.hardware": "Virtual hardware above vmx-17 is unknown to older hosts, and other families are refused", "VMware knowledge base 2007240";
    "ovf.guest": "Guests that only new hosts know are refused by others: debian12_64Guest needs API 8.0.0.1, debian13_64Guest 9.0", "VMware, vSphere API, VirtualMachineGuestOsIdentifier";
    "ovf.device-case": "Kinds of controllers and network cards are written as VMware writes them, in their exact case", "VMware, OVF Tool user's guide";
    "ovf.required": "VMware's own settings are marked ovf:required=\"false\", or a host that does not know one refuses all", "VMware, OVF Tool user's guide";
    "ovf.capacity": "A disk's capacity is whole MiB (`byte * 2^20`)", "VMware, OVF Tool user's guide";
    "ovf.capacity-equal": "The description and the disk say the same capacity", SPEC_OVF;
    "ovf.file-size": "A file has the size that the description says", SPEC_OVF;
    "ovf.file-there": "Every file that the description names is in the archive", SPEC_OVF;
    "ovf.format": "The disk's format is named by VMware's URL that ends in #streamOptimized", SPEC_OVF;
    "ovf.boot-order": "A boot order section makes some hosts boot by BIOS what is meant for EFI", "siderolabs/talos issue 3515";
    "ovf.eula": "A licence section stops imports that nobody watches", "VMware, OVF Tool user's guide";
    "ovf.xen": "Configuration data of Xen is refused by ESXi", "siderolabs/talos issue 3515";
    "vmdk.readable": "The file must be a whole VMDK", SPEC_VMDK;
    "vmdk.stream-optimized": "An import takes streamOptimized disks alone", SPEC_VMDK;
    "vmdk.header": "The header says version 3, deflate, markers, grains of 64 KiB, 512 entries a table", SPEC_VMDK;
    "vmdk.footer": "A footer with the directory's place comes before the end of stream", "siderolabs/talos issues 8148, 8672";
    "vmdk.end-of-stream": "The file ends with an end-of-stream marker; vSphere's import and the Content Library refuse it otherwise", "siderolabs/talos issues 8148, 11053; qemu issue 1357";
    "vmdk.tables": "Directory and tables point at what is there", SPEC_VMDK;
    "vmdk.grains": "Every grain has its marker, and gives a grain's bytes", SPEC_VMDK;
    "vmdk.grain-order": "Grains come in the order of the disk, since importers stream them", SPEC_VMDK;
    "vmdk.adapter": "The descriptor says adapterType \"lsilogic\", which suits every SCSI controller; \"ide\" does not", "home-assistant/operating-system issue 1695";
    "vmdk.extent-name": "The descriptor bears the name of the shipped file", "libyal/libvmdk issue 34";
    "vmdk.capacity": "The disk is of whole MiB, and extent and header agree", SPEC_VMDK;
    "vmdk.content-id": "The descriptor has a long content id", SPEC_VMDK;
    "vhdx.readable": "The file must be a whole VHDX", SPEC_VHDX;
    "vhdx.headers": "Both headers and both region tables have their checksums", SPEC_VHDX;
    "vhdx.log": "The log is empty: what was not closed in order must be replayed, which not every reader does", SPEC_VHDX;
    "vhdx.whole-mib": "The disk is of whole MiB, or Hyper-V does not attach it", "Microsoft, Hyper-V troubleshooting";
    "vhdx.block-size": "Blocks of 1 MiB, as Microsoft advises for Linux; larger ones take much room for little data", "Microsoft, Best practices for running Linux on Hyper-V";
    "vhdx.parent": "A disk that is shipped has no parent", SPEC_VHDX;
    "vhd.readable": "The file must be a whole VHD", SPEC_VHD;
    "vhd.footer": "Footer and header have their checksums, and the copies are equal", SPEC_VHD;
    "vhd.size": "The disk's size is whole MiB: rounded to a geometry, the backup GPT is not at the disk's end", "qemu-img, block driver vpc, force_size";
    "vhd.limit": "A VHD holds 2040 GiB at most", SPEC_VHD;
    "vhd.kind": "The disk is dynamic or fixed, and has no parent", SPEC_VHD;
    "xva.readable": "The archive must be a whole tar, plain or with gzip, which every version takes", XAPI;
    "xva.ova-xml-first": "ova.xml is the first member", XAPI;
    "xva.names": "Members are ova.xml and Ref:N/NNNNNNNN with their checksums; no directories", XAPI;
    "xva.checksum-follows": "A chunk's checksum follows it at once", XAPI;
    "xva.checksum": "A chunk has its checksum: SHA-1 in lower case in .checksum, XXH64 in upper case in .xxhash", XAPI;
    "xva.chunk-size": "Chunks are of 1 MiB but for the last", XAPI;
    "xva.chunk-order": "The numbers of chunks grow, and disks come in the order of their references", XAPI;
    "xva.ends": "The first and the last chunk of a disk are there", XAPI;
    "xva.records": "ova.xml is XML-RPC with a version and the records of VM, VBD and VDI", XAPI;
    "xva.version": "A version of xapi above the host's is refused; 1.9 is old enough, and export_vsn is 2", XAPI;
    "xva.fields": "A record has all fields (\"Field not present in rpc\")", XAPI;
    "xva.hvm": "HVM_boot_policy is \"BIOS order\", or the machine is started as a paravirtual one", XAPI;
    "xva.device-model": "The device model qemu-upstream-uefi does not boot by BIOS, and no other by UEFI", "vatesfr/xen-orchestra issue 8162";
    "xva.viridian": "Windows's interface is off for Linux", "Citrix, XenServer virtual machine user's guide";
    "iso.readable": "The volume must be whole", SPEC_ISO;
    "iso.bios": "A boot image for BIOS stands in the boot catalogue", SPEC_ISO;
    "iso.uefi": "A boot image for UEFI stands in the boot catalogue", "UEFI 2.10, 13.3.2";
    "iso.stick": "A boot sector with code and signature, or no BIOS boots it from a stick", "libburnia, xorriso manual, isohybrid";
    "iso.gpt-esp": "A partition table names the ESP, or no UEFI boots it from a stick", "UEFI 2.10, 13.3.1";
    "iso.esp-size": "An ESP above 20 MB fails on some firmware", "OSInside/kiwi issue 2390";
    "iso.efi-tree": "/EFI/BOOT/BOOTX64.EFI is in the volume too, for tools that copy its files to a stick", "Rufus and Ventoy, as users of both report";
    "iso.label": "The label has 16 capitals, digits and underscores at most, so that every firmware and Joliet show the same", SPEC_ISO;
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
