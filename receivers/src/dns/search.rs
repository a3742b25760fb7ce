//! Queries that a resolver's search list wastes.
//!
//! A resolver with `search ns.svc.cluster.local svc.cluster.local cluster.local` and `ndots:5` asks for `www.example.com` with each
//! suffix first, and gets NXDOMAIN each time. Nothing in a message marks such a query, so it is recognized by the one after it: the
//! same client, type and server, within [`WINDOW_NS`], and a name that lacks a run of labels (`DomainName::is_search_step_before`).

use std::collections::HashMap;
use std::net::IpAddr;

use super::name::DomainName;
use super::packet::Owner;

/// Time that a resolver takes from one name of the list to the next at most.
const WINDOW_NS: u64 = 5_000_000_000;

/// First labels, each of one client, whose rejected names are remembered.
const MAX_ENTRIES: usize = 4096;

/// Names that are remembered for one of them: glibc has no limit, `resolv.conf` files rarely list more than 6 domains.
const MAX_NAMES: usize = 8;

/// The client of a query, as of when it asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Client<'a> {
    pub(super) owner: &'a Owner,
    pub(super) server: IpAddr,
}

/// A client's lookups that begin with the same label.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Lookup {
    netns: u32,
    pid: u32,
    server: IpAddr,
    qtype: u16,
    first: Box<[u8]>,
}

impl Lookup {
    fn of(client: Client<'_>, qtype: u16, name: &DomainName) -> Self {
        Self {
            netns: client.owner.netns,
            pid: client.owner.pid,
            server: client.server,
            qtype,
            first: name.first_label().into(),
        }
    }
}

#[derive(Debug)]
struct Missing {
    name: DomainName,
    at: u64,
}

/// Names that do not exist, until it is known whether a search list made them.
#[derive(Debug, Default)]
pub(super) struct SearchList {
    missing: HashMap<Lookup, Vec<Missing>>,
}

impl SearchList {
    /// A server answered that `name` does not exist. Returns whether there was room to remember it.
    pub(super) fn missing(&mut self, client: Client<'_>, qtype: u16, name: DomainName, now: u64) -> bool {
        let lookup = Lookup::of(client, qtype, &name);
        if self.missing.len() >= MAX_ENTRIES && !self.missing.contains_key(&lookup) {
            return false;
        }
        let names = self.missing.entry(lookup).or_default();
        names.retain(|missing| now.saturating_sub(missing.at) < WINDOW_NS);
        if names.len() >= MAX_NAMES {
            return false;
        }
        if !names.iter().any(|missing| missing.name == name) {
            names.push(Missing { name, at: now });
        }
        true
    }

    /// A client asks for `name`. Returns how many queries before it the search list wasted.
    pub(super) fn asked(&mut self, client: Client<'_>, qtype: u16, name: &DomainName, now: u64) -> u32 {
        // Most clients have had no such answer.
        if self.missing.is_empty() {
            return 0;
        }
        let lookup = Lookup::of(client, qtype, name);
        let Some(names) = self.missing.get_mut(&lookup) else {
            return 0;
        };
        let before = names.len();
        names.retain(|missing| now.saturating_sub(missing.at) < WINDOW_NS);
        let expired = before - names.len();
        names.retain(|missing| !missing.name.is_search_step_before(name));
        let wasted = before - expired - names.len();
        if names.is_empty() {
            self.missing.remove(&lookup);
        }
        u32::try_from(wasted).unwrap_or(u32::MAX)
    }

    /// Forgets names that no query can belong to any more.
    pub(super) fn expire(&mut self, now: u64) {
        self.missing.retain(|_, names| {
            names.retain(|missing| now.saturating_sub(missing.at) < WINDOW_NS);
            !names.is_empty()
        });
    }
}
