/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * The maps of dropped packets, and what user space and the programs agree on. ebpf/src/drops.rs mirrors it.
 *
 * Counts are running totals in two sets of maps. User space reads both sets and takes differences, and switches from
 * one set to the other when the one in use fills up. It empties a set only at the look after the switch: by then no
 * program is in the middle of a count in it, so nothing that was counted is deleted.
 */
#ifndef FLOWTAP_DROPS_H
#define FLOWTAP_DROPS_H

#include "kernel.h"

#define DROP_REASONS 1024
#define DROP_FLOWS 4096

/* Why and where, if nothing else is asked for. */
struct drop_reason {
	__u32 reason; /* enum skb_drop_reason of the running kernel, or a subsystem's: the upper half is its number */
	__u32 netns;  /* inode number; 0 if unknown */
};

/* With the two ends of the packet. IPv4 addresses stand in the first four bytes; the rest is zero. */
struct drop_flow {
	struct drop_reason reason;
	__u8 local_addr[16];  /* network byte order */
	__u8 remote_addr[16]; /* network byte order */
	__u16 local_port;     /* host byte order; 0 where the protocol has none */
	__u16 remote_port;    /* host byte order */
	__u16 family;	      /* AF_INET or AF_INET6 */
	__u8 protocol;	      /* IPPROTO_* */
	__u8 received;	      /* whether the packet came in, or was forwarded: it was sent by the remote end */
};

struct drop_count {
	__u64 packets;
	__u64 bytes; /* from the header of the layer that dropped it */
};

/* State that user space changes while the programs are at work. */
struct drops_state {
	__u32 active;	  /* the set of maps in use: 0 or 1 */
	__u32 with_flows; /* whether packets are counted by flow */
	__u32 refused;	  /* a flow found no place: no further ones until user space has switched */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct drops_state);
} drops_state SEC(".maps");

/* A reason of this CPU, which has the place until the set is emptied. A place without packets is free. */
struct drop_slot {
	struct drop_count count;
	struct drop_reason reason;
};

#define DROP_SLOTS 64

struct drop_slots {
	struct drop_slot slots[DROP_SLOTS];
};

/* Key: the set. Value: drop_slots of each CPU. Most drops of a machine are of a few reasons, and these are found here
 * without a look-up in a hash table, which would be most of what counting one costs. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, struct drop_slots);
} slots SEC(".maps");

/* Key: drop_reason. Value: drop_count of each CPU, of packets whose slot is another reason's. */
struct reasons_map {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, DROP_REASONS);
	__type(key, struct drop_reason);
	__type(value, struct drop_count);
};

struct reasons_map reasons_0 SEC(".maps");
struct reasons_map reasons_1 SEC(".maps");

/* Key: drop_flow. Value: drop_count. Takes memory only if flows are asked for. */
struct flows_map {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, DROP_FLOWS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct drop_flow);
	__type(value, struct drop_count);
};

struct flows_map flows_0 SEC(".maps");
struct flows_map flows_1 SEC(".maps");

/* Key: 0. Value: packets for whose reason the maps had no place. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct drop_count);
} unplaced SEC(".maps");

_Static_assert(sizeof(struct drop_reason) == 8, "drop_reason");
_Static_assert(sizeof(struct drop_flow) == 48, "drop_flow");
_Static_assert(sizeof(struct drop_count) == 16, "drop_count");
_Static_assert(sizeof(struct drop_slot) == 24, "drop_slot");
_Static_assert(sizeof(struct drops_state) == 12, "drops_state");

#endif
