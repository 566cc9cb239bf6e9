//! What is remembered of a job that ran: the fingerprint of its inputs, and its outputs as they were then.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use walkdir::WalkDir;

use super::fingerprint;

/// The memory of a finished job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// Fingerprint of the inputs that the outputs were made from.
    pub inputs: String,
    /// What dependent jobs take as this job's state: a hash of the outputs, or the inputs' fingerprint.
    pub identity: String,
    files: Vec<Seen>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Seen {
    path: PathBuf,
    bytes: u64,
    modified_ns: i128,
}

impl Stamp {
    /// Looks at finished outputs.
    pub fn of(inputs: String, outputs: &[PathBuf], hash_outputs: bool) -> Result<Self> {
        let identity = if hash_outputs {
            let mut all = String::new();
            for output in outputs {
                all.push_str(&fingerprint::of_path(output)?);
            }
            fingerprint::of_text(&all)
        } else {
            inputs.clone()
        };
        Ok(Self { inputs, identity, files: look_at(outputs)? })
    }

    /// Reads a stamp; none when there is none that can be read, which only means that the job runs.
    pub fn load(path: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(path).ok()?).ok()
    }

    /// Stores the stamp, whole or not at all.
    pub fn save(&self, path: &Path) -> Result<()> {
        let partial = path.with_extension("partial");
        let text = serde_json::to_vec_pretty(self).context("cannot encode a stamp")?;
        fs::write(&partial, text).with_context(|| format!("cannot write {}", partial.display()))?;
        fs::rename(&partial, path).with_context(|| format!("cannot move a stamp to {}", path.display()))
    }

    /// Whether the outputs made from `inputs` are still there, as they were.
    pub fn holds(&self, inputs: &str, outputs: &[PathBuf]) -> bool {
        self.inputs == inputs && look_at(outputs).is_ok_and(|seen| seen == self.files)
    }
}

fn look_at(outputs: &[PathBuf]) -> Result<Vec<Seen>> {
    let mut files = Vec::new();
    for output in outputs {
        for entry in WalkDir::new(output).sort_by_file_name() {
            let entry = entry.with_context(|| format!("cannot read {}", output.display()))?;
            let metadata =
                entry.metadata().with_context(|| format!("cannot inspect {}", entry.path().display()))?;
            if metadata.is_dir() {
                continue;
            }
            let modified_ns =
                i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec());
            files.push(Seen { path: entry.into_path(), bytes: metadata.len(), modified_ns });
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_holds_until_inputs_change_or_an_output_is_touched_or_gone() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("out");
        fs::write(&output, "x").unwrap();
        let outputs = [output.clone()];
        let stamp = Stamp::of("inputs".into(), &outputs, true).unwrap();
        let place = folder.path().join("stamp.json");
        stamp.save(&place).unwrap();
        let stamp = Stamp::load(&place).unwrap();
        assert!(stamp.holds("inputs", &outputs));
        assert!(!stamp.holds("other inputs", &outputs));
        fs::write(&output, "longer").unwrap();
        assert!(!stamp.holds("inputs", &outputs));
        fs::remove_file(&output).unwrap();
        assert!(!stamp.holds("inputs", &outputs));
    }
}
