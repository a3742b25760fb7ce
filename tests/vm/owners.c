// SPDX-License-Identifier: Apache-2.0
//
// Processes and containers whose connections can be distinguished by the process' name or its
// cgroup.
//
//   owners listen PORT listens and accepts nothing, as process `ow-listen` owners connect PORT
//   connects and sends 5 bytes, then waits for SIGTERM owners prefork PORT `ow-parent` listens,
//   `ow-worker` accepts one connection and reads until it is reset owners reset PORT connects,
//   sends 5 bytes, once they are read 7 more, and resets once those are also read owners containers
//   PORT COUNT makes COUNT cgroups of container runtimes, one after the other, each for a process
//   that
//                                 connects, sends 5 bytes and ends; removes each at once
//
// Says `ready` once it listens or has sent, `done` at its end. Exit: 0 done, 1 a call failed, 2 usage.

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static struct sockaddr_in address = {.sin_family = AF_INET};

static void die(const char *call)
{
	fprintf(stderr, "owners: %s: %s\n", call, strerror(errno));
	exit(1);
}

static void name(const char *process)
{
	if (prctl(PR_SET_NAME, process))
		die("prctl");
}

static void say(const char *word)
{
	puts(word);
	fflush(stdout);
}

static int listening(void)
{
	int server = socket(AF_INET, SOCK_STREAM, 0), yes = 1;

	if (server < 0 || setsockopt(server, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes)) ||
	    bind(server, (struct sockaddr *)&address, sizeof(address)) || listen(server, 512))
		die("listen");
	return server;
}

static int connected(void)
{
	int client = socket(AF_INET, SOCK_STREAM, 0);

	if (client < 0 || connect(client, (struct sockaddr *)&address, sizeof(address)))
		die("connect");
	if (write(client, "12345", 5) != 5)
		die("write");
	return client;
}

static void accept_one(int server)
{
	char buffer[7];
	int connection = accept(server, NULL, NULL);

	if (connection < 0)
		die("accept");
	for (size_t bytes = 5; bytes <= 7; bytes += 2) {
		// Informs the client that it has read.
		if (recv(connection, buffer, bytes, MSG_WAITALL) != (ssize_t)bytes || write(connection, "!", 1) != 1)
			die("recv");
	}
	if (recv(connection, buffer, 1, 0) >= 0 || errno != ECONNRESET)
		die("the reset");
	// The owner of a connection may show when it is closed; not of one that is closed already.
	close(connection);
}

static void reset(void)
{
	struct linger at_once = {.l_onoff = 1};
	int client = connected();
	char answer;

	if (read(client, &answer, 1) != 1 || write(client, "6789012", 7) != 7)
		die("the first answer");
	if (read(client, &answer, 1) != 1 || setsockopt(client, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once)))
		die("the answer");
	close(client);
}

static void in_cgroup(const char *path)
{
	char processes[300];
	int fd;

	snprintf(processes, sizeof(processes), "%s/cgroup.procs", path);
	fd = open(processes, O_WRONLY);
	if (fd < 0 || write(fd, "0", 1) != 1)
		die(processes);
	close(fd);
	close(connected());
	_exit(0);
}

static void containers(unsigned long count)
{
	int server = listening();
	char path[256];

	for (unsigned long number = 0; number < count; number++) {
		pid_t child;

		snprintf(path, sizeof(path), "/sys/fs/cgroup/docker-%064lx.scope", number + 0xabcdef0000);
		if (mkdir(path, 0755))
			die(path);
		child = fork();
		if (!child)
			in_cgroup(path);
		if (child < 0 || waitpid(child, NULL, 0) != child)
			die("fork");
		// A process leaves its cgroup a moment after it was waited for.
		while (rmdir(path))
			if (errno != EBUSY)
				die("rmdir");
	}
	close(server);
}

int main(int argc, char **argv)
{
	const char *what = argc > 2 ? argv[1] : "";

	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	address.sin_port = htons(argc > 2 ? (unsigned short)atoi(argv[2]) : 0);
	if (!strcmp(what, "listen")) {
		name("ow-listen");
		listening();
		say("ready");
		pause();
	} else if (!strcmp(what, "connect")) {
		connected();
		say("ready");
		pause();
	} else if (!strcmp(what, "prefork")) {
		int server, status;

		name("ow-parent");
		server = listening();
		if (!fork()) {
			name("ow-worker");
			say("ready");
			accept_one(server);
			_exit(0);
		}
		if (wait(&status) < 0 || status)
			return 1;
		say("done");
	} else if (!strcmp(what, "reset")) {
		reset();
		say("done");
	} else if (!strcmp(what, "containers") && argc == 4) {
		containers(strtoul(argv[3], NULL, 10));
		say("done");
	} else {
		fprintf(stderr, "usage: owners listen|connect|prefork|reset PORT, owners containers PORT COUNT\n");
		return 2;
	}
	return 0;
}
