/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * First bytes of a connection, handed over with the segment that has them.
 */
#ifndef FLOWTAP_INSPECT_FIRST_BYTES_H
#define FLOWTAP_INSPECT_FIRST_BYTES_H

#include "inspect_maps.h"
#include "inspect_segment.h"

/* Flags of bpf_skb_output(): this CPU's buffer, and so many bytes of the packet. */
#define OUTPUT_BYTES(bytes_) (BPF_F_CURRENT_CPU | (__u64)(bytes_) << 32)

/* Bytes of a segment that are handed over: from what a client sends, or a server. */
static __always_inline __u32 most_bytes(bool is_clients, __u32 wants)
{
	if (wants & WANT_FIRST_BYTES)
		return is_clients ? FIRST_BYTES : ANSWER_BYTES;
	return is_clients ? CLIENT_HELLO_BYTES : SERVER_HELLO_BYTES;
}

static __always_inline void hand_over_received(struct inspect_state *state, struct sk_buff *skb, struct tcp_sock *tcp,
					       const struct received *received, __u64 cookie, __u32 wants,
					       struct inspect_seen *seen)
{
	__s32 ahead = received->sequence - tcp->rcv_nxt;
	__u64 offset = tcp->bytes_received + ahead;
	struct first_bytes event = {.cookie = cookie, .direction = FIRST_RECEIVED, .role = state->role};
	__u32 most = most_bytes(state->role != ROLE_CLIENT, wants);
	__u64 bytes = skb->len;

	if (ahead < 0)
		return;
	if (offset >= FIRST_BYTES) {
		state->received_left = 0;
		return;
	}
	state->received_left--;
	if (bytes > received->header_bytes + most)
		bytes = received->header_bytes + most;
	event.offset = offset;
	event.skip = received->header_bytes;
	event.captured = bytes - received->header_bytes;
	if (bpf_skb_output(skb, &first_bytes, OUTPUT_BYTES(bytes), &event, sizeof(event)))
		seen->first_bytes_lost++;
	else
		seen->handed_over++;
}

static __always_inline void hand_over_sent(struct inspect_state *state, struct tcp_sock *tcp, __u64 cookie,
					   __u32 wants, struct inspect_seen *seen)
{
	struct sk_buff *oldest = oldest_sent(tcp);
	struct first_bytes event = {.cookie = cookie, .direction = FIRST_SENT, .role = state->role};
	__u32 sequence, offset;
	__u64 bytes;

	if (!oldest || bpf_probe_read_kernel(&sequence, sizeof(sequence), &oldest->cb))
		return;
	offset = sequence - tcp->snd_una + (__u32)tcp->bytes_acked - (state->role == ROLE_CLIENT);
	if (offset < state->next_sent)
		return;
	if (offset > state->next_sent || offset >= FIRST_BYTES) {
		state->sent_left = 0;
		return;
	}
	bytes = oldest->len;
	/* The FIN has no bytes. */
	if (!bytes)
		return;
	state->sent_left--;
	state->next_sent = offset + bytes;
	if (bytes > most_bytes(state->role != ROLE_SERVER, wants))
		bytes = most_bytes(state->role != ROLE_SERVER, wants);
	event.offset = offset;
	event.captured = bytes;
	if (bpf_skb_output(oldest, &first_bytes, OUTPUT_BYTES(bytes), &event, sizeof(event)))
		seen->first_bytes_lost++;
	else
		seen->handed_over++;
}

#endif
