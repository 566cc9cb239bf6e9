//! OVA: description, manifest and disk in one tar, in this order.
//!
//! The disk is written apart first: its size and hash stand in the members before it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::member::{BLOCK, END, header, member};
use crate::{Error, Source, hex, ovf};

/// Bytes that are copied at a time.
const COPIED: usize = 1 << 20;

/// The manifest. Importers refuse every other form of these lines (home-assistant/operating-system#826, #3654).
fn manifest(files: &[(&str, String)]) -> String {
    files.iter().map(|(name, digest)| format!("SHA256({name})= {digest}\n")).collect()
}

/// Puts an OVA together from the disk that [`crate::vmdk::write`] made of `disk`; `date`: of all members, seconds since 1970.
///
/// # Errors
/// The disk's file cannot be read or is larger than 8 GiB, or `out` cannot be written.
pub fn write(
    disk: &Source,
    machine: &ovf::Machine,
    vmdk: &Path,
    date: u64,
    mut out: impl Write,
) -> Result<(), Error> {
    let failed = |cause: io::Error| Error::File { path: vmdk.to_owned(), cause };
    let mut file = File::open(vmdk).map_err(failed)?;
    let bytes = file.metadata().map_err(failed)?.len();
    let name = file_name(machine);
    // Refused before it is read.
    let head = header(&name, bytes, date)?;
    let mut digest = Sha256::new();
    let mut buffer = vec![0; COPIED];
    each_part(&mut file, &mut buffer, |part| {
        digest.update(part);
        Ok(())
    })?;
    let description = ovf::File { name: name.clone(), bytes, disk_bytes: disk.bytes() };
    let ovf_name = format!("{}.ovf", machine.name);
    let ovf = ovf::descriptor(machine, &description);
    let sums = [(ovf_name.as_str(), hex(&Sha256::digest(&ovf))), (name.as_str(), hex(&digest.finalize()))];
    let mut put = |bytes: &[u8]| out.write_all(bytes).map_err(Error::Write);
    put(&member(&ovf_name, ovf.as_bytes(), date)?)?;
    put(&member(&format!("{}.mf", machine.name), manifest(&sums).as_bytes(), date)?)?;
    put(&head)?;
    io::Seek::rewind(&mut file).map_err(failed)?;
    each_part(&mut file, &mut buffer, &mut put)?;
    let rest = bytes.next_multiple_of(BLOCK as u64) - bytes;
    put(&vec![0; rest as usize])?;
    put(&END)?;
    out.flush().map_err(Error::Write)
}

/// Name of the disk's file in the OVA, which its descriptor also bears.
pub fn file_name(machine: &ovf::Machine) -> String {
    format!("{}.vmdk", machine.name)
}

fn each_part(
    file: &mut File,
    buffer: &mut [u8],
    mut take: impl FnMut(&[u8]) -> Result<(), Error>,
) -> Result<(), Error> {
    loop {
        match file.read(buffer).map_err(Error::Read)? {
            0 => return Ok(()),
            count => take(&buffer[..count])?,
        }
    }
}
