//! The component API: ids, configs and factories, the stage traits, the sink of a receiver.
//!
//! It depends on no receiver, processor or exporter, on nothing of the kernel, and not on the
//! engine that runs components. The data that they pass on is in [`flowtap_model`], which is
//! re-exported here.
//!
//! # Layout
//!
//! | module | contents |
//! |---|---|
//! | [`id`] | [`ComponentId`], [`ComponentKind`] |
//! | [`component`] | the config traits, [`BuildContext`], [`Factory`] and [`Registry`] |
//! | [`contract`] | [`Contract`]: what a component declares of itself |
//! | [`extension`] | [`Extension`]: what runs beside the pipelines |
//! | [`stage`] | the traits [`Receiver`], [`Processor`], [`Aggregator`], [`Exporter`] |
//! | [`files`] | files that a config names: regular files of bounded size |
//! | [`sink`] | [`Sink`]: the pipelines as a receiver sees them |
//! | [`address`], [`size`] | addresses and sizes as configs write them |
//! | [`schema`] | JSON Schema for config values that are formatted strings |
//! | [`queue`] | [`QueueConfig`]: the bounded queue in front of each exporter |
//! | [`memory`] | [`SharedMemoryPressure`]: memory pressure |
//! | [`live`] | [`Published`]: a value that is replaced as a whole while others read it |
//! | [`plain`](mod@plain) | foreign text, made safe for logs and terminals |
//! | [`status`] | [`StatusBoard`]: health of each component |
//! | [`ticker`] | [`Ticker`]: ticks on multiples of an interval |
//! | `testing` | a kit for tests of components (feature `testing`) |
//! | [`telemetry`] | instruments of processors and exporters |
//! | [`upload_status`] | [`UploadStatus`]: uploads of an exporter, for `/status` |
#![forbid(unsafe_code)]

pub mod address;
pub mod component;
pub mod contract;
pub mod extension;
pub mod files;
pub mod findings;
pub mod id;
pub mod live;
pub mod memory;
pub mod plain;
pub mod queue;
pub mod schema;
pub mod sink;
pub mod size;
pub mod stage;
pub mod status;
pub mod telemetry;
#[cfg(feature = "testing")]
pub mod testing;
pub mod ticker;
pub mod upload_status;
pub mod written;

/// Crates whose types appear in the signatures of this one, in the versions that match.
pub use {figment, futures, opentelemetry, schemars, serde, tokio_util, tower};

pub use component::{
    BuildContext, BuildError, ComponentConfig, ExporterConfig, ExtensionConfig, Factory, ProcessorConfig,
    ProcessorStage, ReceiverConfig, Registry, ToValue, Violation,
};
pub use contract::{Contract, Dependency, RecordField, Signal, Sockets, Stability};
pub use extension::Extension;
pub use findings::Findings;
pub use flowtap_model::cluster_objects::{self, ClusterObjects};
pub use flowtap_model::{
    AppProtocol, Arrival, Buckets, Census, Chronograph, ClusterRanges, ClusterState, DROP_KINDS, DnsAnswer,
    DnsOutcome, DnsRcode, DnsRecord, DnsType, DropKind, DropReason, DropRecord, Endpoint, EventCount,
    EventHop, EventType, Events, Exchanges, Exponential, Family, FamilyKind, FamilySnapshot, FindingKind,
    FindingRecord, Flow, FlowBatch, FlowKind, HISTOGRAM_BUCKETS, HistogramPoint, Hop, IcmpCount, Inspection,
    KubernetesNames, LabelChanges, LabelValue, Limit, ListenChange, Listener, ListeningRecord, LogBatch,
    LogBody, LogField, LogRecord, LogValue, MAX_EXPONENTIAL_BUCKETS, NameSource, Naming, NodeInfo, Output,
    Pair, PairValue, PeerClass, PeerName, PipelineId, PipelineKind, Place, Points, Queue, Queues,
    ReadingLabels, ReadingRecord, ReadingValue, Rendered, ResetBy, Resource, Role, RoleSource, SendTime,
    SenderState, Series, SeriesId, Snapshot, SumPoint, TcpRecord, Timestamp, Translation, Transport, UdpApp,
    UdpEnd, UdpRecord, Unit, ValuePoint, ZERO_THRESHOLD, batch, catalog, cluster, dns, family, finding, flow,
    labels, limits, log, node, output, peer_class, plain_text, resource, series, snapshot, tcp, time, udp,
};
pub use id::{ComponentId, ComponentKind, InvalidComponentId};
pub use live::{Published, Subscription};
pub use memory::{MemoryPressure, SharedMemoryPressure};
pub use queue::{QueueConfig, WhenFull};
pub use sink::Sink;
pub use stage::{
    Aggregator, ExportService, Exported, Exporter, Inheritance, Observer, Persistence, Processor, Receiver,
    SharedState, StageError, export_with, metrics_only,
};
pub use status::{ComponentStatus, State, StatusBoard};
pub use ticker::Ticker;
pub use upload_status::{UploadFailure, UploadProbe, UploadStatus};
pub use written::{Replaced, WrittenFolder};
