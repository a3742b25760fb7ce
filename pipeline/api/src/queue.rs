//! Config of the queue in front of an exporter.

use std::num::NonZeroUsize;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema::SizeText;

/// Overflow policy of a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WhenFull {
    /// Drop the oldest entry: later snapshots repeat its totals, log records in it are lost.
    #[default]
    DropOldest,
    /// Drop the new entry.
    DropNewest,
    /// Apply backpressure to the window and the receiver, and so to every pipeline that the receiver feeds, also of the other kind;
    /// records that the receiver cannot buffer are dropped and counted. When flowtap stops, or a reload needs it, the oldest entry is dropped
    /// instead.
    Block,
}

/// Limits of the queue in front of an exporter.
///
/// ```
/// use flowtap_pipeline::{QueueConfig, WhenFull};
///
/// let queue = QueueConfig { when_full: WhenFull::DropNewest, ..QueueConfig::default() };
/// assert_eq!(queue.size.get(), 4);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct QueueConfig {
    /// Maximum number of entries: snapshots, or batches of log records.
    pub size: NonZeroUsize,
    /// Maximum size in bytes, excluding shared series data. One entry is always accepted.
    #[serde(with = "crate::size")]
    #[schemars(with = "SizeText")]
    pub max_bytes: usize,
    /// Overflow policy.
    pub when_full: WhenFull,
}

impl Default for QueueConfig {
    fn default() -> Self {
        const SIZE: NonZeroUsize = NonZeroUsize::new(4).unwrap();
        Self {
            size: SIZE,
            max_bytes: 256 << 20,
            when_full: WhenFull::default(),
        }
    }
}
