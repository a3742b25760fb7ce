//! The processor `geoip`: who operates the peer's network, and in which country is it?
//!
//! In: records of any signal. Out: the same with `peer_place`. The rules:
//!
//! 1. The databases are asked in their order; a part that one does not know comes from the next.
//! 2. An address that none has, such as a private one, has no place.
//! 3. The databases are read again when one of their files has changed; one that has become wrong leaves those that were read before.
//! 4. A record of a database that can't be read counts as none, and is counted.

mod cache;
mod databases;

use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;

use flowtap_pipeline::{
    BuildContext, BuildError, ComponentConfig, Contract, Factory, FlowBatch, Place, Processor,
    ProcessorConfig, ProcessorStage, RecordField, Stability, Subscription, Violation,
};
use opentelemetry::KeyValue;
use opentelemetry::metrics::Counter;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::databases::DatabaseError;

use self::cache::Cache;
use self::databases::Databases;
use crate::follow::follow;

/// Settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Files in the MMDB format, such as GeoLite2-ASN.mmdb and GeoLite2-Country.mmdb. Read again when they change. At least one.
    pub databases: Vec<PathBuf>,
    /// Addresses that are remembered.
    pub cache_size: NonZeroUsize,
}

impl Default for Config {
    fn default() -> Self {
        const CACHE_SIZE: NonZeroUsize = NonZeroUsize::new(65_536).unwrap();
        Self {
            databases: Vec::new(),
            cache_size: CACHE_SIZE,
        }
    }
}

impl ComponentConfig for Config {
    fn contract(&self) -> Contract {
        Contract::default()
            .fills([RecordField::PeerPlace])
            .reads_addresses()
            .reads(&self.databases)
    }

    fn validate(&self) -> Vec<Violation> {
        let mut faults = Vec::new();
        if self.databases.is_empty() {
            let message = "must be set: a list of files, such as `[/usr/share/GeoIP/GeoLite2-ASN.mmdb]`";
            faults.push(Violation::new("databases", message));
        }
        for (index, path) in self.databases.iter().enumerate() {
            if self.databases[..index].contains(path) {
                faults.push(Violation::new(&format!("databases.{index}"), "is a duplicate"));
            }
        }
        faults
    }
}

impl ProcessorConfig for Config {
    fn build(&self, context: &BuildContext) -> Result<ProcessorStage, BuildError> {
        let geoip = GeoIp::new(self, context).map_err(|error| BuildError {
            is_temporary: false,
            id: context.id.clone(),
            message: error.to_string(),
        })?;
        Ok(ProcessorStage::Transform(Box::new(geoip)))
    }
}

/// The processor type `geoip`.
pub const FACTORY: Factory<dyn ProcessorConfig> = Factory::of::<Config>(
    "geoip",
    "adds the operator and the country of the peer's address",
    Stability::Beta,
);

/// The processor.
#[derive(Debug)]
pub struct GeoIp {
    databases: Subscription<Databases>,
    cache: Cache,
    unreadable: Counter<u64>,
    labels: [KeyValue; 2],
}

impl GeoIp {
    /// With the databases as they are now.
    ///
    /// # Errors
    /// [`DatabaseError`] for one that can't be read.
    pub fn new(config: &Config, context: &BuildContext) -> Result<Self, DatabaseError> {
        let paths = config.databases.clone();
        let databases = follow(config.databases.clone(), "the databases of places", move || {
            Databases::read(&paths)
        })?;
        let labels = [
            KeyValue::new("processor", context.id.to_string()),
            KeyValue::new("pipeline", context.pipeline.to_string()),
        ];
        let unreadable = context
            .meter
            .u64_counter("processor_geoip_unreadable_records")
            .with_description("Look-ups of addresses whose record in a database can't be read.")
            .with_unit("{record}")
            .build();
        unreadable.add(0, &labels);
        Ok(Self {
            databases: Subscription::new(&databases),
            cache: Cache::new(config.cache_size.get()),
            unreadable,
            labels,
        })
    }
}

/// The place of each of `addresses` in the database `bytes`, if that is one. For the fuzz target.
#[doc(hidden)]
pub fn places_in(bytes: Vec<u8>, addresses: &[IpAddr]) -> Vec<Place> {
    let Ok(database) = Databases::of(bytes) else {
        return Vec::new();
    };
    let places = addresses.iter().filter_map(|addr| database.place(*addr).ok()?);
    places.collect()
}

impl Processor for GeoIp {
    fn process(&mut self, batch: &mut FlowBatch) {
        if self.databases.refresh() {
            self.cache.clear();
        }
        let databases = self.databases.last();
        let mut unreadable = 0;
        for flow in batch.flows_mut() {
            flow.peer_place = self.cache.get(flow.remote.addr, |addr| {
                databases.place(addr).map_or_else(
                    |error| {
                        unreadable += 1;
                        tracing::debug!(%error, %addr, "a record of a database of places can't be read");
                        None
                    },
                    |place| place.map(Arc::new),
                )
            });
        }
        if unreadable > 0 {
            self.unreadable.add(unreadable, &self.labels);
        }
    }
}

#[cfg(test)]
mod tests;
