/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Keeps a program from being preempted. From Linux 7.0 on programs at tracepoints can be, and then another thread
 * that changes a socket's state finds the CPU in the middle of the program, which is not run for it.
 *
 * Calls of the kernel functions bpf_preempt_disable() and bpf_preempt_enable() (kernel commit fc7566ad0a82,
 * Linux 6.10), by numbers that the loader finds and replaces, as in as_tcp_sock().
 */
#ifndef FLOWTAP_GUARD_H
#define FLOWTAP_GUARD_H

static __always_inline void preempt_disable(void)
{
	asm volatile(".8byte 0x6bf7000200002085" : : : "r0", "r1", "r2", "r3", "r4", "r5", "memory");
}

static __always_inline void preempt_enable(void)
{
	asm volatile(".8byte 0x6bf7000300002085" : : : "r0", "r1", "r2", "r3", "r4", "r5", "memory");
}

/* A program at a change of state that calls `missed` without being preempted. */
#define MISSED_GUARDED(name, missed)                                                                                 \
	SEC("tp_btf/inet_sock_set_state")                                                                            \
	int BPF_PROG(name, struct sock *sk, int oldstate, int newstate)                                              \
	{                                                                                                            \
		preempt_disable();                                                                                   \
		missed(sk, oldstate, newstate);                                                                      \
		preempt_enable();                                                                                    \
		return 0;                                                                                            \
	}

#endif
