/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Queues and drops of listening sockets, of every network namespace.
 *
 *   scan_listeners     test run   -> found (ring buffer): a listener_event for each socket in `owners`
 *
 * `owners` is the map of the programs that see sockets begin and cease to listen; the loader puts it here. The
 * sockets are read by address, and one that has been freed has another cookie, or does not listen.
 *
 * Linux 5.13 and later (bpf_for_each_map_elem()).
 */
#include "kernel.h"
#include "abi.h"
#include "owner_map.h"

#define FOUND_BYTES (1 << 16)

/* listener_event. The reader drains it between runs. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, FOUND_BYTES);
} found SEC(".maps");

/* State of a scan. */
struct listener_scan {
	__u64 skip;  /* sockets that earlier runs of this scan have looked at */
	__u64 index; /* of the socket */
	bool full;
};

/*
 * Microseconds for which the first connection in the queue has been there, which is in the order of arrival. It was
 * established a round trip after its SYN-ACK. With SYN cookies that moment is not known, and since the last segment
 * it has waited at least.
 */
static __always_inline __u32 read_wait(struct sock *sk)
{
	struct inet_connection_sock *listener = (struct inet_connection_sock *)sk;
	struct request_sock *head = BPF_CORE_READ(listener, icsk_accept_queue.rskq_accept_head);
	__u64 now = bpf_ktime_get_ns() / 1000, since, waited;
	struct tcp_sock *child;

	if (!head)
		return 0;
	child = (struct tcp_sock *)BPF_CORE_READ(head, sk);
	since = BPF_CORE_READ((struct tcp_request_sock *)head, snt_synack);
	since = since ? since + (BPF_CORE_READ(child, srtt_us) >> 3) : BPF_CORE_READ(child, tcp_mstamp);
	/* It may have been accepted meanwhile, and its memory be another's. */
	if (BPF_CORE_READ(listener, icsk_accept_queue.rskq_accept_head) != head)
		return 0;
	waited = now > since ? now - since : 1;
	return waited < 0xffffffff ? waited : 0xffffffff;
}

/* For bpf_for_each_map_elem(): 1 ends the walk. */
static long show_listener(struct bpf_map *map, __u64 *address, struct owner *owner, struct listener_scan *scan)
{
	struct sock *sk = (struct sock *)*address;
	struct listener_event *event;
	__u64 cookie;

	if (scan->index++ < scan->skip)
		return 0;
	cookie = BPF_CORE_READ(sk, __sk_common.skc_cookie.counter);
	/* The map has the cookie of MPTCP's outer socket; the inner one, which listens, may have none. */
	if (BPF_CORE_READ(sk, __sk_common.skc_state) != TCP_LISTEN || (cookie && cookie != owner->cookie))
		return 0;
	event = bpf_ringbuf_reserve(&found, sizeof(*event), 0);
	if (!event) {
		scan->index--;
		scan->full = true;
		return 1;
	}
	__builtin_memset(event, 0, sizeof(*event));
	event->cookie = owner->cookie;
	event->cgroup_id = owner->cgroup_id;
	event->pid = owner->pid;
	__builtin_memcpy(event->comm, owner->comm, sizeof(event->comm));
	event->netns = BPF_CORE_READ(sk, __sk_common.skc_net.net, ns.inum);
	event->backlog = BPF_CORE_READ(sk, sk_ack_backlog);
	event->limit = BPF_CORE_READ(sk, sk_max_ack_backlog);
	event->drops = BPF_CORE_READ(sk, sk_drops.counter);
	event->wait_us = event->backlog ? read_wait(sk) : 0;
	event->port = BPF_CORE_READ(sk, __sk_common.skc_num);
	event->family = BPF_CORE_READ(sk, __sk_common.skc_family);
	if (event->family == AF_INET)
		BPF_CORE_READ_INTO((__u32 *)event->local_addr, sk, __sk_common.skc_rcv_saddr);
	else if (bpf_core_field_exists(sk->__sk_common.skc_v6_rcv_saddr))
		BPF_CORE_READ_INTO(&event->local_addr, sk, __sk_common.skc_v6_rcv_saddr);
	bpf_ringbuf_submit(event, BPF_RB_NO_WAKEUP);
	return 0;
}

/* Argument: sockets to skip. Returns 0 at the end, else the sockets to skip next. */
SEC("raw_tp")
int scan_listeners(struct bpf_raw_tracepoint_args *ctx)
{
	struct listener_scan scan = {.skip = ctx->args[0]};

	bpf_for_each_map_elem(&owners, show_listener, &scan, 0);
	return scan.full ? scan.index : 0;
}

/* Clang writes BTF only of what is used by name; the test of the ABI compares this with the Rust side. */
const struct listener_event *const volatile listener_event_btf = NULL;

char bpf_license[] SEC("license") = "Dual BSD/GPL";
