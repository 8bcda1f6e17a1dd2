// SPDX-License-Identifier: GPL-2.0
/*
 * A batch that is armed while nothing else runs, for kernels that do not survive
 * every hit: parisc steps branches incorrectly, and a nested hit never returns.
 *
 * The batch is first registered disabled, which resolves and allocates. Then, with
 * interrupts off, it is armed, held as long as a reader of memory outside the guest
 * needs, and disarmed. While breakpoints are in place, only enable_kprobe(),
 * disable_kprobe() and the functions that these call run.
 */
#include <linux/cpumask.h>
#include <linux/delay.h>
#include <linux/errno.h>
#include <linux/irqflags.h>
#include <linux/ktime.h>
#include <linux/timex.h>

#include "sweep.h"

#define PINPOINT_HELD_MS	800
#define PINPOINT_MEASURED_MS	10

static cycles_t pinpoint_cycles(void)
{
	cycles_t began = get_cycles();

	mdelay(PINPOINT_MEASURED_MS);
	return (get_cycles() - began) / PINPOINT_MEASURED_MS * PINPOINT_HELD_MS;
}

/* Calls nothing, so that nothing is hit. */
static __always_inline void pinpoint_wait(cycles_t cycles)
{
	cycles_t began = get_cycles();

	while (get_cycles() - began < cycles)
		barrier();
}

static void pinpoint_arm_and_wait(struct kprobe **probes, unsigned int count)
{
	cycles_t cycles = pinpoint_cycles();
	unsigned long flags;
	unsigned int i;

	local_irq_save(flags);
	for (i = 0; i < count; i++) {
		WRITE_ONCE(pinpoint_recorder.trying, pinpoint_number(probes[i]));
		enable_kprobe(probes[i]);
	}
	WRITE_ONCE(pinpoint_recorder.held, 1);
	pinpoint_wait(cycles);
	WRITE_ONCE(pinpoint_recorder.held, 0);
	while (i--)
		disable_kprobe(probes[i]);
	local_irq_restore(flags);
}

/**
 * pinpoint_hold_batch() - register the batch disabled, arm it for a while
 *
 * Return: 0, or -EOPNOTSUPP if another processor could run at the same time.
 */
int pinpoint_hold_batch(void)
{
	struct pinpoint_batch *batch = &pinpoint_batch;

	if (num_online_cpus() > 1)
		return -EOPNOTSUPP;
	pinpoint_register_batch(false);
	pinpoint_arm_and_wait(batch->registered + batch->count - batch->standing, batch->standing);
	return 0;
}
