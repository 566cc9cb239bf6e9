//! `/etc/machine-id` (machine-id(5)): made once, kept on *state*, so that it is the same over boots and slots.

use std::path::PathBuf;

use anyhow::Result;
use uuid::Uuid;

use crate::places::Places;
use crate::report::say;

/// Makes the machine's id if there is no valid one, and returns the file that holds it.
///
/// # Errors
/// *state* cannot be written.
pub fn ensure(places: &Places) -> Result<PathBuf> {
    let path = places.setting("machine-id");
    match files::read(&path)? {
        Some(text) if is_valid(&text) => {
            say("machine-id", "is there");
            return Ok(path);
        }
        Some(_) => say("machine-id", "is damaged; making a new one"),
        None => say("machine-id", "is missing; making one"),
    }
    let id = format!("{}\n", Uuid::new_v4().simple());
    files::write(&path, id.as_bytes(), 0o444, Some((places.ids.root, places.ids.root)))?;
    Ok(path)
}

/// 32 lower-case hexadecimal digits, not all zero, and a newline.
fn is_valid(text: &str) -> bool {
    let Some(id) = text.strip_suffix('\n') else { return false };
    id.len() == 32
        && id.bytes().all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c))
        && id.bytes().any(|c| c != b'0')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::places::testing::places;

    #[test]
    fn the_id_is_made_once_and_a_damaged_one_is_replaced() {
        let (_dir, places) = places();
        let path = ensure(&places).unwrap();
        let first = std::fs::read_to_string(&path).unwrap();
        assert!(is_valid(&first), "{first}");
        ensure(&places).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), first);
        for damaged in
            ["", "uninitialized\n", "0123", &format!("{}\n", "0".repeat(32)), &first.to_uppercase()]
        {
            std::fs::remove_file(&path).unwrap();
            std::fs::write(&path, damaged).unwrap();
            ensure(&places).unwrap();
            let made = std::fs::read_to_string(&path).unwrap();
            assert!(is_valid(&made) && made != first, "{damaged:?} → {made}");
        }
    }
}
