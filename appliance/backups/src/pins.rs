//! Whether the network may pin one more backup (design D14). Pure.
//!
//! What is pinned stays until the console unpins it, so whoever knows the network password must not be able to fill the
//! volume with it for good. Their number is limited; and of more than one, all must find room beside the replica even on the
//! day on which they share nothing with it any more.

use crate::rotation::Rules;

/// What is known when a pin is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pins {
    /// How many are pinned.
    pub count: usize,
    /// The sizes of their files together, in bytes.
    pub bytes: u64,
    /// The size of the files of the one that is to be pinned.
    pub own: u64,
    /// Size of the replica's files, about.
    pub replica: u64,
    /// Size of the data volume in bytes.
    pub total: u64,
    /// Free on it in bytes.
    pub free: u64,
}

/// Why it may not be pinned, as a sentence's part; `None`: it may.
pub fn refusal(pins: &Pins, rules: &Rules) -> Option<String> {
    let Pins { count, bytes, own, replica, total, free } = *pins;
    let low = rules.limits.low_space(total);
    let most = usize::try_from(rules.limits.pinned).unwrap_or(usize::MAX);
    if count >= most {
        return Some(format!("{count} backups are pinned, and the network may pin up to {most}"));
    }
    if free < low {
        return Some(format!("space is low, with {free} bytes free of {total}"));
    }
    let needed = bytes.saturating_add(own).saturating_add(replica).saturating_add(low);
    (count > 0 && needed > total).then(|| {
        format!(
            "what is pinned may come to take {} bytes, and then less than {low} of {total} would be left beside the replica",
            bytes.saturating_add(own)
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_are_limited_in_number_and_in_what_they_may_come_to_take() {
        const GB: u64 = 1_000_000_000;
        // 500 GB, a database of 50 GB: nine copies of it fit above the tenth that has to stay free.
        let pins = |count: usize| Pins {
            count,
            bytes: count as u64 * 50 * GB,
            own: 50 * GB,
            replica: 50 * GB,
            total: 500 * GB,
            free: 400 * GB,
        };
        let large = Pins { own: 250 * GB, replica: 250 * GB, ..pins(0) };
        let table = [
            (pins(0), None),
            (pins(7), None),
            (pins(8), Some("may come to take 450000000000 bytes")),
            (Pins { bytes: 0, own: GB, ..pins(9) }, None),
            (
                Pins { bytes: 0, own: GB, ..pins(10) },
                Some("10 backups are pinned, and the network may pin up to 10"),
            ),
            (Pins { free: 49 * GB, ..pins(0) }, Some("space is low")),
            // On a volume that the sizing allows for, one may be pinned.
            (large, None),
            (Pins { count: 1, bytes: 250 * GB, ..large }, Some("may come to take")),
        ];
        for (pins, expected) in table {
            let said = refusal(&pins, &Rules::default());
            assert_eq!(said.is_some(), expected.is_some(), "{pins:?}: {said:?}");
            assert!(said.unwrap_or_default().contains(expected.unwrap_or_default()));
        }
    }
}
