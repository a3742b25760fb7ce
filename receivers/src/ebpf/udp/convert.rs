//! From the kernel side's flows of UDP to flowtap's records.

use std::net::Ipv4Addr;

use flowtap_ebpf::UdpChange;
use flowtap_ebpf::udp::abi::{UdpFlow, UdpTotals};
use flowtap_pipeline::{Endpoint, Flow, Role, RoleSource, Transport, UdpApp, UdpEnd, UdpRecord};

use crate::ebpf::address::address;

/// `IPPROTO_UDPLITE`.
const UDP_LITE: u8 = 136;

/// Converts a change; the container is left empty.
pub(super) fn record(change: &UdpChange) -> UdpRecord {
    let UdpChange { flow, delta, .. } = change;
    UdpRecord {
        sent_bytes: delta.sent,
        received_bytes: delta.received,
        sent_datagrams: delta.sent_datagrams,
        received_datagrams: delta.received_datagrams,
        drops: delta.dropped,
        errors: delta.errors,
        error: u16::try_from(flow.error).unwrap_or(0),
        app: if flow.marks & UdpFlow::QUIC == 0 {
            UdpApp::Unknown
        } else {
            UdpApp::Quic
        },
        opened: change.opened,
        end: match (change.closed, change.idle) {
            (false, _) => UdpEnd::Open,
            (true, false) => UdpEnd::Closed,
            (true, true) => UdpEnd::Idle,
        },
        ..UdpRecord::new(who(flow))
    }
}

fn who(flow: &UdpFlow) -> Flow {
    let key = &flow.key;
    let (role, role_source) = role(flow);
    Flow {
        transport: if key.protocol == UDP_LITE {
            Transport::UdpLite
        } else {
            Transport::Udp
        },
        netns: flow.netns,
        cookie: flow.cookie,
        role,
        role_source,
        pid: flow.pid,
        comm: flow.comm,
        cgroup_id: flow.cgroup_id,
        ..Flow::new(
            Endpoint::new(address(key.family, flow.local_addr), key.local_port),
            Endpoint::new(address(key.family, key.remote_addr), key.remote_port),
        )
    }
}

/// The side that sends first is the client. So is a connected socket whose port the kernel chose: of a flow that was there before flowtap
/// the first datagram to be seen may be an answer, and of one that is refused there is none. A flow without peer is all that a
/// socket does: one that chose its port may do both.
fn role(flow: &UdpFlow) -> (Role, RoleSource) {
    let has = |mark| flow.marks & mark != 0;
    if flow.key.remote_port == 0 {
        match (
            has(UdpFlow::BOUND),
            has(UdpFlow::FIRST_SENT),
            has(UdpFlow::FIRST_RECEIVED),
        ) {
            (true, false, true) => (Role::Server, RoleSource::FirstDatagram),
            (false, true, _) => (Role::Client, RoleSource::FirstDatagram),
            _ => (Role::Unknown, RoleSource::Assumed),
        }
    } else if has(UdpFlow::FIRST_SENT) {
        (Role::Client, RoleSource::FirstDatagram)
    } else if has(UdpFlow::CONNECTED) && !has(UdpFlow::BOUND) {
        (Role::Client, RoleSource::Bound)
    } else if !has(UdpFlow::FIRST_RECEIVED) {
        (Role::Unknown, RoleSource::Assumed)
    } else {
        (Role::Server, RoleSource::FirstDatagram)
    }
}

/// Totals of flows that had no place in the kernel's tables, in one record.
pub(super) fn unplaced(totals: &UdpTotals) -> UdpRecord {
    let count = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    let none = Endpoint::new(Ipv4Addr::UNSPECIFIED.into(), 0);
    let flow = Flow {
        transport: Transport::Udp,
        ..Flow::new(none, none)
    };
    UdpRecord {
        sent_bytes: count(totals.sent),
        received_bytes: count(totals.received),
        sent_datagrams: count(totals.sent_datagrams),
        received_datagrams: count(totals.received_datagrams),
        drops: count(totals.dropped),
        errors: count(totals.errors),
        unplaced: true,
        ..UdpRecord::new(flow)
    }
}

#[cfg(test)]
mod tests {
    use flowtap_ebpf::UdpDelta;
    use flowtap_ebpf::udp::abi::UdpKey;

    use super::*;

    fn role_of(marks: u32, remote_port: u16) -> (Role, RoleSource) {
        let flow = UdpFlow {
            key: UdpKey {
                family: 2,
                protocol: 17,
                remote_port,
                ..UdpKey::default()
            },
            marks,
            ..UdpFlow::default()
        };
        let change = UdpChange {
            flow,
            delta: UdpDelta::default(),
            opened: true,
            closed: false,
            idle: false,
        };
        let flow = record(&change).flow;
        (flow.role, flow.role_source)
    }

    #[test]
    fn the_first_datagram_and_the_choice_of_the_port_decide_the_role() {
        use RoleSource::{Assumed, Bound, FirstDatagram};
        let (sent, received) = (UdpFlow::FIRST_SENT, UdpFlow::FIRST_RECEIVED);
        let (bound, connected) = (UdpFlow::BOUND, UdpFlow::CONNECTED);
        for (marks, port, expected) in [
            (sent, 53, (Role::Client, FirstDatagram)),
            (sent | bound, 123, (Role::Client, FirstDatagram)),
            (received | bound, 40_000, (Role::Server, FirstDatagram)),
            (
                received | bound | connected,
                40_000,
                (Role::Server, FirstDatagram),
            ),
            (received, 40_000, (Role::Server, FirstDatagram)),
            (received | connected, 53, (Role::Client, Bound)),
            (0, 53, (Role::Unknown, Assumed)),
            (connected, 53, (Role::Client, Bound)),
            (connected | bound, 53, (Role::Unknown, Assumed)),
            (0, 0, (Role::Unknown, Assumed)),
            (received | bound, 0, (Role::Server, FirstDatagram)),
            (sent | bound, 0, (Role::Unknown, Assumed)),
            (sent, 0, (Role::Client, FirstDatagram)),
            (received, 0, (Role::Unknown, Assumed)),
        ] {
            assert_eq!(role_of(marks, port), expected, "marks {marks:b}");
        }
    }
}
