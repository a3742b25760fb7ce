//! The Rust mirror of `bpf/abi.h`.
//!
//! The layout is proven three ways: static assertions in C, the const assertions below, and a test that compares this
//! module with the BTF of the object that clang made.

mod cgroups;
mod drops;
mod inspect;

use std::mem::{offset_of, size_of};

use bytemuck::{AnyBitPattern, Pod, Zeroable};

pub use self::cgroups::CgroupEvent;
pub use self::drops::{DropCount, DropFlow, DropReason};
pub(crate) use self::drops::{DropSlots, DropsState};
pub use self::inspect::{ExchangeEvent, FIRST_BYTES, FirstBytes, InspectSeen, UNKNOWN_TURN};
pub(crate) use self::inspect::{InspectControl, WANT_EXCHANGES, WANT_FIRST_BYTES, WANT_TRANSLATIONS};

/// `AF_INET`, the family of [`Tuple`].
pub const AF_INET: u16 = 2;
/// `AF_INET6`, the family of [`Tuple`].
pub const AF_INET6: u16 = 10;

/// `enum event_type`: the first word of every record.
const EVENT_FLOW: u32 = 1;
const EVENT_LISTEN: u32 = 2;
const EVENT_UNLISTEN: u32 = 3;
const EVENT_TRANSLATION: u32 = 4;

/// `struct tuple`: two ends. IPv4 addresses stand in the first four bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Tuple {
    /// Network byte order.
    pub local_addr: [u8; 16],
    /// Network byte order.
    pub remote_addr: [u8; 16],
    /// Host byte order.
    pub local_port: u16,
    /// Host byte order.
    pub remote_port: u16,
    /// [`AF_INET`] or [`AF_INET6`].
    pub family: u16,
    /// Zero.
    pub pad: u16,
}

/// `struct flow_event`: what one socket did since it was last reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct FlowEvent {
    /// `EVENT_FLOW`. In C `type`.
    pub kind: u32,
    /// Inode number of the network namespace.
    pub netns: u32,
    /// Socket cookie.
    pub cookie: u64,
    /// The two ends.
    pub tuple: Tuple,
    /// Payload bytes by sequence number: each counts once, however often it was transmitted.
    pub sent: i64,
    /// Payload bytes in order, without the FIN.
    pub received: i64,
    /// Segments, retransmissions included.
    pub sent_segments: i32,
    /// Segments.
    pub received_segments: i32,
    /// Segments.
    pub retransmits: i32,
    /// Smoothed, µs; 0 before the first sample.
    pub rtt_us: u32,
    /// µs; 0 before the first sample; `u32::MAX` is the kernel's "none yet".
    pub min_rtt_us: u32,
    /// Segments.
    pub cwnd: u32,
    /// SYN to ESTABLISHED, µs; 0 if not seen.
    pub handshake_us: u32,
    /// Thread group; 0 if unknown.
    pub pid: u32,
    /// Since ESTABLISHED or adoption, µs.
    pub age_us: u64,
    /// cgroup v2 id; 0 if unknown.
    pub cgroup_id: u64,
    /// Name of the process, NUL-padded.
    pub comm: [u8; 16],
    /// `enum role`: 0 unknown, 1 client, 2 server.
    pub role: u8,
    /// TCP state.
    pub state: u8,
    /// `enum flow_events`.
    pub events: u8,
    /// `enum role_source`: 0 handshake, 1 counters; of no meaning for an unknown role.
    pub role_source: u8,
    /// errno; 0 for none.
    pub failure: u32,
    /// Jiffies since the last report, of which are below:
    pub elapsed: i32,
    /// Data was in flight or waited for the network.
    pub busy: i32,
    /// The peer's window was full.
    pub rwnd_limited: i32,
    /// The send buffer was full.
    pub sndbuf_limited: i32,
    /// Milliseconds spent in retransmission time-outs; 0 before Linux 6.7.
    pub rto_ms: i32,
    /// Segments received.
    pub out_of_order: i32,
    /// Segments sent that TCP took for lost.
    pub lost: i32,
    /// Segments sent that were acknowledged with a congestion mark.
    pub ecn_ce: i32,
    /// Bytes written and not sent, at the moment of the report.
    pub unsent: u32,
    /// Bytes sent and not acknowledged.
    pub unacked: u32,
    /// Bytes received that the process has not read.
    pub unread: u32,
    /// `enum limits`.
    pub limits: u8,
    /// Of the handshake; in the record of an opened connection or a failed connect.
    pub syn_retransmits: u8,
    /// `enum reset_by`: 0 none, 1 local, 2 remote.
    pub reset_by: u8,
    /// `enum route`.
    pub route: u8,
}

/// `enum limits`: bits of [`FlowEvent::limits`].
const LIMIT_APPLICATION: u8 = 1 << 2;
const LIMIT_CA_STATE_SHIFT: u8 = 4;
const LIMIT_UNSENT: u8 = 1 << 7;

/// `TCP_CA_CWR` of `enum tcp_ca_state` (`include/uapi/linux/tcp.h`): from here on TCP reacts to loss or congestion.
const TCP_CA_CWR: u8 = 2;

/// `enum route`: bits of [`FlowEvent::route`].
const ROUTE_TRANSLATED: u8 = 1;
const ROUTE_KNOWN: u8 = 1 << 1;
const ROUTE_LOOPBACK: u8 = 1 << 2;

impl FlowEvent {
    /// Whether a [`TranslationEvent`] of the same cookie has the addresses on the wire.
    pub const fn is_translated(&self) -> bool {
        self.route & ROUTE_TRANSLATED != 0
    }

    /// Whether its packets arrive on the loopback interface; `None` if that is not known yet.
    pub const fn arrives_on_loopback(&self) -> Option<bool> {
        if self.route & ROUTE_KNOWN == 0 {
            return None;
        }
        Some(self.route & ROUTE_LOOPBACK != 0)
    }

    /// Whether the last rate sample is of an application that had no more to send.
    pub const fn is_application_limited(&self) -> bool {
        self.limits & LIMIT_APPLICATION != 0
    }

    /// Whether TCP reacts to loss or congestion.
    pub const fn is_recovering(&self) -> bool {
        self.limits >> LIMIT_CA_STATE_SHIFT & 7 >= TCP_CA_CWR
    }

    /// Whether bytes wait to be sent, or did when the socket closed.
    pub const fn has_unsent(&self) -> bool {
        self.limits & LIMIT_UNSENT != 0
    }
}

/// `struct translation_event`: the addresses that the packets of a connection have on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct TranslationEvent {
    /// `EVENT_TRANSLATION`. In C `type`.
    pub kind: u32,
    /// Zero.
    pub pad: u32,
    /// Socket cookie.
    pub cookie: u64,
    /// Source and destination of what it sends, as local and remote end.
    pub sent: Tuple,
}

/// `struct listen_event`: a socket began or ceased to listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct ListenEvent {
    /// `EVENT_LISTEN` or `EVENT_UNLISTEN`. In C `type`.
    pub kind: u32,
    /// Inode number of the network namespace.
    pub netns: u32,
    /// Socket cookie.
    pub cookie: u64,
    /// Host byte order; 0 if it was not bound yet.
    pub port: u16,
    /// Zero.
    pub pad: u16,
    /// Connections that it has dropped.
    pub drops: u32,
}

/// `struct listener_event`: a listening socket as a scan of listeners finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct ListenerEvent {
    /// Socket cookie.
    pub cookie: u64,
    /// cgroup v2 id of the process; 0 if unknown.
    pub cgroup_id: u64,
    /// Inode number of the network namespace.
    pub netns: u32,
    /// Thread group of the process that listens; 0 if unknown.
    pub pid: u32,
    /// Name of the process, NUL-padded.
    pub comm: [u8; 16],
    /// Connections that wait to be accepted.
    pub backlog: u32,
    /// Connections that may wait; the queue is full above it.
    pub limit: u32,
    /// Running total of connections that were dropped.
    pub drops: u32,
    /// Microseconds for which the first of the queue has waited; 0 if none waits.
    pub wait_us: u32,
    /// Address that it is bound to, in network byte order.
    pub local_addr: [u8; 16],
    /// Host byte order.
    pub port: u16,
    /// [`AF_INET`] or [`AF_INET6`].
    pub family: u16,
    /// Zero.
    pub pad: u32,
}

/// `struct losses`: everything that could not be reported. Bytes are signed, as the differences that they sum up are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Losses {
    /// Flow events for which the ring had no room.
    pub flows: u64,
    /// Bytes sent of those, and of untracked connections that closed.
    pub sent: i64,
    /// Bytes received of those, and of untracked connections that closed.
    pub received: i64,
    /// Listen events for which the ring had no room.
    pub listeners: u64,
    /// Connections for which there was no memory and no place in a table.
    pub untracked: u64,
    /// Mode `events`: records that were postponed because the ring had no room. Their bytes come with a later record.
    pub segments: u64,
    /// Records that an iterator's buffer refused.
    pub scan_writes: u64,
    /// Connections in a sockmap: bytes that BPF redirects do not pass TCP.
    pub redirected: u64,
    /// Listening sockets without a place in the table of owners.
    pub owners: u64,
    /// Mode `events`: records of connections that opened, postponed because the ring had no room. A census has them.
    pub openings: u64,
    /// Connections of the table whose socket has gone: no program was run for their close.
    pub missed_closes: u64,
}

impl Losses {
    /// The sum over all CPUs.
    pub(crate) fn sum(per_cpu: &[Self]) -> Self {
        per_cpu.iter().fold(Self::default(), |sum, cpu| Self {
            flows: sum.flows + cpu.flows,
            sent: sum.sent.wrapping_add(cpu.sent),
            received: sum.received.wrapping_add(cpu.received),
            listeners: sum.listeners + cpu.listeners,
            untracked: sum.untracked + cpu.untracked,
            segments: sum.segments + cpu.segments,
            scan_writes: sum.scan_writes + cpu.scan_writes,
            redirected: sum.redirected + cpu.redirected,
            owners: sum.owners + cpu.owners,
            openings: sum.openings + cpu.openings,
            missed_closes: sum.missed_closes + cpu.missed_closes,
        })
    }
}

/// `struct totals`: a socket's totals at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Totals {
    sent: u64,
    received: u64,
    sent_segments: u32,
    received_segments: u32,
    retransmits: u32,
    out_of_order: u32,
    lost: u32,
    ecn_ce: u32,
    clock: u32,
    busy: u32,
    rwnd_limited: u32,
    sndbuf_limited: u32,
    rto_ms: u32,
    chrono: u32,
}

/// `struct socket_state`: what the kernel side remembers of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct SocketState {
    marks: u32,
    role: u8,
    owner: u8,
    segment_tick: u16,
    reported: Totals,
    since_ns: u64,
    cgroup_id: u64,
    netns: u32,
    handshake_us: u32,
    pid: u32,
    comm: [u8; 16],
    scanned: u16,
    syn_retransmits: u8,
    pad: u8,
}

/// `struct tracked_socket`: a place in the table of mode `events`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct TrackedSocket {
    state: SocketState,
    tuple: Tuple,
    cookie: u64,
    reported_ns: u64,
}

/// `struct control`: which programs are at work, and what changes while they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Control {
    /// Of the newest programs that are at work.
    pub(crate) generation: u32,
    /// The same, once those before have been detached.
    pub(crate) sole: u32,
    /// Entries that the table of connections may have.
    pub(crate) table_limit: u32,
}

/// Bits of `socket_state.marks`: `enum mark`.
const MARK_ESTABLISHED: u32 = 1 << 1;
const MARK_ROLE_COUNTED: u32 = 1 << 4;

/// `FLOW_OPEN` of `enum flow_events`.
const FLOW_OPEN: u8 = 1 << 5;

/// `TCP_ESTABLISHED` (`include/net/tcp_states.h`).
const TCP_ESTABLISHED: u8 = 1;

impl TrackedSocket {
    /// The record of a census for an open connection, whether its opening could be reported or not; it moves nothing.
    pub(crate) fn census_record(&self) -> Option<FlowEvent> {
        let state = &self.state;
        if state.marks & MARK_ESTABLISHED == 0 {
            return None;
        }
        Some(FlowEvent {
            kind: EVENT_FLOW,
            netns: state.netns,
            cookie: self.cookie,
            tuple: self.tuple,
            handshake_us: state.handshake_us,
            pid: state.pid,
            cgroup_id: state.cgroup_id,
            comm: state.comm,
            role: state.role,
            state: TCP_ESTABLISHED,
            events: FLOW_OPEN,
            role_source: u8::from(state.marks & MARK_ROLE_COUNTED != 0),
            ..Zeroable::zeroed()
        })
    }
}

// SAFETY: plain old data of fixed layout (`Pod`), read from the map byte by byte.
unsafe impl aya::Pod for TrackedSocket {}

// SAFETY: plain old data of fixed layout (`Pod`), read from and written to the map byte by byte.
unsafe impl aya::Pod for Losses {}

// SAFETY: plain old data of fixed layout (`Pod`), written to the map byte by byte.
unsafe impl aya::Pod for Control {}

const _: () = {
    assert!(size_of::<Tuple>() == 40);
    assert!(size_of::<FlowEvent>() == 192);
    assert!(offset_of!(FlowEvent, tuple) == 16);
    assert!(offset_of!(FlowEvent, sent) == 56);
    assert!(offset_of!(FlowEvent, age_us) == 104);
    assert!(offset_of!(FlowEvent, comm) == 120);
    assert!(offset_of!(FlowEvent, failure) == 140);
    assert!(offset_of!(FlowEvent, limits) == 188);
    assert!(size_of::<TranslationEvent>() == 56);
    assert!(size_of::<ListenEvent>() == 24);
    assert!(size_of::<ListenerEvent>() == 80);
    assert!(size_of::<Losses>() == 88);
    assert!(size_of::<Control>() == 12);
    assert!(size_of::<SocketState>() == 120);
    assert!(size_of::<TrackedSocket>() == 176);
};

/// A record of any type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Changes of one socket.
    Flow(FlowEvent),
    /// A socket listens.
    Listen(ListenEvent),
    /// A socket listens no more.
    Unlisten(ListenEvent),
    /// The addresses that a connection's packets have; before its first record that [has them](FlowEvent::is_translated).
    Translation(TranslationEvent),
}

/// Bytes that are not a record: the programs and this file disagree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a valid record: {len} bytes that begin with type {kind:?}")]
pub struct MalformedEvent {
    /// Number of bytes that were left.
    pub len: usize,
    /// The first word, if there was one.
    pub kind: Option<u32>,
}

impl Event {
    /// Reads the record at the start of `bytes`; returns it with what follows. Any alignment will do.
    ///
    /// # Errors
    /// [`MalformedEvent`] if the type is unknown or the record is cut short.
    pub fn read(bytes: &[u8]) -> Result<(Self, &[u8]), MalformedEvent> {
        let kind = bytes.first_chunk().copied().map(u32::from_ne_bytes);
        let event = match kind {
            Some(EVENT_FLOW) => take(bytes).map(|(event, rest)| (Self::Flow(event), rest)),
            Some(EVENT_LISTEN) => take(bytes).map(|(event, rest)| (Self::Listen(event), rest)),
            Some(EVENT_UNLISTEN) => take(bytes).map(|(event, rest)| (Self::Unlisten(event), rest)),
            Some(EVENT_TRANSLATION) => take(bytes).map(|(event, rest)| (Self::Translation(event), rest)),
            _ => None,
        };
        event.ok_or(MalformedEvent {
            len: bytes.len(),
            kind,
        })
    }
}

fn take<T: AnyBitPattern>(bytes: &[u8]) -> Option<(T, &[u8])> {
    let (record, rest) = bytes.split_at_checked(size_of::<T>())?;
    Some((bytemuck::pod_read_unaligned(record), rest))
}

#[cfg(test)]
mod tests;
