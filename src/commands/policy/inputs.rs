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
            let first = places.insert(policy.to_string(), file);
            if let Some(first) = first.filter(|_| !policy.is_name_generated()) {
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
    let bytes = fs::read(file).map_err(|error| unreadable(&error))?;
    String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = valid.split(|byte| *byte == b'\n').count();
        let error = format!(
            "{}, line {line}: not UTF-8, in which YAML and JSON are read",
            file.display()
        );
        ExitError::new(Code::Data, error)
    })
}

fn invalid(error: ManifestError) -> ExitError {
    ExitError::new(Code::Data, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_not_utf_8_is_invalid_with_the_line() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("p.yaml");
        fs::write(&file, b"kind: NetworkPolicy\n# caf\xe9\n").unwrap();
        for error in [
            policies(&file, "default").unwrap_err(),
            objects(&file).unwrap_err(),
        ] {
            assert_eq!(error.code, Code::Data, "{error}");
            assert!(error.to_string().contains("p.yaml, line 2: not UTF-8"), "{error}");
        }
        let error = policies(&folder.path().join("absent"), "default").unwrap_err();
        assert_eq!(error.code, Code::NoInput, "{error}");
    }
}
