/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * UDP and UDP-Lite, counted per socket and peer where a datagram leaves the socket and where the application takes
 * it.
 *
 *   sent4, sent6     ip_send_skb(), ip6_send_skb()            every datagram that a UDP socket sends
 *   taken            skb_consume_udp()                        every datagram that an application takes or peeks at
 *   gone4, gone6     udp_destroy_sock(), udpv6_destroy_sock() a socket closes -> udp_closed
 *   dropped          tp_btf/udp_fail_queue_rcv_skb            no room in the socket's receive buffer
 *   failed           tp_btf/inet_sk_error_report              an ICMP error
 *
 * No TCP segment passes any of these. Each function has a program for fentry and one for kprobes, the latter
 * attached through BPF_TRACE_KPROBE_MULTI or perf; by choice one of two other sets, for kernels without either:
 *
 *   cgroup_sent, cgroup_received   cgroup_skb of the root cgroup, with cgroup_closed at cgroup/sock_release; what the
 *                                  socket does not get is taken back: uncount_dropped, uncount_filtered
 *   length_sent, length_received   tp_btf/sock_send_length, tp_btf/sock_recv_length
 *
 * Outputs: udp_sockets and udp_flows, which user space reads; udp_closed; dns.
 */
#include "udp_count.h"
#include "udp_buffer.h"

static __always_inline int count_sent(struct sk_buff *buffer)
{
	struct sk_buff___udp *skb = (void *)buffer;
	struct sock *sk = BPF_CORE_READ(skb, sk);
	struct datagram datagram = {.sent = true, .in_process = true};
	__u32 offset;

	if (!sk || !is_udp(sk))
		return 0;
	offset = BPF_CORE_READ(skb, transport_header) + UDP_HEADER_BYTES;
	if (!read_headers(&datagram, skb, sk))
		return 0;
	datagram.bytes = BPF_CORE_READ(skb, len) + data_offset(skb) - offset;
	count_buffer(&datagram, skb, sk, offset);
	return 0;
}

static __always_inline int count_taken(struct sock *sk, struct sk_buff *buffer, int len)
{
	struct sk_buff___udp *skb = (void *)buffer;
	struct datagram datagram = {.in_process = true};

	/* A peek. */
	if (len < 0 || !read_headers(&datagram, skb, sk))
		return 0;
	datagram.bytes = BPF_CORE_READ(skb, len);
	count_buffer(&datagram, skb, sk, data_offset(skb));
	return 0;
}

/* Removes the socket's flow, and only then reports it: the reader of the report finds no other totals of the flow. */
static __always_inline int report_gone(__u64 socket)
{
	struct udp_flow *flow = bpf_map_lookup_elem(&udp_sockets, &socket), *report;
	bool filled;

	if (!flow)
		return 0;
	report = bpf_ringbuf_reserve(&udp_closed, sizeof(*report), 0);
	if (!report) {
		/* User space has part of it, so what this loses shows in the difference to what was seen. */
		COUNT_SEEN(closed_lost, 1);
		bpf_map_delete_elem(&udp_sockets, &socket);
		return 0;
	}
	__builtin_memcpy(report, flow, sizeof(*report));
	report->last_ns = bpf_ktime_get_ns();
	bpf_map_delete_elem(&udp_sockets, &socket);
	filled = bpf_ringbuf_query(&udp_closed, BPF_RB_AVAIL_DATA) >= closed_wakeup_bytes;
	bpf_ringbuf_submit(report, filled ? BPF_RB_FORCE_WAKEUP : BPF_RB_NO_WAKEUP);
	return 0;
}

SEC("fentry/ip_send_skb")
int BPF_PROG(sent4, struct net *net, struct sk_buff *skb)
{
	return count_sent(skb);
}

SEC("fentry/ip6_send_skb")
int BPF_PROG(sent6, struct sk_buff *skb)
{
	return count_sent(skb);
}

SEC("fentry/skb_consume_udp")
int BPF_PROG(taken, struct sock *sk, struct sk_buff *skb, int len)
{
	return count_taken(sk, skb, len);
}

SEC("fentry/udp_destroy_sock")
int BPF_PROG(gone4, struct sock *sk)
{
	return report_gone((__u64)sk);
}

SEC("fentry/udpv6_destroy_sock")
int BPF_PROG(gone6, struct sock *sk)
{
	return report_gone((__u64)sk);
}

SEC("kprobe/ip_send_skb")
int BPF_KPROBE(sent4_probe, struct net *net, struct sk_buff *skb)
{
	return count_sent(skb);
}

SEC("kprobe/ip6_send_skb")
int BPF_KPROBE(sent6_probe, struct sk_buff *skb)
{
	return count_sent(skb);
}

SEC("kprobe/skb_consume_udp")
int BPF_KPROBE(taken_probe, struct sock *sk, struct sk_buff *skb, int len)
{
	return count_taken(sk, skb, len);
}

SEC("kprobe/udp_destroy_sock")
int BPF_KPROBE(gone4_probe, struct sock *sk)
{
	return report_gone((__u64)sk);
}

SEC("kprobe/udpv6_destroy_sock")
int BPF_KPROBE(gone6_probe, struct sock *sk)
{
	return report_gone((__u64)sk);
}

/* The kernel's number of the socket in the hooks of functions; in those that have a cookie, that. Set by the loader.
 */
const volatile bool by_cookie = false;

static __always_inline __u64 socket_id(struct sock *sk)
{
	return by_cookie ? bpf_get_socket_cookie(sk) : (__u64)sk;
}

/* The socket's own two ends; no peer if it is not connected. */
static __always_inline void read_socket(struct datagram *datagram, struct sock *sk)
{
	struct udp_key *key = &datagram->key;

	key->socket = socket_id(sk);
	key->protocol = sk->sk_protocol;
	key->local_port = sk->__sk_common.skc_num;
	key->remote_port = bpf_ntohs(sk->__sk_common.skc_dport);
	key->family = sk->__sk_common.skc_family;
	if (key->family == AF_INET6 && bpf_core_field_exists(sk->__sk_common.skc_v6_daddr)) {
		BPF_CORE_READ_INTO(&key->remote_addr, sk, __sk_common.skc_v6_daddr);
		BPF_CORE_READ_INTO(&datagram->local_addr, sk, __sk_common.skc_v6_rcv_saddr);
		fold_mapped(datagram);
	} else {
		*(__u32 *)key->remote_addr = sk->__sk_common.skc_daddr;
		*(__u32 *)datagram->local_addr = sk->__sk_common.skc_rcv_saddr;
	}
}

/* The socket's flow with its peer, made if need be; `seen` counts the event in either case. */
static __always_inline struct udp_flow *flow_of(const struct datagram *datagram, struct sock *sk)
{
	struct udp_flow *flow = find_flow(&datagram->key);

	if (!flow) {
		struct udp_flow fresh = {};

		begin_flow(&fresh, datagram, sk);
		flow = make_flow(&fresh);
	}
	return flow;
}

/* Counts a datagram that was dropped, with the socket alone: senders may be many, and forged. */
static __always_inline int count_drop(struct sock *sk)
{
	struct datagram datagram = {};
	struct udp_flow *flow;

	if (!is_udp(sk))
		return 0;
	read_socket(&datagram, sk);
	COUNT_SEEN(seen.dropped, 1);
	flow = flow_of(&datagram, sk);
	if (flow)
		__sync_fetch_and_add(&flow->totals.dropped, 1);
	else
		COUNT_SEEN(overflow.dropped, 1);
	return 0;
}

SEC("tp_btf/udp_fail_queue_rcv_skb")
int BPF_PROG(dropped, int rc, struct sock *sk)
{
	return count_drop(sk);
}

/*
 * A socket is notified of more than ICMP errors. One that asks for messages (IP_RECVERR) is notified twice of each
 * error: when the message is queued (sock_queue_err_skb()), and once the error is set (__udp4_lib_err()). It is also
 * notified when it takes a message out and another is left (sock_dequeue_err_skb()), and of what is queued without an
 * error, such as time stamps of transmission. So an error counts if it is set, and the queue is empty or as long as
 * at the last notification.
 */
static __always_inline bool is_new_error(struct udp_flow *flow, struct sock *sk)
{
	__u32 queued = sk->sk_error_queue.qlen;
	bool changed = queued && queued != flow->error_queue;

	flow->error_queue = queued;
	return sk->sk_err && !changed;
}

SEC("tp_btf/inet_sk_error_report")
int BPF_PROG(failed, struct sock *sk)
{
	struct datagram datagram = {};
	struct udp_flow *flow;

	if (!is_udp(sk))
		return 0;
	read_socket(&datagram, sk);
	flow = flow_of(&datagram, sk);
	if (!flow) {
		if (sk->sk_err) {
			COUNT_SEEN(seen.errors, 1);
			COUNT_SEEN(overflow.errors, 1);
		}
		return 0;
	}
	if (!is_new_error(flow, sk))
		return 0;
	COUNT_SEEN(seen.errors, 1);
	flow->error = sk->sk_err;
	__sync_fetch_and_add(&flow->totals.errors, 1);
	return 0;
}

#include "udp_cgroup.h"

SEC("cgroup_skb/egress")
int cgroup_sent(struct __sk_buff *skb)
{
	count_packet(skb, true);
	return 1;
}

SEC("cgroup_skb/ingress")
int cgroup_received(struct __sk_buff *skb)
{
	count_packet(skb, false);
	return 1;
}

SEC("cgroup/sock_release")
int cgroup_closed(struct bpf_sock *sk)
{
	if (sk->protocol == IPPROTO_UDP || sk->protocol == IPPROTO_UDPLITE)
		report_gone(bpf_get_socket_cookie(sk));
	return 1;
}

/* Takes back what step cgroup has counted as received: the socket did not get it. */
static __always_inline void uncount(struct sock *sk, struct sk_buff___udp *skb)
{
	struct datagram datagram = {};
	struct udp_seen *seen = this_seen();
	struct udp_flow *flow;
	__u64 bytes;

	if (!seen || !read_headers(&datagram, skb, sk))
		return;
	datagram.key.socket = socket_id(sk);
	/* Whether or not the UDP header has been taken off yet. */
	bytes = BPF_CORE_READ(skb, len) + data_offset(skb) - BPF_CORE_READ(skb, transport_header) - UDP_HEADER_BYTES;
	flow = find_flow(&datagram.key);
	if (flow) {
		__sync_fetch_and_add(&flow->totals.received, -bytes);
		__sync_fetch_and_add(&flow->totals.received_datagrams, -1);
	} else {
		__sync_fetch_and_add(&seen->overflow.received, -bytes);
		__sync_fetch_and_add(&seen->overflow.received_datagrams, -1);
	}
	__sync_fetch_and_add(&seen->seen.received, -bytes);
	__sync_fetch_and_add(&seen->seen.received_datagrams, -1);
}

/* The receive buffer had no room. */
SEC("tp_btf/udp_fail_queue_rcv_skb")
int BPF_PROG(uncount_dropped, int rc, struct sock *sk, struct sk_buff *buffer)
{
	if (is_udp(sk))
		uncount(sk, (void *)buffer);
	return count_drop(sk);
}

/* SKB_DROP_REASON_SOCKET_FILTER of the running kernel. Set by the loader. */
const volatile __u32 socket_filter_reason = -1;

/*
 * The socket's filter, another program of a cgroup, or a security module refused the datagram after step cgroup had
 * counted it. sk_filter_trim_cap() runs the cgroup's programs first, but for a packet from the emergency reserve,
 * which it refuses before.
 */
SEC("tp_btf/kfree_skb")
int BPF_PROG(uncount_filtered, struct sk_buff *buffer, void *location, __u32 reason, struct sock *sk)
{
	struct sk_buff___udp *skb = (void *)buffer;

	if (reason != socket_filter_reason || !sk || !is_udp(sk) || BPF_CORE_READ_BITFIELD_PROBED(skb, pfmemalloc))
		return 0;
	uncount(sk, skb);
	return 0;
}

/* One call counts as one datagram, with what the application has passed or got of it. */
static __always_inline int length(struct sock *sk, int bytes, bool is_sent)
{
	struct datagram datagram = {.sent = is_sent, .in_process = true, .bytes = bytes, .datagrams = 1};
	__u16 family = sk->__sk_common.skc_family;

	if (!is_udp(sk) || bytes < 0 || (family != AF_INET && family != AF_INET6))
		return 0;
	read_socket(&datagram, sk);
	count(&datagram, sk);
	return 0;
}

SEC("tp_btf/sock_send_length")
int BPF_PROG(length_sent, struct sock *sk, int ret, int flags)
{
	return length(sk, ret, true);
}

SEC("tp_btf/sock_recv_length")
int BPF_PROG(length_received, struct sock *sk, int ret, int flags)
{
	/* A message of the error queue, of an ICMP error or a time stamp, has a copy of what the socket has sent. */
	return flags & (MSG_PEEK | MSG_ERRQUEUE) ? 0 : length(sk, ret, false);
}

/* Clang writes BTF only of what is used by name; the test of the ABI compares these with the Rust side. */
const struct dns_event *const volatile dns_event_btf = NULL;

char bpf_license[] SEC("license") = "Dual BSD/GPL";
