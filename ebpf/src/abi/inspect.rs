//! The option `inspect`: records and map values (`bpf/inspect_abi.h`).

use std::mem::size_of;

use bytemuck::{Pod, Zeroable};

/// `FIRST_BYTES`: most bytes of each direction that are handed over.
pub const FIRST_BYTES: usize = 4096;

/// `UNKNOWN_TURN`: of an exchange whose connection was there before the programs were attached.
pub const UNKNOWN_TURN: u8 = 255;

/// `enum inspect_wants`.
pub(crate) const WANT_FIRST_BYTES: u32 = 1;
pub(crate) const WANT_EXCHANGES: u32 = 1 << 1;
pub(crate) const WANT_TRANSLATIONS: u32 = 1 << 2;

/// `FIRST_SENT` of `enum first_direction`.
const FIRST_SENT: u8 = 1;

/// `struct inspect_control`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct InspectControl {
    pub(crate) epoch: u32,
    pub(crate) wants: u32,
}

/// `struct exchange_event`: an answer has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct ExchangeEvent {
    /// The socket's cookie.
    pub cookie: u64,
    /// From the last segment of the request to the first one of the answer, in µs.
    pub duration_us: u32,
    /// Of this machine's end: 1 client, 2 server.
    pub role: u8,
    /// Exchanges of the connection before this one, or [`UNKNOWN_TURN`].
    pub turn: u8,
    /// Zero.
    pub pad: [u8; 2],
}

/// `struct first_bytes`, without what follows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct FirstBytesHead {
    pub(crate) cookie: u64,
    pub(crate) offset: u32,
    pub(crate) skip: u16,
    pub(crate) captured: u16,
    pub(crate) direction: u8,
    pub(crate) role: u8,
    pub(crate) pad: [u8; 6],
}

/// A segment from the beginning of a connection. The copy of its payload is wiped after it has been shown.
#[derive(Clone, Copy)]
pub struct FirstBytes<'a> {
    /// The socket's cookie.
    pub cookie: u64,
    /// Of this machine's end: 1 client, 2 server, 0 unknown.
    pub role: u8,
    /// Whether this machine sent it.
    pub is_sent: bool,
    /// Of its first byte in the stream.
    pub offset: u32,
    /// Its first bytes.
    pub payload: &'a [u8],
}

impl std::fmt::Debug for FirstBytes<'_> {
    // Payload must not come into a log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FirstBytes")
            .field("cookie", &self.cookie)
            .field("offset", &self.offset)
            .field("bytes", &self.payload.len())
            .finish_non_exhaustive()
    }
}

impl<'a> FirstBytes<'a> {
    /// Reads a record of the perf buffer; `None` if it is cut short.
    pub(crate) fn read(bytes: &'a [u8]) -> Option<Self> {
        let (head, rest) = bytes.split_at_checked(size_of::<FirstBytesHead>())?;
        let head: FirstBytesHead = bytemuck::try_pod_read_unaligned(head).ok()?;
        let payload = rest
            .get(usize::from(head.skip)..)?
            .get(..usize::from(head.captured))?;
        Some(Self {
            cookie: head.cookie,
            role: head.role,
            is_sent: head.direction == FIRST_SENT,
            offset: head.offset,
            payload,
        })
    }
}

/// `struct inspect_seen`: what the programs did, of one CPU or of all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct InspectSeen {
    /// Runs of the programs.
    pub runs: u64,
    /// Those of which the time was taken.
    pub timed_runs: u64,
    /// That time.
    pub timed_ns: u64,
    /// Segments handed over.
    pub handed_over: u64,
    /// Exchanges reported.
    pub exchanges: u64,
    /// Exchanges without room in the ring.
    pub exchanges_lost: u64,
    /// Segments without room in the buffer.
    pub first_bytes_lost: u64,
    /// Segments of sockets that got no storage.
    pub untracked: u64,
    /// Connections whose exchanges are not counted, as neither end is known to have opened them.
    pub unknown_roles: u64,
    /// Exchanges of whose beginning or end no field of the socket has the time.
    pub exchanges_untimed: u64,
    /// Exchanges that took longer than [`ExchangeEvent::duration_us`] holds.
    pub exchanges_too_long: u64,
    /// Looks that found addresses on the wire, without room in the ring.
    pub translations_lost: u64,
}

impl InspectSeen {
    /// The sum over CPUs.
    pub(crate) fn sum(per_cpu: &[Self]) -> Self {
        let mut total = Self::default();
        for seen in per_cpu {
            total.runs += seen.runs;
            total.timed_runs += seen.timed_runs;
            total.timed_ns += seen.timed_ns;
            total.handed_over += seen.handed_over;
            total.exchanges += seen.exchanges;
            total.exchanges_lost += seen.exchanges_lost;
            total.first_bytes_lost += seen.first_bytes_lost;
            total.untracked += seen.untracked;
            total.unknown_roles += seen.unknown_roles;
            total.exchanges_untimed += seen.exchanges_untimed;
            total.exchanges_too_long += seen.exchanges_too_long;
            total.translations_lost += seen.translations_lost;
        }
        total
    }
}

// SAFETY: plain old data of fixed layout (`Pod`), read from and written to maps byte by byte.
unsafe impl aya::Pod for InspectControl {}
// SAFETY: as above.
unsafe impl aya::Pod for InspectSeen {}

const _: () = {
    assert!(size_of::<InspectControl>() == 8);
    assert!(size_of::<ExchangeEvent>() == 16);
    assert!(size_of::<FirstBytesHead>() == 24);
    assert!(size_of::<InspectSeen>() == 96);
};
