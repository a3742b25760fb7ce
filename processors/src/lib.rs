//! The processors: what records mean, and how they become series. Pure: no I/O, no clock, nothing of the kernel.
//!
//! # Layout
//!
//! | module | component type | what it does |
//! |---|---|---|
//! | [`direction`] | `direction` | ingress or egress |
//! | [`policy`] | `policy` | what kind of peer the remote address is |
//! | [`cidr`] | | address ranges as configs write them |
//! | [`window`] | `window` | folds records into series, and closes windows |
#![forbid(unsafe_code)]

pub mod cidr;
pub mod direction;
pub mod policy;
pub mod window;

#[cfg(test)]
mod testing;
