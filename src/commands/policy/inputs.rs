//! The policies and the objects of a cluster that files have.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use flowtap_network_policy::manifest::{self, ManifestError, PoliciesAmong};
use flowtap_network_policy::policy::NetworkPolicy;
use flowtap_pipeline::ClusterObjects;
use flowtap_pipeline::plain_text::cut;

use super::files::{Content, Named, name, read};
use crate::exit::{Code, ExitError};

/// The policies of several arguments, and what to know of them.
#[derive(Debug, Default)]
pub(super) struct Policies {
    pub(super) all: Vec<NetworkPolicy>,
    pub(super) notes: Vec<String>,
    /// The file of each.
    places: HashMap<String, String>,
}

impl Policies {
    /// Those of several files or directories, each of which has others.
    pub(super) fn of(arguments: &[PathBuf], namespace: &str) -> Result<Self, ExitError> {
        let mut policies = Self::default();
        for argument in arguments {
            match Named::of(argument)? {
                Named::File => {
                    let text = read(argument, Content::Policies)?;
                    let file = name(argument);
                    let found = manifest::policies(&file, &text, namespace).map_err(invalid)?;
                    policies.add(&file, found)?;
                }
                Named::Directory(files) => policies.add_directory(argument, &files, namespace)?,
            }
        }
        Ok(policies)
    }

    /// Those among the manifests of a directory, which may have other objects as well.
    fn add_directory(
        &mut self,
        directory: &Path,
        files: &[PathBuf],
        namespace: &str,
    ) -> Result<(), ExitError> {
        let (mut others, mut says_none, before) = (BTreeSet::new(), false, self.all.len());
        for file in files {
            let text = read(file, Content::Policies)?;
            let file = name(file);
            let found = manifest::policies_among(&file, &text, namespace).map_err(invalid)?;
            let PoliciesAmong {
                policies,
                others: kinds,
                says_none: says,
            } = found;
            self.add(&file, policies)?;
            others.extend(kinds);
            says_none |= says;
        }
        let directory = directory.display();
        if self.all.len() == before && !says_none {
            let error = format!("{directory}: no NetworkPolicy in the files of this directory");
            return Err(ExitError::new(Code::Data, error));
        }
        if !others.is_empty() {
            let kinds: Vec<_> = others.iter().map(|kind| cut(kind)).collect();
            self.notes.push(format!(
                "left out of {directory}: objects of other kinds, {}",
                kinds.join(", ")
            ));
        }
        Ok(())
    }

    fn add(&mut self, file: &str, found: Vec<NetworkPolicy>) -> Result<(), ExitError> {
        for policy in found {
            let first = self.places.insert(policy.to_string(), file.to_owned());
            if let Some(first) = first.filter(|_| !policy.is_name_generated()) {
                let policy = policy.to_string();
                let error = format!(
                    "{file}: duplicate policy {}; the first is in {first}",
                    cut(&policy)
                );
                return Err(ExitError::new(Code::Data, error));
            }
            self.all.push(policy);
        }
        Ok(())
    }
}

/// The objects of several files. One that two files have otherwise is an error: which of them is right is not known. Nodes and namespaces, for
/// example, are in the list of each namespace's objects.
pub(super) fn objects_of(arguments: &[PathBuf]) -> Result<ClusterObjects, ExitError> {
    let mut all = ClusterObjects::default();
    let mut places = HashMap::new();
    for (file, objects) in files_of_objects(arguments)? {
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
                let first: &String = first;
                let (kind, name) = (name.0, cut(&name.1));
                let error = format!("{file}: another {kind} {name} than in {first}");
                return Err(ExitError::new(Code::Data, error));
            }
        }
        places.extend(names(&objects).into_iter().map(|name| (name, file.clone())));
        all.merge(objects);
    }
    Ok(all)
}

/// The objects of each file that the arguments name.
fn files_of_objects(arguments: &[PathBuf]) -> Result<Vec<(String, ClusterObjects)>, ExitError> {
    let mut found = Vec::new();
    for argument in arguments {
        match Named::of(argument)? {
            Named::File => {
                let (file, text) = (name(argument), read(argument, Content::Cluster)?);
                let objects = manifest::objects(&file, &text).map_err(invalid)?;
                found.push((file, objects));
            }
            Named::Directory(files) => {
                let before = found.len();
                for file in &files {
                    let (file, text) = (name(file), read(file, Content::Cluster)?);
                    let objects = manifest::objects_among(&file, &text).map_err(invalid)?;
                    found.push((file, objects));
                }
                if found[before..]
                    .iter()
                    .all(|(_, objects)| *objects == ClusterObjects::default())
                {
                    let directory = argument.display();
                    let error = format!(
                        "{directory}: no Pod, Namespace, Service or Node in the files of this directory"
                    );
                    return Err(ExitError::new(Code::Data, error));
                }
            }
        }
    }
    Ok(found)
}

fn invalid(error: ManifestError) -> ExitError {
    ExitError::new(Code::Data, error)
}

#[cfg(test)]
mod tests {
    use std::fs;

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
        let files = [file];
        for error in [
            Policies::of(&files, "default").unwrap_err(),
            objects_of(&files).unwrap_err(),
        ] {
            assert_eq!(error.code, Code::Data, "{error}");
            assert!(error.to_string().contains("p.yaml, line 2: not UTF-8"), "{error}");
        }
        let error = Policies::of(&[folder.path().join("absent")], "default").unwrap_err();
        assert_eq!(error.code, Code::NoInput, "{error}");
    }
}
