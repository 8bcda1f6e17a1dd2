// SPDX-License-Identifier: GPL-2.0
/*
 * pinpoint_tick: sets the timer of the CPU once and does not stay loaded.
 *
 * The kernel sets the timer again from the timer's own interrupt, or for an
 * earlier event. When QEMU writes a guest's state to a file, it saves the
 * registers Count and Compare but not that the timer is running, and only a write
 * of one of them starts it. A thawed guest that was not idle when it was frozen
 * gets no timer interrupt. One interrupt is enough: the kernel runs what has
 * expired and sets the next event.
 */
#include <linux/errno.h>
#include <linux/module.h>
#include <linux/smp.h>
#include <asm/mipsregs.h>

/* In units of Count from now: some 30 milliseconds on QEMU's Malta board. */
#define SOON 5000000

static void pinpoint_tick_soon(void *unused)
{
	u32 soon;

	/*
	 * If Count has passed by when Compare is written, the next interrupt comes
	 * when Count has wrapped, after 26 seconds. The kernel looks, too
	 * (mips_next_event(), arch/mips/kernel/cevt-r4k.c, 6.1).
	 */
	do {
		soon = read_c0_count() + SOON;
		write_c0_compare(soon);
	} while ((s32)(read_c0_count() - soon) >= 0);
}

static int __init pinpoint_tick_init(void)
{
	on_each_cpu(pinpoint_tick_soon, NULL, 1);
	return -EAGAIN;
}
module_init(pinpoint_tick_init);

MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Sets the timer of a thawed guest");
