/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Records and map values of inspect.bpf.c that user space reads. ebpf/src/abi/inspect.rs mirrors them; the static
 * assertions here, const assertions there and a test against this object's BTF keep the two the same.
 */
#ifndef FLOWTAP_INSPECT_ABI_H
#define FLOWTAP_INSPECT_ABI_H

#include <linux/types.h>

/* Most bytes from the beginning of each direction of a connection that are handed over. A ClientHello with
 * post-quantum keys has some 1,800. */
#define FIRST_BYTES 4096

/* Most bytes of a segment that a server sent: what settles a protocol stands at the beginning of its messages. */
#define ANSWER_BYTES 512

/* Most segments of each direction that they are taken from. */
#define FIRST_SEGMENTS 4

/* Where first bytes are not asked for, but exchanges: what distinguishes TLS from other protocols, and a server that
 * wants another ClientHello (HelloRetryRequest), which its random number says. */
#define CLIENT_HELLO_BYTES 11
#define SERVER_HELLO_BYTES 43

/* Of an exchange, where the beginning of its connection was not seen. */
#define UNKNOWN_TURN 255

enum inspect_wants {
	WANT_FIRST_BYTES = 1 << 0,
	WANT_EXCHANGES = 1 << 1,
	WANT_TRANSLATIONS = 1 << 2, /* translation_event of abi.h */
};

/* Written by user space. */
struct inspect_control {
	__u32 epoch; /* raised whenever the programs are attached: what was known before is stale */
	__u32 wants; /* enum inspect_wants */
};

/* An answer has begun. */
struct exchange_event {
	__u64 cookie;
	__u32 duration_us; /* from the last segment of the request to the first one of the answer */
	__u8 role;	   /* of this machine's end: enum role */
	__u8 turn;	   /* exchanges of the connection before this one; UNKNOWN_TURN */
	__u8 pad[2];
};

enum first_direction {
	FIRST_SENT = 1,
	FIRST_RECEIVED = 2,
};

/* A segment from the beginning of a connection, whose bytes follow: `skip` bytes of header, then `captured` ones. */
struct first_bytes {
	__u64 cookie;
	__u32 offset; /* of the first payload byte in the stream */
	__u16 skip;
	__u16 captured;
	__u8 direction; /* enum first_direction */
	__u8 role;	/* of this machine's end: enum role */
	__u8 pad[6];
};

/* Of one CPU. */
struct inspect_seen {
	__u64 runs;
	__u64 timed_runs; /* of which the time was taken */
	__u64 timed_ns;
	__u64 handed_over;	  /* first_bytes */
	__u64 exchanges;	  /* exchange_event */
	__u64 exchanges_lost;	  /* without room in the ring */
	__u64 first_bytes_lost;	  /* without room in the buffer, or on a CPU that came later */
	__u64 untracked;	  /* segments of sockets that got no storage */
	__u64 unknown_roles;	  /* connections without exchanges, as neither end is known to have opened */
	__u64 exchanges_untimed;  /* the beginning or the end has no time */
	__u64 exchanges_too_long; /* beyond exchange_event.duration_us */
	__u64 translations_lost;  /* looks that found one, without room in the ring */
};

_Static_assert(sizeof(struct inspect_control) == 8, "struct inspect_control is part of the ABI");
_Static_assert(sizeof(struct exchange_event) == 16, "struct exchange_event is part of the ABI");
_Static_assert(sizeof(struct first_bytes) == 24, "struct first_bytes is part of the ABI");
_Static_assert(sizeof(struct inspect_seen) == 96, "struct inspect_seen is part of the ABI");

#endif
