//! `flowtap policy`: Kubernetes `NetworkPolicies` on observed flows.
//!
//! Exit codes are those of `diff`: 0 for nothing found, 1 for something found, 2 for arguments that are wrong; those of
//! `sysexits.h` for files and machines that are.

mod check;
mod diff;
mod files;
mod inputs;
mod observe;
mod report;
mod suggest;

use flowtap_config::Config;
use flowtap_pipeline::Registry;

use super::config::load_for;
use super::output::print;
use crate::cli::policy::{ObservedArgs, PolicyCommand};
use crate::exit::ExitError;

/// Runs the subcommand.
///
/// # Errors
/// Its error; what it found, with the exit code 1.
pub(crate) fn policy(command: &PolicyCommand, registry: &Registry) -> Result<(), ExitError> {
    let (text, found) = match command {
        PolicyCommand::Check(args) => check::check(args, &observed(&args.observed, registry)?)?,
        PolicyCommand::Suggest(args) => suggest::suggest(args, &observed(&args.observed, registry)?)?,
        PolicyCommand::Diff(args) => diff::diff(args, &observed(&args.observed, registry)?)?,
    };
    print(&text)?;
    found
}

/// The config that observes: of its series and where they go nothing is used.
fn observed(args: &ObservedArgs, registry: &Registry) -> Result<Config, ExitError> {
    let keys = ["processors.direction", "processors.policy", "service.kubernetes"];
    load_for(&args.config, registry, &keys)
}
