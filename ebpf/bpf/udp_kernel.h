/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * The kernel's types that the UDP programs read, beyond kernel.h. A type with three underscores in its name stands
 * for the kernel's type of the name before them (CO-RE calls it a flavour).
 */
#ifndef FLOWTAP_UDP_KERNEL_H
#define FLOWTAP_UDP_KERNEL_H

#include "kernel.h"

enum {
	IPPROTO_UDP = 17,
	IPPROTO_UDPLITE = 136,
};

/* include/linux/net.h. */
enum {
	SOCK_DGRAM = 2,
};

/* IPv6's extension headers that may stand before UDP (RFC 8200). */
enum {
	IPPROTO_HOPOPTS = 0,
	IPPROTO_ROUTING = 43,
	IPPROTO_FRAGMENT = 44,
	IPPROTO_DSTOPTS = 60,
};

#define ETH_P_IP 0x0800
#define ETH_P_IPV6 0x86dd

/* include/net/sock.h: the application has chosen the port. */
#define SOCK_BINDPORT_LOCK 8

struct sock_common___udp {
	__be16 skc_dport;
	__u16 skc_num;
	unsigned short skc_family;
	__u32 skc_daddr;
	__u32 skc_rcv_saddr;
} KERNEL_TYPE;

struct sock___udp {
	unsigned char sk_userlocks : 4;
} KERNEL_TYPE;

struct sk_buff___udp {
	struct sock *sk;
	unsigned int len;
	unsigned int data_len;
	__u16 transport_header;
	__u16 network_header;
	unsigned int end;
	unsigned char *head;
	unsigned char *data;
	__u8 pfmemalloc : 1;
} KERNEL_TYPE;

struct skb_shared_info {
	unsigned short gso_segs;
} KERNEL_TYPE;

/* The headers' layouts are those of the protocols. */
struct ipv4_header {
	__u8 version_ihl;
	__u8 tos;
	__be16 tot_len;
	__be16 id;
	__be16 frag_off;
	__u8 ttl;
	__u8 protocol;
	__u16 check;
	__u32 saddr;
	__u32 daddr;
};

struct ipv6_header {
	__u8 version_class;
	__u8 flow[3];
	__be16 payload_len;
	__u8 nexthdr;
	__u8 hop_limit;
	__u8 saddr[16];
	__u8 daddr[16];
};

struct udp_ports {
	__be16 source;
	__be16 dest;
};

#define UDP_HEADER_BYTES 8

#endif
