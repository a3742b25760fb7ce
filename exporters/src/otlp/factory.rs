//! The exporter type `otlp`: builds the exporter from its config.

use flowtap_pipeline::{BuildContext, BuildError, Exporter, ExporterConfig, Factory, QueueConfig, Stability};

use super::OtlpExporter;
use super::config::Config;

impl ExporterConfig for Config {
    fn queue(&self) -> QueueConfig {
        self.sending_queue
    }

    fn build(&self, context: &BuildContext) -> Result<Box<dyn Exporter>, BuildError> {
        match OtlpExporter::new(self.clone(), context) {
            Ok(exporter) => Ok(Box::new(exporter)),
            Err(error) => Err(BuildError {
                is_temporary: false,
                id: context.id.clone(),
                message: error.to_string(),
            }),
        }
    }
}

/// The exporter type `otlp`.
pub const FACTORY: Factory<dyn ExporterConfig> = Factory::of::<Config>(
    "otlp",
    "pushes to an OpenTelemetry collector over gRPC or HTTP",
    Stability::Beta,
);
