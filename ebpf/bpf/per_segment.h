/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Mode `events` on the maps of mode `sockets`: a record for each received data segment.
 *
 * In: segments from tcp_probe. Out: on `segments` a flow_event each. State changes report opened
 * and closed connections (state.h). The contents of a segment's record and its correction are as in
 * segments.h, which is for kernels without these maps. As both modes keep the same state of a
 * connection, a reload can change from one to the other.
 */
#ifndef FLOWTAP_PER_SEGMENT_H
#define FLOWTAP_PER_SEGMENT_H

#include "state.h"
#include "adopt.h"
#include "segment.h"
#include "translation.h"

/* Time in steps of 67 ms, which go round in 73 minutes. */
static __always_inline __u16 segment_tick(void)
{
	return bpf_ktime_get_ns() >> 26;
}

/* State of the connection of a segment. An unknown one was open before and no walk found it: it counts
 * from now on. Once there was no room it may as well be one of those: its close counts all of it. */
static __noinline struct socket_state *state_of_segment(struct sock *sk, struct tcp_sock *tcp)
{
	struct socket_state *state = tracked(sk);
	struct table_entry fresh = {.address = (__u64)sk};

	/* See destroy.h. */
	if (may_be_preempted && (state ? !has_mark(state, MARK_ESTABLISHED) : is_opening_missed(sk, tcp)))
		return count_missed(sk, state, tcp);
	if (state || has_untracked)
		return state;
	count_from_now(&fresh.state, sk, tcp, sk->__sk_common.skc_state);
	return find_or_make_state(sk, &fresh);
}

/* A separate function, as is state_of_segment(), for the stack: before Linux 6.13 a program and what it calls may
 * have 512 bytes together, of which report_translation() takes 160. */
static __noinline int report_segment(struct sock *sk, struct sk_buff *skb, struct tcp_sock *tcp,
				     struct socket_state *state, enum duty duty_)
{
	struct delta changed = {};
	struct flow_event *event;
	struct segment segment;
	struct totals now = {};
	__u16 tick;

	read_segment(&segment, skb);
	tick = segment_tick();
	read_totals(&now, sk, tcp);
	now.received = received_with(&segment, &now, tcp);
	/* The programs before these may have reported it: then it has brought nothing new. */
	if (duty_ == DUTY_FOLLOW)
		segment.payload = 0;
	if (!segment.payload && now.received == state->reported.received &&
	    ((now.sent == state->reported.sent && !chrono_type(tcp)) ||
	     (__u16)(tick - state->segment_tick) < (SENDER_REPORT_NS >> 26)))
		return 0;
	event = bpf_ringbuf_reserve(&segments, sizeof(*event), 0);
	if (!event) {
		/* Not moved on: the next record of this socket, or its close, reports these bytes. */
		COUNT_LOSS(segments, 1);
		return 0;
	}
	read_tuple(&event->tuple, sk);
	read_details(&now, tcp, chrono_type(tcp));
	move_totals(&changed, &state->reported, &now);
	state->segment_tick = tick;
	fill_flow(event, state, tcp, bpf_get_socket_cookie(sk), &changed, sk->__sk_common.skc_state, 0);
	bpf_ringbuf_submit(event, wakeup_flags(&segments));
	return 0;
}

static __always_inline void on_followed_segment(struct sock *sk, struct sk_buff *skb)
{
	struct tcp_sock *tcp = bpf_skc_to_tcp_sock(sk);
	struct socket_state *state;
	enum duty duty_ = duty();

	if (!tcp || !is_tcp(sk) || duty_ == DUTY_NONE)
		return;
	state = state_of_segment(sk, tcp);
	if (!state || !has_mark(state, MARK_ESTABLISHED) || has_mark(state, MARK_CLOSED))
		return;
	report_translation(&segments, sk, tcp, state, bpf_get_socket_cookie(sk));
	report_segment(sk, skb, tcp, state, duty_);
}

#endif
