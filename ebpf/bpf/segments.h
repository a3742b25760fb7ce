/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Capture mode `events`: a record per received data segment, per connection that opened and per one that closed.
 *
 * In: segments from tcp_probe, state changes, and where there are kprobes the process of a connect or close. Out: on
 * `tcpflow` a flow_event per segment, on `tcpconn` one per open, close or failure, and listen_event.
 *
 * A segment's record tells what the socket will have received with it, before TCP has taken it in; TCP may yet throw
 * it away. And tcp_probe sees nothing of a connection that is half closed. So what was reported is remembered per
 * socket, and the close reports the difference to the socket's own totals: from then on the sum is exact, both ways.
 *
 * Every look at a socket is made under its lock, so plain arithmetic will do.
 */
#ifndef FLOWTAP_SEGMENTS_H
#define FLOWTAP_SEGMENTS_H

#include "flow.h"

/* A socket's place in the table. */
struct tracked_socket {
	struct socket_state state;
	__u64 cookie;
	__u64 reported_ns; /* the last record */
};

/* Key: address of the struct sock. Value: what was last reported of it. The size is set by the loader. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1 << 16);
	__type(key, __u64);
	__type(value, struct tracked_socket);
} tracked SEC(".maps");

/* flow_event of received segments. The size is set by the loader. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 24);
} tcpflow SEC(".maps");

/* flow_event of connections that opened, closed or failed; listen_event. The size is set by the loader. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 24);
} tcpconn SEC(".maps");

/* What a place begins as. Not a scratch area: a softirq may come between its filling and its copying. */
const volatile struct tracked_socket empty_place = {};

/* Whether connect() is seen by a kprobe; else by the change to SYN_SENT. Set by the loader. */
const volatile bool has_kprobes = false;

/* Mixed into the addresses that stand for sockets, so that none leaves the kernel. Set by the loader. */
const volatile __u64 cookie_key = 0;

/* A connection that only sends gets acknowledgements without payload, which make no record: its sent bytes are
 * reported this often. */
#define SENDER_REPORT_NS 1000000000ULL

static __always_inline __u64 address_of(struct sock *sk)
{
	return (__u64)sk;
}

/* bpf_get_socket_cookie() is for later kernels. The verifier lets nobody reckon with a pointer, so a copy of its
 * value is read as any other memory. */
static __always_inline __u64 cookie_of(struct sock *sk)
{
	__u64 address = address_of(sk);
	__u64 value = 0;

	bpf_probe_read_kernel(&value, sizeof(value), &address);
	return value ^ cookie_key;
}

static __always_inline void set_process(struct socket_state *state)
{
	bpf_get_current_comm(state->comm, sizeof(state->comm));
	state->cgroup_id = bpf_get_current_cgroup_id();
	state->pid = bpf_get_current_pid_tgid() >> 32;
}

/* A place for a socket that is not tracked yet; `adopted` says that it was open before. */
static __always_inline struct tracked_socket *track_segments(struct sock *sk, __u8 role, bool adopted)
{
	__u64 address = address_of(sk);
	struct tracked_socket *place;
	struct socket_state *state;

	bpf_map_update_elem(&tracked, &address, (const void *)&empty_place, BPF_ANY);
	place = bpf_map_lookup_elem(&tracked, &address);
	if (!place) {
		struct losses *lost = this_cpu_losses();

		if (lost)
			lost->untracked++;
		return NULL;
	}
	place->cookie = cookie_of(sk);
	state = &place->state;
	state->role = role;
	state->netns = read_netns(sk);
	state->since_ns = bpf_ktime_get_ns();
	if (adopted) {
		struct totals now;

		read_totals(&now, sk, (struct tcp_sock *)sk);
		state->sent = now.sent;
		state->received = now.received;
		state->sent_segments = now.sent_segments;
		state->received_segments = now.received_segments;
		state->retransmits = now.retransmits;
		state->adopted = 1;
		state->established = 1;
		read_tuple(&state->tuple, sk);
	}
	return place;
}

static __always_inline void count_lost_flow(const struct differences *changed)
{
	struct losses *lost = this_cpu_losses();

	if (!lost)
		return;
	lost->flows++;
	lost->sent += changed->sent;
	lost->received += changed->received;
}

/* What has moved since the last report but the received bytes, which the caller knows better. */
static __always_inline void take_differences(struct differences *changed, struct socket_state *state,
					     const struct totals *now)
{
	changed->sent = now->sent - state->sent;
	changed->sent_segments = (__s32)(now->sent_segments - state->sent_segments);
	changed->received_segments = (__s32)(now->received_segments - state->received_segments);
	changed->retransmits = (__s32)(now->retransmits - state->retransmits);
	state->sent = now->sent;
	state->sent_segments = now->sent_segments;
	state->received_segments = now->received_segments;
	state->retransmits = now->retransmits;
}

/* What a segment carries, and where. */
struct segment {
	__u32 sequence;
	__u32 payload;
};

/* From the TCP header, at which skb->data is (RFC 9293, section 3.1): the sequence number stands at byte 4, the
 * header's length in words in the upper half of byte 12. */
static __always_inline void read_segment(struct segment *segment, struct sk_buff *skb)
{
	const unsigned char *header = BPF_CORE_READ(skb, data);
	__u32 length = BPF_CORE_READ(skb, len);
	__u32 sequence = 0;
	__u8 data_offset = 0;

	bpf_probe_read_kernel(&sequence, sizeof(sequence), header + 4);
	bpf_probe_read_kernel(&data_offset, sizeof(data_offset), header + 12);
	__u32 header_bytes = (data_offset >> 4) * 4;

	segment->sequence = bpf_ntohl(sequence);
	segment->payload = length > header_bytes ? length - header_bytes : 0;
}

/* What the socket will have received once it has taken the segment in: a duplicate adds nothing, and what comes ahead
 * of a gap is counted when the gap is closed. Sequence numbers wrap, so they are compared by their differences. */
static __always_inline __u64 received_with(const struct segment *segment, const struct totals *now,
					   struct tcp_sock *tcp)
{
	__u32 expected = FIELD(tcp, rcv_nxt);
	__s32 gap = (__s32)(segment->sequence - expected);
	__s32 fresh = (__s32)(segment->sequence + segment->payload - expected);

	return gap <= 0 && fresh > 0 ? now->received + fresh : now->received;
}

static __always_inline void on_segment(struct sock *sk, struct sk_buff *skb)
{
	struct tcp_sock *tcp = (struct tcp_sock *)sk;
	__u64 address = address_of(sk);
	struct differences changed = {};
	struct tracked_socket *place;
	struct socket_state *state;
	struct flow_event *event;
	struct segment segment;
	struct totals now;
	__u64 time;

	if (!is_tcp(sk))
		return;
	read_segment(&segment, skb);
	place = bpf_map_lookup_elem(&tracked, &address);
	if (!place)
		place = track_segments(sk, ROLE_UNKNOWN, true);
	if (!place)
		return;
	state = &place->state;
	time = bpf_ktime_get_ns();
	read_totals(&now, sk, tcp);
	changed.received = (__s64)(received_with(&segment, &now, tcp) - state->received);
	if (!segment.payload && !changed.received &&
	    (now.sent == state->sent || time - place->reported_ns < SENDER_REPORT_NS))
		return;
	event = bpf_ringbuf_reserve(&tcpflow, sizeof(*event), 0);
	if (!event) {
		/* Not moved on: the next record of this socket, or its close, tells of these bytes. */
		struct losses *lost = this_cpu_losses();

		if (lost)
			lost->segments++;
		return;
	}
	take_differences(&changed, state, &now);
	state->received += changed.received;
	place->reported_ns = time;
	fill_flow(event, state, tcp, place->cookie, &changed, FIELD(sk, __sk_common.skc_state), 0);
	bpf_ringbuf_submit(event, wakeup_flags(&tcpflow));
}

static __always_inline void emit_segments_listener(struct sock *sk, __u32 type)
{
	struct listen_event *event = bpf_ringbuf_reserve(&tcpconn, sizeof(*event), 0);

	if (!event) {
		struct losses *lost = this_cpu_losses();

		if (lost)
			lost->listeners++;
		return;
	}
	__builtin_memset(event, 0, sizeof(*event));
	fill_listener(event, sk, type);
	event->cookie = cookie_of(sk);
	bpf_ringbuf_submit(event, wakeup_flags(&tcpconn));
}

/* connect(), by kprobe or by the change to SYN_SENT: in the process that calls it. */
static __always_inline void on_segments_connect(struct sock *sk)
{
	struct tracked_socket *place;

	if (!is_tcp(sk))
		return;
	place = track_segments(sk, ROLE_CLIENT, false);
	if (place)
		set_process(&place->state);
}

/* shutdown() or close(), in the process that calls it: where accepted connections get theirs. */
static __always_inline void on_segments_release(struct sock *sk)
{
	__u64 address = address_of(sk);
	struct tracked_socket *place = bpf_map_lookup_elem(&tracked, &address);

	if (place && !place->state.pid)
		set_process(&place->state);
}

static __always_inline void on_segments_established(struct sock *sk, int oldstate)
{
	__u64 address = address_of(sk);
	struct tracked_socket *place = bpf_map_lookup_elem(&tracked, &address);
	struct socket_state *state;
	struct differences none = {};
	struct flow_event *event;
	__u64 now = bpf_ktime_get_ns();

	if (oldstate == STATE_SYN_RECV && (!place || place->state.established))
		place = track_segments(sk, ROLE_SERVER, false);
	if (!place && oldstate == STATE_SYN_SENT)
		place = track_segments(sk, ROLE_CLIENT, false);
	if (!place)
		return;
	state = &place->state;
	if (oldstate == STATE_SYN_SENT)
		state->handshake_us = (now - state->since_ns) / 1000;
	state->since_ns = now;
	state->established = 1;
	read_tuple(&state->tuple, sk);
	event = bpf_ringbuf_reserve(&tcpconn, sizeof(*event), 0);
	if (!event) {
		count_lost_flow(&none);
		return;
	}
	fill_flow(event, state, (struct tcp_sock *)sk, place->cookie, &none, STATE_ESTABLISHED, 0);
	bpf_ringbuf_submit(event, wakeup_flags(&tcpconn));
}

static __always_inline void on_segments_close(struct sock *sk, int oldstate)
{
	__u64 address = address_of(sk);
	struct tracked_socket *place = bpf_map_lookup_elem(&tracked, &address);
	struct socket_state *state;
	struct tcp_sock *tcp = (struct tcp_sock *)sk;
	struct differences changed = {};
	struct flow_event *event;
	struct totals now;
	__u8 events = FLOW_CLOSED;

	if (!place)
		return;
	state = &place->state;
	read_totals(&now, sk, tcp);
	take_differences(&changed, state, &now);
	changed.received = (__s64)(now.received - state->received);
	event = bpf_ringbuf_reserve(&tcpconn, sizeof(*event), 0);
	if (!event) {
		count_lost_flow(&changed);
	} else {
		int error = FIELD(sk, sk_err);

		if (!state->established) {
			events = FLOW_FAILED;
			read_tuple(&state->tuple, sk);
		} else if (was_reset(oldstate, error)) {
			events |= FLOW_RESET;
		}
		fill_flow(event, state, tcp, place->cookie, &changed, STATE_CLOSE, events);
		event->failure = error;
		bpf_ringbuf_submit(event, wakeup_flags(&tcpconn));
	}
	bpf_map_delete_elem(&tracked, &address);
}

/* A socket that comes into being: whatever is known of its address was another's. */
static __always_inline void forget(struct sock *sk)
{
	__u64 address = address_of(sk);

	bpf_map_delete_elem(&tracked, &address);
}

static __always_inline void on_segments_state(struct sock *sk, int oldstate, int newstate)
{
	if (!is_tcp(sk))
		return;
	if (newstate == STATE_LISTEN)
		emit_segments_listener(sk, EVENT_LISTEN);
	else if (oldstate == STATE_LISTEN && newstate == STATE_SYN_RECV)
		forget(sk);
	else if (oldstate == STATE_LISTEN && newstate == STATE_CLOSE)
		emit_segments_listener(sk, EVENT_UNLISTEN);
	else if (newstate == STATE_SYN_SENT) {
		if (!has_kprobes)
			on_segments_connect(sk);
	} else if (newstate == STATE_CLOSE)
		on_segments_close(sk, oldstate);
	else {
		if (newstate == STATE_ESTABLISHED || oldstate == STATE_SYN_RECV)
			on_segments_established(sk, oldstate);
		if (newstate == STATE_FIN_WAIT1 || newstate == STATE_LAST_ACK)
			on_segments_release(sk);
	}
}

/* For what on_segments_state() was not shown: see on_state_again() in state.h. */
static __always_inline void on_segments_state_again(struct sock *sk, int oldstate, int newstate)
{
	struct tracked_socket *place;
	__u64 address = address_of(sk);

	if (!is_tcp(sk))
		return;
	if (oldstate == STATE_LISTEN && newstate == STATE_SYN_RECV) {
		forget(sk);
	} else if (newstate == STATE_CLOSE) {
		/* Nothing is there any more if the first has seen it. */
		on_segments_close(sk, oldstate);
	} else if (newstate == STATE_ESTABLISHED || oldstate == STATE_SYN_RECV) {
		place = bpf_map_lookup_elem(&tracked, &address);
		if (!place || !place->state.established)
			on_segments_established(sk, oldstate);
	}
}

#endif
