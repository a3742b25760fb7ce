/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * The addresses of a connection on the wire, where they are not those of its socket: behind DNAT, masquerading,
 * REDIRECT.
 *
 * TCP keeps each segment in its retransmit queue until it is acknowledged, and passes on a clone that shares the
 * bytes of the headers with it. NAT writes into these bytes in place (nf_nat_manip_pkt(), bpf_skb_store_bytes():
 * skb_ensure_writable() lets a clone's header be written, as the original has given it up: skb_clone_writable()). So
 * the bytes before the data of the queue's head are the headers of the packet as it was when it left this machine, or
 * the last copy of it was made.
 *
 * A scan reads them without the socket's lock, so the segment may be freed meanwhile, and its memory be another's. So
 * everything is read by bpf_probe_read_kernel(), and counts only if the headers are those of this segment: by
 * version, protocol, length of the header, the sequence number that the queue has for it, a place of that within what
 * is in flight, and an acknowledgement of what this socket has received. Addresses that differ from the socket's must
 * be the same at a second read. No other bytes of a packet are read, in particular no payload.
 */
#ifndef FLOWTAP_TRANSLATION_H
#define FLOWTAP_TRANSLATION_H

#include "flow.h"

/* Whether headers are read at all. Set by the loader. */
const volatile bool reads_translation = false;

/* Lengths of headers. TCP's is that of a data segment: with time stamps or without; one that has further options,
 * such as SACK blocks, is left to a later look. */
enum {
	IPV4_BYTES = 20,
	IPV6_BYTES = 40,
	TCP_BYTES = 20,
	TCP_BYTES_WITH_STAMPS = 32,
	HEADERS_BYTES = IPV6_BYTES + TCP_BYTES_WITH_STAMPS,
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

static __always_inline bool is_mapped(struct sock *sk)
{
	struct in6_addr peer = {};

	if (!bpf_core_field_exists(sk->__sk_common.skc_v6_daddr))
		return false;
	BPF_CORE_READ_INTO(&peer, sk, __sk_common.skc_v6_daddr);
	return !peer.in6_u.u6_addr32[0] && !peer.in6_u.u6_addr32[1] && peer.in6_u.u6_addr32[2] == bpf_htonl(0xffff);
}

/* Whether the bytes at `header` are the header of a segment with this sequence number. */
static __always_inline bool is_header_of(const __u8 *header, __u32 sequence, __u32 bytes, __u32 received)
{
	return *(__u32 *)(header + 4) == bpf_htonl(sequence) &&
	       received - bpf_ntohl(*(__u32 *)(header + 8)) < ACKNOWLEDGED_WITHIN && (header[12] >> 4) * 4 == bytes;
}

/* Addresses and ports of the packet whose TCP header is at `header`; false if an IP header does not stand before it.
 */
static __always_inline bool read_header_tuple(struct tuple *sent, const __u8 *header, bool is_ipv4)
{
	__builtin_memset(sent, 0, sizeof(*sent));
	if (is_ipv4) {
		const __u8 *ip = header - IPV4_BYTES;

		if (ip[0] != IPV4_VERSION_AND_LENGTH || ip[9] != IPPROTO_TCP)
			return false;
		sent->family = AF_INET;
		__builtin_memcpy(sent->local_addr, ip + 12, 4);
		__builtin_memcpy(sent->remote_addr, ip + 16, 4);
	} else {
		const __u8 *ip = header - IPV6_BYTES;

		if (ip[0] >> 4 != 6 || ip[6] != IPPROTO_TCP)
			return false;
		sent->family = AF_INET6;
		__builtin_memcpy(sent->local_addr, ip + 8, 16);
		__builtin_memcpy(sent->remote_addr, ip + 24, 16);
	}
	sent->local_port = bpf_ntohs(*(__u16 *)header);
	sent->remote_port = bpf_ntohs(*(__u16 *)(header + 2));
	return true;
}

/* Whether the addresses and ports are the socket's own. */
static __always_inline bool is_as_socket(const struct tuple *sent, struct sock *sk)
{
	struct tuple own;

	read_tuple(&own, sk);
	if (own.local_port != sent->local_port || own.remote_port != sent->remote_port)
		return false;
	if (sent->family == AF_INET)
		return *(__u32 *)sent->local_addr == FIELD(sk, __sk_common.skc_rcv_saddr) &&
		       *(__u32 *)sent->remote_addr == FIELD(sk, __sk_common.skc_daddr);
	for (int word = 0; word < 2; word++)
		if (((__u64 *)sent->local_addr)[word] != ((__u64 *)own.local_addr)[word] ||
		    ((__u64 *)sent->remote_addr)[word] != ((__u64 *)own.remote_addr)[word])
			return false;
	return true;
}

/* Reads the headers of the retransmit queue's head. That is `highest_sack` as long as nothing in the queue has been
 * acknowledged out of order. */
static __noinline int read_sent(struct tuple *sent, struct sock *sk, struct tcp_sock *tcp)
{
	__u8 headers[HEADERS_BYTES] __attribute__((aligned(8)));
	__u32 bytes = FIELD(tcp, tcp_header_len);
	struct sk_buff *head = FIELD(tcp, highest_sack);
	__u32 sequence = 0, first = FIELD(tcp, snd_una), received = FIELD(tcp, rcv_nxt);
	const unsigned char *data;
	bool is_ipv4, is_found;

	if (!head)
		return SENT_UNREADABLE;
	data = FIELD(head, data);
	if (bpf_probe_read_kernel(&sequence, sizeof(sequence), &head->cb) ||
	    bpf_probe_read_kernel(headers, sizeof(headers), data - HEADERS_BYTES))
		return SENT_UNREADABLE;
	if (sequence - first >= FIELD(tcp, snd_nxt) - first || head != FIELD(tcp, highest_sack))
		return SENT_UNREADABLE;
	is_ipv4 = FIELD(sk, __sk_common.skc_family) == AF_INET || is_mapped(sk);
	if (bytes == TCP_BYTES_WITH_STAMPS)
		is_found = is_header_of(headers + IPV6_BYTES, sequence, bytes, received) &&
			   read_header_tuple(sent, headers + IPV6_BYTES, is_ipv4);
	else if (bytes == TCP_BYTES)
		is_found = is_header_of(headers + HEADERS_BYTES - TCP_BYTES, sequence, bytes, received) &&
			   read_header_tuple(sent, headers + HEADERS_BYTES - TCP_BYTES, is_ipv4);
	else
		return SENT_UNREADABLE;
	if (!is_found)
		return SENT_UNREADABLE;
	return is_as_socket(sent, sk) ? SENT_AS_SOCKET : SENT_TRANSLATED;
}

/* Whether two reads are of the same addresses: NAT may have been at work during one of them. */
static __always_inline bool is_same_tuple(const struct tuple *one, const struct tuple *other)
{
	for (int word = 0; word < 5; word++)
		if (((const __u64 *)one)[word] != ((const __u64 *)other)[word])
			return false;
	return true;
}

/* Whether there may be headers that nothing is known of yet. */
static __always_inline bool is_translation_open(const struct socket_state *state, struct tcp_sock *tcp)
{
	return reads_translation && !has_mark(state, MARK_SENT_READ) && FIELD(tcp, snd_una) != FIELD(tcp, snd_nxt);
}

/*
 * Looks at what a connection has in flight; returns whether `sent` is to be reported, after which follows
 * set_marks(MARK_SENT_READ | MARK_TRANSLATED). Packets that have the socket's own addresses may not have come to the
 * NAT yet: that counts only if they are found so a second time.
 */
static __always_inline bool look_at_sent(struct tuple *sent, struct sock *sk, struct tcp_sock *tcp,
					 struct socket_state *state)
{
	struct tuple again;
	int found = read_sent(sent, sk, tcp);

	if (found == SENT_AS_SOCKET)
		set_marks(state, has_mark(state, MARK_SENT_AS_SOCKET) ? MARK_SENT_READ : MARK_SENT_AS_SOCKET);
	return found == SENT_TRANSLATED && read_sent(&again, sk, tcp) == SENT_TRANSLATED &&
	       is_same_tuple(sent, &again);
}

static __always_inline void fill_translation(struct translation_event *event, const struct tuple *sent, __u64 cookie)
{
	event->type = EVENT_TRANSLATION;
	event->pad = 0;
	event->cookie = cookie;
	event->sent = *sent;
}

/* Reports the addresses that a connection's packets have, once they are known, before the record that follows.
 * Without room in the ring a later look does. */
#define REPORT_TRANSLATION(ring_, sk_, tcp_, state_, cookie_)                                                        \
	do {                                                                                                         \
		struct tuple sent_ = {};                                                                             \
		struct translation_event *event_;                                                                    \
                                                                                                                     \
		if (!is_translation_open(state_, tcp_) || !look_at_sent(&sent_, sk_, tcp_, state_))                  \
			break;                                                                                       \
		event_ = bpf_ringbuf_reserve(&(ring_), sizeof(*event_), 0);                                          \
		if (!event_)                                                                                         \
			break;                                                                                       \
		fill_translation(event_, &sent_, cookie_);                                                           \
		bpf_ringbuf_submit(event_, BPF_RB_NO_WAKEUP);                                                        \
		set_marks(state_, MARK_SENT_READ | MARK_TRANSLATED);                                                 \
	} while (0)

#endif
