//! The exporter type `remote_write`: builds the exporter from its config.

use flowtap_pipeline::{BuildContext, BuildError, Exporter, ExporterConfig, Factory, QueueConfig, Stability};

use super::RemoteWriteExporter;
use super::config::Config;

impl ExporterConfig for Config {
    fn queue(&self) -> QueueConfig {
        self.sending_queue
    }

    fn build(&self, context: &BuildContext) -> Result<Box<dyn Exporter>, BuildError> {
        // Checked before anything starts, not at the first request.
        let over_tls = self.parsed_endpoint().is_ok_and(|endpoint| endpoint.is_tls());
        match self.tls.config_for(over_tls) {
            Ok(_) => Ok(Box::new(RemoteWriteExporter::new(self.clone(), context))),
            Err(error) => Err(BuildError {
                is_temporary: false,
                id: context.id.clone(),
                message: format!("tls: {error}"),
            }),
        }
    }
}

/// The exporter type `remote_write`.
pub const FACTORY: Factory<dyn ExporterConfig> = Factory::of::<Config>(
    "remote_write",
    "pushes to Prometheus remote write endpoints",
    Stability::Beta,
);
