// The public items of flowtap-model, by tests/e2e/public_api.rs: `make references` writes them anew.

// flowtap_model

pub mod batch;
pub mod catalog;
pub mod cluster;
pub mod cluster_objects;
pub mod dns;
pub mod drops;
pub mod family;
pub mod field;
pub mod finding;
pub mod flow;
pub mod label_changes;
pub mod labels;
pub mod limits;
pub mod listening;
pub mod log;
pub mod node;
pub mod output;
pub mod peer_class;
pub mod place;
pub mod resource;
pub mod series;
pub mod snapshot;
pub mod tcp;
pub mod time;
pub mod udp;
pub use batch::{
    Census, EventCount, EventHop, EventType, FlowBatch, ListenChange, Listener,
};
pub use cluster::{ClusterRanges, ClusterState, KubernetesNames};
pub use cluster_objects::ClusterObjects;
pub use dns::{DnsAnswer, DnsOutcome, DnsRcode, DnsRecord, DnsType};
pub use drops::{DROP_KINDS, DropKind, DropReason, DropRecord};
pub use family::{Family, FamilyKind, HISTOGRAM_BUCKETS, Naming};
pub use field::RecordField;
pub use finding::{FindingKind, FindingRecord};
pub use flow::{
    Endpoint, Flow, FlowKind, NameSource, PeerName, Role, RoleSource, Transport,
};
pub use label_changes::LabelChanges;
pub use labels::{LabelValue, Pair, PairValue, Rendered};
pub use limits::{Chronograph, Limit, Queue, Queues, ResetBy, SendTime, SenderState};
pub use listening::ListeningRecord;
pub use log::{
    ConnectionLog, Counts, LogBatch, LogBody, LogField, LogRecord, LogValue, Outcome,
};
pub use node::NodeInfo;
pub use output::{Output, PipelineId, PipelineKind};
pub use peer_class::PeerClass;
pub use place::Place;
pub use resource::Resource;
pub use series::{Series, SeriesId};
pub use snapshot::{
    FamilySnapshot, HistogramPoint, Points, Snapshot, SumPoint, ValuePoint,
};
pub use tcp::{Events, TcpRecord};
pub use time::Timestamp;
pub use udp::{IcmpCount, UdpApp, UdpRecord};

// flowtap_model::batch

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Census {
    pub begins: bool,
    pub ends: bool,
}
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum EventHop {
    Received,
    Dropped,
}
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum EventType {
    TcpFlow,
    TcpConn,
}
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Listener {
    pub netns: u32,
    pub port: u16,
    pub cookie: u64,
}
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventCount {
    pub hop: EventHop,
    pub event_type: EventType,
    pub count: u64,
}
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FlowBatch {
    pub listeners: Vec<ListenChange>,
    pub tcp: Vec<TcpRecord>,
    pub findings: Vec<FindingRecord>,
    pub counts: Vec<EventCount>,
    pub census: Census,
    pub listening: Vec<ListeningRecord>,
    pub drops: Vec<DropRecord>,
    pub dns: Vec<DnsRecord>,
    pub receiver: u16,
    pub udp: Vec<UdpRecord>,
    pub icmp: Vec<IcmpCount>,
}
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ListenChange {
    Opened(Listener),
    Closed(Listener),
    Rescanned { netns: u32, ports: Vec<u16> },
}
impl Census {
    pub const NONE: Self = _;
    pub const WHOLE: Self = _;
}
impl EventType {
    pub const fn as_str(self) -> &'static str {}
}
impl FlowBatch {
    pub const DETACHED: u16 = _;
    pub fn is_empty(&self) -> bool {}
    pub const fn records(&self) -> usize {}
    pub fn flows_mut(&mut self) -> impl Iterator<Item = &mut Flow> {}
    pub fn traffic(&self) -> impl Iterator<Item = &Flow> {}
    pub fn retain(&mut self, mut keep: impl FnMut(&Flow) -> bool) -> usize {}
    pub fn copy_from(&mut self, other: &Self) {}
    pub fn clear(&mut self) {}
}

// flowtap_model::catalog

pub use self::definition::Definition;
pub use self::families::{FAMILIES, FamilyId};
pub use self::label::{Label, LabelSet};

// flowtap_model::catalog::definition

#[derive(Clone, Copy, Debug)]
pub struct Definition {
    pub family: Family,
    pub otel: Family,
    pub labels: &'static [Label],
    pub more: &'static [Label],
    pub details: &'static [Label],
    pub enabled: bool,
    pub only: Option<Naming>,
}
impl Definition {
    pub const fn named(&self, naming: Naming) -> &Family {}
    pub fn labels_by_default(&self, naming: Naming) -> Vec<Label> {}
    pub fn possible(&self, naming: Naming) -> impl Iterator<Item = Label> {}
    pub fn is_of(&self, naming: Naming) -> bool {}
}

// flowtap_model::catalog::families

pub const FAMILIES: [Definition; COUNT] = _;

// flowtap_model::catalog::label

#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    JsonSchema
)]
pub enum Label {
    Raddr,
    Rport,
    Lport,
    ServerPort,
    Direction,
    Type,
    Flow,
    Event,
    Reason,
    EventType,
    Laddr,
    RoleSource,
    Netns,
    Pid,
    Comm,
    CgroupId,
    ContainerId,
    PeerNamespace,
    PeerPod,
    PeerWorkload,
    PeerService,
    PeerNode,
    LocalNamespace,
    LocalPod,
    LocalWorkload,
    NetworkType,
    Limit,
    Queue,
    ResetBy,
    Finding,
    Kind,
    Qtype,
    Rcode,
    Qname,
    PeerName,
    PeerNameSource,
    App,
    IcmpType,
    PeerNetwork,
    PeerAsn,
    PeerAsOrg,
    PeerCountry,
}
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct LabelSet(_);
impl Label {
    pub const DETAILS: [Self; 21] = _;
    pub const fn otel_name(self) -> &'static str {}
    pub const fn field(self) -> Option<RecordField> {}
    pub const fn has_few_values(self) -> bool {}
    pub const fn is_of_what_is_counted(self) -> bool {}
    pub const fn named(self, naming: Naming) -> &'static str {}
    pub const fn name(self) -> &'static str {}
}
impl LabelSet {
    pub const fn new(labels: &[Label]) -> Self {}
    pub const fn has(self, label: Label) -> bool {}
    pub const fn details(self) -> Self {}
    pub const fn is_empty(self) -> bool {}
}
impl fmt::Display for Label {}

// flowtap_model::cluster

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterRanges {
    pub pods: Vec<IpNet>,
    pub services: Vec<IpNet>,
    pub dns: Vec<IpAddr>,
}
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterState {
    pub ranges: Arc<ClusterRanges>,
    pub by_address: HashMap<IpAddr, Arc<KubernetesNames>>,
    pub by_container: HashMap<Box<str>, Arc<KubernetesNames>>,
}
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KubernetesNames {
    pub namespace: String,
    pub pod: String,
    pub workload: String,
    pub service: String,
    pub node: String,
}

// flowtap_model::cluster_objects

#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize
)]
pub enum PortProtocol {
    Tcp,
    Udp,
    Sctp,
}
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterObjects {
    pub namespaces: Vec<NamespaceObject>,
    pub pods: Vec<PodObject>,
    pub services: Vec<ServiceObject>,
    pub nodes: Vec<NodeObject>,
}
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamespaceObject {
    pub name: String,
    pub labels: ObjectLabels,
}
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeObject {
    pub name: String,
    pub addresses: Vec<IpAddr>,
    pub pod_ranges: Vec<IpNet>,
}
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodObject {
    pub namespace: String,
    pub name: String,
    pub workload: String,
    pub labels: ObjectLabels,
    pub addresses: Vec<IpAddr>,
    pub host_network: bool,
    pub ended: bool,
    pub node: String,
    pub node_addresses: Vec<IpAddr>,
    pub containers: Vec<String>,
    pub ports: Vec<NamedPort>,
}
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceObject {
    pub namespace: String,
    pub name: String,
    pub addresses: Vec<IpAddr>,
    pub selector: ObjectLabels,
    pub ports: Vec<ServicePort>,
}
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TargetPort {
    Number(u16),
    Name(String),
}
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedPort {
    pub name: String,
    pub port: u16,
    pub protocol: PortProtocol,
}
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicePort {
    pub port: u16,
    pub protocol: PortProtocol,
    pub target: TargetPort,
}
impl ClusterObjects {
    pub const fn is_empty(&self) -> bool {}
    pub fn merge(&mut self, newer: Self) {}
    pub fn without(mut self, before: &Self) -> Self {}
    pub fn chunks(mut self, size: usize) -> Vec<Self> {}
    pub fn state(&self) -> ClusterState {}
}
impl PortProtocol {
    pub const ALL: [Self; 3] = _;
    pub const fn as_str(self) -> &'static str {}
}
pub type ObjectLabels = BTreeMap<String, String>;

// flowtap_model::dns

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DnsRcode {
    NoError,
    FormErr,
    ServFail,
    NxDomain,
    NotImp,
    Refused,
    NotAuth,
    BadVers,
    Other,
    Timeout,
    Multicast,
}
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DnsType {
    A,
    Ns,
    Cname,
    Soa,
    Ptr,
    Mx,
    Txt,
    Aaaa,
    Srv,
    Naptr,
    Svcb,
    Https,
    Any,
    Caa,
    Other,
}
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum DnsOutcome {
    Answered(u16),
    TimedOut,
    Multicast,
}
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsAnswer {
    pub name: Arc<str>,
    pub addresses: Vec<(IpAddr, u32)>,
}
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DnsRecord {
    pub flow: Flow,
    pub qtype: u16,
    pub outcome: DnsOutcome,
    pub latency_us: u32,
    pub retries: u32,
    pub truncated: bool,
    pub query_bytes: u32,
    pub answer_bytes: u32,
    pub search_misses: u32,
    pub at: Timestamp,
    pub qname: Option<Arc<str>>,
    pub answer: Option<DnsAnswer>,
}
impl DnsOutcome {
    pub const fn rcode(self) -> DnsRcode {}
}
impl DnsRcode {
    pub const ALL: [Self; 11] = _;
    pub const fn of(rcode: u16) -> Self {}
    pub const fn as_str(self) -> &'static str {}
}
impl DnsRecord {
    pub const fn new(flow: Flow, qtype: u16, outcome: DnsOutcome) -> Self {}
}
impl DnsType {
    pub const ALL: [Self; 15] = _;
    pub const fn of(qtype: u16) -> Self {}
    pub const fn as_str(self) -> &'static str {}
}

// flowtap_model::drops

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DropKind {
    Policy,
    Full,
    Nobody,
    Broken,
    Tcp,
    End,
    Other,
}
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct DropReason(_);
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DropRecord {
    pub flow: Option<Flow>,
    pub is_unattributed: bool,
    pub netns: u32,
    pub reason: DropReason,
    pub packets: u64,
    pub bytes: u64,
}
impl DropKind {
    pub const ALL: [Self; 7] = _;
    pub fn of(name: &str) -> Self {}
    pub const fn as_str(self) -> &'static str {}
    pub const fn is_loss(self) -> bool {}
}
impl DropReason {
    pub const OTHER: Self = _;
    pub fn new(name: &str) -> Self {}
    pub fn as_str(self) -> &'static str {}
    pub fn kind(self) -> DropKind {}
    pub const fn index(self) -> u8 {}
}
impl DropRecord {
    pub const fn new(reason: DropReason, netns: u32) -> Self {}
}
impl Serialize for DropReason {}
impl fmt::Debug for DropReason {}
impl<'de> Deserialize<'de> for DropReason {}
pub const DROP_KINDS: &[(&str, DropKind)] = _;

// flowtap_model::family

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Naming {
    PrimusLens,
    Otel,
}
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum FamilyKind {
    Counter,
    Gauge,
    UpDownCounter,
    Histogram(&'static [f64]),
}
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Family {
    pub name: &'static str,
    pub naming: Naming,
    pub help: &'static str,
    pub unit: &'static str,
    pub kind: FamilyKind,
}
impl Family {
    pub fn with_bounds(&self, bounds: &[f64]) -> &'static Self {}
}
impl FamilyKind {
    pub const fn can_fall(self) -> bool {}
    pub fn histogram(bounds: &[f64]) -> Self {}
}
pub const HISTOGRAM_BUCKETS: usize = _;

// flowtap_model::field

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum RecordField {
    Role,
    Class,
    ClusterNames,
    Process,
    Container,
    Netns,
    DnsName,
    PeerName,
    PeerNetwork,
    PeerPlace,
}
impl RecordField {
    pub const fn setting(self) -> Option<&'static str> {}
    pub const fn if_missing(self) -> &'static str {}
}
impl fmt::Display for RecordField {}

// flowtap_model::finding

#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize
)]
pub enum FindingKind {
    FirstContact,
    FanOut,
    FailureSurge,
    VolumeSurge,
    Beacon,
    BlackList,
    NotOnWhiteList,
}
#[derive(Clone, Debug, PartialEq)]
pub struct FindingRecord {
    pub flow: Flow,
    pub kind: FindingKind,
    pub at: Timestamp,
    pub subject: Arc<str>,
    pub object: Arc<str>,
    pub text: Arc<str>,
    pub numbers: Vec<(&'static str, f64)>,
}
impl FindingKind {
    pub const ALL: [Self; 7] = _;
    pub const fn as_str(self) -> &'static str {}
}
impl fmt::Display for FindingKind {}

// flowtap_model::flow

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Role {
    Unknown,
    Client,
    Server,
}
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum RoleSource {
    Handshake,
    Listener,
    Assumed,
    Counters,
    Ports,
    Message,
    FirstDatagram,
    Bound,
}
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Transport {
    Tcp,
    Udp,
    UdpLite,
    Other,
}
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FlowKind {
    Ingress,
    Egress,
}
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NameSource {
    Dns,
    Hosts,
}
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Endpoint {
    pub addr: IpAddr,
    pub port: u16,
}
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PeerName {
    pub name: Arc<str>,
    pub source: NameSource,
}
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Flow {
    pub local: Endpoint,
    pub remote: Endpoint,
    pub transport: Transport,
    pub netns: u32,
    pub cookie: u64,
    pub role: Role,
    pub role_source: RoleSource,
    pub pid: u32,
    pub comm: [u8; 16],
    pub cgroup_id: u64,
    pub container_id: Option<Arc<str>>,
    pub kind: Option<FlowKind>,
    pub class: Option<PeerClass>,
    pub peer_names: Option<Arc<KubernetesNames>>,
    pub local_names: Option<Arc<KubernetesNames>>,
    pub peer_name: Option<PeerName>,
    pub peer_network: Option<Arc<str>>,
    pub peer_place: Option<Arc<Place>>,
}
impl Endpoint {
    pub fn new(addr: IpAddr, port: u16) -> Self {}
}
impl Flow {
    pub const fn new(local: Endpoint, remote: Endpoint) -> Self {}
}
impl FlowKind {
    pub const fn as_str(self) -> &'static str {}
}
impl NameSource {
    pub const fn as_str(self) -> &'static str {}
}
impl RoleSource {
    pub const fn as_str(self) -> &'static str {}
}
impl Transport {
    pub const fn as_str(self) -> &'static str {}
}
impl fmt::Display for Endpoint {}

// flowtap_model::label_changes

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelChanges {
    pub add: Vec<(String, String)>,
    pub rename: Vec<(Label, String)>,
    pub drop: Vec<Label>,
}
impl LabelChanges {
    pub const fn is_empty(&self) -> bool {}
    pub fn merge(&mut self, other: Self) {}
    pub fn name(&self, label: Label, naming: crate::family::Naming) -> &str {}
}

// flowtap_model::labels

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LabelValue<'a> {
    Text(&'a str),
    Addr(IpAddr),
    Port(u16),
    Number(u64),
}
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PairValue<'a> {
    Text(&'a [u8]),
    Integer(u64),
}
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair<'a> {
    pub name: &'a [u8],
    pub value: PairValue<'a>,
}
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Rendered {}
impl Rendered {
    pub fn new<'a>(
        family: &Family,
        pairs: impl IntoIterator<Item = (&'a str, LabelValue<'a>)>,
    ) -> Self {}
}
impl<'a> Pair<'a> {
    pub fn name(&self) -> &'a str {}
}
impl<'a> PairValue<'a> {
    pub fn text(&self) -> Cow<'a, str> {}
}
pub fn push_attribute(out: &mut Vec<u8>, field: u32, name: &str, value: &str) {}
pub fn push_integer_attribute(out: &mut Vec<u8>, field: u32, name: &str, value: u64) {}
pub fn push_label(out: &mut String, name: &str, value: &str) {}
pub fn push_label_name(out: &mut Vec<u8>, name: &[u8]) {}

// flowtap_model::limits

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Chronograph {
    pub elapsed_us: i64,
    pub busy_us: i64,
    pub rwnd_limited_us: i64,
    pub sndbuf_limited_us: i64,
}
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SenderState {
    pub has_unsent: bool,
    pub is_recovering: bool,
    pub is_application_limited: bool,
}
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ResetBy {
    Unknown,
    Local,
    Remote,
}
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Queues {
    pub unsent: u32,
    pub unacked: u32,
    pub unread: u32,
}
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendTime {
    pub network_us: i64,
    pub answer_us: i64,
    pub receiver_us: i64,
    pub buffer_us: i64,
    pub application_us: i64,
}
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Limit {
    Network,
    Answer,
    Receiver,
    Buffer,
    Application,
}
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Queue {
    Unsent,
    Unacked,
    Unread,
}
impl Chronograph {
    pub const fn send_time(self, state: SenderState) -> SendTime {}
}
impl Limit {
    pub const ALL: [Self; 5] = _;
    pub const fn as_str(self) -> &'static str {}
}
impl Queue {
    pub const ALL: [Self; 3] = _;
    pub const fn as_str(self) -> &'static str {}
}
impl Queues {
    pub const EMPTY: Self = _;
    pub const fn of(&self, queue: Queue) -> u32 {}
    pub const fn is_empty(&self) -> bool {}
}
impl ResetBy {
    pub const fn as_str(self) -> &'static str {}
}
impl SendTime {
    pub const ZERO: Self = _;
    pub const fn of(&self, limit: Limit) -> i64 {}
    pub const fn total_us(&self) -> i64 {}
}
impl SenderState {
    pub const fn busy_limit(self) -> Limit {}
}

// flowtap_model::listening

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ListeningRecord {
    pub flow: Flow,
    pub backlog: u32,
    pub limit: u32,
    pub drops: u64,
    pub wait_us: Option<u32>,
    pub closed: bool,
    pub adopted: bool,
}
impl ListeningRecord {
    pub const fn new(local: Endpoint) -> Self {}
}

// flowtap_model::log

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub sent_bytes: i64,
    pub received_bytes: i64,
    pub sent_segments: i64,
    pub received_segments: i64,
    pub retransmits: i64,
}
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFieldType {
    Text,
    Integer,
    Number,
    Flag,
}
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Active,
    Closed,
    Reset,
    Failed,
    Lost,
    Detached,
}
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    Info = 9,
    Warn = 13,
}
#[derive(Clone, Debug, Default)]
pub struct LogBatch {
    pub pipeline: Arc<str>,
    pub at: Timestamp,
    pub last: bool,
    pub records: Vec<LogRecord>,
    pub cut_short: usize,
}
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum LogBody {
    Connection(ConnectionLog),
}
#[derive(Clone, Debug, PartialEq)]
pub enum LogValue<'a> {
    Text(Cow<'a, str>),
    Address(IpAddr),
    Integer(i64),
    Number(f64),
    Flag(bool),
}
#[derive(Clone, Debug, PartialEq)]
pub struct ConnectionLog {
    pub outcome: Outcome,
    pub error: Option<&'static str>,
    pub sequence: u32,
    pub adopted: bool,
    pub duration: Duration,
    pub interval: Duration,
    pub delta: Counts,
    pub total: Counts,
    pub rtt: Duration,
    pub min_rtt: Duration,
    pub handshake: Duration,
    pub probability: f64,
}
#[derive(Clone, Debug, PartialEq)]
pub struct LogRecord {
    pub at: Timestamp,
    pub flow: Flow,
    pub body: LogBody,
}
impl ConnectionLog {
    pub fn started(&self, at: Timestamp) -> Timestamp {}
    pub fn interval_start(&self, at: Timestamp) -> Timestamp {}
}
impl Counts {
    pub const fn plus(self, other: Self) -> Self {}
    pub fn payload(&self) -> u64 {}
}
impl LogBatch {
    pub fn bytes(&self) -> usize {}
}
impl LogFieldType {
    pub const fn as_str(self) -> &'static str {}
}
impl LogRecord {
    pub const fn event_name(&self) -> &'static str {}
    pub const fn severity(&self) -> Severity {}
    pub fn is_client(&self) -> bool {}
    pub fn ends(&self) -> (Endpoint, Endpoint) {}
    pub fn oriented<T>(&self, sent: T, received: T) -> (T, T) {}
    pub const fn connection(&self) -> Option<&ConnectionLog> {}
    pub fn visit<'a>(&'a self, mut each: impl FnMut(LogField, LogValue<'a>)) {}
}
impl Outcome {
    pub const fn as_str(self) -> &'static str {}
    pub const fn is_failure(self) -> bool {}
    pub const fn is_final(self) -> bool {}
}
impl Severity {
    pub const fn as_str(self) -> &'static str {}
}
impl fmt::Display for LogValue<'_> {}
pub const LOG_SCHEMA_VERSION: u8 = _;

// flowtap_model::node

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EphemeralPorts {
    pub first: u16,
    pub last: u16,
}
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeInfo {
    pub addresses: Vec<InterfaceAddress>,
    pub resolvers: Vec<IpAddr>,
    pub ephemeral_ports: EphemeralPorts,
    pub own_pid: u32,
}
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceAddress {
    pub interface: String,
    pub network: IpNet,
}
impl Default for EphemeralPorts {}
impl EphemeralPorts {
    pub const fn contains(self, port: u16) -> bool {}
    pub const fn role(self, local: u16, remote: u16) -> Role {}
}

// flowtap_model::output

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PipelineKind {
    Metrics,
    Logs,
}
#[derive(Clone, Debug)]
pub enum Output {
    Metrics(Arc<Snapshot>),
    Logs(Arc<LogBatch>),
}
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidPipelineId(_);
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PipelineId {}
impl From<LogBatch> for Output {}
impl From<Snapshot> for Output {}
impl FromStr for PipelineId {}
impl Output {
    pub const fn kind(&self) -> PipelineKind {}
    pub fn items(&self) -> u64 {}
    pub fn bytes(&self) -> usize {}
    pub fn at(&self) -> crate::Timestamp {}
    pub fn is_last(&self) -> bool {}
    pub fn replaced(self) -> Self {}
    pub fn into_snapshot(self) -> Option<Arc<Snapshot>> {}
    pub fn into_logs(self) -> Option<Arc<LogBatch>> {}
}
impl PipelineId {
    pub const fn kind(&self) -> PipelineKind {}
    pub fn as_str(&self) -> &str {}
}
impl PipelineKind {
    pub const ALL: [Self; 2] = _;
    pub const fn as_str(self) -> &'static str {}
    pub const fn items(self) -> &'static str {}
}
impl fmt::Display for InvalidPipelineId {}
impl fmt::Display for PipelineId {}
impl fmt::Display for PipelineKind {}
impl std::error::Error for InvalidPipelineId {}

// flowtap_model::peer_class

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PeerClass {
    K8sPod,
    K8sSvc,
    Dns,
    Localhost,
    Docker,
    InternalHosts,
    ExternalHosts,
    AbnormalFlowBlackList,
    AbnormalFlowWhiteList,
    Unknown,
    Error,
    Custom(CustomClassId),
}
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CustomClassId(_);
impl PeerClass {
    pub const BUILT_IN: [Self; 11] = _;
    pub fn known() -> Vec<Self> {}
    pub fn is_built_in(name: &str) -> bool {}
    pub fn custom(name: &str) -> Option<Self> {}
    pub const fn index(self) -> u16 {}
    pub fn from_index(index: u16) -> Option<Self> {}
    pub fn as_str(self) -> &'static str {}
}

// flowtap_model::place

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Place {
    pub asn: u32,
    pub as_org: String,
    pub country: String,
}

// flowtap_model::resource

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resource {}
impl Resource {
    pub fn new(
        attributes: impl IntoIterator<Item = (String, String)>,
        node: impl Into<String>,
    ) -> Self {}
    pub fn or_with(mut self, name: &str, value: String) -> Self {}
    pub fn get(&self, name: &str) -> Option<&str> {}
    pub fn attributes(&self) -> impl Iterator<Item = (&str, &str)> {}
    pub fn node(&self) -> &str {}
    pub fn instance(&self) -> &str {}
}
pub const K8S_CLUSTER_UID: &str = _;
pub const SCHEMA_URL: &str = _;
pub const SERVICE_INSTANCE_ID: &str = _;
pub const SERVICE_NAME: &str = _;

// flowtap_model::series

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SeriesId(_);
#[derive(Clone, Debug)]
pub struct Series(_);
impl Series {
    pub fn new<'a>(
        family: &Family,
        pairs: impl IntoIterator<Item = (&'a str, LabelValue<'a>)>,
        shared: Option<Arc<Rendered>>,
        start: Timestamp,
    ) -> Self {}
    pub fn id(&self) -> SeriesId {}
    pub fn start(&self) -> Timestamp {}
    pub fn labels(&self) -> [&[u8]; 2] {}
    pub fn joined_labels(&self) -> String {}
    pub fn pairs(&self) -> impl Iterator<Item = Pair<'_>> {}
    pub fn label_pairs_len(&self) -> usize {}
    pub fn attributes(&self) -> [&[u8]; 2] {}
    pub fn attributes_len(&self) -> usize {}
}

// flowtap_model::snapshot

#[derive(Clone, Debug)]
pub enum Points {
    Sums(Vec<SumPoint>),
    Values(Vec<ValuePoint>),
    Histograms(Vec<HistogramPoint>),
}
#[derive(Clone, Debug)]
pub struct FamilySnapshot {
    pub family: &'static Family,
    pub points: Points,
    pub ended: Vec<Series>,
}
#[derive(Clone, Debug)]
pub struct HistogramPoint {
    pub series: Series,
    pub buckets: [u64; HISTOGRAM_BUCKETS + 1],
    pub sum: f64,
    pub updated: Timestamp,
}
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub pipeline: Arc<str>,
    pub at: Timestamp,
    pub window: Duration,
    pub last: bool,
    pub replaced: bool,
    pub families: Vec<FamilySnapshot>,
}
#[derive(Clone, Debug)]
pub struct SumPoint {
    pub series: Series,
    pub total: u64,
    pub delta: u64,
    pub updated: Timestamp,
}
#[derive(Clone, Debug)]
pub struct ValuePoint {
    pub series: Series,
    pub value: f64,
    pub updated: Timestamp,
}
impl HistogramPoint {
    pub fn counts(&self, bounds: &[f64]) -> &[u64] {}
    pub fn count(&self) -> u64 {}
}
impl Points {
    pub fn len(&self) -> usize {}
    pub fn is_empty(&self) -> bool {}
    pub fn prefetch(&self, index: usize) {}
}
impl Snapshot {
    pub fn of_nothing(at: Timestamp) -> Self {}
    pub fn bytes(&self) -> usize {}
    pub fn is_telemetry(&self) -> bool {}
    pub fn points(&self) -> usize {}
}

// flowtap_model::tcp

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Events(_);
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TcpRecord {
    pub flow: Flow,
    pub sent_bytes: i64,
    pub received_bytes: i64,
    pub sent_segments: i64,
    pub received_segments: i64,
    pub retransmits: i64,
    pub rtt_us: u32,
    pub min_rtt_us: u32,
    pub cwnd: u32,
    pub state: u8,
    pub events: Events,
    pub failure: u16,
    pub handshake_us: u32,
    pub age_us: u64,
    pub time: SendTime,
    pub rto_us: i64,
    pub queues: Queues,
    pub out_of_order: i64,
    pub lost: i64,
    pub ecn_ce: i64,
    pub syn_retransmits: u8,
    pub is_application_limited: bool,
    pub reset_by: ResetBy,
}
impl Events {
    pub const NONE: Self = _;
    pub const OPENED: Self = _;
    pub const CLOSED: Self = _;
    pub const FAILED: Self = _;
    pub const RESET: Self = _;
    pub const ADOPTED: Self = _;
    pub const OPEN: Self = _;
    pub const fn from_bits(bits: u8) -> Self {}
    pub const fn bits(self) -> u8 {}
    pub const fn contains(self, other: Self) -> bool {}
}
impl TcpRecord {
    pub const fn new(flow: Flow) -> Self {}
    pub fn with_flow(self, change: impl FnOnce(Flow) -> Flow) -> Self {}
}
impl std::ops::BitOr for Events {}

// flowtap_model::time

#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize
)]
pub struct Timestamp(_);
impl Timestamp {
    pub const fn from_nanos(nanos: u64) -> Self {}
    pub fn now() -> Self {}
    pub const fn as_nanos(self) -> u64 {}
    pub fn as_secs_f64(self) -> f64 {}
    pub const fn since(self, earlier: Self) -> Duration {}
    pub fn plus(self, duration: Duration) -> Self {}
    pub fn next_multiple(self, interval: Duration) -> Self {}
}
impl fmt::Display for Timestamp {}

// flowtap_model::udp

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum UdpApp {
    Unknown,
    Quic,
}
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IcmpCount {
    pub netns: u32,
    pub is_v6: bool,
    pub is_sent: bool,
    pub message_type: u8,
    pub count: u64,
}
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UdpRecord {
    pub flow: Flow,
    pub sent_bytes: i64,
    pub received_bytes: i64,
    pub sent_datagrams: i64,
    pub received_datagrams: i64,
    pub drops: i64,
    pub errors: i64,
    pub error: u16,
    pub app: UdpApp,
    pub opened: bool,
    pub closed: bool,
    pub unplaced: bool,
}
impl UdpApp {
    pub const fn as_str(self) -> &'static str {}
}
impl UdpRecord {
    pub const fn new(flow: Flow) -> Self {}
    pub fn with_flow(self, change: impl FnOnce(Flow) -> Flow) -> Self {}
}
