//! Who may connect as the replication role: our own file, included by one line of `pg_hba.conf`. Pure.

use std::fmt::Write;
use std::net::IpAddr;

use api::Host;

/// Our file, beside `pg_hba.conf`.
pub const FILE: &str = "infimonitor.pg_hba.conf";
/// The role of the backup server.
pub const ROLE: &str = "backup_server";
/// The database in which the role asks for the state of its slot, where it is open.
pub const DATABASE: &str = "postgres";

/// The text of our file: the server by TLS and SCRAM, into `database` and for replication, and the role from nowhere else,
/// whatever later lines allow.
///
/// PostgreSQL accepts a *name* only if the client's address resolves back to it, which many networks do not offer:
/// so the addresses behind it at this moment are let in as well.
pub fn render(server: &Host, addresses: &[IpAddr], database: &str) -> String {
    let mut text = "# Written by monitor-link setup, which writes it anew when it is run again.\n".to_owned();
    let name = match server {
        Host::Name(name) => vec![name.clone()],
        Host::Address(_) => Vec::new(),
    };
    let cidr = |address: &IpAddr| format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 });
    for from in name.into_iter().chain(addresses.iter().map(cidr)) {
        for database in ["replication", database] {
            // Writing to a String cannot fail.
            writeln!(text, "hostssl {database} {ROLE} {from} scram-sha-256").ok();
        }
    }
    for line in ["local all,replication", "host all,replication"] {
        let from = if line.starts_with("host") { " all" } else { "" };
        writeln!(text, "{line} {ROLE}{from} reject").ok();
    }
    text
}

/// `pg_hba.conf` with our file included before everything else; `None` if it is so already.
pub fn with_include(pg_hba: &str) -> Option<String> {
    let line = format!("include_if_exists {FILE}");
    let first = pg_hba.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'));
    if first == Some(line.as_str()) {
        return None;
    }
    let rest: String = pg_hba.split_inclusive('\n').filter(|old| old.trim() != line).collect();
    Some(format!("{line}\n{rest}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(server: &str, addresses: &[&str]) -> Vec<String> {
        let addresses: Vec<_> = addresses.iter().map(|a| a.parse().unwrap()).collect();
        render(&server.parse().unwrap(), &addresses, DATABASE).lines().skip(1).map(str::to_owned).collect()
    }

    #[test]
    fn the_server_comes_in_by_tls_and_nobody_else_with_its_role() {
        let last =
            ["local all,replication backup_server reject", "host all,replication backup_server all reject"];
        assert_eq!(
            rules("192.0.2.5", &["192.0.2.5"]),
            [
                "hostssl replication backup_server 192.0.2.5/32 scram-sha-256",
                "hostssl postgres backup_server 192.0.2.5/32 scram-sha-256",
                last[0],
                last[1],
            ]
        );
        assert_eq!(
            rules("2001:db8::5", &["2001:db8::5"])[0],
            "hostssl replication backup_server 2001:db8::5/128 scram-sha-256"
        );
        let named = rules("backup1.example.com", &["192.0.2.5", "2001:db8::5"]);
        assert_eq!(named[0], "hostssl replication backup_server backup1.example.com scram-sha-256");
        assert_eq!(named.len(), 8);
        assert_eq!(rules("backup1", &[]).len(), 4);
    }

    #[test]
    fn the_include_comes_first_and_once() {
        let old = "# comment\n\nlocal all all peer\n";
        let new = with_include(old).unwrap();
        assert_eq!(new, format!("include_if_exists {FILE}\n{old}"));
        assert_eq!(with_include(&new), None);
        assert_eq!(with_include(&format!("# x\n{new}")), None);
        let moved = format!("local all all peer\ninclude_if_exists {FILE}\n");
        assert_eq!(with_include(&moved).unwrap(), format!("include_if_exists {FILE}\nlocal all all peer\n"));
    }
}
