//! What cannot be restored on this machine, and why. Pure: the machine's facts are gathered elsewhere.

use std::collections::BTreeSet;

use api::{Backup, Verification};

/// Free space that stays beside a restored database, in bytes: its recovery writes WAL before the old data goes.
pub const SPARE_BYTES: u64 = 512 << 20;

/// The machine on which a backup is to be restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// Version of the monitor.
    pub monitor_version: String,
    /// Major version of its PostgreSQL.
    pub postgresql_major: u32,
    /// Version of the GNU C library, such as `2.41`: text sorts by it.
    pub libc: String,
    /// Architecture of the processor, as Rust names it.
    pub architecture: &'static str,
    /// What `locale -a` prints.
    pub locales: BTreeSet<String>,
    /// Free bytes where the data directory lies.
    pub free_bytes: u64,
}

/// Why a backup cannot be restored here; empty: it can. Each is a sentence that names what would be needed.
pub fn obstacles(backup: &Backup, machine: &Machine) -> Vec<String> {
    let mut found = Vec::new();
    let mut differs = |what: &str, there: &str, here: &str| {
        if there != here {
            found.push(format!("It is of {what} {there}, and this machine has {here}: install {there}."));
        }
    };
    differs("monitor version", &backup.monitor.version, &machine.monitor_version);
    let major = |major: u32| major.to_string();
    differs("PostgreSQL", &major(backup.postgresql.major), &major(machine.postgresql_major));
    if let Some(architecture) = &backup.postgresql.architecture
        && architecture != machine.architecture
    {
        found.push(format!(
            "It is of a machine with architecture {architecture}, and this one has {}: its data files cannot be read here.",
            machine.architecture
        ));
    }
    for collation in &backup.postgresql.collations {
        if let Some(there) = collation.version.as_deref().filter(|_| collation.provider == "c")
            && there != machine.libc
        {
            found.push(format!(
                "Text in database {} sorts by C library {there}, and this machine has {}: its indexes would be wrong.",
                collation.database, machine.libc
            ));
        }
        for name in BTreeSet::from([&collation.collate, &collation.ctype]) {
            if !is_installed(name, &machine.locales) {
                found.push(format!(
                    "Database {} needs the locale {name}, which is not installed here: install locales-all.",
                    collation.database
                ));
            }
        }
    }
    let needed = backup.sizes.files.saturating_add(SPARE_BYTES);
    if needed > machine.free_bytes {
        found.push(format!(
            "It needs {}, and {} are free beside the old data: make room or take a larger disk.",
            gigabytes(needed.saturating_add(9_999_999)), // rounded up, or both would read the same
            gigabytes(machine.free_bytes)
        ));
    }
    if let Verification::Failed { reason, .. } = &backup.verification {
        found.push(format!("The backup server could not restore it either: {reason}"));
    }
    found
}

/// Whether the C library knows a locale: those that it has built in, or one that is listed, under whichever spelling of
/// the character set (`UTF-8`, `utf8`).
fn is_installed(name: &str, locales: &BTreeSet<String>) -> bool {
    let spelled = |name: &str| match name.split_once('.') {
        Some((language, charset)) => {
            let (charset, modifier) = charset.split_once('@').unwrap_or((charset, ""));
            let charset: String = charset.chars().filter(char::is_ascii_alphanumeric).collect();
            format!("{language}.{}@{modifier}", charset.to_ascii_lowercase())
        }
        None => name.to_owned(),
    };
    let wanted = spelled(name);
    matches!(wanted.as_str(), "C" | "POSIX" | "C.utf8@")
        || locales.iter().any(|known| spelled(known) == wanted)
}

/// Bytes as people read them.
pub fn gigabytes(bytes: u64) -> String {
    format!("{}.{:02} GB", bytes / 1_000_000_000, bytes % 1_000_000_000 / 10_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::{Collation, MonitorRef, PostgresInfo, Reason, Sizes};
    use jiff::Timestamp;

    fn machine() -> Machine {
        Machine {
            monitor_version: "1.2".into(),
            postgresql_major: 17,
            libc: "2.41".into(),
            architecture: "x86_64",
            locales: ["C", "de_DE.utf8", "nb_NO@euro"].map(str::to_owned).into(),
            free_bytes: 10_000_000_000,
        }
    }

    fn collation(provider: &str, locale: &str, version: Option<&str>) -> Collation {
        let version = version.map(str::to_owned);
        let [provider, locale] = [provider, locale].map(str::to_owned);
        Collation { database: "monitor".into(), provider, collate: locale.clone(), ctype: locale, version }
    }

    fn backup() -> Backup {
        Backup {
            format: 1,
            id: "20261125T120000Z".into(),
            sequence: 0,
            created: Timestamp::UNIX_EPOCH,
            reason: Reason::Schedule,
            comment: String::new(),
            pinned: false,
            monitor: MonitorRef { id: uuid::Uuid::from_u128(1), version: "1.2".into() },
            postgresql: PostgresInfo {
                major: 17,
                version: "17.6".into(),
                system_identifier: "1".into(),
                timeline: 1,
                superuser: Some("postgres".into()),
                checkpoint: None,
                flushed_lsn: "0/1".into(),
                block_size: 8192,
                checksums: true,
                architecture: Some("x86_64".into()),
                collations: vec![collation("c", "de_DE.UTF-8", Some("2.41"))],
            },
            sizes: Sizes { files: 9_000_000_000, tar: 9_100_000_000 },
            snapshot_ms: 1.0,
            verification: Verification::Pending,
            read: None,
            trouble: None,
        }
    }

    #[test]
    fn what_fits_is_restored_and_what_does_not_says_why() {
        type Change = fn(&mut Backup, &mut Machine);
        let table: &[(Change, &[&str])] = &[
            (|_, _| (), &[]),
            (|b, _| b.postgresql.collations = vec![collation("i", "C.UTF-8", Some("153.1"))], &[]),
            (|b, _| b.postgresql.collations = vec![collation("c", "C", None)], &[]),
            (
                |b, _| b.monitor.version = "1.1".into(),
                &["monitor version 1.1, and this machine has 1.2: install 1.1"],
            ),
            (|_, m| m.postgresql_major = 16, &["PostgreSQL 17, and this machine has 16"]),
            (|_, m| m.libc = "2.36".into(), &["sorts by C library 2.41, and this machine has 2.36"]),
            (|b, _| b.postgresql.architecture = None, &[]),
            (|_, m| m.architecture = "aarch64", &["architecture x86_64, and this one has aarch64"]),
            // It is recovered without a login.
            (|b, _| b.postgresql.superuser = None, &[]),
            (|_, m| m.locales.clear(), &["needs the locale de_DE.UTF-8, which is not installed here"]),
            (
                |_, m| m.free_bytes = 9_536_870_911,
                &["needs 9.54 GB, and 9.53 GB are free beside the old data"],
            ),
            (|_, m| m.free_bytes = 9_536_870_912, &[]),
            (
                |b, _| {
                    b.verification =
                        Verification::Failed { at: Timestamp::UNIX_EPOCH, reason: "bad page.".into() }
                },
                &["could not restore it either: bad page."],
            ),
            (
                |b, m| {
                    b.monitor.version = "1.1".into();
                    m.free_bytes = 0;
                },
                &["monitor version", "needs"],
            ),
        ];
        for (change, expected) in table {
            let (mut backup, mut machine) = (backup(), machine());
            change(&mut backup, &mut machine);
            let found = obstacles(&backup, &machine);
            assert_eq!(found.len(), expected.len(), "{found:?}");
            for (sentence, part) in found.iter().zip(*expected) {
                assert!(sentence.contains(part), "{sentence:?} does not say {part:?}");
            }
        }
    }

    #[test]
    fn locales_are_known_under_each_spelling() {
        let locales = machine().locales;
        for (name, installed) in [
            ("C", true),
            ("POSIX", true),
            ("C.UTF-8", true),
            ("de_DE.UTF-8", true),
            ("de_DE.utf8", true),
            ("de_DE.ISO-8859-1", false),
            ("nb_NO@euro", true),
            ("fr_FR.UTF-8", false),
        ] {
            assert_eq!(is_installed(name, &locales), installed, "{name}");
        }
    }
}
