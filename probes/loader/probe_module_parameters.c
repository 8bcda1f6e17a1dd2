// SPDX-License-Identifier: GPL-2.0
/*
 * The facts about targets that the probe gets in addition to their handles: where
 * each module's memory begins, and the address of its build-id.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "probe_module_parameters.h"
#include "step_output_and_gates.h"
#include "open_section_files.h"

#define NOTE_SECTION	".note.gnu.build-id"

/* By token; only tokens of handles have a base. */
static unsigned long bases[MOST_TOKENS];
static unsigned long notes[MOST_TOKENS];

/* /proc/modules: NAME SIZE REFERENCES USERS STATE BASE [TAINTS] (m_show(), kernel/module/procfs.c, 6.1). */
static int read_base(const char *module, unsigned long *base)
{
	FILE *list = fopen("/proc/modules", "re");
	char line[4096], name[64];
	int error = ENOENT;

	if (!list)
		return errno;
	while (error == ENOENT && fgets(line, sizeof(line), list))
		if (sscanf(line, "%63s %*s %*s %*s %*s %lx", name, base) == 2 && !strcmp(name, module))
			error = 0;
	fclose(list);
	return error;
}

/* A module without a build-id has no such section: 0, which the probe reads as "none". */
static void look_at(unsigned int at)
{
	const char *module = tokens[at].module;
	int error;

	gate("look", module);
	error = read_base(module, &bases[at]);
	if (error)
		fail(STATUS_LOOK, "look", module, error);
	if (!bases[at])
		fail(STATUS_ZERO, "look", module, EACCES);
	error = read_section(module, NOTE_SECTION, &notes[at]);
	if (error && error != ENOENT)
		fail(STATUS_LOOK, "look", module, error);
	did("look", module, "base=0x%lx note=0x%lx", bases[at], notes[at]);
}

void look_at_targets(void)
{
	unsigned int i;

	for (i = 0; i < token_count; i++)
		if (is_handle(&tokens[i]))
			look_at(i);
}

static char *text;
static size_t text_length;

static void append(const char *format, ...)
{
	char *more;
	va_list words;
	int length;

	va_start(words, format);
	length = vasprintf(&more, format, words);
	va_end(words);
	text = length < 0 ? NULL : realloc(text, text_length + length + 1);
	if (!text)
		fail(STATUS_IMAGE, "image", "", ENOMEM);
	memcpy(text + text_length, more, length + 1);
	text_length += length;
	free(more);
}

static void append_list(const char *name, const unsigned long *values, int of_handles)
{
	const char *separator = "";
	unsigned int i;

	append("%s=", name);
	for (i = 0; i < token_count; i++) {
		if (is_handle(&tokens[i]) != of_handles)
			continue;
		append("%s0x%lx", separator, values[i]);
		separator = ",";
	}
	append(" ");
}

static int swaps_handles;

/**
 * swap_handles() - exchange the first two handles in the probe's parameters, for a mutant
 */
void swap_handles(void)
{
	swaps_handles = 1;
}

/* By token, as they are passed to the probe. */
static void collect_addresses(unsigned long *addresses)
{
	unsigned int i, found = 0, first = 0;

	for (i = 0; i < token_count; i++) {
		addresses[i] = tokens[i].address;
		if (!is_handle(&tokens[i]) || !swaps_handles)
			continue;
		if (++found == 1)
			first = i;
		if (found != 2)
			continue;
		addresses[i] = tokens[first].address;
		addresses[first] = tokens[i].address;
	}
}

static void append_names(void)
{
	const char *separator = "";
	unsigned int i;

	append("module_names=");
	for (i = 0; i < token_count; i++) {
		if (!is_handle(&tokens[i]))
			continue;
		append("%s%s", separator, tokens[i].module);
		separator = ",";
	}
	append(" ");
}

/**
 * probe_parameters() - make the parameters with which the probe module is loaded
 * @given: parameters from the command line, which follow the loader's own
 *
 * Without targets there are only the given ones, so that any module can be
 * loaded. The list of sections is left out if it is empty.
 *
 * Return: the text for init_module(2).
 */
char *probe_parameters(char **given)
{
	static unsigned long addresses[MOST_TOKENS];
	unsigned int i, handles = 0;

	append("%s", "");
	collect_addresses(addresses);
	for (i = 0; i < token_count; i++)
		handles += is_handle(&tokens[i]);
	if (handles) {
		append_list("module_addresses", addresses, 1);
		append_names();
		append_list("module_bases", bases, 1);
		append_list("module_notes", notes, 1);
	}
	if (handles < token_count)
		append_list("section_addresses", addresses, 0);
	for (; *given; given++)
		append("%s ", *given);
	return text;
}
