//! The exporter type `prometheus`: builds the exporter from its config.

use std::num::NonZeroUsize;

use flowtap_pipeline::{
    BuildContext, BuildError, Exporter, ExporterConfig, Factory, QueueConfig, Stability, WhenFull,
};

use super::PrometheusExporter;
use super::config::Config;

impl ExporterConfig for Config {
    /// Taking a snapshot is a matter of microseconds, and only the newest counts.
    fn queue(&self) -> QueueConfig {
        QueueConfig {
            size: NonZeroUsize::MIN,
            when_full: WhenFull::DropOldest,
            ..QueueConfig::default()
        }
    }

    fn build(&self, context: &BuildContext) -> Result<Box<dyn Exporter>, BuildError> {
        PrometheusExporter::new(self, context)
            .map(|exporter| Box::new(exporter) as Box<dyn Exporter>)
            .map_err(|error| BuildError {
                is_temporary: false,
                id: context.id.clone(),
                message: format!("tls: {error}"),
            })
    }
}

/// The exporter type `prometheus`.
pub const FACTORY: Factory<dyn ExporterConfig> = Factory::of::<Config>(
    "prometheus",
    "serves /metrics to Prometheus, as text, OpenMetrics or protobuf",
    Stability::Beta,
);
