//! Config of the exporter `debug`.

use flowtap_pipeline::{ComponentConfig, Contract, Signal, Violation};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::naming;

/// Level of detail.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verbosity {
    /// A line per window.
    #[default]
    Basic,
    /// A line per series, or log record, as well.
    Normal,
    /// Everything of each series or log record.
    Detailed,
}

/// Settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Level of detail.
    pub verbosity: Verbosity,
    /// Series of each family that are printed per window; log records of each batch.
    pub sampling: usize,
    /// Prefix of every metric's name; may be empty.
    pub namespace: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            verbosity: Verbosity::default(),
            sampling: 20,
            namespace: naming::DEFAULT_NAMESPACE.to_owned(),
        }
    }
}

impl ComponentConfig for Config {
    fn contract(&self) -> Contract {
        Contract::default().takes([Signal::Metrics, Signal::Logs])
    }

    fn validate(&self) -> Vec<Violation> {
        naming::validate(&self.namespace).into_iter().collect()
    }
}
