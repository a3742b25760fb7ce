/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * A received segment, as the tracepoint tcp_probe shows it: before TCP has taken it in.
 */
#ifndef FLOWTAP_SEGMENT_H
#define FLOWTAP_SEGMENT_H

#include "flow.h"

/* A connection that only sends gets acknowledgements without payload, which make no record: its sent bytes are
 * reported this often. */
#define SENDER_REPORT_NS 1000000000ULL

/* A segment's sequence range and length. */
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

/* Bytes that the socket will have received once it has taken the segment in: a duplicate adds
 * nothing, and data ahead of a gap is counted when the gap is closed. Sequence numbers wrap, so
 * they are compared by their differences. */
static __always_inline __u64 received_with(const struct segment *segment, const struct totals *now,
					   struct tcp_sock *tcp)
{
	__u32 expected = FIELD(tcp, rcv_nxt);
	__s32 gap = (__s32)(segment->sequence - expected);
	__s32 fresh = (__s32)(segment->sequence + segment->payload - expected);

	return gap <= 0 && fresh > 0 ? now->received + fresh : now->received;
}

#endif
