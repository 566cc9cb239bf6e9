//! The payloads on the installation medium, and whether they are what they were when it was made.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use files::hex;
use sha2::{Digest, Sha256};
use storage::medium::{FOLDER, MBR_CODE, PAYLOADS, SUMS};
use storage::table::MBR_CODE_BYTES;

/// Where the initrd mounted the medium.
pub const MOUNTED: &str = "/run/infimonitor/medium";
/// Bytes that are read at a time.
const BLOCK_BYTES: usize = 1 << 20;

/// What goes into a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payload {
    /// GPT name of the partition.
    pub partition: &'static str,
    /// The file.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// SHA-256 that it had when the medium was made, in hexadecimal.
    pub sha256: String,
}

/// A medium.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Medium {
    /// What is installed, in the order of the partitions.
    pub payloads: Vec<Payload>,
    /// Code of the boot sector.
    pub mbr_code: [u8; MBR_CODE_BYTES],
}

impl Medium {
    /// Reads what is on the medium that is mounted at `root`.
    ///
    /// # Errors
    /// A file is missing or not what was put there.
    pub fn open(root: &Path) -> Result<Self> {
        let folder = root.join(FOLDER);
        let read = |name: &str| {
            let path = folder.join(name);
            fs::read(&path)
                .with_context(|| format!("cannot read {} from the installation medium", path.display()))
        };
        let sums = sums(&String::from_utf8_lossy(&read(SUMS)?));
        let sum =
            |name: &str| sums.get(name).cloned().with_context(|| format!("{SUMS} does not have {name}"));
        let code = read(MBR_CODE)?;
        if hex(&Sha256::digest(&code)) != sum(MBR_CODE)? {
            bail!(damaged(MBR_CODE));
        }
        let mbr_code = code.try_into().ok().with_context(|| format!("{MBR_CODE} has another length"))?;
        let payload = |(partition, name): (&'static str, &str)| {
            let path = folder.join(name);
            let bytes =
                fs::metadata(&path).with_context(|| format!("cannot look at {}", path.display()))?.len();
            Ok(Payload { partition, path, bytes, sha256: sum(name)? })
        };
        let payloads = PAYLOADS.into_iter().map(payload).collect::<Result<_>>()?;
        Ok(Self { payloads, mbr_code })
    }

    /// Bytes of all payloads.
    pub fn bytes(&self) -> u64 {
        self.payloads.iter().map(|payload| payload.bytes).sum()
    }

    /// Reads all payloads and compares them with their sums; `read` is told how many bytes were.
    ///
    /// # Errors
    /// One cannot be read, or is damaged.
    pub fn check(&self, mut read: impl FnMut(u64)) -> Result<()> {
        let mut done = 0;
        for payload in &self.payloads {
            let mut reader = payload.open()?;
            let mut block = vec![0; BLOCK_BYTES];
            loop {
                let count = reader.read(&mut block).with_context(|| unreadable(&payload.path))?;
                if count == 0 {
                    break;
                }
                done += count as u64;
                read(done);
            }
            reader.check()?;
        }
        Ok(())
    }
}

impl Payload {
    /// Opens it for one reading, which is checked at its end.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn open(&self) -> Result<Checked<'_>> {
        let file = File::open(&self.path).with_context(|| unreadable(&self.path))?;
        Ok(Checked { payload: self, file, digest: Sha256::new() })
    }
}

/// A payload while it is read.
#[derive(Debug)]
pub struct Checked<'p> {
    payload: &'p Payload,
    file: File,
    digest: Sha256,
}

impl Read for Checked<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.digest.update(&buffer[..count]);
        Ok(count)
    }
}

impl Checked<'_> {
    /// Whether what was read, to its end, is what was put on the medium.
    ///
    /// # Errors
    /// It is not.
    pub fn check(self) -> Result<()> {
        let name = self.payload.path.file_name().unwrap_or_default().to_string_lossy();
        if hex(&self.digest.finalize()) != self.payload.sha256 {
            bail!(damaged(&name));
        }
        Ok(())
    }
}

fn unreadable(path: &Path) -> String {
    format!("cannot read {} from the installation medium", path.display())
}

fn damaged(name: &str) -> String {
    format!(
        "{name} on the installation medium is damaged: compare the ISO's SHA-256 with the published one, and write it anew"
    )
}

/// Reads what `sha256sum` writes: file name → digest.
fn sums(text: &str) -> BTreeMap<String, String> {
    let lines = text.lines().filter_map(|line| line.split_once("  "));
    lines.map(|(digest, name)| (name.to_owned(), digest.to_owned())).collect()
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// A medium with small payloads, each of its own byte.
    pub(crate) fn medium(root: &Path) {
        let folder = root.join(FOLDER);
        fs::create_dir_all(&folder).unwrap();
        let mut sums = String::new();
        let files = PAYLOADS.iter().map(|(_, name)| *name).chain([MBR_CODE]);
        for (number, name) in (1..).zip(files) {
            let content = if name == MBR_CODE { vec![0xee; MBR_CODE_BYTES] } else { vec![number; 100_000] };
            sums += &format!("{}  {name}\n", hex(&Sha256::digest(&content)));
            fs::write(folder.join(name), content).unwrap();
        }
        fs::write(folder.join(SUMS), sums).unwrap();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_good_medium_is_good_and_a_damaged_one_says_which_file() {
        let folder = tempfile::tempdir().unwrap();
        testing::medium(folder.path());
        let medium = Medium::open(folder.path()).unwrap();
        assert_eq!(medium.bytes(), 500_000);
        let mut told = 0;
        medium.check(|bytes| told = bytes).unwrap();
        assert_eq!(told, 500_000);
        fs::write(folder.path().join(FOLDER).join("root.erofs"), vec![9; 100_000]).unwrap();
        let error = medium.check(|_| ()).unwrap_err().to_string();
        assert!(error.starts_with("root.erofs on the installation medium is damaged"), "{error}");
        fs::write(folder.path().join(FOLDER).join(MBR_CODE), [0; MBR_CODE_BYTES]).unwrap();
        assert!(Medium::open(folder.path()).unwrap_err().to_string().starts_with("mbr.img on"));
    }
}
