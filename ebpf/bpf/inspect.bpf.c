/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * The option `inspect`: the first bytes of connections, exchanges, and the addresses on the wire. Loaded and attached
 * only where the config asks for it, and then for as much of the time as its budget allows.
 *
 *   inspect         tp_btf/tcp_probe           -> first_bytes (perf buffer), exchanges (ring buffer)
 *   inspect_states  tp_btf/inet_sock_set_state -> exchanges: of requests that complete the handshake, and of answers
 *                                                 whose acknowledgement comes after the FIN
 *
 * The tracepoint shows each received segment of an established connection before TCP has taken it in, under the
 * socket's lock. That lock is what makes it safe to read the segment at the head of the retransmit queue: what this
 * end said first, which no tracepoint shows when it is sent.
 *
 * An exchange is recognized by the direction of data: data that comes in answers what was sent before, and the other
 * way round. With TLS the first ones are the handshake, so user space must know which connections speak it: for that
 * a few bytes are handed over where first bytes are not asked for.
 *
 * The same segment at the head of the queue has the addresses that the connection's packets have on the wire
 * (sent_headers.h). A scan finds them only while something is in flight; here each connection is seen in which this
 * end sends data. They go into the ring of exchanges.
 *
 * Linux 5.12 and later (socket storage, and cookies, in tracing programs).
 */
#include "kernel.h"
#include "inspect_abi.h"
#include "sent_headers.h"
#include "inspect_maps.h"
#include "inspect_segment.h"
#include "inspect_first_bytes.h"

/* One in so many runs is timed: reading the clock costs as much as the rest. */
#define TIMED_RUNS 64

/* More than any run takes. A clock is all that there is, so one that an interrupt or the hypervisor has interrupted
 * takes longer; it counts as this, as it stands for TIMED_RUNS of them. */
#define LONGEST_RUN_NS 10000

/* Segments at which the headers of what is in flight are looked at, where they can't be read: some connections have
 * longer headers in each segment. */
#define HEADER_LOOKS 16

static __always_inline struct inspect_state *create_state(struct sock *sk, struct tcp_sock *tcp,
							  struct inspect_control *control, struct inspect_seen *seen)
{
	struct inspect_state *state = bpf_sk_storage_get(&inspected, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);

	if (!state) {
		seen->untracked++;
		return NULL;
	}
	state->epoch = control->epoch;
	state->looks = control->wants & WANT_TRANSLATIONS ? HEADER_LOOKS : 0;
	state->role = read_role(tcp);
	if (state->role == ROLE_UNKNOWN)
		seen->unknown_roles++;
	return state;
}

static __always_inline void expect_first_bytes(struct inspect_state *state, __u32 wants)
{
	__u8 segments = wants & WANT_FIRST_BYTES ? FIRST_SEGMENTS : 1;

	state->received_left = segments;
	/* A server speaks first, or what it says is an answer. */
	state->sent_left = state->role == ROLE_SERVER ? 1 : segments;
}

/* At the first look after the handshake: data that has been received by then completed it, as it does with
 * TCP_DEFER_ACCEPT or where the last acknowledgement was lost. TCP takes such data in without the tracepoint, so its
 * bytes are not seen; but it came when the connection was established, and the answer is what follows. */
static __always_inline void look_first(struct inspect_state *state, struct tcp_sock *tcp, __u32 wants)
{
	state->is_new = 0;
	expect_first_bytes(state, wants);
	if (tcp->bytes_received) {
		state->received_left = 0;
		state->is_waiting = state->role == ROLE_SERVER;
	}
}

static __always_inline struct inspect_state *state_of(struct sock *sk, struct tcp_sock *tcp,
						      struct inspect_control *control, struct inspect_seen *seen)
{
	struct inspect_state *state = bpf_sk_storage_get(&inspected, sk, 0, 0);

	if (state) {
		if (state->epoch != control->epoch) {
			/* Segments have passed unseen: an exchange that is under way can't be timed. */
			state->epoch = control->epoch;
			state->sent = state->looked = payload_sent(tcp);
			state->is_waiting = 0;
			state->sent_left = state->received_left = 0;
			state->turn = UNKNOWN_TURN;
			state->is_new = 0;
		}
		if (state->is_new)
			look_first(state, tcp, control->wants);
		return state;
	}
	state = create_state(sk, tcp, control, seen);
	if (!state)
		return NULL;
	/* Of a connection that was there before, the beginning is past. */
	if (tcp->bytes_received) {
		state->sent = state->looked = payload_sent(tcp);
		state->turn = UNKNOWN_TURN;
	} else {
		expect_first_bytes(state, control->wants);
	}
	return state;
}

static __always_inline __u64 exchange_wakeup_flags(void)
{
	__u64 waiting = bpf_ringbuf_query(&exchanges, BPF_RB_AVAIL_DATA);

	/* As wakeup_flags() in socket_state.h. */
	if (waiting < exchange_wakeup_bytes || (waiting & (exchange_wakeup_bytes / 4 - 1)) >= 256)
		return BPF_RB_NO_WAKEUP;
	return BPF_RB_FORCE_WAKEUP;
}

static __always_inline void report_exchange(struct inspect_state *state, __u64 cookie, __u64 from, __u64 to,
					    struct inspect_seen *seen)
{
	/* A departure may be in the future, where the sender is paced. */
	__u64 duration = to > from ? (to - from + 500) / 1000 : 0;
	struct exchange_event *event;
	__u8 turn = state->turn;

	if (turn < UNKNOWN_TURN - 1)
		state->turn++;
	if (!from || !to) {
		seen->exchanges_untimed++;
		return;
	}
	if (duration > 0xffffffff) {
		seen->exchanges_too_long++;
		return;
	}
	event = bpf_ringbuf_reserve(&exchanges, sizeof(*event), 0);
	if (!event) {
		seen->exchanges_lost++;
		return;
	}
	event->cookie = cookie;
	event->duration_us = duration;
	event->role = state->role;
	event->turn = turn;
	event->pad[0] = event->pad[1] = 0;
	seen->exchanges++;
	bpf_ringbuf_submit(event, exchange_wakeup_flags());
}

/* Whether the head of the retransmit queue was transmitted again: NAT may be at work on that copy. */
static __always_inline bool is_oldest_retransmitted(struct tcp_sock *tcp)
{
	struct sk_buff *oldest = oldest_sent(tcp);

	if (!oldest)
		return true;
	return BPF_CORE_READ((struct tcp_skb_cb *)&oldest->cb, sacked) & TCPCB_EVER_RETRANS;
}

/*
 * Looks at the headers of what is in flight. Once it is acknowledged they are what they will be: the packet has come
 * to its end, and past each NAT. Before that only addresses that differ from the socket's count, as in a scan.
 * Without room in the ring a later segment reports.
 *
 * A separate function, so that the verifier forgets at its end in which of many ways that was reached.
 */
static __noinline int report_translation(struct inspect_state *state, struct sock *sk, struct tcp_sock *tcp,
					 __u64 cookie, bool is_acknowledged)
{
	struct translation_event *event;
	struct tuple sent;
	int found = read_sent_headers(&sent, sk, tcp);

	if (found != SENT_TRANSLATED) {
		bool is_final = found == SENT_AS_SOCKET && is_acknowledged && !is_oldest_retransmitted(tcp);

		state->looks = is_final ? 0 : state->looks - 1;
		return 0;
	}
	event = bpf_ringbuf_reserve(&exchanges, sizeof(*event), 0);
	if (!event)
		return 1;
	event->type = EVENT_TRANSLATION;
	event->pad = 0;
	event->cookie = cookie;
	event->sent = sent;
	if (!is_sent_the_same(&event->sent, sk, tcp)) {
		bpf_ringbuf_discard(event, BPF_RB_NO_WAKEUP);
		return 0;
	}
	state->looks = 0;
	bpf_ringbuf_submit(event, exchange_wakeup_flags());
	return 0;
}

static __always_inline void look_at_headers(struct inspect_state *state, struct sock *sk, struct tcp_sock *tcp,
					    __u64 cookie, bool is_acknowledged, struct inspect_seen *seen)
{
	if (report_translation(state, sk, tcp, cookie, is_acknowledged))
		seen->translations_lost++;
}

/* Reports the answer that a server has sent since the request came, if it has. */
static __always_inline void report_answer(struct inspect_state *state, struct sock *sk, struct tcp_sock *tcp,
					  __u64 sent, __u64 cookie, struct inspect_seen *seen)
{
	__u64 answered;

	if (!state->is_waiting || sent == state->sent)
		return;
	answered = first_sent_ns(sk, tcp, tcp->snd_nxt - (__u32)(sent - state->sent));
	report_exchange(state, cookie, state->asked_ns, answered, seen);
	state->is_waiting = 0;
	state->sent = sent;
}

static __always_inline void follow_exchange(struct inspect_state *state, struct sock *sk, struct tcp_sock *tcp,
					    const struct received *received, __u64 cookie, struct inspect_seen *seen)
{
	__u64 sent = payload_sent(tcp);
	/* A segment that came again brings nothing. */
	bool is_fresh = received->payload && (__s32)(received->sequence + received->payload - tcp->rcv_nxt) > 0;

	if (state->role == ROLE_CLIENT) {
		if (sent != state->looked) {
			state->asked_ns = first_sent_ns(sk, tcp, tcp->snd_nxt - 1);
			if (!state->asked_ns)
				state->asked_ns = sent_with_syn_ns(tcp);
			state->looked = sent;
		}
		if (!is_fresh || sent == state->sent)
			return;
		state->sent = sent;
		report_exchange(state, cookie, state->asked_ns, bpf_ktime_get_ns(), seen);
	} else if (state->role == ROLE_SERVER) {
		report_answer(state, sk, tcp, sent, cookie, seen);
		if (!is_fresh)
			return;
		state->is_waiting = 1;
		state->asked_ns = bpf_ktime_get_ns();
		state->sent = sent;
	}
}

static __always_inline void inspect_segment(struct sock *sk, struct sk_buff *skb, struct inspect_seen *seen)
{
	struct tcp_sock *tcp = bpf_skc_to_tcp_sock(sk);
	struct inspect_control *control;
	struct inspect_state *state;
	struct received received;
	__u32 zero = 0;
	__u64 cookie;

	control = bpf_map_lookup_elem(&inspect_control, &zero);
	if (!tcp || !control || !read_received(&received, skb, tcp))
		return;
	state = state_of(sk, tcp, control, seen);
	if (!state)
		return;
	cookie = bpf_get_socket_cookie(sk);
	if (state->looks && received.is_acknowledging)
		look_at_headers(state, sk, tcp, cookie, true, seen);
	/* First what was said first, so that a message comes before its answer; and both before the exchange. */
	if (state->sent_left)
		hand_over_sent(state, tcp, cookie, control->wants, seen);
	if (state->received_left && received.payload)
		hand_over_received(state, skb, tcp, &received, cookie, control->wants, seen);
	if (control->wants & WANT_EXCHANGES)
		follow_exchange(state, sk, tcp, &received, cookie, seen);
}

/* Counts a run; returns when it began, if it is one whose time is taken. */
static __always_inline __u64 begin_run(struct inspect_seen *seen)
{
	return seen->runs++ % TIMED_RUNS ? 0 : bpf_ktime_get_ns();
}

static __always_inline void end_run(struct inspect_seen *seen, __u64 began)
{
	__u64 took;

	if (!began)
		return;
	took = bpf_ktime_get_ns() - began;
	seen->timed_ns += took < LONGEST_RUN_NS ? took : LONGEST_RUN_NS;
	seen->timed_runs++;
}

SEC("tp_btf/tcp_probe")
int BPF_PROG(inspect, struct sock *sk, struct sk_buff *skb)
{
	struct inspect_seen *seen;
	__u32 zero = 0;
	__u64 began;

	seen = bpf_map_lookup_elem(&inspect_seen, &zero);
	if (!seen)
		return 0;
	began = begin_run(seen);
	inspect_segment(sk, skb, seen);
	end_run(seen, began);
	return 0;
}

/* The connection is established. Its state is made here for a server alone, before which a request may be. One that
 * has come with a SYN (Fast Open) came earlier. */
static __always_inline void begin(struct sock *sk, struct tcp_sock *tcp, struct inspect_control *control,
				  struct inspect_seen *seen)
{
	struct inspect_state *state;

	if (tcp->bytes_received || read_role(tcp) != ROLE_SERVER)
		return;
	state = create_state(sk, tcp, control, seen);
	if (!state)
		return;
	state->is_new = 1;
	state->asked_ns = bpf_ktime_get_ns();
}

/* The connection ends: acknowledgements in later states do not pass the tracepoint. */
static __always_inline void end(struct sock *sk, struct tcp_sock *tcp, struct inspect_control *control,
				struct inspect_seen *seen)
{
	struct inspect_state *state = bpf_sk_storage_get(&inspected, sk, 0, 0);

	if (!state || state->epoch != control->epoch)
		return;
	if (state->is_new) {
		look_first(state, tcp, control->wants);
		hand_over_sent(state, tcp, bpf_get_socket_cookie(sk), control->wants, seen);
	}
	if (control->wants & WANT_EXCHANGES)
		report_answer(state, sk, tcp, payload_sent(tcp), bpf_get_socket_cookie(sk), seen);
	if (state->looks && tcp->packets_out)
		look_at_headers(state, sk, tcp, bpf_get_socket_cookie(sk), false, seen);
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(inspect_states, struct sock *sk, int oldstate, int newstate)
{
	struct inspect_control *control;
	struct inspect_seen *seen;
	struct tcp_sock *tcp;
	__u32 zero = 0;
	__u64 began;

	if (sk->sk_protocol != IPPROTO_TCP)
		return 0;
	tcp = bpf_skc_to_tcp_sock(sk);
	control = bpf_map_lookup_elem(&inspect_control, &zero);
	seen = bpf_map_lookup_elem(&inspect_seen, &zero);
	if (!tcp || !control || !seen)
		return 0;
	began = begin_run(seen);
	if (oldstate == TCP_SYN_RECV && newstate == TCP_ESTABLISHED)
		begin(sk, tcp, control, seen);
	else if (newstate == TCP_FIN_WAIT1 || newstate == TCP_LAST_ACK || newstate == TCP_CLOSE)
		end(sk, tcp, control, seen);
	end_run(seen, began);
	return 0;
}

/* Clang writes BTF only of what is used by name; the test of the ABI compares these with the Rust side. */
const struct exchange_event *const volatile exchange_event_btf = NULL;
const struct first_bytes *const volatile first_bytes_btf = NULL;
const struct translation_event *const volatile translation_event_btf = NULL;

char bpf_license[] SEC("license") = "Dual BSD/GPL";
