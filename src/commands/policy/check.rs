//! `flowtap policy check`: the observed flows that policies deny, and the rule that decides.

use flowtap_config::Config;
use flowtap_network_policy::verdict::{Judge, Outcome};
use serde_json::json;

use super::files::check_stdin;
use super::inputs::Policies;
use super::observe::observe;
use super::report::{Rows, counted, idle, incomplete, lines, names, nothing, printed, remarks};
use crate::cli::policy::CheckArgs;
use crate::exit::{Code, ExitError};

/// The report, and the error for flows that are denied, were not judged or, if asked for, are undecided.
///
/// # Errors
/// A file or recording that can't be read.
pub(super) fn check(args: &CheckArgs, config: &Config) -> Result<(String, Result<(), ExitError>), ExitError> {
    check_stdin(args.file.iter().chain(&args.observed.cluster))?;
    let Policies {
        all, notes: left_out, ..
    } = Policies::of(&args.file, &args.observed.namespace)?;
    let observation = observe(&args.observed, config)?;
    let judge = Judge::new(&all, &observation.cluster);
    let idle_policies = judge.idle();
    let mut notes = remarks(&observation);
    notes.extend(left_out);
    notes.extend(idle(&idle_policies));
    if all.is_empty() {
        notes.insert(0, "the files have no policies: no pod is isolated".to_owned());
    }
    notes.extend(nothing(&observation).map(str::to_owned));
    let rows = Rows::judged(&observation, &judge);
    let [denied, undecided, allowed] =
        [Outcome::Denied, Outcome::Undecided, Outcome::Allowed].map(|outcome| rows.count(outcome));
    let text = if args.json {
        let report = json!({
            "denied": denied,
            "undecided": undecided,
            "allowed": allowed,
            "records_left_out": observation.left_out,
            "records_unplaced": observation.unplaced,
            "records_without_peer": observation.without_peer,
            "policies_without_pods": names(&idle_policies),
            "notes": notes,
            "flows": rows.json(&[""]),
        });
        printed(report)
    } else {
        format!(
            "{}{}{} denied, {undecided} undecided, {allowed} allowed\n",
            rows.text(&[""], args.all),
            lines(&notes),
            counted(denied, "flow"),
        )
    };
    let found = if denied > 0 {
        Err(format!("{} denied", counted(denied, "flow")))
    } else if undecided > 0 && args.fail_on_undecided {
        Err(format!(
            "{} undecided; hint: list the pods and namespaces that are not known with --cluster",
            counted(undecided, "flow")
        ))
    } else if let Some(reason) = incomplete(&observation) {
        Err(reason)
    } else if let Some(reason) = nothing(&observation).filter(|_| args.fail_on_undecided) {
        Err(reason.to_owned())
    } else {
        Ok(())
    };
    Ok((
        text,
        found.map_err(|message| ExitError::new(Code::Found, message)),
    ))
}
