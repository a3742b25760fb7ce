//! Config of the queue in front of an exporter.

use std::num::NonZeroUsize;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema::SizeText;

/// What to do when a queue is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WhenFull {
    /// Drop the oldest snapshot: the newest holds all running totals.
    #[default]
    DropOldest,
    /// Drop the one that comes.
    DropNewest,
    /// Wait until there is room: the window waits, the receiver behind it, and what that can't hold is dropped and counted there.
    /// When flowtap stops, or can't reload for it, the oldest is dropped instead.
    Block,
}

/// How much may wait before an exporter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct QueueConfig {
    /// Snapshots that may wait.
    pub size: NonZeroUsize,
    /// Bytes that those may take, by what they hold besides the series themselves. A single one always has room.
    #[serde(with = "crate::size")]
    #[schemars(with = "SizeText")]
    pub max_bytes: usize,
    /// What is dropped when it is full.
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
