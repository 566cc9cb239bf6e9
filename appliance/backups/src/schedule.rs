//! When the next backup is due. Pure; the time zone's rules come from its database.
//!
//! The rule for every frequency: a backup is due when a time of the schedule has passed since the last one that the
//! schedule made. So what was missed while the machine was off is made up for at once, and once only.

use api::{Day, Frequency};
use jiff::civil::{Time, Weekday};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Span, Timestamp};

/// The answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Make one.
    Now,
    /// Not before this time.
    At(Timestamp),
}

/// Whether a backup is due, `made` being the times of those that the schedule made.
///
/// One in the future was made under a clock that was wrong, and counts as none.
///
/// # Errors
/// The clock is at the edge of what can be computed (years -9999 to 9999).
pub fn due(
    frequency: Frequency,
    made: impl IntoIterator<Item = Timestamp>,
    now: Timestamp,
    zone: &TimeZone,
) -> Result<Due, jiff::Error> {
    let Some(last) = made.into_iter().filter(|made| *made <= now).max() else { return Ok(Due::Now) };
    let next = match frequency {
        Frequency::Hours { hours } => last.checked_add(SignedDuration::from_hours(i64::from(hours)))?,
        Frequency::Day { at } => next_after(last, zone, at, None)?,
        Frequency::Week { on, at } => next_after(last, zone, at, Some(weekday(on)))?,
    };
    Ok(if next <= now { Due::Now } else { Due::At(next) })
}

fn weekday(day: Day) -> Weekday {
    match day {
        Day::Monday => Weekday::Monday,
        Day::Tuesday => Weekday::Tuesday,
        Day::Wednesday => Weekday::Wednesday,
        Day::Thursday => Weekday::Thursday,
        Day::Friday => Weekday::Friday,
        Day::Saturday => Weekday::Saturday,
        Day::Sunday => Weekday::Sunday,
    }
}

/// The first time after `last` at which the clock of `zone` shows `at`, on that day of the week if one is given. A time
/// that a change of the clock leaves out comes an hour later, one that it repeats counts the first time.
fn next_after(
    last: Timestamp,
    zone: &TimeZone,
    at: Time,
    on: Option<Weekday>,
) -> Result<Timestamp, jiff::Error> {
    let mut date = last.to_zoned_datetime(zone.clone()).date();
    // The day of `last` and a whole week after it: one of them fits.
    for _ in 0..=7 {
        let time = zone.to_timestamp(date.to_datetime(at))?;
        if time > last && on.is_none_or(|day| date.weekday() == day) {
            return Ok(time);
        }
        date = date.checked_add(Span::new().days(1))?;
    }
    zone.to_timestamp(date.to_datetime(at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn time(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn berlin() -> TimeZone {
        TimeZone::get("Europe/Berlin").unwrap()
    }

    fn at(text: &str) -> Time {
        text.parse().unwrap()
    }

    #[test]
    fn the_next_time_follows_from_the_last_backup() {
        let six_hours = Frequency::Hours { hours: 6 };
        let daily = |clock: &str| Frequency::Day { at: at(clock) };
        let sunday = Frequency::Week { on: Day::Sunday, at: at("03:00") };
        let table = [
            (six_hours, "2026-11-24T00:00:00Z", "2026-11-24T05:59:59Z", Some("2026-11-24T06:00:00Z")),
            (six_hours, "2026-11-24T00:00:00Z", "2026-11-24T06:00:00Z", None),
            // 01:00 in Berlin is 00:00 UTC in winter
            (daily("01:00"), "2026-11-24T00:00:00Z", "2026-11-24T23:59:59Z", Some("2026-11-25T00:00:00Z")),
            (daily("01:00"), "2026-11-24T00:00:00Z", "2026-11-25T00:00:00Z", None),
            // off for a month: due once, and then again the next night
            (daily("01:00"), "2026-10-24T00:00:00Z", "2026-11-24T12:00:00Z", None),
            (daily("01:00"), "2026-11-24T12:00:00Z", "2026-11-24T12:00:01Z", Some("2026-11-25T00:00:00Z")),
            // 2026-11-24 is a Tuesday
            (sunday, "2026-11-24T12:00:00Z", "2026-11-25T12:00:00Z", Some("2026-11-29T02:00:00Z")),
            (sunday, "2026-11-22T02:00:00Z", "2026-11-22T03:00:00Z", Some("2026-11-29T02:00:00Z")),
            (sunday, "2026-11-22T01:59:59Z", "2026-11-22T02:00:00Z", None),
            // spring: on 2026-03-29 there is no 02:30 in Berlin, the backup is made at 03:30
            (daily("02:30"), "2026-03-28T01:30:00Z", "2026-03-28T02:00:00Z", Some("2026-03-29T01:30:00Z")),
            // autumn: on 2026-10-25 there are two 02:30, the first one counts, and the day has one backup
            (daily("02:30"), "2026-10-24T00:30:00Z", "2026-10-24T01:00:00Z", Some("2026-10-25T00:30:00Z")),
            (daily("02:30"), "2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z", Some("2026-10-26T01:30:00Z")),
            // a clock that was wrong
            (daily("01:00"), "2045-01-01T00:00:00Z", "2026-11-24T12:00:00Z", None),
            (six_hours, "1970-01-01T00:00:00Z", "2026-11-24T12:00:00Z", None),
        ];
        for (frequency, last, now, expected) in table {
            let answer = due(frequency, [time(last)], time(now), &berlin()).unwrap();
            let expected = expected.map_or(Due::Now, |expected| Due::At(time(expected)));
            assert_eq!(answer, expected, "{frequency:?} after {last} at {now}");
        }
        let mixed = [time("2045-01-01T00:00:00Z"), time("2026-11-24T00:00:00Z")];
        let answer = due(daily("01:00"), mixed, time("2026-11-24T12:00:00Z"), &berlin()).unwrap();
        assert_eq!(answer, Due::At(time("2026-11-25T00:00:00Z")), "one of the future hides none of the past");
        assert_eq!(due(daily("01:00"), [], time("1970-01-01T00:00:00Z"), &berlin()).unwrap(), Due::Now);
    }

    proptest! {
        #[test]
        fn after_a_backup_the_next_one_is_a_while_away_and_comes(
            seconds in 0..4_000_000_000i64, hour in 0..24i8, minute in 0..60i8, day in 0..8usize,
        ) {
            let days = [Day::Monday, Day::Tuesday, Day::Wednesday, Day::Thursday, Day::Friday, Day::Saturday, Day::Sunday];
            let at = Time::new(hour, minute, 0, 0).unwrap();
            let (frequency, period) = match days.get(day) {
                Some(on) => (Frequency::Week { on: *on, at }, 7 * 24),
                None => (Frequency::Day { at }, 24),
            };
            let last = Timestamp::from_second(seconds).unwrap();
            let Due::At(next) = due(frequency, [last], last, &berlin()).unwrap() else {
                panic!("due at once, {frequency:?}");
            };
            prop_assert!(next > last);
            prop_assert!(next.duration_since(last) <= SignedDuration::from_hours(period + 1));
            prop_assert_eq!(due(frequency, [last], next, &berlin()).unwrap(), Due::Now);
        }
    }
}
