//! The machine's disks: what they are like, and the operations on them, one at a time, each to its end whoever listens.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, bail};
use files::Document;
use hostd::{Disks, Reply, Request, Scrub};
use jiff::Timestamp;
use provisioning::Identity;
use storage::layout;
use storage::life::{Incoming, Machine, Progress, Report};
use storage::recorded::{self, Recorded};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;

use crate::named_disk::{self, Part};
use crate::places::Places;
use crate::replies::Replies;

/// Version of the scrub record's form.
const FORMAT: u32 = 1;
/// The machine's settings, in which its disks are recorded.
const SETTINGS: &str = "/var/lib/infimonitor";

/// What is done with the disks now.
#[derive(Debug, Clone, Default)]
pub struct UnderWay(Arc<Mutex<Option<String>>>);

impl UnderWay {
    fn now(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, step: Option<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = step;
    }

    /// Claims the disks; whoever has them is named in the error.
    fn begin(&self) -> Result<Claim> {
        let mut step = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(step) = &*step {
            bail!("something is done with the disks already: {step}; wait for its end");
        }
        *step = Some("it begins".into());
        Ok(Claim(self.clone()))
    }
}

/// Until it is dropped nobody else has the disks.
struct Claim(UnderWay);

impl Drop for Claim {
    fn drop(&mut self) {
        self.0.set(None);
    }
}

fn scrubs(places: &Places) -> Document<Scrub> {
    Document::new(places.state.join("scrub.json"), FORMAT, 0o600)
}

/// What they are like.
///
/// # Errors
/// They cannot be looked at.
pub async fn look(places: &Places, under_way: &UnderWay) -> Result<Disks> {
    let machine = Machine::this(&places.data);
    let recorded = read_record()?;
    let report = tokio::task::spawn_blocking(move || machine.report(recorded.as_ref())).await??;
    let loaded = scrubs(places).load()?;
    if let Some(problem) = loaded.problem {
        tracing::warn!("{problem}");
    }
    let identity = files::read(&Path::new("/").join(provisioning::identity::PATH))?;
    let identity: Option<Identity> = identity.and_then(|text| serde_json::from_str(&text).ok());
    Ok(Disks {
        report,
        scrub: loaded.value,
        provisioned: identity.map(|identity| identity.provisioned),
        under_way: under_way.now(),
    })
}

/// Carries out a request that changes or reads the disks as a whole.
///
/// # Errors
/// Another one runs, or a step fails.
pub async fn change(
    places: &Places,
    under_way: &UnderWay,
    request: Request,
    replies: &mut Replies,
) -> Result<Reply> {
    let (work, mut said) = begin(places, under_way, request)?;
    let mut listens = true;
    while let Some((step, percent)) = said.recv().await {
        listens = listens && replies.send(&Reply::Step { step, percent }).await.is_ok();
    }
    work.await.context("the work with the disks has ended early")?
}

/// Begins a change, which goes on whoever listens.
fn begin(
    places: &Places,
    under_way: &UnderWay,
    request: Request,
) -> Result<(JoinHandle<Result<Reply>>, UnboundedReceiver<Step>)> {
    let claim = under_way.begin()?;
    let (steps, said) = unbounded_channel();
    let (places, shown) = (places.clone(), under_way.clone());
    let work = tokio::task::spawn_blocking(move || {
        // Held by the work and not by who waits for it, who may leave.
        let _claim = claim;
        let done = carry_out(&places, &request, &shown, &steps);
        match &done {
            Ok(_) => tracing::info!("done with the disks"),
            Err(error) => tracing::error!("not done with the disks: {error:#}"),
        }
        done
    });
    Ok((work, said))
}

/// Goes on with what a cut or a shutdown has left: everything is kept as the disks allow.
pub async fn go_on(places: &Places, under_way: &UnderWay) {
    let machine = Machine::this(&places.data);
    let unsettled = tokio::task::spawn_blocking(move || machine.unsettled()).await;
    match unsettled {
        Ok(Ok(volumes)) if volumes.is_empty() => return,
        Ok(Ok(volumes)) => tracing::info!("not kept yet as the disks allow: {}", volumes.join(", ")),
        // Without volumes there is nothing to go on with; the check `disks` says why there are none.
        Ok(Err(error)) => return tracing::info!("the disks are not looked at: {error}"),
        Err(error) => return tracing::error!("looking at the disks has ended early: {error}"),
    }
    match begin(places, under_way, Request::BalanceDisks) {
        // What comes of it is in the log, and in the status.
        Ok((work, _)) => drop(work.await),
        Err(error) => tracing::info!("{error:#}"),
    }
}

/// What is done, and how much of it in percent.
type Step = (String, Option<f32>);
type Steps = UnboundedSender<Step>;

fn carry_out(places: &Places, request: &Request, under_way: &UnderWay, steps: &Steps) -> Result<Reply> {
    let machine = Machine::this(&places.data);
    let mut last = String::new();
    let mut progress = |step: &str, percent: Option<f32>| {
        if step != last {
            tracing::info!("{step}");
            last = step.to_owned();
        }
        let shown = percent.map_or_else(|| step.to_owned(), |percent| format!("{step}, {percent:.0} %"));
        under_way.set(Some(shown));
        // Fails when nobody listens any more.
        steps.send((step.to_owned(), percent)).ok();
    };
    let progress: &mut Progress<'_> = &mut progress;
    match request {
        Request::ReplaceDisk { old, new, wipe } => {
            let report = machine.report(None)?;
            let old = old.as_deref().map(|old| named_disk::device(&report, old, Part::Leaves)).transpose()?;
            let new = &incoming(&report, new)?;
            // The volumes alone look as after a replacing whose last step was cut; that one is not on record.
            if old.is_none() && is_in_its_place(&machine, &new.device)? {
                bail!(
                    "{} is one of this machine's disks already, and none is missing; the one that is to go is named with --old",
                    new.device.display()
                );
            }
            machine.replace(old.as_deref(), new, *wipe, progress)?;
            record(&machine)?;
            machine.settle(progress)?;
            mended(places, &machine)?;
            Ok(Reply::Done)
        }
        Request::AddDisk(new) => {
            let new = &incoming(&machine.report(None)?, new)?;
            machine.add(new, progress)?;
            record(&machine)?;
            machine.settle(progress)?;
            Ok(Reply::Done)
        }
        Request::BalanceDisks => {
            machine.settle(progress)?;
            Ok(Reply::Done)
        }
        Request::ClearDiskErrors => {
            machine.clear_errors()?;
            Ok(Reply::Done)
        }
        Request::GrowDisks => Ok(Reply::Grown(machine.grow()?)),
        Request::Scrub => {
            let scrub = Scrub { found: machine.scrub(progress)?, at: Timestamp::now() };
            scrubs(places).save(&scrub)?;
            Ok(Reply::Scrubbed(scrub))
        }
        other => bail!("{other:?} is not about disks"),
    }
}

/// A disk that is to come in, by its device file.
fn incoming(report: &Report, named: &Incoming) -> Result<Incoming> {
    let device = named_disk::device(report, &named.device, Part::ComesIn)?;
    Ok(Incoming { device, erase: named.erase })
}

/// Whether a disk is in use and on record, and no other is missing.
fn is_in_its_place(machine: &Machine, device: &Path) -> Result<bool> {
    let report = machine.report(None)?;
    let Some(used) = report.used.iter().find(|disk| disk.device == device) else { return Ok(false) };
    let recorded = read_record()?.map(|recorded| recorded.disks).unwrap_or_default();
    let titles = machine.titles()?;
    let guid = titles.iter().find(|(_, title)| *title == used.title).map(|(guid, _)| guid);
    Ok(report.missing == 0 && guid.is_some_and(|guid| recorded.contains(guid)))
}

fn read_record() -> Result<Option<Recorded>> {
    let path = record_path();
    let text = files::read(&path)?;
    let recorded = text.map(|text| serde_json::from_str(&text)).transpose();
    recorded.with_context(|| format!("{} is damaged", path.display()))
}

fn record_path() -> PathBuf {
    Path::new(SETTINGS).join(recorded::FILE)
}

fn record(machine: &Machine) -> Result<()> {
    let titles = machine.titles()?;
    let disks = titles.iter().map(|(guid, _)| *guid).collect();
    let recorded = Recorded { profile: machine.profile()?, disks, titles: titles.into_iter().collect() };
    let text = serde_json::to_vec_pretty(&recorded).context("cannot write the record of the disks")?;
    files::write(&record_path(), &text, 0o644, None).map(drop)
}

/// What the boot said of missing disks is true no more.
fn mended(places: &Places, machine: &Machine) -> Result<()> {
    if machine.report(None)?.missing == 0 {
        for name in [layout::STATE, layout::DATA] {
            files::remove(&places.run.join(format!("{name}-degraded")))?;
        }
    }
    Ok(())
}
