/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Capture mode `sockets`: no program on the data path. TCP already counts; flowtap is told when a connection changes
 * state, and once per window reads the totals of the sockets that moved.
 *
 *   on_state_change   tp_btf/inet_sock_set_state   -> lifecycle (ring buffer)
 *   on_state_nested   the same, after it: changes at which it was not run
 *   scan_sockets      iter/bpf_sk_storage_map      -> lifecycle, by the window's tick
 *   scan_by_cast      the same, quicker where the kernel has bpf_rdonly_cast()
 *   adopt_files       iter/task_file               -> storage; listen_event
 *   adopt_sockets     iter/tcp                     -> storage; listen_event (one network namespace)
 *
 * Kernel 5.12 and later (64-bit atomic exchange; socket cookies in tracing programs), built with -mcpu=v3.
 */
#include "kernel.h"
#include "abi.h"
#include "maps.h"
#include "state.h"
#include "scan.h"
#include "adopt.h"

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(on_state_change, struct sock *sk, int oldstate, int newstate)
{
	on_state(sk, oldstate, newstate);
	return 0;
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(on_state_nested, struct sock *sk, int oldstate, int newstate)
{
	on_state_again(sk, oldstate, newstate);
	return 0;
}

SEC("iter/bpf_sk_storage_map")
int scan_sockets(struct bpf_iter__bpf_sk_storage_map *ctx)
{
	struct sock *sk = ctx->sk;
	struct socket_state *state = ctx->value;

	if (!sk || !state)
		return SHOWN;
	return on_scan(sk, state);
}

SEC("iter/bpf_sk_storage_map")
int scan_by_cast(struct bpf_iter__bpf_sk_storage_map *ctx)
{
	struct sock *sk = ctx->sk;
	struct socket_state *state = ctx->value;

	if (!sk || !state || is_at_rest(sk, state))
		return SHOWN;
	return on_scan(sk, state);
}

SEC("iter/task_file")
int adopt_files(struct bpf_iter__task_file *ctx)
{
	struct task_struct *task = ctx->task;
	struct file *file = ctx->file;
	struct socket *socket;
	struct sock *sk;

	if (!task || !file)
		return SHOWN;
	socket = bpf_sock_from_file(file);
	if (!socket)
		return SHOWN;
	sk = socket->sk;
	if (!sk || !is_tcp(sk))
		return SHOWN;
	return adopt(ctx->meta->seq, sk, task);
}

SEC("iter/tcp")
int adopt_sockets(struct bpf_iter__tcp *ctx)
{
	struct sock_common *common = ctx->sk_common;
	struct tcp_sock *tcp;

	if (!common)
		return SHOWN;
	/* Not for time-wait and request sockets, which are no full sockets. */
	tcp = bpf_skc_to_tcp_sock(common);
	if (!tcp)
		return SHOWN;
	return adopt(ctx->meta->seq, (struct sock *)tcp, NULL);
}

/* Clang writes BTF only of what is used by name; the test of the ABI compares these with the Rust side. In .rodata,
 * where `wakeup_bytes` is anyway, they cost no map. */
const struct flow_event *const volatile flow_event_btf = NULL;
const struct listen_event *const volatile listen_event_btf = NULL;

char bpf_license[] SEC("license") = "Dual BSD/GPL";
