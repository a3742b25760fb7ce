//! Families of findings.

use super::super::entry::{COUNTER, Entry};
use super::super::label::Label;
use crate::unit::Unit;

/// In the order in which they are exposed.
pub(super) const FAMILIES: &[Entry] = &[Entry {
    names: ["network_findings", "flowtap.findings"],
    help: "Findings of the processor `watch`, by kind. Unless labels distinguish peers or processes, its series exist from the start and never expire.",
    unit: Unit::Count("{finding}"),
    kinds: COUNTER,
    labels: &[Label::Finding, Label::Type],
    more: &[Label::Raddr, Label::ServerPort, Label::Flow, Label::NetworkType],
    details: &Label::DETAILS,
    ..Entry::EMPTY
}];
