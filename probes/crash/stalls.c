// SPDX-License-Identifier: GPL-2.0
/*
 * Triggers that stall: functions that return late or never.
 */
#include <linux/jiffies.h>
#include <linux/kernel.h>
#include <linux/preempt.h>
#include <linux/processor.h>
#include <linux/sched.h>
#include <linux/smp.h>

#include "crash.h"

#ifdef CONFIG_SUPERH
/*
 * QEMU's SuperH looks for an interrupt that waits where SR is written, and not
 * in a loop that only reads. In a function of the kernel the place would be wrong.
 */
static __always_inline void pinpoint_relax(void)
{
	unsigned long status;

	asm volatile("stc sr, %0\n\tldc %0, sr" : "=r" (status) : : "memory", "t");
}
#else
#define pinpoint_relax	cpu_relax
#endif

/* Only interrupts run on this processor meanwhile. */
static noinline void pinpoint_spin(unsigned int seconds)
{
	unsigned long begin = jiffies;

	preempt_disable();
	while (!seconds || time_before(jiffies, begin + seconds * HZ))
		pinpoint_relax();
	preempt_enable();
}

static noinline void pinpoint_spin_deaf(void *unused)
{
	unsigned long flags;

	local_irq_save(flags);
	for (;;)
		cpu_relax();
}

/* Never returns, and not even interrupts run, on any processor. */
static noinline void pinpoint_deaf(unsigned int seconds)
{
	on_each_cpu(pinpoint_spin_deaf, NULL, 1);
}

/* Waits in vain, and takes no signal during the wait. */
static noinline void pinpoint_sleep(unsigned int seconds)
{
	long rest = seconds ? (long)seconds * HZ : MAX_SCHEDULE_TIMEOUT;

	while (rest)
		rest = schedule_timeout_uninterruptible(rest);
}

/*
 * Without this detector (s390) only RCU reports a stall, and only if a grace
 * period had begun before it.
 */
#define PINPOINT_STALL	IS_ENABLED(CONFIG_SOFTLOCKUP_DETECTOR)

const struct pinpoint_trigger pinpoint_stalls[] = {
	{ "spin", pinpoint_spin, PINPOINT_STALL },
	{ "deaf", pinpoint_deaf, true },
	{ "sleep", pinpoint_sleep, true },
	{ }
};
