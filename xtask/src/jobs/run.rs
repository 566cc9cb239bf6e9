//! Running a graph of jobs: which job may start, whether it must, and what came of it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde::Serialize;

use super::progress::Progress;
use super::stamp::Stamp;
use super::{Job, Room, fingerprint, of_log};

/// What came of one job.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// The job's name.
    pub name: String,
    /// Seconds it took now; none when there was nothing to do.
    pub seconds: Option<f64>,
    /// Whether its outputs are other than before.
    pub changed: bool,
    /// Size of its outputs in bytes on the disk (holes do not count).
    pub bytes: u64,
}

/// A set of jobs, in an order in which each comes after those it needs.
pub struct Graph<'a> {
    work: PathBuf,
    jobs: Vec<Job<'a>>,
}

/// A job's state after this run.
struct Settled {
    stamp: Stamp,
    seconds: Option<f64>,
    changed: bool,
}

struct Done {
    index: usize,
    result: Result<Settled>,
}

impl<'a> Graph<'a> {
    /// A graph that keeps stamps, logs and scratch folders below `work`.
    ///
    /// # Errors
    /// When a job needs one that does not come before it: this also excludes circles.
    pub fn new(work: PathBuf, jobs: Vec<Job<'a>>) -> Result<Self> {
        for (index, job) in jobs.iter().enumerate() {
            for need in &job.needs {
                if !jobs[..index].iter().any(|earlier| earlier.name == *need) {
                    bail!("job {} needs {need}, which does not come before it", job.name);
                }
            }
        }
        Ok(Self { work, jobs })
    }

    /// Runs what must run, `parallel` jobs at a time at most. After a failure nothing new starts.
    pub fn run(&self, parallel: usize) -> Result<Vec<Outcome>> {
        for folder in ["logs", "scratch", "stamps"] {
            let path = self.work.join(folder);
            fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
        }
        let progress = Progress::new();
        let mut finished: BTreeMap<&str, Settled> = BTreeMap::new();
        let mut started = vec![false; self.jobs.len()];
        let mut failure = None;
        std::thread::scope(|scope| {
            let (sender, receiver) = mpsc::channel();
            let mut running = 0;
            loop {
                while failure.is_none() && running < parallel {
                    let Some(index) = next_ready(&self.jobs, &started, &finished) else { break };
                    started[index] = true;
                    running += 1;
                    let job = &self.jobs[index];
                    let identities: Vec<String> = job
                        .needs
                        .iter()
                        .filter_map(|need| {
                            finished.get(need.as_str()).map(|settled| settled.stamp.identity.clone())
                        })
                        .collect();
                    let (sender, progress) = (sender.clone(), &progress);
                    scope.spawn(move || {
                        let result = self.settle(job, &identities, progress);
                        // The receiver outlives every job: the loop below waits for all that were started.
                        sender.send(Done { index, result }).is_ok()
                    });
                }
                if running == 0 {
                    break;
                }
                let Ok(done) = receiver.recv() else { break };
                running -= 1;
                match done.result {
                    Ok(result) => {
                        finished.insert(&self.jobs[done.index].name, result);
                    }
                    Err(error) => failure = failure.take().or(Some(error)),
                }
            }
        });
        if let Some(error) = failure {
            return Err(error);
        }
        Ok(self.jobs.iter().filter_map(|job| Some(outcome(job, finished.get(job.name.as_str())?))).collect())
    }

    /// Brings one job's outputs up to date.
    fn settle(&self, job: &Job<'_>, identities: &[String], progress: &Progress) -> Result<Settled> {
        let own = fingerprint::of_inputs(&job.inputs).with_context(|| format!("job {}", job.name))?;
        let names: Vec<&str> = job.outputs.iter().map(|(name, _)| *name).collect();
        let inputs = fingerprint::of_text(&format!("{} {own} {identities:?} {names:?}", job.name));
        let outputs: Vec<PathBuf> = job.outputs.iter().map(|(_, place)| place.clone()).collect();
        let place = self.work.join("stamps").join(format!("{}.json", job.name));
        let old = Stamp::load(&place).filter(|stamp| stamp.holds(&inputs, &outputs));
        if let (Some(stamp), false) = (&old, job.always) {
            return Ok(Settled { stamp: stamp.clone(), seconds: None, changed: false });
        }
        let bar = progress.begin(&job.name);
        let start = Instant::now();
        let log = self.work.join("logs").join(format!("{}.log", job.name));
        let result = self.execute(job, &place, &log).and_then(|changed| {
            let stamp = match old {
                Some(stamp) if !changed => stamp,
                _ => {
                    let stamp = Stamp::of(inputs, &outputs, job.hash_outputs)?;
                    stamp.save(&place)?;
                    stamp
                }
            };
            Ok(Settled { stamp, seconds: Some(start.elapsed().as_secs_f64()), changed })
        });
        let seconds = start.elapsed().as_secs_f64();
        let verdict = if result.is_ok() { "done" } else { "FAILED" };
        progress.end(&bar, &format!("{} {verdict} ({seconds:.1} s)", job.name));
        result.map_err(|error| of_log(&job.name, &error, &log))
    }

    /// Runs the action in a fresh scratch folder and moves the outputs in place. False when they are what was
    /// there already.
    fn execute(&self, job: &Job<'_>, stamp: &Path, log: &Path) -> Result<bool> {
        let scratch = self.work.join("scratch").join(&job.name);
        remove(&scratch)?;
        fs::create_dir_all(&scratch).with_context(|| format!("cannot create {}", scratch.display()))?;
        let log = File::create(log).with_context(|| format!("cannot create {}", log.display()))?;
        (job.action)(&Room { scratch: scratch.clone(), log })?;
        let changed = !job.always || !all_equal(job, &scratch)?;
        if changed {
            remove(stamp)?;
            for (name, place) in &job.outputs {
                put(&scratch.join(name), place)?;
            }
        }
        remove(&scratch)?;
        Ok(changed)
    }
}

/// Whether the scratch folder holds what stands at the final places; cheap jobs that always run ask this.
fn all_equal(job: &Job<'_>, scratch: &Path) -> Result<bool> {
    for (name, place) in &job.outputs {
        if !place.exists() || fingerprint::of_path(&scratch.join(name))? != fingerprint::of_path(place)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn next_ready(jobs: &[Job<'_>], started: &[bool], finished: &BTreeMap<&str, Settled>) -> Option<usize> {
    jobs.iter().enumerate().position(|(index, job)| {
        !started[index] && job.needs.iter().all(|need| finished.contains_key(need.as_str()))
    })
}

fn put(from: &Path, to: &Path) -> Result<()> {
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
    }
    if to.is_dir() {
        remove(to)?; // a folder cannot be renamed over one that has content
    }
    fs::rename(from, to).with_context(|| format!("cannot move {} to {}", from.display(), to.display()))
}

fn remove(path: &Path) -> Result<()> {
    let result = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match result {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

fn outcome(job: &Job<'_>, settled: &Settled) -> Outcome {
    let blocks = |path: &Path| -> u64 {
        let files = walkdir::WalkDir::new(path).into_iter().filter_map(|entry| entry.ok()?.metadata().ok());
        files.filter(|metadata| metadata.is_file()).map(|metadata| metadata.blocks() * 512).sum()
    };
    let bytes = job.outputs.iter().map(|(_, place)| blocks(place)).sum();
    Outcome { name: job.name.clone(), seconds: settled.seconds, changed: settled.changed, bytes }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::Input;
    use std::sync::atomic::{AtomicUsize, Ordering};

    struct Count {
        first: AtomicUsize,
        second: AtomicUsize,
    }

    fn graph<'a>(folder: &Path, count: &'a Count, text: &str, fail: bool) -> Graph<'a> {
        let source = folder.join("source");
        fs::write(&source, text).unwrap();
        let (first, second) = (folder.join("dist/first"), folder.join("dist/second"));
        let read = first.clone();
        let jobs = vec![
            Job {
                name: "first".into(),
                needs: vec![],
                inputs: vec![Input::Path(source.clone())],
                outputs: vec![("out", first)],
                always: false,
                hash_outputs: true,
                action: Box::new(move |room| {
                    count.first.fetch_add(1, Ordering::SeqCst);
                    let text = fs::read_to_string(&source)?;
                    fs::write(room.scratch("out"), text.trim())?;
                    Ok(())
                }),
            },
            Job {
                name: "second".into(),
                needs: super::super::names(&["first"]),
                inputs: vec![],
                outputs: vec![("out", second)],
                always: false,
                hash_outputs: false,
                action: Box::new(move |room| {
                    count.second.fetch_add(1, Ordering::SeqCst);
                    fs::write(room.scratch("out"), "half")?;
                    room.note("about to fail or not")?;
                    if fail {
                        bail!("it broke");
                    }
                    fs::copy(&read, room.scratch("out"))?;
                    Ok(())
                }),
            },
        ];
        Graph::new(folder.join("work"), jobs).unwrap()
    }

    fn runs(count: &Count) -> (usize, usize) {
        (count.first.load(Ordering::SeqCst), count.second.load(Ordering::SeqCst))
    }

    fn counters() -> Count {
        Count { first: AtomicUsize::new(0), second: AtomicUsize::new(0) }
    }

    #[test]
    fn only_what_a_change_reaches_runs_again() {
        let folder = tempfile::tempdir().unwrap();
        let count = counters();
        let steps = [
            ("a", (1, 1), "everything runs at first"),
            ("a", (1, 1), "nothing changed"),
            ("a \n", (2, 1), "the first job's output is the same, so the second rests"),
            ("b", (3, 2), "a real change reaches both"),
        ];
        for (text, expected, why) in steps {
            graph(folder.path(), &count, text, false).run(2).unwrap();
            assert_eq!(runs(&count), expected, "{why}");
        }
        fs::remove_file(folder.path().join("dist/second")).unwrap();
        graph(folder.path(), &count, "b", false).run(2).unwrap();
        assert_eq!(runs(&count), (3, 3), "a lost output is made again");
    }

    #[test]
    fn a_failed_job_leaves_the_old_output_and_shows_its_log() {
        let folder = tempfile::tempdir().unwrap();
        let count = counters();
        graph(folder.path(), &count, "a", false).run(2).unwrap();
        let error = graph(folder.path(), &count, "b", true).run(2).unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("job second failed") && text.contains("about to fail or not"), "{text}");
        assert!(text.contains("second.log") && text.contains("it broke"), "{text}");
        assert_eq!(fs::read_to_string(folder.path().join("dist/second")).unwrap(), "a");
        graph(folder.path(), &count, "b", false).run(2).unwrap();
        assert_eq!(fs::read_to_string(folder.path().join("dist/second")).unwrap(), "b");
    }

    #[test]
    fn a_job_that_needs_a_later_one_is_refused() {
        let job = |name: &str, needs: &[&str]| Job {
            name: name.into(),
            needs: super::super::names(needs),
            inputs: vec![],
            outputs: vec![],
            always: false,
            hash_outputs: false,
            action: Box::new(|_| Ok(())),
        };
        assert!(Graph::new("/nonexistent".into(), vec![job("a", &["b"]), job("b", &[])]).is_err());
    }
}
