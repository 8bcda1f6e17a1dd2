// SPDX-License-Identifier: GPL-2.0
/* Counts the types of a BTF file; the ids of a module's types continue from there. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/btf.h>
#include <stdio.h>

#include "bpf.h"
#include "step_output_and_gates.h"

/* The bytes that follow a type's head (Documentation/bpf/btf.rst). */
static size_t rest_of(const struct btf_type *type)
{
	size_t count = BTF_INFO_VLEN(type->info);

	switch (BTF_INFO_KIND(type->info)) {
	case BTF_KIND_INT:
	case BTF_KIND_VAR:
	case BTF_KIND_DECL_TAG:
		return 4;
	case BTF_KIND_ARRAY:
		return sizeof(struct btf_array);
	case BTF_KIND_STRUCT:
	case BTF_KIND_UNION:
		return count * sizeof(struct btf_member);
	case BTF_KIND_ENUM:
		return count * sizeof(struct btf_enum);
	case BTF_KIND_ENUM64:
		return count * sizeof(struct btf_enum64);
	case BTF_KIND_FUNC_PROTO:
		return count * sizeof(struct btf_param);
	case BTF_KIND_DATASEC:
		return count * sizeof(struct btf_var_secinfo);
	default:
		return 0;
	}
}

void count_btf(const char *path)
{
	FILE *file = fopen(path, "re");
	struct btf_header head;
	struct btf_type type;
	size_t place;
	unsigned int types;

	if (!file || fread(&head, sizeof(head), 1, file) != 1 || head.magic != BTF_MAGIC)
		fail(STATUS_OPEN, "btf", path, file ? EINVAL : errno);
	fseek(file, head.hdr_len + head.type_off, SEEK_SET);
	for (types = place = 0; place < head.type_len; types++) {
		if (fread(&type, sizeof(type), 1, file) != 1 || fseek(file, rest_of(&type), SEEK_CUR))
			fail(STATUS_READ, "btf", path, EINVAL);
		place += sizeof(type) + rest_of(&type);
	}
	did("btf", path, "types=%u strings=%u", types, head.str_len);
}
