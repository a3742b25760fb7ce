/*
 * Sends and receives datagrams in every way that a program has, and compares its own count per socket and peer with what
 * the UDP programs have counted.
 *
 *   udp COUNTER HOOKS [CASE...]     runs COUNTER (ebpf/examples/udp_flows.rs) with HOOKS, then the cases, and compares
 *   udp COUNTER HOOKS full          a table of 64 flows, 400 peers: what has no place must be in `other`
 *
 * Prints a line per case: `case NAME ok`, `case NAME WRONG ...`, `case NAME skipped WHY`; then `result N ok, N wrong`.
 * Exit: 0 all right, 1 something differs, 2 the counter does not start.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/errqueue.h>
#include <linux/filter.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/ip.h>
#include <netinet/udp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/uio.h>
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

/* Exchanged by one socket and one peer. */
struct row {
	char name[80]; /* protocol, local port, peer */
	long long sent, sent_datagrams, received, received_datagrams;
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
	snprintf(rows[*count].name, sizeof(rows->name), "%s", name);
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

/* Adds what the application has just done. */
static void tally(int fd, const struct sockaddr_storage *peer, long long sent, int sent_datagrams, long long received,
		  int received_datagrams)
{
	struct sockaddr_storage local = local_of(fd);
	char name[80], text[64];
	struct row *row;

	snprintf(name, sizeof(name), "%d %d %s", protocol_of(fd), port_of(&local), lengths_only ? "-" : text_of(peer, text));
	pthread_mutex_lock(&lock);
	row = row_of(expected, &expected_rows, name);
	row->sent += sent;
	row->sent_datagrams += sent_datagrams;
	row->received += received;
	row->received_datagrams += received_datagrams;
	pthread_mutex_unlock(&lock);
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
static const char *segments_of(int family, const char *text, bool by_socket)
{
	int server = bound(family, 0, text), client = bound(family, 0, text);
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
		send_to(client, &at, 100, true);
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
	struct sockaddr_storage at = local_of(server), from;

	setsockopt(server, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof(bytes));
	for (int i = 0; i < 200; i++)
		send_to(client, &at, 500, false);
	fcntl(server, F_SETFL, O_NONBLOCK);
	while (receive(server, &from) >= 0)
		received++;
	if (drops_are_received)
		tally(server, &from, 0, 0, 500 * (200 - received), 200 - received);
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
	struct {
		struct udphdr header;
		char payload[27];
	} forged = {.header = {.source = htons(port_of(&from)), .dest = htons(port_of(&at)), .len = htons(sizeof(forged))}};

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

		send_to(client, &at, 100, true);
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
	/* A page is a datagram of its own on some kernels. */
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
};

static long long other[4];

/* Reads the counter's answer; rows add to those that are there. */
static void read_answer(void)
{
	char line[512];

	fprintf(to_counter, "\n");
	fflush(to_counter);
	while (fgets(line, sizeof(line), from_counter)) {
		char peer[64], comm[64];
		int protocol, port, marks, pid;
		unsigned netns;
		long long sent, sent_datagrams, received, received_datagrams, dropped, errors;

		if (!strcmp(line, "end\n"))
			return;
		if (!strncmp(line, "misses", 6) && strstr(line, " 0\n"))
			continue;
		if (sscanf(line, "other %lld %lld %lld %lld", &other[0], &other[1], &other[2], &other[3]) == 4)
			continue;
		drops_are_received |= !strcmp(line, "absent uncount_dropped\n");
		filtered_are_received |= !strcmp(line, "absent uncount_filtered\n");
		if (strncmp(line, "flow", 4)) {
			printf("# %s", line);
			continue;
		}
		/* The process is absent where no hook has it. */
		if (sscanf(line, "flow %d %d %63s %d %d %u %63s %lld %lld %lld %lld %lld %lld", &protocol, &port, peer, &marks, &pid,
			   &netns, comm, &sent, &sent_datagrams, &received, &received_datagrams, &dropped, &errors) == 13 ||
		    sscanf(line, "flow %d %d %63s %d %d %u  %lld %lld %lld %lld %lld %lld", &protocol, &port, peer, &marks, &pid, &netns,
			   &sent, &sent_datagrams, &received, &received_datagrams, &dropped, &errors) == 12) {
			char name[80];
			struct row *row;

			snprintf(name, sizeof(name), "%d %d %s", protocol, port, lengths_only ? "-" : peer);
			row = row_of(found, &found_rows, name);
			row->sent += sent;
			row->sent_datagrams += sent_datagrams;
			row->received += received;
			row->received_datagrams += received_datagrams;
		}
	}
	fprintf(stderr, "the counter has ended\n");
	exit(2);
}

static bool is_zero(const struct row *row)
{
	return !row->sent && !row->sent_datagrams && !row->received && !row->received_datagrams;
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
	printf(" [%s %s: %lld/%lld %lld/%lld]", who, row->name, row->sent, row->sent_datagrams, row->received, row->received_datagrams);
}

/* Whether every row of the application is there; what it did not do is no concern: others use UDP too. */
static bool compare(void)
{
	int differences = 0;

	for (int i = 0; i < expected_rows; i++) {
		struct row *row = row_of(found, &found_rows, expected[i].name);

		if (is_equal(row, &expected[i]) || (is_zero(row) && is_zero(&expected[i])))
			continue;
		if (differences++ < 4) {
			show("expected", &expected[i]);
			show("found", row);
		}
	}
	return !differences;
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
		struct row *row = row_of(found, &found_rows, expected[i].name);

		sum.sent += expected[i].sent, placed.sent += row->sent;
		sum.sent_datagrams += expected[i].sent_datagrams, placed.sent_datagrams += row->sent_datagrams;
		sum.received += expected[i].received, placed.received += row->received;
		sum.received_datagrams += expected[i].received_datagrams, placed.received_datagrams += row->received_datagrams;
	}
	printf("full: application %lld %lld %lld %lld, placed %lld %lld %lld %lld, other %lld %lld %lld %lld\n", sum.sent, sum.sent_datagrams,
	       sum.received, sum.received_datagrams, placed.sent, placed.sent_datagrams, placed.received, placed.received_datagrams, other[0],
	       other[1], other[2], other[3]);
	/* Others on this machine that found no place are in `other` too. */
	if (!other[1] || placed.sent + other[0] < sum.sent || placed.sent_datagrams + other[1] < sum.sent_datagrams ||
	    placed.received + other[2] < sum.received || placed.received_datagrams + other[3] < sum.received_datagrams) {
		printf("case full WRONG\n");
		return 1;
	}
	printf("case full %s\n", placed.sent + other[0] == sum.sent && placed.received + other[2] == sum.received ? "ok" : "ok (with others' datagrams)");
	return 0;
}

static void start_counter(const char *program, const char *hooks, const char *flows)
{
	int in[2], out[2];
	char line[64] = "";

	if (pipe(in) || pipe(out))
		die("pipe");
	if (fork() == 0) {
		dup2(in[0], 0);
		dup2(out[1], 1);
		close(in[1]);
		close(out[0]);
		execl(program, program, hooks, flows, (char *)NULL);
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

	if (argc < 3) {
		fprintf(stderr, "usage: udp COUNTER functions|cgroup|tracepoints [CASE...|full]\n");
		return 2;
	}
	signal(SIGPIPE, SIG_IGN);
	setvbuf(stdout, NULL, _IOLBF, 0);
	lengths_only = !strcmp(argv[2], "tracepoints");
	cgroup_hooks = !strcmp(argv[2], "cgroup");
	bool is_full = argc > 3 && !strcmp(argv[3], "full");
	start_counter(argv[1], argv[2], is_full ? "64" : "16384");
	read_answer();
	if (is_full)
		return full();
	for (unsigned i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		const char *why;

		if (!wanted(cases[i].name, argc, argv))
			continue;
		expected_rows = found_rows = 0;
		why = cases[i].run();
		read_answer();
		printf("case %s", cases[i].name);
		if (why) {
			printf(" skipped: %s\n", why);
		} else if (compare()) {
			printf(" ok\n");
			right++;
		} else {
			printf(" WRONG\n");
			wrong++;
		}
	}
	printf("result %d ok, %d wrong; other %lld %lld\n", right, wrong, other[1], other[3]);
	return wrong || !right;
}
