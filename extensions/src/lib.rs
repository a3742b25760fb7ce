//! Services beside the pipelines: the admin listener, the daemon's own telemetry, watchers of the
//! node and the cluster, the memory limiter, and notifications to systemd.
//!
//! # Layout
//!
//! | module | what it does |
//! |---|---|
//! | [`admin`] | the admin listener: health, the status page, the API |
//! | [`health_check`] | the extension `health_check`: a listener for probes alone |
//! | [`live`] | the live view's data, from the newest snapshots: `/flows` |
//! | [`telemetry`] | logs, and the daemon's own metrics |
//! | [`node`] | watches this machine's addresses and resolvers |
//! | [`identity`] | the resource: the attributes that name this flowtap and its node |
//! | [`kubernetes`] | watches the cluster's ranges and names |
//! | [`watches`] | the state of these watches, as `/status` shows it |
//! | [`memory_limiter`] | watches how much memory the daemon has |
//! | `places` | places for work that blocks, of which little is done at a time |
//! | [`short`] | numbers for people |
//! | [`verdict`] | what limits the traffic of a peer, a process or a service |
//! | [`systemd`] | notifications to systemd |
#![forbid(unsafe_code)]

pub mod admin;
pub mod health_check;
pub mod identity;
#[cfg(feature = "kubernetes")]
pub mod kubernetes;
#[cfg(not(feature = "kubernetes"))]
#[path = "no_kubernetes.rs"]
pub mod kubernetes;
pub mod live;
pub mod memory_limiter;
pub mod node;
mod places;
mod query;
pub mod short;
pub mod systemd;
pub mod telemetry;
pub mod verdict;
pub mod watches;
