// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/*
 * Connections through a translation, whose ends send each other their own addresses: the oracle.
 *
 *   translation serve PORT...               answers each message after a pause, on any address of both families
 *   translation ask ADDRESS PORT COUNT      COUNT connections, until a line on stdin
 *   translation short ADDRESS PORT COUNT    COUNT connections, one after the other, of a message each way
 *   translation ipvs ADDRESS PORT SERVER PORT   an IPVS service with NAT in this namespace
 *
 * The first three print a line for each connection, `end PORT PEER PEER_PORT REAL REAL_PORT`: their own port, the
 * peer as their socket has it, and the peer's own address and port. The pauses are shorter than the peer's delayed
 * acknowledgement, so that what was sent waits for it.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/ip_vs.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define PAUSE_US 15000
#define MESSAGE 64

static void die(const char *what)
{
	fprintf(stderr, "translation: %s: %s\n", what, strerror(errno));
	exit(1);
}

/* Address and port, in words. IPv4 as such on sockets of IPv6. */
static void name(char *text, const struct sockaddr_storage *end)
{
	char address[INET6_ADDRSTRLEN];
	const struct sockaddr_in *in4 = (const void *)end;
	const struct sockaddr_in6 *in6 = (const void *)end;

	if (end->ss_family == AF_INET)
		inet_ntop(AF_INET, &in4->sin_addr, address, sizeof(address));
	else if (IN6_IS_ADDR_V4MAPPED(&in6->sin6_addr))
		inet_ntop(AF_INET, in6->sin6_addr.s6_addr + 12, address, sizeof(address));
	else
		inet_ntop(AF_INET6, &in6->sin6_addr, address, sizeof(address));
	snprintf(text, MESSAGE, "%s %u", address, ntohs(end->ss_family == AF_INET ? in4->sin_port : in6->sin6_port));
}

static void own_end(char *text, int stream)
{
	struct sockaddr_storage end;
	socklen_t length = sizeof(end);

	if (getsockname(stream, (struct sockaddr *)&end, &length))
		die("getsockname");
	name(text, &end);
}

/* One line: the own port, the peer as the socket has it, and as it says that it is. */
static void print_end(int stream, const char *real)
{
	struct sockaddr_storage end;
	socklen_t length = sizeof(end);
	char own[MESSAGE], peer[MESSAGE];

	if (getpeername(stream, (struct sockaddr *)&end, &length))
		die("getpeername");
	own_end(own, stream);
	name(peer, &end);
	printf("end %s %s %s\n", strchr(own, ' ') + 1, peer, real);
	fflush(stdout);
}

/* Receives a message; false at the end. */
static int take(int stream, char *message)
{
	return recv(stream, message, MESSAGE, MSG_WAITALL) == MESSAGE;
}

static void serve_one(int stream)
{
	char own[MESSAGE] = {}, message[MESSAGE];
	int first = 1;

	own_end(own, stream);
	while (take(stream, message)) {
		if (first)
			print_end(stream, message);
		first = 0;
		usleep(PAUSE_US);
		if (send(stream, own, MESSAGE, MSG_NOSIGNAL) != MESSAGE)
			break;
	}
	exit(0);
}

static void serve(int count, char **ports)
{
	struct pollfd listeners[8];

	for (int i = 0; i < count && i < 8; i++) {
		struct sockaddr_in6 any = {.sin6_family = AF_INET6, .sin6_port = htons(atoi(ports[i]))};
		int one = 1, server = socket(AF_INET6, SOCK_STREAM, 0);

		setsockopt(server, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
		if (server < 0 || bind(server, (struct sockaddr *)&any, sizeof(any)) || listen(server, 128))
			die("listen");
		listeners[i] = (struct pollfd){.fd = server, .events = POLLIN};
	}
	puts("state=serving");
	fflush(stdout);
	while (poll(listeners, count, -1) > 0) {
		for (int i = 0; i < count; i++) {
			int stream;

			if (!(listeners[i].revents & POLLIN))
				continue;
			stream = accept(listeners[i].fd, NULL, NULL);
			if (stream >= 0 && !fork()) {
				/* So that the ports are free when the server has ended, even if a connection has not. */
				for (int j = 0; j < count; j++)
					close(listeners[j].fd);
				serve_one(stream);
			}
			close(stream);
		}
	}
}

/* A connection to ADDRESS. */
static int connected(const char *address, const char *port)
{
	struct sockaddr_in in4 = {.sin_family = AF_INET, .sin_port = htons(atoi(port))};
	struct sockaddr_in6 in6 = {.sin6_family = AF_INET6, .sin6_port = htons(atoi(port))};
	int is4 = inet_pton(AF_INET, address, &in4.sin_addr) == 1, stream;

	if (!is4 && inet_pton(AF_INET6, address, &in6.sin6_addr) != 1)
		die(address);
	stream = socket(is4 ? AF_INET : AF_INET6, SOCK_STREAM, 0);
	if (connect(stream, is4 ? (void *)&in4 : (void *)&in6, is4 ? sizeof(in4) : sizeof(in6)))
		die("connect");
	return stream;
}

static void ask(const char *address, const char *port, int count)
{
	char message[MESSAGE], line[8];

	for (int i = 0; i < count; i++) {
		char own[MESSAGE] = {};
		int stream = connected(address, port), first = 1;

		own_end(own, stream);
		if (fork()) {
			close(stream);
			continue;
		}
		/* At once when its parent ends: answers may not come any more by then. */
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		while (getppid() != 1) {
			if (send(stream, own, MESSAGE, MSG_NOSIGNAL) != MESSAGE || !take(stream, message))
				break;
			if (first)
				print_end(stream, message);
			first = 0;
			usleep(PAUSE_US);
		}
		exit(0);
	}
	if (!fgets(line, sizeof(line), stdin))
		return;
}

static void ask_shortly(const char *address, const char *port, int count)
{
	char message[MESSAGE];

	for (int i = 0; i < count; i++) {
		char own[MESSAGE] = {};
		int stream = connected(address, port);

		own_end(own, stream);
		if (send(stream, own, MESSAGE, MSG_NOSIGNAL) != MESSAGE || !take(stream, message))
			die("an answer");
		print_end(stream, message);
		close(stream);
	}
}

/* As ipvsadm did it before there was a netlink interface. */
static void make_service(char **at)
{
	struct {
		struct ip_vs_service_user service;
		struct ip_vs_dest_user server;
	} made = {};
	int raw = socket(AF_INET, SOCK_RAW, IPPROTO_RAW);

	made.service.protocol = IPPROTO_TCP;
	made.service.port = htons(atoi(at[1]));
	strcpy(made.service.sched_name, "rr");
	made.server.port = htons(atoi(at[3]));
	made.server.conn_flags = IP_VS_CONN_F_MASQ;
	made.server.weight = 1;
	if (inet_pton(AF_INET, at[0], &made.service.addr) != 1 || inet_pton(AF_INET, at[2], &made.server.addr) != 1)
		die("an IPv4 address");
	if (raw < 0 || setsockopt(raw, IPPROTO_IP, IP_VS_SO_SET_ADD, &made.service, sizeof(made.service)))
		die("IP_VS_SO_SET_ADD");
	if (setsockopt(raw, IPPROTO_IP, IP_VS_SO_SET_ADDDEST, &made, sizeof(made)))
		die("IP_VS_SO_SET_ADDDEST");
}

int main(int argc, char **argv)
{
	if (argc > 2 && !strcmp(argv[1], "serve"))
		serve(argc - 2, argv + 2);
	else if (argc == 5 && !strcmp(argv[1], "ask"))
		ask(argv[2], argv[3], atoi(argv[4]));
	else if (argc == 5 && !strcmp(argv[1], "short"))
		ask_shortly(argv[2], argv[3], atoi(argv[4]));
	else if (argc == 6 && !strcmp(argv[1], "ipvs"))
		make_service(argv + 2);
	else
		fprintf(stderr, "usage: translation serve PORT... | ask ADDRESS PORT COUNT | short ADDRESS PORT "
				"COUNT | ipvs ADDRESS PORT SERVER PORT\n");
	return 0;
}
