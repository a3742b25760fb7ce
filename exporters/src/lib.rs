//! The exporters: where snapshots go.
//!
//! # Layout
//!
//! | module | component type | where to |
//! |---|---|---|
//! | [`prometheus`] | `prometheus` | whoever scrapes `/metrics` |
//! | [`otlp`] | `otlp` | an OpenTelemetry collector, by gRPC or HTTP |
//! | [`remote_write`] | `remote_write` | whatever takes Prometheus remote write |
//! | [`file`](mod@file) | `file` | files of JSON lines or Parquet |
//! | [`debug`] | `debug` | standard output |
//! | [`listener`] | | the bounded HTTP listener, of scrapes and of the daemon itself |
//! | [`naming`] | | a family's full name |
//! | [`push`] | | what exporters that push have in common |
//! | [`tls`] | | certificates and keys of listeners and connections |
//! | `wire` | | fields of Protocol Buffers |
#![forbid(unsafe_code)]

pub mod debug;
pub mod file;
pub mod listener;
pub mod naming;
pub mod otlp;
pub mod prometheus;
pub mod push;
pub mod remote_write;
pub mod tls;
mod wire;

#[cfg(test)]
mod testing;
