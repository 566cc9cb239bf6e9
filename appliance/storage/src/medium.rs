//! The installation medium: what it is called and what lies on it, for those who make it, boot from it and install from it.
//!
//! It is known by its volume's label and a marker file with the root hash in its name: another medium of this product, in
//! another drive, must not be taken for the one that was booted.

/// Label of the volume. As FAT, where 11 characters fit, it is the same: some write the files to a stick of their own.
pub const LABEL: &str = "INFIMONITOR";
/// The folder of all that the installer uses.
pub const FOLDER: &str = "infimonitor";
/// The key on the kernel's command line whose value is the root hash of the medium that was booted.
pub const KEY: &str = "infimonitor.medium";
/// SHA-256 sums of the payloads, as `sha256sum` writes them.
pub const SUMS: &str = "SHA256SUMS";
/// Code of the boot sector.
pub const MBR_CODE: &str = "mbr.img";
/// The payload that is the ESP, without the zeros at its end.
pub const ESP: &str = "esp.img";
/// The payloads: GPT name of the partition into which each goes, and its file.
pub const PAYLOADS: [(&str, &str); 5] = [
    ("bios-boot", "bios-boot.img"),
    ("esp", ESP),
    ("boot-a", "boot.squashfs"),
    ("root-a", "root.erofs"),
    ("verity-a", "root.verity"),
];
/// The payload that is the running root.
pub const ROOT: &str = "root.erofs";
/// And its verity hashes.
pub const VERITY: &str = "root.verity";

/// Name of the marker file in [`FOLDER`].
pub fn marker(root_hash: &str) -> String {
    format!("{root_hash}.medium")
}

/// How much of a volume [`kind`] looks at, in bytes.
pub const PROBE_BYTES: usize = 36 << 10;

/// The file system of a volume with this head, as mount(2) calls it, if its label is that of the medium.
///
/// ISO 9660: primary volume descriptor in sector 16 (ECMA-119, 8.4). FAT: label in the boot sector (Microsoft's FAT
/// specification, 3.1).
pub fn kind(head: &[u8]) -> Option<&'static str> {
    let field = |at: usize, bytes: usize| head.get(at..at + bytes);
    let is_label =
        |bytes: Option<&[u8]>| bytes.is_some_and(|bytes| bytes.trim_ascii_end() == LABEL.as_bytes());
    let volume = 16 * 2048;
    if field(volume + 1, 5) == Some(b"CD001") && is_label(field(volume + 40, 32)) {
        return Some("iso9660");
    }
    let is_fat = |at, name: &[u8]| field(at, name.len()) == Some(name);
    let label = [(82, &b"FAT32"[..], 71), (54, b"FAT16", 43), (54, b"FAT12", 43)];
    label
        .into_iter()
        .any(|(at, name, label)| is_fat(at, name) && is_label(field(label, 11)))
        .then_some("vfat")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_medium_is_known_by_its_label() {
        let head = |parts: &[(usize, &[u8])]| {
            let mut head = vec![b' '; PROBE_BYTES];
            parts.iter().for_each(|(at, bytes)| head[*at..at + bytes.len()].copy_from_slice(bytes));
            head
        };
        let table = [
            (head(&[(32769, b"CD001"), (32808, b"INFIMONITOR")]), Some("iso9660")),
            (head(&[(32769, b"CD001"), (32808, b"INFIMONITOR2")]), None),
            (head(&[(32808, b"INFIMONITOR")]), None),
            (head(&[(82, b"FAT32"), (71, b"INFIMONITOR")]), Some("vfat")),
            (head(&[(54, b"FAT16"), (43, b"INFIMONITOR")]), Some("vfat")),
            (head(&[(82, b"FAT32"), (71, b"NO NAME    ")]), None),
            (Vec::new(), None),
        ];
        for (head, expected) in table {
            assert_eq!(kind(&head), expected);
        }
    }
}
