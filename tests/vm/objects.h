// Opens flowtap's BPF objects with libbpf, for the programs that load them without flowtap's own loader.
#ifndef OBJECTS_H
#define OBJECTS_H

#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

// Size of the rings: the loader's is a setting.
enum { RING_BYTES = 1 << 20 };

// Puts the kernel's own numbers of functions into the calls that stand for them, in the bytes of an object, as
// flowtap's loader does (ebpf/src/kfunc.rs): a subprogram's calls are out of libbpf's sight before it loads. A
// program with a call of a function that the kernel has not is refused later.
static void link_calls(unsigned char *bytes, size_t size)
{
	static const struct {
		const char *name;
		int placeholder;
	} functions[] = {
		{"bpf_rdonly_cast", 0x6bf70001},
		{"bpf_preempt_disable", 0x6bf70002},
		{"bpf_preempt_enable", 0x6bf70003},
	};
	struct bpf_insn call = {.code = BPF_JMP | BPF_CALL, .src_reg = BPF_PSEUDO_KFUNC_CALL};
	struct btf *btf = btf__load_vmlinux_btf();

	for (size_t f = 0; f < sizeof(functions) / sizeof(*functions); f++) {
		int id = btf ? btf__find_by_name_kind(btf, functions[f].name, BTF_KIND_FUNC) : -1;

		call.imm = functions[f].placeholder;
		for (size_t at = 0; id > 0 && at + sizeof(call) <= size; at += sizeof(call))
			if (memcmp(bytes + at, &call, sizeof(call)) == 0)
				memcpy(bytes + at + offsetof(struct bpf_insn, imm), &id, sizeof(id));
	}
	btf__free(btf);
}

// An object whose rings are small.
static struct bpf_object *open_object(const char *path)
{
	static unsigned char bytes[4 << 20];
	struct bpf_object *object;
	struct bpf_map *map;
	FILE *file = fopen(path, "r");
	size_t size;

	if (!file)
		return NULL;
	size = fread(bytes, 1, sizeof(bytes), file);
	fclose(file);
	link_calls(bytes, size);
	object = bpf_object__open_mem(bytes, size, NULL);
	if (!object)
		return NULL;
	bpf_object__for_each_map(map, object)
	{
		if (bpf_map__type(map) == BPF_MAP_TYPE_RINGBUF)
			bpf_map__set_max_entries(map, RING_BYTES);
	}
	return object;
}

// Sets one of the constants of an object that is not loaded yet, as flowtap's loader does; nothing if it has none of
// that name.
static void set_constant(struct bpf_object *object, const char *name, unsigned long long value)
{
	const struct btf *btf = bpf_object__btf(object);
	int id = btf__find_by_name_kind(btf, ".rodata", BTF_KIND_DATASEC);
	const struct btf_type *section = id > 0 ? btf__type_by_id(btf, id) : NULL;
	const struct btf_var_secinfo *place = section ? btf_var_secinfos(section) : NULL;
	struct bpf_map *map;
	size_t size;

	for (int i = 0; section && i < btf_vlen(section); i++, place++) {
		if (strcmp(btf__name_by_offset(btf, btf__type_by_id(btf, place->type)->name_off), name))
			continue;
		bpf_object__for_each_map(map, object)
		{
			if (strstr(bpf_map__name(map), ".rodata"))
				memcpy((char *)bpf_map__initial_value(map, &size) + place->offset, &value,
				       place->size);
		}
	}
}

#endif
