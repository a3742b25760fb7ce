//! Memory pressure: set by the limiter, read by anything that is about to allocate.

use std::sync::atomic::{AtomicU8, Ordering};

/// Degree of memory pressure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum MemoryPressure {
    /// There is enough.
    #[default]
    None,
    /// Above the soft limit: no new series.
    Soft,
    /// Above the hard limit: records are shed.
    Hard,
}

impl MemoryPressure {
    /// For logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "ample",
            Self::Soft => "short",
            Self::Hard => "exhausted",
        }
    }
}

/// The state that everybody looks at: one load, so that it can be asked for each batch.
///
/// ```
/// use flowtap_pipeline::{SharedMemoryPressure, MemoryPressure};
///
/// let memory = SharedMemoryPressure::default();
/// assert_eq!(memory.state(), MemoryPressure::default());
/// ```
#[derive(Debug, Default)]
pub struct SharedMemoryPressure(AtomicU8);

impl SharedMemoryPressure {
    /// The state that was set last.
    pub fn state(&self) -> MemoryPressure {
        match self.0.load(Ordering::Relaxed) {
            0 => MemoryPressure::None,
            1 => MemoryPressure::Soft,
            _ => MemoryPressure::Hard,
        }
    }

    /// From now on.
    pub fn set(&self, state: MemoryPressure) {
        self.0.store(state as u8, Ordering::Relaxed);
    }
}
