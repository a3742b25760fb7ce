//! The engine: the synchronous chain of a pipeline, the queues that it feeds, and the runner that
//! starts, drives and stops a graph.
//!
//! It knows components by their traits alone.
//!
//! # Layout
//!
//! | module | contents |
//! |---|---|
//! | [`stages`] | [`Stages`]: the synchronous chain, processors and aggregator |
//! | [`chain`] | [`Chain`]: the stages of a pipeline, with the receivers before and the queues after them |
//! | `sink` | a receiver's end of the chains that it feeds |
//! | [`queue`] | [`OutputQueue`]: the bounded queue in front of each exporter |
//! | [`queues`] | [`Queues`]: one of them, or one for each kind of output |
//! | `overflow` | warnings about what such a queue could not hold |
//! | [`runner`] | ordered start, the run, ordered stop |
//! | [`pulse`] | whether a receiver scans, by the clock |
//! | [`telemetry`] | the engine's instruments, by the Collector's names |
#![forbid(unsafe_code)]

pub mod chain;
mod overflow;
pub mod pulse;
pub mod queue;
pub mod queues;
pub mod runner;
mod sink;
pub mod stages;
pub mod telemetry;

pub use chain::Chain;
pub use pulse::Pulse;
pub use queue::OutputQueue;
pub use queues::Queues;
pub use stages::Stages;
