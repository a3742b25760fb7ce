// SPDX-License-Identifier: Apache-2.0
//
// Prints the runs that the kernel left out of each loaded BPF program (`recursion_misses`), read from the kernel
// itself: in the emulated machine every BPF program is flowtap's.
//
// In:  nothing, --runs or --verified; needs CAP_SYS_ADMIN. Linux 5.12 and later; before, the kernel has no such
// count. Out: a line `NAME MISSES` per program that has been left out at least once, and a last one `total MISSES`.
// With --runs a
//      line `NAME RUNS` per program, counted while kernel.bpf_stats_enabled is 1. With --verified a line `NAME
//      INSTRUCTIONS` per program, which the verifier processed when it was loaded (Linux 5.16).
// Exit: 0, 1 when a program can't be read.

#include <errno.h>
#include <linux/bpf.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static long bpf(int command, union bpf_attr *attr)
{
	return syscall(SYS_bpf, command, attr, sizeof(*attr));
}

// Returns a descriptor of the program after `*id`, or -1 with errno ENOENT after the last; moves `*id` on.
static int next_program(uint32_t *id)
{
	union bpf_attr next = {.start_id = *id};
	union bpf_attr open = {0};

	if (bpf(BPF_PROG_GET_NEXT_ID, &next) < 0)
		return -1;
	*id = next.next_id;
	open.prog_id = *id;
	return (int)bpf(BPF_PROG_GET_FD_BY_ID, &open);
}

int main(int argc, char **argv)
{
	int runs = argc > 1 && !strcmp(argv[1], "--runs");
	int verified = argc > 1 && !strcmp(argv[1], "--verified");
	unsigned long long total = 0;
	uint32_t id = 0;
	int fd;

	errno = 0;
	// A program may go between its id and its descriptor; that is ENOENT too, but not the end.
	for (uint32_t last = id; (fd = next_program(&id)) >= 0 || id != last; last = id) {
		struct bpf_prog_info info = {0};
		union bpf_attr get = {
			.info = {.bpf_fd = (uint32_t)fd, .info_len = sizeof(info), .info = (uintptr_t)&info}};

		if (fd < 0)
			continue;
		if (bpf(BPF_OBJ_GET_INFO_BY_FD, &get) < 0)
			break;
		close(fd);
		if (runs)
			printf("%s %llu\n", info.name, (unsigned long long)info.run_cnt);
		else if (verified)
			printf("%s %u\n", info.name, info.verified_insns);
		else if (info.recursion_misses)
			printf("%s %llu\n", info.name, (unsigned long long)info.recursion_misses);
		total += info.recursion_misses;
	}
	if (errno != ENOENT) {
		fprintf(stderr, "misses: bpf(): %s\n", strerror(errno));
		return 1;
	}
	if (!runs && !verified)
		printf("total %llu\n", total);
	return 0;
}
