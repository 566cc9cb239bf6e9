//! A restore from its beginning to its end, in steps of which each can be cut and done again.
//!
//! Everything is made beside the live data, in `<data directory>.restore`, where a journal says how far it is. Until the
//! exchange nothing of the machine is touched; after it the old data lies there, until somebody confirms. What does not
//! start is taken back, so that a failure leaves the machine as it was; so does who abandons it.
//!
//! Tablespaces stay where they were unpacked, so each attempt has a folder of its own for them,
//! `<data directory>.tablespaces-<id>-<attempt>`: a backup may be restored where it was restored before.

use std::collections::BTreeSet;
use std::fs;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use api::{Backup, Manifest};
use backups::BackupId;
use files::Document;
use serde::{Deserialize, Serialize};

use crate::aside::{self, own_text};
use crate::configuration::{AUTO_CONF, Chosen, Here};
use crate::start::{Programs, Unpacked};
use crate::swap::{Place, Swap};
use crate::unpack::{Destination, unpack};
use crate::{Failure, configuration};

/// Version of the journal's form.
const FORMAT: u32 = 1;
const JOURNAL: &str = "journal.json";

/// The monitor's PostgreSQL and what depends on it.
pub trait Service {
    /// Whether PostgreSQL runs.
    fn runs(&self) -> Result<bool>;
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
    /// A folder of root's for what is kept aside of the configuration, by backup.
    pub kept: PathBuf,
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
    /// Somebody wants back what was there before.
    GoingBack,
    /// Somebody is content, and the old data is being removed.
    Confirming,
}

impl Stage {
    /// Whether the exchange has begun: what lies beside is, or may be, what was live before.
    pub fn is_exchanged(self) -> bool {
        matches!(self, Self::Swapping | Self::Live | Self::GoingBack | Self::Confirming)
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Journal {
    manifest: Manifest,
    stage: Stage,
    /// Number of the folder for the tablespaces.
    attempt: u32,
    /// PostgreSQL ran when it came to the exchange: it runs again when that is taken back.
    ran: bool,
    /// All of the monitor's configuration is applied, also what would run something.
    #[serde(default)]
    configuration_is_accepted: bool,
}

/// A restore of one backup on one machine.
pub struct Restore<'a> {
    host: &'a Host<'a>,
    id: BackupId,
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

    /// Bytes of what a restore has made beside the live data so far, and of what is half removed.
    ///
    /// # Errors
    /// Those of the file system; the journal cannot be read.
    pub fn made_bytes(&self) -> Result<u64> {
        let removed = files::bytes_below(&self.removed(), None)?;
        let Some(restore) = Restore::under_way(self)? else { return Ok(removed) };
        if restore.stage().is_exchanged() {
            return Ok(removed);
        }
        let made = files::bytes_below(&self.work().join("pgdata"), None)?;
        Ok(removed + made + files::bytes_below(&restore.tablespaces(), None)?)
    }

    /// Goes on with a removal that was cut; `None`: there is none. Returns what is left and should be known, as sentences.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn finish_removal(&self) -> Result<Option<Vec<String>>> {
        let removed = self.removed();
        if removed.symlink_metadata().is_err() {
            return Ok(None);
        }
        let mut notes = Vec::new();
        // As long as the journal is there, it says what else belongs to it. What is wrong with it is that it was removed.
        if let Some(journal) = self.journal(&removed).load()?.value {
            match journal.stage {
                Stage::Live | Stage::Confirming => {
                    notes = self.remove_old_tablespaces(&removed.join("pgdata"))?
                }
                _ => files::remove_folder(&self.tablespaces(id_of(&journal.manifest)?, journal.attempt))?,
            }
        }
        files::remove_folder(&removed)?;
        Ok(Some(notes))
    }

    /// Whether a removal was cut.
    pub fn is_removing(&self) -> bool {
        self.removed().symlink_metadata().is_ok()
    }

    /// Removes the tablespaces of a data directory that a restore has made, unless the live one uses them.
    fn remove_old_tablespaces(&self, old: &Path) -> Result<Vec<String>> {
        let live = tablespaces_of(&self.data)?;
        let mut notes = Vec::new();
        for tablespace in tablespaces_of(old)?.difference(&live) {
            let folder =
                tablespace.parent().filter(|folder| self.is_of_a_restore(folder) && is_oid(tablespace));
            let Some(folder) = folder else {
                notes.push(format!(
                    "Tablespace {} of the old database is left as it is: remove it when nothing else uses it.",
                    tablespace.display()
                ));
                continue;
            };
            files::remove_folder(tablespace)?;
            // Gone with its last tablespace.
            match fs::remove_dir(folder) {
                Err(error) if !matches!(error.kind(), ErrorKind::DirectoryNotEmpty | ErrorKind::NotFound) => {
                    return Err(error).with_context(|| format!("cannot remove {}", folder.display()));
                }
                _ => {}
            }
        }
        Ok(notes)
    }

    fn remove_work(&self) -> Result<Vec<String>> {
        self.finish_removal()?;
        files::rename(&self.work(), &self.removed())?;
        Ok(self.finish_removal()?.unwrap_or_default())
    }

    /// What becomes of a monitor's configuration here: without what would run something, unless that is `accepted`.
    ///
    /// # Errors
    /// It cannot be told which libraries are installed.
    pub fn choose(&self, manifest: &Manifest, accepted: bool) -> Result<Chosen> {
        let libraries = self.programs.libraries()?;
        let here = Here {
            folder: self.configuration.as_deref(),
            data: &self.data,
            own: &own_text,
            libraries: &libraries,
        };
        configuration::choose(&manifest.configuration, &here, accepted)
    }

    fn journal(&self, folder: &Path) -> Document<Journal> {
        Document::new(folder.join(JOURNAL), FORMAT, 0o600)
    }

    fn tablespaces(&self, id: BackupId, attempt: u32) -> PathBuf {
        beside(&self.data, &format!("{TABLESPACES}{}-{attempt}", id.as_str()))
    }

    /// Whether a folder is one of [`Self::tablespaces`]: by its name, and no link. The names come from the old database, which
    /// may be hostile, and root removes.
    fn is_of_a_restore(&self, folder: &Path) -> bool {
        let begins = beside(&self.data, TABLESPACES);
        let text = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
        folder.parent() == begins.parent()
            && folder.symlink_metadata().is_ok_and(|found| found.is_dir())
            && text(folder).zip(text(&begins)).is_some_and(|(name, begin)| name.starts_with(&begin))
    }
}

/// What the folders of restored tablespaces have after the data directory's name.
const TABLESPACES: &str = ".tablespaces-";

/// Whether the last part of a path is what tablespaces are called.
fn is_oid(tablespace: &Path) -> bool {
    tablespace.file_name().is_some_and(|name| name.as_encoded_bytes().iter().all(u8::is_ascii_digit))
}

/// Where a data directory's tablespaces are.
fn tablespaces_of(data: &Path) -> Result<BTreeSet<PathBuf>> {
    let folder = data.join("pg_tblspc");
    let cannot = || format!("cannot read {}", folder.display());
    let entries = match fs::read_dir(&folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(BTreeSet::new()),
        entries => entries.with_context(cannot)?,
    };
    let mut found = BTreeSet::new();
    for entry in entries {
        let path = entry.with_context(cannot)?.path();
        if path.is_symlink() {
            found.insert(fs::read_link(&path).with_context(cannot)?);
        }
    }
    Ok(found)
}

/// A backup's id as one: it becomes part of paths.
fn id_of(manifest: &Manifest) -> Result<BackupId> {
    Ok(manifest.backup.id.parse()?)
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
        let document = host.journal(&host.work());
        let loaded = document.load()?;
        if let (None, Some(problem)) = (&loaded.value, loaded.problem) {
            bail!(
                "{problem}; what is in {} cannot be told: look at it, and remove it",
                host.work().display()
            );
        }
        let Some(journal) = loaded.value else { return Ok(None) };
        let id = id_of(&journal.manifest)?;
        Ok(Some(Self { host, id, journal, document }))
    }

    /// Begins the restore of a backup, or goes on with it. One of another backup that has not come to the exchange is
    /// abandoned.
    ///
    /// # Errors
    /// Another one has taken the live data's place and was not confirmed yet.
    pub fn begin(host: &'a Host<'a>, manifest: &Manifest) -> Result<Self> {
        if let Some(other) = Self::under_way(host)? {
            if other.is_of(&manifest.backup) {
                return Ok(other);
            }
            if other.stage().is_exchanged() {
                bail!(
                    "backup {} was restored here and the data before it is still kept in {}; confirm that first",
                    other.journal.manifest.backup.id,
                    host.work().display()
                );
            }
            other.abandon(Written::Kept)?;
        }
        host.finish_removal()?;
        let work = host.work();
        if work.symlink_metadata().is_ok() {
            bail!(
                "{} is not of a restore: look at it, and remove it or give it another name",
                work.display()
            );
        }
        let id = id_of(manifest)?;
        let is_free = |attempt: &u32| host.tablespaces(id.clone(), *attempt).symlink_metadata().is_err();
        let attempt = (1..).find(is_free).context("there is no free name for the tablespaces")?;
        let journal = Journal {
            manifest: manifest.clone(),
            stage: Stage::Unpacking(0),
            attempt,
            ran: false,
            configuration_is_accepted: false,
        };
        // Under the name of what is removed until its journal is there: a cut leaves nothing that could not be told.
        let made = host.removed();
        // PostgreSQL's user comes through, and cannot say what root removes in it; that it is still ours, and not a folder
        // that has got its name since, is looked at by each step.
        files::folder(&made, 0o750, (rustix::process::geteuid().as_raw(), host.programs.owner.1))?;
        host.journal(&made).save(&journal)?;
        files::rename(&made, &work)?;
        Ok(Self { host, id, journal, document: host.journal(&work) })
    }

    /// How far it is.
    pub fn stage(&self) -> Stage {
        self.journal.stage
    }

    /// Of which backup it is.
    pub fn manifest(&self) -> &Manifest {
        &self.journal.manifest
    }

    /// Whether it is of this backup: two monitors' may have the same id.
    pub fn is_of(&self, backup: &Backup) -> bool {
        self.manifest().backup.full_name() == backup.full_name()
    }

    fn set(&mut self, stage: Stage) -> Result<()> {
        self.journal.stage = stage;
        self.document.save(&self.journal)
    }

    fn tablespaces(&self) -> PathBuf {
        self.host.tablespaces(self.id.clone(), self.journal.attempt)
    }

    /// Unpacks what is missing; `open` gives the tar from a byte on.
    ///
    /// # Errors
    /// As [`unpack`].
    pub fn unpack<R: Read>(&mut self, open: impl FnOnce(u64) -> R) -> Result<(), Failure> {
        let Stage::Unpacking(from) = self.stage() else { return Ok(()) };
        self.check_work()?;
        let work = self.host.work();
        let destination = Destination {
            pgdata: work.join("pgdata"),
            tablespaces: self.tablespaces(),
            owner: self.host.programs.owner,
        };
        let name = format!("{}.tar", self.manifest().backup.full_name());
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
        self.check_work()?;
        let notes = self.unpacked(&self.host.work()).recover(replayed)?;
        self.data().mark()?;
        self.set(Stage::Ready)?;
        Ok(notes)
    }

    fn unpacked<'b>(&'b self, work: &'b Path) -> Unpacked<'b> {
        Unpacked {
            programs: &self.host.programs,
            folder: work,
            run: &self.host.run,
            backup: &self.journal.manifest.backup,
        }
    }

    /// The folder around it may be PostgreSQL's, whose user could have put another one in its place.
    fn check_work(&self) -> Result<()> {
        let work = self.host.work();
        let found =
            fs::symlink_metadata(&work).with_context(|| format!("cannot look at {}", work.display()))?;
        if !found.is_dir() || found.uid() != rustix::process::geteuid().as_raw() {
            bail!(
                "{} is not the folder that was made for the restore: somebody has put another one in its place; look at it, \
                 and remove it",
                work.display()
            );
        }
        Ok(())
    }

    /// Gives the restored data directory the monitor's files: the backup server's copy is without them.
    fn put_back(&self, chosen: &Chosen) -> Result<()> {
        let data = self.host.work().join("pgdata");
        for (name, text) in &chosen.in_data {
            files::write(&data.join(name), text.as_bytes(), 0o600, Some(self.host.programs.owner))?;
        }
        Ok(())
    }

    /// All of the monitor's configuration is applied, also what would run something: somebody has looked at it.
    ///
    /// # Errors
    /// The journal cannot be written.
    pub fn accept_configuration(&mut self) -> Result<()> {
        self.journal.configuration_is_accepted = true;
        self.document.save(&self.journal)
    }

    fn data(&self) -> Swap {
        let (live, beside) = (self.host.data.clone(), self.host.work().join("pgdata"));
        Swap { live, beside, name: self.manifest().backup.full_name(), owner: self.host.programs.owner }
    }

    /// The exchange of the configuration. The folder beside must be on the same file system, and not where the distribution
    /// looks for clusters: `/etc/postgresql/.17-main.restore`.
    fn configuration(&self) -> Option<Swap> {
        let live = self.host.configuration.clone()?;
        let version = live.parent()?;
        let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
        let hidden = format!(".{}-{}.restore", name(version)?, name(&live)?);
        let beside = version.parent()?.join(hidden);
        let name = self.manifest().backup.full_name();
        Some(Swap { beside, live, name, owner: self.host.programs.owner })
    }

    /// Takes the place of what is live and starts it: with the monitor's configuration, or, if it does not start with that,
    /// with the one that is here. Returns what should be known.
    ///
    /// # Errors
    /// It starts with neither: then all is as it was.
    pub fn bring_in(&mut self) -> Result<Vec<String>, Failure> {
        self.bring_in_with(&|| Ok(()))
    }

    /// The same; `settle` changes settings of PostgreSQL, which may restart it, before the application is started. Where that
    /// fails, it is said, and the application is started nevertheless.
    ///
    /// # Errors
    /// As [`Self::bring_in`].
    pub fn bring_in_with(&mut self, settle: &dyn Fn() -> Result<()>) -> Result<Vec<String>, Failure> {
        let mut notes = match self.stage() {
            Stage::Ready => self.make_ready()?,
            Stage::Swapping => Vec::new(),
            Stage::GoingBack => {
                self.take_back()?;
                return Err(anyhow!(
                    "what was there before was being brought back, and is back now; `monitor-link restore abandon` removes \
                     what was restored, `monitor-link restore continue` takes it again"
                )
                .into());
            }
            _ => return Ok(Vec::new()),
        };
        let Err(error) = self.take_place(settle, &mut notes) else { return Ok(notes) };
        Err(match self.take_back() {
            Ok(true) => error.context("what was restored is not live; what was there before is back and runs"),
            Ok(false) => error.context("what was restored is not live; what was there before is back, and stopped as it was"),
            Err(second) => anyhow!(
                "what was restored is not live ({error:#}), and what was there before does not run either ({second:#}); \
                 `monitor-link restore continue` tries again, `monitor-link restore abandon` goes back"
            ),
        }
        .into())
    }

    /// The last things that can be done while the old database serves. Returns what should be known.
    fn make_ready(&mut self) -> Result<Vec<String>> {
        self.check_work()?;
        let chosen = self.host.choose(self.manifest(), self.journal.configuration_is_accepted)?;
        self.put_back(&chosen)?;
        let mut notes = aside::keep(&self.host.kept.join(self.id.as_str()), self.manifest(), &chosen)?;
        if !chosen.left.is_empty() {
            let left = chosen.left.join(", ");
            notes.push(format!(
                "Configuration files of the monitor that have no place here are not taken over: {left}."
            ));
        }
        if let Some(swap) = self.configuration() {
            if chosen.files.is_empty() {
                files::remove_folder(&swap.beside)?;
            } else {
                configuration::make(&swap.live, &swap.beside, &chosen.files)?;
                swap.mark()?;
            }
        }
        self.journal.ran = self.host.service.runs()?;
        self.set(Stage::Swapping)?;
        Ok(notes)
    }

    /// The exchange of the configuration, if some was made ready.
    fn ready_configuration(&self) -> Result<Option<Swap>> {
        let Some(swap) = self.configuration() else { return Ok(None) };
        Ok(swap.place()?.map(|_| swap))
    }

    fn take_place(&mut self, settle: &dyn Fn() -> Result<()>, notes: &mut Vec<String>) -> Result<()> {
        let service = self.host.service;
        service.stop()?;
        self.data().bring_in()?;
        let configuration = self.ready_configuration()?;
        if let Some(swap) = &configuration {
            swap.bring_in()?;
        }
        if let Err(first) = service.start() {
            if let Err(second) = self.start_with_own_configuration(configuration.as_ref()) {
                bail!(
                    "it starts neither with the monitor's configuration ({first:#}) nor with this machine's ({second:#})"
                );
            }
            notes.push(format!(
                "It does not start with the monitor's configuration ({first:#}); it runs with this machine's."
            ));
        }
        if let Err(error) = settle() {
            notes.push(format!("The settings for the backup server are not complete: {error:#}."));
            service.start()?;
        }
        if let Err(error) = service.start_application() {
            notes.push(format!("The monitor's application does not start: {error:#}."));
        }
        self.set(Stage::Live)
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

    /// Brings back what was there before, and starts it if it ran. Returns whether it runs.
    fn take_back(&mut self) -> Result<bool> {
        let service = self.host.service;
        let mut is_live = false;
        let swaps = [Some(self.data()), self.ready_configuration()?];
        for swap in swaps.iter().flatten() {
            is_live |= swap.place_of_ready()? == Place::Live;
        }
        if is_live {
            service.stop()?;
            for swap in swaps.iter().flatten() {
                swap.bring_back()?;
            }
        }
        self.set(Stage::Ready)?;
        if self.journal.ran {
            service.start()?;
            service.start_application()?;
        }
        Ok(self.journal.ran)
    }

    /// Removes what was there before the restore: whoever restored is content. Returns what should be known.
    ///
    /// # Errors
    /// It is not live yet; those of the file system.
    pub fn confirm(mut self) -> Result<Vec<String>> {
        match self.stage() {
            // It was cut.
            Stage::Confirming => {}
            Stage::Live if self.data().place_of_ready()? == Place::Live => self.set(Stage::Confirming)?,
            Stage::Live | Stage::GoingBack => bail!(
                "what was there before backup {} was being brought back: `monitor-link restore abandon --live` ends that",
                self.id.as_str()
            ),
            _ => bail!("backup {} is not restored yet; what is here is the live data", self.id.as_str()),
        }
        if let Some(swap) = self.configuration() {
            files::remove_folder(&swap.beside)?;
            files::remove(&swap.live.join(crate::swap::MARK))?;
        }
        files::remove(&self.host.data.join(crate::swap::MARK))?;
        self.host.remove_work()
    }

    /// Removes all that was made, and leaves the machine as it was before.
    ///
    /// # Errors
    /// It is live, and what was written since is to be kept; those of the file system and of the start of what was there
    /// before.
    pub fn abandon(mut self, written: Written) -> Result<()> {
        match (self.stage(), written) {
            (Stage::Live, Written::Kept) => bail!(
                "backup {} is restored and live, and what was written since would be lost: `monitor-link restore abandon \
                 --live` means that, and brings back what was there before; `monitor-link restore confirm` keeps what is live",
                self.id.as_str()
            ),
            (Stage::Confirming, _) => bail!(
                "what was there before backup {} is being removed, and cannot come back: `monitor-link restore confirm` ends \
                 that",
                self.id.as_str()
            ),
            (Stage::Live, Written::Lost) => {
                // Or a cut between the exchanges would leave a journal that says that it is restored.
                self.set(Stage::GoingBack)?;
                self.take_back()?;
            }
            (Stage::Swapping | Stage::GoingBack, _) => drop(self.take_back()?),
            _ => self.unpacked(&self.host.work()).end_of_a_cut_attempt()?,
        }
        if let Some(swap) = self.configuration() {
            files::remove_folder(&swap.beside)?;
        }
        self.host.remove_work().map(drop)
    }
}

/// What becomes of what was written since a restored database is live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// It must not be lost.
    Kept,
    /// It may go with the restored database.
    Lost,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    struct Nothing;

    impl Service for Nothing {
        fn runs(&self) -> Result<bool> {
            Ok(false)
        }
        fn stop(&self) -> Result<()> {
            Ok(())
        }
        fn start(&self) -> Result<()> {
            Ok(())
        }
        fn start_application(&self) -> Result<()> {
            Ok(())
        }
    }

    #[test]
    fn with_the_old_data_go_only_tablespaces_that_a_restore_made_and_nobody_uses() {
        let root = tempfile::tempdir().unwrap();
        let (data, old) = (root.path().join("main"), root.path().join("main.restore-removed/pgdata"));
        let at = |name: &str| root.path().join(name);
        for folder in
            ["main.tablespaces-x-1/1", "main.tablespaces-x-2/2", "main.tablespaces-x-2/3", "elsewhere"]
        {
            fs::create_dir_all(at(folder)).unwrap();
        }
        symlink(root.path(), at("main.tablespaces-x-9")).unwrap();
        fs::create_dir(at("6")).unwrap();
        for (folder, number, target) in [
            (&old, "1", "main.tablespaces-x-1/1"),
            (&old, "2", "main.tablespaces-x-2/2"),
            (&old, "3", "main.tablespaces-x-2/3"),
            (&old, "4", "elsewhere"),
            // A hostile database's: through a link that its user has made, and upwards.
            (&old, "5", "main.tablespaces-x-9/elsewhere"),
            (&old, "6", "main.tablespaces-x-9/6"),
            (&old, "7", "main.tablespaces-x-2/.."),
            (&data, "3", "main.tablespaces-x-2/3"),
        ] {
            fs::create_dir_all(folder.join("pg_tblspc")).unwrap();
            symlink(at(target), folder.join("pg_tblspc").join(number)).unwrap();
        }
        let programs = Programs { as_owner: Vec::new(), folder: "/".into(), owner: (0, 0) };
        let host = Host {
            data,
            configuration: None,
            programs,
            run: "/run/x".into(),
            kept: "/x".into(),
            service: &Nothing,
        };
        let notes = host.remove_old_tablespaces(&old).unwrap();
        assert_eq!(notes.len(), 4);
        assert!(
            notes.iter().any(|note| note.contains("/elsewhere of the old database is left")),
            "{notes:?}"
        );
        for (name, stays) in [
            ("main.tablespaces-x-1", false),
            ("main.tablespaces-x-2/2", false),
            ("main.tablespaces-x-2/3", true),
            ("elsewhere", true),
            ("6", true),
            ("main", true),
        ] {
            assert_eq!(at(name).exists(), stays, "{name}");
        }
    }
}
