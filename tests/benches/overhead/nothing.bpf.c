/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* A program that does nothing per dropped packet: the cost of being called, and of being timed. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

SEC("tp_btf/kfree_skb")
int on_nothing(void *context)
{
	return 0;
}

char bpf_license[] SEC("license") = "Dual BSD/GPL";
