// SPDX-License-Identifier: GPL-2.0
/*
 * pinpoint_runner - a process whose functions are probed. It executes commands
 * from its standard input, one on each line, and prints a line for each:
 *
 *	call NAME TIMES		calls a function
 *	where NAME		its address, by the process itself and by ld.so
 *	open PATH / close SLOT	dlopen() and dlclose()
 *	again PATH		dlmopen(): loads the file once more
 *	fork			the child reads the next lines; when it ends, the
 *				parent continues
 *	exec PATH		another program in this process
 *	traced NAME TIMES	a child under ptrace, see traced.c
 *	spin NAME / rest	a thread that calls a function until "rest"
 *	each all TIMES		calls every function; with 0 prints each address
 *	unmap NAME		unmaps the page of a function
 *	exit STATUS
 *
 * With the argument `fixed` it runs without address space layout randomization.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/personality.h>
#include <sys/wait.h>
#include <unistd.h>

#include "runner_commands.h"

static void call(const char *name, unsigned int times)
{
	function called = find(name);
	unsigned int x = 1, i;

	if (!called) {
		printf("call %s error=unknown\n", name);
		return;
	}
	for (i = 0; i < times; i++)
		x = called(x);
	printf("call %s times=%u value=%#x\n", name, times, x);
}

static void become_two(void)
{
	pid_t child;
	int status;

	child = fork();
	if (!child) {
		printf("fork pid=%d\n", getpid());
		return;
	}
	waitpid(child, &status, 0);
	printf("reaped pid=%d status=%d\n", child, status);
}

static void become_another(char *path)
{
	char *const argv[] = { path, NULL };

	execv(path, argv);
	printf("exec %s error=1\n", path);
}

static void obey(const char *verb, char *name, const char *number)
{
	if (!strcmp(verb, "call"))
		call(name, atoi(number));
	else if (!strcmp(verb, "where"))
		tell_where(name);
	else if (!strcmp(verb, "open"))
		open_library(name, 0);
	else if (!strcmp(verb, "again"))
		open_library(name, 1);
	else if (!strcmp(verb, "close"))
		close_library(name);
	else if (!strcmp(verb, "fork"))
		become_two();
	else if (!strcmp(verb, "exec"))
		become_another(name);
	else if (!strcmp(verb, "traced"))
		tell_traced(name, atoi(number));
	else if (!strcmp(verb, "spin"))
		spin(name);
	else if (!strcmp(verb, "rest"))
		rest();
	else if (!strcmp(verb, "each"))
		each(atoi(number));
	else if (!strcmp(verb, "unmap"))
		unmap(name);
	else if (!strcmp(verb, "exit"))
		exit(atoi(name));
	else
		printf("%s error=verb\n", verb);
}

int main(int argc, char **argv)
{
	char line[256], *verb, *name, *number;

	if (argc > 1 && !strcmp(argv[1], "fixed")) {
		personality(ADDR_NO_RANDOMIZE);
		argv[1] = NULL;
		execv(argv[0], argv);
	}
	/* Unbuffered, so that a child finds the lines that come next. */
	setvbuf(stdin, NULL, _IONBF, 0);
	setvbuf(stdout, NULL, _IOLBF, 0);
	printf("begin pid=%d\n", getpid());
	while (fgets(line, sizeof(line), stdin)) {
		verb = strtok(line, " \n");
		name = strtok(NULL, " \n");
		number = strtok(NULL, " \n");
		if (verb)
			obey(verb, name ? name : (char[]){ "" }, number ? number : "1");
	}
	return 0;
}
