// SPDX-License-Identifier: GPL-2.0
/*
 * Where the functions of the process are, according to the process itself: its own
 * pointers, which ld.so relocated, and look-ups by ld.so.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <link.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "runner_commands.h"

static function in_table(const struct shape *table, const char *name)
{
	for (; table->name; table++)
		if (!strcmp(table->name, name))
			return table->call;
	return NULL;
}

#ifdef PINPOINT_STATIC
function find(const char *name)
{
	return in_table(pinpoint_runner_shapes, name);
}

extern const char __executable_start[];

void tell_where(const char *name)
{
	printf("where %s address=%#lx base=%#lx\n", name, (long)find(name), (long)__executable_start);
}

void open_library(const char *path, int apart) { printf("open %s error=static%d\n", path, apart); }
void close_library(const char *slot) { printf("close %s error=static\n", slot); }
#else
#define MOST_LIBRARIES 4

static void *libraries[MOST_LIBRARIES];

/* NAME@VERSION: ld.so looks up one version of a name. */
static function of_version(const char *name, const char *version)
{
	char *plain = strndup(name, version - name);
	void *found = dlvsym(RTLD_DEFAULT, plain, version + 1);

	free(plain);
	return (function)(uintptr_t)found;
}

static function in_opened(const char *name)
{
	void *found;
	int slot;

	for (slot = 0; slot < MOST_LIBRARIES; slot++) {
		found = libraries[slot] ? dlsym(libraries[slot], name) : NULL;
		if (found)
			return (function)(uintptr_t)found;
	}
	return NULL;
}

/*
 * ld.so looks up a name with a leading '='. A name with a leading '+' is looked up
 * in the opened files. Any other name is first looked up in the files' own tables,
 * which also have static functions.
 */
function find(const char *name)
{
	const char *version = strchr(name, '@');
	function found = NULL;

	if (version)
		return of_version(name, version);
	if (*name == '+')
		return in_opened(name + 1);
	if (*name != '=') {
		found = in_table(pinpoint_runner_shapes, name);
		found = found ? found : in_table(pinpoint_one_shapes, name);
		found = found ? found : in_table(pinpoint_two_shapes, name);
	} else {
		name++;
	}
	found = found ? found : (function)(uintptr_t)dlsym(RTLD_DEFAULT, name);
	return found;
}

/* The load bias of a file, from ld.so's list of loaded files, r_debug. */
static unsigned long bias(const char *file)
{
	struct link_map *map;

	for (map = _r_debug.r_map; map; map = map->l_next)
		if (!strcmp(map->l_name, file))
			return map->l_addr;
	return _r_debug.r_map->l_addr;	/* the program, whose name is empty there */
}

void tell_where(const char *name)
{
	function found = find(name);
	Dl_info info = { 0 };

	if (!found || !dladdr((void *)(uintptr_t)found, &info)) {
		printf("where %s error=unknown\n", name);
		return;
	}
	printf("where %s address=%#lx base=%#lx bias=%#lx file=%s symbol=%s\n", name, (long)found,
	       (long)info.dli_fbase, bias(info.dli_fname), info.dli_fname,
	       info.dli_sname ? info.dli_sname : "-");
}

/* With `apart` in a namespace of its own, where a file is loaded once more. */
void open_library(const char *path, int apart)
{
	int slot;

	for (slot = 0; slot < MOST_LIBRARIES && libraries[slot]; slot++)
		;
	if (slot < MOST_LIBRARIES)
		libraries[slot] = dlmopen(apart ? LM_ID_NEWLM : LM_ID_BASE, path, RTLD_NOW | RTLD_LOCAL);
	if (slot < MOST_LIBRARIES && libraries[slot])
		printf("open %s slot=%d\n", path, slot);
	else
		printf("open %s error=%s\n", path, dlerror());
}

void close_library(const char *slot)
{
	int number = atoi(slot) % MOST_LIBRARIES;
	int failed = !libraries[number] || dlclose(libraries[number]);

	libraries[number] = NULL;
	printf("close %s %s\n", slot, failed ? "error=dlclose" : "done=1");
}
#endif

static void each_shape(const struct shape *table, unsigned int times)
{
	unsigned int i, x = 1;

	for (; table->name; table++) {
		if (!times)
			printf(" %s=%#lx", table->name, (long)table->call);
		for (i = 0; i < times; i++)
			x = table->call(x);
	}
}

/* Prints every function and its address, or calls each that many times. */
void each(unsigned int times)
{
	printf("each times=%u", times);
	each_shape(pinpoint_runner_shapes, times);
#ifndef PINPOINT_STATIC
	each_shape(pinpoint_one_shapes, times);
	each_shape(pinpoint_two_shapes, times);
#endif
	putchar('\n');
}

/* Unmaps the page of a function; the process continues. */
void unmap(const char *name)
{
	unsigned long page = sysconf(_SC_PAGESIZE);
	unsigned long start = (unsigned long)find(name) & -page;

	printf("unmap %s rc=%d\n", name, munmap((void *)start, page));
}
