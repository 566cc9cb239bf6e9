//! Packages for hypervisors, by the targets in `firmware-profiles/`: each from a disk of the target's size, and each looked at by
//! [`media::verify`] before it is put into `dist/`.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use files::hex;
use media::profile::{Boot, Bus, Nic, Package, Profile as Target};
use media::{MIB, Source, ova, ovf, stable, verify, vmdk, xva};
use sha2::{Digest, Sha256};
use tools::Toolbox;
use zip::write::SimpleFileOptions;

use super::system::Payloads;
use super::{Profile, SOURCE_DATE_EPOCH, VERSION, disk};
use crate::jobs::{Input, Job, Room, hash_file};
use crate::paths;

/// Name of the product in file names.
const PRODUCT: &str = "infimonitor-backup-server";
/// Name of the product for people.
const TITLE: &str = "InfiMONITOR Backup Server";
/// What is written through at once.
const BUFFER_BYTES: usize = 1 << 20;

/// All targets.
///
/// # Errors
/// A file is wrong; the message names it and the field.
pub fn targets() -> Result<BTreeMap<String, Target>> {
    Ok(media::profile::read_all(&paths::root().join("firmware-profiles"))?)
}

/// The targets of these names; all without any.
///
/// # Errors
/// There is none of a name.
pub fn chosen(all: &BTreeMap<String, Target>, names: &[String]) -> Result<BTreeMap<String, Target>> {
    if names.is_empty() {
        return Ok(all.clone());
    }
    let one = |name: &String| {
        let target = all.get(name).with_context(|| {
            let there: Vec<&str> = all.keys().map(String::as_str).collect();
            format!("there is no target {name}; there are: {}", there.join(", "))
        });
        Ok((name.clone(), target?.clone()))
    };
    names.iter().map(one).collect()
}

/// A package that is to be made.
#[derive(Debug, Clone)]
struct Made {
    package: Package,
    /// The target's name; of Hyper-V's, which share one, "hyperv".
    target: String,
    profile: Target,
    /// Of Hyper-V's: the generations that it is for, and whether each has Secure Boot.
    generations: BTreeMap<u8, bool>,
}

/// Hyper-V's name for what boots a machine.
fn generation(target: &Target) -> u8 {
    if target.firmware == Boot::Bios { 1 } else { 2 }
}

impl Made {
    /// Name of its files, without an ending.
    fn stem(&self) -> String {
        format!("{PRODUCT}-{VERSION}-{}", self.target)
    }

    fn file_name(&self) -> String {
        let end = match self.package {
            Package::Ova => "ova",
            Package::HypervZip => "zip",
            Package::Xva => "xva",
            Package::Vhd => "vhd",
            Package::Iso => "iso",
            Package::Raw => "raw",
        };
        format!("{}.{end}", self.stem())
    }

    fn job_name(&self) -> String {
        format!("{}-{}", self.target, self.package)
    }
}

/// The packages of these targets but ISO and raw disk, which have jobs of their own.
///
/// # Errors
/// Two targets want one file, and not the same of it.
fn made(targets: &BTreeMap<String, Target>) -> Result<Vec<Made>> {
    for package in [Package::Iso, Package::Raw] {
        let of: Vec<&str> = targets
            .iter()
            .filter(|(_, target)| target.packages.contains(&package))
            .map(|(name, _)| name.as_str())
            .collect();
        ensure!(of.len() <= 1, "{package} is made once, and {} want it; leave it to one", of.join(" and "));
    }
    let mut all: Vec<Made> = Vec::new();
    for (name, profile) in targets {
        for package in &profile.packages {
            let (target, generations) = match package {
                Package::Iso | Package::Raw => continue,
                Package::HypervZip => {
                    ("hyperv".to_owned(), BTreeMap::from([(generation(profile), profile.secure_boot)]))
                }
                _ => (name.clone(), BTreeMap::new()),
            };
            let made = Made { package: *package, target, profile: profile.clone(), generations };
            match all.iter_mut().find(|other| other.file_name() == made.file_name()) {
                Some(other) => {
                    ensure!(
                        other.profile.disk.size == made.profile.disk.size
                            && other.profile.sizes == made.profile.sizes,
                        "{} is for several targets, which differ in their disk or sizes",
                        made.file_name()
                    );
                    for (generation, secure_boot) in made.generations {
                        ensure!(
                            other.generations.insert(generation, secure_boot).is_none(),
                            "{} is for two targets of generation {generation}; leave it to one",
                            other.file_name()
                        );
                    }
                }
                None => all.push(made),
            }
        }
    }
    Ok(all)
}

/// The finished files of these targets.
///
/// # Errors
/// As [`file_names`].
pub fn files(targets: &BTreeMap<String, Target>) -> Result<Vec<PathBuf>> {
    let has = |package| targets.values().any(|target| target.packages.contains(&package));
    let mut files: Vec<PathBuf> = file_names(targets)?.iter().map(|name| paths::dist().join(name)).collect();
    files.extend(has(Package::Iso).then(paths::iso));
    files.extend(has(Package::Raw).then(paths::system_disk));
    Ok(files)
}

/// Names of the packages' files in `dist/`.
///
/// # Errors
/// Targets that share a package contradict each other.
pub fn file_names(targets: &BTreeMap<String, Target>) -> Result<Vec<String>> {
    Ok(made(targets)?.iter().map(Made::file_name).collect())
}

/// The jobs that make the packages of these `targets` of `everything` after the disks that they are made of, and the checksums after all.
///
/// # Errors
/// As [`file_names`].
pub fn jobs<'a>(
    targets: &BTreeMap<String, Target>,
    everything: &BTreeMap<String, Target>,
    toolbox: &'a Toolbox,
    profile: Profile,
    work: &Path,
) -> Result<Vec<Job<'a>>> {
    let all = made(targets)?;
    let mut jobs = Vec::new();
    let mut sizes: Vec<u64> = all.iter().map(|made| made.profile.disk.size).collect();
    sizes.sort_unstable();
    sizes.dedup();
    for bytes in sizes {
        jobs.push(disk::job(disk_job(bytes), bytes, disk_file(work, bytes), work));
    }
    for made in all {
        let raw = disk_file(work, made.profile.disk.size);
        let roothash = Payloads::of(work).roothash;
        jobs.push(Job {
            name: made.job_name(),
            needs: vec![disk_job(made.profile.disk.size)],
            inputs: vec![
                Input::Path(paths::root().join("xtask/src/build/packages.rs")),
                Input::Path(paths::root().join("image/media/src")),
                // What is asked at an import, and what compresses.
                Input::Path(paths::root().join("appliance/provisioning/src/ovf.rs")),
                Input::Path(paths::root().join("Cargo.lock")),
                Input::Path(texts()),
                Input::Value("tools", toolbox.identity()),
                Input::Value("target", format!("{:?} {:?}", made.profile, made.generations)),
                Input::Value("profile", profile.name().into()),
            ],
            outputs: vec![("package", paths::dist().join(made.file_name()))],
            always: false,
            hash_outputs: false,
            action: Box::new(move |room| make(room, toolbox, &made, profile, &raw, &roothash)),
        });
    }
    // The raw disk, of which most is holes, is summed up with a release alone.
    let files = files(everything)?.into_iter().filter(|file| *file != paths::system_disk());
    let names: Vec<String> =
        files.filter_map(|file| Some(file.file_name()?.to_string_lossy().into_owned())).collect();
    let has_iso = targets.values().any(|target| target.packages.contains(&Package::Iso));
    let mut needs: Vec<String> = made(targets)?.iter().map(Made::job_name).collect();
    needs.extend(has_iso.then(|| "iso".to_owned()));
    jobs.push(Job {
        name: "sums".into(),
        needs,
        inputs: vec![Input::Value("files", names.join("\n"))],
        outputs: vec![("sums", paths::dist().join("SHA256SUMS"))],
        always: false,
        hash_outputs: false,
        action: Box::new(move |room| sums(room, &names)),
    });
    Ok(jobs)
}

fn disk_job(bytes: u64) -> String {
    format!("disk-{}-mib", bytes / MIB)
}

fn disk_file(work: &Path, bytes: u64) -> PathBuf {
    work.join(format!("payloads/{}.raw", disk_job(bytes)))
}

/// What goes beside a disk for Hyper-V.
fn texts() -> PathBuf {
    paths::root().join("image/hyperv")
}

/// Deflate level.
fn level(profile: Profile) -> u32 {
    match profile {
        Profile::Dev => 1,
        Profile::Release => 9,
    }
}

fn make(
    room: &Room,
    toolbox: &Toolbox,
    made: &Made,
    profile: Profile,
    raw: &Path,
    roothash: &Path,
) -> Result<()> {
    let seed = fs::read_to_string(roothash).context("cannot read the root hash")?;
    let identity = disk::derived_bytes(seed.trim(), &made.job_name());
    let package = room.scratch("package");
    match made.package {
        Package::Ova => make_ova(room, made, profile, raw, identity, &package)?,
        Package::Xva => make_xva(made, profile, raw, identity, &package)?,
        Package::Vhd => {
            convert(room, toolbox, raw, "vpc", "subformat=dynamic,force_size=on", &package)?;
            stable::vhd(&package, identity, SOURCE_DATE_EPOCH)?;
        }
        Package::HypervZip => {
            let vhdx = room.scratch(&format!("{}.vhdx", made.stem()));
            convert(room, toolbox, raw, "vhdx", "subformat=dynamic,block_size=1M", &vhdx)?;
            stable::vhdx(&vhdx, identity)?;
            sound(&vhdx)?;
            return pack(made, profile, &vhdx, &package);
        }
        Package::Iso | Package::Raw => bail!("{} has a job of its own", made.package),
    }
    sound(&package)
}

/// What is known to be refused does not leave the build.
///
/// # Errors
/// Something is, or is not as it should be; each with its source.
pub fn sound(package: &Path) -> Result<()> {
    let report = verify::verify(package)?;
    let findings: Vec<String> = report.findings.iter().map(ToString::to_string).collect();
    ensure!(findings.is_empty(), "{} is not sound:\n{}", paths::shown(package), findings.join("\n"));
    Ok(())
}

fn create(path: &Path) -> Result<BufWriter<File>> {
    let file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
    Ok(BufWriter::with_capacity(BUFFER_BYTES, file))
}

fn make_ova(
    room: &Room,
    made: &Made,
    profile: Profile,
    raw: &Path,
    identity: [u8; 16],
    package: &Path,
) -> Result<()> {
    let disk = Source::open(raw)?;
    let machine = ovf_machine(made)?;
    let name = ova::file_name(&machine);
    let file = room.scratch(&name);
    let options = vmdk::Options { name, level: level(profile), content_id: identity };
    vmdk::write(&disk, &options, create(&file)?, &mut |_| ())?;
    ova::write(&disk, &machine, &file, SOURCE_DATE_EPOCH, create(package)?)?;
    Ok(())
}

fn ovf_machine(made: &Made) -> Result<ovf::Machine> {
    let target = &made.profile;
    let size = |size: &media::profile::Size| ovf::Size {
        id: format!("devices-{}", size.devices),
        label: format!("Up to {} monitored devices", size.devices),
        cores: size.cores,
        memory_mib: size.memory / MIB,
    };
    let property = |property: &provisioning::ovf::Property| ovf::Property {
        key: property.key.into(),
        label: property.label.into(),
        description: property.description.into(),
        is_secret: property.is_secret,
    };
    Ok(ovf::Machine {
        name: made.stem(),
        product: TITLE.into(),
        vendor: "InfiMONITOR".into(),
        version: VERSION.into(),
        firmware: target.one_firmware().context("an OVA needs one firmware")?,
        secure_boot: target.secure_boot,
        sizes: target.sizes.iter().map(size).collect(),
        controller: match target.disk.bus {
            Bus::Pvscsi => ovf::Controller::Pvscsi,
            Bus::LsiLogic => ovf::Controller::LsiLogic,
            Bus::LsiLogicSas => ovf::Controller::LsiLogicSas,
            other => bail!("an OVA has no bus {other:?}"),
        },
        nic: match target.nic {
            Nic::Vmxnet3 => ovf::Nic::Vmxnet3,
            Nic::E1000e => ovf::Nic::E1000e,
            other => bail!("an OVA has no network card {other:?}"),
        },
        properties: provisioning::ovf::PROPERTIES.iter().map(property).collect(),
    })
}

fn make_xva(made: &Made, profile: Profile, raw: &Path, identity: [u8; 16], package: &Path) -> Result<()> {
    let size = made.profile.sizes.first().context("the target has no size")?;
    let machine = xva::Machine {
        name: TITLE.into(),
        description: format!("{TITLE} {VERSION}, for up to {} monitored devices", size.devices),
        cores: size.cores,
        memory_bytes: size.memory,
        firmware: made.profile.one_firmware().context("an XVA needs one firmware")?,
        identity,
        date: SOURCE_DATE_EPOCH,
        level: Some(level(profile)),
    };
    Ok(xva::write(&Source::open(raw)?, &machine, create(package)?, &mut |_| ())?)
}

fn convert(
    room: &Room,
    toolbox: &Toolbox,
    raw: &Path,
    format: &str,
    options: &str,
    package: &Path,
) -> Result<()> {
    let mut command = toolbox.command("qemu-img");
    command.args(["convert", "-f", "raw", "-O", format, "-o", options]).args([raw, package]);
    room.run(&mut command)
}

/// The archive for Hyper-V: the disk and what a Windows administrator needs beside it.
fn pack(made: &Made, profile: Profile, vhdx: &Path, package: &Path) -> Result<()> {
    let disk_name = format!("{}.vhdx", made.stem());
    let read = |name: &str| {
        let path = texts().join(name);
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    let script = windows(&filled(&read("New-BackupServerVM.ps1")?, made, &disk_name)?);
    let readme = windows(&filled(&read("README.txt")?, made, &disk_name)?);
    let mut sums = format!("{}  {disk_name}\n", digest(vhdx)?);
    for (name, text) in [("New-BackupServerVM.ps1", &script), ("README.txt", &readme)] {
        sums += &format!("{}  {name}\n", hex(&Sha256::digest(text)));
    }
    let mut zip = zip::ZipWriter::new(create(package)?);
    // The date is DOS's first: a constant, so that the same content gives the same archive.
    let options = SimpleFileOptions::default()
        .compression_method(zip::CompressionMethod::Deflated)
        .compression_level(Some(level(profile).into()))
        .last_modified_time(zip::DateTime::default())
        .unix_permissions(0o644)
        .large_file(true);
    for (name, text) in [("README.txt", readme), ("New-BackupServerVM.ps1", script), ("SHA256SUMS", sums)] {
        zip.start_file(name, options).with_context(|| format!("cannot pack {name}"))?;
        zip.write_all(text.as_bytes()).with_context(|| format!("cannot pack {name}"))?;
    }
    zip.start_file(&*disk_name, options).context("cannot pack the disk")?;
    let mut file = File::open(vhdx).with_context(|| format!("cannot open {}", vhdx.display()))?;
    std::io::copy(&mut file, &mut zip).context("cannot pack the disk")?;
    let mut out = zip.finish().context("cannot finish the archive")?;
    out.flush().context("cannot write the archive")
}

/// A text with what the build knows.
fn filled(text: &str, made: &Made, disk: &str) -> Result<String> {
    let target = &made.profile;
    let generations: Vec<String> = made.generations.keys().map(u8::to_string).collect();
    let newest = generations.last().context("the archive is for no generation of Hyper-V")?;
    let secure_boot = if made.generations.get(&2) == Some(&true) { "On" } else { "Off" };
    let first = target.sizes.first().context("the target has no size")?;
    let devices: Vec<String> = target.sizes.iter().map(|size| size.devices.to_string()).collect();
    let sizes: Vec<String> = target
        .sizes
        .iter()
        .map(|size| {
            format!("    {} = @{{ Cores = {}; MemoryMiB = {} }}", size.devices, size.cores, size.memory / MIB)
        })
        .collect();
    let text = text
        .replace("@VERSION@", VERSION)
        .replace("@DISK@", disk)
        .replace("@GENERATIONS@", &generations.join(", "))
        .replace("@GENERATION@", newest)
        .replace("@SECURE_BOOT@", secure_boot)
        .replace("@DEVICES@", &devices.join(", "))
        .replace("@DEFAULT@", &first.devices.to_string())
        .replace("@SIZES@", &sizes.join("\n"))
        .replace("@SIZE@", &format!("{} processors, {} MiB", first.cores, first.memory / MIB));
    Ok(text)
}

/// Lines as Windows ends them.
fn windows(text: &str) -> String {
    text.replace('\n', "\r\n")
}

fn digest(path: &Path) -> Result<String> {
    let mut digest = Sha256::new();
    hash_file(&mut digest, path)?;
    Ok(hex(&digest.finalize()))
}

/// Whether a file in `dist/` is a package, and not of this version.
fn is_of_another_version(name: &str) -> bool {
    let rest = name.strip_prefix(PRODUCT).and_then(|rest| rest.strip_prefix('-'));
    rest.is_some_and(|rest| !rest.starts_with(&format!("{VERSION}-")))
}

/// Writes the checksums of those of these files that are there, as sha256sum(1) reads them. Packages of other versions go: they
/// would be taken for this one's.
fn sums(room: &Room, names: &[String]) -> Result<()> {
    let listing = fs::read_dir(paths::dist()).context("cannot list dist/")?;
    for entry in listing {
        let path = entry.context("cannot list dist/")?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if is_of_another_version(&name) && path.is_file() {
            room.note(&format!("removing {}, which is of another version", path.display()))?;
            fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    let mut text = String::new();
    for name in names.iter().filter(|name| paths::dist().join(name).exists()) {
        text += &format!("{}  {name}\n", digest(&paths::dist().join(name))?);
    }
    fs::write(room.scratch("sums"), text).context("cannot write the checksums")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_target_gets_its_files_and_hyperv_one_for_both() {
        let all = targets().unwrap();
        // Somebody's own target has files of its own beside these.
        let names = file_names(&all).unwrap();
        let of = |end: &str| format!("{PRODUCT}-{VERSION}-{end}");
        let expected =
            ["esxi.ova", "hyperv.zip", "xenserver-bios.xva", "xenserver-bios.vhd", "xenserver-uefi.xva"];
        assert!(expected.iter().all(|name| names.contains(&of(name))), "{names:?}");
        let one = chosen(&all, &["hyperv-gen2".into()]).unwrap();
        assert_eq!(file_names(&one).unwrap(), [of("hyperv.zip")]);
        let error = chosen(&all, &["esx".into()]).unwrap_err().to_string();
        assert!(
            error.starts_with("there is no target esx; there are: ") && error.contains("esxi, "),
            "{error}"
        );
    }

    #[test]
    fn two_targets_do_not_want_one_file_without_a_word() {
        let mut all = targets().unwrap();
        let table =
            [("bare-metal", "raw is made once"), ("hyperv-gen2", "is for two targets of generation 2")];
        for (name, expected) in table {
            let mut other = all[name].clone();
            other.packages.retain(|package| *package != Package::Iso);
            all.insert("other".into(), other);
            let error = file_names(&all).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
            all.remove("other");
        }
        // Any other is a file of its own.
        all.insert("other".into(), all["esxi"].clone());
        let names = file_names(&all).unwrap();
        assert!(names.contains(&format!("{PRODUCT}-{VERSION}-other.ova")), "{names:?}");
    }

    #[test]
    fn packages_of_other_versions_are_known() {
        let table = [
            ("infimonitor-backup-server-0.0.9-esxi.ova", true),
            ("infimonitor-backup-server-0.1.0-esxi.ova", false),
            ("infimonitor-backup-server.iso", false),
            ("infimonitor-backup-server.raw", false),
            ("SHA256SUMS", false),
        ];
        for (name, expected) in table {
            assert_eq!(is_of_another_version(&name.replace("0.1.0", VERSION)), expected, "{name}");
        }
    }

    #[test]
    fn the_script_for_windows_is_filled() {
        let all = targets().unwrap();
        let of = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            made(&chosen(&all, &names).unwrap()).unwrap().remove(0)
        };
        for name in ["New-BackupServerVM.ps1", "README.txt"] {
            let text = fs::read_to_string(texts().join(name)).unwrap();
            let text = filled(&text, &of(&["hyperv-gen1", "hyperv-gen2"]), "disk.vhdx").unwrap();
            let left =
                text.split('@').nth(1).filter(|word| word.bytes().all(|byte| byte.is_ascii_uppercase()));
            assert_eq!(left, None, "{text}");
        }
        let script = fs::read_to_string(texts().join("New-BackupServerVM.ps1")).unwrap();
        let one = filled(&script, &of(&["hyperv-gen1"]), "disk.vhdx").unwrap();
        assert!(one.contains("[ValidateSet(1)]\n    [int] $Generation = 1,"), "{one}");
        let script = filled(&script, &of(&["hyperv-gen1", "hyperv-gen2"]), "disk.vhdx").unwrap();
        assert!(script.contains("[ValidateSet(1, 2)]\n    [int] $Generation = 2,"), "{script}");
        assert!(script.contains("-EnableSecureBoot On"), "{script}");
        assert!(script.contains("[ValidateSet(2000, 10000)]\n    [int] $Devices = 2000,"), "{script}");
        assert!(script.contains("    10000 = @{ Cores = 6; MemoryMiB = 8192 }"), "{script}");
    }
}
