//! Capabilities: all are given up but those that are needed.

use caps::{CapSet, Capability, CapsHashSet};

/// Gives up all capabilities but `kept`; returns the names of those that stay, and those that it has given up.
pub(super) fn keep(kept: &CapsHashSet) -> Result<(Vec<String>, CapsHashSet), caps::errors::CapsError> {
    let permitted = caps::read(None, CapSet::Permitted)?;
    if permitted.is_subset(kept) {
        return Ok((names(&permitted), CapsHashSet::new()));
    }
    if permitted.contains(&Capability::CAP_SETPCAP) {
        for capability in caps::read(None, CapSet::Bounding)?.difference(kept) {
            caps::drop(None, CapSet::Bounding, *capability)?;
        }
    }
    let stay: CapsHashSet = permitted.intersection(kept).copied().collect();
    caps::clear(None, CapSet::Ambient)?;
    caps::set(None, CapSet::Inheritable, &CapsHashSet::new())?;
    caps::set(None, CapSet::Effective, &stay)?;
    caps::set(None, CapSet::Permitted, &stay)?;
    Ok((names(&stay), permitted.difference(kept).copied().collect()))
}

fn names(capabilities: &CapsHashSet) -> Vec<String> {
    let mut names: Vec<_> = capabilities.iter().map(ToString::to_string).collect();
    names.sort_unstable();
    names
}
