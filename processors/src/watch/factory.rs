//! The processor type `watch`: builds the processor from its config.

use flowtap_pipeline::{BuildContext, BuildError, Factory, ProcessorConfig, ProcessorStage, Stability};

use super::Watch;
use super::config::Config;

impl ProcessorConfig for Config {
    fn build(&self, context: &BuildContext) -> Result<ProcessorStage, BuildError> {
        Ok(ProcessorStage::Transform(Box::new(Watch::new(self, context)?)))
    }
}

/// The processor type `watch`.
pub const FACTORY: Factory<dyn ProcessorConfig> = Factory::of::<Config>(
    "watch",
    "finds what has changed: first contacts, scans, failures, surges, beacons, peers on lists",
    Stability::Alpha,
);
