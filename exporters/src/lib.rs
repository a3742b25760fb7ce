//! The exporters deliver snapshots.
//!
//! # Layout
//!
//! A component type with a cargo feature of its name is in builds with that feature.
//!
//! | module | component type | destination |
//! |---|---|---|
//! | [`prometheus`] | `prometheus` | scrapers of `/metrics` |
//! | [`otlp`] | `otlp` | an OpenTelemetry collector, over gRPC or HTTP |
//! | [`remote_write`] | `remote_write` | Prometheus remote write endpoints |
//! | [`ipfix`] | `ipfix` | IPFIX collectors, over UDP, TCP or TLS |
//! | [`file`](mod@file) | `file` | files of JSON lines or Parquet |
//! | [`debug`] | `debug` | standard output |
//! | [`naming`] | | a family's full name |
//! | [`push`] | | code shared by exporters that push |
//! | `native` | | exponential buckets as native histograms |
//! | `wire` | | fields of Protocol Buffers |
#![forbid(unsafe_code)]

pub mod debug;
#[cfg(feature = "file")]
pub mod file;
#[cfg(feature = "ipfix")]
pub mod ipfix;
pub mod naming;
mod native;
pub mod otlp;
pub mod prometheus;
pub mod push;
#[cfg(feature = "remote-write")]
pub mod remote_write;
mod wire;

#[cfg(test)]
mod testing;
