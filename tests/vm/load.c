// Loads flowtap's BPF programs one by one, then measures a known number of bytes with those of mode sockets: for kernels of an
// architecture that the Rust toolchain here can't build for. The first process of an emulated machine.
//
// In: /sockets.bpf.o, /events.bpf.o. Out, on the console: the lines of README.md, VM-RESULT per program and VM-DONE.
#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <net/if.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

typedef uint8_t __u8;
#include "abi.h"

enum { CONNECTIONS = 50, REQUEST = 1000, ANSWER = 3000 };

static bool failed;

static void result(const char *name, const char *status, const char *format, ...)
{
	va_list arguments;

	failed = failed || strcmp(status, "fail") == 0;
	printf("VM-RESULT name=%s status=%s detail=", name, status);
	va_start(arguments, format);
	vprintf(format, arguments);
	va_end(arguments);
	putchar('\n');
}

static int quiet(enum libbpf_print_level level, const char *format, va_list arguments)
{
	return level == LIBBPF_WARN ? vfprintf(stderr, format, arguments) : 0;
}

// An object whose rings are small. Whatever the loader of flowtap sets besides may be anything here.
static struct bpf_object *open_object(const char *path)
{
	const char *rings[] = {"lifecycle", "tcpflow", "tcpconn"};
	struct bpf_object *object = bpf_object__open_file(path, NULL);

	if (!object)
		return NULL;
	for (size_t i = 0; i < sizeof(rings) / sizeof(*rings); i++) {
		struct bpf_map *ring = bpf_object__find_map_by_name(object, rings[i]);

		if (ring)
			bpf_map__set_max_entries(ring, 1 << 20);
	}
	return object;
}

// Loads the program number `wanted` of an object, and no other; false if there are not so many.
static bool try_program(const char *path, int wanted)
{
	struct bpf_object *object = open_object(path);
	struct bpf_program *program, *found = NULL;
	struct bpf_link *link = NULL;
	const char *name, *section;
	int number = 0;

	if (!object) {
		result(path, "fail", "can't be opened: %s", strerror(errno));
		return false;
	}
	bpf_object__for_each_program(program, object) {
		bpf_program__set_autoload(program, number == wanted);
		if (number++ == wanted)
			found = program;
	}
	if (!found) {
		bpf_object__close(object);
		return false;
	}
	name = bpf_program__name(found);
	section = bpf_program__section_name(found);
	if (bpf_object__load(object)) {
		result(name, "fail", "%s does not load: %s", section, strerror(errno));
	} else if (strncmp(section, "iter", 4) == 0) {
		// An iterator over a map wants that map; the others are linked here.
		result(name, "pass", "%s loads", section);
	} else {
		link = bpf_program__attach(found);
		if (link)
			result(name, "pass", "%s loads and attaches", section);
		else
			result(name, strncmp(section, "kprobe", 6) ? "fail" : "skip", "%s does not attach: %s", section,
			       strerror(errno));
	}
	bpf_link__destroy(link);
	bpf_object__close(object);
	return true;
}

static void die(const char *what)
{
	result("traffic", "fail", "%s: %s", what, strerror(errno));
}

static void bring_up_loopback(void)
{
	struct ifreq request = {.ifr_name = "lo"};
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	request.ifr_flags = IFF_UP | IFF_RUNNING;
	if (fd < 0 || ioctl(fd, SIOCSIFFLAGS, &request))
		die("lo");
	close(fd);
}

static void move_bytes(int from, int to, size_t size)
{
	char bytes[ANSWER] = {0};

	if (write(from, bytes, size) != (ssize_t)size)
		die("write");
	for (size_t got = 0; got < size;) {
		ssize_t more = read(to, bytes, sizeof(bytes));

		if (more <= 0) {
			die("read");
			return;
		}
		got += (size_t)more;
	}
}

// A client and a server in one: a request, an answer, and both ends closed in order, CONNECTIONS times.
static void converse(void)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
	socklen_t length = sizeof(address);
	int listener = socket(AF_INET, SOCK_STREAM, 0);

	if (bind(listener, (struct sockaddr *)&address, length) || listen(listener, 8) ||
	    getsockname(listener, (struct sockaddr *)&address, &length))
		die("listen");
	for (int i = 0; i < CONNECTIONS; i++) {
		int client = socket(AF_INET, SOCK_STREAM, 0), server;

		if (connect(client, (struct sockaddr *)&address, length))
			die("connect");
		server = accept(listener, NULL, NULL);
		move_bytes(client, server, REQUEST);
		move_bytes(server, client, ANSWER);
		close(client);
		close(server);
	}
	close(listener);
}

struct sums {
	int64_t sent, received;
	int closed;
};

static int add(void *context, void *record, size_t size)
{
	struct sums *sums = context;
	struct flow_event *event = record;

	if (size == sizeof(*event) && event->type == EVENT_FLOW) {
		sums->sent += event->sent;
		sums->received += event->received;
		sums->closed += !!(event->events & FLOW_CLOSED);
	}
	return 0;
}

static void measure(void)
{
	const int64_t bytes = (int64_t)CONNECTIONS * (REQUEST + ANSWER);
	struct bpf_object *object = open_object("/sockets.bpf.o");
	struct bpf_program *program;
	struct ring_buffer *ring;
	struct sums sums = {0};

	if (!object)
		return;
	bpf_object__for_each_program(program, object)
		bpf_program__set_autoload(program, !strcmp(bpf_program__name(program), "on_state_change"));
	if (bpf_object__load(object)) {
		result("bytes", "fail", "mode sockets does not load: %s", strerror(errno));
		return;
	}
	program = bpf_object__find_program_by_name(object, "on_state_change");
	if (!bpf_program__attach(program)) {
		result("bytes", "fail", "on_state_change does not attach: %s", strerror(errno));
		return;
	}
	ring = ring_buffer__new(bpf_object__find_map_fd_by_name(object, "lifecycle"), add, &sums, NULL);
	converse();
	// Both ends of each; the last may take a moment.
	for (int i = 0; i < 100 && sums.closed < 2 * CONNECTIONS; i++) {
		ring_buffer__consume(ring);
		usleep(100000);
	}
	result("closed", sums.closed == 2 * CONNECTIONS ? "pass" : "fail", "%d of %d", sums.closed, 2 * CONNECTIONS);
	result("bytes_sent", sums.sent == bytes ? "pass" : "fail", "application %lld, flowtap %lld", (long long)bytes,
	       (long long)sums.sent);
	result("bytes_received", sums.received == bytes ? "pass" : "fail", "application %lld, flowtap %lld",
	       (long long)bytes, (long long)sums.received);
}

int main(void)
{
	struct utsname kernel;

	setvbuf(stdout, NULL, _IOLBF, 0);
	mkdir("/proc", 0755);
	mkdir("/sys", 0755);
	mount("proc", "/proc", "proc", 0, NULL);
	mount("sysfs", "/sys", "sysfs", 0, NULL);
	mount("tracefs", "/sys/kernel/tracing", "tracefs", 0, NULL);
	libbpf_set_print(quiet);
	uname(&kernel);
	printf("VM-INFO name=release value=%s %s\n", kernel.release, kernel.machine);
	for (int i = 0; try_program("/sockets.bpf.o", i); i++)
		;
	for (int i = 0; try_program("/events.bpf.o", i); i++)
		;
	bring_up_loopback();
	measure();
	printf("VM-SCRIPT exit=%d\nVM-DONE\n", failed);
	sync();
	reboot(RB_POWER_OFF);
	return 0;
}
