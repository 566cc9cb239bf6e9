//! Progress of a full copy: what `pg_basebackup --progress` prints, and rate and time left from it.

use api::Progress;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How far a full copy is, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyProgress {
    /// Copied.
    pub done: u64,
    /// To copy; `pg_basebackup` corrects it upwards when the database grows meanwhile.
    pub total: u64,
}

/// Reads a progress line of `pg_basebackup`, such as `  4096/32768 kB (12%), 0/1 tablespace (…/pgdata/base/1/2619)`.
/// Other lines give `None`.
pub fn parse_basebackup_progress(line: &str) -> Option<CopyProgress> {
    let (counts, rest) = line.trim_start().split_once(" kB (")?;
    if !rest.contains("%)") {
        return None;
    }
    let (done, total) = counts.split_once('/')?;
    let bytes = |kib: &str| kib.trim().parse::<u64>().ok()?.checked_mul(1024);
    let (done, total) = (bytes(done)?, bytes(total)?);
    Some(CopyProgress { done, total: total.max(done) })
}

/// From then on, or from so many percent on, the rate says something of how long the rest takes: before, it is mostly the
/// wait for the monitor's checkpoint.
const FORECAST_AFTER: Duration = Duration::from_secs(15);
const FORECAST_PERCENT: u128 = 5;

/// Percent, rate and time left of a copy that has run for `elapsed`; 100 % only when done.
pub fn meter(CopyProgress { done, total }: CopyProgress, elapsed: Duration) -> Progress {
    let percent = if total == 0 { 0 } else { u128::from(done) * 100 / u128::from(total) };
    let rate = (u128::from(done) * 1000).checked_div(elapsed.as_millis()).unwrap_or(0);
    let is_foreseen = rate > 0 && (elapsed >= FORECAST_AFTER || percent >= FORECAST_PERCENT);
    let left = is_foreseen.then(|| u128::from(total.saturating_sub(done)).div_ceil(rate));
    Progress {
        done,
        total,
        percent: u8::try_from(percent.min(100)).unwrap_or(100),
        rate: u64::try_from(rate).unwrap_or(u64::MAX),
        seconds_left: left.and_then(|left| u64::try_from(left).ok()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_pg_basebackup_are_read() {
        let table = [
            ("waiting for checkpoint", None),
            ("  0/31245 kB (0%), 0/1 tablespace", Some((0, 31_245 * 1024))),
            (
                "  4096/31245 kB (13%), 0/1 tablespace (/srv/cluster/pgdata/base)",
                Some((4096 * 1024, 31_245 * 1024)),
            ),
            ("31300/31245 kB (100%), 1/1 tablespace", Some((31_300 * 1024, 31_300 * 1024))),
            ("99999999999999999999/1 kB (1%)", None),
            ("18446744073709551615/1 kB (1%)", None),
            ("1/2 kB", None),
        ];
        for (line, expected) in table {
            let expected = expected.map(|(done, total)| CopyProgress { done, total });
            assert_eq!(parse_basebackup_progress(line), expected, "{line}");
        }
    }

    #[test]
    fn rate_and_time_left_follow_from_bytes_and_time() {
        let table = [
            ((0, 0), 0, (0, 0, None)),
            ((0, 100), 5, (0, 0, None)),
            ((50, 100), 5, (50, 10, Some(5))),
            ((99, 100), 1, (99, 99, Some(1))),
            ((100, 100), 10, (100, 10, Some(0))),
            ((u64::MAX, u64::MAX), 1, (100, u64::MAX, Some(0))),
        ];
        for ((done, total), seconds, (percent, rate, seconds_left)) in table {
            let meter = meter(CopyProgress { done, total }, Duration::from_secs(seconds));
            assert_eq!(meter, Progress { done, total, percent, rate, seconds_left });
        }
    }
}
