//! Kubernetes `NetworkPolicies` (`networking.k8s.io/v1`) on observed flows: verdicts, and policies that allow what was observed.
//!
//! Nothing here does I/O or reads a clock. The semantics are those of the API reference; where it leaves a choice to
//! implementations, [`verdict`] names the one that is made.
//!
//! # Layout
//!
//! | module | task |
//! |---|---|
//! | [`policy`] | the types of a policy, and their form as an API object |
//! | [`selector`] | label selectors |
//! | [`manifest`] | policies and cluster objects from YAML or JSON, with errors that name file, document and key |
//! | [`cluster`] | look-ups: the pod, node or service of an address or container |
//! | `service_ports` | ports by name, and behind a service |
//! | [`history`] | a cluster that changes: the pod that had an address when a flow was seen |
//! | [`observed`] | a bounded table of the flows in batches |
//! | [`conversation`] | who talks to whom: observed flows joined with the cluster |
//! | [`verdict`] | whether policies allow a conversation, and the rule that decides |
//! | [`suggest`] | the least policies that allow what was observed |
#![forbid(unsafe_code)]

pub mod cluster;
pub mod conversation;
pub mod history;
pub mod manifest;
pub mod observed;
pub mod policy;
pub mod selector;
mod service_ports;
pub mod suggest;
pub mod verdict;

#[cfg(test)]
mod testing;
