//! The processor `window`: folds records into series, and closes windows.
//!
//! In: records with kind and class, watermarks. Out: a [`flowtap_pipeline::Snapshot`] per window. The rules:
//!
//! 1. A record is added to the series of each family that it says something about ([`fold`]).
//! 2. A window closes when a watermark has come to its end, which is a multiple of `interval`.
//! 3. A family that has `max_series` series folds what is new into one series more, `other`, and counts that.
//!    A family with `top` exposes the series that rank first; changes of the others go to `other` with each window (ADR 39).
//! 4. A series that nothing has changed for `metric_expiration` leaves; it is listed once as ended.
//! 5. A label that the config leaves out of a family is summed away; a family can be left out as a whole.
//! 6. The gauge of open connections counts each of them once, in a table ([`connections`]), so that it is
//!    right again after whatever was lost.
//! 7. Bytes by role, direction and class have series from the start, which never leave (`totals`). So have findings by kind and class, where
//!    `watch` is in the pipeline (`fold::findings`).
//! 8. A counter never falls: a difference that corrects an earlier one downwards is held back until others make up for it.
//! 9. The queues of listening sockets are what they were at the last look before the window closed ([`listening`]).
//! 10. Gauges of readings are the sum of the last readings of their series; see [`readings`].
//! 11. Dropped packets without a flow have an empty class where flows are not counted, else the class `other`.

mod buckets;
mod catalog;
mod config;
mod connections;
mod details;
mod event_label;
mod factory;
mod fold;
mod icmp;
mod key;
mod levels;
mod listening;
mod packed;
mod peer_addr;
mod readings;
mod sizes;
mod store;
mod totals;
mod value;

pub use self::buckets::FamilyBuckets;
pub use self::config::{Config, FamilyConfig, Top, TopBy};
pub(crate) use self::event_label::{failure_reason, udp_error};
pub use self::factory::FACTORY;
pub use self::fold::Window;

#[cfg(test)]
mod top_tests;
