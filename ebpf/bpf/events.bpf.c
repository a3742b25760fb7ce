/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Capture mode `events`: a record per received data segment, as the Go network-exporter has it; and for kernels
 * from 5.8 on, which have no socket storage in tracing programs.
 *
 *   segment, segment_raw     tp_btf/tcp_probe, else raw_tp/tcp_probe    -> tcpflow (ring buffer)
 *   state, state_raw         tp_btf/inet_sock_set_state, else raw_tp    -> tcpconn (ring buffer)
 *   state_nested, ..._raw    the same, after it: changes at which it was not run
 *   state_guarded            tp_btf, instead of both, where programs at tracepoints can be preempted; then
 *                            state_missed1 to 3
 *   connect_probe            kprobe/tcp_connect, where there are any    -> process of a connect
 *   close_probe              kprobe/tcp_close, where there are any      -> process of an accepted connection
 *   accept, accept_probe     fentry, else kprobe/security_sock_graft    -> the same, when it is accepted
 *   find_listeners           iter/task_file                             -> processes of listening sockets
 *
 * All of them read by bpf_probe_read_kernel(), so that one source serves every kind of attachment.
 */
#define FLOWTAP_UNTYPED_ARGUMENTS

#include "kernel.h"
#include "abi.h"
#include "segments.h"
#include "guard.h"

SEC("tp_btf/tcp_probe")
int BPF_PROG(segment, struct sock *sk, struct sk_buff *skb)
{
	on_segment(sk, skb);
	return 0;
}

SEC("raw_tp/tcp_probe")
int BPF_PROG(segment_raw, struct sock *sk, struct sk_buff *skb)
{
	on_segment(sk, skb);
	return 0;
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(state, struct sock *sk, int oldstate, int newstate)
{
	on_segments_state(sk, oldstate, newstate);
	return 0;
}

SEC("raw_tp/inet_sock_set_state")
int BPF_PROG(state_raw, struct sock *sk, int oldstate, int newstate)
{
	on_segments_state(sk, oldstate, newstate);
	return 0;
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(state_nested, struct sock *sk, int oldstate, int newstate)
{
	on_segments_state_missed(sk, oldstate, newstate);
	return 0;
}

SEC("raw_tp/inet_sock_set_state")
int BPF_PROG(state_nested_raw, struct sock *sk, int oldstate, int newstate)
{
	on_segments_state_missed(sk, oldstate, newstate);
	return 0;
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(state_guarded, struct sock *sk, int oldstate, int newstate)
{
	preempt_disable();
	on_segments_state(sk, oldstate, newstate);
	preempt_enable();
	return 0;
}

/* Programs of one body: each is skipped for itself alone. */
MISSED_GUARDED(state_missed1, on_segments_state_missed)
MISSED_GUARDED(state_missed2, on_segments_state_missed)
MISSED_GUARDED(state_missed3, on_segments_state_missed)

SEC("kprobe/tcp_connect")
int BPF_KPROBE(connect_probe, struct sock *sk)
{
	on_segments_connect(sk);
	return 0;
}

SEC("kprobe/tcp_close")
int BPF_KPROBE(close_probe, struct sock *sk)
{
	on_segments_release(sk);
	return 0;
}

SEC("fentry/security_sock_graft")
int BPF_PROG(accept, struct sock *sk, struct socket *parent)
{
	on_segments_accepted(sk);
	return 0;
}

SEC("kprobe/security_sock_graft")
int BPF_KPROBE(accept_probe, struct sock *sk)
{
	on_segments_accepted(sk);
	return 0;
}

SEC("iter/task_file")
int find_listeners(struct bpf_iter__task_file *ctx)
{
	struct task_struct *task = ctx->task;
	struct file *file = ctx->file;

	if (task && file)
		on_segments_file(task, file);
	return 0;
}

/* Clang writes BTF only of what is used by name; the test of the ABI compares these with the Rust side. */
const struct flow_event *const volatile flow_event_btf = NULL;
const struct listen_event *const volatile listen_event_btf = NULL;
const struct translation_event *const volatile translation_event_btf = NULL;

char bpf_license[] SEC("license") = "Dual BSD/GPL";
