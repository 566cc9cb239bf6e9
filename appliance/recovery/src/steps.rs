//! The whole way in order, for every front end: what is done, and what is told of it.

use std::io::Read;
use std::path::Path;

use api::{Host, Manifest, Peer};
use auth::pin::Identity;
use jiff::Timestamp;
use monitor_link::cluster::Cluster;
use monitor_link::setup;
use serde::Serialize;

use crate::local::Local;
use crate::restore::{Restore, Stage};
use crate::server::{Before, Server};
use crate::{Failure, checks};

/// What is told while a restore runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// This backup is restored.
    Chosen {
        /// Its id.
        backup: String,
        /// When it was made.
        created: Timestamp,
        /// Whether it was verified.
        verified: bool,
        /// Bytes of its files.
        bytes: u64,
        /// Ids of newer ones that were passed over.
        newer: Vec<String>,
    },
    /// A step begins.
    Step {
        /// Which one.
        step: Step,
    },
    /// Bytes of the tar that were downloaded, checked and unpacked.
    Downloaded {
        /// So many.
        bytes: u64,
        /// Of so many.
        total: u64,
    },
    /// PostgreSQL replays its WAL.
    Replayed {
        /// It is here.
        lsn: String,
        /// It goes at least to here.
        target: String,
    },
    /// Something that should be known, as a sentence.
    Note {
        /// The sentence.
        text: String,
    },
}

/// The steps, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// The tar is downloaded, checked and unpacked beside the live data.
    Download,
    /// PostgreSQL recovers it there.
    Recover,
    /// It takes the live data's place.
    BringIn,
    /// The monitor is paired with its backup server again.
    Pair,
}

impl Step {
    /// What is done, as a sentence.
    pub fn sentence(self) -> &'static str {
        match self {
            Self::Download => "Downloading, checking and unpacking beside the live data.",
            Self::Recover => "PostgreSQL recovers what was unpacked.",
            Self::BringIn => "The restored database takes its place.",
            Self::Pair => "Pairing with the backup server again.",
        }
    }
}

/// Where what is told goes.
pub type Tell<'a> = dyn FnMut(Event) + 'a;

/// What is applied of the monitor's configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Configuration {
    /// What is harmless, or what was said when the restore was begun.
    Harmless,
    /// All of it, also what would run something.
    All,
}

/// Restores a backup, or goes on with it where it was cut. `server` is needed as long as something is to be downloaded, and
/// for `pairing`: the settings for the backup server are made before the application is started, as they may need a restart
/// of PostgreSQL. [`pair`] does the rest.
///
/// # Errors
/// The first step that fails. The machine is as it was; done again, it goes on from there.
pub fn restore(
    local: &Local,
    server: Option<&Server>,
    manifest: &Manifest,
    configuration: Configuration,
    pairing: Option<&Pairing<'_>>,
    tell: &mut Tell<'_>,
) -> Result<(), Failure> {
    let id = &manifest.backup.id;
    let host = local.host();
    let obstacles = checks::obstacles(&manifest.backup, &local.facts()?);
    let under_way = Restore::under_way(&host)?.filter(|restore| restore.is_of(&manifest.backup));
    // What came so far was judged before it began, and its space is taken.
    if !obstacles.is_empty() && under_way.is_none_or(|restore| matches!(restore.stage(), Stage::Unpacking(_)))
    {
        return Err(Failure::Unsuitable { id: id.clone(), obstacles });
    }
    let mut restore = Restore::begin(&host, manifest)?;
    if configuration == Configuration::All {
        restore.accept_configuration()?;
    }
    if let Stage::Unpacking(from) = restore.stage() {
        let server = server.ok_or_else(|| {
            anyhow::anyhow!("backup {id} is not downloaded to its end: `monitor-link restore --server … --fingerprint … --password-file …` \
                 goes on with it")
        })?;
        tell(Event::Step { step: Step::Download });
        let total = manifest.backup.sizes.tar;
        tell(Event::Downloaded { bytes: from, total });
        restore.unpack(|from| Counted {
            inner: server.tar(manifest, from),
            bytes: from,
            tell: |bytes| tell(Event::Downloaded { bytes, total }),
        })?;
    }
    if restore.stage() == Stage::Unpacked {
        tell(Event::Step { step: Step::Recover });
        let notes = restore.recover(|lsn, target| {
            tell(Event::Replayed { lsn: lsn.to_string(), target: target.to_string() });
        })?;
        note(notes, tell);
    }
    if matches!(restore.stage(), Stage::Ready | Stage::Swapping | Stage::GoingBack) {
        tell(Event::Step { step: Step::BringIn });
        let settle = || match (pairing, server) {
            (Some(pairing), Some(server)) => {
                set_up(local, server, manifest, pairing, &|cluster| setup::service("restart", cluster))
                    .map(drop)
            }
            _ => Ok(()),
        };
        note(restore.bring_in_with(&settle)?, tell);
    }
    Ok(())
}

/// How a restored monitor is paired again.
#[derive(Debug, Clone, Copy)]
pub struct Pairing<'p> {
    /// This machine's address as the server sees it, where it is not the one of the way there.
    pub address: Option<&'p Host>,
    /// The certificate of the authority that has signed PostgreSQL's, where it has one of its own.
    pub authority: Option<&'p Path>,
    /// What becomes of what the server has.
    pub before: Before,
}

/// Pairs the restored monitor with its backup server, under the UUID of the monitor that was lost.
///
/// # Errors
/// `monitor-link setup` or the server fails: with the way out.
pub fn pair(
    local: &Local,
    server: &Server,
    manifest: &Manifest,
    options: &Pairing<'_>,
    tell: &mut Tell<'_>,
) -> Result<(), Failure> {
    tell(Event::Step { step: Step::Pair });
    // The application runs by now.
    let peer = set_up(local, server, manifest, options, &|_| local.restart())?;
    let key = Identity::of(&peer).map_err(anyhow::Error::from)?.fingerprint();
    tell(Event::Note { text: format!("The key of this monitor is {key}.") });
    let text = match server.pair(&peer, options.before)? {
        Ok(id) => {
            format!("What the backup server had of this monitor is kept as backup {id}, which is pinned.")
        }
        Err(why) => format!("No backup was made before pairing: {why}."),
    };
    tell(Event::Note { text });
    if let Some(said) = server.not_connected()? {
        let text = format!(
            "Paired, but NOT PROTECTED yet. The backup server says: {said} It must reach this machine at {}:{}; if it \
             cannot, pair with the address by which it can (`--address`).",
            peer.address, peer.port
        );
        tell(Event::Note { text });
    }
    Ok(())
}

/// Prepares this machine's PostgreSQL for the backup server, under the UUID of the monitor that was lost.
fn set_up(
    local: &Local,
    server: &Server,
    manifest: &Manifest,
    pairing: &Pairing<'_>,
    restart: &dyn Fn(&Cluster) -> anyhow::Result<()>,
) -> anyhow::Result<Peer> {
    setup::adopt(Path::new(setup::STATE), manifest.backup.monitor.id)?;
    let host: Host = server.address().host.parse().map_err(|error| anyhow::anyhow!("{error}"))?;
    let options = setup::Options {
        server: host,
        address: pairing.address.cloned(),
        cluster: Some(local.name()),
        ca: pairing.authority.map(Path::to_owned),
        former_key: None,
    };
    setup::run_with(&options, restart)
}

fn note(notes: Vec<String>, tell: &mut Tell<'_>) {
    for text in notes {
        tell(Event::Note { text });
    }
}

/// Tells what was read.
struct Counted<R, F> {
    inner: R,
    bytes: u64,
    tell: F,
}

impl<R: Read, F: FnMut(u64)> Read for Counted<R, F> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.bytes += count as u64;
        (self.tell)(self.bytes);
        Ok(count)
    }
}
