//! `flowtap policy`: Kubernetes `NetworkPolicies` on observed flows.
//!
//! Exit codes are those of `diff`: 0 for nothing found, 1 for something found, 2 for arguments that are wrong; those of
//! `sysexits.h` for files and machines that are.

mod check;
mod diff;
mod observe;
mod report;
mod suggest;

use std::fs;
use std::path::Path;

use flowtap_network_policy::manifest::{self, ManifestError};
use flowtap_network_policy::policy::NetworkPolicy;
use flowtap_pipeline::{ClusterObjects, Registry};

use super::config::load;
use super::print;
use crate::cli::policy::PolicyCommand;
use crate::exit::{Code, ExitError};

/// A file of a cluster's objects is not longer: it is read as a whole.
const MAX_FILE_BYTES: u64 = 512 * 1024 * 1024;

/// Runs the subcommand.
///
/// # Errors
/// Its error; what it found, with the exit code 1.
pub(crate) fn policy(command: &PolicyCommand, registry: &Registry) -> Result<(), ExitError> {
    let (text, found) = match command {
        PolicyCommand::Check(args) => check::check(args, &load(&args.observed.config, registry)?)?,
        PolicyCommand::Suggest(args) => {
            let text = suggest::suggest(args, &load(&args.observed.config, registry)?)?;
            (text, Ok(()))
        }
        PolicyCommand::Diff(args) => diff::diff(args, &load(&args.observed.config, registry)?)?,
    };
    print(&text)?;
    found
}

/// The policies of a file.
fn policies(file: &Path, namespace: &str) -> Result<Vec<NetworkPolicy>, ExitError> {
    let text = read(file)?;
    manifest::policies(&file.display().to_string(), &text, namespace).map_err(invalid)
}

/// The objects of a file.
fn objects(file: &Path) -> Result<ClusterObjects, ExitError> {
    let text = read(file)?;
    manifest::objects(&file.display().to_string(), &text).map_err(invalid)
}

fn read(file: &Path) -> Result<String, ExitError> {
    let unreadable =
        |error: &dyn std::fmt::Display| ExitError::new(Code::NoInput, format!("{}: {error}", file.display()));
    let size = fs::metadata(file).map_err(|error| unreadable(&error))?.len();
    if size > MAX_FILE_BYTES {
        let error = format!(
            "{size} bytes; at most {MAX_FILE_BYTES} are read; hint: split it, --cluster may be given again"
        );
        return Err(unreadable(&error));
    }
    fs::read_to_string(file).map_err(|error| unreadable(&error))
}

fn invalid(error: ManifestError) -> ExitError {
    ExitError::new(Code::Data, error)
}
