/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Records and map values of udp.bpf.c that user space reads. ebpf/src/udp_abi.rs mirrors them; the static assertions
 * here, const assertions there and a test against this object's BTF keep the two the same.
 *
 * DNS. Each datagram of a chosen port makes one dns_event, a query as well as a response; user space pairs them. The
 * kernel side does not pair: retries, time-outs and datagrams whose payload can't be read are states that user space
 * can hold without a bound of the verifier, and a full ring is then the only place where something gets lost.
 */
#ifndef FLOWTAP_UDP_ABI_H
#define FLOWTAP_UDP_ABI_H

#include <linux/types.h>

/* One socket and one peer. IPv4 addresses stand in the first four bytes; the rest is zero. */
struct udp_key {
	__u64 socket; /* its cookie, or the address of its struct sock where the hooks have no cookie */
	__u8 remote_addr[16];
	__u16 local_port;  /* host byte order */
	__u16 remote_port; /* host byte order */
	__u16 family;	   /* AF_INET or AF_INET6 */
	__u8 protocol;	   /* IPPROTO_UDP or IPPROTO_UDPLITE */
	__u8 pad;
};

/* Payload bytes and datagrams. */
struct udp_totals {
	__u64 sent;
	__u64 received;
	__u64 sent_datagrams;
	__u64 received_datagrams;
	__u64 dropped; /* datagrams for which the socket had no room */
	__u64 errors;  /* ICMP errors that the socket was notified of */
};

enum udp_marks {
	UDP_FIRST_SENT = 1 << 0,     /* the first datagram was sent, not received */
	UDP_FIRST_RECEIVED = 1 << 1, /* the opposite; neither: only drops or errors */
	UDP_BOUND = 1 << 2,	     /* the application chose the local port */
	UDP_QUIC = 1 << 3,	     /* the first datagram began with a long header of QUIC */
	UDP_CONNECTED = 1 << 4,	     /* the application had called connect() when the flow began */
};

/* All that is known of a flow. Totals only grow. A remote port 0 is none: the socket is not connected, and the hook
 * or the event does not show who sent. */
struct udp_flow {
	struct udp_totals totals;
	struct udp_key key;
	__u64 cookie;	/* 0 if the kernel has given none */
	__u64 since_ns; /* CLOCK_MONOTONIC; with the key it identifies the flow */
	__u64 last_ns;	/* of the last datagram; in udp_closed, of the close */
	__u64 cgroup_id;
	__u32 netns;	   /* inode number */
	__u32 pid;	   /* thread group; 0 if unknown */
	__u32 marks;	   /* enum udp_marks */
	__u32 error;	   /* errno of the last error */
	__u32 has_more;	   /* of a socket's first flow: it has others, in udp_flows */
	__u32 error_queue; /* length of the socket's error queue at its last report */
	__u8 local_addr[16];
	char comm[16];
};

/* Totals of a CPU's programs, of flows with and without a place. The sum less the totals that user space was given
 * got lost, whatever the reason. */
struct udp_seen {
	struct udp_totals seen;
	struct udp_totals overflow; /* of flows for which there was no place */
	__u64 closed_lost;	    /* udp_flow of closed sockets for which the ring had no room */
	__u64 dns_lost;		    /* dns_event for which the ring had no room */
	__u64 dns_unread;	    /* dns_event without a payload, because it was in page fragments */
	__u64 unparsed;		    /* datagrams whose headers could not be read */
};

#define DNS_PORTS 8

enum dns_direction {
	DNS_SENT = 1,
	DNS_RECEIVED = 2,
};

enum dns_flags {
	DNS_CUT = 1 << 0,    /* the datagram is longer than what was captured */
	DNS_UNREAD = 1 << 1, /* nothing was captured: the payload is in page fragments */
};

/* Captured bytes at most: what DNS allows without EDNS (RFC 1035). */
#define DNS_CAPTURE_BYTES 512
/* A record has room for this many bytes or for DNS_CAPTURE_BYTES: the kernel wants to know sizes beforehand. */
#define DNS_SHORT_BYTES 128

/* A datagram from or to a DNS port. */
struct dns_event {
	__u64 time_ns; /* CLOCK_MONOTONIC */
	__u64 socket;  /* as in udp_key: the same for a query and its response; not to be exported */
	__u64 cgroup_id;
	__u32 netns;
	__u32 pid; /* of the process that sends or receives it; 0 if unknown */
	__u8 local_addr[16];
	__u8 remote_addr[16];
	__u16 local_port;
	__u16 remote_port;
	__u16 family;
	__u8 direction;	     /* enum dns_direction */
	__u8 flags;	     /* enum dns_flags */
	__u32 payload_bytes; /* of the datagram */
	__u32 captured_bytes;
	char comm[16];
	__u8 payload[DNS_CAPTURE_BYTES];
};

#define DNS_EVENT_BYTES __builtin_offsetof(struct dns_event, payload)

_Static_assert(sizeof(struct udp_key) == 32, "udp_key");
_Static_assert(sizeof(struct udp_totals) == 48, "udp_totals");
_Static_assert(sizeof(struct udp_flow) == 168, "udp_flow");
_Static_assert(sizeof(struct udp_seen) == 128, "udp_seen");
_Static_assert(DNS_EVENT_BYTES == 96, "dns_event");

#endif
