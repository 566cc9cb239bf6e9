//! Every rule: the file that breaks it, and that it is named; and that sound files break none.

#![allow(clippy::unwrap_used)] // a helper that fails is a test that fails

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::path::Path;

use common::{NAME, disk, make_ova, make_vmdk, make_xva};
use media::Firmware;
use media::verify::{RULES, verify};
use sha2::{Digest, Sha256};

/// The ids of the rules that a file breaks.
fn broken(path: &Path) -> BTreeSet<&'static str> {
    verify(path).unwrap().findings.iter().map(|finding| finding.rule.id).collect()
}

/// Checks that each made-up file breaks the rule it stands for, and that all rules of these kinds have one.
fn all_are_named(kinds: &[&str], seen: &BTreeSet<&'static str>) {
    let is_of = |id: &str| kinds.iter().any(|kind| id.split('.').next() == Some(kind));
    let missing: Vec<_> =
        RULES.iter().map(|rule| rule.id).filter(|id| is_of(id) && !seen.contains(id)).collect();
    assert!(missing.is_empty(), "no file breaks {missing:?}");
}

/// A member of a tar: name, kind, content.
type Member = (String, u8, Vec<u8>);

fn unpack(tar: &[u8]) -> Vec<Member> {
    let mut archive = tar::Archive::new(tar);
    let entries = archive.entries().unwrap().raw(true);
    entries
        .map(|entry| {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            (name, entry.header().entry_type().as_byte(), content)
        })
        .collect()
}

fn pack(members: &[Member]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, kind, content) in members {
        let mut header = tar::Header::new_ustar();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(tar::EntryType::new(*kind));
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        header.set_cksum();
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(content);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    }
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

fn text(member: &mut Member, change: impl Fn(&str) -> String) {
    let before = String::from_utf8(member.2.clone()).unwrap();
    let after = change(&before);
    assert_ne!(before, after, "nothing was changed in {}", member.0);
    member.2 = after.into_bytes();
}

/// The manifest of what is there now.
fn sign(members: &mut [Member]) {
    let line = |(name, _, content): &Member| {
        let hex: String = Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect();
        format!("SHA256({name})= {hex}\n")
    };
    let sums: String = members.iter().filter(|(name, ..)| !name.ends_with(".mf")).map(line).collect();
    if let Some(manifest) = members.iter_mut().find(|(name, ..)| name.ends_with(".mf")) {
        manifest.2 = sums.into_bytes();
    }
}

#[test]
fn ova() {
    let folder = tempfile::tempdir().unwrap();
    let sound = make_ova(folder.path());
    assert_eq!(broken(&sound), BTreeSet::new());
    let members = unpack(&fs::read(&sound).unwrap());
    let mut seen = BTreeSet::new();
    let mut try_file = |id: &'static str, bytes: &[u8]| {
        let path = folder.path().join("broken.ova");
        fs::write(&path, bytes).unwrap();
        let found = broken(&path);
        assert!(found.contains(id), "{id} is not among {found:?}");
        seen.insert(id);
    };

    // The archive.
    type Change = fn(&mut Vec<Member>);
    let archive: [(&str, Change); 9] = [
        ("ova.ovf-first", |all| all.swap(0, 1)),
        ("ova.order", |all| {
            all.swap(1, 2);
            all.push(("more.txt".into(), b'0', b"more".to_vec()));
        }),
        ("ova.names", |all| all[2].0.insert_str(0, "./")),
        ("ova.names", |all| all.insert(0, ("folder/".into(), b'5', vec![]))),
        ("ova.ustar", |all| all.insert(2, ("pax".into(), b'x', b"20 mtime=1.5\n".to_vec()))),
        ("ova.manifest-complete", |all| all.push(("more.txt".into(), b'0', b"more".to_vec()))),
        ("ova.manifest-digest", |all| all[0].2.push(b'\n')),
        ("ovf.file-there", |all| drop(all.pop())),
        ("ova.long-name", |all| all.insert(2, ("././@LongLink".into(), b'L', b"long-name.vmdk\0".to_vec()))),
    ];
    for (id, change) in archive {
        let mut changed = members.clone();
        change(&mut changed);
        try_file(id, &pack(&changed));
    }
    let whole = pack(&members);
    try_file("ova.readable", &whole[..whole.len() - 1024 - 70_000]);
    let mut binary = whole;
    binary[124..136].copy_from_slice(&[0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x20, 0]);
    let mut header = tar::Header::new_ustar();
    header.as_mut_bytes().copy_from_slice(&binary[..512]);
    header.set_cksum();
    binary[..512].copy_from_slice(header.as_bytes());
    try_file("ova.member-size", &binary);

    // The manifest.
    for (id, from, to) in [
        ("ova.manifest-form", "SHA256(", "SHA2-256("),
        ("ova.manifest-form", "SHA256(", "SHA256 ("),
        ("ova.manifest-form", ")= ", ") = "),
        ("ova.manifest-complete", ".vmdk)", ".vmdk2)"),
        ("ova.manifest-sha1", "SHA256(", "SHA1("),
    ] {
        let mut changed = members.clone();
        text(&mut changed[1], |text| text.replace(from, to));
        try_file(id, &pack(&changed));
    }

    // The description.
    let system_end = "</VirtualSystem>";
    for (id, from, to) in [
        ("ovf.well-formed", "</Envelope>", ""),
        ("ovf.well-formed", "envelope/1\"", "envelope/2\""),
        (
            "ovf.one-system",
            system_end,
            "</VirtualSystem><VirtualSystem ovf:id=\"b\"><Info>b</Info></VirtualSystem>",
        ),
        ("ovf.system", "VirtualSystem", "Virtual"),
        ("ovf.references", "<rasd:Parent>3", "<rasd:Parent>33"),
        ("ovf.references", "ovf:/disk/", "ovf:/disk/no"),
        ("ovf.references", "ovf:/disk/", "ovf:/file/no"),
        ("ovf.references", "ovf:diskId=\"", "ovf:diskId=\"no"),
        ("ovf.references", "<rasd:Connection>", "<rasd:Connection>no "),
        ("ovf.references", "<Configuration ovf:default=\"true\" ovf:id=\"", "<Configuration ovf:id=\"no"),
        // Value and schema rules; those of the hardware have a table of their own.
        (
            "ovf.item-elements",
            "<rasd:Parent>3</rasd:Parent>",
            "<rasd:Parent>3</rasd:Parent><rasd:Parent>3</rasd:Parent>",
        ),
        ("ovf.instance-id", "<rasd:InstanceID>5<", "<rasd:InstanceID>4<"),
        (
            "ovf.names",
            "<Disk ovf:capacity",
            "<Disk ovf:capacity=\"1\" ovf:diskId=\"disk1\"/><Disk ovf:capacity",
        ),
        ("ovf.processors", "<rasd:VirtualQuantity>4<", "<rasd:VirtualQuantity>0<"),
        (
            "ovf.cores-per-socket",
            "</System>",
            "</System><vmw:CoresPerSocket ovf:required=\"false\">4</vmw:CoresPerSocket>",
        ),
        ("ovf.memory", "<rasd:VirtualQuantity>6144<", "<rasd:VirtualQuantity>2049<"),
        ("ovf.address", "<rasd:AddressOnParent>0<", "<rasd:AddressOnParent>7<"),
        ("ovf.disk", "<rasd:ResourceType>17<", "<rasd:ResourceType>1<"),
        ("ovf.firmware", "vmw:value=\"efi\"", "vmw:value=\"uefi\""),
        ("ovf.secure-boot", "vmw:value=\"efi\"", "vmw:value=\"bios\""),
        ("ovf.chunks", "<File ", "<File ovf:chunkSize=\"0\" "),
        ("ovf.properties", "</Property>", "</Property><Property ovf:key=\"address\" ovf:type=\"string\"/>"),
        (
            "ovf.section",
            system_end,
            "<x:Section xmlns:x=\"urn:x\"><Info>x</Info></x:Section></VirtualSystem>",
        ),
        ("ovf.hardware", "vmx-15", "vmx-21"),
        ("ovf.hardware", "vmx-15", "virtualbox-2.2"),
        ("ovf.guest", "other3xLinux64Guest", "debian12_64Guest"),
        ("ovf.controller", "VirtualSCSI", "virtualscsi"),
        ("ovf.controller", "VirtualSCSI", "PIIX4"),
        ("ovf.nic", "VmxNet3", "VMXNET3"),
        ("ovf.required", " ovf:required=\"false\"", ""),
        ("ovf.capacity", "capacity=\"70\"", "capacity=\"73400321\""),
        ("ovf.capacity", "byte * 2^20", "megabytes"),
        ("ovf.capacity-equal", "capacity=\"70\"", "capacity=\"71\""),
        ("ovf.file-size", "ovf:size=\"", "ovf:size=\"1"),
        ("ovf.file-size", "ovf:size=\"", "ovf:size=\"x"),
        ("ovf.disk-file", "ovf:fileRef=\"", "ovf:fileRef=\"no"),
        ("ovf.format", "#streamOptimized", "#sparse"),
        ("ovf.boot-order", system_end, "<BootOrderSection><Info>b</Info></BootOrderSection></VirtualSystem>"),
        (
            "ovf.eula",
            system_end,
            "<EulaSection><Info>b</Info><License>b</License></EulaSection></VirtualSystem>",
        ),
        ("ovf.xen", system_end, "<StartupSection><Info>b</Info></StartupSection></VirtualSystem>"),
        ("ovf.xen", system_end, "<x:Config xmlns:x=\"http://example.org/xen/1\"/></VirtualSystem>"),
    ] {
        let mut changed = members.clone();
        text(&mut changed[0], |text| {
            let unit = if from == "capacity=\"70\"" && to.len() > 15 { "byte * 2^20" } else { "" };
            let text = text.replace(from, to);
            if unit.is_empty() { text } else { text.replace(unit, "byte") }
        });
        sign(&mut changed);
        try_file(id, &pack(&changed));
    }
    all_are_named(&["ova", "ovf"], &seen);

    // What others write, and is sound.
    let product = "<ProductSection ovf:class=\"b\"><Info>b</Info><Property ovf:key=\"address\" ovf:type=\"string\"/></ProductSection>";
    for (from, to) in [
        ("ovf:/disk/", "/disk/"),
        ("ovf:required=\"false\"", "ovf:required=\"0\""),
        (
            system_end,
            "<x:Machine xmlns:x=\"urn:x\" ovf:required=\"false\"><x:Any/></x:Machine></VirtualSystem>",
        ),
        (system_end, "<vmw:AnySection><Info>b</Info></vmw:AnySection></VirtualSystem>"),
        ("<OperatingSystemSection", &format!("{product}<OperatingSystemSection")),
    ] {
        let mut changed = members.clone();
        text(&mut changed[0], |text| text.replace(from, to));
        sign(&mut changed);
        let path = folder.path().join("sound.ova");
        fs::write(&path, pack(&changed)).unwrap();
        assert_eq!(broken(&path), BTreeSet::new(), "{from} -> {to}");
    }

    // What cannot be looked at.
    for (at, content, expected) in [
        (1, vec![b'a', 0xff, 0xfe], "cannot be looked at: it is not UTF-8 from byte 1 on"),
        (0, vec![b' '; 5 << 20], "it has 5242880 bytes"),
    ] {
        let mut changed = members.clone();
        changed[at].2 = content;
        let path = folder.path().join("unread.ova");
        fs::write(&path, pack(&changed)).unwrap();
        let error = verify(&path).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

/// Items of a machine of 4 and 6 processors; the controller is 3, the disk 4, the network card 5, SATA 6, the drive 7.
#[test]
fn values_and_schema_of_a_description() {
    let folder = tempfile::tempdir().unwrap();
    let members = unpack(&fs::read(make_ova(folder.path())).unwrap());
    let path = folder.path().join("changed.ova");
    let found = |from: &str, to: &str| {
        let mut changed = members.clone();
        text(&mut changed[0], |text| text.replacen(from, to, 1));
        sign(&mut changed);
        fs::write(&path, pack(&changed)).unwrap();
        verify(&path).unwrap().findings
    };
    let disk_end =
        "<rasd:Parent>3</rasd:Parent>\n        <rasd:ResourceType>17</rasd:ResourceType>\n      </Item>";
    let item = |id: &str, address: &str, parent: &str| {
        format!(
            "{disk_end}<Item><rasd:AddressOnParent>{address}</rasd:AddressOnParent><rasd:ElementName>Hard disk 2</rasd:ElementName>\
             <rasd:HostResource>ovf:/disk/disk1</rasd:HostResource><rasd:InstanceID>{id}</rasd:InstanceID>\
             <rasd:Parent>{parent}</rasd:Parent><rasd:ResourceType>17</rasd:ResourceType></Item>"
        )
    };
    let cores = |count: &str| {
        format!("</System><vmw:CoresPerSocket ovf:required=\"false\">{count}</vmw:CoresPerSocket>")
    };
    let system_end = "</System>";
    let table: [(&str, &str, &str, &str); 33] = [
        // Memory: 6 GiB and 8 GiB.
        ("<rasd:VirtualQuantity>6144<", "<rasd:VirtualQuantity>2049<", "ovf.memory", "has 2148532224 bytes"),
        ("<rasd:VirtualQuantity>6144<", "<rasd:VirtualQuantity>0<", "ovf.memory", "says \"0\""),
        ("<rasd:VirtualQuantity>6144<", "<rasd:VirtualQuantity>-4<", "ovf.memory", "says \"-4\""),
        ("<rasd:VirtualQuantity>6144<", "<rasd:VirtualQuantity>6 GiB<", "ovf.memory", "says \"6 GiB\""),
        ("<rasd:VirtualQuantity>6144<", "<rasd:VirtualQuantity>18446744073709551615<", "ovf.memory", "says"),
        ("byte * 2^20</rasd:AllocationUnits>", "lots</rasd:AllocationUnits>", "ovf.memory", "of \"lots\""),
        (
            "byte * 2^20</rasd:AllocationUnits>",
            "byte * 2^10</rasd:AllocationUnits>",
            "ovf.memory",
            "has 6291456 bytes",
        ),
        ("byte * 2^20</rasd:AllocationUnits>", "byte * 2^64</rasd:AllocationUnits>", "ovf.memory", "says"),
        // Processors.
        ("<rasd:VirtualQuantity>4<", "<rasd:VirtualQuantity>0<", "ovf.processors", "says \"0\""),
        ("<rasd:VirtualQuantity>4<", "<rasd:VirtualQuantity>2.5<", "ovf.processors", "says \"2.5\""),
        ("<rasd:VirtualQuantity>4</rasd:VirtualQuantity>", "", "ovf.processors", "says \"\""),
        (system_end, &cores("4"), "ovf.cores-per-socket", "has 6 processors, 4 a socket"),
        (system_end, &cores("0"), "ovf.cores-per-socket", "it is \"0\""),
        // Items.
        (
            "<rasd:Parent>3<",
            "<rasd:Parent>3</rasd:Parent><rasd:Parent>3<",
            "ovf.item-elements",
            "has 2 elements Parent",
        ),
        ("<rasd:InstanceID>5</rasd:InstanceID>", "", "ovf.item-elements", "has no InstanceID"),
        ("<rasd:ResourceType>10</rasd:ResourceType>", "", "ovf.item-elements", "has no ResourceType"),
        (
            "<rasd:InstanceID>5<",
            "<rasd:InstanceID>4<",
            "ovf.instance-id",
            "\"4\" is \"Hard disk 1\" and \"Network adapter 1\"",
        ),
        // One for all configurations and one, of another kind, for some.
        ("<rasd:InstanceID>5<", "<rasd:InstanceID>1<", "ovf.instance-id", "\"1\" is "),
        // Addresses.
        (
            "<rasd:AddressOnParent>0<",
            "<rasd:AddressOnParent>7<",
            "ovf.address",
            "is at \"7\", and addresses there are 0 to 15, without 7",
        ),
        ("<rasd:AddressOnParent>0<", "<rasd:AddressOnParent>16<", "ovf.address", "is at \"16\""),
        ("<rasd:AddressOnParent>0<", "<rasd:AddressOnParent>-1<", "ovf.address", "is at \"-1\""),
        (disk_end, &item("8", "0", "3"), "ovf.address", "are both at 0 of \"3\""),
        (disk_end, &item("8", "30", "6"), "ovf.address", "is at \"30\", and addresses there are 0 to 29"),
        // Disks.
        ("<rasd:ResourceType>17<", "<rasd:ResourceType>1<", "ovf.disk", ""),
        ("<rasd:HostResource>ovf:/disk/disk1</rasd:HostResource>", "", "ovf.disk", ""),
        (
            "<Disk ovf:capacity",
            "<Disk ovf:capacity=\"1\" ovf:diskId=\"disk1\"/><Disk ovf:capacity",
            "ovf.names",
            "Disk has the diskId \"disk1\" twice",
        ),
        (
            "<Disk ovf:capacity",
            "<Disk ovf:capacity=\"1\"/><Disk ovf:capacity",
            "ovf.names",
            "a Disk has no diskId",
        ),
        (
            "<File ",
            "<File ovf:href=\"b\" ovf:id=\"file1\"/><File ",
            "ovf.names",
            "File has the id \"file1\" twice",
        ),
        (
            "<Network ",
            "<Network ovf:name=\"VM Network\"/><Network ",
            "ovf.names",
            "Network has the name \"VM Network\" twice",
        ),
        // Firmware.
        ("vmw:value=\"efi\"", "vmw:value=\"uefi\"", "ovf.firmware", "it is \"uefi\""),
        ("vmw:value=\"efi\"", "vmw:value=\"EFI\"", "ovf.firmware", "it is \"EFI\""),
        ("vmw:value=\"efi\"", "vmw:value=\"bios\"", "ovf.secure-boot", "the firmware is \"bios\""),
        ("vmw:value=\"true\"", "vmw:value=\"yes\"", "ovf.secure-boot", "efiSecureBootEnabled is \"yes\""),
    ];
    for (from, to, id, detail) in table {
        let findings = found(from, to);
        let is_it =
            |finding: &&media::verify::Finding| finding.rule.id == id && finding.detail.contains(detail);
        assert!(findings.iter().any(|finding| is_it(&finding)), "{from} -> {to}: {findings:?}");
    }
    // What importers take.
    for (from, to) in [
        ("<rasd:VirtualQuantity>6144<", "<rasd:VirtualQuantity>2052<"),
        ("byte * 2^20</rasd:AllocationUnits>", "MegaBytes</rasd:AllocationUnits>"),
        ("byte * 2^20</rasd:AllocationUnits>", "byte*2^30</rasd:AllocationUnits>"),
        (system_end, &cores("2")),
        (disk_end, &item("8", "15", "3")),
        (disk_end, &item("8", "29", "6")),
        ("<rasd:AddressOnParent>0</rasd:AddressOnParent>", ""),
        ("<Item>", "<Item ovf:required=\"false\">"),
        (
            "<rasd:Connection>VM Network<",
            "<rasd:Connection>VM Network</rasd:Connection><rasd:Connection>VM Network<",
        ),
        // What others add to an item.
        ("<rasd:Parent>3<", "<x:Any xmlns:x=\"urn:x\"/><x:Any xmlns:x=\"urn:x\"/><rasd:Parent>3<"),
        // The range in which the number of processors may be.
        (
            "<Item ovf:configuration=\"2000\">",
            "<Item ovf:bound=\"min\"><rasd:ElementName>1 at least</rasd:ElementName><rasd:InstanceID>1</rasd:InstanceID>\
             <rasd:ResourceType>3</rasd:ResourceType><rasd:VirtualQuantity>1</rasd:VirtualQuantity></Item>\
             <Item ovf:configuration=\"2000\">",
        ),
    ] {
        let findings = found(from, to);
        assert!(findings.is_empty(), "{from} -> {to}: {findings:?}");
    }
}

/// A disk in pieces, as OVF allows.
#[test]
fn a_file_in_chunks() {
    let folder = tempfile::tempdir().unwrap();
    let members = unpack(&fs::read(make_ova(folder.path())).unwrap());
    let path = folder.path().join("chunked.ova");
    let (name, _, disk) = members[2].clone();
    let found = |bytes: usize, change: &dyn Fn(&mut Vec<Member>)| {
        let mut changed = members[..2].to_vec();
        let said = format!("<File ovf:chunkSize=\"{bytes}\" ");
        text(&mut changed[0], |text| text.replace("<File ", &said));
        for (number, chunk) in disk.chunks(bytes).enumerate() {
            changed.push((format!("{name}.{number:09}"), b'0', chunk.to_vec()));
        }
        change(&mut changed);
        sign(&mut changed);
        fs::write(&path, pack(&changed)).unwrap();
        broken(&path)
    };
    for bytes in [100_001, disk.len() / 2, disk.len(), disk.len() + 1] {
        assert_eq!(found(bytes, &|_| ()), BTreeSet::new(), "{bytes}");
    }
    let bytes = disk.len() / 3;
    let missing = found(bytes, &|all| drop(all.pop()));
    assert!(missing.contains("ovf.file-size"), "{missing:?}");
    let none = found(bytes, &|all| all.truncate(2));
    assert!(none.contains("ovf.file-there"), "{none:?}");
    let moved = found(bytes, &|all| {
        let last = all[2].2.pop().unwrap();
        all[3].2.insert(0, last);
    });
    assert!(moved.contains("ovf.chunks") && !moved.contains("ovf.file-size"), "{moved:?}");
    let damaged = found(bytes, &|all| all[3].2[1000..3000].fill(0xff));
    assert!(damaged.iter().any(|id| id.starts_with("vmdk.")), "{damaged:?}");
    let swapped = found(bytes, &|all| all.swap(2, 3));
    assert!(swapped.contains("ova.order"), "{swapped:?}");
}

#[test]
fn vmdk() {
    let folder = tempfile::tempdir().unwrap();
    let sound = folder.path().join("disk.vmdk");
    make_vmdk(&disk(folder.path(), false), &sound, 6);
    assert_eq!(broken(&sound), BTreeSet::new());
    let bytes = fs::read(&sound).unwrap();
    let end = bytes.len();
    let path = folder.path().join("broken").join("disk.vmdk");
    fs::create_dir(path.parent().unwrap()).unwrap();
    let mut seen = BTreeSet::new();
    let mut try_file = |id: &'static str, change: &dyn Fn(&mut Vec<u8>)| {
        let mut changed = bytes.clone();
        change(&mut changed);
        assert_ne!(changed, bytes, "{id}: nothing was changed");
        fs::write(&path, &changed).unwrap();
        let found = broken(&path);
        assert!(found.contains(id), "{id} is not among {found:?}");
        seen.insert(id);
    };
    // Of the same length, so that nothing moves.
    let replace = |from: &'static str, to: &'static str| {
        move |bytes: &mut Vec<u8>| {
            assert_eq!(from.len(), to.len());
            let at = bytes.windows(from.len()).position(|window| window == from.as_bytes()).unwrap();
            bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
        }
    };
    let first_grain = 128 * 512;
    try_file("vmdk.readable", &|bytes| bytes.truncate(300));
    try_file("vmdk.readable", &|bytes| bytes.truncate(end - 100));
    try_file("vmdk.readable", &|bytes| bytes[33] = 0x7f);
    try_file("vmdk.stream-optimized", &replace("streamOptimized", "monolithicSpars"));
    try_file("vmdk.stream-optimized", &|bytes| *bytes = b"# Disk DescriptorFile\nversion=1\n".repeat(20));
    try_file("vmdk.header", &|bytes| bytes[4] = 1);
    try_file("vmdk.header", &|bytes| bytes[77] = 0);
    try_file("vmdk.footer", &|bytes| drop(bytes.drain(end - 1536..end - 512)));
    try_file("vmdk.footer", &|bytes| bytes[end - 1024 + 12] ^= 1);
    // As qemu-img leaves it.
    try_file("vmdk.end-of-stream", &|bytes| bytes.truncate(end - 512));
    try_file("vmdk.tables", &|bytes| bytes[end - 1024 + 59] = 0x7f);
    try_file("vmdk.grains", &|bytes| bytes[first_grain + 20] ^= 0xff);
    try_file("vmdk.grains", &|bytes| bytes[first_grain] = 9);
    // The sector before the first table, and before the directory, whose marker is of five sectors' distance to the end.
    let marker_of = |bytes: &[u8], kind: u8| {
        let is_marker = |sector: &&[u8]| {
            sector[8..12] == [0; 4]
                && sector[12..16] == [kind, 0, 0, 0]
                && sector[16..].iter().all(|byte| *byte == 0)
        };
        let from = first_grain / 512;
        from + bytes.chunks(512).skip(from).position(|sector| is_marker(&sector)).unwrap()
    };
    for kind in [1, 2] {
        try_file("vmdk.stream", &|bytes| {
            let at = marker_of(bytes, kind) * 512;
            bytes[at..at + 512].fill(0);
        });
    }
    try_file("vmdk.geometry", &replace("heads = \"255\"", "heads = \"16\" "));
    try_file("vmdk.geometry", &replace("ddb.longContentID", "ddb.longestIdOf__"));
    try_file("vmdk.adapter", &replace("\"lsilogic\"", "\"ide\"     "));
    try_file("vmdk.extent-name", &replace("\"disk.vmdk\"", "\"else.vmdk\""));
    try_file("vmdk.capacity", &replace("RDONLY 143360 ", "RDONLY 143361 "));
    // Two grains change places, and their entries with them.
    try_file("vmdk.grain-order", &|bytes| {
        let length = |at: usize| {
            let stored = u32::from_le_bytes(bytes[at + 8..at + 12].try_into().unwrap()) as usize;
            (12 + stored).next_multiple_of(512)
        };
        let second = first_grain + length(first_grain);
        let third = second + length(second);
        let swapped = [&bytes[second..third], &bytes[first_grain..second]].concat();
        let moved = first_grain + (third - second);
        bytes[first_grain..third].copy_from_slice(&swapped);
        let entry = |at: usize| ((at / 512) as u32).to_le_bytes();
        let find = |bytes: &[u8], at: usize| {
            (third..bytes.len()).step_by(4).find(|place| bytes[*place..*place + 4] == entry(at)).unwrap()
        };
        let (a, b) = (find(bytes, first_grain), find(bytes, second));
        bytes[a..a + 4].copy_from_slice(&entry(moved));
        bytes[b..b + 4].copy_from_slice(&entry(first_grain));
    });
    all_are_named(&["vmdk"], &seen);
}

#[test]
fn xva() {
    let folder = tempfile::tempdir().unwrap();
    let disk = disk(folder.path(), false);
    let sound = folder.path().join("sound.xva");
    for firmware in [Firmware::Uefi, Firmware::Bios] {
        for level in [Some(1), None] {
            make_xva(&disk, &sound, firmware, level);
            assert_eq!(broken(&sound), BTreeSet::new(), "{firmware:?} {level:?}");
        }
    }
    let members = unpack(&fs::read(&sound).unwrap());
    let path = folder.path().join("broken.xva");
    let mut seen = BTreeSet::new();
    let mut try_file = |id: &'static str, bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        let found = broken(&path);
        assert!(found.contains(id), "{id} is not among {found:?}");
        seen.insert(id);
    };
    type Change = fn(&mut Vec<Member>);
    let changes: [(&str, Change); 14] = [
        ("xva.ova-xml-first", |all| all.rotate_left(1)),
        ("xva.names", |all| all.insert(1, ("Ref:3/".into(), b'5', vec![]))),
        ("xva.names", |all| all.push(("disk.vhd".into(), b'0', vec![]))),
        ("xva.names", |all| {
            // Two members more, which are sound, of a disk that nobody has.
            for at in [1, 2] {
                let (name, kind, content) = all[at].clone();
                all.push((name.replace("Ref:3", "Ref:9"), kind, content));
            }
        }),
        ("xva.checksum-follows", |all| drop(all.remove(2))),
        ("xva.checksum-follows", |all| drop(all.pop())),
        ("xva.checksum", |all| all[1].2[5] ^= 1),
        ("xva.checksum", |all| all[2].2.make_ascii_uppercase()),
        ("xva.chunk-size", |all| all[3].2.truncate(1000)),
        ("xva.chunk-order", |all| {
            all[1..5].rotate_left(2);
        }),
        ("xva.ends", |all| drop(all.drain(1..3))),
        ("xva.ends", |all| all.truncate(all.len() - 2)),
        ("xva.records", |all| all[0].2 = b"<value/>".to_vec()),
        ("xva.hvm", |all| {
            text(&mut all[0], |text| {
                text.replace("BIOS order", "").replace("<value>hvm<", "<value>unspecified<")
            });
        }),
    ];
    for (id, change) in changes {
        let mut changed = members.clone();
        change(&mut changed);
        try_file(id, &pack(&changed));
    }
    let whole = pack(&members);
    try_file("xva.readable", &whole[..whole.len() - 500_000]);
    let member =
        |name: &str, value: &str| format!("<member><name>{name}</name><value>{value}</value></member>");
    for (id, from, to) in [
        ("xva.version", member("xapi_minor", "9"), member("xapi_minor", "20")),
        ("xva.version", member("export_vsn", "2"), member("export_vsn", "1")),
        ("xva.fields", "<name>VCPUs_params</name>".into(), "<name>VCPUs_parameters</name>".into()),
        ("xva.fields", "<name>product_brand</name>".into(), "<name>brand</name>".into()),
        ("xva.fields", "<name>physical_size</name>".into(), "<name>size</name>".into()),
        ("xva.fields", "<name>MAC</name>".into(), "<name>mac</name>".into()),
        ("xva.fields", "<name>virtual_size</name><value>".into(), "<name>virtual_size</name><value>x".into()),
        ("xva.references", member("network", "Ref:2"), member("network", "Ref:9")),
        ("xva.references", member("VDI", "Ref:3"), member("VDI", "Ref:0")),
        ("xva.references", member("SR", "Ref:4"), member("SR", "Ref:9")),
        ("xva.device-model", "qemu-upstream-compat".into(), "qemu-upstream-uefi".into()),
    ] {
        let mut changed = members.clone();
        text(&mut changed[0], |text| text.replace(&from, &to));
        try_file(id, &pack(&changed));
    }
    all_are_named(&["xva"], &seen);
}

/// What `qemu-img` makes of the disk.
fn converted(folder: &Path, format: &str, options: &str) -> Vec<u8> {
    let path = folder.join(format!("sound.{format}"));
    let mut command = tools::Toolbox::open().unwrap().command("qemu-img");
    command.args(["convert", "-f", "raw", "-O", format, "-o", options]).arg(disk(folder, false)).arg(&path);
    assert!(command.status().unwrap().success());
    assert_eq!(broken(&path), BTreeSet::new());
    fs::read(path).unwrap()
}

#[test]
fn vhd() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = converted(folder.path(), "vpc", "subformat=dynamic,force_size=on");
    let end = bytes.len();
    let mut seen = BTreeSet::new();
    let mut try_file = |id: &'static str, change: &dyn Fn(&mut Vec<u8>)| {
        let mut changed = bytes.clone();
        change(&mut changed);
        let path = folder.path().join("broken.vhd");
        fs::write(&path, &changed).unwrap();
        let found = broken(&path);
        assert!(found.contains(id), "{id} is not among {found:?}");
        seen.insert(id);
    };
    try_file("vhd.readable", &|bytes| bytes.truncate(end - 512));
    try_file("vhd.readable", &|bytes| drop(bytes.drain(end - 512 - (3 << 20)..end - 512)));
    try_file("vhd.footer", &|bytes| bytes[end - 512 + 30] ^= 1);
    try_file("vhd.footer", &|bytes| bytes[700] ^= 1);
    try_file("vhd.size", &|bytes| bytes[end - 512 + 55] ^= 1);
    try_file("vhd.limit", &|bytes| bytes[end - 512 + 49] = 1);
    try_file("vhd.kind", &|bytes| bytes[end - 512 + 63] = 4);
    all_are_named(&["vhd"], &seen);
}

#[test]
fn vhdx() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = converted(folder.path(), "vhdx", "subformat=dynamic,block_size=1M");
    let mut seen = BTreeSet::new();
    let mut try_file = |id: &'static str, change: &dyn Fn(&mut Vec<u8>)| {
        let mut changed = bytes.clone();
        change(&mut changed);
        let path = folder.path().join("broken.vhdx");
        fs::write(&path, &changed).unwrap();
        let found = broken(&path);
        assert!(found.contains(id), "{id} is not among {found:?}");
        seen.insert(id);
    };
    // With its checksum made right again.
    let seal = |bytes: &mut Vec<u8>, at: usize| {
        bytes[at + 4..at + 8].fill(0);
        let sum = crc32c::crc32c(&bytes[at..at + 4096]);
        bytes[at + 4..at + 8].copy_from_slice(&sum.to_le_bytes());
    };
    // A metadata item's content, by the end of its GUID.
    let item = |bytes: &[u8], guid_end: [u8; 4]| {
        let table = bytes.windows(8).position(|window| window == b"metadata").unwrap();
        let entry = (0..8)
            .map(|number| table + 32 + number * 32)
            .find(|at| bytes[at + 12..at + 16] == guid_end)
            .unwrap();
        table + u32::from_le_bytes(bytes[entry + 16..entry + 20].try_into().unwrap()) as usize
    };
    let (size, parameters) = ([0xd8, 0x3b, 0xf4, 0xb8], [0xaa, 0x44, 0xe7, 0x6b]);
    try_file("vhdx.headers", &|bytes| bytes[(64 << 10) + 100] ^= 1);
    try_file("vhdx.headers", &|bytes| bytes[(256 << 10) + 100] ^= 1);
    try_file("vhdx.log", &|bytes| {
        for at in [64 << 10, 128 << 10] {
            bytes[at + 48] = 1;
            seal(bytes, at);
        }
    });
    try_file("vhdx.readable", &|bytes| bytes.truncate(3 << 20));
    try_file("vhdx.whole-mib", &|bytes| {
        let at = item(bytes, size);
        bytes[at + 1] = 2;
    });
    try_file("vhdx.block-size", &|bytes| {
        let at = item(bytes, parameters);
        bytes[at + 2] = 0x20;
    });
    try_file("vhdx.parent", &|bytes| {
        let at = item(bytes, parameters);
        bytes[at + 4] |= 2;
    });
    all_are_named(&["vhdx"], &seen);

    // A log that would lie over the headers is left alone.
    let path = folder.path().join("log.vhdx");
    for place in [0u64, 4096, u64::MAX] {
        let mut changed = bytes.clone();
        for at in [64 << 10, 128 << 10] {
            changed[at + 72..at + 80].copy_from_slice(&place.to_le_bytes());
            seal(&mut changed, at);
        }
        fs::write(&path, &changed).unwrap();
        let error = media::stable::vhdx(&path, [7; 16]).unwrap_err().to_string();
        assert!(error.contains("log is not where one may be"), "{error}");
        assert!(fs::read(&path).unwrap().starts_with(b"vhdxfile"));
    }
}

#[test]
fn iso() {
    let folder = tempfile::tempdir().unwrap();
    let tree = folder.path().join("tree");
    fs::create_dir_all(tree.join("EFI/BOOT")).unwrap();
    fs::create_dir_all(tree.join("boot")).unwrap();
    fs::write(tree.join("EFI/BOOT/BOOTX64.EFI"), "loader").unwrap();
    fs::write(tree.join("boot/image"), common::noise(4096)).unwrap();
    fs::write(folder.path().join("code"), common::noise(440)).unwrap();
    let make = |name: &str, label: &str, esp_bytes: u64, with_bios: bool, with_uefi: bool| {
        let path = folder.path().join(name);
        let esp = folder.path().join("esp");
        fs::File::create(&esp).unwrap().set_len(esp_bytes).unwrap();
        let mut command = tools::Toolbox::open().unwrap().command("xorriso");
        command.args(["-as", "mkisofs", "-quiet", "-volid", label]);
        if with_bios {
            command.args(["-b", "boot/image", "-no-emul-boot", "-boot-load-size", "4"]);
        }
        if with_uefi {
            command.args(["-append_partition", "2", "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"]).arg(&esp);
            command.args(["-appended_part_as_gpt", "-eltorito-alt-boot", "-e"]);
            command.args(["--interval:appended_partition_2:all::", "-no-emul-boot"]);
        }
        assert!(command.arg("-o").arg(&path).arg(&tree).status().unwrap().success());
        let mut bytes = fs::read(&path).unwrap();
        bytes[..440].copy_from_slice(&fs::read(folder.path().join("code")).unwrap());
        bytes[446] = 0x80;
        fs::write(&path, &bytes).unwrap();
        path
    };
    let sound = make("sound.iso", "MEDIUM_1", 4 << 20, true, true);
    assert_eq!(broken(&sound), BTreeSet::new());
    let mut seen = BTreeSet::new();
    let mut try_file = |id: &'static str, path: &Path| {
        let found = broken(path);
        assert!(found.contains(id), "{id} is not among {found:?}");
        seen.insert(id);
    };
    try_file("iso.label", &make("label.iso", "A long label in two cases", 4 << 20, true, true));
    try_file("iso.esp-size", &make("esp.iso", "MEDIUM", 24 << 20, true, true));
    try_file("iso.bios", &make("uefi.iso", "MEDIUM", 4 << 20, false, true));
    let bios = make("bios.iso", "MEDIUM", 4 << 20, true, false);
    try_file("iso.uefi", &bios);
    try_file("iso.gpt-esp", &bios);
    let changed = folder.path().join("changed.iso");
    for (id, change) in [
        ("iso.stick", (|bytes| bytes[510] = 0) as fn(&mut Vec<u8>)),
        ("iso.active", |bytes| bytes[446] = 0),
        ("iso.readable", |bytes| bytes.truncate(bytes.len() - (1 << 20))),
        ("iso.efi-tree", |bytes| {
            while let Some(at) = bytes.windows(11).position(|window| window == b"BOOTX64.EFI") {
                bytes[at] = b'X';
            }
        }),
    ] {
        let mut bytes = fs::read(&sound).unwrap();
        change(&mut bytes);
        fs::write(&changed, bytes).unwrap();
        try_file(id, &changed);
    }
    all_are_named(&["iso"], &seen);
}

/// As little as is taken for a medium.
fn iso_beginning() -> Vec<u8> {
    let mut iso = vec![0; 64 << 10];
    iso[32769..32774].copy_from_slice(b"CD001");
    iso[34823..34846].copy_from_slice(b"EL TORITO SPECIFICATION");
    iso[512..520].copy_from_slice(b"EFI PART");
    iso
}

/// Whatever is damaged, there is an answer and no panic: other people's files are looked at.
#[test]
fn damaged_files_are_answered() {
    let folder = tempfile::tempdir().unwrap();
    let raw = disk(folder.path(), false);
    let vmdk = folder.path().join("disk.vmdk");
    make_vmdk(&raw, &vmdk, 1);
    let xva = folder.path().join("sound.xva");
    make_xva(&raw, &xva, Firmware::Bios, Some(1));
    let kinds = [
        ("vmdk", fs::read(&vmdk).unwrap()),
        ("ova", fs::read(make_ova(folder.path())).unwrap()),
        ("xva", fs::read(&xva).unwrap()),
        ("vhd", converted(folder.path(), "vpc", "subformat=dynamic,force_size=on")),
        ("vhdx", converted(folder.path(), "vhdx", "subformat=dynamic,block_size=1M")),
        ("iso", iso_beginning()),
    ];
    let mut state = 7u64;
    let mut next = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    for (kind, sound) in kinds {
        let path = folder.path().join(format!("damaged.{kind}"));
        for _ in 0..60 {
            let mut bytes = sound.clone();
            for _ in 0..1 + next(8) {
                // Most of what matters stands at the ends.
                let near = next(4096.min(bytes.len()));
                let at = match next(3) {
                    0 => near,
                    1 => bytes.len() - 1 - near,
                    _ => next(bytes.len()),
                };
                bytes[at] = [0, 0xff, 0x7f, 0x80, next(256) as u8][next(5)];
            }
            if next(4) == 0 {
                bytes.truncate(next(bytes.len()));
            }
            fs::write(&path, &bytes).unwrap();
            // A finding, no finding, or that it is nothing known: all are answers.
            drop(verify(&path));
        }
    }
}

#[test]
fn what_is_no_package_is_said_to_be_none() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    let mut raw = vec![0; 1 << 20];
    raw[510..512].copy_from_slice(&[0x55, 0xaa]);
    let table: [(&[u8], &str); 6] = [
        (b"", "is empty, and no OVA, VMDK, VHDX, VHD, XVA or ISO"),
        (NAME.as_bytes(), "is no OVA, VMDK"),
        (b"PK\x03\x04 and the rest", "is a zip; unpack it"),
        (b"QFI\xfb and the rest", "is a qcow2 disk, which `qemu-img convert` makes into another"),
        (&raw, "is a raw disk, of which no rules are known"),
        (b"\x1f\x8b and the rest", "is compressed by gzip, without a machine"),
    ];
    for (content, expected) in table {
        fs::write(&path, content).unwrap();
        let error = verify(&path).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    for (path, expected) in
        [(folder.path(), "is a folder"), (Path::new("/dev/zero"), "is a device, pipe or socket")]
    {
        let error = verify(path).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}
