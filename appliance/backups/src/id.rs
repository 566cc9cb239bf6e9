//! Ids of backups: the UTC time of the snapshot, so that they sort by time and people can read them.

use jiff::{Timestamp, tz::TimeZone};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// `20261123T205430Z`, or with `-2`, `-3` … for further ones of the same second.
///
/// An id is a file name: parsing is what keeps requests inside the folder of the backups.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BackupId(String);

/// Text that is no backup id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no backup id; expected one such as 20261123T205430Z or 20261123T205430Z-2")]
pub struct BackupIdError(String);

/// Length of `20261123T205430Z`.
const TIME_LENGTH: usize = 16;
/// Highest number for one second: a backup takes milliseconds, and 999 of them take a second.
const MAX_NUMBER: u32 = 999;

impl BackupId {
    /// The id of a backup made at `now`, which none of `taken` has; `None` when a second's numbers are used up.
    pub fn at(now: Timestamp, taken: impl Fn(&BackupId) -> bool) -> Option<Self> {
        let time = now.to_zoned_datetime(TimeZone::UTC).strftime("%Y%m%dT%H%M%SZ").to_string();
        std::iter::once(time.clone())
            .chain((2..=MAX_NUMBER).map(|number| format!("{time}-{number}")))
            .map(Self)
            .find(|id| !taken(id))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn key(&self) -> (&str, u32) {
        let (time, rest) = self.0.split_at(TIME_LENGTH);
        (time, rest.strip_prefix('-').and_then(|number| number.parse().ok()).unwrap_or(1))
    }
}

impl FromStr for BackupId {
    type Err = BackupIdError;

    fn from_str(text: &str) -> Result<Self, BackupIdError> {
        let error = || BackupIdError(text.chars().take(40).collect());
        let (time, rest) = text.split_at_checked(TIME_LENGTH).ok_or_else(error)?;
        let time_fits = time.bytes().enumerate().all(|(at, byte)| match at {
            8 => byte == b'T',
            15 => byte == b'Z',
            _ => byte.is_ascii_digit(),
        });
        let number_fits = rest.is_empty()
            || rest.strip_prefix('-').is_some_and(|number| {
                number.bytes().all(|b| b.is_ascii_digit())
                    && !number.starts_with('0')
                    && number.parse().is_ok_and(|number| (2..=MAX_NUMBER).contains(&number))
            });
        if time_fits && number_fits { Ok(Self(text.into())) } else { Err(error()) }
    }
}

impl Ord for BackupId {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

impl PartialOrd for BackupId {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for BackupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for BackupId {
    type Error = BackupIdError;
    fn try_from(text: String) -> Result<Self, BackupIdError> {
        text.parse()
    }
}

impl From<BackupId> for String {
    fn from(id: BackupId) -> Self {
        id.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_one_second_are_numbered_and_sort_by_time() {
        let now: Timestamp = "2026-11-23T20:54:30Z".parse().unwrap();
        let mut made: Vec<BackupId> = Vec::new();
        for _ in 0..12 {
            made.push(BackupId::at(now, |id| made.contains(id)).unwrap());
        }
        assert_eq!(made[0].as_str(), "20261123T205430Z");
        assert_eq!(made[11].as_str(), "20261123T205430Z-12");
        let mut sorted = made.clone();
        sorted.sort();
        assert_eq!(sorted, made);
        assert!(made[11] < BackupId::at("2026-11-23T20:54:31Z".parse().unwrap(), |_| false).unwrap());
    }

    #[test]
    fn only_ids_are_parsed() {
        for text in ["20261123T205430Z", "20261123T205430Z-2", "20261123T205430Z-999"] {
            assert_eq!(text.parse::<BackupId>().unwrap().as_str(), text);
        }
        for text in [
            "",
            "..",
            "20261123T205430",
            "20261123T205430Z-",
            "20261123T205430Z-1",
            "20261123T205430Z-02",
            "20261123T205430Z-1000",
            "20261123T205430Z/x",
            "2026112300205430Z",
            "ä0261123T205430Z",
            "20261123T205430Z-+2",
        ] {
            assert!(text.parse::<BackupId>().is_err(), "{text:?}");
        }
    }
}
