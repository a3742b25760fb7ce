/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * The maps of capture mode `sockets`. Socket storage lives and dies with its socket and can't fill up; a table can,
 * and has the connections whose sockets have no storage.
 */
#ifndef FLOWTAP_MAPS_H
#define FLOWTAP_MAPS_H

#include "socket_state.h"

/* Key: the socket. Value: what was last reported of it. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct socket_state);
} sockets SEC(".maps");

/* A place in `table`. */
struct table_entry {
	struct socket_state state;
	__u64 address; /* of the struct sock */
};

/* Key: the socket's cookie. Value: what is known of a connection whose socket has no storage: of all where the kernel
 * has no scan over storage, else of those that were refused storage by a small net.core.optmem_max
 * (sk_storage_charge()). The size is set by the loader. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, struct table_entry);
} table SEC(".maps");

/* Whether the kernel has a scan over storage. Set by the loader. */
const volatile bool has_storage = true;

/* flow_event of connections that closed or failed, and of those that a scan found changed; listen_event. The size is
 * set by the loader. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 24);
} lifecycle SEC(".maps");

/* A scan fills the ring up to this. Set by the loader to a half of it. */
const volatile __u64 scan_bytes = 1 << 23;

#endif
