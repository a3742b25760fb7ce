//! The data that stages of flowtap pass on: records and batches, the metric catalogue, series and snapshots.
//!
//! This crate knows no stage. It reads a clock only in [`Timestamp::now`], and does no I/O.
//!
//! # Layout
//!
//! | module | what it holds |
//! |---|---|
//! | [`time`] | [`Timestamp`]: nanoseconds since the epoch |
//! | [`finding`] | [`FindingRecord`]: what has changed |
//! | [`flow`] | [`Flow`]: who talks to whom, embedded in each record |
//! | [`endpoint`] | [`Endpoint`]: an address and a port |
//! | [`translation`] | [`Translation`]: the ends of a connection on the wire |
//! | [`hop`] | [`Hop`]: a connection's part in the way through a proxy |
//! | [`peer_class`] | [`PeerClass`]: the class of a remote address |
//! | [`tcp`] | [`TcpRecord`]: the changes of one TCP socket since its last record |
//! | [`inspection`] | [`Inspection`], [`Exchanges`]: the protocol that a connection speaks, and how long answers take |
//! | [`limits`] | [`SendTime`], [`Queues`]: what a TCP sender waits for, and the bytes that wait |
//! | [`listening`] | [`ListeningRecord`]: queue and drops of a listening socket |
//! | [`drops`] | [`DropRecord`]: packets that the kernel dropped, and why |
//! | [`udp`] | [`UdpRecord`]: the changes of one UDP socket and peer; [`IcmpCount`] |
//! | [`reading`] | [`ReadingRecord`]: what a counter or gauge of a device shows |
//! | [`field`] | [`RecordField`]: groups of fields that a pipeline fills |
//! | [`batch`] | [`FlowBatch`]: the reused unit that receivers pass on |
//! | [`dns`] | [`DnsRecord`]: a query with its answer, or without one |
//! | [`family`] | [`Family`]: name, unit and type of a metric |
//! | [`bucket_counts`] | [`BucketCounts`]: the counts of a histogram's buckets |
//! | [`histogram`] | [`Buckets`], [`Exponential`]: the observations of a histogram |
//! | [`catalog`] | every family and every label |
//! | [`mod@unit`] | [`Unit`]: the unit of a metric |
//! | [`series`] | [`Series`]: one label set of a family with its two renderings |
//! | [`labels`] | [`LabelValue`], [`Rendered`], [`Pair`]: labels, rendered and read again |
//! | [`label_changes`] | [`LabelChanges`]: what a pipeline changes about the labels of all its series |
//! | [`place`] | [`Place`]: network operator and country of an address |
//! | [`log`] | [`LogBatch`]: log records of events |
//! | [`plain_text`] | names of processes and other text of others, escaped |
//! | [`output`] | [`Output`]: a snapshot or a batch of log records; [`PipelineId`] |
//! | [`snapshot`] | [`Snapshot`]: all series of one window, immutable |
//! | [`cluster`] | [`ClusterState`]: the ranges and names of a Kubernetes cluster |
//! | [`cluster_objects`] | [`ClusterObjects`]: pods, namespaces, services and nodes with their labels |
//! | [`node`] | [`NodeInfo`]: this machine's addresses and resolvers |
//! | [`resource`] | [`Resource`]: the attributes that name this flowtap and its node |
#![forbid(unsafe_code)]

pub mod batch;
pub mod bucket_counts;
pub mod catalog;
pub mod cluster;
pub mod cluster_objects;
pub mod dns;
pub mod drops;
pub mod endpoint;
pub mod family;
pub mod field;
pub mod finding;
pub mod flow;
pub mod histogram;
pub mod hop;
pub mod inspection;
pub mod label_changes;
pub mod labels;
pub mod limits;
pub mod listening;
pub mod log;
pub mod node;
pub mod output;
pub mod peer_class;
pub mod place;
pub mod plain_text;
pub mod reading;
pub mod resource;
pub mod series;
pub mod snapshot;
pub mod tcp;
pub mod time;
pub mod translation;
pub mod udp;
pub mod unit;

pub use batch::{Census, EventCount, EventHop, EventType, FlowBatch, ListenChange, Listener};
pub use bucket_counts::BucketCounts;
pub use cluster::{ClusterRanges, ClusterState, KubernetesNames};
pub use cluster_objects::ClusterObjects;
pub use dns::{DnsAnswer, DnsOutcome, DnsRcode, DnsRecord, DnsType};
pub use drops::{DROP_KINDS, DropKind, DropReason, DropRecord};
pub use endpoint::Endpoint;
pub use family::{Family, FamilyKind, HISTOGRAM_BUCKETS, Naming};
pub use field::RecordField;
pub use finding::{FindingKind, FindingRecord};
pub use flow::{Flow, FlowKind, NameSource, PeerName, Role, RoleSource, Transport};
pub use histogram::{Buckets, Exponential, MAX_EXPONENTIAL_BUCKETS, ZERO_THRESHOLD};
pub use hop::Hop;
pub use inspection::{AppProtocol, Exchanges, Inspection};
pub use label_changes::LabelChanges;
pub use labels::{LabelValue, Pair, PairValue, Rendered};
pub use limits::{Chronograph, Limit, Queue, Queues, ResetBy, SendTime, SenderState};
pub use listening::ListeningRecord;
pub use log::{ConnectionLog, Counts, LogBatch, LogBody, LogField, LogRecord, LogValue, Outcome, UdpLog};
pub use node::NodeInfo;
pub use output::{Output, PipelineId, PipelineKind};
pub use peer_class::PeerClass;
pub use place::Place;
pub use reading::{ReadingLabels, ReadingRecord, ReadingValue};
pub use resource::Resource;
pub use series::{Series, SeriesId};
pub use snapshot::{FamilySnapshot, HistogramPoint, Points, Snapshot, SumPoint, ValuePoint};
pub use tcp::{Events, TcpRecord};
pub use time::Timestamp;
pub use translation::{Arrival, Translation};
pub use udp::{IcmpCount, UdpApp, UdpEnd, UdpRecord};
pub use unit::Unit;
