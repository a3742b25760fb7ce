//! The files that the commands read.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use flowtap_network_policy::manifest::{self, ManifestError};
use flowtap_network_policy::policy::NetworkPolicy;
use flowtap_pipeline::ClusterObjects;

use crate::exit::{Code, ExitError};

/// A file of a cluster's objects is not longer: it is read as a whole.
const MAX_FILE_BYTES: u64 = 512 * 1024 * 1024;

/// The policies of a file.
pub(super) fn policies(file: &Path, namespace: &str) -> Result<Vec<NetworkPolicy>, ExitError> {
    let text = read(file)?;
    manifest::policies(&file.display().to_string(), &text, namespace).map_err(invalid)
}

/// The policies of several files, each of which has others.
pub(super) fn policies_of(files: &[PathBuf], namespace: &str) -> Result<Vec<NetworkPolicy>, ExitError> {
    let mut all = Vec::new();
    let mut places = HashMap::new();
    for file in files {
        for policy in policies(file, namespace)? {
            if let Some(first) = places.insert(policy.to_string(), file) {
                let (file, first) = (file.display(), first.display());
                let error = format!("{file}: duplicate policy {policy}; the first is in {first}");
                return Err(ExitError::new(Code::Data, error));
            }
            all.push(policy);
        }
    }
    Ok(all)
}

/// The objects of a file.
pub(super) fn objects(file: &Path) -> Result<ClusterObjects, ExitError> {
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
