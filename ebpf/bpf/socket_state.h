/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * What is remembered of a socket between two reports, and where losses are counted: shared by all capture modes.
 */
#ifndef FLOWTAP_SOCKET_STATE_H
#define FLOWTAP_SOCKET_STATE_H

#include "kernel.h"
#include "abi.h"

/*
 * What is remembered of a socket. Where two CPUs may look at one socket at once, the five totals and `announced` are
 * moved by atomic exchange only: see totals.h.
 *
 * Socket storage puts 72 bytes before it, 8 of them on the cache line where it begins, and takes memory in steps of
 * the slab allocator: 120 bytes fit one of 192. What a scan reads of an idle socket comes first, within one line.
 */
struct socket_state {
	__u64 sent;
	__u64 received;
	__u32 sent_segments;
	__u32 received_segments;
	__u32 retransmits;
	__u32 announced;  /* its first record is out */
	__u8 closed;	  /* its last record is out, or being made */
	__u8 established; /* the totals and the tuple are valid */
	__u8 adopted;
	__u8 role;
	__u32 handshake_us;
	__u64 since_ns; /* SYN_SENT, then ESTABLISHED or adoption */
	__u32 netns;
	__u32 pid;
	__u64 cgroup_id;
	struct tuple tuple;
	char comm[16];
};

_Static_assert(sizeof(struct socket_state) == 120, "one step of the slab allocator");

/* Key: 0. Value: what could not be handed on. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct losses);
} losses SEC(".maps");

/* Reader is woken once this many bytes wait in a ring, and again at each quarter of that; until then it comes by
 * itself. Set by the loader to a quarter of the ring, which is a power of two. */
const volatile __u64 wakeup_bytes = 1 << 22;

static __always_inline struct losses *this_cpu_losses(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&losses, &zero);
}

/* Flags for bpf_ringbuf_submit(): a wake-up per record would cost more than the record, also while the reader is on
 * its way. Several CPUs may add records at once, and each sees those of all: the few records that ask for it are more
 * than can be stepped over, and if they are, the next ones come soon. */
static __always_inline __u64 wakeup_flags(void *ring)
{
	__u64 waiting = bpf_ringbuf_query(ring, BPF_RB_AVAIL_DATA);
	__u64 few = wakeup_bytes / 64 > 256 ? wakeup_bytes / 64 : 256;

	if (waiting < wakeup_bytes || (waiting & (wakeup_bytes / 4 - 1)) >= few)
		return BPF_RB_NO_WAKEUP;
	return BPF_RB_FORCE_WAKEUP;
}

#endif
