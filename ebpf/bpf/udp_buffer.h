/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * A datagram from the kernel's buffer, as the hooks of functions have it: offsets are from `head`, and count headers
 * that have been taken off already.
 */
#ifndef FLOWTAP_UDP_BUFFER_H
#define FLOWTAP_UDP_BUFFER_H

#include "udp_count.h"

/* include/linux/socket.h. */
#define MSG_PEEK 0x2
#define MSG_ERRQUEUE 0x2000

static __always_inline bool is_udp(struct sock *sk)
{
	__u16 protocol = BPF_CORE_READ(sk, sk_protocol);

	/* A raw socket may have the protocol as well. */
	return (protocol == IPPROTO_UDP || protocol == IPPROTO_UDPLITE) && BPF_CORE_READ(sk, sk_type) == SOCK_DGRAM;
}

/* ::ffff:a.b.c.d is a.b.c.d: the same peer by another socket's family. */
static __always_inline void fold_mapped(struct datagram *datagram)
{
	__u8 *remote = datagram->key.remote_addr, *local = datagram->local_addr;

	if (*(__u64 *)remote || *(__u32 *)(remote + 8) != bpf_htonl(0xffff))
		return;
	*(__u32 *)remote = *(__u32 *)(remote + 12);
	*(__u64 *)(remote + 8) = 0;
	*(__u32 *)local = *(__u32 *)(local + 12);
	*(__u64 *)(local + 8) = 0;
	datagram->key.family = AF_INET;
}

static __always_inline __u32 data_offset(struct sk_buff___udp *skb)
{
	return BPF_CORE_READ(skb, data) - BPF_CORE_READ(skb, head);
}

/* Addresses and ports, and how many datagrams there are in the buffer. */
static __always_inline bool read_headers(struct datagram *datagram, struct sk_buff___udp *skb, struct sock *sk)
{
	unsigned char *head = BPF_CORE_READ(skb, head);
	unsigned char *network = head + BPF_CORE_READ(skb, network_header);
	struct skb_shared_info *shared = (void *)(head + BPF_CORE_READ(skb, end));
	struct udp_key *key = &datagram->key;
	struct udp_ports ports;
	__u8 version;

	if (bpf_probe_read_kernel(&version, sizeof(version), network) ||
	    bpf_probe_read_kernel(&ports, sizeof(ports), head + BPF_CORE_READ(skb, transport_header)))
		goto unparsed;
	if (version >> 4 == 4) {
		struct ipv4_header ip;

		if (bpf_probe_read_kernel(&ip, sizeof(ip), network))
			goto unparsed;
		key->family = AF_INET;
		*(__u32 *)key->remote_addr = datagram->sent ? ip.daddr : ip.saddr;
		*(__u32 *)datagram->local_addr = datagram->sent ? ip.saddr : ip.daddr;
	} else {
		struct ipv6_header ip;

		if (bpf_probe_read_kernel(&ip, sizeof(ip), network))
			goto unparsed;
		key->family = AF_INET6;
		__builtin_memcpy(key->remote_addr, datagram->sent ? ip.daddr : ip.saddr, 16);
		__builtin_memcpy(datagram->local_addr, datagram->sent ? ip.saddr : ip.daddr, 16);
	}
	key->socket = (__u64)sk;
	key->protocol = BPF_CORE_READ(sk, sk_protocol);
	key->local_port = bpf_ntohs(datagram->sent ? ports.source : ports.dest);
	key->remote_port = bpf_ntohs(datagram->sent ? ports.dest : ports.source);
	datagram->datagrams = BPF_CORE_READ(shared, gso_segs);
	if (!datagram->datagrams)
		datagram->datagrams = 1;
	return true;
unparsed:
	COUNT_SEEN(unparsed, 1);
	return false;
}

/* The payload's bytes that are not in page fragments. */
static __always_inline __u32 linear_bytes(struct sk_buff___udp *skb, __u32 payload)
{
	__u32 end = data_offset(skb) + BPF_CORE_READ(skb, len) - BPF_CORE_READ(skb, data_len);

	return end > payload ? end - payload : 0;
}

static __always_inline void copy_payload(struct dns_event *event, const unsigned char *payload, __u32 bytes,
					 __u32 room)
{
	/* For the verifier, which has lost the bound. */
	if (!bytes || bytes > room || bpf_probe_read_kernel(event->payload, bytes, payload))
		bytes = 0;
	event->captured_bytes = bytes;
	if (bytes < event->payload_bytes)
		event->flags |= DNS_CUT;
	if (!bytes && event->payload_bytes) {
		event->flags |= DNS_UNREAD;
		COUNT_SEEN(dns_unread, 1);
	}
}

static __always_inline void hand_on_buffer(const struct datagram *datagram, struct sk_buff___udp *skb,
					   struct sock *sk, __u32 payload)
{
	const unsigned char *start = BPF_CORE_READ(skb, head) + payload;
	__u32 bytes = linear_bytes(skb, payload);
	struct dns_event *event;

	if (bytes <= DNS_SHORT_BYTES) {
		event = bpf_ringbuf_reserve(&dns, DNS_EVENT_BYTES + DNS_SHORT_BYTES, 0);
		if (event) {
			fill_dns(event, datagram, sk);
			copy_payload(event, start, bytes, DNS_SHORT_BYTES);
			submit_dns(event);
			return;
		}
	} else {
		event = bpf_ringbuf_reserve(&dns, sizeof(*event), 0);
		if (event) {
			if (bytes > DNS_CAPTURE_BYTES)
				bytes = DNS_CAPTURE_BYTES;
			fill_dns(event, datagram, sk);
			copy_payload(event, start, bytes, DNS_CAPTURE_BYTES);
			submit_dns(event);
			return;
		}
	}
	COUNT_SEEN(dns_lost, 1);
}

/* Counts a buffer whose payload begins at `payload`, and hands it on if it is DNS. */
static __always_inline void count_buffer(struct datagram *datagram, struct sk_buff___udp *skb, struct sock *sk,
					 __u32 payload)
{
	if (linear_bytes(skb, payload) >= sizeof(datagram->first_bytes))
		bpf_probe_read_kernel(datagram->first_bytes, sizeof(datagram->first_bytes),
				      BPF_CORE_READ(skb, head) + payload);
	count(datagram, sk);
	if (is_dns(datagram))
		hand_on_buffer(datagram, skb, sk, payload);
}

#endif
