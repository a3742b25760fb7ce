/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * The window's scan: one flow_event for each socket whose totals moved since it was last looked at, and for each
 * connect that waits for an answer; in a census, one for each open socket.
 *
 * In: every socket that has storage or a place in a table, in every network namespace. Out: on `lifecycle` a
 * flow_event each. Connections that have opened since the scan began are not its task: their number has no bound, and
 * they would be found before the others each time that a walk over a table is continued, which begins anew. Without
 * room in the ring the program requests, before it moves any total, the same socket again: a return value of 1 ends
 * the read of the iterator with EAGAIN, and the next read continues with the same socket (kernel/bpf/bpf_iter.c,
 * bpf_iter_run_prog() and bpf_seq_read()). Its reader drains the ring in between.
 *
 * Not through the iterator's own buffer: that holds 32 KiB, and each read of it walks its bucket of the storage map
 * again, of which there are about as many as CPUs (docs/adr/0013-the-scan-writes-to-the-ring.md).
 */
#ifndef FLOWTAP_SCAN_H
#define FLOWTAP_SCAN_H

#include "table.h"
#include "flow.h"
#include "translation.h"

/* Return values of an iterator's program. */
enum {
	ITER_CONTINUE = 0,
	ITER_RETRY = 1,
};

/* When the scan began. */
__u64 scan_began = 0;

/* Number of the census, or of the last one. */
__u16 census_number = 0;

/* Bytes that the scan has written since the ring was drained for it. */
__u64 scan_written = 0;

/* Whether the scan has not filled its half of the ring, which is never free while changes come as quickly as they are
 * read; its share is, after each drain. */
static __always_inline bool has_room_for_scan(void)
{
	return scan_written < scan_share || bpf_ringbuf_query(&lifecycle, BPF_RB_AVAIL_DATA) < scan_bytes;
}

/*
 * A pointer to a kernel object of type `type_`, without a look at it.
 *
 * This is a call of the kernel function bpf_rdonly_cast() (kernel commit a35b9af4ec2c, Linux 6.2): BPF_JMP | BPF_CALL
 * with BPF_PSEUDO_KFUNC_CALL, and in place of the function's BTF id a number that the loader finds and replaces
 * (ebpf/src/kfunc.rs). Loads through its result are checked when they are made, as those of any pointer not trusted.
 */
#define CAST(type_, object_)                                                                                         \
	({                                                                                                           \
		register __u64 object__ asm("r1") = (__u64)(object_);                                                \
		register __u64 type__ asm("r2") = bpf_core_type_id_kernel(type_);                                    \
		register type_ *cast__ asm("r0");                                                                    \
		asm volatile(".8byte 0x6bf7000100002085"                                                             \
			     : "=r"(cast__), "+r"(object__), "+r"(type__)                                            \
			     :                                                                                       \
			     : "r3", "r4", "r5", "memory");                                                          \
		cast__;                                                                                              \
	})

/* bpf_skc_to_tcp_sock() reads lines of the socket that nothing else in a scan needs, which is a third of what an idle
 * socket costs; and only TCP sockets are followed. */
static __always_inline struct tcp_sock *as_tcp_sock(struct sock *sk)
{
	return CAST(struct tcp_sock, sk);
}

/* Whether on_scan() would find nothing to report of the socket. As if it had sent no FIN, for which one would have to
 * look at its state, on a cache line that nothing else here needs: one that has is looked at by on_scan(). */
static __always_inline bool is_idle(struct sock *sk, const struct socket_state *state)
{
	struct tcp_sock *tcp = as_tcp_sock(sk);

	return has_mark(state, MARK_ANNOUNCED) && !has_mark(state, MARK_UNREAD) &&
	       read_sequence(tcp) == state->reported.sent && read_received(sk, tcp) == state->reported.received &&
	       tcp->total_retrans == state->reported.retransmits && !chrono_type(tcp);
}

/* Whether there is something to report of a socket. No byte moves while the peer does not read or does not answer,
 * and none while this end reads what has come. */
static __always_inline bool is_changed(struct socket_state *state, const struct totals *now, __u8 chrono)
{
	return !has_mark(state, MARK_ANNOUNCED) || has_moved(now, &state->reported) || has_mark(state, MARK_UNREAD) ||
	       chrono;
}

/* Announces the scan to the close of a socket; false if the close has begun, which reports everything then. */
static __always_inline bool announce_scan(struct socket_state *state, __u64 cookie)
{
	__sync_lock_test_and_set(&scanned_socket, cookie);
	return !has_mark(state, MARK_CLOSING);
}

/* Moves what was reported to the totals that the close has left, once it has begun to report them itself. */
static __always_inline void follow_close(struct delta *sum, struct socket_state *state, __u64 *cookie)
{
	struct totals *final;

	if (!has_mark(state, MARK_CLOSED))
		return;
	final = bpf_map_lookup_elem(&final_totals, cookie);
	if (!final) {
		/* The map refused them. */
		count_lost_flow(0, 0);
		return;
	}
	move_totals(sum, &state->reported, final);
	bpf_map_delete_elem(&final_totals, cookie);
}

/* Whether a connect waits for an answer: nothing of it has been reported, and its totals do not count yet. */
static __always_inline bool is_connecting(struct sock *sk, const struct socket_state *state)
{
	return state->role == ROLE_CLIENT && !has_mark(state, MARK_ESTABLISHED) &&
	       sk->__sk_common.skc_state == TCP_SYN_SENT;
}

/* Completes the record of a connect that waits, unless it was answered meanwhile. */
static __always_inline void fill_connecting(struct flow_event *event, const struct socket_state *state,
					    struct tcp_sock *tcp)
{
	if (event->events & FLOW_OPENED) {
		event->events &= ~FLOW_CONNECTING;
		return;
	}
	event->syn_retransmits = read_syn_retransmits(tcp);
	event->age_us = (bpf_ktime_get_ns() - state->since_ns) / 1000;
}

/* `tcp` is the same socket as `sk`. */
static __always_inline int on_scan(struct sock *sk, struct tcp_sock *tcp, __u64 cookie, struct socket_state *state,
				   bool census)
{
	struct delta changed = {};
	struct flow_event *event;
	struct totals now;
	bool connecting;
	__u8 events = 0;
	__u8 chrono;

	connecting = is_connecting(sk, state);
	if (!(connecting || has_mark(state, MARK_ESTABLISHED)) || has_mark(state, MARK_CLOSED) ||
	    state->since_ns > scan_began)
		return ITER_CONTINUE;
	read_totals(&now, sk, tcp);
	/* Every program was skipped for its close. A process that has not closed the socket keeps it in this state.
	 */
	if (may_be_preempted && FIELD(sk, __sk_common.skc_state) == TCP_CLOSE) {
		if (is_disconnected(sk, tcp, state))
			return ITER_CONTINUE;
		read_closed_totals(&now, sk, tcp, state->role);
	}
	chrono = chrono_type(tcp);
	if (!census && !is_changed(state, &now, chrono))
		return ITER_CONTINUE;
	/* Without room the reader drains the ring. */
	if (!has_room_for_scan()) {
		scan_written = 0;
		return ITER_RETRY;
	}
	/* In mode `events` a segment does, under the socket's lock. */
	if (!per_segment)
		report_translation(&lifecycle, sk, tcp, state, cookie);
	event = bpf_ringbuf_reserve(&lifecycle, sizeof(*event), 0);
	if (!event) {
		scan_written = 0;
		return ITER_RETRY;
	}
	scan_written += sizeof(*event);
	read_tuple(&event->tuple, sk);
	read_details(&now, tcp, chrono);
	/* The close has reported everything, or is about to; and it may have taken the addresses. Or the socket of a
	 * table's entry is another one by now, and its close was missed. */
	if (!announce_scan(state, cookie) || (__u64)sk->__sk_common.skc_cookie.counter != cookie) {
		bpf_ringbuf_discard(event, BPF_RB_NO_WAKEUP);
		return ITER_CONTINUE;
	}
	/* In mode `events` bytes are left to the next segment, which has been ahead of the totals read here if it has
	 * just come. */
	if (connecting)
		events = FLOW_CONNECTING;
	else if (per_segment)
		move_details(&changed, &state->reported, &now);
	else
		move_totals(&changed, &state->reported, &now);
	follow_close(&changed, state, &cookie);
	if (census && !connecting) {
		look_for_redirect(state, sk);
		if (!has_mark(state, MARK_CLOSED))
			events = FLOW_OPEN;
	}
	fill_flow(event, state, tcp, cookie, &changed, sk->__sk_common.skc_state, events);
	if (connecting)
		fill_connecting(event, state, tcp);
	/* The reader is waiting for the scan's end, and needs no waking. */
	bpf_ringbuf_submit(event, BPF_RB_NO_WAKEUP);
	return ITER_CONTINUE;
}

/* Entries that one run of the table's scan looks at: it can't be preempted by other work meanwhile. */
#define TABLE_SCAN_ENTRIES 8192

/* Task of the table's scan. */
enum visit {
	VISIT_CHANGED = 0,
	VISIT_OPEN = 1, /* a census */
	VISIT_GONE = 2, /* only those whose socket has gone */
};

/* State of the table's scan, kept between entries. */
struct table_scan {
	__u16 scan; /* number of the scan, that no entry has before */
	__u32 entries;
	enum visit visit;
	bool again; /* ended before the last entry */
};

/* For bpf_for_each_map_elem(): 1 ends the walk. */
static long scan_entry(struct bpf_map *map, __u64 *cookie, struct table_entry *entry, struct table_scan *scan)
{
	struct socket_state *state = &entry->state;
	struct tcp_sock *tcp;
	struct sock *sk;

	if (state->scanned == scan->scan)
		return 0;
	if (++scan->entries > TABLE_SCAN_ENTRIES) {
		scan->again = true;
		return 1;
	}
	sk = CAST(struct sock, entry->address);
	tcp = CAST(struct tcp_sock, entry->address);
	/* Only of a socket that has been freed: one that its process holds may connect again, in this entry. */
	if ((__u64)sk->__sk_common.skc_cookie.counter != *cookie || !sk->__sk_common.skc_refcnt.refs.counter) {
		/* None of the programs was run for its close. */
		if (has_mark(state, MARK_ESTABLISHED) && !has_mark(state, MARK_CLOSED))
			COUNT_LOSS(missed_closes, 1);
		remove_entry(cookie);
		return 0;
	}
	if (scan->visit != VISIT_GONE && on_scan(sk, tcp, *cookie, state, scan->visit == VISIT_OPEN) == ITER_RETRY) {
		scan->again = true;
		return 1;
	}
	state->scanned = scan->scan;
	return 0;
}

#endif
