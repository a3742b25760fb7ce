/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * The maps of capture mode `sockets`. Socket storage lives and dies with its socket and can't fill up; a table can,
 * and has the connections whose sockets have no storage.
 */
#ifndef FLOWTAP_MAPS_H
#define FLOWTAP_MAPS_H

#include "control.h"
#include "socket_state.h"

/* Key: the socket. Value: what was last reported of it. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct socket_state);
} sockets SEC(".maps");

/* Cookie of the socket that the scan is at, or was last: see totals.h. */
__u64 scanned_socket = 0;

/* Key: cookie of a socket that closed while the scan was at it. Value: its totals, for that scan; what it does not
 * take out makes room for others. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 256);
	__type(key, __u64);
	__type(value, struct totals);
} final_totals SEC(".maps");

/* A place in `table`. */
struct table_entry {
	struct socket_state state;
	__u64 address; /* of the struct sock */
};

/* Key: the socket's cookie. Value: what is known of a connection whose socket has no storage: of all where the kernel
 * has no scan over storage, else of those that were refused storage by a small net.core.optmem_max
 * (sk_storage_charge()). The size is set by the loader. */
#define TABLE(name, entries)                                                                                         \
	struct {                                                                                                     \
		__uint(type, BPF_MAP_TYPE_HASH);                                                                     \
		__uint(max_entries, entries);                                                                        \
		__uint(map_flags, BPF_F_NO_PREALLOC);                                                                \
		__type(key, __u64);                                                                                  \
		__type(value, struct table_entry);                                                                   \
	} name SEC(".maps")

TABLE(table, 16384);

/* Older tables, the newest first: see control.h. */
#define DECLARE(n) TABLE(table_older##n, 1);
EACH_OLDER_TABLE(DECLARE)
#undef DECLARE

/* The connection that came into being last on a CPU, and who has the socket that it is accepted on. It is established
 * in the same softirq, before any other; but for TCP Fast Open, where the process that accepts it is known first. Not
 * in `table`: up to Linux 6.18 the copy's cookie is changed after that. */
struct new_child {
	__u64 address;
	struct owner owner;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct new_child);
} new_children SEC(".maps");

static __always_inline struct new_child *this_new_child(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&new_children, &zero);
}

/* Whether programs at tracepoints can be preempted, so that the programs at a change may all be skipped: see
 * destroy.h. Set by the loader. */
const volatile bool may_be_preempted = false;

/* Whether the kernel has a scan over storage. Set by the loader. */
const volatile bool has_storage = true;

/* flow_event of connections that closed or failed, and of those that a scan found changed; listen_event. The size is
 * set by the loader. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 24);
} lifecycle SEC(".maps");

/* flow_event of received segments, in mode `events`. The size is set by the loader. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 24);
} segments SEC(".maps");

/* Whether connections are reported when they open and with each received segment (mode `events`), or by scans. Set by
 * the loader. */
const volatile bool per_segment = false;

/* A scan fills the ring up to this. Set by the loader to a half of it. */
const volatile __u64 scan_bytes = 1 << 23;

/* The bytes of the ring that are kept free for a scan. Set by the loader: see has_room_for_change(). */
const volatile __u64 scan_share = 1 << 20;

/* Changes of connections and listeners fill the ring up to this. Set by the loader: the rest is scan_share. */
const volatile __u64 change_bytes = (1 << 24) - (1 << 20);

/*
 * Whether the ring has room for a change.
 *
 * Where changes come more quickly than they are read the ring is as full again at the end of each drain as before it.
 * Without a separate share a scan would find no room then, however often it is tried: a census would not end, and
 * neither would a window.
 */
static __always_inline bool has_room_for_change(void)
{
	return bpf_ringbuf_query(&lifecycle, BPF_RB_AVAIL_DATA) < change_bytes;
}

#endif
