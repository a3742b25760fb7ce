//! `flowtap policy suggest`: the least policies that allow what was observed.

use std::fmt::Write as _;
use std::io::{self, Write as _};

use flowtap_config::Config;
use flowtap_network_policy::manifest;
use flowtap_network_policy::suggest::{SuggestOptions, Suggestion, Suggestions, suggest as make};
use flowtap_pipeline::PeerClass;
use flowtap_pipeline::component::downcast;
use flowtap_pipeline::plain_text::escape;
use flowtap_processors::policy::{self, Lists, Source};
use serde_json::json;

use super::observe::{Observation, observe};
use super::report::{counted, remarks};
use crate::cli::policy::SuggestArgs;
use crate::exit::{Code, ExitError};

/// The policies as YAML, a document each, with notes as comments, and the error if there is none.
///
/// # Errors
/// A file or recording that can't be read.
pub(super) fn suggest(
    args: &SuggestArgs,
    config: &Config,
) -> Result<(String, Result<(), ExitError>), ExitError> {
    let observation = observe(&args.observed, config)?;
    let lists = lists(config)?;
    let options = SuggestOptions {
        prefix_v4: args.prefix_v4,
        prefix_v6: args.prefix_v6,
        ranges: named_ranges(&lists),
        pod_ranges: ranges_of(&lists, PeerClass::K8sPod),
        service_ranges: ranges_of(&lists, PeerClass::K8sSvc),
        dns: !args.no_dns && !observation.has_udp,
        namespace: args.observed.namespace.clone(),
    };
    let suggestions = make(&observation.conversations, &observation.cluster, &options);
    let mut remarks = remarks(&observation);
    // Names of files and recordings: a line break in one would end the comment that it is in.
    let without = suggestions.without.iter().map(|without| escape(without));
    remarks.extend(without.map(|without| format!("no policy for {without}")));
    let found = if suggestions.policies.is_empty() {
        let message = format!(
            "no policy was suggested: {}",
            why_none(&observation, &suggestions)
        );
        Err(ExitError::new(Code::Found, message))
    } else {
        Ok(())
    };
    let values = suggestions
        .policies
        .iter()
        .map(|suggestion| suggestion.policy.to_value());
    if args.json {
        for remark in &remarks {
            let _ = writeln!(io::stderr(), "flowtap: note: {remark}");
        }
        for Suggestion { policy, notes } in &suggestions.policies {
            for note in notes {
                let note = format!("{policy}: {note}");
                let _ = writeln!(io::stderr(), "flowtap: note: {}", escape(&note));
            }
        }
        let items: Vec<_> = values.collect();
        let text = format!(
            "{:#}\n",
            json!({"apiVersion": "v1", "kind": "List", "items": items})
        );
        return Ok((text, found));
    }
    let mut text = match &found {
        Ok(()) => format!(
            "# Allows {}, as observed, and what the remarks below add. Review it before it is applied.\n",
            counted(observation.conversations.seen.len(), "flow")
        ),
        Err(error) => format!("# {error}\n").replace("\n  hint: ", "\n# hint: "),
    };
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
    Ok((text, found))
}

/// Why no policy was suggested, and what to do.
fn why_none(observation: &Observation, suggestions: &Suggestions) -> String {
    let flows = observation.conversations.seen.len();
    if flows == 0 {
        "no flow was observed\n  hint: record for longer, or with --attempts if none connected".to_owned()
    } else if suggestions.without.is_empty() {
        format!(
            "{} observed, and no pod that is known was an end of it on the recorded node\n  \
             hint: record on the nodes where the workloads run, and list all pods with --cluster",
            counted(flows, "flow")
        )
    } else {
        let workloads = counted(suggestions.without.len(), "workload");
        format!("no policy can select {workloads}; the notes say why")
    }
}

/// The lists of the config's processors `policy`.
fn lists(config: &Config) -> Result<Vec<Lists>, ExitError> {
    let policies = config
        .processors
        .iter()
        .filter_map(|(id, it)| Some((id, downcast::<policy::Config>(&**it)?)));
    let lists = policies.map(|(id, policy)| {
        Lists::read(policy).map_err(|error| ExitError::new(Code::Config, format!("{id}: {error}")))
    });
    lists.collect()
}

/// The ranges of the custom classes.
fn named_ranges(lists: &[Lists]) -> Vec<(ipnet::IpNet, String)> {
    let mut ranges = Vec::new();
    for (class, source, list) in lists.iter().flat_map(|lists| &lists.classes) {
        if matches!(source, Source::CustomClass(_)) {
            ranges.extend(
                list.iter()
                    .map(|range| (range.0, format!("the class {}", class.as_str()))),
            );
        }
    }
    // The most specific first: it is the one that names an address.
    ranges.sort_by_key(|(range, _)| std::cmp::Reverse(range.prefix_len()));
    ranges.dedup_by_key(|(range, _)| *range);
    ranges
}

/// The ranges that the config gives one of the built-in classes.
fn ranges_of(lists: &[Lists], class: PeerClass) -> Vec<ipnet::IpNet> {
    let classes = lists.iter().flat_map(|lists| &lists.classes);
    let own = classes.filter(|(it, source, _)| *it == class && matches!(source, Source::List(_)));
    own.flat_map(|(_, _, list)| list.iter().map(|range| range.0))
        .collect()
}
