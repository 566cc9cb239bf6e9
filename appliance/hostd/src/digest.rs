//! Hashing the tar that FTP would send, from end to end, as a part of each verification.
//!
//! In a process of its own, since it takes long and nobody waits for it: it gets the processor and the disk only when
//! nobody else wants them. Memory does not grow with the backup.

use crate::places::Places;
use crate::program::{self, Bounds};
use crate::verdict::{Hindrance, Verdict};
use anyhow::{Context, Result};
use api::{DIGEST_CHUNK_BYTES, Digests, Manifest};
use backups::{BackupId, index_path};
use files::hex;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::process::Command;
use uuid::Uuid;

/// What is read at a time, in bytes.
const BUFFER_BYTES: usize = 1 << 20;

/// Time to read a whole backup when nobody waits for it.
const LIMIT: Duration = Duration::from_secs(20 * 3600);

/// Arguments of `hostd digest`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The backup's tar index
    #[arg(long)]
    index: PathBuf,
    /// The backup's snapshot
    #[arg(long)]
    snapshot: PathBuf,
}

/// Hashes the tar and prints the result as JSON.
pub fn run(args: &Args) -> Result<()> {
    let file = File::open(&args.index).with_context(|| format!("cannot open {}", args.index.display()))?;
    let digests = digests(vtar::Stored::open(file)?.reader(&args.snapshot)?, DIGEST_CHUNK_BYTES)?;
    let mut output = std::io::stdout().lock();
    serde_json::to_writer(&mut output, &digests)?;
    output.flush().context("cannot print the result")
}

/// The hashes of everything that `source` gives.
fn digests(mut source: impl Read, chunk_bytes: u64) -> Result<Digests> {
    let mut whole = Sha256::new();
    let mut chunks = Vec::new();
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let (mut chunk, mut limited, mut bytes) = (Sha256::new(), (&mut source).take(chunk_bytes), 0);
        loop {
            let count = limited.read(&mut buffer).context("cannot read the backup")?;
            if count == 0 {
                break;
            }
            chunk.update(&buffer[..count]);
            whole.update(&buffer[..count]);
            bytes += count as u64;
        }
        if bytes > 0 {
            chunks.push(hex(&chunk.finalize()));
        }
        if bytes < chunk_bytes {
            return Ok(Digests { tar: hex(&whole.finalize()), chunk_bytes, chunks });
        }
    }
}

/// Has the tar of a backup hashed.
///
/// # Errors
/// It cannot be read from end to end.
async fn of(places: &Places, monitor: Uuid, id: &BackupId) -> Result<Digests> {
    let folder = places.backups(monitor);
    let own = std::env::current_exe().context("cannot find my own program")?;
    let mut command = Command::new("nice");
    command.args(["-n", "19", "ionice", "-c", "3"]).arg(own).arg("digest");
    command.arg("--index").arg(index_path(&folder, id)).arg("--snapshot").arg(folder.join(id.as_str()));
    // 64 hexadecimal digits for each 64 MiB: this is enough for 15 TiB.
    let bounds = Bounds::SHORT.within(LIMIT).printing(16 << 20);
    let printed = program::output(command, bounds).await.context("its tar cannot be read")?;
    serde_json::from_slice(&printed).context("hostd digest prints no hashes")
}

/// Reads the tar and compares it with what it was when it was read first, if it was. Gives its hashes.
///
/// Only a difference that is read twice is a verdict: memory that fails and a disk that cannot be read are trouble.
pub async fn compare(places: &Places, monitor: Uuid, manifest: &Manifest) -> Result<Digests, Verdict> {
    let id: BackupId = manifest.backup.id.parse().context("the manifest's id is not one")?;
    let now = of(places, monitor, &id).await?;
    let Some(before) = &manifest.digests else { return Ok(now) };
    let snapshot = places.backups(monitor).join(id.as_str());
    let Some(said) = difference(before, &now, &snapshot) else { return Ok(now) };
    tracing::warn!("{said}; it is read once more");
    let again = of(places, monitor, &id).await?;
    if again == now { Err(Verdict::Data(said)) } else { Err(Verdict::Machine(unsteady(&snapshot))) }
}

/// What was read twice was not the same.
fn unsteady(snapshot: &Path) -> Hindrance {
    let reason =
        format!("{} is not the same each time it is read; memory or the disk is failing", snapshot.display());
    Hindrance { reason, disk: true }
}

/// What differs from hashes that were made before, as a sentence without full stop.
fn difference(before: &Digests, now: &Digests, snapshot: &Path) -> Option<String> {
    if before == now {
        return None;
    }
    let is_other = |at: &usize| before.chunks.get(*at) != now.chunks.get(*at);
    let first = (0..before.chunks.len().max(now.chunks.len())).find(is_other).unwrap_or(0);
    let offset = first as u64 * now.chunk_bytes;
    Some(format!(
        "{} has changed since it was verified last: the tar differs from byte {offset} on; the disk is failing",
        snapshot.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_and_the_whole_are_hashed() {
        let of = |text: &str| hex(&Sha256::digest(text.as_bytes()));
        for (text, parts) in
            [("", vec![]), ("abc", vec!["abc"]), ("abcd", vec!["abcd"]), ("abcdef", vec!["abcd", "ef"])]
        {
            let found = digests(text.as_bytes(), 4).unwrap();
            let chunks = parts.into_iter().map(of).collect();
            assert_eq!(found, Digests { tar: of(text), chunk_bytes: 4, chunks });
        }
        assert_eq!(of("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn a_difference_is_named_by_its_place() {
        let before = digests(&b"abcdefgh"[..], 4).unwrap();
        assert_eq!(difference(&before, &before, Path::new("/x")), None);
        let now = digests(&b"abcdefgX"[..], 4).unwrap();
        let said = difference(&before, &now, Path::new("/x")).unwrap();
        assert!(said.starts_with("/x has changed") && said.contains("from byte 4 on"), "{said}");
    }
}
