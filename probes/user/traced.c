// SPDX-License-Identifier: GPL-2.0
/*
 * A child under ptrace. It stops before it calls a function, and its parent reads
 * the word at the function. On the next line of input the parent steps the child
 * into the function and lets it continue.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include "runner_commands.h"

static void be_traced(function called, unsigned int times)
{
	unsigned int x = 1;

	ptrace(PTRACE_TRACEME, 0, 0, 0);
	raise(SIGSTOP);
	while (times--)
		x = called(x);
	_exit(0);
}

void tell_traced(const char *name, unsigned int times)
{
	function called = find(name);
	int status, step, stops = 0;
	char line[16];
	pid_t child;
	long word;

	child = called ? fork() : -1;
	if (!child)
		be_traced(called, times);
	if (child < 0 || waitpid(child, &status, 0) != child || !WIFSTOPPED(status)) {
		printf("traced %s error=%d\n", name, errno);
		return;
	}
	printf("traced %s pid=%d\n", name, child);
	if (!fgets(line, sizeof(line), stdin)) {
		kill(child, SIGKILL);
		return;
	}
	word = ptrace(PTRACE_PEEKTEXT, child, (void *)called, 0);
	/* A few single steps, then it runs freely: a later stop is not a step. */
	for (step = 0; step < 3; step++) {
		/* ARM has no single steps: EIO (arch_has_single_step(), include/linux/ptrace.h, 6.1). */
		if (ptrace(PTRACE_SINGLESTEP, child, 0, 0) && errno == EIO)
			break;
		waitpid(child, &status, 0);
		/* QEMU's LoongArch does not step: the child runs to its end. */
		if (!WIFSTOPPED(status))
			break;
		stops += WSTOPSIG(status) != SIGTRAP;
	}
	if (WIFSTOPPED(status))
		ptrace(PTRACE_CONT, child, 0, 0);
	while (WIFSTOPPED(status) && waitpid(child, &status, 0) == child && WIFSTOPPED(status)) {
		stops++;
		ptrace(PTRACE_CONT, child, 0, WSTOPSIG(status) == SIGTRAP ? 0 : WSTOPSIG(status));
	}
	printf("traced %s word=%#lx steps=%d stops=%d status=%d\n", name, word, step, stops, status);
}
