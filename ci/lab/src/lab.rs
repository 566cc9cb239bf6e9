//! A set of VMs for one purpose: their folder, their cables, and their end.
//!
//! A lab that is dropped without [`Lab::passed`] counts as failed, whatever the reason (a panic, an error passed
//! up, an early return): then journals and screens are collected and the folder stays. So a failure can never be
//! tidied away, at the price of one call at the end of a success; [`scenario`] makes it. A failed run's folder stays until the same
//! scenario runs again, so that failures do not fill the disk.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use tempfile::TempDir;
use tools::Toolbox;
use tools::scratch::{self, Hold, Scratch};
use uuid::Uuid;

use crate::machine::{Machine, MachineBuilder};
use crate::spec::{Accelerator, LinkEnd};

/// Name of the environment variable that asks for KVM; see [`Accelerator::from_setting`].
pub const ACCELERATOR_SETTING: &str = "INFIMONITOR_ACCEL";
/// Name of the environment variable that keeps a passed lab's folder when it is `1`.
pub const KEEP_SETTING: &str = "INFIMONITOR_KEEP";

/// Room that a run is to find, in bytes: disks of VMs hold what is written to them alone.
const ROOM_BYTES: u64 = 6 << 30;

/// Folders, tools and VMs of one run.
#[derive(Debug)]
pub struct Lab {
    toolbox: Toolbox,
    folder: PathBuf,
    /// Sockets have a folder of their own because their paths are limited to 107 bytes.
    sockets: TempDir,
    accelerator: Accelerator,
    lasting: bool,
    passed: bool,
    machines: Mutex<Vec<Machine>>,
    /// Of a folder that does not last: as long as the run does.
    hold: Option<Hold>,
}

/// Runs a scenario in a lab of its own. Its VMs end with it; what they left is kept when it fails.
pub fn scenario(name: &str, steps: impl FnOnce(&Lab) -> Result<()>) -> Result<()> {
    let lab = Lab::open(name)?;
    steps(&lab)?;
    lab.passed()
}

impl Lab {
    /// A lab with a new folder below cargo's target folder, which goes when it passed.
    pub fn open(name: &str) -> Result<Lab> {
        let run: String = Uuid::new_v4().simple().to_string().chars().take(8).collect();
        let parent = target_folder().join("lab");
        scratch::require(&parent, ROOM_BYTES, "a lab")?;
        let keeps = is_to_keep();
        let is_old =
            |folder: &str| !keeps && folder.rsplit_once('-').is_some_and(|(before, _)| before == name);
        let folder = parent.join(format!("{name}-{run}"));
        let make = || {
            fs::create_dir_all(&folder)
                .with_context(|| format!("cannot make the folder {}", folder.display()))?;
            Ok(((), folder.clone()))
        };
        let ((), hold) = Scratch::new(&parent, "").make(is_old, make)?;
        let mut lab = Lab::at(&folder, false)?;
        lab.hold = Some(hold);
        Ok(lab)
    }

    /// A lab that lasts: VMs of the same name go on from their disks at the next call.
    pub fn lasting(folder: &Path) -> Result<Lab> {
        Lab::at(folder, true)
    }

    fn at(folder: &Path, lasting: bool) -> Result<Lab> {
        fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
        let folder = folder.canonicalize().with_context(|| format!("cannot find {}", folder.display()))?;
        let sockets = tempfile::Builder::new()
            .prefix("lab-")
            .tempdir()
            .with_context(|| format!("cannot make a folder below {}", std::env::temp_dir().display()))?;
        let accelerator = Accelerator::from_setting(std::env::var(ACCELERATOR_SETTING).ok().as_deref());
        let machines = Mutex::new(Vec::new());
        let toolbox = Toolbox::open()?;
        Ok(Lab { toolbox, folder, sockets, accelerator, lasting, passed: false, machines, hold: None })
    }

    /// Describes a VM of this lab.
    pub fn machine(&self, name: &str) -> MachineBuilder<'_> {
        MachineBuilder::new(self, name, self.accelerator)
    }

    /// A cable between two VMs: one end for each.
    pub fn link(&self, name: &str) -> (LinkEnd, LinkEnd) {
        let socket = self.sockets.path().join(format!("link-{name}"));
        (LinkEnd { socket: socket.clone(), listens: true }, LinkEnd { socket, listens: false })
    }

    /// Declares success: VMs are ended and the folder is deleted, unless it is to be kept.
    pub fn passed(mut self) -> Result<()> {
        self.passed = true;
        for machine in self.machines().drain(..) {
            machine.kill()?;
        }
        if !self.lasting && !is_to_keep() {
            let folder = self.folder.display();
            fs::remove_dir_all(&self.folder).with_context(|| format!("cannot delete {folder}"))?;
        }
        Ok(())
    }

    /// Where logs and disks of this run are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The programs of the tools tree.
    pub fn toolbox(&self) -> &Toolbox {
        &self.toolbox
    }

    pub(crate) fn sockets(&self) -> &Path {
        self.sockets.path()
    }

    pub(crate) fn machines(&self) -> MutexGuard<'_, Vec<Machine>> {
        self.machines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn save_evidence(&self, machine: &Machine) {
        for problem in machine.save_evidence() {
            eprintln!("lab: VM {}: {problem:#}", machine.name());
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let machines: Vec<Machine> = self.machines().drain(..).collect();
        let failed = !self.passed && !self.lasting;
        for machine in &machines {
            if failed {
                self.save_evidence(machine);
            }
            if let Err(problem) = machine.kill() {
                eprintln!("lab: {problem:#}");
            }
        }
        if failed {
            eprintln!("lab: failed; consoles, journals and logs are kept in {}", self.folder.display());
        }
    }
}

fn is_to_keep() -> bool {
    std::env::var(KEEP_SETTING).as_deref() == Ok("1")
}

/// Cargo's target folder: the one set, or the workspace's own.
fn target_folder() -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => workspace.join(folder),
        None => workspace.join("target"),
    }
}
