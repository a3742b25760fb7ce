//! `flowtap classify`: the class of an address, and the rule that won; also beside those of another config.

use std::fmt::Write as _;
use std::net::IpAddr;

use flowtap_config::Config;
use flowtap_extensions::node;
use flowtap_pipeline::component::downcast;
use flowtap_pipeline::{ClusterRanges, ComponentId, NodeInfo};
use flowtap_processors::policy::{self, Lists, Tables};

use crate::exit::{Code, ExitError};

/// A line per address and processor `policy` of the config.
///
/// # Errors
/// A list's file that can't be read.
pub(crate) fn classify(config: &Config, addresses: &[IpAddr]) -> Result<String, ExitError> {
    let mut text = String::new();
    for (id, tables) in tables(config, &node::describe())? {
        for address in addresses {
            let (class, why) = explained(&tables, *address);
            // Writing to a String does not fail.
            let _ = writeln!(text, "{address}  {class}  {why}  ({id})");
        }
    }
    Ok(text)
}

/// The same beside the classes of `candidate`, and the error for classes that differ.
///
/// # Errors
/// A list's file that can't be read.
pub(crate) fn diff(
    config: &Config,
    candidate: &Config,
    addresses: &[IpAddr],
) -> Result<(String, Result<(), ExitError>), ExitError> {
    let node = node::describe();
    let (live, candidate) = (tables(config, &node)?, tables(candidate, &node)?);
    let (mut text, mut different) = (String::new(), 0_usize);
    let find =
        |list: &[(ComponentId, Tables)], id: &ComponentId| list.iter().position(|(other, _)| other == id);
    // The live processors first, then those that only the candidate has.
    let added = candidate
        .iter()
        .filter(|(id, _)| find(&live, id).is_none())
        .map(|(id, _)| id);
    let ids: Vec<_> = live.iter().map(|(id, _)| id).chain(added).collect();
    for id in ids {
        let class = |list: &[(ComponentId, Tables)], address| match find(list, id) {
            Some(index) => explained(&list[index].1, address),
            None => ("no class", format!("no processor `{id}`")),
        };
        for address in addresses {
            let (before, why_before) = class(&live, *address);
            let (after, why_after) = class(&candidate, *address);
            different += usize::from(before != after);
            let mark = if before == after { "same" } else { "DIFFERENT" };
            // Writing to a String does not fail.
            let _ = writeln!(
                text,
                "{address}  {mark}  {before}: {why_before}  ->  {after}: {why_after}  ({id})"
            );
        }
    }
    let found = if different == 0 {
        Ok(())
    } else {
        let plural = if different == 1 { "" } else { "es" };
        Err(ExitError::new(
            Code::Found,
            format!("{different} address{plural} with another class"),
        ))
    };
    Ok((text, found))
}

/// The tables of each processor `policy`.
fn tables(config: &Config, node: &NodeInfo) -> Result<Vec<(ComponentId, Tables)>, ExitError> {
    let processors = config.processors.iter();
    let policies = processors.filter_map(|(id, config)| Some((id, downcast::<policy::Config>(&**config)?)));
    policies
        .map(|(id, policy)| {
            let lists = Lists::read(policy)
                .map_err(|error| ExitError::new(Code::Config, format!("{id}: {error}")))?;
            Ok((id.clone(), Tables::new(&lists, node, &ClusterRanges::default())))
        })
        .collect()
}

/// A class, and the rule that decided it.
fn explained(tables: &Tables, address: IpAddr) -> (&'static str, String) {
    let (class, rule) = tables.classify(address);
    let why = rule.map_or_else(
        || "in no range".to_owned(),
        |rule| format!("{} of {}", rule.range, rule.source),
    );
    (class.as_str(), why)
}
