//! Reasons for which something has no log record.

/// Why something has no log record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LossReason {
    /// Memory is short.
    MemoryLimit,
    /// The table of open connections is full.
    MaxConnections,
    /// The batch is full.
    MaxRecords,
    /// Left out by sampling, as configured.
    Sample,
}

impl LossReason {
    /// The reason's label value, in the order of the variants.
    pub(super) const ALL: [&'static str; 4] = ["memory_limit", "max_connections", "max_records", "sample"];

    pub(super) const fn as_str(self) -> &'static str {
        Self::ALL[self as usize]
    }
}
