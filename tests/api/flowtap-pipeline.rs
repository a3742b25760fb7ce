// The public items of flowtap-pipeline, by tests/e2e/public_api.rs: `make references` writes them anew.

// flowtap_pipeline

#[cfg(feature = "testing")]
pub mod testing;
pub mod address;
pub mod component;
pub mod contract;
pub mod extension;
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
pub mod ticker;
pub use component::{
    BuildContext, BuildError, ComponentConfig, ExporterConfig, ExtensionConfig, Factory,
    ProcessorConfig, ProcessorStage, ReceiverConfig, Registry, ToValue, Violation,
};
pub use contract::{Contract, Dependency, RecordField, Signal, Sockets, Stability};
pub use extension::Extension;
pub use findings::Findings;
pub use flowtap_model::cluster_objects::{self, ClusterObjects};
pub use flowtap_model::{
    Census, Chronograph, ClusterRanges, ClusterState, DROP_KINDS, DnsAnswer, DnsOutcome,
    DnsRcode, DnsRecord, DnsType, DropKind, DropReason, DropRecord, Endpoint, EventCount,
    EventHop, EventType, Events, Family, FamilyKind, FamilySnapshot, FindingKind,
    FindingRecord, Flow, FlowBatch, FlowKind, HISTOGRAM_BUCKETS, HistogramPoint,
    IcmpCount, KubernetesNames, LabelChanges, LabelValue, Limit, ListenChange, Listener,
    ListeningRecord, LogBatch, LogBody, LogField, LogRecord, LogValue, NameSource,
    Naming, NodeInfo, Output, Pair, PairValue, PeerClass, PeerName, PipelineId,
    PipelineKind, Place, Points, Queue, Queues, Rendered, ResetBy, Resource, Role,
    RoleSource, SendTime, SenderState, Series, SeriesId, Snapshot, SumPoint, TcpRecord,
    Timestamp, Transport, UdpApp, UdpRecord, ValuePoint, batch, catalog, cluster, dns,
    family, finding, flow, labels, limits, log, node, output, peer_class, resource,
    series, snapshot, tcp, time, udp,
};
pub use id::{ComponentId, ComponentKind, InvalidComponentId};
pub use live::{Published, Subscription};
pub use memory::{MemoryPressure, SharedMemoryPressure};
pub use queue::{QueueConfig, WhenFull};
pub use sink::Sink;
pub use stage::{
    Aggregator, ExportService, Exported, Exporter, Inheritance, Processor, Receiver,
    StageError, export_with, metrics_only,
};
pub use status::{ComponentStatus, State, StatusBoard};
pub use ticker::Ticker;
pub use {figment, futures, opentelemetry, schemars, serde, tokio_util, tower};

// flowtap_pipeline::address

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAddress {
    NoPort(String),
    Port(String),
    Brackets(String),
    Url(String),
    Name(String),
}
pub fn deserialize<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<SocketAddr, D::Error> {}
pub fn parse_listen(text: &str) -> Result<SocketAddr, InvalidAddress> {}
pub fn serialize<S: Serializer>(
    address: &SocketAddr,
    serializer: S,
) -> Result<S::Ok, S::Error> {}
pub fn with_scheme(text: &str, port: u16, tls: bool) -> Cow<'_, str> {}
pub mod option;

// flowtap_pipeline::address::option

pub fn deserialize<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<SocketAddr>, D::Error> {}
pub fn serialize<S: Serializer>(
    address: &Option<SocketAddr>,
    serializer: S,
) -> Result<S::Ok, S::Error> {}

// flowtap_pipeline::component

#[derive(Clone, Debug)]
pub struct BuildContext {
    pub id: ComponentId,
    pub pipeline: Arc<str>,
    pub meter: Meter,
    pub several_pipelines: bool,
    pub resource: Arc<Resource>,
    pub node: Arc<Published<NodeInfo>>,
    pub cluster: Arc<Published<ClusterState>>,
    pub label_changes: Arc<LabelChanges>,
    pub memory: Arc<SharedMemoryPressure>,
    pub findings: Arc<Findings>,
    pub status: StatusBoard,
    pub strict: bool,
}
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub path: Vec<String>,
    pub message: String,
}
#[derive(Debug, Default)]
pub struct Registry {}
#[derive(Debug, thiserror::Error)]
pub struct BuildError {
    pub id: ComponentId,
    pub message: String,
}
impl BuildContext {
    pub fn new(id: ComponentId) -> Self {}
}
impl Registry {
    pub fn new() -> Self {}
    pub fn receiver(mut self, factory: Factory<dyn ReceiverConfig>) -> Self {}
    pub fn processor(mut self, factory: Factory<dyn ProcessorConfig>) -> Self {}
    pub fn exporter(mut self, factory: Factory<dyn ExporterConfig>) -> Self {}
    pub fn extension(mut self, factory: Factory<dyn ExtensionConfig>) -> Self {}
    pub const fn receivers(&self) -> &Factories<dyn ReceiverConfig> {}
    pub const fn processors(&self) -> &Factories<dyn ProcessorConfig> {}
    pub const fn exporters(&self) -> &Factories<dyn ExporterConfig> {}
    pub const fn extensions(&self) -> &Factories<dyn ExtensionConfig> {}
}
impl Violation {
    pub fn new(at: &str, message: impl Into<String>) -> Self {}
}
impl fmt::Debug for ProcessorStage {}
impl<C: ?Sized> Clone for Factory<C> {}
impl<C: ?Sized> Copy for Factory<C> {}
impl<C: ?Sized> Factory<C> {
    pub const fn of<T>(
        type_name: &'static str,
        summary: &'static str,
        stability: Stability,
    ) -> Self
    where
        T: BoxAs<C> + Default + DeserializeOwned + JsonSchema,
    {}
    pub fn default(&self) -> Box<C> {}
}
impl<C: ?Sized> fmt::Debug for Factory<C> {}
impl<T: ExporterConfig> BoxAs<dyn ExporterConfig> for T {}
impl<T: ExtensionConfig> BoxAs<dyn ExtensionConfig> for T {}
impl<T: ProcessorConfig> BoxAs<dyn ProcessorConfig> for T {}
impl<T: ReceiverConfig> BoxAs<dyn ReceiverConfig> for T {}
impl<T: Serialize> ToValue for T {}
pub enum ProcessorStage {
    Transform(Box<dyn Processor>),
    Aggregate(Box<dyn Aggregator>),
}
pub fn downcast<T: ComponentConfig>(config: &dyn ComponentConfig) -> Option<&T> {}
pub struct Factory<C: ?Sized> {
    pub type_name: &'static str,
    pub summary: &'static str,
    pub stability: Stability,
    pub parse: fn(&Value) -> Result<Box<C>, figment::Error>,
    pub schema: fn(&mut SchemaGenerator) -> Schema,
    pub default: fn() -> Box<C>,
}
pub trait BoxAs<C: ?Sized> {
    fn boxed(self) -> Box<C>;
}
pub trait ComponentConfig: ToValue + Any + fmt::Debug + Send + Sync {
    fn validate(&self) -> Vec<Violation> {}
    fn warnings(&self) -> Vec<Violation> {}
    fn contract(&self) -> Contract {}
}
pub trait ExporterConfig: ComponentConfig {
    fn queue(&self) -> QueueConfig {}
    fn build(&self, context: &BuildContext) -> Result<Box<dyn Exporter>, BuildError>;
}
pub trait ExtensionConfig: ComponentConfig {
    fn build(&self, context: &BuildContext) -> Result<Box<dyn Extension>, BuildError>;
}
pub trait ProcessorConfig: ComponentConfig {
    fn build(&self, context: &BuildContext) -> Result<ProcessorStage, BuildError>;
}
pub trait ReceiverConfig: ComponentConfig {
    fn build(&self, context: &BuildContext) -> Result<Box<dyn Receiver>, BuildError>;
}
pub trait ToValue {
    fn to_value(&self) -> Result<Value, figment::Error>;
}
pub type Factories<C> = BTreeMap<&'static str, Factory<C>>;

// flowtap_pipeline::contract

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Sockets {
    TcpOfNode,
    TcpOfNamespace,
}
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Dependency {
    ClusterRanges,
    ClusterNames,
}
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Signal {
    Tcp,
    Metrics,
    Logs,
}
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stability {
    Alpha,
    Beta,
    Stable,
}
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Contract {
    pub takes: BTreeSet<Signal>,
    pub gives: BTreeSet<Signal>,
    pub fills: BTreeSet<RecordField>,
    pub needs: Vec<Need>,
    pub covers: Option<Sockets>,
    pub reads: Vec<PathBuf>,
    pub writes: Vec<PathBuf>,
    pub proc_root: Option<PathBuf>,
    pub listens: Vec<Bound<SocketAddr>>,
    pub dials: Vec<Bound<String>>,
    pub depends_on: BTreeSet<Dependency>,
    pub series_labels: BTreeSet<String>,
    pub adds_labels: Vec<(Vec<String>, String)>,
    pub classes: BTreeSet<String>,
    pub named_classes: Vec<(Vec<String>, String)>,
    pub net_admin: bool,
    pub label_changes: LabelChanges,
    pub reads_addresses: bool,
    pub truncates_addresses: Option<Vec<String>>,
    pub interval: Option<Duration>,
}
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound<T> {
    pub key: &'static str,
    pub address: T,
}
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    pub field: RecordField,
    pub key: Option<Vec<String>>,
}
impl Contract {
    pub fn takes(mut self, signals: impl IntoIterator<Item = Signal>) -> Self {}
    pub fn gives(mut self, signals: impl IntoIterator<Item = Signal>) -> Self {}
    pub fn fills(mut self, fields: impl IntoIterator<Item = RecordField>) -> Self {}
    pub fn needs(mut self, field: RecordField) -> Self {}
    pub fn needs_for(mut self, field: RecordField, path: &[&str]) -> Self {}
    pub const fn covers(mut self, sockets: Sockets) -> Self {}
    pub fn reads(mut self, paths: impl IntoIterator<Item = impl Into<PathBuf>>) -> Self {}
    pub fn writes(
        mut self,
        directories: impl IntoIterator<Item = impl Into<PathBuf>>,
    ) -> Self {}
    pub fn proc_root(mut self, root: impl Into<PathBuf>) -> Self {}
    pub fn listens(mut self, key: &'static str, address: SocketAddr) -> Self {}
    pub fn dials(mut self, key: &'static str, address: impl fmt::Display) -> Self {}
    pub fn series_labels(
        mut self,
        names: impl IntoIterator<Item = impl Into<String>>,
    ) -> Self {}
    pub fn adds_label(mut self, path: &[&str], name: &str) -> Self {}
    pub fn classes(
        mut self,
        names: impl IntoIterator<Item = impl Into<String>>,
    ) -> Self {}
    pub fn names_class(mut self, name: &str, path: &[&str]) -> Self {}
    pub fn changes_labels(mut self, changes: LabelChanges) -> Self {}
    pub const fn reads_addresses(mut self) -> Self {}
    pub fn truncates_addresses(mut self, path: &[&str]) -> Self {}
    pub const fn every(mut self, interval: Duration) -> Self {}
    pub const fn net_admin(mut self) -> Self {}
    pub fn depends_on(mut self, dependency: Dependency) -> Self {}
    pub fn signals_in(&self, kind: ComponentKind) -> BTreeSet<Signal> {}
    pub fn signals_out(&self, kind: ComponentKind) -> BTreeSet<Signal> {}
    pub fn is_aggregator(&self) -> bool {}
    pub fn pipeline_kind(&self) -> Option<PipelineKind> {}
}
impl Signal {
    pub const fn of_pipeline(kind: PipelineKind) -> Self {}
}
impl Sockets {
    pub const fn overlaps(self, other: Self) -> bool {}
}
impl fmt::Display for Dependency {}
impl fmt::Display for Signal {}
impl fmt::Display for Sockets {}
impl fmt::Display for Stability {}
pub use flowtap_model::RecordField;

// flowtap_pipeline::extension

pub trait Extension: Send {
    fn start(&mut self) -> BoxFuture<'_, Result<(), StageError>>;
    fn stop(&mut self) -> BoxFuture<'_, ()>;
}

// flowtap_pipeline::findings

#[derive(Debug, Default)]
pub struct Findings(_);
impl Findings {
    pub fn push(&self, finding: FindingRecord) {}
    pub fn newest(&self, limit: usize) -> Vec<Arc<FindingRecord>> {}
    pub fn total(&self) -> u64 {}
}

// flowtap_pipeline::id

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ComponentKind {
    Receiver,
    Processor,
    Exporter,
    Extension,
}
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ComponentId {}
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub struct InvalidComponentId(_);
impl ComponentId {
    pub fn type_name(&self) -> &str {}
    pub fn name(&self) -> Option<&str> {}
    pub fn as_str(&self) -> &str {}
}
impl ComponentKind {
    pub const fn section(self) -> &'static str {}
}
impl FromStr for ComponentId {}
impl fmt::Display for ComponentId {}
impl fmt::Display for ComponentKind {}

// flowtap_pipeline::live

#[derive(Debug)]
pub struct Subscription<T> {}
impl<T: fmt::Debug> fmt::Debug for Published<T> {}
impl<T> Published<T> {
    pub fn new(value: T) -> Arc<Self> {}
    pub fn load(&self) -> Arc<T> {}
    pub fn store(&self, value: T) {}
}
impl<T> Subscription<T> {
    pub fn new(published: &Arc<Published<T>>) -> Self {}
    pub fn last(&self) -> &Arc<T> {}
    pub fn refresh(&mut self) -> bool {}
}
pub struct Published<T>(_);

// flowtap_pipeline::memory

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum MemoryPressure {
    None,
    Soft,
    Hard,
}
#[derive(Debug, Default)]
pub struct SharedMemoryPressure(_);
impl MemoryPressure {
    pub const fn as_str(self) -> &'static str {}
}
impl SharedMemoryPressure {
    pub fn state(&self) -> MemoryPressure {}
    pub fn set(&self, state: MemoryPressure) {}
}

// flowtap_pipeline::plain

pub fn lines(text: &str) -> Cow<'_, str> {}
pub fn plain(text: &str) -> Cow<'_, str> {}

// flowtap_pipeline::queue

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum WhenFull {
    DropOldest,
    DropNewest,
    Block,
}
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct QueueConfig {
    pub size: NonZeroUsize,
    pub max_bytes: usize,
    pub when_full: WhenFull,
}
impl Default for QueueConfig {}

// flowtap_pipeline::schema

#[derive(Clone, Copy, Debug)]
pub struct AddressText;
#[derive(Clone, Copy, Debug)]
pub struct DurationText;
#[derive(Clone, Copy, Debug)]
pub struct SizeText;
impl JsonSchema for AddressText {}
impl JsonSchema for DurationText {}
impl JsonSchema for SizeText {}
pub const ADDRESS: &str = _;
pub const DURATION: &str = _;
pub const SIZE: &str = _;

// flowtap_pipeline::sink

pub trait Sink: Debug + Send {
    fn accept(&mut self, batch: &mut FlowBatch);
    fn wants_census(&self) -> bool;
    fn watermark(&mut self, to: Timestamp);
    fn scan_failed(&mut self, error: &dyn Display);
}

// flowtap_pipeline::size

pub fn deserialize<'de, T: TryFrom<u64>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {}
pub fn parse(text: &str) -> Option<u64> {}
pub fn serialize<T: Serialize, S: Serializer>(
    size: &T,
    serializer: S,
) -> Result<S::Ok, S::Error> {}
pub mod option;

// flowtap_pipeline::size::option

pub fn deserialize<'de, T: TryFrom<u64>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {}
pub fn serialize<T: Serialize, S: Serializer>(
    size: &Option<T>,
    serializer: S,
) -> Result<S::Ok, S::Error> {}

// flowtap_pipeline::stage

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exported {
    pub sent: u64,
    pub failed: u64,
}
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    Permission { what: String, missing: String, remedy: String },
    Unsupported { what: String, remedy: String },
    Listen { address: SocketAddr, key: String, source: io::Error },
    Other(BoxError),
}
pub fn export_with<F, R>(export: F) -> ExportService
where
    F: FnMut(Arc<Snapshot>) -> R + Send + 'static,
    R: Future<Output = Result<Exported, BoxError>> + Send + 'static,
{}
pub fn metrics_only<S>(service: S) -> ExportService
where
    S: Service<Arc<Snapshot>, Response = Exported, Error = BoxError> + Send + 'static,
    S::Future: Send,
{}
pub trait Aggregator: Send {
    fn begin(&mut self, at: Timestamp);
    fn fold(&mut self, batch: &FlowBatch);
    fn wants_census(&self, _receiver: u16) -> bool {}
    fn request_census(&mut self) {}
    fn advance(&mut self, to: Timestamp) -> Option<Output>;
    fn finish(&mut self, at: Timestamp) -> Output;
    fn hand_over(self: Box<Self>) -> Option<Inheritance> {}
    fn take_over(&mut self, _before: Inheritance) {}
}
pub trait Exporter: Send {
    fn start(&mut self) -> BoxFuture<'_, Result<ExportService, StageError>>;
    fn stop(&mut self) -> BoxFuture<'_, ()> {}
}
pub trait Processor: Send {
    fn process(&mut self, batch: &mut FlowBatch);
    fn advance(&mut self, _to: Timestamp, _batch: &mut FlowBatch) {}
    fn wants_census(&self, _receiver: u16) -> bool {}
}
pub trait Receiver: Send {
    fn start(&mut self) -> Result<(), StageError>;
    fn run<'a>(
        &'a mut self,
        sink: &'a mut dyn Sink,
        stop: CancellationToken,
    ) -> BoxFuture<'a, Result<(), StageError>>;
    fn hand_over(&mut self) -> Option<Inheritance> {}
    fn take_over(&mut self, inheritance: Inheritance) -> Result<(), Inheritance> {}
}
pub type ExportService = BoxService<Output, Exported, BoxError>;
pub type Inheritance = Box<dyn Any + Send>;

// flowtap_pipeline::status

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum State {
    Starting,
    Ok,
    RecoverableError,
    PermanentError,
    Stopping,
}
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    Ok,
    Failing(String),
    Blocked(Duration),
    Stalled(Duration),
}
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ComponentStatus {
    pub state: State,
    pub since_unix_nano: u64,
    pub error: Option<String>,
}
#[derive(Clone, Default)]
pub struct StatusBoard {}
impl Health {
    pub fn problem(&self) -> Option<String> {}
}
impl StatusBoard {
    pub fn set(
        &self,
        kind: ComponentKind,
        id: &ComponentId,
        state: State,
        error: Option<String>,
    ) {}
    pub fn is_failing(&self, kind: ComponentKind, id: &ComponentId) -> bool {}
    pub fn remove(&self, kind: ComponentKind, id: &ComponentId) {}
    pub fn load(&self) -> BTreeMap<String, ComponentStatus> {}
    pub fn watch(&self, id: &ComponentId, probe: Arc<dyn Probe>) {}
    pub fn set_running(&self, running: bool) {}
    pub fn is_ready(&self) -> bool {}
    pub fn is_measuring(&self) -> bool {}
    pub fn is_alive(&self) -> bool {}
}
impl fmt::Debug for StatusBoard {}
pub const FAILURES: u32 = _;
pub trait Probe: Send + Sync {
    fn health(&self, now: Instant) -> Health;
}

// flowtap_pipeline::telemetry

#[derive(Clone, Copy, Debug)]
pub struct Reading {
    pub since: Timestamp,
    pub at: Timestamp,
    pub last: bool,
}
#[derive(Clone, Debug)]
pub struct DeliveryTelemetry {}
#[derive(Clone, Debug)]
pub struct ProcessorTelemetry {}
impl DeliveryTelemetry {
    pub fn new(meter: &Meter, id: &ComponentId) -> Self {}
    pub fn sent(&self, kind: PipelineKind, items: u64) {}
    pub fn failed(&self, kind: PipelineKind, items: u64) {}
    pub fn retried(&self) {}
}
impl ProcessorTelemetry {
    pub fn new(
        meter: &Meter,
        id: &ComponentId,
        pipeline: &str,
        reasons: &[&'static str],
    ) -> Self {}
    pub fn dropped(&self, records: u64, bytes: u64, reason: &'static str) {}
}

// flowtap_pipeline::testing

#[derive(Clone, Debug, Default)]
pub struct Recorder {
    pub batches: Vec<FlowBatch>,
    pub watermarks: Vec<Timestamp>,
    pub failures: Vec<String>,
    pub wants_census: bool,
}
impl AggregatorTest {
    pub fn new(factory: Factory<dyn ProcessorConfig>, yaml: &str) -> Self {}
    pub fn fold(&mut self, records: impl IntoIterator<Item = TcpRecord>) {}
    pub fn fold_batch(&mut self, batch: &FlowBatch) {}
    pub fn advance(&mut self, seconds: u64) -> Option<Snapshot> {}
    pub fn advance_logs(&mut self, seconds: u64) -> Option<LogBatch> {}
}
impl ExporterTest {
    pub fn start(factory: Factory<dyn ExporterConfig>, yaml: &str) -> Self {}
    pub fn export(&mut self, snapshot: Snapshot) -> Result<Exported, String> {}
    pub fn export_logs(&mut self, batch: LogBatch) -> Result<Exported, String> {}
    pub fn stop(mut self) {}
}
impl ProcessorTest {
    pub fn new(factory: Factory<dyn ProcessorConfig>, yaml: &str) -> Self {}
    pub fn in_context(
        factory: Factory<dyn ProcessorConfig>,
        yaml: &str,
        context: &BuildContext,
    ) -> Self {}
    pub fn process(
        &mut self,
        records: impl IntoIterator<Item = TcpRecord>,
    ) -> Vec<TcpRecord> {}
    pub fn process_batch(&mut self, batch: &mut FlowBatch) {}
}
impl Recorder {
    pub fn records(&self) -> impl Iterator<Item = &TcpRecord> {}
}
impl Sink for Recorder {}
pub fn batch(records: impl IntoIterator<Item = TcpRecord>) -> FlowBatch {}
pub fn config<C: ComponentConfig + ?Sized>(
    factory: Factory<C>,
    yaml: &str,
) -> Result<Box<C>, String> {}
pub fn context(type_name: &str) -> BuildContext {}
pub fn counters<'a, L>(
    family: &'static Family,
    seconds: u64,
    totals: impl IntoIterator<Item = (L, u64)>,
) -> Snapshot
where
    L: IntoIterator<Item = (&'static str, &'a str)>,
{}
pub fn flow(local: &str, remote: &str) -> Flow {}
pub fn record(local: &str, remote: &str) -> TcpRecord {}
pub struct AggregatorTest(_);
pub struct ExporterTest {}
pub struct ProcessorTest(_);

// flowtap_pipeline::ticker

#[derive(Debug)]
pub struct Ticker {}
impl Ticker {
    pub fn new(interval: Duration) -> Self {}
    pub async fn tick(&mut self) -> Timestamp {}
}
