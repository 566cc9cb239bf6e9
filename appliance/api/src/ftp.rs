//! How backups are served over FTP, as the console has set it (design D10).
//!
//! `hostd` keeps it and writes it to [`FTP_SETTINGS_PATH`] for who needs it: the FTP server at each session, and the
//! check `ftp`.

use crate::SettingsError;
use crate::settings::in_range;
use serde::{Deserialize, Serialize};
use std::io;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::path::Path;

/// Where the running system has them.
pub const FTP_SETTINGS_PATH: &str = "/run/infimonitor/ftp.json";
/// Fewest and most of [`FtpSettings::bytes_per_second`].
pub const FTP_BYTES_PER_SECOND: RangeInclusive<u64> = 65_536..=100_000_000_000;

/// Settings of the FTP server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FtpSettings {
    /// Clear FTP is served too: passwords and backups can then be read on the network.
    pub allow_clear: bool,
    /// Data connections count that do not resume the TLS session of their control connection: whoever shares a client's
    /// address can then take its place.
    // Left out where it is not set, so that an older release reads the file too.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub allow_unproven_data: bool,
    /// The address that PASV names to clients, where this server is behind NAT; `None`: the one they connected to.
    pub passive_address: Option<Ipv4Addr>,
    /// All downloads together take no more than this, in [`FTP_BYTES_PER_SECOND`]; `None`: what there is.
    pub bytes_per_second: Option<u64>,
}

impl FtpSettings {
    /// Checks every field against its range.
    ///
    /// # Errors
    /// The first field that is out of its range, with the range.
    pub fn check(&self) -> Result<(), SettingsError> {
        self.bytes_per_second
            .map_or(Ok(()), |bytes| in_range("bytes_per_second", bytes, FTP_BYTES_PER_SECOND))
    }

    /// Reads them; where there are none, nothing was set.
    ///
    /// # Errors
    /// The file cannot be read or is none of these.
    pub fn read(path: &Path) -> io::Result<Self> {
        match std::fs::read(path) {
            Ok(text) => Ok(serde_json::from_slice(&text)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_set_is_the_safe_one_and_bad_files_are_said() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ftp.json");
        assert_eq!(FtpSettings::read(&path).unwrap(), FtpSettings::default());
        assert!(!FtpSettings::default().allow_clear && !FtpSettings::default().allow_unproven_data);
        let settings = FtpSettings {
            allow_clear: true,
            allow_unproven_data: true,
            passive_address: Some(Ipv4Addr::new(192, 0, 2, 7)),
            bytes_per_second: Some(10_000_000),
        };
        std::fs::write(&path, serde_json::to_vec(&settings).unwrap()).unwrap();
        assert_eq!(FtpSettings::read(&path).unwrap(), settings);
        std::fs::write(&path, "{").unwrap();
        assert!(FtpSettings::read(&path).is_err());
        let error = FtpSettings { bytes_per_second: Some(1), ..settings }.check().unwrap_err().to_string();
        assert_eq!(error, "bytes_per_second: 1 is out of range; allowed is 65536 to 100000000000");
    }
}
