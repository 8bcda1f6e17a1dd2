// SPDX-License-Identifier: GPL-2.0
/*
 * Lines and gates. A line is written in one write(2). So a reader of the line
 * knows that the step is complete and that the next one has not begun.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "step_output_and_gates.h"

#define MOST_GATES	16
#define LINE		1024

static const char *gates[MOST_GATES];
static unsigned int gate_count;

void add_gate(const char *step)
{
	if (gate_count == MOST_GATES) {
		fprintf(stderr, "more than %d gates\n", MOST_GATES);
		exit(STATUS_USAGE);
	}
	gates[gate_count++] = step;
}

static int gated(const char *step)
{
	unsigned int i;

	for (i = 0; i < gate_count; i++)
		if (!strcmp(gates[i], step) || !strcmp(gates[i], "all"))
			return 1;
	return 0;
}

/* Byte by byte, because input after the line belongs to the next gate. */
static void await_go(const char *step, const char *subject)
{
	char line[8];
	size_t length = 0;

	while (length < sizeof(line)) {
		ssize_t got = read(STDIN_FILENO, line + length, 1);

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			fail(STATUS_GATE, step, subject, got ? errno : EPIPE);
		if (line[length++] == '\n')
			break;
	}
	if (length != 3 || memcmp(line, "go\n", 3))
		fail(STATUS_GATE, step, subject, EINVAL);
}

static void print_step(const char *word, const char *step, const char *subject, const char *rest)
{
	dprintf(STDOUT_FILENO, "%s %s%s%s%s%s\n", word, step, *subject ? " " : "", subject,
		*rest ? " " : "", rest);
}

/**
 * gate() - stop before a step if that was requested
 * @step: its name
 * @subject: what the step acts on, "" if it has no subject
 *
 * Ends the program when standard input is closed before the line "go".
 */
void gate(const char *step, const char *subject)
{
	if (!gated(step))
		return;
	print_step("at", step, subject, "");
	await_go(step, subject);
}

void did(const char *step, const char *subject, const char *format, ...)
{
	char rest[LINE];
	va_list words;

	va_start(words, format);
	vsnprintf(rest, sizeof(rest), format, words);
	va_end(words);
	print_step("did", step, subject, rest);
}

static int wrong_errnos;

/**
 * print_wrong_errnos() - print the next errno instead of each, for a mutant
 */
void print_wrong_errnos(void)
{
	wrong_errnos = 1;
}

/* The errno is printed by name, because its number differs on parisc. */
void print_failure(const char *step, const char *subject, int error)
{
	const char *name = strerrorname_np(error += wrong_errnos);
	char rest[LINE];

	if (name)
		snprintf(rest, sizeof(rest), "errno=%s", name);
	else
		snprintf(rest, sizeof(rest), "errno=%d", error);
	print_step("failed", step, subject, rest);
}

void fail(enum status status, const char *step, const char *subject, int error)
{
	print_failure(step, subject, error);
	exit(status);
}
