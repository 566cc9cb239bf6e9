//! PostgreSQL's settings: which must change, and to what. Pure.
//!
//! A setting that is good enough is not written, so the administrator's own file stays in charge of it; one that we
//! wrote earlier is written again, as it would otherwise fall back.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::IpAddr;

/// Our file in the cluster's `conf.d`.
pub const FILE: &str = "infimonitor.conf";

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// Four WAL segments of 16 MiB: below that a slot is lost at the first hiccup.
const LEAST_KEPT: u64 = 64 * MIB;
/// WAL senders and slots that the backup server needs beside others': full copy, its WAL, stream, and spare.
const SENDERS: u64 = 10;

/// A setting as the server sees it now (view pg_settings).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Current {
    /// Value, in the setting's base unit.
    pub value: String,
    /// Whether it comes from our file.
    pub ours: bool,
}

/// Settings that may hold a password; PostgreSQL takes a file of ALTER SYSTEM with the former from `pg_basebackup -R`.
const SECRET: [&str; 2] = ["primary_conninfo", "ssl_passphrase_command"];
/// Options of `pg_hba.conf` that are passwords.
const SECRET_OPTIONS: [&str; 2] = ["ldapbindpasswd=", "radiussecrets="];
/// What backups have in their place.
const LEFT_OUT: &str = "left-out-of-backups";

/// The settings that are looked at.
pub const LOOKED_AT: [&str; 8] = [
    "listen_addresses",
    "wal_level",
    "max_wal_senders",
    "max_replication_slots",
    "max_slot_wal_keep_size",
    "ssl",
    "ssl_cert_file",
    "ssl_key_file",
];

/// What decides besides the settings themselves.
#[derive(Debug, Clone)]
pub struct Facts {
    /// Our address on the way to the backup server.
    pub own: IpAddr,
    /// Free space where the WAL lies plus the WAL that is there, in bytes.
    pub room_bytes: u64,
    /// Certificate and key files to use, where ours are.
    pub certificate: Option<(String, String)>,
}

/// How much WAL a slot may hold back, in MiB: half of the room, so that an absent backup server never fills the
/// disk (design D6); at least 1 GiB, as long as a quarter of the room is left.
pub fn slot_wal_keep_mib(room_bytes: u64) -> u64 {
    let half = room_bytes / 2;
    let least = GIB.min(room_bytes / 4 * 3);
    half.max(least).max(LEAST_KEPT) / MIB
}

/// Whether PostgreSQL listens for others than this machine.
pub fn is_exposed(listen_addresses: &str) -> bool {
    listen_addresses.split(',').map(str::trim).any(|name| {
        !name.is_empty()
            && name != "localhost"
            && !name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    })
}

/// The value of listen_addresses with which connections to `own` arrive; `None` if the present one does.
fn listen(present: &str, own: IpAddr) -> Option<String> {
    let mut names = present.split(',').map(str::trim);
    if !is_exposed(present) {
        return Some("*".into());
    }
    let all = if own.is_ipv4() { "0.0.0.0" } else { "::" };
    let reached = names
        .any(|name| name == "*" || name == all || name.parse::<IpAddr>().is_ok_and(|address| address == own));
    (!reached).then(|| format!("{present}, {own}"))
}

/// What our file has to say: name → value.
pub fn wanted(current: &BTreeMap<String, Current>, facts: &Facts) -> BTreeMap<&'static str, String> {
    let value = |name: &str| current.get(name).map_or("", |setting| setting.value.as_str());
    let ours = |name: &str| current.get(name).is_some_and(|setting| setting.ours);
    let mut wanted = BTreeMap::new();
    // A value of ours is kept as it is unless it has to grow.
    let mut decide = |name: &'static str, better: Option<String>| {
        if let Some(better) = better {
            wanted.insert(name, better);
        } else if ours(name) {
            wanted.insert(name, value(name).to_owned());
        }
    };
    decide("listen_addresses", listen(value("listen_addresses"), facts.own));
    decide("wal_level", (value("wal_level") == "minimal").then(|| "replica".into()));
    for name in ["max_wal_senders", "max_replication_slots"] {
        let enough = value(name).parse::<u64>().is_ok_and(|n| n >= SENDERS);
        decide(name, (!enough).then(|| SENDERS.to_string()));
    }
    // -1 is "unlimited"; a limit that the administrator set stays.
    let unlimited = value("max_slot_wal_keep_size") == "-1";
    let keep = format!("{}MB", slot_wal_keep_mib(facts.room_bytes));
    decide("max_slot_wal_keep_size", (unlimited || ours("max_slot_wal_keep_size")).then_some(keep));
    decide("ssl", (value("ssl") != "on").then(|| "on".into()));
    if let Some((certificate, key)) = &facts.certificate {
        decide("ssl_cert_file", Some(certificate.clone()));
        decide("ssl_key_file", Some(key.clone()));
    }
    wanted
}

/// The text of our file.
pub fn render(wanted: &BTreeMap<&'static str, String>) -> String {
    let mut text = "# Written by monitor-link setup, which writes it anew when it is run again.\n".to_owned();
    for (name, value) in wanted {
        // Writing to a String cannot fail.
        writeln!(text, "{name} = '{}'", value.replace('\'', "''")).ok();
    }
    text
}

/// A configuration file without the settings that may hold a password: backups carry it, and nobody needs to know from
/// them how this server once followed another. A rule of access stays, as without it the next one would hold; it has
/// [`LEFT_OUT`] for its password, and lets nobody in until somebody writes it there.
pub fn without_secrets(text: &str) -> String {
    let is_secret = |line: &str| {
        let name = line.trim_start();
        SECRET.iter().any(|secret| {
            name.get(..secret.len()).is_some_and(|start| start.eq_ignore_ascii_case(secret))
                && !name[secret.len()..].starts_with(|next: char| next.is_ascii_alphanumeric() || next == '_')
        })
    };
    text.split_inclusive('\n').filter(|line| !is_secret(line)).map(without_option_secrets).collect()
}

/// A line of `pg_hba.conf` without the values of [`SECRET_OPTIONS`]: a value ends with its field, at white space that is not
/// in quotes (PostgreSQL documentation, "The pg_hba.conf File").
fn without_option_secrets(line: &str) -> String {
    let (mut out, mut rest, mut in_quotes) = (String::with_capacity(line.len()), line, false);
    while let Some(next) = rest.chars().next() {
        let option = SECRET_OPTIONS
            .iter()
            .find(|option| rest.get(..option.len()).is_some_and(|start| start.eq_ignore_ascii_case(option)));
        if let Some(option) = option {
            let began_in_quotes = in_quotes;
            let value = &rest[option.len()..];
            let end = value.find(|c: char| {
                in_quotes ^= c == '"';
                !in_quotes && (began_in_quotes || c.is_whitespace())
            });
            out.push_str(&rest[..option.len()]);
            out.push_str(LEFT_OUT);
            rest = &value[end.unwrap_or(value.len())..];
            // The quote that ended the field is still to come.
            in_quotes = began_in_quotes && rest.starts_with('"');
            continue;
        }
        in_quotes ^= next == '"';
        out.push(next);
        rest = &rest[next.len_utf8()..];
    }
    out
}

/// `postgresql.conf` with our file included, if it does not read `conf.d` by itself; `None` if nothing is to change.
pub fn with_include(postgresql_conf: &str) -> Option<String> {
    let words = |line: &str| line.split('#').next().unwrap_or_default().replace(['\'', '='], " ");
    let included = postgresql_conf.lines().map(words).any(|line| {
        let line: Vec<_> = line.split_whitespace().collect();
        match line.as_slice() {
            [key, value] => {
                (key.eq_ignore_ascii_case("include_dir") && *value == "conf.d")
                    || (key.eq_ignore_ascii_case("include_if_exists") && value.ends_with(FILE))
            }
            _ => false,
        }
    });
    let end = if postgresql_conf.ends_with('\n') { "" } else { "\n" };
    (!included).then(|| format!("{postgresql_conf}{end}include_if_exists = 'conf.d/{FILE}'\n"))
}

/// What the server still has otherwise than our file wants it, as sentences.
pub fn differences(
    wanted: &BTreeMap<&'static str, String>,
    current: &BTreeMap<String, Current>,
) -> Vec<String> {
    wanted
        .iter()
        .filter(|(name, _)| !current.get(**name).is_some_and(|setting| setting.ours))
        .map(|(name, value)| {
            let is = current.get(*name).map_or("unknown", |setting| setting.value.as_str());
            format!(
                "{name} is {is:?} and not {value:?}: another file or ALTER SYSTEM sets it; remove it there"
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn current(rows: &[(&str, &str, bool)]) -> BTreeMap<String, Current> {
        let mut map: BTreeMap<_, _> = [
            ("listen_addresses", "localhost"),
            ("wal_level", "replica"),
            ("max_wal_senders", "10"),
            ("max_replication_slots", "10"),
            ("max_slot_wal_keep_size", "-1"),
            ("ssl", "off"),
        ]
        .map(|(name, value)| (name.to_owned(), Current { value: value.into(), ours: false }))
        .into();
        for (name, value, ours) in rows {
            map.insert((*name).into(), Current { value: (*value).into(), ours: *ours });
        }
        map
    }

    fn facts() -> Facts {
        Facts { own: "192.0.2.1".parse().unwrap(), room_bytes: 100 * GIB, certificate: None }
    }

    #[test]
    fn what_may_hold_a_password_is_left_out() {
        let text = "# kept\nwork_mem = '7MB'\nprimary_conninfo = 'password=secret'\n Primary_Conninfo 'x'\nprimary_conninfos=1\nport=1";
        assert_eq!(without_secrets(text), "# kept\nwork_mem = '7MB'\nprimary_conninfos=1\nport=1");
        for (rule, kept) in [
            (
                "host all all all ldap ldapserver=x ldapbindpasswd=se#cret ldapport=1\n",
                "host all all all ldap ldapserver=x ldapbindpasswd=left-out-of-backups ldapport=1\n",
            ),
            (
                "host all all all ldap LDAPBindPasswd=\"a b\" # c\n",
                "host all all all ldap LDAPBindPasswd=left-out-of-backups # c\n",
            ),
            (
                "host all all all ldap \"ldapbindpasswd=a b\" ldapport=1",
                "host all all all ldap \"ldapbindpasswd=left-out-of-backups\" ldapport=1",
            ),
            (
                "host all \"a b\" all radius radiussecrets=\"x y\",\"z\"\n",
                "host all \"a b\" all radius radiussecrets=left-out-of-backups\n",
            ),
            ("host all all all scram-sha-256\n", "host all all all scram-sha-256\n"),
        ] {
            assert_eq!(without_secrets(rule), kept);
        }
    }

    #[test]
    fn a_slot_may_hold_back_half_of_the_room() {
        let table = [
            (100 * GIB, 50 * 1024),
            (4 * GIB, 2048),
            (2 * GIB, 1024),
            (GIB + GIB / 2, 1024),
            (GIB, 768),
            (400 * MIB, 300),
            (10 * MIB, 64),
            (0, 64),
        ];
        for (room, expected) in table {
            assert_eq!(slot_wal_keep_mib(room), expected, "{room}");
        }
    }

    #[test]
    fn listening_is_extended_only_as_far_as_needed() {
        let v4: IpAddr = "192.0.2.1".parse().unwrap();
        let v6: IpAddr = "2001:db8::1".parse().unwrap();
        let table = [
            ("localhost", v4, false, Some("*")),
            ("", v4, false, Some("*")),
            ("127.0.0.1, ::1", v6, false, Some("*")),
            ("*", v4, true, None),
            ("0.0.0.0", v4, true, None),
            ("0.0.0.0", v6, true, Some("0.0.0.0, 2001:db8::1")),
            ("localhost,192.0.2.1", v4, true, None),
            ("localhost,192.0.2.9", v4, true, Some("localhost,192.0.2.9, 192.0.2.1")),
            ("db.example.com", v4, true, Some("db.example.com, 192.0.2.1")),
        ];
        for (present, own, exposed, expected) in table {
            assert_eq!(is_exposed(present), exposed, "{present}");
            assert_eq!(listen(present, own).as_deref(), expected, "{present} {own}");
        }
    }

    #[test]
    fn only_what_is_not_good_enough_is_set() {
        let names = |rows: &[(&str, &str, bool)]| {
            wanted(&current(rows), &facts()).into_iter().map(|(n, v)| format!("{n}={v}")).collect::<Vec<_>>()
        };
        assert_eq!(names(&[]), ["listen_addresses=*", "max_slot_wal_keep_size=51200MB", "ssl=on"]);
        assert_eq!(
            names(&[
                ("listen_addresses", "*", false),
                ("ssl", "on", false),
                ("max_slot_wal_keep_size", "4096", false)
            ]),
            [""; 0]
        );
        assert_eq!(
            names(&[
                ("listen_addresses", "*", true),
                ("wal_level", "minimal", false),
                ("max_wal_senders", "4", false),
                ("max_replication_slots", "20", true),
                ("max_slot_wal_keep_size", "4096", true),
                ("ssl", "on", true),
            ]),
            [
                "listen_addresses=*",
                "max_replication_slots=20",
                "max_slot_wal_keep_size=51200MB",
                "max_wal_senders=10",
                "ssl=on",
                "wal_level=replica",
            ]
        );
        assert!(names(&[("wal_level", "logical", false)]).iter().all(|line| !line.starts_with("wal_level")));
    }

    #[test]
    fn our_certificate_is_named_and_text_is_quoted() {
        let facts = Facts { certificate: Some(("/etc/a'b.crt".into(), "/etc/k".into())), ..facts() };
        let text = render(&wanted(&current(&[]), &facts));
        assert!(text.contains("\nssl_cert_file = '/etc/a''b.crt'\n"), "{text}");
        assert!(text.contains("\nssl_key_file = '/etc/k'\n"), "{text}");
    }

    #[test]
    fn our_file_is_included_once() {
        assert_eq!(with_include("x = 1\ninclude_dir = 'conf.d'\t# include\n"), None);
        assert_eq!(with_include("include_dir 'conf.d'\n"), None);
        let changed = with_include("#include_dir = 'conf.d'\nx = 1").unwrap();
        assert_eq!(
            changed,
            "#include_dir = 'conf.d'\nx = 1\ninclude_if_exists = 'conf.d/infimonitor.conf'\n"
        );
        assert_eq!(with_include(&changed), None);
    }

    #[test]
    fn a_setting_that_is_overridden_elsewhere_is_named() {
        let wanted = BTreeMap::from([("ssl", "on".to_owned())]);
        assert!(differences(&wanted, &current(&[("ssl", "on", true)])).is_empty());
        let found = differences(&wanted, &current(&[("ssl", "off", false)]));
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with("ssl is \"off\" and not \"on\""), "{found:?}");
    }
}
