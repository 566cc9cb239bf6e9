//! What the monitor's page may set: how often backups are made and how long they are kept (design D14).

use jiff::civil::Time;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use std::ops::RangeInclusive;

/// Fewest and most hours of [`Frequency::Hours`].
pub const HOURS: RangeInclusive<u8> = 1..=24;
/// Fewest and most days of [`Settings::retention_days`]: ten years.
pub const RETENTION_DAYS: RangeInclusive<u32> = 1..=3650;

/// Body of `PUT /v1/settings`, and the answer of `GET`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// How often backups are made.
    pub frequency: Frequency,
    /// Days that a backup is kept, in [`RETENTION_DAYS`]; `null`: as long as there is space.
    pub retention_days: Option<u32>,
    /// Time zone of the schedule's clock times: a name of the IANA database, such as `Europe/Berlin`.
    pub time_zone: String,
}

impl Default for Settings {
    /// Every night at one, kept for a month, by UTC.
    fn default() -> Self {
        Self {
            frequency: Frequency::Day { at: Time::constant(1, 0, 0, 0) },
            retention_days: Some(30),
            time_zone: "UTC".into(),
        }
    }
}

/// How often backups are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "every", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Frequency {
    /// Every so many hours, counted from the last one.
    Hours {
        /// In [`HOURS`].
        hours: u8,
    },
    /// Every day at a time of the clock.
    Day {
        /// Hours and minutes.
        at: Time,
    },
    /// Every week.
    Week {
        /// On this day.
        on: Day,
        /// At this time.
        at: Time,
    },
}

/// A day of the week.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the days of the week")]
pub enum Day {
    Monday,
    Tuesday,
    Wednesday,
    Thursday,
    Friday,
    Saturday,
    Sunday,
}

/// A setting that is refused, with what is allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct SettingsError {
    /// Path of the field, such as `frequency.hours`.
    pub field: &'static str,
    /// What is wrong and what is allowed.
    pub problem: String,
}

impl Settings {
    /// Checks every field against its range.
    ///
    /// # Errors
    /// The first field that is out of its range, with the range.
    pub fn check(&self) -> Result<(), SettingsError> {
        if let Frequency::Hours { hours } = self.frequency {
            in_range("frequency.hours", hours, HOURS)?;
        }
        if let Some(days) = self.retention_days {
            in_range("retention_days", days, RETENTION_DAYS)?;
        }
        self.zone().map(drop)
    }

    /// The time zone's rules.
    ///
    /// # Errors
    /// The database does not know the name.
    pub fn zone(&self) -> Result<TimeZone, SettingsError> {
        TimeZone::get(&self.time_zone).map_err(|_| SettingsError {
            field: "time_zone",
            problem: format!(
                "{:?} is not in the time zone database; give a name such as Europe/Berlin or UTC",
                self.time_zone
            ),
        })
    }
}

/// Refuses a value of `field` outside of `range`.
pub(crate) fn in_range<T: std::fmt::Display + PartialOrd>(
    field: &'static str,
    value: T,
    range: RangeInclusive<T>,
) -> Result<(), SettingsError> {
    if range.contains(&value) {
        return Ok(());
    }
    let problem = format!("{value} is out of range; allowed is {} to {}", range.start(), range.end());
    Err(SettingsError { field, problem })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_say_it_in_words() {
        let text = r#"{"every":"week","on":"sunday","at":"03:00:00"}"#;
        let frequency: Frequency = serde_json::from_str(text).unwrap();
        assert_eq!(frequency, Frequency::Week { on: Day::Sunday, at: "03:00".parse().unwrap() });
        assert_eq!(serde_json::to_string(&frequency).unwrap(), text);
        assert!(serde_json::from_str::<Frequency>(r#"{"every":"hours","hours":6,"at":"03:00"}"#).is_err());
    }

    #[test]
    fn what_is_out_of_range_is_refused_with_the_range() {
        let good = Settings::default();
        assert_eq!(good.check(), Ok(()));
        let hours = |hours| Settings { frequency: Frequency::Hours { hours }, ..good.clone() };
        let days = |days| Settings { retention_days: days, ..good.clone() };
        let zone = |name: &str| Settings { time_zone: name.into(), ..good.clone() };
        let table = [
            (hours(1), None),
            (hours(24), None),
            (hours(0), Some("frequency.hours: 0 is out of range; allowed is 1 to 24")),
            (hours(25), Some("frequency.hours: 25 is out of range; allowed is 1 to 24")),
            (days(None), None),
            (days(Some(3650)), None),
            (days(Some(0)), Some("retention_days: 0 is out of range; allowed is 1 to 3650")),
            (days(Some(3651)), Some("retention_days: 3651 is out of range; allowed is 1 to 3650")),
            (zone("Europe/Berlin"), None),
            (zone("Mars/Olympus"), Some("\"Mars/Olympus\" is not in the time zone database")),
            (zone("../etc/passwd"), Some("is not in the time zone database")),
        ];
        for (settings, problem) in table {
            let said = settings.check().err().map(|error| error.to_string()).unwrap_or_default();
            assert_eq!(said.is_empty(), problem.is_none(), "{settings:?}: {said}");
            assert!(said.contains(problem.unwrap_or_default()), "{said}");
        }
    }
}
