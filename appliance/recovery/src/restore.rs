//! A restore from its beginning to its end, in steps of which each can be cut and done again.
//!
//! Everything is made beside the live data, in `<data directory>.restore`, where a journal says how far it is. Until the
//! exchange nothing of the machine is touched; after it the old data lies there, until somebody confirms. What does not
//! start is taken back, so that a failure leaves the machine as it was.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use api::Manifest;
use files::Document;
use serde::{Deserialize, Serialize};

use crate::configuration::{AUTO_CONF, IN_DATA};
use crate::start::{Programs, Unpacked};
use crate::swap::{Place, Swap};
use crate::unpack::{Destination, unpack};
use crate::{Failure, configuration};

/// Version of the journal's form.
const FORMAT: u32 = 1;

/// The monitor's PostgreSQL and what depends on it.
pub trait Service {
    /// Stops the application, then PostgreSQL; either may be stopped already.
    fn stop(&self) -> Result<()>;
    /// Starts PostgreSQL and waits until it takes writes.
    fn start(&self) -> Result<()>;
    /// Starts the application.
    fn start_application(&self) -> Result<()>;
}

/// The monitor's machine.
pub struct Host<'a> {
    /// The live data directory.
    pub data: PathBuf,
    /// PostgreSQL's configuration folder, such as `/etc/postgresql/17/main`; `None`: it is the data directory.
    pub configuration: Option<PathBuf>,
    /// PostgreSQL's programs.
    pub programs: Programs,
    /// A short path for the recovery's configuration and socket, see [`Unpacked::run`].
    pub run: PathBuf,
    /// Starting and stopping.
    pub service: &'a dyn Service,
}

/// How far a restore is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// Up to this byte of the tar all is unpacked.
    Unpacking(u64),
    /// All is unpacked.
    Unpacked,
    /// It is a database of its own, beside the live one.
    Ready,
    /// The exchange has begun.
    Swapping,
    /// It is live; the old data waits for its confirmation.
    Live,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Journal {
    manifest: Manifest,
    stage: Stage,
}

/// A restore of one backup on one machine.
pub struct Restore<'a> {
    host: &'a Host<'a>,
    journal: Journal,
    document: Document<Journal>,
}

impl Host<'_> {
    /// Where everything is made.
    pub fn work(&self) -> PathBuf {
        beside(&self.data, ".restore")
    }

    /// What it is called while it is removed: half removed, it must never be taken for a restore that goes on.
    fn removed(&self) -> PathBuf {
        beside(&self.data, ".restore-removed")
    }

    /// Bytes of what a restore has made so far.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn made_bytes(&self) -> Result<u64> {
        let work = self.work();
        let mut bytes = files::bytes_below(&work.join("pgdata"), None)?;
        if let Some(journal) = self.document().load()?.value {
            bytes += files::bytes_below(&self.tablespaces(&journal.manifest.backup.id), None)?;
        }
        Ok(bytes)
    }

    fn remove_work(&self) -> Result<()> {
        remove(&self.removed())?;
        files::rename(&self.work(), &self.removed())?;
        remove(&self.removed())
    }

    fn document(&self) -> Document<Journal> {
        Document::new(self.work().join("journal.json"), FORMAT, 0o600)
    }

    fn tablespaces(&self, id: &str) -> PathBuf {
        beside(&self.data, &format!(".tablespaces-{id}"))
    }
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

impl<'a> Restore<'a> {
    /// The restore that is under way on this machine, if there is one.
    ///
    /// # Errors
    /// Its journal cannot be read.
    pub fn under_way(host: &'a Host<'a>) -> Result<Option<Self>> {
        let document = host.document();
        let loaded = document.load()?;
        if let (None, Some(problem)) = (&loaded.value, loaded.problem) {
            bail!(
                "{problem}; what is in {} cannot be told: look at it, and remove it",
                host.work().display()
            );
        }
        let journal = loaded.value;
        Ok(journal.map(|journal| Self { host, journal, document }))
    }

    /// Begins the restore of a backup, or goes on with it. One of another backup that has not come to the exchange is
    /// given up.
    ///
    /// # Errors
    /// Another one has taken the live data's place and was not confirmed yet.
    pub fn begin(host: &'a Host<'a>, manifest: &Manifest) -> Result<Self> {
        if let Some(other) = Self::under_way(host)? {
            let id = &other.journal.manifest.backup.id;
            if *id == manifest.backup.id {
                return Ok(other);
            }
            if matches!(other.journal.stage, Stage::Swapping | Stage::Live) {
                bail!(
                    "backup {id} was restored here and the data before it is still kept in {}; confirm that first",
                    host.work().display()
                );
            }
            other.give_up()?;
        }
        remove(&host.removed())?;
        let work = host.work();
        fs::create_dir_all(&work).with_context(|| format!("cannot make {}", work.display()))?;
        let mut there = fs::read_dir(&work).with_context(|| format!("cannot read {}", work.display()))?;
        if there.next().is_some() {
            bail!(
                "{} is not of a restore: look at it, and remove it or give it another name",
                work.display()
            );
        }
        let journal = Journal { manifest: manifest.clone(), stage: Stage::Unpacking(0) };
        let mut restore = Self { host, journal, document: host.document() };
        restore.set(Stage::Unpacking(0))?;
        Ok(restore)
    }

    /// How far it is.
    pub fn stage(&self) -> Stage {
        self.journal.stage
    }

    /// Of which backup it is.
    pub fn manifest(&self) -> &Manifest {
        &self.journal.manifest
    }

    fn set(&mut self, stage: Stage) -> Result<()> {
        self.journal.stage = stage;
        self.document.save(&self.journal)
    }

    fn id(&self) -> &str {
        &self.journal.manifest.backup.id
    }

    /// Unpacks what is missing; `open` gives the tar from a byte on.
    ///
    /// # Errors
    /// As [`unpack`].
    pub fn unpack<R: Read>(&mut self, open: impl FnOnce(u64) -> R) -> Result<(), Failure> {
        let Stage::Unpacking(from) = self.stage() else { return Ok(()) };
        let work = self.host.work();
        let destination = Destination {
            pgdata: work.join("pgdata"),
            tablespaces: self.host.tablespaces(self.id()),
            owner: self.host.programs.owner,
        };
        let name = format!("{}.tar", self.id());
        unpack(&name, open(from), from, &destination, |reached| self.set(Stage::Unpacking(reached)))?;
        self.set(Stage::Unpacked)?;
        Ok(())
    }

    /// Has PostgreSQL recover it. Returns what should be known, as sentences.
    ///
    /// # Errors
    /// As [`Unpacked::recover`].
    pub fn recover(
        &mut self,
        replayed: impl FnMut(replica::Lsn, replica::Lsn),
    ) -> Result<Vec<String>, Failure> {
        if self.stage() != Stage::Unpacked {
            return Ok(Vec::new());
        }
        let work = self.host.work();
        let unpacked = Unpacked {
            programs: &self.host.programs,
            folder: &work,
            run: &self.host.run,
            backup: &self.journal.manifest.backup,
        };
        let notes = unpacked.recover(replayed)?;
        self.put_back()?;
        self.data().mark()?;
        self.set(Stage::Ready)?;
        Ok(notes)
    }

    /// Gives the restored data directory the monitor's files: the backup server's copy is without them.
    fn put_back(&self) -> Result<()> {
        let data = self.host.work().join("pgdata");
        for name in IN_DATA {
            if let Some(text) =
                configuration::in_data(&self.journal.manifest.configuration, &self.host.data, name)
            {
                let path = data.join(name);
                files::write(&path, text.as_bytes(), 0o600, Some(self.host.programs.owner))?;
            }
        }
        Ok(())
    }

    fn data(&self) -> Swap {
        let (live, beside) = (self.host.data.clone(), self.host.work().join("pgdata"));
        Swap { live, beside, id: self.id().to_owned(), owner: self.host.programs.owner }
    }

    /// The exchange of the configuration. The folder beside must be on the same file system, and not where the distribution
    /// looks for clusters: `/etc/postgresql/.17-main.restore`.
    fn configuration(&self) -> Option<Swap> {
        let live = self.host.configuration.clone()?;
        let version = live.parent()?;
        let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
        let hidden = format!(".{}-{}.restore", name(version)?, name(&live)?);
        let beside = version.parent()?.join(hidden);
        Some(Swap { beside, live, id: self.id().to_owned(), owner: self.host.programs.owner })
    }

    /// Takes the place of what is live and starts it: with the monitor's configuration, or, if it does not start with that,
    /// with the one that is here. Returns what should be known.
    ///
    /// # Errors
    /// It starts with neither: then all is as it was, and runs.
    pub fn bring_in(&mut self) -> Result<Vec<String>, Failure> {
        if !matches!(self.stage(), Stage::Ready | Stage::Swapping) {
            return Ok(Vec::new());
        }
        self.set(Stage::Swapping)?;
        self.host.service.stop()?;
        self.data().bring_in()?;
        let (taken, left) = match &self.host.configuration {
            Some(folder) => {
                configuration::sort(&self.journal.manifest.configuration, folder, &self.host.data)
            }
            None => Default::default(),
        };
        let mut notes = Vec::new();
        if !left.is_empty() {
            let left = left.join(", ");
            notes.push(format!(
                "Configuration files of the monitor that have no place here are not taken over: {left}."
            ));
        }
        let configuration = self.configuration().filter(|_| !taken.is_empty());
        if let Some(swap) = &configuration
            && !matches!(swap.place(), Ok(Place::Live))
        {
            configuration::make(&swap.live, &swap.beside, &taken)?;
            swap.mark()?;
            swap.bring_in()?;
        }
        if let Err(first) = self.host.service.start() {
            if let Err(second) = self.start_with_own_configuration(configuration.as_ref()) {
                self.host.service.stop()?;
                self.data().bring_back()?;
                self.host
                    .service
                    .start()
                    .context("what was restored does not start, nor what was there before")?;
                self.host.service.start_application()?;
                self.set(Stage::Ready)?;
                return Err(Failure::Here(
                    second
                        .context("what was restored does not start; what was there before is back and runs"),
                ));
            }
            notes.push(format!(
                "It does not start with the monitor's configuration ({first:#}); it runs with this machine's."
            ));
        }
        self.set(Stage::Live)?;
        if let Err(error) = self.host.service.start_application() {
            notes.push(format!("The monitor's application does not start: {error:#}."));
        }
        Ok(notes)
    }

    fn start_with_own_configuration(&self, configuration: Option<&Swap>) -> Result<()> {
        self.host.service.stop()?;
        if let Some(swap) = configuration {
            swap.bring_back()?;
        }
        // Settings made by ALTER SYSTEM.
        files::write(&self.host.data.join(AUTO_CONF), b"", 0o600, Some(self.host.programs.owner))?;
        self.host.service.start()
    }

    /// Removes what was there before the restore: whoever restored is content.
    ///
    /// # Errors
    /// It is not live yet; those of the file system.
    pub fn confirm(self) -> Result<()> {
        if self.stage() != Stage::Live {
            bail!("backup {} is not restored yet; what is here is the live data", self.id());
        }
        if let Some(swap) = self.configuration() {
            remove(&swap.beside)?;
            files::remove(&swap.live.join(crate::swap::MARK))?;
        }
        files::remove(&self.host.data.join(crate::swap::MARK))?;
        self.host.remove_work()
    }

    /// Removes all that was made, and leaves the machine as it was.
    ///
    /// # Errors
    /// It has come to the exchange; those of the file system.
    pub fn give_up(self) -> Result<()> {
        if matches!(self.stage(), Stage::Swapping | Stage::Live) {
            bail!("backup {} has taken the live data's place; go on with it", self.id());
        }
        remove(&self.host.tablespaces(self.id()))?;
        self.host.remove_work()
    }
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}
