//! 50001/tcp: a redirect to PostgreSQL's own port for the backup server, in a table of our own.
//!
//! PostgreSQL has to listen on the network for it, as a redirect delivers to the interface's address. So its own port
//! is closed to the outside, except for what came by a redirect, unless the host had exposed it before: then that is
//! the administrator's decision.

use std::net::IpAddr;

use firewall::rules::{PRIORITY_DSTNAT, PRIORITY_FILTER, chain, equals, field, has, port, replace, rule};
use nftables::batch::Batch;
use nftables::expr::{CT, Expression, Meta, MetaKey, NamedExpression};
use nftables::schema::Nftables;
use nftables::stmt::{NAT, Statement};
use nftables::types::{NfChainPolicy, NfChainType, NfHook};

/// Our table.
pub const TABLE: &str = "infimonitor_monitor";

/// The whole table, replacing an earlier one in one transaction. Without addresses (a name that cannot be resolved)
/// everybody is redirected, and PostgreSQL alone decides.
pub fn ruleset(from: &[IpAddr], postgres_port: u16, close_postgres_port: bool) -> Nftables<'static> {
    let mut batch = Batch::new();
    replace(&mut batch, TABLE);
    let at = |name, kind, hook| chain(TABLE, name, kind, hook, NfChainPolicy::Accept);
    batch.add(at("prerouting", NfChainType::NAT, (NfHook::Prerouting, PRIORITY_DSTNAT)));
    let redirect = |source: Option<Statement<'static>>| {
        let to = NAT { addr: None, family: None, port: Some(port(postgres_port)), flags: None };
        let dport = equals(field("tcp", "dport"), port(api::REPLICATION_PORT));
        source.into_iter().chain([dport, Statement::Redirect(Some(to))]).collect()
    };
    if from.is_empty() {
        batch.add(rule(TABLE, "prerouting", redirect(None)));
    }
    for address in from {
        let protocol = if address.is_ipv4() { "ip" } else { "ip6" };
        let source = equals(field(protocol, "saddr"), Expression::String(address.to_string().into()));
        batch.add(rule(TABLE, "prerouting", redirect(Some(source))));
    }
    if close_postgres_port {
        batch.add(at("input", NfChainType::Filter, (NfHook::Input, PRIORITY_FILTER)));
        let interface = Expression::Named(NamedExpression::Meta(Meta { key: MetaKey::Iifname }));
        let local = equals(interface, Expression::String("lo".into()));
        batch.add(rule(TABLE, "input", vec![local, Statement::Accept(None)]));
        let to_postgres = || equals(field("tcp", "dport"), port(postgres_port));
        let status = CT { key: "status".into(), family: None, dir: None };
        let redirected = has(NamedExpression::CT(status), "dnat");
        batch.add(rule(TABLE, "input", vec![to_postgres(), redirected, Statement::Accept(None)]));
        batch.add(rule(TABLE, "input", vec![to_postgres(), Statement::Drop(None)]));
    }
    batch.to_nftables()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(from: &[&str], close: bool) -> Vec<String> {
        let from: Vec<_> = from.iter().map(|a| a.parse().unwrap()).collect();
        ruleset(&from, 5432, close).objects.iter().map(|o| serde_json::to_string(o).unwrap()).collect()
    }

    #[test]
    fn the_table_is_replaced_as_a_whole() {
        let lines = lines(&["192.0.2.5"], false);
        let kinds: Vec<_> = lines.iter().map(|line| line.split('"').nth(1).unwrap()).collect();
        assert_eq!(kinds, ["add", "delete", "add", "add", "add"]);
        assert!(
            lines[..3]
                .iter()
                .all(|line| line.contains(r#""table":{"family":"inet","name":"infimonitor_monitor"}"#))
        );
    }

    #[test]
    fn each_address_of_the_server_is_redirected() {
        let rules = lines(&["192.0.2.5", "2001:db8::5"], false);
        assert_eq!(rules.len(), 6);
        assert!(rules[4].contains(r#""protocol":"ip","field":"saddr""#) && rules[4].contains("192.0.2.5"));
        assert!(rules[5].contains(r#""protocol":"ip6","field":"saddr""#) && rules[5].contains("2001:db8::5"));
        assert!(rules[4].contains(r#"{"redirect":{"port":5432}}"#), "{}", rules[4]);
        let anybody = lines(&[], false);
        assert!(anybody.len() == 5 && !anybody[4].contains("saddr"));
    }

    #[test]
    fn the_own_port_is_closed_only_where_it_was_closed() {
        assert!(!lines(&["192.0.2.5"], false).iter().any(|line| line.contains("input")));
        let closed = lines(&["192.0.2.5"], true);
        let input: Vec<_> = closed.iter().filter(|line| line.contains(r#""chain":"input""#)).collect();
        assert_eq!(input.len(), 3);
        assert!(input[0].contains("iifname") && input[0].contains("accept"));
        assert!(input[1].contains(r#""right":"dnat""#) && input[1].contains("accept"));
        assert!(input[2].contains("5432") && input[2].contains("drop"));
    }
}
