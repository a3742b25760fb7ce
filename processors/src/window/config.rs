//! Config of the processor `window`.

use std::num::NonZeroUsize;
use std::time::Duration;

use figment::value::Value;
use flowtap_pipeline::{
    BuildContext, BuildError, ComponentConfig, Factory, Fault, ProcessorConfig, ProcessorRole, ProcessorStage,
};
use serde::{Deserialize, Serialize};

use super::Window;

/// What can be set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// How long a window is. At least 100 ms; windows end on multiples of it.
    #[serde(with = "humantime_serde")]
    pub interval: Duration,
    /// Series that each family may have, the series `other` not counted.
    pub max_series: NonZeroUsize,
    /// After how long without a change a series leaves. At least `interval`.
    #[serde(with = "humantime_serde")]
    pub metric_expiration: Duration,
}

impl Default for Config {
    fn default() -> Self {
        const MAX_SERIES: NonZeroUsize = NonZeroUsize::new(100_000).unwrap();
        Self {
            interval: Duration::from_secs(5),
            max_series: MAX_SERIES,
            metric_expiration: Duration::from_secs(600),
        }
    }
}

impl ComponentConfig for Config {
    fn to_value(&self) -> Result<Value, figment::Error> {
        Value::serialize(self)
    }

    fn validate(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        if self.interval < Duration::from_millis(100) {
            faults.push(Fault::new("interval", "must be at least 100ms"));
        }
        if self.metric_expiration < self.interval {
            let message = "must be at least `interval`, or series would leave between two changes";
            faults.push(Fault::new("metric_expiration", message));
        }
        faults
    }
}

impl ProcessorConfig for Config {
    fn role(&self) -> ProcessorRole {
        ProcessorRole::Aggregate
    }

    fn build(&self, context: &BuildContext) -> Result<ProcessorStage, BuildError> {
        Ok(ProcessorStage::Aggregate(Box::new(Window::new(self, context))))
    }
}

/// The processor type `window`.
pub const FACTORY: Factory<dyn ProcessorConfig> = Factory {
    type_name: "window",
    summary: "folds records into series and closes windows; the last processor of every pipeline",
    parse: |value| Ok(Box::new(value.deserialize::<Config>()?)),
};
