//! Numbers of peers and ports, which are counted up to a bound.

use flowtap_pipeline::Transport;

/// A number that is known, or the bound up to which it was counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Counted {
    pub(super) count: usize,
    /// Whether there were more.
    pub(super) is_least: bool,
}

impl Counted {
    pub(super) const fn exactly(count: usize) -> Self {
        Self {
            count,
            is_least: false,
        }
    }
}

pub(super) type Port = (u16, Transport);
