//! The processor type `window`: builds the window from its config.

use flowtap_pipeline::{BuildContext, BuildError, Factory, ProcessorConfig, ProcessorStage, Stability};

use super::Window;
use super::config::Config;

impl ProcessorConfig for Config {
    fn build(&self, context: &BuildContext) -> Result<ProcessorStage, BuildError> {
        Ok(ProcessorStage::Aggregate(Box::new(Window::new(self, context))))
    }
}

/// The processor type `window`.
pub const FACTORY: Factory<dyn ProcessorConfig> = Factory::of::<Config>(
    "window",
    "folds records into series and closes windows; the last processor of a `metrics` pipeline",
    Stability::Beta,
);
