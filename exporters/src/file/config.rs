//! Config of the exporter `file`.

use std::path::PathBuf;
use std::time::Duration;

use flowtap_pipeline::schema::{DurationText, SizeText};
use flowtap_pipeline::{ComponentConfig, Contract, PipelineKind, QueueConfig, Signal, Violation};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::names::{self, Names};
use super::upload_config::UploadConfig;
use crate::naming;

/// Format of files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// A JSON object per line.
    #[default]
    Json,
    /// Apache Parquet.
    Parquet,
}

/// Compression of files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip; of JSON.
    Gzip,
    /// Snappy; of Parquet.
    Snappy,
    /// Zstandard; of Parquet.
    Zstd,
}

/// Limits of a file, and number of files that are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Rotation {
    /// Size at which a file is finished, at the end of a window.
    #[serde(with = "flowtap_pipeline::size")]
    #[schemars(with = "SizeText")]
    pub max_bytes: u64,
    /// A file is finished once its windows span this long.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub max_age: Duration,
    /// Finished files that are kept, of series and of log records each: the oldest are removed. 0 keeps all.
    pub max_files: usize,
    /// Bytes of finished files that are kept, of series and of log records each: the oldest are removed. 0 keeps all.
    #[serde(with = "flowtap_pipeline::size")]
    #[schemars(with = "SizeText")]
    pub max_total_bytes: u64,
    /// A finished file is removed once all of its rows are older. `0s` keeps all.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub max_retention: Duration,
}

impl Default for Rotation {
    fn default() -> Self {
        Self {
            max_bytes: 100 * 1024 * 1024,
            max_age: Duration::from_secs(3600),
            max_files: 24,
            max_total_bytes: 0,
            max_retention: Duration::ZERO,
        }
    }
}

/// Settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// A folder, or the pattern of files' names in it: `/var/lib/flowtap/flows-{time}.parquet`. Folders may be partitions:
    /// `/var/lib/flowtap/date={date}/hour={hour}`. `{host}` is the node's name, `{kind}` is `metrics` or `logs`.
    pub path: String,
    /// Format of files.
    pub format: Format,
    /// Compression. Unset: none for JSON, zstd for Parquet.
    pub compression: Option<Compression>,
    /// Prefix of every metric's name; may be empty.
    pub namespace: String,
    /// When a file is finished, and how many are kept.
    pub rotation: Rotation,
    /// Maximum time after which rows are synced to the disk: a power failure loses no more. `0s`: with each window.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "DurationText")]
    pub sync_interval: Duration,
    /// Upload of finished files to an object store; `path` must have the node's name in it. Unset: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upload: Option<UploadConfig>,
    /// Queue of windows while one is written.
    pub sending_queue: QueueConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            path: String::new(),
            format: Format::default(),
            compression: None,
            namespace: naming::DEFAULT_NAMESPACE.to_owned(),
            rotation: Rotation::default(),
            sync_interval: Duration::from_secs(30),
            upload: None,
            sending_queue: QueueConfig::default(),
        }
    }
}

impl Config {
    /// Compression of files: the configured one, or the format's default.
    pub(super) fn compression(&self) -> Compression {
        self.compression.unwrap_or(match self.format {
            Format::Json => Compression::None,
            Format::Parquet => Compression::Zstd,
        })
    }

    /// File extension, used where the config gives no pattern.
    pub(super) fn extension(&self) -> &'static str {
        match (self.format, self.compression()) {
            (Format::Json, Compression::Gzip) => ".jsonl.gz",
            (Format::Json, _) => ".jsonl",
            (Format::Parquet, _) => ".parquet",
        }
    }
}

impl Config {
    /// The names of the files of `kind` that `host` writes.
    ///
    /// # Errors
    /// The reason why `path` is not valid.
    pub(super) fn names(&self, kind: PipelineKind, host: &str) -> Result<Names, String> {
        Names::new(&self.path, self.extension(), kind, host)
    }

    /// The folder that has all files in it, whatever they are named.
    pub fn root(&self) -> PathBuf {
        names::root(&self.path)
    }
}

impl ComponentConfig for Config {
    fn warnings(&self) -> Vec<Violation> {
        /// A number without a unit, which was meant to have one, is below this.
        const SMALL: u64 = 64 << 10;
        let max_bytes = self.rotation.max_bytes;
        let is_small = (1..SMALL).contains(&max_bytes);
        let message = format!(
            "a file is finished at {max_bytes} bytes: nearly every window has a separate file; hint: write the unit, such as \
             `{max_bytes}MiB`"
        );
        is_small
            .then(|| Violation::new("rotation.max_bytes", message))
            .into_iter()
            .collect()
    }

    fn validate(&self) -> Vec<Violation> {
        let mut faults = Vec::new();
        if let Err(message) = self.names(PipelineKind::Metrics, "") {
            faults.push(Violation::new("path", message));
        }
        if self.format == Format::Parquet && cfg!(not(feature = "parquet")) {
            let message = "this build can't write Parquet; hint: build it with the feature `parquet`";
            faults.push(Violation::new("format", message));
        }
        let unfit = match (self.format, self.compression()) {
            (Format::Json, Compression::Snappy | Compression::Zstd) => {
                Some("invalid compression for JSON; expected `gzip` or `none`")
            }
            (Format::Parquet, Compression::Gzip) => {
                Some("invalid compression for Parquet; expected `zstd`, `snappy` or `none`")
            }
            _ => None,
        };
        faults.extend(unfit.map(|message| Violation::new("compression", message)));
        faults.extend(naming::validate(&self.namespace));
        if self.rotation.max_bytes == 0 {
            faults.push(Violation::new("rotation.max_bytes", "must be more than 0"));
        }
        if self.rotation.max_age.is_zero() {
            faults.push(Violation::new("rotation.max_age", "must be longer than 0s"));
        }
        if let Some(upload) = &self.upload {
            faults.extend(upload.validate());
            if cfg!(not(feature = "object-store")) {
                let message = "this build can't upload; hint: build it with the feature `object-store`";
                faults.push(Violation::new("upload", message));
            }
            if !names::has_host(&self.path) {
                let message = "must contain {host}, or be a folder: with `upload`, files of several nodes are in one bucket";
                faults.push(Violation::new("path", message));
            }
        }
        faults
    }

    fn contract(&self) -> Contract {
        // The name of the node may be one of the folders, so what is in this one is not known yet.
        let folder = self.names(PipelineKind::Metrics, "").map(|_| self.root());
        let contract = Contract::default()
            .takes([Signal::Metrics, Signal::Logs])
            .writes(folder)
            .owns_by_kind("path", names::pattern(&self.path, self.extension()));
        let Some(upload) = self.upload.as_ref().filter(|upload| upload.destination().is_ok()) else {
            return contract;
        };
        let contract = contract.reads(upload.files());
        upload
            .servers()
            .into_iter()
            .fold(contract, |contract, (key, server)| contract.dials(key, server))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(config: &Config) -> Vec<String> {
        let faults = config.validate().into_iter();
        faults.map(|fault| fault.path.join(".")).collect()
    }

    #[test]
    fn every_fault_is_reported_at_once_with_its_key() {
        let config = Config {
            namespace: "9".to_owned(),
            compression: Some(Compression::Zstd),
            rotation: Rotation {
                max_bytes: 0,
                max_age: Duration::ZERO,
                ..Rotation::default()
            },
            ..Config::default()
        };
        assert_eq!(
            keys(&config),
            [
                "path",
                "compression",
                "namespace",
                "rotation.max_bytes",
                "rotation.max_age"
            ]
        );
    }

    #[test]
    fn each_format_has_its_ways_to_be_packed() {
        use Compression::{Gzip, None, Snappy, Zstd};
        for (format, fit) in [(Format::Json, [None, Gzip]), (Format::Parquet, [Snappy, Zstd])] {
            for compression in [None, Gzip, Snappy, Zstd] {
                let config = Config {
                    path: "/tmp".to_owned(),
                    format,
                    compression: Some(compression),
                    ..Config::default()
                };
                let valid = compression == None || fit.contains(&compression);
                assert_eq!(keys(&config).is_empty(), valid, "{format:?} {compression:?}");
            }
        }
    }
}
