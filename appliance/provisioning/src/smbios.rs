//! SMBIOS type 11 (OEM strings): how a hypervisor hands a document to its guest.
//!
//! The kernel shows the structure table as `/sys/firmware/dmi/tables/DMI`. Firmware tables in the field are not
//! always well-formed: reading stops at the first structure that makes no sense, and that is an error only if
//! answers lie behind it. A machine must neither refuse to boot for its firmware's sake, nor take the defaults
//! although it was told otherwise.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::answers::{Answers, AnswersError};

/// Where the kernel shows the table.
pub const TABLE: &str = "sys/firmware/dmi/tables/DMI";

/// What an OEM string with answers begins with; base64 of the document follows.
pub const PREFIX: &str = "infimonitor.answers:";

/// Length of a structure's header in bytes: type, length, handle (SMBIOS 3.7, 6.1.2).
const HEADER: usize = 4;
const TYPE_OEM_STRINGS: u8 = 11;
const TYPE_END_OF_TABLE: u8 = 127;

/// The OEM strings of a structure table, up to its end or the first malformed structure.
pub fn oem_strings(table: &[u8]) -> Vec<String> {
    let mut strings = Vec::new();
    let mut rest = table;
    while let Some((kind, body, next)) = structure(rest) {
        if kind == TYPE_END_OF_TABLE {
            break;
        }
        if kind == TYPE_OEM_STRINGS {
            strings.extend(
                body.split(|byte| *byte == 0)
                    .filter(|text| !text.is_empty())
                    .map(|text| String::from_utf8_lossy(text).into_owned()),
            );
        }
        rest = next;
    }
    strings
}

/// Splits the first structure off: its type, its string set, what follows.
fn structure(table: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (kind, length) = (*table.first()?, usize::from(*table.get(1)?));
    if length < HEADER {
        return None;
    }
    let tail = table.get(length..)?;
    // The string set ends with two zero bytes, also when it is empty.
    let end = tail.windows(2).position(|pair| pair == [0, 0])?;
    Some((kind, &tail[..end], &tail[end + 2..]))
}

/// The answers among OEM strings, if there are any.
///
/// # Errors
/// Several answers, bad base64, or a document that [`Answers::from_yaml`] refuses.
pub fn find_answers(strings: &[String]) -> Result<Option<Answers>, AnswersError> {
    let found: Vec<_> = strings.iter().filter_map(|text| text.strip_prefix(PREFIX)).collect();
    match found.as_slice() {
        [] => Ok(None),
        [encoded] => {
            let bad = |cause: String| AnswersError::Encoding { cause };
            let bytes = STANDARD.decode(encoded.trim()).map_err(|error| bad(error.to_string()))?;
            let text = String::from_utf8(bytes).map_err(|error| bad(error.utf8_error().to_string()))?;
            Answers::from_yaml(&text).map(Some)
        }
        several => Err(AnswersError::Several(several.len())),
    }
}

/// The answers in a structure table, if there are any.
///
/// # Errors
/// As [`find_answers`], and [`AnswersError::Table`] if answers lie where the table cannot be read any more.
pub fn answers_in_table(table: &[u8]) -> Result<Option<Answers>, AnswersError> {
    let answers = find_answers(&oem_strings(table))?;
    let hidden = answers.is_none() && table.windows(PREFIX.len()).any(|bytes| bytes == PREFIX.as_bytes());
    if hidden { Err(AnswersError::Table) } else { Ok(answers) }
}

/// The OEM string that carries these answers: for the lab (`-smbios type=11,path=FILE`) and for tests.
///
/// # Errors
/// The answers cannot be written as YAML.
pub fn to_oem_string(answers: &Answers) -> Result<String, AnswersError> {
    Ok(format!("{PREFIX}{}", STANDARD.encode(answers.to_yaml()?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answers::Role;
    use proptest::prelude::*;

    /// A structure with a formatted area of `area` and these strings.
    fn made(kind: u8, area: &[u8], strings: &[&str]) -> Vec<u8> {
        let mut bytes = vec![kind, (HEADER + area.len()) as u8, 0x34, 0x12];
        bytes.extend(area);
        for text in strings {
            bytes.extend(text.as_bytes());
            bytes.push(0);
        }
        if strings.is_empty() {
            bytes.push(0);
        }
        bytes.push(0);
        bytes
    }

    fn table(structures: &[Vec<u8>]) -> Vec<u8> {
        structures.concat()
    }

    fn answers() -> String {
        to_oem_string(&Answers::for_role(Role::Monitor)).unwrap()
    }

    #[test]
    fn oem_strings_are_found_among_other_structures() {
        let end = made(TYPE_END_OF_TABLE, &[], &[]);
        let system = made(1, &[1, 2, 3, 4, 0, 0, 0], &["QEMU", "Standard PC"]);
        let cases: &[(Vec<u8>, &[&str])] = &[
            (vec![], &[]),
            (end.clone(), &[]),
            (table(&[system.clone(), end.clone()]), &[]),
            (table(&[system.clone(), made(11, &[2], &["a", "b"]), end.clone()]), &["a", "b"]),
            (
                table(&[made(11, &[1], &["a"]), system.clone(), made(11, &[1], &["b"]), end.clone()]),
                &["a", "b"],
            ),
            (table(&[made(11, &[0], &[]), end.clone()]), &[]),
            // behind the end of the table
            (table(&[end.clone(), made(11, &[1], &["a"])]), &[]),
            // no end-of-table structure
            (table(&[made(11, &[1], &["a"])]), &["a"]),
            // malformed: header too short, length beyond the end, strings without an end
            (table(&[made(11, &[1], &["a"]), vec![11, 3, 0, 0, 0, 0]]), &["a"]),
            (table(&[made(11, &[1], &["a"]), vec![11, 200, 0, 0, 1, 0, 0]]), &["a"]),
            (table(&[made(11, &[1], &["a"]), vec![11, 5, 0, 0, 1, b'x']]), &["a"]),
            (vec![11], &[]),
        ];
        for (bytes, expected) in cases {
            assert_eq!(oem_strings(bytes), *expected, "{bytes:?}");
        }
    }

    #[test]
    fn answers_are_taken_from_the_one_string_that_carries_them() {
        let text = answers();
        let strings = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        assert_eq!(find_answers(&strings(&["x", "io.systemd.credential:a=b"])), Ok(None));
        assert_eq!(find_answers(&strings(&["x", &text])), Ok(Some(Answers::for_role(Role::Monitor))));
        assert_eq!(find_answers(&strings(&[&text, &text])), Err(AnswersError::Several(2)));
        for bad in ["infimonitor.answers:%%%", "infimonitor.answers:/w=="] {
            assert!(matches!(find_answers(&strings(&[bad])), Err(AnswersError::Encoding { .. })), "{bad}");
        }
        let empty = find_answers(&strings(&["infimonitor.answers:"]));
        assert!(matches!(empty, Err(AnswersError::Document { .. })), "{empty:?}");
    }

    #[test]
    fn answers_behind_damage_are_an_error_and_damage_alone_is_not() {
        let text = answers();
        let damage = vec![1, 2, 0, 0];
        let good = made(11, &[1], &[&text]);
        assert_eq!(answers_in_table(&damage), Ok(None));
        assert_eq!(answers_in_table(&table(&[good.clone(), damage.clone()])).map(|a| a.is_some()), Ok(true));
        assert_eq!(answers_in_table(&table(&[damage, good.clone()])), Err(AnswersError::Table));
        assert_eq!(answers_in_table(&good[..good.len() - 2]), Err(AnswersError::Table));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let strings = oem_strings(&bytes);
            prop_assert!(strings.iter().map(String::len).sum::<usize>() <= 3 * bytes.len());
        }

        #[test]
        fn any_strings_come_back(list in proptest::collection::vec("[ -~]{1,40}", 1..8)) {
            let strings: Vec<_> = list.iter().map(String::as_str).collect();
            prop_assert_eq!(oem_strings(&made(11, &[strings.len() as u8], &strings)), list);
        }
    }
}
