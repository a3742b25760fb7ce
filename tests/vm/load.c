// Loads flowtap's BPF programs one by one, then measures a known number of bytes with those of either mode, of one
// process and of several at once: for kernels of an architecture that the Rust toolchain here can't build for. The
// first process of an emulated machine.
//
// In: /sockets.bpf.o, /events.bpf.o, /traffic. Out, on the console: the lines of README.md, VM-RESULT per program and
// VM-DONE.
#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
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
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

typedef uint8_t __u8;
#include "abi.h"
#include "objects.h"
#include "statistics.h"
#include "verifier.h"

enum { CONNECTIONS = 50, REQUEST = 1000, ANSWER = 3000 };
// Concurrent processes of traffic, each with a separate port.
enum { PROCESSES = 10, FIRST_PORT = 8400, CONNECTIONS_EACH = 400 };
// Of the connection whose peer never reads.
enum { STUCK_PORT = 8500, STUCK_SECONDS = 4 };
// Of struct tcp_info (include/uapi/linux/tcp.h).
enum { RWND_LIMITED = 176, INFO_BYTES = 256 };

static bool failed, has_kprobes;
static int ends[2 * CONNECTIONS];

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

// Loads the program number `wanted` of an object, and no other; false if there are not so many.
static bool try_program(const char *path, int wanted)
{
	static char log[STATISTICS_BYTES];
	struct bpf_object *object = open_object(path);
	struct bpf_program *program, *found = NULL;
	struct bpf_link *link = NULL;
	const char *name, *section;
	int number = 0;

	if (!object) {
		result(path, "fail", "can't be opened: %s", strerror(errno));
		return false;
	}
	bpf_object__for_each_program(program, object)
	{
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
	keep_statistics(found, log);
	if (bpf_object__load(object)) {
		result(name, "fail", "%s does not load: %s; %s", section, strerror(errno), log);
	} else if (instructions_of(log) > INSTRUCTIONS_ALLOWED) {
		result(name, "fail",
		       "%s needs %ld of the %d instructions that the verifier processes; %d are allowed", section,
		       instructions_of(log), INSTRUCTIONS_LIMIT, INSTRUCTIONS_ALLOWED);
	} else if (strncmp(section, "iter", 4) == 0 || strcmp(section, "raw_tp") == 0) {
		// An iterator over a map wants that map, and a raw_tp of no tracepoint is only ever run by a call.
		result(name, "pass", "%s loads: %ld instructions", section, instructions_of(log));
	} else {
		link = bpf_program__attach(found);
		if (link)
			result(name, "pass", "%s loads and attaches: %ld instructions", section,
			       instructions_of(log));
		else
			result(name, strncmp(section, "kprobe", 6) ? "fail" : "skip", "%s does not attach: %s",
			       section, strerror(errno));
		has_kprobes = has_kprobes || (link && strncmp(section, "kprobe", 6) == 0);
	}
	bpf_link__destroy(link);
	bpf_object__close(object);
	return true;
}

static void die(const char *what)
{
	result("traffic", "fail", "%s: %s", what, strerror(errno));
}

// Lets the programs of an object that was loaded do all their work, as the loader does (struct control in
// ebpf/bpf/control.h).
static void let_work(struct bpf_object *object)
{
	__u32 zero = 0, control[3] = {1, 1, 1 << 16};
	int fd = bpf_object__find_map_fd_by_name(object, "control");

	if (fd >= 0 && bpf_map_update_elem(fd, &zero, control, BPF_ANY))
		result("control", "fail", "can't be set: %s", strerror(errno));
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

// Opens every connection, sends a request and an answer on each, and leaves them open.
static void converse(void)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
	socklen_t length = sizeof(address);
	int listener = socket(AF_INET, SOCK_STREAM, 0);

	if (bind(listener, (struct sockaddr *)&address, length) || listen(listener, 8) ||
	    getsockname(listener, (struct sockaddr *)&address, &length))
		die("listen");
	for (int i = 0; i < CONNECTIONS; i++) {
		int *client = &ends[2 * i], *server = &ends[2 * i + 1];

		*client = socket(AF_INET, SOCK_STREAM, 0);
		if (connect(*client, (struct sockaddr *)&address, length)) {
			die("connect");
			break;
		}
		*server = accept(listener, NULL, NULL);
		move_bytes(*client, *server, REQUEST);
		move_bytes(*server, *client, ANSWER);
	}
	close(listener);
}

// By enum role: what was sent and received; and how many ends were closed by this process. The same by port, for the
// processes, with all ends that opened and closed.
struct sums {
	int64_t sent[3], received[3];
	int closed;
	struct {
		int64_t sent[3], received[3];
		int opened[3], closed[3];
	} ports[PROCESSES];
	// Jiffies of the connection to STUCK_PORT, at the end that connected.
	int64_t stuck_elapsed, stuck_rwnd_limited;
	bool stuck_closed;
};

static void add_to_port(struct sums *sums, const struct flow_event *event)
{
	int port = event->role == ROLE_CLIENT ? event->tuple.remote_port : event->tuple.local_port;
	int index = port - FIRST_PORT, role = event->role % 3;

	if (index < 0 || index >= PROCESSES)
		return;
	sums->ports[index].sent[role] += event->sent;
	sums->ports[index].received[role] += event->received;
	sums->ports[index].opened[role] += (event->events & FLOW_OPENED) != 0;
	sums->ports[index].closed[role] += (event->events & FLOW_CLOSED) != 0;
}

static int add(void *context, void *record, size_t size)
{
	struct sums *sums = context;
	struct flow_event *event = record;

	if (size == sizeof(*event) && event->type == EVENT_FLOW) {
		sums->sent[event->role % 3] += event->sent;
		sums->received[event->role % 3] += event->received;
		sums->closed += event->events & FLOW_CLOSED && event->pid == (uint32_t)getpid();
		add_to_port(sums, event);
		if (event->role == ROLE_CLIENT && event->tuple.remote_port == STUCK_PORT) {
			sums->stuck_elapsed += event->elapsed;
			sums->stuck_rwnd_limited += event->rwnd_limited;
			sums->stuck_closed = event->events & FLOW_CLOSED;
		}
	}
	return 0;
}

// Each end by itself: the sums of both together would not distinguish sent from received.
static void expect(const char *name, const struct sums *sums)
{
	const long long up = CONNECTIONS * REQUEST, down = CONNECTIONS * ANSWER;
	long long got[] = {sums->sent[ROLE_CLIENT], sums->received[ROLE_CLIENT], sums->sent[ROLE_SERVER],
			   sums->received[ROLE_SERVER]};
	bool same = got[0] == up && got[1] == down && got[2] == down && got[3] == up;

	result(name, same ? "pass" : "fail", "application %lld %lld %lld %lld, flowtap %lld %lld %lld %lld", up, down,
	       down, up, got[0], got[1], got[2], got[3]);
}

// Walks the iterator over the sockets' storage, as a window's tick does; what moved is in the ring.
static void scan(struct bpf_object *object, struct ring_buffer *ring)
{
	union bpf_iter_link_info map = {.map.map_fd = bpf_object__find_map_fd_by_name(object, "sockets")};
	LIBBPF_OPTS(bpf_iter_attach_opts, options, .link_info = &map, .link_info_len = sizeof(map));
	struct bpf_link *link =
		bpf_program__attach_iter(bpf_object__find_program_by_name(object, "scan_by_cast"), &options);
	int fd = link ? bpf_iter_create(bpf_link__fd(link)) : -1;
	// Not a census.
	unsigned long long arguments[] = {0};
	LIBBPF_OPTS(bpf_test_run_opts, run, .ctx_in = arguments, .ctx_size_in = sizeof(arguments));
	struct bpf_program *begin = bpf_object__find_program_by_name(object, "begin_scan");
	ssize_t got;
	char byte;

	if (bpf_prog_test_run_opts(bpf_program__fd(begin), &run))
		result("scan", "fail", "begin_scan does not run: %s", strerror(errno));
	if (fd < 0)
		result("scan", "fail", "scan_by_cast does not attach: %s", strerror(errno));
	while (fd >= 0 && ((got = read(fd, &byte, 1)) > 0 || (got < 0 && errno == EAGAIN)))
		ring_buffer__consume(ring);
	ring_buffer__consume(ring);
	close(fd);
	bpf_link__destroy(link);
}

static pid_t start_traffic(int index)
{
	char connections[16], port[16], seed[16], output[32];
	pid_t child = fork();

	if (child)
		return child;
	snprintf(connections, sizeof(connections), "%d", CONNECTIONS_EACH);
	snprintf(port, sizeof(port), "%d", FIRST_PORT + index);
	snprintf(seed, sizeof(seed), "%d", index + 1);
	snprintf(output, sizeof(output), "/traffic.%d", index);
	dup2(open(output, O_WRONLY | O_CREAT | O_TRUNC, 0600), STDOUT_FILENO);
	execl("/traffic", "traffic", "--connections", connections, "--port", port, "--seed", seed, "--deadline",
	      "300", NULL);
	_exit(127);
}

// Reads the last line of a traffic process: client sent and received, server sent and received.
static bool read_traffic(int index, long long application[4])
{
	char path[32], line[512] = "";
	const char *place;
	FILE *file;

	snprintf(path, sizeof(path), "/traffic.%d", index);
	file = fopen(path, "r");
	if (!file)
		return false;
	while (fgets(line, sizeof(line), file))
		;
	fclose(file);
	place = strstr(line, "client_sent=");
	return strstr(line, "state=done") && place &&
	       sscanf(place, "client_sent=%lld client_received=%lld server_sent=%lld server_received=%lld",
		      &application[0], &application[1], &application[2], &application[3]) == 4;
}

static int ends_closed(const struct sums *sums)
{
	int closed = 0;

	for (int i = 0; i < PROCESSES; i++)
		closed += sums->ports[i].closed[ROLE_CLIENT] + sums->ports[i].closed[ROLE_SERVER];
	return closed;
}

// Several processes at once, on all processors, each port's sums against its process's own.
static void processes(const char *mode, struct ring_buffer *ring, const struct sums *sums)
{
	int running = PROCESSES, wrong = 0, closed = 0;
	long long bytes = 0, missing = 0;
	char name[64];
	time_t last;

	for (int i = 0; i < PROCESSES; i++)
		start_traffic(i);
	while (running) {
		// The programs wake nobody up for so little.
		ring_buffer__consume(ring);
		usleep(20000);
		while (waitpid(-1, NULL, WNOHANG) > 0)
			running--;
	}
	last = time(NULL) + 15;
	while (ends_closed(sums) < 2 * PROCESSES * CONNECTIONS_EACH && time(NULL) < last) {
		ring_buffer__consume(ring);
		usleep(20000);
	}
	snprintf(name, sizeof(name), "%s_processes", mode);
	for (int i = 0; i < PROCESSES; i++) {
		long long application[4];

		if (!read_traffic(i, application)) {
			result(name, "fail", "traffic on port %d did not end well", FIRST_PORT + i);
			return;
		}
		long long measured[4] = {sums->ports[i].sent[ROLE_CLIENT], sums->ports[i].received[ROLE_CLIENT],
					 sums->ports[i].sent[ROLE_SERVER], sums->ports[i].received[ROLE_SERVER]};
		bool same = memcmp(application, measured, sizeof(measured)) == 0;

		for (int role = ROLE_CLIENT; role <= ROLE_SERVER; role++) {
			same = same && sums->ports[i].opened[role] == CONNECTIONS_EACH &&
			       sums->ports[i].closed[role] == CONNECTIONS_EACH;
			closed += sums->ports[i].closed[role];
		}
		for (int k = 0; k < 4; k++) {
			bytes += application[k];
			missing += application[k] - measured[k];
		}
		wrong += !same;
	}
	result(name, wrong ? "fail" : "pass", "%lld bytes, %lld missing; %d of %d ends closed; %d of %d ports differ",
	       bytes, missing, closed, 2 * PROCESSES * CONNECTIONS_EACH, wrong, PROCESSES);
}

static int64_t milliseconds_of(int64_t jiffies)
{
	struct timespec jiffy;

	clock_getres(CLOCK_MONOTONIC_COARSE, &jiffy);
	return jiffies * jiffy.tv_nsec / 1000000;
}

// A peer that never reads: the time in which its window is full is TCP_INFO's. In mode sockets a scan reports it
// although no byte moves.
static void stuck(const char *mode, struct bpf_object *object, struct ring_buffer *ring, const struct sums *sums)
{
	struct sockaddr_in address = {
		.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}, .sin_port = htons(STUCK_PORT)};
	int listener = socket(AF_INET, SOCK_STREAM, 0), client = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0),
	    one = 1;
	struct linger at_once = {.l_onoff = 1};
	unsigned char info[INFO_BYTES] = {0};
	socklen_t length = sizeof(info);
	int64_t ours, difference;
	uint64_t theirs;
	char name[64];
	time_t last;

	snprintf(name, sizeof(name), "%s_stuck", mode);
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(listener, (struct sockaddr *)&address, sizeof(address)) || listen(listener, 8))
		die("listen");
	connect(client, (struct sockaddr *)&address, sizeof(address));
	last = time(NULL) + STUCK_SECONDS;
	while (time(NULL) <= last) {
		static const char bytes[65536];

		if (write(client, bytes, sizeof(bytes)) < 0)
			usleep(20000);
	}
	if (strcmp(mode, "sockets") == 0) {
		scan(object, ring);
		int64_t before = sums->stuck_rwnd_limited;
		usleep(500000);
		scan(object, ring);
		result("sockets_stuck_scan", sums->stuck_rwnd_limited > before ? "pass" : "fail",
		       "%lld ms of a full window between two scans, no byte moved",
		       (long long)milliseconds_of(sums->stuck_rwnd_limited - before));
	}
	if (getsockopt(client, IPPROTO_TCP, TCP_INFO, info, &length))
		die("TCP_INFO");
	setsockopt(client, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
	close(client);
	for (int i = 0; i < 100 && !sums->stuck_closed; i++) {
		ring_buffer__consume(ring);
		usleep(100000);
	}
	close(listener);
	memcpy(&theirs, info + RWND_LIMITED, sizeof(theirs));
	theirs /= 1000;
	ours = milliseconds_of(sums->stuck_rwnd_limited);
	difference = ours - (int64_t)theirs;
	result(name, ours > 1000 && difference * difference <= 100 * 100 ? "pass" : "fail",
	       "a full window for %lld of %lld ms, TCP_INFO %lld", (long long)ours,
	       (long long)milliseconds_of(sums->stuck_elapsed), (long long)theirs);
}

// The programs of a mode against the application's count: what is open (by `scan`, in mode sockets), then all closed.
static void measure(const char *mode, const char *path, const char *rings[2])
{
	struct bpf_object *object = open_object(path);
	bool sockets = strcmp(mode, "sockets") == 0;
	struct ring_buffer *ring = NULL;
	struct bpf_program *program;
	struct sums sums = {0};
	char name[64];

	snprintf(name, sizeof(name), "%s_closed", mode);
	if (!object) {
		result(name, "fail", "%s can't be opened: %s", path, strerror(errno));
		return;
	}
	bpf_object__for_each_program(program, object)
	{
		const char *section = bpf_program__section_name(program), *own = bpf_program__name(program);

		// One of tp_btf and raw_tp will do, and those that disable preemption are for later kernels
		// (ebpf/src/preemption.rs). The scan of the storage needs one of the programs that are only called.
		bpf_program__set_autoload(program,
					  (strncmp(section, "raw_tp", 6) || !strcmp(own, "begin_scan")) &&
						  !strstr(own, "_guarded") && !strstr(own, "_missed") &&
						  // Of mode events: it would report to a ring that nobody reads here.
						  strcmp(own, "on_tcp_probe") &&
						  (has_kprobes || strncmp(section, "kprobe", 6)));
	}
	set_constant(object, "has_kprobes", has_kprobes);
	// Shares of the ring, as flowtap's loader sets them (ebpf/src/sockets.rs).
	set_constant(object, "scan_bytes", RING_BYTES / 2);
	set_constant(object, "scan_share", RING_BYTES / 16);
	set_constant(object, "change_bytes", RING_BYTES - RING_BYTES / 16);
	if (bpf_object__load(object)) {
		result(name, "fail", "mode %s does not load: %s", mode, strerror(errno));
		return;
	}
	let_work(object);
	bpf_object__for_each_program(program, object)
	{
		const char *section = bpf_program__section_name(program);

		if (bpf_program__autoload(program) && strncmp(section, "iter", 4) && strcmp(section, "raw_tp") &&
		    !bpf_program__attach(program))
			result(name, "fail", "%s does not attach: %s", bpf_program__name(program), strerror(errno));
	}
	ring = ring_buffer__new(bpf_object__find_map_fd_by_name(object, rings[0]), add, &sums, NULL);
	if (!ring ||
	    (rings[1] && ring_buffer__add(ring, bpf_object__find_map_fd_by_name(object, rings[1]), add, &sums))) {
		result(name, "fail", "rings: %s", strerror(errno));
		return;
	}
	converse();
	if (sockets) {
		scan(object, ring);
		expect("sockets_bytes_open", &sums);
	}
	for (int i = 0; i < 2 * CONNECTIONS; i++)
		close(ends[i]);
	// The last may take a moment.
	for (int i = 0; i < 100 && sums.closed < 2 * CONNECTIONS; i++) {
		ring_buffer__consume(ring);
		usleep(100000);
	}
	result(name, sums.closed == 2 * CONNECTIONS ? "pass" : "fail", "%d of %d with their process", sums.closed,
	       2 * CONNECTIONS);
	snprintf(name, sizeof(name), "%s_bytes", mode);
	expect(name, &sums);
	processes(mode, ring, &sums);
	stuck(mode, object, ring, &sums);
	ring_buffer__free(ring);
	bpf_object__close(object);
}

// Datagrams to a port that nobody has, against the counts of dropped packets: one reason has them all.
static void drops(void)
{
	enum { DATAGRAMS = 1000 };
	struct bpf_object *object = open_object("/drops.bpf.o");
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(9)};
	int cpus = libbpf_num_possible_cpus(), sender = socket(AF_INET, SOCK_DGRAM, 0);
	enum { SLOTS = 64 };
	struct {
		struct {
			__u64 packets, bytes;
			__u32 reason, netns;
		} slots[SLOTS];
	} places[cpus > 0 ? cpus : 1];
	struct bpf_program *program;
	unsigned long long found = 0;
	__u32 set = 0;

	to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (!object) {
		result("drops_counted", "fail", "/drops.bpf.o can't be opened: %s", strerror(errno));
		return;
	}
	// The other one is for kernels before 6.11.
	bpf_object__for_each_program(program, object)
		bpf_program__set_autoload(program, strcmp(bpf_program__name(program), "on_drop") != 0);
	if (bpf_object__load(object) ||
	    !bpf_program__attach(bpf_object__find_program_by_name(object, "on_drop_at_socket"))) {
		result("drops_counted", "fail", "it does not load or attach: %s", strerror(errno));
		return;
	}
	for (int i = 0; i < DATAGRAMS; i++)
		sendto(sender, "x", 1, 0, (struct sockaddr *)&to, sizeof(to));
	close(sender);
	if (bpf_map_lookup_elem(bpf_object__find_map_fd_by_name(object, "slots"), &set, places)) {
		result("drops_counted", "fail", "the counts can't be read: %s", strerror(errno));
		return;
	}
	// A reason has the same slot on each CPU.
	for (int slot = 0; slot < SLOTS; slot++) {
		unsigned long long packets = 0;

		for (int cpu = 0; cpu < cpus; cpu++)
			if (places[cpu].slots[slot].netns)
				packets += places[cpu].slots[slot].packets;
		if (packets > found)
			found = packets;
	}
	result("drops_counted", found == DATAGRAMS ? "pass" : "fail", "%llu of %d", found, DATAGRAMS);
	bpf_object__close(object);
}

static int quiet(enum libbpf_print_level level, const char *format, va_list arguments)
{
	return level == LIBBPF_WARN ? vfprintf(stderr, format, arguments) : 0;
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
	for (int i = 0; try_program("/drops.bpf.o", i); i++)
		;
	for (int i = 0; try_program("/listeners.bpf.o", i); i++)
		;
	bring_up_loopback();
	measure("sockets", "/sockets.bpf.o", (const char *[]){"lifecycle", NULL});
	measure("events", "/events.bpf.o", (const char *[]){"tcpflow", "tcpconn"});
	drops();
	printf("VM-SCRIPT exit=%d\nVM-DONE\n", failed);
	sync();
	reboot(RB_POWER_OFF);
	return 0;
}
