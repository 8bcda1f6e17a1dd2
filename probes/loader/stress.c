// SPDX-License-Identifier: GPL-2.0
/*
 * pinpoint_stress - loads, removes, reads and probes one target, all at once
 *
 *	pinpoint_stress CHANGES SECONDS FILE TARGET PROBE LOADER [WORD...]
 *
 * Four processes, none of which waits for another: one loads the module TARGET
 * from FILE, one removes it, one opens and reads its handle, and one runs LOADER,
 * which loads the module PROBE, and removes that again. They end when CHANGES
 * loads and removals of TARGET have succeeded, one LOADER has succeeded and one
 * handle was read, or after SECONDS. Then a line for each outcome:
 *
 *	did load|remove|read|probe ERRNO times=N
 *
 * with ERRNO 0 for success; for a probe it is STEP:ERRNO as the loader printed it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "step_output_and_gates.h"
#include "shared_outcome_counts.h"
#include "open_section_files.h"

#define WORKERS	4
#define BEHIND	10

static struct shared {
	unsigned long changes;
	unsigned int ready;
	int came;
	int seen;
	int over;
} *shared;

static unsigned long most;
static time_t end;
static const char *file, *target, *probe;
static char **loader;

static time_t now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec;
}

static int over(void)
{
	int raced = __atomic_load_n(&shared->changes, __ATOMIC_RELAXED) >= most &&
		    __atomic_load_n(&shared->came, __ATOMIC_RELAXED) &&
		    __atomic_load_n(&shared->seen, __ATOMIC_RELAXED);

	if (now() >= end || raced)
		__atomic_store_n(&shared->over, 1, __ATOMIC_RELAXED);
	return __atomic_load_n(&shared->over, __ATOMIC_RELAXED);
}

/*
 * Each process yields the CPU, because an immediate retry is mostly refused.
 * Refusals do not count; otherwise the race would end before the first load.
 */
static void attempted(const char *what, long failed)
{
	count_error(what, failed ? errno : 0);
	if (!failed)
		__atomic_add_fetch(&shared->changes, 1, __ATOMIC_RELAXED);
	sched_yield();
}

static void load_once(void)
{
	int image = open(file, O_RDONLY | O_CLOEXEC);

	if (image < 0)
		fail(STATUS_IMAGE, "load", file, errno);
	attempted("load", syscall(SYS_finit_module, image, "", 0));
	close(image);
}

static void remove_once(void)
{
	attempted("remove", syscall(SYS_delete_module, target, O_NONBLOCK));
}

static void read_once(void)
{
	unsigned long address;
	int error = read_section(target, HANDLE_SECTION, &address);

	if (!error)
		__atomic_store_n(&shared->seen, 1, __ATOMIC_RELAXED);
	count_error("read", error);
}

/*
 * If the loader fails, its last line is "failed STEP [SUBJECT] errno=NAME". It has
 * succeeded only if it read again each token that it opened.
 */
static void count_loader(FILE *output)
{
	char line[512], outcome[64] = "0", step[32];
	int unread = 0;

	while (fgets(line, sizeof(line), output)) {
		char *error = strstr(line, "errno=");

		unread += !strncmp(line, "did open ", 9);
		unread -= !strncmp(line, "did reread ", 11);
		if (error && sscanf(line, "failed %31s", step) == 1)
			snprintf(outcome, sizeof(outcome), "%s:%.*s", step,
				 (int)strcspn(error + 6, " \n"), error + 6);
	}
	if (!strcmp(outcome, "0") && unread)
		strcpy(outcome, "0:unread");
	if (!strcmp(outcome, "0"))
		__atomic_store_n(&shared->came, 1, __ATOMIC_RELAXED);
	count("probe", outcome);
}

static void probe_once(void)
{
	int ends[2];
	pid_t child;
	FILE *output;

	if (pipe2(ends, O_CLOEXEC))
		fail(STATUS_BEGIN, "probe", "", errno);
	child = fork();
	if (!child) {
		dup2(ends[1], STDOUT_FILENO);
		execv(loader[0], loader);
		_exit(127);
	}
	close(ends[1]);
	output = fdopen(ends[0], "r");
	count_loader(output);
	fclose(output);
	waitpid(child, NULL, 0);
	syscall(SYS_delete_module, probe, O_NONBLOCK);
}

/*
 * All begin at once: otherwise the first would end before the last is created. A
 * loader has priority over the others; on one CPU it would hardly ever reach its
 * load otherwise.
 */
static void work(void (*once)(void))
{
	if (once != probe_once)
		setpriority(PRIO_PROCESS, 0, BEHIND);
	__atomic_add_fetch(&shared->ready, 1, __ATOMIC_RELAXED);
	while (__atomic_load_n(&shared->ready, __ATOMIC_RELAXED) < WORKERS)
		sched_yield();
	while (!over())
		once();
	exit(0);
}

int main(int argc, char **argv)
{
	void (*const workers[WORKERS])(void) = { load_once, remove_once, read_once, probe_once };
	unsigned int i, failed = 0;
	int status;

	if (argc < 7)
		return STATUS_USAGE;
	most = strtoul(argv[1], NULL, 10);
	end = now() + strtoul(argv[2], NULL, 10);
	file = argv[3];
	target = argv[4];
	probe = argv[5];
	loader = argv + 6;
	shared = share(sizeof(*shared));
	share_outcomes();
	for (i = 0; i < WORKERS; i++)
		if (!fork())
			work(workers[i]);
	while (wait(&status) > 0)
		failed |= status;
	tell_outcomes();
	return failed ? STATUS_BEGIN : STATUS_DONE;
}
