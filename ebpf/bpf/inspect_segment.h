/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Segments of a connection: the received one that a program is shown, and those in flight.
 */
#ifndef FLOWTAP_INSPECT_SEGMENT_H
#define FLOWTAP_INSPECT_SEGMENT_H

#include "kernel.h"
#include "inspect_abi.h"

#define TCP_HEADER_BYTES 20
#define MOST_HEADER_BYTES 60

/* Flags of the TCP header, in its byte 13. */
#define TCP_FLAG_SYN 0x02
#define TCP_FLAG_RST 0x04
#define TCP_FLAG_ACK 0x10

/* Depth to which the retransmit queue is searched: a red-black tree of 65,535 segments has no leaf that is deeper. */
#define DEEPEST 32

/* Fields of a segment's header. */
struct received {
	__u32 sequence;
	__u32 header_bytes;
	__u32 payload;	       /* none, where TCP is going to reject it */
	bool is_acknowledging; /* of the head of the retransmit queue, if it is not forged */
};

/* Whether TCP will take in the data of a segment, as tcp_sequence() and tcp_ack() decide it: the tracepoint comes
 * before them, so anybody who knows the addresses and ports can make it fire. */
static __always_inline bool is_acceptable(struct tcp_sock *tcp, __u32 sequence, __u32 payload, const __u8 *header)
{
	__u32 expected = tcp->rcv_nxt;
	__s32 window = tcp->rcv_wup + tcp->rcv_wnd - expected;
	__s32 ahead = sequence - expected;
	__u32 acknowledged = bpf_ntohl(*(__u32 *)(header + 8));
	__s32 unsent = acknowledged - tcp->snd_nxt;
	__s32 behind = tcp->snd_una - acknowledged;
	__s64 most_behind = tcp->max_window;

	if ((header[13] & (TCP_FLAG_SYN | TCP_FLAG_RST | TCP_FLAG_ACK)) != TCP_FLAG_ACK)
		return false;
	if (ahead > (window > 0 ? window : 0) || (__s32)(ahead + payload) < 0)
		return false;
	return unsent <= 0 && behind <= most_behind;
}

/* Whether a segment acknowledges something that is in flight. */
static __always_inline bool is_acknowledging(struct tcp_sock *tcp, const __u8 *header)
{
	__u32 acknowledged = bpf_ntohl(*(__u32 *)(header + 8)) - tcp->snd_una;

	return (header[13] & (TCP_FLAG_SYN | TCP_FLAG_RST | TCP_FLAG_ACK)) == TCP_FLAG_ACK && acknowledged &&
	       acknowledged <= tcp->snd_nxt - tcp->snd_una;
}

static __always_inline bool read_received(struct received *received, struct sk_buff *skb, struct tcp_sock *tcp)
{
	__u8 header[TCP_HEADER_BYTES];

	if (bpf_probe_read_kernel(header, sizeof(header), skb->data))
		return false;
	received->sequence = bpf_ntohl(*(__u32 *)(header + 4));
	received->header_bytes = (header[12] >> 4) * 4;
	received->payload = skb->len > received->header_bytes ? skb->len - received->header_bytes : 0;
	if (received->payload && !is_acceptable(tcp, received->sequence, received->payload, header))
		received->payload = 0;
	received->is_acknowledging = is_acknowledging(tcp, header);
	return true;
}

/* The head of the retransmit queue: `highest_sack`, as long as nothing has been acknowledged out of order. */
static __always_inline struct sk_buff *oldest_sent(struct tcp_sock *tcp)
{
	if (!tcp->packets_out || tcp->sacked_out)
		return NULL;
	return tcp->highest_sack;
}

/* The end that opened the connection: its sequence numbers include the SYN. See totals.h; here the socket is locked,
 * and its FIN is not sent. */
static __always_inline __u8 read_role(struct tcp_sock *tcp)
{
	__s64 sequence = tcp->bytes_acked + (__s32)(tcp->snd_nxt - tcp->snd_una);
	__s64 surplus = sequence - (__s64)(tcp->bytes_sent - tcp->bytes_retrans);

	if (surplus == 1)
		return ROLE_CLIENT;
	return surplus == 0 ? ROLE_SERVER : ROLE_UNKNOWN;
}

static __always_inline __u64 payload_sent(struct tcp_sock *tcp)
{
	return tcp->bytes_sent - tcp->bytes_retrans;
}

/* The segment in flight that has the byte with this sequence number. */
static __always_inline struct sk_buff *in_flight(struct sock *sk, __u32 sequence)
{
	struct rb_node *node = sk->tcp_rtx_queue.rb_node;
	int depth;

#pragma clang loop unroll(disable)
	for (depth = 0; depth < DEEPEST && node; depth++) {
		/* rb_to_skb(): the node comes first. */
		struct sk_buff *skb = (struct sk_buff *)node;
		struct tcp_skb_cb *segment = (struct tcp_skb_cb *)&skb->cb;

		if ((__s32)(sequence - BPF_CORE_READ(segment, seq)) < 0)
			node = BPF_CORE_READ(node, rb_left);
		else if ((__s32)(sequence - BPF_CORE_READ(segment, end_seq)) >= 0)
			node = BPF_CORE_READ(node, rb_right);
		else
			return skb;
	}
	return NULL;
}

/* When a byte left first that was sent since the last look, in ns; 0 if no field has it. A retransmission replaces
 * the time of its segment, but not that at which data left with nothing in flight (tcp_rate_skb_sent()). Where
 * something was in flight, it is the time of the last delivery before: each acknowledgement passes the tracepoint
 * before TCP takes it in, so at the first look none has come since. Other times of the socket move with keepalives,
 * acknowledgements and probes. */
static __always_inline __u64 first_sent_ns(struct sock *sk, struct tcp_sock *tcp, __u32 sequence)
{
	struct sk_buff *skb = in_flight(sk, sequence);
	struct tcp_skb_cb *segment;

	/* It was acknowledged before the connection was established, or the queue is emptied. The time is 0 until
	 * data has left with nothing in flight, not even a SYN. */
	if (!skb)
		return tcp->first_tx_mstamp * 1000;
	segment = (struct tcp_skb_cb *)&skb->cb;
	if (BPF_CORE_READ(segment, sacked) & TCPCB_EVER_RETRANS)
		return tcp->delivered_mstamp * 1000;
	return BPF_CORE_READ(skb, skb_mstamp_ns);
}

/* When a request left that was delivered before the connection was established: with the SYN (Fast Open), whose time
 * no field keeps. The answer to it was the first delivery, and is the only sample of the round-trip time as long as
 * nothing else was delivered. 0, which is not a time, where there is none: the SYN was retransmitted. */
static __always_inline __u64 sent_with_syn_ns(struct tcp_sock *tcp)
{
	__u32 srtt_us = tcp->srtt_us >> 3;

	if (!srtt_us || tcp->total_retrans || tcp->delivered_mstamp <= srtt_us)
		return 0;
	return (tcp->delivered_mstamp - srtt_us) * 1000;
}

#endif
