/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * State changes of TCP sockets, from the tracepoint sock:inet_sock_set_state.
 *
 * In: a socket, its old and its new state. Out: socket storage for connections; on `lifecycle` a flow_event when a
 * connection closes or fails, a listen_event when a socket begins or ceases to listen.
 */
#ifndef FLOWTAP_STATE_H
#define FLOWTAP_STATE_H

#include "table.h"
#include "owners.h"

static __always_inline void emit_listener(struct sock *sk, __u64 cookie, __u32 type)
{
	struct listen_event *event;

	if (!has_room_for_change()) {
		COUNT_LOSS(listeners, 1);
		return;
	}
	event = bpf_ringbuf_reserve(&lifecycle, sizeof(*event), 0);
	if (!event) {
		COUNT_LOSS(listeners, 1);
		return;
	}
	__builtin_memset(event, 0, sizeof(*event));
	fill_listener(event, sk, type);
	event->cookie = cookie;
	bpf_ringbuf_submit(event, wakeup_flags(&lifecycle));
}

/* listen(): in the process that calls it. */
static __always_inline void on_listen(struct sock *sk, __u64 cookie)
{
	remember_owner(sk, cookie);
	emit_listener(sk, cookie, EVENT_LISTEN);
}

static __always_inline void on_unlisten(struct sock *sk, __u64 cookie)
{
	forget_owner(sk);
	emit_listener(sk, cookie, EVENT_UNLISTEN);
}

/* State of a connection that has not closed. A socket keeps its storage until it is freed, and may
 * connect again. */
static __always_inline struct socket_state *tracked(struct sock *sk)
{
	struct socket_state *state = find_state(sk);

	return state && !has_mark(state, MARK_CLOSED) ? state : NULL;
}

/*
 * A place for a connection whose handshake is seen; NULL if there is none, which the caller counts once a connection.
 *
 * A socket that was connected before, and reused, may have a place, and a scan may be looking at it. A scan that read
 * the old connection's totals may store them after this; what it reports then is taken back by the next look, as the
 * sum of all reports is the value stored last.
 */
static __always_inline struct socket_state *track(struct sock *sk, __u8 role, __u64 now)
{
	struct table_entry initial = {.address = (__u64)sk};
	struct socket_state *state = find_or_make_state(sk, &initial);

	if (!state)
		return NULL;
	__builtin_memset(state, 0, sizeof(*state));
	state->role = role;
	state->netns = read_netns(sk);
	state->since_ns = now;
	return state;
}

/* connect(): in the process that calls it. */
static __always_inline void on_connect(struct sock *sk)
{
	struct socket_state *state = may_be_preempted ? tracked(sk) : NULL;

	/* The close of the socket's connection before was missed, and tcp_disconnect() has zeroed its totals. */
	if (state && has_mark(state, MARK_ESTABLISHED))
		count_lost_flow(0, 0);
	state = track(sk, ROLE_CLIENT, bpf_ktime_get_ns());
	if (state)
		set_current_process(state, OWNER_SEEN);
}

/* A connection comes into being, on this CPU; see struct new_child. */
static __always_inline void on_child(struct sock *sk)
{
	const struct owner *known = owner_of_listener(sk);
	struct new_child *child = this_new_child();

	if (!child)
		return;
	child->address = (__u64)sk;
	if (known)
		child->owner = *known;
	else
		child->owner.pid = 0;
}

/* Gives an accepted connection to whose socket it was accepted on, until it is seen in a process. */
static __always_inline void inherit_owner(struct socket_state *state, struct sock *sk)
{
	struct new_child *child = this_new_child();

	if (child && child->address == (__u64)sk) {
		if (child->owner.pid)
			copy_owner(state, &child->owner, OWNER_LISTENS);
		child->address = 0;
	}
	inherit_cgroup(state, sk);
}

/* accept(): in the process that calls it. With TCP Fast Open a connection may be accepted before it is established.
 */
static __always_inline void on_accepted(struct sock *sk)
{
	struct socket_state *state;

	if (duty() == DUTY_NONE || !is_tcp(sk))
		return;
	state = tracked(sk);
	if (!state && FIELD(sk, __sk_common.skc_state) == TCP_SYN_RECV)
		state = track(sk, ROLE_SERVER, bpf_ktime_get_ns());
	if (state && is_owner_open(state))
		set_current_process(state, OWNER_ACCEPTED);
}

/* shutdown() or close() on a connection that works: in the process that calls it, which may be another than the one
 * that accepted it. */
static __always_inline void on_shutdown(struct sock *sk)
{
	struct socket_state *state = tracked(sk);

	if (state && is_owner_open(state))
		set_current_process(state, OWNER_SEEN);
}

/* Reports that a connection has opened. Without room in the ring its next record does, or the census that the count
 * asks for: an idle connection has no other record until it closes. */
static __always_inline void announce(struct sock *sk, struct tcp_sock *tcp, struct socket_state *state)
{
	struct delta none = {};
	struct flow_event *event;

	if (!has_room_for_change()) {
		COUNT_LOSS(openings, 1);
		return;
	}
	event = bpf_ringbuf_reserve(&lifecycle, sizeof(*event), 0);
	if (!event) {
		COUNT_LOSS(openings, 1);
		return;
	}
	read_tuple(&event->tuple, sk);
	fill_flow(event, state, tcp, bpf_get_socket_cookie(sk), &none, TCP_ESTABLISHED, 0);
	bpf_ringbuf_submit(event, wakeup_flags(&lifecycle));
}

static __always_inline void on_established(struct sock *sk, int oldstate, bool first)
{
	struct socket_state *state = tracked(sk);
	struct tcp_sock *tcp = bpf_skc_to_tcp_sock(sk);
	__u64 now = bpf_ktime_get_ns();

	/* A client without a place began to connect before the program was there. */
	if (!state)
		state = track(sk, oldstate == TCP_SYN_SENT ? ROLE_CLIENT : ROLE_SERVER, now);
	if (!state || !tcp) {
		count_untracked_opening(bpf_get_socket_cookie(sk), first);
		return;
	}
	if (oldstate == TCP_SYN_SENT && !has_mark(state, MARK_ESTABLISHED))
		state->handshake_us = (now - state->since_ns) / 1000;
	if (state->role == ROLE_SERVER && !state->pid)
		inherit_owner(state, sk);
	state->since_ns = now;
	end_handshake(state, tcp);
	/* Last: a scan on another CPU counts from here. */
	set_marks(state, MARK_ESTABLISHED);
	if (per_segment)
		announce(sk, tcp, state);
}

/* Counts what a connection did that found no place when it opened. */
static __always_inline void on_untracked_close(struct sock *sk, struct tcp_sock *tcp)
{
	struct totals now;

	note_done(bpf_get_socket_cookie(sk), TCP_CLOSE);
	read_totals(&now, sk, tcp);
	if (now.sent_segments)
		count_lost_bytes(now.sent - (role_by_counters(sk, tcp) == ROLE_CLIENT), now.received);
}

/* Whether the close of a connection without a place has not been seen by a program before this one. Where the place
 * was in a table it may be given back by then. */
static __always_inline bool is_untracked_close_missed(struct sock *sk)
{
	return has_untracked && !find_state(sk) && !was_done(bpf_get_socket_cookie(sk), TCP_CLOSE);
}

/* Reports the end of a connection, whose totals are `now`, but for the details.
 *
 * Storage is left to the kernel, which frees it with the socket: bpf_sk_storage_delete() costs three times as much,
 * as it waits for programs that may sleep (call_rcu_tasks_trace()). */
static __always_inline void report_close(struct sock *sk, struct tcp_sock *tcp, struct socket_state *state,
					 struct totals *now, int oldstate)
{
	__u64 cookie = bpf_get_socket_cookie(sk);
	struct delta changed = {};
	struct flow_event *event;

	read_details(now, tcp, chrono_type(tcp));
	begin_failed_connect(state, now, tcp);
	/* A connect that was answered, and no program was run for that: the SYN has been acknowledged. */
	if (may_be_preempted && !has_mark(state, MARK_ESTABLISHED) && state->role == ROLE_CLIENT &&
	    FIELD(tcp, bytes_acked))
		set_marks(state, MARK_ESTABLISHED);
	set_marks(state, MARK_CLOSING);
	if (*(volatile __u64 *)&scanned_socket == cookie)
		bpf_map_update_elem(&final_totals, &cookie, now, BPF_ANY);
	set_marks(state, MARK_CLOSED);
	move_totals(&changed, &state->reported, now);

	if (!has_room_for_change()) {
		count_lost_flow(changed.sent, changed.received);
		goto done;
	}
	event = bpf_ringbuf_reserve(&lifecycle, sizeof(*event), 0);
	if (!event) {
		count_lost_flow(changed.sent, changed.received);
	} else {
		int error;

		read_tuple(&event->tuple, sk);
		error = connect_error(sk, tcp, &event->tuple);
		fill_flow(event, state, tcp, cookie, &changed, TCP_CLOSE, closing_events(state, sk, oldstate, error));
		fill_close(event, tcp, error);
		bpf_ringbuf_submit(event, wakeup_flags(&lifecycle));
	}
done:
	note_done(bpf_get_socket_cookie(sk), TCP_CLOSE);
	/* Else it is known until the socket is destroyed, so that one that isn't has missed its opening. */
	if (!may_be_preempted)
		forget_entry(sk);
}

static __always_inline void on_close(struct sock *sk, int oldstate)
{
	struct socket_state *state = tracked(sk);
	struct tcp_sock *tcp = bpf_skc_to_tcp_sock(sk);
	struct totals now = {};

	if (!tcp)
		return;
	if (!state && oldstate == TCP_SYN_RECV && FIELD(tcp, bytes_received)) {
		/* TCP Fast Open: accepted, and reset before the handshake's end. */
		state = track(sk, ROLE_SERVER, bpf_ktime_get_ns());
		if (state)
			inherit_owner(state, sk);
	}
	if (!state) {
		if (has_untracked)
			on_untracked_close(sk, tcp);
		return;
	}
	read_totals(&now, sk, tcp);
	report_close(sk, tcp, state, &now, oldstate);
}

/*
 * A change once more, for what the programs before it were not run for. The kernel does not run a program on a
 * CPU that is in the middle of it (kernel commit 05b24ff9b2cf, "bpf: Prevent bpf program recursion for raw tracepoint
 * probes"): when an interrupt brings a segment while a process connects or closes, or, where programs at tracepoints
 * can be preempted, when another thread comes to change a state. So further programs follow the first (ADR 12, ADR
 * 18).
 *
 * Completed steps are marked in the state; repeating one would count twice.
 */
static __always_inline void do_missed(struct sock *sk, int oldstate, int newstate)
{
	struct socket_state *state;
	__u64 cookie;

	if (newstate == TCP_LISTEN) {
		cookie = bpf_get_socket_cookie(sk);
		if (!has_owner((__u64)sk, cookie))
			on_listen(sk, cookie);
		return;
	}
	if (oldstate == TCP_LISTEN && newstate == TCP_CLOSE) {
		if (forget_owner(sk))
			emit_listener(sk, bpf_get_socket_cookie(sk), EVENT_UNLISTEN);
		return;
	}
	if (oldstate == TCP_LISTEN && newstate == TCP_SYN_RECV) {
		const struct new_child *child = this_new_child();

		if (child && child->address != (__u64)sk)
			on_child(sk);
		return;
	}
	state = tracked(sk);
	if (newstate == TCP_SYN_SENT) {
		/* One that is established is of the connection before, whose close was not seen. */
		if (!state || has_mark(state, MARK_ESTABLISHED))
			on_connect(sk);
	} else if (newstate == TCP_CLOSE) {
		if (state || is_untracked_close_missed(sk))
			on_close(sk, oldstate);
	} else {
		if ((newstate == TCP_ESTABLISHED || oldstate == TCP_SYN_RECV) &&
		    (!state || !has_mark(state, MARK_ESTABLISHED)))
			on_established(sk, oldstate, false);
		if ((newstate == TCP_FIN_WAIT1 || newstate == TCP_LAST_ACK) && state && is_owner_open(state))
			set_current_process(state, OWNER_SEEN);
	}
}

static __always_inline void on_state_missed(struct sock *sk, int oldstate, int newstate)
{
	if (duty() != DUTY_NONE && is_tcp(sk))
		do_missed(sk, oldstate, newstate);
}

static __always_inline void on_state(struct sock *sk, int oldstate, int newstate)
{
	enum duty duty_ = duty();

	if (duty_ == DUTY_NONE || !is_tcp(sk))
		return;
	if (duty_ == DUTY_FOLLOW) {
		do_missed(sk, oldstate, newstate);
		return;
	}
	if (newstate == TCP_LISTEN)
		on_listen(sk, bpf_get_socket_cookie(sk));
	else if (oldstate == TCP_LISTEN && newstate == TCP_CLOSE)
		on_unlisten(sk, bpf_get_socket_cookie(sk));
	else if (oldstate == TCP_LISTEN && newstate == TCP_SYN_RECV)
		on_child(sk);
	else if (newstate == TCP_SYN_SENT)
		on_connect(sk);
	else if (newstate == TCP_CLOSE)
		on_close(sk, oldstate);
	else {
		/* A server that uses TCP Fast Open may leave SYN_RECV for another state than ESTABLISHED. */
		if (newstate == TCP_ESTABLISHED || oldstate == TCP_SYN_RECV)
			on_established(sk, oldstate, true);
		if (newstate == TCP_FIN_WAIT1 || newstate == TCP_LAST_ACK)
			on_shutdown(sk);
	}
}

#endif
