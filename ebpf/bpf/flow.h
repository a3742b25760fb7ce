/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * A flow_event from a socket, what is remembered of it, and what has changed.
 */
#ifndef FLOWTAP_FLOW_H
#define FLOWTAP_FLOW_H

#include "totals.h"

/* The local port is taken from inet_sport: skc_num is 0 already when a socket closes. */
static __always_inline void read_tuple(struct tuple *tuple, struct sock *sk)
{
	__u16 family = FIELD(sk, __sk_common.skc_family);

	tuple->family = family;
	tuple->local_port = bpf_ntohs(BPF_CORE_READ((struct inet_sock *)sk, inet_sport));
	tuple->remote_port = bpf_ntohs(FIELD(sk, __sk_common.skc_dport));
	if (family == AF_INET) {
		*(__u32 *)tuple->local_addr = FIELD(sk, __sk_common.skc_rcv_saddr);
		*(__u32 *)tuple->remote_addr = FIELD(sk, __sk_common.skc_daddr);
	} else if (bpf_core_field_exists(sk->__sk_common.skc_v6_daddr)) {
		/* Absent where the kernel was built without IPv6. */
		BPF_CORE_READ_INTO(&tuple->local_addr, sk, __sk_common.skc_v6_rcv_saddr);
		BPF_CORE_READ_INTO(&tuple->remote_addr, sk, __sk_common.skc_v6_daddr);
	}
}

static __always_inline __u32 read_netns(struct sock *sk)
{
	struct net *net = FIELD(sk, __sk_common.skc_net.net);

	return FIELD(net, ns.inum);
}

/* Only what is TCP over IPv4 or IPv6: not SMC, not MPTCP's outer socket, not a raw socket for TCP's segments. */
static __always_inline bool is_tcp(struct sock *sk)
{
	__u16 family = FIELD(sk, __sk_common.skc_family);

	return FIELD(sk, sk_protocol) == PROTO_TCP && FIELD(sk, sk_type) == TYPE_STREAM &&
	       (family == AF_INET || family == AF_INET6);
}

/* Whether this is the first record of the socket. */
static __always_inline bool announce(struct socket_state *state)
{
#ifdef FLOWTAP_UNTYPED_ARGUMENTS
	/* Every look at the socket is made under its lock; and these kernels may know no exchange. */
	bool first = !state->announced;

	state->announced = 1;
	return first;
#else
	return !__sync_lock_test_and_set(&state->announced, 1);
#endif
}

/* Fills all of `event`; `events` are added to what the first record of a socket always says. */
static __always_inline void fill_flow(struct flow_event *event, struct socket_state *state, struct tcp_sock *tcp,
				      __u64 cookie, const struct differences *changed, __u8 tcp_state, __u8 events)
{
	if (state->established && announce(state))
		events |= state->adopted ? FLOW_ADOPTED : FLOW_OPENED;
	event->type = EVENT_FLOW;
	event->netns = state->netns;
	event->cookie = cookie;
	event->tuple = state->tuple;
	event->sent = changed->sent;
	event->received = changed->received;
	event->sent_segments = changed->sent_segments;
	event->received_segments = changed->received_segments;
	event->retransmits = changed->retransmits;
	event->rtt_us = FIELD(tcp, srtt_us) >> 3; /* kept eightfold: include/linux/tcp.h */
	event->min_rtt_us = FIELD(tcp, rtt_min.s[0].v);
	event->cwnd = FIELD(tcp, snd_cwnd);
	event->handshake_us = state->handshake_us;
	event->pid = state->pid;
	event->age_us = state->established ? (bpf_ktime_get_ns() - state->since_ns) / 1000 : 0;
	event->cgroup_id = state->cgroup_id;
	__builtin_memcpy(event->comm, state->comm, sizeof(event->comm));
	event->role = state->role;
	event->state = tcp_state;
	event->events = events;
	event->pad = 0;
	event->failure = 0;
}

/* From either side: an error that says so, or a close that skipped the FIN handshake. */
static __always_inline bool was_reset(int oldstate, int error)
{
	if (error)
		return error == ERRNO_CONNRESET || error == ERRNO_PIPE;
	return oldstate == STATE_ESTABLISHED || oldstate == STATE_CLOSE_WAIT;
}

/* All but the cookie. A socket that begins to listen is bound (skc_num) but has no inet_sport yet; one that ceases
 * to, the other way round. */
static __always_inline void fill_listener(struct listen_event *event, struct sock *sk, __u32 type)
{
	event->type = type;
	event->netns = read_netns(sk);
	event->port = FIELD(sk, __sk_common.skc_num);
	if (!event->port)
		event->port = bpf_ntohs(BPF_CORE_READ((struct inet_sock *)sk, inet_sport));
}

#endif
