/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Capture mode `sockets`: no program on the data path. TCP already counts; a program runs when a connection changes
 * state, and once per window reads the totals of the sockets that moved. And mode `events`, where the kernel takes
 * these programs: one more reports received segments, and the scan makes censuses only.
 *
 *   on_state_change     tp_btf/inet_sock_set_state   -> lifecycle (ring buffer)
 *   on_state_nested     the same, after it: changes at which it was not run
 *   on_state_guarded    instead of both, where programs at tracepoints can be preempted; then on_state_missed1 to 3
 *   on_destroyed        tp_btf/tcp_destroy_sock, with these: closes at which none of them was run; then
 *                       on_destroyed2
 *   on_tcp_probe        tp_btf/tcp_probe             -> segments (ring buffer), in mode `events`
 *   on_accept           fentry/security_sock_graft   -> storage: the process that accepts a connection
 *   scan_sockets        iter/bpf_sk_storage_map      -> lifecycle, by the window's tick
 *   scan_by_cast        the same, quicker where the kernel has bpf_rdonly_cast()
 *   scan_all            the same, for a census: every open connection
 *   scan_table          test run                     -> lifecycle: connections without storage
 *   begin_scan          test run: before each of these
 *   end_adoption        test run: after the first walks
 *   adopt_files         iter/task_file               -> storage; listen_event
 *   adopt_sockets       iter/tcp                     -> storage; listen_event (one network namespace)
 *   revisit_files, revisit_sockets: the same later on, for processes and listening sockets only
 *
 * Kernel 5.12 and later (64-bit atomic exchange; socket cookies in tracing programs), built with -mcpu=v3.
 */
#include "kernel.h"
#include "abi.h"
#include "maps.h"
#include "state.h"
#include "destroy.h"
#include "scan.h"
#include "adopt.h"
#include "per_segment.h"
#include "guard.h"

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(on_state_change, struct sock *sk, int oldstate, int newstate)
{
	on_state(sk, oldstate, newstate);
	return 0;
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(on_state_nested, struct sock *sk, int oldstate, int newstate)
{
	on_state_missed(sk, oldstate, newstate);
	return 0;
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(on_state_guarded, struct sock *sk, int oldstate, int newstate)
{
	preempt_disable();
	on_state(sk, oldstate, newstate);
	preempt_enable();
	return 0;
}

/* Programs of one body: each is skipped for itself alone. */
MISSED_GUARDED(on_state_missed1, on_state_missed)
MISSED_GUARDED(on_state_missed2, on_state_missed)
MISSED_GUARDED(on_state_missed3, on_state_missed)

SEC("tp_btf/tcp_destroy_sock")
int BPF_PROG(on_destroyed, struct sock *sk)
{
	on_destroy(sk);
	return 0;
}

/* The same, after it: a close that has been reported is marked. */
SEC("tp_btf/tcp_destroy_sock")
int BPF_PROG(on_destroyed2, struct sock *sk)
{
	on_last_look(sk);
	return 0;
}

/* Arguments: whether each open connection has been adopted; the network namespace of which each has been. */
SEC("raw_tp")
int end_adoption(struct bpf_raw_tracepoint_args *ctx)
{
	adoption_is_complete = ctx->args[0];
	adopted_netns = ctx->args[1];
	adoption_ended = bpf_jiffies64();
	return 0;
}

SEC("tp_btf/tcp_probe")
int BPF_PROG(on_tcp_probe, struct sock *sk, struct sk_buff *skb)
{
	on_followed_segment(sk, skb);
	return 0;
}

/* accept(), once per connection: sock_graft() calls this hook of security modules whether there is one or not. */
SEC("fentry/security_sock_graft")
int BPF_PROG(on_accept, struct sock *sk, struct socket *parent)
{
	on_accepted(sk);
	return 0;
}

/* Before each scan, run by BPF_PROG_TEST_RUN and attached to nothing. */
SEC("raw_tp")
int begin_scan(struct bpf_raw_tracepoint_args *ctx)
{
	scan_began = bpf_ktime_get_ns();
	scan_written = 0;
	/* States begin with 0, which no census is. */
	if (ctx->args[0] && !++census_number)
		census_number = 1;
	return 0;
}

static __always_inline int scan_storage(struct bpf_iter__bpf_sk_storage_map *ctx, bool census)
{
	struct sock *sk = ctx->sk;
	struct socket_state *state = ctx->value;
	struct tcp_sock *tcp;

	if (!sk || !state)
		return ITER_CONTINUE;
	tcp = bpf_skc_to_tcp_sock(sk);
	return tcp ? on_scan(sk, tcp, bpf_get_socket_cookie(sk), state, census) : ITER_CONTINUE;
}

SEC("iter/bpf_sk_storage_map")
int scan_sockets(struct bpf_iter__bpf_sk_storage_map *ctx)
{
	return scan_storage(ctx, false);
}

SEC("iter/bpf_sk_storage_map")
int scan_by_cast(struct bpf_iter__bpf_sk_storage_map *ctx)
{
	struct sock *sk = ctx->sk;
	struct socket_state *state = ctx->value;

	if (!sk || !state || is_idle(sk, state))
		return ITER_CONTINUE;
	return scan_storage(ctx, false);
}

/* Shows each connection once in a census, which walks until nothing interrupts it: a walk that is continued counts
 * elements to find its place, and passes over some of a bucket from which others have been taken out. */
SEC("iter/bpf_sk_storage_map")
int scan_all(struct bpf_iter__bpf_sk_storage_map *ctx)
{
	struct socket_state *state = ctx->value;
	__u16 number = census_number;
	int result;

	if (state && state->scanned == number)
		return ITER_CONTINUE;
	result = scan_storage(ctx, true);
	if (state && result == ITER_CONTINUE)
		state->scanned = number;
	return result;
}

/* The table's scan, run by BPF_PROG_TEST_RUN and attached to nothing. 0: continue; 1: retry, a close is under way;
 * 2: no entry. */
SEC("raw_tp")
int begin_table_scan(struct bpf_raw_tracepoint_args *ctx)
{
	if (!table_used)
		return 2;
	__sync_lock_test_and_set(&table_scanning, 1);
	return *(volatile __u32 *)&table_closers != 0;
}

/* Arguments: the number of the scan, its task (enum visit), which table. 1: there is more. */
SEC("raw_tp")
int scan_table(struct bpf_raw_tracepoint_args *ctx)
{
	struct table_scan scan = {.scan = ctx->args[0], .visit = ctx->args[1]};
	__u64 older = ctx->args[2];

	if (!older)
		bpf_for_each_map_elem(&table, scan_entry, &scan, 0);
#define SCAN(n)                                                                                                      \
	if (older_tables >= n && older == n)                                                                         \
		bpf_for_each_map_elem(&table_older##n, scan_entry, &scan, 0);
	EACH_OLDER_TABLE(SCAN)
#undef SCAN
	return scan.again;
}

SEC("raw_tp")
int end_table_scan(struct bpf_raw_tracepoint_args *ctx)
{
	__sync_lock_test_and_set(&table_scanning, 0);
	return 0;
}

static __always_inline int look_at_file(struct bpf_iter__task_file *ctx, bool first_walk)
{
	struct task_struct *task = ctx->task;
	struct file *file = ctx->file;
	struct socket *socket;
	struct sock *sk;

	if (!task || !file)
		return ITER_CONTINUE;
	socket = bpf_sock_from_file(file);
	if (!socket)
		return ITER_CONTINUE;
	sk = socket->sk;
	if (!sk)
		return ITER_CONTINUE;
	/* Absent where the kernel was built without MPTCP. */
	if (bpf_core_field_exists(((struct mptcp_sock *)sk)->first) && sk->sk_protocol == IPPROTO_MPTCP &&
	    sk->__sk_common.skc_state == TCP_LISTEN)
		return show_mptcp_listener(ctx->meta->seq, sk, task);
	if (!is_tcp(sk))
		return ITER_CONTINUE;
	return adopt(ctx->meta->seq, sk, task, first_walk);
}

SEC("iter/task_file")
int adopt_files(struct bpf_iter__task_file *ctx)
{
	return look_at_file(ctx, true);
}

SEC("iter/task_file")
int revisit_files(struct bpf_iter__task_file *ctx)
{
	return look_at_file(ctx, false);
}

static __always_inline int look_at_socket(struct bpf_iter__tcp *ctx, bool first_walk)
{
	struct sock_common *common = ctx->sk_common;
	struct tcp_sock *tcp;

	if (!common)
		return ITER_CONTINUE;
	/* Not for time-wait and request sockets, which are not full sockets. */
	tcp = bpf_skc_to_tcp_sock(common);
	if (!tcp)
		return ITER_CONTINUE;
	return adopt(ctx->meta->seq, (struct sock *)tcp, NULL, first_walk);
}

SEC("iter/tcp")
int adopt_sockets(struct bpf_iter__tcp *ctx)
{
	return look_at_socket(ctx, true);
}

SEC("iter/tcp")
int revisit_sockets(struct bpf_iter__tcp *ctx)
{
	return look_at_socket(ctx, false);
}

char bpf_license[] SEC("license") = "Dual BSD/GPL";
