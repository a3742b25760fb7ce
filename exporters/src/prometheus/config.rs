//! Config of the exporter `prometheus`.

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;

use figment::value::Value;
use flowtap_pipeline::{
    BuildContext, BuildError, ComponentConfig, Exporter, ExporterConfig, Factory, Fault, QueueConfig,
    WhenFull,
};
use serde::{Deserialize, Serialize};

use super::PrometheusExporter;
use crate::naming;

/// What can be set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Address and port to listen on.
    pub endpoint: SocketAddr,
    /// What every metric's name begins with; may be empty.
    pub namespace: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            endpoint: SocketAddr::from((Ipv4Addr::LOCALHOST, 9464)),
            namespace: naming::DEFAULT_NAMESPACE.to_owned(),
        }
    }
}

impl ComponentConfig for Config {
    fn to_value(&self) -> Result<Value, figment::Error> {
        Value::serialize(self)
    }

    fn validate(&self) -> Vec<Fault> {
        naming::validate(&self.namespace).into_iter().collect()
    }

    fn listen_addresses(&self) -> Vec<(&'static str, SocketAddr)> {
        vec![("endpoint", self.endpoint)]
    }
}

impl ExporterConfig for Config {
    /// Taking a snapshot is a matter of microseconds, and only the newest counts.
    fn queue(&self) -> QueueConfig {
        QueueConfig {
            size: NonZeroUsize::MIN,
            when_full: WhenFull::DropOldest,
        }
    }

    fn build(&self, context: &BuildContext) -> Result<Box<dyn Exporter>, BuildError> {
        Ok(Box::new(PrometheusExporter::new(self, context)))
    }
}

/// The exporter type `prometheus`.
pub const FACTORY: Factory<dyn ExporterConfig> = Factory {
    type_name: "prometheus",
    summary: "serves /metrics in the Prometheus text format",
    parse: |value| Ok(Box::new(value.deserialize::<Config>()?)),
};
