//! Dropped packets.

use crate::drops::{DropKind, DropReason};

/// Packets of a flow that the kernel dropped for one reason in one interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DropLog {
    /// The kernel's reason.
    pub reason: DropReason,
    /// Packets, as the kernel has them.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl DropLog {
    /// Whether it is loss, and not housekeeping of TCP or of a socket that closes.
    pub fn is_loss(&self) -> bool {
        let kind = self.reason.kind();
        matches!(
            kind,
            DropKind::Policy | DropKind::Full | DropKind::Nobody | DropKind::Broken
        )
    }
}
