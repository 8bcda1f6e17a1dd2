// SPDX-License-Identifier: GPL-2.0
/*
 * pinpoint_holder - holds one thing that may hold a module, and removes modules.
 *
 *	pinpoint_holder file PATH	opens and reads it
 *	pinpoint_holder tcp NAME	a socket with this congestion control
 *	pinpoint_holder fentry MODULE:ID	BPF at a function's entry, by its BTF id
 *	pinpoint_holder btf PATH	prints the number of types and of bytes of strings
 *	pinpoint_holder copies FILE MODULE COUNT	modules that differ in their names
 *	pinpoint_holder delete MODULE	delete_module(2), without waiting
 *	pinpoint_holder force MODULE	the same by force
 *
 * The object is held until "go", then used once more and released: steps hold,
 * again, close, as the loader prints them (docs/pinning.md). "again" prints the
 * errno of the second use, errno=0 if it worked.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "bpf.h"
#include "renamed_module_copies.h"
#include "step_output_and_gates.h"

static int use_file(int fd)
{
	char text[4096];

	return pread(fd, text, sizeof(text), 0) < 0 ? errno : 0;
}

static int use_socket(int fd)
{
	char name[16];
	socklen_t length = sizeof(name);

	return getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name, &length) ? errno : 0;
}

static int open_socket(const char *name)
{
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	if (fd >= 0 && setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name, strlen(name)))
		return -1;
	return fd;
}

static void hold(const char *what, int fd, int (*use)(int fd))
{
	int error = fd < 0 ? errno : use(fd);

	if (error)
		fail(STATUS_HOLD, "hold", what, error);
	did("hold", what, "fd=%d", fd);
	add_gate("again");
	gate("again", what);
	error = use(fd);
	did("again", what, "errno=%s", error ? strerrorname_np(error) : "0");
	close(fd);
	did("close", what, "%s", "");
}

static void delete(const char *module, int flags)
{
	if (syscall(SYS_delete_module, module, O_NONBLOCK | flags))
		fail(STATUS_UNDO, "delete", module, errno);
	did("delete", module, "%s", "");
}

int main(int argc, char **argv)
{
	const char *verb = argc == 3 ? argv[1] : "";

	if (argc == 5 && !strcmp(argv[1], "copies"))
		hold_copies(argv[2], argv[3], argv[4]);
	else if (!strcmp(verb, "file"))
		hold(argv[2], open(argv[2], O_RDONLY), use_file);
	else if (!strcmp(verb, "tcp"))
		hold(argv[2], open_socket(argv[2]), use_socket);
	else if (!strcmp(verb, "fentry"))
		hold(argv[2], attach_fentry(argv[2]), use_link);
	else if (!strcmp(verb, "btf"))
		count_btf(argv[2]);
	else if (!strcmp(verb, "delete"))
		delete(argv[2], 0);
	else if (!strcmp(verb, "force"))
		delete(argv[2], O_TRUNC);
	else
		return STATUS_USAGE;
	return STATUS_DONE;
}
