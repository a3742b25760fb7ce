/*
 * Sends and receives datagrams in every way that a program has, and compares its own count per socket and peer with what
 * the UDP programs have counted: bytes, datagrams, drops, errors, process, namespace and the mark of QUIC. Nobody else
 * may use UDP meanwhile: a flow that is not of these cases is a difference.
 *
 *   udp [--unprivileged] COUNTER HOOKS [CASE...]   runs COUNTER (ebpf/examples/udp_flows.rs) with HOOKS, then the cases,
 *                                                  and compares
 *   udp [--unprivileged] COUNTER HOOKS full        a table of 64 flows, 400 peers: what has no place must be in `other`
 *
 * --unprivileged runs the counter as user 1000 with CAP_BPF and CAP_PERFMON and nothing else.
 *
 * A difference is permitted only if it is the number of runs that the kernel skipped, by its own count (`misses`); the line
 * says so. Linux before 6.7 does not count those of kprobes: there /proc/net/snmp has to have the application's count, since
 * flowtap's coverage shows the difference to that. In a namespace at /run/netns/peer, with 10.77.0.2 and fd77::2 there and .1 here, cases cross a link to it.
 *
 * Prints a line per case: `case NAME ok`, `case NAME WRONG ...`, `case NAME skipped WHY`; then `result N ok, N wrong`.
 * Exit: 0 all right, 1 something differs, 2 the counter does not start.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/errqueue.h>
#include <linux/filter.h>
#include <linux/io_uring.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/ip.h>
#include <netinet/udp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif
#ifndef UDPLITE_SEND_CSCOV
#define UDPLITE_SEND_CSCOV 10
#endif

#define MAX_ROWS 16384
#define MAX_DNS 8192
/* The port of DNS. */
#define DNS_PORT 10053
#define DNS_PORT_TEXT "10053"
/* ebpf/bpf/udp_abi.h. */
#define MARK_QUIC (1 << 3)
#define CAPTURED_AT_MOST 512
#define FLAG_CUT 1
#define FLAG_UNREAD 2

/* Exchanged by one socket and one peer. */
struct row {
	char name[96]; /* protocol, local port, peer, network namespace */
	long long sent, sent_datagrams, received, received_datagrams, dropped, errors;
	bool quic;
	bool stranger; /* another process than this one, or none */
};

/* A datagram of the DNS port. */
struct message {
	char text[160]; /* direction, local port, peer, process, namespace, name, bytes, captured, flags, id */
};

static struct row expected[MAX_ROWS], found[MAX_ROWS];
static int expected_rows, found_rows;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static FILE *to_counter, *from_counter;
/* Hooks that count a send call by its length, without peers. */
static bool lengths_only;
static bool cgroup_hooks;
/* Datagrams that the queue had no room for count as received, and as dropped. */
static bool drops_are_received;
/* So do datagrams that a filter drops. */
static bool filtered_are_received;
/* The kernel does not report errors, or drops: the counter says so. */
static bool no_errors, no_drops;
/* A thread of the kernel may work for this process; it is not known for whom. */
static bool by_kernel_threads;
static struct message expected_dns[MAX_DNS], found_dns[MAX_DNS];
static int expected_messages, found_messages;
/* By the counter's answer: runs that were skipped of programs that count what is sent, what is taken, and of others. */
static struct {
	long long sent, taken, others;
} skipped, skipped_before;
/* A case in which the kernel may skip runs: of IPv4, without segmentation offload, which its counters take for one datagram. */
static bool only_by_coverage;
/* Whether the kernel counts runs that it skips of the programs in use. */
static bool counts_skipped = true;
/* /proc/net/snmp: OutDatagrams and InDatagrams of UDP over IPv4. */
static struct {
	long long sent, taken;
} kernels_own;
static struct {
	long long closed_lost, dns_lost, dns_unread, unparsed;
} seen, seen_before;
static char own_name[64];

static void die(const char *what)
{
	perror(what);
	exit(2);
}

static struct row *row_of(struct row *rows, int *count, const char *name)
{
	for (int i = 0; i < *count; i++)
		if (!strcmp(rows[i].name, name))
			return &rows[i];
	if (*count == MAX_ROWS) {
		fprintf(stderr, "too many rows\n");
		exit(2);
	}
	memset(&rows[*count], 0, sizeof(*rows));
	snprintf(rows[*count].name, sizeof(rows[*count].name), "%s", name);
	return &rows[(*count)++];
}

static int port_of(const struct sockaddr_storage *at)
{
	return ntohs(at->ss_family == AF_INET ? ((struct sockaddr_in *)at)->sin_port
					      : ((struct sockaddr_in6 *)at)->sin6_port);
}

/* As Rust writes a SocketAddr, mapped addresses as IPv4. */
static const char *text_of(const struct sockaddr_storage *at, char out[64])
{
	char address[INET6_ADDRSTRLEN];
	const struct sockaddr_in6 *six = (const void *)at;

	if (at->ss_family == AF_INET) {
		inet_ntop(AF_INET, &((struct sockaddr_in *)at)->sin_addr, address, sizeof(address));
		snprintf(out, 64, "%s:%d", address, port_of(at));
	} else if (IN6_IS_ADDR_V4MAPPED(&six->sin6_addr)) {
		inet_ntop(AF_INET, &six->sin6_addr.s6_addr[12], address, sizeof(address));
		snprintf(out, 64, "%s:%d", address, port_of(at));
	} else {
		inet_ntop(AF_INET6, &six->sin6_addr, address, sizeof(address));
		snprintf(out, 64, "[%s]:%d", address, port_of(at));
	}
	return out;
}

static struct sockaddr_storage local_of(int fd)
{
	struct sockaddr_storage at;
	socklen_t length = sizeof(at);

	if (getsockname(fd, (void *)&at, &length))
		die("getsockname");
	return at;
}

static int protocol_of(int fd)
{
	int protocol;
	socklen_t length = sizeof(protocol);

	if (getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &length))
		die("SO_PROTOCOL");
	return protocol;
}

/* The number of the socket's network namespace. */
static unsigned netns_of(int fd)
{
	int namespace = ioctl(fd, SIOCGSKNS);
	struct stat status;

	if (namespace < 0 || fstat(namespace, &status))
		die("SIOCGSKNS");
	close(namespace);
	return status.st_ino;
}

/* The row of a socket and a peer, or of the socket alone. With the lock. */
static struct row *expected_row(int fd, const struct sockaddr_storage *peer)
{
	struct sockaddr_storage local = local_of(fd);
	char name[sizeof(expected->name)], text[64];

	snprintf(name, sizeof(name), "%d %d %s %u", protocol_of(fd), port_of(&local), lengths_only ? "-" : text_of(peer, text),
		 netns_of(fd));
	return row_of(expected, &expected_rows, name);
}

/* Adds what the application has just done. */
static void tally(int fd, const struct sockaddr_storage *peer, long long sent, int sent_datagrams, long long received,
		  int received_datagrams)
{
	struct row *row;

	pthread_mutex_lock(&lock);
	row = expected_row(fd, peer);
	row->sent += sent;
	row->sent_datagrams += sent_datagrams;
	row->received += received;
	row->received_datagrams += received_datagrams;
	pthread_mutex_unlock(&lock);
}

static void tally_errors(int fd, const struct sockaddr_storage *peer, int errors)
{
	expected_row(fd, peer)->errors += errors;
}

static int open_socket(int family, int protocol)
{
	int fd = socket(family, SOCK_DGRAM, protocol);
	struct timeval second = {.tv_sec = 2};

	if (fd < 0)
		return -1;
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &second, sizeof(second));
	return fd;
}

static struct sockaddr_storage address(int family, const char *text, int port)
{
	struct sockaddr_storage at = {.ss_family = family};

	if (family == AF_INET) {
		inet_pton(AF_INET, text, &((struct sockaddr_in *)&at)->sin_addr);
		((struct sockaddr_in *)&at)->sin_port = htons(port);
	} else {
		inet_pton(AF_INET6, text, &((struct sockaddr_in6 *)&at)->sin6_addr);
		((struct sockaddr_in6 *)&at)->sin6_port = htons(port);
	}
	return at;
}

static socklen_t length_of(const struct sockaddr_storage *at)
{
	return at->ss_family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);
}

/* A socket that is bound to a port of the kernel's choice. */
static int bound(int family, int protocol, const char *text)
{
	int fd = open_socket(family, protocol);
	struct sockaddr_storage at = address(family, text, 0);

	if (fd >= 0 && bind(fd, (void *)&at, length_of(&at)))
		die("bind");
	return fd;
}

static void connect_to(int fd, const struct sockaddr_storage *at)
{
	if (connect(fd, (void *)at, length_of(at)))
		die("connect");
}

static char payload[65536];

static bool send_to(int fd, const struct sockaddr_storage *peer, int bytes, bool connected)
{
	ssize_t sent = connected ? send(fd, payload, bytes, 0)
				 : sendto(fd, payload, bytes, 0, (void *)peer, length_of(peer));

	if (sent == bytes)
		tally(fd, peer, bytes, 1, 0, 0);
	return sent == bytes;
}

/* Takes one datagram; the sender is left in `from`. */
static int receive(int fd, struct sockaddr_storage *from)
{
	socklen_t length = sizeof(*from);
	ssize_t received = recvfrom(fd, payload, sizeof(payload), 0, (void *)from, &length);

	if (received >= 0)
		tally(fd, from, 0, 0, received, 1);
	return received;
}

static void exchange(int client, int server, const struct sockaddr_storage *at, int rounds, int bytes, bool connected)
{
	struct sockaddr_storage from;

	for (int i = 0; i < rounds; i++) {
		send_to(client, at, bytes + i, connected);
		if (receive(server, &from) < 0)
			return;
		send_to(server, &from, bytes / 2 + i, false);
		receive(client, &from);
	}
}

static const char *pair(int family, int protocol, const char *text, bool connected)
{
	int server = bound(family, protocol, text), client = open_socket(family, protocol);
	struct sockaddr_storage at;

	if (server < 0 || client < 0)
		return strerror(errno);
	at = local_of(server);
	if (connected)
		connect_to(client, &at);
	exchange(client, server, &at, 20, 100, connected);
	close(client);
	close(server);
	return NULL;
}

static const char *connected4(void) { return pair(AF_INET, 0, "127.0.0.1", true); }
static const char *connected6(void) { return pair(AF_INET6, 0, "::1", true); }
static const char *unconnected4(void) { return pair(AF_INET, 0, "127.0.0.1", false); }
static const char *unconnected6(void) { return pair(AF_INET6, 0, "::1", false); }
static const char *lite4(void) { return pair(AF_INET, IPPROTO_UDPLITE, "127.0.0.1", true); }
static const char *lite6(void) { return pair(AF_INET6, IPPROTO_UDPLITE, "::1", true); }

static const char *thirty_peers(void)
{
	int server = bound(AF_INET, 0, "127.0.0.1"), clients[30];
	struct sockaddr_storage at = local_of(server);

	for (int i = 0; i < 30; i++) {
		clients[i] = open_socket(AF_INET, 0);
		exchange(clients[i], server, &at, 3, 64 + i, false);
	}
	/* Again, when the first is no longer the newest. */
	for (int i = 29; i >= 0; i--) {
		exchange(clients[i], server, &at, 2, 200 + i, false);
		close(clients[i]);
	}
	close(server);
	return NULL;
}

static const char *v4_mapped(void)
{
	int server = bound(AF_INET, 0, "127.0.0.1"), client = open_socket(AF_INET6, 0);
	struct sockaddr_storage plain = local_of(server), at = address(AF_INET6, "::ffff:127.0.0.1", port_of(&plain));

	exchange(client, server, &at, 10, 77, false);
	connect_to(client, &at);
	exchange(client, server, &at, 10, 78, true);
	close(client);
	close(server);
	return NULL;
}

static const char *many_at_once(void)
{
	int server = bound(AF_INET, 0, "127.0.0.1"), client = bound(AF_INET, 0, "127.0.0.1");
	struct sockaddr_storage at = local_of(server), from = local_of(client);
	struct mmsghdr messages[16] = {};
	struct iovec parts[16];
	int sent, received;

	for (int i = 0; i < 16; i++) {
		parts[i] = (struct iovec){payload, 50 + i};
		messages[i].msg_hdr = (struct msghdr){.msg_name = &at, .msg_namelen = length_of(&at), .msg_iov = &parts[i], .msg_iovlen = 1};
	}
	sent = sendmmsg(client, messages, 16, 0);
	for (int i = 0; i < sent; i++)
		tally(client, &at, messages[i].msg_len, 1, 0, 0);
	for (int i = 0; i < 16; i++) {
		parts[i] = (struct iovec){payload + i * 1024, 1024};
		messages[i].msg_hdr = (struct msghdr){.msg_iov = &parts[i], .msg_iovlen = 1};
	}
	received = recvmmsg(server, messages, 16, 0, NULL);
	for (int i = 0; i < received; i++)
		tally(server, &from, 0, 0, messages[i].msg_len, 1);
	close(client);
	close(server);
	return sent == 16 && received == 16 ? NULL : "sendmmsg or recvmmsg came short";
}

/* Segmentation offload, by a control message or for the socket. */
static const char *segments_between(int client, int server, bool by_socket)
{
	struct sockaddr_storage at = local_of(server), from;
	char control[CMSG_SPACE(sizeof(uint16_t))] = {};
	struct iovec part = {payload, 5050};
	struct msghdr message = {.msg_name = &at, .msg_namelen = length_of(&at), .msg_iov = &part, .msg_iovlen = 1};
	int size = 1000;

	if (by_socket) {
		if (setsockopt(client, IPPROTO_UDP, UDP_SEGMENT, &size, sizeof(size)))
			return strerror(errno);
	} else {
		struct cmsghdr *header;

		message.msg_control = control;
		message.msg_controllen = sizeof(control);
		header = CMSG_FIRSTHDR(&message);
		header->cmsg_level = IPPROTO_UDP;
		header->cmsg_type = UDP_SEGMENT;
		header->cmsg_len = CMSG_LEN(sizeof(uint16_t));
		*(uint16_t *)CMSG_DATA(header) = size;
	}
	for (int i = 0; i < 5; i++) {
		if (sendmsg(client, &message, 0) != 5050)
			return strerror(errno);
		tally(client, &at, 5050, 6, 0, 0);
		for (int k = 0; k < 6; k++)
			receive(server, &from);
	}
	close(client);
	close(server);
	return NULL;
}

static const char *segments_of(int family, const char *text, bool by_socket)
{
	int server = bound(family, 0, text);

	return segments_between(bound(family, 0, text), server, by_socket);
}

static const char *gso_by_message4(void) { return segments_of(AF_INET, "127.0.0.1", false); }
static const char *gso_by_message6(void) { return segments_of(AF_INET6, "::1", false); }
static const char *gso_by_socket(void) { return segments_of(AF_INET, "127.0.0.1", true); }

static const char *gro(void)
{
	int server = bound(AF_INET, 0, "127.0.0.1"), client = bound(AF_INET, 0, "127.0.0.1");
	struct sockaddr_storage at = local_of(server), from = local_of(client);
	int size = 1000, on = 1, left = 5500;

	if (setsockopt(client, IPPROTO_UDP, UDP_SEGMENT, &size, sizeof(size)) ||
	    setsockopt(server, IPPROTO_UDP, UDP_GRO, &on, sizeof(on)))
		return strerror(errno);
	if (sendto(client, payload, 5500, 0, (void *)&at, length_of(&at)) != 5500)
		return strerror(errno);
	tally(client, &at, 5500, 6, 0, 0);
	while (left > 0) {
		int received = recv(server, payload, sizeof(payload), 0);

		if (received <= 0)
			return "nothing came";
		tally(server, &from, 0, 0, received, (received + 999) / 1000);
		left -= received;
	}
	close(client);
	close(server);
	return NULL;
}

static const char *multicast(void)
{
	int first = open_socket(AF_INET, 0), second = open_socket(AF_INET, 0), client = bound(AF_INET, 0, "127.0.0.1"), on = 1;
	struct sockaddr_storage any = address(AF_INET, "0.0.0.0", 0), group, from;
	struct ip_mreqn join = {.imr_ifindex = if_nametoindex("lo")};

	inet_pton(AF_INET, "239.1.2.3", &join.imr_multiaddr);
	setsockopt(first, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	setsockopt(second, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (bind(first, (void *)&any, length_of(&any)))
		return strerror(errno);
	any = local_of(first);
	if (bind(second, (void *)&any, length_of(&any)))
		return strerror(errno);
	if (setsockopt(first, IPPROTO_IP, IP_ADD_MEMBERSHIP, &join, sizeof(join)) ||
	    setsockopt(second, IPPROTO_IP, IP_ADD_MEMBERSHIP, &join, sizeof(join)) ||
	    setsockopt(client, IPPROTO_IP, IP_MULTICAST_IF, &join, sizeof(join)))
		return strerror(errno);
	group = address(AF_INET, "239.1.2.3", port_of(&any));
	for (int i = 0; i < 10; i++) {
		if (!send_to(client, &group, 300 + i, false))
			return strerror(errno);
		if (receive(first, &from) < 0 || receive(second, &from) < 0)
			return "no multicast on lo";
	}
	close(first);
	close(second);
	close(client);
	return NULL;
}

static const char *broadcast(void)
{
	int server = open_socket(AF_INET, 0), client = bound(AF_INET, 0, "127.0.0.1"), on = 1;
	struct sockaddr_storage any = address(AF_INET, "0.0.0.0", 0), at, from;

	bind(server, (void *)&any, length_of(&any));
	any = local_of(server);
	setsockopt(client, SOL_SOCKET, SO_BROADCAST, &on, sizeof(on));
	at = address(AF_INET, "127.255.255.255", port_of(&any));
	for (int i = 0; i < 10; i++) {
		if (!send_to(client, &at, 40 + i, false))
			return strerror(errno);
		receive(server, &from);
	}
	close(server);
	close(client);
	return NULL;
}

static const char *cork(void)
{
	int server = bound(AF_INET, 0, "127.0.0.1"), client = open_socket(AF_INET, 0), on = 1, off = 0;
	struct sockaddr_storage at = local_of(server), from;

	connect_to(client, &at);
	for (int i = 0; i < 5; i++) {
		/* Three parts are one datagram. */
		setsockopt(client, IPPROTO_UDP, UDP_CORK, &on, sizeof(on));
		send(client, payload, 10, 0);
		send(client, payload, 20, 0);
		send(client, payload, 30, 0);
		setsockopt(client, IPPROTO_UDP, UDP_CORK, &off, sizeof(off));
		tally(client, &at, 60, 1, 0, 0);
		receive(server, &from);
		send(client, payload, 11, MSG_MORE);
		send(client, payload, 22, 0);
		tally(client, &at, 33, 1, 0, 0);
		receive(server, &from);
	}
	/* One that is thrown away. */
	if (!lengths_only)
		send(client, payload, 500, MSG_MORE);
	close(client);
	close(server);
	return NULL;
}

static const char *refused(void)
{
	int server = bound(AF_INET, 0, "127.0.0.1"), client = open_socket(AF_INET, 0);
	struct sockaddr_storage at = local_of(server);

	close(server);
	connect_to(client, &at);
	for (int i = 0; i < 5; i++) {
		/* Every other one fails with the error of the one before. */
		if (send_to(client, &at, 100, true))
			tally_errors(client, &at, 1);
		usleep(2000);
	}
	for (int i = 0; i < 2; i++)
		if (send(client, payload, 65530, 0) >= 0)
			return "a datagram beyond the limit was sent";
	close(client);
	return NULL;
}

static const char *truncated(void)
{
	int server = bound(AF_INET, 0, "127.0.0.1"), client = bound(AF_INET, 0, "127.0.0.1");
	struct sockaddr_storage at = local_of(server), from = local_of(client);

	for (int i = 0; i < 5; i++) {
		send_to(client, &at, 900, false);
		if (recv(server, payload, 100, MSG_PEEK) != 100)
			return "no peek";
		if (recv(server, payload, 100, 0) != 100)
			return "not cut";
		/* The whole datagram left the socket's queue. */
		tally(server, &from, 0, 0, lengths_only ? 100 : 900, 1);
		send_to(client, &at, 901, false);
		if (recv(server, payload, 100, MSG_TRUNC) != 901)
			return "no MSG_TRUNC";
		tally(server, &from, 0, 0, 901, 1);
	}
	close(client);
	close(server);
	return NULL;
}

static const char *no_room(void)
{
	int server = bound(AF_INET, 0, "127.0.0.1"), client = bound(AF_INET, 0, "127.0.0.1"), bytes = 4096, received = 0;
	struct sockaddr_storage at = local_of(server), from, none;

	setsockopt(server, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof(bytes));
	for (int i = 0; i < 200; i++)
		send_to(client, &at, 500, false);
	fcntl(server, F_SETFL, O_NONBLOCK);
	while (receive(server, &from) >= 0)
		received++;
	if (drops_are_received)
		tally(server, &from, 0, 0, 500 * (200 - received), 200 - received);
	/* No peer is known: the socket is not connected. */
	none = address(AF_INET, "0.0.0.0", 0);
	expected_row(server, &none)->dropped += 200 - received;
	close(client);
	close(server);
	return NULL;
}

/* Raw sockets get a copy of each datagram, and send what looks like one. */
static const char *raw_beside(void)
{
	int raw = socket(AF_INET, SOCK_RAW, IPPROTO_UDP), server = bound(AF_INET, 0, "127.0.0.1"),
	    client = bound(AF_INET, 0, "127.0.0.1");
	struct sockaddr_storage at = local_of(server), from = local_of(client);
	/* Without bytes of the compiler's at its end: the header's length would count them as payload. */
	struct {
		struct udphdr header;
		char payload[27];
	} __attribute__((packed)) forged = {.header = {.source = htons(port_of(&from)), .dest = htons(port_of(&at)), .len = htons(sizeof(forged))}};

	if (raw < 0)
		return strerror(errno);
	exchange(client, server, &at, 20, 100, false);
	if (sendto(raw, &forged, sizeof(forged), 0, (void *)&at, length_of(&at)) != sizeof(forged))
		return strerror(errno);
	if (receive(server, &from) != sizeof(forged.payload))
		return "the forged datagram did not arrive";
	while (recv(raw, payload, sizeof(payload), MSG_DONTWAIT) > 0)
		;
	close(raw);
	close(client);
	close(server);
	return NULL;
}

static const char *filtered(void)
{
	int server = bound(AF_INET, 0, "127.0.0.1"), client = bound(AF_INET, 0, "127.0.0.1");
	struct sockaddr_storage at = local_of(server), from = local_of(client);
	struct sock_filter drop_all = BPF_STMT(BPF_RET | BPF_K, 0);
	struct sock_fprog filter = {.len = 1, .filter = &drop_all};

	if (setsockopt(server, SOL_SOCKET, SO_ATTACH_FILTER, &filter, sizeof(filter)))
		return strerror(errno);
	for (int i = 0; i < 10; i++) {
		send_to(client, &at, 100, false);
		if (filtered_are_received)
			tally(server, &from, 0, 0, 100, 1);
	}
	if (setsockopt(server, SOL_SOCKET, SO_DETACH_FILTER, &filter, sizeof(filter)))
		return strerror(errno);
	exchange(client, server, &at, 5, 100, false);
	close(client);
	close(server);
	return NULL;
}

/* Messages of errors have the datagram that was sent. */
static const char *error_queue(void)
{
	int server = bound(AF_INET, 0, "127.0.0.1"), client = open_socket(AF_INET, 0), on = 1;
	struct sockaddr_storage at = local_of(server);
	struct iovec vector = {.iov_base = payload, .iov_len = sizeof(payload)};
	struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1};

	close(server);
	connect_to(client, &at);
	if (setsockopt(client, IPPROTO_IP, IP_RECVERR, &on, sizeof(on)))
		return strerror(errno);
	for (int i = 0; i < 5; i++) {
		int error;
		socklen_t length = sizeof(error);

		if (send_to(client, &at, 100, true))
			tally_errors(client, &at, 1);
		usleep(2000);
		getsockopt(client, SOL_SOCKET, SO_ERROR, &error, &length);
		if (recvmsg(client, &message, MSG_ERRQUEUE | MSG_DONTWAIT) != 100)
			return "no message of an error";
	}
	close(client);
	return NULL;
}

static const char *unread(void)
{
	int server = bound(AF_INET, 0, "127.0.0.1"), client = bound(AF_INET, 0, "127.0.0.1");
	struct sockaddr_storage at = local_of(server), from;

	for (int i = 0; i < 10; i++)
		send_to(client, &at, 100, false);
	receive(server, &from);
	/* Hooks at the queue have counted what nobody takes. */
	if (cgroup_hooks)
		for (int i = 1; i < 10; i++)
			tally(server, &from, 0, 0, 100, 1);
	close(client);
	close(server);
	return NULL;
}

static const char *read_and_write(void)
{
	int server = bound(AF_INET, 0, "127.0.0.1"), client = bound(AF_INET, 0, "127.0.0.1");
	struct sockaddr_storage at = local_of(server), from = local_of(client);
	struct iovec parts[2] = {{payload, 30}, {payload, 40}};

	connect_to(client, &at);
	connect_to(server, &from);
	for (int i = 0; i < 10; i++) {
		if (write(client, payload, 120) == 120)
			tally(client, &at, 120, 1, 0, 0);
		if (writev(client, parts, 2) == 70)
			tally(client, &at, 70, 1, 0, 0);
		tally(server, &from, 0, 0, read(server, payload, 1000), 1);
		tally(server, &from, 0, 0, readv(server, parts, 2), 1);
	}
	/* None of bytes is a datagram too. */
	if (send(client, payload, 0, 0) == 0)
		tally(client, &at, 0, 1, 0, 0);
	tally(server, &from, 0, 0, recv(server, payload, 10, 0), 1);
	close(client);
	close(server);
	return NULL;
}

static const char *reconnected(void)
{
	int one = bound(AF_INET, 0, "127.0.0.1"), two = bound(AF_INET, 0, "127.0.0.1"), client = bound(AF_INET, 0, "127.0.0.1");
	struct sockaddr_storage first = local_of(one), second = local_of(two), none = {.ss_family = AF_UNSPEC};

	for (int i = 0; i < 5; i++) {
		connect_to(client, &first);
		exchange(client, one, &first, 2, 60, true);
		connect_to(client, &second);
		exchange(client, two, &second, 3, 70, true);
	}
	connect(client, (void *)&none, sizeof(none));
	close(client);
	close(one);
	close(two);
	return NULL;
}

/* Datagrams that do not fit the interface's mtu; the scripts set that of lo. */
static const char *fragments(void)
{
	int server = bound(AF_INET, 0, "127.0.0.1"), client = open_socket(AF_INET, 0);
	int server6 = bound(AF_INET6, 0, "::1"), client6 = open_socket(AF_INET6, 0);
	struct sockaddr_storage at = local_of(server), at6 = local_of(server6);

	connect_to(client, &at);
	connect_to(client6, &at6);
	exchange(client, server, &at, 5, 30000, true);
	exchange(client6, server6, &at6, 5, 30000, true);
	close(client);
	close(server);
	close(client6);
	close(server6);
	return NULL;
}

static const char *wildcard(void)
{
	int server = bound(AF_INET6, 0, "::"), four = open_socket(AF_INET, 0), six = open_socket(AF_INET6, 0);
	struct sockaddr_storage any = local_of(server), at4 = address(AF_INET, "127.0.0.1", port_of(&any)),
				at6 = address(AF_INET6, "::1", port_of(&any)), at5 = address(AF_INET, "127.0.0.5", port_of(&any));

	exchange(four, server, &at4, 5, 100, false);
	exchange(four, server, &at5, 5, 110, false);
	exchange(six, server, &at6, 5, 120, false);
	close(four);
	close(six);
	close(server);
	return NULL;
}

static const char *by_sendfile(void)
{
	int server = bound(AF_INET, 0, "127.0.0.1"), client = open_socket(AF_INET, 0), on = 1;
	FILE *file = tmpfile();
	struct sockaddr_storage at = local_of(server), from;
	struct iovec part = {payload, 3000};
	struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
	off_t offset = 0;

	connect_to(client, &at);
	fwrite(payload, 1, 5000, file);
	fflush(file);
	if (sendfile(client, fileno(file), &offset, 3000) == 3000)
		tally(client, &at, 3000, 1, 0, 0);
	/* A page is a separate datagram on some kernels. */
	for (int left = 3000; left > 0;) {
		int received = receive(server, &from);

		if (received < 0)
			return "nothing came";
		left -= received;
	}
	if (!setsockopt(client, SOL_SOCKET, SO_ZEROCOPY, &on, sizeof(on)) && sendmsg(client, &message, MSG_ZEROCOPY) == 3000) {
		tally(client, &at, 3000, 1, 0, 0);
		receive(server, &from);
	}
	fclose(file);
	close(client);
	close(server);
	return NULL;
}

static const char *reuse_port(void)
{
	int servers[4], on = 1;
	struct sockaddr_storage at = address(AF_INET, "127.0.0.1", 0), from;

	for (int i = 0; i < 4; i++) {
		servers[i] = open_socket(AF_INET, 0);
		setsockopt(servers[i], SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on));
		if (bind(servers[i], (void *)&at, length_of(&at)))
			die("bind");
		at = local_of(servers[i]);
		fcntl(servers[i], F_SETFL, O_NONBLOCK);
	}
	for (int i = 0; i < 40; i++) {
		int client = open_socket(AF_INET, 0);

		send_to(client, &at, 100 + i, false);
		for (int k = 0; k < 4; k++)
			if (receive(servers[k], &from) >= 0)
				send_to(servers[k], &from, 20, false);
		receive(client, &from);
		close(client);
	}
	for (int i = 0; i < 4; i++)
		close(servers[i]);
	return NULL;
}

static const char *short_lived(void)
{
	int server = bound(AF_INET, 0, "127.0.0.1");
	struct sockaddr_storage at = local_of(server);

	for (int i = 0; i < 300; i++) {
		int client = open_socket(AF_INET, 0);

		if (i % 2)
			connect_to(client, &at);
		exchange(client, server, &at, 1, 100 + i % 50, i % 2);
		close(client);
	}
	close(server);
	return NULL;
}

static const char *options(void)
{
	int server = bound(AF_INET, 0, "127.0.0.1"), client = bound(AF_INET, 0, "127.0.0.1");
	int server6 = bound(AF_INET6, 0, "::1"), client6 = bound(AF_INET6, 0, "::1");
	struct sockaddr_storage at = local_of(server), at6 = local_of(server6);
	/* Record route; hop-by-hop of padding. */
	unsigned char route[12] = {7, 11, 4}, hops[8] = {0, 0, 1, 4, 0, 0, 0, 0};

	if (setsockopt(client, IPPROTO_IP, IP_OPTIONS, route, sizeof(route)))
		return strerror(errno);
	exchange(client, server, &at, 5, 200, false);
	if (setsockopt(client6, IPPROTO_IPV6, IPV6_HOPOPTS, hops, sizeof(hops)))
		return strerror(errno);
	exchange(client6, server6, &at6, 5, 210, false);
	close(client);
	close(server);
	close(client6);
	close(server6);
	return NULL;
}

/* Threads that share sockets, so that they meet in the programs. */
#define SENDERS 4
#define RECEIVERS 6
#define EACH 10000

static int shared_client, shared_servers[2];
static struct sockaddr_storage shared_at[2];

static void *send_many(void *argument)
{
	int target = (long)argument % 2, sent = 0;

	for (int i = 0; i < EACH; i++) {
		char bytes[100] = {};

		if (sendto(shared_client, bytes, 100, 0, (void *)&shared_at[target], length_of(&shared_at[target])) == 100)
			sent++;
	}
	tally(shared_client, &shared_at[target], 100LL * sent, sent, 0, 0);
	return NULL;
}

static void *receive_many(void *argument)
{
	int fd = shared_servers[(long)argument % 2], received = 0;
	struct sockaddr_storage from = local_of(shared_client);
	char bytes[200];

	while (recv(fd, bytes, sizeof(bytes), 0) == 100)
		received++;
	tally(fd, &from, 0, 0, 100LL * received, received);
	return NULL;
}

static const char *threads(void)
{
	pthread_t all[SENDERS + RECEIVERS];
	int room = 1 << 22;

	shared_client = bound(AF_INET, 0, "127.0.0.1");
	for (int i = 0; i < 2; i++) {
		shared_servers[i] = bound(AF_INET, 0, "127.0.0.1");
		setsockopt(shared_servers[i], SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof(room));
		shared_at[i] = local_of(shared_servers[i]);
	}
	for (long i = 0; i < RECEIVERS; i++)
		pthread_create(&all[i], NULL, receive_many, (void *)i);
	for (long i = 0; i < SENDERS; i++)
		pthread_create(&all[RECEIVERS + i], NULL, send_many, (void *)i);
	for (int i = 0; i < SENDERS + RECEIVERS; i++)
		pthread_join(all[i], NULL);
	close(shared_client);
	close(shared_servers[0]);
	close(shared_servers[1]);
	return NULL;
}

static long long other[4];

/* Sums the skipped runs of the programs by what they count. */
static void read_misses(const char *program, long long misses)
{
	if (strstr(program, "sent"))
		skipped.sent += misses;
	else if (!strncmp(program, "taken", 5) || strstr(program, "received"))
		skipped.taken += misses;
	else
		skipped.others += misses;
}

static void read_flow(const char *line)
{
	char peer[64], comm[64], name[sizeof(found->name)];
	int protocol, port, marks, pid;
	unsigned netns;
	struct row *row, delta = {};

	if (sscanf(line, "flow %d %d %63s %d %d %u %63s %lld %lld %lld %lld %lld %lld", &protocol, &port, peer, &marks, &pid, &netns, comm,
		   &delta.sent, &delta.sent_datagrams, &delta.received, &delta.received_datagrams, &delta.dropped, &delta.errors) != 13) {
		fprintf(stderr, "the counter prints: %s", line);
		exit(2);
	}
	snprintf(name, sizeof(name), "%d %d %s %u", protocol, port, lengths_only ? "-" : peer, netns);
	row = row_of(found, &found_rows, name);
	row->sent += delta.sent;
	row->sent_datagrams += delta.sent_datagrams;
	row->received += delta.received;
	row->received_datagrams += delta.received_datagrams;
	row->dropped += delta.dropped;
	row->errors += delta.errors;
	row->quic |= marks & MARK_QUIC;
	/* No process is known of a flow that began in an interrupt, until its process is at a hook. */
	if (!pid && (by_kernel_threads || !(delta.sent_datagrams || (delta.received_datagrams && !cgroup_hooks))))
		return;
	row->stranger |= pid != getpid() || strcmp(comm, own_name);
}

/* Reads the counter's answer; rows add to those that are there. */
static void read_answer(void)
{
	char line[512];

	memset(&skipped, 0, sizeof(skipped));
	fprintf(to_counter, "\n");
	fflush(to_counter);
	while (fgets(line, sizeof(line), from_counter)) {
		char program[64];
		long long misses;

		if (!strcmp(line, "end\n"))
			return;
		if (sscanf(line, "misses %63s %lld", program, &misses) == 2) {
			read_misses(program, misses);
			continue;
		}
		if (sscanf(line, "other %lld %lld %lld %lld", &other[0], &other[1], &other[2], &other[3]) == 4)
			continue;
		if (sscanf(line, "seen %*d %*d overflow %*d %*d closed_lost %lld dns %*d dns_lost %lld dns_unread %lld unparsed %lld",
			   &seen.closed_lost, &seen.dns_lost, &seen.dns_unread, &seen.unparsed) == 4)
			continue;
		if (!strncmp(line, "flow ", 5)) {
			read_flow(line);
			continue;
		}
		if (!strncmp(line, "dns ", 4)) {
			if (found_messages == MAX_DNS) {
				fprintf(stderr, "too many messages\n");
				exit(2);
			}
			line[strcspn(line, "\n")] = 0;
			snprintf(found_dns[found_messages++].text, sizeof(found_dns->text), "%.*s", (int)sizeof(found_dns->text) - 1,
				 line + 4);
			continue;
		}
		drops_are_received |= !strcmp(line, "absent uncount_dropped\n");
		filtered_are_received |= !strcmp(line, "absent uncount_filtered\n");
		no_errors |= !strcmp(line, "absent failed\n");
		no_drops |= !strcmp(line, "absent dropped\n");
		printf("# %s", line);
	}
	fprintf(stderr, "the counter has ended\n");
	exit(2);
}

/* Threads that share sockets while the counter reads its tables, each time as soon as it has answered. */
static bool reading;

static void *read_on(void *argument)
{
	(void)argument;
	while (__atomic_load_n(&reading, __ATOMIC_RELAXED))
		read_answer();
	return NULL;
}

static const char *threads_and_reads(void)
{
	pthread_t reader;

	reading = true;
	only_by_coverage = true;
	pthread_create(&reader, NULL, read_on, NULL);
	threads();
	__atomic_store_n(&reading, false, __ATOMIC_RELAXED);
	pthread_join(reader, NULL);
	return NULL;
}

/* Connections that begin with a long header of QUIC, version 1 and 2; one of another version; one with a short header. */
static const char *quic(void)
{
	static const unsigned char begins[4][5] = {
		{0xc3, 0, 0, 0, 1}, {0xd0, 0x6b, 0x33, 0x43, 0xcf}, {0xc3, 0xff, 0, 0, 29}, {0x43, 0, 0, 0, 1}};

	for (int i = 0; i < 4; i++) {
		int server = bound(AF_INET, 0, "127.0.0.1"), client = bound(AF_INET, 0, "127.0.0.1");
		struct sockaddr_storage at = local_of(server), from = local_of(client);

		connect_to(client, &at);
		memcpy(payload, begins[i], 5);
		send_to(client, &at, 1200, true);
		receive(server, &from);
		/* The first datagram decides. */
		memset(payload, 0, 5);
		exchange(client, server, &at, 3, 100, true);
		expected_row(client, &at)->quic = expected_row(server, &from)->quic = i < 2;
		close(client);
		close(server);
	}
	return NULL;
}

/* A socket in the namespace at the other end of the link. */
static int bound_at_peer(int family, const char *text)
{
	int own = open("/proc/thread-self/ns/net", O_RDONLY), peer = open("/run/netns/peer", O_RDONLY), fd;

	if (own < 0 || peer < 0 || setns(peer, CLONE_NEWNET))
		die("setns");
	fd = bound(family, 0, text);
	if (setns(own, CLONE_NEWNET))
		die("setns");
	close(own);
	close(peer);
	return fd;
}

static const char *link_fragments(void)
{
	int server, client, server6, client6;
	struct sockaddr_storage at, at6;

	if (access("/run/netns/peer", F_OK))
		return "no namespace of the name peer";
	server = bound_at_peer(AF_INET, "10.77.0.2");
	client = bound(AF_INET, 0, "10.77.0.1");
	server6 = bound_at_peer(AF_INET6, "fd77::2");
	client6 = bound(AF_INET6, 0, "fd77::1");
	at = local_of(server);
	at6 = local_of(server6);
	connect_to(client, &at);
	connect_to(client6, &at6);
	exchange(client, server, &at, 5, 30000, true);
	exchange(client6, server6, &at6, 5, 30000, true);
	close(client);
	close(server);
	close(client6);
	close(server6);
	return NULL;
}

static const char *link_segments(void)
{
	const char *why;

	if (access("/run/netns/peer", F_OK))
		return "no namespace of the name peer";
	why = segments_between(bound(AF_INET, 0, "10.77.0.1"), bound_at_peer(AF_INET, "10.77.0.2"), false);
	if (!why)
		why = segments_between(bound(AF_INET6, 0, "fd77::1"), bound_at_peer(AF_INET6, "fd77::2"), false);
	if (!why)
		why = segments_between(bound(AF_INET, 0, "10.77.0.1"), bound_at_peer(AF_INET, "10.77.0.2"), true);
	return why;
}

/* A ring of the kernel that takes one request at a time. */
static struct {
	int fd;
	unsigned *sq_tail, *sq_mask, *sq_array, *cq_head, *cq_tail, *cq_mask;
	struct io_uring_sqe *sqes;
	struct io_uring_cqe *cqes;
} uring;

static const char *uring_open(void)
{
	struct io_uring_params params = {};
	size_t sq_bytes, cq_bytes;
	char *sq, *cq;

	uring.fd = syscall(SYS_io_uring_setup, 4, &params);
	if (uring.fd < 0)
		return strerror(errno);
	sq_bytes = params.sq_off.array + params.sq_entries * sizeof(unsigned);
	cq_bytes = params.cq_off.cqes + params.cq_entries * sizeof(struct io_uring_cqe);
	sq = mmap(NULL, sq_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, uring.fd, IORING_OFF_SQ_RING);
	cq = mmap(NULL, cq_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, uring.fd, IORING_OFF_CQ_RING);
	uring.sqes = mmap(NULL, params.sq_entries * sizeof(struct io_uring_sqe), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE,
			  uring.fd, IORING_OFF_SQES);
	if (sq == MAP_FAILED || cq == MAP_FAILED || uring.sqes == MAP_FAILED)
		die("mmap of io_uring");
	uring.sq_tail = (void *)(sq + params.sq_off.tail);
	uring.sq_mask = (void *)(sq + params.sq_off.ring_mask);
	uring.sq_array = (void *)(sq + params.sq_off.array);
	uring.cq_head = (void *)(cq + params.cq_off.head);
	uring.cq_tail = (void *)(cq + params.cq_off.tail);
	uring.cq_mask = (void *)(cq + params.cq_off.ring_mask);
	uring.cqes = (void *)(cq + params.cq_off.cqes);
	return NULL;
}

/* Submits one request and waits for it. Returns its result. */
static int uring_call(int operation, int fd, const void *address, unsigned length, bool by_worker)
{
	unsigned tail = *uring.sq_tail, index = tail & *uring.sq_mask, head;
	int result;

	uring.sqes[index] = (struct io_uring_sqe){
		.opcode = operation,
		.flags = by_worker ? IOSQE_ASYNC : 0,
		.fd = fd,
		.addr = (unsigned long)address,
		.len = length,
	};
	uring.sq_array[index] = index;
	__atomic_store_n(uring.sq_tail, tail + 1, __ATOMIC_RELEASE);
	if (syscall(SYS_io_uring_enter, uring.fd, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) != 1)
		die("io_uring_enter");
	head = *uring.cq_head;
	if (head == __atomic_load_n(uring.cq_tail, __ATOMIC_ACQUIRE))
		die("io_uring has no result");
	result = uring.cqes[head & *uring.cq_mask].res;
	__atomic_store_n(uring.cq_head, head + 1, __ATOMIC_RELEASE);
	return result;
}

/* send, sendmsg, recv and recvmsg by io_uring, in this thread or in one of its workers. */
static const char *by_uring(bool by_worker)
{
	int server = bound(AF_INET, 0, "127.0.0.1"), client = bound(AF_INET, 0, "127.0.0.1");
	struct sockaddr_storage at = local_of(server), from = local_of(client);
	struct iovec parts[2] = {{payload, 60}, {payload + 100, 70}};
	struct msghdr to = {.msg_name = &at, .msg_namelen = length_of(&at), .msg_iov = parts, .msg_iovlen = 2},
		      into = {.msg_iov = parts, .msg_iovlen = 2};
	const char *why = uring_open();
	struct utsname kernel;

	if (why)
		return why;
	/* Before Linux 5.12 workers are threads of the kernel. */
	uname(&kernel);
	by_kernel_threads = by_worker && strverscmp(kernel.release, "5.12") < 0;
	for (int i = 0; i < 10; i++) {
		int sent = uring_call(IORING_OP_SENDMSG, client, &to, 1, by_worker), received;

		if (sent != 130)
			return sent < 0 ? strerror(-sent) : "sendmsg came short";
		tally(client, &at, sent, 1, 0, 0);
		received = uring_call(IORING_OP_RECVMSG, server, &into, 1, by_worker);
		if (received != 130)
			return "recvmsg came short";
		tally(server, &from, 0, 0, received, 1);
	}
	connect_to(client, &at);
	for (int i = 0; i < 10; i++) {
		int sent = uring_call(IORING_OP_SEND, client, payload, 200 + i, by_worker), received;

		if (sent != 200 + i)
			return sent < 0 ? strerror(-sent) : "send came short";
		tally(client, &at, sent, 1, 0, 0);
		received = uring_call(IORING_OP_RECV, server, payload, 1000, by_worker);
		if (received != 200 + i)
			return "recv came short";
		tally(server, &from, 0, 0, received, 1);
	}
	close(uring.fd);
	close(client);
	close(server);
	return NULL;
}

static const char *uring_inline(void) { return by_uring(false); }
static const char *uring_workers(void) { return by_uring(true); }

/* A DNS message of so many bytes: a query for an A or AAAA record, or its answer, whose rest is empty. */
static void make_dns(unsigned id, bool answer, bool aaaa)
{
	static const unsigned char name[] = "\7example\4test";
	unsigned char *byte = (void *)payload;

	memset(payload, 0, 2048);
	byte[0] = id >> 8;
	byte[1] = id;
	byte[2] = answer ? 0x81 : 0x01;
	byte[3] = answer ? 0x80 : 0;
	byte[5] = 1;
	memcpy(byte + 12, name, sizeof(name));
	byte[12 + sizeof(name) + 1] = aaaa ? 28 : 1;
	byte[12 + sizeof(name) + 3] = 1;
}

static void tally_dns(int fd, const struct sockaddr_storage *peer, bool sent, int bytes, unsigned id, bool in_pages)
{
	struct sockaddr_storage local = local_of(fd);
	bool known = sent || !cgroup_hooks, unread = in_pages && !cgroup_hooks;
	int captured = unread ? 0 : bytes > CAPTURED_AT_MOST ? CAPTURED_AT_MOST : bytes;
	char text[64];

	if (expected_messages == MAX_DNS) {
		fprintf(stderr, "too many messages\n");
		exit(2);
	}
	snprintf(expected_dns[expected_messages++].text, sizeof(expected_dns->text), "%d %d %s %d %u %s %d %d %d %u", sent ? 1 : 2,
		 port_of(&local), text_of(peer, text), known ? getpid() : 0, netns_of(fd), known ? own_name : "-", bytes, captured,
		 (captured < bytes ? FLAG_CUT : 0) | (unread ? FLAG_UNREAD : 0), unread ? 0 : id);
}

static bool send_dns(int fd, const struct sockaddr_storage *peer, unsigned id, bool answer, bool aaaa, int bytes)
{
	make_dns(id, answer, aaaa);
	if (!send_to(fd, peer, bytes, false))
		return false;
	tally_dns(fd, peer, true, bytes, id, false);
	return true;
}

static bool take_dns(int fd, struct sockaddr_storage *from, bool in_pages)
{
	int bytes = receive(fd, from);

	if (bytes < 0)
		return false;
	tally_dns(fd, from, false, bytes, (unsigned char)payload[0] << 8 | (unsigned char)payload[1], in_pages);
	return true;
}

static int dns_server(int family, const char *text)
{
	struct sockaddr_storage at = address(family, text, DNS_PORT);
	int fd = open_socket(family, 0);

	if (fd < 0 || bind(fd, (void *)&at, length_of(&at)))
		die("bind to the DNS port");
	return fd;
}

static unsigned transactions;

/* As a resolver does: queries for A and AAAA on one socket, and then both answers. */
static const char *resolve(int family, const char *text, int rounds, int bytes)
{
	int server = dns_server(family, text);
	struct sockaddr_storage at = local_of(server), from;

	for (int i = 0; i < rounds; i++) {
		int client = open_socket(family, 0);
		unsigned id = 1000 + 2 * i;

		if (!send_dns(client, &at, id, false, false, 30) || !send_dns(client, &at, id + 1, false, true, 30) ||
		    !take_dns(server, &from, false) || !take_dns(server, &from, false) ||
		    !send_dns(server, &from, id + 1, true, true, bytes) || !send_dns(server, &from, id, true, false, bytes) ||
		    !take_dns(client, &at, false) || !take_dns(client, &at, false))
			return "a message did not arrive";
		transactions += 2;
		close(client);
	}
	close(server);
	return NULL;
}

/* Queries and answers, and one answer of 1,232 bytes for each family, which is what EDNS allows where no path is known. */
static const char *dns(void)
{
	const char *why;

	if (lengths_only)
		return "these hooks see no payload";
	why = resolve(AF_INET, "127.0.0.1", 50, 90);
	why = why ?: resolve(AF_INET6, "::1", 50, 200);
	why = why ?: resolve(AF_INET, "127.0.0.1", 1, 1232);
	return why ?: resolve(AF_INET6, "::1", 1, 1232);
}

#define ID_IN_PAGES 77
/* Linux before 6.0 copies the begin of a payload although it takes the pages. */
static bool begins_are_copied;

/* Payload in pages, as of a sender without a copy: the hooks of functions can't read it. */
static const char *dns_in_pages(void)
{
	int server, client, on = 1;
	struct sockaddr_storage at, from;
	struct iovec part = {payload, 600};
	struct msghdr message = {.msg_name = &at, .msg_iov = &part, .msg_iovlen = 1};
	struct utsname kernel;

	uname(&kernel);
	begins_are_copied = !cgroup_hooks && strverscmp(kernel.release, "6.0") < 0;
	if (lengths_only)
		return "these hooks see no payload";
	server = dns_server(AF_INET, "127.0.0.1");
	client = bound(AF_INET, 0, "127.0.0.1");
	at = local_of(server);
	message.msg_namelen = length_of(&at);
	if (setsockopt(client, SOL_SOCKET, SO_ZEROCOPY, &on, sizeof(on)))
		return strerror(errno);
	make_dns(ID_IN_PAGES, false, false);
	if (sendmsg(client, &message, MSG_ZEROCOPY) != 600)
		return strerror(errno);
	tally(client, &at, 600, 1, 0, 0);
	tally_dns(client, &at, true, 600, ID_IN_PAGES, true);
	if (!take_dns(server, &from, true))
		return "it did not arrive";
	close(client);
	close(server);
	return NULL;
}

/* More than the ring holds, which nobody reads meanwhile. */
static const char *dns_ring_full(void)
{
	int server, client;
	struct sockaddr_storage at, from;

	if (lengths_only)
		return "these hooks see no payload";
	server = dns_server(AF_INET, "127.0.0.1");
	client = bound(AF_INET, 0, "127.0.0.1");
	at = local_of(server);
	for (int i = 0; i < 3000; i++)
		if (!send_dns(client, &at, i, false, false, 60) || !take_dns(server, &from, false))
			return "a message did not arrive";
	close(client);
	close(server);
	return NULL;
}

static const struct {
	const char *name;
	const char *(*run)(void);
} cases[] = {
	{"connected4", connected4},
	{"connected6", connected6},
	{"unconnected4", unconnected4},
	{"unconnected6", unconnected6},
	{"lite4", lite4},
	{"lite6", lite6},
	{"thirty_peers", thirty_peers},
	{"v4_mapped", v4_mapped},
	{"many_at_once", many_at_once},
	{"gso_by_message4", gso_by_message4},
	{"gso_by_message6", gso_by_message6},
	{"gso_by_socket", gso_by_socket},
	{"gro", gro},
	{"multicast", multicast},
	{"broadcast", broadcast},
	{"cork", cork},
	{"refused", refused},
	{"truncated", truncated},
	{"no_room", no_room},
	{"raw_beside", raw_beside},
	{"filtered", filtered},
	{"error_queue", error_queue},
	{"unread", unread},
	{"read_and_write", read_and_write},
	{"reconnected", reconnected},
	{"fragments", fragments},
	{"wildcard", wildcard},
	{"by_sendfile", by_sendfile},
	{"reuse_port", reuse_port},
	{"short_lived", short_lived},
	{"options", options},
	{"threads", threads},
	{"threads_and_reads", threads_and_reads},
	{"quic", quic},
	{"link_fragments", link_fragments},
	{"link_segments", link_segments},
	{"uring_inline", uring_inline},
	{"uring_workers", uring_workers},
	{"dns", dns},
	{"dns_in_pages", dns_in_pages},
	{"dns_ring_full", dns_ring_full},
};

static bool is_zero(const struct row *row)
{
	return !row->sent && !row->sent_datagrams && !row->received && !row->received_datagrams && !row->dropped && !row->errors;
}

/* All but the bytes and datagrams. */
static bool is_like(const struct row *a, const struct row *b)
{
	return (no_drops || a->dropped == b->dropped) && (no_errors || a->errors == b->errors) && (lengths_only || a->quic == b->quic) && !a->stranger;
}

static bool is_equal(const struct row *a, const struct row *b)
{
	/* A call may be several datagrams, or a part of one. */
	if (lengths_only)
		return a->sent == b->sent && a->received == b->received;
	return a->sent == b->sent && a->sent_datagrams == b->sent_datagrams && a->received == b->received &&
	       a->received_datagrams == b->received_datagrams;
}

static void show(const char *who, const struct row *row)
{
	printf(" [%s %s: %lld/%lld %lld/%lld, %lld dropped, %lld errors%s%s]", who, row->name, row->sent, row->sent_datagrams, row->received,
	       row->received_datagrams, row->dropped, row->errors, row->quic ? ", QUIC" : "", row->stranger ? ", another process" : "");
}

static int differences;

static void differ(const struct row *wanted_row, const struct row *row)
{
	if (differences++ < 4) {
		show("expected", wanted_row);
		show("found", row);
	}
}

static int by_text(const void *a, const void *b)
{
	return strcmp(((const struct message *)a)->text, ((const struct message *)b)->text);
}

static void differ_by(const char *what, long long wanted_number, long long number)
{
	if (wanted_number != number && differences++ < 4)
		printf(" [%s: expected %lld, found %lld]", what, wanted_number, number);
}

/* A kernel that copies the begin of a payload in pages shows at least the header of the message: as if it had not, for the
 * comparison. Returns the number of such messages. */
static int take_beginnings(void)
{
	int count = 0;

	for (int k = 0; begins_are_copied && k < found_messages; k++) {
		char *text = found_dns[k].text;
		int bytes, captured, flags, end = 0;
		unsigned id;

		if (sscanf(text, "%*d %*d %*s %*d %*u %*s %d %n%d %d %u", &bytes, &end, &captured, &flags, &id) == 4 && captured >= 12 &&
		    captured < bytes && flags == FLAG_CUT && id == ID_IN_PAGES) {
			strcpy(text + end, "0 3 0");
			count++;
		}
	}
	return count;
}

/* Every message that was given out is one of the application's; those that were not are counted as lost. */
static void compare_dns(void)
{
	int i = 0, missing = 0, unread = -take_beginnings();

	qsort(expected_dns, expected_messages, sizeof(*expected_dns), by_text);
	qsort(found_dns, found_messages, sizeof(*found_dns), by_text);
	for (int k = 0; k < found_messages; k++) {
		while (i < expected_messages && strcmp(expected_dns[i].text, found_dns[k].text) < 0)
			i++, missing++;
		if (i < expected_messages && !strcmp(expected_dns[i].text, found_dns[k].text)) {
			i++;
			unread += strstr(found_dns[k].text, " 0 3 0") != NULL;
		} else if (differences++ < 4) {
			printf(" [message %s; next expected %s]", found_dns[k].text, i < expected_messages ? expected_dns[i].text : "none");
		}
	}
	missing += expected_messages - i;
	differ_by("messages lost", missing, seen.dns_lost - seen_before.dns_lost);
	differ_by("messages unread", unread, seen.dns_unread - seen_before.dns_unread);
}

/* Transactions among what was given out: an answer that a client has taken, with the query that it sent. */
static unsigned found_transactions(void)
{
	unsigned count = 0;

	for (int i = 0; i < found_messages; i++) {
		char direction, key[2][200];
		int port, query_port;
		char peer[64], query_peer[64];
		unsigned id, query_id;

		if (sscanf(found_dns[i].text, "%c %d %63s %*d %*u %*s %*d %*d %*d %u", &direction, &port, peer, &id) != 4 || direction != '2' ||
		    port == DNS_PORT)
			continue;
		snprintf(key[0], sizeof(key[0]), "%d %s %u", port, peer, id);
		for (int k = 0; k < found_messages; k++) {
			if (sscanf(found_dns[k].text, "%c %d %63s %*d %*u %*s %*d %*d %*d %u", &direction, &query_port, query_peer,
				   &query_id) != 4 ||
			    direction != '1')
				continue;
			snprintf(key[1], sizeof(key[1]), "%d %s %u", query_port, query_peer, query_id);
			if (!strcmp(key[0], key[1])) {
				count++;
				break;
			}
		}
	}
	return count;
}

static void read_kernels_own(void)
{
	FILE *file = fopen("/proc/net/snmp", "r");
	char line[512];

	while (file && fgets(line, sizeof(line), file))
		if (sscanf(line, "Udp: %lld %*d %*d %lld", &kernels_own.taken, &kernels_own.sent) == 2)
			break;
	if (file)
		fclose(file);
}

/* Runs that the kernel skipped and did not count: datagrams that its own counters have and no flow has. */
static void take_kernels_own(long long *skipped_sent, long long *skipped_taken)
{
	long long sent = kernels_own.sent, taken = kernels_own.taken;

	read_kernels_own();
	*skipped_sent = kernels_own.sent - sent;
	*skipped_taken = kernels_own.taken - taken;
	for (int i = 0; i < found_rows; i++) {
		*skipped_sent -= found[i].sent_datagrams;
		*skipped_taken -= found[i].received_datagrams;
	}
}

/* Whether every row of the application is there, and no other. Datagrams that are missing must be as many as the runs that the kernel skipped. */
static bool compare(void)
{
	long long sent = 0, taken = 0, skipped_sent = skipped.sent - skipped_before.sent, skipped_taken = skipped.taken - skipped_before.taken;

	differences = 0;
	if (!counts_skipped && only_by_coverage) {
		take_kernels_own(&skipped_sent, &skipped_taken);
		skipped.sent = skipped_before.sent + skipped_sent;
		skipped.taken = skipped_before.taken + skipped_taken;
	}
	for (int i = 0; i < expected_rows; i++) {
		struct row *row = row_of(found, &found_rows, expected[i].name);

		if (is_zero(row) && is_zero(&expected[i]))
			continue;
		sent += expected[i].sent_datagrams - row->sent_datagrams;
		taken += expected[i].received_datagrams - row->received_datagrams;
		if (!is_like(row, &expected[i]) || row->sent > expected[i].sent || row->received > expected[i].received)
			differ(&expected[i], row);
		else if (!is_equal(row, &expected[i]) && !skipped_sent && !skipped_taken)
			differ(&expected[i], row);
	}
	for (int i = 0; i < found_rows; i++) {
		int rows = expected_rows;
		struct row *row = row_of(expected, &expected_rows, found[i].name);

		if (expected_rows != rows && !is_zero(&found[i]))
			differ(row, &found[i]);
	}
	if (!lengths_only) {
		differ_by("runs skipped that count what is sent", sent, skipped_sent);
		differ_by("runs skipped that count what is taken", taken, skipped_taken);
	}
	differ_by("lost reports of closed sockets", 0, seen.closed_lost - seen_before.closed_lost);
	differ_by("unparsed", 0, seen.unparsed - seen_before.unparsed);
	compare_dns();
	if (!expected_messages || seen.dns_lost == seen_before.dns_lost)
		differ_by("transactions", transactions, found_transactions());
	return !differences;
}

/* Figures of a case that is right. */
static void remark(void)
{
	if (skipped.sent != skipped_before.sent || skipped.taken != skipped_before.taken)
		printf(" (all but %lld sent and %lld taken, which the kernel skipped%s)", skipped.sent - skipped_before.sent,
		       skipped.taken - skipped_before.taken, counts_skipped ? "" : " and its own counters show");
	if (skipped.others != skipped_before.others)
		printf(" (%lld other runs skipped)", skipped.others - skipped_before.others);
	if (found_messages)
		printf(" (%d messages, %u transactions, %lld lost, %lld unread)", found_messages, transactions,
		       seen.dns_lost - seen_before.dns_lost, seen.dns_unread - seen_before.dns_unread);
}

/* More peers than there are places. */
static int full(void)
{
	struct row sum = {}, placed = {};
	int server = bound(AF_INET, 0, "127.0.0.1");
	struct sockaddr_storage at = local_of(server);

	expected_rows = 0;
	for (int i = 0; i < 400; i++) {
		int client = open_socket(AF_INET, 0);

		exchange(client, server, &at, 3, 100 + i, false);
		/* Half stay open for as long as the counter reads. */
		if (i % 2)
			close(client);
		if (i % 100 == 50)
			read_answer();
	}
	read_answer();
	read_answer();
	for (int i = 0; i < expected_rows; i++) {
		sum.sent += expected[i].sent;
		sum.sent_datagrams += expected[i].sent_datagrams;
		sum.received += expected[i].received;
		sum.received_datagrams += expected[i].received_datagrams;
	}
	for (int i = 0; i < found_rows; i++) {
		placed.sent += found[i].sent;
		placed.sent_datagrams += found[i].sent_datagrams;
		placed.received += found[i].received;
		placed.received_datagrams += found[i].received_datagrams;
	}
	printf("full: application %lld %lld %lld %lld, placed %lld %lld %lld %lld, other %lld %lld %lld %lld\n", sum.sent, sum.sent_datagrams,
	       sum.received, sum.received_datagrams, placed.sent, placed.sent_datagrams, placed.received, placed.received_datagrams, other[0],
	       other[1], other[2], other[3]);
	if (!other[1] || !other[3] || placed.sent + other[0] != sum.sent || placed.sent_datagrams + other[1] != sum.sent_datagrams ||
	    placed.received + other[2] != sum.received || placed.received_datagrams + other[3] != sum.received_datagrams ||
	    skipped.sent || skipped.taken) {
		printf("case full WRONG sent %lld+%lld of %lld in %lld+%lld of %lld, received %lld+%lld of %lld in %lld+%lld of %lld, skipped %lld "
		       "%lld\n",
		       placed.sent, other[0], sum.sent, placed.sent_datagrams, other[1], sum.sent_datagrams, placed.received, other[2],
		       sum.received, placed.received_datagrams, other[3], sum.received_datagrams, skipped.sent, skipped.taken);
		return 1;
	}
	printf("case full ok %lld of %lld sent and %lld of %lld received are in other\n", other[1], sum.sent_datagrams, other[3],
	       sum.received_datagrams);
	return 0;
}

/* Leaves the process two capabilities and a user that has no others. */
static void drop_privileges(void)
{
	const unsigned own[] = {CAP_BPF, CAP_PERFMON};
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[2] = {};
	struct rlimit unlimited = {RLIM_INFINITY, RLIM_INFINITY};

	/* Which Linux before 5.11 charges maps to. */
	if (setrlimit(RLIMIT_MEMLOCK, &unlimited) || prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) || setgroups(0, NULL) ||
	    setresgid(1000, 1000, 1000) || setresuid(1000, 1000, 1000))
		die("setresuid");
	for (int i = 0; i < 2; i++)
		data[CAP_TO_INDEX(own[i])].permitted |= CAP_TO_MASK(own[i]);
	for (int i = 0; i < 2; i++)
		data[i].effective = data[i].inheritable = data[i].permitted;
	if (syscall(SYS_capset, &header, data))
		die("capset");
	for (int i = 0; i < 2; i++)
		if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, own[i], 0, 0))
			die("PR_CAP_AMBIENT_RAISE");
}

static void start_counter(const char *program, const char *hooks, const char *flows, bool unprivileged)
{
	int in[2], out[2];
	char line[64] = "";
	struct utsname kernel;

	if (pipe(in) || pipe(out))
		die("pipe");
	if (fork() == 0) {
		dup2(in[0], 0);
		dup2(out[1], 1);
		close(in[1]);
		close(out[0]);
		if (unprivileged)
			drop_privileges();
		execl(program, program, hooks, flows, DNS_PORT_TEXT, (char *)NULL);
		die(program);
	}
	close(in[0]);
	close(out[1]);
	to_counter = fdopen(in[1], "w");
	from_counter = fdopen(out[0], "r");
	if (!fgets(line, sizeof(line), from_counter) || strncmp(line, "step ", 5)) {
		fprintf(stderr, "%s does not start\n", program);
		exit(2);
	}
	printf("%s", line);
	uname(&kernel);
	counts_skipped = !strstr(line, "kprobe") || strverscmp(kernel.release, "6.7") >= 0;
}

static bool wanted(const char *name, int argc, char **argv)
{
	if (argc <= 3)
		return true;
	for (int i = 3; i < argc; i++)
		if (!strcmp(argv[i], name))
			return true;
	return false;
}

int main(int argc, char **argv)
{
	int right = 0, wrong = 0;
	bool unprivileged = argc > 1 && !strcmp(argv[1], "--unprivileged"), is_full;

	if (unprivileged) {
		argc--;
		argv++;
	}
	if (argc < 3) {
		fprintf(stderr, "usage: udp [--unprivileged] COUNTER functions|cgroup|tracepoints|STEP [CASE...|full]\n");
		return 2;
	}
	signal(SIGPIPE, SIG_IGN);
	setvbuf(stdout, NULL, _IOLBF, 0);
	prctl(PR_GET_NAME, own_name);
	lengths_only = !strcmp(argv[2], "tracepoints");
	cgroup_hooks = !strcmp(argv[2], "cgroup");
	is_full = argc > 3 && !strcmp(argv[3], "full");
	start_counter(argv[1], argv[2], is_full ? "64" : "16384", unprivileged);
	read_answer();
	if (is_full)
		return full();
	for (unsigned i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		const char *why;

		if (!wanted(cases[i].name, argc, argv))
			continue;
		expected_rows = found_rows = expected_messages = found_messages = transactions = 0;
		skipped_before = skipped;
		if (!counts_skipped)
			skipped_before.sent = skipped_before.taken = 0;
		seen_before = seen;
		by_kernel_threads = only_by_coverage = begins_are_copied = false;
		read_kernels_own();
		memset(payload, 0, sizeof(payload));
		why = cases[i].run();
		read_answer();
		printf("case %s", cases[i].name);
		if (why) {
			printf(" skipped: %s\n", why);
		} else if (compare()) {
			printf(" ok");
			remark();
			printf("\n");
			right++;
		} else {
			printf(" WRONG\n");
			wrong++;
		}
	}
	printf("result %d ok, %d wrong; other %lld %lld\n", right, wrong, other[1], other[3]);
	return wrong || !right;
}
