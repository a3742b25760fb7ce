//! The processor type `policy`: builds the processor from its config.

use flowtap_pipeline::{BuildContext, BuildError, Factory, ProcessorConfig, ProcessorStage, Stability};

use super::Policy;
use super::config::Config;

impl ProcessorConfig for Config {
    fn build(&self, context: &BuildContext) -> Result<ProcessorStage, BuildError> {
        let policy = Policy::new(self, context).map_err(|error| BuildError {
            is_temporary: false,
            id: context.id.clone(),
            message: match error.file().and_then(|file| self.keys_to(file)) {
                Some(keys) => format!("{keys}: {error}"),
                None => error.to_string(),
            },
        })?;
        Ok(ProcessorStage::Transform(Box::new(policy)))
    }
}

/// The processor type `policy`.
pub const FACTORY: Factory<dyn ProcessorConfig> = Factory::of::<Config>(
    "policy",
    "classifies the peer by its address: pod, service, dns, internal, external, ...",
    Stability::Beta,
);
