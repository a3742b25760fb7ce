//! The exporter `debug`: says on standard output what a window held, in the shapes of the OpenTelemetry Collector's.
//!
//! In: snapshots, batches of log records ([`logs`]). Out, by `verbosity`:
//!
//! - `basic`: a line per window.
//! - `normal`: and a line per series as in a scrape, with what the window added: `primus_lens_network_flow_dns 300 # +20`.
//! - `detailed`: and a block of lines per metric and series, with everything that an OTLP request would say of them.
//!
//! Of log records `normal` prints a line each, and `detailed` a block of lines. At most `sampling` series of each family, and
//! records of each batch, are printed; how many were left out is said. A window is one write, so that lines of
//! several exporters do not mix.

mod config;
mod logs;

use std::fmt::Write as _;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use flowtap_pipeline::plain::lines;
use flowtap_pipeline::{
    Buckets, BuildContext, BuildError, ComponentId, ComponentKind, Exponential, ExportService, Exported,
    Exporter, ExporterConfig, Factory, FamilyKind, FamilySnapshot, Output, PairValue, Points, QueueConfig,
    Series, Snapshot, Stability, StageError, State, StatusBoard, Timestamp, ZERO_THRESHOLD,
};
use futures::FutureExt;
use futures::future::BoxFuture;
use tower::util::BoxService;
use tower::{BoxError, service_fn};

pub use self::config::{Config, Verbosity};
use crate::naming::{full_name, prometheus_name};

impl ExporterConfig for Config {
    fn queue(&self) -> QueueConfig {
        QueueConfig::default()
    }

    fn build(&self, context: &BuildContext) -> Result<Box<dyn Exporter>, BuildError> {
        Ok(Box::new(DebugExporter::new(self.clone(), io::stdout(), context)))
    }
}

/// Time after which a write is blocked: there is nobody to read.
const BLOCKED_AFTER: Duration = Duration::from_secs(2);

const BLOCKED: &str = "standard output is not read: nothing has been printed for 2 s or more; \
    hint: read the pipe, or remove the exporter";

/// The other end of standard output, in `/status`.
#[derive(Clone, Debug)]
struct Reader {
    id: ComponentId,
    status: StatusBoard,
}

impl Reader {
    /// Awaits `writing`, and reports if it takes long.
    async fn watch<T>(&self, mut writing: impl Future<Output = T> + Unpin) -> T {
        if let Ok(written) = tokio::time::timeout(BLOCKED_AFTER, &mut writing).await {
            return written;
        }
        tracing::warn!(exporter = %self.id, "standard output is not read: nothing has been printed for 2 s or more; \
            hint: read the pipe, or remove the exporter");
        let kind = ComponentKind::Exporter;
        self.status
            .set(kind, &self.id, State::RecoverableError, Some(BLOCKED.to_owned()));
        let written = writing.await;
        self.status.recover(kind, &self.id, BLOCKED);
        written
    }
}

/// The exporter type `debug`.
pub const FACTORY: Factory<dyn ExporterConfig> = Factory::of::<Config>(
    "debug",
    "prints series and log records to standard output",
    Stability::Beta,
);

/// The exporter, onto any writer.
#[derive(Debug)]
pub struct DebugExporter<W> {
    config: Config,
    out: Arc<Mutex<W>>,
    reader: Reader,
}

impl<W> DebugExporter<W> {
    /// An exporter that prints to `out`.
    pub fn new(config: Config, out: W, context: &BuildContext) -> Self {
        Self {
            config,
            out: Arc::new(Mutex::new(out)),
            reader: Reader {
                id: context.id.clone(),
                status: context.status.clone(),
            },
        }
    }
}

impl<W: Write + Send + 'static> Exporter for DebugExporter<W> {
    fn start(&mut self) -> BoxFuture<'_, Result<ExportService, StageError>> {
        let (config, out, reader) = (self.config.clone(), Arc::clone(&self.out), self.reader.clone());
        let service = service_fn(move |output: Output| {
            let (config, out, reader) = (config.clone(), Arc::clone(&out), reader.clone());
            async move {
                let exported = Exported {
                    sent: output.items(),
                    failed: 0,
                };
                // Off the async workers: a pipe that nobody reads blocks the write for ever.
                let writing = tokio::task::spawn_blocking(move || {
                    let described = match &output {
                        Output::Metrics(snapshot) => describe(&config, snapshot),
                        Output::Logs(batch) => logs::describe(&config, batch),
                    };
                    let text = lines(&described);
                    let mut out = out.lock().unwrap_or_else(PoisonError::into_inner);
                    out.write_all(text.as_bytes()).and_then(|()| out.flush())
                });
                let written = reader.watch(writing).await;
                written.map_err(BoxError::from)?.map_err(BoxError::from)?;
                Ok::<_, BoxError>(exported)
            }
        });
        async move { Ok(BoxService::new(service)) }.boxed()
    }

    fn stop(&mut self) -> BoxFuture<'_, ()> {
        async {}.boxed()
    }
}

fn describe(config: &Config, snapshot: &Snapshot) -> String {
    let mut text = String::new();
    let last = if snapshot.last { " (last)" } else { "" };
    let ended: usize = snapshot.families.iter().map(|family| family.ended.len()).sum();
    // Writing to a String does not fail.
    let _ = writeln!(
        text,
        "# window pipeline={} end={} seconds={:.3} series={} ended={ended}{last}",
        snapshot.pipeline,
        snapshot.at,
        snapshot.window.as_secs_f64(),
        snapshot.points()
    );
    for (index, family) in snapshot.families.iter().enumerate() {
        match config.verbosity {
            Verbosity::Basic => break,
            Verbosity::Normal => push_family(&mut text, config, family),
            Verbosity::Detailed => {
                // Writing to a String does not fail.
                let _ = push_metric(&mut text, config, index, family);
            }
        }
        let left_out = family.points.len().saturating_sub(config.sampling);
        if left_out > 0 {
            let name = prometheus_name(&config.namespace, family.family);
            let _ = writeln!(text, "# {name}: {left_out} series more");
        }
    }
    text
}

fn push_family(text: &mut String, config: &Config, family: &FamilySnapshot) {
    let name = prometheus_name(&config.namespace, family.family);
    let braced = |labels: &str| {
        if labels.is_empty() {
            String::new()
        } else {
            format!("{{{labels}}}")
        }
    };
    match &family.points {
        Points::Sums(points) => {
            for point in points.iter().take(config.sampling) {
                let labels = braced(&point.series.joined_labels());
                let _ = writeln!(text, "{name}{labels} {} # +{}", point.total, point.delta);
            }
        }
        Points::Values(points) => {
            for point in points.iter().take(config.sampling) {
                let labels = braced(&point.series.joined_labels());
                let _ = writeln!(text, "{name}{labels} {}", point.value);
            }
        }
        Points::Histograms(points) => {
            for point in points.iter().take(config.sampling) {
                let labels = braced(&point.series.joined_labels());
                let _ = writeln!(text, "{name}_count{labels} {} # sum {}", point.count(), point.sum);
            }
        }
    }
}

fn push_metric(
    text: &mut String,
    config: &Config,
    index: usize,
    snapshot: &FamilySnapshot,
) -> std::fmt::Result {
    let family = snapshot.family;
    let (data, point) = match family.kind {
        FamilyKind::Counter | FamilyKind::UpDownCounter => ("Sum", "NumberDataPoints"),
        FamilyKind::Gauge => ("Gauge", "NumberDataPoints"),
        FamilyKind::Histogram(_) => ("Histogram", "HistogramDataPoints"),
        FamilyKind::ExponentialHistogram => ("ExponentialHistogram", "ExponentialHistogramDataPoints"),
    };
    writeln!(text, "Metric #{index}\nDescriptor:")?;
    writeln!(text, "     -> Name: {}", full_name(&config.namespace, family))?;
    writeln!(text, "     -> Description: {}", family.help)?;
    writeln!(text, "     -> Unit: {}", family.unit.as_str())?;
    writeln!(text, "     -> DataType: {data}")?;
    if data == "Sum" {
        writeln!(
            text,
            "     -> IsMonotonic: {}",
            family.kind == FamilyKind::Counter
        )?;
    }
    if family.kind != FamilyKind::Gauge {
        writeln!(text, "     -> AggregationTemporality: Cumulative")?;
    }
    match &snapshot.points {
        Points::Sums(points) => {
            for (index, sum) in points.iter().take(config.sampling).enumerate() {
                writeln!(text, "{point} #{index}")?;
                push_series(text, &sum.series, sum.updated)?;
                writeln!(text, "Value: {}\nAdded: {}", sum.total, sum.delta)?;
            }
        }
        Points::Values(points) => {
            for (index, value) in points.iter().take(config.sampling).enumerate() {
                writeln!(text, "{point} #{index}")?;
                push_series(text, &value.series, value.updated)?;
                writeln!(text, "Value: {}", value.value)?;
            }
        }
        Points::Histograms(points) => {
            for (index, histogram) in points.iter().take(config.sampling).enumerate() {
                writeln!(text, "{point} #{index}")?;
                push_series(text, &histogram.series, histogram.updated)?;
                writeln!(text, "Count: {}\nSum: {}", histogram.count(), histogram.sum)?;
                if let Buckets::Exponential(buckets) = &histogram.buckets {
                    push_exponential(text, buckets)?;
                }
                let FamilyKind::Histogram(bounds) = family.kind else {
                    continue;
                };
                for (index, bound) in bounds.iter().enumerate() {
                    writeln!(text, "ExplicitBounds #{index}: {bound}")?;
                }
                for (index, count) in histogram.counts(bounds).enumerate() {
                    writeln!(text, "Buckets #{index}, Count: {count}")?;
                }
            }
        }
    }
    Ok(())
}

/// The buckets that are not empty, each with its bounds.
fn push_exponential(text: &mut String, buckets: &Exponential) -> std::fmt::Result {
    writeln!(text, "Scale: {}", buckets.scale())?;
    if buckets.zero_count() > 0 {
        writeln!(
            text,
            "Bucket [0, {ZERO_THRESHOLD:e}], Count: {}",
            buckets.zero_count()
        )?;
    }
    for (index, count) in (buckets.offset()..).zip(buckets.counts()) {
        if *count > 0 {
            let (lower, upper) = buckets.bounds(index);
            writeln!(text, "Bucket ({lower:.6}, {upper:.6}], Count: {count}")?;
        }
    }
    Ok(())
}

fn push_series(text: &mut String, series: &Series, updated: Timestamp) -> std::fmt::Result {
    for (index, pair) in series.pairs().enumerate() {
        if index == 0 {
            writeln!(text, "Data point attributes:")?;
        }
        let name = pair.name();
        match pair.value {
            // A value may contain characters that move the cursor, or look like a line of this
            // exporter.
            PairValue::Text(_) => {
                writeln!(text, "     -> {name}: Str({})", pair.value.text().escape_debug())?;
            }
            PairValue::Integer(value) => writeln!(text, "     -> {name}: Int({value})")?,
        }
    }
    writeln!(text, "StartTimestamp: {}", series.start())?;
    writeln!(text, "Timestamp: {updated}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{context, many, snapshot};
    use tower::{Service, ServiceExt};

    #[test]
    fn basic_is_a_line_per_window() {
        let text = describe(&Config::default(), &snapshot(3));
        assert_eq!(
            text,
            "# window pipeline=metrics end=0.000005000 seconds=5.000 series=2 ended=1\n"
        );
    }

    fn lines(verbosity: Verbosity, sampling: usize, snapshot: &Snapshot) -> Vec<String> {
        let config = Config {
            verbosity,
            sampling,
            ..Config::default()
        };
        let text = describe(&config, snapshot);
        text.lines().skip(1).map(str::to_owned).collect()
    }

    #[test]
    fn normal_is_a_line_per_series_up_to_the_sampling_and_says_what_it_left_out() {
        assert_eq!(
            lines(Verbosity::Normal, 1, &many(3)),
            [
                r#"primus_lens_network_bytes{raddr="peer-0"} 0 # +0"#,
                "# primus_lens_network_bytes: 2 series more"
            ]
        );
    }

    #[test]
    fn detailed_says_of_each_point_what_otlp_would() {
        let lines = lines(Verbosity::Detailed, 20, &snapshot(3));
        let expected = [
            "Metric #0",
            "Descriptor:",
            "     -> Name: primus_lens_network_bytes",
            "     -> Description: Bytes of a test.",
            "     -> Unit: By",
            "     -> DataType: Sum",
            "     -> IsMonotonic: true",
            "     -> AggregationTemporality: Cumulative",
            "NumberDataPoints #0",
            "Data point attributes:",
            "     -> raddr: Str(192.0.2.7)",
            "StartTimestamp: 0.000001000",
            "Timestamp: 0.000005000",
            "Value: 3",
            "Added: 3",
            "Metric #1",
        ];
        assert_eq!(lines[..expected.len()], expected);
        assert!(
            lines.contains(&r#"     -> raddr: Str(a\"b\\c\nd)"#.to_owned()),
            "{lines:?}"
        );
        assert_eq!(
            lines.iter().filter(|line| line.starts_with("Buckets #")).count(),
            17
        );
        assert_eq!(lines.last().map(String::as_str), Some("Buckets #16, Count: 1"));
    }

    #[tokio::test]
    async fn a_standard_output_that_is_not_read_is_an_error_until_it_is() {
        let (mut pipe, out) = io::pipe().unwrap();
        let context = context();
        let config = Config {
            verbosity: Verbosity::Detailed,
            sampling: usize::MAX,
            ..Config::default()
        };
        let mut exporter = DebugExporter::new(config, out, &context);
        let mut service = exporter.start().await.unwrap();
        // More than a pipe has room for.
        let call = async {
            for _ in 0..200 {
                let call = service.ready().await.unwrap().call(Output::from(snapshot(1)));
                call.await.unwrap();
            }
        };
        let state = || context.status.load().remove("exporters/test");
        let watch = async {
            let failing = loop {
                tokio::time::sleep(Duration::from_millis(5)).await;
                if let Some(status) = state() {
                    break status;
                }
            };
            assert_eq!(failing.state, State::RecoverableError);
            assert!(failing.error.unwrap().contains("is not read"));
            std::thread::Builder::new()
                .spawn(move || io::copy(&mut pipe, &mut io::sink()))
                .unwrap();
        };
        tokio::join!(call, watch);
        let recovered = state().unwrap();
        assert_eq!((recovered.state, recovered.error), (State::Ok, None));
        drop((service, exporter));
    }

    #[tokio::test]
    async fn a_closed_standard_output_is_an_error_of_the_export_and_no_panic() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut exporter = DebugExporter::new(Config::default(), Closed, &context());
        let mut service = exporter.start().await.unwrap();
        assert!(
            service
                .ready()
                .await
                .unwrap()
                .call(Output::from(snapshot(1)))
                .await
                .is_err()
        );
    }
}
