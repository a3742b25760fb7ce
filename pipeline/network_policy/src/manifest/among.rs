//! Policies among other objects, as a folder of manifests has them.

use std::collections::BTreeSet;

use super::document::{ManifestError, documents};
use super::policies::{KIND, read};
use crate::policy::NetworkPolicy;

/// The policies among the objects of a file.
#[derive(Debug, Default)]
pub struct PoliciesAmong {
    /// The policies.
    pub policies: Vec<NetworkPolicy>,
    /// Kinds of the other objects, which were left out.
    pub others: BTreeSet<String>,
    /// Whether an empty list says that there are no policies.
    pub says_none: bool,
}

/// Reads the policies of a file of a folder of manifests, as [`policies`](super::policies()) does, but for objects of other kinds, which
/// are left out: there may be no policy.
///
/// # Errors
/// Every mistake in a policy of the file, and in the form of the file.
pub fn policies_among(file: &str, text: &str, namespace: &str) -> Result<PoliciesAmong, ManifestError> {
    let (mut documents, mut empty) = documents(file, text)?;
    let mut others = BTreeSet::new();
    documents.retain(|document| {
        let (version, kind) = document.kind();
        let is_other = is_other_kind(version, kind);
        others.extend(is_other.then(|| kind.to_owned()));
        !is_other
    });
    empty.retain(|list| list.is_of(&[KIND]));
    if documents.is_empty() {
        return Ok(PoliciesAmong {
            others,
            says_none: !empty.is_empty(),
            ..PoliciesAmong::default()
        });
    }
    let (policies, says_none) = read((documents, empty), file, namespace)?;
    Ok(PoliciesAmong {
        policies,
        others,
        says_none,
    })
}

/// Whether an object is certainly not a policy of the API. One of its group in another version is a mistake, as is one without a kind.
fn is_other_kind(version: &str, kind: &str) -> bool {
    let group = version.split_once('/').map(|(group, _)| group);
    let is_policy = kind == KIND.1 && !group.is_some_and(|group| group.contains("projectcalico.org"));
    !version.is_empty() && !kind.is_empty() && !is_policy
}
