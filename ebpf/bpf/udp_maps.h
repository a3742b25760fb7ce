/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * The maps of the UDP programs.
 *
 * A socket's first peer has a place under the socket alone, so that a client's socket, which has one peer, costs one
 * look-up with a short key and is reported and removed as a whole when it closes. Further peers are in udp_flows.
 * Both are allocated beforehand: programs at kprobes must not allocate before Linux 6.1. Neither is an LRU: what has
 * no place is counted as such, and an LRU would drop what it has counted without a trace.
 */
#ifndef FLOWTAP_UDP_MAPS_H
#define FLOWTAP_UDP_MAPS_H

#include "udp_abi.h"
#include "udp_kernel.h"

/* Key: the socket. Value: its first peer's flow. The size is set by the loader. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, __u64);
	__type(value, struct udp_flow);
} udp_sockets SEC(".maps");

/* Key: the socket and a further peer of it. Value: that flow. The size is set by the loader. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, struct udp_key);
	__type(value, struct udp_flow);
} udp_flows SEC(".maps");

/* Key: 0. Value: everything that the programs have seen. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct udp_seen);
} udp_seen SEC(".maps");

/* udp_flow of closed sockets: their last totals. The size is set by the loader. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20);
} udp_closed SEC(".maps");

/* dns_event. The size is set by the loader. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20);
} dns SEC(".maps");

/* Bytes in a ring from which on its reader is woken. Set by the loader to a quarter of the ring. */
const volatile __u64 closed_wakeup_bytes = 1 << 18;
const volatile __u64 dns_wakeup_bytes = 1 << 18;

/* Ports whose datagrams are forwarded; the rest is 0. Set by the loader. */
const volatile __u16 dns_ports[DNS_PORTS] = {};

static __always_inline struct udp_seen *this_seen(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&udp_seen, &zero);
}

/* Threads share a CPU's counters where programs can be preempted. */
#define COUNT_SEEN(field, count)                                                                                     \
	do {                                                                                                         \
		struct udp_seen *seen_ = this_seen();                                                                \
		if (seen_)                                                                                           \
			__sync_fetch_and_add(&seen_->field, count);                                                  \
	} while (0)

#endif
