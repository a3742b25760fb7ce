// SPDX-License-Identifier: Apache-2.0
//
// The application's side of the story: opens TCP connections to itself, sends a random number of bytes both ways on
// each, shuts down, reads to the end, and prints what each side sent and received. Those sums are what a measurement
// of the same connections has to match to the byte.
//
// In:  --connections N, --port P, --v6 or --server ADDRESS and --client ADDRESS, and what `usage` lists.
// Out: one line of key=value pairs on standard output; with --hold a second one, first, while all are still open.
// Exit: 0 all bytes arrived, 1 some did not or a call failed, 2 usage, 3 the deadline passed.
//
// One thread and epoll, so that thousands of connections cost nothing in an emulated machine. The sizes come from
// --seed, so a run can be repeated.

#define _GNU_SOURCE
#include <errno.h>
#include <getopt.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "endpoints.h"

#define CHUNK 65536

struct side {
	const char *name;
	uint64_t planned, sent, received, retransmits;
};

// One end of a connection.
struct end {
	struct side *side;
	int fd;
	uint64_t left;
	bool shut, eof;
};

static struct {
	unsigned long connections, parallel, max_bytes, deadline;
	uint64_t seed;
	unsigned short port;
	const char *client, *server;
	bool v6, hold;
} opt = {
	.connections = 300,
	.parallel = 64,
	.max_bytes = 65536,
	.deadline = 120,
	.seed = 1,
	.port = 7990,
};

static struct side client = {.name = "client"};
static struct side server = {.name = "server"};
static struct endpoint client_end, server_end;
static struct end *ends;
static unsigned long started, accepted, finished, used;
static bool released; // shutting down is allowed
static int epoll_fd;
static char chunk[CHUNK];

static void die(const char *what)
{
	fprintf(stderr, "traffic: %s: %s\n", what, strerror(errno));
	exit(1);
}

// splitmix64: the nth number of a seed, so that what a connection sends does not hang on the order of events.
static uint64_t nth_random(uint64_t seed, uint64_t n)
{
	uint64_t z = seed + n * 0x9e3779b97f4a7c15ULL;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
	return z ^ (z >> 31);
}

// Mostly anything up to the limit, now and then next to nothing or nothing at all.
static uint64_t random_size(uint64_t n)
{
	uint64_t number = nth_random(opt.seed, n);

	return (number >> 8) % (number % 4 ? opt.max_bytes + 1 : 4);
}

static int new_socket(void)
{
	int fd = socket(server_end.family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0)
		die("socket");
	return fd;
}

static void watch(int fd, uint32_t events, void *who)
{
	struct epoll_event event = {.events = events, .data.ptr = who};

	if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0)
		die("epoll_ctl");
}

// number: counts the connections of a side; with the side it decides how much is sent.
static void begin(struct side *side, int fd, unsigned long number)
{
	struct end *end = &ends[used++];

	end->side = side;
	end->fd = fd;
	end->left = random_size(2 * number + (side == &server));
	side->planned += end->left;
	watch(fd, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, end);
}

static int listen_on_loopback(void)
{
	int fd = new_socket(), on = 1;

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (bind(fd, (struct sockaddr *)&server_end.address, server_end.length) < 0)
		die("bind");
	if (listen(fd, 4096) < 0)
		die("listen");
	return fd;
}

static void connect_more(void)
{
	while (started < opt.connections && started - finished / 2 < opt.parallel) {
		int fd = new_socket(), on = 1;

		if (opt.client) {
			// The port is chosen by connect(), as it is without an address.
			setsockopt(fd, SOL_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof(on));
			if (bind(fd, (struct sockaddr *)&client_end.address, client_end.length) < 0)
				die("bind of a client");
		}
		if (connect(fd, (struct sockaddr *)&server_end.address, server_end.length) < 0 &&
		    errno != EINPROGRESS)
			die("connect");
		begin(&client, fd, started++);
	}
}

static void accept_all(int listener)
{
	for (;;) {
		int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

		if (fd >= 0) {
			begin(&server, fd, accepted++);
		} else if (errno == EAGAIN) {
			return;
		} else if (errno != EINTR && errno != ECONNABORTED) {
			die("accept");
		}
	}
}

static void read_all(struct end *end)
{
	while (!end->eof) {
		ssize_t got = read(end->fd, chunk, sizeof(chunk));

		if (got > 0)
			end->side->received += (uint64_t)got;
		else if (got == 0)
			end->eof = true;
		else if (errno == EAGAIN || errno == ENOTCONN)
			return;
		else if (errno != EINTR)
			die("read");
	}
}

static void write_all(struct end *end)
{
	while (end->left) {
		uint64_t size = 1 + nth_random(opt.seed, end->left) % CHUNK;
		ssize_t put = send(end->fd, chunk, size < end->left ? size : end->left, MSG_NOSIGNAL);

		if (put >= 0) {
			end->left -= (uint64_t)put;
			end->side->sent += (uint64_t)put;
		} else if (errno == EAGAIN || errno == ENOTCONN) {
			return;
		} else if (errno != EINTR) {
			die("write");
		}
	}
	if (!end->shut && released) {
		// Not connected yet: the event of the connection coming up leads here again.
		if (shutdown(end->fd, SHUT_WR) == 0)
			end->shut = true;
		else if (errno != ENOTCONN)
			die("shutdown");
	}
}

static void finish(struct end *end)
{
	struct tcp_info info;
	socklen_t length = sizeof(info);

	if (getsockopt(end->fd, IPPROTO_TCP, TCP_INFO, &info, &length) < 0)
		die("TCP_INFO");
	end->side->retransmits += info.tcpi_total_retrans;
	close(end->fd);
	end->fd = -1;
	finished++;
}

static void serve(struct end *end)
{
	if (end->fd < 0)
		return;
	read_all(end);
	write_all(end);
	if (end->shut && end->eof)
		finish(end);
}

static void connected_or_die(const struct end *end)
{
	int error = 0;
	socklen_t length = sizeof(error);

	getsockopt(end->fd, SOL_SOCKET, SO_ERROR, &error, &length);
	if (error) {
		errno = error;
		die(end->side->name);
	}
}

static void report(const char *state)
{
	printf("traffic state=%s family=%s port=%u connections=%lu "
	       "client_sent=%lu client_received=%lu server_sent=%lu server_received=%lu "
	       "client_retransmits=%lu server_retransmits=%lu\n",
	       state, server_end.family == AF_INET6 ? "ipv6" : "ipv4", opt.port, accepted, client.sent,
	       client.received, server.sent, server.received, client.retransmits, server.retransmits);
	fflush(stdout);
}

// All bytes that were to be sent have been read at the other end.
static bool drained(void)
{
	return accepted == opt.connections && client.received == server.planned && server.received == client.planned;
}

// Runs until every end is closed, or with --hold until all bytes have arrived. False when the deadline passed.
static bool run(int listener, bool until_drained)
{
	time_t last = time(NULL) + (time_t)opt.deadline;
	struct epoll_event events[256];

	while (until_drained ? !drained() : finished < 2 * opt.connections) {
		connect_more();
		if (time(NULL) > last)
			return false;
		int count = epoll_wait(epoll_fd, events, 256, 1000);

		for (int i = 0; i < count; i++) {
			struct end *end = events[i].data.ptr;

			if (end == NULL) {
				accept_all(listener);
			} else if (end->fd >= 0) {
				if (events[i].events & (EPOLLERR | EPOLLHUP))
					connected_or_die(end);
				serve(end);
			}
		}
	}
	return true;
}

// Waits for SIGTERM or SIGINT with every connection open, then lets them all go.
static void hold(int signals)
{
	struct signalfd_siginfo info;

	report("holding");
	if (read(signals, &info, sizeof(info)) < 0)
		die("signalfd");
	released = true;
	for (unsigned long i = 0; i < used; i++)
		serve(&ends[i]);
}

static void usage(void)
{
	fprintf(stderr, "usage: traffic [--connections N] [--port P] [--v6] [--hold] [--parallel N]\n"
			"               [--max-bytes N] [--seed N] [--deadline SECONDS]\n"
			"               [--server ADDRESS] [--client ADDRESS]\n"
			"--hold keeps every connection open, all bytes sent, until SIGTERM or SIGINT\n");
	exit(2);
}

static unsigned long number(unsigned long low, unsigned long high)
{
	char *rest;
	unsigned long value = strtoul(optarg, &rest, 10);

	if (*rest || rest == optarg || value < low || value > high)
		usage();
	return value;
}

static void arguments(int argc, char **argv)
{
	static const struct option known[] = {
		{"connections", required_argument, NULL, 'c'},
		{"port", required_argument, NULL, 'p'},
		{"parallel", required_argument, NULL, 'j'},
		{"max-bytes", required_argument, NULL, 'b'},
		{"seed", required_argument, NULL, 's'},
		{"deadline", required_argument, NULL, 'd'},
		{"server", required_argument, NULL, 'S'},
		{"client", required_argument, NULL, 'C'},
		{"v6", no_argument, NULL, '6'},
		{"hold", no_argument, NULL, 'h'},
		{0},
	};
	int key;

	while ((key = getopt_long(argc, argv, "", known, NULL)) != -1) {
		switch (key) {
		case 'c':
			opt.connections = number(1, 25000);
			break;
		case 'p':
			opt.port = (unsigned short)number(1, 65535);
			break;
		case 'j':
			opt.parallel = number(1, 25000);
			break;
		case 'b':
			opt.max_bytes = number(0, 1UL << 30);
			break;
		case 's':
			opt.seed = number(1, ~0UL);
			break;
		case 'd':
			opt.deadline = number(1, 3600);
			break;
		case 'S':
			opt.server = optarg;
			break;
		case 'C':
			opt.client = optarg;
			break;
		case '6':
			opt.v6 = true;
			break;
		case 'h':
			opt.hold = true;
			break;
		default:
			usage();
		}
	}
	if (!opt.server)
		opt.server = opt.v6 ? "::1" : "127.0.0.1";
	if (optind != argc || !parse_endpoint(opt.server, opt.port, &server_end))
		usage();
	if (opt.client && (!parse_endpoint(opt.client, 0, &client_end) || client_end.family != server_end.family))
		usage();
	if (opt.hold)
		opt.parallel = opt.connections;
}

int main(int argc, char **argv)
{
	arguments(argc, argv);

	struct rlimit files = {2 * opt.parallel + 64, 2 * opt.parallel + 64};
	struct rlimit now;

	if (getrlimit(RLIMIT_NOFILE, &now) == 0 && now.rlim_cur < files.rlim_cur &&
	    setrlimit(RLIMIT_NOFILE, &files) < 0)
		die("RLIMIT_NOFILE");

	sigset_t stop;

	sigemptyset(&stop);
	sigaddset(&stop, SIGTERM);
	sigaddset(&stop, SIGINT);
	if (opt.hold)
		sigprocmask(SIG_BLOCK, &stop, NULL);
	int signals = signalfd(-1, &stop, SFD_CLOEXEC);

	ends = calloc(2 * opt.connections, sizeof(*ends));
	epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (ends == NULL || epoll_fd < 0 || signals < 0)
		die("set-up");
	released = !opt.hold;

	int listener = listen_on_loopback();

	watch(listener, EPOLLIN, NULL);
	bool in_time = true;

	if (opt.hold) {
		in_time = run(listener, true);
		if (in_time)
			hold(signals);
	}
	in_time = in_time && run(listener, false);
	report(in_time ? "done" : "late");
	if (!in_time)
		return 3;
	return client.sent == server.received && server.sent == client.received ? 0 : 1;
}
