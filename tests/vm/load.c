// Loads flowtap's BPF programs one by one, then measures a known number of bytes with those of either mode: for
// kernels of an architecture that the Rust toolchain here can't build for. The first process of an emulated machine.
//
// In: /sockets.bpf.o, /events.bpf.o. Out, on the console: the lines of README.md, VM-RESULT per program and VM-DONE.
#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <bpf/btf.h>
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

static int quiet(enum libbpf_print_level level, const char *format, va_list arguments)
{
	return level == LIBBPF_WARN ? vfprintf(stderr, format, arguments) : 0;
}

// Puts the kernel's own number of bpf_rdonly_cast() into the calls that stand for it, as flowtap's loader does
// (ebpf/src/kfunc.rs).
static void link_casts(struct bpf_object *object)
{
	const struct bpf_insn call = {
		.code = BPF_JMP | BPF_CALL, .src_reg = BPF_PSEUDO_KFUNC_CALL, .imm = 0x6bf70001};
	struct btf *btf = btf__load_vmlinux_btf();
	int id = btf ? btf__find_by_name_kind(btf, "bpf_rdonly_cast", BTF_KIND_FUNC) : -1;
	struct bpf_program *program;

	btf__free(btf);
	bpf_object__for_each_program(program, object)
	{
		size_t count = bpf_program__insn_cnt(program);
		struct bpf_insn *linked = calloc(count, sizeof(*linked));

		memcpy(linked, bpf_program__insns(program), count * sizeof(*linked));
		for (size_t i = 0; i < count; i++)
			if (memcmp(&linked[i], &call, sizeof(call)) == 0)
				linked[i].imm = id;
		bpf_program__set_insns(program, linked, count);
		free(linked);
	}
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
	link_casts(object);
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

// By enum role: what was sent and received; and how many ends were closed by this process.
struct sums {
	int64_t sent[3], received[3];
	int closed;
};

static int add(void *context, void *record, size_t size)
{
	struct sums *sums = context;
	struct flow_event *event = record;

	if (size == sizeof(*event) && event->type == EVENT_FLOW) {
		sums->sent[event->role % 3] += event->sent;
		sums->received[event->role % 3] += event->received;
		sums->closed += event->events & FLOW_CLOSED && event->pid == (uint32_t)getpid();
	}
	return 0;
}

// Each end by itself: the sums of both together would not tell sent from received.
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
	ssize_t got;
	char byte;

	if (fd < 0)
		result("scan", "fail", "scan_by_cast does not attach: %s", strerror(errno));
	while (fd >= 0 && ((got = read(fd, &byte, 1)) > 0 || (got < 0 && errno == EAGAIN)))
		ring_buffer__consume(ring);
	ring_buffer__consume(ring);
	close(fd);
	bpf_link__destroy(link);
}

// Sets a bool among the constants of an object that is not loaded yet.
static void set_flag(struct bpf_object *object, const char *name, bool value)
{
	const struct btf *btf = bpf_object__btf(object);
	const struct btf_type *section =
		btf__type_by_id(btf, btf__find_by_name_kind(btf, ".rodata", BTF_KIND_DATASEC));
	const struct btf_var_secinfo *place = btf_var_secinfos(section);
	struct bpf_map *map;
	size_t size;

	for (int i = 0; i < btf_vlen(section); i++, place++) {
		if (strcmp(btf__name_by_offset(btf, btf__type_by_id(btf, place->type)->name_off), name))
			continue;
		bpf_object__for_each_map(map, object) if (strstr(bpf_map__name(map), ".rodata"))(
			(char *)bpf_map__initial_value(map, &size))[place->offset] = value;
	}
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
		const char *section = bpf_program__section_name(program);

		// One of tp_btf and raw_tp will do.
		bpf_program__set_autoload(program, strncmp(section, "raw_tp", 6) &&
							   (has_kprobes || strncmp(section, "kprobe", 6)));
	}
	if (!sockets)
		set_flag(object, "has_kprobes", has_kprobes);
	if (bpf_object__load(object)) {
		result(name, "fail", "mode %s does not load: %s", mode, strerror(errno));
		return;
	}
	bpf_object__for_each_program(program, object)
	{
		if (bpf_program__autoload(program) && strncmp(bpf_program__section_name(program), "iter", 4) &&
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
	ring_buffer__free(ring);
	bpf_object__close(object);
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
	measure("sockets", "/sockets.bpf.o", (const char *[]){"lifecycle", NULL});
	measure("events", "/events.bpf.o", (const char *[]){"tcpflow", "tcpconn"});
	printf("VM-SCRIPT exit=%d\nVM-DONE\n", failed);
	sync();
	reboot(RB_POWER_OFF);
	return 0;
}
