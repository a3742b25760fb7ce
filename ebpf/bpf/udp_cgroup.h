/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * A datagram from the packet that a program of a cgroup sees: from the IP header on, on its way out before it is
 * cut to fragments, or in before it is put into the socket's receive buffer.
 */
#ifndef FLOWTAP_UDP_CGROUP_H
#define FLOWTAP_UDP_CGROUP_H

#include "udp_count.h"

/* Key: 0 for datagrams that are sent, 1 for the others. Value: a pointer that the verifier takes for a number when it
 * has been here, so that the bytes after it can be read. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u64);
} addresses SEC(".maps");

/* Whether the packet's socket is one of UDP: a raw socket gets a copy of each datagram, and may send any packet. */
static __always_inline bool is_of_udp(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;

	sk = sk ? bpf_sk_fullsock(sk) : NULL;
	return sk && sk->type == SOCK_DGRAM && (sk->protocol == IPPROTO_UDP || sk->protocol == IPPROTO_UDPLITE);
}

/* The packet's socket, or NULL if another thread or interrupt came between. */
static __always_inline struct sock *socket_of(struct __sk_buff *skb, __u64 cookie, bool sent)
{
	struct bpf_sock *known = skb->sk;
	__u32 index = sent ? 0 : 1;
	volatile __u64 *address = bpf_map_lookup_elem(&addresses, &index);
	struct sock *sk;

	if (!known || !address)
		return NULL;
	*address = (__u64)known;
	sk = (struct sock *)*address;
	return BPF_CORE_READ(sk, __sk_common.skc_cookie.counter) == (__s64)cookie ? sk : NULL;
}

/* Skips IPv6's extension headers. Returns the offset of the UDP header, or 0 if there is none. */
static __always_inline __u32 skip_extensions(struct __sk_buff *skb, __u8 *protocol)
{
	__u32 offset = sizeof(struct ipv6_header);
	struct {
		__u8 nexthdr;
		__u8 units;
		__be16 fragment;
	} extension;

	for (int i = 0; i < 6; i++) {
		__u8 next = *protocol;

		if (next == IPPROTO_UDP || next == IPPROTO_UDPLITE)
			return offset;
		if (next != IPPROTO_HOPOPTS && next != IPPROTO_ROUTING && next != IPPROTO_DSTOPTS &&
		    next != IPPROTO_FRAGMENT)
			return 0;
		if (bpf_skb_load_bytes(skb, offset, &extension, sizeof(extension)))
			return 0;
		/* Not the first fragment: no ports. */
		if (next == IPPROTO_FRAGMENT && extension.fragment & bpf_htons(0xfff8))
			return 0;
		*protocol = extension.nexthdr;
		offset += next == IPPROTO_FRAGMENT ? 8 : (extension.units + 1) * 8;
	}
	return 0;
}

/* Fills addresses and the protocol. Returns the offset of the UDP header, or 0 if there is none. */
static __always_inline __u32 read_packet(struct datagram *datagram, struct __sk_buff *skb)
{
	struct udp_key *key = &datagram->key;

	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		struct ipv4_header ip;

		if (bpf_skb_load_bytes(skb, 0, &ip, sizeof(ip)) ||
		    (ip.protocol != IPPROTO_UDP && ip.protocol != IPPROTO_UDPLITE))
			return 0;
		key->family = AF_INET;
		key->protocol = ip.protocol;
		*(__u32 *)key->remote_addr = datagram->sent ? ip.daddr : ip.saddr;
		*(__u32 *)datagram->local_addr = datagram->sent ? ip.saddr : ip.daddr;
		return (ip.version_ihl & 15) * 4;
	}
	if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		struct ipv6_header ip;

		if (bpf_skb_load_bytes(skb, 0, &ip, sizeof(ip)))
			return 0;
		key->family = AF_INET6;
		key->protocol = ip.nexthdr;
		__builtin_memcpy(key->remote_addr, datagram->sent ? ip.daddr : ip.saddr, 16);
		__builtin_memcpy(datagram->local_addr, datagram->sent ? ip.saddr : ip.daddr, 16);
		return skip_extensions(skb, &key->protocol);
	}
	return 0;
}

static __always_inline void load_payload(struct dns_event *event, struct __sk_buff *skb, __u32 payload, __u32 room)
{
	__u32 bytes = event->payload_bytes;

	if (bytes > room)
		bytes = room;
	if (bytes) {
		/* The same number, 1 to `room`, a power of two: the helper takes no 0, and the verifier does not
		 * learn from a comparison with 0 before Linux 6.8. */
		barrier_var(bytes);
		bytes = ((bytes - 1) & (room - 1)) + 1;
		if (bpf_skb_load_bytes(skb, payload, event->payload, bytes))
			bytes = 0;
	}
	event->captured_bytes = bytes;
	if (bytes < event->payload_bytes)
		event->flags |= DNS_CUT;
}

static __always_inline void hand_on_packet(const struct datagram *datagram, struct __sk_buff *skb, struct sock *sk,
					   __u32 payload)
{
	struct dns_event *event;

	if (datagram->bytes <= DNS_SHORT_BYTES) {
		event = bpf_ringbuf_reserve(&dns, DNS_EVENT_BYTES + DNS_SHORT_BYTES, 0);
		if (event) {
			fill_dns(event, datagram, sk);
			load_payload(event, skb, payload, DNS_SHORT_BYTES);
			submit_dns(event);
			return;
		}
	} else {
		event = bpf_ringbuf_reserve(&dns, sizeof(*event), 0);
		if (event) {
			fill_dns(event, datagram, sk);
			load_payload(event, skb, payload, DNS_CAPTURE_BYTES);
			submit_dns(event);
			return;
		}
	}
	COUNT_SEEN(dns_lost, 1);
}

static __always_inline void count_packet(struct __sk_buff *skb, bool sent)
{
	struct datagram datagram = {.sent = sent, .in_process = sent};
	struct udp_ports ports;
	struct sock *sk;
	__u32 offset;

	if (!is_of_udp(skb))
		return;
	offset = read_packet(&datagram, skb);
	if (!offset)
		return;
	if (bpf_skb_load_bytes(skb, offset, &ports, sizeof(ports))) {
		COUNT_SEEN(unparsed, 1);
		return;
	}
	offset += UDP_HEADER_BYTES;
	datagram.key.local_port = bpf_ntohs(sent ? ports.source : ports.dest);
	datagram.key.remote_port = bpf_ntohs(sent ? ports.dest : ports.source);
	datagram.key.socket = bpf_get_socket_cookie(skb);
	datagram.bytes = skb->len - offset;
	datagram.datagrams = skb->gso_segs ? skb->gso_segs : 1;
	bpf_skb_load_bytes(skb, offset, datagram.first_bytes, sizeof(datagram.first_bytes));
	sk = socket_of(skb, datagram.key.socket, sent);
	count(&datagram, sk);
	if (is_dns(&datagram))
		hand_on_packet(&datagram, skb, sk, offset);
}

#endif
