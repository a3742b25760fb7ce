//! The exporter type `file`: builds the exporter from its config.

use flowtap_pipeline::{BuildContext, BuildError, Exporter, ExporterConfig, Factory, QueueConfig, Stability};

use super::FileExporter;
use super::config::Config;

impl ExporterConfig for Config {
    fn queue(&self) -> QueueConfig {
        self.sending_queue
    }

    fn build(&self, context: &BuildContext) -> Result<Box<dyn Exporter>, BuildError> {
        match FileExporter::new(self, context) {
            Ok(exporter) => Ok(Box::new(exporter)),
            Err(message) => Err(BuildError {
                is_temporary: false,
                id: context.id.clone(),
                message,
            }),
        }
    }
}

/// The exporter type `file`.
pub const FACTORY: Factory<dyn ExporterConfig> = Factory::of::<Config>(
    "file",
    "writes the changes of each window to files, as JSON lines or Parquet",
    Stability::Beta,
);
