//! From the kernel side's records to flowtap's.

use std::net::Ipv4Addr;
use std::time::Duration;

use flowtap_ebpf::{Event, FlowEvent, ListenEvent, ListenerEvent, microseconds_of_jiffies};
use flowtap_pipeline::{
    Arrival, Chronograph, Endpoint, Events, Flow, FlowBatch, ListenChange, Listener, ListeningRecord, Queues,
    ResetBy, Role, RoleSource, SendTime, SenderState, TcpRecord,
};

use super::address::address;
use super::known::Known;

/// Appends `event` to `batch`.
pub(super) fn push(batch: &mut FlowBatch, known: &mut Known, event: Event) {
    match event {
        Event::Flow(flow) => {
            let mut record = flow_record(&flow);
            record.flow.translation = known.translations.of(&flow);
            record.flow.container_id = known
                .containers
                .id_of(&record.flow, Duration::from_micros(record.age_us));
            batch.tcp.push(record);
        }
        Event::Translation(event) => known.translations.insert(&event),
        Event::Listen(event) => batch.listeners.push(ListenChange::Opened(listener(event))),
        Event::Unlisten(event) => {
            batch.listeners.push(ListenChange::Closed(listener(event)));
            batch.listening.push(closed_listener(event));
        }
    }
}

const fn listener(event: ListenEvent) -> Listener {
    Listener {
        netns: event.netns,
        port: event.port,
        cookie: event.cookie,
    }
}

/// A socket that listens no more. Its drops are the running total, as those of [`listening_record`].
fn closed_listener(event: ListenEvent) -> ListeningRecord {
    let any = Endpoint::new(Ipv4Addr::UNSPECIFIED.into(), event.port);
    let mut record = ListeningRecord::new(any);
    record.flow.netns = event.netns;
    record.flow.cookie = event.cookie;
    record.drops = u64::from(event.drops);
    record.closed = true;
    record
}

/// Converts what a scan found of a listening socket; the container is left empty, and drops are the running total.
pub(super) fn listening_record(found: &ListenerEvent) -> ListeningRecord {
    let local = Endpoint::new(address(found.family, found.local_addr), found.port);
    let mut record = ListeningRecord::new(local);
    record.flow = Flow {
        netns: found.netns,
        cookie: found.cookie,
        pid: found.pid,
        comm: found.comm,
        cgroup_id: found.cgroup_id,
        role: Role::Server,
        ..record.flow
    };
    record.backlog = found.backlog;
    record.limit = found.limit;
    record.drops = u64::from(found.drops);
    record.wait_us = Some(found.wait_us);
    record
}

/// Converts a kernel-side record; the container and the addresses on the wire are left empty.
pub fn flow_record(flow: &FlowEvent) -> TcpRecord {
    let tuple = &flow.tuple;
    let role = match flow.role {
        1 => Role::Client,
        2 => Role::Server,
        _ => Role::Unknown,
    };
    TcpRecord {
        sent_bytes: flow.sent,
        received_bytes: flow.received,
        sent_segments: i64::from(flow.sent_segments),
        received_segments: i64::from(flow.received_segments),
        retransmits: i64::from(flow.retransmits),
        rtt_us: flow.rtt_us, // The kernel's minimum filter begins at its greatest value (tcp_init_sock: `~0U`).
        min_rtt_us: if flow.min_rtt_us == u32::MAX {
            0
        } else {
            flow.min_rtt_us
        },
        cwnd: flow.cwnd,
        state: flow.state,
        events: Events::from_bits(flow.events),
        failure: u16::try_from(flow.failure).unwrap_or(0),
        handshake_us: flow.handshake_us,
        age_us: flow.age_us,
        time: send_time(flow),
        rto_us: i64::from(flow.rto_ms) * 1000,
        queues: Queues {
            unsent: flow.unsent,
            unacked: flow.unacked,
            unread: flow.unread,
        },
        out_of_order: i64::from(flow.out_of_order),
        lost: i64::from(flow.lost),
        ecn_ce: i64::from(flow.ecn_ce),
        syn_retransmits: flow.syn_retransmits,
        is_application_limited: flow.is_application_limited(),
        reset_by: match flow.reset_by {
            1 => ResetBy::Local,
            2 => ResetBy::Remote,
            _ => ResetBy::Unknown,
        },
        ..TcpRecord::new(Flow {
            netns: flow.netns,
            cookie: flow.cookie,
            role,
            role_source: match (role, flow.role_source) {
                (Role::Unknown, _) => RoleSource::Assumed,
                (_, 1) => RoleSource::Counters,
                _ => RoleSource::Handshake,
            },
            pid: flow.pid,
            comm: flow.comm,
            cgroup_id: flow.cgroup_id,
            arrival: match flow.arrives_on_loopback() {
                None => Arrival::Unknown,
                Some(true) => Arrival::Loopback,
                Some(false) => Arrival::Device,
            },
            ..Flow::new(
                Endpoint::new(address(tuple.family, tuple.local_addr), tuple.local_port),
                Endpoint::new(address(tuple.family, tuple.remote_addr), tuple.remote_port),
            )
        })
    }
}

/// Returns the time since the last record, by limit.
fn send_time(flow: &FlowEvent) -> SendTime {
    let clocks = Chronograph {
        elapsed_us: microseconds_of_jiffies(flow.elapsed),
        busy_us: microseconds_of_jiffies(flow.busy),
        rwnd_limited_us: microseconds_of_jiffies(flow.rwnd_limited),
        sndbuf_limited_us: microseconds_of_jiffies(flow.sndbuf_limited),
    };
    clocks.send_time(SenderState {
        has_unsent: flow.has_unsent(),
        is_recovering: flow.is_recovering(),
        is_application_limited: flow.is_application_limited(),
    })
}
