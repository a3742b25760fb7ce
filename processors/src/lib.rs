//! The processors: what records mean, and how they become series. On the way of a record there is no I/O, no clock, nothing of
//! the kernel; what changes around flowtap is watched beside it.
//!
//! # Layout
//!
//! | module | component type | task |
//! |---|---|---|
//! | [`direction`] | `direction` | ingress or egress |
//! | [`policy`] | `policy` | the class of the remote address |
//! | [`kubernetes`] | `kubernetes` | names of both ends in the cluster; the watch on its ranges and names |
//! | [`cidr`] | | address ranges as configs write them |
//! | [`window`] | `window` | folds records into series, and closes windows |
#![forbid(unsafe_code)]

pub mod cidr;
pub mod direction;
pub mod kubernetes;
pub mod policy;
pub mod window;

#[cfg(test)]
mod go_exporter;
#[cfg(test)]
mod testing;
