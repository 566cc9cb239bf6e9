//! Positions in the WAL, as PostgreSQL writes them (`pg_lsn`: `16/B374D848`).

use std::fmt;
use std::str::FromStr;

/// A log sequence number: a byte position in the WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct Lsn(pub u64);

/// Text that is no LSN.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no LSN; expected two hexadecimal numbers such as 16/B374D848")]
pub struct LsnError(String);

impl Lsn {
    /// Bytes of WAL from `earlier` to here; 0 where `earlier` is ahead.
    pub fn bytes_since(self, earlier: Lsn) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl FromStr for Lsn {
    type Err = LsnError;

    fn from_str(text: &str) -> Result<Self, LsnError> {
        let error = || LsnError(text.chars().take(40).collect());
        let (high, low) = text.split_once('/').ok_or_else(error)?;
        let number = |part: &str| {
            if part.starts_with('+') {
                Err(error())
            } else {
                u32::from_str_radix(part, 16).map_err(|_| error())
            }
        };
        Ok(Self(u64::from(number(high)?) << 32 | u64::from(number(low)?)))
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xffff_ffff)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_number_agree() {
        for (text, number) in [("0/0", 0), ("16/B374D848", 0x16_B374_D848), ("FFFFFFFF/FFFFFFFF", u64::MAX)] {
            assert_eq!(text.parse::<Lsn>().unwrap(), Lsn(number));
            assert_eq!(Lsn(number).to_string(), text);
        }
    }

    #[test]
    fn other_text_is_refused() {
        for text in ["", "0", "/", "0/", "x/1", "0/100000000", "+1/2", "-1/2", "0/1 "] {
            assert!(text.parse::<Lsn>().is_err(), "{text:?}");
        }
    }
}
