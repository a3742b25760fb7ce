//! Dropped packets, from the counts of the kernel side to records.
//!
//! In: counts by reason and namespace, or by flow. Out: a record for each that grew. The rules:
//!
//! 1. `drops: reasons` has records without a flow. `drops: flows` has records with one, and one without it for packets whose flow
//!    found no room or is not IP.
//! 2. The end that sent the packet is taken for the client: a packet that came in was sent to a server, as far as the packet says.
//! 3. A kernel that does not say why it drops (before Linux 5.17), or refuses the program, has no drops: a warning gives the reason,
//!    and everything else works.

use std::collections::HashMap;

use flowtap_ebpf::abi::{DropCount, DropFlow};
use flowtap_ebpf::{Dropped, Drops, LoadError};
use flowtap_pipeline::{DropReason, DropRecord, Endpoint, Flow, Role, RoleSource, Transport};

use super::address::address;
use super::config::DropsMode;

/// `IPPROTO_*` of protocols that have a name of their own.
const TCP: u8 = 6;
const UDP: u8 = 17;
const UDP_LITE: u8 = 136;

/// The program at work.
#[derive(Debug)]
pub(crate) struct DropCapture {
    programs: Drops,
    /// Reasons by the running kernel's numbers.
    reasons: HashMap<u32, DropReason>,
}

impl DropCapture {
    /// Loads the program; `None` where that is not wanted, or, with a warning, where it is not possible.
    pub(super) fn load(mode: DropsMode) -> Option<Self> {
        if mode == DropsMode::Off {
            return None;
        }
        match Drops::load(mode == DropsMode::Flows) {
            Ok(programs) => {
                tracing::debug!(flows = programs.with_flows(), "dropped packets are counted");
                Some(Self {
                    programs,
                    reasons: HashMap::new(),
                })
            }
            Err(error) => {
                tracing::warn!(
                    %error,
                    "dropped packets are not counted, and the family network_drops stays empty; hint: {}, or set drops: off",
                    remedy(&error)
                );
                None
            }
        }
    }

    /// Changes to another mode, in which packets are counted.
    pub(super) fn set_mode(&mut self, mode: DropsMode) {
        if let Err(error) = self.programs.set_with_flows(mode == DropsMode::Flows) {
            tracing::warn!(%error, "`drops` stays as it was; hint: fix the cause that the error names, then reload");
        }
    }

    /// Adds a record for each count that has grown.
    pub(crate) fn collect(&mut self, records: &mut Vec<DropRecord>) {
        let mut found = Vec::new();
        if let Err(error) = self.programs.read(|dropped, count| found.push((dropped, count))) {
            tracing::warn!(%error, "counts of dropped packets can't all be read; the next one recovers it; \
                 hint: report this if it comes again");
        }
        let with_flows = self.programs.with_flows();
        for (dropped, count) in found {
            records.push(self.record(dropped, count, with_flows));
        }
    }

    fn record(&mut self, dropped: Dropped, count: DropCount, with_flows: bool) -> DropRecord {
        let mut record = match dropped {
            Dropped::Flow(flow) => DropRecord {
                flow: Some(flow_of(&flow)),
                ..DropRecord::new(self.reason(flow.reason.reason), flow.reason.netns)
            },
            Dropped::Reason(reason) => DropRecord {
                is_unattributed: with_flows,
                ..DropRecord::new(self.reason(reason.reason), reason.netns)
            },
            Dropped::Unknown => DropRecord {
                is_unattributed: with_flows,
                ..DropRecord::new(DropReason::OTHER, 0)
            },
        };
        record.packets = count.packets;
        record.bytes = count.bytes;
        record
    }

    fn reason(&mut self, number: u32) -> DropReason {
        let programs = &self.programs;
        *self
            .reasons
            .entry(number)
            .or_insert_with(|| DropReason::new(&programs.name(number)))
    }
}

/// Returns the hint for an operator whose kernel does not take the program.
pub(crate) fn remedy(error: &LoadError) -> &'static str {
    if let Some(remedy) = error.descriptor_remedy() {
        return remedy;
    }
    match error {
        LoadError::MissingArgument { .. } => "run Linux 5.17 or later",
        LoadError::Capability(_) => "grant CAP_BPF and CAP_PERFMON",
        LoadError::NoTypes | LoadError::Btf(_) => "run a kernel built with CONFIG_DEBUG_INFO_BTF=y",
        _ => "see `flowtap doctor`",
    }
}

fn flow_of(flow: &DropFlow) -> Flow {
    Flow {
        netns: flow.reason.netns,
        transport: match flow.protocol {
            TCP => Transport::Tcp,
            UDP => Transport::Udp,
            UDP_LITE => Transport::UdpLite,
            _ => Transport::Other,
        },
        role: if flow.received == 0 {
            Role::Client
        } else {
            Role::Server
        },
        role_source: RoleSource::Assumed,
        ..Flow::new(
            Endpoint::new(address(flow.family, flow.local_addr), flow.local_port),
            Endpoint::new(address(flow.family, flow.remote_addr), flow.remote_port),
        )
    }
}

#[cfg(test)]
mod tests {
    use flowtap_ebpf::abi::{AF_INET, DropReason as Why};
    use flowtap_pipeline::Timestamp;

    use super::*;

    #[test]
    fn the_source_of_a_dropped_packet_is_its_sender_on_either_side() {
        let address = |last| {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&[192, 0, 2, last]);
            bytes
        };
        let flow = |received, local_port, remote_port| DropFlow {
            reason: Why { reason: 2, netns: 7 },
            local_addr: address(1),
            remote_addr: address(2),
            local_port,
            remote_port,
            family: AF_INET,
            protocol: UDP,
            received,
        };
        for (dropped, role, sender, receiver) in [
            (flow(1, 53, 40_000), Role::Server, (2, 40_000), (1, 53)),
            (flow(0, 40_000, 53), Role::Client, (1, 40_000), (2, 53)),
        ] {
            let record = DropRecord {
                flow: Some(flow_of(&dropped)),
                ..DropRecord::new(DropReason::new("NO_SOCKET"), 7)
            };
            let log = record.to_log(Timestamp::default()).unwrap();
            assert_eq!((log.flow.role, log.flow.role_source), (role, RoleSource::Assumed));
            let end = |(last, port)| Endpoint::new([192, 0, 2, last].into(), port);
            assert_eq!(log.ends(), (end(sender), end(receiver)));
        }
    }
}
