/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Changes at which the kernel skipped every program, where tracepoints are preemptible (ADR 58): found when the
 * socket is destroyed, from the tracepoint tcp:tcp_destroy_sock.
 *
 * inet_csk_destroy_sock() is called with softirqs disabled, so that no thread is preempted in the program there and
 * none finds the CPU inside it: the program is run for each socket. By then the socket is in the state CLOSE, and has
 * its counters and addresses as at the change to it.
 */
#ifndef FLOWTAP_DESTROY_H
#define FLOWTAP_DESTROY_H

#include "state.h"

/* Jiffies at the beginning of the first walk over open sockets; 0: not yet. */
__u32 adoption_began = 0;

static __always_inline void note_adoption(void)
{
	if (!adoption_began)
		adoption_began = (__u32)bpf_jiffies64() | 1;
}

/* Whether a connection has exchanged data since the open ones were adopted. A reload does not adopt them again. */
static __always_inline bool has_moved_since_adoption(struct tcp_sock *tcp)
{
	struct inet_connection_sock *connection = (struct inet_connection_sock *)tcp;
	__u32 began = adoption_began;

	if (!began)
		return generation > 1;
	return (__s32)(FIELD(tcp, lsndtime) - began) >= 0 ||
	       (__s32)(FIELD(connection, icsk_ack.lrcvtime) - began) >= 0;
}

/*
 * Whether a connection that has no state was opened since the programs were attached. Those that were open before
 * have been adopted by the files of processes; a connection without a file in another network namespace has not, such
 * as the kernel's own, or one that its process has closed and that waits for its end. Whose state found no room has
 * been counted.
 */
static __always_inline bool is_opening_missed(struct sock *sk, struct tcp_sock *tcp)
{
	return has_storage && !has_untracked && was_established(tcp) &&
	       !BPF_CORE_READ_BITFIELD_PROBED(sk, sk_kern_sock) && has_moved_since_adoption(tcp);
}

/* State of a connection whose opening was missed: counted from its first byte on. */
static __always_inline struct socket_state *track_missed(struct sock *sk, struct tcp_sock *tcp, __u8 role)
{
	struct socket_state *state = track(sk, role, bpf_ktime_get_ns());

	if (!state) {
		count_untracked();
		return NULL;
	}
	inherit_cgroup(state, sk);
	end_handshake(state, tcp);
	set_marks(state, MARK_ESTABLISHED | MARK_ROLE_COUNTED);
	return state;
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

/* The end that opened a closed connection, as role_by_counters(). */
static __always_inline __u8 role_of_closed(struct sock *sk, struct tcp_sock *tcp)
{
	__s64 syn = read_flags_sent(tcp) - !FIELD(sk, sk_err);

	if (syn == 1)
		return ROLE_CLIENT;
	return syn == 0 ? ROLE_SERVER : ROLE_UNKNOWN;
}

static __always_inline void on_destroy(struct sock *sk)
{
	struct tcp_sock *tcp = bpf_skc_to_tcp_sock(sk);
	struct socket_state *state;
	struct totals now = {};

	if (duty() == DUTY_NONE || !is_tcp(sk) || !tcp)
		return;
	state = find_state(sk);
	if (!state && is_opening_missed(sk, tcp))
		state = track_missed(sk, tcp, role_of_closed(sk, tcp));
	if (!state || has_mark(state, MARK_CLOSED))
		return;
	if (FIELD(tcp, segs_out) < state->reported.sent_segments) {
		/* tcp_disconnect() has zeroed the totals of the connection. */
		set_marks(state, MARK_CLOSED);
		count_lost_flow(0, 0);
		forget_entry(sk);
		return;
	}
	read_totals(&now, sk, tcp);
	now.sent -= was_fin_sent(sk, tcp, state->role);
	report_close(sk, tcp, state, &now, TCP_CLOSE);
}

#endif
