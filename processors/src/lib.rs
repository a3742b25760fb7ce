//! The processors: the meaning of records, and their aggregation to series. The path of a record
//! has no I/O, no clock, and nothing of the kernel; state of the environment is watched separately.
//!
//! # Layout
//!
//! A component type with a cargo feature of its name is in builds with that feature.
//!
//! | module | component type | task |
//! |---|---|---|
//! | [`connections`] | `connections` | gives a log record per connection |
//! | [`direction`] | `direction` | ingress or egress |
//! | [`policy`] | `policy` | the class of the remote address |
//! | [`kubernetes`] | `kubernetes` | names of both ends in the cluster |
//! | [`attributes`] | `attributes` | labels of the pipeline, shorter addresses, names of networks |
//! | [`filter`] | `filter` | drops records by what is known of their flow |
//! | [`names`] | `names` | names of peers, from DNS answers and `/etc/hosts` |
//! | [`watch`] | `watch` | findings: what has changed |
//! | [`geoip`] | `geoip` | operator and country of the peer's address |
//! | [`cidr`] | | address ranges as configs write them |
//! | [`window`] | `window` | folds records into series, and closes windows |
#![forbid(unsafe_code)]

pub mod attributes;
pub mod cidr;
pub mod connections;
pub mod direction;
pub mod filter;
mod follow;
#[cfg(feature = "geoip")]
pub mod geoip;
pub mod hops;
pub mod kubernetes;
pub mod names;
pub mod policy;
mod range_set;
mod ranges;
mod recent;
#[cfg(feature = "watch")]
pub mod watch;
pub mod window;

#[cfg(test)]
mod go_exporter;
#[cfg(test)]
mod testing;
