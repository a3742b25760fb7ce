//! Config of requests on disk.

use std::path::PathBuf;

use flowtap_pipeline::Violation;
use flowtap_pipeline::schema::SizeText;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where requests wait, and how many.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StorageConfig {
    /// A directory for this exporter alone; created if it is missing.
    pub directory: PathBuf,
    /// Maximum bytes of the compressed requests in the file. The file itself can be some MiB
    /// larger, and by half while the oldest are dropped.
    #[serde(default = "max_bytes", with = "flowtap_pipeline::size")]
    #[schemars(with = "SizeText")]
    pub max_bytes: u64,
    /// Overflow policy.
    #[serde(default)]
    pub when_full: WhenDiskFull,
}

/// Overflow policy of requests on disk. None waits for room: the exporter would stop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WhenDiskFull {
    /// Drop the oldest requests, which are counted as failed.
    #[default]
    DropOldest,
    /// Drop the new request, which is counted as failed.
    DropNewest,
}

/// Message of a build without requests on disk.
pub(super) const NOT_IN_THIS_BUILD: &str = "this build can't keep requests on disk; hint: build flowtap with the feature `storage`, \
    or remove the key: requests that wait are in memory then";

pub(super) const fn max_bytes() -> u64 {
    256 << 20
}

impl StorageConfig {
    /// A violation of its settings, if any.
    pub(crate) fn validate(&self) -> Option<Violation> {
        if cfg!(not(feature = "storage")) {
            return Some(Violation::new("storage", NOT_IN_THIS_BUILD));
        }
        (self.max_bytes < 1 << 20).then(|| Violation {
            path: vec!["storage".to_owned(), "max_bytes".to_owned()],
            message: "must be at least 1048576, to hold a request".to_owned(),
        })
    }
}
