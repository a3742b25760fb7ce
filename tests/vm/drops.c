// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/*
 * Traffic that the kernel drops, and a server that does not accept. IPv4, loopback.
 *
 *   drops datagrams PORT COUNT            sends datagrams of 100 bytes
 *   drops listen PORT BACKLOG CLIENTS     listens, connects, prints `state=holding`, and ends after a line on stdin
 */
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void die(const char *what)
{
	fprintf(stderr, "drops: %s: %s\n", what, strerror(errno));
	exit(1);
}

static struct sockaddr_in address(const char *port)
{
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(atoi(port))};

	to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	return to;
}

static void datagrams(const char *port, int count)
{
	struct sockaddr_in to = address(port);
	char bytes[100] = {};
	int sender = socket(AF_INET, SOCK_DGRAM, 0);

	if (sender < 0)
		die("socket");
	while (count--)
		sendto(sender, bytes, sizeof(bytes), 0, (struct sockaddr *)&to, sizeof(to));
}

static void hold(const char *port, int backlog, int clients)
{
	struct sockaddr_in to = address(port);
	int server = socket(AF_INET, SOCK_STREAM, 0);
	char line[8];

	if (server < 0 || bind(server, (struct sockaddr *)&to, sizeof(to)) || listen(server, backlog))
		die("listen");
	while (clients--) {
		int client = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);

		if (client < 0 || (connect(client, (struct sockaddr *)&to, sizeof(to)) && errno != EINPROGRESS))
			die("connect");
	}
	puts("state=holding");
	fflush(stdout);
	if (!fgets(line, sizeof(line), stdin))
		return;
}

int main(int argc, char **argv)
{
	if (argc == 4 && !strcmp(argv[1], "datagrams"))
		datagrams(argv[2], atoi(argv[3]));
	else if (argc == 5 && !strcmp(argv[1], "listen"))
		hold(argv[2], atoi(argv[3]), atoi(argv[4]));
	else
		return 2;
	return 0;
}
