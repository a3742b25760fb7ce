/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * The headers of what a socket has in flight, as its packets have them on the wire.
 *
 * TCP keeps each segment in its retransmit queue until it is acknowledged, and passes on a clone that shares the
 * bytes of the headers with it. NAT writes into these bytes in place (nf_nat_manip_pkt(), bpf_skb_store_bytes():
 * skb_ensure_writable() lets a clone's header be written, as the original has given it up: skb_clone_writable()). So
 * the bytes before the data of the queue's head are the headers of the packet as it was when it left this machine, or
 * the last copy of it was made.
 *
 * They may be read without the socket's lock, so the segment may be freed meanwhile, and its memory be another's. So
 * everything is read by bpf_probe_read_kernel(), and counts only if the headers are those of this segment: by
 * version, protocol, length of the header, the sequence number that the queue has for it, a place of that within what
 * is in flight, and an acknowledgement of what this socket has received. Addresses that differ from the socket's must
 * be the same at a second read. No other bytes of a packet are read, in particular no payload.
 */
#ifndef FLOWTAP_SENT_HEADERS_H
#define FLOWTAP_SENT_HEADERS_H

#include "kernel.h"
#include "abi.h"

/* Lengths of headers. TCP's is that of a data segment: with time stamps or without; one that has further options,
 * such as SACK blocks, is left to a later look. */
enum {
	IPV4_BYTES = 20,
	IPV6_BYTES = 40,
	TCP_BYTES = 20,
	TCP_BYTES_WITH_STAMPS = 32,
};

/* First byte of an IPv4 header without options. */
#define IPV4_VERSION_AND_LENGTH 0x45

/* An answer may acknowledge data that is that far behind what has been received since. */
#define ACKNOWLEDGED_WITHIN (1u << 30)

enum sent_headers {
	SENT_UNREADABLE, /* nothing in flight, or not this segment's headers */
	SENT_AS_SOCKET,
	SENT_TRANSLATED,
};

/* One word of an address of the socket, without the stack that bpf_core_read() takes for the whole. */
#define IPV6_WORD(sk_, address_, word_) FIELD(sk_, __sk_common.address_.in6_u.u6_addr32[word_])

static __always_inline bool is_mapped(struct sock *sk)
{
	if (!bpf_core_field_exists(sk->__sk_common.skc_v6_daddr))
		return false;
	return !IPV6_WORD(sk, skc_v6_daddr, 0) && !IPV6_WORD(sk, skc_v6_daddr, 1) &&
	       IPV6_WORD(sk, skc_v6_daddr, 2) == bpf_htonl(0xffff);
}

/* Whether the bytes at `header` are the header of a segment with this sequence number. */
static __always_inline bool is_header_of(const __u8 *header, __u32 sequence, __u32 bytes, __u32 received)
{
	return *(__u32 *)(header + 4) == bpf_htonl(sequence) &&
	       received - bpf_ntohl(*(__u32 *)(header + 8)) < ACKNOWLEDGED_WITHIN && (header[12] >> 4) * 4 == bytes;
}

static __always_inline bool is_same_address(const struct tuple *sent, struct sock *sk)
{
	const __u32 *local = (const __u32 *)sent->local_addr, *remote = (const __u32 *)sent->remote_addr;

	if (sent->family == AF_INET)
		return local[0] == FIELD(sk, __sk_common.skc_rcv_saddr) &&
		       remote[0] == FIELD(sk, __sk_common.skc_daddr);
	if (!bpf_core_field_exists(sk->__sk_common.skc_v6_daddr))
		return false;
	return local[0] == IPV6_WORD(sk, skc_v6_rcv_saddr, 0) && local[1] == IPV6_WORD(sk, skc_v6_rcv_saddr, 1) &&
	       local[2] == IPV6_WORD(sk, skc_v6_rcv_saddr, 2) && local[3] == IPV6_WORD(sk, skc_v6_rcv_saddr, 3) &&
	       remote[0] == IPV6_WORD(sk, skc_v6_daddr, 0) && remote[1] == IPV6_WORD(sk, skc_v6_daddr, 1) &&
	       remote[2] == IPV6_WORD(sk, skc_v6_daddr, 2) && remote[3] == IPV6_WORD(sk, skc_v6_daddr, 3);
}

/* Whether the addresses and ports are the socket's own. `place` is one for two bytes: the stack is short. */
static __always_inline bool is_as_socket(const struct tuple *sent, struct sock *sk, void *place)
{
	if (bpf_core_read(place, sizeof(__be16), &((struct inet_sock *)sk)->inet_sport))
		return true;
	return sent->local_port == bpf_ntohs(*(__be16 *)place) &&
	       sent->remote_port == bpf_ntohs(FIELD(sk, __sk_common.skc_dport)) && is_same_address(sent, sk);
}

/* Addresses of the packet whose TCP header is at `segment`; false if an IP header does not stand before it. `header`
 * is the place that it is read into. */
static __always_inline bool read_addresses(struct tuple *sent, __u8 *header, const unsigned char *segment,
					   bool is_ipv4)
{
	if (is_ipv4) {
		if (bpf_probe_read_kernel(header, IPV4_BYTES, segment - IPV4_BYTES) ||
		    header[0] != IPV4_VERSION_AND_LENGTH || header[9] != IPPROTO_TCP)
			return false;
		sent->family = AF_INET;
		__builtin_memcpy(sent->local_addr, header + 12, 4);
		__builtin_memcpy(sent->remote_addr, header + 16, 4);
	} else {
		if (bpf_probe_read_kernel(header, IPV6_BYTES, segment - IPV6_BYTES) || header[0] >> 4 != 6 ||
		    header[6] != IPPROTO_TCP)
			return false;
		sent->family = AF_INET6;
		__builtin_memcpy(sent->local_addr, header + 8, 16);
		__builtin_memcpy(sent->remote_addr, header + 24, 16);
	}
	return true;
}

/* Reads the headers of the retransmit queue's head. That is `highest_sack` as long as nothing in the queue has been
 * acknowledged out of order. */
static __always_inline int read_sent_headers(struct tuple *sent, struct sock *sk, struct tcp_sock *tcp)
{
	__u8 header[IPV6_BYTES] __attribute__((aligned(8)));
	__u32 bytes = FIELD(tcp, tcp_header_len);
	struct sk_buff *head = FIELD(tcp, highest_sack);
	__u32 sequence = 0, first = FIELD(tcp, snd_una);
	const unsigned char *segment;

	__builtin_memset(sent, 0, sizeof(*sent));
	if (!head || (bytes != TCP_BYTES && bytes != TCP_BYTES_WITH_STAMPS))
		return SENT_UNREADABLE;
	segment = FIELD(head, data) - bytes;
	if (bpf_probe_read_kernel(&sequence, sizeof(sequence), &head->cb) ||
	    bpf_probe_read_kernel(header, TCP_BYTES, segment))
		return SENT_UNREADABLE;
	if (sequence - first >= FIELD(tcp, snd_nxt) - first ||
	    !is_header_of(header, sequence, bytes, FIELD(tcp, rcv_nxt)))
		return SENT_UNREADABLE;
	sent->local_port = bpf_ntohs(*(__u16 *)header);
	sent->remote_port = bpf_ntohs(*(__u16 *)(header + 2));
	if (!read_addresses(sent, header, segment, FIELD(sk, __sk_common.skc_family) == AF_INET || is_mapped(sk)) ||
	    head != FIELD(tcp, highest_sack))
		return SENT_UNREADABLE;
	return is_as_socket(sent, sk, header) ? SENT_AS_SOCKET : SENT_TRANSLATED;
}

/* Whether two reads are of the same addresses: NAT may have been at work during one of them. */
static __always_inline bool is_same_tuple(const struct tuple *one, const struct tuple *other)
{
	for (int word = 0; word < 5; word++)
		if (((const __u64 *)one)[word] != ((const __u64 *)other)[word])
			return false;
	return true;
}

static __always_inline bool is_sent_the_same(const struct tuple *before, struct sock *sk, struct tcp_sock *tcp)
{
	struct tuple again;

	return read_sent_headers(&again, sk, tcp) == SENT_TRANSLATED && is_same_tuple(before, &again);
}

#endif
