/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * State changes of TCP sockets, from the tracepoint sock:inet_sock_set_state.
 *
 * In: a socket, its old and its new state. Out: socket storage for connections; on `lifecycle` a flow_event when a
 * connection closes or fails, a listen_event when a socket begins or ceases to listen.
 */
#ifndef FLOWTAP_STATE_H
#define FLOWTAP_STATE_H

#include "maps.h"
#include "flow.h"

static __always_inline void emit_listener(struct sock *sk, __u32 type)
{
	struct listen_event *event = bpf_ringbuf_reserve(&lifecycle, sizeof(*event), 0);

	if (!event) {
		struct losses *lost = this_cpu_losses();

		if (lost)
			lost->listeners++;
		return;
	}
	__builtin_memset(event, 0, sizeof(*event));
	fill_listener(event, sk, type);
	event->cookie = bpf_get_socket_cookie(sk);
	bpf_ringbuf_submit(event, wakeup_flags(&lifecycle));
}

/* Storage of a connection that has not closed. A socket keeps its storage until it is freed, and may connect again.
 */
static __always_inline struct socket_state *tracked(struct sock *sk)
{
	struct socket_state *state = bpf_sk_storage_get(&sockets, sk, 0, 0);

	return state && !state->closed ? state : NULL;
}

/* Storage for a connection whose handshake is seen: everything counts from zero. */
static __always_inline struct socket_state *track(struct sock *sk, __u8 role, __u64 now)
{
	struct socket_state *state = bpf_sk_storage_get(&sockets, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);

	if (!state) {
		struct losses *lost = this_cpu_losses();

		if (lost)
			lost->untracked++;
		return NULL;
	}
	/* A socket that was connected before, and reused, may have some already. */
	__builtin_memset(state, 0, sizeof(*state));
	state->role = role;
	state->netns = read_netns(sk);
	state->since_ns = now;
	return state;
}

static __always_inline void set_process(struct socket_state *state)
{
	bpf_get_current_comm(state->comm, sizeof(state->comm));
	state->cgroup_id = bpf_get_current_cgroup_id();
	state->pid = bpf_get_current_pid_tgid() >> 32;
}

/* connect(): in the process that calls it. */
static __always_inline void on_connect(struct sock *sk)
{
	struct socket_state *state = track(sk, ROLE_CLIENT, bpf_ktime_get_ns());

	if (state)
		set_process(state);
}

/* shutdown() or close() on a connection that works: in the process that calls it. Connections are accepted in no
 * process, and those that are too short for a look at the files have it from here. */
static __always_inline void on_shutdown(struct sock *sk)
{
	struct socket_state *state = tracked(sk);

	if (state && !state->pid)
		set_process(state);
}

static __always_inline void on_established(struct sock *sk, int oldstate)
{
	struct socket_state *state = tracked(sk);
	__u64 now = bpf_ktime_get_ns();

	/* A client without storage began to connect before the program was there. */
	if (!state)
		state = track(sk, oldstate == STATE_SYN_SENT ? ROLE_CLIENT : ROLE_SERVER, now);
	if (!state)
		return;
	if (oldstate == STATE_SYN_SENT)
		state->handshake_us = (now - state->since_ns) / 1000;
	state->since_ns = now;
	read_tuple(&state->tuple, sk);
	/* Last, so that a scan never shows a connection without its addresses. */
	barrier();
	state->established = 1;
}

/* The storage is left to the kernel, which frees it with the socket: bpf_sk_storage_delete() costs three times as
 * much, as it waits for programs that may sleep (call_rcu_tasks_trace()). */
static __always_inline void on_close(struct sock *sk, int oldstate)
{
	struct socket_state *state = tracked(sk);
	struct tcp_sock *tcp = bpf_skc_to_tcp_sock(sk);
	struct differences changed = {};
	struct flow_event *event;
	struct totals now;
	__u8 events = FLOW_CLOSED;

	if (!state || !tcp)
		return;
	*(volatile __u8 *)&state->closed = 1;
	read_totals(&now, sk, tcp);
	move_totals(&changed, state, &now);

	event = bpf_ringbuf_reserve(&lifecycle, sizeof(*event), 0);
	if (!event) {
		struct losses *lost = this_cpu_losses();

		if (lost) {
			lost->flows++;
			lost->sent += changed.sent;
			lost->received += changed.received;
		}
	} else {
		int error = sk->sk_err;

		if (!state->established) {
			events = FLOW_FAILED;
			read_tuple(&state->tuple, sk);
		} else if (was_reset(oldstate, error)) {
			events |= FLOW_RESET;
		}
		fill_flow(event, state, tcp, bpf_get_socket_cookie(sk), &changed, STATE_CLOSE, events);
		event->failure = error;
		bpf_ringbuf_submit(event, wakeup_flags(&lifecycle));
	}
}

static __always_inline void on_state(struct sock *sk, int oldstate, int newstate)
{
	if (!is_tcp(sk))
		return;
	if (newstate == STATE_LISTEN)
		emit_listener(sk, EVENT_LISTEN);
	else if (oldstate == STATE_LISTEN && newstate == STATE_CLOSE)
		emit_listener(sk, EVENT_UNLISTEN);
	else if (newstate == STATE_SYN_SENT)
		on_connect(sk);
	else if (newstate == STATE_CLOSE)
		on_close(sk, oldstate);
	else {
		/* A server that uses TCP Fast Open may leave SYN_RECV for another state than ESTABLISHED. */
		if (newstate == STATE_ESTABLISHED || oldstate == STATE_SYN_RECV)
			on_established(sk, oldstate);
		if (newstate == STATE_FIN_WAIT1 || newstate == STATE_LAST_ACK)
			on_shutdown(sk);
	}
}

/*
 * The same change once more, for what on_state() was not shown. The kernel does not run a program on a CPU that is in
 * the middle of it (kernel commit 05b24ff9b2cf, "bpf: Prevent bpf program recursion for raw tracepoint probes"): when
 * an interrupt brings a segment while a process connects or closes, the change that the segment makes is passed over.
 * So a second program follows the first. An interrupt finds a CPU in one of the two at most, and the other one runs.
 *
 * What the first has done shows in the storage; only changes that an interrupt can make are looked at.
 */
static __always_inline void on_state_again(struct sock *sk, int oldstate, int newstate)
{
	struct socket_state *state;

	if (newstate != STATE_CLOSE && newstate != STATE_ESTABLISHED && oldstate != STATE_SYN_RECV)
		return;
	if (!is_tcp(sk))
		return;
	state = tracked(sk);
	if (newstate == STATE_CLOSE) {
		if (state)
			on_close(sk, oldstate);
	} else if (!state || !state->established) {
		on_established(sk, oldstate);
	}
}

#endif
