//! What a restore does not apply of the monitor's configuration, kept where whoever restores can look at it.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result};
use api::Manifest;

use crate::configuration::Chosen;

/// So many parts are told one by one.
const TOLD: usize = 20;
/// Most that is read of one of the machine's own configuration files, in bytes.
const OWN_MAX: u64 = 4 << 20;
const LIST: &str = "kept-aside.txt";

/// Keeps in `folder` the files that have such parts, as they were on the monitor, and the list of what is
/// wrong with them. Returns what should be known, as sentences.
///
/// # Errors
/// Those of the file system.
pub fn keep(folder: &Path, manifest: &Manifest, chosen: &Chosen) -> Result<Vec<String>> {
    files::remove_folder(folder)?;
    if chosen.aside.is_empty() {
        return Ok(Vec::new());
    }
    let owner = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    for folder in folder.parent().into_iter().chain([folder]) {
        files::folder(folder, 0o700, owner)?;
    }
    let list: String = chosen.aside.iter().map(|aside| format!("{}.\n", aside.sentence())).collect();
    files::write(&folder.join(LIST), list.as_bytes(), 0o600, None)?;
    let paths: BTreeSet<&str> = chosen.aside.iter().map(|aside| aside.path.as_str()).collect();
    for (number, path) in paths.into_iter().enumerate() {
        let Some(text) = manifest.configuration.get(path) else { continue };
        // Their names are a monitor's words: a number stands for them.
        let text = format!("# {path} of the restored monitor\n{text}");
        files::write(&folder.join(format!("{}.conf", number + 1)), text.as_bytes(), 0o600, None)?;
    }
    let mut notes = vec![format!(
        "Not applied of the monitor's configuration are {} settings, rules or files that would run, load or redirect \
         something or let somebody in; they are kept in {}. Look at them, and put back by hand what is meant to be.",
        chosen.aside.len(),
        folder.display()
    )];
    notes.extend(chosen.aside.iter().take(TOLD).map(|aside| format!("{}.", aside.sentence())));
    if chosen.aside.len() > TOLD {
        notes.push(format!("The others are in {}.", folder.join(LIST).display()));
    }
    Ok(notes)
}

/// A file of this machine's own configuration; empty: there is none, or it is a link, which root does not
/// follow for PostgreSQL's user.
///
/// # Errors
/// It cannot be read.
pub fn own_text(path: &Path) -> Result<String> {
    let cannot = || format!("cannot read {}", path.display());
    match path.symlink_metadata() {
        Ok(found) if found.is_file() => {}
        Ok(_) => return Ok(String::new()),
        Err(error)
            if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) =>
        {
            return Ok(String::new());
        }
        Err(error) => return Err(error).with_context(cannot),
    }
    let mut bytes = Vec::new();
    files::open_no_link(path)
        .with_context(cannot)?
        .take(OWN_MAX)
        .read_to_end(&mut bytes)
        .with_context(cannot)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
