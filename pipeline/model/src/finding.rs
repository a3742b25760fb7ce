//! Findings: what has changed, as the processor `watch` reports it.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::flow::Flow;
use crate::time::Timestamp;

/// Kind of a finding. `docs/findings.md` has a section for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FindingKind {
    /// A workload talks to a destination that it has not talked to before.
    FirstContact,
    /// A workload tries many destinations, or many ports of one, in a short time.
    FanOut,
    /// Most connects to a destination fail that used to succeed.
    FailureSurge,
    /// Far more bytes than usual.
    VolumeSurge,
    /// Small traffic at regular intervals, to a destination that is not of this network.
    Beacon,
    /// A connection with a peer on the black list.
    BlackList,
    /// A connection with a peer that is on no list, where only listed ones are expected.
    NotOnWhiteList,
}

impl FindingKind {
    /// Every kind.
    pub const ALL: [Self; 7] = [
        Self::FirstContact,
        Self::FanOut,
        Self::FailureSurge,
        Self::VolumeSurge,
        Self::Beacon,
        Self::BlackList,
        Self::NotOnWhiteList,
    ];

    /// The label value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::FirstContact => "first_contact",
            Self::FanOut => "fan_out",
            Self::FailureSurge => "failure_surge",
            Self::VolumeSurge => "volume_surge",
            Self::Beacon => "beacon",
            Self::BlackList => "black_list",
            Self::NotOnWhiteList => "not_on_white_list",
        }
    }
}

impl fmt::Display for FindingKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A finding, with the numbers that led to it.
#[derive(Clone, Debug, PartialEq)]
pub struct FindingRecord {
    /// A flow that belongs to it: the newest.
    pub flow: Flow,
    /// Kind of the finding.
    pub kind: FindingKind,
    /// When it was made.
    pub at: Timestamp,
    /// Whose traffic it is: a workload, a container or a process.
    pub subject: Arc<str>,
    /// The other end: a workload, a name, an address range; empty if there are many.
    pub object: Arc<str>,
    /// A sentence.
    pub text: Arc<str>,
    /// The numbers that it rests on, by name.
    pub numbers: Vec<(&'static str, f64)>,
}
