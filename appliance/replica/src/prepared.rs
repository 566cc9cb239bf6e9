//! Transactions that are prepared for two-phase commit (`PREPARE TRANSACTION`) and not ended.
//!
//! They outlive their session and the server, and so do their locks: a table that one has locked, or `pg_class` of a
//! database, lets nobody in, whoever asks, until somebody ends the transaction. A restored database has them as they were.
//! A proof has to read what they lock, so their state files are removed from the clone: PostgreSQL takes a transaction
//! without one for rolled back.

/// The folder of their state files in a data directory, a file each. A server that is stopped in order has written all.
pub const PREPARED_FOLDER: &str = "pg_twophase";

/// Transactions that are named in a sentence.
const NAMED: usize = 5;

/// The numbers of the transactions that have these state files, in order; other names are passed over.
pub fn prepared<'a>(names: impl IntoIterator<Item = &'a str>) -> Vec<u32> {
    let mut numbers: Vec<u32> = names.into_iter().filter_map(number).collect();
    numbers.sort_unstable();
    numbers
}

/// The transaction whose state file has this name: epoch and number in hexadecimal, and before PostgreSQL 17 the number alone.
fn number(name: &str) -> Option<u32> {
    let is_one = [8, 16].contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    let (_, last) = name.split_at_checked(name.len().checked_sub(8)?)?;
    u32::from_str_radix(last, 16).ok().filter(|_| is_one)
}

/// What a proof says of them; `None`: there are none.
pub fn not_proven(prepared: &[u32]) -> Option<String> {
    named(prepared).map(|named| {
        format!(
            "Not checked: what was written by {named}. A restored database has each of them, with its locks, until COMMIT \
             PREPARED or ROLLBACK PREPARED."
        )
    })
}

/// What is told of them after a restore; `None`: there are none.
pub fn restored(prepared: &[u32]) -> Option<String> {
    named(prepared).map(|named| {
        format!(
            "The restored database has {named}. Each keeps its locks until COMMIT PREPARED or ROLLBACK PREPARED; \
             pg_prepared_xacts lists them."
        )
    })
}

fn named(prepared: &[u32]) -> Option<String> {
    let shown: Vec<String> = prepared.iter().take(NAMED).map(u32::to_string).collect();
    let shown = shown.join(", ");
    Some(match prepared {
        [] => return None,
        [_] => format!("the prepared transaction {shown}"),
        all if all.len() > NAMED => {
            format!("the prepared transactions {shown} and {} more", all.len() - NAMED)
        }
        _ => format!("the prepared transactions {shown}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_is_told_by_the_name_of_its_file() {
        for (name, expected) in [
            ("00000000000002E9", Some(745)),
            ("00000001FFFFFFFF", Some(u32::MAX)),
            ("000002e9", Some(745)),
            ("2E9", None),
            ("+00002E9", None),
            ("000002E9.tmp", None),
            ("0000000ü", None),
            ("", None),
        ] {
            assert_eq!(number(name), expected, "{name}");
        }
        assert_eq!(prepared(["000002EA", "x", "000002E9"]), [745, 746]);
    }

    #[test]
    fn each_is_named_and_many_are_counted() {
        assert_eq!((not_proven(&[]), restored(&[])), (None, None));
        for (prepared, part) in [
            (vec![7], "the prepared transaction 7. "),
            (vec![7, 8], "the prepared transactions 7, 8. "),
            ((1..=7).collect(), "the prepared transactions 1, 2, 3, 4, 5 and 2 more. "),
        ] {
            for said in [not_proven(&prepared), restored(&prepared)] {
                assert!(said.as_ref().is_some_and(|said| said.contains(part)), "{said:?}");
            }
        }
    }
}
