// SPDX-License-Identifier: Apache-2.0
//
// One connection that waits for what its arguments make it wait for, and is reset after some seconds. Prints what TCP
// itself says of the time (TCP_INFO), at the end that connected: the oracle.
//
// In:  --port P, --seconds N, --server reads|never|answers (20 ms after each request), --client writes|asks. Out: one
// line of key=value words. Exit: 0 done, 1 a call failed, 2 usage.

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { REQUEST = 200, ANSWER = 1000, THOUGHT_US = 20000, CHUNK = 65536 };
// Of struct tcp_info (include/uapi/linux/tcp.h), which is newer in the kernel than in some C libraries.
enum { BUSY_TIME = 168, RWND_LIMITED = 176, SNDBUF_LIMITED = 184, TOTAL_RTO_TIME = 244, INFO_BYTES = 256 };

static char bytes[CHUNK];

static void die(const char *call)
{
	fprintf(stderr, "limits: %s: %s\n", call, strerror(errno));
	exit(1);
}

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void serve(int listener, const char *kind)
{
	int fd = accept(listener, NULL, NULL);

	if (fd < 0)
		die("accept");
	if (strcmp(kind, "never") == 0)
		pause();
	while (read(fd, bytes, sizeof(bytes)) > 0) {
		if (strcmp(kind, "answers") != 0)
			continue;
		usleep(THOUGHT_US);
		if (send(fd, bytes, ANSWER, MSG_NOSIGNAL) < 0)
			break;
	}
	exit(0);
}

static void work(int fd, const char *kind, double end)
{
	struct timeval patience = {.tv_usec = 50000};

	if (setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience)) < 0)
		die("SO_SNDTIMEO");
	while (now() < end) {
		if (strcmp(kind, "asks") == 0) {
			ssize_t got = 0, more;

			if (send(fd, bytes, REQUEST, 0) < 0)
				die("send");
			while (got < ANSWER && (more = read(fd, bytes, sizeof(bytes))) > 0)
				got += more;
		} else if (send(fd, bytes, sizeof(bytes), 0) < 0 && errno != EAGAIN) {
			die("send");
		}
	}
}

static void report(int fd, double age)
{
	unsigned char info[INFO_BYTES] = {0};
	socklen_t length = sizeof(info);
	uint64_t busy, receiver, buffer;
	uint32_t rto;

	if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, info, &length) < 0)
		die("TCP_INFO");
	memcpy(&busy, info + BUSY_TIME, sizeof(busy));
	memcpy(&receiver, info + RWND_LIMITED, sizeof(receiver));
	memcpy(&buffer, info + SNDBUF_LIMITED, sizeof(buffer));
	memcpy(&rto, info + TOTAL_RTO_TIME, sizeof(rto));
	printf("state=done age_ms=%.0f busy_ms=%lu receiver_ms=%lu buffer_ms=%lu rto_ms=%u\n", age * 1e3,
	       (unsigned long)(busy - receiver - buffer) / 1000, (unsigned long)receiver / 1000,
	       (unsigned long)buffer / 1000, rto);
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{"port", required_argument, NULL, 'p'},	  {"seconds", required_argument, NULL, 't'},
		{"server", required_argument, NULL, 's'}, {"client", required_argument, NULL, 'c'},
		{NULL, 0, NULL, 0},
	};
	const char *server = "reads", *client = "writes";
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	struct linger at_once = {.l_onoff = 1};
	int option, listener, fd, seconds = 5, one = 1;
	double begun;
	pid_t child;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (option) {
		case 'p': address.sin_port = htons((uint16_t)atoi(optarg)); break;
		case 't': seconds = atoi(optarg); break;
		case 's': server = optarg; break;
		case 'c': client = optarg; break;
		default: return 2;
		}
	}
	listener = socket(AF_INET, SOCK_STREAM, 0);
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(listener, (struct sockaddr *)&address, sizeof(address)) < 0 || listen(listener, 8) < 0)
		die("listen");
	child = fork();
	if (child == 0)
		serve(listener, server);
	fd = socket(AF_INET, SOCK_STREAM, 0);
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		die("connect");
	begun = now();
	setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "cubic", 5);
	setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
	work(fd, client, begun + seconds);
	report(fd, now() - begun);
	close(fd);
	kill(child, SIGTERM);
	waitpid(child, NULL, 0);
	return 0;
}
