//! The console's limits of rotation, and its word on a retention period that the network has shortened.

use anyhow::{Result, bail};
use api::{Limits, RetentionState};
use hostd::{Client, PROGRAM, Request};

/// Limits to set; those that are not named stay.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::Args)]
pub struct NewLimits {
    /// Below this free space is low, in bytes
    #[arg(long)]
    low_space_bytes: Option<u64>,
    /// Below this share of the volume free space is low
    #[arg(long)]
    low_space_percent: Option<u8>,
    /// So many of the newest verified backups are never removed by age
    #[arg(long)]
    keep_verified: Option<u32>,
    /// So many of the last backups of a monitor are never removed
    #[arg(long)]
    keep_last: Option<u32>,
    /// A backup that is younger than so many hours is never removed
    #[arg(long)]
    min_age_hours: Option<u32>,
    /// At most this share of the list is removed in a day because space is low, in percent
    #[arg(long)]
    daily_percent: Option<u8>,
    /// A retention period that the network shortens counts after so many hours
    #[arg(long)]
    retention_delay_hours: Option<u32>,
    /// The network may pin while fewer backups than this are pinned
    #[arg(long)]
    pinned: Option<u32>,
    /// The network may make so many backups a day beside the schedule
    #[arg(long)]
    on_demand_per_day: Option<u32>,
    /// So many seconds lie between two of them
    #[arg(long)]
    on_demand_seconds: Option<u32>,
}

impl NewLimits {
    /// The limits with what is named.
    fn over(&self, old: Limits) -> Limits {
        Limits {
            low_space_bytes: self.low_space_bytes.unwrap_or(old.low_space_bytes),
            low_space_percent: self.low_space_percent.unwrap_or(old.low_space_percent),
            keep_verified: self.keep_verified.unwrap_or(old.keep_verified),
            keep_last: self.keep_last.unwrap_or(old.keep_last),
            min_age_hours: self.min_age_hours.unwrap_or(old.min_age_hours),
            daily_percent: self.daily_percent.unwrap_or(old.daily_percent),
            retention_delay_hours: self.retention_delay_hours.unwrap_or(old.retention_delay_hours),
            pinned: self.pinned.unwrap_or(old.pinned),
            on_demand_per_day: self.on_demand_per_day.unwrap_or(old.on_demand_per_day),
            on_demand_seconds: self.on_demand_seconds.unwrap_or(old.on_demand_seconds),
        }
    }
}

/// Shows the limits, after those that are named are set.
pub async fn limits(client: &Client, named: &NewLimits) -> Result<()> {
    let (old, _) = client.limits().await?;
    let new = named.over(old);
    // Also what is as it was: to set it takes back what was wrong with the decisions.
    if *named != NewLimits::default() {
        client.order(&Request::SetLimits(new)).await?;
    }
    println!("space is low below {} bytes or {} %", new.low_space_bytes, new.low_space_percent);
    println!("never removed: the last {} backups of a monitor, and the newest verified one", new.keep_last);
    println!("never removed: a backup that is younger than {} h", new.min_age_hours);
    println!("never removed by age: the newest {} verified", new.keep_verified);
    println!("removed for space in a day: at most {} % of the list", new.daily_percent);
    println!("a retention period that the network shortens counts after {} h", new.retention_delay_hours);
    println!("the network may pin up to {} backups", new.pinned);
    println!(
        "the network may make {} backups a day beside the schedule, one every {} s",
        new.on_demand_per_day, new.on_demand_seconds
    );
    Ok(())
}

/// Decides on a shorter retention period that waits, where `confirm` (with its days) or `refuse` is said, and shows what counts.
pub async fn retention(client: &Client, confirm: Option<u32>, refuse: bool) -> Result<()> {
    match (confirm, refuse) {
        (Some(_), true) => bail!("use either --confirm or --refuse"),
        (None, false) => {}
        (confirm, _) => client.order(&Request::DecideRetention { confirm }).await?,
    }
    let state = client.retention().await?;
    println!("{}", in_words(&state));
    Ok(())
}

fn in_words(RetentionState { days, pending, refused }: &RetentionState) -> String {
    let period = |days: &Option<u32>| match days {
        Some(days) => format!("for {days} days"),
        None => "as long as there is space".into(),
    };
    let counts = format!("backups are kept {}", period(days));
    match pending {
        Some(pending) => format!(
            "{counts}\nin {} h they are kept {}, by which {} would go now; `{PROGRAM} order retention --confirm {}` lets it \
             count at once, `--refuse` refuses it",
            pending.seconds_left.div_ceil(3600),
            period(&pending.days),
            pending.would_go,
            pending.days.unwrap_or_default()
        ),
        None if *refused => format!("{counts}; the shorter period that the settings name is refused"),
        None => counts,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::PendingRetention;

    #[test]
    fn only_what_is_named_is_set() {
        let some = NewLimits { pinned: Some(0), keep_last: Some(5), ..NewLimits::default() };
        let expected = Limits { pinned: 0, keep_last: 5, ..Limits::default() };
        assert_eq!(some.over(Limits::default()), expected);
    }

    #[test]
    fn what_waits_is_said_with_what_it_would_do_and_the_way_out() {
        let pending = PendingRetention { days: Some(1), seconds_left: 3601, would_go: 28 };
        let state = RetentionState { days: Some(30), pending: Some(pending), refused: false };
        let said = in_words(&state);
        for part in ["kept for 30 days", "in 2 h they are kept for 1 days, by which 28 would go", "--confirm"]
        {
            assert!(said.contains(part), "{said}");
        }
        let said = in_words(&RetentionState { days: None, pending: None, refused: true });
        assert_eq!(
            said,
            "backups are kept as long as there is space; the shorter period that the settings name is refused"
        );
    }
}
