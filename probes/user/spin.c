// SPDX-License-Identifier: GPL-2.0
/*
 * A thread that calls a function until the command "rest".
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>

#include "runner_commands.h"

static atomic_ulong calls;
static atomic_bool resting;
static pthread_t thread;

static void *keep_calling(void *called)
{
	unsigned int x = 1;

	while (!resting) {
		x = ((function)called)(x);
		calls++;
	}
	return NULL;
}

void spin(const char *name)
{
	resting = 0;
	calls = 0;
	printf("spin %s rc=%d\n", name, pthread_create(&thread, NULL, keep_calling, (void *)find(name)));
}

void rest(void)
{
	resting = 1;
	printf("rest rc=%d calls=%lu\n", pthread_join(thread, NULL), calls);
}
