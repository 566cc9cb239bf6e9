//! Stand-ins for outside programs that fail as told, as programs do on a machine that is sick.
//!
//! The program `fault` is put in the place of each, by its name; it asks what to do by a socket beside itself, and otherwise
//! becomes the real one. A cluster's programs run in a namespace without a shell and with an empty environment, so a
//! script would not do.

use anyhow::{Context, Result};
use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// By which they ask, beside them.
const SOCKET: &str = "faults";

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

/// What one program does.
#[derive(Debug)]
struct Told {
    fault: Fault,
    /// It fails only where one of its arguments contains this.
    argument: Vec<u8>,
    /// How often it still fails; `None`: always.
    times: Option<u32>,
    /// It works again.
    is_over: bool,
    /// How often it has begun to fail.
    failed: u32,
}

/// By the program's name.
type AllTold = Arc<Mutex<HashMap<String, Told>>>;

/// The stand-ins of one server. They ask by a socket: where most of them run, nothing can be written.
#[derive(Debug)]
pub struct Faults {
    folder: PathBuf,
    told: AllTold,
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
        let socket = folder.join(SOCKET);
        let listener = UnixListener::bind(&socket).context("cannot listen for the stand-ins")?;
        // Under any user.
        fs::set_permissions(&socket, fs::Permissions::from_mode(0o666))?;
        let told = AllTold::default();
        let answers = Arc::clone(&told);
        std::thread::spawn(move || {
            for asked in listener.incoming().flatten() {
                // Whoever asks ends early where it is killed.
                if let Err(error) = answer(asked, &answers) {
                    eprintln!("a stand-in was not answered: {error:#}");
                }
            }
        });
        Ok(Self { folder: folder.to_path_buf(), told })
    }

    /// Where they are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Has `program` fail so many times (`None`: always) when one of its arguments contains `argument`.
    pub fn set(&self, program: &str, fault: Fault, argument: &str, times: Option<u32>) -> Result<()> {
        let told = Told { fault, argument: argument.into(), times, is_over: false, failed: 0 };
        lock(&self.told).insert(program.to_owned(), told);
        Ok(())
    }

    /// How many times `program` will still fail; `None`: always.
    pub fn left(&self, program: &str) -> Result<Option<u32>> {
        Ok(lock(&self.told).get(program).with_context(|| format!("{program} was told nothing"))?.times)
    }

    /// How often `program` has begun to fail since it was told to.
    pub fn failed(&self, program: &str) -> Result<u32> {
        Ok(lock(&self.told).get(program).with_context(|| format!("{program} was told nothing"))?.failed)
    }

    /// Has `program` work again.
    pub fn clear(&self, program: &str) -> Result<()> {
        if let Some(told) = lock(&self.told).get_mut(program) {
            told.is_over = true;
        }
        Ok(())
    }
}

fn lock(told: &AllTold) -> MutexGuard<'_, HashMap<String, Told>> {
    told.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Answers one stand-in, which has sent its name and its arguments, with a NUL after each.
fn answer(mut asked: UnixStream, told: &AllTold) -> Result<()> {
    let mut text = Vec::new();
    asked.read_to_end(&mut text)?;
    let mut words = text.split(|byte| *byte == 0);
    let name = String::from_utf8_lossy(words.next().unwrap_or_default()).into_owned();
    let fault = lock(told).get_mut(&name).and_then(|told| told.next(words));
    asked.write_all(fault.map_or("", Fault::name).as_bytes())?;
    Ok(())
}

impl Told {
    /// How the program fails this time, if at all.
    fn next<'a>(&mut self, mut arguments: impl Iterator<Item = &'a [u8]>) -> Option<Fault> {
        let fits = |given: &[u8]| given.windows(self.argument.len()).any(|part| part == self.argument);
        if self.is_over || !self.argument.is_empty() && !arguments.any(fits) {
            return None;
        }
        if let Some(left) = self.times {
            self.times = Some(left.checked_sub(1)?);
        }
        self.failed += 1;
        Some(self.fault)
    }
}

/// Asks how the program at `own` with these arguments is to fail, if at all.
///
/// # Errors
/// Nobody answers.
pub fn ask(own: &Path, arguments: &[OsString]) -> Result<Option<Fault>> {
    let folder = own.parent().context("a program has a folder")?;
    let mut asking = UnixStream::connect(folder.join(SOCKET)).context("nobody tells the stand-ins")?;
    for word in own.file_name().into_iter().chain(arguments.iter().map(OsString::as_os_str)) {
        asking.write_all(word.as_bytes())?;
        asking.write_all(&[0])?;
    }
    asking.shutdown(Shutdown::Write)?;
    let mut name = String::new();
    asking.read_to_string(&mut name)?;
    Ok(Fault::ALL.into_iter().find(|fault| fault.name() == name))
}
