//! Listening sockets: their queues, and what they dropped.

use flowtap_pipeline::ListeningRecord;

use crate::verdict::evidence::{Listening, ListeningSocket, process_name};

/// A listening socket: its queue as its last record has it, and what it dropped in the period.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Listener {
    pub(super) port: u16,
    /// Its process; 0 and empty if it is not known.
    pub(super) pid: u32,
    pub(super) comm: [u8; 16],
    pub(super) backlog: u64,
    pub(super) limit: u64,
    pub(super) drops: u64,
    pub(super) oldest_wait: f64,
    pub(super) closed: bool,
}

impl Listener {
    pub(super) fn update(&mut self, record: &ListeningRecord) {
        let flow = &record.flow;
        // A record may lack the process that one before had.
        let owner = if flow.pid == 0 && flow.comm[0] == 0 {
            (self.pid, self.comm)
        } else {
            (flow.pid, flow.comm)
        };
        *self = Self {
            port: flow.local.port,
            pid: owner.0,
            comm: owner.1,
            backlog: u64::from(record.backlog),
            limit: u64::from(record.limit),
            drops: self.drops + record.drops,
            oldest_wait: f64::from(record.wait_us.unwrap_or(0)) / 1e6,
            closed: record.closed,
        };
    }

    /// As evidence, which names those that dropped connections.
    pub(super) fn evidence(&self) -> Listening {
        let Self {
            backlog,
            limit,
            drops,
            ..
        } = *self;
        let socket = (drops > 0).then(|| ListeningSocket {
            port: self.port,
            pid: (self.pid != 0).then_some(self.pid),
            comm: process_name(&self.comm),
            backlog,
            limit,
            drops,
            closed: self.closed,
        });
        Listening {
            backlog,
            limit,
            drops,
            oldest_wait: self.oldest_wait,
            sockets: Vec::from_iter(socket),
        }
    }
}
