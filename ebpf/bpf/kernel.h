/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * The kernel's types, cut down to the fields that flowtap reads.
 *
 * Every declaration carries preserve_access_index: the offsets that clang sees here mean nothing, the loader puts
 * in those of the running kernel (CO-RE). A field that the running kernel lacks makes the verifier say
 * "invalid func unknown#195896080"; the loader turns that into the field's name.
 */
#ifndef FLOWTAP_KERNEL_H
#define FLOWTAP_KERNEL_H

#include <linux/bpf.h>
#include <linux/ptrace.h>
#include <linux/types.h>
#include <stdbool.h>

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_tracing.h>

/* include/linux/socket.h, include/linux/net.h, include/uapi/linux/in.h, include/net/tcp_states.h, include/net/sock.h:
 * fixed by the ABI or not changed since they came. */
enum {
	AF_INET = 2,
	AF_INET6 = 10,
};

enum {
	IPPROTO_TCP = 6,
	IPPROTO_MPTCP = 262,
};

enum {
	SOCK_STREAM = 1,
};

enum {
	TCP_ESTABLISHED = 1,
	TCP_SYN_SENT = 2,
	TCP_SYN_RECV = 3,
	TCP_FIN_WAIT1 = 4,
	TCP_FIN_WAIT2 = 5,
	TCP_CLOSE = 7,
	TCP_CLOSE_WAIT = 8,
	TCP_LAST_ACK = 9,
	TCP_LISTEN = 10,
	TCP_CLOSING = 11,
	TCP_NEW_SYN_RECV = 12,
};

enum {
	EPIPE = 32,
	EADDRNOTAVAIL = 99,
	ECONNABORTED = 103,
	ECONNRESET = 104,
};

/* enum sock_flags, as bits of skc_flags: tcp_fin() sets SOCK_DONE; sock_orphan(), in close(), sets SOCK_DEAD. */
#define SOCK_DEAD_MASK (1UL << 0)
#define SOCK_DONE_MASK (1UL << 1)

/* include/linux/tcp.h, enum tcp_chrono: what a socket with data to send waits for. */
enum {
	TCP_CHRONO_BUSY = 1,
	TCP_CHRONO_RWND_LIMITED = 2,
	TCP_CHRONO_SNDBUF_LIMITED = 3,
};

/* include/linux/sched.h: a kernel thread. Workers of io_uring are threads of their process and lack it. */
#define PF_KTHREAD 0x00200000

/* include/uapi/linux/magic.h: the file system of sockets. */
#define SOCKFS_MAGIC 0x534f434b

/* include/net/sock.h, Linux 6.0: sk_user_data points to a struct sk_psock, so BPF may redirect what is sent. */
#define SK_USER_DATA_PSOCK 4UL

/* include/net/flow.h: the index of the loopback interface of every namespace. */
#define LOOPBACK_IFINDEX 1

#define KERNEL_TYPE __attribute__((preserve_access_index))

/* A field of a kernel object: by a plain load where the verifier knows the argument's type (tp_btf, iter), by a
 * helper elsewhere (raw_tp, kprobe). */
#ifdef FLOWTAP_UNTYPED_ARGUMENTS
#define FIELD(object, field) BPF_CORE_READ(object, field)
#else
#define FIELD(object, field) ((object)->field)
#endif

struct ns_common {
	unsigned int inum;
} KERNEL_TYPE;

struct net {
	struct ns_common ns;
} KERNEL_TYPE;

typedef struct {
	struct net *net;
} KERNEL_TYPE possible_net_t;

typedef struct {
	int counter;
} KERNEL_TYPE atomic_t;

typedef struct {
	__s64 counter;
} KERNEL_TYPE atomic64_t;

typedef struct refcount_struct {
	atomic_t refs;
} KERNEL_TYPE refcount_t;

struct in6_addr {
	union {
		__u32 u6_addr32[4];
	} in6_u;
} KERNEL_TYPE;

struct sock_common {
	__u32 skc_daddr;
	__u32 skc_rcv_saddr;
	__be16 skc_dport;
	__u16 skc_num;
	unsigned short skc_family;
	volatile unsigned char skc_state;
	possible_net_t skc_net;
	struct in6_addr skc_v6_daddr;
	struct in6_addr skc_v6_rcv_saddr;
	atomic64_t skc_cookie;
	refcount_t skc_refcnt;
	unsigned long skc_flags;
} KERNEL_TYPE;

struct kernfs_node {
	__u64 id;
} KERNEL_TYPE;

struct cgroup_root {
	int hierarchy_id;
} KERNEL_TYPE;

struct cgroup {
	struct kernfs_node *kn;
	struct cgroup_root *root;
} KERNEL_TYPE;

/* A union with the cgroup v1 ids before Linux 5.15, without this field. */
struct sock_cgroup_data {
	struct cgroup *cgroup;
} KERNEL_TYPE;

struct sk_buff_head {
	struct sk_buff *next;
	__u32 qlen;
} KERNEL_TYPE;

struct sock_extended_err {
	__u32 ee_errno;
	__u8 ee_origin;
} KERNEL_TYPE;

/* Contents of `cb` of a packet in an error queue. */
struct sock_exterr_skb {
	struct sock_extended_err ee;
} KERNEL_TYPE;

struct rb_node {
	struct rb_node *rb_right;
	struct rb_node *rb_left;
} KERNEL_TYPE;

struct rb_root {
	struct rb_node *rb_node;
} KERNEL_TYPE;

typedef struct {
	int owned; /* a process is in a system call for the socket, and does not wait there */
} KERNEL_TYPE socket_lock_t;

struct sock {
	struct sock_common __sk_common;
	socket_lock_t sk_lock;
	struct sk_buff_head sk_error_queue;
	struct rb_root tcp_rtx_queue; /* segments in flight, by sequence number */
	__u16 sk_type;
	__u16 sk_protocol;
	int sk_err;
	atomic_t sk_drops;
	__u32 sk_ack_backlog;
	__u32 sk_max_ack_backlog;
	int sk_rx_dst_ifindex; /* Linux 5.16; before, in struct inet_sock */
	__u8 sk_kern_sock : 1;
	void *sk_user_data;
	struct sock_cgroup_data sk_cgrp_data;
} KERNEL_TYPE;

struct inet_sock {
	struct sock sk;
	__be16 inet_sport;
} KERNEL_TYPE;

/* Up to Linux 5.15. */
struct inet_sock___before_5_16 {
	int rx_dst_ifindex;
} KERNEL_TYPE;

struct request_sock {
	struct request_sock *dl_next;
	struct sock *sk;
} KERNEL_TYPE;

struct tcp_request_sock {
	__u64 snt_synack; /* when the first SYN-ACK was sent, in µs of the monotonic clock; 0 with SYN cookies */
} KERNEL_TYPE;

struct request_sock_queue {
	struct request_sock *rskq_accept_head;
} KERNEL_TYPE;

/* Bit-fields here or plain bytes there: up to Linux 6.12 all are, later some. Read by
 * BPF_CORE_READ_BITFIELD_PROBED(), which copes with both; a plain load of them is refused where they are. */
struct inet_connection_sock {
	struct request_sock_queue icsk_accept_queue;
	struct {
		__u32 lrcvtime;
	} icsk_ack;
	__u8 icsk_ca_state : 5;
	__u8 icsk_ca_initialized : 1;
	__u8 icsk_retransmits;
} KERNEL_TYPE;

struct minmax_sample {
	__u32 t;
	__u32 v;
} KERNEL_TYPE;

struct minmax {
	struct minmax_sample s[3];
} KERNEL_TYPE;

struct list_head {
	struct list_head *next;
} KERNEL_TYPE;

struct sk_buff;

struct tcp_sock {
	__u16 tcp_header_len; /* of a data segment */
	struct sk_buff *highest_sack;
	__u64 tcp_mstamp;
	__u64 first_tx_mstamp; /* in µs: when the segment that was delivered last had left, or as delivered_mstamp */
	__u32 lsndtime;	       /* jiffies: of the last data segment sent, or the end of the handshake */
	__u64 delivered_mstamp; /* in µs: of the last delivery, or, later, when data left with nothing in flight */
	__u32 packets_out;
	__u32 sacked_out;
	__u64 bytes_received;
	__u64 bytes_acked;
	__u64 bytes_sent;
	__u64 bytes_retrans;
	__u32 snd_una;
	__u32 snd_nxt;
	__u32 write_seq;
	__u32 segs_in;
	__u32 segs_out;
	__u32 total_retrans;
	__u32 srtt_us;
	struct minmax rtt_min;
	__u32 snd_cwnd;
	__u32 max_window; /* the largest that the peer has offered */
	__u32 rcv_nxt;
	__u32 rcv_wup;
	__u32 rcv_wnd; /* from rcv_wup on */
	__u32 copied_seq;
	__u32 chrono_start;
	__u32 chrono_stat[3];
	__u8 chrono_type : 2;
	__u8 rate_app_limited : 1;
	__u32 rcv_ooopack;
	__u32 lost;
	__u32 delivered_ce;
	__u32 rto_stamp;
	__u32 total_rto_time; /* Linux 6.7 */
	struct list_head tsorted_sent_queue;
} KERNEL_TYPE;

struct net_device {
	possible_net_t nd_net;
} KERNEL_TYPE;

struct dst_entry {
	struct net_device *dev;
} KERNEL_TYPE;

/* Flags of struct tcp_skb_cb: the segment was retransmitted. */
#define TCPCB_EVER_RETRANS 0x80

struct tcp_skb_cb {
	__u32 seq;
	__u32 end_seq;
	__u8 sacked;
} KERNEL_TYPE;

struct sk_buff {
	char cb[48];		/* struct tcp_skb_cb: the sequence number comes first */
	struct net_device *dev; /* shares its place with dev_scratch once a UDP socket has taken the packet */
	struct sock *sk;
	unsigned long _skb_refdst; /* the lowest bit is a flag */
	unsigned int len;
	__u64 skb_mstamp_ns; /* of a segment in the retransmit queue: when it left last */
	int skb_iif;
	__u16 network_header; /* from `head` on; all bits are set if there is none */
	__u32 tail;	      /* likewise; where the kernel keeps a pointer instead, programs are refused */
	unsigned char *head;
	unsigned char *data;
} KERNEL_TYPE;

struct mptcp_sock {
	struct sock *first;
} KERNEL_TYPE;

struct css_set {
	struct cgroup *dfl_cgrp;
} KERNEL_TYPE;

struct task_struct {
	unsigned int flags;
	int tgid;
	char comm[16];
	struct task_struct *group_leader;
	struct css_set *cgroups;
} KERNEL_TYPE;

struct super_block {
	unsigned long s_magic;
} KERNEL_TYPE;

struct inode {
	struct super_block *i_sb;
} KERNEL_TYPE;

struct file {
	struct inode *f_inode;
	void *private_data;
} KERNEL_TYPE;

struct socket {
	struct sock *sk;
} KERNEL_TYPE;

struct seq_file {
	__kernel_size_t size;
	__kernel_size_t count;
} KERNEL_TYPE;

struct bpf_iter_meta {
	struct seq_file *seq;
	__u64 session_id;
	__u64 seq_num;
} KERNEL_TYPE;

struct bpf_iter__bpf_sk_storage_map {
	struct bpf_iter_meta *meta;
	struct bpf_map *map;
	struct sock *sk;
	void *value;
} KERNEL_TYPE;

struct bpf_iter__task_file {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
	__u32 fd;
	struct file *file;
} KERNEL_TYPE;

struct bpf_iter__tcp {
	struct bpf_iter_meta *meta;
	struct sock_common *sk_common;
} KERNEL_TYPE;

#endif
