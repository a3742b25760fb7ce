/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Not flowtap's: the usual design for UDP and DNS, to compare with. A program on every packet that a device sends or
 * receives, which counts packets and bytes per 5-tuple in a table, and of packets to and from port `dns_port` keeps
 * the time of each query until its answer comes.
 *
 *   count_datagram      tc ingress and egress   -> datagram_flows
 *   follow_dns          the same                -> datagram_flows, queries, transactions
 */
#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/in.h>
#include <linux/pkt_cls.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

struct flow {
	__u32 source;
	__u32 destination;
	__u16 source_port;
	__u16 destination_port;
	__u8 protocol;
	__u8 is_egress;
	__u16 pad;
};

struct counts {
	__u64 packets;
	__u64 bytes;
	__u64 first_ns;
	__u64 last_ns;
};

/* Key: a 5-tuple and a direction. Value: what was seen of it. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 100000);
	__type(key, struct flow);
	__type(value, struct counts);
} datagram_flows SEC(".maps");

/* Of the side that asks. */
struct query {
	__u32 client;
	__u32 server;
	__u16 client_port;
	__u16 id;
};

/* Key: a query. Value: when it was seen. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__type(key, struct query);
	__type(value, __u64);
} queries SEC(".maps");

struct latency {
	__u64 answers;
	__u64 sum_ns;
	__u64 by_rcode[16];
};

/* Key: 0. Value: what was answered. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct latency);
} transactions SEC(".maps");

/* Set by the benchmark; host byte order. */
const volatile __u16 dns_port = 53;

struct dns_header {
	__u16 id;
	__u16 flags;
	__u16 counts[4];
};

/* Fills `flow`; returns the header of UDP, NULL for other packets, of which those of TCP are filled too. */
static __always_inline struct udphdr *parse(struct flow *flow, struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct ethhdr *ether = data;
	struct iphdr *ip = (void *)(ether + 1);
	struct udphdr *udp;

	if ((void *)(ip + 1) > end || ether->h_proto != bpf_htons(ETH_P_IP))
		return NULL;
	if (ip->protocol != IPPROTO_UDP && ip->protocol != IPPROTO_TCP)
		return NULL;
	/* Both protocols begin with the ports. */
	udp = (void *)ip + ip->ihl * 4;
	if ((void *)(udp + 1) > end)
		return NULL;
	flow->source = ip->saddr;
	flow->destination = ip->daddr;
	flow->source_port = bpf_ntohs(udp->source);
	flow->destination_port = bpf_ntohs(udp->dest);
	flow->protocol = ip->protocol;
	flow->is_egress = skb->ingress_ifindex == 0;
	return ip->protocol == IPPROTO_UDP ? udp : NULL;
}

static __always_inline void count(struct flow *flow, __u64 bytes, __u64 now)
{
	struct counts first = {.packets = 1, .bytes = bytes, .first_ns = now, .last_ns = now};
	struct counts *counts = bpf_map_lookup_elem(&datagram_flows, flow);

	if (counts) {
		__sync_fetch_and_add(&counts->packets, 1);
		__sync_fetch_and_add(&counts->bytes, bytes);
		counts->last_ns = now;
	} else {
		bpf_map_update_elem(&datagram_flows, flow, &first, BPF_ANY);
	}
}

static __always_inline void follow(const struct flow *flow, const struct dns_header *dns, __u64 now)
{
	bool is_answer = dns->flags & bpf_htons(0x8000);
	struct query query = {.id = dns->id};
	struct latency *latency;
	__u32 zero = 0;
	__u64 *asked;

	query.client = is_answer ? flow->destination : flow->source;
	query.server = is_answer ? flow->source : flow->destination;
	query.client_port = is_answer ? flow->destination_port : flow->source_port;
	if (!is_answer) {
		bpf_map_update_elem(&queries, &query, &now, BPF_NOEXIST);
		return;
	}
	asked = bpf_map_lookup_elem(&queries, &query);
	latency = bpf_map_lookup_elem(&transactions, &zero);
	if (!asked || !latency)
		return;
	latency->answers++;
	latency->sum_ns += now - *asked;
	latency->by_rcode[bpf_ntohs(dns->flags) & 15]++;
	bpf_map_delete_elem(&queries, &query);
}

static __always_inline int on_packet(struct __sk_buff *skb, bool with_dns)
{
	__u64 now = bpf_ktime_get_ns();
	struct flow flow = {};
	struct udphdr *udp = parse(&flow, skb);
	struct dns_header *dns;

	if (!flow.protocol)
		return TC_ACT_UNSPEC;
	count(&flow, skb->len - sizeof(struct ethhdr), now);
	if (!with_dns || !udp || (flow.source_port != dns_port && flow.destination_port != dns_port))
		return TC_ACT_UNSPEC;
	dns = (void *)(udp + 1);
	if ((void *)(dns + 1) <= (void *)(long)skb->data_end)
		follow(&flow, dns, now);
	return TC_ACT_UNSPEC;
}

SEC("classifier")
int count_datagram(struct __sk_buff *skb)
{
	return on_packet(skb, false);
}

SEC("classifier")
int follow_dns(struct __sk_buff *skb)
{
	return on_packet(skb, true);
}

char bpf_license[] SEC("license") = "Dual BSD/GPL";
