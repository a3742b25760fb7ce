//! `flowtap policy diff`: the observed flows whose verdict differs between two sets of policies.

use std::path::PathBuf;
use std::slice;

use flowtap_config::Config;
use flowtap_network_policy::verdict::Judge;
use serde_json::json;

use super::files::check_stdin;
use super::inputs::Policies;
use super::observe::{Observation, observe};
use super::report::{Rows, counted, idle, incomplete, lines, names, nothing, printed, remarks};
use crate::cli::policy::DiffArgs;
use crate::exit::{Code, ExitError};

/// Beginnings of lines about each set of policies.
const LABELS: [&str; 2] = ["A: ", "B: "];

/// The report, and the error for verdicts that differ or were not made.
///
/// # Errors
/// A file or recording that can't be read.
pub(super) fn diff(args: &DiffArgs, config: &Config) -> Result<(String, Result<(), ExitError>), ExitError> {
    let sets = [&args.before, &args.after];
    check_stdin(sets.into_iter().chain(&args.observed.cluster))?;
    let of = |set: &PathBuf| Policies::of(slice::from_ref(set), &args.observed.namespace);
    let sets = [of(&args.before)?, of(&args.after)?];
    let observation = observe(&args.observed, config)?;
    let judges = sets
        .each_ref()
        .map(|set| Judge::new(&set.all, &observation.cluster));
    let (rows, same) = compare(&observation, &judges);
    let same = same.len();
    let mut notes = remarks(&observation);
    let idle_policies = judges.each_ref().map(Judge::idle);
    for ((set, idle_policies), label) in sets.iter().zip(&idle_policies).zip(LABELS) {
        let of_set = set.notes.iter().cloned().chain(idle(idle_policies));
        notes.extend(of_set.map(|note| format!("{label}{note}")));
    }
    notes.extend(nothing(&observation).map(str::to_owned));
    let text = if args.json {
        let report = json!({
            "different": rows.len(),
            "same": same,
            "records_left_out": observation.left_out,
            "records_unplaced": observation.unplaced,
            "records_without_peer": observation.without_peer,
            "policies_without_pods": {"before": names(&idle_policies[0]), "after": names(&idle_policies[1])},
            "notes": notes,
            "flows": rows.json(&["before", "after"]),
        });
        printed(report)
    } else {
        format!(
            "{}{}{} with another verdict, {same} with the same\n",
            rows.text(&LABELS, true),
            lines(&notes),
            counted(rows.len(), "flow"),
        )
    };
    let found = if rows.len() > 0 {
        Err(format!("{} with another verdict", counted(rows.len(), "flow")))
    } else if let Some(reason) = incomplete(&observation) {
        Err(reason)
    } else {
        Ok(())
    };
    Ok((
        text,
        found.map_err(|message| ExitError::new(Code::Found, message)),
    ))
}

/// The rows whose verdict differs, and the others: both are counted as a check counts them.
fn compare(observation: &Observation, judges: &[Judge<'_>; 2]) -> (Rows, Rows) {
    let (mut different, mut same) = (Rows::default(), Rows::default());
    for (conversation, sides) in &observation.conversations.seen {
        let verdicts = judges.each_ref().map(|judge| judge.judge(conversation));
        let rows = if verdicts[0].outcome() == verdicts[1].outcome() {
            &mut same
        } else {
            &mut different
        };
        rows.add(conversation, sides, verdicts.into(), &observation.cluster);
    }
    (different, same)
}

#[cfg(test)]
mod tests {
    use flowtap_network_policy::cluster::Cluster;
    use flowtap_network_policy::conversation::{Conversation, Conversations, End, Party};
    use flowtap_network_policy::manifest;
    use flowtap_network_policy::observed::Sides;

    use super::*;

    #[test]
    fn what_is_the_same_is_counted_by_workloads_as_what_differs() {
        let pods = (1..=5).map(|last| {
            format!(
                "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: a{last}, namespace: x, labels: {{app: a}}, ownerReferences: [{{kind: Job, name: a, \
                 controller: true}}]}}\nstatus: {{podIP: 10.1.0.{last}}}\n"
            )
        });
        let server = |name: &str, last| {
            format!(
                "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: x, labels: {{app: {name}}}}}\nstatus: {{podIP: 10.1.0.{last}}}\n"
            )
        };
        let text = pods.collect::<String>() + &server("b", 10) + &server("c", 11);
        let cluster = Cluster::new(manifest::objects("pods.yaml", &text).unwrap(), &[]);
        let ends: Vec<_> = cluster
            .pods()
            .map(|(id, pod)| End {
                party: Party::Pod(id),
                address: pod.addresses[0],
            })
            .collect();
        let (clients, servers) = ends.split_at(5);
        let mut conversations = Conversations::default();
        for (client, server) in clients
            .iter()
            .flat_map(|client| servers.iter().map(move |it| (client, it)))
        {
            let conversation = Conversation {
                client: client.clone(),
                server: server.clone(),
                port: 80,
                protocol: None,
            };
            conversations.seen.insert(conversation, Sides::default());
        }
        let observation = Observation {
            conversations,
            cluster,
            left_out: 0,
            unplaced: 0,
            without_peer: 0,
            has_udp: false,
            interrupted: None,
        };
        let closed = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: b, namespace: x}\nspec: {podSelector: {matchLabels: {app: b}}}\n";
        let closed = manifest::policies("b.yaml", closed, "default").unwrap();
        let judges = [&[][..], &closed].map(|policies| Judge::new(policies, &observation.cluster));
        let (different, same) = compare(&observation, &judges);
        assert_eq!((different.len(), same.len()), (1, 1));
    }
}
