// SPDX-License-Identifier: GPL-2.0
/*
 * Copies of a module that differ only in their names: the last three characters
 * of the name are replaced by a number wherever the file contains it. The copies
 * are made here, because otherwise a hundred files would have to be sent.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "renamed_module_copies.h"
#include "step_output_and_gates.h"

#define DIGITS	3
#define NAME	64

static char *image;
static size_t size;

static void map_image(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat about;

	if (fd < 0 || fstat(fd, &about))
		fail(STATUS_IMAGE, "image", path, errno);
	size = about.st_size;
	image = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	if (image == MAP_FAILED)
		fail(STATUS_IMAGE, "image", path, errno);
	close(fd);
}

/* Both names have the same length, so nothing moves. */
static void rename_image(const char *from, const char *to)
{
	size_t length = strlen(from);
	char *found = image;

	while ((found = memmem(found, image + size - found, from, length)))
		memcpy(found, to, length);
}

static void name_copy(char *name, const char *module, unsigned int number)
{
	snprintf(name, NAME, "%.*s%0*u", (int)strlen(module) - DIGITS, module, DIGITS, number);
}

static void load_copies(const char *module, unsigned int count)
{
	char present[NAME], wanted[NAME];
	unsigned int i;

	strcpy(present, module);
	for (i = 0; i < count; i++) {
		name_copy(wanted, module, i);
		rename_image(present, wanted);
		strcpy(present, wanted);
		if (syscall(SYS_init_module, image, size, ""))
			fail(STATUS_LOAD, "load", wanted, errno);
	}
}

/* By force, because the module may have no exit; all are tried. */
static void remove_copies(const char *module, unsigned int count)
{
	char name[NAME];
	int error = 0;

	while (count--) {
		name_copy(name, module, count);
		if (syscall(SYS_delete_module, name, O_NONBLOCK | O_TRUNC))
			error = errno;
	}
	if (error)
		fail(STATUS_UNDO, "close", module, error);
}

/**
 * hold_copies() - load copies of a module, wait at the gate "close", remove them
 * @path: the module's file
 * @module: its name, whose last three characters are replaced
 * @count: how many, as text
 *
 * Without the line "go" they stay loaded, as they do when the program is killed.
 */
void hold_copies(const char *path, const char *module, const char *count)
{
	unsigned int copies = strtoul(count, NULL, 10);
	size_t length = strlen(module);

	if (length <= DIGITS || length >= NAME || !copies || copies > 1000)
		exit(STATUS_USAGE);
	map_image(path);
	load_copies(module, copies);
	did("hold", module, "copies=%u", copies);
	add_gate("close");
	gate("close", module);
	remove_copies(module, copies);
	did("close", module, "%s", "");
}
