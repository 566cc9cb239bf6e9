//! Which backup stands for one that would hold the same.

use api::{Backup, Reason, Verification};

/// Whether the newest backup of a monitor, which holds what its replica has now, stands for another one that is to be made for
/// this reason, with this comment. Pure.
///
/// Somebody who asks for a backup gets one. A restore that pairs its monitor again only needs what there is to be kept: it
/// pins what it gets. A full copy needs one that rotation leaves alone for a while, as one before a full copy, or a pinned
/// one. One that was found bad stands for none that must be kept: what it holds on disk may be spoilt.
pub fn stands_for(last: &Backup, reason: Reason, comment: &str) -> bool {
    let is_bad = matches!(last.verification, Verification::Failed { .. });
    match reason {
        Reason::Schedule => true,
        Reason::OnDemand => comment == api::BEFORE_PAIRING && !is_bad,
        Reason::BeforeResync => (last.reason == Reason::BeforeResync || last.pinned) && !is_bad,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verification::tests::{backup, failed};

    #[test]
    fn one_that_holds_the_same_stands_for_what_must_only_be_kept() {
        let last = |reason, pinned, verification| Backup { reason, pinned, ..backup(1, 1, verification) };
        use Reason::{BeforeResync, OnDemand, Schedule};
        for (last, [schedule, on_demand, pairing, copy]) in [
            (last(Schedule, false, Verification::Pending), [true, false, true, false]),
            (last(OnDemand, false, Verification::Pending), [true, false, true, false]),
            // What a restore has kept before it paired: no other one before the full copy.
            (last(OnDemand, true, Verification::Pending), [true, false, true, true]),
            (last(Schedule, true, Verification::Pending), [true, false, true, true]),
            (last(BeforeResync, false, Verification::Pending), [true, false, true, true]),
            (last(OnDemand, true, failed()), [true, false, false, false]),
            (last(BeforeResync, false, failed()), [true, false, false, false]),
        ] {
            for (reason, comment, expected) in [
                (Schedule, "", schedule),
                (OnDemand, "mine", on_demand),
                (OnDemand, api::BEFORE_PAIRING, pairing),
                (BeforeResync, "before another full copy", copy),
            ] {
                assert_eq!(stands_for(&last, reason, comment), expected, "{last:?} {reason:?} {comment}");
            }
        }
    }
}
