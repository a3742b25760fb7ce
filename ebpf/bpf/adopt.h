/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Sockets that were there before flowtap, and processes for accepted ones.
 *
 * In: every file of every process (all network namespaces; needs the host's pid namespace), or every TCP socket of
 * the reader's network namespace. Out: storage whose totals begin at the socket's present ones, so that it is counted
 * from now on; a listen_event in the iterator's buffer for each listening socket.
 */
#ifndef FLOWTAP_ADOPT_H
#define FLOWTAP_ADOPT_H

#include "scan.h"

/* Before a record is made: the iterator shows the socket again at the next read. seq_write() refuses what would fill
 * the buffer to the last byte (fs/seq_file.c). */
static __always_inline bool has_room(struct seq_file *seq, __u64 bytes)
{
	return seq->count + bytes < seq->size;
}

static __always_inline void write_record(struct seq_file *seq, const void *record, __u32 bytes)
{
	if (bpf_seq_write(seq, record, bytes)) {
		struct losses *lost = this_cpu_losses();

		if (lost)
			lost->scan_writes++;
	}
}

static __always_inline int show_listener(struct seq_file *seq, struct sock *sk)
{
	struct listen_event event = {
		.type = EVENT_LISTEN,
		.netns = read_netns(sk),
		.cookie = bpf_get_socket_cookie(sk),
		.port = sk->__sk_common.skc_num,
	};

	if (!has_room(seq, sizeof(event)))
		return SHOW_AGAIN;
	write_record(seq, &event, sizeof(event));
	return SHOWN;
}

/* group_leader: threads may have names of their own, and the process is what counts. */
static __always_inline void attribute(struct socket_state *state, struct task_struct *task)
{
	struct task_struct *leader = task->group_leader;

	state->pid = task->tgid;
	BPF_CORE_READ_STR_INTO(&state->comm, leader, comm);
	state->cgroup_id = BPF_CORE_READ(task, cgroups, dfl_cgrp, kn, id);
}

static __always_inline int adopt(struct seq_file *seq, struct sock *sk, struct task_struct *task)
{
	__u8 tcp_state = sk->__sk_common.skc_state;
	struct socket_state *state;
	struct socket_state fresh = {};
	struct tcp_sock *tcp;
	struct totals now;

	if (tcp_state == STATE_LISTEN)
		return show_listener(seq, sk);
	if (tcp_state == STATE_CLOSE || tcp_state == STATE_NEW_SYN_RECV)
		return SHOWN;
	state = bpf_sk_storage_get(&sockets, sk, 0, 0);
	if (state) {
		if (task && !state->pid)
			attribute(state, task);
		return SHOWN;
	}
	tcp = bpf_skc_to_tcp_sock(sk);
	if (!tcp)
		return SHOWN;
	read_totals(&now, sk, tcp);
	fresh.sent = now.sent;
	fresh.received = now.received;
	fresh.sent_segments = now.sent_segments;
	fresh.received_segments = now.received_segments;
	fresh.retransmits = now.retransmits;
	fresh.netns = read_netns(sk);
	fresh.since_ns = bpf_ktime_get_ns();
	fresh.adopted = 1;
	/* A connect under way becomes established by the state change, like any other. */
	fresh.role = tcp_state == STATE_SYN_SENT ? ROLE_CLIENT : ROLE_UNKNOWN;
	fresh.established = tcp_state != STATE_SYN_SENT;
	read_tuple(&fresh.tuple, sk);
	if (task)
		attribute(&fresh, task);
	if (!bpf_sk_storage_get(&sockets, sk, &fresh, BPF_SK_STORAGE_GET_F_CREATE)) {
		struct losses *lost = this_cpu_losses();

		if (lost)
			lost->untracked++;
	}
	return SHOWN;
}

#endif
