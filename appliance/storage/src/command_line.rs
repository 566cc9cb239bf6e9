//! The kernel's command line, by which GRUB tells the system what it was started from.

/// The value of a key; of several equal keys the last one counts, as with the kernel's own options.
pub fn value<'t>(command_line: &'t str, key: &str) -> Option<&'t str> {
    let words = command_line.split_ascii_whitespace();
    words.filter_map(|word| word.strip_prefix(key)?.strip_prefix('=')).next_back()
}

/// Whether a word stands there alone.
pub fn has(command_line: &str, word: &str) -> bool {
    command_line.split_ascii_whitespace().any(|found| found == word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_several_counts_and_a_longer_key_is_another() {
        let table = [
            ("quiet infimonitor.medium=ab infimonitor.role=monitor", Some("ab")),
            ("infimonitor.medium=ab infimonitor.medium=cd", Some("cd")),
            ("infimonitor.medium=a=b", Some("a=b")),
            ("infimonitor.medium=", Some("")),
            ("infimonitor.mediums=ab", None),
            ("infimonitor.medium", None),
            ("", None),
        ];
        for (text, expected) in table {
            assert_eq!(value(text, "infimonitor.medium"), expected, "{text}");
        }
        assert!(
            has("quiet infimonitor.last\n", "infimonitor.last")
                && !has("infimonitor.last=1", "infimonitor.last")
        );
    }
}
