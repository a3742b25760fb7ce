/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * A socket's totals, and differences of them that add up.
 *
 * Bytes sent are counted by sequence number: bytes_acked + (snd_nxt - snd_una), less the FIN.
 * bytes_sent would count a segment again each time that this machine itself drops it on its way out
 * (a full queue, netfilter, a tc program): __tcp_transmit_skb() adds to bytes_sent before it passes
 * the segment on, and a segment that was not accepted stays unsent (net/ipv4/tcp_output.c,
 * tcp_write_xmit()). It is not a retransmission either, so bytes_retrans does not have it.
 *
 * The SYN takes one more sequence number at the end that opened actively: tcp_connect() begins with
 * snd_una at it, while an accepted socket begins after it (tcp_create_openreq_child()). Reported
 * totals start from there (count_from_opening()).
 *
 * The window's scan and a close may look at the same socket at the same moment, on two CPUs. Each moves what was
 * reported with an atomic exchange and reports the signed difference to what it found there: whatever the order, the
 * sum of what was reported is the value that was stored last. The close must then have the last word, or a scan that
 * read an older total could store it after the close and nobody would put it right. So the close leaves its totals to
 * the scan (`final_totals`) and sets MARK_CLOSED before it exchanges, and a scan that finds the mark after its own
 * exchange exchanges once more, for those. It does not read the socket again: tcp_disconnect() zeroes the totals of a
 * closed one. (Exchanges and fetching operations order memory fully:
 * Documentation/bpf/standardization/instruction-set.rst, "Atomic operations".)
 *
 * There is one scan at a time, at one socket at a time. So final totals need no place in every socket's state: the
 * scan announces its socket, then looks for MARK_CLOSING; the close sets MARK_CLOSING, then looks which socket the
 * scan is at. Either the scan sees that the close has begun, and leaves the socket to it, or the close sees the scan.
 */
#ifndef FLOWTAP_TOTALS_H
#define FLOWTAP_TOTALS_H

#include "socket_state.h"

/* Differences between two moments. */
struct delta {
	__s64 sent;
	__s64 received;
	__s32 sent_segments;
	__s32 received_segments;
	__s32 retransmits;
	__s32 out_of_order;
	__s32 lost;
	__s32 ecn_ce;
	__s32 elapsed;
	__s32 busy;
	__s32 rwnd_limited;
	__s32 sndbuf_limited;
	__s32 rto_ms;
	__u32 chrono; /* enum tcp_chrono: of this moment */
};

/* Sequence numbers transmitted, including SYN and FIN if they were sent. The acknowledged number is
 * read first: a segment that is acknowledged meanwhile then counts too late rather than twice. */
static __always_inline __u64 read_sequence(struct tcp_sock *tcp)
{
	__u64 acked = FIELD(tcp, bytes_acked);

	barrier();
	return acked + (__s32)(FIELD(tcp, snd_nxt) - FIELD(tcp, snd_una));
}

/* Whether the FIN is among the sequence numbers transmitted: it is the last one of all (tcp_send_fin()). */
static __always_inline bool is_fin_sent(struct sock *sk, struct tcp_sock *tcp)
{
	__u32 queued = 1 << TCP_FIN_WAIT1 | 1 << TCP_FIN_WAIT2 | 1 << TCP_CLOSING | 1 << TCP_LAST_ACK;

	return (1 << (FIELD(sk, __sk_common.skc_state) & 31)) & queued &&
	       FIELD(tcp, snd_nxt) == FIELD(tcp, write_seq);
}

/* bytes_received counts the FIN as one byte. */
static __always_inline __u64 read_received(struct sock *sk, struct tcp_sock *tcp)
{
	return FIELD(tcp, bytes_received) - !!(FIELD(sk, __sk_common.skc_flags) & SOCK_DONE_MASK);
}

/* Returns the reason that a socket with data to send waits: enum tcp_chrono; 0 if it has no data. It stands on a
 * cache line that read_sequence() looks at. */
static __always_inline __u8 chrono_type(struct tcp_sock *tcp)
{
	return BPF_CORE_READ_BITFIELD_PROBED(tcp, chrono_type);
}

/*
 * TCP's chronograph (include/linux/tcp.h, enum tcp_chrono), with the episode that is under way. TCP adds an episode
 * to its sum when it ends; if that happens while the parts are read, they are read again.
 */
static __always_inline void read_chronograph(struct totals *now, struct tcp_sock *tcp, __u8 type)
{
	__u32 running = 0;

	for (int reads = 0; reads < 3; reads++) {
		__u32 start = FIELD(tcp, chrono_start);

		barrier();
		now->busy = FIELD(tcp, chrono_stat[0]);
		now->rwnd_limited = FIELD(tcp, chrono_stat[1]);
		now->sndbuf_limited = FIELD(tcp, chrono_stat[2]);
		now->clock = bpf_jiffies64();
		barrier();
		running = now->clock - start;
		if (start == FIELD(tcp, chrono_start))
			break;
		type = chrono_type(tcp);
	}
	if (type == TCP_CHRONO_BUSY)
		now->busy += running;
	else if (type == TCP_CHRONO_RWND_LIMITED)
		now->rwnd_limited += running;
	else if (type == TCP_CHRONO_SNDBUF_LIMITED)
		now->sndbuf_limited += running;
	now->chrono = type;
}

/* Time spent in retransmission time-outs, with the one that is under way: in milliseconds, from Linux 6.7 on. */
static __always_inline __u32 read_rto_ms(struct tcp_sock *tcp)
{
	__u32 stamp, total;

	if (!bpf_core_field_exists(tcp->total_rto_time))
		return 0;
	stamp = FIELD(tcp, rto_stamp);
	barrier();
	total = FIELD(tcp, total_rto_time);
	return stamp ? total + (__u32)(bpf_ktime_get_ns() / 1000000) - stamp : total;
}

/* The totals that do not make a socket a changed one; `type` is chrono_type(). */
static __always_inline void read_details(struct totals *now, struct tcp_sock *tcp, __u8 type)
{
	read_chronograph(now, tcp, type);
	now->rto_ms = read_rto_ms(tcp);
	now->out_of_order = FIELD(tcp, rcv_ooopack);
	now->lost = FIELD(tcp, lost);
	now->ecn_ce = FIELD(tcp, delivered_ce);
}

/* The totals that make a socket a changed one. */
static __always_inline void read_totals(struct totals *now, struct sock *sk, struct tcp_sock *tcp)
{
	now->sent = read_sequence(tcp) - is_fin_sent(sk, tcp);
	now->received = read_received(sk, tcp);
	now->sent_segments = FIELD(tcp, segs_out);
	now->received_segments = FIELD(tcp, segs_in);
	now->retransmits = FIELD(tcp, total_retrans);
}

/* Sequence numbers of the SYN and the FIN, where the connection sent them: what bytes_sent less bytes_retrans lacks,
 * unless this machine dropped segments on their way out. */
static __always_inline __s64 read_flags_sent(struct tcp_sock *tcp)
{
	return (__s64)read_sequence(tcp) - (__s64)(FIELD(tcp, bytes_sent) - FIELD(tcp, bytes_retrans));
}

/* Whether a closed connection sent a FIN, which its state shows no longer. Where this machine dropped segments a
 * close without an error is taken for one with a FIN. */
static __always_inline bool was_fin_sent(struct sock *sk, struct tcp_sock *tcp, __u8 role)
{
	__s64 flags = read_flags_sent(tcp) - (role == ROLE_CLIENT);

	return flags == 0 || flags == 1 ? flags : !FIELD(sk, sk_err);
}

/* Whether tcp_disconnect() has zeroed the totals of a connection, and its addresses. */
static __always_inline bool is_disconnected(struct sock *sk, struct tcp_sock *tcp, const struct socket_state *state)
{
	return !FIELD(sk, __sk_common.skc_dport) || (__s32)(FIELD(tcp, segs_out) - state->reported.sent_segments) < 0;
}

/* The same of a socket whose close was missed (destroy.h): its state no longer shows whether a FIN was sent. */
static __always_inline void read_closed_totals(struct totals *now, struct sock *sk, struct tcp_sock *tcp, __u8 role)
{
	read_totals(now, sk, tcp);
	now->sent -= was_fin_sent(sk, tcp, role);
}

static __always_inline bool has_moved(const struct totals *now, const struct totals *reported)
{
	return now->sent != reported->sent || now->received != reported->received ||
	       now->retransmits != reported->retransmits;
}

/* First byte of a connection whose handshake was seen, set at the end of the handshake: after the SYN of the end that
 * opened. A socket under TCP_REPAIR has sent none. */
static __always_inline void count_from_opening(struct socket_state *state, struct tcp_sock *tcp)
{
	if (state->role == ROLE_CLIENT && !(state->marks & MARK_ADOPTED))
		state->reported.sent = read_sequence(tcp) > 0;
}

/*
 * The end that opened a connection whose handshake was not seen: the sequence numbers of the opener
 * include the SYN in addition to the bytes, while bytes_sent - bytes_retrans does not. Where this
 * machine dropped segments on their way out that is too large, and the role stays unknown. Read
 * until two reads are equal, as the socket may be in use.
 */
static __always_inline __u8 role_by_counters(struct sock *sk, struct tcp_sock *tcp)
{
	__s64 before = -1;

	for (int reads = 0; reads < 4; reads++) {
		__s64 sequence = read_sequence(tcp) - is_fin_sent(sk, tcp);
		__s64 surplus = sequence - (__s64)(FIELD(tcp, bytes_sent) - FIELD(tcp, bytes_retrans));

		if (sequence == before && sequence == (__s64)read_sequence(tcp) - is_fin_sent(sk, tcp)) {
			if (surplus == 1)
				return ROLE_CLIENT;
			return surplus == 0 ? ROLE_SERVER : ROLE_UNKNOWN;
		}
		before = sequence;
	}
	return ROLE_UNKNOWN;
}

/* The clocks count from the moment at which a connection is established. */
static __always_inline void begin_times(struct totals *reported, const struct totals *now)
{
	reported->clock = now->clock;
	reported->busy = now->busy;
	reported->rwnd_limited = now->rwnd_limited;
	reported->sndbuf_limited = now->sndbuf_limited;
	reported->rto_ms = now->rto_ms;
}

/* Moves one total of 32 bits and adds what that changed. */
#define MOVE(sum_, total_) ((sum_) += (__s32)(now->total_ - __sync_lock_test_and_set(&reported->total_, now->total_)))

/* The same of one that changes seldom: an exchange costs more than a look. A value that another CPU stores
 * between the two is the close's, and stays.
 *
 * The difference is added in any case, from the same register: where the sum itself differed, Linux 6.1's verifier
 * took each combination of sums for a separate state, and gave up at a million instructions. */
#define MOVE_SELDOM(sum_, total_)                                                                                    \
	do {                                                                                                         \
		__s32 moved_ = 0;                                                                                    \
                                                                                                                     \
		if (now->total_ != *(volatile __u32 *)&reported->total_)                                             \
			MOVE(moved_, total_);                                                                        \
		barrier_var(moved_);                                                                                 \
		(sum_) += moved_;                                                                                    \
	} while (0)

/* Moves what was reported of the details to `now` and adds what that changed to `sum`. */
static __always_inline void move_details(struct delta *sum, struct totals *reported, const struct totals *now)
{
	MOVE_SELDOM(sum->out_of_order, out_of_order);
	MOVE_SELDOM(sum->lost, lost);
	MOVE_SELDOM(sum->ecn_ce, ecn_ce);
	MOVE(sum->elapsed, clock);
	MOVE(sum->busy, busy);
	MOVE_SELDOM(sum->rwnd_limited, rwnd_limited);
	MOVE_SELDOM(sum->sndbuf_limited, sndbuf_limited);
	MOVE_SELDOM(sum->rto_ms, rto_ms);
	sum->chrono = now->chrono;
}

/* The same of everything. */
static __always_inline void move_totals(struct delta *sum, struct totals *reported, const struct totals *now)
{
	sum->sent += (__s64)(now->sent - __sync_lock_test_and_set(&reported->sent, now->sent));
	sum->received += (__s64)(now->received - __sync_lock_test_and_set(&reported->received, now->received));
	MOVE(sum->sent_segments, sent_segments);
	MOVE(sum->received_segments, received_segments);
	MOVE(sum->retransmits, retransmits);
	move_details(sum, reported, now);
}

#endif
