//! The slot payloads that mkosi makes: base initrd, then root with verity hashes, kernel and whole initrd.
//!
//! Trade-off: mkosi keeps the root with all packages installed as an incremental tree in the user's cache, and
//! adds files, units and programs to a copy of it at each run (half a minute); packages are fetched and installed
//! anew only when the package list or the skeleton changes, or with `--refresh`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use tools::mirror::RELEASE;
use tools::{Cache, Mkosi, Toolbox};

use super::{Profile, SOURCE_DATE_EPOCH, VERSION, drivers, programs};
use crate::jobs::{Input, Job, Room, names};
use crate::paths;

/// Seed of all partition and file system ids in the image (systemd-repart); any fixed value serves.
const SEED: &str = "5f2c6b0e-7a63-4b4e-9d0e-3d6a2f4f3a01";

/// The payloads' places below the work folder.
pub struct Payloads {
    /// erofs image of the root.
    pub root: PathBuf,
    /// dm-verity hash image of the root.
    pub verity: PathBuf,
    /// Root hash in hexadecimal, without a line end.
    pub roothash: PathBuf,
    /// The kernel.
    pub kernel: PathBuf,
    /// Base initrd and this kernel's modules.
    pub initrd: PathBuf,
    /// mkosi's manifest: the packages of the build.
    pub packages: PathBuf,
}

impl Payloads {
    /// Where they lie.
    pub fn of(work: &Path) -> Self {
        let place = |name: &str| work.join("payloads").join(name);
        Self {
            root: place("root.erofs"),
            verity: place("root.verity"),
            roothash: place("roothash"),
            kernel: place("vmlinuz"),
            initrd: place("initrd"),
            packages: place("packages.json"),
        }
    }
}

/// What both images have in common.
pub struct System<'a> {
    cache: &'a Cache,
    mkosi: &'a Mkosi,
    toolbox: &'a Toolbox,
    profile: Profile,
    refresh: bool,
    drivers: String,
    work: PathBuf,
}

impl<'a> System<'a> {
    /// Gathers what the jobs need; `drivers`: those that the initrd must have, one a line.
    pub fn new(
        cache: &'a Cache,
        mkosi: &'a Mkosi,
        toolbox: &'a Toolbox,
        profile: Profile,
        refresh: bool,
        drivers: String,
        work: &Path,
    ) -> Self {
        Self { cache, mkosi, toolbox, profile, refresh, drivers, work: work.to_path_buf() }
    }

    /// The initrd without kernel modules and without our program.
    pub fn base_initrd_job(&self) -> Job<'_> {
        Job {
            name: "base-initrd".into(),
            needs: names(&[]),
            inputs: self.inputs("initrd"),
            outputs: vec![("image.cpio.zst", self.base_initrd())],
            always: self.refresh,
            hash_outputs: true,
            action: Box::new(|room| self.make(room, "initrd", &[])),
        }
    }

    /// Root, hashes, kernel, initrd.
    pub fn root_job(&self) -> Job<'_> {
        let payloads = Payloads::of(&self.work);
        let mut inputs = self.inputs("root");
        inputs.push(Input::Value("drivers", self.drivers.clone()));
        Job {
            name: "root".into(),
            needs: names(&["programs", "base-initrd"]),
            inputs,
            outputs: vec![
                ("root.erofs", payloads.root),
                ("root.verity", payloads.verity),
                ("roothash", payloads.roothash),
                ("image.vmlinuz", payloads.kernel),
                ("image.initrd", payloads.initrd),
                ("image.manifest", payloads.packages),
            ],
            always: self.refresh,
            hash_outputs: true,
            action: Box::new(|room| {
                let extra = [
                    format!("--profile={}", self.profile.name()),
                    format!("--initrd={}", self.base_initrd().display()),
                    format!("--extra-tree={}", programs::tree(&self.work).display()),
                ];
                self.make(room, "root", &extra)?;
                drivers::check(
                    self.toolbox,
                    &room.scratch("image.initrd"),
                    &self.base_initrd(),
                    &self.drivers,
                )?;
                self.name_split_partitions(room)
            }),
        }
    }

    fn base_initrd(&self) -> PathBuf {
        self.work.join("payloads/base-initrd.cpio.zst")
    }

    fn inputs(&self, image: &str) -> Vec<Input> {
        vec![
            Input::Path(folder(image)),
            Input::Path(paths::root().join("xtask/src/build/system.rs")),
            Input::Value("tools", self.toolbox.identity()),
            Input::Value("version", VERSION.into()),
            Input::Value("date", SOURCE_DATE_EPOCH.to_string()),
            Input::Value("profile", self.profile.name().into()),
        ]
    }

    /// Runs mkosi on `image/<image>`; outputs are `image.*` in the scratch folder.
    fn make(&self, room: &Room, image: &str, extra: &[String]) -> Result<()> {
        let _lock = self.cache.lock()?; // mkosi's caches are shared by all checkouts of the user
        let skeleton = Skeleton::of(self.cache, image)?;
        let force: &[&str] =
            if self.refresh || skeleton.changed() { &["--force", "--force"] } else { &["--force"] };
        let mut command = self.mkosi.command(image, RELEASE)?;
        command
            .arg(format!("--directory={}", folder(image).display()))
            .arg(format!("--tools-tree={}", self.toolbox.folder().display()))
            .arg(format!("--output-directory={}", room.scratch("").display()))
            .args(["--output=image", &format!("--seed={SEED}"), &format!("--image-version={VERSION}")])
            .arg(format!("--source-date-epoch={SOURCE_DATE_EPOCH}"))
            .args(extra)
            .args(force)
            .arg("build");
        room.run(&mut command)?;
        skeleton.remember()
    }

    /// systemd-repart takes the two halves of the root hash as the partitions' UUIDs, and our `SplitName=` puts
    /// those into the file names: the root hash is read from them.
    fn name_split_partitions(&self, room: &Room) -> Result<()> {
        let mut hash = String::new();
        for (kind, name) in [("root", "root.erofs"), ("verity", "root.verity")] {
            let (path, half) = split_file(&room.scratch(""), kind)?;
            hash.push_str(&half);
            fs::rename(&path, room.scratch(name))
                .with_context(|| format!("cannot rename {}", path.display()))?;
        }
        let place = room.scratch("roothash");
        fs::write(&place, &hash).with_context(|| format!("cannot write {}", place.display()))?;
        // Never trust a derived hash unproven: a wrong one would show only at boot.
        let mut verify = self.toolbox.command("veritysetup");
        verify.arg("verify").args([room.scratch("root.erofs"), room.scratch("root.verity")]).arg(&hash);
        room.run(&mut verify)
    }
}

fn folder(image: &str) -> PathBuf {
    paths::root().join("image").join(image)
}

/// mkosi does not notice that a skeleton changed, though the incremental tree is made on top of it.
struct Skeleton {
    note: PathBuf,
    fingerprint: String,
}

impl Skeleton {
    fn of(cache: &Cache, image: &str) -> Result<Self> {
        let tree = folder(image).join("mkosi.skeleton");
        let fingerprint =
            if tree.is_dir() { crate::jobs::fingerprint_of(&tree)? } else { String::from("none") };
        Ok(Self { note: cache.folder(&format!("incremental/{image}"))?.join("skeleton"), fingerprint })
    }

    fn changed(&self) -> bool {
        fs::read_to_string(&self.note).ok().as_deref() != Some(self.fingerprint.as_str())
    }

    fn remember(&self) -> Result<()> {
        fs::write(&self.note, &self.fingerprint)
            .with_context(|| format!("cannot write {}", self.note.display()))
    }
}

fn split_file(folder: &Path, kind: &str) -> Result<(PathBuf, String)> {
    let listing = fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    for entry in listing {
        let path = entry.with_context(|| format!("cannot list {}", folder.display()))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if let Some(half) = half_of_hash(name, kind) {
            let half = half.to_owned();
            return Ok((path, half));
        }
    }
    bail!("mkosi made no split file image.{kind}-<UUID>.raw")
}

/// The UUID in `image.<kind>-<UUID>.raw`, 32 hexadecimal digits.
fn half_of_hash<'n>(name: &'n str, kind: &str) -> Option<&'n str> {
    let half = name.strip_prefix("image.")?.strip_prefix(kind)?.strip_prefix('-')?.strip_suffix(".raw")?;
    (half.len() == 32 && half.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(half)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_hash_is_read_from_split_file_names_only() {
        let uuid = "abdebccce5ecc19534ddb35ddb431810";
        let cases = [
            (format!("image.root-{uuid}.raw"), "root", Some(uuid)),
            (format!("image.root-{uuid}.raw"), "verity", None),
            ("image.root-short.raw".into(), "root", None),
            ("image.raw".into(), "root", None),
        ];
        for (name, kind, expected) in &cases {
            assert_eq!(half_of_hash(name, kind), *expected, "{name}");
        }
    }
}
