// SPDX-License-Identifier: GPL-2.0
/*
 * A BPF program at the entry of a module's function, without a library. It is the
 * smallest possible program, two instructions; the module's BTF is found by name.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/bpf.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "bpf.h"
#include "step_output_and_gates.h"

static int bpf(enum bpf_cmd command, union bpf_attr *attr)
{
	return syscall(SYS_bpf, command, attr, sizeof(*attr));
}

static int is_called(int fd, const char *name)
{
	char found[64] = "";
	struct bpf_btf_info about = {
		.name = (uintptr_t)found,
		.name_len = sizeof(found),
	};
	union bpf_attr attr = {
		.info = { .bpf_fd = fd, .info_len = sizeof(about), .info = (uintptr_t)&about },
	};

	return !bpf(BPF_OBJ_GET_INFO_BY_FD, &attr) && !strcmp(found, name);
}

/* Opens the BTF of a module; -1 with ENOENT when the kernel has none for it. */
static int open_btf(const char *module)
{
	union bpf_attr next = { .start_id = 0 };

	while (!bpf(BPF_BTF_GET_NEXT_ID, &next)) {
		union bpf_attr attr = { .btf_id = next.next_id };
		int fd = bpf(BPF_BTF_GET_FD_BY_ID, &attr);

		if (fd >= 0 && is_called(fd, module))
			return fd;
		if (fd >= 0)
			close(fd);
		next.start_id = next.next_id;
	}
	return -1;
}

static int load_program(int btf, unsigned int function)
{
	static const struct bpf_insn program[] = {
		{ .code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0 },
		{ .code = BPF_JMP | BPF_EXIT },
	};
	union bpf_attr attr = {
		.prog_type = BPF_PROG_TYPE_TRACING,
		.expected_attach_type = BPF_TRACE_FENTRY,
		.insns = (uintptr_t)program,
		.insn_cnt = 2,
		.license = (uintptr_t)"GPL",
		.attach_btf_obj_fd = btf,
		.attach_btf_id = function,
	};

	return bpf(BPF_PROG_LOAD, &attr);
}

/**
 * attach_fentry() - attach a program to the entry of a function
 * @words: MODULE:ID, the function's type in the module's BTF
 *
 * Only the link is kept. It holds the program, which holds the module.
 *
 * Return: the link's descriptor, or -1 with errno.
 */
int attach_fentry(const char *words)
{
	const char *colon = strchr(words, ':');
	union bpf_attr attr = { 0 };
	int btf, link;

	errno = EINVAL;
	if (!colon)
		return -1;
	btf = open_btf(strndup(words, colon - words));
	if (btf < 0)
		return -1;
	attr.raw_tracepoint.prog_fd = load_program(btf, strtoul(colon + 1, NULL, 10));
	if ((int)attr.raw_tracepoint.prog_fd < 0)
		return -1;
	link = bpf(BPF_RAW_TRACEPOINT_OPEN, &attr);
	close(attr.raw_tracepoint.prog_fd);
	close(btf);
	return link;
}

int use_link(int fd)
{
	struct bpf_link_info about = { 0 };
	union bpf_attr attr = {
		.info = { .bpf_fd = fd, .info_len = sizeof(about), .info = (uintptr_t)&about },
	};

	return bpf(BPF_OBJ_GET_INFO_BY_FD, &attr) ? errno : 0;
}
