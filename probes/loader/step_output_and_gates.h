/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The output of the programs that run in a guest, and how they are stopped.
 *
 * One line for each step on standard output:
 *
 *	at STEP [SUBJECT]			waits before the step for the line "go"
 *	did STEP [SUBJECT] [KEY=VALUE...]	the step is done
 *	failed STEP [SUBJECT] errno=NAME	the last line; the exit status shows the step
 */
#ifndef PINPOINT_STEP_OUTPUT_AND_GATES_H
#define PINPOINT_STEP_OUTPUT_AND_GATES_H

/* Exit statuses; a step that fails has its own. */
enum status {
	STATUS_DONE = 0,
	STATUS_USAGE = 2,
	STATUS_BEGIN = 10,
	STATUS_OPEN,
	STATUS_READ,
	STATUS_ZERO,
	STATUS_LOOK,
	STATUS_IMAGE,
	STATUS_LOAD,
	STATUS_REREAD,
	STATUS_STALE,
	STATUS_UNDO,
	STATUS_HOLD,
	STATUS_GATE,
};

void add_gate(const char *step);
void gate(const char *step, const char *subject);
void did(const char *step, const char *subject, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
void fail(enum status status, const char *step, const char *subject, int error)
	__attribute__((noreturn));
void print_wrong_errnos(void);
void print_failure(const char *step, const char *subject, int error);

#endif
