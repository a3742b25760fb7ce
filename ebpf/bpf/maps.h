/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * The maps. Socket storage lives and dies with its socket, so there is no table here that can fill up.
 */
#ifndef FLOWTAP_MAPS_H
#define FLOWTAP_MAPS_H

#include "kernel.h"
#include "abi.h"

/* What is remembered of a socket. The five totals are moved by atomic exchange only: see totals.h. */
struct socket_state {
	__u64 sent;
	__u64 received;
	__u32 sent_segments;
	__u32 received_segments;
	__u32 retransmits;
	__u32 announced; /* its first record is out; moved by atomic exchange */
	__u32 closed;	 /* its last record is out, or being made */
	__u32 netns;
	__u64 cookie;
	__u64 since_ns; /* SYN_SENT, then ESTABLISHED or adoption */
	__u64 cgroup_id;
	__u32 handshake_us;
	__u32 pid;
	struct tuple tuple;
	char comm[16];
	__u8 role;
	__u8 established;
	__u8 adopted;
	__u8 pad[5];
};

/* Key: the socket. Value: what was last reported of it. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct socket_state);
} sockets SEC(".maps");

/* flow_event of closed and failed connections, listen_event. The size is set by the loader. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 24);
} lifecycle SEC(".maps");

/* Key: 0. Value: what could not be handed on. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct losses);
} losses SEC(".maps");

/* Reader is woken once this many bytes wait in `lifecycle`; until then it comes by itself, once per window. Set by
 * the loader to a quarter of the ring. */
const volatile __u64 wakeup_bytes = 1 << 22;

static __always_inline struct losses *this_cpu_losses(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&losses, &zero);
}

/* Flags for bpf_ringbuf_submit(): a wake-up per record would cost more than the record. */
static __always_inline __u64 wakeup_flags(void)
{
	__u64 waiting = bpf_ringbuf_query(&lifecycle, BPF_RB_AVAIL_DATA);

	return waiting >= wakeup_bytes ? BPF_RB_FORCE_WAKEUP : BPF_RB_NO_WAKEUP;
}

#endif
