//! Which packets are dropped. As with connections all of it is arithmetic.

use flowtap_pipeline::{DropReason, DropRecord, Flow};

use super::config::Config;
use super::flows::Flows;

/// Reasons of the kernel, which have these names in `enum skb_drop_reason`: one of each kind that is loss, and one of TCP's own.
pub(super) const REASONS: [&str; 5] = [
    "NETFILTER_DROP",
    "SOCKET_RCVBUFF",
    "NO_SOCKET",
    "IP_CSUM",
    "TCP_OLD_DATA",
];

/// Bytes of each packet: a full one on Ethernet.
const PACKET_BYTES: u64 = 1500;

/// The dropped packets of a config.
#[derive(Clone, Debug)]
pub(super) struct Drops {
    flows: Flows,
    reasons: [DropReason; REASONS.len()],
    per_interval: u64,
}

impl Drops {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            flows: Flows::new(config),
            reasons: REASONS.map(DropReason::new),
            per_interval: config.dropped_packets_per_interval.into(),
        }
    }

    /// Records of the interval `index`, from 0 on: one for each packet, of the connections in turn.
    pub(super) fn interval(&self, index: u64) -> impl Iterator<Item = DropRecord> {
        let first = index * self.per_interval;
        let reasons = self.reasons.iter().cycle();
        // Reasons go on where the interval before ended.
        let skipped = usize::try_from(first % self.reasons.len() as u64).unwrap_or_default();
        (first..first + self.per_interval)
            .zip(reasons.skip(skipped))
            .map(|(packet, reason)| DropRecord {
                flow: Some(Flow {
                    // The kernel's record of a dropped packet has no process.
                    comm: [0; 16],
                    ..self.flows.flow(packet)
                }),
                packets: 1,
                bytes: PACKET_BYTES,
                ..DropRecord::new(*reason, 0)
            })
    }
}
