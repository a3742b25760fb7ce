//! The processor type `names`: builds the processor from its config.

use flowtap_pipeline::{BuildContext, BuildError, Factory, ProcessorConfig, ProcessorStage, Stability};

use super::Names;
use super::config::Config;

impl ProcessorConfig for Config {
    fn build(&self, context: &BuildContext) -> Result<ProcessorStage, BuildError> {
        Ok(ProcessorStage::Transform(Box::new(Names::new(self, context))))
    }
}

/// The processor type `names`.
pub const FACTORY: Factory<dyn ProcessorConfig> = Factory::of::<Config>(
    "names",
    "names peers by the DNS answers that named their addresses, and by /etc/hosts",
    Stability::Beta,
);
