/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * One datagram, or several in one buffer, counted in its flow; the flow made if it is new; payload of DNS forwarded.
 *
 * In: struct datagram, from whichever hook. The order is: what the CPU has seen, then the flow. So what was seen less
 * what user space was given is never less than what got lost.
 */
#ifndef FLOWTAP_UDP_COUNT_H
#define FLOWTAP_UDP_COUNT_H

#include "udp_maps.h"

/* A hook's view of a datagram. */
struct datagram {
	struct udp_key key;
	__u8 local_addr[16];
	__u32 bytes;	 /* of payload */
	__u32 datagrams; /* more than one with segmentation offload */
	bool sent;
	bool in_process;     /* the current process is the one that sends or receives */
	__u8 first_bytes[5]; /* of the payload, if `bytes` is not less */
};

static __always_inline void read_task(__u32 *pid, __u64 *cgroup_id, char comm[16])
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	struct task_struct *leader = BPF_CORE_READ(task, group_leader);

	/* A thread of the kernel works for somebody whom it does not know. */
	if (BPF_CORE_READ(task, flags) & PF_KTHREAD)
		return;
	*pid = BPF_CORE_READ(task, tgid);
	*cgroup_id = BPF_CORE_READ(task, cgroups, dfl_cgrp, kn, id);
	bpf_probe_read_kernel_str(comm, 16, __builtin_preserve_access_index(&leader->comm));
}

static __always_inline __u64 cgroup_of_socket(struct sock *sk)
{
	if (!bpf_core_field_exists(sk->sk_cgrp_data.cgroup))
		return 0;
	return BPF_CORE_READ(sk, sk_cgrp_data.cgroup, kn, id);
}

/* A long header of QUIC version 1 or 2 (RFC 9000, 9369), with which each connection begins. */
static __always_inline bool is_quic(const struct datagram *datagram)
{
	const __u8 *first = datagram->first_bytes;
	__u32 version = (__u32)first[1] << 24 | (__u32)first[2] << 16 | (__u32)first[3] << 8 | first[4];

	return (first[0] & 0xc0) == 0xc0 && (version == 1 || version == 0x6b3343cf);
}

/* All of `flow` but its totals and marks. */
static __always_inline void begin_flow(struct udp_flow *flow, const struct datagram *datagram, struct sock *sk)
{
	flow->key = datagram->key;
	__builtin_memcpy(flow->local_addr, datagram->local_addr, 16);
	flow->since_ns = flow->last_ns = bpf_ktime_get_ns();
	if (sk) {
		flow->netns = BPF_CORE_READ(sk, __sk_common.skc_net.net, ns.inum);
		flow->cookie = BPF_CORE_READ(sk, __sk_common.skc_cookie.counter);
		flow->cgroup_id = cgroup_of_socket(sk);
		if (BPF_CORE_READ_BITFIELD_PROBED((struct sock___udp *)sk, sk_userlocks) & SOCK_BINDPORT_LOCK)
			flow->marks |= UDP_BOUND;
		if (BPF_CORE_READ(sk, __sk_common.skc_dport))
			flow->marks |= UDP_CONNECTED;
	}
	if (datagram->in_process)
		read_task(&flow->pid, &flow->cgroup_id, flow->comm);
}

/* Marks that the first datagram of a flow decides. */
static __always_inline __u32 marks_of_first(const struct datagram *datagram)
{
	__u32 marks = datagram->sent ? UDP_FIRST_SENT : UDP_FIRST_RECEIVED;

	return is_quic(datagram) ? marks | UDP_QUIC : marks;
}

static __always_inline bool is_same(const struct udp_key *a, const struct udp_key *b)
{
	const __u64 *x = (const __u64 *)a, *y = (const __u64 *)b;

	return x[1] == y[1] && x[2] == y[2] && x[3] == y[3];
}

/* The flow of `key`, made from `fresh` if there is none and that is given; NULL if there is no place. */
static __always_inline struct udp_flow *find_flow(const struct udp_key *key)
{
	__u64 socket = key->socket;
	struct udp_flow *flow = bpf_map_lookup_elem(&udp_sockets, &socket);

	if (flow && is_same(&flow->key, key))
		return flow;
	return flow && flow->has_more ? bpf_map_lookup_elem(&udp_flows, key) : NULL;
}

static __always_inline struct udp_flow *make_flow(const struct udp_flow *fresh)
{
	__u64 socket = fresh->key.socket;
	struct udp_flow *flow;

	bpf_map_update_elem(&udp_sockets, &socket, fresh, BPF_NOEXIST);
	flow = bpf_map_lookup_elem(&udp_sockets, &socket);
	if (flow && is_same(&flow->key, &fresh->key))
		return flow;
	if (flow)
		flow->has_more = 1;
	bpf_map_update_elem(&udp_flows, &fresh->key, fresh, BPF_NOEXIST);
	return bpf_map_lookup_elem(&udp_flows, &fresh->key);
}

static __always_inline void add(struct udp_totals *totals, const struct datagram *datagram)
{
	if (datagram->sent) {
		__sync_fetch_and_add(&totals->sent, datagram->bytes);
		__sync_fetch_and_add(&totals->sent_datagrams, datagram->datagrams);
	} else {
		__sync_fetch_and_add(&totals->received, datagram->bytes);
		__sync_fetch_and_add(&totals->received_datagrams, datagram->datagrams);
	}
}

/* Counts what the hook has seen of `sk`, which may be NULL where the hook does not have it. */
static __always_inline void count(const struct datagram *datagram, struct sock *sk)
{
	struct udp_seen *seen = this_seen();
	struct udp_flow *flow;

	if (!seen)
		return;
	add(&seen->seen, datagram);
	flow = find_flow(&datagram->key);
	if (!flow) {
		struct udp_flow fresh = {};

		fresh.marks = marks_of_first(datagram);
		begin_flow(&fresh, datagram, sk);
		flow = make_flow(&fresh);
		if (!flow) {
			add(&seen->overflow, datagram);
			return;
		}
	} else {
		flow->last_ns = bpf_ktime_get_ns();
		/* A flow that began with a drop or an error: the error of a datagram may come before the hook of its
		 * call. */
		if (!(flow->marks & (UDP_FIRST_SENT | UDP_FIRST_RECEIVED)))
			flow->marks |= marks_of_first(datagram);
		/* A flow that began where no process is known. */
		if (!flow->pid && datagram->in_process)
			read_task(&flow->pid, &flow->cgroup_id, flow->comm);
	}
	add(&flow->totals, datagram);
}

static __always_inline bool is_dns(const struct datagram *datagram)
{
	__u16 local = datagram->key.local_port, remote = datagram->key.remote_port;

	for (int i = 0; i < DNS_PORTS; i++) {
		if (dns_ports[i] && (dns_ports[i] == local || dns_ports[i] == remote))
			return true;
	}
	return false;
}

/* All but payload and captured_bytes. */
static __always_inline void fill_dns(struct dns_event *event, const struct datagram *datagram, struct sock *sk)
{
	__builtin_memset(event, 0, DNS_EVENT_BYTES);
	event->time_ns = bpf_ktime_get_ns();
	event->socket = datagram->key.socket;
	__builtin_memcpy(event->local_addr, datagram->local_addr, 16);
	__builtin_memcpy(event->remote_addr, datagram->key.remote_addr, 16);
	event->local_port = datagram->key.local_port;
	event->remote_port = datagram->key.remote_port;
	event->family = datagram->key.family;
	event->direction = datagram->sent ? DNS_SENT : DNS_RECEIVED;
	event->payload_bytes = datagram->bytes;
	if (sk) {
		event->netns = BPF_CORE_READ(sk, __sk_common.skc_net.net, ns.inum);
		event->cgroup_id = cgroup_of_socket(sk);
	}
	if (datagram->in_process)
		read_task(&event->pid, &event->cgroup_id, event->comm);
}

static __always_inline void submit_dns(struct dns_event *event)
{
	bool filled = bpf_ringbuf_query(&dns, BPF_RB_AVAIL_DATA) >= dns_wakeup_bytes;

	bpf_ringbuf_submit(event, filled ? BPF_RB_FORCE_WAKEUP : BPF_RB_NO_WAKEUP);
}

#endif
