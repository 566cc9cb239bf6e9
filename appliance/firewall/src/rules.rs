//! Tables, chains and rules of the family inet, as `nft -j` takes them (libnftables-json(5)).

use std::borrow::Cow;
use std::path::Path;

use anyhow::{Context, Result};
use nftables::batch::Batch;
use nftables::expr::{Expression, NamedExpression, Payload, PayloadField};
use nftables::schema::{Chain, NfListObject, Nftables, Rule, Table};
use nftables::stmt::{Match, Operator, Statement};
use nftables::types::{NfChainPolicy, NfChainType, NfFamily, NfHook};

/// nftables' standard priority of destination NAT.
pub const PRIORITY_DSTNAT: i32 = -100;
/// And that of filters.
pub const PRIORITY_FILTER: i32 = 0;

/// Makes a table, replacing an earlier one of this name.
pub fn replace(batch: &mut Batch<'static>, table: &'static str) {
    let table = || Table { family: NfFamily::INet, name: table.into(), handle: None };
    // Deleting what is not there fails, so it is made first.
    batch.add(NfListObject::Table(table()));
    batch.delete(NfListObject::Table(table()));
    batch.add(NfListObject::Table(table()));
}

/// A chain at a hook.
pub fn chain(
    table: &'static str,
    name: &'static str,
    kind: NfChainType,
    (hook, priority): (NfHook, i32),
    policy: NfChainPolicy,
) -> NfListObject<'static> {
    NfListObject::Chain(Chain {
        family: NfFamily::INet,
        table: table.into(),
        name: name.into(),
        _type: Some(kind),
        hook: Some(hook),
        prio: Some(priority),
        policy: Some(policy),
        ..Chain::default()
    })
}

/// A rule at the end of a chain.
pub fn rule(
    table: &'static str,
    chain: &'static str,
    statements: Vec<Statement<'static>>,
) -> NfListObject<'static> {
    NfListObject::Rule(Rule {
        family: NfFamily::INet,
        table: table.into(),
        chain: chain.into(),
        expr: Cow::Owned(statements),
        ..Rule::default()
    })
}

/// Matches what is equal; a set on the right: what is in it.
pub fn equals(left: Expression<'static>, right: Expression<'static>) -> Statement<'static> {
    Statement::Match(Match { left, right, op: Operator::EQ })
}

/// Matches where a flag is set, such as a state of connection tracking.
pub fn has(left: NamedExpression<'static>, flag: &'static str) -> Statement<'static> {
    let right = Expression::String(flag.into());
    Statement::Match(Match { left: Expression::Named(left), right, op: Operator::IN })
}

/// A field of a protocol's header, such as `tcp dport`.
pub fn field(protocol: &'static str, field: &'static str) -> Expression<'static> {
    let field = PayloadField { protocol: protocol.into(), field: field.into() };
    Expression::Named(NamedExpression::Payload(Payload::PayloadField(field)))
}

/// A port.
pub fn port(port: u16) -> Expression<'static> {
    Expression::Number(u32::from(port))
}

/// The program that puts rules into force, found on PATH.
pub const NFT: &str = "nft";

/// Puts rules into force by the program `nft`.
///
/// # Errors
/// nft is missing or refuses.
pub fn apply(nft: &Path, rules: &Nftables<'_>) -> Result<()> {
    let no_arguments: [&str; 0] = [];
    nftables::helper::apply_ruleset_with_args(rules, Some(nft), no_arguments.iter()).with_context(|| {
        format!("cannot set the firewall rules by {}; is nftables installed?", nft.display())
    })
}
