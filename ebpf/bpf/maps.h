/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * The maps of capture mode `sockets`. Socket storage lives and dies with its socket, so there is no table here that
 * can fill up.
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

/* flow_event of connections that closed or failed, and of those that a scan found changed; listen_event. The size is
 * set by the loader. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 24);
} lifecycle SEC(".maps");

/* A scan fills the ring up to this. Set by the loader to a half of it. */
const volatile __u64 scan_bytes = 1 << 23;

#endif
