//! The exporter type `ipfix`: builds the exporter from its config.

use flowtap_pipeline::{BuildContext, BuildError, Exporter, ExporterConfig, Factory, QueueConfig, Stability};

use super::IpfixExporter;
use super::config::{Config, Protocol};

impl ExporterConfig for Config {
    fn queue(&self) -> QueueConfig {
        self.sending_queue
    }

    fn build(&self, context: &BuildContext) -> Result<Box<dyn Exporter>, BuildError> {
        // Checked before anything starts, not with the first connection.
        match self.tls.config_for(self.protocol == Protocol::Tls) {
            Ok(_) => Ok(Box::new(IpfixExporter::new(self.clone(), context))),
            Err(error) => Err(BuildError {
                is_temporary: false,
                id: context.id.clone(),
                message: format!("tls: {error}"),
            }),
        }
    }
}

/// The exporter type `ipfix`.
pub const FACTORY: Factory<dyn ExporterConfig> = Factory::of::<Config>(
    "ipfix",
    "sends flow records to an IPFIX collector, over UDP, TCP or TLS",
    Stability::Alpha,
);
