//! `flowtap policy suggest`: the least policies that allow what was observed.

use std::fmt::Write as _;
use std::io::{self, Write as _};

use flowtap_config::Config;
use flowtap_network_policy::manifest;
use flowtap_network_policy::suggest::{SuggestOptions, suggest as make};
use flowtap_pipeline::component::downcast;
use flowtap_pipeline::plain_text::escape;
use flowtap_processors::policy::{self, Lists, Source};
use serde_json::json;

use super::observe::observe;
use super::report::{counted, remarks};
use crate::cli::policy::SuggestArgs;
use crate::exit::{Code, ExitError};

/// The policies as YAML, a document each, with notes as comments.
///
/// # Errors
/// A file or recording that can't be read.
pub(super) fn suggest(args: &SuggestArgs, config: &Config) -> Result<String, ExitError> {
    let observation = observe(&args.observed, config)?;
    let options = SuggestOptions {
        prefix_v4: args.prefix_v4,
        prefix_v6: args.prefix_v6,
        ranges: named_ranges(config)?,
        dns: !args.no_dns && !observation.has_udp,
        namespace: args.observed.namespace.clone(),
    };
    let suggestions = make(&observation.conversations, &observation.cluster, &options);
    let mut remarks = remarks(&observation);
    // Names of files and recordings: a line break in one would end the comment that it is in.
    let without = suggestions.without.iter().map(|without| escape(without));
    remarks.extend(without.map(|without| format!("no policy for {without}")));
    let values = suggestions
        .policies
        .iter()
        .map(|suggestion| suggestion.policy.to_value());
    if args.json {
        for remark in &remarks {
            let _ = writeln!(io::stderr(), "flowtap: note: {remark}");
        }
        let items: Vec<_> = values.collect();
        return Ok(format!(
            "{:#}\n",
            json!({"apiVersion": "v1", "kind": "List", "items": items})
        ));
    }
    let mut text = format!(
        "# Allows {}, as observed, and what the remarks below add. Review it before it is applied.\n",
        counted(observation.conversations.seen.len(), "flow")
    );
    for remark in &remarks {
        // Writing to a String does not fail.
        let _ = writeln!(text, "# {remark}");
    }
    for (suggestion, value) in suggestions.policies.iter().zip(values) {
        text.push_str("---\n");
        for note in &suggestion.notes {
            let _ = writeln!(text, "# {}", escape(note));
        }
        let yaml = manifest::to_yaml(&value).map_err(|error| ExitError::new(Code::Software, error))?;
        text.push_str(&yaml);
    }
    Ok(text)
}

/// The ranges of the config's custom classes.
fn named_ranges(config: &Config) -> Result<Vec<(ipnet::IpNet, String)>, ExitError> {
    let mut ranges = Vec::new();
    let policies = config
        .processors
        .iter()
        .filter_map(|(id, it)| Some((id, downcast::<policy::Config>(&**it)?)));
    for (id, policy) in policies {
        let lists =
            Lists::read(policy).map_err(|error| ExitError::new(Code::Config, format!("{id}: {error}")))?;
        for (class, source, list) in &lists.classes {
            if matches!(source, Source::CustomClass(_)) {
                ranges.extend(
                    list.iter()
                        .map(|range| (range.0, format!("the class {}", class.as_str()))),
                );
            }
        }
    }
    // The most specific first: it is the one that names an address.
    ranges.sort_by_key(|(range, _)| std::cmp::Reverse(range.prefix_len()));
    ranges.dedup_by_key(|(range, _)| *range);
    Ok(ranges)
}
