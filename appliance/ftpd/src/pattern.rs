//! Patterns of file names, as clients send them for `ls *.tar` and `mget *.json`. Pure.

use glob::{MatchOptions, Pattern as Glob};

/// What names are compared with.
#[derive(Debug)]
pub(crate) struct Pattern(Option<Glob>);

impl Pattern {
    /// The pattern in a name, if it is one: no file's name has such characters. One that is malformed matches nothing.
    pub(crate) fn of(name: &str) -> Option<Self> {
        name.contains(['*', '?', '[']).then(|| Self(Glob::new(name).ok()))
    }

    /// Whether a file's name is meant.
    pub(crate) fn matches(&self, name: &str) -> bool {
        self.0.as_ref().is_some_and(|glob| glob.matches_with(name, MatchOptions::new()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn patterns_match_as_in_a_shell() {
        const NAME: &str = "20261123T205430Z.tar";
        for (pattern, expected) in [
            ("*", true),
            ("*.tar", true),
            ("*.json", false),
            ("20261123*", true),
            ("2026112?T*.tar", true),
            ("*.[tj]*", true),
            ("*.[!t]*", false),
            ("20261123T205430Z.ta?r", false),
            ("*.TAR", false),
            ("[", false),
            ("***", false),
        ] {
            let pattern = Pattern::of(pattern).unwrap();
            assert_eq!(pattern.matches(NAME), expected, "{pattern:?}");
        }
        assert!(Pattern::of(NAME).is_none());
    }

    proptest! {
        /// A pattern that takes exponential time never ends here.
        #[test]
        fn no_pattern_takes_long(pattern in "[*?a\\[\\]!-]{0,1000}") {
            if let Some(pattern) = Pattern::of(&pattern) {
                pattern.matches(&"a".repeat(70));
            }
        }

        #[test]
        fn stars_in_any_number_take_no_time(count in 1_usize..1500) {
            let pattern = Pattern::of(&format!("{}b", "*a".repeat(count))).unwrap();
            prop_assert!(!pattern.matches(&"a".repeat(70)));
        }
    }
}
