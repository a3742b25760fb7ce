/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Records that the programs pass to user space. ebpf/src/abi.rs mirrors them; the static assertions
 * here, const assertions there and a test against this object's BTF keep the two the same.
 */
#ifndef FLOWTAP_ABI_H
#define FLOWTAP_ABI_H

#include <linux/types.h>

/* First word of every record. */
enum event_type {
	EVENT_FLOW = 1,
	EVENT_LISTEN = 2,
	EVENT_UNLISTEN = 3,
	EVENT_TRANSLATION = 4,
};

enum role {
	ROLE_UNKNOWN = 0,
	ROLE_CLIENT = 1,
	ROLE_SERVER = 2,
};

/* Bits of flow_event.events; the same as pipeline::Events. */
enum flow_events {
	FLOW_OPENED = 1 << 0,
	FLOW_CLOSED = 1 << 1,
	FLOW_FAILED = 1 << 2,
	FLOW_RESET = 1 << 3,
	FLOW_ADOPTED = 1 << 4,
	FLOW_OPEN = 1 << 5,	  /* a census: the connection is open */
	FLOW_CONNECTING = 1 << 6, /* a connect that waits for an answer; no byte has moved */
	FLOW_UNANSWERED = 1 << 7, /* with FLOW_FAILED: the retransmission time-out of the SYN had passed */
};

/* Bits of flow_event.limits. */
enum limits {
	LIMIT_CHRONO = 3 << 0,	    /* enum tcp_chrono: what the sender waits for */
	LIMIT_APPLICATION = 1 << 2, /* the last rate sample is of an application that had no more to send */
	LIMIT_CA_STATE_SHIFT = 4,   /* enum tcp_ca_state, three bits */
	LIMIT_UNSENT = 1 << 7,	    /* bytes wait to be sent; also of a socket that has just closed */
};

/* Bits of flow_event.route. */
enum route {
	ROUTE_TRANSLATED = 1 << 0, /* a translation_event has the addresses on the wire */
	ROUTE_KNOWN = 1 << 1,	   /* the interface on which its packets arrive has been looked at */
	ROUTE_LOOPBACK = 1 << 2,   /* and is the namespace's loopback */
};

/* Which side reset a connection. */
enum reset_by {
	RESET_BY_NONE = 0,
	RESET_BY_LOCAL = 1,
	RESET_BY_REMOTE = 2,
};

/* The source of a role. */
enum role_source {
	ROLE_FROM_HANDSHAKE = 0,
	ROLE_FROM_COUNTERS = 1,
};

/* One end to another. IPv4 addresses stand in the first four bytes; the rest is zero. */
struct tuple {
	__u8 local_addr[16];  /* network byte order */
	__u8 remote_addr[16]; /* network byte order */
	__u16 local_port;     /* host byte order */
	__u16 remote_port;    /* host byte order */
	__u16 family;	      /* AF_INET or AF_INET6 */
	__u16 pad;
};

/* Changes of one socket since its last report. Differences are signed: only their sum counts. */
struct flow_event {
	__u32 type;  /* EVENT_FLOW */
	__u32 netns; /* inode number */
	__u64 cookie;
	struct tuple tuple;
	__s64 sent;	/* payload bytes by sequence number: each counts once, however often it was transmitted */
	__s64 received; /* payload bytes in order, without the FIN */
	__s32 sent_segments;
	__s32 received_segments;
	__s32 retransmits;  /* segments */
	__u32 rtt_us;	    /* smoothed; 0 before the first sample */
	__u32 min_rtt_us;   /* 0 before the first sample */
	__u32 cwnd;	    /* segments */
	__u32 handshake_us; /* SYN to ESTABLISHED; 0 if not seen */
	__u32 pid;	    /* thread group, initial pid namespace; 0 if unknown */
	__u64 age_us;	    /* since ESTABLISHED or adoption; of FLOW_CONNECTING since the SYN */
	__u64 cgroup_id;
	char comm[16];
	__u8 role;	  /* enum role */
	__u8 state;	  /* TCP state */
	__u8 events;	  /* enum flow_events */
	__u8 role_source; /* enum role_source, if there is a role */
	__u32 failure;	  /* errno, for FLOW_FAILED and FLOW_RESET */
	/* Where the time went, in jiffies. They sum up to the time since ESTABLISHED or adoption. */
	__s32 elapsed;
	__s32 busy;	      /* data was in flight or waited for the network */
	__s32 rwnd_limited;   /* the peer's window was full */
	__s32 sndbuf_limited; /* the send buffer was full */
	__s32 rto_ms;	      /* spent in retransmission time-outs */
	__s32 out_of_order;   /* segments received */
	__s32 lost;	      /* segments sent that TCP took for lost */
	__s32 ecn_ce;	      /* segments sent that were acknowledged with a congestion mark */
	__u32 unsent;	      /* bytes at this moment */
	__u32 unacked;
	__u32 unread;
	__u8 limits;	      /* enum limits */
	__u8 syn_retransmits; /* of the SYN, or of the SYN-ACK; in the record with FLOW_OPENED or FLOW_FAILED, and
			       * until now in those with FLOW_CONNECTING */
	__u8 reset_by;	      /* enum reset_by, for FLOW_RESET */
	__u8 route;	      /* enum route */
};

/* The addresses that the packets of a connection have on the wire, if they are not those of its socket. Once per
 * connection, before the first record that has ROUTE_TRANSLATED. */
struct translation_event {
	__u32 type; /* EVENT_TRANSLATION */
	__u32 pad;
	__u64 cookie;
	struct tuple sent; /* local: the source of its packets; remote: their destination */
};

/* A socket began or ceased to listen. */
struct listen_event {
	__u32 type; /* EVENT_LISTEN or EVENT_UNLISTEN */
	__u32 netns;
	__u64 cookie;
	__u16 port; /* host byte order; 0 if it was not bound yet */
	__u16 pad;
	__u32 drops; /* connections that it has dropped */
};

/* A listening socket as a scan of listeners finds it. */
struct listener_event {
	__u64 cookie;
	__u64 cgroup_id; /* of the process */
	__u32 netns;	 /* inode number */
	__u32 pid;	 /* thread group, initial pid namespace */
	char comm[16];
	__u32 backlog; /* connections that wait for accept() */
	__u32 limit;   /* listen()'s argument, at most net.core.somaxconn; the queue is full above it */
	__u32 drops;   /* sk_drops: running total of connections that were dropped */
	__u32 wait_us; /* of the connection that has waited longest; 0 if none waits */
	__u8 local_addr[16];
	__u16 port; /* host byte order */
	__u16 family;
	__u32 pad;
};

enum cgroup_event_type {
	CGROUP_CREATED = 1,
	CGROUP_REMOVED = 2,
};

/* The kernel's tracepoints have no more of a path (TRACE_CGROUP_PATH_LEN). */
#define CGROUP_PATH_BYTES 1024

/* A cgroup of v2 came or went. A record is as long as its path, with the zero after it. */
struct cgroup_event {
	__u64 id;
	__u32 type;	  /* enum cgroup_event_type */
	__u32 path_bytes; /* without the zero; 0 when it goes */
	char path[CGROUP_PATH_BYTES];
};

#define CGROUP_EVENT_BYTES __builtin_offsetof(struct cgroup_event, path)

/* Room for the records of some thousand cgroups that are created at once. */
#define CGROUPS_RING_BYTES (1 << 19)

/* Everything that could not be reported, per CPU. Bytes are signed, as the differences that they sum up are. */
struct losses {
	__u64 flows;	   /* flow events for which the ring had no room */
	__s64 sent;	   /* bytes of those, and of untracked connections that closed */
	__s64 received;	   /* bytes of those, and of untracked connections that closed */
	__u64 listeners;   /* listen events for which the ring had no room */
	__u64 untracked;   /* connections for which there was no memory and no place in a table */
	__u64 segments;	   /* mode `events`: records postponed because the ring had no room; their bytes come later */
	__u64 scan_writes; /* records that an iterator's buffer refused although it had room */
	__u64 redirected;  /* connections in a sockmap: what BPF redirects does not pass TCP */
	__u64 owners;	   /* listening sockets without a place in the table of owners */
	__u64 openings;	   /* mode `events`: records of opened connections, postponed in the same way */
	__u64 missed_closes; /* connections of the table whose socket has gone: no program was run for their close */
};

_Static_assert(sizeof(struct tuple) == 40, "tuple");
_Static_assert(sizeof(struct flow_event) == 192, "flow_event");
_Static_assert(__builtin_offsetof(struct flow_event, tuple) == 16, "flow_event.tuple");
_Static_assert(__builtin_offsetof(struct flow_event, sent) == 56, "flow_event.sent");
_Static_assert(__builtin_offsetof(struct flow_event, age_us) == 104, "flow_event.age_us");
_Static_assert(__builtin_offsetof(struct flow_event, comm) == 120, "flow_event.comm");
_Static_assert(__builtin_offsetof(struct flow_event, failure) == 140, "flow_event.failure");
_Static_assert(__builtin_offsetof(struct flow_event, limits) == 188, "flow_event.limits");
_Static_assert(sizeof(struct translation_event) == 56, "translation_event");
_Static_assert(sizeof(struct listen_event) == 24, "listen_event");
_Static_assert(sizeof(struct listener_event) == 80, "listener_event");
_Static_assert(sizeof(struct losses) == 88, "losses");
_Static_assert(sizeof(struct cgroup_event) == 1040, "cgroup_event");

#endif
