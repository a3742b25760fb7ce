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
 * read an older total could store it after the close and nobody would put it right. So the close stores its totals in
 * `last` and sets MARK_CLOSED before it exchanges, and a scan that finds the mark after its own exchange exchanges
 * once more, for `last`. It does not read the socket again: tcp_disconnect() zeroes the totals of a closed one.
 * (Exchanges and fetching operations order memory fully: Documentation/bpf/standardization/instruction-set.rst,
 * "Atomic operations".)
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

static __always_inline void read_totals(struct totals *now, struct sock *sk, struct tcp_sock *tcp)
{
	now->sent = read_sequence(tcp) - is_fin_sent(sk, tcp);
	now->received = read_received(sk, tcp);
	now->sent_segments = FIELD(tcp, segs_out);
	now->received_segments = FIELD(tcp, segs_in);
	now->retransmits = FIELD(tcp, total_retrans);
	now->pad = 0;
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

/* Moves what was reported to `now` and adds what that changed to `sum`. */
static __always_inline void move_totals(struct delta *sum, struct totals *reported, const struct totals *now)
{
	sum->sent += (__s64)(now->sent - __sync_lock_test_and_set(&reported->sent, now->sent));
	sum->received += (__s64)(now->received - __sync_lock_test_and_set(&reported->received, now->received));
	sum->sent_segments +=
		(__s32)(now->sent_segments - __sync_lock_test_and_set(&reported->sent_segments, now->sent_segments));
	sum->received_segments +=
		(__s32)(now->received_segments -
			__sync_lock_test_and_set(&reported->received_segments, now->received_segments));
	sum->retransmits +=
		(__s32)(now->retransmits - __sync_lock_test_and_set(&reported->retransmits, now->retransmits));
}

#endif
