//! What a program remembers over restarts: one JSON document in a file, with the version of its form, and a second copy
//! for the day on which the first cannot be read.
//!
//! The file is written atomically, so a power cut cannot damage it; a bad block or an editor can. Then the copy is used,
//! the damaged file is set aside for whoever wants to know, and the loss is said, never hidden.

use anyhow::{Context, Result, bail};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

/// A document of type `T`.
#[derive(Debug, Clone)]
pub struct Document<T> {
    path: PathBuf,
    format: u32,
    mode: u32,
    of: PhantomData<fn() -> T>,
}

/// What a file holds.
#[derive(Debug, Serialize, Deserialize)]
struct Stored<T> {
    format: u32,
    value: T,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded<T> {
    /// The document; `None`: it was never written, or nothing of it can be used.
    pub value: Option<T>,
    /// What was wrong with it, as a sentence without full stop, where something was.
    pub problem: Option<String>,
}

/// Why a file was not used.
enum Unusable {
    Missing,
    Damaged(String),
}

impl<T: Serialize + DeserializeOwned> Document<T> {
    /// The document at `path` in form `format`, for users by `mode`.
    pub fn new(path: PathBuf, format: u32, mode: u32) -> Self {
        Self { path, format, mode, of: PhantomData }
    }

    /// Reads it. A damaged file is renamed to `<name>.damaged`, and the copy `<name>.last` takes its place.
    ///
    /// # Errors
    /// The file cannot be read at all, or a newer version wrote it: then it is left alone, since that version may come
    /// back.
    pub fn load(&self) -> Result<Loaded<T>> {
        let damage = match self.read(&self.path)? {
            Ok(value) => return Ok(Loaded { value: Some(value), problem: None }),
            Err(Unusable::Missing) => None,
            Err(Unusable::Damaged(damage)) => Some(damage),
        };
        let copy = self.read(&self.beside("last"))?.ok();
        let aside = self.beside("damaged");
        let what = match &damage {
            None if copy.is_none() => return Ok(Loaded { value: None, problem: None }),
            None => format!("{} was missing", self.path.display()),
            Some(damage) => {
                crate::rename(&self.path, &aside)?;
                format!("{} was damaged ({damage}) and is kept as {}", self.path.display(), aside.display())
            }
        };
        let Some(value) = copy else {
            return Ok(Loaded { value: None, problem: Some(format!("{what}; there is no copy of it")) });
        };
        self.save(&value)?;
        Ok(Loaded { value: Some(value), problem: Some(format!("{what}; the last good copy is used")) })
    }

    /// Writes it and its copy, each atomically.
    ///
    /// # Errors
    /// As [`crate::replace`].
    pub fn save(&self, value: &T) -> Result<()> {
        let mut text = serde_json::to_vec_pretty(&Stored { format: self.format, value })?;
        text.push(b'\n');
        for path in [&self.path, &self.beside("last")] {
            crate::replace(path, self.mode, None, |file| file.write_all(&text))
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }

    /// Removes it and its copy.
    ///
    /// # Errors
    /// As [`crate::remove`].
    pub fn remove(&self) -> Result<()> {
        // The copy first: alone it would take the document's place.
        crate::remove(&self.beside("last"))?;
        crate::remove(&self.path).map(drop)
    }

    fn beside(&self, ending: &str) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(".");
        name.push(ending);
        name.into()
    }

    fn read(&self, path: &Path) -> Result<Result<T, Unusable>> {
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Err(Unusable::Missing)),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        // First the form alone: what a newer version wrote may look damaged to this one.
        let parsed = serde_json::from_slice::<Stored<serde_json::Value>>(&bytes);
        let stored = match parsed {
            Ok(stored) => stored,
            Err(error) => return Ok(Err(Unusable::Damaged(error.to_string()))),
        };
        if stored.format > self.format {
            bail!(
                "{} was written by a newer version (format {}, this one reads up to {}); update this machine",
                path.display(),
                stored.format,
                self.format
            );
        }
        Ok(serde_json::from_value(stored.value).map_err(|error| Unusable::Damaged(error.to_string())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(folder: &Path) -> Document<Vec<u32>> {
        Document::new(folder.join("numbers.json"), 2, 0o600)
    }

    #[test]
    fn what_was_saved_is_loaded_and_nothing_is_no_problem() {
        let folder = tempfile::tempdir().unwrap();
        let document = document(folder.path());
        assert_eq!(document.load().unwrap(), Loaded { value: None, problem: None });
        document.save(&vec![1, 2]).unwrap();
        assert_eq!(document.load().unwrap(), Loaded { value: Some(vec![1, 2]), problem: None });
    }

    #[test]
    fn a_damaged_file_is_set_aside_and_the_copy_takes_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let document = document(folder.path());
        for damage in ["", "{", "\0\0\0", r#"{"format":2,"value":"text"}"#] {
            document.save(&vec![7]).unwrap();
            std::fs::write(folder.path().join("numbers.json"), damage).unwrap();
            let loaded = document.load().unwrap();
            assert_eq!(loaded.value, Some(vec![7]));
            let problem = loaded.problem.unwrap();
            assert!(problem.contains("numbers.json was damaged ("), "{problem}");
            assert!(problem.ends_with("; the last good copy is used"), "{problem}");
            assert_eq!(std::fs::read_to_string(folder.path().join("numbers.json.damaged")).unwrap(), damage);
            assert_eq!(document.load().unwrap(), Loaded { value: Some(vec![7]), problem: None });
        }
    }

    #[test]
    fn a_missing_file_comes_back_from_its_copy_and_two_damaged_ones_are_said() {
        let folder = tempfile::tempdir().unwrap();
        let document = document(folder.path());
        document.save(&vec![7]).unwrap();
        std::fs::remove_file(folder.path().join("numbers.json")).unwrap();
        assert_eq!(document.load().unwrap().value, Some(vec![7]));
        for name in ["numbers.json", "numbers.json.last"] {
            std::fs::write(folder.path().join(name), "{").unwrap();
        }
        let loaded = document.load().unwrap();
        assert_eq!(loaded.value, None);
        assert!(loaded.problem.unwrap().ends_with("; there is no copy of it"));
    }

    #[test]
    fn what_a_newer_version_wrote_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let text = r#"{"format":3,"value":{"new":true}}"#;
        std::fs::write(folder.path().join("numbers.json"), text).unwrap();
        let error = document(folder.path()).load().unwrap_err().to_string();
        assert!(error.contains("newer version (format 3, this one reads up to 2)"), "{error}");
        assert_eq!(std::fs::read_to_string(folder.path().join("numbers.json")).unwrap(), text);
    }
}
