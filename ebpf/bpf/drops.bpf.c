/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Dropped packets by reason and network namespace, and by flow where that is asked for.
 *
 *   on_drop             tp_btf/kfree_skb   -> reasons, flows: Linux 5.17, which brought the reason
 *   on_drop_at_socket   the same, where the tracepoint also has the socket that refused the packet: Linux 6.11
 *
 * Of a packet that nobody drops no program runs: consume_skb() has a tracepoint of its own.
 */
#include "drops.h"

/* The value of a key, which begins as 0; NULL if there is no place. Another CPU may add the key at the same time. */
static __always_inline struct drop_count *find_or_add(void *map, const void *key)
{
	struct drop_count *count = bpf_map_lookup_elem(map, key), none = {};

	if (count)
		return count;
	bpf_map_update_elem(map, key, &none, BPF_NOEXIST);
	return bpf_map_lookup_elem(map, key);
}

/* On this CPU only; the kernel does not run a program in the middle of itself. */
static __always_inline void add(struct drop_count *count, __u32 bytes)
{
	count->packets++;
	count->bytes += bytes;
}

static __always_inline void add_shared(struct drop_count *count, __u32 bytes)
{
	__sync_fetch_and_add(&count->packets, 1);
	__sync_fetch_and_add(&count->bytes, bytes);
}

/* The namespace of the packet's socket, else of its device. Once a UDP socket has looked at a packet its `dev` is
 * other data: a load through it gives 0 then, and the route still has a device. */
static __always_inline __u32 read_netns(struct sk_buff *skb, struct sock *sk)
{
	struct net_device *dev = skb->dev;
	__u32 netns = 0;

	if (sk)
		return sk->__sk_common.skc_net.net->ns.inum;
	if (dev)
		netns = dev->nd_net.net->ns.inum;
	if (!netns) {
		struct dst_entry *dst = (struct dst_entry *)(skb->_skb_refdst & ~1UL);

		if (dst)
			netns = BPF_CORE_READ(dst, dev, nd_net.net, ns.inum);
	}
	return netns;
}

#define IPV4_HEADER_BYTES 20
#define IPV6_HEADER_BYTES 40
#define IPV4_FRAGMENT_OFFSET 0x1fff
#define IPPROTO_UDP 17
#define IPPROTO_DCCP 33
#define IPPROTO_SCTP 132
#define IPPROTO_UDPLITE 136

static __always_inline bool has_ports(__u8 protocol)
{
	return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP || protocol == IPPROTO_SCTP ||
	       protocol == IPPROTO_DCCP || protocol == IPPROTO_UDPLITE;
}

/* Reads addresses and ports from the packet's own headers; false if these are not IP, or not in its linear part. A
 * packet that came in, or was forwarded, has this side as its destination. */
static __always_inline bool read_flow(struct drop_flow *flow, struct sk_buff *skb, bool received)
{
	__u8 *source = received ? flow->remote_addr : flow->local_addr;
	__u8 *destination = received ? flow->local_addr : flow->remote_addr;
	__u16 start = skb->network_header;
	unsigned char *head = skb->head;
	__u8 header[IPV6_HEADER_BYTES];
	__u32 end = skb->tail, offset;
	__be16 ports[2] = {};

	if (start == 0xffff || start + IPV4_HEADER_BYTES > end ||
	    bpf_probe_read_kernel(header, IPV4_HEADER_BYTES, head + start))
		return false;
	if (header[0] >> 4 == 4) {
		flow->family = AF_INET;
		flow->protocol = header[9];
		__builtin_memcpy(source, header + 12, 4);
		__builtin_memcpy(destination, header + 16, 4);
		/* Later fragments have no ports. */
		if ((header[6] << 8 | header[7]) & IPV4_FRAGMENT_OFFSET)
			return true;
		offset = start + (header[0] & 15) * 4;
	} else if (header[0] >> 4 == 6 && start + IPV6_HEADER_BYTES <= end &&
		   !bpf_probe_read_kernel(header, IPV6_HEADER_BYTES, head + start)) {
		flow->family = AF_INET6;
		/* Of the first extension header, if there is one: then ports stay 0. */
		flow->protocol = header[6];
		__builtin_memcpy(source, header + 8, 16);
		__builtin_memcpy(destination, header + 24, 16);
		offset = start + IPV6_HEADER_BYTES;
	} else {
		return false;
	}
	if (has_ports(flow->protocol) && offset + sizeof(ports) <= end &&
	    !bpf_probe_read_kernel(ports, sizeof(ports), head + offset)) {
		flow->local_port = bpf_ntohs(received ? ports[1] : ports[0]);
		flow->remote_port = bpf_ntohs(received ? ports[0] : ports[1]);
	}
	return true;
}

/* Whether the packet was counted. */
static __always_inline bool count_flow(struct drops_state *state, const struct drop_reason *reason,
				       struct sk_buff *skb, bool received)
{
	struct drop_flow flow = {.reason = *reason, .received = received};
	struct drop_count *count;

	if (*(volatile __u32 *)&state->refused || !read_flow(&flow, skb, received))
		return false;
	/* The verifier makes a call through a pointer, which costs as much as the look-up, of one whose map it does
	 * not know: so the compiler must not make one call of both. */
	if (state->active) {
		count = find_or_add(&flows_1, &flow);
		asm volatile("");
	} else {
		count = find_or_add(&flows_0, &flow);
	}
	if (!count) {
		state->refused = 1;
		return false;
	}
	add_shared(count, skb->len);
	return true;
}

/* The place of a reason among those of this CPU; NULL if it is another one's. */
static __always_inline struct drop_count *find_slot(struct drop_slots *all, const struct drop_reason *reason)
{
	struct drop_slot *slot = &all->slots[(reason->reason ^ reason->netns) & (DROP_SLOTS - 1)];

	if (!slot->count.packets)
		slot->reason = *reason;
	else if (slot->reason.reason != reason->reason || slot->reason.netns != reason->netns)
		return NULL;
	return &slot->count;
}

static __always_inline void count_drop(struct sk_buff *skb, __u32 why, struct sock *receiver)
{
	struct sock *sk = receiver ? receiver : skb->sk;
	struct drop_reason reason = {.reason = why, .netns = read_netns(skb, sk)};
	struct drop_count *count;
	struct drops_state *state;
	struct drop_slots *places;
	__u32 zero = 0, active;

	state = bpf_map_lookup_elem(&drops_state, &zero);
	if (!state)
		return;
	if (state->with_flows && count_flow(state, &reason, skb, receiver || skb->skb_iif))
		return;
	active = state->active;
	places = bpf_map_lookup_elem(&slots, &active);
	count = places ? find_slot(places, &reason) : NULL;
	if (!count)
		count = active ? find_or_add(&reasons_1, &reason) : find_or_add(&reasons_0, &reason);
	if (!count)
		count = bpf_map_lookup_elem(&unplaced, &zero);
	if (count)
		add(count, skb->len);
}

SEC("tp_btf/kfree_skb")
int BPF_PROG(on_drop, struct sk_buff *skb, void *location, __u32 reason)
{
	count_drop(skb, reason, NULL);
	return 0;
}

SEC("tp_btf/kfree_skb")
int BPF_PROG(on_drop_at_socket, struct sk_buff *skb, void *location, __u32 reason, struct sock *receiver)
{
	count_drop(skb, reason, receiver);
	return 0;
}

/* Clang writes BTF only of what is used by name; the test of the ABI compares these with the Rust side. */
const struct drop_flow *const volatile drop_flow_btf = NULL;
const struct drop_slots *const volatile drop_slots_btf = NULL;

char bpf_license[] SEC("license") = "Dual BSD/GPL";
