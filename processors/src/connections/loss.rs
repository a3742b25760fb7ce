//! Reasons for which something has no log record.

use crate::hops::LOCAL_HOP;

/// Why something has no log record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LossReason {
    /// Memory is short.
    MemoryLimit,
    /// The table of open connections is full.
    MaxConnections,
    /// The table of UDP flows is full.
    MaxUdpFlows,
    /// The batch is full.
    MaxRecords,
    /// Left out by sampling, as configured.
    Sample,
    /// Another connection has its bytes, as `hops` has it.
    LocalHop,
    /// Dropped packets of no flow that is known, or datagrams that the receiver could not attribute to one.
    NoFlow,
    /// Found at a socket after its connection was reported as closed.
    AfterEnd,
}

impl LossReason {
    /// The reason's label value, in the order of the variants.
    pub(super) const ALL: [&'static str; 8] = [
        "memory_limit",
        "max_connections",
        "max_udp_flows",
        "max_records",
        "sample",
        LOCAL_HOP,
        "no_flow",
        "after_end",
    ];

    pub(super) const fn as_str(self) -> &'static str {
        Self::ALL[self as usize]
    }
}
