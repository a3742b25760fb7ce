// SPDX-License-Identifier: Apache-2.0
//
// UDP clients and a server of this machine, over loopback. Prints the bytes and datagrams that they sent and
// received: the oracle of log records of UDP flows.
//
// In:  --port P, --family 4|6, --clients N, --rounds N, --pause-ms T. Each round is a request of every client and an
// answer of half of it; every other client connects its socket. Out: one line of key=value words. Exit: 0 done, 1 a
// call failed, 2 usage.

#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { SMALLEST = 100, LARGEST = 2048, CLIENTS = 256 };

static struct sockaddr_storage at;
static socklen_t at_bytes;
static unsigned long requests, answers, datagrams, answered;

static void die(const char *call)
{
	fprintf(stderr, "datagrams: %s: %s\n", call, strerror(errno));
	exit(1);
}

static void listen_at(int port, int family)
{
	struct sockaddr_in *in4 = (void *)&at;
	struct sockaddr_in6 *in6 = (void *)&at;

	if (family == 6) {
		in6->sin6_family = AF_INET6;
		in6->sin6_addr = in6addr_loopback;
		in6->sin6_port = htons(port);
		at_bytes = sizeof(*in6);
	} else {
		in4->sin_family = AF_INET;
		in4->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
		in4->sin_port = htons(port);
		at_bytes = sizeof(*in4);
	}
}

static void exchange(int client, int server, int index)
{
	static char buffer[LARGEST];
	struct sockaddr_storage from;
	socklen_t from_bytes = sizeof(from);
	ssize_t bytes = SMALLEST + index, got;

	got = index % 2 ? send(client, buffer, bytes, 0)
			: sendto(client, buffer, bytes, 0, (struct sockaddr *)&at, at_bytes);
	if (got != bytes)
		die("send");
	requests += got;
	datagrams++;
	if (recvfrom(server, buffer, sizeof(buffer), 0, (struct sockaddr *)&from, &from_bytes) != bytes)
		die("receive a request");
	got = sendto(server, buffer, bytes / 2, 0, (struct sockaddr *)&from, from_bytes);
	if (got != bytes / 2)
		die("answer");
	answers += got;
	answered++;
	if (recv(client, buffer, sizeof(buffer), 0) != bytes / 2)
		die("receive an answer");
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{"port", required_argument, NULL, 'p'},	    {"family", required_argument, NULL, 'f'},
		{"clients", required_argument, NULL, 'c'},  {"rounds", required_argument, NULL, 'r'},
		{"pause-ms", required_argument, NULL, 't'}, {0},
	};
	int port = 0, family = 4, clients = 1, rounds = 1, pause_ms = 0, option, server, sockets[CLIENTS];

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (option == 'p')
			port = atoi(optarg);
		else if (option == 'f')
			family = atoi(optarg);
		else if (option == 'c')
			clients = atoi(optarg);
		else if (option == 'r')
			rounds = atoi(optarg);
		else if (option == 't')
			pause_ms = atoi(optarg);
		else
			return 2;
	}
	if (!port || clients > CLIENTS)
		return 2;
	listen_at(port, family);
	server = socket(at.ss_family, SOCK_DGRAM, 0);
	if (server < 0 || bind(server, (struct sockaddr *)&at, at_bytes))
		die("bind");
	for (int i = 0; i < clients; i++) {
		sockets[i] = socket(at.ss_family, SOCK_DGRAM, 0);
		if (sockets[i] < 0 || (i % 2 && connect(sockets[i], (struct sockaddr *)&at, at_bytes)))
			die("connect");
	}
	for (int round = 0; round < rounds; round++) {
		if (round)
			usleep(pause_ms * 1000);
		for (int i = 0; i < clients; i++)
			exchange(sockets[i], server, i);
	}
	printf("port=%d flows=%d requests=%lu answers=%lu datagrams=%lu answered=%lu\n", port, clients, requests,
	       answers, datagrams, answered);
	return 0;
}
