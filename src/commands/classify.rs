//! `flowtap classify`: the class of an address, and the rule that won; also beside those of another config.

use std::fmt::Write as _;
use std::net::IpAddr;

use flowtap_config::Config;
use flowtap_extensions::node;
use flowtap_pipeline::component::downcast;
use flowtap_pipeline::{ClusterRanges, ComponentId, NodeInfo};
use flowtap_processors::policy::{self, Lists, Tables};
use serde::Serialize;
use serde_json::{Value, json};

use crate::exit::{Code, ExitError};

/// The class of an address, and the rule that decided it.
#[derive(Debug, PartialEq, Serialize)]
struct Decision {
    /// `None` if the config has no such processor.
    class: Option<&'static str>,
    /// `None` if the address is in no range.
    rule: Option<String>,
}

impl Decision {
    /// By the tables of a processor `policy`, if there is one.
    fn of(tables: Option<&Tables>, address: IpAddr) -> Self {
        let Some(tables) = tables else {
            return Self {
                class: None,
                rule: None,
            };
        };
        let (class, rule) = tables.classify(address);
        Self {
            class: Some(class.as_str()),
            rule: rule.map(|rule| format!("{} of {}", rule.range, rule.source)),
        }
    }

    /// In words: the class, and the reason.
    fn texts(&self, id: &ComponentId) -> (&'static str, String) {
        match (self.class, &self.rule) {
            (None, _) => ("no class", format!("no processor `{id}`")),
            (Some(class), None) => (class, "in no range".to_owned()),
            (Some(class), Some(rule)) => (class, rule.clone()),
        }
    }
}

/// A line per address and processor `policy` of the config, or the same as JSON.
///
/// # Errors
/// A list's file that can't be read.
pub(crate) fn classify(config: &Config, addresses: &[IpAddr], is_json: bool) -> Result<String, ExitError> {
    let (mut text, mut rows) = (String::new(), Vec::new());
    for (id, tables) in tables(config, &node::describe())? {
        for address in addresses {
            let decision = Decision::of(Some(&tables), *address);
            let (class, why) = decision.texts(&id);
            // Writing to a String does not fail.
            let _ = writeln!(text, "{address}  {class}  {why}  ({id})");
            rows.push(json!({
                "address": address, "processor": id.as_str(), "class": decision.class, "rule": decision.rule,
            }));
        }
    }
    Ok(if is_json {
        json_text(&json!({"addresses": rows}))
    } else {
        text
    })
}

/// The same beside the classes of `candidate`, and the error for classes that differ.
///
/// # Errors
/// A list's file that can't be read.
pub(crate) fn diff(
    config: &Config,
    candidate: &Config,
    addresses: &[IpAddr],
    is_json: bool,
) -> Result<(String, Result<(), ExitError>), ExitError> {
    let node = node::describe();
    let (live, candidate) = (tables(config, &node)?, tables(candidate, &node)?);
    let (mut text, mut rows, mut different) = (String::new(), Vec::new(), 0_usize);
    // The live processors first, then those that only the candidate has.
    let added = candidate.iter().filter(|(id, _)| find(&live, id).is_none());
    let ids: Vec<_> = live.iter().chain(added).map(|(id, _)| id).collect();
    for id in ids {
        for address in addresses {
            let [before, after] = [&live, &candidate].map(|list| Decision::of(find(list, id), *address));
            let is_same = before.class == after.class;
            different += usize::from(!is_same);
            let mark = if is_same { "same" } else { "DIFFERENT" };
            let [(was, why_was), (is, why_is)] = [&before, &after].map(|decision| decision.texts(id));
            // Writing to a String does not fail.
            let _ = writeln!(
                text,
                "{address}  {mark}  {was}: {why_was}  ->  {is}: {why_is}  ({id})"
            );
            rows.push(json!({
                "address": address, "processor": id.as_str(), "different": !is_same, "before": before, "after": after,
            }));
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
    if is_json {
        text = json_text(&json!({"different": different, "addresses": rows}));
    }
    Ok((text, found))
}

fn json_text(report: &Value) -> String {
    format!("{report:#}\n")
}

/// The tables of the processor with this id.
fn find<'a>(list: &'a [(ComponentId, Tables)], id: &ComponentId) -> Option<&'a Tables> {
    let found = list.iter().find(|(other, _)| other == id);
    found.map(|(_, tables)| tables)
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
