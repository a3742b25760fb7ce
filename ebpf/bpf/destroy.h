/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Changes at which the kernel skipped every program, where tracepoints are preemptible (ADR 58): found when the
 * socket is destroyed, from the tracepoint tcp:tcp_destroy_sock.
 *
 * inet_csk_destroy_sock() is called with softirqs disabled, so that no thread is preempted in the program there and
 * none finds the CPU inside it. Only where a segment comes after the process has closed the socket and before it has
 * released it, the process itself destroys it from its backlog (__release_sock()), and can be preempted: so there are
 * two programs. By then the socket is in the state CLOSE, and has its counters and addresses as at the change to it.
 */
#ifndef FLOWTAP_DESTROY_H
#define FLOWTAP_DESTROY_H

#include "state.h"

/* Jiffies at the end of the adoption of open connections; 0: not yet. */
__u64 adoption_ended = 0;

/* Whether each connection that was open then has been adopted. */
bool adoption_is_complete = false;

/* Inode number of the network namespace of which each has been, 0 if there is none. */
__u32 adopted_netns = 0;

/* Whether a connection has exchanged data since the end of the adoption. The times are read before the clock. */
static __always_inline bool has_moved_since_adoption(struct tcp_sock *tcp)
{
	struct inet_connection_sock *connection = (struct inet_connection_sock *)tcp;
	__u32 received = FIELD(connection, icsk_ack.lrcvtime);
	__u32 sent = FIELD(tcp, lsndtime);
	__u64 ended = adoption_ended;
	__u64 now;

	barrier();
	now = bpf_jiffies64();
	return ended && ((__u32)((__u32)now - sent) <= now - ended || (__u32)((__u32)now - received) <= now - ended);
}

/*
 * Whether a connection that has no state was opened since the programs were attached: not where others without state
 * may have been open before, in other network namespaces, nor those of the kernel. One without a place has been
 * counted.
 */
static __always_inline bool is_opening_missed(struct sock *sk, struct tcp_sock *tcp)
{
	return !has_untracked && was_established(tcp) && FIELD(tcp, rcv_nxt) &&
	       !BPF_CORE_READ_BITFIELD_PROBED(sk, sk_kern_sock) && has_moved_since_adoption(tcp) &&
	       (adoption_is_complete || read_netns(sk) == adopted_netns);
}

/* State of a connection whose opening was missed: counted from its first byte on. Another CPU may look at it as soon
 * as it is there. */
static __always_inline struct socket_state *track_missed(struct sock *sk, struct tcp_sock *tcp, __u8 role)
{
	struct table_entry fresh = {.address = (__u64)sk};
	struct socket_state *state;
	struct totals now;

	fresh.state.role = role;
	fresh.state.netns = read_netns(sk);
	fresh.state.since_ns = bpf_ktime_get_ns();
	fresh.state.marks = MARK_ESTABLISHED;
	if (role != ROLE_UNKNOWN)
		fresh.state.marks |= MARK_ROLE_COUNTED;
	/* The SYN. */
	fresh.state.reported.sent = role == ROLE_CLIENT;
	inherit_cgroup(&fresh.state, sk);
	read_details(&now, tcp, chrono_type(tcp));
	begin_times(&fresh.state.reported, &now);
	state = find_or_make_state(sk, &fresh);
	if (!state)
		count_untracked();
	return state;
}

/* The end that opened a closed connection, as role_by_counters(): without an error it has sent a FIN. */
static __always_inline __u8 role_of_closed(struct sock *sk, struct tcp_sock *tcp)
{
	__s64 flags = read_flags_sent(tcp);

	if (flags == 1)
		return FIELD(sk, sk_err) ? ROLE_CLIENT : ROLE_SERVER;
	if (flags == 2)
		return ROLE_CLIENT;
	return flags == 0 ? ROLE_SERVER : ROLE_UNKNOWN;
}

static __always_inline void on_destroy(struct sock *sk)
{
	struct tcp_sock *tcp = bpf_skc_to_tcp_sock(sk);
	struct socket_state *state;
	struct totals now = {};

	if (duty() == DUTY_NONE || !is_tcp(sk) || !tcp)
		return;
	if (forget_owner(sk))
		emit_listener(sk, bpf_get_socket_cookie(sk), EVENT_UNLISTEN);
	state = find_state(sk);
	if (!state && !was_done(bpf_get_socket_cookie(sk), TCP_CLOSE) && is_opening_missed(sk, tcp))
		state = track_missed(sk, tcp, role_of_closed(sk, tcp));
	if (!state || has_mark(state, MARK_CLOSED))
		return;
	if (is_disconnected(sk, tcp, state)) {
		set_marks(state, MARK_CLOSED);
		count_lost_flow(0, 0);
		return;
	}
	read_closed_totals(&now, sk, tcp, state->role);
	report_close(sk, tcp, state, &now, TCP_CLOSE);
}

/* The last look at a socket: its place in a table is given back, which none of the programs does at the close. While
 * a reload replaces them, the new ones do it. */
static __always_inline void on_last_look(struct sock *sk)
{
	on_destroy(sk);
	if (!table_used || !is_newest() || !is_tcp(sk))
		return;
	note_done(bpf_get_socket_cookie(sk), TCP_CLOSE);
	forget_entry(sk);
}

#endif
