//! `flowtap classify`: the class of an address, and the rule that won.

use std::fmt::Write as _;
use std::net::IpAddr;

use flowtap_config::Config;
use flowtap_extensions::node;
use flowtap_pipeline::ClusterRanges;
use flowtap_pipeline::component::downcast;
use flowtap_processors::policy::{self, Lists, Tables};

use crate::exit::{Code, ExitError};

/// A line per address and processor `policy` of the config.
///
/// # Errors
/// A list's file that can't be read.
pub(crate) fn classify(config: &Config, addresses: &[IpAddr]) -> Result<String, ExitError> {
    let mut text = String::new();
    let node = node::describe();
    let policies = config
        .processors
        .iter()
        .filter_map(|(id, config)| Some((id, downcast::<policy::Config>(&**config)?)));
    for (id, policy) in policies {
        let lists =
            Lists::read(policy).map_err(|error| ExitError::new(Code::Config, format!("{id}: {error}")))?;
        let tables = Tables::new(&lists, &node, &ClusterRanges::default());
        for address in addresses {
            let (class, rule) = tables.classify(*address);
            let why = rule.map_or_else(
                || "in no range".to_owned(),
                |rule| format!("{} of {}", rule.range, rule.source),
            );
            // Writing to a String does not fail.
            let _ = writeln!(text, "{address}  {}  {why}  ({id})", class.as_str());
        }
    }
    Ok(text)
}
