/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Cgroups as they come and go, for readers that identify containers by their cgroups' ids.
 *
 *   cgroup_created     raw_tp/cgroup_mkdir   -> cgroups (ring buffer): id and path
 *   cgroup_removed     raw_tp/cgroup_rmdir   -> cgroups: id
 *
 * Both tracepoints are in system calls, under the kernel's lock of all cgroups: no two of these programs run at a
 * time. cgroup_mkdir() comes to the first before anybody sees the new cgroup, so a connection of it is always later.
 */
#include "kernel.h"
#include "abi.h"

/* cgroup_event, each as long as its path. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, CGROUPS_RING_BYTES);
} cgroups SEC(".maps");

/* Key: 0. Value: cgroup_event for which the ring had no room. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} lost_cgroups SEC(".maps");

/* Where an event is put together: it has no room on the stack. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct cgroup_event);
} scratch SEC(".maps");

static __always_inline void hand_on(const struct cgroup_event *event, __u64 bytes)
{
	bool filled = bpf_ringbuf_query(&cgroups, BPF_RB_AVAIL_DATA) >= CGROUPS_RING_BYTES / 4;
	__u32 zero = 0;
	__u64 *lost;

	if (!bpf_ringbuf_output(&cgroups, (void *)event, bytes, filled ? BPF_RB_FORCE_WAKEUP : BPF_RB_NO_WAKEUP))
		return;
	lost = bpf_map_lookup_elem(&lost_cgroups, &zero);
	if (lost)
		__sync_fetch_and_add(lost, 1);
}

/* An event of a cgroup of v2, whose hierarchy is the first of all; NULL for v1, where ids are others'. */
static __always_inline struct cgroup_event *begin(struct cgroup *cgroup, __u32 type)
{
	__u32 zero = 0;
	struct cgroup_event *event = bpf_map_lookup_elem(&scratch, &zero);

	if (!event || BPF_CORE_READ(cgroup, root, hierarchy_id))
		return NULL;
	event->id = BPF_CORE_READ(cgroup, kn, id);
	event->type = type;
	event->path_bytes = 0;
	return event;
}

SEC("raw_tp/cgroup_mkdir")
int cgroup_created(struct bpf_raw_tracepoint_args *ctx)
{
	struct cgroup_event *event = begin((struct cgroup *)ctx->args[0], CGROUP_CREATED);
	long bytes;

	if (!event)
		return 0;
	bytes = bpf_probe_read_kernel_str(event->path, sizeof(event->path), (const void *)ctx->args[1]);
	if (bytes < 1 || bytes > (long)sizeof(event->path))
		return 0;
	event->path_bytes = bytes - 1;
	hand_on(event, CGROUP_EVENT_BYTES + (bytes & (2 * sizeof(event->path) - 1)));
	return 0;
}

SEC("raw_tp/cgroup_rmdir")
int cgroup_removed(struct bpf_raw_tracepoint_args *ctx)
{
	struct cgroup_event *event = begin((struct cgroup *)ctx->args[0], CGROUP_REMOVED);

	if (event)
		hand_on(event, CGROUP_EVENT_BYTES);
	return 0;
}

/* Clang writes BTF only of what is used by name; the test of the ABI compares this with the Rust side. */
const struct cgroup_event *const volatile cgroup_event_btf = NULL;

char bpf_license[] SEC("license") = "Dual BSD/GPL";
