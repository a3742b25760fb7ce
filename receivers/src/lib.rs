//! The receivers: where flow records come from.
//!
//! # Layout
//!
//! A component type with a cargo feature of its name is in builds with that feature.
//!
//! | module | component type | source |
//! |---|---|---|
//! | [`ebpf`] | `ebpf` | the kernel's own TCP totals, with eBPF |
//! | [`sock_diag`] | `sock_diag` | the kernel's own TCP totals, over netlink; no privileges, one network namespace |
//! | [`rdma`] | `rdma` | counters, links and queue pairs of RDMA devices |
//! | [`replay`] | `replay` | a recording, and the format of recordings |
//! | [`generator`] | `generator` | nothing: it makes up flows, for load tests |
//! | [`dns`] | | DNS transactions, from messages |
//! | [`inspect`] | | application protocols, from the first bytes of connections |
//! | [`doctor`] | | requirements on this machine |
//! | [`containers`] | | containers of processes, from a proc file system |
//! | [`coverage`] | | measured over counted by the kernel |
//! | `extras` | | dropped packets, and what listening sockets add up to, beside the flows of a receiver |
//! | `listeners` | | from running totals of listening sockets to differences |
//! | `census` | | when every open connection is reported once more |
//! | [`listen_scan`] | | listening ports of a network namespace, for any receiver |
#![forbid(unsafe_code)]

mod census;
pub mod containers;
pub mod coverage;
pub mod dns;
pub mod doctor;
pub mod ebpf;
mod extras;
#[cfg(feature = "generator")]
pub mod generator;
pub mod inspect;
pub mod listen_scan;
mod listeners;
#[cfg(feature = "rdma")]
pub mod rdma;
#[cfg(feature = "replay")]
pub mod replay;
pub mod sock_diag;
