//! What a boot partition, or an image for one, says of its slot: `slot.cfg`, the file that GRUB sources.

use anyhow::{Context, Result, bail, ensure};
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::process::Command;

/// First bytes of a squashfs (little-endian `hsqs`).
const MAGIC: [u8; 4] = *b"hsqs";

/// The content of `slot.cfg`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotConfig {
    /// Version of the system.
    pub version: String,
    /// Root hash of its dm-verity, in hexadecimal.
    pub roothash: String,
}

impl SlotConfig {
    /// Reads the text: lines `set NAME=VALUE`, of which the last of equal names counts.
    ///
    /// # Errors
    /// A variable is missing or has characters that GRUB or the kernel would read differently.
    pub fn parse(text: &str) -> Result<Self> {
        let value = |name: &str| {
            let prefix = format!("set {name}=");
            text.lines().filter_map(|line| line.trim().strip_prefix(&prefix)).next_back()
        };
        let plain = |name: &str| -> Result<String> {
            let value = value(name).with_context(|| format!("slot.cfg has no {name}"))?.trim_matches('"');
            let sound = |c: char| c.is_ascii_alphanumeric() || "._-+~".contains(c);
            ensure!(
                !value.is_empty() && value.chars().all(sound),
                "slot.cfg has a damaged {name}: {value:?}"
            );
            Ok(value.to_owned())
        };
        let config = Self { version: plain("slot_version")?, roothash: plain("slot_roothash")? };
        let hash = config.roothash.len() == 64 && config.roothash.bytes().all(|b| b.is_ascii_hexdigit());
        ensure!(hash, "slot.cfg has a damaged slot_roothash: {:?}", config.roothash);
        Ok(config)
    }

    /// Reads it from a boot partition or image; `None` if that holds no squashfs: it is empty, or half written.
    ///
    /// # Errors
    /// It cannot be read or mounted, or its slot.cfg is damaged.
    pub fn read(image: &Path) -> Result<Option<Self>> {
        let mut magic = [0; 4];
        let read = File::open(image).and_then(|mut file| file.read_exact(&mut magic));
        match read {
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
            other => other.with_context(|| format!("cannot read {}", image.display()))?,
        }
        if magic != MAGIC {
            return Ok(None);
        }
        let mounted = Mounted::new(image)?;
        let file = mounted.0.path().join("slot.cfg");
        let text = fs::read_to_string(&file)
            .with_context(|| format!("cannot read slot.cfg in {}", image.display()))?;
        Self::parse(&text).map(Some).with_context(|| image.display().to_string())
    }
}

/// A squashfs, mounted read-only on a folder of its own until this is dropped.
struct Mounted(tempfile::TempDir);

impl Mounted {
    fn new(image: &Path) -> Result<Self> {
        // Not in /tmp: this runs early, when the root is read-only and nothing is mounted there yet.
        let folder = tempfile::Builder::new().prefix("slot-").tempdir_in("/run");
        let folder = folder.context("cannot make a mount point in /run")?;
        // mount(8), as it makes a loop device where the image is a file.
        let mut mount = Command::new("mount");
        mount
            .args(["--types", "squashfs", "--options", "ro,nosuid,nodev,noexec"])
            .arg(image)
            .arg(folder.path());
        let output = mount.output().context("cannot run mount")?;
        if !output.status.success() {
            bail!("cannot mount {}: {}", image.display(), String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(Self(folder))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = rustix::mount::unmount(self.0.path(), rustix::mount::UnmountFlags::DETACH) {
            eprintln!("slots: cannot unmount {}: {error}", self.0.path().display());
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::path::PathBuf;

    /// A boot image with this slot.cfg.
    pub(crate) fn image(folder: &Path, config: &str) -> PathBuf {
        let (tree, image) = (folder.join("tree"), folder.join("boot.squashfs"));
        fs::create_dir_all(&tree).unwrap();
        fs::write(tree.join("slot.cfg"), config).unwrap();
        let mut mksquashfs = tools::Toolbox::open().unwrap().command("mksquashfs");
        let status = mksquashfs.arg(&tree).arg(&image).args(["-noappend", "-quiet", "-no-progress"]).status();
        assert!(status.unwrap().success());
        image
    }

    #[test]
    fn slot_cfg_is_read_line_by_line() {
        let hash = "ab".repeat(32);
        let config = SlotConfig { version: "0.1.0~rc1".into(), roothash: hash.clone() };
        for text in [
            format!("set slot_version=0.1.0~rc1\nset slot_roothash={hash}\n"),
            format!(
                "set slot_options=\"quiet\"\nset slot_roothash=x\nset slot_version=\"0.1.0~rc1\"\nset slot_roothash={hash}"
            ),
        ] {
            assert_eq!(SlotConfig::parse(&text).unwrap(), config);
        }
        for (text, problem) in [
            ("", "has no slot_version"),
            ("set slot_version=1", "has no slot_roothash"),
            ("set slot_version=1; reboot\nset slot_roothash=ab", "damaged slot_version"),
            ("set slot_version=1\nset slot_roothash=abc", "damaged slot_roothash"),
        ] {
            let error = SlotConfig::parse(text).unwrap_err().to_string();
            assert!(error.contains(problem), "{error}");
        }
    }

    #[test]
    fn an_image_is_read_and_what_is_none_has_no_slot() {
        let folder = tempfile::tempdir().unwrap();
        let text = format!("set slot_version=1.2\nset slot_roothash={}\n", "0".repeat(64));
        let image = image(folder.path(), &text);
        assert_eq!(SlotConfig::read(&image).unwrap().unwrap().version, "1.2");
        let blank = folder.path().join("blank");
        for content in [&[0; 4096][..], &[]] {
            fs::write(&blank, content).unwrap();
            assert_eq!(SlotConfig::read(&blank).unwrap(), None);
        }
        fs::write(&blank, [b"hsqs".as_slice(), &[0xff; 4096]].concat()).unwrap();
        assert!(SlotConfig::read(&blank).unwrap_err().to_string().contains("cannot mount"));
        assert!(SlotConfig::read(Path::new("/nonexistent")).is_err());
    }
}
