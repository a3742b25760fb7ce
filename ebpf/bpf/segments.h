/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Capture mode `events`: a record per received data segment, per connection that opened and per one that closed.
 *
 * In: segments from tcp_probe, state changes, and where there are kprobes the process of a connect or close. Out: on
 * `tcpflow` a flow_event per segment, on `tcpconn` one per open, close or failure, and listen_event.
 *
 * A segment's record reports the bytes that the socket will have received with it, before TCP has
 * taken it in; TCP may yet drop it. And tcp_probe sees nothing of a connection that is half closed.
 * So the reported totals are stored per socket, and the close reports the difference to the
 * socket's own totals: from then on the sum is exact, both ways.
 *
 * Every look at a socket is made under its lock, so plain arithmetic will do.
 */
#ifndef FLOWTAP_SEGMENTS_H
#define FLOWTAP_SEGMENTS_H

#include "control.h"
#include "owners.h"
#include "segment.h"
#include "translation.h"

/* A socket's place in the table. */
struct tracked_socket {
	struct socket_state state;
	struct tuple tuple; /* for a census, which is made without the socket */
	__u64 cookie;
	__u64 reported_ns; /* the last record */
};

/* Key: address of the struct sock. Value: what was last reported of it. The size is set by the loader. */
#define TRACKED(name, entries)                                                                                       \
	struct {                                                                                                     \
		__uint(type, BPF_MAP_TYPE_HASH);                                                                     \
		__uint(max_entries, entries);                                                                        \
		__type(key, __u64);                                                                                  \
		__type(value, struct tracked_socket);                                                                \
	} name SEC(".maps")

TRACKED(tracked, 1 << 16);

/* Older tables, the newest first: see control.h. */
#define DECLARE(n) TRACKED(tracked_older##n, 1);
EACH_OLDER_TABLE(DECLARE)
#undef DECLARE

/* Number of entries of all tables. */
__u32 tracked_entries = 0;

/* flow_event of received segments. The size is set by the loader. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 24);
} tcpflow SEC(".maps");

/* flow_event of connections that opened, closed or failed; listen_event. The size is set by the loader. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 24);
} tcpconn SEC(".maps");

/* Initial contents of an entry. Not a scratch area: a softirq may come between its filling and
 * its copying. */
const volatile struct tracked_socket empty_tracked = {};

/* Whether connect() is seen by a kprobe; else by the change to SYN_SENT. Set by the loader. */
const volatile bool has_kprobes = false;

/* Mixed into the addresses that stand for sockets, so that none leaves the kernel. Set by the loader. */
const volatile __u64 cookie_key = 0;

static __always_inline __u64 address_of(struct sock *sk)
{
	return (__u64)sk;
}

/* bpf_get_socket_cookie() is for later kernels. The verifier lets nobody reckon with a pointer, so a copy of its
 * value is read as any other memory. */
static __always_inline __u64 cookie_of(struct sock *sk)
{
	__u64 address = address_of(sk);
	__u64 value = 0;

	bpf_probe_read_kernel(&value, sizeof(value), &address);
	return value ^ cookie_key;
}

static __noinline struct tracked_socket *find_tracked(__u64 *address)
{
	struct tracked_socket *place = bpf_map_lookup_elem(&tracked, address);

#define LOOK_UP(n)                                                                                                   \
	if (!place && older_tables >= n)                                                                             \
		place = bpf_map_lookup_elem(&tracked_older##n, address);
	EACH_OLDER_TABLE(LOOK_UP)
#undef LOOK_UP
	return place;
}

static __noinline void remove_tracked(__u64 *address)
{
	long absent = bpf_map_delete_elem(&tracked, address);

#define REMOVE(n)                                                                                                    \
	if (absent && older_tables >= n)                                                                             \
		absent = bpf_map_delete_elem(&tracked_older##n, address);
	EACH_OLDER_TABLE(REMOVE)
#undef REMOVE
	if (!absent)
		__sync_fetch_and_add(&tracked_entries, -1);
}

/* An empty place for the socket at `address`; NULL if there is none. Whatever is known of the address was of another
 * socket, or of another connection of this one. */
static __always_inline struct tracked_socket *make_tracked(__u64 *address)
{
	struct tracked_socket *place = find_tracked(address);
	__u32 zero = 0;
	struct control *now;
	long refused;

	if (place) {
		__builtin_memset(place, 0, sizeof(*place));
		return place;
	}
	now = bpf_map_lookup_elem(&control, &zero);
	if (!now || *(volatile __u32 *)&tracked_entries >= now->table_limit)
		return NULL;
	if (adds_to_older_table(now))
		refused = bpf_map_update_elem(&tracked_older1, address, (const void *)&empty_tracked, BPF_NOEXIST);
	else
		refused = bpf_map_update_elem(&tracked, address, (const void *)&empty_tracked, BPF_NOEXIST);
	if (refused)
		return NULL;
	__sync_fetch_and_add(&tracked_entries, 1);
	return find_tracked(address);
}

/* A place for a socket that is not tracked yet; NULL if there is none, which the caller counts once a connection.
 * `adopted`: it was open before, and counts from now on. */
static __always_inline struct tracked_socket *track_segments(struct sock *sk, __u8 role, bool adopted)
{
	struct tcp_sock *tcp = (struct tcp_sock *)sk;
	__u64 address = address_of(sk);
	struct tracked_socket *place;
	struct socket_state *state;

	place = make_tracked(&address);
	if (!place) {
		has_untracked = true;
		return NULL;
	}
	place->cookie = cookie_of(sk);
	state = &place->state;
	state->role = role;
	state->netns = read_netns(sk);
	state->since_ns = bpf_ktime_get_ns();
	if (adopted) {
		read_totals(&state->reported, sk, tcp);
		read_details(&state->reported, tcp, chrono_type(tcp));
		state->role = role_by_counters(sk, tcp);
		state->marks = MARK_ADOPTED | MARK_ESTABLISHED;
		if (state->role != ROLE_UNKNOWN)
			state->marks |= MARK_ROLE_COUNTED;
	}
	read_tuple(&place->tuple, sk);
	return place;
}

/* The changes since the last report except for received bytes, which the caller knows more
 * precisely. */
static __always_inline void take_delta(struct delta *changed, struct totals *reported, const struct totals *now)
{
	__u64 received = reported->received;

	changed->sent = now->sent - reported->sent;
	changed->sent_segments = (__s32)(now->sent_segments - reported->sent_segments);
	changed->received_segments = (__s32)(now->received_segments - reported->received_segments);
	changed->retransmits = (__s32)(now->retransmits - reported->retransmits);
	changed->out_of_order = (__s32)(now->out_of_order - reported->out_of_order);
	changed->lost = (__s32)(now->lost - reported->lost);
	changed->ecn_ce = (__s32)(now->ecn_ce - reported->ecn_ce);
	changed->elapsed = (__s32)(now->clock - reported->clock);
	changed->busy = (__s32)(now->busy - reported->busy);
	changed->rwnd_limited = (__s32)(now->rwnd_limited - reported->rwnd_limited);
	changed->sndbuf_limited = (__s32)(now->sndbuf_limited - reported->sndbuf_limited);
	changed->rto_ms = (__s32)(now->rto_ms - reported->rto_ms);
	changed->chrono = now->chrono;
	*reported = *now;
	reported->received = received;
}

/* Whether a socket is to be reported for which no payload came in: one that only sends, or that can't send, at most
 * once per second. */
static __always_inline bool is_sender_due(const struct tracked_socket *place, const struct totals *now,
					  struct tcp_sock *tcp, __u64 time)
{
	return time - place->reported_ns >= SENDER_REPORT_NS &&
	       (now->sent != place->state.reported.sent || chrono_type(tcp));
}

static __always_inline void on_segment(struct sock *sk, struct sk_buff *skb)
{
	struct tcp_sock *tcp = (struct tcp_sock *)sk;
	__u64 address = address_of(sk);
	struct delta changed = {};
	struct tracked_socket *place;
	struct socket_state *state;
	struct flow_event *event;
	struct segment segment;
	struct totals now = {};
	__s64 received;
	enum duty duty_ = duty();
	__u64 time;

	if (duty_ == DUTY_NONE || !is_tcp(sk))
		return;
	read_segment(&segment, skb);
	place = find_tracked(&address);
	/* Once the table was full, this may as well be a connection that found no place when it opened: its close
	 * counts all of it. */
	if (!place && !has_untracked)
		place = track_segments(sk, ROLE_UNKNOWN, true);
	if (!place)
		return;
	state = &place->state;
	report_translation(&tcpflow, sk, tcp, state, place->cookie);
	time = bpf_ktime_get_ns();
	read_totals(&now, sk, tcp);
	received = (__s64)(received_with(&segment, &now, tcp) - state->reported.received);
	/* The programs before these may have reported it: then it has brought nothing new. */
	if (duty_ == DUTY_FOLLOW)
		segment.payload = 0;
	if (!segment.payload && !received && !is_sender_due(place, &now, tcp, time))
		return;
	event = bpf_ringbuf_reserve(&tcpflow, sizeof(*event), 0);
	if (!event) {
		/* The totals are not updated: the next record of this socket, or its close, reports these
		 * bytes. */
		COUNT_LOSS(segments, 1);
		return;
	}
	read_details(&now, tcp, chrono_type(tcp));
	take_delta(&changed, &state->reported, &now);
	changed.received = received;
	state->reported.received += received;
	place->reported_ns = time;
	event->tuple = place->tuple;
	fill_flow(event, state, tcp, place->cookie, &changed, FIELD(sk, __sk_common.skc_state), 0);
	bpf_ringbuf_submit(event, wakeup_flags(&tcpflow));
}

/* A process' file that is a listening socket: for those that began to listen before the programs were there. By the
 * file system that the file is of, as bpf_sock_from_file() is for later kernels; a file that was opened by O_PATH has
 * no socket. */
static __always_inline void on_segments_file(struct task_struct *task, struct file *file)
{
	struct socket *socket;
	struct sock *sk;

	if (BPF_CORE_READ(file, f_inode, i_sb, s_magic) != SOCKFS_MAGIC)
		return;
	socket = BPF_CORE_READ(file, private_data);
	sk = socket ? BPF_CORE_READ(socket, sk) : NULL;
	/* Absent where the kernel was built without MPTCP. */
	if (sk && bpf_core_field_exists(((struct mptcp_sock *)sk)->first) && FIELD(sk, sk_protocol) == IPPROTO_MPTCP)
		sk = BPF_CORE_READ((struct mptcp_sock *)sk, first);
	if (sk && is_tcp(sk) && FIELD(sk, __sk_common.skc_state) == TCP_LISTEN)
		remember_holder(sk, cookie_of(sk), task);
}

static __always_inline void emit_segments_listener(struct sock *sk, __u32 type)
{
	struct listen_event *event = bpf_ringbuf_reserve(&tcpconn, sizeof(*event), 0);

	if (!event) {
		COUNT_LOSS(listeners, 1);
		return;
	}
	__builtin_memset(event, 0, sizeof(*event));
	fill_listener(event, sk, type);
	event->cookie = cookie_of(sk);
	bpf_ringbuf_submit(event, wakeup_flags(&tcpconn));
}

static __always_inline void on_segments_listen(struct sock *sk)
{
	remember_owner(sk, cookie_of(sk));
	emit_segments_listener(sk, EVENT_LISTEN);
}

static __always_inline void on_segments_unlisten(struct sock *sk)
{
	forget_owner(sk);
	emit_segments_listener(sk, EVENT_UNLISTEN);
}

/* Whether no program has seen this connect(): one that is established is of the connection before. */
static __always_inline bool is_connect_missed(const struct tracked_socket *place)
{
	return !place || has_mark(&place->state, MARK_ESTABLISHED);
}

/* connect(), by kprobe or by the change to SYN_SENT: in the process that calls it. */
static __always_inline void on_segments_connect(struct sock *sk)
{
	__u64 address = address_of(sk);
	enum duty duty_ = duty();
	struct tracked_socket *place;

	if (duty_ == DUTY_NONE || !is_tcp(sk))
		return;
	if (duty_ == DUTY_FOLLOW && !is_connect_missed(find_tracked(&address)))
		return;
	place = track_segments(sk, ROLE_CLIENT, false);
	if (place)
		set_current_process(&place->state, OWNER_SEEN);
}

/* A socket that comes into being for a connection: whatever is known of its address was another's. */
static __always_inline void on_segments_child(struct sock *sk)
{
	struct tracked_socket *place = track_segments(sk, ROLE_SERVER, false);
	const struct owner *known = owner_of_listener(sk);

	if (place && known)
		copy_owner(&place->state, known, OWNER_LISTENS);
}

/* accept(), in the process that calls it. */
static __always_inline void on_segments_accepted(struct sock *sk)
{
	__u64 address = address_of(sk);
	struct tracked_socket *place = find_tracked(&address);

	if (place && is_owner_open(&place->state))
		set_current_process(&place->state, OWNER_ACCEPTED);
}

/* shutdown() or close(), in the process that calls it, which may be another than the one that accepted it. */
static __always_inline void on_segments_release(struct sock *sk)
{
	__u64 address = address_of(sk);
	struct tracked_socket *place = find_tracked(&address);

	if (place && is_owner_open(&place->state))
		set_current_process(&place->state, OWNER_SEEN);
}

static __always_inline void on_segments_established(struct sock *sk, int oldstate, bool first)
{
	__u64 address = address_of(sk);
	struct tracked_socket *place = find_tracked(&address);
	struct tcp_sock *tcp = (struct tcp_sock *)sk;
	struct socket_state *state;
	struct delta none = {};
	struct flow_event *event;
	__u64 now = bpf_ktime_get_ns();

	if (oldstate == TCP_SYN_RECV && (!place || has_mark(&place->state, MARK_ESTABLISHED)))
		place = track_segments(sk, ROLE_SERVER, false);
	if (!place && oldstate == TCP_SYN_SENT)
		place = track_segments(sk, ROLE_CLIENT, false);
	if (!place) {
		count_untracked_opening(cookie_of(sk), first);
		return;
	}
	state = &place->state;
	if (oldstate == TCP_SYN_SENT)
		state->handshake_us = (now - state->since_ns) / 1000;
	if (state->role == ROLE_SERVER && state->owner <= OWNER_LISTENS)
		inherit_cgroup(state, sk);
	state->since_ns = now;
	end_handshake(state, tcp);
	set_marks(state, MARK_ESTABLISHED);
	read_tuple(&place->tuple, sk);
	event = bpf_ringbuf_reserve(&tcpconn, sizeof(*event), 0);
	if (!event) {
		count_lost_flow(0, 0);
		return;
	}
	event->tuple = place->tuple;
	fill_flow(event, state, tcp, place->cookie, &none, TCP_ESTABLISHED, 0);
	bpf_ringbuf_submit(event, wakeup_flags(&tcpconn));
}

static __always_inline void on_segments_close(struct sock *sk, int oldstate)
{
	__u64 address = address_of(sk);
	struct tracked_socket *place = find_tracked(&address);
	struct tcp_sock *tcp = (struct tcp_sock *)sk;
	struct socket_state *state;
	struct delta changed = {};
	struct flow_event *event;
	struct totals now = {};

	/* For the programs after this one: the place is given back below. */
	note_done(cookie_of(sk), TCP_CLOSE);
	read_totals(&now, sk, tcp);
	if (!place && oldstate == TCP_SYN_RECV && now.received) {
		/* TCP Fast Open: accepted, and reset before the handshake's end. */
		place = track_segments(sk, ROLE_SERVER, false);
		if (place)
			inherit_cgroup(&place->state, sk);
	}
	if (place && place->state.role == ROLE_SERVER && !has_mark(&place->state, MARK_ESTABLISHED) &&
	    !now.received) {
		/* TCP could not make a connection of it. */
		remove_tracked(&address);
		return;
	}
	if (!place) {
		if (has_untracked && now.sent_segments)
			count_lost_bytes(now.sent - (role_by_counters(sk, tcp) == ROLE_CLIENT), now.received);
		return;
	}
	state = &place->state;
	read_details(&now, tcp, chrono_type(tcp));
	begin_failed_connect(state, &now, tcp);
	take_delta(&changed, &state->reported, &now);
	changed.received = (__s64)(now.received - state->reported.received);
	event = bpf_ringbuf_reserve(&tcpconn, sizeof(*event), 0);
	if (!event) {
		count_lost_flow(changed.sent, changed.received);
	} else {
		int error;

		read_tuple(&event->tuple, sk);
		error = connect_error(sk, tcp, &event->tuple);
		fill_flow(event, state, tcp, place->cookie, &changed, TCP_CLOSE,
			  closing_events(state, sk, oldstate, error));
		fill_close(event, tcp, error);
		bpf_ringbuf_submit(event, wakeup_flags(&tcpconn));
	}
	remove_tracked(&address);
}

/* For what on_segments_state() was not run for: see do_missed() in state.h. */
static __always_inline void do_segments_missed(struct sock *sk, int oldstate, int newstate)
{
	struct tracked_socket *place;
	__u64 address = address_of(sk);

	if (newstate == TCP_LISTEN) {
		if (!has_owner(address, cookie_of(sk)))
			on_segments_listen(sk);
		return;
	}
	if (oldstate == TCP_LISTEN && newstate == TCP_CLOSE) {
		if (forget_owner(sk))
			emit_segments_listener(sk, EVENT_UNLISTEN);
		return;
	}
	place = find_tracked(&address);
	if (oldstate == TCP_LISTEN && newstate == TCP_SYN_RECV) {
		/* Else it is as the first program made it. */
		if (!place || place->state.role != ROLE_SERVER || has_mark(&place->state, MARK_ESTABLISHED))
			on_segments_child(sk);
	} else if (newstate == TCP_SYN_SENT) {
		if (!has_kprobes && is_connect_missed(place))
			on_segments_connect(sk);
	} else if (newstate == TCP_CLOSE) {
		/* Nothing is there any more if it has been seen; or there never was a place. */
		if (place || (has_untracked && !was_done(cookie_of(sk), TCP_CLOSE)))
			on_segments_close(sk, oldstate);
	} else {
		if ((newstate == TCP_ESTABLISHED || oldstate == TCP_SYN_RECV) &&
		    (!place || !has_mark(&place->state, MARK_ESTABLISHED)))
			on_segments_established(sk, oldstate, false);
		if (newstate == TCP_FIN_WAIT1 || newstate == TCP_LAST_ACK)
			on_segments_release(sk);
	}
}

static __always_inline void on_segments_state_missed(struct sock *sk, int oldstate, int newstate)
{
	if (duty() != DUTY_NONE && is_tcp(sk))
		do_segments_missed(sk, oldstate, newstate);
}

static __always_inline void on_segments_state(struct sock *sk, int oldstate, int newstate)
{
	enum duty duty_ = duty();

	if (duty_ == DUTY_NONE || !is_tcp(sk))
		return;
	if (duty_ == DUTY_FOLLOW) {
		do_segments_missed(sk, oldstate, newstate);
		return;
	}
	if (newstate == TCP_LISTEN)
		on_segments_listen(sk);
	else if (oldstate == TCP_LISTEN && newstate == TCP_SYN_RECV)
		on_segments_child(sk);
	else if (oldstate == TCP_LISTEN && newstate == TCP_CLOSE)
		on_segments_unlisten(sk);
	else if (newstate == TCP_SYN_SENT) {
		if (!has_kprobes)
			on_segments_connect(sk);
	} else if (newstate == TCP_CLOSE)
		on_segments_close(sk, oldstate);
	else {
		if (newstate == TCP_ESTABLISHED || oldstate == TCP_SYN_RECV)
			on_segments_established(sk, oldstate, true);
		if (newstate == TCP_FIN_WAIT1 || newstate == TCP_LAST_ACK)
			on_segments_release(sk);
	}
}

#endif
