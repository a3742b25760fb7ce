/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Programs of several objects that are attached at once, with the same maps, and the tables of connections that they
 * share: for reloads (docs/adr/0031-both-modes-share-the-state-of-connections.md).
 */
#ifndef FLOWTAP_CONTROL_H
#define FLOWTAP_CONTROL_H

#include "kernel.h"

/* Which programs are at work, and what user space changes while they are. */
struct control {
	__u32 generation;  /* of the newest programs that are at work */
	__u32 sole;	   /* the same, once those before have been detached */
	__u32 table_limit; /* entries that the table of connections may have */
};

/* Key: 0. Value: set by the loader. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct control);
} control SEC(".maps");

/* Of these programs. Set by the loader. */
const volatile __u32 generation = 1;

/* Task of these programs at an event. */
enum duty {
	DUTY_NONE,   /* they are not all attached yet */
	DUTY_FOLLOW, /* the work that the programs before them have left */
	DUTY_ALL,
};

/*
 * A reload attaches other programs beside those that are at work, with the same maps, before it detaches these. A CPU
 * that has begun to call the programs at a tracepoint does not see that others have been attached or detached. So
 * the old programs do their work for as long as they are called; the new ones are called after them, and do what is
 * left until no CPU can be calling the old ones any more.
 */
static __always_inline enum duty duty(void)
{
	__u32 zero = 0;
	volatile struct control *now = bpf_map_lookup_elem(&control, &zero);

	if (!now || now->generation < generation)
		return DUTY_NONE;
	return now->sole < generation ? DUTY_FOLLOW : DUTY_ALL;
}

/* Whether no other programs are called after these, as far as is known, and these are at work. */
static __always_inline bool is_newest(void)
{
	__u32 zero = 0;
	volatile struct control *now = bpf_map_lookup_elem(&control, &zero);

	return now && now->generation == generation;
}

/*
 * A map can't grow. A reload that raises the limit beyond the size of the table adds a larger one before it: new
 * entries go to the new table, and those of an older table stay in it until their connections close. The loader
 * leaves out older tables that are empty.
 *
 * The programs before these do not know the new table. So until they are detached new entries go to the newest table
 * that both know.
 */
#define EACH_OLDER_TABLE(do_) do_(1) do_(2) do_(3) do_(4) do_(5) do_(6)

/* Older tables in use. Set by the loader. */
const volatile __u32 older_tables = 0;

/* Whether the programs before these lack the newest table. Set by the loader. */
const volatile bool is_table_new = false;

/* Whether new entries go to the first of the older tables. */
static __always_inline bool adds_to_older_table(const struct control *now)
{
	return is_table_new && now->sole < generation;
}

#endif
