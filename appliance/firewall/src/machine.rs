//! The table of our own machines. Whoever is not let in gets no answer: all that is not named is dropped.
//!
//! The ports on which a password is asked for take so many connections of one address and no more, so that nobody can keep
//! others out by opening all that the programs behind them allow. For IPv6 an address is the /64, as anybody has all of one.

use std::net::IpAddr;

use nftables::batch::Batch;
use nftables::expr::{
    BinaryOperation, CT, Expression, Meta, MetaKey, NamedExpression, Prefix, Range, SetItem,
};
use nftables::schema::Nftables;
use nftables::stmt::{CTCount, Meter, Statement};
use nftables::types::{NfChainPolicy, NfChainType, NfHook};
use provisioning::Role;

use crate::rules::{PRIORITY_FILTER, chain, equals, field, has, port, replace, rule};

/// Our table.
pub const TABLE: &str = "infimonitor";
const INPUT: &str = "input";
/// Connections of one address to the ports with passwords: the API's and FTP's clients of a few people, and a page that asks
/// for the status each second.
pub const CONNECTIONS_MAX: u32 = 48;
/// Where a /64 ends.
const NETWORK_V6: &str = "ffff:ffff:ffff:ffff::";

/// Ports that ask for a password.
fn password_ports(role: Option<Role>) -> &'static [u16] {
    match role {
        Some(Role::BackupServer) => &[api::CONTROL_PORT, api::FTP_PORT],
        Some(Role::Monitor | Role::MonitorRecovery) => &[api::WEB_PORT],
        Some(Role::Installer) | None => &[],
    }
}

/// The table of a machine, replacing an earlier one; `role`: `None` where it has none yet. `only`: who may come to the ports
/// of the role; `None`: everybody.
pub fn ruleset(role: Option<Role>, only: Option<&[IpAddr]>) -> Nftables<'static> {
    let mut batch = Batch::new();
    replace(&mut batch, TABLE);
    for (name, hook) in [(INPUT, NfHook::Input), ("forward", NfHook::Forward)] {
        let hook = (hook, PRIORITY_FILTER);
        batch.add(chain(TABLE, name, NfChainType::Filter, hook, NfChainPolicy::Drop));
    }
    let mut add = |statements| batch.add(rule(TABLE, INPUT, statements));
    for state in ["established", "related"] {
        add(vec![has(tracked("state"), state), accept()]);
    }
    add(vec![has(tracked("state"), "invalid"), Statement::Drop(None)]);
    add(vec![equals(meta(MetaKey::Iifname), Expression::String("lo".into())), accept()]);
    for protocol in ["icmp", "ipv6-icmp"] {
        add(vec![equals(meta(MetaKey::L4proto), Expression::String(protocol.into())), accept()]);
    }
    // Answers of DHCP: to a broadcast, or from another address than was asked, so they belong to no connection.
    add(vec![equals(field("udp", "sport"), port(67)), equals(field("udp", "dport"), port(68)), accept()]);
    let link_local = prefix("fe80::", 10);
    add(vec![equals(field("ip6", "saddr"), link_local), equals(field("udp", "dport"), port(546)), accept()]);

    let guarded = password_ports(role);
    if !guarded.is_empty() {
        for (name, address) in [("connections4", field("ip", "saddr")), ("connections6", network_v6())] {
            let count = CTCount { val: Expression::Number(CONNECTIONS_MAX), inv: Some(true) };
            let too_many =
                Meter { name: name.into(), key: address, stmt: Box::new(Statement::CTCount(count)) };
            add(vec![
                equals(field("tcp", "dport"), ports(guarded)),
                has(tracked("state"), "new"),
                Statement::Meter(too_many),
                Statement::Drop(None),
            ]);
        }
    }
    let mut open = guarded.iter().copied().map(port).collect::<Vec<_>>();
    if role == Some(Role::BackupServer) {
        let (first, last) = (*api::FTP_PASSIVE_PORTS.start(), *api::FTP_PASSIVE_PORTS.end());
        open.push(Expression::Range(Box::new(Range { range: [port(first), port(last)] })));
    }
    if !open.is_empty() {
        let dport = || equals(field("tcp", "dport"), set(open.clone()));
        match only {
            None => add(vec![dport(), accept()]),
            Some(addresses) => {
                for address in addresses {
                    add(vec![equals(source(address), text(&address.to_string())), dport(), accept()]);
                }
            }
        }
    }
    if matches!(role, Some(Role::Monitor | Role::MonitorRecovery)) {
        // Who comes to 50001 was redirected by the table of monitor-link, which knows the backup server.
        add(vec![has(tracked("status"), "dnat"), accept()]);
    }
    batch.to_nftables()
}

fn accept() -> Statement<'static> {
    Statement::Accept(None)
}

fn text(text: &str) -> Expression<'static> {
    Expression::String(text.to_owned().into())
}

fn tracked(key: &'static str) -> NamedExpression<'static> {
    NamedExpression::CT(CT { key: key.into(), family: None, dir: None })
}

fn meta(key: MetaKey) -> Expression<'static> {
    Expression::Named(NamedExpression::Meta(Meta { key }))
}

fn source(address: &IpAddr) -> Expression<'static> {
    field(if address.is_ipv4() { "ip" } else { "ip6" }, "saddr")
}

fn network_v6() -> Expression<'static> {
    let operation = BinaryOperation::AND(field("ip6", "saddr"), text(NETWORK_V6));
    Expression::BinaryOperation(Box::new(operation))
}

fn prefix(address: &str, len: u32) -> Expression<'static> {
    Expression::Named(NamedExpression::Prefix(Prefix { addr: Box::new(text(address)), len }))
}

fn set(items: Vec<Expression<'static>>) -> Expression<'static> {
    Expression::Named(NamedExpression::Set(items.into_iter().map(SetItem::Element).collect()))
}

fn ports(ports: &[u16]) -> Expression<'static> {
    set(ports.iter().copied().map(port).collect())
}
