/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Not flowtap's: the usual design, to compare with. A program on every packet that a device receives, which counts
 * packets and IP bytes per 5-tuple in a table. It is the least that such a program can do: no timestamps, no flags,
 * no sampling.
 *
 *   count_packet   tc ingress   -> flows (LRU hash)
 */
#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/in.h>
#include <linux/pkt_cls.h>
#include <linux/tcp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

/* IPv4 in the last four bytes of an address. */
struct flow {
	__u8 source[16];
	__u8 destination[16];
	__u16 source_port;
	__u16 destination_port;
	__u32 protocol;
};

struct counts {
	__u64 packets;
	__u64 bytes;
};

/* Key: a 5-tuple. Value: what was seen of it. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 100000);
	__type(key, struct flow);
	__type(value, struct counts);
} flows SEC(".maps");

/* Fills `flow`; false for what is not TCP over IP. */
static __always_inline bool parse(struct flow *flow, struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct ethhdr *ether = data;
	struct tcphdr *tcp;

	if ((void *)(ether + 1) > end)
		return false;
	if (ether->h_proto == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip = (void *)(ether + 1);

		if ((void *)(ip + 1) > end || ip->protocol != IPPROTO_TCP)
			return false;
		*(__u32 *)&flow->source[12] = ip->saddr;
		*(__u32 *)&flow->destination[12] = ip->daddr;
		tcp = (void *)ip + ip->ihl * 4;
	} else if (ether->h_proto == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr *ip = (void *)(ether + 1);

		if ((void *)(ip + 1) > end || ip->nexthdr != IPPROTO_TCP)
			return false;
		__builtin_memcpy(flow->source, &ip->saddr, sizeof(flow->source));
		__builtin_memcpy(flow->destination, &ip->daddr, sizeof(flow->destination));
		tcp = (void *)(ip + 1);
	} else {
		return false;
	}
	if ((void *)(tcp + 1) > end)
		return false;
	flow->source_port = bpf_ntohs(tcp->source);
	flow->destination_port = bpf_ntohs(tcp->dest);
	flow->protocol = IPPROTO_TCP;
	return true;
}

SEC("classifier")
int count_packet(struct __sk_buff *skb)
{
	struct counts first = {.packets = 1, .bytes = skb->len - sizeof(struct ethhdr)};
	struct flow flow = {};
	struct counts *counts;

	if (!parse(&flow, skb))
		return TC_ACT_UNSPEC;
	counts = bpf_map_lookup_elem(&flows, &flow);
	if (counts) {
		__sync_fetch_and_add(&counts->packets, 1);
		__sync_fetch_and_add(&counts->bytes, first.bytes);
	} else {
		bpf_map_update_elem(&flows, &flow, &first, BPF_ANY);
	}
	return TC_ACT_UNSPEC;
}

char bpf_license[] SEC("license") = "Dual BSD/GPL";
