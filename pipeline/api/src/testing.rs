//! A kit for tests of components, in this repository and in custom distributions: feature `testing`.
//!
//! A component is built from its [`Factory`] and YAML text, as `flowtap run` builds it, then driven by hand: records into a
//! processor, snapshots into an exporter, the batches and watermarks of a receiver into a [`Recorder`]. Everything that is wrong
//! fails the test: the functions panic with the message that an operator would see.
//!
//! ```
//! use flowtap_pipeline::testing::{ProcessorTest, record};
//! # use flowtap_pipeline::{
//! #     BuildContext, BuildError, ComponentConfig, Factory, FlowBatch, Processor, ProcessorConfig, ProcessorStage, Stability,
//! # };
//! # #[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
//! # #[serde(deny_unknown_fields, default)]
//! # struct Config { port: u16 }
//! # impl ComponentConfig for Config {}
//! # impl ProcessorConfig for Config {
//! #     fn build(&self, _: &BuildContext) -> Result<ProcessorStage, BuildError> {
//! #         Ok(ProcessorStage::Transform(Box::new(Without(self.port))))
//! #     }
//! # }
//! # struct Without(u16);
//! # impl Processor for Without {
//! #     fn process(&mut self, batch: &mut FlowBatch) {
//! #         batch.tcp.retain(|record| record.flow.remote.port != self.0);
//! #     }
//! # }
//! # const FACTORY: Factory<dyn ProcessorConfig> = Factory::of::<Config>("without", "drops a port", Stability::Alpha);
//! let mut without = ProcessorTest::new(FACTORY, "port: 53");
//! let passed = without.process([
//!     record("192.0.2.1:40000", "198.51.100.7:443"),
//!     record("192.0.2.1:40001", "198.51.100.7:53"),
//! ]);
//! assert_eq!(passed.len(), 1);
//! ```
#![expect(clippy::panic, reason = "a kit for tests: what is wrong fails the test")]

mod instruments;

use std::fmt::Display;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use figment::value::Value;
use flowtap_model::{
    Endpoint, Family, FamilyKind, FamilySnapshot, Flow, FlowBatch, LabelValue, LogBatch, Output, Points,
    Series, Snapshot, SumPoint, TcpRecord, Timestamp,
};
use tokio::runtime::{Builder, Runtime};
use tower::{Service, ServiceExt};

use crate::component::{
    BuildContext, ComponentConfig, ExporterConfig, Factory, ProcessorConfig, ProcessorStage,
};
use crate::id::ComponentId;
use crate::sink::Sink;
use crate::stage::{Aggregator, ExportService, Exported, Exporter, Processor};

pub use self::instruments::Instruments;

/// Fails the test with an error that an operator would see.
fn or_fail<T, E: Display>(result: Result<T, E>, what: &str) -> T {
    result.unwrap_or_else(|error| panic!("{what}: {error}"))
}

/// Returns a context for a component of type `type_name` in the pipeline `metrics`, on a machine and in a cluster of which nothing is
/// known. Its instruments are read by nobody; [`Instruments`] has a meter that a test can read.
///
/// # Panics
/// If `type_name` is not a valid component id.
pub fn context(type_name: &str) -> BuildContext {
    let id: ComponentId = or_fail(type_name.parse(), "the id of the component");
    BuildContext {
        pipeline: "metrics".into(),
        ..BuildContext::new(id)
    }
}

/// Reads a config from YAML text, the part below the component's id; an empty text is a config in which nothing is set.
///
/// # Errors
/// The first error of form, or every violation that [`ComponentConfig::validate`] returns, one per line.
pub fn config<C: ComponentConfig + ?Sized>(factory: Factory<C>, yaml: &str) -> Result<Box<C>, String> {
    let text = if yaml.trim().is_empty() { "{}" } else { yaml };
    let value: Value = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
    let config = (factory.parse)(&value).map_err(|error| error.to_string())?;
    let violations = config.validate();
    if violations.is_empty() {
        return Ok(config);
    }
    let lines = violations.into_iter();
    let lines: Vec<_> = lines
        .map(|violation| format!("{}: {}", violation.path.join("."), violation.message))
        .collect();
    Err(lines.join("\n"))
}

/// Returns a TCP flow between two ends, written as `192.0.2.1:80` or `[::1]:80`.
///
/// # Panics
/// If one is not an address with a port.
pub fn flow(local: &str, remote: &str) -> Flow {
    let end = |text: &str| {
        let address: SocketAddr = or_fail(text.parse(), text);
        Endpoint::new(address.ip(), address.port())
    };
    Flow::new(end(local), end(remote))
}

/// Returns an empty record of the TCP flow between two ends, see [`flow`].
///
/// # Panics
/// If one is not an address with a port.
pub fn record(local: &str, remote: &str) -> TcpRecord {
    TcpRecord::new(flow(local, remote))
}

/// Returns a batch of `records`, of the receiver with index 0.
pub fn batch(records: impl IntoIterator<Item = TcpRecord>) -> FlowBatch {
    FlowBatch {
        tcp: records.into_iter().collect(),
        ..FlowBatch::default()
    }
}

/// A snapshot of the pipeline `metrics` with one counter: a series for each set of labels, with its total, all of which the
/// window of 5 s added. The window ends `seconds` after the epoch.
///
/// # Panics
/// If `family` is not a counter.
pub fn counters<'a, L>(
    family: &'static Family,
    seconds: u64,
    totals: impl IntoIterator<Item = (L, u64)>,
) -> Snapshot
where
    L: IntoIterator<Item = (&'static str, &'a str)>,
{
    assert!(
        matches!(family.kind, FamilyKind::Counter),
        "{} is not a counter",
        family.name
    );
    let at = Timestamp::from_nanos(seconds * 1_000_000_000);
    let points = totals.into_iter().map(|(labels, total)| {
        let labels: Vec<_> = labels
            .into_iter()
            .map(|(name, value)| (name, LabelValue::Text(value)))
            .collect();
        SumPoint {
            series: Series::new(family, labels, None, Timestamp::from_nanos(1)),
            total,
            delta: total,
            updated: at,
        }
    });
    Snapshot {
        pipeline: "metrics".into(),
        at,
        window: Duration::from_secs(5),
        last: false,
        replaced: false,
        families: vec![FamilySnapshot {
            family,
            points: Points::Sums(points.collect()),
            ended: Vec::new(),
        }],
    }
}

/// A processor under test.
pub struct ProcessorTest(Box<dyn Processor>);

impl ProcessorTest {
    /// Builds it from YAML text; its clock is just after the epoch, as 0 is not a time.
    ///
    /// # Panics
    /// If the config is not valid, if it can't be built, or if it is an aggregator.
    pub fn new(factory: Factory<dyn ProcessorConfig>, yaml: &str) -> Self {
        Self::in_context(factory, yaml, &context(factory.type_name))
    }

    /// Builds it from YAML text with what `context` knows of the machine and the cluster.
    ///
    /// # Panics
    /// As [`ProcessorTest::new`].
    pub fn in_context(factory: Factory<dyn ProcessorConfig>, yaml: &str, context: &BuildContext) -> Self {
        let config = or_fail(config(factory, yaml), factory.type_name);
        match or_fail(config.build(context), "build") {
            ProcessorStage::Transform(mut processor) => {
                processor.begin(Timestamp::from_nanos(1));
                Self(processor)
            }
            ProcessorStage::Aggregate(_) => panic!("{} is an aggregator", factory.type_name),
        }
    }

    /// Passes records through it; returns those that are left, as they are after it.
    pub fn process(&mut self, records: impl IntoIterator<Item = TcpRecord>) -> Vec<TcpRecord> {
        let mut batch = batch(records);
        self.0.process(&mut batch);
        batch.tcp
    }

    /// Passes a whole batch through it, listeners and events included.
    pub fn process_batch(&mut self, batch: &mut FlowBatch) {
        self.0.process(batch);
    }

    /// Moves the watermark, a processor's only clock, to `seconds` after the epoch; returns the batch of records that it adds by
    /// itself, which is empty for most.
    ///
    /// ```
    /// use flowtap_pipeline::testing::{ProcessorTest, record};
    /// # use flowtap_pipeline::{
    /// #     BuildContext, BuildError, ComponentConfig, Factory, FlowBatch, Processor, ProcessorConfig, ProcessorStage, Stability,
    /// #     TcpRecord, Timestamp,
    /// # };
    /// # #[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
    /// # #[serde(deny_unknown_fields, default)]
    /// # struct Config { until: u64 }
    /// # impl ComponentConfig for Config {}
    /// # impl ProcessorConfig for Config {
    /// #     fn build(&self, _: &BuildContext) -> Result<ProcessorStage, BuildError> {
    /// #         let until = Timestamp::from_nanos(self.until * 1_000_000_000);
    /// #         Ok(ProcessorStage::Transform(Box::new(HoldBack { until, records: Vec::new() })))
    /// #     }
    /// # }
    /// # const FACTORY: Factory<dyn ProcessorConfig> = Factory::of::<Config>("hold_back", "holds records back", Stability::Alpha);
    /// struct HoldBack {
    ///     until: Timestamp,
    ///     records: Vec<TcpRecord>,
    /// }
    ///
    /// impl Processor for HoldBack {
    ///     fn process(&mut self, batch: &mut FlowBatch) {
    ///         self.records.append(&mut batch.tcp);
    ///     }
    ///
    ///     fn advance(&mut self, to: Timestamp, batch: &mut FlowBatch) {
    ///         if to >= self.until {
    ///             batch.tcp.append(&mut self.records);
    ///         }
    ///     }
    /// }
    ///
    /// let mut hold_back = ProcessorTest::new(FACTORY, "until: 10");
    /// assert!(hold_back.process([record("192.0.2.1:40000", "198.51.100.7:443")]).is_empty());
    /// assert!(hold_back.advance(9).is_empty());
    /// assert_eq!(hold_back.advance(10).tcp.len(), 1);
    /// ```
    pub fn advance(&mut self, seconds: u64) -> FlowBatch {
        let mut batch = FlowBatch::default();
        self.0
            .advance(Timestamp::from_nanos(seconds * 1_000_000_000), &mut batch);
        batch
    }
}

/// An aggregator under test, with its time set by hand.
pub struct AggregatorTest(Box<dyn Aggregator>);

impl AggregatorTest {
    /// Builds it from YAML text; its first window begins at the epoch.
    ///
    /// # Panics
    /// If the config is not valid, if it can't be built, or if it is not an aggregator.
    pub fn new(factory: Factory<dyn ProcessorConfig>, yaml: &str) -> Self {
        let config = or_fail(config(factory, yaml), factory.type_name);
        match or_fail(config.build(&context(factory.type_name)), "build") {
            ProcessorStage::Aggregate(mut aggregator) => {
                aggregator.begin(Timestamp::from_nanos(0));
                Self(aggregator)
            }
            ProcessorStage::Transform(_) => panic!("{} is not an aggregator", factory.type_name),
        }
    }

    /// Folds records into the current window.
    pub fn fold(&mut self, records: impl IntoIterator<Item = TcpRecord>) {
        self.0.fold(&batch(records));
    }

    /// Folds a whole batch into the current window, with its receiver, its census and its events.
    pub fn fold_batch(&mut self, batch: &FlowBatch) {
        self.0.fold(batch);
    }

    /// Moves the watermark to `seconds` after the epoch; returns the snapshot of the window that this closes, if any.
    pub fn advance(&mut self, seconds: u64) -> Option<Snapshot> {
        let snapshot = self.output(seconds)?.into_snapshot();
        snapshot.map(Arc::unwrap_or_clone)
    }

    /// The same of an aggregator of log records; returns the batch of the window that this closes, if any.
    pub fn advance_logs(&mut self, seconds: u64) -> Option<LogBatch> {
        let batch = self.output(seconds)?.into_logs();
        batch.map(Arc::unwrap_or_clone)
    }

    fn output(&mut self, seconds: u64) -> Option<Output> {
        self.0.advance(Timestamp::from_nanos(seconds * 1_000_000_000))
    }
}

/// An exporter under test, started, without the queue that flowtap puts in front of it.
pub struct ExporterTest {
    runtime: Runtime,
    exporter: Box<dyn Exporter>,
    service: ExportService,
}

impl ExporterTest {
    /// Builds it from YAML text, and starts it.
    ///
    /// # Panics
    /// If the config is not valid, or if it can't be built or started.
    pub fn start(factory: Factory<dyn ExporterConfig>, yaml: &str) -> Self {
        Self::in_context(factory, yaml, &context(factory.type_name))
    }

    /// Builds it from YAML text with what `context` has, such as a meter, and starts it.
    ///
    /// # Panics
    /// As [`ExporterTest::start`].
    pub fn in_context(factory: Factory<dyn ExporterConfig>, yaml: &str, context: &BuildContext) -> Self {
        let config = or_fail(config(factory, yaml), factory.type_name);
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = or_fail(runtime, "tokio");
        let (exporter, service) = runtime.block_on(async {
            let mut exporter = or_fail(config.build(context), "build");
            let service = or_fail(exporter.start().await, "start");
            (exporter, service)
        });
        Self {
            runtime,
            exporter,
            service,
        }
    }

    /// Exports a snapshot, and waits for the outcome.
    ///
    /// # Errors
    /// The exporter's, as a text: flowtap logs and counts it, and the next snapshot comes.
    pub fn export(&mut self, snapshot: Snapshot) -> Result<Exported, String> {
        self.export_output(Output::from(snapshot))
    }

    /// Exports a batch of log records, and waits for the outcome.
    ///
    /// # Errors
    /// As [`ExporterTest::export`].
    pub fn export_logs(&mut self, batch: LogBatch) -> Result<Exported, String> {
        self.export_output(Output::from(batch))
    }

    fn export_output(&mut self, output: Output) -> Result<Exported, String> {
        let service = &mut self.service;
        self.runtime.block_on(async move {
            let ready = service.ready().await.map_err(|error| error.to_string())?;
            let exported = ready.call(output).await;
            exported.map_err(|error| error.to_string())
        })
    }

    /// Stops it, as flowtap does once its queue has drained.
    pub fn stop(mut self) {
        drop(self.service);
        self.runtime.block_on(self.exporter.stop());
    }
}

/// A [`Sink`] that keeps everything that a receiver passes to it.
#[derive(Clone, Debug, Default)]
pub struct Recorder {
    /// Batches, in their order.
    pub batches: Vec<FlowBatch>,
    /// Watermarks, in their order.
    pub watermarks: Vec<Timestamp>,
    /// Errors of scans that failed.
    pub failures: Vec<String>,
    /// Reasons why records were refused.
    pub refusals: Vec<String>,
    /// Result of [`Sink::wants_census`].
    pub wants_census: bool,
}

impl Recorder {
    /// Every record, in the order in which they came.
    pub fn records(&self) -> impl Iterator<Item = &TcpRecord> {
        self.batches.iter().flat_map(|batch| &batch.tcp)
    }
}

impl Sink for Recorder {
    fn accept(&mut self, batch: &mut FlowBatch) {
        self.batches.push(batch.clone());
        batch.clear();
    }

    fn wants_census(&self) -> bool {
        self.wants_census
    }

    fn watermark(&mut self, to: Timestamp) {
        self.watermarks.push(to);
    }

    fn scan_failed(&mut self, error: &dyn Display) {
        self.failures.push(error.to_string());
    }

    fn records_refused(&mut self, reason: &dyn Display) {
        self.refusals.push(reason.to_string());
    }
}
