/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * A flow_event from a socket, what is remembered of it, and what has changed; why it ended.
 */
#ifndef FLOWTAP_FLOW_H
#define FLOWTAP_FLOW_H

#include "totals.h"

/* The local port is taken from inet_sport: skc_num is 0 already when a socket closes. Addresses and ports are there
 * until tcp_set_state() has returned from TCP_CLOSE. */
static __always_inline void read_tuple(struct tuple *tuple, struct sock *sk)
{
	__u16 family = FIELD(sk, __sk_common.skc_family);

	__builtin_memset(tuple, 0, sizeof(*tuple));
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

	return FIELD(sk, sk_protocol) == IPPROTO_TCP && FIELD(sk, sk_type) == SOCK_STREAM &&
	       (family == AF_INET || family == AF_INET6);
}

/* Counts a connection whose bytes BPF may redirect past TCP, once. */
static __always_inline void look_for_redirect(struct socket_state *state, struct sock *sk)
{
	if (!((__u64)BPF_CORE_READ(sk, sk_user_data) & SK_USER_DATA_PSOCK) || has_mark(state, MARK_REDIRECTED))
		return;
	set_marks(state, MARK_REDIRECTED);
	COUNT_LOSS(redirected, 1);
}

/* Bytes between two sequence numbers, which are read without the socket's lock. */
static __always_inline __u32 bytes_between(__u32 from, __u32 to)
{
	__s32 bytes = to - from;

	return bytes > 0 ? bytes : 0;
}

/* Bytes that the process has not read, without the FIN. */
static __always_inline __u32 read_unread(struct tcp_sock *tcp)
{
	struct sock *sk = (struct sock *)tcp;
	__u32 bytes = bytes_between(FIELD(tcp, copied_seq), FIELD(tcp, rcv_nxt));

	return bytes && FIELD(sk, __sk_common.skc_flags) & SOCK_DONE_MASK ? bytes - 1 : bytes;
}

/*
 * Whether unsent bytes wait for the network. In the middle of a sendmsg(), which holds the socket's lock, they may be
 * on their way to it, and a scan often meets a client there that asks back to back. A process that waits for room in
 * the buffer has released the lock; a close holds it, with bytes that have waited.
 */
static __always_inline bool is_send_waiting(struct sock *sk, __u32 unsent, __u8 tcp_state)
{
	return unsent && (tcp_state == TCP_CLOSE || !FIELD(sk, sk_lock.owned));
}

static __always_inline __u8 read_limits(struct tcp_sock *tcp, __u32 chrono, bool is_waiting)
{
	struct inet_connection_sock *connection = (struct inet_connection_sock *)tcp;
	__u8 limits = chrono & LIMIT_CHRONO;

	if (BPF_CORE_READ_BITFIELD_PROBED(tcp, rate_app_limited))
		limits |= LIMIT_APPLICATION;
	if (is_waiting)
		limits |= LIMIT_UNSENT;
	return limits | (BPF_CORE_READ_BITFIELD_PROBED(connection, icsk_ca_state) & 7) << LIMIT_CA_STATE_SHIFT;
}

/* Fills in the current queue sizes and the reason that sending waits. A closed socket has nothing queued. */
static __always_inline void fill_queues(struct flow_event *event, struct socket_state *state, struct tcp_sock *tcp,
					__u32 chrono, __u8 tcp_state)
{
	__u32 next = FIELD(tcp, snd_nxt);
	__u32 unsent = bytes_between(next, FIELD(tcp, write_seq));

	event->limits = read_limits(tcp, chrono, is_send_waiting((struct sock *)tcp, unsent, tcp_state));
	if (tcp_state == TCP_CLOSE) {
		event->unsent = event->unacked = event->unread = 0;
		return;
	}
	event->unsent = unsent;
	event->unacked = bytes_between(FIELD(tcp, snd_una), next);
	event->unread = read_unread(tcp);
	if (event->unread && !has_mark(state, MARK_UNREAD))
		set_marks(state, MARK_UNREAD);
	else if (!event->unread && has_mark(state, MARK_UNREAD))
		clear_marks(state, MARK_UNREAD);
}

/* Index of the interface on which the last packet arrived whose route the socket has kept; 0 if it has none. */
static __always_inline int read_input(struct sock *sk)
{
	struct inet_sock___before_5_16 *before = (void *)sk;

	if (bpf_core_field_exists(sk->sk_rx_dst_ifindex))
		return FIELD(sk, sk_rx_dst_ifindex);
	if (bpf_core_field_exists(before->rx_dst_ifindex))
		return BPF_CORE_READ(before, rx_dst_ifindex);
	return 0;
}

/* The known part of the way that a connection's packets take. They arrive on one interface as long as it lives, so
 * that is looked at once: a client's when the SYN-ACK has come, which is after its change to ESTABLISHED. */
static __always_inline __u8 read_route(struct socket_state *state, struct sock *sk)
{
	__u8 route = 0;

	if (!has_mark(state, MARK_INPUT_KNOWN)) {
		int input = read_input(sk);

		if (input == LOOPBACK_IFINDEX)
			set_marks(state, MARK_INPUT_KNOWN | MARK_LOOPBACK);
		else if (input > 0)
			set_marks(state, MARK_INPUT_KNOWN);
	}
	if (has_mark(state, MARK_TRANSLATED))
		route |= ROUTE_TRANSLATED;
	if (has_mark(state, MARK_INPUT_KNOWN))
		route |= ROUTE_KNOWN;
	if (has_mark(state, MARK_LOOPBACK))
		route |= ROUTE_LOOPBACK;
	return route;
}

/* Fills all of `event` but the addresses; `events` are added to what the first record of a socket always says. */
static __always_inline void fill_flow(struct flow_event *event, struct socket_state *state, struct tcp_sock *tcp,
				      __u64 cookie, const struct delta *changed, __u8 tcp_state, __u8 events)
{
	bool established = has_mark(state, MARK_ESTABLISHED);

	event->syn_retransmits = 0;
	if (established && !(set_marks(state, MARK_ANNOUNCED) & MARK_ANNOUNCED)) {
		events |= has_mark(state, MARK_ADOPTED) ? FLOW_ADOPTED : FLOW_OPENED;
		look_for_redirect(state, (struct sock *)tcp);
		event->syn_retransmits = state->syn_retransmits;
	}
	event->type = EVENT_FLOW;
	event->netns = state->netns;
	event->cookie = cookie;
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
	event->age_us = established ? (bpf_ktime_get_ns() - state->since_ns) / 1000 : 0;
	event->cgroup_id = state->cgroup_id;
	__builtin_memcpy(event->comm, state->comm, sizeof(event->comm));
	event->role = state->role;
	event->state = tcp_state;
	event->events = events;
	event->role_source = has_mark(state, MARK_ROLE_COUNTED) ? ROLE_FROM_COUNTERS : ROLE_FROM_HANDSHAKE;
	event->failure = 0;
	event->elapsed = changed->elapsed;
	event->busy = changed->busy;
	event->rwnd_limited = changed->rwnd_limited;
	event->sndbuf_limited = changed->sndbuf_limited;
	event->rto_ms = changed->rto_ms;
	event->out_of_order = changed->out_of_order;
	event->lost = changed->lost;
	event->ecn_ce = changed->ecn_ce;
	fill_queues(event, state, tcp, changed->chrono, tcp_state);
	event->reset_by = RESET_BY_NONE;
	event->route = read_route(state, (struct sock *)tcp);
}

/*
 * By either side: an error that says so, or a close that skipped part of the FIN handshake. From FIN_WAIT2 that is
 * one without the peer's FIN (SOCK_DONE), while the process still has the socket: once it has let go (SOCK_DEAD), the
 * kernel keeps the rest of the wait in a smaller socket (tcp_time_wait()).
 */
static __always_inline bool was_reset(struct sock *sk, int oldstate, int error)
{
	unsigned long flags = FIELD(sk, __sk_common.skc_flags);

	if (error)
		return error == ECONNRESET || error == EPIPE || error == ECONNABORTED;
	if (oldstate == TCP_FIN_WAIT2)
		return !(flags & (SOCK_DONE_MASK | SOCK_DEAD_MASK));
	return oldstate == TCP_ESTABLISHED || oldstate == TCP_CLOSE_WAIT || oldstate == TCP_FIN_WAIT1 ||
	       oldstate == TCP_SYN_RECV;
}

#define ORIGIN_ICMP 2  /* SO_EE_ORIGIN_ICMP */
#define ORIGIN_ICMP6 3 /* SO_EE_ORIGIN_ICMP6 */

/* The error of an ICMP answer to the SYN that is in the socket's error queue; 0 if there is none. The kernel puts it
 * there whether the application wants it or not. An answer that comes while connect() is at work does not end the
 * connect: the application reads the error by SO_ERROR, which clears it, and closes. */
static __always_inline int queued_error(struct sock *sk)
{
	struct sk_buff *first;
	struct sock_exterr_skb *answer = NULL;
	__u8 origin;

	if (!bpf_core_field_exists(answer->ee.ee_errno) || !BPF_CORE_READ(sk, sk_error_queue.qlen))
		return 0;
	first = BPF_CORE_READ(sk, sk_error_queue.next);
	answer = (struct sock_exterr_skb *)&first->cb;
	origin = BPF_CORE_READ(answer, ee.ee_origin);
	return origin == ORIGIN_ICMP || origin == ORIGIN_ICMP6 ? BPF_CORE_READ(answer, ee.ee_errno) : 0;
}

/* Of a connect that failed without an error in the socket: no port was left to connect from if there is none, and not
 * a segment was sent. Else the application gave up. */
static __always_inline int connect_error(struct sock *sk, struct tcp_sock *tcp, const struct tuple *tuple)
{
	int error = FIELD(sk, sk_err);

	if (!error)
		error = queued_error(sk);
	return !error && !tuple->local_port && !FIELD(tcp, segs_out) ? EADDRNOTAVAIL : error;
}

/* Which events the last record has. An accepted socket may close before it is established: with TCP Fast Open it
 * has exchanged data by then. */
static __always_inline __u8 closing_events(struct socket_state *state, struct sock *sk, int oldstate, int error)
{
	__u8 events = FLOW_CLOSED;

	if (!has_mark(state, MARK_ESTABLISHED)) {
		if (state->role != ROLE_SERVER)
			return FLOW_FAILED;
		events |= FLOW_OPENED;
	}
	return was_reset(sk, oldstate, error) ? events | FLOW_RESET : events;
}

/*
 * The side that reset a connection. tcp_reset() sets the error before the socket closes; a close that resets by
 * itself (data that nobody read, SO_LINGER, connect(AF_UNSPEC)) sets it later or not at all, and tcp_abort() has
 * another one.
 */
static __always_inline __u8 reset_by(__u8 events, int error)
{
	if (!(events & FLOW_RESET))
		return RESET_BY_NONE;
	return error == ECONNRESET || error == EPIPE ? RESET_BY_REMOTE : RESET_BY_LOCAL;
}

/* Segments that were retransmitted until the handshake ended, or was given up. */
static __always_inline __u8 read_syn_retransmits(struct tcp_sock *tcp)
{
	__u32 count = FIELD(tcp, total_retrans);

	return count < 255 ? count : 255;
}

/*
 * Whether the retransmission time-out of a SYN has passed (RFC 6298, one second at first). Its retransmissions say
 * less: a SYN that waits for the neighbour's address is not retransmitted (skb_still_in_host_queue(),
 * net/ipv4/tcp_output.c), and counts none while the time-out backs off.
 */
static __always_inline bool is_syn_overdue(struct tcp_sock *tcp)
{
	struct inet_connection_sock *connection = (struct inet_connection_sock *)tcp;

	return BPF_CORE_READ(connection, icsk_retransmits);
}

/* Whether the handshake has ended: tcp_init_transfer() begins congestion control then, and tcp_disconnect() or the
 * end of tcp_v4_destroy_sock() ends it. */
static __always_inline bool was_established(struct tcp_sock *tcp)
{
	struct inet_connection_sock *connection = (struct inet_connection_sock *)tcp;

	return BPF_CORE_READ_BITFIELD_PROBED(connection, icsk_ca_initialized);
}

/* Records the handshake when it ends, and starts the clocks. */
static __always_inline void end_handshake(struct socket_state *state, struct tcp_sock *tcp)
{
	struct totals now;

	count_from_opening(state, tcp);
	read_details(&now, tcp, chrono_type(tcp));
	begin_times(&state->reported, &now);
	if (!has_mark(state, MARK_ADOPTED))
		state->syn_retransmits = read_syn_retransmits(tcp);
}

/* The rest of a record at the close. */
static __always_inline void fill_close(struct flow_event *event, struct tcp_sock *tcp, int error)
{
	event->failure = error;
	event->reset_by = reset_by(event->events, error);
	if (event->events & FLOW_FAILED) {
		event->syn_retransmits = read_syn_retransmits(tcp);
		if (is_syn_overdue(tcp))
			event->events |= FLOW_UNANSWERED;
	}
}

/* Totals of a connect that failed before its SYN was made hold what the socket did before, if anything. */
static __always_inline void begin_failed_connect(struct socket_state *state, struct totals *now, struct tcp_sock *tcp)
{
	if (has_mark(state, MARK_ESTABLISHED))
		return;
	begin_times(&state->reported, now);
	if (state->role != ROLE_CLIENT)
		return;
	if (now->sent_segments)
		count_from_opening(state, tcp);
	else
		*now = state->reported;
}

/* All but the cookie. */
static __always_inline void fill_listener(struct listen_event *event, struct sock *sk, __u32 type)
{
	event->type = type;
	event->netns = read_netns(sk);
	event->drops = FIELD(sk, sk_drops.counter);
	/* A socket that begins to listen is bound (skc_num) but has no inet_sport yet; one that ceases to, the other
	 * way round. */
	event->port = FIELD(sk, __sk_common.skc_num);
	if (!event->port)
		event->port = bpf_ntohs(BPF_CORE_READ((struct inet_sock *)sk, inet_sport));
}

#endif
