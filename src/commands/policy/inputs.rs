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

/// The objects of several files. One that two files have otherwise is an error: which of them is right is not known. Nodes and namespaces, for
/// example, are in the list of each namespace's objects.
pub(super) fn objects_of(files: &[PathBuf]) -> Result<ClusterObjects, ExitError> {
    let mut all = ClusterObjects::default();
    let mut places = HashMap::new();
    for file in files {
        let objects = objects(file)?;
        let names = |objects: &ClusterObjects| -> Vec<_> {
            let pods = objects
                .pods
                .iter()
                .map(|it| ("Pod", format!("{}/{}", it.namespace, it.name)));
            let services = objects.services.iter();
            let services = services.map(|it| ("Service", format!("{}/{}", it.namespace, it.name)));
            let namespaces = objects.namespaces.iter().map(|it| ("Namespace", it.name.clone()));
            let nodes = objects.nodes.iter().map(|it| ("Node", it.name.clone()));
            pods.chain(services).chain(namespaces).chain(nodes).collect()
        };
        // Those that are the same in both are left out.
        for name in names(&objects.clone().without(&all)) {
            if let Some(first) = places.get(&name) {
                let (first, file): (&&PathBuf, _) = (first, file.display());
                let (kind, name) = name;
                let error = format!("{file}: another {kind} {name} than in {}", first.display());
                return Err(ExitError::new(Code::Data, error));
            }
        }
        places.extend(names(&objects).into_iter().map(|name| (name, file)));
        all.merge(objects);
    }
    Ok(all)
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
    fn an_object_that_two_files_have_otherwise_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, app: &str| {
            let file = folder.path().join(name);
            let text = format!(
                "apiVersion: v1\nkind: Node\nmetadata: {{name: n1}}\n---\napiVersion: v1\nkind: Pod\nmetadata: {{name: web, namespace: x, \
                 labels: {{app: {app}}}}}\n"
            );
            fs::write(&file, text).unwrap();
            file
        };
        let [a, same, other] = [("a.yaml", "web"), ("same.yaml", "web"), ("other.yaml", "db")]
            .map(|(name, app)| write(name, app));
        let objects = objects_of(&[a.clone(), same]).unwrap();
        assert_eq!((objects.pods.len(), objects.nodes.len()), (1, 1));
        let error = objects_of(&[a.clone(), other.clone()]).unwrap_err();
        assert_eq!(error.code, Code::Data);
        assert_eq!(
            error.to_string(),
            format!("{}: another Pod x/web than in {}", other.display(), a.display())
        );
    }

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
