//! `cargo xtask build`: from source to finished files in `dist/`.
//!
//! preflight → tools tree → (programs, base initrd) → root → boot → (disks, ISO) → packages → checksums. mkosi makes the slot
//! payloads only; all that is assembled from them is made here (decision D2), for the targets of `firmware-profiles/`.

mod bios;
mod boot;
mod checks;
mod cpio;
mod disk;
mod drivers;
mod esp;
mod iso;
mod packages;
mod programs;
mod system;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::ValueEnum;
use media::profile::{Package, Profile as Target};
use serde::Serialize;
use tools::mirror::Mirrors;
use tools::{Cache, Mkosi, Toolbox, Tree};

use crate::jobs::{Graph, Job, Outcome};
use crate::preflight::Need;
use crate::{paths, preflight};

/// Version of everything that is built.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The date of all files in the image, seconds since 1970: 2026-11-23. A constant raised with each release, not
/// the commit's time: otherwise every commit would make a new root, though nothing in it changed.
pub const SOURCE_DATE_EPOCH: u64 = 1_795_392_000;

/// Jobs that run at a time; mkosi and cargo are parallel by themselves.
const PARALLEL_JOBS: usize = 2;

/// What trades time for size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Profile {
    /// Quick to make: lz4, unoptimised programs
    Dev,
    /// Small and fast: best compression, optimised programs
    Release,
}

impl Profile {
    /// Name as cargo and mkosi know it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dev => "dev",
            Self::Release => "release",
        }
    }
}

/// Arguments of the command.
#[derive(Debug, clap::Args)]
#[command(
    long_about = "Make everything in dist/ from source.\n\n\
        Checks the host first and installs what it lacks (as root or with sudo). Runs only what a change reaches: \
        nothing changed takes a second, one line of a program under a minute, the first build some six minutes. \
        An interrupted build leaves nothing half-made; the next one goes on from there.",
    after_help = "Files:\n  \
        dist/           finished files only\n  \
        .build/PROFILE/ intermediate results; logs/ has a log for each job\n  \
        ~/.cache/infimonitor-backup (or below $XDG_CACHE_HOME): mkosi, tools trees, packages\n\n\
        Exit status: 0 done, 1 a job failed (the end of its log is shown), 2 wrong arguments, \
        3 the host cannot build (every reason and what mends it is shown)"
)]
pub struct Options {
    /// Trade compression and optimisation for time
    #[arg(long, value_enum, default_value = "dev")]
    profile: Profile,
    /// Only report what the host lacks, with the mending command
    #[arg(long)]
    no_install: bool,
    /// Only these targets, with commas between; all of firmware-profiles/ otherwise
    #[arg(long, value_delimiter = ',')]
    target: Vec<String>,
    /// Stop when the tools tree is there: all that tests need which boot nothing
    #[arg(long)]
    tools_only: bool,
    /// Fetch newer packages from the mirror
    #[arg(long)]
    refresh: bool,
    /// Print the outcome as one JSON document on standard output, progress on standard error
    #[arg(long)]
    json: bool,
    /// Also make the trees that only scenarios need, to run one of them by itself
    #[arg(long)]
    for_scenarios: bool,
    /// Trees that are made beside the tools tree
    #[arg(skip)]
    trees: Vec<Tree>,
    /// Room that is needed beside the build's own
    #[arg(skip)]
    needs: Vec<Need>,
    /// Compile and check what tests need, beside the images
    #[arg(skip)]
    checks: bool,
}

impl Options {
    /// What tests need: their trees and the dev disk, without the disk where nothing boots.
    pub fn for_tests(tools_only: bool, full: bool) -> Self {
        let profile = Profile::Dev;
        let mut trees = vec![Tree::OLD_POSTGRESQL];
        if full {
            trees.push(Tree::CLIENTS);
        }
        let for_scenarios = full;
        Self {
            profile,
            no_install: false,
            target: vec![],
            tools_only,
            refresh: false,
            json: false,
            for_scenarios,
            trees,
            needs: Need::of_tests(!tools_only),
            checks: true,
        }
    }

    /// What the benchmarks need.
    pub fn for_benchmarks() -> Self {
        Self { trees: vec![Tree::PEERS], needs: Vec::new(), checks: false, ..Self::for_tests(true, false) }
    }

    /// What a release needs.
    pub fn for_release() -> Self {
        Self {
            profile: Profile::Release,
            trees: Vec::new(),
            needs: Vec::new(),
            checks: false,
            ..Self::for_tests(false, false)
        }
    }
}

/// Runs the command.
pub fn run(options: &Options) -> Result<()> {
    let start = Instant::now();
    let all_targets = packages::targets()?;
    let targets = packages::chosen(&all_targets, &options.target)?;
    let cache = Cache::locate()?;
    let work = work(options.profile);
    let needs = [Need::of_build(cache.root(), &work), options.needs.clone()].concat();
    preflight::run(!options.no_install, &needs)?;
    fs::create_dir_all(work.join("logs")).with_context(|| format!("cannot create {}", work.display()))?;
    let _lock = lock(&work)?;
    let mkosi = Mkosi::prepare(&cache, &Mirrors::of_host()?)?;
    let with_programs = options.checks || !options.tools_only;
    let drivers = drivers::wanted(&all_targets)?; // of all targets: there is one root for all
    let outcomes = thread::scope(|scope| {
        if with_programs {
            // Trees are mostly fetched and unpacked, and leave the cores to the compiler. What fails here fails again in
            // the job of the programs, and is said there.
            scope.spawn(|| programs::compile(options.profile, &work).is_ok());
        }
        let toolbox = prepare_tree(&cache, &mkosi, Tree::TOOLS, &work)?;
        let of_scenarios = options.for_scenarios.then_some(Tree::OLD_OVMF);
        for tree in options.trees.iter().chain(&of_scenarios) {
            prepare_tree(&cache, &mkosi, *tree, &work)?;
        }
        println!("tools tree: {}", toolbox.folder().display());
        let system =
            system::System::new(&cache, &mkosi, &toolbox, options.profile, options.refresh, drivers, &work);
        let mut jobs = Vec::new();
        if with_programs {
            jobs.push(programs::job(options.profile, &work));
        }
        if !options.tools_only {
            jobs.extend(image_jobs(&system, &targets, &all_targets, &toolbox, options.profile, &work)?);
        }
        if options.checks {
            jobs.extend(checks::jobs());
        }
        Graph::new(work.clone(), jobs)?.run(PARALLEL_JOBS)
    })?;
    if options.tools_only {
        return Ok(());
    }
    let seconds = start.elapsed().as_secs_f64();
    if options.json {
        let summary = Summary { seconds, jobs: &outcomes, files: packages::files(&targets)? };
        println!("{}", serde_json::to_string_pretty(&summary).context("cannot print the outcome")?);
    } else {
        print_summary(&outcomes, seconds, &packages::files(&targets)?);
    }
    Ok(())
}

/// The jobs that make the images from the programs.
fn image_jobs<'a>(
    system: &'a system::System<'a>,
    targets: &BTreeMap<String, Target>,
    all_targets: &BTreeMap<String, Target>,
    toolbox: &'a Toolbox,
    profile: Profile,
    work: &Path,
) -> Result<Vec<Job<'a>>> {
    let mut jobs = vec![
        system.base_initrd_job(),
        system.root_job(),
        boot::job(toolbox, work),
        esp::job(toolbox, work),
        bios::job(toolbox, work),
    ];
    let wants = |package| targets.values().find(|target| target.packages.contains(&package));
    if let Some(raw) = wants(Package::Raw) {
        jobs.push(disk::job("disk".into(), raw.disk.size, paths::system_disk(), work));
    }
    if wants(Package::Iso).is_some() {
        jobs.push(iso::job(toolbox, work));
    }
    jobs.extend(packages::jobs(targets, all_targets, toolbox, profile, work)?);
    Ok(jobs)
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Summary<'a> {
    seconds: f64,
    jobs: &'a [Outcome],
    /// The finished files.
    files: Vec<PathBuf>,
}

/// Folder of a profile's intermediate results.
pub fn work(profile: Profile) -> PathBuf {
    paths::work().join(profile.name())
}

/// The list of the packages in the image of a profile's build.
pub fn package_list(profile: Profile) -> PathBuf {
    system::Payloads::of(&work(profile)).packages
}

/// What a release consists of: each file, and its name there.
///
/// # Errors
/// A target's file is wrong.
pub fn artifacts(work: &Path) -> Result<Vec<(PathBuf, String)>> {
    let payloads = system::Payloads::of(work);
    let name = |what: &str| format!("infimonitor-backup-server-{VERSION}{what}");
    let mut all = vec![
        (paths::system_disk(), name(".raw")),
        (paths::iso(), name(".iso")),
        (boot::image(work), name(".boot.squashfs")),
        (payloads.root, name(".root.erofs")),
        (payloads.verity, name(".root.verity")),
        (payloads.packages, name(".packages.json")),
    ];
    all.extend(
        packages::file_names(&packages::targets()?)?
            .into_iter()
            .map(|name| (paths::dist().join(&name), name)),
    );
    Ok(all)
}

/// One build at a time in a checkout: the second waits.
fn lock(work: &Path) -> Result<fs::File> {
    let path = work.join("lock");
    let file = fs::File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    if file.try_lock().is_err() {
        eprintln!("another build runs in this checkout; waiting for it");
        file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
    }
    Ok(file)
}

/// Not a job of the graph: a tree lies outside the checkout, and its name alone tells whether it is current.
fn prepare_tree(cache: &Cache, mkosi: &Mkosi, tree: Tree, work: &Path) -> Result<Toolbox> {
    let log = work.join(format!("logs/{}.log", tree.label()));
    let start = Instant::now();
    let file = fs::File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
    let missing = Toolbox::open_tree(tree).is_err();
    if missing {
        eprintln!("{} tree … (once per user, about a minute; log: {})", tree.label(), paths::shown(&log));
    }
    let toolbox =
        Toolbox::prepare(cache, mkosi, tree, file).with_context(|| format!("see {}", log.display()))?;
    if missing {
        eprintln!("{} tree done ({:.1} s)", tree.label(), start.elapsed().as_secs_f64());
    }
    Ok(toolbox)
}

fn print_summary(outcomes: &[Outcome], seconds: f64, files: &[PathBuf]) {
    println!("{:<20} {:>9} {:>12}", "job", "time", "size");
    for outcome in outcomes {
        let time = outcome.seconds.map_or(String::new(), |seconds| format!("{seconds:.1} s"));
        let size = format!("{:.1} MB", outcome.bytes as f64 / 1e6);
        let same = if outcome.changed { "" } else { "  unchanged" };
        println!("{:<20} {time:>9} {size:>12}{same}", outcome.name);
    }
    println!("{:<20} {:>9}", "all", format!("{seconds:.1} s"));
    for file in files {
        println!("{}", paths::shown(file));
    }
}
