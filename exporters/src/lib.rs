//! The exporters: where snapshots go.
//!
//! # Layout
//!
//! | module | component type | where to |
//! |---|---|---|
//! | [`prometheus`] | `prometheus` | whoever scrapes `/metrics` |
//! | [`otlp`] | `otlp` | an OpenTelemetry collector, by gRPC |
//! | [`debug`] | `debug` | standard output |
//! | [`naming`] | | a family's full name |
#![forbid(unsafe_code)]

pub mod debug;
pub mod naming;
pub mod otlp;
pub mod prometheus;

#[cfg(test)]
mod testing;
