// SPDX-License-Identifier: Apache-2.0
//
// Connections that end by a reset while data is unacknowledged: the peer reads nothing, part of what the client wrote
// has arrived, part is in flight, part was never sent. Prints the bytes that each end sent and received, from the
// queues of the sockets (SIOCOUTQNSD, SIOCINQ).
//
// In:  --connections N, --port P, --server ADDRESS, --client ADDRESS, --by-peer (the server resets, by a close with
// unread data, not the client). Out: the two lines of `traffic --hold`: one while all are open, one after all are
// reset, which SIGTERM starts. Exit: 0 done, 1 a call failed or the machine did not get there in time, 2 usage.

#define _GNU_SOURCE
#include <errno.h>
#include <getopt.h>
#include <linux/filter.h>
#include <linux/sockios.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "endpoints.h"

enum { MAX_CONNECTIONS = 400, ANSWER = 3000, SEND_BUFFER = 65536, DEADLINE_SECONDS = 60 };

static struct connection {
	int client, server;
	unsigned long written;
} connections[MAX_CONNECTIONS];
static unsigned long count = 50, port = 7980;
static struct endpoint client_end, server_end;
static bool by_peer;

static void die(const char *call)
{
	fprintf(stderr, "resets: %s: %s\n", call, strerror(errno));
	exit(1);
}

static unsigned long queued(int fd, unsigned long queue)
{
	int bytes;

	if (ioctl(fd, queue, &bytes) < 0)
		die("ioctl");
	return (unsigned long)bytes;
}

static struct tcp_info info_of(int fd)
{
	struct tcp_info info;
	socklen_t length = sizeof(info);

	if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length) < 0)
		die("TCP_INFO");
	return info;
}

static bool all_acknowledged(const struct connection *c)
{
	return queued(c->client, SIOCOUTQ) == 0 && queued(c->server, SIOCOUTQ) == 0;
}

// After a retransmission timeout nothing new is sent before an acknowledgment, and none comes any more.
static bool timed_out(const struct connection *c)
{
	return info_of(c->client).tcpi_ca_state == TCP_CA_Loss;
}

static void wait_for(bool (*condition)(const struct connection *), const char *name)
{
	time_t last = time(NULL) + DEADLINE_SECONDS;

	for (unsigned long i = 0; i < count; i++) {
		while (!condition(&connections[i])) {
			if (time(NULL) > last) {
				errno = ETIME;
				die(name);
			}
			usleep(10000);
		}
	}
}

// The listener stays, as that of a server does.
static void open_all(void)
{
	int on = 1, size = SEND_BUFFER;
	int listener = socket(server_end.family, SOCK_STREAM | SOCK_CLOEXEC, 0);

	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (bind(listener, (struct sockaddr *)&server_end.address, server_end.length) < 0 || listen(listener, 8) < 0)
		die("listen");
	for (unsigned long i = 0; i < count; i++) {
		struct connection *c = &connections[i];

		c->client = socket(server_end.family, SOCK_STREAM | SOCK_CLOEXEC, 0);
		setsockopt(c->client, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
		setsockopt(c->client, SOL_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof(on));
		if (bind(c->client, (struct sockaddr *)&client_end.address, client_end.length) < 0)
			die("bind of a client");
		if (connect(c->client, (struct sockaddr *)&server_end.address, server_end.length) < 0)
			die("connect");
		c->server = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
		if (c->server < 0)
			die("accept");
	}
}

// Writes that arrive: from the client bytes that nobody reads, from the server bytes that the client reads.
static void exchange(void)
{
	static char bytes[SEND_BUFFER];

	for (unsigned long i = 0; i < count; i++) {
		struct connection *c = &connections[i];
		// At least one: a server that closes with nothing unread sends a FIN, no reset.
		size_t first = 1 + i * 97 % 5000;

		if (write(c->client, bytes, first) != (ssize_t)first || write(c->server, bytes, ANSWER) != ANSWER)
			die("write");
		c->written = first;
		if (recv(c->client, bytes, ANSWER, MSG_WAITALL) != ANSWER)
			die("recv");
	}
	wait_for(all_acknowledged, "acknowledgments");
}

// From here on the servers throw every segment away: a socket's filter is asked before TCP is.
static void go_deaf(void)
{
	struct sock_filter nothing = BPF_STMT(BPF_RET | BPF_K, 0);
	struct sock_fprog filter = {.len = 1, .filter = &nothing};

	for (unsigned long i = 0; i < count; i++)
		if (setsockopt(connections[i].server, SOL_SOCKET, SO_ATTACH_FILTER, &filter, sizeof(filter)) < 0)
			die("SO_ATTACH_FILTER");
}

// Every second client writes until its buffer is full, so that there is data that was never sent; the others little.
static void write_unacknowledged(void)
{
	static char bytes[SEND_BUFFER];

	for (unsigned long i = 0; i < count; i++) {
		struct connection *c = &connections[i];
		ssize_t put = send(c->client, bytes, 1 + i * 31, MSG_DONTWAIT);

		while (put > 0) {
			c->written += (unsigned long)put;
			put = i % 2 ? send(c->client, bytes, sizeof(bytes), MSG_DONTWAIT) : 0;
		}
		if (put < 0 && errno != EAGAIN)
			die("send");
	}
	wait_for(timed_out, "retransmission timeouts");
}

static void report(const char *state)
{
	unsigned long sent = 0, received = 0, retransmits = 0, unsent = 0, in_flight = 0;

	for (unsigned long i = 0; i < count; i++) {
		const struct connection *c = &connections[i];
		unsigned long not_sent = queued(c->client, SIOCOUTQNSD);

		sent += c->written - not_sent;
		unsent += not_sent;
		in_flight += queued(c->client, SIOCOUTQ) - not_sent;
		received += queued(c->server, SIOCINQ);
		retransmits += info_of(c->client).tcpi_total_retrans;
	}
	printf("resets state=%s family=%s port=%lu connections=%lu "
	       "client_sent=%lu client_received=%lu server_sent=%lu server_received=%lu "
	       "client_retransmits=%lu server_retransmits=0 client_unsent=%lu client_unacknowledged=%lu\n",
	       state, server_end.family == AF_INET6 ? "ipv6" : "ipv4", port, count, sent, count * ANSWER,
	       count * ANSWER, received, retransmits, unsent, in_flight);
	fflush(stdout);
}

static void reset_by_client(const struct connection *c)
{
	const struct linger at_once = {.l_onoff = 1, .l_linger = 0};

	setsockopt(c->client, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
	close(c->client);
	close(c->server);
}

static void reset_by_peer(const struct connection *c)
{
	struct pollfd client = {.fd = c->client};

	close(c->server);
	if (poll(&client, 1, DEADLINE_SECONDS * 1000) != 1)
		die("no reset from the peer");
	close(c->client);
}

static void usage(void)
{
	fprintf(stderr,
		"usage: resets [--connections N, up to %d] [--port P] [--server ADDRESS]\n"
		"             [--client ADDRESS] [--by-peer]\n",
		MAX_CONNECTIONS);
	exit(2);
}

static unsigned long number(unsigned long high)
{
	char *rest;
	unsigned long value = strtoul(optarg, &rest, 10);

	if (*rest || rest == optarg || value < 1 || value > high)
		usage();
	return value;
}

int main(int argc, char **argv)
{
	static const struct option known[] = {
		{"connections", required_argument, NULL, 'c'}, {"port", required_argument, NULL, 'p'},
		{"server", required_argument, NULL, 'S'},      {"client", required_argument, NULL, 'C'},
		{"by-peer", no_argument, NULL, 'b'},	       {0},
	};
	const char *server = "127.0.0.1", *client = "127.0.0.1";
	sigset_t stop;
	int key, signal;

	while ((key = getopt_long(argc, argv, "", known, NULL)) != -1) {
		switch (key) {
		case 'c':
			count = number(MAX_CONNECTIONS);
			break;
		case 'p':
			port = number(65535);
			break;
		case 'S':
			server = optarg;
			break;
		case 'C':
			client = optarg;
			break;
		case 'b':
			by_peer = true;
			break;
		default:
			usage();
		}
	}
	if (optind != argc || !parse_endpoint(server, (unsigned short)port, &server_end) ||
	    !parse_endpoint(client, 0, &client_end) || client_end.family != server_end.family)
		usage();
	sigemptyset(&stop);
	sigaddset(&stop, SIGTERM);
	sigaddset(&stop, SIGINT);
	sigprocmask(SIG_BLOCK, &stop, NULL);
	open_all();
	exchange();
	go_deaf();
	write_unacknowledged();
	report("holding");
	sigwait(&stop, &signal);
	// Once more, as it could only be true of the end if nothing moved in between.
	report("done");
	for (unsigned long i = 0; i < count; i++)
		(by_peer ? reset_by_peer : reset_by_client)(&connections[i]);
	return 0;
}
