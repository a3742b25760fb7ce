//! What every stage of flowtap shares: the flow record and its batch, the series and the snapshot, the stage
//! traits, the registry of component types, and the runner that wires and drives them.
//!
//! This is a leaf crate: it knows no receiver, no processor and no exporter, and nothing of the kernel.
//!
//! # Layout
//!
//! | module | what it holds |
//! |---|---|
//! | [`time`] | [`Timestamp`], and ticks on multiples of an interval |
//! | [`record`] | [`FlowRecord`]: what one socket did since it was last looked at |
//! | [`batch`] | [`FlowBatch`]: the reused unit that receivers hand on |
//! | [`series`] | [`Family`] and [`Series`]: a metric, and one label set of it with its two renderings |
//! | [`labels`] | [`LabelValue`], [`Rendered`], [`Pair`]: labels, rendered and read again |
//! | [`snapshot`] | [`Snapshot`]: all series of one window, immutable |
//! | [`stage`] | the traits [`Receiver`], [`Processor`], [`Aggregator`], [`Exporter`] |
//! | [`component`] | [`ComponentId`], the config traits, [`Factory`] and [`Registry`] |
//! | [`schema`] | texts of configs that have a form, as JSON Schema |
//! | [`memory`] | [`Memory`]: how short it is |
//! | [`live`] | [`Live`]: a value that is replaced as a whole while others look at it |
//! | [`cluster`] | [`ClusterState`]: the ranges and names of a Kubernetes cluster |
//! | [`node`] | [`NodeInfo`]: this machine's addresses and resolvers |
//! | [`resource`] | [`Resource`]: the attributes that name this flowtap and its node |
//! | [`plain`](mod@plain) | text of others, for logs and terminals |
//! | [`pulse`] | whether a receiver scans, by the clock |
//! | [`queue`] | the bounded queue in front of each exporter |
//! | [`sink`] | the pipelines as a receiver sees them |
//! | [`runner`] | ordered start, the run, ordered stop |
//! | [`status`] | how each component is
//! | [`telemetry`] | the daemon's own instruments, by the Collector's names |
#![forbid(unsafe_code)]

pub mod batch;
pub mod cluster;
pub mod component;
pub mod labels;
pub mod live;
pub mod memory;
pub mod node;
pub mod plain;
pub mod pulse;
pub mod queue;
pub mod record;
pub mod resource;
pub mod runner;
pub mod schema;
pub mod series;
pub mod sink;
pub mod snapshot;
pub mod stage;
pub mod status;
pub mod telemetry;
pub mod time;

pub use batch::{Census, EventCount, EventHop, EventType, FlowBatch, ListenChange, Listener};
pub use cluster::{ClusterRanges, ClusterState, KubernetesNames};
pub use component::{
    BuildContext, BuildError, ComponentConfig, ComponentId, ComponentKind, ExporterConfig, Factory, Fault,
    ProcessorConfig, ProcessorRole, ProcessorStage, ReceiverConfig, Registry,
};
pub use labels::{LabelValue, Pair, PairValue, Rendered};
pub use live::{Live, Seen};
pub use memory::{Memory, MemoryState};
pub use node::NodeInfo;
pub use pulse::{Health, Pulse};
pub use queue::{QueueConfig, WhenFull};
pub use record::{Endpoint, Events, FlowKind, FlowRecord, PeerClass, Role, RoleSource};
pub use resource::Resource;
pub use series::{Family, FamilyKind, Naming, Series, SeriesId};
pub use sink::Sink;
pub use snapshot::{
    FamilySnapshot, HISTOGRAM_BUCKETS, HistogramPoint, Points, Snapshot, SumPoint, ValuePoint,
};
pub use stage::{
    Aggregator, ExportService, Exported, Exporter, Inheritance, Processor, Receiver, StageError,
};
pub use status::{ComponentStatus, State, StatusBoard};
pub use time::Timestamp;
