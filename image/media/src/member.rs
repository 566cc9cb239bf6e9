//! Members of the tars inside packages: ustar headers as hypervisors' importers read them, which know neither pax headers nor
//! directories (osbuild/image-builder#431).

use tar::{EntryType, Header};

use crate::Error;

/// Bytes of a block of a tar.
pub const BLOCK: usize = 512;
/// Largest member of a ustar: 11 octal digits.
pub const MEMBER_LIMIT: u64 = 0o77_777_777_777;

/// The header of a file of `bytes`, owned by nobody in particular, with the date `mtime` in seconds since 1970.
///
/// # Errors
/// Name or size does not fit ustar.
pub fn header(name: &str, bytes: u64, mtime: u64) -> Result<[u8; BLOCK], Error> {
    if bytes > MEMBER_LIMIT {
        return Err(Error::TooLarge {
            what: name.into(),
            format: "a tar that importers read",
            limit: "8 GiB",
        });
    }
    let mut header = Header::new_ustar();
    header.set_path(name).map_err(|_| Error::TooLarge {
        what: format!("the name {name:?}"),
        format: "a tar that importers read",
        limit: "100 bytes",
    })?;
    header.set_entry_type(EntryType::Regular);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(mtime);
    header.set_size(bytes);
    header.set_cksum();
    Ok(*header.as_bytes())
}

/// A whole member: header, content, and what fills the last block.
///
/// # Errors
/// Name or size does not fit ustar.
pub fn member(name: &str, content: &[u8], mtime: u64) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::with_capacity(BLOCK + content.len().next_multiple_of(BLOCK));
    bytes.extend_from_slice(&header(name, content.len() as u64, mtime)?);
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    Ok(bytes)
}

/// What ends a tar.
pub const END: [u8; 2 * BLOCK] = [0; 2 * BLOCK];
