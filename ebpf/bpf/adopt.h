/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Sockets that were there before flowtap, and processes for accepted ones.
 *
 * In: every file of every process (all network namespaces; needs the host's pid namespace), or every TCP socket of
 * the reader's network namespace. Out: at the first walk, storage whose totals begin at the socket's present ones, so
 * that it is counted from now on; at every walk, the process of a connection that had none, and for each listening
 * socket a listen_event in the iterator's buffer.
 */
#ifndef FLOWTAP_ADOPT_H
#define FLOWTAP_ADOPT_H

#include "scan.h"
#include "destroy.h"

/* Before a record is made: the iterator shows the socket again at the next read. seq_write() refuses what would fill
 * the buffer to the last byte (fs/seq_file.c). */
static __always_inline bool has_room(struct seq_file *seq, __u64 bytes)
{
	return seq->count + bytes < seq->size;
}

static __always_inline int show_listener(struct seq_file *seq, struct sock *sk, struct task_struct *task)
{
	struct listen_event event = {
		.type = EVENT_LISTEN,
		.netns = read_netns(sk),
		.cookie = bpf_get_socket_cookie(sk),
		.port = sk->__sk_common.skc_num,
	};

	if (!has_room(seq, sizeof(event)))
		return ITER_RETRY;
	if (task)
		remember_holder(sk, event.cookie, task);
	if (bpf_seq_write(seq, &event, sizeof(event)))
		COUNT_LOSS(scan_writes, 1);
	return ITER_CONTINUE;
}

/* The listening socket of MPTCP that a process has: TCP's, to which connections come, is inside. It has a port, and
 * that is all that is known of it here: for storage the verifier wants a pointer that it has seen a type of. */
static __always_inline int show_mptcp_listener(struct seq_file *seq, struct sock *sk, struct task_struct *task)
{
	struct sock *first = BPF_CORE_READ((struct mptcp_sock *)sk, first);
	struct listen_event event = {.type = EVENT_LISTEN, .netns = read_netns(sk)};

	if (!first || BPF_CORE_READ(first, __sk_common.skc_state) != TCP_LISTEN)
		return ITER_CONTINUE;
	if (!has_room(seq, sizeof(event)))
		return ITER_RETRY;
	/* The outer socket's cookie: a close of the inner one leaves its port to the next walk. */
	event.cookie = bpf_get_socket_cookie(sk);
	event.port = BPF_CORE_READ(first, __sk_common.skc_num);
	remember_holder(first, event.cookie, task);
	if (bpf_seq_write(seq, &event, sizeof(event)))
		COUNT_LOSS(scan_writes, 1);
	return ITER_CONTINUE;
}

/* State of a connection that was already open: counted from its present totals on. */
static __always_inline void count_from_now(struct socket_state *fresh, struct sock *sk, struct tcp_sock *tcp,
					   __u8 tcp_state)
{
	read_totals(&fresh->reported, sk, tcp);
	read_details(&fresh->reported, tcp, chrono_type(tcp));
	fresh->netns = read_netns(sk);
	fresh->since_ns = bpf_ktime_get_ns();
	if (tcp_state == TCP_SYN_SENT) {
		/* It becomes established by the state change, like any other. */
		fresh->role = ROLE_CLIENT;
		fresh->marks = MARK_ADOPTED;
	} else if (tcp_state == TCP_SYN_RECV) {
		/* TCP Fast Open: it has been accepted, and is not established yet. */
		fresh->role = ROLE_SERVER;
		fresh->marks = MARK_ADOPTED;
	} else {
		fresh->role = role_by_counters(sk, tcp);
		fresh->marks = MARK_ADOPTED | MARK_ESTABLISHED;
		if (fresh->role != ROLE_UNKNOWN)
			fresh->marks |= MARK_ROLE_COUNTED;
	}
}

/* State of a connection that has none, or is taken for one whose handshake goes on, although it has ended: see
 * destroy.h. */
static __always_inline struct socket_state *count_missed(struct sock *sk, struct socket_state *state,
							 struct tcp_sock *tcp)
{
	if (!state)
		return track_missed(sk, tcp, role_by_counters(sk, tcp));
	end_handshake(state, tcp);
	set_marks(state, MARK_ESTABLISHED);
	return state;
}

/* Whether all that an end has sent is acknowledged. */
static __always_inline bool is_all_acknowledged(struct tcp_sock *tcp)
{
	return FIELD(tcp, snd_una) == FIELD(tcp, write_seq);
}

/*
 * The role of a connection that nothing holds while it is looked at; unknown while it sends. A segment is in
 * bytes_sent before it is in snd_nxt, and the peer on this machine can have answered it in between: the role of an
 * end that has just sent one byte would be the other one, and with it the SYN a byte of payload.
 */
static __always_inline __u8 role_of_quiet(struct sock *sk, struct tcp_sock *tcp)
{
	__u8 role;

	if (!is_all_acknowledged(tcp))
		return ROLE_UNKNOWN;
	barrier();
	role = role_by_counters(sk, tcp);
	barrier();
	return is_all_acknowledged(tcp) ? role : ROLE_UNKNOWN;
}

/* The same at a walk. The socket changes its state after the programs at the change have been run. A connection whose
 * role is not clear is left to a later walk, or to its end. */
static __always_inline void look_for_missed(struct sock *sk, struct socket_state *state, __u8 tcp_state)
{
	struct tcp_sock *tcp = bpf_skc_to_tcp_sock(sk);
	__u8 role;

	if (!tcp || tcp_state == TCP_SYN_SENT || tcp_state == TCP_SYN_RECV)
		return;
	if (!state) {
		role = is_opening_missed(sk, tcp) ? role_of_quiet(sk, tcp) : ROLE_UNKNOWN;
		/* Where it has closed meanwhile a table may have forgotten it. */
		if (role != ROLE_UNKNOWN && FIELD(sk, __sk_common.skc_state) != TCP_CLOSE)
			track_missed(sk, tcp, role);
		return;
	}
	/* In mode `events` segments move the totals meanwhile, and look for it themselves. */
	if (!per_segment && !has_mark(state, MARK_ESTABLISHED))
		count_missed(sk, state, tcp);
}

/* `first_walk`: what has no storage was open before the programs were attached. Later on it may as well be in the
 * middle of its handshake, or have been refused storage. */
static __always_inline int adopt(struct seq_file *seq, struct sock *sk, struct task_struct *task, bool first_walk)
{
	__u8 tcp_state = sk->__sk_common.skc_state;
	struct socket_state *state;
	struct table_entry fresh = {.address = (__u64)sk};
	struct tcp_sock *tcp;

	if (tcp_state == TCP_LISTEN)
		return show_listener(seq, sk, task);
	if (tcp_state == TCP_CLOSE || tcp_state == TCP_NEW_SYN_RECV)
		return ITER_CONTINUE;
	state = find_state(sk);
	if (state && !has_mark(state, MARK_CLOSED)) {
		if (task && is_owner_open(state))
			set_process(state, task, OWNER_SEEN);
		if (may_be_preempted)
			look_for_missed(sk, state, tcp_state);
		return ITER_CONTINUE;
	}
	if (!first_walk) {
		if (may_be_preempted && !state)
			look_for_missed(sk, NULL, tcp_state);
		return ITER_CONTINUE;
	}
	tcp = bpf_skc_to_tcp_sock(sk);
	if (!tcp)
		return ITER_CONTINUE;
	count_from_now(&fresh.state, sk, tcp, tcp_state);
	if (task)
		set_process(&fresh.state, task, OWNER_SEEN);
	if (!find_or_make_state(sk, &fresh))
		count_untracked();
	return ITER_CONTINUE;
}

#endif
