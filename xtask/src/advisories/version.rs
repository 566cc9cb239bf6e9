//! Debian's order of versions (deb-version(7)). Pure.

use std::cmp::Ordering;

/// Which of two versions is newer, as `dpkg --compare-versions` tells.
pub fn compare(one: &str, other: &str) -> Ordering {
    let ((epoch, upstream, revision), (other_epoch, other_upstream, other_revision)) =
        (parts(one), parts(other));
    epoch
        .cmp(&other_epoch)
        .then_with(|| compare_part(upstream, other_upstream))
        .then_with(|| compare_part(revision, other_revision))
}

/// Epoch, upstream version, revision.
fn parts(version: &str) -> (u64, &str, &str) {
    let (epoch, rest) = version.split_once(':').unwrap_or(("0", version));
    let (upstream, revision) = rest.rsplit_once('-').unwrap_or((rest, "0"));
    (epoch.parse().unwrap_or(0), upstream, revision)
}

/// Compares by turns a part without digits and a number.
fn compare_part(mut one: &str, mut other: &str) -> Ordering {
    while !one.is_empty() || !other.is_empty() {
        let (word, rest) = split(one, |letter| !letter.is_ascii_digit());
        let (other_word, other_rest) = split(other, |letter| !letter.is_ascii_digit());
        let words = compare_words(word, other_word);
        let (number, rest) = split(rest, |letter| letter.is_ascii_digit());
        let (other_number, other_rest) = split(other_rest, |letter| letter.is_ascii_digit());
        let order = words.then_with(|| compare_numbers(number, other_number));
        if order != Ordering::Equal {
            return order;
        }
        (one, other) = (rest, other_rest);
    }
    Ordering::Equal
}

fn split(text: &str, belongs: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|letter| !belongs(letter)).unwrap_or(text.len()))
}

/// A tilde sorts before the end, the end before letters, letters before all else.
fn compare_words(one: &str, other: &str) -> Ordering {
    let rank = |letter: Option<char>| match letter {
        Some('~') => (0, '~'),
        None => (1, ' '),
        Some(letter) if letter.is_ascii_alphabetic() => (2, letter),
        Some(letter) => (3, letter),
    };
    let (mut one, mut other) = (one.chars(), other.chars());
    loop {
        let (letter, other_letter) = (one.next(), other.next());
        if letter.is_none() && other_letter.is_none() {
            return Ordering::Equal;
        }
        let order = rank(letter).cmp(&rank(other_letter));
        if order != Ordering::Equal {
            return order;
        }
    }
}

/// Numbers of any length; none is 0.
fn compare_numbers(one: &str, other: &str) -> Ordering {
    let (one, other) = (one.trim_start_matches('0'), other.trim_start_matches('0'));
    one.len().cmp(&other.len()).then_with(|| one.cmp(other))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_as_dpkg_does() {
        // Each is newer than the one before (deb-version(7), and versions of trixie).
        let rising = [
            "0.9~~",
            "0.9~~a",
            "0.9~",
            "0.9",
            "0.9a",
            "0.9+",
            "0.10",
            "1.0~rc1-1",
            "1.0-1",
            "1.0-1+b1",
            "1.0-1+deb13u1",
            "1.0-1+deb13u2",
            "1.0-1+deb13u10",
            "1.0-2",
            "1.0.1-1",
            "3.5.1-1+deb13u1",
            "3.5.4-1",
            "1:0.1-1",
            "1:1.2.0-1",
            "2:0",
        ];
        for (at, one) in rising.iter().enumerate() {
            for (other_at, other) in rising.iter().enumerate() {
                assert_eq!(compare(one, other), at.cmp(&other_at), "{one} {other}");
            }
        }
        for (one, other) in [("1.0", "1.0-0"), ("01.0", "1.00"), ("0:1", "1")] {
            assert_eq!(compare(one, other), Ordering::Equal, "{one} {other}");
        }
        assert_eq!(compare("1.99999999999999999999999", "1.100000000000000000000000"), Ordering::Less);
    }
}
