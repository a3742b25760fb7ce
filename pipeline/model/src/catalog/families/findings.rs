//! Families of findings.

use super::super::definition::{Definition, otel};
use super::super::label::Label;
use crate::family::{Family, FamilyKind, Naming};
use crate::unit::Unit;

/// In the order in which they are exposed.
pub(super) const FAMILIES: &[Definition] = &[Definition {
    family: Family {
        naming: Naming::PrimusLens,
        name: "network_findings",
        help: "Findings of the processor `watch`, by kind. Unless labels distinguish peers or processes, its series exist from the start and never expire.",
        unit: Unit::Count("{finding}"),
        kind: FamilyKind::Counter,
    },
    otel: otel(
        "flowtap.findings",
        "Findings of the processor `watch`, by kind. Unless labels distinguish peers or processes, its series exist from the start and never expire.",
        Unit::Count("{finding}"),
        FamilyKind::Counter,
    ),
    labels: &[Label::Finding, Label::Type],
    more: &[Label::Raddr, Label::ServerPort, Label::Flow, Label::NetworkType],
    details: &Label::DETAILS,
    enabled: true,
    only: None,
}];
