//! `flowtap policy diff`: the observed flows whose verdict differs between two sets of policies.

use flowtap_config::Config;
use flowtap_network_policy::verdict::Judge;
use serde_json::json;

use super::inputs::policies;
use super::observe::observe;
use super::report::{Rows, counted, incomplete, lines, remarks};
use crate::cli::policy::DiffArgs;
use crate::exit::{Code, ExitError};

/// The report, and the error for verdicts that differ or were not made.
///
/// # Errors
/// A file or recording that can't be read.
pub(super) fn diff(args: &DiffArgs, config: &Config) -> Result<(String, Result<(), ExitError>), ExitError> {
    let before = policies(&args.before, &args.observed.namespace)?;
    let after = policies(&args.after, &args.observed.namespace)?;
    let observation = observe(&args.observed, config)?;
    let judges = [&before, &after].map(|policies| Judge::new(policies, &observation.cluster));
    let mut rows = Rows::default();
    let mut same = 0_usize;
    for (conversation, sides) in &observation.conversations.seen {
        let verdicts = judges.each_ref().map(|judge| judge.judge(conversation));
        if verdicts[0].outcome() == verdicts[1].outcome() {
            same += 1;
        } else {
            rows.add(conversation, sides, verdicts.into(), &observation.cluster);
        }
    }
    let text = if args.json {
        let report = json!({
            "different": rows.len(),
            "same": same,
            "records_left_out": observation.left_out,
            "records_unplaced": observation.unplaced,
            "records_without_peer": observation.without_peer,
            "notes": remarks(&observation),
            "flows": rows.json(&["before", "after"]),
        });
        format!("{report:#}\n")
    } else {
        format!(
            "{}{}{} with another verdict, {same} with the same\n",
            rows.text(&["A: ", "B: "], true),
            lines(&remarks(&observation)),
            counted(rows.len(), "flow"),
        )
    };
    let found = if rows.len() > 0 {
        Err(format!("{} with another verdict", counted(rows.len(), "flow")))
    } else if let Some(reason) = incomplete(&observation) {
        Err(reason.to_owned())
    } else {
        Ok(())
    };
    Ok((
        text,
        found.map_err(|message| ExitError::new(Code::Found, message)),
    ))
}
