//! The daemon's own logs and metrics.
//!
//! Logs go to standard error. Metrics are OpenTelemetry instruments with one provider and up to three readers: the Prometheus bridge,
//! served at `service.telemetry.metrics.endpoint`; the one that exporters of `service.telemetry.metrics.exporters` are fed from; and
//! the SDK's own push to `service.telemetry.metrics.otlp.endpoint`, which still works when those exporters do not.

mod log_format;
mod log_writer;
mod logs;
mod own_metrics;

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use flowtap_config::{Config, ConfigErrors, LogFormat, LogsConfig, MetricsConfig, log_level};
use flowtap_pipeline::resource::SERVICE_NAME;
use flowtap_pipeline::{State, StatusBoard};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;
use opentelemetry::metrics::{Meter, MeterProvider};
use opentelemetry::{InstrumentationScope, KeyValue};
#[cfg(feature = "own-metrics-push")]
use opentelemetry_otlp::{MetricExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
#[cfg(feature = "own-metrics-push")]
use opentelemetry_sdk::metrics::PeriodicReader;
use opentelemetry_sdk::metrics::{Instrument, MeterProviderBuilder, SdkMeterProvider, Stream};
use prometheus::proto::MetricType;
use prometheus::{Registry, TextEncoder};
use serde::Serialize;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;

use self::log_format::{CutJson, PlainFields};
pub use self::log_writer::LogWriter;
use self::logs::Throttle;
pub use self::own_metrics::{OwnMetrics, SharedReader};
use crate::memory_limiter;
use crate::watches::WatchBoard;

/// Series that an instrument may have: one per component, or per component and reason. The SDK makes room for all of them at
/// once (its 2,000 took 4 MiB); those beyond are summed up under `otel_metric_overflow`.
const SERIES: usize = 500;

/// Why logs or the daemon's own metrics can't be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// Of a library of the metrics.
    #[error("the daemon's own metrics can't be set up: {0}")]
    Metrics(String),
    /// A level or filter of logs that is not valid.
    #[error("{key}: {message}")]
    Filter {
        /// The key of the config, or the variable, that has it.
        key: &'static str,
        /// The error, and the allowed values.
        message: String,
    },
    /// Of the library of the logs.
    #[error("{0}")]
    Logs(String),
}

/// The daemon's own metrics.
#[derive(Debug)]
pub struct Telemetry {
    provider: SdkMeterProvider,
    registry: Registry,
    /// Reader for the exporters that push own metrics, if there are any.
    reader: Option<SharedReader>,
}

impl Telemetry {
    /// Instruments of `resource`, read and pushed as `config` has it. A push of the SDK needs a tokio runtime around it.
    ///
    /// # Errors
    /// The exporter of the push can't be built.
    pub fn new(
        resource: &flowtap_pipeline::Resource,
        config: &MetricsConfig,
    ) -> Result<Self, TelemetryError> {
        let failed = |error: &dyn std::fmt::Display| TelemetryError::Metrics(error.to_string());
        let registry = Registry::new();
        let bridge = opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            .scope_info_enabled(false)
            .build()
            .map_err(|error| failed(&error))?;
        let mut provider = SdkMeterProvider::builder().with_reader(bridge);
        // Each reader takes a mebibyte.
        let reader = (!config.exporters.is_empty()).then(SharedReader::default);
        if let Some(reader) = reader.clone() {
            provider = provider.with_reader(reader);
        }
        if let Some(endpoint) = config.otlp.url() {
            provider = pushing(provider, endpoint.into_owned(), config.interval)?;
        }
        let provider = provider
            // The names are the same in a scrape, in a push of the SDK and in those of exporters.
            .with_view(|instrument: &Instrument| {
                let stream = Stream::builder().with_name(format!("flowtap.{}", instrument.name()));
                stream.with_cardinality_limit(SERIES).build().ok()
            })
            .with_resource(sdk_resource(resource))
            .build();
        let telemetry = Self {
            provider,
            registry,
            reader,
        };
        telemetry.describe_process();
        Ok(telemetry)
    }

    /// For instruments.
    pub fn meter(&self) -> Meter {
        let scope = InstrumentationScope::builder("flowtap").with_version(env!("CARGO_PKG_VERSION"));
        self.provider.meter_with_scope(scope.build())
    }

    /// `/metrics`.
    pub fn routes(&self) -> Router {
        let registry = self.registry.clone();
        Router::new().route("/metrics", get(move || async move { expose(&registry) }))
    }

    /// The reader of the same metrics, for the status page.
    pub fn reader(&self) -> Reader {
        Reader(self.registry.clone())
    }

    /// Pushes what the SDK has not pushed yet, and waits for the collector.
    pub fn shutdown(&self) {
        if let Err(error) = self.provider.shutdown() {
            tracing::warn!(%error, "the daemon's own metrics were not all pushed; \
                hint: see the exporter's own messages for the cause");
        }
    }

    /// The same as snapshots, for exporters.
    pub fn own_metrics(&self) -> Option<OwnMetrics> {
        self.reader.clone().map(OwnMetrics::new)
    }

    /// Has the states of `board` and `watches`, which `/status` shows, as a gauge: alerts need not wait until a failure is a loss.
    pub fn describe_components(&self, board: StatusBoard, watches: WatchBoard) {
        self.meter()
            .u64_observable_gauge("component_healthy")
            .with_description("0 for a component that `/status` shows with an error, 1 for any other.")
            .with_callback(move |observer| {
                let observe = |component: String, state: State| {
                    let failing = matches!(state, State::RecoverableError | State::PermanentError);
                    observer.observe(u64::from(!failing), &[KeyValue::new("component", component)]);
                };
                for (component, status) in board.load() {
                    observe(component, status.state);
                }
                for (resource, status) in watches.load() {
                    observe(format!("kubernetes/{resource}"), status.state);
                }
            })
            .build();
    }

    /// The Collector's names for the process itself.
    fn describe_process(&self) {
        let started = Arc::new(std::time::Instant::now());
        let meter = self.meter();
        meter
            .f64_observable_counter("process_uptime")
            .with_description("Time since the daemon started.")
            .with_unit("s")
            .with_callback(move |observer| observer.observe(started.elapsed().as_secs_f64(), &[]))
            .build();
        meter
            .f64_observable_counter("process_cpu")
            .with_description("Processor time of the daemon, in user mode and in the kernel.")
            .with_unit("s")
            .with_callback(|observer| {
                if let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) {
                    let seconds = |time: TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
                    observer.observe(seconds(usage.user_time()) + seconds(usage.system_time()), &[]);
                }
            })
            .build();
        meter
            .u64_observable_gauge("process_memory_rss")
            .with_description(
                "Resident memory of the daemon, including shared memory and the kernel's rings.",
            )
            .with_unit("By")
            .with_callback(|observer| {
                if let Some(bytes) = memory_limiter::resident() {
                    observer.observe(bytes, &[]);
                }
            })
            .build();
        meter
            .u64_observable_gauge("process_open_file_descriptors")
            .with_description("Open files, sockets, BPF programs and maps of the daemon.")
            .with_unit("{descriptor}")
            .with_callback(|observer| {
                if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
                    // One of them is that of the folder itself.
                    observer.observe(open.count().saturating_sub(1) as u64, &[]);
                }
            })
            .build();
        meter
            .u64_observable_gauge("build_info")
            .with_description("Always 1; the version is a label.")
            .with_callback(|observer| {
                observer.observe(1, &[KeyValue::new("version", env!("CARGO_PKG_VERSION"))]);
            })
            .build();
    }
}

/// Reads the daemon's own metrics.
#[derive(Clone, Debug)]
pub struct Reader(Registry);

/// A counter or a gauge as it stands.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Sample {
    /// Its name, as `/metrics` has it.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its value.
    pub value: f64,
}

impl Reader {
    /// Names of all metrics, sorted.
    #[cfg(test)]
    pub fn names(&self) -> Vec<String> {
        let families = self.0.gather();
        families.iter().map(|family| family.name().to_owned()).collect()
    }

    /// Every counter and gauge as it stands now.
    pub fn samples(&self) -> Vec<Sample> {
        let mut samples = Vec::new();
        for family in self.0.gather() {
            for metric in family.get_metric() {
                let value = match family.get_field_type() {
                    MetricType::COUNTER => metric.get_counter().get_value(),
                    MetricType::GAUGE => metric.get_gauge().get_value(),
                    _ => continue,
                };
                let labels = metric.get_label().iter();
                samples.push(Sample {
                    name: family.name().to_owned(),
                    labels: labels
                        .map(|label| (label.name().to_owned(), label.value().to_owned()))
                        .collect(),
                    value,
                });
            }
        }
        samples
    }
}

/// `provider` with a push to the collector at `endpoint`.
#[cfg(feature = "own-metrics-push")]
fn pushing(
    provider: MeterProviderBuilder,
    endpoint: String,
    interval: Duration,
) -> Result<MeterProviderBuilder, TelemetryError> {
    let exporter = MetricExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .build()
        .map_err(|error| TelemetryError::Metrics(error.to_string()))?;
    let push = PeriodicReader::builder(exporter).with_interval(interval);
    Ok(provider.with_reader(push.build()))
}

/// Fails: [`check`] refuses the key.
#[cfg(not(feature = "own-metrics-push"))]
fn pushing(_: MeterProviderBuilder, _: String, _: Duration) -> Result<MeterProviderBuilder, TelemetryError> {
    Err(TelemetryError::Metrics(NO_PUSH.to_owned()))
}

fn sdk_resource(resource: &flowtap_pipeline::Resource) -> Resource {
    let attributes = resource.attributes();
    let attributes = attributes.map(|(name, value)| KeyValue::new(name.to_owned(), value.to_owned()));
    // Without a name the SDK would make up one.
    let name = resource.get(SERVICE_NAME).unwrap_or_default().to_owned();
    Resource::builder_empty()
        .with_service_name(name)
        .with_attributes(attributes)
        .build()
}

fn expose(registry: &Registry) -> Response {
    match TextEncoder::new().encode_to_string(&registry.gather()) {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// Message of a build without the SDK's push.
const NO_PUSH: &str = "this build can't push own metrics by the SDK; hint: name an exporter `otlp` in \
    `service.telemetry.metrics.exporters`, or build flowtap with the feature `own-metrics-push`";

/// Checks the level of logs, whether `FLOWTAP_LOG` overrides it or not, and whether this build has what the section asks for.
///
/// # Errors
/// An invalid level or filter, or a push that this build does not have, with its place.
pub fn check(config: &Config) -> Result<(), ConfigErrors> {
    if cfg!(not(feature = "own-metrics-push")) && config.service.telemetry.metrics.otlp.url().is_some() {
        let key = ["service", "telemetry", "metrics", "otlp", "endpoint"];
        return Err(config.error_at(&key, NO_PUSH));
    }
    parse_filter(&config.service.telemetry.logs.level)
        .map(drop)
        .map_err(|message| config.error_at(&["service", "telemetry", "logs", "level"], &message))
}

/// Parses a level or a filter of `target=level` directives.
fn parse_filter(text: &str) -> Result<Targets, String> {
    log_level::check(text)?;
    let mut filter = Targets::new();
    for directive in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        let (target, level) = directive
            .rsplit_once('=')
            .map_or((None, directive), |(target, level)| {
                (Some(target.trim()), level.trim())
            });
        let level: LevelFilter = level
            .parse()
            .map_err(|error| format!("`{text}` is not a valid log filter: {error}"))?;
        filter = match target {
            Some(target) => filter.with_target(target, level),
            None => filter.with_default(level),
        };
    }
    Ok(filter)
}

/// Checks the filter of the log as it is used here: `FLOWTAP_LOG`, or without it the level of the config.
///
/// # Errors
/// A level or a filter that is not valid, with the variable or the key.
pub fn check_filter(config: &LogsConfig) -> Result<(), TelemetryError> {
    filter_of(config).map(drop)
}

/// Sends logs to standard error. `FLOWTAP_LOG` (such as `flowtap=debug,info`) has its say before the config.
///
/// # Errors
/// A level that is none.
pub fn init_logs(config: &LogsConfig, writer: LogWriter) -> Result<LogLevel, TelemetryError> {
    let (filter, handle) = reload::Layer::new(filter_of(config)?);
    let text = tracing_subscriber::fmt::layer()
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(writer);
    let throttle = Throttle::new(&config.sampling);
    let registry = tracing_subscriber::registry().with(filter).with(throttle.clone());
    let initialised = match config.format {
        LogFormat::Text => registry.with(text.fmt_fields(PlainFields)).try_init(),
        LogFormat::Json => registry.with(text.json().map_event_format(CutJson)).try_init(),
    };
    initialised.map_err(|error| TelemetryError::Logs(error.to_string()))?;
    Ok(LogLevel(handle, throttle))
}

/// The log filter; can be changed while flowtap runs.
#[derive(Debug)]
pub struct LogLevel(reload::Handle<Targets, tracing_subscriber::Registry>, Throttle);

impl LogLevel {
    /// Says of messages that were left out how many, until `stop`. Needs a runtime around it.
    pub fn report_suppressed(&self, stop: CancellationToken) {
        self.1.report_suppressed(stop);
    }

    /// Logs what `config` asks for from now on.
    ///
    /// # Errors
    /// A level that is none.
    pub fn set(&self, config: &LogsConfig) -> Result<(), TelemetryError> {
        let filter = filter_of(config)?;
        self.0
            .reload(filter)
            .map_err(|error| TelemetryError::Logs(error.to_string()))
    }
}

fn filter_of(config: &LogsConfig) -> Result<Targets, TelemetryError> {
    let (filter, key) = match std::env::var("FLOWTAP_LOG") {
        Ok(filter) => (filter, "FLOWTAP_LOG"),
        Err(_) => (config.level.clone(), "service.telemetry.logs.level"),
    };
    parse_filter(&filter).map_err(|message| TelemetryError::Filter { key, message })
}

#[cfg(test)]
mod tests {
    use super::*;
    use opentelemetry_sdk::metrics::data::{ResourceMetrics, ScopeMetrics};
    use opentelemetry_sdk::metrics::reader::MetricReader;
    use tracing::Level;

    #[test]
    fn the_scope_of_own_metrics_has_a_version() {
        let provider = SdkMeterProvider::builder();
        let reader = SharedReader::default();
        let telemetry = Telemetry {
            provider: provider.with_reader(reader.clone()).build(),
            registry: Registry::new(),
            reader: None,
        };
        telemetry.describe_process();
        let mut read = ResourceMetrics::default();
        reader.collect(&mut read).unwrap();
        let scopes: Vec<_> = read.scope_metrics().map(ScopeMetrics::scope).collect();
        assert_eq!(scopes.len(), 1);
        assert_eq!(
            (scopes[0].name(), scopes[0].version()),
            ("flowtap", Some(env!("CARGO_PKG_VERSION")))
        );
    }

    #[tokio::test]
    async fn components_and_watches_of_the_cluster_are_healthy_until_status_has_an_error_for_them() {
        let telemetry =
            Telemetry::new(&flowtap_pipeline::Resource::default(), &MetricsConfig::default()).unwrap();
        let watches = WatchBoard::default();
        telemetry.describe_components(StatusBoard::default(), watches.clone());
        watches.add("pods");
        watches.add("services/kube-dns");
        watches.failed("pods", "connection refused".to_owned());
        let values = |reader: Reader| {
            let samples = reader.samples().into_iter();
            samples
                .filter(|sample| sample.name == "flowtap_component_healthy")
                .map(|sample| (sample.labels["component"].clone(), sample.value))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            values(telemetry.reader()),
            [
                ("kubernetes/pods".to_owned(), 0.0),
                ("kubernetes/services/kube-dns".to_owned(), 1.0)
            ]
        );
        watches.listed("pods", 1);
        assert!(values(telemetry.reader()).iter().all(|(_, value)| *value > 0.0));
    }

    #[test]
    fn a_filter_has_a_level_for_everything_and_others_for_targets_and_the_modules_below_them() {
        let filter = parse_filter("flowtap_receivers::ebpf=debug, WARN ,h2=off,").unwrap();
        for (target, level, is_logged) in [
            ("flowtap_receivers::ebpf::udp", Level::DEBUG, true),
            ("flowtap_receivers::ebpf", Level::TRACE, false),
            ("flowtap_receivers", Level::WARN, true),
            ("flowtap_receivers", Level::INFO, false),
            ("h2::client", Level::ERROR, false),
        ] {
            assert_eq!(filter.would_enable(target, &level), is_logged, "{target} {level}");
        }
        // Without a level for everything, only the targets are logged.
        let filter = parse_filter("flowtap=1").unwrap();
        assert!(filter.would_enable("flowtap::daemon", &Level::ERROR));
        assert!(!filter.would_enable("hyper", &Level::ERROR));
    }
}
