//! Payload bytes and the role of a socket, from the kernel's counters of it.
//!
//! `tcpi_bytes_sent` counts every attempt to transmit. A segment that this machine drops on its way out (a full queueing
//! discipline, netfilter in the output hook, BPF at egress) stays unsent and is counted again when it is sent, and
//! `tcpi_bytes_retrans` does not have it. So bytes are taken from the sequence space instead:
//!
//! ```text
//! snd_nxt - iss = tcpi_bytes_acked + (write_seq - snd_una) - (write_seq - snd_nxt)
//!               = tcpi_bytes_acked + idiag_wqueue          - tcpi_notsent_bytes
//!               = SYN + payload + FIN
//! ```
//!
//! The SYN is in it at the end that connected and not at the end that accepted: `tcpi_bytes_acked` begins at 0 in both, and
//! the SYN of an accepted connection was acknowledged before its socket existed. As long as nothing was dropped locally, the
//! payload is also `tcpi_bytes_sent - tcpi_bytes_retrans`, and the difference of the two shows which end this is.

use flowtap_pipeline::{Chronograph, Queues, Role, SenderState};
use netlink_packet_sock_diag::constants::{
    TCP_CLOSE_WAIT, TCP_CLOSING, TCP_FIN_WAIT1, TCP_FIN_WAIT2, TCP_LAST_ACK,
};

/// Counters of one socket: `struct tcp_info`, and both queues of `struct inet_diag_msg`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counters {
    /// TCP state.
    pub(super) state: u8,
    /// Acknowledged sequence numbers, with SYN and FIN.
    pub(super) acked: u64,
    /// Payload bytes of all attempts to transmit, less those of retransmissions.
    pub(super) transmitted: u64,
    /// Received sequence numbers, with the FIN.
    pub(super) received: u64,
    /// Segments sent and not yet acknowledged. The kernel reads it with `acked` under one lock.
    pub(super) in_flight: u32,
    /// `write_seq - snd_una`. The kernel reads it before it takes the lock.
    pub(super) queued: u32,
    /// `write_seq - snd_nxt`.
    pub(super) unsent: u32,
    /// `rcv_nxt - copied_seq`.
    pub(super) unread: u32,
    /// Segments received that carried payload.
    pub(super) data_segments_received: u32,
    /// Segments that reached the peer; 0 if the connection was never established.
    pub(super) delivered: u32,
    /// Milliseconds since the last acknowledgment came in; since the kernel's clock stood at 0 if there was none.
    pub(super) last_ack_ms: u32,
    /// Milliseconds since the last payload came in, likewise.
    pub(super) last_data_ms: u32,
    /// Milliseconds since payload was sent last, or the connection began if there was none; likewise.
    pub(super) last_sent_ms: u32,
    pub(super) segments_sent: u32,
    pub(super) segments_received: u32,
    pub(super) retransmits: u32,
    pub(super) rtt_us: u32,
    pub(super) min_rtt_us: u32,
    pub(super) cwnd: u32,
    /// Microseconds in which something was in flight or waited to be sent; the next two are part of it.
    pub(super) busy_us: u64,
    /// Microseconds in which the peer's window was full.
    pub(super) rwnd_limited_us: u64,
    /// Microseconds in which the send buffer was full.
    pub(super) sndbuf_limited_us: u64,
    /// Milliseconds in retransmission time-outs; 0 before Linux 6.7.
    pub(super) rto_ms: u32,
    /// Segments received ahead of a gap; 0 before Linux 5.4.
    pub(super) out_of_order: u32,
    /// Segments acknowledged with a congestion mark.
    pub(super) ecn_ce: u32,
    /// TCP reacts to loss or congestion.
    pub(super) is_recovering: bool,
    /// The last rate sample is of an application that had no more to send.
    pub(super) is_application_limited: bool,
}

/// `TCP_CA_CWR` of `enum tcp_ca_state`: from here on TCP reacts to loss or congestion.
const TCP_CA_CWR: u8 = 2;

/// The clocks of a socket, as they were reported last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Clocks {
    busy_us: u64,
    rwnd_limited_us: u64,
    sndbuf_limited_us: u64,
    pub(super) rto_ms: u32,
}

/// A field that `struct tcp_info` has had for a shorter time than the others; 0 where it has not.
fn newer_field(info: &[u8], offset: usize) -> u32 {
    let field = info.get(offset..).and_then(<[u8]>::first_chunk).copied();
    field.map_or(0, u32::from_ne_bytes)
}

/// Payload bytes of a socket since it exists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Payload {
    pub(super) sent: u64,
    pub(super) received: u64,
}

/// The last counters of a socket that was open, and the payload that they stood for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Before<'a> {
    pub(super) counters: &'a Counters,
    pub(super) payload: Payload,
}

impl Counters {
    /// Reads `struct tcp_info` (`include/uapi/linux/tcp.h`), which only ever grows at its end, and both queues; `None` for
    /// a kernel before Linux 4.19, which brought `tcpi_bytes_retrans`.
    pub(super) fn read(info: &[u8], unread: u32, queued: u32) -> Option<Self> {
        let (all, info) = (info, TcpInfo(info.first_chunk()?));
        Some(Self {
            state: info.0[0],
            acked: info.u64_at(120),
            // The kernel updates both under the socket's lock, and reads them under it.
            transmitted: info.u64_at(200).wrapping_sub(info.u64_at(208)),
            received: info.u64_at(128),
            in_flight: info.u32_at(24),
            queued,
            unsent: info.u32_at(144),
            unread,
            data_segments_received: info.u32_at(152),
            delivered: info.u32_at(192),
            last_ack_ms: info.u32_at(56),
            last_data_ms: info.u32_at(52),
            last_sent_ms: info.u32_at(44),
            segments_sent: info.u32_at(136),
            segments_received: info.u32_at(140),
            retransmits: info.u32_at(100),
            rtt_us: info.u32_at(68),
            // The kernel's minimum filter begins at its greatest value.
            min_rtt_us: Some(info.u32_at(148)).filter(|&rtt| rtt != u32::MAX).unwrap_or(0),
            cwnd: info.u32_at(80),
            busy_us: info.u64_at(168),
            rwnd_limited_us: info.u64_at(176),
            sndbuf_limited_us: info.u64_at(184),
            rto_ms: newer_field(all, 244),
            out_of_order: newer_field(all, 224),
            ecn_ce: info.u32_at(196),
            is_recovering: info.0[1] >= TCP_CA_CWR,
            is_application_limited: info.0[7] & 1 != 0,
        })
    }

    /// Returns the kernel's clocks and the time since `before`, which was read `elapsed_us` ago. The time before a first read is
    /// not known: it is at least what the clocks show.
    pub(super) fn clocks_since(&self, before: &Clocks, elapsed_us: Option<i64>) -> Chronograph {
        let since = |now: u64, before: u64| now.cast_signed().wrapping_sub(before.cast_signed());
        let busy_us = since(self.busy_us, before.busy_us);
        let rwnd_limited_us = since(self.rwnd_limited_us, before.rwnd_limited_us);
        let sndbuf_limited_us = since(self.sndbuf_limited_us, before.sndbuf_limited_us);
        Chronograph {
            elapsed_us: elapsed_us.unwrap_or(busy_us),
            busy_us: busy_us - rwnd_limited_us - sndbuf_limited_us,
            rwnd_limited_us,
            sndbuf_limited_us,
        }
    }

    /// The clocks as they stand.
    pub(super) const fn clocks(&self) -> Clocks {
        Clocks {
            busy_us: self.busy_us,
            rwnd_limited_us: self.rwnd_limited_us,
            sndbuf_limited_us: self.sndbuf_limited_us,
            rto_ms: self.rto_ms,
        }
    }

    /// Returns the state that decides which limit the busy time counts for.
    pub(super) const fn sender_state(&self) -> SenderState {
        SenderState {
            has_unsent: self.unsent > 0,
            is_recovering: self.is_recovering,
            is_application_limited: self.is_application_limited,
        }
    }

    /// Bytes that are queued.
    pub(super) const fn queues(&self) -> Queues {
        Queues {
            unsent: self.unsent,
            unacked: self.queued.saturating_sub(self.unsent),
            unread: self.unread,
        }
    }

    /// Segments sent, received and retransmitted.
    pub(super) const fn segments(&self) -> (u32, u32, u32) {
        (self.segments_sent, self.segments_received, self.retransmits)
    }

    /// Whether the connection was ever established. A listener, a socket that never connected, and a connect that failed
    /// have nothing that reached a peer.
    pub(super) const fn was_established(&self) -> bool {
        self.delivered > 0 || self.acked > 0 || self.received > 0
    }

    /// Whether a socket whose counters have been cleared was connected before. That clears the time of the last payload that came
    /// in, but neither that of the last acknowledgment nor that of the last payload that was sent. A server with TCP Fast Open may
    /// have had no acknowledgment.
    pub(super) const fn was_connected(&self) -> bool {
        self.last_ack_ms != self.last_data_ms || self.last_sent_ms != self.last_data_ms
    }

    /// Milliseconds since the last sign of life of the connection; since the kernel's clock stood at 0 if there was none.
    pub(super) fn last_active_ms(&self) -> u32 {
        self.last_ack_ms.min(self.last_sent_ms)
    }

    /// The role of an open socket, where its counters show it: the SYN is what the sequence space has more than the payload.
    pub(super) fn role(&self) -> Option<Role> {
        role_of(self.sequence().checked_sub(self.transmitted + self.fin_sent())?)
    }

    /// Payload bytes of an open socket. Never more than the application wrote.
    pub(super) fn payload(&self, role: Role) -> Payload {
        // CLOSE_WAIT, LAST_ACK, CLOSING: the peer's FIN has come in.
        let fin = matches!(self.state, TCP_CLOSE_WAIT | TCP_LAST_ACK | TCP_CLOSING);
        Payload {
            sent: self.sent(role),
            received: self.received.saturating_sub(u64::from(fin)),
        }
    }

    fn sent(&self, role: Role) -> u64 {
        let (syn, fin) = (syn_of(role), self.fin_sent());
        if self.in_flight == 0 {
            return self.acked.saturating_sub(syn + fin);
        }
        // `queued` may be older than `acked`, for acknowledgments came in between: then the sum is too high. `transmitted` is
        // too high after a local drop. Where the two agree, neither happened. Else what is acknowledged counts, and what is
        // in flight with a later dump, or at the close.
        if self.sequence() == self.transmitted.wrapping_add(syn + fin) {
            self.transmitted
        } else {
            self.acked.saturating_sub(syn)
        }
    }

    /// Payload bytes and the role of a socket that has closed. `role` is what is known or guessed without these counters;
    /// `before` is what the last dump had; `time_wait` is whether the kernel keeps the connection in `TIME_WAIT`.
    ///
    /// Nothing of a dead socket moves, so the sequence space is exact. The one thing that it does not show is whether a FIN
    /// is part of it, in each direction: see [`Counters::payload_received`] for the received one.
    pub(super) fn at_close(
        &self,
        role: Role,
        before: Option<Before<'_>>,
        time_wait: bool,
    ) -> (Payload, Option<Role>) {
        let surplus = self.sequence().checked_sub(self.transmitted);
        // Orderly, unless the counters show otherwise: the peer has acknowledged all there was.
        let orderly = time_wait || self.queued == 0;
        let decided = before.is_some() && role != Role::Unknown;
        let (shown, fin) = match surplus {
            _ if decided => {
                let fin = surplus.and_then(|surplus| surplus.checked_sub(syn_of(role)));
                (None, fin.filter(|&fin| fin <= 1).map_or(orderly, |fin| fin == 1))
            }
            Some(0) => (Some(Role::Server), false),
            // Either the SYN or the FIN: who is in TIME_WAIT has sent a FIN.
            Some(1) if time_wait => (Some(Role::Server), true),
            Some(1) if role == Role::Unknown => (None, orderly),
            Some(1) => (None, role == Role::Server),
            Some(2) => (Some(Role::Client), true),
            // Dropped on the way out.
            _ => (None, orderly),
        };
        let sent = match surplus {
            Some(0..=2) if !decided => self.transmitted,
            _ => self.sequence().saturating_sub(syn_of(role) + u64::from(fin)),
        };
        let payload = Payload {
            sent,
            received: self.payload_received(fin, before, time_wait),
        };
        (payload, shown)
    }

    /// Payload bytes received by a socket that has closed. Its state is CLOSE, so whether the peer's FIN counts is
    /// concluded:
    ///
    /// 1. No segment with payload came since the last dump (or ever): nothing was received.
    /// 2. The last dump showed the FIN.
    /// 3. An orderly close, and something is unread: it came after the application had closed, and only a FIN can.
    /// 4. An orderly close, and all is read: if the connection is in `TIME_WAIT`, this end closed first, and its socket was gone
    ///    before the peer's FIN came; else the peer closed first. (Wrong by one byte for an application that shuts down its
    ///    side, reads the end of the stream, and closes within an interval.)
    /// 5. A reset: none, unless just one byte is unread.
    fn payload_received(&self, fin_sent: bool, before: Option<Before<'_>>, time_wait: bool) -> u64 {
        let (segments, payload) = before.map_or((0, 0), |before| {
            (before.counters.data_segments_received, before.payload.received)
        });
        if self.data_segments_received == segments {
            return payload;
        }
        let shown = before.is_some_and(|before| {
            matches!(before.counters.state, TCP_CLOSE_WAIT | TCP_LAST_ACK | TCP_CLOSING)
        });
        let fin = shown
            || if fin_sent {
                self.unread > 0 || !time_wait
            } else {
                self.unread == 1
            };
        self.received.saturating_sub(u64::from(fin))
    }

    /// `snd_nxt - iss`, in 64 bits.
    const fn sequence(&self) -> u64 {
        self.acked
            .wrapping_add(self.queued as u64)
            .wrapping_sub(self.unsent as u64)
    }

    /// 1 if the FIN of an open socket has been sent. It is the last that is queued.
    fn fin_sent(&self) -> u64 {
        match self.state {
            TCP_FIN_WAIT2 => 1,
            TCP_FIN_WAIT1 | TCP_CLOSING | TCP_LAST_ACK => u64::from(self.unsent == 0),
            _ => 0,
        }
    }
}

const fn role_of(surplus: u64) -> Option<Role> {
    match surplus {
        0 => Some(Role::Server),
        1 => Some(Role::Client),
        _ => None,
    }
}

/// The SYN in the sequence space of a socket in this role. An unknown one is most likely a client's: a server has a listener.
fn syn_of(role: Role) -> u64 {
    u64::from(role != Role::Server)
}

/// `struct tcp_info` up to and with `tcpi_bytes_retrans`: fields by their offsets.
struct TcpInfo<'a>(&'a [u8; 216]);

impl TcpInfo<'_> {
    fn u32_at(&self, offset: usize) -> u32 {
        let field = self.0.get(offset..).and_then(<[u8]>::first_chunk).copied();
        field.map_or(0, u32::from_ne_bytes)
    }

    fn u64_at(&self, offset: usize) -> u64 {
        let field = self.0.get(offset..).and_then(<[u8]>::first_chunk).copied();
        field.map_or(0, u64::from_ne_bytes)
    }
}
