// SPDX-License-Identifier: GPL-2.0
/*
 * Outcomes counted in memory that is shared with the children. Only one process
 * writes a slot: the one that had the slot's outcome first.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "step_output_and_gates.h"
#include "shared_outcome_counts.h"

#define SLOTS	64

static struct outcome {
	int owner;
	char what[16];
	char outcome[48];
	unsigned long times;
} *outcomes;

/**
 * share() - allocate zeroed memory that is shared with children created later
 * @size: in bytes
 */
void *share(size_t size)
{
	void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED)
		fail(STATUS_BEGIN, "begin", "", errno);
	return memory;
}

void share_outcomes(void)
{
	outcomes = share(SLOTS * sizeof(*outcomes));
}

static int take(struct outcome *slot)
{
	int nobody = 0;

	return slot->owner == getpid() ||
	       __atomic_compare_exchange_n(&slot->owner, &nobody, getpid(), 0,
					   __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
}

/**
 * count() - count one more occurrence of an outcome
 * @what: what was tried
 * @outcome: how it ended
 */
void count(const char *what, const char *outcome)
{
	struct outcome *slot;

	for (slot = outcomes; slot < outcomes + SLOTS; slot++) {
		if (!take(slot))
			continue;
		if (!slot->times) {
			snprintf(slot->what, sizeof(slot->what), "%s", what);
			snprintf(slot->outcome, sizeof(slot->outcome), "%s", outcome);
		}
		if (strcmp(slot->what, what) || strcmp(slot->outcome, outcome))
			continue;
		slot->times++;
		return;
	}
	fail(STATUS_BEGIN, what, outcome, ENOSPC);
}

void count_error(const char *what, int error)
{
	count(what, error ? strerrorname_np(error) : "0");
}

void tell_outcomes(void)
{
	struct outcome *slot;

	for (slot = outcomes; slot < outcomes + SLOTS; slot++)
		if (slot->times)
			did(slot->what, slot->outcome, "times=%lu", slot->times);
}
