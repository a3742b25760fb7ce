// Loads each of flowtap's BPF programs alone, in each of the settings in which it has other paths, and reports the
// number of instructions that the verifier processed. Loads only: what a program does is for other checks.
//
// In:  the paths of objects. Out: a line VM-RESULT per program with the highest number of all settings, which fails
// above
//      the allowed number (verifier.h) or if a setting is refused, and a line VM-INFO per setting. A program for
//      which the kernel lacks a function or a type of program is skipped.
// Exit: 0.
#include <errno.h>

#include "objects.h"
#include "statistics.h"
#include "verifier.h"

// A program that is refused before so many instructions calls a function, or has an argument, that the kernel lacks.
enum { INSTRUCTIONS_LACKING = 500 };

enum { PROGRAMS = 64, NAME_BYTES = 64, CONSTANTS = 4 };

// Of flowtap's loader (ebpf/src): those by which the verifier leaves branches out.
static const struct setting {
	const char *name;
	struct {
		const char *name;
		unsigned long long value;
	} constants[CONSTANTS];
} settings[] = {
	{"as_compiled", {{"reads_translation", 1}, {"has_kprobes", 1}}},
	{"per_segment", {{"reads_translation", 1}, {"per_segment", 1}}},
	{"table", {{"reads_translation", 1}, {"has_storage", 0}}},
	{"older_tables", {{"reads_translation", 1}, {"has_kprobes", 1}, {"older_tables", 6}, {"is_table_new", 1}}},
};

enum { SETTINGS = sizeof(settings) / sizeof(*settings) };

// Number of the object's programs, with their names.
static int name_programs(const char *path, char names[PROGRAMS][NAME_BYTES])
{
	struct bpf_object *object = open_object(path);
	struct bpf_program *program;
	int count = 0;

	if (!object)
		return 0;
	bpf_object__for_each_program(program, object)
	{
		if (count < PROGRAMS)
			snprintf(names[count++], NAME_BYTES, "%s", bpf_program__name(program));
	}
	bpf_object__close(object);
	return count;
}

// Effort of the verifier for a program in a setting.
struct effort {
	bool refused;
	// 0 if it was refused before they were followed: the kernel lacks a function or a type of program.
	long instructions;
	// The line before the statistics: why it was refused.
	char reason[128];
};

// Copies the line of the verifier's log that stands before its statistics.
static void copy_reason(char reason[128], const char *log)
{
	const char *end = strstr(log, "\nverification time"), *begin;

	if (!end)
		end = strstr(log, "\nprocessed ");
	for (begin = end; begin && begin > log && begin[-1] != '\n';)
		begin--;
	snprintf(reason, 128, "%.*s", end ? (int)(end - begin) : 0, end ? begin : "");
}

static struct effort load_in(const char *path, const char *name, const struct setting *setting)
{
	static char log[STATISTICS_BYTES];
	struct bpf_object *object = open_object(path);
	struct effort effort = {0};
	struct bpf_program *program;

	if (!object)
		return effort;
	bpf_object__for_each_program(program, object)
	{
		bool wanted = strcmp(bpf_program__name(program), name) == 0;

		bpf_program__set_autoload(program, wanted);
		if (wanted)
			keep_statistics(program, log);
	}
	for (int i = 0; i < CONSTANTS && setting->constants[i].name; i++)
		set_constant(object, setting->constants[i].name, setting->constants[i].value);
	effort.refused = bpf_object__load(object) != 0;
	effort.instructions = instructions_of(log);
	copy_reason(effort.reason, log);
	bpf_object__close(object);
	return effort;
}

static void check(const char *path, const char *name)
{
	const struct setting *most_in = NULL;
	long most = 0;

	for (int i = 0; i < SETTINGS; i++) {
		struct effort effort = load_in(path, name, &settings[i]);

		printf("VM-INFO name=verifier_%s value=%s %ld\n", name, settings[i].name, effort.instructions);
		if (effort.refused && effort.instructions >= INSTRUCTIONS_LACKING) {
			printf("VM-RESULT name=verifier_%s status=fail detail=refused in setting %s after %ld "
			       "instructions: %s\n",
			       name, settings[i].name, effort.instructions, effort.reason);
			return;
		}
		if (!effort.refused && effort.instructions > most) {
			most = effort.instructions;
			most_in = &settings[i];
		}
	}
	if (!most_in)
		printf("VM-RESULT name=verifier_%s status=skip detail=the kernel lacks what it needs\n", name);
	else
		printf("VM-RESULT name=verifier_%s status=%s detail=%ld instructions in setting %s, of %d allowed "
		       "and at most %d\n",
		       name, most <= INSTRUCTIONS_ALLOWED ? "pass" : "fail", most, most_in->name,
		       INSTRUCTIONS_ALLOWED, INSTRUCTIONS_LIMIT);
}

static int silent(enum libbpf_print_level level, const char *format, va_list arguments)
{
	(void)level, (void)format, (void)arguments;
	return 0;
}

int main(int argc, char **argv)
{
	static char names[PROGRAMS][NAME_BYTES];

	setvbuf(stdout, NULL, _IOLBF, 0);
	// Of programs that the kernel lacks something for.
	libbpf_set_print(silent);
	for (int i = 1; i < argc; i++) {
		int programs = name_programs(argv[i], names);

		if (!programs)
			printf("VM-RESULT name=verifier status=fail detail=%s can't be opened: %s\n", argv[i],
			       strerror(errno));
		for (int k = 0; k < programs; k++)
			check(argv[i], names[k]);
	}
	return 0;
}
