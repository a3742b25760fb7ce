/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Listening sockets of all network namespaces, with their owners.
 */
#ifndef FLOWTAP_OWNER_MAP_H
#define FLOWTAP_OWNER_MAP_H

#include "kernel.h"

/* Owner of a listening socket. */
struct owner {
	__u64 cookie; /* of the socket: addresses are used again */
	__u64 cgroup_id;
	__u32 pid;
	char comm[16];
	__u32 pad;
};

/* Before Linux 6.1 the kernel warns of programs at raw tracepoints and kprobes whose maps allocate at run time. */
#ifdef FLOWTAP_UNTYPED_ARGUMENTS
#define OWNERS 4096
#define OWNERS_FLAGS 0
#else
#define OWNERS 16384
#define OWNERS_FLAGS BPF_F_NO_PREALLOC
#endif

/* Key: address of a listening socket. Value: the process that listens, which is the best that is known of the owner
 * of a connection before a process accepts it. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, OWNERS);
	__uint(map_flags, OWNERS_FLAGS);
	__type(key, __u64);
	__type(value, struct owner);
} owners SEC(".maps");

#endif
