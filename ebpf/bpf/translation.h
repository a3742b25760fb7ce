/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * The addresses of a connection on the wire, where they are not those of its socket: behind DNAT, masquerading,
 * REDIRECT. Read from the headers of what it has in flight (sent_headers.h), by a scan without the socket's lock or,
 * in mode `events`, at a segment.
 */
#ifndef FLOWTAP_TRANSLATION_H
#define FLOWTAP_TRANSLATION_H

#include "flow.h"
#include "sent_headers.h"

/* Whether headers are read at all. Set by the loader. */
const volatile bool reads_translation = false;

/* Whether there may be headers that nothing is known of yet. */
static __always_inline bool is_translation_open(const struct socket_state *state, struct tcp_sock *tcp)
{
	return reads_translation && !has_mark(state, MARK_SENT_READ) && FIELD(tcp, snd_una) != FIELD(tcp, snd_nxt);
}

/*
 * Looks at what a connection has in flight, and reports the addresses that its packets have, once they are known,
 * before the record that follows. Packets that have the socket's own addresses may not have come to the NAT yet: that
 * counts only if they are found so a second time. Without room in the ring a later look reports.
 *
 * A separate function, so that the verifier forgets at its end in which of many ways that was reached.
 */
static __noinline int report_translation(void *ring, struct sock *sk, struct tcp_sock *tcp,
					 struct socket_state *state, __u64 cookie)
{
	struct translation_event *event;
	struct tuple sent;
	int found;

	if (!is_translation_open(state, tcp))
		return 0;
	found = read_sent_headers(&sent, sk, tcp);
	if (found == SENT_AS_SOCKET)
		set_marks(state, has_mark(state, MARK_SENT_AS_SOCKET) ? MARK_SENT_READ : MARK_SENT_AS_SOCKET);
	if (found != SENT_TRANSLATED)
		return 0;
	event = bpf_ringbuf_reserve(ring, sizeof(*event), 0);
	if (!event)
		return 0;
	event->type = EVENT_TRANSLATION;
	event->pad = 0;
	event->cookie = cookie;
	event->sent = sent;
	if (!is_sent_the_same(&event->sent, sk, tcp)) {
		bpf_ringbuf_discard(event, BPF_RB_NO_WAKEUP);
		return 0;
	}
	bpf_ringbuf_submit(event, BPF_RB_NO_WAKEUP);
	set_marks(state, MARK_SENT_READ | MARK_TRANSLATED);
	return 0;
}

#endif
