// SPDX-License-Identifier: GPL-2.0
/*
 * What the loader must not have: a second task with the same open files. While
 * the loader is in its system call, the task waits at the gate "betray". Then it
 * closes the tokens, as any thread of a process could.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>

#include "step_output_and_gates.h"
#include "second_task_closes_section_files.h"
#include "open_section_files.h"

/* glibc's clone() needs a stack. The task starts in the middle, because on parisc a stack grows up. */
#define STACK_BYTES	(64 << 10)
static char stacks[2 * STACK_BYTES] __attribute__((aligned(64)));

static int second_task(void *betrays)
{
	add_gate("betray");
	gate("betray", "");
	if (betrays)
		quietly_close_tokens();
	did("betray", "", "closed=%d", !!betrays);
	return STATUS_DONE;
}

/**
 * start_second() - share the open files with another task
 * @betrays: it closes the tokens; otherwise it only waits
 *
 * The task has a copy of the memory, as after fork(), but shares the descriptors.
 * The system call itself would not do: s390 has the stack as its first argument,
 * and on SPARC it returns the number of the parent in the new task.
 */
void start_second(int betrays)
{
	int pid = clone(second_task, stacks + STACK_BYTES, CLONE_FILES | SIGCHLD, betrays ? stacks : NULL);

	if (pid < 0)
		fail(STATUS_BEGIN, "betray", "", errno);
}
