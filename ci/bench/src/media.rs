//! Packages: our VMDK writer against qemu-img's, and our XVA writer against tar, xva-img and gzip, on the same disk at the same
//! deflate level; ours at its best one, too.
//!
//! The disk is the one that was built, or one that is named. Each runs as a process of its own, so that memory can be compared:
//! this program calls itself for ours.

use crate::report::{Comparison, Series};
use anyhow::{Context, Result, bail, ensure};
use media::{Firmware, Source, vmdk, xva};
use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;
use tools::Toolbox;

/// The disk that `cargo xtask build` makes for packages.
const BUILT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../.build/dev/payloads/disk-102400-mib.raw");

/// What is measured, and how often.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// The raw disk
    #[arg(long, default_value = BUILT)]
    disk: PathBuf,
    /// Turns
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Make one package and end: `vmdk` or `xva`, and where to
    #[arg(long, num_args = 2, hide = true)]
    only: Option<Vec<String>>,
    /// At this deflate level
    #[arg(long, default_value_t = LEVEL, hide = true)]
    level: u32,
}

/// Deflate level of all that are compared: qemu-img knows no other (zlib's default).
const LEVEL: u32 = 6;
/// Ours at this one beside them: deflate's levels mean another effort in each library.
const BEST: u32 = 9;

/// One run.
struct Run {
    seconds: f64,
    bytes: u64,
    /// Most memory that a process had at a time.
    memory_bytes: u64,
}

/// Size of the disk that xva-img gets: it stores every zero, thrice over until the end.
const SMALL_BYTES: u64 = 8 << 30;
/// Size of the thin disk of which memory is promised (issue 7).
const HUGE_BYTES: u64 = 1 << 40;

/// One who makes a package, and how it is called.
type Maker<'a> = (String, Box<dyn Fn() -> Command + 'a>);

/// Runs everything.
pub fn run(options: &Options) -> Result<Vec<Comparison>> {
    if let Some(only) = &options.only {
        make(&options.disk, only, options.level)?;
        return Ok(Vec::new());
    }
    ensure!(options.disk.is_file(), "{} is missing: run `cargo xtask build` first", options.disk.display());
    let toolbox = Toolbox::open()?;
    let folder = tempfile::tempdir_in(options.disk.parent().unwrap_or(Path::new(".")))
        .context("cannot make a folder beside the disk")?;
    let place = |name: &str| folder.path().join(name);
    let small = resized(&toolbox, &options.disk, place("small.raw"), SMALL_BYTES)?;
    let huge = resized(&toolbox, &options.disk, place("huge.raw"), HUGE_BYTES)?;
    let out = place("out");
    let xva_img = xva_img(&toolbox, &small, folder.path(), &out)?;
    let groups: [(&str, &Path, Vec<Maker<'_>>); 4] = [
        (
            "streamOptimized VMDK",
            &options.disk,
            vec![
                qemu_img(&toolbox, &options.disk, &out),
                ours("vmdk", LEVEL, &options.disk, &out)?,
                ours("vmdk", BEST, &options.disk, &out)?,
            ],
        ),
        (
            "XVA with gzip",
            &small,
            vec![xva_img, ours("xva", LEVEL, &small, &out)?, ours("xva", BEST, &small, &out)?],
        ),
        (
            "streamOptimized VMDK",
            &huge,
            vec![qemu_img(&toolbox, &huge, &out), ours("vmdk", LEVEL, &huge, &out)?],
        ),
        ("XVA with gzip", &huge, vec![ours("xva", LEVEL, &huge, &out)?]),
    ];
    let mut comparisons = Vec::new();
    for (what, disk, makers) in &groups {
        let gib = std::fs::metadata(disk)?.len() >> 30;
        let what = format!("{what} of a thin disk of {gib} GiB");
        comparisons.extend(compare(&what, makers, options.rounds, &out));
    }
    Ok(comparisons)
}

/// This program, as a process of its own.
fn ours<'a>(kind: &'a str, level: u32, disk: &'a Path, out: &'a Path) -> Result<Maker<'a>> {
    let program = std::env::current_exe().context("this program is not found")?;
    let make = move || {
        let mut command = Command::new(&program);
        command
            .args(["media", "--disk"])
            .arg(disk)
            .args(["--only", kind])
            .arg(out)
            .args(["--level", &level.to_string()]);
        command
    };
    let name = if level == LEVEL { "ours".into() } else { format!("ours, level {level}") };
    Ok((name, Box::new(make)))
}

fn qemu_img<'a>(toolbox: &'a Toolbox, disk: &'a Path, out: &'a Path) -> Maker<'a> {
    let make = move || {
        let mut command = toolbox.command("qemu-img");
        command.args(["convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized"]);
        command.arg(disk).arg(out);
        command
    };
    ("qemu-img".into(), Box::new(make))
}

/// xva-img makes a folder of chunks, and from it a tar, which gzip compresses: what people do today.
fn xva_img<'a>(toolbox: &'a Toolbox, disk: &'a Path, folder: &'a Path, out: &'a Path) -> Result<Maker<'a>> {
    let records = folder.join("ova.xml");
    std::fs::write(&records, "<value/>")?;
    let make = move || {
        let script = "rm -rf \"$1\" && mkdir \"$1\" && xva-img disk-import \"$1\" \"$2\" && \
                      xva-img package \"$3\" \"$4\" \"$1\" && gzip -6 --force --stdout \"$3\" >\"$5\"";
        let mut command = toolbox.command("sh");
        command.args(["-ec", script, "sh"]).arg(folder.join("Ref:1")).arg(disk);
        command.arg(folder.join("plain.xva")).arg(&records).arg(out);
        command
    };
    Ok(("xva-img and gzip".into(), Box::new(make)))
}

/// The disk's content in a file of another size: cut, whatever is there, or with nothing after it.
fn resized(toolbox: &Toolbox, disk: &Path, to: PathBuf, bytes: u64) -> Result<PathBuf> {
    let mut copy = toolbox.command("cp");
    let status = copy
        .args(["--sparse=always", "--reflink=auto"])
        .arg(disk)
        .arg(&to)
        .status()
        .context("cannot run cp")?;
    ensure!(status.success(), "{} could not be copied to {}", disk.display(), to.display());
    let file =
        File::options().write(true).open(&to).with_context(|| format!("cannot open {}", to.display()))?;
    file.set_len(bytes).with_context(|| format!("cannot make {} {bytes} bytes long", to.display()))?;
    Ok(to)
}

/// All makers by turns; time, size and memory of each.
fn compare(what: &str, makers: &[Maker<'_>], rounds: usize, out: &Path) -> Vec<Comparison> {
    let mut runs: Vec<Vec<Result<Run>>> = makers.iter().map(|_| Vec::new()).collect();
    for round in 0..rounds {
        for (index, (name, command)) in makers.iter().enumerate() {
            eprintln!("{what}, round {}: {name}", round + 1);
            runs[index].push(measure(command(), out));
        }
    }
    type Figure = (&'static str, &'static str, fn(&Run) -> f64);
    let figures: [Figure; 3] = [
        ("time", "s", |run| run.seconds),
        ("size", "MB", |run| run.bytes as f64 / 1e6),
        ("memory", "MB", |run| run.memory_bytes as f64 / 1e6),
    ];
    let comparison = |(figure, unit, of): Figure| {
        let series = makers.iter().zip(&runs).map(|((name, _), runs)| {
            let values = runs.iter().map(|run| match run {
                Ok(run) => Ok(of(run)),
                Err(error) => bail!("{error:#}"),
            });
            Series::of(name, unit, values)
        });
        Comparison {
            title: format!("{what}, deflate level {LEVEL} but where said: {figure}"),
            series: series.collect(),
        }
    };
    figures.map(comparison).into()
}

fn make(disk: &Path, only: &[String], level: u32) -> Result<()> {
    let [kind, out] = only else { bail!("--only wants a kind and a place") };
    let disk = Source::open(disk)?;
    let file = File::create(out).with_context(|| format!("cannot create {out}"))?;
    let file = BufWriter::with_capacity(1 << 20, file);
    match kind.as_str() {
        "vmdk" => {
            let options = vmdk::Options { name: "disk.vmdk".into(), level, content_id: [7; 16] };
            vmdk::write(&disk, &options, file, &mut |_| ())?;
        }
        "xva" => {
            let machine = xva::Machine {
                name: "appliance".into(),
                description: "benchmark".into(),
                cores: 4,
                memory_bytes: 6 << 30,
                firmware: Firmware::Bios,
                identity: [7; 16],
                date: 0,
                level: Some(level),
            };
            xva::write(&disk, &machine, file, &mut |_| ())?;
        }
        other => bail!("there is no kind {other}"),
    }
    Ok(())
}

/// Runs to the end; the kernel tells how much memory was needed.
fn measure(mut command: Command, out: &Path) -> Result<Run> {
    if out.exists() {
        std::fs::remove_file(out)?;
    }
    let begun = Instant::now();
    let child = command.spawn().context("cannot begin")?;
    let pid = rustix::process::Pid::from_child(&child);
    let memory_bytes = peak(child, pid)?;
    let seconds = begun.elapsed().as_secs_f64();
    Ok(Run { seconds, bytes: std::fs::metadata(out)?.len(), memory_bytes })
}

/// Waits for the end, and looks meanwhile how much memory it and its children have.
fn peak(mut child: std::process::Child, pid: rustix::process::Pid) -> Result<u64> {
    let mut most = 0;
    loop {
        if let Some(status) = child.try_wait()? {
            ensure!(status.success(), "it failed ({status})");
            return Ok(most);
        }
        most = most.max(resident(pid.as_raw_nonzero().get()));
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// Most bytes that a process or one of its children has had in memory at a time (`VmHWM`), as far as they still run.
fn resident(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let own = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let own = own.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024;
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    children.split_whitespace().filter_map(|pid| pid.parse().ok()).map(resident).fold(own, u64::max)
}
