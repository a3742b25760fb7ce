/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * The process that a connection belongs to.
 *
 * In: the task that connects, listens, accepts, shuts down or has the file. Out: pid, name and cgroup in
 * socket_state.
 *
 * A connection that is accepted begins with the owner of the very socket that it was accepted on, also where several
 * sockets listen on one address (SO_REUSEPORT): the kernel copies a listening socket to make the connection's, and at
 * the change from LISTEN to SYN_RECV the copy still has a pointer into the original (ADR 29).
 */
#ifndef FLOWTAP_OWNERS_H
#define FLOWTAP_OWNERS_H

#include "flow.h"

/* The process of a task. Threads may have separate names, and the process is what counts; a thread of the kernel
 * works for somebody whom it does not know. */
static __always_inline bool read_owner(struct owner *owner, struct task_struct *task)
{
	struct task_struct *leader = BPF_CORE_READ(task, group_leader);

	if (BPF_CORE_READ(task, flags) & PF_KTHREAD)
		return false;
	owner->pid = BPF_CORE_READ(task, tgid);
	BPF_CORE_READ_STR_INTO(&owner->comm, leader, comm);
	owner->cgroup_id = BPF_CORE_READ(task, cgroups, dfl_cgrp, kn, id);
	return true;
}

static __always_inline void copy_owner(struct socket_state *state, const struct owner *owner, __u8 source)
{
	state->pid = owner->pid;
	state->cgroup_id = owner->cgroup_id;
	__builtin_memcpy(state->comm, owner->comm, sizeof(state->comm));
	state->owner = source;
}

/* Gives a connection to the process of `task`. */
static __always_inline void set_process(struct socket_state *state, struct task_struct *task, __u8 source)
{
	struct owner owner = {};

	if (read_owner(&owner, task))
		copy_owner(state, &owner, source);
}

/* For connect(), accept(), shutdown() and close(), which are called by a process that has the socket. */
static __always_inline void set_current_process(struct socket_state *state, __u8 source)
{
	set_process(state, (struct task_struct *)bpf_get_current_task(), source);
}

/* Whether a better look at the owner is worth it: who accepts a connection may hand it to another process. */
static __always_inline bool is_owner_open(const struct socket_state *state)
{
	return state->owner != OWNER_SEEN;
}

static __always_inline void put_owner(__u64 listener, const struct owner *owner)
{
	if (bpf_map_update_elem(&owners, &listener, owner, BPF_ANY))
		COUNT_LOSS(owners, 1);
}

/* Whether this socket is remembered, and not one that was at its address before. */
static __always_inline bool has_owner(__u64 listener, __u64 cookie)
{
	struct owner *known = bpf_map_lookup_elem(&owners, &listener);

	return known && known->cookie == cookie;
}

/* Remembers whose listening socket it is: whose process called listen(). */
static __always_inline void remember_owner(struct sock *sk, __u64 cookie)
{
	struct owner fresh = {.cookie = cookie};

	if (read_owner(&fresh, (struct task_struct *)bpf_get_current_task()))
		put_owner((__u64)sk, &fresh);
}

/* Whether it was remembered. */
static __always_inline bool forget_owner(struct sock *sk)
{
	__u64 listener = (__u64)sk;

	return bpf_map_delete_elem(&owners, &listener) == 0;
}

/* Stores a process that has the listening socket. A known owner of the socket stays: the caller of listen() is better
 * than one of those that have the file, unless that was the service manager, which passes sockets
 * on. */
static __always_inline void remember_holder(struct sock *sk, __u64 cookie, struct task_struct *task)
{
	struct owner fresh = {.cookie = cookie};
	__u64 listener = (__u64)sk;
	struct owner *known = bpf_map_lookup_elem(&owners, &listener);

	if (known && known->cookie == cookie && known->pid != 1)
		return;
	if (!read_owner(&fresh, task))
		return;
	put_owner(listener, &fresh);
	/* It may have closed meanwhile, and the change have found nothing to forget. */
	if (BPF_CORE_READ(sk, __sk_common.skc_state) != TCP_LISTEN)
		bpf_map_delete_elem(&owners, &listener);
}

/*
 * The owner of the socket that a new one was copied from; NULL if it is not known. At the change from LISTEN to
 * SYN_RECV only: inet_csk_clone_lock() makes it, and tcp_create_openreq_child() begins the new socket's own list of
 * sent segments after it. Until then the list's head is the copy of an empty one, which points to itself: to the
 * listening socket. (A socket that listens has sent nothing, and tcp_disconnect() begins the list anew.)
 */
static __always_inline const struct owner *owner_of_listener(struct sock *child)
{
	__u64 listener = (__u64)BPF_CORE_READ((struct tcp_sock *)child, tsorted_sent_queue.next) -
			 bpf_core_field_offset(struct tcp_sock, tsorted_sent_queue);

	return bpf_map_lookup_elem(&owners, &listener);
}

/* The cgroup of an accepted connection is that of the listening socket, which sk_clone_lock() copies. */
static __always_inline void inherit_cgroup(struct socket_state *state, struct sock *sk)
{
	if (bpf_core_field_exists(sk->sk_cgrp_data.cgroup)) {
		__u64 cgroup_id = BPF_CORE_READ(sk, sk_cgrp_data.cgroup, kn, id);

		if (cgroup_id)
			state->cgroup_id = cgroup_id;
	}
}

#endif
