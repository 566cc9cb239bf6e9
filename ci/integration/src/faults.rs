//! Stand-ins for outside programs that fail as told, as programs do on a machine that is sick.
//!
//! The program `fault` is put in the place of each, by its name; it reads what to do from a file beside itself, and otherwise
//! becomes the real one. A cluster's programs run in a namespace without a shell and with an empty environment, so a
//! script would not do.

use anyhow::{Context, Result};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Programs of PostgreSQL that `hostd` runs.
const POSTGRESQL: [&str; 8] = [
    "postgres",
    "psql",
    "pg_amcheck",
    "pg_basebackup",
    "pg_checksums",
    "pg_controldata",
    "pg_ctl",
    "pg_verifybackup",
];
/// Where they are in the tools tree.
const POSTGRESQL_FOLDER: &str = "/usr/lib/postgresql/17/bin";

/// How a program fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Killed by SIGKILL, as by the kernel when memory runs out.
    Kill,
    /// Does what it should, and is killed then: its end is not known.
    KillAfter,
    /// `No space left on device`, exit status 1.
    NoSpace,
    /// `Cannot allocate memory`, exit status 1.
    NoMemory,
    /// `Input/output error`, exit status 1.
    InputOutput,
    /// Never ends.
    Hang,
}

impl Fault {
    /// Every one.
    pub const ALL: [Self; 6] =
        [Self::Kill, Self::KillAfter, Self::NoSpace, Self::NoMemory, Self::InputOutput, Self::Hang];

    /// Its name in the file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::KillAfter => "kill-after",
            Self::NoSpace => "no-space",
            Self::NoMemory => "no-memory",
            Self::InputOutput => "input-output",
            Self::Hang => "hang",
        }
    }
}

/// The stand-ins of one server.
#[derive(Debug)]
pub struct Faults {
    folder: PathBuf,
}

impl Faults {
    /// Puts them into `folder`, which is made.
    pub fn install(folder: &Path) -> Result<Self> {
        let stand_in = crate::program("fault")?;
        fs::create_dir(folder)?;
        let real = POSTGRESQL.map(|name| (name, format!("{POSTGRESQL_FOLDER}/{name}")));
        // Behind `nice` are steps of our own: `hostd digest`, `hostd disarm`.
        let others = ["btrfs", "nice"].map(|name| (name, format!("/usr/bin/{name}")));
        for (name, real) in real.into_iter().chain(others) {
            fs::copy(&stand_in, folder.join(name)).context("cannot put a stand-in into its place")?;
            fs::write(folder.join(format!("{name}.real")), real)?;
        }
        Ok(Self { folder: folder.to_path_buf() })
    }

    /// Where they are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Has `program` fail so many times (`None`: always) when one of its arguments contains `argument`.
    pub fn set(&self, program: &str, fault: Fault, argument: &str, times: Option<u32>) -> Result<()> {
        let times = times.map_or_else(|| "always".to_owned(), |times| times.to_string());
        // Written by whoever runs the program, under any user.
        let count = self.folder.join(format!("{program}.count"));
        fs::write(&count, times)?;
        fs::set_permissions(&count, fs::Permissions::from_mode(0o666))?;
        let text = format!("{}\n{argument}", fault.name());
        let (file, new) = (self.folder.join(format!("{program}.fault")), self.folder.join("new"));
        fs::write(&new, text)?;
        fs::rename(new, file).context("cannot set a fault")
    }

    /// How many times `program` will still fail; `None`: always.
    pub fn left(&self, program: &str) -> Result<Option<u32>> {
        let text = fs::read_to_string(self.folder.join(format!("{program}.count")))?;
        Ok(text.trim().parse().ok())
    }

    /// Has `program` work again.
    pub fn clear(&self, program: &str) -> Result<()> {
        match fs::remove_file(self.folder.join(format!("{program}.fault"))) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }
}
