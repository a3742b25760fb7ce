/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Where what is known of a connection is kept: in its socket's storage, or in `table`.
 *
 * A table has no part in the life of a socket. So an entry is found by the socket's cookie, which is never used
 * again; its scan checks that the socket at the remembered address still has that cookie; and the close takes the
 * entry out.
 *
 * The memory of an entry that is taken out may at once be another's, also while the scan is still looking at it. So
 * while a scan is at work closes leave their entries to it. It begins once no close is about to take one out
 * (Dekker's way: each side announces itself by an operation that orders memory, then looks at the other).
 */
#ifndef FLOWTAP_TABLE_H
#define FLOWTAP_TABLE_H

#include "maps.h"

/* A scan of the table is at work. */
__u32 table_scanning = 0;

/* Closes that are about to take an entry out. */
__u32 table_closers = 0;

/* The table has been used. */
__u32 table_used = 0;

/* Number of its entries, with those of older tables. */
__u32 table_entries = 0;

static __noinline struct table_entry *lookup_entry(__u64 *cookie)
{
	struct table_entry *entry = bpf_map_lookup_elem(&table, cookie);

#define LOOK_UP(n)                                                                                                   \
	if (!entry && older_tables >= n)                                                                             \
		entry = bpf_map_lookup_elem(&table_older##n, cookie);
	EACH_OLDER_TABLE(LOOK_UP)
#undef LOOK_UP
	return entry;
}

static __always_inline struct socket_state *find_in_table(struct sock *sk)
{
	__u64 cookie = bpf_get_socket_cookie(sk);
	struct table_entry *entry = lookup_entry(&cookie);

	return entry ? &entry->state : NULL;
}

/* State of a connection, closed or not. */
static __always_inline struct socket_state *find_state(struct sock *sk)
{
	struct socket_state *state = has_storage ? bpf_sk_storage_get(&sockets, sk, 0, 0) : NULL;

	return state ? state : find_in_table(sk);
}

/* Adds an entry, unless there is one, or the table has as many as it may. Its map may have room for more: a reload
 * can lower the limit and raise it again. */
static __always_inline void add_entry(__u64 *cookie, struct table_entry *initial)
{
	__u32 zero = 0;
	struct control *now = bpf_map_lookup_elem(&control, &zero);
	long refused;

	table_used = 1;
	if (!now || *(volatile __u32 *)&table_entries >= now->table_limit || lookup_entry(cookie))
		return;
	if (adds_to_older_table(now))
		refused = bpf_map_update_elem(&table_older1, cookie, initial, BPF_NOEXIST);
	else
		refused = bpf_map_update_elem(&table, cookie, initial, BPF_NOEXIST);
	if (!refused)
		__sync_fetch_and_add(&table_entries, 1);
}

static __noinline void remove_entry(__u64 *cookie)
{
	long absent = bpf_map_delete_elem(&table, cookie);

#define REMOVE(n)                                                                                                    \
	if (absent && older_tables >= n)                                                                             \
		absent = bpf_map_delete_elem(&table_older##n, cookie);
	EACH_OLDER_TABLE(REMOVE)
#undef REMOVE
	if (!absent)
		__sync_fetch_and_add(&table_entries, -1);
}

/* A place for what is known of a connection, as it is, or a new one that begins as `initial`, whose address is that
 * of the socket; NULL if there is none. */
static __always_inline struct socket_state *find_or_make_state(struct sock *sk, struct table_entry *initial)
{
	struct socket_state *state = NULL;
	struct table_entry *entry;
	__u64 cookie;

	if (has_storage)
		state = bpf_sk_storage_get(&sockets, sk, &initial->state, BPF_SK_STORAGE_GET_F_CREATE);
	if (state)
		return state;
	cookie = bpf_get_socket_cookie(sk);
	add_entry(&cookie, initial);
	entry = lookup_entry(&cookie);
	return entry ? &entry->state : NULL;
}

/* Takes the entry of a closed connection out, or leaves it to a scan that is at work. */
static __always_inline void forget_entry(struct sock *sk)
{
	__u64 cookie;

	if (!table_used)
		return;
	cookie = bpf_get_socket_cookie(sk);
	__sync_fetch_and_add(&table_closers, 1);
	if (!*(volatile __u32 *)&table_scanning)
		remove_entry(&cookie);
	__sync_fetch_and_add(&table_closers, -1);
}

#endif
