//! What a component is built from: ids, configs and factories, the stage traits, the sink of a receiver.
//!
//! It knows no receiver, no processor and no exporter, nothing of the kernel, and not how components are run. The data that they
//! pass on is in [`flowtap_model`], all of which is found here, too.
//!
//! # Layout
//!
//! | module | what it holds |
//! |---|---|
//! | [`id`] | [`ComponentId`], [`ComponentKind`] |
//! | [`component`] | the config traits, [`BuildContext`], [`Factory`] and [`Registry`] |
//! | [`contract`] | [`Contract`]: what a component declares of itself |
//! | [`stage`] | the traits [`Receiver`], [`Processor`], [`Aggregator`], [`Exporter`] |
//! | [`sink`] | [`Sink`]: the pipelines as a receiver sees them |
//! | [`schema`] | JSON Schema for config values that are formatted strings |
//! | [`queue`] | [`QueueConfig`]: the bounded queue in front of each exporter |
//! | [`memory`] | [`Memory`]: how short it is |
//! | [`live`] | [`Live`]: a value that is replaced as a whole while others look at it |
//! | [`plain`](mod@plain) | text of others, for logs and terminals |
//! | [`status`] | [`StatusBoard`]: how each component is |
//! | [`ticker`] | [`Ticker`]: ticks on multiples of an interval |
//! | `testing` | a kit for tests of components (feature `testing`) |
//! | [`telemetry`] | instruments of processors and exporters |
#![forbid(unsafe_code)]

pub mod component;
pub mod contract;
pub mod id;
pub mod live;
pub mod memory;
pub mod plain;
pub mod queue;
pub mod schema;
pub mod sink;
pub mod stage;
pub mod status;
pub mod telemetry;
#[cfg(feature = "testing")]
pub mod testing;
pub mod ticker;

/// Crates whose types appear in the signatures of this one, in the versions that match.
pub use {figment, futures, opentelemetry, schemars, serde, tokio_util, tower};

pub use component::{
    BuildContext, BuildError, ComponentConfig, ExporterConfig, Factory, Fault, ProcessorConfig,
    ProcessorStage, ReceiverConfig, Registry, ToValue,
};
pub use contract::{Contract, Dependency, RecordField, Signal, Sockets, Stability};
pub use flowtap_model::{
    Census, ClusterRanges, ClusterState, Endpoint, EventCount, EventHop, EventType, Events, Family,
    FamilyKind, FamilySnapshot, FlowBatch, FlowKind, FlowRecord, HISTOGRAM_BUCKETS, HistogramPoint,
    KubernetesNames, LabelValue, ListenChange, Listener, Naming, NodeInfo, Pair, PairValue, PeerClass,
    Points, Rendered, Resource, Role, RoleSource, Series, SeriesId, Snapshot, SumPoint, Timestamp,
    ValuePoint, batch, catalog, cluster, family, labels, node, record, resource, series, snapshot, time,
};
pub use id::{ComponentId, ComponentKind, InvalidComponentId};
pub use live::{Live, Seen};
pub use memory::{Memory, MemoryState};
pub use queue::{QueueConfig, WhenFull};
pub use sink::Sink;
pub use stage::{
    Aggregator, ExportService, Exported, Exporter, Inheritance, Processor, Receiver, StageError, export_with,
};
pub use status::{ComponentStatus, State, StatusBoard};
pub use ticker::Ticker;
