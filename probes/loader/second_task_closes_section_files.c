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
#include <sys/syscall.h>
#include <unistd.h>

#include "step_output_and_gates.h"
#include "second_task_closes_section_files.h"
#include "open_section_files.h"

/**
 * start_second() - share the open files with another task
 * @betrays: it closes the tokens; otherwise it only waits
 *
 * The task has a copy of the memory, as after fork(), but shares the descriptors.
 */
void start_second(int betrays)
{
	long pid = syscall(SYS_clone, CLONE_FILES | SIGCHLD, 0, 0, 0, 0);

	if (pid < 0)
		fail(STATUS_BEGIN, "betray", "", errno);
	if (pid)
		return;
	add_gate("betray");
	gate("betray", "");
	if (betrays)
		quietly_close_tokens();
	did("betray", "", "closed=%d", betrays);
	_exit(STATUS_DONE);
}
