//! Memory pressure: set by the limiter, read by anything that is about to allocate.

use std::sync::atomic::{AtomicU8, Ordering};

/// Degree of memory pressure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum MemoryState {
    /// There is enough.
    #[default]
    Ample,
    /// Above the soft limit: no new series.
    Short,
    /// Above the hard limit: records are shed.
    Exhausted,
}

impl MemoryState {
    /// For logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ample => "ample",
            Self::Short => "short",
            Self::Exhausted => "exhausted",
        }
    }
}

/// The state that everybody looks at: one load, so that it can be asked for each batch.
///
/// ```
/// use flowtap_pipeline::{Memory, MemoryState};
///
/// let memory = Memory::default();
/// assert_eq!(memory.state(), MemoryState::default());
/// ```
#[derive(Debug, Default)]
pub struct Memory(AtomicU8);

impl Memory {
    /// The state that was set last.
    pub fn state(&self) -> MemoryState {
        match self.0.load(Ordering::Relaxed) {
            0 => MemoryState::Ample,
            1 => MemoryState::Short,
            _ => MemoryState::Exhausted,
        }
    }

    /// From now on.
    pub fn set(&self, state: MemoryState) {
        self.0.store(state as u8, Ordering::Relaxed);
    }
}
