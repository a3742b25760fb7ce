//! `flowtap policy suggest`: the least policies that allow what was observed.

use std::fmt::Write as _;
use std::io::{self, Write as _};

use flowtap_config::Config;
use flowtap_network_policy::manifest;
use flowtap_network_policy::suggest::{SuggestOptions, Suggestion, Suggestions, suggest as make};
use flowtap_network_policy::verdict::{Judge, Outcome};
use flowtap_pipeline::PeerClass;
use flowtap_pipeline::component::downcast;
use flowtap_pipeline::plain_text::escape;
use flowtap_processors::policy::{self, Lists, Source};
use serde_json::json;

use super::files::check_stdin;
use super::observe::{Observation, observe};
use super::report::{Rows, counted, incomplete, printed, remarks};
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
    check_stdin(&args.observed.cluster)?;
    let observation = observe(&args.observed, config)?;
    let lists = lists(config)?;
    let options = SuggestOptions {
        prefix_v4: args.prefix_v4,
        prefix_v6: args.prefix_v6,
        ranges: named_ranges(&lists),
        pod_ranges: ranges_of(&lists, PeerClass::K8sPod),
        service_ranges: ranges_of(&lists, PeerClass::K8sSvc),
        dns: unseen_dns(&observation).filter(|_| !args.no_dns),
        namespace: args.observed.namespace.clone(),
    };
    let suggestions = make(&observation.conversations, &observation.cluster, &options);
    let mut remarks = remarks(&observation);
    let without = suggestions.without.iter();
    remarks.extend(without.map(|without| format!("no policy for {without}")));
    // Names of files and recordings: a line break in one would end the comment that it is in.
    let remarks: Vec<_> = remarks.iter().map(|remark| escape(remark)).collect();
    let found = found(&observation, &suggestions);
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
        let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
        return Ok((printed(list), found));
    }
    let mut text = String::new();
    if !suggestions.policies.is_empty() {
        let flows = allowed(&observation, &suggestions);
        // Writing to a String does not fail.
        let _ = writeln!(
            text,
            "# Allows {flows}, as observed, and what the remarks below add. Review it before it is applied."
        );
    }
    if let Err(error) = &found {
        text.push_str(&format!("# {error}\n").replace("\n  hint: ", "\n# hint: "));
    }
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

/// The flows that the policies allow, as `check` counts them, and those that depend on an unknown pod.
fn allowed(observation: &Observation, suggestions: &Suggestions) -> String {
    let policies = suggestions
        .policies
        .iter()
        .map(|suggestion| suggestion.policy.clone());
    let policies: Vec<_> = policies.collect();
    let rows = Rows::judged(observation, &Judge::new(&policies, &observation.cluster));
    let flows = counted(rows.count(Outcome::Allowed), "flow");
    match rows.count(Outcome::Undecided) {
        0 => flows,
        undecided => format!("{flows} and leaves {undecided} undecided"),
    }
}

/// The error for policies that there are none of, or that do not know all that was recorded.
fn found(observation: &Observation, suggestions: &Suggestions) -> Result<(), ExitError> {
    let message = if suggestions.policies.is_empty() {
        format!("no policy was suggested: {}", why_none(observation, suggestions))
    } else if let Some(reason) = incomplete(observation) {
        let denied = if observation.interrupted.is_some() {
            "would have been measured"
        } else {
            "was recorded"
        };
        format!("the policies may deny what {denied}: {reason}")
    } else {
        return Ok(());
    };
    Err(ExitError::new(Code::Found, message))
}

/// Why DNS is allowed unseen; `None` if it would have been seen.
fn unseen_dns(observation: &Observation) -> Option<&'static str> {
    if observation.unplaced + observation.without_peer > 0 {
        Some("of some of the UDP that was observed the peers are not known")
    } else if observation.has_udp {
        None
    } else {
        Some("no UDP was observed")
    }
}

/// Why no policy was suggested, and what to do.
fn why_none(observation: &Observation, suggestions: &Suggestions) -> String {
    let flows = Rows::judged(observation, &Judge::new(&[], &observation.cluster)).len();
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

#[cfg(test)]
mod tests {
    use flowtap_network_policy::cluster::Cluster;
    use flowtap_network_policy::conversation::Conversations;
    use flowtap_network_policy::policy::NetworkPolicy;

    use super::*;

    fn observation(left_out: u64, unplaced: u64, without_peer: u64) -> Observation {
        Observation {
            conversations: Conversations::default(),
            cluster: Cluster::default(),
            left_out,
            unplaced,
            without_peer,
            has_udp: false,
            interrupted: None,
        }
    }

    #[test]
    fn policies_without_all_that_was_recorded_are_an_error() {
        let one = Suggestions {
            policies: vec![Suggestion {
                policy: NetworkPolicy::default(),
                notes: Vec::new(),
            }],
            ..Suggestions::default()
        };
        let error = |left_out, unplaced, without_peer| {
            let found = found(&observation(left_out, unplaced, without_peer), &one);
            found.map_err(|error| error.to_string()).err()
        };
        assert_eq!(error(0, 0, 0), None);
        assert!(error(1, 0, 0).unwrap().contains("--max-flows"));
        assert!(error(0, 1, 0).unwrap().contains("udp.max_flows"));
        // As of a check.
        assert_eq!(error(0, 0, 1), None);
        let none = found(&observation(1, 0, 0), &Suggestions::default()).unwrap_err();
        assert!(none.to_string().contains("no policy was suggested"), "{none}");
    }

    #[test]
    fn dns_is_allowed_unseen_with_the_reason() {
        assert_eq!(unseen_dns(&observation(0, 0, 0)), Some("no UDP was observed"));
        for udp in [observation(0, 1, 0), observation(0, 0, 1)] {
            let reason = unseen_dns(&udp).unwrap();
            assert!(reason.contains("peers are not known"), "{reason}");
        }
        let seen = Observation {
            has_udp: true,
            ..observation(0, 0, 0)
        };
        assert_eq!(unseen_dns(&seen), None);
    }
}
