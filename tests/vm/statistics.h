// The verifier's statistics of a program, by libbpf: also from kernels that do not keep them (before Linux 5.16).
#ifndef STATISTICS_H
#define STATISTICS_H

#include <bpf/libbpf.h>
#include <stdlib.h>
#include <string.h>

// Statistics are a line or two, unless a program is refused: then these are the verifier's last words.
enum { STATISTICS_BYTES = 64 << 10 };

// BPF_LOG_STATS of include/linux/bpf_verifier.h.
enum { LOG_STATISTICS = 4 };

// Has the verifier write its statistics of a program, and nothing else, to `log` when it is loaded.
static void keep_statistics(struct bpf_program *program, char log[STATISTICS_BYTES])
{
	log[0] = 0;
	bpf_program__set_log_level(program, LOG_STATISTICS);
	bpf_program__set_log_buf(program, log, STATISTICS_BYTES);
}

// The number of instructions that the verifier processed; -1 if the log does not have it.
static long instructions_of(const char *log)
{
	const char *place = strstr(log, "processed ");

	return place ? atol(place + strlen("processed ")) : -1;
}

#endif
