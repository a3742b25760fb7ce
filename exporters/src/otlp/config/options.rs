//! Choices of the config, with the values that variables of the environment have for them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Transport of requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Protocol {
    /// gRPC over HTTP/2.
    #[default]
    #[serde(rename = "grpc")]
    Grpc,
    /// Protobuf over HTTP/1.1.
    #[serde(rename = "http/protobuf")]
    HttpProtobuf,
    /// JSON over HTTP/1.1.
    #[serde(rename = "http/json")]
    HttpJson,
}

impl Protocol {
    pub(super) fn from_variable(text: &str) -> Option<Self> {
        match text {
            "grpc" => Some(Self::Grpc),
            "http/protobuf" => Some(Self::HttpProtobuf),
            "http/json" => Some(Self::HttpJson),
            _ => None,
        }
    }

    /// Where a collector listens by default (OTLP specification, "Default Port").
    pub(super) const fn default_port(self) -> u16 {
        match self {
            Self::Grpc => 4317,
            Self::HttpProtobuf | Self::HttpJson => 4318,
        }
    }

    /// Its name in a config.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::HttpProtobuf => "http/protobuf",
            Self::HttpJson => "http/json",
        }
    }
}

/// Compression of requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip.
    #[default]
    Gzip,
    /// zstd.
    Zstd,
}

impl Compression {
    /// Its values in a variable, for messages.
    pub(super) const VALUES: &str = if cfg!(feature = "zstd") {
        "`none`, `gzip` or `zstd`"
    } else {
        "`none` or `gzip`, as this build has no zstd"
    };

    pub(super) fn from_variable(text: &str) -> Option<Self> {
        match text {
            "none" => Some(Self::None),
            "gzip" => Some(Self::Gzip),
            "zstd" if cfg!(feature = "zstd") => Some(Self::Zstd),
            _ => None,
        }
    }
}

/// Temporality of points.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Temporality {
    /// Totals since the start of their series.
    #[default]
    Cumulative,
    /// Increase since the request before.
    Delta,
}

impl Temporality {
    /// flowtap has no up-down counters, so `lowmemory` is `delta` here.
    pub(super) fn from_variable(text: &str) -> Option<Self> {
        match text.to_ascii_lowercase().as_str() {
            "cumulative" => Some(Self::Cumulative),
            "delta" | "lowmemory" => Some(Self::Delta),
            _ => None,
        }
    }
}
