/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Per-socket state between two reports, and the counters of losses: shared by all capture modes.
 */
#ifndef FLOWTAP_SOCKET_STATE_H
#define FLOWTAP_SOCKET_STATE_H

#include "kernel.h"
#include "abi.h"
#include "owner_map.h"

/* A socket's totals at one moment: of a connection from its first byte on, not since it was last reported. */
struct totals {
	__u64 sent; /* sequence numbers transmitted, without the FIN; the SYN of an active opener is in it */
	__u64 received;
	__u32 sent_segments;
	__u32 received_segments;
	__u32 retransmits;
	/* From here on: read_details(). */
	__u32 out_of_order;
	__u32 lost;
	__u32 ecn_ce;
	__u32 clock; /* jiffies, as the three below it */
	__u32 busy;
	__u32 rwnd_limited;
	__u32 sndbuf_limited;
	__u32 rto_ms;
	__u32 chrono; /* enum tcp_chrono: of this moment, and no total */
};

/* Bits of socket_state.marks. */
enum mark {
	MARK_ANNOUNCED = 1 << 0,    /* the first record is out */
	MARK_ESTABLISHED = 1 << 1,  /* the totals count */
	MARK_CLOSED = 1 << 2,	    /* the last record is out, or being made */
	MARK_ADOPTED = 1 << 3,	    /* was open before the programs were attached */
	MARK_ROLE_COUNTED = 1 << 4, /* the role is known from the counters, not from the handshake */
	MARK_REDIRECTED = 1 << 5,   /* was seen in a sockmap */
	MARK_CLOSING = 1 << 6,	    /* the close has begun: see totals.h */
	MARK_UNREAD = 1 << 7,	    /* the last record has unread bytes: nothing else moves when they are read */
	/* Of the path of its packets: see translation.h and flow.h. */
	MARK_SENT_AS_SOCKET = 1 << 8, /* headers of what it sent have been found with its own addresses, once */
	MARK_SENT_READ = 1 << 9,      /* headers need no further look */
	MARK_TRANSLATED = 1 << 10,    /* they have other addresses, which are reported */
	MARK_INPUT_KNOWN = 1 << 11,   /* the interface on which its packets arrive has been looked at */
	MARK_LOOPBACK = 1 << 12,      /* and is the loopback */
};

/* The source of a connection's owner, from the least certain on. */
enum owner_source {
	OWNER_UNKNOWN = 0,
	OWNER_LISTENS = 1, /* has the socket that it was accepted on */
	OWNER_ACCEPTED = 2,
	OWNER_SEEN = 3, /* connected, shut down or closed it, or has its file */
};

/*
 * State of a socket. Where two CPUs may process one socket at once, `reported` is changed by atomic
 * exchange only, and `marks` by atomic or: see totals.h.
 *
 * Socket storage puts 72 bytes before it, 8 of them on the cache line where it begins, and takes
 * memory in steps of the slab allocator: 120 bytes fit one of 192. The fields that a scan reads of
 * an idle socket come first, within one line. Addresses are not here: the socket has them until it
 * is closed, and at the close too.
 */
struct socket_state {
	__u32 marks;		/* enum mark */
	__u8 role;		/* enum role */
	__u8 owner;		/* enum owner_source: of pid, comm and cgroup_id */
	__u16 segment_tick;	/* of the last record of a segment: see segment_tick() */
	struct totals reported; /* what the records up to now add up to */
	__u64 since_ns;		/* SYN_SENT, then ESTABLISHED or adoption */
	__u64 cgroup_id;
	__u32 netns; /* inode number */
	__u32 handshake_us;
	__u32 pid;
	char comm[16];
	__u16 scanned;	      /* the scan that looked at it last, in a table; in storage the last census */
	__u8 syn_retransmits; /* of the handshake, 255 at most */
	__u8 pad;
};

_Static_assert(sizeof(struct socket_state) == 120, "one step of the slab allocator");

/* Key: 0. Value: what could not be reported. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct losses);
} losses SEC(".maps");

/* Reader is woken once this many bytes wait in a ring, and again at each quarter of that; until then it comes by
 * itself. Set by the loader to a quarter of the ring, which is a power of two. */
const volatile __u64 wakeup_bytes = 1 << 22;

/* Set once a connection found no memory and no place: from then on closes of unknown sockets may be of such. */
bool has_untracked = false;

/* Adds to a counter of this CPU. Atomically, as an interrupt may count in the middle of it. Not 0: clang makes an
 * atomic add of a constant 0 an atomic or, and before Linux 5.12 the verifier takes no atomic but the add. */
#define COUNT_LOSS(counter, value)                                                                                   \
	do {                                                                                                         \
		__u32 zero_ = 0;                                                                                     \
		struct losses *lost_ = bpf_map_lookup_elem(&losses, &zero_);                                         \
		if ((value) && lost_)                                                                                \
			__sync_fetch_and_add(&lost_->counter, (value));                                              \
	} while (0)

/* Counts bytes that are in no record. */
static __always_inline void count_lost_bytes(__s64 sent, __s64 received)
{
	COUNT_LOSS(sent, sent);
	COUNT_LOSS(received, received);
}

/* Counts a record that found no room, with its bytes. */
static __always_inline void count_lost_flow(__s64 sent, __s64 received)
{
	COUNT_LOSS(flows, 1);
	count_lost_bytes(sent, received);
}

/* Counts a connection that can't be followed. */
static __always_inline void count_untracked(void)
{
	has_untracked = true;
	COUNT_LOSS(untracked, 1);
}

/*
 * A change of a connection that leaves no state, because there is no place for it or its place is given back: the
 * programs that follow the first at the same change would do it again. So it is noted which change was done last, on
 * this CPU, as they are called one after the other. An interrupt between them may bring a change of another socket:
 * places by cookie.
 */
struct done_change {
	__u64 cookie;
	__u64 state; /* the new one */
};

#define DONE_CHANGES 16

/* Key: by cookie. Value: the last change. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, DONE_CHANGES);
	__type(key, __u32);
	__type(value, struct done_change);
} done_changes SEC(".maps");

static __always_inline void note_done(__u64 cookie, __u64 state)
{
	__u32 place = (cookie ^ cookie >> 8) % DONE_CHANGES;
	struct done_change *last = bpf_map_lookup_elem(&done_changes, &place);

	if (last) {
		last->cookie = cookie;
		last->state = state;
	}
}

static __always_inline bool was_done(__u64 cookie, __u64 state)
{
	__u32 place = (cookie ^ cookie >> 8) % DONE_CHANGES;
	struct done_change *last = bpf_map_lookup_elem(&done_changes, &place);

	return last && last->cookie == cookie && last->state == state;
}

/* Counts a connection without a place, unless a program before this one has at the same change. */
static __always_inline void count_untracked_opening(__u64 cookie, bool first)
{
	if (!first && was_done(cookie, TCP_ESTABLISHED))
		return;
	note_done(cookie, TCP_ESTABLISHED);
	count_untracked();
}

static __always_inline bool has_mark(const struct socket_state *state, __u32 mark)
{
	return *(const volatile __u32 *)&state->marks & mark;
}

/* Sets marks; returns those that were set before. Orders memory fully where it is atomic. */
static __always_inline __u32 set_marks(struct socket_state *state, __u32 marks)
{
#ifdef FLOWTAP_UNTYPED_ARGUMENTS
	/* Each look at the socket is made under its lock, and these kernels may lack the instruction. */
	__u32 before = state->marks;

	state->marks = before | marks;
	return before;
#else
	return __sync_fetch_and_or(&state->marks, marks);
#endif
}

static __always_inline void clear_marks(struct socket_state *state, __u32 marks)
{
#ifdef FLOWTAP_UNTYPED_ARGUMENTS
	state->marks &= ~marks;
#else
	__sync_fetch_and_and(&state->marks, ~marks);
#endif
}

/* Flags for bpf_ringbuf_submit(): a wake-up per record would cost more than the record, also while the reader is on
 * its way. Several CPUs may add records at once, and each sees those of all: the few records that ask for it are more
 * than can be stepped over, and if they are, the next ones come soon. */
static __always_inline __u64 wakeup_flags(void *ring)
{
	__u64 waiting = bpf_ringbuf_query(ring, BPF_RB_AVAIL_DATA);
	__u64 few = wakeup_bytes / 64 > 256 ? wakeup_bytes / 64 : 256;

	if (waiting < wakeup_bytes || (waiting & (wakeup_bytes / 4 - 1)) >= few)
		return BPF_RB_NO_WAKEUP;
	return BPF_RB_FORCE_WAKEUP;
}

#endif
