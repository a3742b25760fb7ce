//! Findings.

use std::sync::Arc;

use crate::finding::FindingKind;

/// A finding. Its record's flow is the newest that belongs to it.
#[derive(Clone, Debug, PartialEq)]
pub struct FindingLog {
    /// Kind of the finding.
    pub kind: FindingKind,
    /// Whose traffic it is: a workload, a container or a process.
    pub subject: Arc<str>,
    /// The other end: a workload, a name, an address range; empty if there are many.
    pub object: Arc<str>,
    /// A sentence.
    pub text: Arc<str>,
    /// The numbers that it rests on, as `name=value` pairs.
    pub numbers: String,
}
