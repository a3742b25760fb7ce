/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * The window's scan: one flow_event for each socket whose totals moved since it was last looked at.
 *
 * In: every socket that has storage, in every network namespace. Out: on `lifecycle` a flow_event each. Without room
 * there the program asks, before it moves any total, to be shown the socket again: a return value of 1 ends the read
 * of the iterator with EAGAIN, and the next read goes on with the same socket (kernel/bpf/bpf_iter.c,
 * bpf_iter_run_prog() and bpf_seq_read()). Its reader drains the ring in between.
 *
 * Not through the iterator's own buffer: that holds 32 KiB, and each read of it walks its bucket of the storage map
 * again, of which there are about as many as CPUs (docs/adr/0013-the-scan-writes-to-the-ring.md).
 */
#ifndef FLOWTAP_SCAN_H
#define FLOWTAP_SCAN_H

#include "maps.h"
#include "flow.h"

enum {
	SHOWN = 0,
	SHOW_AGAIN = 1,
};

/* A place in the ring; NULL if the scan has filled its share, and the rest is for connections that close meanwhile.
 */
static __always_inline struct flow_event *reserve_scanned(void)
{
	if (bpf_ringbuf_query(&lifecycle, BPF_RB_AVAIL_DATA) >= scan_bytes)
		return NULL;
	return bpf_ringbuf_reserve(&lifecycle, sizeof(struct flow_event), 0);
}

/*
 * The socket as a struct tcp_sock, without a look at it. bpf_skc_to_tcp_sock() reads lines of the socket that nothing
 * else in a scan needs, which is a third of what an idle socket costs; and only TCP sockets are given storage.
 *
 * This is a call of the kernel function bpf_rdonly_cast() (kernel commit a35b9af4ec2c, Linux 6.2): BPF_JMP | BPF_CALL
 * with BPF_PSEUDO_KFUNC_CALL, and in place of the function's BTF id a number that the loader finds and replaces
 * (ebpf/src/kfunc.rs). Loads through its result are checked when they are made, as those of any pointer not trusted.
 */
static __always_inline struct tcp_sock *as_tcp_sock(struct sock *sk)
{
	register void *object asm("r1") = sk;
	register __u64 type asm("r2") = bpf_core_type_id_kernel(struct tcp_sock);
	register struct tcp_sock *tcp asm("r0");

	asm volatile(".8byte 0x6bf7000100002085"
		     : "=r"(tcp), "+r"(object), "+r"(type)
		     :
		     : "r3", "r4", "r5", "memory");
	return tcp;
}

/* Whether on_scan() would find nothing to tell of the socket. */
static __always_inline bool is_at_rest(struct sock *sk, const struct socket_state *state)
{
	struct totals now;

	read_totals(&now, sk, as_tcp_sock(sk));
	return state->announced && !totals_moved(&now, state);
}

static __always_inline int on_scan(struct sock *sk, struct socket_state *state)
{
	struct tcp_sock *tcp = bpf_skc_to_tcp_sock(sk);
	struct differences changed = {};
	struct flow_event *event;
	struct totals now;

	if (!tcp || !state->established || state->closed)
		return SHOWN;
	read_totals(&now, sk, tcp);
	if (state->announced && !totals_moved(&now, state))
		return SHOWN;
	event = reserve_scanned();
	if (!event)
		return SHOW_AGAIN;
	move_totals(&changed, state, &now);
	if (*(volatile __u8 *)&state->closed) {
		read_totals(&now, sk, tcp);
		move_totals(&changed, state, &now);
	}
	fill_flow(event, state, tcp, bpf_get_socket_cookie(sk), &changed, sk->__sk_common.skc_state, 0);
	/* The reader is waiting for the scan's end, and needs no waking. */
	bpf_ringbuf_submit(event, BPF_RB_NO_WAKEUP);
	return SHOWN;
}

#endif
