//! The attempts and the outgoing bytes of a subject within an interval.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use flowtap_pipeline::{Flow, Transport};

/// Addresses and ports of a subject that are counted in an interval; further ones add nothing to what is known.
const MAX_TRIED: usize = 8192;

/// Addresses and ports that a subject tried in the open interval.
#[derive(Debug, Default)]
pub(super) struct Tried {
    ends: HashSet<(IpAddr, u16, Transport)>,
    pub(super) newest: Option<Flow>,
}

impl Tried {
    pub(super) fn push(&mut self, flow: &Flow) {
        let end = (flow.remote.addr, flow.remote.port, flow.transport);
        if self.ends.len() < MAX_TRIED && self.ends.insert(end) {
            self.newest = Some(flow.clone());
        }
    }

    pub(super) fn ports_by_address(&self) -> HashMap<IpAddr, usize> {
        let mut ports = HashMap::new();
        for (addr, ..) in &self.ends {
            *ports.entry(*addr).or_default() += 1;
        }
        ports
    }
}

/// Bytes that a subject sent to external peers in the open interval.
#[derive(Debug, Default)]
pub(super) struct Sent {
    pub(super) bytes: u64,
    pub(super) newest: Option<Flow>,
}

impl Sent {
    pub(super) fn push(&mut self, flow: &Flow, bytes: u64) {
        self.bytes += bytes;
        if self.newest.is_none() {
            self.newest = Some(flow.clone());
        }
    }
}
