/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * The state of `inspect`: what is known of a connection, what user space wants, and the ways to it.
 */
#ifndef FLOWTAP_INSPECT_MAPS_H
#define FLOWTAP_INSPECT_MAPS_H

#include "kernel.h"
#include "inspect_abi.h"

struct inspect_state {
	__u64 sent;	/* payload bytes, when the direction changed last */
	__u64 looked;	/* client: payload bytes sent, at the last look */
	__u64 asked_ns; /* when the last segment of the request came (server), or left first (client) */
	__u32 epoch;
	__u32 next_sent; /* offset of the next segment of ours to hand over */
	__u8 role;
	__u8 is_waiting; /* server: for an answer */
	__u8 sent_left;	 /* segments to hand over */
	__u8 received_left;
	__u8 turn;   /* exchanges before, or UNKNOWN_TURN */
	__u8 is_new; /* no segment has passed the tracepoint since the handshake */
	__u8 looks;  /* at headers, until it is known whether they are translated */
};

/* Key: the socket. Value: what is known of its connection. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct inspect_state);
} inspected SEC(".maps");

/* struct first_bytes and what it says. Not a ring buffer: payload is in pages, and bpf_skb_output(), which reads
 * them, writes to a perf buffer alone. */
struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u32));
} first_bytes SEC(".maps");

/* exchange_event and translation_event. The size is set by the loader. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20);
} exchanges SEC(".maps");

/* Key: 0. Value: what user space wants. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct inspect_control);
} inspect_control SEC(".maps");

/* Key: 0. Value: what the programs did. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct inspect_seen);
} inspect_seen SEC(".maps");

/* Bytes in the ring from which on its reader is woken. Set by the loader to a quarter of it. */
const volatile __u64 exchange_wakeup_bytes = 1 << 18;

#endif
