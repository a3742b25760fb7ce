//! The exporters: where snapshots go.
//!
//! # Layout
//!
//! | module | component type | where to |
//! |---|---|---|
//! | [`prometheus`] | `prometheus` | whoever scrapes `/metrics` |
//! | [`otlp`] | `otlp` | an OpenTelemetry collector, by gRPC or HTTP |
//! | [`debug`] | `debug` | standard output |
//! | [`naming`] | | a family's full name |
//! | [`push`] | | what exporters that push have in common |
//! | [`tls`] | | certificates and keys of listeners and connections |
#![forbid(unsafe_code)]

pub mod debug;
pub mod naming;
pub mod otlp;
pub mod prometheus;
pub mod push;
pub mod tls;

#[cfg(test)]
mod testing;
