/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * From a socket's running totals to differences that add up.
 *
 * The window's scan and a close may look at the same socket at the same moment, on two CPUs. Each moves the
 * remembered totals with an atomic exchange and reports the signed difference to what it found there: whatever the
 * order, the sum of what was reported is the value that was stored last. The close must then have the last word, or a
 * scan that read an older total could store it after the close and nobody would put it right. So the close sets
 * `closed` before it exchanges, and a scan that finds `closed` set after its own exchange reads and exchanges once
 * more: the totals of a closed socket stand still. (Exchanges that return a value order memory fully:
 * Documentation/bpf/standardization/instruction-set.rst, "Atomic operations".)
 */
#ifndef FLOWTAP_TOTALS_H
#define FLOWTAP_TOTALS_H

#include "socket_state.h"

/* A socket's totals at one moment. */
struct totals {
	__u64 sent;
	__u64 received;
	__u32 sent_segments;
	__u32 received_segments;
	__u32 retransmits;
};

/* Differences between two moments. */
struct differences {
	__s64 sent;
	__s64 received;
	__s32 sent_segments;
	__s32 received_segments;
	__s32 retransmits;
};

/* bytes_sent counts a retransmission again; bytes_received counts the FIN as one byte. */
static __always_inline void read_totals(struct totals *now, struct sock *sk, struct tcp_sock *tcp)
{
	now->sent = FIELD(tcp, bytes_sent) - FIELD(tcp, bytes_retrans);
	now->received = FIELD(tcp, bytes_received) - !!(FIELD(sk, __sk_common.skc_flags) & SOCK_DONE_BIT);
	now->sent_segments = FIELD(tcp, segs_out);
	now->received_segments = FIELD(tcp, segs_in);
	now->retransmits = FIELD(tcp, total_retrans);
}

static __always_inline bool totals_moved(const struct totals *now, const struct socket_state *state)
{
	return now->sent != state->sent || now->received != state->received || now->retransmits != state->retransmits;
}

/* Moves the remembered totals to `now` and adds what that changed to `sum`. */
static __always_inline void move_totals(struct differences *sum, struct socket_state *state, const struct totals *now)
{
	sum->sent += (__s64)(now->sent - __sync_lock_test_and_set(&state->sent, now->sent));
	sum->received += (__s64)(now->received - __sync_lock_test_and_set(&state->received, now->received));
	sum->sent_segments +=
		(__s32)(now->sent_segments - __sync_lock_test_and_set(&state->sent_segments, now->sent_segments));
	sum->received_segments += (__s32)(now->received_segments - __sync_lock_test_and_set(&state->received_segments,
											    now->received_segments));
	sum->retransmits +=
		(__s32)(now->retransmits - __sync_lock_test_and_set(&state->retransmits, now->retransmits));
}

#endif
