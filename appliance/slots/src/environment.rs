//! GRUB's environment block: 1024 bytes of `name=value` lines that GRUB reads and writes at boot (`grubenv`).
//!
//! Whatever is in it, it is read: a block that is damaged has no variables, and every variable that is missing has a
//! default. GRUB's own commands write it back whole, so variables that are not ours are kept.

/// Size of a block in bytes (grub-editenv's `DEFAULT_ENVBLK_SIZE`).
pub const BLOCK_BYTES: usize = 1024;
/// Variables have to fit into the first of the block's two sectors: a disk writes one sector whole or not at all, and
/// the second is always the same.
pub const USED_BYTES: usize = 512;
/// First line, by which GRUB knows a block.
const SIGNATURE: &str = "# GRUB Environment Block\n";

/// Variables in the order of the file; of equal names the last counts, as with GRUB.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Environment {
    variables: Vec<(String, String)>,
}

/// A block that would be larger than one sector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("grubenv would have {0} bytes, more than the {USED_BYTES} of a sector")]
pub struct TooLong(usize);

impl Environment {
    /// Reads a block; `None` if it is none, as GRUB decides it: another size, or another first line.
    pub fn parse(block: &[u8]) -> Option<Self> {
        if block.len() != BLOCK_BYTES {
            return None;
        }
        let lines = block.strip_prefix(SIGNATURE.as_bytes())?;
        let mut variables = Vec::new();
        let mut rest = lines;
        while !rest.is_empty() && rest[0] != b'#' {
            let Some((line, next)) = line(rest) else { break };
            rest = next;
            if let Some((name, value)) = line.split_once('=') {
                variables.push((name.to_owned(), value.to_owned()));
            }
        }
        Some(Self { variables })
    }

    /// The block's bytes.
    ///
    /// # Errors
    /// [`TooLong`]
    pub fn render(&self) -> Result<[u8; BLOCK_BYTES], TooLong> {
        let mut text = SIGNATURE.to_owned();
        for (name, value) in &self.variables {
            let value = value.replace('\\', "\\\\").replace('\n', "\\\n");
            text.push_str(&format!("{name}={value}\n"));
        }
        if text.len() > USED_BYTES {
            return Err(TooLong(text.len()));
        }
        let mut block = [b'#'; BLOCK_BYTES];
        block[..text.len()].copy_from_slice(text.as_bytes());
        Ok(block)
    }

    /// A variable's value.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.variables.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Sets everything that `other` says.
    pub fn overlay(&mut self, other: Self) {
        for (name, value) in other.variables {
            self.set(&name, &value);
        }
    }

    /// Sets a variable.
    pub fn set(&mut self, name: &str, value: &str) {
        self.variables.retain(|(known, _)| known != name);
        self.variables.push((name.to_owned(), value.to_owned()));
    }
}

/// Splits off a line, with `\` taking the meaning from the character after it. `None`: there is no end of line, or the
/// line is no text.
fn line(bytes: &[u8]) -> Option<(String, &[u8])> {
    let mut line = Vec::new();
    let mut at = 0;
    loop {
        match *bytes.get(at)? {
            b'\n' => return Some((String::from_utf8(line).ok()?, &bytes[at + 1..])),
            b'\\' => {
                at += 1;
                line.push(*bytes.get(at)?);
            }
            byte => line.push(byte),
        }
        at += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn block(text: &str) -> Vec<u8> {
        let mut block = text.as_bytes().to_vec();
        block.resize(BLOCK_BYTES, b'#');
        block
    }

    #[test]
    fn blocks_are_read_as_grub_reads_them() {
        let read = |text: &str| Environment::parse(&block(text));
        assert_eq!(read("# GRUB Environment Block\n"), Some(Environment::default()));
        let environment = read("# GRUB Environment Block\nORDER=b a\nA_TRY=1\nx=a\\\\b\nA_TRY=2\n").unwrap();
        assert_eq!(environment.get("ORDER"), Some("b a"));
        assert_eq!(environment.get("A_TRY"), Some("2"));
        assert_eq!(environment.get("x"), Some("a\\b"));
        assert_eq!(environment.get("B_TRY"), None);
        for damaged in ["", "\0\0\0", "# grub environment block\n"] {
            assert_eq!(read(damaged), None, "{damaged:?}");
        }
        assert_eq!(Environment::parse(b"# GRUB Environment Block\n"), None, "a file of another size");
        assert_eq!(Environment::parse(b""), None, "an emptied file");
    }

    #[test]
    fn grub_editenv_reads_what_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("grubenv");
        let mut environment = Environment::default();
        environment.set("ORDER", "b a");
        environment.set("odd", "a\\b");
        std::fs::write(&file, environment.render().unwrap()).unwrap();
        let mut editenv = tools::Toolbox::open().unwrap().command("grub-editenv");
        let output = editenv.arg(&file).arg("list").output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "ORDER=b a\nodd=a\\b\n");
    }

    #[test]
    fn what_does_not_fit_into_a_sector_is_refused() {
        let mut environment = Environment::default();
        environment.set("x", &"y".repeat(USED_BYTES));
        assert!(environment.render().is_err());
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(variables in prop::collection::btree_map("[A-Za-z_]{1,9}", "[ -~]{0,20}", 0..8)) {
            let mut environment = Environment::default();
            for (name, value) in &variables {
                environment.set(name, value);
            }
            prop_assert_eq!(Environment::parse(&environment.render().unwrap()), Some(environment));
        }

        #[test]
        fn no_bytes_are_too_strange(mut bytes in prop::collection::vec(any::<u8>(), 0..BLOCK_BYTES)) {
            let mut block = SIGNATURE.as_bytes().to_vec();
            block.append(&mut bytes);
            block.resize(BLOCK_BYTES, b'#');
            prop_assert!(Environment::parse(&block).is_some());
        }
    }
}
