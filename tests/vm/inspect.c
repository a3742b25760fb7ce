// SPDX-License-Identifier: Apache-2.0
//
// Connections over loopback that begin as a protocol does, each with some requests and a server that thinks. Prints
// the number and the time of the answers as both ends count them: the oracle of the option `inspect`.
//
// In:  --port P, --connections N, --requests N, --thought-us T, --begin http|redis|tls (a ClientHello of 1,826 bytes
// that asks for vm.example.test; the two turns of the handshake come before the requests). Out: one line of key=value words.
// Exit: 0 done, 1 a call failed, 2 usage.

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { ANSWER = 300, KEY_SHARE = 1700, LARGEST = 4096 };

// As RFC 8446, section 2, has them: ClientHello and the server's flight; then the client's Finished, and session
// tickets.
enum { HANDSHAKE = 2 };

static char hello[LARGEST], request[LARGEST], answer[LARGEST];
static size_t hello_bytes, request_bytes;
static int handshake; // turns before the first request

static void die(const char *call)
{
	fprintf(stderr, "inspect: %s: %s\n", call, strerror(errno));
	exit(1);
}

static double now_us(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec * 1e6 + (double)time.tv_nsec / 1e3;
}

static void put(const void *bytes, size_t count)
{
	memcpy(request + request_bytes, bytes, count);
	request_bytes += count;
}

static void put16(size_t value)
{
	unsigned char bytes[] = {value >> 8, value & 0xff};

	put(bytes, sizeof(bytes));
}

// A ClientHello whose key share is of post-quantum size, and whose name comes last.
static void make_hello(void)
{
	static const char name[] = "vm.example.test", share[KEY_SHARE];
	size_t name_bytes = sizeof(name) - 1, extension_bytes = 4 + KEY_SHARE + 4 + 5 + name_bytes;
	size_t body = 2 + 32 + 1 + 4 + 2 + 2 + extension_bytes;

	put("\x16\x03\x01", 3);
	put16(4 + body);
	put("\x01\x00", 2);
	put16(body);
	put("\x03\x03", 2);
	put(share, 32);
	put("\x00\x00\x02\x13\x01\x01\x00", 7);
	put16(extension_bytes);
	put16(51);
	put16(KEY_SHARE);
	put(share, KEY_SHARE);
	put16(0);
	put16(5 + name_bytes);
	put16(3 + name_bytes);
	put("\x00", 1);
	put16(name_bytes);
	put(name, name_bytes);
	memcpy(hello, request, request_bytes);
	hello_bytes = request_bytes;
	request_bytes = 0;
	handshake = HANDSHAKE;
}

static void make_request(const char *begin)
{
	if (strcmp(begin, "http") == 0)
		put("GET / HTTP/1.1\r\nHost: vm.example.test\r\n\r\n", 41);
	else if (strcmp(begin, "redis") == 0)
		put("*1\r\n$4\r\nPING\r\n", 14);
	else if (strcmp(begin, "tls") == 0) {
		make_hello();
		// A record of application data.
		put("\x17\x03\x03", 3);
		put16(20);
		put(hello, 20);
	} else
		exit(2);
}

// Returns the bytes that the client sends in a turn, and their number.
static const char *of_turn(int turn, size_t *count)
{
	int is_hello = turn == 0 && handshake;

	*count = is_hello ? hello_bytes : request_bytes;
	return is_hello ? hello : request;
}

static void read_all(int fd, char *into, size_t count)
{
	while (count > 0) {
		ssize_t got = read(fd, into, count);

		if (got <= 0)
			die("read");
		into += got;
		count -= got;
	}
}

// Answers; returns the time that passed between a request that was read and the beginning of its answer.
static double serve(int listener, int connections, int requests, int thought_us)
{
	double thought = 0, came;
	int one = 1;

	for (int connection = 0; connection < connections; connection++) {
		int fd = accept(listener, NULL, NULL);

		if (fd < 0)
			die("accept");
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
		for (int turn = 0; turn < handshake + requests; turn++) {
			size_t count;

			of_turn(turn, &count);
			read_all(fd, answer, count);
			came = now_us();
			usleep(thought_us);
			if (turn >= handshake)
				thought += now_us() - came;
			if (send(fd, answer, ANSWER, MSG_NOSIGNAL) != ANSWER)
				die("send");
		}
		// The client closes first.
		while (read(fd, answer, sizeof(answer)) > 0)
			;
		close(fd);
	}
	return thought;
}

static double ask(int port, int connections, int requests)
{
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
	double waited = 0, asked;

	to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	for (int connection = 0; connection < connections; connection++) {
		int fd = socket(AF_INET, SOCK_STREAM, 0);

		if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof(to)))
			die("connect");
		for (int turn = 0; turn < handshake + requests; turn++) {
			size_t count;
			const char *data = of_turn(turn, &count);

			asked = now_us();
			if (send(fd, data, count, MSG_NOSIGNAL) != (ssize_t)count)
				die("send");
			read_all(fd, answer, ANSWER);
			if (turn >= handshake)
				waited += now_us() - asked;
		}
		close(fd);
	}
	return waited;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{"port", required_argument, NULL, 'p'},	    {"connections", required_argument, NULL, 'c'},
		{"requests", required_argument, NULL, 'r'}, {"thought-us", required_argument, NULL, 't'},
		{"begin", required_argument, NULL, 'b'},    {0},
	};
	int port = 0, connections = 1, requests = 1, thought_us = 0, option, listener, one = 1, ends[2], status;
	struct sockaddr_in at = {.sin_family = AF_INET};
	double client, server;
	pid_t child;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (option == 'p')
			port = atoi(optarg);
		else if (option == 'c')
			connections = atoi(optarg);
		else if (option == 'r')
			requests = atoi(optarg);
		else if (option == 't')
			thought_us = atoi(optarg);
		else if (option == 'b')
			make_request(optarg);
		else
			return 2;
	}
	if (!port || !request_bytes)
		return 2;
	listener = socket(AF_INET, SOCK_STREAM, 0);
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	at.sin_port = htons(port);
	at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (listener < 0 || bind(listener, (struct sockaddr *)&at, sizeof(at)) || listen(listener, 16) || pipe(ends))
		die("listen");
	child = fork();
	if (child < 0)
		die("fork");
	if (child == 0) {
		server = serve(listener, connections, requests, thought_us);
		if (write(ends[1], &server, sizeof(server)) != sizeof(server))
			die("write");
		return 0;
	}
	client = ask(port, connections, requests);
	if (read(ends[0], &server, sizeof(server)) != sizeof(server) || waitpid(child, &status, 0) != child)
		die("read");
	printf("port=%d connections=%d exchanges=%d server_us=%.0f client_us=%.0f\n", port, connections,
	       connections * requests, server, client);
	return 0;
}
