//! The Rust mirror of `bpf/udp_abi.h`. The layout is proven as that of [`crate::abi`].

use std::mem::{offset_of, size_of};

use bytemuck::{Pod, Zeroable};

/// `struct udp_key`: one socket and one peer. IPv4 addresses stand in the first four bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
#[repr(C)]
pub struct UdpKey {
    /// The kernel side's id of the socket, unique among those that are open. Not to be exported: it may be an address.
    pub socket: u64,
    /// Network byte order.
    pub remote_addr: [u8; 16],
    /// Host byte order.
    pub local_port: u16,
    /// Host byte order.
    pub remote_port: u16,
    /// [`AF_INET`](crate::abi::AF_INET) or [`AF_INET6`](crate::abi::AF_INET6).
    pub family: u16,
    /// 17 for UDP, 136 for UDP-Lite.
    pub protocol: u8,
    /// Zero.
    pub pad: u8,
}

/// `struct udp_totals`: payload bytes and datagrams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct UdpTotals {
    /// Payload bytes.
    pub sent: u64,
    /// Payload bytes.
    pub received: u64,
    /// Datagrams.
    pub sent_datagrams: u64,
    /// Datagrams.
    pub received_datagrams: u64,
    /// Datagrams for which the socket had no room.
    pub dropped: u64,
    /// ICMP errors that the socket was notified of.
    pub errors: u64,
}

/// `struct udp_flow`: all that is known of a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct UdpFlow {
    /// Since the flow began.
    pub totals: UdpTotals,
    /// The socket and the peer.
    pub key: UdpKey,
    /// Socket cookie; 0 if the kernel has given none.
    pub cookie: u64,
    /// `CLOCK_MONOTONIC`; with the key it identifies the flow.
    pub since_ns: u64,
    /// Of the last datagram.
    pub last_ns: u64,
    /// cgroup v2 id; 0 if unknown.
    pub cgroup_id: u64,
    /// Inode number of the network namespace.
    pub netns: u32,
    /// Thread group; 0 if unknown.
    pub pid: u32,
    /// `enum udp_marks`.
    pub marks: u32,
    /// errno of the last error; 0 for none.
    pub error: u32,
    /// Of a socket's first flow: not 0 if the socket has others.
    pub has_more: u32,
    /// Length of the socket's error queue when it was reported last.
    pub error_queue: u32,
    /// Network byte order.
    pub local_addr: [u8; 16],
    /// Name of the process, NUL-padded.
    pub comm: [u8; 16],
}

impl UdpFlow {
    /// `UDP_FIRST_SENT`: the first datagram was sent, not received.
    pub const FIRST_SENT: u32 = 1;
    /// `UDP_FIRST_RECEIVED`: the opposite. Neither: only drops or errors.
    pub const FIRST_RECEIVED: u32 = 1 << 1;
    /// `UDP_BOUND`: the application chose the local port.
    pub const BOUND: u32 = 1 << 2;
    /// `UDP_QUIC`: the first datagram began with a long header of QUIC.
    pub const QUIC: u32 = 1 << 3;
    /// `UDP_CONNECTED`: the application had called `connect()` when the flow began.
    pub const CONNECTED: u32 = 1 << 4;
}

/// `struct udp_seen`: what the programs have seen, per CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct UdpSeen {
    /// Everything, whether or not there was a place for it.
    pub seen: UdpTotals,
    /// Of flows for which there was no place.
    pub overflow: UdpTotals,
    /// Closed sockets' records for which the ring had no room.
    pub closed_lost: u64,
    /// DNS datagrams for which the ring had no room.
    pub dns_lost: u64,
    /// DNS datagrams without a payload, because it was in page fragments.
    pub dns_unread: u64,
    /// Datagrams whose headers could not be read.
    pub unparsed: u64,
}

/// `struct dns_event` without its payload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct DnsHead {
    /// `CLOCK_MONOTONIC`.
    pub time_ns: u64,
    /// The kernel side's id of the socket: the same for a query and its response. Not to be exported: it may be an address.
    pub socket: u64,
    /// cgroup v2 id; 0 if unknown.
    pub cgroup_id: u64,
    /// Inode number of the network namespace.
    pub netns: u32,
    /// Thread group of the process that sends or receives; 0 if unknown.
    pub pid: u32,
    /// Network byte order.
    pub local_addr: [u8; 16],
    /// Network byte order.
    pub remote_addr: [u8; 16],
    /// Host byte order.
    pub local_port: u16,
    /// Host byte order.
    pub remote_port: u16,
    /// [`AF_INET`](crate::abi::AF_INET) or [`AF_INET6`](crate::abi::AF_INET6).
    pub family: u16,
    /// [`DnsHead::SENT`] or [`DnsHead::RECEIVED`], as seen from this socket.
    pub direction: u8,
    /// [`DnsHead::CUT`], [`DnsHead::UNREAD`].
    pub flags: u8,
    /// Payload bytes of the datagram.
    pub payload_bytes: u32,
    /// Of these, bytes that were captured.
    pub captured_bytes: u32,
    /// Name of the process, NUL-padded.
    pub comm: [u8; 16],
}

impl DnsHead {
    /// `DNS_SENT`.
    pub const SENT: u8 = 1;
    /// `DNS_RECEIVED`.
    pub const RECEIVED: u8 = 2;
    /// `DNS_CUT`: the datagram is longer than what was captured.
    pub const CUT: u8 = 1;
    /// `DNS_UNREAD`: nothing was captured, because the payload is in page fragments.
    pub const UNREAD: u8 = 2;
}

/// A datagram from or to a DNS port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DnsDatagram<'a> {
    /// All but the payload.
    pub head: DnsHead,
    /// The payload's first bytes, 512 at most.
    pub payload: &'a [u8],
}

/// Bytes that are not a record of the programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid record from a ring of the UDP programs: {0} bytes")]
pub struct MalformedRecord(pub usize);

impl<'a> DnsDatagram<'a> {
    /// Reads a record of the ring.
    ///
    /// # Errors
    /// [`MalformedRecord`] if there are fewer bytes than the record says.
    pub fn read(bytes: &'a [u8]) -> Result<Self, MalformedRecord> {
        let malformed = MalformedRecord(bytes.len());
        let (head, rest) = bytes.split_at_checked(size_of::<DnsHead>()).ok_or(malformed)?;
        let head: DnsHead = bytemuck::pod_read_unaligned(head);
        let captured = usize::try_from(head.captured_bytes).map_err(|_| malformed)?;
        let payload = rest.get(..captured).ok_or(malformed)?;
        Ok(Self { head, payload })
    }
}

impl UdpTotals {
    fn with(&self, other: &Self, combine: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            sent: combine(self.sent, other.sent),
            received: combine(self.received, other.received),
            sent_datagrams: combine(self.sent_datagrams, other.sent_datagrams),
            received_datagrams: combine(self.received_datagrams, other.received_datagrams),
            dropped: combine(self.dropped, other.dropped),
            errors: combine(self.errors, other.errors),
        }
    }

    /// The sum.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        self.with(other, u64::wrapping_add)
    }

    /// The difference, which may wrap.
    #[must_use]
    pub(crate) fn minus(&self, other: &Self) -> Self {
        self.with(other, u64::wrapping_sub)
    }

    /// The difference; 0 where `other` is more.
    #[must_use]
    pub fn less(&self, other: &Self) -> Self {
        self.with(other, |all, part| {
            // A sum over CPUs that a datagram was taken out of can be below 0 for a moment.
            let rest = all.wrapping_sub(part).cast_signed();
            rest.max(0).cast_unsigned()
        })
    }

    /// Raises each to that of `other`, if that is more.
    pub(crate) fn raise_to(&mut self, other: &Self) {
        *self = self.with(other, u64::max);
    }
}

impl UdpSeen {
    /// The sum over all CPUs.
    pub(crate) fn sum(per_cpu: &[Self]) -> Self {
        per_cpu.iter().fold(Self::default(), |sum, cpu| Self {
            seen: sum.seen.plus(&cpu.seen),
            overflow: sum.overflow.plus(&cpu.overflow),
            closed_lost: sum.closed_lost + cpu.closed_lost,
            dns_lost: sum.dns_lost + cpu.dns_lost,
            dns_unread: sum.dns_unread + cpu.dns_unread,
            unparsed: sum.unparsed + cpu.unparsed,
        })
    }
}

// SAFETY: plain old data of fixed layout (`Pod`), read from the map byte by byte.
unsafe impl aya::Pod for UdpSeen {}

const _: () = assert!(size_of::<UdpKey>() == 32);
const _: () = assert!(size_of::<UdpTotals>() == 48);
const _: () = assert!(size_of::<UdpFlow>() == 168);
const _: () = assert!(offset_of!(UdpFlow, cookie) == 80);
const _: () = assert!(size_of::<UdpSeen>() == 128);
const _: () = assert!(size_of::<DnsHead>() == 96);
