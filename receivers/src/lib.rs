//! The receivers: where flow records come from.
//!
//! # Layout
//!
//! | module | component type | what it reads |
//! |---|---|---|
//! | [`ebpf`] | `ebpf` | the kernel's own TCP totals, by eBPF |
//! | [`listen_scan`] | | listening ports from a proc file system, for any receiver |
#![forbid(unsafe_code)]

pub mod ebpf;
pub mod listen_scan;
