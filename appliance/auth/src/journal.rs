//! How much a network-facing process logs: whoever is refused 10 000 times a second must not push a week out of the
//! journal.
//!
//! Within a minute each place in the code may log [`LINES_OF_ONE`] lines about one source and [`LINES_OF_ALL`] about
//! all sources together; which source a line is about is read from the address in it. What was held back is counted,
//! and one line at the end of the minute says how much it was and from where. Lines without an address have
//! [`LINES_WITHOUT_SOURCE`].

use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::{Event, Metadata};
use tracing_subscriber::filter::{EnvFilter, FilterExt as _};
use tracing_subscriber::layer::{Context, Filter, Layer as _, SubscriberExt as _};
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};

use crate::throttle::group;

/// Lines that a place in the code may log about one source in a minute.
pub const LINES_OF_ONE: u32 = 3;
/// Lines that it may log about all sources.
pub const LINES_OF_ALL: u32 = 10;
/// Lines without an address that it may log.
pub const LINES_WITHOUT_SOURCE: u32 = 60;

const MINUTE: Duration = Duration::from_secs(60);
/// Sources that are counted apart for each place in the code; the others are counted together.
const MOST_SOURCES: usize = 64;
/// Sources that a summary names.
const NAMED: usize = 3;
/// Bytes of a line that a summary repeats.
const EXAMPLE: usize = 200;

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Something else logs already.
    #[error("cannot log: {0}")]
    Taken(#[from] TryInitError),
    /// There is no thread for the summaries.
    #[error("cannot start the thread that sums up what is not logged: {0}")]
    Thread(#[from] io::Error),
}

/// Logs to standard error, without times, what `filter` lets through and the limits allow.
///
/// # Errors
/// Something else logs already, or the system gives no thread.
pub fn start(filter: EnvFilter, with_target: bool) -> Result<(), JournalError> {
    let limits = Limits::default();
    let lines = tracing_subscriber::fmt::layer().without_time().with_target(with_target);
    let lines = lines.with_writer(io::stderr).with_filter(filter.and(limits.clone()));
    tracing_subscriber::registry().with(lines).try_init()?;
    std::thread::Builder::new().name("journal".into()).spawn(move || {
        loop {
            std::thread::sleep(MINUTE);
            for summary in limits.with(Counts::end_of_minute) {
                tracing::warn!("{summary}");
            }
        }
    })?;
    Ok(())
}

/// The limits as a filter of `tracing`.
#[derive(Debug, Clone, Default)]
struct Limits(Arc<Mutex<Counts<Identifier>>>);

impl Limits {
    fn with<T>(&self, work: impl FnOnce(&mut Counts<Identifier>) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<S> Filter<S> for Limits {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        let metadata = event.metadata();
        if metadata.target() == module_path!() {
            return true; // a summary
        }
        let mut text = Text::default();
        event.record(&mut text);
        self.with(|counts| counts.allows(metadata.callsite(), &text.0))
    }
}

/// All fields of an event as one text.
#[derive(Debug, Default)]
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, _: &Field, value: &dyn fmt::Debug) {
        // Writing to a String cannot fail.
        let _written = write!(self.0, "{value:?} ");
    }
}

/// What was logged in this minute, by place in the code.
#[derive(Debug)]
struct Counts<K>(HashMap<K, Kind>);

impl<K> Default for Counts<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

#[derive(Debug, Default)]
struct Kind {
    /// Lines about sources.
    logged: u32,
    sources: HashMap<Option<IpAddr>, Count>,
    /// Lines held back about sources that are not counted apart.
    others: u64,
    /// The last line that was held back.
    example: String,
}

#[derive(Debug, Clone, Copy, Default)]
struct Count {
    logged: u32,
    more: u64,
}

impl<K: std::hash::Hash + Eq> Counts<K> {
    /// Whether this line may be logged; if not, it is counted.
    fn allows(&mut self, place: K, line: &str) -> bool {
        let kind = self.0.entry(place).or_default();
        let source = source(line);
        if kind.sources.len() >= MOST_SOURCES && !kind.sources.contains_key(&source) {
            kind.others += 1;
            kind.example = example(line);
            return false;
        }
        let count = kind.sources.entry(source).or_default();
        let allowed = match source {
            Some(_) => count.logged < LINES_OF_ONE && kind.logged < LINES_OF_ALL,
            None => count.logged < LINES_WITHOUT_SOURCE,
        };
        if allowed {
            count.logged += 1;
            kind.logged += u32::from(source.is_some());
        } else {
            count.more += 1;
            kind.example = example(line);
        }
        allowed
    }

    /// What was held back, in a line for each place in the code; counting begins anew.
    fn end_of_minute(&mut self) -> Vec<String> {
        self.0.drain().filter_map(|(_, kind)| kind.summary()).collect()
    }
}

impl Kind {
    fn summary(self) -> Option<String> {
        let Self { sources, others, example, .. } = self;
        let mut held: Vec<_> = sources.into_iter().filter(|(_, count)| count.more > 0).collect();
        held.sort_by_key(|(source, count)| (std::cmp::Reverse(count.more), *source));
        let all = held.iter().map(|(_, count)| count.more).sum::<u64>() + others;
        if all == 0 {
            return None;
        }
        let mut from: Vec<_> = held
            .iter()
            .take(NAMED)
            .filter_map(|(source, count)| Some(format!("{} from {}", count.more, (*source)?)))
            .collect();
        let unnamed = held.len().saturating_sub(NAMED);
        if others > 0 {
            from.push(format!("the others from at least {} more addresses", unnamed + 1));
        } else if unnamed > 0 {
            from.push(format!("the others from {unnamed} more addresses"));
        }
        let from = if from.is_empty() { String::new() } else { format!(" ({})", from.join(", ")) };
        Some(format!("{all} more lines in the last minute{from}, the last one: {example}"))
    }
}

/// The first address in a line.
fn source(line: &str) -> Option<IpAddr> {
    let words = line.split(|c: char| c.is_whitespace() || "()[]<>,;\"'`=".contains(c));
    words.filter(|word| word.len() <= 64).find_map(address).map(group)
}

fn address(word: &str) -> Option<IpAddr> {
    let word = word.split('%').next().unwrap_or(word);
    let trimmed = word.trim_end_matches(['.', ':']);
    let parse = |word: &str| word.parse().ok().or_else(|| Some(word.parse::<SocketAddr>().ok()?.ip()));
    parse(word).or_else(|| parse(trimmed))
}

fn example(line: &str) -> String {
    let end = line.floor_char_boundary(EXAMPLE.min(line.len()));
    line.get(..end).unwrap_or_default().trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_source_is_the_first_address_of_a_line() {
        for (line, expected) in [
            ("192.0.2.1: wrong user or password", Some("192.0.2.1")),
            ("wrong password from 192.0.2.1", Some("192.0.2.1")),
            ("refused (192.0.2.1:4711), sorry", Some("192.0.2.1")),
            ("2001:db8::1: wrong user", Some("2001:db8::")),
            ("from [2001:db8::1]:80", Some("2001:db8::")),
            ("from ::ffff:192.0.2.1.", Some("192.0.2.1")),
            ("fe80::1%eth0: refused", Some("fe80::")),
            ("backup 20261123T205430Z at 20:54:30", None),
            ("std::io::Error: 17.2", None),
            ("", None),
        ] {
            assert_eq!(source(line), expected.map(|text| text.parse().unwrap()), "{line}");
        }
    }

    #[test]
    fn a_flood_from_one_address_is_three_lines_and_a_summary() {
        let mut counts = Counts::default();
        let line = "wrong password from 192.0.2.1";
        let logged = (0..10_001).filter(|_| counts.allows(1, line)).count();
        assert_eq!(logged, 3);
        // Another address, and another place in the code, are not held back by it.
        assert!(counts.allows(1, "wrong password from 192.0.2.2"));
        assert!(counts.allows(2, line));
        let expected = "9998 more lines in the last minute (9998 from 192.0.2.1), the last one: ".to_owned();
        assert_eq!(counts.end_of_minute(), [expected + line]);
        assert_eq!(counts.end_of_minute(), [""; 0]);
        assert!(counts.allows(1, line));
    }

    #[test]
    fn a_flood_from_many_addresses_is_ten_lines_and_takes_little_memory() {
        let mut counts = Counts::default();
        let lines = (0..10_000_u32).map(|n| format!("{}: refused", std::net::Ipv4Addr::from_bits(n)));
        let logged = lines.filter(|line| counts.allows(1, line)).count();
        assert_eq!(logged, 10);
        assert_eq!(counts.0[&1].sources.len(), MOST_SOURCES);
        let summaries = counts.end_of_minute();
        assert_eq!(summaries.len(), 1);
        let expected = "9990 more lines in the last minute (1 from 0.0.0.10, 1 from 0.0.0.11, 1 from 0.0.0.12, \
                        the others from at least 52 more addresses), the last one: 0.0.39.15: refused";
        assert_eq!(summaries[0], expected);
    }

    #[test]
    fn lines_without_an_address_have_a_limit_of_their_own() {
        let mut counts = Counts::default();
        let logged = (0..100).filter(|n| counts.allows(1, &format!("backup {n} was made"))).count();
        assert_eq!(logged, LINES_WITHOUT_SOURCE as usize);
        let expected = "40 more lines in the last minute, the last one: backup 99 was made";
        assert_eq!(counts.end_of_minute(), [expected]);
        let long = "ä".repeat(1000);
        assert!(example(&long).len() <= EXAMPLE);
    }
}
