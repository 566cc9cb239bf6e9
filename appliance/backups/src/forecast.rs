//! When space will be low: a straight line through what was used lately. Pure.
//!
//! Rotation makes steps in what is used, and a database grows by bursts; a line says no more than "in about N days",
//! and nobody needs more. What falls or stands still has no forecast.

use api::Limits;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// How far back samples count.
pub const WINDOW: SignedDuration = SignedDuration::from_hours(14 * 24);
/// Over a shorter time nothing is said.
const SHORTEST: SignedDuration = SignedDuration::from_hours(6);
/// Beyond this "never" is as good an answer.
const FARTHEST: SignedDuration = SignedDuration::from_hours(10 * 365 * 24);

/// What was used of the data volume at some time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// When.
    pub at: Timestamp,
    /// Bytes.
    pub used: u64,
}

/// Adds a sample and forgets what is too old, or of a future that a wrong clock once showed.
pub fn remember(samples: &mut Vec<Sample>, sample: Sample) {
    samples.retain(|old| old.at < sample.at && sample.at.duration_since(old.at) <= WINDOW);
    samples.push(sample);
}

/// When free space is expected to fall below the low-space limit of a volume of `total` bytes; the time of the last
/// sample if it is below already, `None` if that is not in sight.
pub fn low_at(samples: &[Sample], limits: &Limits, total: u64) -> Option<Timestamp> {
    let (first, last) = (samples.first()?, samples.last()?);
    let limit = total.saturating_sub(limits.low_space(total));
    if last.used > limit {
        return Some(last.at);
    }
    if last.at.duration_since(first.at) < SHORTEST {
        return None;
    }
    let rate = slope(samples)?;
    let seconds = (limit - last.used) as f64 / rate;
    if rate <= 0.0 || seconds > FARTHEST.as_secs_f64() {
        return None;
    }
    last.at.checked_add(SignedDuration::try_from_secs_f64(seconds).ok()?).ok()
}

/// Bytes per second, by least squares.
fn slope(samples: &[Sample]) -> Option<f64> {
    let origin = *samples.first()?;
    let points: Vec<(f64, f64)> = samples
        .iter()
        .map(|sample| {
            (sample.at.duration_since(origin.at).as_secs_f64(), sample.used as f64 - origin.used as f64)
        })
        .collect();
    let count = points.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (x, y) = (mean(|point| point.0), mean(|point| point.1));
    let along: f64 = points.iter().map(|point| (point.0 - x).powi(2)).sum();
    let both: f64 = points.iter().map(|point| (point.0 - x) * (point.1 - y)).sum();
    (along > 0.0).then_some(both / along)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GB: u64 = 1_000_000_000;

    fn sample(hour: i64, used: u64) -> Sample {
        Sample { at: Timestamp::from_second(hour * 3600).unwrap(), used: used * GB }
    }

    #[test]
    fn a_line_through_what_was_used_meets_the_limit() {
        // Of 500 GB the last tenth is the limit: 450 GB may be used.
        let table = [
            (vec![], None),
            (vec![sample(0, 100)], None),
            // too short to say
            (vec![sample(0, 100), sample(5, 110)], None),
            (vec![sample(0, 100), sample(10, 110)], Some(10 + 340)),
            (vec![sample(0, 100), sample(5, 105), sample(10, 110)], Some(10 + 340)),
            // it stands still, or falls
            (vec![sample(0, 100), sample(10, 100)], None),
            (vec![sample(0, 110), sample(10, 100)], None),
            // not in this life
            (vec![sample(0, 100), Sample { used: 100 * GB + 1, ..sample(10, 100) }], None),
            // already
            (vec![sample(0, 460)], Some(0)),
        ];
        for (samples, expected) in table {
            let at = low_at(&samples, &Limits::default(), 500 * GB);
            let hour = at.map(|at| (at.as_second() as f64 / 3600.0).round() as i64);
            assert_eq!(hour, expected, "{samples:?}");
        }
    }

    #[test]
    fn what_is_old_or_was_never_is_forgotten() {
        let mut samples = vec![sample(0, 1), sample(400, 2), sample(100_000, 3)];
        remember(&mut samples, sample(401, 4));
        assert_eq!(samples, [sample(400, 2), sample(401, 4)]);
    }
}
